//! `coldframe serve`: starts the server, says what it does, and ends it when asked to.

use std::net::SocketAddr;
use std::sync::Arc;

use clap::Args;
use tokio::sync::Notify;

use crate::app::remote::reachable;
use crate::app::{App, AppError};
use crate::cli::flags::SettingFlags;
use crate::cli::output::{self, CliError, Exit};
use crate::cli::runtime::runtime;
use crate::clock::SystemClock;
use crate::config::Config;
use crate::net::FdLimit;
use crate::telemetry;
use crate::text::TextTable;
use crate::units::timestamp;

#[derive(Debug, Args)]
pub(crate) struct Arguments {
    #[command(flatten)]
    settings: SettingFlags<true>,
}

pub(crate) fn run(arguments: Arguments) -> Result<Exit, CliError> {
    let settings = arguments.settings;
    let mut config = settings.clone().read(Config::gather)?;
    telemetry::logging::start(&config.telemetry).map_err(|wrong| CliError::new(Exit::Usage, wrong))?;
    for warning in &config.warnings {
        tracing::warn!("{warning}");
    }
    let connections = &mut config.proxy.limits.connections;
    *connections = connections_within(FdLimit::raise(), *connections);
    let told = StartupBanner::of(&config);
    runtime()?.block_on(async {
        // Before anything is opened, so that a signal during the start ends it in order.
        let stop = stop_asked()?;
        let mut app = App::build(config, Arc::new(SystemClock)).await?;
        #[cfg(unix)]
        if let Err(wrong) = app.take_commands() {
            tracing::warn!(error = %wrong, "no control socket: `coldframe run` cannot be led here, and `explain`, `check` and others cannot ask this server");
        }
        tell_of_hangups(app.reload_with(Arc::new(move || settings.clone().read(Config::gather))))?;
        let notices: Vec<String> = app.notices().iter().map(|notice| format!("\n{notice}\n")).collect();
        output::print(&told.tell(app.addresses(), app.gateways(), app.transparent(), &notices.concat()))?;
        app.run(stop).await?;
        Ok(Exit::Done)
    })
}

/// How many connections the limit of open files has room for, `wanted` at most. Each may need a file more for its socket to
/// upstream and one for the tarball that lands meanwhile.
fn connections_within(files: FdLimit, wanted: usize) -> usize {
    const EACH: u64 = 3;
    /// For the ledger, the store, the listeners and the runtime.
    const BESIDE: u64 = 128;
    let Some(limit) = files.now else { return wanted };
    if files.before != files.now {
        tracing::info!(files.before = files.before, files.now = limit, "raised the limit of open files");
    }
    let fitting = usize::try_from(limit.saturating_sub(BESIDE) / EACH).unwrap_or(usize::MAX).max(1);
    if fitting < wanted {
        tracing::warn!(files.limit = limit, "`max-connections` is {fitting}, not {wanted}: the system allows too few open files");
    }
    fitting.min(wanted)
}

impl From<AppError> for CliError {
    fn from(wrong: AppError) -> Self {
        let exit = match &wrong {
            AppError::Listen { .. } => Exit::Listen,
            AppError::DataDir(crate::store::StoreError::Locked { .. }) => Exit::DataDirInUse,
            AppError::DataDir(_) | AppError::Authority(crate::tls::TlsError::Disk { .. }) => Exit::DataDir,
            AppError::Upstream(_) | AppError::Tls(_) | AppError::Authority(_) | AppError::Tokens(_) | AppError::Users(_) => {
                Exit::Usage
            }
            AppError::Scratch(_)
            | AppError::Control { .. }
            | AppError::Server { .. }
            | AppError::LedgerLost(_)
            | AppError::NothingFits { .. }
            | AppError::Undecidable { .. }
            | AppError::NoAdvisory(_)
            | AppError::Feed(_)
            | AppError::Rejected(_) => Exit::Failed,
        };
        Self::new(exit, wrong)
    }
}

/// What a person is told at the start, as far as it is known before anything is bound.
struct StartupBanner {
    rows: Vec<(String, String)>,
    /// The hosts that the gateway answers for.
    intercepted: Vec<String>,
    public_url: Option<String>,
}

impl StartupBanner {
    fn of(config: &Config) -> Self {
        let mut rows = Vec::new();
        let scoped = config.upstream.scoped.iter().map(|(scope, registry)| (scope.as_str(), registry));
        for (scope, registry) in std::iter::once(("upstream", &config.upstream.default)).chain(scoped) {
            rows.push((scope.to_owned(), format!("{} (from {})", registry.address(), registry.origin)));
        }
        let age = match config.policy.minimum_age() {
            age if age.is_zero() => "none: young releases are served".to_owned(),
            age => format!("{} minimum release age", timestamp::tell_age(age)),
        };
        rows.push(("policy".to_owned(), config.policies.names.join(", ")));
        rows.push(("age".to_owned(), age));
        rows.push(("data".to_owned(), config.store.data_dir.display().to_string()));
        let hosts = config.gateway.door.targets.hosts();
        let intercepted = hosts.iter().map(|host| host.as_ref().to_owned()).collect();
        Self { rows, intercepted, public_url: config.proxy.public_url.as_ref().map(ToString::to_string) }
    }

    fn tell(self, addresses: &[SocketAddr], gateways: &[SocketAddr], transparent: &[SocketAddr], notices: &str) -> String {
        let mut columns = TextTable::indented("  ");
        for address in addresses {
            columns.row(["listening", &format!("http://{address}/")]);
        }
        for address in gateways {
            columns.row(["gateway", &format!("http://{address}/, answers for {}", self.intercepted.join(", "))]);
        }
        for address in transparent {
            columns.row(["transparent", &format!("{address}, answers for {}", self.intercepted.join(", "))]);
        }
        for (left, right) in self.rows {
            columns.row([left, right]);
        }
        let reached = addresses.first().map(|address| format!("http://{}/", reachable(*address)));
        let registry = self.public_url.or(reached).unwrap_or_default();
        let trust = if gateways.is_empty() && transparent.is_empty() {
            ""
        } else {
            "\nTo send clients through the gateway: coldframe ca trust\n"
        };
        format!(
            "coldframe {}\n{columns}{notices}{trust}\nTo use it, put this line into .npmrc:\n\nregistry={registry}\n",
            env!("CARGO_PKG_VERSION")
        )
    }
}

/// Has the configuration read again when the process is told that its terminal hung up: what daemons take for "read your files".
#[cfg(unix)]
fn tell_of_hangups(reread: Arc<Notify>) -> std::io::Result<()> {
    use tokio::signal::unix::{SignalKind, signal};
    let mut hangups = signal(SignalKind::hangup())?;
    tokio::spawn(async move {
        while hangups.recv().await.is_some() {
            reread.notify_one();
        }
    });
    Ok(())
}

/// Where there are no hangups, a changed file is enough.
#[cfg(not(unix))]
#[expect(clippy::unnecessary_wraps, clippy::needless_pass_by_value, reason = "elsewhere it can fail, and keeps it")]
fn tell_of_hangups(_reread: Arc<Notify>) -> std::io::Result<()> {
    Ok(())
}

/// Ends when the process is asked to stop; asked a second time, the process ends at once.
fn stop_asked() -> std::io::Result<impl Future<Output = ()>> {
    let mut signals = Signals::listen()?;
    Ok(async move {
        signals.next().await;
        tokio::spawn(async move {
            let code = signals.next().await;
            #[expect(clippy::disallowed_methods, clippy::exit, reason = "asked twice: whoever asks does not want to wait")]
            std::process::exit(code)
        });
    })
}

/// The signals that ask a process to stop.
#[cfg(unix)]
struct Signals {
    terminate: tokio::signal::unix::Signal,
    interrupt: tokio::signal::unix::Signal,
}

#[cfg(unix)]
impl Signals {
    fn listen() -> std::io::Result<Self> {
        use tokio::signal::unix::{SignalKind, signal};
        Ok(Self { terminate: signal(SignalKind::terminate())?, interrupt: signal(SignalKind::interrupt())? })
    }

    /// Waits for the next one; the exit code that shells give a process it ends.
    async fn next(&mut self) -> i32 {
        tokio::select! {
            _ = self.terminate.recv() => 128 + 15,
            _ = self.interrupt.recv() => 128 + 2,
        }
    }
}

/// The signals that ask a process to stop.
#[cfg(not(unix))]
struct Signals;

#[cfg(not(unix))]
impl Signals {
    #[expect(clippy::unnecessary_wraps, reason = "elsewhere it can fail")]
    fn listen() -> std::io::Result<Self> {
        Ok(Self)
    }

    /// Waits for the next one; the exit code that shells give a process it ends.
    async fn next(&mut self) -> i32 {
        // Where no signal can be awaited, none will be.
        if tokio::signal::ctrl_c().await.is_err() {
            std::future::pending::<()>().await;
        }
        128 + 2
    }
}

#[cfg(test)]
mod tests {
    use expect_test::expect;

    use super::*;

    #[test]
    fn connections_fit_into_the_limit_of_open_files() {
        let within = |now| connections_within(FdLimit { before: Some(now), now: Some(now) }, 4096);
        assert_eq!((within(1 << 20), within(1024), within(100)), (4096, 298, 1));
        assert_eq!(connections_within(FdLimit { before: None, now: None }, 4096), 4096);
    }

    #[test]
    fn the_start_says_where_which_upstream_how_old_and_what_to_write() {
        let config = Config::of(&[
            ("listen", "0.0.0.0:4873"),
            ("upstream", "https://registry.example/npm"),
            ("data-dir", "/data"),
            ("min-release-age", "7d"),
        ])
        .unwrap();
        let addresses = ["0.0.0.0:4873".parse().unwrap(), "[::1]:4874".parse().unwrap()];
        expect![[r#"
            coldframe 0.1.0
              listening  http://0.0.0.0:4873/
              listening  http://[::1]:4874/
              upstream   https://registry.example/npm/ (from `given`)
              policy     default
              age        7 d minimum release age
              data       /data

            To use it, put this line into .npmrc:

            registry=http://127.0.0.1:4873/
        "#]]
        .assert_eq(&StartupBanner::of(&config).tell(&addresses, &[], &[], ""));
    }
}
