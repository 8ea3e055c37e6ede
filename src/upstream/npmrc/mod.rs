//! Reads npm's configuration on this machine: registries, scopes, credentials, CAs and proxies. `strict-ssl=false` is ignored.
//! Only this module uses `deno_npmrc`, which parses one file and provides npm's built-in default registry.

pub mod environment;

use std::collections::{BTreeMap, HashMap};
use std::ffi::{OsStr, OsString};
use std::fmt;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, OnceLock};

use url::Url;

use crate::files;
use crate::net::{ProxySettingError, ProxySettings, remove_credentials};
use crate::npm::{Algorithm, Digest};
use crate::upstream::config::Route;
use crate::upstream::config::{RegistryConfig, SettingOrigin, add_final_slash, address, is_scope};
use crate::upstream::credentials::{CredentialRules, Credentials, CredentialsError, level_of};
use crate::upstream::npmrc::environment::NpmEnvironment;

pub struct NpmConfig {
    /// The default registry, and where it is configured.
    pub default: (Url, SettingOrigin),
    /// The registries of scopes: scope with its `@`, URL, and where it is configured.
    pub scoped: Vec<(String, Url, SettingOrigin)>,
    pub cafile: Option<(PathBuf, SettingOrigin)>,
    /// `NODE_EXTRA_CA_CERTS`, if the file exists. npm trusts it, because it is a Node program.
    pub extra_ca: Option<(PathBuf, SettingOrigin)>,
    /// Warnings for the user: unreadable files, ignored settings, skipped entries.
    pub warnings: Vec<String>,
    layers: Vec<NpmrcLayer>,
}

/// An error in npm's configuration. Never contains a value, which may be a secret.
#[derive(Debug, thiserror::Error)]
pub enum NpmrcError {
    /// A file cannot be parsed. Skipping it could send the name of a private package to a public registry.
    #[error("cannot parse ini file `{}`", path.display())]
    Syntax { path: PathBuf },
    #[error("`{key}` in {origin} is not an `http` or `https` URL")]
    Address { key: String, origin: SettingOrigin },
    #[error("cannot use the credentials for `//{registry}` in {origin}")]
    Credentials { registry: String, origin: SettingOrigin, source: CredentialsError },
}

/// Reads npm's configuration. For each key the first source that has it applies: variables, then the project's, the user's, the
/// global and the packager's `.npmrc`, then npm's built-in default. Registries for which `is_self` returns `true` are Coldframe
/// itself and are skipped, because clients on this machine may already point to it.
pub(crate) fn discover(environment: &NpmEnvironment, is_self: &dyn Fn(&Url) -> bool) -> Result<NpmConfig, NpmrcError> {
    let mut warnings = Vec::new();
    let layers = layers(environment, &mut warnings)?;
    merge_layers(layers, warnings, environment, is_self)
}

/// Like [`discover`], but reads only variables and the given text of one file. `path` is used in messages.
///
/// # Errors
/// Returns an error if the text cannot be parsed or a registry is not a URL.
pub fn discover_in(
    text: &str,
    path: &Path,
    environment: &NpmEnvironment,
    is_self: &dyn Fn(&Url) -> bool,
) -> Result<NpmConfig, NpmrcError> {
    let mut layers = of_variables(environment);
    layers.push(parse(text, path, environment)?);
    merge_layers(layers, Vec::new(), environment, is_self)
}

/// A line of npm's configuration, or a variable.
#[derive(Clone, PartialEq, Eq)]
pub struct NpmrcLine {
    /// The key in npm's form: `registry`, `@scope:registry`, `https-proxy`.
    pub key: String,
    /// The value with variables expanded. Must not be displayed, because a URL may contain credentials.
    pub value: String,
    pub origin: SettingOrigin,
}

/// Returns all lines that npm would read, highest precedence first as in [`discover`], without credentials of single registries.
pub(crate) fn lines(environment: &NpmEnvironment) -> Result<Vec<NpmrcLine>, NpmrcError> {
    let layers = layers(environment, &mut Vec::new())?;
    let of_layer = |NpmrcLayer { origin, registries, settings, .. }: NpmrcLayer| {
        registries.into_iter().chain(settings).map(move |(key, value)| NpmrcLine { key, value, origin: origin.clone() })
    };
    Ok(layers.into_iter().flat_map(of_layer).filter(|line| !line.key.starts_with('_')).collect())
}

/// Maximum size of an `.npmrc`, in bytes.
const MAX_FILE_BYTES: u64 = 4 << 20;

/// SHA-256 of yarn's default host name for npm's registry. A digest, because this code contains no registry's host name.
const YARNS_ALIAS: [u8; 32] = [
    0x70, 0xbb, 0x40, 0x00, 0xcd, 0x2f, 0xab, 0x03, 0xaf, 0x01, 0xfe, 0xd0, 0x86, 0xc6, 0xbf, 0x3c, 0x2c, 0x97, 0x0f, 0x8b, 0x8b,
    0x80, 0x01, 0xc3, 0x11, 0x02, 0x8e, 0xc3, 0xb8, 0x0e, 0x77, 0x5a,
];

/// Returns yarn's own host name for npm's default registry, which a CA must list in advance and no crate provides. It is searched
/// once per process among names with three varying letters, in microseconds because `p` is tried first.
pub fn yarn_registry_host() -> Option<&'static str> {
    static FOUND: OnceLock<Option<String>> = OnceLock::new();
    let find = || {
        let default = npm_default_registry();
        let (first, _) = default.host_str()?.split_once('.')?;
        let pairs = ('p'..='z').chain('a'..='o').flat_map(|one| ('a'..='z').map(move |two| (one, two)));
        let mut names = pairs.flat_map(|(one, two)| ('a'..='z').map(move |three| format!("{first}.yarn{one}{two}{three}.com")));
        names.find(|name| Digest::of(Algorithm::Sha256, name.as_bytes()).as_bytes() == YARNS_ALIAS)
    };
    FOUND.get_or_init(find).as_deref()
}

/// Returns npm's built-in default registry. With an empty environment `deno_npmrc` returns its constant.
pub fn npm_default_registry() -> Url {
    deno_npmrc::NpmRegistryUrl::for_npm(&EnvLookup(&NpmEnvironment::default())).url
}

/// Merges the layers. The first layer with a key applies.
fn merge_layers(
    layers: Vec<NpmrcLayer>,
    mut warnings: Vec<String>,
    environment: &NpmEnvironment,
    is_self: &dyn Fn(&Url) -> bool,
) -> Result<NpmConfig, NpmrcError> {
    let mut default = None;
    let mut scoped: BTreeMap<String, (Url, SettingOrigin)> = BTreeMap::new();
    for layer in &layers {
        for (key, text) in &layer.registries {
            let url = parse_registry(key, text, &layer.origin)?;
            if is_self(&url) {
                warnings.push(format!("{} sets `{key}` to Coldframe itself; entry skipped", layer.origin));
                continue;
            }
            let found = (url, layer.origin.clone());
            match key.strip_suffix(":registry") {
                // No package has it, so no name is asked elsewhere.
                Some(scope) if !is_scope(scope) => {
                    warnings.push(format!("{} sets `{}`, which is no scope; entry skipped", layer.origin, key.escape_debug()));
                }
                Some(scope) => _ = scoped.entry(scope.to_owned()).or_insert(found),
                None => _ = default.get_or_insert(found),
            }
        }
    }
    let extra_ca = extra_ca(environment, &mut warnings);
    if let Some(("false", origin)) = setting(&layers, "strict-ssl") {
        let advice = "which is ignored; add a certificate authority with `--upstream-ca FILE`";
        warnings.push(format!("{origin} sets `strict-ssl=false`, {advice}"));
    }
    let cafile = setting(&layers, "cafile").map(|(path, origin)| (environment.path(path), origin.clone()));
    let default = default.unwrap_or_else(|| (npm_default_registry(), SettingOrigin::BuiltIn));
    let scoped = scoped.into_iter().map(|(scope, (url, origin))| (scope, url, origin)).collect();
    Ok(NpmConfig { default, scoped, cafile, extra_ca, warnings, layers })
}

impl NpmConfig {
    /// Returns the credentials that npm would send to `url`. It uses the nearest level upwards in the path with complete
    /// credentials: `_authToken`, `_auth`, or `username` with `_password`. Client certificates are not supported.
    ///
    /// # Errors
    /// Returns an error if they cannot be sent.
    pub fn credentials(&self, url: &Url) -> Result<Option<(Credentials, SettingOrigin)>, NpmrcError> {
        let mut level = level_of(&address(url));
        while !level.is_empty() {
            if let Some((credentials, origin)) = self.credentials_at(&level) {
                let failed = |source| NpmrcError::Credentials { registry: level.clone(), origin: origin.clone(), source };
                return Ok(Some((credentials.map_err(failed)?, origin.clone())));
            }
            // npm tries `host/a/`, `host/a`, `host/`, `host`: it removes a name or a slash at a time.
            let shorter = level.strip_suffix('/').map_or_else(|| level.rfind('/').map_or(0, |slash| slash + 1), str::len);
            level.truncate(shorter);
        }
        Ok(None)
    }

    /// Returns all credentials that npm would send, by URL. Skips those that cannot be sent: errors only where they are needed.
    pub fn credential_rules(&self) -> CredentialRules {
        let mut rules = CredentialRules::default();
        for level in self.layers.iter().flat_map(|layer| layer.auths.keys()) {
            if let Some((Ok(credentials), _)) = self.credentials_at(level) {
                rules.insert(level, credentials);
            }
        }
        rules
    }

    /// Returns the configuration of the default registry.
    ///
    /// # Errors
    /// Returns an error if its credentials cannot be sent.
    pub fn default_registry(&self) -> Result<RegistryConfig, NpmrcError> {
        self.registry(&self.default.0, &self.default.1)
    }

    /// Returns the routes of scopes with a registry.
    ///
    /// # Errors
    /// Returns an error if credentials of one cannot be sent.
    pub fn routes(&self) -> Result<Vec<Route>, NpmrcError> {
        self.scoped.iter().map(|(scope, url, origin)| Ok(Route::for_scope(scope, self.registry(url, origin)?))).collect()
    }

    /// Returns the outbound proxies that npm would use. Its own settings take precedence over the common variables.
    ///
    /// # Errors
    /// Returns an error if a setting is not an HTTP proxy.
    pub fn proxies(&self, environment: &NpmEnvironment) -> Result<ProxySettings, ProxySettingError> {
        let own = |key: &str| {
            let value = setting(&self.layers, key).map(|(value, _)| value);
            value.filter(|value| !matches!(*value, "" | "null" | "false")).map(str::to_owned)
        };
        ProxySettings::from_variables(|name| {
            let mine = match name {
                "HTTPS_PROXY" => own("https-proxy").or_else(|| own("proxy")),
                "HTTP_PROXY" => own("proxy"),
                "NO_PROXY" => own("noproxy").or_else(|| own("no-proxy")),
                _ => None,
            };
            mine.or_else(|| environment.vars.get(name).cloned())
        })
    }

    fn registry(&self, url: &Url, origin: &SettingOrigin) -> Result<RegistryConfig, NpmrcError> {
        let mut url = url.clone();
        if self.credentials(&url)?.is_some() {
            // npm's credentials take precedence over those in the URL.
            remove_credentials(&mut url);
        }
        Ok(RegistryConfig::new(url, origin.clone()))
    }

    fn credentials_at(&self, level: &str) -> Option<(Result<Credentials, CredentialsError>, &SettingOrigin)> {
        let field = |pick: fn(&deno_npmrc::RegistryConfig) -> &Option<String>| {
            let in_layer = |layer: &'_ NpmrcLayer| layer.auths.get(level).and_then(|auth| pick(auth).clone());
            // An unset variable leaves `${NAME}` in the value, which is not a credential.
            let usable = |value: &String| !value.is_empty() && !value.contains("${");
            self.layers.iter().find_map(|layer| in_layer(layer).filter(usable).map(|value| (value, &layer.origin)))
        };
        if let Some((token, origin)) = field(|auth| &auth.auth_token) {
            return Some((Credentials::bearer(&token), origin));
        }
        if let Some((auth, origin)) = field(|auth| &auth.auth) {
            return Some((Credentials::basic_encoded(&auth), origin));
        }
        let (username, _) = field(|auth| &auth.username)?;
        let (password, origin) = field(|auth| &auth.password)?;
        Some((Credentials::from_npm(&username, &password), origin))
    }
}

impl fmt::Debug for NpmConfig {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        let scoped: Vec<_> = self.scoped.iter().map(|(scope, url, origin)| (scope, address(url).to_string(), origin)).collect();
        let default = (address(&self.default.0).to_string(), &self.default.1);
        out.debug_tuple("NpmConfig").field(&default).field(&scoped).field(&self.warnings).finish_non_exhaustive()
    }
}

/// A source of npm settings. Each variable is a layer of its own, so that its name is known.
struct NpmrcLayer {
    origin: SettingOrigin,
    /// `registry` and `@scope:registry`.
    registries: BTreeMap<String, String>,
    /// Credentials by the text between `//` and the last colon of the key.
    auths: HashMap<String, Arc<deno_npmrc::RegistryConfig>>,
    /// The plain settings that `deno_npmrc` does not parse.
    settings: BTreeMap<String, String>,
}

/// Returns a plain setting from the first layer that has it.
fn setting<'a>(layers: &'a [NpmrcLayer], key: &str) -> Option<(&'a str, &'a SettingOrigin)> {
    layers.iter().find_map(|layer| layer.settings.get(key).map(|value| (value.as_str(), &layer.origin)))
}

/// Reads all layers, highest precedence first.
fn layers(environment: &NpmEnvironment, warnings: &mut Vec<String>) -> Result<Vec<NpmrcLayer>, NpmrcError> {
    let mut layers = of_variables(environment);
    let path_in = |layers: &[NpmrcLayer], key| setting(layers, key).map(|(path, _)| environment.path(path));
    let user = path_in(&layers, "userconfig").or_else(|| environment.home.as_ref().map(|home| home.join(".npmrc")));
    let project = Some(environment.project_file()).filter(|project| user.as_ref() != Some(project));
    for file in project.into_iter().chain(user) {
        layers.extend(of_file(&file, environment, warnings)?);
    }
    // The user's file may set these two.
    let prefix = || path_in(&layers, "prefix").or_else(|| environment.prefix());
    let global = path_in(&layers, "globalconfig").or_else(|| prefix().map(|prefix| prefix.join("etc/npmrc")));
    for file in global.into_iter().chain(environment.builtin_file()) {
        layers.extend(of_file(&file, environment, warnings)?);
    }
    Ok(layers)
}

fn of_variables(environment: &NpmEnvironment) -> Vec<NpmrcLayer> {
    let settings = environment.npm_settings();
    settings.map(|(variable, key, value)| of_variable(variable, key, environment.expand(value))).collect()
}

/// Reads the layer of a file; `None` if it is missing or cannot be read, which npm ignores too.
fn of_file(path: &Path, environment: &NpmEnvironment, warnings: &mut Vec<String>) -> Result<Option<NpmrcLayer>, NpmrcError> {
    let bytes = match files::read_pipe_bounded(path, MAX_FILE_BYTES) {
        Ok(bytes) => bytes,
        Err(error) if matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory) => return Ok(None),
        Err(error) => {
            warnings.push(format!("cannot read `{}`, file skipped: {}", path.display(), error.kind()));
            return Ok(None);
        }
    };
    parse(&String::from_utf8_lossy(&bytes), path, environment).map(Some)
}

fn parse(text: &str, path: &Path, environment: &NpmEnvironment) -> Result<NpmrcLayer, NpmrcError> {
    let text = text.trim_start_matches('\u{feff}');
    let parsed = deno_npmrc::NpmRc::parse(&EnvLookup(environment), text);
    // The parser's error quotes the surrounding text, which may be a token.
    let parsed = parsed.map_err(|_| NpmrcError::Syntax { path: path.to_owned() })?;
    let mut registries: BTreeMap<String, String> =
        parsed.scope_registries.into_iter().map(|(scope, url)| (format!("@{scope}:registry"), url)).collect();
    registries.extend(parsed.registry.map(|url| ("registry".to_owned(), url)));
    let settings = plain_settings(text, environment);
    Ok(NpmrcLayer { origin: SettingOrigin::File(path.to_owned()), registries, auths: parsed.registry_configs, settings })
}

/// Returns the layer of one variable. Its value is not ini text, so a `#` does not start a comment.
fn of_variable(variable: &str, key: String, value: String) -> NpmrcLayer {
    let origin = SettingOrigin::Variable(variable.to_owned());
    let mut layer = NpmrcLayer { origin, registries: BTreeMap::new(), auths: HashMap::new(), settings: BTreeMap::new() };
    if let Some((level, field)) = key.strip_prefix("//").and_then(|rest| rest.rsplit_once(':')) {
        let mut auth = deno_npmrc::RegistryConfig::default();
        match field {
            "_authToken" => auth.auth_token = Some(value),
            "_auth" => auth.auth = Some(value),
            "username" => auth.username = Some(value),
            "_password" => auth.password = Some(value),
            _ => {}
        }
        layer.auths.insert(level.to_owned(), Arc::new(auth));
    } else if key == "registry" || (key.starts_with('@') && key.ends_with(":registry")) {
        layer.registries.insert(key, value);
    } else {
        layer.settings.insert(key, value);
    }
    layer
}

/// Parses the `key=value` lines before the first section. npm reads only these.
fn plain_settings(text: &str, environment: &NpmEnvironment) -> BTreeMap<String, String> {
    let lines = text.lines().map(str::trim).take_while(|line| !line.starts_with('['));
    let pairs = lines.filter(|line| !line.starts_with([';', '#'])).filter_map(|line| line.split_once('='));
    // Keys with a colon belong to one registry and are not plain settings.
    let plain = pairs.filter(|(key, _)| !key.contains(':'));
    plain.map(|(key, value)| (key.trim().to_owned(), environment.expand(&bare_value(value.trim())))).collect()
}

/// Removes the quotes of a value, or the comment after it.
fn bare_value(value: &str) -> String {
    let quoted = |quote: char| value.strip_prefix(quote)?.strip_suffix(quote);
    let bare = quoted('"').or_else(|| quoted('\'')).unwrap_or_else(|| value.split([';', '#']).next().unwrap_or_default().trim());
    bare.to_owned()
}

fn parse_registry(key: &str, text: &str, origin: &SettingOrigin) -> Result<Url, NpmrcError> {
    let url = Url::parse(text.trim()).ok().filter(|url| matches!(url.scheme(), "http" | "https"));
    let mut url = url.ok_or_else(|| NpmrcError::Address { key: key.to_owned(), origin: origin.clone() })?;
    add_final_slash(&mut url);
    Ok(url)
}

/// Reads `NODE_EXTRA_CA_CERTS`. A missing file is a warning, as in Node.
fn extra_ca(environment: &NpmEnvironment, warnings: &mut Vec<String>) -> Option<(PathBuf, SettingOrigin)> {
    const NAME: &str = "NODE_EXTRA_CA_CERTS";
    let path = environment.path(environment.vars.get(NAME).filter(|path| !path.is_empty())?);
    if !path.is_file() {
        warnings.push(format!("`{NAME}` points to a missing file: `{}`", path.display()));
        return None;
    }
    Some((path, SettingOrigin::Variable(NAME.to_owned())))
}

/// Provides the variables to `deno_npmrc`.
struct EnvLookup<'a>(&'a NpmEnvironment);

impl sys_traits::BaseEnvVar for EnvLookup<'_> {
    fn base_env_var_os(&self, key: &OsStr) -> Option<OsString> {
        self.0.lookup(key.to_str()?).map(OsString::from)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A test environment with a home, a project and a global prefix.
    struct Machine {
        folder: tempfile::TempDir,
        environment: NpmEnvironment,
    }

    impl Machine {
        fn new(vars: &[(&str, &str)]) -> Self {
            let folder = tempfile::tempdir().unwrap();
            for name in ["home", "project/deep/er", "prefix/etc"] {
                std::fs::create_dir_all(folder.path().join(name)).unwrap();
            }
            std::fs::write(folder.path().join("project/package.json"), "{}").unwrap();
            let mut vars: BTreeMap<String, String> =
                vars.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
            vars.entry("PREFIX".to_owned()).or_insert_with(|| folder.path().join("prefix").display().to_string());
            let environment =
                NpmEnvironment { vars, home: Some(folder.path().join("home")), cwd: folder.path().join("project/deep/er") };
            Self { folder, environment }
        }

        fn write(self, name: &str, text: &str) -> Self {
            std::fs::write(self.folder.path().join(name), text).unwrap();
            self
        }

        fn discover(&self) -> NpmConfig {
            discover(&self.environment, &|url| url.port() == Some(4873)).unwrap()
        }

        fn file(&self, name: &str) -> SettingOrigin {
            SettingOrigin::File(self.folder.path().join(name))
        }
    }

    fn sent(found: &NpmConfig, url: &str) -> Option<String> {
        let (credentials, _) = found.credentials(&Url::parse(url).unwrap()).unwrap()?;
        Some(credentials.0.to_str().unwrap().to_owned())
    }

    #[test]
    fn yarn_registry_host_is_found_and_differs_from_npm() {
        let (alias, default) = (yarn_registry_host().unwrap(), npm_default_registry());
        assert_ne!(Some(alias), default.host_str());
        assert_eq!(Digest::of(Algorithm::Sha256, alias.as_bytes()).as_bytes(), YARNS_ALIAS);
    }

    #[test]
    fn built_in_default_applies_without_configuration() {
        let found = Machine::new(&[]).discover();
        assert_eq!(found.default.1, SettingOrigin::BuiltIn);
        assert_eq!(found.default.0.as_str().trim_end_matches('/'), deno_npmrc::NPM_DEFAULT_REGISTRY);
        assert!(found.scoped.is_empty() && found.cafile.is_none() && found.warnings.is_empty(), "{found:?}");
    }

    #[test]
    fn nearest_source_wins_per_key() {
        let machine = Machine::new(&[])
            .write("project/.npmrc", "\u{feff}registry=https://project.example/npm\r\n; a comment\r\n")
            .write(
                "home/.npmrc",
                "registry=https://user.example/\n@acme:registry = https://acme.example/\ncafile = ~/ca.pem ; ours\n",
            )
            .write("prefix/etc/npmrc", "registry=https://global.example/\n@other:registry=https://other.example\n");
        let found = machine.discover();
        assert_eq!(
            (found.default.0.as_str(), &found.default.1),
            ("https://project.example/npm/", &machine.file("project/.npmrc"))
        );
        let scoped: Vec<_> =
            found.scoped.iter().map(|(scope, url, origin)| (scope.as_str(), url.as_str(), origin.clone())).collect();
        assert_eq!(
            scoped,
            [
                ("@acme", "https://acme.example/", machine.file("home/.npmrc")),
                ("@other", "https://other.example/", machine.file("prefix/etc/npmrc")),
            ]
        );
        assert_eq!(found.cafile, Some((machine.folder.path().join("home/ca.pem"), machine.file("home/.npmrc"))));
    }

    #[test]
    fn variable_in_either_case_takes_precedence_over_files() {
        for name in ["NPM_CONFIG_REGISTRY", "npm_config_registry"] {
            let machine =
                Machine::new(&[(name, "https://variable.example"), ("npm_config_@acme:registry", "https://acme.example/")]);
            let found = machine.write("project/.npmrc", "registry=https://project.example/\n").discover();
            assert_eq!(
                (found.default.0.as_str(), found.default.1),
                ("https://variable.example/", SettingOrigin::Variable(name.to_owned()))
            );
            assert_eq!(found.scoped[0].0, "@acme");
        }
    }

    #[test]
    fn entry_for_coldframe_itself_is_skipped() {
        let machine = Machine::new(&[("npm_config_registry", "http://127.0.0.1:4873/")])
            .write("project/.npmrc", "registry=http://localhost:4873\n@acme:registry=http://localhost:4873/\n")
            .write("home/.npmrc", "registry=https://user.example/\n");
        let found = machine.discover();
        assert_eq!(found.default.0.as_str(), "https://user.example/");
        assert!(found.scoped.is_empty());
        assert_eq!(found.warnings.len(), 3, "{found:?}");
    }

    #[test]
    fn variables_set_the_paths_of_files() {
        let machine = Machine::new(&[])
            .write("mine.npmrc", "registry=https://mine.example/\n")
            .write("all.npmrc", "@a:registry=https://all.example/\n");
        let mut environment = machine.environment.clone();
        for (name, file) in [("NPM_CONFIG_USERCONFIG", "mine.npmrc"), ("npm_config_globalconfig", "all.npmrc")] {
            environment.vars.insert(name.to_owned(), machine.folder.path().join(file).display().to_string());
        }
        let found = discover(&environment, &|_| false).unwrap();
        assert_eq!((found.default.0.as_str(), found.scoped[0].1.as_str()), ("https://mine.example/", "https://all.example/"));
    }

    #[test]
    fn prefix_follows_the_node_link_and_builtin_file_is_last() {
        let machine = Machine::new(&[("PREFIX", "")]);
        let root = machine.folder.path().canonicalize().unwrap();
        for folder in ["node/bin", "node/etc", "node/npm/bin", "links"] {
            std::fs::create_dir_all(root.join(folder)).unwrap();
        }
        for file in ["node/bin/node", "node/npm/bin/npm-cli.js"] {
            std::fs::write(root.join(file), "").unwrap();
        }
        std::os::unix::fs::symlink(root.join("node/bin/node"), root.join("links/node")).unwrap();
        std::os::unix::fs::symlink(root.join("node/npm/bin/npm-cli.js"), root.join("links/npm")).unwrap();
        std::fs::write(root.join("node/etc/npmrc"), "@a:registry=https://global.example/\n").unwrap();
        std::fs::write(
            root.join("node/npm/npmrc"),
            "@a:registry=https://packager.example/\nregistry=https://packager.example/\n",
        )
        .unwrap();
        let mut environment = machine.environment.clone();
        environment.vars.insert("PATH".to_owned(), root.join("links").display().to_string());
        let found = discover(&environment, &|_| false).unwrap();
        assert_eq!(
            (found.default.0.as_str(), found.scoped[0].1.as_str()),
            ("https://packager.example/", "https://global.example/")
        );
    }

    #[test]
    fn credentials_come_from_the_nearest_complete_level() {
        let machine = Machine::new(&[("TOKEN", "t0k")]).write(
            "home/.npmrc",
            "//npm.example/:_authToken=${TOKEN}\n//npm.example/deep/:username=only-a-name\n//npm.example/basic/:_auth=dTpw\n\
             //npm.example:8443/:username=u\n//npm.example:8443/:_password=\"cA==\"\n//npm.example/bare:_authToken=b\n//unset.example/:_authToken=${NOPE}\n",
        );
        let found = machine.discover();
        assert_eq!(sent(&found, "https://npm.example/deep/er/").as_deref(), Some("Bearer t0k"));
        assert_eq!(sent(&found, "https://npm.example/basic").as_deref(), Some("Basic dTpw"));
        assert_eq!(sent(&found, "https://npm.example/bare/").as_deref(), Some("Bearer b"));
        assert_eq!(sent(&found, "https://npm.example:8443/x/").as_deref(), Some("Basic dTpw"));
        assert_eq!(sent(&found, "https://npm.example:9000/"), None);
        assert_eq!(sent(&found, "https://other.example/"), None);
        assert_eq!(sent(&found, "https://unset.example/"), None);
    }

    #[test]
    fn username_and_password_may_come_from_different_sources() {
        let machine =
            Machine::new(&[("npm_config_//npm.example/:_password", "cA==")]).write("home/.npmrc", "//npm.example/:username=u\n");
        assert_eq!(sent(&machine.discover(), "https://npm.example/").as_deref(), Some("Basic dTpw"));
    }

    #[test]
    fn secrets_are_not_shown() {
        let machine = Machine::new(&[])
            .write("home/.npmrc", "registry=https://user:hunter2@npm.example/\n//npm.example/:_authToken=s3cret\n");
        let found = machine.discover();
        let shown = format!("{found:?} {:?}", found.default_registry().unwrap());
        assert!(!shown.contains("hunter2") && !shown.contains("s3cret"), "{shown}");
        assert!(shown.contains("https://npm.example/"), "{shown}");
    }

    #[test]
    fn invalid_registry_is_an_error_and_not_the_default() {
        for text in ["registry=npm.example\n", "registry=${NOPE}\n", "@acme:registry=ftp://npm.example/\n"] {
            let machine = Machine::new(&[]).write("home/.npmrc", text);
            let error = discover(&machine.environment, &|_| false).unwrap_err();
            assert!(error.to_string().ends_with(" is not an `http` or `https` URL"), "{error}");
        }
    }

    #[test]
    fn disabling_strict_ssl_is_ignored_with_a_warning() {
        let found = Machine::new(&[("npm_config_strict_ssl", "false")]).discover();
        assert!(
            found.warnings[0].starts_with("`npm_config_strict_ssl` sets `strict-ssl=false`, which is ignored"),
            "{:?}",
            found.warnings
        );
    }

    #[test]
    fn npm_proxy_settings_take_precedence_over_variables() {
        let machine = Machine::new(&[("HTTPS_PROXY", "http://shared.example:1"), ("NO_PROXY", "npm.example")]);
        let shared = format!("{:?}", machine.discover().proxies(&machine.environment).unwrap());
        assert!(shared.contains("shared.example") && shared.contains("npm.example"), "{shared}");
        let machine = machine.write("home/.npmrc", "https-proxy=http://npms.example:2\nproxy=null\nnoproxy=direct.example\n");
        let own = format!("{:?}", machine.discover().proxies(&machine.environment).unwrap());
        assert!(own.contains("npms.example") && own.contains("direct.example") && !own.contains("shared.example"), "{own}");
    }

    #[test]
    fn missing_node_extra_ca_certs_is_a_warning() {
        let machine = Machine::new(&[("NODE_EXTRA_CA_CERTS", "/nowhere/ca.pem")]);
        let found = machine.discover();
        assert!(found.extra_ca.is_none() && found.warnings[0].contains("NODE_EXTRA_CA_CERTS"), "{found:?}");
    }
}
