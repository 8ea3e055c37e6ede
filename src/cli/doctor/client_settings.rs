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

/// The largest settings file, in bytes.
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

    /// Checks whether it installs from lockfiles in this format.
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

    /// Checks whether it holds new releases for a day by default.
    pub(crate) fn has_builtin_age_gate(self) -> bool {
        matches!(self, Self::Pnpm11 | Self::Berry | Self::Deno)
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

/// The settings of all clients, by the file or variables that contain them.
pub(crate) struct SettingSources {
    variables: BTreeMap<String, String>,
    /// The lines of `.npmrc` files, and npm's variables, which are marked.
    npmrc: Vec<(bool, ClientSetting)>,
    /// The path of the user's `.npmrc`, for output.
    user_npmrc: String,
    yarnrc: Vec<ClientSetting>,
    berry: Vec<ClientSetting>,
    bunfig: Vec<ClientSetting>,
    pnpm_workspace: Vec<ClientSetting>,
    /// pnpm's files of this user: `rc` up to version 10, then `config.yaml` and `auth.ini`.
    pnpm_rc: Vec<ClientSetting>,
    pnpm_config: Vec<ClientSetting>,
    pnpm_auth: Vec<ClientSetting>,
}

pub(crate) struct SettingsSurvey {
    pub(crate) settings: SettingSources,
    /// The lockfiles of the project, by name.
    pub(crate) lockfiles: BTreeMap<String, Lockfile>,
    /// The clients in use, by lockfile or `packageManager`, else all installed ones. The flag is set for clients of this
    /// project.
    pub(crate) clients: Vec<(SurveyedClient, bool)>,
    pub(crate) trouble: Vec<String>,
}

impl SettingSources {
    /// Reads files upwards from the working directory, and those of the user. Adds errors to `trouble`.
    fn read(surroundings: &ProcessEnvironment, trouble: &mut Vec<String>) -> Self {
        let (folder, home) = (&surroundings.working_directory, surroundings.home.as_deref());
        let environment = surroundings.npm_environment();
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
        let upwards = |name: &str| folder.ancestors().map(|folder| folder.join(name)).collect::<Vec<_>>();
        let with_home = |name: &str| upwards(name).into_iter().chain(home.map(|home| home.join(name))).collect::<Vec<_>>();
        let configured = environment.vars.get("XDG_CONFIG_HOME").filter(|path| !path.is_empty()).map(PathBuf::from);
        let configured = configured.or_else(|| home.map(|home| home.join(".config")));
        let of_pnpm = |name: &str| configured.iter().map(|folder| folder.join("pnpm").join(name)).collect::<Vec<_>>();
        let mut bunfig = read_settings(&[folder.join("bunfig.toml")], read_toml, key_of_bun);
        bunfig.extend(read_settings(home.map(|home| home.join(".bunfig.toml")).as_slice(), read_toml, key_of_bun));
        Self {
            npmrc: npmrc.collect(),
            user_npmrc: home.map(|home| format!("`{}`", home.join(".npmrc").display())).unwrap_or_default(),
            yarnrc: read_settings(&with_home(".yarnrc"), read_yarnrc, npm_key_from_yarn),
            berry: read_settings(&with_home(".yarnrc.yml"), read_yaml, key_of_berry),
            bunfig,
            pnpm_workspace: read_settings(&upwards("pnpm-workspace.yaml"), read_yaml, key_of_pnpm),
            pnpm_rc: read_settings(&of_pnpm("rc"), read_ini, key_of_ini),
            pnpm_config: read_settings(&of_pnpm("config.yaml"), read_yaml, key_of_pnpm_config),
            pnpm_auth: read_settings(&of_pnpm("auth.ini"), read_ini, key_of_ini),
            variables: environment.vars,
        }
    }

    pub(crate) fn of_client(&self, client: SurveyedClient) -> Vec<ClientSetting> {
        let variable = |name: &str, key: &str| {
            let value = self.variables.get(name).filter(|value| !value.is_empty());
            value.map(|value| ClientSetting::new(key, value, format!("`{name}`")))
        };
        let variables = |pairs: &[(&str, &str)]| pairs.iter().filter_map(|(name, key)| variable(name, key)).collect::<Vec<_>>();
        let npm =
            |of_variables: bool| self.npmrc.iter().filter(move |(is, _)| *is == of_variables).map(|(_, setting)| setting.clone());
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
                let (workspace, rc) = (self.pnpm_workspace.iter().cloned(), self.pnpm_rc.iter().cloned());
                workspace.chain(npm(true)).chain(npm(false)).chain(rc).chain(shared).collect()
            }
            SurveyedClient::Pnpm11 => {
                let own = self.own("pnpm_config_", &["registry", "https-proxy", "proxy", "noproxy", "no-proxy", "cafile"]);
                let yaml = self.pnpm_workspace.iter().chain(&self.pnpm_config).cloned();
                let (user, project): (Vec<_>, Vec<_>) = npm(false).partition(|setting| setting.origin == self.user_npmrc);
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
                let extra = shared.into_iter().filter(|setting| setting.key == "extra-ca");
                own.into_iter().chain(self.berry.iter().cloned()).chain(extra).collect()
            }
            SurveyedClient::Bun => {
                let of_bun = |setting: &ClientSetting| setting.is_registry() || setting.key == "cafile";
                let own = variables(&[("BUN_CONFIG_REGISTRY", "registry")]);
                let npm = npm(true).filter(|setting| setting.key == "registry").chain(npm(false).filter(of_bun));
                own.into_iter().chain(npm).chain(self.bunfig.iter().cloned()).chain(shared).chain(everywhere).collect()
            }
            SurveyedClient::Deno => {
                let own = variables(&[
                    ("NPM_CONFIG_REGISTRY", "registry"),
                    ("NPM_CONFIG_MIN_RELEASE_AGE", "age"),
                    ("DENO_CERT", "extra-ca"),
                ]);
                let of_deno = |setting: &ClientSetting| setting.is_registry() || setting.key == "age";
                own.into_iter().chain(npm(false).filter(of_deno)).chain(shared).chain(everywhere).collect()
            }
        }
    }

    /// Returns the variables with the prefix of a client, in either case.
    fn own(&self, prefix: &str, keys: &[&str]) -> Vec<ClientSetting> {
        let found = self.variables.iter().filter(|(_, value)| !value.is_empty()).filter_map(|(name, value)| {
            let folded = name.to_ascii_lowercase();
            let key = folded.strip_prefix(prefix)?.replace('_', "-");
            keys.contains(&key.as_str()).then(|| ClientSetting::new(key, value, format!("`{name}`")))
        });
        found.collect()
    }
}

impl SettingsSurvey {
    pub(crate) fn of(surroundings: &ProcessEnvironment) -> Self {
        let folder = &surroundings.working_directory;
        let mut trouble = Vec::new();
        let settings = SettingSources::read(surroundings, &mut trouble);
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
        let clients = clients(&lockfiles, manager.as_deref(), &settings.variables);
        Self { settings, lockfiles, clients, trouble }
    }

    fn project_settings(&self) -> impl Iterator<Item = ClientSetting> {
        let clients = self.clients.iter().filter(|(_, is_of_project)| *is_of_project);
        clients.flat_map(|(client, _)| self.settings.of_client(*client))
    }

    /// Returns the registries of the project's clients and lockfiles, once per origin.
    pub(crate) fn registries(&self) -> Vec<Url> {
        let settings = self.project_settings().filter(|setting| setting.key.ends_with("registry"));
        let entries = self.lockfiles.values().flat_map(|lockfile| &lockfile.entries);
        let registry_entries = entries.filter(|entry| entry.source == EntrySource::Registry);
        let locked = registry_entries.filter_map(|entry| entry.resolved.as_deref().map(str::to_owned));
        let named = settings.map(|setting| setting.value).chain(locked).filter_map(|text| Url::parse(&text).ok());
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
        let settings = self.clients.iter().flat_map(|(client, _)| self.settings.of_client(*client));
        let named = settings.filter(|setting| matches!(setting.key.as_str(), "cafile" | "extra-ca"));
        let files: BTreeSet<_> = named.map(|setting| setting.value).collect();
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

fn read_settings(paths: &[PathBuf], read: fn(&str) -> Vec<ConfigLine>, key: fn(&str) -> Option<String>) -> Vec<ClientSetting> {
    let mut found: Vec<ClientSetting> = Vec::new();
    let mut seen = BTreeSet::new();
    for path in paths.iter().filter(|path| seen.insert(*path)) {
        let Ok(text) = files::read_bounded(path, MAX_SETTINGS_BYTES).and_then(files::into_text) else { continue };
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
    let others: Vec<_> = installed.filter(|client| !project.contains(client) && fits(*client)).collect();
    project.into_iter().map(|client| (client, true)).chain(others.into_iter().map(|client| (client, false))).collect()
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
