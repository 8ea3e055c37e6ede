//! Classifies addresses in lockfiles: through Coldframe, its upstream, or another host. Does not connect to any.

use url::Url;

use crate::app::listeners::local_url;
use crate::config::Config;
use crate::npm::lockfile::LockfileFormat;
use crate::upstream::npmrc;

/// Known registry addresses, as `host:port`.
pub(crate) struct RegistryHosts {
    own: Vec<String>,
    upstream: Vec<String>,
    public: Option<String>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum AddressRoute {
    Through,
    /// Directly to an upstream registry of Coldframe, regardless of the client's configuration.
    Spelled,
    Around,
}

impl RegistryHosts {
    /// Collects the addresses of a configuration and of the `server` to ask.
    pub(crate) fn of(config: &Config, server: Option<&Url>) -> Self {
        let listening = config.listen.iter().flat_map(|listener| {
            let port = listener.socket.port();
            [listener.socket.to_string(), format!("127.0.0.1:{port}"), format!("localhost:{port}")]
        });
        let named = config.server.public_url.iter().chain(server).filter_map(place);
        let registries = config.upstream.registries();
        Self {
            own: listening.chain(named).collect(),
            upstream: registries.filter_map(|registry| place(&registry.address())).collect(),
            public: place(&npmrc::npm_default_registry()),
        }
    }

    pub(crate) fn add(&mut self, upstreams: &[String]) {
        self.upstream.extend(upstreams.iter().filter_map(|text| place(&Url::parse(text).ok()?)));
    }

    pub(crate) fn is_own(&self, url: &Url) -> bool {
        place(url).is_some_and(|place| self.own.contains(&place))
    }

    /// Returns how a client reaches `address` from a lockfile in this format.
    pub(crate) fn way(&self, address: &str, dialect: LockfileFormat) -> AddressRoute {
        let Some(place) = Url::parse(address).ok().as_ref().and_then(place) else { return AddressRoute::Around };
        let is_public = self.public.as_ref() == Some(&place);
        // These clients replace the public registry's host by the configured one when they install from the lockfile.
        let is_replaced = is_public && matches!(dialect, LockfileFormat::Npm | LockfileFormat::Deno);
        if self.own.contains(&place) || is_replaced {
            return AddressRoute::Through;
        }
        if is_public || self.upstream.contains(&place) { AddressRoute::Spelled } else { AddressRoute::Around }
    }
}

pub(crate) fn place(url: &Url) -> Option<String> {
    Some(format!("{}:{}", url.host_str()?, url.port_or_known_default()?))
}

/// Returns the URL under which clients reach a server with this configuration.
pub(crate) fn own_url(config: &Config) -> Option<Url> {
    let listening = config.listen.first().copied().map(local_url);
    config.server.public_url.clone().or_else(|| Url::parse(&listening?).ok())
}

/// Formats an address for output: host, port if not the default, and the scheme if it is unencrypted.
pub(crate) fn host(address: &str) -> String {
    let url = Url::parse(address).ok();
    let Some((url, name)) = url.as_ref().and_then(|url| Some((url, url.host_str()?))) else {
        return address.chars().take(100).collect();
    };
    let scheme = if url.scheme() == "http" { "http://" } else { "" };
    let port = url.port().map(|port| format!(":{port}")).unwrap_or_default();
    format!("{scheme}{name}{port}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_are_classified_by_host_and_port() {
        let config = Config::from_pairs(&[
            ("data-dir", "/data"),
            ("upstream", "https://npm.registry.example/all/"),
            ("listen", "127.0.0.1:4873"),
            ("public-url", "https://coldframe.example/npm"),
        ])
        .unwrap();
        let hosts = RegistryHosts::of(&config, Some(&Url::parse("http://10.0.0.1:4873/").unwrap()));
        let public = npmrc::npm_default_registry();
        for (address, dialect, way) in [
            ("http://localhost:4873/a/-/a-1.0.0.tgz", LockfileFormat::Npm, AddressRoute::Through),
            ("https://coldframe.example/npm/a/-/a-1.0.0.tgz", LockfileFormat::YarnClassic, AddressRoute::Through),
            ("http://10.0.0.1:4873/a", LockfileFormat::Bun, AddressRoute::Through),
            ("https://npm.registry.example/all/a/-/a-1.0.0.tgz", LockfileFormat::Npm, AddressRoute::Spelled),
            ("https://npm.registry.example:8443/a", LockfileFormat::Npm, AddressRoute::Around),
            ("https://npm.registry.example.evil.example/a", LockfileFormat::Npm, AddressRoute::Around),
            ("not an address", LockfileFormat::Npm, AddressRoute::Around),
            (public.as_str(), LockfileFormat::Npm, AddressRoute::Through),
            (public.as_str(), LockfileFormat::YarnClassic, AddressRoute::Spelled),
        ] {
            assert_eq!(hosts.way(address, dialect), way, "{address} in {dialect:?}");
        }
    }
}
