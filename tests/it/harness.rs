//! The fixture of most tests: a fake registry, a real Coldframe in front of it, and a clock that only the test advances.

use std::collections::BTreeMap;
use std::future::{Future, IntoFuture};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::pin::Pin;
use std::sync::Arc;
use std::time::{Duration, Instant};

use coldframe::app::{App, AppError};
use coldframe::clock::{Clock as _, ManualClock};
use coldframe::config::{Config, ConfigSources, Diagnostics, ProcessEnvironment, RawConfig, SettingKey};
use coldframe::store::StoreError;
use jiff::Timestamp;
use tempfile::TempDir;
use tokio::sync::oneshot;
use tokio::task::JoinHandle;

use crate::client::Ask;
use crate::package::Package;
use crate::raw_http::Response;
use crate::registry::Registry;

/// The time at which every scene starts.
pub const NOON: &str = "2026-04-03T12:00:00Z";

/// Pseudo setting for the machine's home directory. No real setting has this name.
const HOME: &str = "home of the machine";

/// The configuration file in the home directory.
const FILE: &str = "coldframe.toml";

/// Limit for waiting on background work.
const TIMEOUT: Duration = Duration::from_secs(20);

/// A fake registry, the Coldframe in front of it, and the clock.
pub struct Scene {
    pub clock: ManualClock,
    pub registry: Registry,
    pub coldframe: Coldframe,
    settings: Vec<(String, String)>,
    data: TempDir,
    /// The home directory whose npm configuration Coldframe reads.
    _home: Option<TempDir>,
}

/// Builder of a scene. Awaiting it starts the scene.
#[must_use = "a scene starts when it is awaited"]
pub struct Opening {
    settings: Vec<(String, String)>,
    npmrc: Option<String>,
    file: Option<String>,
    mirror: bool,
}

impl Opening {
    /// Adds a setting, spelled as in the configuration file. Repeating a name adds another value.
    pub fn set(mut self, name: &str, value: &str) -> Self {
        self.settings.push((name.to_owned(), value.to_owned()));
        self
    }

    /// Sets the machine's `.npmrc`, which Coldframe also reads. `{registry}` stands for the registry's URL, `{place}` for its
    /// host and port.
    pub fn npmrc(mut self, text: &str) -> Self {
        self.npmrc = Some(text.to_owned());
        self
    }

    /// Sets the configuration file, whose settings the others override.
    pub fn file(mut self, text: &str) -> Self {
        self.file = Some(text.to_owned());
        self
    }

    /// Makes the registry a mirror that strips metadata.
    pub fn mirror(mut self) -> Self {
        self.mirror = true;
        self
    }
}

impl IntoFuture for Opening {
    type Output = Scene;
    type IntoFuture = Pin<Box<dyn Future<Output = Scene> + Send>>;

    fn into_future(self) -> Self::IntoFuture {
        Box::pin(async move {
            let clock = ManualClock::at(NOON.parse().expect("a timestamp"));
            let registry = if self.mirror { Registry::mirror(&clock).await } else { Registry::start(&clock).await };
            let data = TempDir::new().expect("temporary directory");
            let mut settings = self.settings;
            let defaults =
                [("listen", "127.0.0.1:0"), ("upstream", &registry.url), ("data-dir", data.path().to_str().expect("UTF-8"))];
            for (name, value) in defaults {
                if !settings.iter().any(|(known, _)| known == name) {
                    settings.push((name.to_owned(), value.to_owned()));
                }
            }
            let spell = |text: &str| text.replace("{registry}", &registry.url).replace("{place}", &registry.address.to_string());
            for (_, value) in &mut settings {
                *value = spell(value);
            }
            let npmrc = self.npmrc.or(self.file.as_ref().map(|_| String::new()));
            let home = npmrc.map(|npmrc| {
                let home = TempDir::new().expect("temporary directory");
                std::fs::write(home.path().join(".npmrc"), spell(&npmrc)).expect("write .npmrc");
                let file = self.file.as_deref().unwrap_or_default();
                std::fs::write(home.path().join(FILE), spell(file)).expect("write the configuration");
                settings.push((HOME.to_owned(), home.path().to_str().expect("UTF-8").to_owned()));
                home
            });
            let coldframe = Coldframe::start(&settings, &clock).await;
            Scene { clock, registry, coldframe, settings, data, _home: home }
        })
    }
}

impl Scene {
    /// Starts to build a scene with default settings: a minimum age of 72 hours.
    pub fn open() -> Opening {
        Opening { settings: Vec::new(), npmrc: None, file: None, mirror: false }
    }

    pub fn publish(&self, package: Package) {
        self.registry.publish(package);
    }

    /// Publishes old versions of a package and tags the last one `latest`.
    pub fn publish_old(&self, name: &str, versions: &[&str]) {
        for version in versions {
            self.publish(Package::new(name, version));
        }
    }

    /// Publishes eleven versions of an established package, `1.0.0` to `1.0.10`, the first 540 days ago and the last 140.
    pub fn publish_over_years(&self, name: &str) {
        for patch in 0..11 {
            self.publish(Package::new(name, &format!("1.0.{patch}")).aged(crate::package::days(540 - 40 * patch)));
        }
    }

    pub fn ask(&self, method: &str, path: &str) -> Ask {
        Ask::new(self.coldframe.address, method, path)
    }

    pub fn get(&self, path: &str) -> Ask {
        self.ask("GET", path)
    }

    pub fn now(&self) -> Timestamp {
        self.clock.now()
    }

    /// Advances the clock.
    pub fn advance(&self, by: Duration) {
        self.clock.advance(by);
    }

    /// The data directory.
    pub fn data(&self) -> &Path {
        self.data.path()
    }

    /// Restarts Coldframe on the same data directory.
    pub async fn restart(&mut self) {
        self.coldframe.stop().await;
        self.coldframe = Coldframe::start(&self.settings, &self.clock).await;
    }

    /// Restarts Coldframe with one setting changed.
    pub async fn restart_with(&mut self, name: &str, value: &str) {
        self.settings.retain(|(known, _)| known != name);
        self.settings.push((name.to_owned(), value.to_owned()));
        self.restart().await;
    }

    /// Waits until no write is in progress and returns the stored tarball and packument files.
    pub async fn stored_files(&self) -> Vec<PathBuf> {
        let deadline = Instant::now() + TIMEOUT;
        loop {
            let mut stored = files(self.data.path());
            stored.retain(|path| !path.to_string_lossy().contains("ledger"));
            stored.sort();
            let unfinished = stored.iter().any(|path| path.starts_with(self.data.path().join("tmp")));
            if !unfinished {
                return stored;
            }
            assert!(Instant::now() < deadline, "unfinished files remain: {stored:?}");
            tokio::task::yield_now().await;
        }
    }

    /// Returns the stored tarball files. Packuments are stored after the response is sent, so they may still be missing.
    pub async fn stored_tarballs(&self) -> Vec<PathBuf> {
        let mut stored = self.stored_files().await;
        stored.retain(|path| path.to_string_lossy().contains("sha512"));
        stored
    }

    /// Sums one metric of `/-/coldframe/metrics` over all lines that contain `label`.
    pub async fn metric(&self, name: &str, label: &str) -> f64 {
        let text = self.get("/-/coldframe/metrics").await.is(200).text();
        let lines = text.lines().filter(|line| line.starts_with(name) && line.contains(label));
        lines.filter_map(|line| line.rsplit(' ').next()?.parse::<f64>().ok()).sum()
    }
}

/// Loads the settings, together with the machine's `.npmrc` if a home directory is set.
fn load_config(settings: &[(&str, &str)]) -> Result<Config, Diagnostics> {
    let Some((_, home)) = settings.iter().find(|(name, _)| *name == HOME) else { return Config::from_pairs(settings) };
    let mut flags = RawConfig::default();
    for (name, value) in settings.iter().filter(|(name, _)| *name != HOME) {
        flags.push_flag(SettingKey::named(name).expect("a setting"), (*value).to_owned());
    }
    let surroundings = ProcessEnvironment { variables: Vec::new(), home: Some(home.into()), working_directory: home.into() };
    let file = Path::new(home).join(FILE);
    Config::load(ConfigSources { file: Some(&file), environment: &surroundings, flags })
}

fn files(folder: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(folder).into_iter().flatten().flatten() {
        let path = entry.path();
        if path.is_dir() { found.extend(files(&path)) } else { found.push(path) }
    }
    found
}

/// A running Coldframe.
pub struct Coldframe {
    pub address: SocketAddr,
    /// All registry addresses; `address` is the first.
    pub addresses: Vec<SocketAddr>,
    /// The gateway's address, if it has one.
    pub gateway: Option<SocketAddr>,
    /// The transparent listener's address, if it has one.
    pub transparent: Option<SocketAddr>,
    stop: Option<oneshot::Sender<()>>,
    running: Option<JoinHandle<()>>,
}

impl Coldframe {
    pub async fn start(settings: &[(String, String)], clock: &ManualClock) -> Self {
        let settings: Vec<(&str, &str)> = settings.iter().map(|(name, value)| (name.as_str(), value.as_str())).collect();
        let app = Self::build(&settings, clock).await;
        let (addresses, gateway) = (app.addresses(), app.gateways().first().copied());
        let transparent = app.transparent().first().copied();
        let address = addresses[0];
        let (stop, stopped) = oneshot::channel();
        let running = tokio::spawn(async move {
            let shutdown = async move { drop(stopped.await) };
            if let Err(error) = app.run(shutdown).await {
                panic!("{error:?}");
            }
        });
        Self { address, addresses, gateway, transparent, stop: Some(stop), running: Some(running) }
    }

    /// Builds the server. Retries while the data directory is locked: tasks of the previous server in this process may still run.
    async fn build(settings: &[(&str, &str)], clock: &ManualClock) -> App {
        let deadline = Instant::now() + TIMEOUT;
        loop {
            let config = load_config(settings).unwrap_or_else(|diagnostics| panic!("{diagnostics}"));
            match App::build(config, Arc::new(clock.clone())).await {
                Ok(app) => return app,
                Err(AppError::DataDir(StoreError::Locked { .. })) if Instant::now() < deadline => tokio::task::yield_now().await,
                Err(error) => panic!("{error:?}"),
            }
        }
    }

    pub fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    /// Drains connections and waits until all data is on disk.
    pub async fn stop(&mut self) {
        drop(self.stop.take());
        if let Some(running) = self.running.take() {
            running.await.expect("clean shutdown");
        }
    }
}

/// The `time` object of a packument, by version.
#[track_caller]
pub fn times(packument: &Response) -> BTreeMap<String, String> {
    serde_json::from_value(packument.json()["time"].clone()).expect("`time` of strings")
}
