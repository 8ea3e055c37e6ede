//! Kinds of setting values, with their placeholders and descriptions.

/// The allowed sources of a feed.
pub(crate) const FEED_SOURCE: &str =
    "a path, or an `http` or `https` URL, such as `./osv/` or `https://feeds.example/npm/all.zip`";

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ValueKind {
    Address,
    Listener,
    Policy,
    Url,
    Duration,
    Size,
    PackageGlob,
    HostGlob,
    /// Scopes and globs of packages, and the registry that serves them.
    Route,
    HostName,
    Path,
    /// A file of what is trusted, or `none`.
    FileOrNone,
    Feed,
    Network,
    Truth,
    Count,
    Number,
    /// How publish times are determined, for all registries or for one scope's.
    TimeMode,
    Word(&'static [&'static str]),
}

impl ValueKind {
    pub(crate) fn placeholder(self) -> &'static str {
        self.texts().0
    }

    /// Describes the allowed values, for error messages.
    pub(crate) fn allowed(self) -> String {
        match self {
            Self::Word(words) => format!("`{}`", words.join("`, `")),
            _ => self.texts().1.to_owned(),
        }
    }

    /// Returns the placeholder and the allowed values.
    fn texts(self) -> (&'static str, &'static str) {
        match self {
            Self::Address => ("ADDRESS:PORT", "an IP address and a port, such as `127.0.0.1:8080`; port 0 picks a free one"),
            Self::Listener => (
                "ADDRESS:PORT[=POLICY]",
                "an IP address and a port, such as `127.0.0.1:4873` or `[::1]:4873`; port 0 picks a free one; a policy \
                 may follow, as in `127.0.0.1:4874=strict`; with `tls-cert`, `http://` before it keeps one without TLS",
            ),
            Self::Policy => {
                ("POLICY", "`default`, `strict`, `ci`, `observe`, or the path of a file or a directory of `*.toml` files")
            }
            Self::Url => ("URL", "an `http` or `https` URL without query, such as `https://registry.example/npm/`"),
            Self::Duration => {
                ("DURATION", "numbers with a unit of s, m, h, d or w, such as `45s`, `90m`, `72h`, `7d`, `1d12h`; `0s` is zero")
            }
            Self::Size => ("SIZE", "a number with a unit of B, KB, MB, GB, TB, KiB, MiB, GiB or TiB, such as `512MB` or `10GiB`"),
            Self::PackageGlob => ("GLOB", "a package name or a glob, such as `lodash`, `@acme/*` or `eslint-*`"),
            Self::HostGlob => ("GLOB", "a host name or a glob, such as `cdn.example` or `*.storage.example`"),
            Self::Route => (
                "PACKAGES=URL",
                "scopes and globs, and the URL of their registry, such as `@acme acme-*=https://acme.example/npm/`",
            ),
            Self::HostName => ("HOST", "a host name without port, such as `registry.example`"),
            Self::Path => ("PATH", "a path"),
            Self::FileOrNone => ("PATH", "the path of a file, or `none`"),
            Self::Feed => ("PATH-OR-URL", FEED_SOURCE),
            Self::Network => ("CIDR", "an IP address or a network, such as `10.0.0.7` or `10.0.0.0/8`"),
            Self::Truth => ("BOOL", "`true` or `false`"),
            Self::Count => ("NUMBER", "a whole number of at least 1"),
            Self::Number => ("NUMBER", "a whole number, 0 or more"),
            Self::TimeMode => {
                ("[SCOPE=]MODE", "`checked`, `first-seen` or `trust`; for one scope's registry, as in `@acme=trust`")
            }
            Self::Word(_) => ("WORD", ""),
        }
    }
}
