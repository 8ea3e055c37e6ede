//! The scene of a sentence: a fake registry, a real Coldframe on port 0 before it, and a clock that stands still.

use std::collections::BTreeMap;
use std::future::{Future, IntoFuture};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::pin::Pin;
use std::sync::Arc;
use std::time::{Duration, Instant};

use coldframe::app::{App, AppError};
use coldframe::clock::{Clock as _, ManualClock};
use coldframe::config::{Config, ConfigSources, Diagnostics, FlagValues, ProcessEnvironment, SettingKey};
use coldframe::store::StoreError;
use jiff::Timestamp;
use tempfile::TempDir;
use tokio::sync::oneshot;
use tokio::task::JoinHandle;

use crate::client::Ask;
use crate::package::Package;
use crate::registry::Registry;
use crate::wire::Response;

/// When every scene begins.
pub const NOON: &str = "2026-04-03T12:00:00Z";

/// Stands among the settings for the home of the machine; no setting is called like that.
const HOME: &str = "home of the machine";

/// How long something may take that happens by itself.
const PATIENCE: Duration = Duration::from_secs(20);

/// A registry, Coldframe before it, and the time.
pub struct Scene {
    pub clock: ManualClock,
    pub registry: Registry,
    pub coldframe: Coldframe,
    settings: Vec<(String, String)>,
    data: TempDir,
    /// The home of a machine whose npm configuration is read.
    _home: Option<TempDir>,
}

/// A scene being set; awaiting it opens it.
#[must_use = "a scene opens when it is awaited"]
pub struct Opening {
    settings: Vec<(String, String)>,
    npmrc: Option<String>,
    mirror: bool,
}

impl Opening {
    /// A setting as the configuration file would say it; several of one name are several values.
    pub fn set(mut self, name: &str, value: &str) -> Self {
        self.settings.push((name.to_owned(), value.to_owned()));
        self
    }

    /// npm's configuration on the machine, which Coldframe reads as well. `{registry}` is the registry's address, `{place}` its host
    /// and port.
    pub fn npmrc(mut self, text: &str) -> Self {
        self.npmrc = Some(text.to_owned());
        self
    }

    /// The registry is a mirror that strips what it can.
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
            let clock = ManualClock::at(NOON.parse().expect("an instant"));
            let registry = if self.mirror { Registry::mirror(&clock).await } else { Registry::start(&clock).await };
            let data = TempDir::new().expect("a temporary folder");
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
            let home = self.npmrc.map(|npmrc| {
                let home = TempDir::new().expect("a temporary folder");
                std::fs::write(home.path().join(".npmrc"), spell(&npmrc)).expect("room for a file");
                settings.push((HOME.to_owned(), home.path().to_str().expect("UTF-8").to_owned()));
                home
            });
            let coldframe = Coldframe::start(&settings, &clock).await;
            Scene { clock, registry, coldframe, settings, data, _home: home }
        })
    }
}

impl Scene {
    /// Default settings: 72 hours.
    pub fn open() -> Opening {
        Opening { settings: Vec::new(), npmrc: None, mirror: false }
    }

    pub fn publish(&self, package: Package) {
        self.registry.publish(package);
    }

    /// Publishes old versions of one package, the last one tagged `latest`.
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

    /// The time.
    pub fn now(&self) -> Timestamp {
        self.clock.now()
    }

    /// Time passes.
    pub fn advance(&self, by: Duration) {
        self.clock.advance(by);
    }

    /// Where Coldframe keeps what it keeps.
    pub fn data(&self) -> &Path {
        self.data.path()
    }

    /// The program stops and starts again on the same data directory.
    pub async fn restart(&mut self) {
        self.coldframe.stop().await;
        self.coldframe = Coldframe::start(&self.settings, &self.clock).await;
    }

    /// The program stops and starts again with one setting changed.
    pub async fn restart_with(&mut self, name: &str, value: &str) {
        self.settings.retain(|(known, _)| known != name);
        self.settings.push((name.to_owned(), value.to_owned()));
        self.restart().await;
    }

    /// Every file below the data directory that holds bytes of a tarball or a packument, once nothing is being written.
    pub async fn stored_files(&self) -> Vec<PathBuf> {
        let deadline = Instant::now() + PATIENCE;
        loop {
            let mut kept = files(self.data.path());
            kept.retain(|path| !path.to_string_lossy().contains("ledger"));
            kept.sort();
            let unfinished = kept.iter().any(|path| path.starts_with(self.data.path().join("tmp")));
            if !unfinished {
                return kept;
            }
            assert!(Instant::now() < deadline, "something unfinished stays behind: {kept:?}");
            tokio::task::yield_now().await;
        }
    }

    /// Those of them that hold a tarball. Packuments are stored behind the answer's back, so they may come a moment later.
    pub async fn stored_tarballs(&self) -> Vec<PathBuf> {
        let mut kept = self.stored_files().await;
        kept.retain(|path| path.to_string_lossy().contains("sha512"));
        kept
    }

    /// One number of `/-/coldframe/metrics`, summed over its labels that contain `with`.
    pub async fn metric(&self, name: &str, with: &str) -> f64 {
        let text = self.get("/-/coldframe/metrics").await.is(200).text();
        let lines = text.lines().filter(|line| line.starts_with(name) && line.contains(with));
        lines.filter_map(|line| line.rsplit(' ').next()?.parse::<f64>().ok()).sum()
    }
}

/// What the settings say, on a machine with a home or apart from any.
fn configuration(settings: &[(&str, &str)]) -> Result<Config, Diagnostics> {
    let Some((_, home)) = settings.iter().find(|(name, _)| *name == HOME) else { return Config::from_pairs(settings) };
    let mut flags = FlagValues::default();
    for (name, value) in settings.iter().filter(|(name, _)| *name != HOME) {
        flags.note(SettingKey::named(name).expect("a setting"), (*value).to_owned());
    }
    let surroundings = ProcessEnvironment { variables: Vec::new(), home: Some(home.into()), working_directory: home.into() };
    Config::load(ConfigSources { file: None, surroundings: &surroundings, flags })
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
    /// All its addresses, the first one first.
    pub addresses: Vec<SocketAddr>,
    /// Where it is a proxy, if it is.
    pub gateway: Option<SocketAddr>,
    /// Where it takes connections that were to go elsewhere, if it does.
    pub transparent: Option<SocketAddr>,
    stop: Option<oneshot::Sender<()>>,
    running: Option<JoinHandle<()>>,
}

impl Coldframe {
    pub async fn start(settings: &[(String, String)], clock: &ManualClock) -> Self {
        let borrowed: Vec<(&str, &str)> = settings.iter().map(|(name, value)| (name.as_str(), value.as_str())).collect();
        let app = Self::build(&borrowed, clock).await;
        let (addresses, gateway) = (app.addresses().to_vec(), app.gateways().first().copied());
        let transparent = app.transparent().first().copied();
        let address = addresses[0];
        let (stop, stopped) = oneshot::channel();
        let running = tokio::spawn(async move {
            let shutdown = async move { drop(stopped.await) };
            if let Err(wrong) = app.run(shutdown).await {
                panic!("{wrong:?}");
            }
        });
        Self { address, addresses, gateway, transparent, stop: Some(stop), running: Some(running) }
    }

    /// A program's end frees its data directory; here it is free when the last task of the one before has ended.
    async fn build(settings: &[(&str, &str)], clock: &ManualClock) -> App {
        let deadline = Instant::now() + PATIENCE;
        loop {
            let config = configuration(settings).unwrap_or_else(|mistakes| panic!("{mistakes}"));
            match App::build(config, Arc::new(clock.clone())).await {
                Ok(app) => return app,
                Err(AppError::DataDir(StoreError::Locked { .. })) if Instant::now() < deadline => tokio::task::yield_now().await,
                Err(wrong) => panic!("{wrong:?}"),
            }
        }
    }

    pub fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    /// Drains and waits until everything is on disk.
    pub async fn stop(&mut self) {
        drop(self.stop.take());
        if let Some(running) = self.running.take() {
            running.await.expect("a clean end");
        }
    }
}

/// A packument's `time` by version.
#[track_caller]
pub fn times(packument: &Response) -> BTreeMap<String, String> {
    serde_json::from_value(packument.json()["time"].clone()).expect("`time` of strings")
}
