//! The table of settings, from which flags, variables, keys of the file, `config show` and the documentation are generated.

use std::fmt::Write as _;

use crate::config::value_kind::ValueKind;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum DefaultValue {
    /// A value, as written in the configuration.
    Value(&'static str),
    /// No value; the text describes what applies instead.
    Absent(&'static str),
}

impl DefaultValue {
    pub(crate) fn text(self) -> &'static str {
        let (Self::Value(text) | Self::Absent(text)) = self;
        text
    }
}

#[derive(Debug)]
pub struct Setting {
    pub key: SettingKey,
    /// The key in the file, and the flag after `--`.
    pub name: &'static str,
    pub kind: ValueKind,
    pub several: bool,
    pub default: DefaultValue,
    /// The description: one line, below 80 columns, without a full stop.
    pub help: &'static str,
}

impl SettingKey {
    /// Returns the setting's row of [`SETTINGS`].
    pub(crate) fn setting(self) -> &'static Setting {
        &SETTINGS[self as usize]
    }

    pub fn named(name: &str) -> Option<Self> {
        SETTINGS.iter().find(|setting| setting.name == name).map(|setting| setting.key)
    }
}

impl Setting {
    /// Returns the flag, such as `--min-release-age`.
    pub(crate) fn flag(&self) -> String {
        format!("--{}", self.name)
    }

    /// Returns the environment variable, such as `COLDFRAME_MIN_RELEASE_AGE`.
    pub fn variable(&self) -> String {
        format!("{PREFIX}{}", self.name.to_ascii_uppercase().replace('-', "_"))
    }
}

/// The prefix of all environment variables.
pub const PREFIX: &str = "COLDFRAME_";

/// The variable that names the configuration file. It is not a setting, because a file cannot name itself.
pub const FILE_VARIABLE: &str = "COLDFRAME_CONFIG";

/// Declares the keys and the table of settings. The comment of a setting is its help.
macro_rules! settings {
    ($(#[doc = $help:literal] $key:ident = $name:literal, $count:ident $kind:ident$(($words:expr))?, $default:ident($text:literal);)*) => {
        /// A setting.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
        pub enum SettingKey { $(#[doc = $help] $key,)* }

        /// All settings, in the order of [`SettingKey`].
        pub static SETTINGS: [Setting; [$(SettingKey::$key),*].len()] = [$(Setting {
            key: SettingKey::$key,
            name: $name,
            kind: ValueKind::$kind$(($words))?,
            several: settings!(@several $count),
            default: DefaultValue::$default($text),
            help: $help.trim_ascii_start(),
        }),*];
    };
    (@several one) => { false };
    (@several several) => { true };
}

settings! {
    /// Addresses to listen on; `127.0.0.1:4874=strict` selects a policy for one
    Listen = "listen", several Listener, Value("127.0.0.1:4873");
    /// Registry to fetch packages from; its credentials come from npm's settings
    Upstream = "upstream", one Url, Absent("the registry that npm uses on this machine");
    /// Registry of some packages only: `@acme acme-*=https://acme.example/npm/`
    Route = "route", several Route, Absent("npm's registries of scopes");
    /// Registries that receive clients' own credentials, if there are several
    ClientCredentials = "client-credentials", several Url, Absent("the registry, if there is only one");
    /// Shipped policy (`default`, `strict`, `ci`, `observe`), file or directory
    Policy = "policy", one Policy, Value("default");
    /// Minimum release age, instead of the policy's; `0s` removes all age limits
    MinReleaseAge = "min-release-age", one Duration, Absent("the policy's, `72h`");
    /// Minimum age for fixes of reviewed advisories; `0s` treats them like others
    FixLane = "fix-lane", one Duration, Absent("the policy's, `24h`");
    /// Packages without a minimum age, such as `@acme/*`; other rules still apply
    Exclude = "exclude", several PackageGlob, Absent("none");
    /// Directory for tarballs, packuments and the ledger; one process owns it
    DataDir = "data-dir", one Path, Absent("the platform's data directory");
    /// URL under which clients reach Coldframe; tarball URLs start with it
    PublicUrl = "public-url", one Url, Absent("the request's `Host` header");
    /// PEM file of the certificate and its chain for HTTPS on the `listen` addresses
    TlsCert = "tls-cert", one Path, Absent("plain HTTP");
    /// PEM file of the private key for `tls-cert`
    TlsKey = "tls-key", one Path, Absent("none");
    /// PEM file of CAs; a client certificate of one identifies its client
    TlsClientCa = "tls-client-ca", one Path, Absent("no client certificates");
    /// Reverse proxies whose `X-Forwarded-*` headers are trusted
    TrustedProxy = "trusted-proxy", several Network, Absent("none");
    /// Forward publish, login and dist-tag changes with the client's credentials
    AllowWrites = "allow-writes", one Truth, Value("false");
    /// Addresses of the HTTP proxy that answers for registry hosts itself
    Gateway = "gateway", several Address, Absent("no gateway");
    /// Addresses for TLS redirected by packet filter or DNS, treated like `gateway`
    Transparent = "transparent", several Address, Absent("none");
    /// Further hosts that the gateway answers for from upstream
    Intercept = "intercept", several HostName, Absent("upstream's hosts, npm's default registry, yarn's alias of it");
    /// Whether the gateway tunnels to other public hosts, on ports 443 and 80
    DefaultEgress = "default-egress", one Word(&["refuse", "tunnel"]), Value("refuse");
    /// Hosts that the gateway tunnels to, on ports 443 and 80 or the given port
    AllowHost = "allow-host", several HostGlob, Absent("none");
    /// PEM file of the gateway's CA certificate and its chain to the root
    CaCertFile = "ca-cert", one Path, Absent("a CA that Coldframe creates");
    /// PEM file of the private key for `ca-cert`
    CaKeyFile = "ca-key", one Path, Absent("the key of the created CA");
    /// File of gateway users, `name:$argon2id$…` per line; see `coldframe user add`
    GatewayUsers = "gateway-users", one Path, Absent("all clients");
    /// Who may use `/-/coldframe/explain` and `check`: this machine or all clients
    ExplainAccess = "explain-access", one Word(&["loopback", "all"]), Value("loopback");
    /// Admin tokens for `/-/coldframe/`, one per line; `check --server` sends one
    AdminTokenFile = "admin-token-file", one Path, Absent("none");
    /// Refuse registry, gateway and page requests without a valid access token
    RequireAuth = "require-auth", one Truth, Value("false");
    /// TOML file of OIDC issuers whose tokens CI exchanges for access tokens
    TrustedIssuers = "trusted-issuers", one Path, Absent("none");
    /// TOML file of the OIDC provider that people sign in with on the pages
    SignIn = "sign-in", one Path, Absent("none");
    /// How long a packument is served before upstream is asked for changes
    PackumentTtl = "packument-ttl", one Duration, Value("5m");
    /// How long a stale packument is served while upstream is unavailable
    MaxStale = "max-stale", one Duration, Value("24h");
    /// Disk space for tarballs and packuments; least recently used are evicted
    CacheSize = "cache-size", one Size, Value("10GB");
    /// Memory for packuments that are ready to send
    Memory = "memory", one Size, Value("128MB");
    /// Memory for fetching and parsing packuments; large ones wait until it is free
    PackumentMemory = "packument-memory", one Size, Value("128MB");
    /// Parallel prefetches of dependencies' packuments per registry; 0 disables
    Prefetch = "prefetch", one Number, Value("8");
    /// Unknown package names that one client may request per day; all are recorded
    AbsentNames = "absent-names", one Number, Value("20000");
    /// Maximum size of a packument from upstream, uncompressed
    PackumentLimit = "packument-limit", one Size, Value("200MB");
    /// Maximum size of a tarball from upstream
    TarballLimit = "tarball-limit", one Size, Value("500MB");
    /// Memory for opening one tarball, from `10MB`; at most two per core are open
    VettingMemory = "vetting-memory", one Size, Value("100MB");
    /// Further hosts that packuments may use in tarball URLs
    TarballHost = "tarball-host", several HostGlob, Absent("upstream's host");
    /// Further hosts upstream may redirect tarballs to; they get no credentials
    RedirectHost = "redirect-host", several HostGlob, Absent("upstream's host");
    /// Publish times: checked against first sight, taken from it, or trusted
    UpstreamTime = "upstream-time", several TimeMode, Absent("checked");
    /// Keys of the registry's signatures: a file, or `none` to verify nothing
    SigningKeys = "signing-keys", one FileOrNone, Absent("npm's keys, as known to this version");
    /// Trusted root that provenance is verified with: a file, or `none` for nothing
    SigstoreRoot = "sigstore-root", one FileOrNone, Absent("Sigstore's, as known to this version");
    /// TUF repository that renews what `signing-keys` and `sigstore-root` replace
    TrustUpdates = "trust-updates", one Url, Absent("none");
    /// Root metadata of that repository, from which later ones are verified
    TrustUpdatesRoot = "trust-updates-root", one Path, Absent("none");
    /// PEM files of further CAs to trust for upstream connections
    UpstreamCa = "upstream-ca", several Path, Absent("the system's CAs");
    /// How long upstream may be silent before a request fails
    UpstreamTimeout = "upstream-timeout", one Duration, Value("30s");
    /// How long to wait for upstream before a stale packument is served
    StaleWait = "stale-wait", one Duration, Value("3s");
    /// Maximum open connections; at the limit, new ones wait and idle ones close
    MaxConnections = "max-connections", one Count, Value("4096");
    /// Time limit for a request's first line and headers
    HeaderTimeout = "header-timeout", one Duration, Value("20s");
    /// Maximum size of the first line and headers, from `8KiB` to `1MiB`
    HeaderLimit = "header-limit", one Size, Value("32KiB");
    /// Maximum number of headers in a request, up to 1000
    MaxHeaders = "max-headers", one Count, Value("100");
    /// How long a connection may wait for its next request
    IdleTimeout = "idle-timeout", one Duration, Value("75s");
    /// Time limit for a request's body
    BodyTimeout = "body-timeout", one Duration, Value("2m");
    /// Maximum size of an audit request's body, compressed or not
    BodyLimit = "body-limit", one Size, Value("16MB");
    /// Maximum body size of a publish or another write
    WriteLimit = "write-limit", one Size, Value("250MB");
    /// How long a client may read its response below 512 bytes per second
    SendTimeout = "send-timeout", one Duration, Value("60s");
    /// How long running requests may take after a stop signal
    DrainTimeout = "drain-timeout", one Duration, Value("10s");
    /// Format of log lines
    LogFormat = "log-format", one Word(&["human", "json"]), Value("human");
    /// Minimum level of logged lines
    LogLevel = "log-level", one Word(&["error", "warn", "info", "debug", "trace"]), Value("info");
    /// Interval of the log line that sums up what was served; `0s` disables it
    SummaryInterval = "summary-interval", one Duration, Value("1h");
    /// How long the ledger records who downloaded what
    LedgerRetention = "ledger-retention", one Duration, Value("400d");
    /// Malware advisories: OSV directory or zip, URL of either, or a plain list
    Feed = "feed", several Feed, Absent("none");
    /// How often a feed is checked for changes, unless its table sets `interval`
    FeedInterval = "feed-interval", one Duration, Value("5m");
    /// When an unconfirmed feed becomes stale, unless its table sets `expiry`
    FeedExpiry = "feed-expiry", one Duration, Value("24h");
    /// Report not ready while a feed is stale
    FeedReadiness = "feed-readiness", one Truth, Value("false");
    /// Accept a local feed without records, such as a new directory of your own
    FeedMayBeEmpty = "feed-may-be-empty", one Truth, Value("false");
    /// Serve before every feed has been read, instead of refusing everything
    UnsafeServeWithoutFeed = "unsafe-serve-without-feed", one Truth, Value("false");
}

pub fn table_markdown() -> String {
    let mut table = "| file | flag | environment | default | what it does |\n|---|---|---|---|---|\n".to_owned();
    for setting in &SETTINGS {
        let several = if setting.several { " (several)" } else { "" };
        let default = match setting.default {
            DefaultValue::Value(value) => format!("`{value}`"),
            DefaultValue::Absent(text) => text.to_owned(),
        };
        let placeholder = setting.kind.placeholder();
        // The value of a boolean flag follows `=` and may be omitted.
        let value = if setting.kind == ValueKind::Truth { format!("[={placeholder}]") } else { format!(" {placeholder}") };
        let (flag, variable, Setting { name, help, .. }) = (setting.flag(), setting.variable(), setting);
        // Writing to a `String` cannot fail.
        let _ = writeln!(table, "| `{name}` | `{flag}{value}`{several} | `{variable}` | {default} | {help} |");
    }
    table
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn settings_have_unique_names_and_short_help() {
        let mut names = std::collections::HashSet::new();
        for setting in &SETTINGS {
            assert_eq!(setting.key.setting().name, setting.name);
            assert!(names.insert(setting.name), "{}", setting.name);
            assert!(setting.name.bytes().all(|byte| byte.is_ascii_lowercase() || byte == b'-'), "{}", setting.name);
            assert!(!setting.help.starts_with(' ') && !setting.help.ends_with('.'), "{}", setting.name);
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
