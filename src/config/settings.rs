//! The table of settings. Flags, environment variables, the configuration file, `config show` and the documentation are generated
//! from it.

use std::fmt::Write as _;

pub use crate::config::value_kind::ValueKind;

/// A setting. The variants are in the order of [`SETTINGS`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum SettingKey {
    Listen,
    Upstream,
    ClientCredentials,
    Policy,
    MinReleaseAge,
    FixLane,
    Exclude,
    DataDir,
    PublicUrl,
    TrustedProxy,
    AllowWrites,
    Gateway,
    Transparent,
    Intercept,
    DefaultEgress,
    AllowHost,
    CaCertFile,
    CaKeyFile,
    GatewayUsers,
    ExplainAccess,
    AdminTokenFile,
    PackumentTtl,
    MaxStale,
    CacheSize,
    Memory,
    PackumentMemory,
    Prefetch,
    AbsentNames,
    PackumentLimit,
    TarballLimit,
    TarballHost,
    RedirectHost,
    UpstreamTime,
    UpstreamCa,
    UpstreamTimeout,
    Patience,
    MaxConnections,
    HeaderTimeout,
    HeaderLimit,
    MaxHeaders,
    IdleTimeout,
    BodyTimeout,
    BodyLimit,
    WriteLimit,
    SendTimeout,
    DrainTimeout,
    LogFormat,
    LogLevel,
    SummaryInterval,
    LedgerRetention,
    Feed,
    FeedInterval,
    FeedExpiry,
    FeedReadiness,
    FeedMayBeEmpty,
    UnsafeServeWithoutFeed,
}

/// The default of a setting.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum DefaultValue {
    /// A value, as written in the configuration.
    Value(&'static str),
    /// No value; the text describes what applies instead.
    Absent(&'static str),
}

#[derive(Debug)]
pub struct Setting {
    pub key: SettingKey,
    /// The key in the file, and the flag after `--`.
    pub name: &'static str,
    pub kind: ValueKind,
    /// Whether the setting accepts several values.
    pub several: bool,
    pub default: DefaultValue,
    /// The description: one line, below 80 columns, without a full stop.
    pub help: &'static str,
}

impl SettingKey {
    /// Returns the setting's row of [`SETTINGS`].
    #[must_use]
    pub fn setting(self) -> &'static Setting {
        // The table is in the order of the keys; a test checks it.
        &SETTINGS[self as usize]
    }

    /// Finds a setting by its name in the file.
    #[must_use]
    pub fn named(name: &str) -> Option<Self> {
        SETTINGS.iter().find(|setting| setting.name == name).map(|setting| setting.key)
    }
}

impl Setting {
    /// Returns the flag, such as `--min-release-age`.
    #[must_use]
    pub fn flag(&self) -> String {
        format!("--{}", self.name)
    }

    /// Returns the environment variable, such as `COLDFRAME_MIN_RELEASE_AGE`.
    #[must_use]
    pub fn variable(&self) -> String {
        format!("{PREFIX}{}", self.name.to_ascii_uppercase().replace('-', "_"))
    }
}

/// The prefix of all environment variables.
pub const PREFIX: &str = "COLDFRAME_";

/// The variable that names the configuration file. It is not a setting, because a file cannot name itself.
pub const FILE_VARIABLE: &str = "COLDFRAME_CONFIG";

/// The values of `explain-access`.
pub const EXPLAIN_ACCESS: &[&str] = &["loopback", "all"];

/// The values of `log-format`.
pub const LOG_FORMATS: &[&str] = &["human", "json"];

/// The values of `log-level`.
pub const LOG_LEVELS: &[&str] = &["error", "warn", "info", "debug", "trace"];

/// The values of `default-egress`.
pub const DEFAULT_EGRESS: &[&str] = &["refuse", "tunnel"];

/// All settings, in the order of [`SettingKey`].
pub static SETTINGS: [Setting; 56] = [
    several(
        SettingKey::Listen,
        "listen",
        ValueKind::Listener,
        DefaultValue::Value("127.0.0.1:4873"),
        "Addresses to listen on; `127.0.0.1:4874=strict` selects a policy for one",
    ),
    one(
        SettingKey::Upstream,
        "upstream",
        ValueKind::Url,
        DefaultValue::Absent("the registry that npm uses on this machine"),
        "Registry to fetch packages from; its credentials come from npm's settings",
    ),
    several(
        SettingKey::ClientCredentials,
        "client-credentials",
        ValueKind::Url,
        DefaultValue::Absent("the registry, if there is only one"),
        "Registries that receive clients' own credentials, if there are several",
    ),
    one(
        SettingKey::Policy,
        "policy",
        ValueKind::Policy,
        DefaultValue::Value("default"),
        "Shipped policy (`default`, `strict`, `ci`, `observe`), file or directory",
    ),
    one(
        SettingKey::MinReleaseAge,
        "min-release-age",
        ValueKind::Duration,
        DefaultValue::Absent("the policy's, `72h`"),
        "Minimum release age, instead of the policy's; `0s` removes all age limits",
    ),
    one(
        SettingKey::FixLane,
        "fix-lane",
        ValueKind::Duration,
        DefaultValue::Absent("the policy's, `24h`"),
        "Minimum age for fixes of reviewed advisories; `0s` treats them like others",
    ),
    several(
        SettingKey::Exclude,
        "exclude",
        ValueKind::PackageGlob,
        DefaultValue::Absent("none"),
        "Packages without a minimum age, such as `@acme/*`; other rules still apply",
    ),
    one(
        SettingKey::DataDir,
        "data-dir",
        ValueKind::Path,
        DefaultValue::Absent("the platform's data directory"),
        "Directory for tarballs, packuments and the ledger; one process owns it",
    ),
    one(
        SettingKey::PublicUrl,
        "public-url",
        ValueKind::Url,
        DefaultValue::Absent("the request's `Host` header"),
        "URL under which clients reach Coldframe; tarball URLs start with it",
    ),
    several(
        SettingKey::TrustedProxy,
        "trusted-proxy",
        ValueKind::Network,
        DefaultValue::Absent("none"),
        "Reverse proxies whose `X-Forwarded-*` headers are trusted",
    ),
    one(
        SettingKey::AllowWrites,
        "allow-writes",
        ValueKind::Truth,
        DefaultValue::Value("false"),
        "Forward publish, login and dist-tag changes with the client's credentials",
    ),
    several(
        SettingKey::Gateway,
        "gateway",
        ValueKind::Address,
        DefaultValue::Absent("no gateway"),
        "Addresses of the HTTP proxy that answers for registry hosts itself",
    ),
    several(
        SettingKey::Transparent,
        "transparent",
        ValueKind::Address,
        DefaultValue::Absent("none"),
        "Addresses for TLS redirected by packet filter or DNS, treated like `gateway`",
    ),
    several(
        SettingKey::Intercept,
        "intercept",
        ValueKind::HostName,
        DefaultValue::Absent("upstream's hosts, npm's default registry, yarn's alias of it"),
        "Further hosts that the gateway answers for from upstream",
    ),
    one(
        SettingKey::DefaultEgress,
        "default-egress",
        ValueKind::Word(DEFAULT_EGRESS),
        DefaultValue::Value("refuse"),
        "Whether the gateway tunnels to other public hosts, on ports 443 and 80",
    ),
    several(
        SettingKey::AllowHost,
        "allow-host",
        ValueKind::HostGlob,
        DefaultValue::Absent("none"),
        "Hosts that the gateway tunnels to, on ports 443 and 80 or the given port",
    ),
    one(
        SettingKey::CaCertFile,
        "ca-cert",
        ValueKind::Path,
        DefaultValue::Absent("a CA that Coldframe creates"),
        "PEM file of the gateway's CA certificate and its chain to the root",
    ),
    one(
        SettingKey::CaKeyFile,
        "ca-key",
        ValueKind::Path,
        DefaultValue::Absent("the key of the created CA"),
        "PEM file of the private key for `ca-cert`",
    ),
    one(
        SettingKey::GatewayUsers,
        "gateway-users",
        ValueKind::Path,
        DefaultValue::Absent("all clients"),
        "File of gateway users, `name:$argon2id$…` per line; see `coldframe user add`",
    ),
    one(
        SettingKey::ExplainAccess,
        "explain-access",
        ValueKind::Word(EXPLAIN_ACCESS),
        DefaultValue::Value("loopback"),
        "Who may use `/-/coldframe/explain` and `check`: this machine or all clients",
    ),
    one(
        SettingKey::AdminTokenFile,
        "admin-token-file",
        ValueKind::Path,
        DefaultValue::Absent("none"),
        "Admin tokens for `/-/coldframe/`, one per line; `check --server` sends one",
    ),
    one(
        SettingKey::PackumentTtl,
        "packument-ttl",
        ValueKind::Duration,
        DefaultValue::Value("5m"),
        "How long a packument is served before upstream is asked for changes",
    ),
    one(
        SettingKey::MaxStale,
        "max-stale",
        ValueKind::Duration,
        DefaultValue::Value("24h"),
        "How long a stale packument is served while upstream is unavailable",
    ),
    one(
        SettingKey::CacheSize,
        "cache-size",
        ValueKind::Size,
        DefaultValue::Value("10GB"),
        "Disk space for tarballs and packuments; least recently used are evicted",
    ),
    one(
        SettingKey::Memory,
        "memory",
        ValueKind::Size,
        DefaultValue::Value("128MB"),
        "Memory for packuments that are ready to send",
    ),
    one(
        SettingKey::PackumentMemory,
        "packument-memory",
        ValueKind::Size,
        DefaultValue::Value("128MB"),
        "Memory for fetching and parsing packuments; large ones wait until it is free",
    ),
    one(
        SettingKey::Prefetch,
        "prefetch",
        ValueKind::Number,
        DefaultValue::Value("8"),
        "Parallel prefetches of dependencies' packuments per registry; 0 disables",
    ),
    one(
        SettingKey::AbsentNames,
        "absent-names",
        ValueKind::Number,
        DefaultValue::Value("20000"),
        "Unknown package names that one client may request per day; all are recorded",
    ),
    one(
        SettingKey::PackumentLimit,
        "packument-limit",
        ValueKind::Size,
        DefaultValue::Value("200MB"),
        "Maximum size of a packument from upstream, uncompressed",
    ),
    one(
        SettingKey::TarballLimit,
        "tarball-limit",
        ValueKind::Size,
        DefaultValue::Value("500MB"),
        "Maximum size of a tarball from upstream",
    ),
    several(
        SettingKey::TarballHost,
        "tarball-host",
        ValueKind::HostGlob,
        DefaultValue::Absent("upstream's host"),
        "Further hosts that packuments may use in tarball URLs",
    ),
    several(
        SettingKey::RedirectHost,
        "redirect-host",
        ValueKind::HostGlob,
        DefaultValue::Absent("upstream's host"),
        "Further hosts upstream may redirect tarballs to; they get no credentials",
    ),
    several(
        SettingKey::UpstreamTime,
        "upstream-time",
        ValueKind::TimeMode,
        DefaultValue::Absent("checked"),
        "Publish times: checked against first sight, taken from it, or trusted",
    ),
    several(
        SettingKey::UpstreamCa,
        "upstream-ca",
        ValueKind::Path,
        DefaultValue::Absent("the system's CAs"),
        "PEM files of further CAs to trust for upstream connections",
    ),
    one(
        SettingKey::UpstreamTimeout,
        "upstream-timeout",
        ValueKind::Duration,
        DefaultValue::Value("30s"),
        "How long upstream may be silent before a request fails",
    ),
    one(
        SettingKey::Patience,
        "stale-wait",
        ValueKind::Duration,
        DefaultValue::Value("3s"),
        "How long to wait for upstream before a stale packument is served",
    ),
    one(
        SettingKey::MaxConnections,
        "max-connections",
        ValueKind::Count,
        DefaultValue::Value("4096"),
        "Maximum open connections; at the limit, new ones wait and idle ones close",
    ),
    one(
        SettingKey::HeaderTimeout,
        "header-timeout",
        ValueKind::Duration,
        DefaultValue::Value("20s"),
        "Time limit for a request's first line and headers",
    ),
    one(
        SettingKey::HeaderLimit,
        "header-limit",
        ValueKind::Size,
        DefaultValue::Value("32KiB"),
        "Maximum size of the first line and headers, from `8KiB` to `1MiB`",
    ),
    one(
        SettingKey::MaxHeaders,
        "max-headers",
        ValueKind::Count,
        DefaultValue::Value("100"),
        "Maximum number of headers in a request, up to 1000",
    ),
    one(
        SettingKey::IdleTimeout,
        "idle-timeout",
        ValueKind::Duration,
        DefaultValue::Value("75s"),
        "How long a connection may wait for its next request",
    ),
    one(
        SettingKey::BodyTimeout,
        "body-timeout",
        ValueKind::Duration,
        DefaultValue::Value("2m"),
        "Time limit for a request's body",
    ),
    one(
        SettingKey::BodyLimit,
        "body-limit",
        ValueKind::Size,
        DefaultValue::Value("16MB"),
        "Maximum size of an audit request's body, compressed or not",
    ),
    one(
        SettingKey::WriteLimit,
        "write-limit",
        ValueKind::Size,
        DefaultValue::Value("250MB"),
        "Maximum body size of a publish or another write",
    ),
    one(
        SettingKey::SendTimeout,
        "send-timeout",
        ValueKind::Duration,
        DefaultValue::Value("60s"),
        "How long a client may read its response below 512 bytes per second",
    ),
    one(
        SettingKey::DrainTimeout,
        "drain-timeout",
        ValueKind::Duration,
        DefaultValue::Value("10s"),
        "How long running requests may take after a stop signal",
    ),
    one(SettingKey::LogFormat, "log-format", ValueKind::Word(LOG_FORMATS), DefaultValue::Value("human"), "Format of log lines"),
    one(
        SettingKey::LogLevel,
        "log-level",
        ValueKind::Word(LOG_LEVELS),
        DefaultValue::Value("info"),
        "Minimum level of logged lines",
    ),
    one(
        SettingKey::SummaryInterval,
        "summary-interval",
        ValueKind::Duration,
        DefaultValue::Value("1h"),
        "Interval of the log line that sums up what was served; `0s` disables it",
    ),
    one(
        SettingKey::LedgerRetention,
        "ledger-retention",
        ValueKind::Duration,
        DefaultValue::Value("400d"),
        "How long the ledger records who downloaded what",
    ),
    several(
        SettingKey::Feed,
        "feed",
        ValueKind::Feed,
        DefaultValue::Absent("none"),
        "Malware advisories: OSV directory or zip, URL of either, or a plain list",
    ),
    one(
        SettingKey::FeedInterval,
        "feed-interval",
        ValueKind::Duration,
        DefaultValue::Value("5m"),
        "How often a feed is checked for changes, unless its table sets `interval`",
    ),
    one(
        SettingKey::FeedExpiry,
        "feed-expiry",
        ValueKind::Duration,
        DefaultValue::Value("24h"),
        "When an unconfirmed feed becomes stale, unless its table sets `expiry`",
    ),
    one(
        SettingKey::FeedReadiness,
        "feed-readiness",
        ValueKind::Truth,
        DefaultValue::Value("false"),
        "Report not ready while a feed is stale",
    ),
    one(
        SettingKey::FeedMayBeEmpty,
        "feed-may-be-empty",
        ValueKind::Truth,
        DefaultValue::Value("false"),
        "Accept a local feed without records, such as a new directory of your own",
    ),
    one(
        SettingKey::UnsafeServeWithoutFeed,
        "unsafe-serve-without-feed",
        ValueKind::Truth,
        DefaultValue::Value("false"),
        "Serve before every feed has been read, instead of refusing everything",
    ),
];

const fn one(key: SettingKey, name: &'static str, kind: ValueKind, default: DefaultValue, help: &'static str) -> Setting {
    Setting { key, name, kind, several: false, default, help }
}

const fn several(key: SettingKey, name: &'static str, kind: ValueKind, default: DefaultValue, help: &'static str) -> Setting {
    Setting { key, name, kind, several: true, default, help }
}

/// Renders the table as Markdown for the documentation.
#[must_use]
pub fn table_markdown() -> String {
    let mut table = "| file | flag | environment | default | what it does |\n|---|---|---|---|---|\n".to_owned();
    for setting in &SETTINGS {
        let several = if setting.several { " (several)" } else { "" };
        let default = match setting.default {
            DefaultValue::Value(value) => format!("`{value}`"),
            DefaultValue::Absent(words) => words.to_owned(),
        };
        let placeholder = setting.kind.placeholder();
        // The value of a boolean flag follows `=` and may be omitted.
        let value = if setting.kind == ValueKind::Truth { format!("[={placeholder}]") } else { format!(" {placeholder}") };
        let row = format!(
            "| `{}` | `{}{value}`{several} | `{}` | {default} | {} |",
            setting.name,
            setting.flag(),
            setting.variable(),
            setting.help
        );
        // Writing to a `String` cannot fail.
        let _ = writeln!(table, "{row}");
    }
    table
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn settings_are_in_key_order_with_unique_names() {
        let mut names = std::collections::HashSet::new();
        for (row, setting) in SETTINGS.iter().enumerate() {
            assert_eq!(setting.key as usize, row, "{}", setting.name);
            assert!(names.insert(setting.name), "{}", setting.name);
            assert!(setting.name.bytes().all(|byte| byte.is_ascii_lowercase() || byte == b'-'), "{}", setting.name);
            assert!(!setting.help.ends_with('.'), "{}", setting.name);
        }
    }

    #[test]
    fn flag_and_variable_are_derived_from_the_name() {
        let setting = SettingKey::MinReleaseAge.setting();
        assert_eq!((setting.flag().as_str(), setting.variable().as_str()), ("--min-release-age", "COLDFRAME_MIN_RELEASE_AGE"));
    }

    #[test]
    fn every_setting_has_a_table_row() {
        let table = table_markdown();
        assert_eq!(table.lines().count(), SETTINGS.len() + 2);
        assert!(table.contains(
            "| `min-release-age` | `--min-release-age DURATION` | `COLDFRAME_MIN_RELEASE_AGE` | the policy's, `72h` | Minimum release age, \
             instead of the policy's; `0s` removes all age limits |"
        ));
    }
}
