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
    HostName,
    Path,
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
        match self {
            Self::Address => "ADDRESS:PORT",
            Self::Listener => "ADDRESS:PORT[=POLICY]",
            Self::Policy => "POLICY",
            Self::Url => "URL",
            Self::Duration => "DURATION",
            Self::Size => "SIZE",
            Self::PackageGlob | Self::HostGlob => "GLOB",
            Self::HostName => "HOST",
            Self::Path => "PATH",
            Self::Feed => "PATH-OR-URL",
            Self::Network => "CIDR",
            Self::Truth => "BOOL",
            Self::Count | Self::Number => "NUMBER",
            Self::TimeMode => "[SCOPE=]MODE",
            Self::Word(_) => "WORD",
        }
    }

    /// Describes the allowed values, for error messages.
    pub(crate) fn allowed(self) -> String {
        let text = match self {
            Self::Address => "an IP address and a port, such as `127.0.0.1:8080`; port 0 picks a free one",
            Self::Listener => {
                "an IP address and a port, such as `127.0.0.1:4873` or `[::1]:4873`; port 0 picks a free one; a policy \
                 may follow, as in `127.0.0.1:4874=strict`"
            }
            Self::Policy => "`default`, `strict`, `ci`, `observe`, or the path of a file or a directory of `*.toml` files",
            Self::Url => "an `http` or `https` URL without query, such as `https://registry.example/npm/`",
            Self::Duration => "numbers with a unit of s, m, h, d or w, such as `45s`, `90m`, `72h`, `7d`, `1d12h`; `0s` is zero",
            Self::Size => "a number with a unit of B, KB, MB, GB, TB, KiB, MiB, GiB or TiB, such as `512MB` or `10GiB`",
            Self::PackageGlob => "a package name or a glob, such as `lodash`, `@acme/*` or `eslint-*`",
            Self::HostGlob => "a host name or a glob, such as `cdn.example` or `*.storage.example`",
            Self::HostName => "a host name without port, such as `registry.example`",
            Self::Path => "a path",
            Self::Feed => FEED_SOURCE,
            Self::Network => "an IP address or a network, such as `10.0.0.7` or `10.0.0.0/8`",
            Self::Truth => "`true` or `false`",
            Self::Count => "a whole number of at least 1",
            Self::Number => "a whole number, 0 or more",
            Self::TimeMode => "`checked`, `first-seen` or `trust`; for one scope's registry, as in `@acme=trust`",
            Self::Word(words) => return format!("`{}`", words.join("`, `")),
        };
        text.to_owned()
    }
}
