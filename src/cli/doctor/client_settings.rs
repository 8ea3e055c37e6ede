//! What each client is told here: by variables and by the files it reads, in its own order (`clients.md` of the design has
//! the measurements). Refuses to show a value that may be a secret, and to judge any.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use rustls_pki_types::CertificateDer;
use rustls_pki_types::pem::PemObject as _;
use url::Url;

use crate::cli::doctor::formats::{
    ConfigLine, key_of_berry, key_of_bun, key_of_ini, key_of_pnpm, key_of_pnpm_config, npm_key_from_yarn, read_ini, read_toml,
    read_yaml, read_yarnrc,
};
use crate::cli::registry_hosts::host;
use crate::config::ProcessEnvironment;
use crate::files;
use crate::npm::Lockfile;
use crate::npm::lockfile::{EntrySource, LONGEST, LockfileFormat, NAMES};
use crate::tls::ca::is_coldframe_ca;
use crate::upstream::{SettingOrigin, npmrc};

/// The largest file of settings that is read, in bytes.
const LARGEST: u64 = 4 << 20;

/// A client, apart where it changed what it reads.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum SurveyedClient {
    Npm,
    /// Up to version 10.
    Pnpm,
    /// From version 11 on.
    Pnpm11,
    /// Version 1.
    Yarn,
    /// From version 2 on.
    Berry,
    Bun,
    Deno,
}

impl SurveyedClient {
    pub(crate) const ALL: [Self; 7] = [Self::Npm, Self::Pnpm, Self::Pnpm11, Self::Yarn, Self::Berry, Self::Bun, Self::Deno];

    pub(crate) fn as_str(self) -> &'static str {
        match self {
            Self::Npm => "npm",
            Self::Pnpm => "pnpm up to 10",
            Self::Pnpm11 => "pnpm from 11 on",
            Self::Yarn => "yarn 1",
            Self::Berry => "yarn from 2 on",
            Self::Bun => "bun",
            Self::Deno => "deno",
        }
    }

    fn program(self) -> &'static str {
        match self {
            Self::Npm => "npm",
            Self::Pnpm | Self::Pnpm11 => "pnpm",
            Self::Yarn | Self::Berry => "yarn",
            Self::Bun => "bun",
            Self::Deno => "deno",
        }
    }

    /// Whether it installs from lockfiles of this dialect.
    pub(crate) fn reads(self, dialect: LockfileFormat) -> bool {
        match dialect {
            LockfileFormat::Npm => self == Self::Npm,
            LockfileFormat::Pnpm6 | LockfileFormat::Pnpm9 => matches!(self, Self::Pnpm | Self::Pnpm11),
            LockfileFormat::YarnClassic => self == Self::Yarn,
            LockfileFormat::YarnBerry => self == Self::Berry,
            LockfileFormat::Bun => self == Self::Bun,
            LockfileFormat::Deno => self == Self::Deno,
        }
    }

    /// Whether it waits a day with new releases by itself.
    pub(crate) fn has_builtin_age_gate(self) -> bool {
        matches!(self, Self::Pnpm11 | Self::Berry | Self::Deno)
    }
}

/// Registries that are connected to, to see who answers.
const MOST_REGISTRIES: usize = 16;

/// Something that a client is told. The keys are npm's: `registry`, `@scope:registry`, `https-proxy`, `server`, `noproxy`,
/// `no-proxy`, `cafile`, `strict-ssl`; `extra-ca` for authorities beside the system's; `age` for a minimum release age.
#[derive(Clone, PartialEq, Eq)]
pub(crate) struct ClientSetting {
    pub(crate) key: String,
    pub(crate) value: String,
    /// Where it stands, for people.
    pub(crate) origin: String,
}

impl ClientSetting {
    fn new(key: impl Into<String>, value: impl Into<String>, origin: impl Into<String>) -> Self {
        Self { key: key.into(), value: value.into(), origin: origin.into() }
    }
}

/// All of it.
pub(crate) struct SettingsSurvey {
    variables: BTreeMap<String, String>,
    npmrc: Vec<(bool, ClientSetting)>,
    yarnrc: Vec<ClientSetting>,
    berry: Vec<ClientSetting>,
    bunfig: Vec<ClientSetting>,
    workspace: Vec<ClientSetting>,
    /// pnpm's own files of this user: up to version 10; from 11 on, and the one beside it.
    pnpm_rc: Vec<ClientSetting>,
    pnpm_config: Vec<ClientSetting>,
    pnpm_auth: Vec<ClientSetting>,
    /// Where the user's `.npmrc` stands, for people.
    user_npmrc: String,
    /// The lockfiles of the project, by their names.
    pub(crate) lockfiles: BTreeMap<String, Lockfile>,
    /// Those that are used here: by a lockfile, or by `packageManager`, else whatever is installed; and whether that is known of
    /// this project.
    pub(crate) clients: Vec<(SurveyedClient, bool)>,
    /// What could not be read.
    pub(crate) trouble: Vec<String>,
}

impl SettingsSurvey {
    /// Looks around from the working directory.
    pub(crate) fn of(surroundings: &ProcessEnvironment) -> Self {
        let (folder, home) = (&surroundings.working_directory, surroundings.home.as_deref());
        let environment = surroundings.npm_environment();
        let mut trouble = Vec::new();
        let lines = npmrc::lines(&environment).unwrap_or_else(|error| {
            trouble.push(error.to_string());
            Vec::new()
        });
        let npmrc = lines.into_iter().map(|line| {
            let is_variable = matches!(line.origin, SettingOrigin::Variable(_));
            let key =
                if matches!(line.key.as_str(), "min-release-age" | "before" | "minimum-release-age") { "age" } else { &line.key };
            (is_variable, ClientSetting::new(key, line.value, line.origin.to_string()))
        });
        let npmrc = npmrc.collect();
        let upwards = |name: &str| folder.ancestors().map(|folder| folder.join(name)).collect::<Vec<_>>();
        let with_home = |name: &str| upwards(name).into_iter().chain(home.map(|home| home.join(name))).collect::<Vec<_>>();
        let all =
            |paths: Vec<PathBuf>, read: fn(&str) -> Vec<ConfigLine>, key: fn(&str) -> Option<String>| said(paths, read, key);
        let configured = environment.vars.get("XDG_CONFIG_HOME").filter(|path| !path.is_empty()).map(PathBuf::from);
        let configured = configured.or_else(|| home.map(|home| home.join(".config")));
        let of_pnpm = |name: &str| configured.iter().map(|folder| folder.join("pnpm").join(name)).collect::<Vec<_>>();
        let mut lockfiles = BTreeMap::new();
        for path in lockfiles_of(folder) {
            let name = path.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
            let bytes = files::read(&path, LONGEST as u64).map_err(|error| error.to_string());
            match bytes.and_then(|bytes| Lockfile::read(&name, &bytes).map_err(|error| error.to_string())) {
                Ok(lockfile) => drop(lockfiles.insert(name, lockfile)),
                Err(error) => trouble.push(format!("`{}` cannot be read: {error}", path.display())),
            }
        }
        let manager = upwards("package.json").iter().find_map(|path| package_manager(&files::read(path, LARGEST).ok()?));
        let clients = clients(&lockfiles, manager.as_deref(), &environment.vars);
        Self {
            npmrc,
            yarnrc: all(with_home(".yarnrc"), read_yarnrc, npm_key_from_yarn),
            berry: all(with_home(".yarnrc.yml"), read_yaml, key_of_berry),
            bunfig: all(vec![folder.join("bunfig.toml")], read_toml, key_of_bun)
                .into_iter()
                .chain(all(home.map(|home| home.join(".bunfig.toml")).into_iter().collect(), read_toml, key_of_bun))
                .collect(),
            workspace: all(upwards("pnpm-workspace.yaml"), read_yaml, key_of_pnpm),
            pnpm_rc: all(of_pnpm("rc"), read_ini, key_of_ini),
            pnpm_config: all(of_pnpm("config.yaml"), read_yaml, key_of_pnpm_config),
            pnpm_auth: all(of_pnpm("auth.ini"), read_ini, key_of_ini),
            user_npmrc: home.map(|home| format!("`{}`", home.join(".npmrc").display())).unwrap_or_default(),
            lockfiles,
            clients,
            trouble,
            variables: environment.vars,
        }
    }

    /// Everything that a client is told, what it obeys first.
    pub(crate) fn told(&self, client: SurveyedClient) -> Vec<ClientSetting> {
        let variable = |name: &str, key: &str| {
            let value = self.variables.get(name).filter(|value| !value.is_empty());
            value.map(|value| ClientSetting::new(key, value, format!("`{name}`")))
        };
        let variables = |pairs: &[(&str, &str)]| pairs.iter().filter_map(|(name, key)| variable(name, key)).collect::<Vec<_>>();
        let npm = |of_variables: bool| self.npmrc.iter().filter(move |(is, _)| *is == of_variables).map(|(_, said)| said.clone());
        let shared = variables(&[
            ("HTTPS_PROXY", "https-proxy"),
            ("https_proxy", "https-proxy"),
            ("HTTP_PROXY", "proxy"),
            ("http_proxy", "proxy"),
            ("NO_PROXY", "noproxy"),
            ("no_proxy", "noproxy"),
            ("NODE_EXTRA_CA_CERTS", "extra-ca"),
        ]);
        let everywhere = variables(&[("ALL_PROXY", "https-proxy"), ("all_proxy", "https-proxy")]);
        match client {
            SurveyedClient::Npm => npm(true).chain(npm(false)).chain(shared).collect(),
            SurveyedClient::Pnpm => {
                let files = self.workspace.iter().cloned().chain(npm(true)).chain(npm(false)).chain(self.pnpm_rc.iter().cloned());
                files.chain(shared).collect()
            }
            SurveyedClient::Pnpm11 => {
                let own = self.own("pnpm_config_", &["registry", "https-proxy", "proxy", "noproxy", "no-proxy", "cafile"]);
                let yaml = self.workspace.iter().chain(&self.pnpm_config).cloned();
                let (user, project): (Vec<_>, Vec<_>) = npm(false).partition(|said| said.origin == self.user_npmrc);
                let files = yaml.chain(project).chain(self.pnpm_auth.iter().cloned()).chain(user);
                own.into_iter().chain(files).chain(shared).collect()
            }
            SurveyedClient::Yarn => {
                let own = variables(&[
                    ("YARN_REGISTRY", "registry"),
                    ("YARN_HTTPS_PROXY", "https-proxy"),
                    ("YARN_HTTP_PROXY", "proxy"),
                ]);
                own.into_iter().chain(npm(true)).chain(self.yarnrc.iter().cloned()).chain(npm(false)).chain(shared).collect()
            }
            SurveyedClient::Berry => {
                let own = variables(&[
                    ("YARN_NPM_REGISTRY_SERVER", "registry"),
                    ("YARN_HTTPS_PROXY", "https-proxy"),
                    ("YARN_HTTP_PROXY", "proxy"),
                    ("YARN_HTTPS_CA_FILE_PATH", "cafile"),
                ]);
                let extra = shared.into_iter().filter(|said| said.key == "extra-ca");
                own.into_iter().chain(self.berry.iter().cloned()).chain(extra).collect()
            }
            SurveyedClient::Bun => {
                let of_bun =
                    |said: &ClientSetting| said.key == "registry" || said.key.ends_with(":registry") || said.key == "cafile";
                let own = variables(&[("BUN_CONFIG_REGISTRY", "registry")]);
                let npm = npm(true).filter(|said| said.key == "registry").chain(npm(false).filter(of_bun));
                own.into_iter().chain(npm).chain(self.bunfig.iter().cloned()).chain(shared).chain(everywhere).collect()
            }
            SurveyedClient::Deno => {
                let own = variables(&[
                    ("NPM_CONFIG_REGISTRY", "registry"),
                    ("NPM_CONFIG_MIN_RELEASE_AGE", "age"),
                    ("DENO_CERT", "extra-ca"),
                ]);
                let of_deno =
                    |said: &ClientSetting| said.key == "registry" || said.key.ends_with(":registry") || said.key == "age";
                own.into_iter().chain(npm(false).filter(of_deno)).chain(shared).chain(everywhere).collect()
            }
        }
    }

    /// The registries that clients of the project go to, and those that its lockfiles name, each host once.
    pub(crate) fn registries(&self) -> Vec<Url> {
        let clients = self.clients.iter().filter(|(_, is_of_project)| *is_of_project);
        let told = clients.flat_map(|(client, _)| self.told(*client)).filter(|said| said.key.ends_with("registry"));
        let entries = self.lockfiles.values().flat_map(|lockfile| &lockfile.entries);
        let locked = entries
            .filter(|entry| entry.source == EntrySource::Registry)
            .filter_map(|entry| entry.resolved.as_deref().map(str::to_owned));
        let named = told.map(|said| said.value).chain(locked).filter_map(|text| Url::parse(&text).ok());
        let mut found: Vec<Url> = Vec::new();
        for url in named.chain([npmrc::npm_default_registry()]) {
            if found.len() < MOST_REGISTRIES && found.iter().all(|known| known.origin() != url.origin()) {
                found.push(url);
            }
        }
        found
    }

    /// The registries of scopes that clients of the project go to.
    pub(crate) fn scoped_registries(&self) -> Vec<Url> {
        let clients = self.clients.iter().filter(|(_, is_of_project)| *is_of_project);
        let told = clients.flat_map(|(client, _)| self.told(*client));
        let scoped = told.filter(|said| said.key.starts_with('@') && said.key.ends_with(":registry"));
        scoped.filter_map(|said| Url::parse(&said.value).ok()).collect()
    }

    /// The authorities of Coldframes, perhaps of other machines, that clients here are told to trust.
    pub(crate) fn authorities(&self, folder: &Path) -> Vec<CertificateDer<'static>> {
        let told = self.clients.iter().flat_map(|(client, _)| self.told(*client));
        let files: BTreeSet<_> =
            told.filter(|said| matches!(said.key.as_str(), "cafile" | "extra-ca")).map(|said| said.value).collect();
        let read = files.into_iter().filter_map(|file| CertificateDer::pem_file_iter(folder.join(file)).ok());
        read.flat_map(Iterator::flatten).filter(is_coldframe_ca).collect()
    }

    /// Scopes of clients that install here whose registry is not taken, each once, in words.
    pub(crate) fn unproxied_scopes(&self, is_taken: impl Fn(&Url) -> bool) -> BTreeSet<String> {
        let clients = self.clients.iter().filter(|(_, is_of_project)| *is_of_project);
        let told = clients.flat_map(|(client, _)| self.told(*client)).filter(|said| said.key.starts_with('@'));
        let strays = told.filter_map(|said| {
            let url = Url::parse(&said.value).ok().filter(|url| !is_taken(url))?;
            Some(format!("`{}` in {} leads to {}", said.key, said.origin, host(url.as_str())))
        });
        strays.collect()
    }

    /// The variables that have a prefix of a client's own, in either case.
    fn own(&self, prefix: &str, keys: &[&str]) -> Vec<ClientSetting> {
        let found = self.variables.iter().filter(|(_, value)| !value.is_empty()).filter_map(|(name, value)| {
            let folded = name.to_ascii_lowercase();
            let key = folded.strip_prefix(prefix)?.replace('_', "-");
            keys.contains(&key.as_str()).then(|| ClientSetting::new(key, value, format!("`{name}`")))
        });
        found.collect()
    }
}

/// The lines of files that matter, nearest file first.
fn said(paths: Vec<PathBuf>, read: fn(&str) -> Vec<ConfigLine>, key: fn(&str) -> Option<String>) -> Vec<ClientSetting> {
    let mut found: Vec<ClientSetting> = Vec::new();
    let mut seen: Vec<PathBuf> = Vec::new();
    for path in paths {
        if seen.contains(&path) {
            continue;
        }
        let Ok(text) = files::read(&path, LARGEST).and_then(files::text) else { continue };
        for (name, value, line) in read(&text) {
            let Some(key) = key(&name).filter(|_| !value.is_empty()) else { continue };
            found.push(ClientSetting::new(key, value, format!("`{}:{line}`", path.display())));
        }
        seen.push(path);
    }
    found
}

/// The lockfiles of the nearest folder upwards that has any.
fn lockfiles_of(folder: &Path) -> Vec<PathBuf> {
    let inside = |folder: &Path| NAMES.iter().map(|name| folder.join(name)).filter(|path| path.is_file()).collect::<Vec<_>>();
    folder.ancestors().map(inside).find(|found| !found.is_empty()).unwrap_or_default()
}

/// `packageManager` of a `package.json`: `pnpm@10.34.9`.
fn package_manager(bytes: &[u8]) -> Option<String> {
    let manifest: serde_json::Value = serde_json::from_slice(bytes).ok()?;
    manifest["packageManager"].as_str().map(str::to_owned)
}

/// Who installs here.
fn clients(
    lockfiles: &BTreeMap<String, Lockfile>,
    manager: Option<&str>,
    variables: &BTreeMap<String, String>,
) -> Vec<(SurveyedClient, bool)> {
    let (named, version) = manager.and_then(|manager| manager.split_once('@')).unwrap_or_default();
    let major: u32 = version.split('.').next().and_then(|major| major.parse().ok()).unwrap_or_default();
    let is_named = |client: SurveyedClient| client.program() == named;
    let fits = |client: SurveyedClient| match client {
        _ if !is_named(client) || major == 0 => true,
        SurveyedClient::Pnpm => major <= 10,
        SurveyedClient::Pnpm11 => major >= 11,
        SurveyedClient::Yarn => major == 1,
        SurveyedClient::Berry => major >= 2,
        _ => true,
    };
    let reads = |client: SurveyedClient| lockfiles.values().any(|lockfile| client.reads(lockfile.dialect));
    let installed = |client: SurveyedClient| {
        let folders = variables.get("PATH").map(std::env::split_paths);
        folders.into_iter().flatten().any(|folder| folder.join(client.program()).is_file())
    };
    let known = |client: SurveyedClient| fits(client) && (reads(client) || (is_named(client) && lockfiles.is_empty()));
    let project: Vec<_> = SurveyedClient::ALL.into_iter().filter(|client| known(*client)).collect();
    if project.is_empty() {
        return SurveyedClient::ALL.into_iter().filter(|client| installed(*client)).map(|client| (client, true)).collect();
    }
    let others =
        SurveyedClient::ALL.into_iter().filter(|client| !project.contains(client) && fits(*client) && installed(*client));
    let others: Vec<_> = others.map(|client| (client, false)).collect();
    project.into_iter().map(|client| (client, true)).chain(others).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_installs_here_is_said_by_the_project() {
        let (lockfiles, variables) = (BTreeMap::new(), BTreeMap::new());
        let of =
            |manager| clients(&lockfiles, Some(manager), &variables).into_iter().map(|(client, _)| client).collect::<Vec<_>>();
        assert_eq!(of("pnpm@10.34.9"), [SurveyedClient::Pnpm]);
        assert_eq!(of("pnpm@12.0.0+sha512.0"), [SurveyedClient::Pnpm11]);
        assert_eq!(of("yarn@4.18.1"), [SurveyedClient::Berry]);
        assert_eq!(of("yarn@1.22.22"), [SurveyedClient::Yarn]);
    }
}
