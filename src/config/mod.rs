//! Merges file, environment and flags into one [`Config`].
//!
//! [`RawConfig`] holds values as text with their origins. [`Config`] holds parsed values, which are not validated again.
//! Precedence is flag, environment, file, default. All errors are reported together.

pub mod effective;
mod feeds;
mod parse;
pub mod platform_dirs;
pub mod policy;
pub mod raw;
mod server;
pub mod settings;
pub mod show;
pub mod suggest;
mod upstream;
mod value_kind;

pub use value_kind::ValueKind;

use std::ffi::OsString;
use std::fmt;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

pub use crate::diagnostics::{Diagnostic, Diagnostics, Origin};
pub use effective::{Effective, Settings};
pub use feeds::FeedSettings;
pub use raw::{EnvPairs, FlagValues, RawConfig};
pub use server::GatewaySettings;
pub use settings::SettingKey;

use crate::config::parse::SettingsReader;
use crate::config::policy::ListenerPolicies;
use crate::config::upstream::{OwnAddresses, UpstreamSettings};

use crate::policy::Policy;
use crate::{firewall, store, telemetry, tls};

/// The sources of a configuration.
#[derive(Debug)]
pub struct ConfigSources<'a> {
    /// The path that `--config` names.
    pub file: Option<&'a Path>,
    /// The environment of the process, with settings and with what npm and the platform read there.
    pub surroundings: &'a ProcessEnvironment,
    pub flags: FlagValues,
}

/// The environment of a process.
#[derive(Clone, Default)]
pub struct ProcessEnvironment {
    /// The environment variables.
    pub variables: Vec<(OsString, OsString)>,
    pub home: Option<PathBuf>,
    pub working_directory: PathBuf,
}

impl ProcessEnvironment {
    fn variable(&self, name: &str) -> Option<OsString> {
        self.variables.iter().find(|(known, _)| known == name).map(|(_, value)| value.clone())
    }

    /// Returns the environment for reading npm's configuration. Variables that are not UTF-8 are left out.
    #[must_use]
    pub fn npm_environment(&self) -> crate::upstream::NpmEnvironment {
        let text = |(name, value): &(OsString, OsString)| Some((name.to_str()?.to_owned(), value.to_str()?.to_owned()));
        crate::upstream::NpmEnvironment {
            vars: self.variables.iter().filter_map(text).collect(),
            home: self.home.clone(),
            cwd: self.working_directory.clone(),
        }
    }
}

impl fmt::Debug for ProcessEnvironment {
    /// Prints only the number of variables, because they contain secrets.
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut shown = out.debug_struct("Surroundings");
        shown.field("variables", &self.variables.len()).field("home", &self.home).finish_non_exhaustive()
    }
}

/// Where values come from that are not set.
enum DefaultsFrom<'a> {
    /// This machine: npm's configuration names an upstream and the platform a data directory.
    Here(&'a ProcessEnvironment),
    /// Nowhere: values that are not set are errors.
    Apart,
    /// A machine that is not known yet: values that are not set are no errors.
    Unknown,
}

/// The validated configuration.
#[derive(Debug)]
pub struct Config {
    /// The addresses to listen on. Never empty; startup fails if the first one cannot be bound.
    pub listen: Vec<SocketAddr>,
    /// The data directory and its size limit.
    pub store: store::Config,
    /// The upstream registries, each with its origin.
    pub upstream: crate::upstream::Config,
    /// The CAs to trust for upstream.
    pub tls: tls::Config,
    /// The policy of listeners without one of their own, which is profile 0.
    pub policy: Policy,
    /// The policies of other listeners: profile 1, 2, …
    pub further_policies: Vec<Policy>,
    /// The profile of each address in `listen`.
    pub listener_policies: Vec<usize>,
    /// The sources of the policies, for reloads.
    pub policies: crate::config::policy::PolicyFiles,
    /// Limits and intervals of the firewall.
    pub firewall: firewall::Config,
    /// The HTTP server.
    pub proxy: crate::server::Config,
    /// The gateway, for clients that do not name Coldframe as their registry.
    pub gateway: GatewaySettings,
    /// How long the ledger keeps its rows.
    pub ledger_retention: Duration,
    /// The interval of the summary log line; zero disables it.
    pub summary_interval: Duration,
    /// The feeds and how the server depends on them.
    pub feeds: FeedSettings,
    /// The format and level of logs.
    pub telemetry: telemetry::Config,
    /// Warnings to log at startup.
    pub warnings: Vec<String>,
    /// The settings as text, for comparison with another process.
    pub settings: Settings,
}

impl Config {
    /// Creates a configuration from names and values, without the environment or npm's configuration. For programs that embed
    /// Coldframe and for tests.
    ///
    /// # Errors
    /// Returns all errors. `data-dir` and `upstream` are required.
    pub fn from_pairs(pairs: &[(&str, &str)]) -> Result<Self, Diagnostics> {
        Self::from_raw(&RawConfig::of(pairs)?)
    }

    /// Creates a configuration from raw settings, without the environment or npm's configuration.
    ///
    /// # Errors
    /// Returns all errors. `data-dir` and `upstream` are required.
    pub fn from_raw(written: &RawConfig) -> Result<Self, Diagnostics> {
        let mut errors = Vec::new();
        let config = Self::read(written, &DefaultsFrom::Apart, &mut errors);
        Diagnostics::or(errors, config)
    }

    /// Loads the configuration from flags, environment and file. npm's configuration fills in what they leave open.
    ///
    /// # Errors
    /// Returns all errors in all sources.
    pub fn load(sources: ConfigSources<'_>) -> Result<Self, Diagnostics> {
        Self::gather_with(sources, &[])
    }

    /// Loads the configuration with `defaults` for settings that are not set.
    ///
    /// # Errors
    /// Returns all errors in all sources.
    pub fn gather_with(sources: ConfigSources<'_>, defaults: &[(SettingKey, &str)]) -> Result<Self, Diagnostics> {
        let mut errors = Vec::new();
        let mut written = RawConfig::merge(sources.file, &sources.surroundings.variables, sources.flags, &mut errors);
        for (key, text) in defaults {
            written.default_to(*key, text);
        }
        let config = Self::read(&written, &DefaultsFrom::Here(sources.surroundings), &mut errors);
        Diagnostics::or(errors, config)
    }

    /// Loads the configuration with the settings `of_server` of a running server. With `own_first`, settings that are set here
    /// take precedence. Credentials, CAs and proxies are those of this process.
    ///
    /// # Errors
    /// Returns all errors in all sources.
    pub fn gather_like(sources: ConfigSources<'_>, of_server: &Effective, own_first: bool) -> Result<Self, Diagnostics> {
        let mut errors = Vec::new();
        let mut written = RawConfig::merge(sources.file, &sources.surroundings.variables, sources.flags, &mut errors);
        written.take_over(of_server, own_first);
        let config = Self::read(&written, &DefaultsFrom::Here(sources.surroundings), &mut errors);
        Diagnostics::or(errors, config)
    }

    /// Parses raw settings. Returns `None` after it has added an error to `errors`.
    fn read(written: &RawConfig, machine: &DefaultsFrom<'_>, errors: &mut Vec<Diagnostic>) -> Option<Self> {
        let mut reader = SettingsReader::of(written, errors);
        let (listen, named): (Vec<_>, Vec<_>) =
            reader.several(SettingKey::Listen, crate::config::parse::listener).into_iter().unzip();
        if written.values(SettingKey::Listen).is_empty() {
            reader.reject(SettingKey::Listen, "no address to listen on", SettingKey::Listen.setting().kind.allowed());
        }
        let min_release_age = reader.one(SettingKey::MinReleaseAge, crate::config::parse::duration);
        let fix_lane = reader.one(SettingKey::FixLane, crate::config::parse::duration);
        let exclude = reader.several(SettingKey::Exclude, crate::config::parse::package_glob);
        let data_dir = reader.data_dir(machine);
        let public_url = reader.one(SettingKey::PublicUrl, crate::config::parse::public_url);
        let packument_ttl = reader.one(SettingKey::PackumentTtl, crate::config::parse::duration);
        let max_stale = reader.one(SettingKey::MaxStale, crate::config::parse::duration);
        let patience = reader.one(SettingKey::Patience, crate::config::parse::duration);
        let cache_size = reader.one(SettingKey::CacheSize, crate::config::parse::size_from(1_000_000));
        let memory = reader.one(SettingKey::Memory, crate::config::parse::size_from(1_000_000));
        let packument_memory = reader.one(SettingKey::PackumentMemory, crate::config::parse::size_from(1_000_000));
        let prefetch = reader.one(SettingKey::Prefetch, crate::config::parse::number_to(firewall::FETCHES));
        let absent_names = reader.one(SettingKey::AbsentNames, crate::config::parse::number_to(firewall::MAX_ABSENT_NAMES));
        let packument_limit = reader.one(SettingKey::PackumentLimit, crate::config::parse::size_from(1_000));
        let tarball_limit = reader.one(SettingKey::TarballLimit, crate::config::parse::size_from(1_000));
        let proxy = crate::config::server::read(&mut reader, public_url.clone());
        let log_format = reader.one(SettingKey::LogFormat, crate::config::parse::one_of(crate::config::settings::LOG_FORMATS));
        let log_level = reader.one(SettingKey::LogLevel, crate::config::parse::one_of(crate::config::settings::LOG_LEVELS));
        let ledger_retention = reader.one(SettingKey::LedgerRetention, crate::config::parse::nonzero_duration);
        let summary_interval = reader.one(SettingKey::SummaryInterval, crate::config::parse::duration);
        let feeds = crate::config::feeds::read(&mut reader);
        let profiles = crate::config::policy::choose(&mut reader, named, (min_release_age, fix_lane), exclude);
        let ourselves = OwnAddresses { listen: &listen, public_url: public_url.as_ref() };
        let behind = crate::config::upstream::resolve(&mut reader, machine, &ourselves, (packument_limit, tarball_limit));
        let gateway = crate::config::server::gateway(&mut reader, behind.as_ref().map(|behind| &behind.upstream));
        let UpstreamSettings { upstream, tls, mut warnings } = behind?;
        let upstream_prefixes = crate::config::upstream::prefixes(&upstream);
        let ListenerPolicies { chosen, read, by_listener } = profiles?;
        warnings.extend(read.warnings);
        let mut policies = read.policies.into_iter();
        let data_dir = data_dir?;
        let folder = match machine {
            DefaultsFrom::Here(surroundings) => surroundings.working_directory.as_path(),
            DefaultsFrom::Apart | DefaultsFrom::Unknown => Path::new(""),
        };
        let settings = Settings::of(written, folder, &upstream.default.address(), &data_dir);
        Some(Self {
            listen,
            store: store::Config { data_dir, cache_size: cache_size? },
            upstream,
            tls,
            policy: policies.next()?,
            further_policies: policies.collect(),
            listener_policies: by_listener,
            policies: chosen,
            firewall: firewall::Config {
                packument_ttl: packument_ttl?,
                max_stale: max_stale?,
                patience: patience?,
                memory: memory?,
                packument_memory: packument_memory?,
                prefetch: prefetch?,
                absent_names: absent_names?,
                packument_limit: packument_limit?,
                tarball_limit: tarball_limit?,
            },
            proxy: crate::server::Config { upstream_prefixes, ..proxy? },
            gateway: gateway?,
            ledger_retention: ledger_retention?,
            summary_interval: summary_interval?,
            feeds: feeds?,
            telemetry: telemetry_config(log_format?, log_level?),
            warnings,
            settings,
        })
    }
}

/// Checks a file alone and returns how many settings it has.
///
/// # Errors
/// Returns all errors in it.
pub fn check(path: &Path) -> Result<usize, Diagnostics> {
    let mut errors = Vec::new();
    let written = RawConfig::from_file(path, &mut errors);
    Config::read(&written, &DefaultsFrom::Unknown, &mut errors);
    Diagnostics::or(errors, Some(written.count()))
}

/// Renders the active settings with their origins as TOML.
///
/// # Errors
/// Returns all errors in all sources.
pub fn show_effective(sources: ConfigSources<'_>) -> Result<String, Diagnostics> {
    let mut errors = Vec::new();
    let written = RawConfig::merge(sources.file, &sources.surroundings.variables, sources.flags, &mut errors);
    let config = Config::read(&written, &DefaultsFrom::Here(sources.surroundings), &mut errors);
    let config = Diagnostics::or(errors, config)?;
    Ok(crate::config::show::show(&written, &config))
}

/// Returns the data directory, for commands that only read it.
///
/// # Errors
/// Returns all errors except those in npm's configuration.
pub fn data_dir(sources: ConfigSources<'_>) -> Result<PathBuf, Diagnostics> {
    let mut errors = Vec::new();
    let written = RawConfig::merge(sources.file, &sources.surroundings.variables, sources.flags, &mut errors);
    let read = SettingsReader::of(&written, &mut errors).data_dir(&DefaultsFrom::Here(sources.surroundings));
    Diagnostics::or(errors, read)
}

/// Returns the file of gateway users, if one is configured.
///
/// # Errors
/// Returns all errors except those in npm's configuration.
pub fn gateway_users(sources: ConfigSources<'_>) -> Result<Option<PathBuf>, Diagnostics> {
    let mut errors = Vec::new();
    let written = RawConfig::merge(sources.file, &sources.surroundings.variables, sources.flags, &mut errors);
    let named = SettingsReader::of(&written, &mut errors).one(SettingKey::GatewayUsers, crate::config::parse::path);
    Diagnostics::or(errors, Some(named))
}

/// Returns the log configuration. `debug` and `trace` apply only to Coldframe's own lines, because those of its dependencies
/// would hide them.
fn telemetry_config(format: &str, level: &str) -> telemetry::Config {
    let format = if format == "json" { telemetry::LogFormat::Json } else { telemetry::LogFormat::Human };
    let filter = if matches!(level, "debug" | "trace") { format!("info,coldframe={level}") } else { level.to_owned() };
    telemetry::Config { format, filter }
}

#[cfg(test)]
mod tests {
    use expect_test::expect;

    use super::*;
    use crate::npm::PackageName;

    /// Returns the errors that `toml`, the environment and the flags have together, without the directory of the file.
    fn errors(toml: &str, variables: &[(&str, &str)], flags: &[(SettingKey, &str)]) -> String {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("coldframe.toml");
        std::fs::write(&path, toml).unwrap();
        let mut noted = FlagValues::default();
        for (key, text) in flags {
            noted.note(*key, (*text).to_owned());
        }
        let surroundings = ProcessEnvironment {
            variables: variables.iter().chain(&[("HOME", "/home/me")]).map(|(name, value)| (name.into(), value.into())).collect(),
            home: Some(directory.path().to_owned()),
            working_directory: directory.path().to_owned(),
        };
        let sources = ConfigSources { file: Some(&path), surroundings: &surroundings, flags: noted };
        let text = Config::load(sources).unwrap_err().to_string();
        text.replace(&format!("{}/", directory.path().display()), "")
    }

    #[test]
    fn all_errors_are_reported_together_with_origin_and_allowed_values() {
        let toml = "\
# Coldframe
min-release-age = 72
upsteam = \"https://token@registry.example/\"
listen = [\"127.0.0.1:4873\", \"npm.example\"]
allow-writes = \"yes\"
cache-size = \"10\"
upstream = \"https://me:secret@registry.example/?x\"
trusted-proxy = \"10.0.0.0/40\"

[proxy]
memory = \"1GB\"
";
        let variables = [("COLDFRAME_LOG_LEVEL", "loud"), ("COLDFRAME_LISTENS", "x")];
        let flags = [(SettingKey::MaxConnections, "0"), (SettingKey::PackumentTtl, "5")];
        expect![[r#"
            12 errors in the configuration

            coldframe.toml:2:19: `min-release-age` lacks a unit: `72`
             2 | min-release-age = 72
               |                   ^^
               = allowed: numbers with a unit of s, m, h, d or w, such as `45s`, `90m`, `72h`, `7d`, `1d12h`; `0s` is zero

            coldframe.toml:3:1: unknown key: `upsteam`
             3 | upsteam =
               | ^^^^^^^
               = allowed: `upstream`, if that was meant

            coldframe.toml:4:29: `listen` is not an address: `npm.example`
             4 | listen = ["127.0.0.1:4873", "npm.example"]
               |                             ^^^^^^^^^^^^^
               = allowed: an IP address and a port, such as `127.0.0.1:4873` or `[::1]:4873`; port 0 picks a free one; a policy may follow, as in `127.0.0.1:4874=strict`

            coldframe.toml:5:16: `allow-writes` cannot be of this type: string
             5 | allow-writes = "yes"
               |                ^^^^^
               = allowed: `true` or `false`, without quotes

            coldframe.toml:6:14: `cache-size` lacks a unit: `10`
             6 | cache-size = "10"
               |              ^^^^
               = allowed: a number with a unit of B, KB, MB, GB, TB, KiB, MiB, GiB or TiB, such as `512MB` or `10GiB`

            coldframe.toml:7:12: `upstream` has a query or a fragment: `https://*********@registry.example/?x`
             7 | upstream = "https://*********@registry.example/?x"
               |            ^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^
               = allowed: an `http` or `https` URL without query, such as `https://registry.example/npm/`

            coldframe.toml:8:17: `trusted-proxy` is not a network: `10.0.0.0/40`
             8 | trusted-proxy = "10.0.0.0/40"
               |                 ^^^^^^^^^^^^^
               = allowed: an IP address or a network, such as `10.0.0.7` or `10.0.0.0/8`

            coldframe.toml:10:2: unknown table: `proxy`
             10 | [proxy]
                |  ^^^^^
               = allowed: settings at the top level, as in `min-release-age = "72h"`, and tables `[[feed]]`

            COLDFRAME_LISTENS: unknown variable: `COLDFRAME_LISTENS`
               = allowed: `COLDFRAME_LISTEN`, if that was meant

            COLDFRAME_LOG_LEVEL: `log-level` has an unknown value: `loud`
               = allowed: `error`, `warn`, `info`, `debug`, `trace`

            --packument-ttl: `packument-ttl` lacks a unit: `5`
               = allowed: numbers with a unit of s, m, h, d or w, such as `45s`, `90m`, `72h`, `7d`, `1d12h`; `0s` is zero

            --max-connections: `max-connections` cannot be zero: `0`
               = allowed: a whole number of at least 1"#]]
        .assert_eq(&errors(toml, &variables, &flags));
    }

    #[test]
    fn toml_syntax_errors_are_located() {
        expect![[r#"
            3 errors in the configuration

            coldframe.toml:1:14: not TOML: invalid basic string, expected `"`
             1 | memory = "1GB
               |              ^

            coldframe.toml:3:10: not TOML: string values must be quoted, expected literal string
             3 | listen =
               |          ^

            coldframe.toml:4:14: not TOML: string values must be quoted, expected literal string
             4 | _authToken =
               |              ^^^^^^"#]]
        .assert_eq(&errors("memory = \"1GB\nport = 1\nlisten = \n_authToken = secret\nmax-stale = 5", &[], &[]));
    }

    #[test]
    fn config_is_built_from_names_and_values() {
        let config = Config::from_pairs(&[
            ("listen", "127.0.0.1:0"),
            ("listen", "[::1]:0"),
            ("upstream", "http://127.0.0.1:1"),
            ("data-dir", "/data"),
            ("min-release-age", "1d12h"),
            ("cache-size", "2GB"),
        ])
        .unwrap();
        let age = config.policy.minimum_release_age(&PackageName::parse("axios").unwrap());
        assert_eq!((config.listen.len(), age.as_secs(), config.store.cache_size), (2, 129_600, 2_000_000_000));
        assert_eq!(config.firewall.packument_ttl, Duration::from_secs(300));
    }

    #[test]
    fn embedded_config_requires_data_dir_and_upstream() {
        expect![[r#"
            2 errors in the configuration

            no data directory is known
               = allowed: `data-dir` with a path

            no upstream is configured
               = allowed: an `http` or `https` URL without query, such as `https://registry.example/npm/`"#]]
        .assert_eq(&Config::from_pairs(&[]).unwrap_err().to_string());
    }

    /// Renders the settings of `.npmrc` and `flags`.
    fn shown(npmrc: &str, flags: &[(SettingKey, &str)]) -> Result<String, Diagnostics> {
        let directory = tempfile::tempdir().unwrap();
        std::fs::write(directory.path().join(".npmrc"), npmrc).unwrap();
        let home = Some(directory.path().to_owned());
        let surroundings = ProcessEnvironment { variables: Vec::new(), home, working_directory: directory.path().to_owned() };
        let mut noted = FlagValues::default();
        for (key, text) in [(SettingKey::DataDir, "/data")].iter().chain(flags) {
            noted.note(*key, (*text).to_owned());
        }
        let shown = show_effective(ConfigSources { file: None, surroundings: &surroundings, flags: noted })?;
        Ok(shown.replace(&format!("{}/", directory.path().display()), ""))
    }

    #[test]
    fn unset_values_come_from_npm_and_are_shown_with_their_origin() {
        let npmrc = "registry=https://registry.example/npm\n@acme:registry=https://me:secret@acme.example/\n";
        let shown = shown(
            npmrc,
            &[(SettingKey::MaxConnections, "7"), (SettingKey::Exclude, "@acme/*"), (SettingKey::Exclude, "left-pad")],
        )
        .unwrap();
        expect![[r#"
            listen = ["127.0.0.1:4873"]                 # default
            upstream = "https://registry.example/npm/"  # `.npmrc`
            # client-credentials                        # default: the registry, if there is only one
            policy = "default"                          # default
            # min-release-age                           # default: the policy's, `72h`
            # fix-lane                                  # default: the policy's, `24h`
            exclude = ["@acme/*", "left-pad"]           # --exclude
            data-dir = "/data"                          # --data-dir
            # public-url                                # default: the request's `Host` header
            # trusted-proxy                             # default: none
            allow-writes = false                        # default
            # gateway                                   # default: no gateway
            # transparent                               # default: none
            # intercept                                 # default: upstream's hosts, npm's default registry, yarn's alias of it
            default-egress = "refuse"                   # default
            # allow-host                                # default: none
            # ca-cert                                   # default: a CA that Coldframe creates
            # ca-key                                    # default: the key of the created CA
            # gateway-users                             # default: all clients
            explain-access = "loopback"                 # default
            # admin-token-file                          # default: none
            packument-ttl = "5m"                        # default
            max-stale = "24h"                           # default
            cache-size = "10GB"                         # default
            memory = "128MB"                            # default
            packument-memory = "128MB"                  # default
            prefetch = "8"                              # default
            absent-names = "20000"                      # default
            packument-limit = "200MB"                   # default
            tarball-limit = "500MB"                     # default
            # tarball-host                              # default: upstream's host
            # redirect-host                             # default: upstream's host
            # upstream-time                             # default: checked
            # upstream-ca                               # default: the system's CAs
            upstream-timeout = "30s"                    # default
            stale-wait = "3s"                           # default
            max-connections = 7                         # --max-connections
            header-timeout = "20s"                      # default
            header-limit = "32KiB"                      # default
            max-headers = 100                           # default
            idle-timeout = "75s"                        # default
            body-timeout = "2m"                         # default
            body-limit = "16MB"                         # default
            write-limit = "250MB"                       # default
            send-timeout = "60s"                        # default
            drain-timeout = "10s"                       # default
            log-format = "human"                        # default
            log-level = "info"                          # default
            summary-interval = "1h"                     # default
            ledger-retention = "400d"                   # default
            # feed                                      # default: none
            feed-interval = "5m"                        # default
            feed-expiry = "24h"                         # default
            feed-readiness = false                      # default
            feed-may-be-empty = false                   # default
            unsafe-serve-without-feed = false           # default
            # @acme comes from https://acme.example/  # `.npmrc`
        "#]]
        .assert_eq(&shown);
        let named = self::shown(npmrc, &[(SettingKey::Upstream, "https://me:secret@other.example")]).unwrap();
        assert!(
            named.contains("upstream = \"https://*********@other.example\"") && named.contains("# @acme comes from"),
            "{named}"
        );
    }

    #[test]
    fn coldframe_is_not_its_own_upstream() {
        let shown_npm = shown("registry=http://localhost:4873/\n@acme:registry=https://acme.example/\n", &[]).unwrap();
        assert!(shown_npm.contains("# npm's built-in default"), "{shown_npm}");
        let named = shown("", &[(SettingKey::Upstream, "http://localhost:4873")]).unwrap_err().to_string();
        expect![[r#"
            1 error in the configuration

            --upstream: `upstream` is Coldframe itself
               = allowed: a registry other than this server"#]]
        .assert_eq(&named);
    }

    #[test]
    fn errors_in_npm_configuration_are_reported_with_the_others() {
        let text = shown("registry=nonsense\n", &[(SettingKey::Memory, "5")]).unwrap_err().to_string();
        assert!(text.starts_with("2 errors") && text.contains("`registry` in "), "{text}");
    }
}
