//! The one table of settings. Flags, environment, file, `config show` and README are all driven by it; it refuses to
//! know what a value means beyond its kind.

use std::fmt::Write as _;

pub use crate::config::value_kind::ValueKind;

/// A setting. The order is the order of the table.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[expect(missing_docs, reason = "the table below says of each what it is")]
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
    Others,
    AllowHost,
    CaCertFile,
    CaKeyFile,
    GatewayUsers,
    ExplainTo,
    AdminTokenFile,
    PackumentTtl,
    MaxStale,
    CacheSize,
    Memory,
    PackumentMemory,
    FetchAhead,
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
    HeadTimeout,
    HeadLimit,
    HeadLines,
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

/// What holds when nothing is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum DefaultValue {
    /// This value, as it would be written.
    Value(&'static str),
    /// Nothing, which means what the words say.
    Absent(&'static str),
}

/// One setting.
#[derive(Debug)]
pub struct Setting {
    /// Which.
    pub key: SettingKey,
    /// Its name: the key in the file, and the flag behind `--`.
    pub name: &'static str,
    /// What a value looks like.
    pub kind: ValueKind,
    /// Whether it may be given several times.
    pub several: bool,
    /// What holds when nothing is written.
    pub default: DefaultValue,
    /// What it does: one line without a full stop.
    pub help: &'static str,
}

impl SettingKey {
    /// Its row of the table.
    #[must_use]
    pub fn setting(self) -> &'static Setting {
        // The table lists the keys in their order, which a test holds.
        &SETTINGS[self as usize]
    }

    /// The setting of a name, as the file and the flags spell it.
    #[must_use]
    pub fn named(name: &str) -> Option<Self> {
        SETTINGS.iter().find(|setting| setting.name == name).map(|setting| setting.key)
    }
}

impl Setting {
    /// The flag: `--min-release-age`.
    #[must_use]
    pub fn flag(&self) -> String {
        format!("--{}", self.name)
    }

    /// The environment variable: `COLDFRAME_MIN_RELEASE_AGE`.
    #[must_use]
    pub fn variable(&self) -> String {
        format!("{PREFIX}{}", self.name.to_ascii_uppercase().replace('-', "_"))
    }
}

/// What every variable of ours starts with.
pub const PREFIX: &str = "COLDFRAME_";

/// Names the file; no setting of the table, for a file cannot name itself.
pub const FILE_VARIABLE: &str = "COLDFRAME_CONFIG";

/// Whose questions about packages may be answered.
pub const EXPLAIN_TO: &[&str] = &["loopback", "everybody"];

/// The log formats.
pub const LOG_FORMATS: &[&str] = &["human", "json"];

/// The log levels.
pub const LOG_LEVELS: &[&str] = &["error", "warn", "info", "debug", "trace"];

/// What becomes of hosts that the gateway does not answer for.
pub const OTHERS: &[&str] = &["refuse", "tunnel"];

/// The table.
pub static SETTINGS: [Setting; 56] = [
    several(
        SettingKey::Listen,
        "listen",
        ValueKind::Listener,
        DefaultValue::Value("127.0.0.1:4873"),
        "Where to listen; who comes to `127.0.0.1:4874=strict` is answered by the policy `strict`",
    ),
    one(
        SettingKey::Upstream,
        "upstream",
        ValueKind::Url,
        DefaultValue::Absent("what npm on this machine uses"),
        "The registry that packages come from; its credentials are read from npm's configuration",
    ),
    several(
        SettingKey::ClientCredentials,
        "client-credentials",
        ValueKind::Url,
        DefaultValue::Absent("the registry, if there is only one"),
        "Where npm's configuration has further registries for scopes: those that clients' own credentials are sent to",
    ),
    one(
        SettingKey::Policy,
        "policy",
        ValueKind::Policy,
        DefaultValue::Value("default"),
        "The rules: a shipped policy (`default`, `strict`, `ci`, `observe`), a file, or a directory of files",
    ),
    one(
        SettingKey::MinReleaseAge,
        "min-release-age",
        ValueKind::Duration,
        DefaultValue::Absent("the policy's, `72h`"),
        "How old a release must be before it is served, in place of the policy's; `0s` removes every age",
    ),
    one(
        SettingKey::FixLane,
        "fix-lane",
        ValueKind::Duration,
        DefaultValue::Absent("the policy's, `24h`"),
        "How old a release must be that a reviewed advisory names as the fix of a vulnerability; `0s` gives fixes no lane of their own",
    ),
    several(
        SettingKey::Exclude,
        "exclude",
        ValueKind::PackageGlob,
        DefaultValue::Absent("none"),
        "Packages whose releases need not be old, such as `@acme/*`; everything else is still checked",
    ),
    one(
        SettingKey::DataDir,
        "data-dir",
        ValueKind::Path,
        DefaultValue::Absent("the platform's data directory"),
        "Where tarballs, packuments and the ledger are kept; one process owns it",
    ),
    one(
        SettingKey::PublicUrl,
        "public-url",
        ValueKind::Url,
        DefaultValue::Absent("what the client's `Host` says"),
        "The address under which clients reach Coldframe; tarball URLs are written under it",
    ),
    several(
        SettingKey::TrustedProxy,
        "trusted-proxy",
        ValueKind::Network,
        DefaultValue::Absent("none"),
        "Proxies in front whose `X-Forwarded-*` headers are believed",
    ),
    one(
        SettingKey::AllowWrites,
        "allow-writes",
        ValueKind::Truth,
        DefaultValue::Value("false"),
        "Pass publish, login and dist-tag changes on, with the client's own credentials",
    ),
    several(
        SettingKey::Gateway,
        "gateway",
        ValueKind::Address,
        DefaultValue::Absent("no gateway"),
        "Where to listen as an HTTP proxy that answers for the registry's hosts itself",
    ),
    several(
        SettingKey::Transparent,
        "transparent",
        ValueKind::Address,
        DefaultValue::Absent("nowhere"),
        "Where to listen for TLS that was redirected here, or whose names point here: what holds for the gateway holds there",
    ),
    several(
        SettingKey::Intercept,
        "intercept",
        ValueKind::HostName,
        DefaultValue::Absent("upstream's, npm's default, yarn's name for it"),
        "Further hosts that the gateway answers for, from upstream",
    ),
    one(
        SettingKey::Others,
        "others",
        ValueKind::Word(OTHERS),
        DefaultValue::Value("refuse"),
        "Whether the gateway tunnels to hosts that nobody named, on ports 443 and 80 of public addresses",
    ),
    several(
        SettingKey::AllowHost,
        "allow-host",
        ValueKind::HostGlob,
        DefaultValue::Absent("none"),
        "Other hosts that the gateway tunnels to, on ports 443 and 80 or the one that is named",
    ),
    one(
        SettingKey::CaCertFile,
        "ca-cert",
        ValueKind::Path,
        DefaultValue::Absent("one of the gateway's own"),
        "PEM file of the authority that the gateway's certificates are signed by, and what leads to its root",
    ),
    one(
        SettingKey::CaKeyFile,
        "ca-key",
        ValueKind::Path,
        DefaultValue::Absent("the gateway's own"),
        "PEM file of that authority's key",
    ),
    one(
        SettingKey::GatewayUsers,
        "gateway-users",
        ValueKind::Path,
        DefaultValue::Absent("everybody"),
        "File of those who may use the gateway, `name:$argon2id$…` a line, as `coldframe user add` writes it",
    ),
    one(
        SettingKey::ExplainTo,
        "explain-to",
        ValueKind::Word(EXPLAIN_TO),
        DefaultValue::Value("loopback"),
        "Whose questions `/-/coldframe/explain` and `/-/coldframe/check` answer: clients on this machine, or everybody's",
    ),
    one(
        SettingKey::AdminTokenFile,
        "admin-token-file",
        ValueKind::Path,
        DefaultValue::Absent("none"),
        "File of tokens, one a line, that open `/-/coldframe/` beyond health where others than this machine reach it; `check --server` sends the first",
    ),
    one(
        SettingKey::PackumentTtl,
        "packument-ttl",
        ValueKind::Duration,
        DefaultValue::Value("5m"),
        "How long a packument is used before upstream is asked whether it changed",
    ),
    one(
        SettingKey::MaxStale,
        "max-stale",
        ValueKind::Duration,
        DefaultValue::Value("24h"),
        "How long the last packument is served while upstream cannot be asked",
    ),
    one(
        SettingKey::CacheSize,
        "cache-size",
        ValueKind::Size,
        DefaultValue::Value("10GB"),
        "Disk for tarballs and packuments; the least recently used go first",
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
        "Memory for packuments that are fetched and read; a large one waits for it, at last alone",
    ),
    one(
        SettingKey::FetchAhead,
        "fetch-ahead",
        ValueKind::Number,
        DefaultValue::Value("8"),
        "Packuments of dependencies fetched at once from each registry before a client asks for them; 0 turns it off",
    ),
    one(
        SettingKey::AbsentNames,
        "absent-names",
        ValueKind::Number,
        DefaultValue::Value("20000"),
        "Package names that one client may ask for in a day though upstream does not have them; each is recorded",
    ),
    one(
        SettingKey::PackumentLimit,
        "packument-limit",
        ValueKind::Size,
        DefaultValue::Value("200MB"),
        "The largest packument taken from upstream, unpacked",
    ),
    one(
        SettingKey::TarballLimit,
        "tarball-limit",
        ValueKind::Size,
        DefaultValue::Value("500MB"),
        "The largest tarball taken from upstream",
    ),
    several(
        SettingKey::TarballHost,
        "tarball-host",
        ValueKind::HostGlob,
        DefaultValue::Absent("upstream's own"),
        "Other hosts that packuments may name as the place of a tarball",
    ),
    several(
        SettingKey::RedirectHost,
        "redirect-host",
        ValueKind::HostGlob,
        DefaultValue::Absent("upstream's own"),
        "Other hosts that upstream may redirect a tarball to; the registry's credentials do not go there",
    ),
    several(
        SettingKey::UpstreamTime,
        "upstream-time",
        ValueKind::TimeMode,
        DefaultValue::Absent("checked"),
        "How publish times count: checked against what was seen, from when a version was first seen, or as upstream states them",
    ),
    several(
        SettingKey::UpstreamCa,
        "upstream-ca",
        ValueKind::Path,
        DefaultValue::Absent("the system's"),
        "PEM files of further authorities that upstream's certificate may be signed by",
    ),
    one(
        SettingKey::UpstreamTimeout,
        "upstream-timeout",
        ValueKind::Duration,
        DefaultValue::Value("30s"),
        "How long upstream may be silent before a request to it is given up",
    ),
    one(
        SettingKey::Patience,
        "upstream-patience",
        ValueKind::Duration,
        DefaultValue::Value("3s"),
        "How long upstream may delay a stale answer",
    ),
    one(
        SettingKey::MaxConnections,
        "max-connections",
        ValueKind::Count,
        DefaultValue::Value("4096"),
        "How many clients may be connected at once; idle ones make way for the next, which waits",
    ),
    one(
        SettingKey::HeadTimeout,
        "head-timeout",
        ValueKind::Duration,
        DefaultValue::Value("20s"),
        "How long a request's first line and headers may take to arrive",
    ),
    one(
        SettingKey::HeadLimit,
        "head-limit",
        ValueKind::Size,
        DefaultValue::Value("32KiB"),
        "The largest first line and headers together; from `8KiB` to `1MiB`",
    ),
    one(
        SettingKey::HeadLines,
        "head-lines",
        ValueKind::Count,
        DefaultValue::Value("100"),
        "The most headers a request may have; at most 1000",
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
        "How long a request's body may take to arrive",
    ),
    one(
        SettingKey::BodyLimit,
        "body-limit",
        ValueKind::Size,
        DefaultValue::Value("16MB"),
        "The largest body of an audit, packed or unpacked",
    ),
    one(
        SettingKey::WriteLimit,
        "write-limit",
        ValueKind::Size,
        DefaultValue::Value("250MB"),
        "The largest body of a publish or another write",
    ),
    one(
        SettingKey::SendTimeout,
        "send-timeout",
        ValueKind::Duration,
        DefaultValue::Value("60s"),
        "How long a client may take less than 512 bytes a second of its answer",
    ),
    one(
        SettingKey::DrainTimeout,
        "drain-timeout",
        ValueKind::Duration,
        DefaultValue::Value("10s"),
        "How long running requests may take after a signal to stop",
    ),
    one(
        SettingKey::LogFormat,
        "log-format",
        ValueKind::Word(LOG_FORMATS),
        DefaultValue::Value("human"),
        "How log lines are written",
    ),
    one(
        SettingKey::LogLevel,
        "log-level",
        ValueKind::Word(LOG_LEVELS),
        DefaultValue::Value("info"),
        "Which log lines are written",
    ),
    one(
        SettingKey::SummaryInterval,
        "summary-interval",
        ValueKind::Duration,
        DefaultValue::Value("1h"),
        "How often one log line says how much was served, if anything was; `0s` turns it off",
    ),
    one(
        SettingKey::LedgerRetention,
        "ledger-retention",
        ValueKind::Duration,
        DefaultValue::Value("400d"),
        "How long the ledger remembers who got what",
    ),
    several(
        SettingKey::Feed,
        "feed",
        ValueKind::Feed,
        DefaultValue::Absent("none"),
        "Advisories to follow: OSV records as a directory, a zip or a URL of either, or a plain list; what they name as malware is refused",
    ),
    one(
        SettingKey::FeedInterval,
        "feed-interval",
        ValueKind::Duration,
        DefaultValue::Value("5m"),
        "How often it is looked whether a feed changed, unless its table says otherwise",
    ),
    one(
        SettingKey::FeedExpiry,
        "feed-expiry",
        ValueKind::Duration,
        DefaultValue::Value("24h"),
        "How long a feed may go unconfirmed before it counts as stale, unless its table says otherwise",
    ),
    one(
        SettingKey::FeedReadiness,
        "feed-readiness",
        ValueKind::Truth,
        DefaultValue::Value("false"),
        "Count as not ready while a feed is stale",
    ),
    one(
        SettingKey::FeedMayBeEmpty,
        "feed-may-be-empty",
        ValueKind::Truth,
        DefaultValue::Value("false"),
        "Accept a local feed without any record, such as a directory of your own that begins empty",
    ),
    one(
        SettingKey::UnsafeServeWithoutFeed,
        "unsafe-serve-without-feed",
        ValueKind::Truth,
        DefaultValue::Value("false"),
        "Serve although a feed could not be read at all yet, instead of refusing everything",
    ),
];

const fn one(key: SettingKey, name: &'static str, kind: ValueKind, default: DefaultValue, help: &'static str) -> Setting {
    Setting { key, name, kind, several: false, default, help }
}

const fn several(key: SettingKey, name: &'static str, kind: ValueKind, default: DefaultValue, help: &'static str) -> Setting {
    Setting { key, name, kind, several: true, default, help }
}

/// The table as README shows it.
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
        // A value of these flags is behind `=`: without one they are set.
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
    fn the_table_lists_the_keys_in_their_order_and_no_name_twice() {
        let mut names = std::collections::HashSet::new();
        for (row, setting) in SETTINGS.iter().enumerate() {
            assert_eq!(setting.key as usize, row, "{}", setting.name);
            assert!(names.insert(setting.name), "{}", setting.name);
            assert!(setting.name.bytes().all(|byte| byte.is_ascii_lowercase() || byte == b'-'), "{}", setting.name);
            assert!(!setting.help.ends_with('.'), "{}", setting.name);
        }
    }

    #[test]
    fn a_name_is_spelled_for_flag_and_environment() {
        let setting = SettingKey::MinReleaseAge.setting();
        assert_eq!((setting.flag().as_str(), setting.variable().as_str()), ("--min-release-age", "COLDFRAME_MIN_RELEASE_AGE"));
    }

    #[test]
    fn every_setting_has_a_row_in_readme() {
        let table = table_markdown();
        assert_eq!(table.lines().count(), SETTINGS.len() + 2);
        assert!(table.contains(
            "| `min-release-age` | `--min-release-age DURATION` | `COLDFRAME_MIN_RELEASE_AGE` | the policy's, `72h` | How old a release must be \
             before it is served, in place of the policy's; `0s` removes every age |"
        ));
    }
}
