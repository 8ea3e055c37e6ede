//! `coldframe serve`: starts the server, prints its settings, and stops it on a signal.

use std::net::SocketAddr;
use std::sync::Arc;

use crate::app::App;
use crate::app::listeners::local_url;
use crate::cli::flags::SettingFlags;
use crate::cli::output::{self, Exit, usage};
use crate::cli::runtime::block_on;
use crate::cli::signals::{INTERRUPT, Signals, TERMINATE};
use crate::clock::SystemClock;
use crate::config::Config;
use crate::net::{FdLimit, ListenAddress};
use crate::telemetry;
use crate::text::TextTable;
use crate::units::timestamp;

pub(crate) fn run(settings: SettingFlags<true>) -> anyhow::Result<Exit> {
    let mut config = settings.config()?;
    telemetry::logging::init(&config.telemetry).map_err(usage)?;
    for warning in &config.warnings {
        tracing::warn!("{warning}");
    }
    let connections = &mut config.server.limits.connections;
    *connections = connections_for_fd_limit(FdLimit::raise(), *connections);
    let banner = StartupBanner::of(&config);
    block_on(async {
        // Registered before anything is opened, so that a signal during startup stops it cleanly.
        let stop = shutdown_requested()?;
        let mut app = App::build(config, Arc::new(SystemClock)).await?;
        #[cfg(unix)]
        if let Err(error) = app.open_control_socket() {
            tracing::warn!(error = %error, "control socket unavailable, other coldframe commands cannot reach this server");
        }
        let reread = app.reload_with(Arc::new(move || settings.config()));
        #[cfg(unix)]
        notify_on_hangup(reread)?;
        // Without SIGHUP, a changed file triggers the reload.
        #[cfg(not(unix))]
        drop(reread);
        let notices: Vec<String> = app.notices().iter().map(|notice| format!("\n{notice}\n")).collect();
        output::print(&banner.text(&app.listeners(), &app.gateways(), &app.transparent(), &notices.concat()))?;
        app.run(stop).await?;
        Ok(Exit::Done)
    })?
}

/// Returns how many connections the open file limit allows, at most `wanted`. Each may also need a socket to upstream and a file.
fn connections_for_fd_limit(files: FdLimit, wanted: usize) -> usize {
    const FILES_PER_CONNECTION: u64 = 3;
    /// Files for the ledger, the store, the listeners and the runtime.
    const RESERVED_FILES: u64 = 128;
    let Some(limit) = files.now else { return wanted };
    if files.before != files.now {
        tracing::info!(files.before = files.before, files.now = limit, "open file limit raised");
    }
    let fitting = usize::try_from(limit.saturating_sub(RESERVED_FILES) / FILES_PER_CONNECTION).unwrap_or(usize::MAX).max(1);
    if fitting < wanted {
        tracing::warn!(files.limit = limit, "`max-connections` reduced from {wanted} to {fitting} to fit the open file limit");
    }
    fitting.min(wanted)
}

/// The text printed at startup, except for the bound addresses.
struct StartupBanner {
    rows: Vec<(String, String)>,
    intercepted: String,
    public_url: Option<String>,
}

impl StartupBanner {
    fn of(config: &Config) -> Self {
        let mut rows = Vec::new();
        let routed = config.upstream.routes.iter().map(|route| (route.label(), &route.registry));
        for (label, registry) in std::iter::once(("upstream".to_owned(), &config.upstream.default)).chain(routed) {
            rows.push((label, format!("{} (from {})", registry.address(), registry.origin)));
        }
        let age = match config.policies.default.minimum_age() {
            age if age.is_zero() => "none, new releases are served at once".to_owned(),
            age => format!("{} minimum release age", timestamp::format_duration(age)),
        };
        let (policy, data) = (config.policies.files.names.join(", "), config.store.data_dir.display().to_string());
        rows.extend([("policy", policy), ("age", age), ("data", data)].map(|(label, value)| (label.to_owned(), value)));
        let intercepted = config.gateway.proxy.targets.hosts().iter().map(AsRef::as_ref).collect::<Vec<_>>().join(", ");
        Self { rows, intercepted, public_url: config.server.public_url.as_ref().map(ToString::to_string) }
    }

    fn text(self, listeners: &[ListenAddress], gateways: &[SocketAddr], transparent: &[SocketAddr], notices: &str) -> String {
        let row = |label: &str, value: String| (label.to_owned(), value);
        let hosts = format!("intercepts {}", self.intercepted);
        let listening = listeners.iter().map(|listener| row("listening", format!("{listener}/")));
        let proxies = gateways.iter().map(|address| row("gateway", format!("http://{address}/, {hosts}")));
        let redirected = transparent.iter().map(|address| row("transparent", format!("{address}, {hosts}")));
        let mut columns = TextTable::indented("  ");
        for (label, value) in listening.chain(proxies).chain(redirected).chain(self.rows) {
            columns.row([&label, &value]);
        }
        let reached = listeners.first().copied().map(local_url);
        let registry = self.public_url.or(reached).unwrap_or_default();
        let has_gateway = !gateways.is_empty() || !transparent.is_empty();
        let trust = if has_gateway { "\nTo set up clients of the gateway, run: coldframe ca trust\n" } else { "" };
        format!(
            "coldframe {}\n{columns}{notices}{trust}\nTo use it, add this line to .npmrc:\n\nregistry={registry}\n",
            env!("CARGO_PKG_VERSION")
        )
    }
}

/// Reloads the configuration on SIGHUP, like other daemons.
#[cfg(unix)]
fn notify_on_hangup(reread: Arc<tokio::sync::Notify>) -> std::io::Result<()> {
    use tokio::signal::unix::{SignalKind, signal};
    let mut hangups = signal(SignalKind::hangup())?;
    tokio::spawn(async move {
        while hangups.recv().await.is_some() {
            reread.notify_one();
        }
    });
    Ok(())
}

/// Completes on the first stop signal. A second signal exits the process immediately.
fn shutdown_requested() -> std::io::Result<impl Future<Output = ()>> {
    let mut signals = Signals::listen(&[TERMINATE, INTERRUPT])?;
    Ok(async move {
        signals.next().await;
        tokio::spawn(async move {
            // The exit code that shells use for the signal.
            let code = 128 + signals.next().await;
            #[expect(clippy::disallowed_methods, clippy::exit, reason = "a second signal must not wait for a clean stop")]
            std::process::exit(code)
        });
    })
}

#[cfg(test)]
mod tests {
    use expect_test::expect;

    use super::*;

    #[test]
    fn connections_are_limited_by_open_files() {
        let within = |now| connections_for_fd_limit(FdLimit { before: Some(now), now: Some(now) }, 4096);
        assert_eq!((within(1 << 20), within(1024), within(100)), (4096, 298, 1));
        assert_eq!(connections_for_fd_limit(FdLimit { before: None, now: None }, 4096), 4096);
    }

    #[test]
    fn banner_shows_addresses_upstream_age_and_npmrc_line() {
        let config = Config::from_pairs(&[
            ("listen", "0.0.0.0:4873"),
            ("upstream", "https://registry.example/npm"),
            ("data-dir", "/data"),
            ("min-release-age", "7d"),
        ])
        .unwrap();
        let addresses = ["0.0.0.0:4873", "[::1]:4874"].map(|text| text.parse::<SocketAddr>().unwrap().into());
        expect![[r#"
            coldframe 0.1.0
              listening  http://0.0.0.0:4873/
              listening  http://[::1]:4874/
              upstream   https://registry.example/npm/ (from `given`)
              policy     default
              age        7 d minimum release age
              data       /data

            To use it, add this line to .npmrc:

            registry=http://127.0.0.1:4873/
        "#]]
        .assert_eq(&StartupBanner::of(&config).text(&addresses, &[], &[], ""));
    }
}
