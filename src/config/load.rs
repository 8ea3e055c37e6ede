//! Loads the configuration: merges the sources, parses each setting, and reports all errors together.

use std::ops::RangeInclusive;
use std::path::{Path, PathBuf};

use crate::config::effective::Settings;
use crate::config::environment::{DefaultsFrom, ProcessEnvironment};
use crate::config::feeds::{self, FeedSettings};
use crate::config::insecure;
use crate::config::parse::{self, SettingsReader};
use crate::config::policy::{self, ListenerPolicies};
use crate::config::raw::{RawConfig, file};
use crate::config::server::{self, GatewaySettings};
use crate::config::settings::SettingKey;
use crate::config::signing;
use crate::config::upstream::{self, OwnAddresses};
use crate::diagnostics::{Diagnostic, Diagnostics, Origin};
use crate::firewall::SizeLimits;
use crate::net::ListenAddress;
use crate::telemetry::LogFormat;
use crate::{firewall, store, telemetry, tls};

/// The memory that opening one tarball may take, in bytes. With less, many honest packages could not be read.
const VETTING_MEMORY: RangeInclusive<u64> = 10_000_000..=10_000_000_000;

#[derive(Debug)]
pub struct ConfigSources<'a> {
    /// The path that `--config` names.
    pub file: Option<&'a Path>,
    pub environment: &'a ProcessEnvironment,
    pub flags: RawConfig,
}

impl ConfigSources<'_> {
    /// Merges the sources and calls `read` with the result. Returns the errors of both.
    pub(crate) fn read<T>(
        self,
        read: impl FnOnce(&mut RawConfig, &DefaultsFrom<'_>, &mut Vec<Diagnostic>) -> Option<T>,
    ) -> Result<T, Diagnostics> {
        let mut errors = Vec::new();
        let mut raw = RawConfig::merge(self.file, &self.environment.variables, self.flags, &mut errors);
        let value = read(&mut raw, &DefaultsFrom::ThisMachine(self.environment), &mut errors);
        Diagnostics::or(errors, value)
    }
}

#[derive(Debug)]
pub struct Config {
    /// The addresses to listen on. Never empty; startup fails if the first one cannot be bound.
    pub listen: Vec<ListenAddress>,
    pub policies: ListenerPolicies,
    pub store: store::Config,
    pub upstream: crate::upstream::Config,
    pub tls: tls::Config,
    pub firewall: firewall::Config,
    pub server: crate::server::Config,
    pub gateway: GatewaySettings,
    pub feeds: FeedSettings,
    pub telemetry: telemetry::Config,
    pub warnings: Vec<String>,
    /// The settings as text, for comparison with another process.
    pub settings: Settings,
}

impl Config {
    /// Creates a configuration from names and values, without the environment or npm's configuration.
    ///
    /// # Errors
    /// Returns all errors. `data-dir` and `upstream` are required.
    pub fn from_pairs(pairs: &[(&str, &str)]) -> Result<Self, Diagnostics> {
        Self::from_raw(&RawConfig::from_pairs(pairs)?)
    }

    /// Creates a configuration from raw settings, without the environment or npm's configuration.
    ///
    /// # Errors
    /// Returns all errors. `data-dir` and `upstream` are required.
    pub fn from_raw(raw: &RawConfig) -> Result<Self, Diagnostics> {
        let mut errors = Vec::new();
        let config = Self::parse(raw, &DefaultsFrom::Nothing, &mut errors);
        Diagnostics::or(errors, config)
    }

    /// Loads the configuration from flags, environment and file. npm's configuration fills in what they leave open.
    ///
    /// # Errors
    /// Returns all errors in all sources.
    pub fn load(sources: ConfigSources<'_>) -> Result<Self, Diagnostics> {
        Self::load_with(sources, |_| {})
    }

    /// Like [`Config::load`], with the merged settings as `change` leaves them.
    pub(crate) fn load_with(sources: ConfigSources<'_>, change: impl FnOnce(&mut RawConfig)) -> Result<Self, Diagnostics> {
        sources.read(|raw, machine, errors| {
            change(raw);
            Self::parse(raw, machine, errors)
        })
    }

    /// Parses raw settings. Errors are added to `errors`; then the result is `None` or not to be used.
    pub(crate) fn parse(raw: &RawConfig, machine: &DefaultsFrom<'_>, errors: &mut Vec<Diagnostic>) -> Option<Self> {
        let mut reader = SettingsReader { raw, errors };
        let tls_files = server::tls_files(&mut reader);
        let (listen, policy_names) = server::listeners(&mut reader, tls_files.is_some());
        if reader.is_absent(SettingKey::Listen) {
            reader.reject(SettingKey::Listen, "no address to listen on", SettingKey::Listen.setting().kind.allowed());
        }
        let min_release_age = reader.optional(SettingKey::MinReleaseAge, parse::duration);
        let fix_lane = reader.optional(SettingKey::FixLane, parse::duration);
        let exclude = reader.several(SettingKey::Exclude, parse::package_glob);
        let data_dir = reader.data_dir(machine);
        let public_url = reader.optional(SettingKey::PublicUrl, parse::public_url);
        let packument_ttl = reader.one(SettingKey::PackumentTtl, parse::duration);
        let max_stale = reader.one(SettingKey::MaxStale, parse::duration);
        let patience = reader.one(SettingKey::StaleWait, parse::duration);
        let cache_size = reader.one(SettingKey::CacheSize, parse::size(1_000_000..=u64::MAX));
        let firewall = firewall::Config {
            packument_ttl,
            max_stale,
            patience,
            memory: reader.one(SettingKey::Memory, parse::size(1_000_000..=u64::MAX)),
            packument_memory: reader.one(SettingKey::PackumentMemory, parse::size(1_000_000..=u64::MAX)),
            prefetch: reader.one(SettingKey::Prefetch, parse::number(0..=firewall::FETCHES)),
            absent_names: reader.one(SettingKey::AbsentNames, parse::number(0..=firewall::MAX_ABSENT_NAMES)),
            limits: SizeLimits {
                packument: reader.one(SettingKey::PackumentLimit, parse::size(1_000..=u64::MAX)),
                tarball: reader.one(SettingKey::TarballLimit, parse::size(1_000..=u64::MAX)),
                vetting_memory: reader.one(SettingKey::VettingMemory, parse::size(VETTING_MEMORY)),
            },
            signing_keys: signing::keys(&mut reader, machine),
            trust_root: signing::trust_root(&mut reader, machine),
            trust_updates: signing::updates(&mut reader, machine),
        };
        let server = crate::server::Config { tls: tls_files, ..server::read(&mut reader, public_url.clone()) };
        let format = if reader.word(SettingKey::LogFormat) == "json" { LogFormat::Json } else { LogFormat::Human };
        let filter = match reader.word(SettingKey::LogLevel) {
            // For Coldframe's own lines only: those of its dependencies would hide them.
            level @ ("debug" | "trace") => format!("info,coldframe={level}"),
            level => level.to_owned(),
        };
        let ledger_retention = reader.one(SettingKey::LedgerRetention, parse::nonzero_duration);
        let summary_interval = reader.one(SettingKey::SummaryInterval, parse::duration);
        let feeds = feeds::read(&mut reader);
        let own_addresses = OwnAddresses { listen: &listen, public_url: public_url.as_ref() };
        let limits = (firewall.limits.packument, firewall.limits.tarball);
        let resolved = upstream::resolve(&mut reader, machine, &own_addresses, limits);
        let routes = resolved.as_ref().map(|(upstream, ..)| &upstream.routes);
        let exclude = exclude.into_iter().chain(routes.into_iter().flat_map(upstream::packages_without_age)).collect();
        let policies = policy::read(&mut reader, policy_names, (min_release_age, fix_lane), exclude);
        let gateway = server::gateway(&mut reader, resolved.as_ref().map(|(upstream, ..)| upstream))?;
        let (upstream, tls, mut warnings) = resolved?;
        let (policies, policy_warnings) = policies?;
        warnings.extend(policy_warnings);
        let data_dir = data_dir?;
        let folder = match machine {
            DefaultsFrom::ThisMachine(environment) => environment.working_directory.as_path(),
            DefaultsFrom::Nothing | DefaultsFrom::AnotherMachine => Path::new(""),
        };
        let settings = Settings::new(raw, folder, &upstream.default.address(), &data_dir);
        Some(Self {
            listen,
            policies,
            store: store::Config { data_dir, cache_size, ledger_retention },
            firewall,
            server: crate::server::Config { upstream_prefixes: upstream::prefixes(&upstream), ..server },
            upstream,
            tls,
            gateway,
            feeds,
            telemetry: telemetry::Config { format, filter, summary_interval },
            warnings,
            settings,
        })
    }
}

/// A file without errors.
pub(crate) struct CheckedFile {
    /// How many settings it has.
    pub(crate) settings: usize,
    /// Where it is less safe than it could be, one line each.
    pub(crate) weaknesses: Vec<String>,
}

/// Checks a file alone.
pub(crate) fn check(path: &Path) -> Result<CheckedFile, Diagnostics> {
    let mut errors = Vec::new();
    let raw = RawConfig(file::read(path, Origin::Flag("config check".to_owned()), &mut errors));
    Config::parse(&raw, &DefaultsFrom::AnotherMachine, &mut errors);
    let weaknesses = insecure::weaknesses(&raw);
    Diagnostics::or(errors, Some(CheckedFile { settings: raw.0.len(), weaknesses }))
}

/// Returns the data directory, for commands that only read it. Does not read npm's configuration.
pub(crate) fn data_dir(sources: ConfigSources<'_>) -> Result<PathBuf, Diagnostics> {
    sources.read(|raw, machine, errors| SettingsReader { raw, errors }.data_dir(machine))
}

/// Returns the file of gateway users, if one is configured. Does not read npm's configuration.
pub(crate) fn gateway_users(sources: ConfigSources<'_>) -> Result<Option<PathBuf>, Diagnostics> {
    sources.read(|raw, _, errors| Some(SettingsReader { raw, errors }.optional(SettingKey::GatewayUsers, parse::path)))
}

#[cfg(test)]
mod tests {
    use expect_test::expect;

    use super::*;
    use crate::config::show::show_effective;
    use crate::npm::PackageName;

    /// Returns the errors that `toml`, the environment and the flags have together, without the directory of the file.
    fn errors(toml: &str, variables: &[(&str, &str)], flags: &[(SettingKey, &str)]) -> String {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("coldframe.toml");
        std::fs::write(&path, toml).unwrap();
        let environment = ProcessEnvironment {
            variables: variables.iter().chain(&[("HOME", "/home/me")]).map(|(name, value)| (name.into(), value.into())).collect(),
            home: Some(directory.path().to_owned()),
            working_directory: directory.path().to_owned(),
        };
        let sources = ConfigSources { file: Some(&path), environment: &environment, flags: RawConfig::from_flags(flags) };
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
               = allowed: an IP address and a port, such as `127.0.0.1:4873` or `[::1]:4873`; port 0 picks a free one; a policy may follow, as in `127.0.0.1:4874=strict`; with `tls-cert`, `http://` before it keeps one without TLS

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
               = allowed: settings at the top level, as in `min-release-age = "72h"`, and tables `[[feed]]` and `[[upstream]]`

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
        let age = config.policies.default.minimum_release_age(&PackageName::parse("axios").unwrap());
        assert_eq!((config.listen.len(), age.as_secs(), config.store.cache_size), (2, 129_600, 2_000_000_000));
        assert_eq!(config.firewall.packument_ttl, std::time::Duration::from_secs(300));
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
        let environment = ProcessEnvironment { variables: Vec::new(), home, working_directory: directory.path().to_owned() };
        let flags = RawConfig::from_flags(&[&[(SettingKey::DataDir, "/data")], flags].concat());
        let shown = show_effective(ConfigSources { file: None, environment: &environment, flags })?;
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
            # route                                     # default: npm's registries of scopes
            # client-credentials                        # default: the registry, if there is only one
            policy = "default"                          # default
            # min-release-age                           # default: the policy's, `72h`
            # fix-lane                                  # default: the policy's, `24h`
            exclude = ["@acme/*", "left-pad"]           # --exclude
            data-dir = "/data"                          # --data-dir
            # public-url                                # default: the request's `Host` header
            # tls-cert                                  # default: plain HTTP
            # tls-key                                   # default: none
            # tls-client-ca                             # default: no client certificates
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
            require-auth = false                        # default
            # trusted-issuers                           # default: none
            # sign-in                                   # default: none
            packument-ttl = "5m"                        # default
            max-stale = "24h"                           # default
            cache-size = "10GB"                         # default
            memory = "128MB"                            # default
            packument-memory = "128MB"                  # default
            prefetch = "8"                              # default
            absent-names = "20000"                      # default
            packument-limit = "200MB"                   # default
            tarball-limit = "500MB"                     # default
            vetting-memory = "100MB"                    # default
            # tarball-host                              # default: upstream's host
            # redirect-host                             # default: upstream's host
            # upstream-time                             # default: checked
            # signing-keys                              # default: npm's keys, as known to this version
            # sigstore-root                             # default: Sigstore's, as known to this version
            # trust-updates                             # default: none
            # trust-updates-root                        # default: none
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
    fn memory_for_opening_tarballs_is_bounded() {
        for (memory, problem) in [("5MB", "must be at least 10000000 bytes"), ("11GB", "must be at most"), ("much", "`much`")] {
            let text = shown("", &[(SettingKey::VettingMemory, memory)]).unwrap_err().to_string();
            assert!(text.contains("--vetting-memory") && text.contains(problem), "{text}");
        }
        assert!(shown("", &[(SettingKey::VettingMemory, "64MiB")]).unwrap().contains("vetting-memory = \"64MiB\""));
    }

    #[test]
    fn errors_in_npm_configuration_are_reported_with_the_others() {
        let text = shown("registry=nonsense\n", &[(SettingKey::Memory, "5")]).unwrap_err().to_string();
        assert!(text.starts_with("2 errors") && text.contains("`registry` in "), "{text}");
    }
}
