//! Collects each client's settings from variables and files, in the client's own order of precedence, as measured with the
//! real clients. Values that may be secrets are never printed.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use rustls_pki_types::CertificateDer;
use rustls_pki_types::pem::PemObject as _;
use url::Url;

use crate::cli::doctor::formats::{
    ConfigLine, is_scoped_registry, key_of_berry, key_of_bun, key_of_ini, key_of_pnpm, key_of_pnpm_config, npm_key_from_yarn,
    read_ini, read_toml, read_yaml, read_yarnrc,
};
use crate::cli::lockfiles;
use crate::cli::registry_hosts::host;
use crate::config::ProcessEnvironment;
use crate::files;
use crate::npm::Lockfile;
use crate::npm::lockfile::{EntrySource, LockfileFormat};
use crate::tls::ca::is_coldframe_ca;
use crate::upstream::{SettingOrigin, npmrc};

const MAX_SETTINGS_BYTES: u64 = 4 << 20;

/// A client. Versions that read different settings are separate variants.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum SurveyedClient {
    Npm,
    /// Version 10 and older.
    Pnpm,
    /// Version 11 and later.
    Pnpm11,
    /// Version 1.
    Yarn,
    /// Version 2 and later.
    Berry,
    Bun,
    Deno,
}

impl SurveyedClient {
    pub(crate) const ALL: [Self; 7] = [Self::Npm, Self::Pnpm, Self::Pnpm11, Self::Yarn, Self::Berry, Self::Bun, Self::Deno];

    pub(crate) fn as_str(self) -> &'static str {
        match self {
            Self::Npm => "npm",
            Self::Pnpm => "pnpm 10 and older",
            Self::Pnpm11 => "pnpm 11 and later",
            Self::Yarn => "yarn 1",
            Self::Berry => "yarn 2 and later",
            Self::Bun => "bun",
            Self::Deno => "deno",
        }
    }

    /// Returns the program, which its name starts with.
    fn program(self) -> &'static str {
        let name = self.as_str();
        name.split_once(' ').map_or(name, |(program, _)| program)
    }

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
}

/// At most this many registries are probed.
const MAX_REGISTRIES: usize = 16;

/// A setting of a client. The keys are npm's: `registry`, `@scope:registry`, `https-proxy`, `proxy`, `noproxy`, `no-proxy`,
/// `cafile`, `strict-ssl`. In addition, `extra-ca` is a CA file besides the system's, and `age` a minimum release age.
#[derive(Clone, PartialEq, Eq)]
pub(crate) struct ClientSetting {
    pub(crate) key: String,
    pub(crate) value: String,
    /// The variable, or the file with line, for output.
    pub(crate) origin: String,
}

impl ClientSetting {
    fn new(key: impl Into<String>, value: impl Into<String>, origin: impl Into<String>) -> Self {
        Self { key: key.into(), value: value.into(), origin: origin.into() }
    }

    fn is_registry(&self) -> bool {
        self.key == "registry" || self.key.ends_with(":registry")
    }
}

/// A client in use, with its settings in the order of their precedence.
pub(crate) struct UsedClient {
    pub(crate) client: SurveyedClient,
    pub(crate) is_of_project: bool,
    pub(crate) settings: Vec<ClientSetting>,
}

impl UsedClient {
    pub(crate) fn find(&self, key: &str) -> Option<&ClientSetting> {
        self.settings.iter().find(|setting| setting.key == key)
    }
}

pub(crate) struct SettingsSurvey {
    /// The lockfiles of the project, by name.
    pub(crate) lockfiles: BTreeMap<String, Lockfile>,
    /// The clients by lockfile or `packageManager`, else all installed ones.
    pub(crate) clients: Vec<UsedClient>,
    pub(crate) trouble: Vec<String>,
}

struct SettingSources<'a> {
    folder: &'a Path,
    home: Option<&'a Path>,
    variables: BTreeMap<String, String>,
    /// The lines of `.npmrc` files, and npm's variables, which are marked.
    npmrc: Vec<(bool, ClientSetting)>,
}

impl SettingSources<'_> {
    fn of_client(&self, client: SurveyedClient) -> Vec<ClientSetting> {
        let npm = |of_variables: bool| {
            let lines = self.npmrc.iter().filter(|(is_variable, _)| *is_variable == of_variables);
            lines.map(|(_, setting)| setting.clone()).collect::<Vec<_>>()
        };
        let upwards = |name: &'static str| self.folder.ancestors().map(move |folder| folder.join(name));
        let of_home = |name: &str| self.home.map(|home| home.join(name));
        let workspace = || read_settings(upwards("pnpm-workspace.yaml"), read_yaml, key_of_pnpm);
        let shared = self.variables(&[
            ("HTTPS_PROXY", "https-proxy"),
            ("https_proxy", "https-proxy"),
            ("HTTP_PROXY", "proxy"),
            ("http_proxy", "proxy"),
            ("NO_PROXY", "noproxy"),
            ("no_proxy", "noproxy"),
            ("NODE_EXTRA_CA_CERTS", "extra-ca"),
        ]);
        let everywhere = self.variables(&[("ALL_PROXY", "https-proxy"), ("all_proxy", "https-proxy")]);
        match client {
            SurveyedClient::Npm => [npm(true), npm(false), shared].concat(),
            SurveyedClient::Pnpm => {
                [workspace(), npm(true), npm(false), self.of_pnpm("rc", read_ini, key_of_ini), shared].concat()
            }
            SurveyedClient::Pnpm11 => {
                let own = self.pnpm_variables();
                let config = self.of_pnpm("config.yaml", read_yaml, key_of_pnpm_config);
                let user_npmrc = of_home(".npmrc").map(|path| format!("`{}`", path.display())).unwrap_or_default();
                let (user, project) = npm(false).into_iter().partition(|setting| setting.origin == user_npmrc);
                let auth = self.of_pnpm("auth.ini", read_ini, key_of_ini);
                [own, workspace(), config, project, auth, user, shared].concat()
            }
            SurveyedClient::Yarn => {
                let own = self.variables(&[
                    ("YARN_REGISTRY", "registry"),
                    ("YARN_HTTPS_PROXY", "https-proxy"),
                    ("YARN_HTTP_PROXY", "proxy"),
                ]);
                let yarnrc = read_settings(upwards(".yarnrc").chain(of_home(".yarnrc")), read_yarnrc, npm_key_from_yarn);
                [own, npm(true), yarnrc, npm(false), shared].concat()
            }
            SurveyedClient::Berry => {
                let own = self.variables(&[
                    ("YARN_NPM_REGISTRY_SERVER", "registry"),
                    ("YARN_HTTPS_PROXY", "https-proxy"),
                    ("YARN_HTTP_PROXY", "proxy"),
                    ("YARN_HTTPS_CA_FILE_PATH", "cafile"),
                ]);
                let files = upwards(".yarnrc.yml").chain(of_home(".yarnrc.yml"));
                let extra = self.variables(&[("NODE_EXTRA_CA_CERTS", "extra-ca")]);
                [own, read_settings(files, read_yaml, key_of_berry), extra].concat()
            }
            SurveyedClient::Bun => {
                let own = self.variables(&[("BUN_CONFIG_REGISTRY", "registry")]);
                let (mut variables, mut lines) = (npm(true), npm(false));
                variables.retain(|setting| setting.key == "registry");
                lines.retain(|setting| setting.is_registry() || setting.key == "cafile");
                let bunfigs = std::iter::once(self.folder.join("bunfig.toml")).chain(of_home(".bunfig.toml"));
                [own, variables, lines, read_settings(bunfigs, read_toml, key_of_bun), shared, everywhere].concat()
            }
            SurveyedClient::Deno => {
                let own = self.variables(&[
                    ("NPM_CONFIG_REGISTRY", "registry"),
                    ("NPM_CONFIG_MIN_RELEASE_AGE", "age"),
                    ("DENO_CERT", "extra-ca"),
                ]);
                let mut lines = npm(false);
                lines.retain(|setting| setting.is_registry() || setting.key == "age");
                [own, lines, shared, everywhere].concat()
            }
        }
    }

    /// Returns the variables that are set, as settings with these keys.
    fn variables(&self, pairs: &[(&str, &str)]) -> Vec<ClientSetting> {
        let setting = |(name, key): &(&str, &str)| {
            let value = self.variables.get(*name).filter(|value| !value.is_empty())?;
            Some(ClientSetting::new(*key, value, format!("`{name}`")))
        };
        pairs.iter().filter_map(setting).collect()
    }

    /// Returns the variables of pnpm 11 and later, in either case.
    fn pnpm_variables(&self) -> Vec<ClientSetting> {
        let found = self.variables.iter().filter(|(_, value)| !value.is_empty()).filter_map(|(name, value)| {
            let key = name.to_ascii_lowercase().strip_prefix("pnpm_config_")?.replace('_', "-");
            let is_known = matches!(key.as_str(), "registry" | "https-proxy" | "proxy" | "noproxy" | "no-proxy" | "cafile");
            is_known.then(|| ClientSetting::new(key, value, format!("`{name}`")))
        });
        found.collect()
    }

    /// Reads one of pnpm's files of this user: `rc` up to version 10, then `config.yaml` and `auth.ini`.
    fn of_pnpm(&self, name: &str, read: ReadLines, key: NpmKey) -> Vec<ClientSetting> {
        let configured = self.variables.get("XDG_CONFIG_HOME").filter(|path| !path.is_empty()).map(PathBuf::from);
        let folder = configured.or_else(|| self.home.map(|home| home.join(".config")));
        read_settings(folder.map(|folder| folder.join("pnpm").join(name)), read, key)
    }
}

impl SettingsSurvey {
    /// Reads files upwards from the working directory, and those of the user.
    pub(crate) fn of(surroundings: &ProcessEnvironment) -> Self {
        let folder = &surroundings.working_directory;
        let mut trouble = Vec::new();
        let environment = surroundings.npm_environment();
        let lines = npmrc::lines(&environment).unwrap_or_else(|error| {
            trouble.push(error.to_string());
            Vec::new()
        });
        let npmrc = lines.into_iter().map(|line| {
            let is_variable = matches!(line.origin, SettingOrigin::Variable(_));
            let is_age = matches!(line.key.as_str(), "min-release-age" | "before" | "minimum-release-age");
            (is_variable, ClientSetting::new(if is_age { "age" } else { &line.key }, line.value, line.origin.to_string()))
        });
        let (npmrc, home) = (npmrc.collect(), surroundings.home.as_deref());
        let sources = SettingSources { folder, home, variables: environment.vars, npmrc };
        let mut lockfiles = BTreeMap::new();
        for read in lockfiles::nearest(folder) {
            match read {
                Ok((name, lockfile)) => drop(lockfiles.insert(name, lockfile)),
                Err(error) => trouble.push(error),
            }
        }
        let mut manifests = folder.ancestors().map(|folder| folder.join("package.json"));
        // Such as `pnpm@10.34.9`.
        let manager = manifests.find_map(|path| {
            let bytes = files::read_bounded(&path, MAX_SETTINGS_BYTES).ok()?;
            let manifest: serde_json::Value = serde_json::from_slice(&bytes).ok()?;
            manifest["packageManager"].as_str().map(str::to_owned)
        });
        let used = clients(&lockfiles, manager.as_deref(), &sources.variables).into_iter();
        let with_settings = |(client, is_of_project)| UsedClient { client, is_of_project, settings: sources.of_client(client) };
        Self { clients: used.map(with_settings).collect(), lockfiles, trouble }
    }

    fn project_settings(&self) -> impl Iterator<Item = &ClientSetting> {
        self.clients.iter().filter(|used| used.is_of_project).flat_map(|used| &used.settings)
    }

    /// Returns the registries of the project's clients and lockfiles, once per origin.
    pub(crate) fn registries(&self) -> Vec<Url> {
        let settings = self.project_settings().filter(|setting| setting.key.ends_with("registry"));
        let entries = self.lockfiles.values().flat_map(|lockfile| &lockfile.entries);
        let locked = entries.filter(|entry| entry.source == EntrySource::Registry).filter_map(|entry| entry.resolved.as_deref());
        let named = settings.map(|setting| &*setting.value).chain(locked).filter_map(|text| Url::parse(text).ok());
        let mut found: Vec<Url> = Vec::new();
        for url in named.chain([npmrc::npm_default_registry()]) {
            if found.len() < MAX_REGISTRIES && found.iter().all(|known| known.origin() != url.origin()) {
                found.push(url);
            }
        }
        found
    }

    pub(crate) fn scoped_registries(&self) -> Vec<Url> {
        let scoped = self.project_settings().filter(|setting| is_scoped_registry(&setting.key));
        scoped.filter_map(|setting| Url::parse(&setting.value).ok()).collect()
    }

    /// Returns Coldframe CA certificates in the clients' CA files, including those of other machines.
    pub(crate) fn authorities(&self, folder: &Path) -> Vec<CertificateDer<'static>> {
        let settings = self.clients.iter().flat_map(|used| &used.settings);
        let named = settings.filter(|setting| matches!(setting.key.as_str(), "cafile" | "extra-ca"));
        let files: BTreeSet<_> = named.map(|setting| &setting.value).collect();
        let read = files.into_iter().filter_map(|file| CertificateDer::pem_file_iter(folder.join(file)).ok());
        read.flat_map(Iterator::flatten).filter(is_coldframe_ca).collect()
    }

    /// Describes scopes of the project's clients whose registry does not satisfy `is_proxied`.
    pub(crate) fn unproxied_scopes(&self, is_proxied: impl Fn(&Url) -> bool) -> BTreeSet<String> {
        let settings = self.project_settings().filter(|setting| setting.key.starts_with('@'));
        let unproxied = settings.filter_map(|setting| {
            let url = Url::parse(&setting.value).ok().filter(|url| !is_proxied(url))?;
            Some(format!("`{}` in {} points to {}", setting.key, setting.origin, host(url.as_str())))
        });
        unproxied.collect()
    }
}

type ReadLines = fn(&str) -> Vec<ConfigLine>;

/// Returns npm's name for a key, if `doctor` needs the setting.
type NpmKey = fn(&str) -> Option<String>;

fn read_settings(paths: impl IntoIterator<Item = PathBuf>, read: ReadLines, key: NpmKey) -> Vec<ClientSetting> {
    let mut found: Vec<ClientSetting> = Vec::new();
    let mut seen = BTreeSet::new();
    for path in paths.into_iter().filter(|path| seen.insert(path.clone())) {
        let Ok(text) = files::read_bounded(&path, MAX_SETTINGS_BYTES).and_then(files::into_text) else { continue };
        for (name, value, line) in read(&text) {
            let Some(key) = key(&name).filter(|_| !value.is_empty()) else { continue };
            found.push(ClientSetting::new(key, value, format!("`{}:{line}`", path.display())));
        }
    }
    found
}

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
    let installed = SurveyedClient::ALL.into_iter().filter(|client| installed(*client));
    if project.is_empty() {
        return installed.map(|client| (client, true)).collect();
    }
    let others = installed.filter(|client| !project.contains(client) && fits(*client)).map(|client| (client, false));
    project.iter().map(|client| (*client, true)).chain(others).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn package_manager_determines_the_client() {
        let (lockfiles, variables) = (BTreeMap::new(), BTreeMap::new());
        let of =
            |manager| clients(&lockfiles, Some(manager), &variables).into_iter().map(|(client, _)| client).collect::<Vec<_>>();
        assert_eq!(of("pnpm@10.34.9"), [SurveyedClient::Pnpm]);
        assert_eq!(of("pnpm@12.0.0+sha512.0"), [SurveyedClient::Pnpm11]);
        assert_eq!(of("yarn@4.18.1"), [SurveyedClient::Berry]);
        assert_eq!(of("yarn@1.22.22"), [SurveyedClient::Yarn]);
    }
}
