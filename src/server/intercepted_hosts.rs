//! The hosts that the gateway intercepts, and the registry paths on them.

use std::sync::{Arc, OnceLock};

use rustls_pki_types::DnsName;
use url::{Host, Url};

use crate::firewall::BaseUrl;
use crate::npm::tarball_address::{Intercepted, Origins, below};
use crate::upstream::{Addressed, npmrc};

#[derive(Debug, Clone, Default)]
pub struct InterceptedHosts {
    hosts: Vec<Arc<InterceptedHost>>,
    /// All ports of all hosts, built at first use.
    targets: OnceLock<Vec<InterceptTarget>>,
}

#[derive(Debug, Clone)]
pub struct InterceptedHost {
    /// The name in lower case or the address, as in a URL.
    pub name: Box<str>,
    /// The name for certificates. Addresses and loopback names have none and are intercepted only in plain HTTP.
    pub dns_name: Option<DnsName<'static>>,
    /// Whether it was added automatically. The CA need not cover it.
    is_alias: bool,
    /// Whether the operator named it as another name of upstream or Coldframe.
    is_named: bool,
    /// Ports besides 443 and 80 of a name, and whether they use TLS.
    ports: Vec<(u16, bool)>,
    /// The registry paths without trailing slash, longest first. An empty path is the whole host.
    prefixes: Vec<Box<str>>,
}

/// A port of an intercepted host, as the target of a connection.
#[derive(Debug, Clone)]
pub struct InterceptTarget {
    pub host: Arc<InterceptedHost>,
    pub port: u16,
    /// Whether the port uses TLS.
    pub secure: bool,
    /// The base URLs of the registries, one per prefix of the host. The last is the nearest to the root.
    pub(crate) bases: Arc<[BaseUrl]>,
}

impl InterceptedHosts {
    /// Adds the host of a registry. Ignores addresses and loopback names: clients must connect to those directly.
    pub fn add_registry(&mut self, url: &Url) {
        let Some(Host::Domain(name)) = url.host() else { return };
        let Ok(host) = DnsName::try_from(name) else { return };
        let host = host.to_lowercase_owned();
        if host.as_ref() == "localhost" || host.as_ref().ends_with(".localhost") {
            return;
        }
        let port = url.port().map(|port| (port, url.scheme() == "https"));
        self.entry(host.as_ref(), Some(&host)).extend(port, url);
    }

    /// Adds a plain HTTP registry with an address or loopback name. Ignores `https`: no certificate can be issued for it.
    pub fn add_plain_http(&mut self, url: &Url) {
        let (Some(host), Some(port), "http") = (url.host_str(), url.port_or_known_default(), url.scheme()) else { return };
        self.entry(host, None).extend(Some((port, false)), url);
    }

    /// Adds another name of a known registry that some client uses by default.
    pub fn add_alias(&mut self, host: &DnsName<'static>) {
        let known = self.hosts.len();
        self.entry(host.as_ref(), Some(host)).take_root();
        if let Some(added) = self.hosts.get_mut(known) {
            Arc::make_mut(added).is_alias = true;
        }
    }

    /// Marks the known host of `url` as another name of Coldframe.
    pub fn name(&mut self, url: &Url) {
        self.targets = OnceLock::new();
        let named = self.hosts.iter_mut().find(|host| Some(&*host.name) == url.host_str());
        if let Some(named) = named {
            Arc::make_mut(named).is_named = true;
        }
    }

    /// Adds a host that is a registry at its root, unless it is already known as one.
    pub fn add_host(&mut self, host: &DnsName<'static>) {
        let entry = self.entry(host.as_ref(), Some(host));
        entry.is_alias = false;
        entry.is_named = true;
        entry.take_root();
    }

    /// Returns the names that the operator added.
    pub(crate) fn named_hosts(&self) -> Vec<DnsName<'static>> {
        self.hosts.iter().filter(|host| host.is_named).filter_map(|host| host.dns_name.clone()).collect()
    }

    pub(crate) fn hosts(&self) -> Vec<DnsName<'static>> {
        self.hosts.iter().filter_map(|host| host.dns_name.clone()).collect()
    }

    /// Returns the names that the CA must cover.
    pub(crate) fn expected(&self) -> Vec<DnsName<'static>> {
        self.hosts.iter().filter(|host| !host.is_alias).filter_map(|host| host.dns_name.clone()).collect()
    }

    /// Returns all intercepted origins, such as `https://registry.example` or `http://127.0.0.1:4873`.
    pub(crate) fn origins(&self) -> Vec<String> {
        self.hosts.iter().flat_map(|host| host.all_ports().map(|(port, secure)| origin(&host.name, port, secure))).collect()
    }

    /// Returns the target of a connection to `port` of `host`, in lower case, if it is intercepted.
    pub(crate) fn find(&self, host: &str, port: u16) -> Option<InterceptTarget> {
        let targets = self.targets.get_or_init(|| self.targets());
        targets.iter().find(|target| target.port == port && *target.host.name == *host).cloned()
    }

    fn targets(&self) -> Vec<InterceptTarget> {
        let every = || self.hosts.iter().flat_map(|host| host.all_ports().map(move |(port, secure)| (host, port, secure)));
        let mut origins = Origins::default();
        for (host, port, secure) in every() {
            origins.push(origin(&host.name, port, secure), host.prefixes.clone());
        }
        let (text, origins) = (origins.to_text(), Arc::new(origins));
        let target = |(host, port, secure): (&Arc<InterceptedHost>, u16, bool)| {
            let bases = host.prefixes.iter().map(|prefix| {
                let base: Arc<str> = format!("{}{prefix}", origin(&host.name, port, secure)).into();
                let intercepted = Intercepted { origins: Arc::clone(&origins), view: format!("{base} {text}").into() };
                // Cacheable, since the configuration bounds their number.
                BaseUrl { text: base, cacheable: true, serves_admin: false, intercepted: Some(Arc::new(intercepted)) }
            });
            InterceptTarget { host: Arc::clone(host), port, secure, bases: bases.collect() }
        };
        every().map(target).collect()
    }

    fn entry(&mut self, host: &str, name: Option<&DnsName<'static>>) -> &mut InterceptedHost {
        self.targets = OnceLock::new();
        let at = self.hosts.iter().position(|known| *known.name == *host).unwrap_or_else(|| {
            self.hosts.push(Arc::new(InterceptedHost {
                name: host.into(),
                dns_name: name.cloned(),
                is_alias: false,
                is_named: false,
                ports: Vec::new(),
                prefixes: Vec::new(),
            }));
            self.hosts.len() - 1
        });
        Arc::make_mut(&mut self.hosts[at])
    }
}

impl InterceptedHost {
    /// Makes the root a registry, unless the host has one already.
    fn take_root(&mut self) {
        if self.prefixes.is_empty() {
            self.prefixes.push("".into());
        }
    }

    /// Returns each port once, and whether it uses TLS.
    fn all_ports(&self) -> impl Iterator<Item = (u16, bool)> {
        let usual: &[_] = if self.dns_name.is_some() { &[(443, true), (80, false)] } else { &[] };
        let usual = usual.iter().filter(|(port, _)| !self.ports.iter().any(|(known, _)| known == port));
        self.ports.iter().chain(usual).copied()
    }

    fn extend(&mut self, port: Option<(u16, bool)>, registry: &Url) {
        self.ports.extend(port.filter(|port| !self.ports.contains(port)));
        let prefix: Box<str> = registry.path().trim_end_matches('/').into();
        if !self.prefixes.contains(&prefix) {
            self.prefixes.push(prefix);
            self.prefixes.sort_by_key(|prefix| std::cmp::Reverse(prefix.len()));
        }
    }
}

impl InterceptTarget {
    /// Returns the path below the registry and the registry's base URL. Returns `None` if the path is outside all registries.
    pub(crate) fn registry_path<'a>(&self, path: &'a str) -> Option<(&'a str, &BaseUrl)> {
        let of_prefix = |(prefix, base)| Some((below(std::slice::from_ref(prefix), path)?, base));
        self.host.prefixes.iter().zip(&*self.bases).find_map(of_prefix)
    }

    /// Returns what a client addressed with `base`. Yarn's alias means npm's default registry.
    pub(crate) fn addressed(&self, base: &Arc<str>) -> Addressed {
        if self.host.is_named {
            return Addressed::Named(Arc::clone(base));
        }
        let default = self.host.is_alias.then(npmrc::npm_default_registry);
        match default.as_ref().and_then(Url::host_str) {
            Some(host) => Addressed::Host(origin(host, self.port, self.secure).into()),
            None => Addressed::Host(Arc::clone(base)),
        }
    }

    /// Checks whether `host`, from a `Host` header or an absolute target, is this host and port.
    pub(crate) fn matches_host(&self, host: &str) -> bool {
        let (name, port) = crate::net::headers::split_host(host);
        let usual = if self.secure { 443 } else { 80 };
        let port = port.map_or(Some(usual), |port| port.parse().ok());
        port == Some(self.port) && name.trim_end_matches('.').eq_ignore_ascii_case(&self.host.name)
    }
}

/// Formats an origin without the default port.
fn origin(host: &str, port: u16, secure: bool) -> String {
    let (scheme, usual) = if secure { ("https", 443) } else { ("http", 80) };
    if port == usual { format!("{scheme}://{host}") } else { format!("{scheme}://{host}:{port}") }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn targets(registries: &[&str], hosts: &[&'static str]) -> InterceptedHosts {
        let mut targets = InterceptedHosts::default();
        for url in registries {
            targets.add_registry(&Url::parse(url).unwrap());
        }
        for host in hosts {
            targets.add_host(&DnsName::try_from(*host).unwrap());
        }
        targets
    }

    #[test]
    fn loopback_and_addresses_are_not_intercepted() {
        let targets = targets(
            &[
                "http://127.0.0.1:4000/",
                "http://[::1]/",
                "http://localhost:1/",
                "http://a.localhost/",
                "https://10.0.0.1/",
                "http://0x7f000001/",
            ],
            &[],
        );
        assert!(targets.hosts().is_empty());
    }

    #[test]
    fn address_can_be_intercepted_in_plain_http() {
        let mut targets = InterceptedHosts::default();
        for url in ["http://127.0.0.1:4000/npm/", "http://[::1]:4000/", "http://localhost/", "https://10.0.0.1/"] {
            targets.add_plain_http(&Url::parse(url).unwrap());
        }
        let place = |host, port, path| {
            targets
                .find(host, port)
                .and_then(|target| target.registry_path(path).map(|(rest, base)| format!("{} {rest}", base.text)))
        };
        assert_eq!(place("127.0.0.1", 4000, "/npm/a").unwrap(), "http://127.0.0.1:4000/npm /a");
        assert_eq!(place("[::1]", 4000, "/a").unwrap(), "http://[::1]:4000 /a");
        assert_eq!(place("localhost", 80, "/a").unwrap(), "http://localhost /a");
        assert!(targets.hosts().is_empty() && targets.find("10.0.0.1", 443).is_none());
        for (host, port) in [("127.0.0.1", 80), ("127.0.0.1", 443), ("localhost", 443)] {
            assert!(targets.find(host, port).is_none(), "{host}:{port}");
        }
        assert_eq!(targets.origins(), ["http://127.0.0.1:4000", "http://[::1]:4000", "http://localhost"]);
        let target = targets.find("[::1]", 4000).unwrap();
        assert!(target.matches_host("[::1]:4000") && !target.matches_host("[::1]") && !target.matches_host("127.0.0.1:4000"));
    }

    #[test]
    fn registry_is_intercepted_at_its_ports_and_paths() {
        let targets = targets(
            &["https://Corp.example:8443/api/npm/a/", "https://corp.example:8443/api/npm/a/b/", "https://registry.example/"],
            &["corp.example", "alias.example"],
        );
        let place = |host, port, path| {
            targets
                .find(host, port)
                .and_then(|target| target.registry_path(path).map(|(rest, base)| format!("{} {rest}", base.text)))
        };
        assert_eq!(place("registry.example", 443, "/a").unwrap(), "https://registry.example /a");
        assert_eq!(place("registry.example", 80, "/a").unwrap(), "http://registry.example /a");
        assert_eq!(place("alias.example", 443, "").unwrap(), "https://alias.example /");
        assert_eq!(place("corp.example", 8443, "/api/npm/a/b/x").unwrap(), "https://corp.example:8443/api/npm/a/b /x");
        assert_eq!(place("corp.example", 8443, "/api/npm/a/bx").unwrap(), "https://corp.example:8443/api/npm/a /bx");
        assert_eq!(place("corp.example", 443, "/x"), None);
        assert_eq!(
            targets.origins(),
            [
                "https://corp.example:8443",
                "https://corp.example",
                "http://corp.example",
                "https://registry.example",
                "http://registry.example",
                "https://alias.example",
                "http://alias.example",
            ]
        );
        assert!(targets.find("registry.example", 8443).is_none() && targets.find("other.example", 443).is_none());
    }

    #[test]
    fn alias_need_not_be_covered_by_the_ca() {
        let mut targets = targets(&["https://registry.example/"], &["named.example"]);
        for name in ["alias.example", "registry.example"] {
            targets.add_alias(&DnsName::try_from(name).unwrap());
        }
        let names = |hosts: Vec<DnsName<'static>>| hosts.iter().map(|host| host.as_ref().to_owned()).collect::<Vec<_>>();
        assert_eq!(names(targets.hosts()), ["registry.example", "named.example", "alias.example"]);
        assert_eq!(names(targets.expected()), ["registry.example", "named.example"]);
        assert!(targets.find("alias.example", 443).unwrap().registry_path("/a").is_some());
        // A host named by the operator is no longer an alias.
        targets.add_host(&DnsName::try_from("alias.example").unwrap());
        assert_eq!(targets.expected().len(), 3);
    }

    #[test]
    fn client_addresses_a_registry_unless_the_operator_named_the_host() {
        let mut targets = targets(&["https://registry.example/npm/"], &["named.example"]);
        targets.add_alias(&DnsName::try_from("alias.example").unwrap());
        let addressed = |host: &str, path: &str| {
            let target = targets.find(host, 443).unwrap();
            let (_, base) = target.registry_path(path).unwrap();
            target.addressed(&base.text)
        };
        assert_eq!(addressed("registry.example", "/npm/a"), Addressed::Host("https://registry.example/npm".into()));
        assert_eq!(addressed("named.example", "/a"), Addressed::Named("https://named.example".into()));
        let default = npmrc::npm_default_registry();
        assert_eq!(addressed("alias.example", "/a"), Addressed::Host(default.as_str().trim_end_matches('/').into()));
        let mut ours = InterceptedHosts::default();
        let url = Url::parse("http://127.0.0.1:4873/").unwrap();
        ours.add_plain_http(&url);
        ours.name(&url);
        let target = ours.find("127.0.0.1", 4873).unwrap();
        let (_, base) = target.registry_path("/a").unwrap();
        assert_eq!(target.addressed(&base.text), Addressed::Named("http://127.0.0.1:4873".into()));
        assert!(ours.named_hosts().is_empty(), "an address has no name");
    }

    #[test]
    fn host_header_matches_with_or_without_the_default_port() {
        let targets = targets(&["https://registry.example/"], &[]);
        let target = targets.find("registry.example", 443).unwrap();
        for (host, expected) in [
            ("registry.example", true),
            ("REGISTRY.example:443", true),
            ("registry.example.", true),
            ("registry.example:80", false),
            ("registry.example:x", false),
            ("other.example", false),
            ("registry.example.other", false),
        ] {
            assert_eq!(target.matches_host(host), expected, "{host}");
        }
    }
}
