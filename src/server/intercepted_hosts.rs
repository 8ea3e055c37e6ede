//! The hosts that the gateway answers for itself, and which place on them is the registry. Refuses to know any other host.

use std::sync::{Arc, OnceLock};

use rustls_pki_types::DnsName;
use url::{Host, Url};

use crate::firewall::BaseUrl;
use crate::npm::tarball_address::{Intercepted, Origins, below};
use crate::upstream::{Addressed, npmrc};

/// The hosts.
#[derive(Debug, Clone, Default)]
pub struct InterceptedHosts {
    hosts: Vec<Arc<InterceptedHost>>,
    /// Every port of them, made when the first is looked for.
    aims: OnceLock<Vec<InterceptTarget>>,
}

/// One host.
#[derive(Debug, Clone)]
pub struct InterceptedHost {
    /// Its name, lower case, or its address, as a URL spells it.
    pub host: Box<str>,
    /// The name that certificates are minted for. An address has none, and neither has this machine: in plain HTTP alone they
    /// are answered for.
    pub name: Option<DnsName<'static>>,
    /// Whether nobody configured it: an authority that leaves it out will do.
    is_alias: bool,
    /// Whether the operator named it as one more name of upstream or of Coldframe.
    is_named: bool,
    /// Ports, besides 443 and 80 of a name, and whether TLS is spoken there.
    ports: Vec<(u16, bool)>,
    /// The paths below which it is a registry, without the slash at their end; the longest first, empty for all of it.
    prefixes: Vec<Box<str>>,
}

/// One port of one host: what a connection was opened to.
#[derive(Debug, Clone)]
pub struct InterceptTarget {
    /// The host.
    pub target: Arc<InterceptedHost>,
    /// The port.
    pub port: u16,
    /// Whether TLS is spoken there.
    pub secure: bool,
    /// The addresses of its registries, one for each of the target's prefixes.
    bases: Arc<[BaseUrl]>,
}

impl InterceptedHosts {
    /// Adds the host of a registry. One whose host is an address or this machine is no target: its clients are asked to go to
    /// it directly.
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

    /// Adds a registry whose host is an address or this machine, in plain HTTP: for a gateway whose clients cannot be asked to
    /// go there directly, because they must not. No certificate can be minted for one, so of `https` nothing is added.
    pub fn add_unnamed(&mut self, url: &Url) {
        let (Some(host), Some(port), "http") = (url.host_str(), url.port_or_known_default(), url.scheme()) else { return };
        self.entry(host, None).extend(Some((port, false)), url);
    }

    /// Adds another name of a registry that is there already, which some client uses by itself.
    pub fn add_alias(&mut self, host: &DnsName<'static>) {
        let known = self.hosts.len();
        self.entry(host.as_ref(), Some(host)).take_root();
        if let Some(added) = self.hosts.get_mut(known) {
            Arc::make_mut(added).is_alias = true;
        }
    }

    /// Notes that the host of `url`, which is there already, is one more name of Coldframe.
    pub fn name(&mut self, url: &Url) {
        self.aims = OnceLock::new();
        let named = self.hosts.iter_mut().find(|target| Some(&*target.host) == url.host_str());
        if let Some(named) = named {
            Arc::make_mut(named).is_named = true;
        }
    }

    /// Adds a host that is a registry from its root on, unless it is one already.
    pub fn add_host(&mut self, host: &DnsName<'static>) {
        let target = self.entry(host.as_ref(), Some(host));
        target.is_alias = false;
        target.is_named = true;
        target.take_root();
    }

    /// The names that the operator named.
    #[must_use]
    pub fn named_hosts(&self) -> Vec<DnsName<'static>> {
        self.hosts.iter().filter(|target| target.is_named).filter_map(|target| target.name.clone()).collect()
    }

    /// The names of all hosts that have one.
    #[must_use]
    pub fn hosts(&self) -> Vec<DnsName<'static>> {
        self.hosts.iter().filter_map(|target| target.name.clone()).collect()
    }

    /// The names that an authority has to cover.
    #[must_use]
    pub fn expected(&self) -> Vec<DnsName<'static>> {
        self.hosts.iter().filter(|target| !target.is_alias).filter_map(|target| target.name.clone()).collect()
    }

    /// Every place that is ours, as `https://registry.example` or `http://127.0.0.1:4873`.
    #[must_use]
    pub fn origins(&self) -> Vec<String> {
        self.hosts.iter().flat_map(|target| target.all_ports().map(|(port, secure)| origin(&target.host, port, secure))).collect()
    }

    /// What a connection to `port` of `host`, lower case, is opened to, if that is ours.
    #[must_use]
    pub fn find(&self, host: &str, port: u16) -> Option<InterceptTarget> {
        let aims = self.aims.get_or_init(|| self.aims());
        aims.iter().find(|aim| aim.port == port && *aim.target.host == *host).cloned()
    }

    /// Makes every port of every host.
    fn aims(&self) -> Vec<InterceptTarget> {
        let every = || self.hosts.iter().flat_map(|target| target.all_ports().map(move |(port, secure)| (target, port, secure)));
        let mut origins = Origins::default();
        for (target, port, secure) in every() {
            origins.push(origin(&target.host, port, secure), target.prefixes.clone());
        }
        let (text, origins) = (origins.to_text(), Arc::new(origins));
        let aim = |(target, port, secure): (&Arc<InterceptedHost>, u16, bool)| {
            let bases = target.prefixes.iter().map(|prefix| {
                let base: Arc<str> = format!("{}{prefix}", origin(&target.host, port, secure)).into();
                let intercepted = Intercepted { origins: Arc::clone(&origins), view: format!("{base} {text}").into() };
                // There are as many of these as the configuration names.
                BaseUrl { text: base, remembered: true, explains: false, intercepted: Some(Arc::new(intercepted)) }
            });
            InterceptTarget { target: Arc::clone(target), port, secure, bases: bases.collect() }
        };
        every().map(aim).collect()
    }

    fn entry(&mut self, host: &str, name: Option<&DnsName<'static>>) -> &mut InterceptedHost {
        self.aims = OnceLock::new();
        let at = self.hosts.iter().position(|target| *target.host == *host).unwrap_or_else(|| {
            self.hosts.push(Arc::new(InterceptedHost {
                host: host.into(),
                name: name.cloned(),
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
    /// The ports that a name has by itself.
    fn usual(&self) -> &'static [(u16, bool)] {
        if self.name.is_some() { &[(443, true), (80, false)] } else { &[] }
    }

    /// A registry from its root on, unless it is one already.
    fn take_root(&mut self) {
        if self.prefixes.is_empty() {
            self.prefixes.push("".into());
        }
    }

    /// Its ports, each once, and whether TLS is spoken there.
    fn all_ports(&self) -> impl Iterator<Item = (u16, bool)> {
        let usual = self.usual().iter().filter(|(port, _)| !self.ports.iter().any(|(known, _)| known == port));
        self.ports.iter().chain(usual).copied()
    }

    /// Adds a port, and the place of a registry.
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
    /// The path below the registry's own, and the address that stands before it; `None` for a path that is not the registry's.
    #[must_use]
    pub fn place<'a>(&self, path: &'a str) -> Option<(&'a str, &BaseUrl)> {
        let of_prefix = |(prefix, base)| Some((below(std::slice::from_ref(prefix), path)?, base));
        self.target.prefixes.iter().zip(&*self.bases).find_map(of_prefix)
    }

    /// The address of the registry that is nearest to the root of the host: that of paths which are no registry's.
    #[must_use]
    pub fn outermost(&self) -> Option<&BaseUrl> {
        self.bases.last()
    }

    /// What a client addressed that wrote `base` before its paths. yarn's name for npm's default registry stands for that one.
    #[must_use]
    pub fn addressed(&self, base: &Arc<str>) -> Addressed {
        if self.target.is_named {
            return Addressed::Named(Arc::clone(base));
        }
        let default = self.target.is_alias.then(npmrc::built_in);
        match default.as_ref().and_then(Url::host_str) {
            Some(host) => Addressed::Host(origin(host, self.port, self.secure).into()),
            None => Addressed::Host(Arc::clone(base)),
        }
    }

    /// Whether `host`, as a `Host` header or an absolute target spells it, means this.
    #[must_use]
    pub fn is_named_by(&self, host: &str) -> bool {
        let (name, port) = crate::net::headers::split_host(host);
        let usual = if self.secure { 443 } else { 80 };
        let port = port.map_or(Some(usual), |port| port.parse().ok());
        port == Some(self.port) && name.trim_end_matches('.').eq_ignore_ascii_case(&self.target.host)
    }
}

/// What a client writes before a path.
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
    fn a_loopback_or_an_address_is_never_a_target() {
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
    fn where_it_is_asked_for_an_address_is_answered_for_in_plain_http() {
        let mut targets = InterceptedHosts::default();
        for url in ["http://127.0.0.1:4000/npm/", "http://[::1]:4000/", "http://localhost/", "https://10.0.0.1/"] {
            targets.add_unnamed(&Url::parse(url).unwrap());
        }
        let place = |host, port, path| {
            targets.find(host, port).and_then(|aim| aim.place(path).map(|(rest, base)| format!("{} {rest}", base.text)))
        };
        assert_eq!(place("127.0.0.1", 4000, "/npm/a").unwrap(), "http://127.0.0.1:4000/npm /a");
        assert_eq!(place("[::1]", 4000, "/a").unwrap(), "http://[::1]:4000 /a");
        assert_eq!(place("localhost", 80, "/a").unwrap(), "http://localhost /a");
        assert!(targets.hosts().is_empty() && targets.find("10.0.0.1", 443).is_none());
        for (host, port) in [("127.0.0.1", 80), ("127.0.0.1", 443), ("localhost", 443)] {
            assert!(targets.find(host, port).is_none(), "{host}:{port}");
        }
        assert_eq!(targets.origins(), ["http://127.0.0.1:4000", "http://[::1]:4000", "http://localhost"]);
        let aim = targets.find("[::1]", 4000).unwrap();
        assert!(aim.is_named_by("[::1]:4000") && !aim.is_named_by("[::1]") && !aim.is_named_by("127.0.0.1:4000"));
    }

    #[test]
    fn a_registry_is_answered_for_at_its_ports_and_below_its_paths() {
        let targets = targets(
            &["https://Corp.example:8443/api/npm/a/", "https://corp.example:8443/api/npm/a/b/", "https://registry.example/"],
            &["corp.example", "alias.example"],
        );
        let place = |host, port, path| {
            targets.find(host, port).and_then(|aim| aim.place(path).map(|(rest, base)| format!("{} {rest}", base.text)))
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
    fn an_alias_is_a_registry_that_no_authority_has_to_cover() {
        let mut targets = targets(&["https://registry.example/"], &["named.example"]);
        for name in ["alias.example", "registry.example"] {
            targets.add_alias(&DnsName::try_from(name).unwrap());
        }
        let names = |hosts: Vec<DnsName<'static>>| hosts.iter().map(|host| host.as_ref().to_owned()).collect::<Vec<_>>();
        assert_eq!(names(targets.hosts()), ["registry.example", "named.example", "alias.example"]);
        assert_eq!(names(targets.expected()), ["registry.example", "named.example"]);
        assert!(targets.find("alias.example", 443).unwrap().place("/a").is_some());
        // Named by whoever runs it, it is like any other.
        targets.add_host(&DnsName::try_from("alias.example").unwrap());
        assert_eq!(targets.expected().len(), 3);
    }

    #[test]
    fn what_a_client_addressed_is_a_registry_unless_the_operator_named_the_host() {
        let mut targets = targets(&["https://registry.example/npm/"], &["named.example"]);
        targets.add_alias(&DnsName::try_from("alias.example").unwrap());
        let addressed = |host: &str, path: &str| {
            let aim = targets.find(host, 443).unwrap();
            let (_, base) = aim.place(path).unwrap();
            aim.addressed(&base.text)
        };
        assert_eq!(addressed("registry.example", "/npm/a"), Addressed::Host("https://registry.example/npm".into()));
        assert_eq!(addressed("named.example", "/a"), Addressed::Named("https://named.example".into()));
        let default = npmrc::built_in();
        assert_eq!(addressed("alias.example", "/a"), Addressed::Host(default.as_str().trim_end_matches('/').into()));
        let mut ours = InterceptedHosts::default();
        let url = Url::parse("http://127.0.0.1:4873/").unwrap();
        ours.add_unnamed(&url);
        ours.name(&url);
        let aim = ours.find("127.0.0.1", 4873).unwrap();
        let (_, base) = aim.place("/a").unwrap();
        assert_eq!(aim.addressed(&base.text), Addressed::Named("http://127.0.0.1:4873".into()));
        assert!(ours.named_hosts().is_empty(), "an address has no name");
    }

    #[test]
    fn a_host_header_names_it_with_or_without_the_usual_port() {
        let targets = targets(&["https://registry.example/"], &[]);
        let aim = targets.find("registry.example", 443).unwrap();
        for (host, expected) in [
            ("registry.example", true),
            ("REGISTRY.example:443", true),
            ("registry.example.", true),
            ("registry.example:80", false),
            ("registry.example:x", false),
            ("other.example", false),
            ("registry.example.other", false),
        ] {
            assert_eq!(aim.is_named_by(host), expected, "{host}");
        }
    }
}
