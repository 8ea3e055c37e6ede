//! Selects the registry of a package, and applies reloaded settings.

use std::sync::{Arc, Mutex};

use arc_swap::ArcSwap;
use http::HeaderValue;
use url::Url;

use crate::net::{ClientConfig, HttpClient, TlsTrust};
use crate::npm::PackageName;
use crate::upstream::authorization::{Addressed, is_address};
use crate::upstream::circuit_breaker::AllCircuits;
use crate::upstream::config::Routes;
use crate::upstream::config::{Config, RegistryConfig, UpstreamConfigError, address};
use crate::upstream::credentials::CredentialRules;
use crate::upstream::registry::{Hosts, Registry, RegistryShared, lent_by, reaches};

/// What changed with a reloaded configuration.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Renewed {
    pub hosts: bool,
    pub credentials: bool,
    /// Nothing was applied: a registry would gain its first or lose its last credentials, and cached data be of another view.
    pub needs_restart: bool,
}

/// Selects the registry of a package: that of the first route that matches its name, else the default.
#[derive(Debug)]
pub struct Registries {
    default: Arc<Registry>,
    routes: Routes,
    /// The registry of each route.
    routed: Vec<Arc<Registry>>,
}

impl Registries {
    /// Creates the registries of `config`. Sends nothing. Fails if there is an `https` registry and `trust` is empty.
    pub(crate) fn open(config: &Config, trust: &TlsTrust) -> Result<Self, UpstreamConfigError> {
        if trust.roots == 0
            && let Some(secure) = config.registries().find(|registry| registry.url.scheme() == "https" && registry.ca.is_none())
        {
            return Err(UpstreamConfigError::NoRoots { url: secure.address().into(), found: trust.trouble.clone() });
        }
        let user_agent = HeaderValue::from_str(&config.user_agent);
        let user_agent = user_agent.map_err(|_| UpstreamConfigError::UserAgent(config.user_agent.escape_debug().to_string()))?;
        let (deadlines, proxies, tls) = (config.deadlines, config.proxies.clone(), Arc::clone(&trust.client));
        let client = HttpClient::new(&ClientConfig { deadlines, proxies, tls, user_agent });
        let mut addresses: Vec<Url> = config.registries().map(RegistryConfig::address).collect();
        addresses.sort_unstable();
        addresses.dedup();
        let shared = Arc::new(RegistryShared {
            client,
            hosts: ArcSwap::from_pointee(Hosts::of(config)),
            packument_limit: config.packument_limit,
            tarball_limit: config.tarball_limit,
            addresses: addresses.clone(),
            health: Mutex::default(),
        });
        let bound = if addresses.len() == 1 { addresses } else { config.client_credentials.iter().map(address).collect() };
        let open = |registry: &RegistryConfig| {
            let client = client_of(registry, config, trust, &shared)?;
            Registry::open(registry, config, (&bound, client), &shared).map(Arc::new)
        };
        let default = open(&config.default)?;
        let routed = config.routes.iter().map(|route| open(&route.registry)).collect::<Result<_, _>>()?;
        Ok(Self { default, routes: config.routes.clone(), routed })
    }

    /// Applies reloaded hosts and lent credentials; a changed URL needs a restart. Changes nothing if credentials cannot be sent.
    pub(crate) fn renew(&self, config: &Config) -> Result<Renewed, UpstreamConfigError> {
        let (fresh, shared) = (Hosts::of(config), &self.default.shared);
        let mut lent = Vec::new();
        let configured = |label: &str| config.routes.iter().find(|route| route.label() == label).map(|route| &route.registry);
        let routes = self.routes.iter().zip(&self.routed);
        let pairs = routes.map(|(route, registry)| (registry, configured(&route.label())));
        for (registry, configured) in std::iter::once((&self.default, Some(&config.default))).chain(pairs) {
            let Some(configured) = configured.filter(|configured| configured.address() == registry.url) else { continue };
            lent.push((registry, lent_by(configured, config)?));
        }
        let keeps_views = |(registry, rules): &(&Arc<Registry>, CredentialRules)| {
            registry.has_source() || reaches(rules, &registry.url, &fresh) == registry.has_credentials
        };
        if !lent.iter().all(keeps_views) {
            return Ok(Renewed { needs_restart: true, ..Renewed::default() });
        }
        let mut renewed = Renewed::default();
        if shared.hosts.load().texts() != fresh.texts() {
            shared.hosts.store(Arc::new(fresh));
            renewed.hosts = true;
        }
        for (registry, rules) in lent {
            renewed.credentials |= registry.set_credentials(rules);
        }
        Ok(renewed)
    }

    pub(crate) fn of(&self, name: &PackageName) -> &Arc<Registry> {
        self.routes.find(name).and_then(|at| self.routed.get(at)).unwrap_or(&self.default)
    }

    /// Checks whether a package is routed to another registry than the default one, which is never asked for it.
    pub(crate) fn is_private(&self, name: &PackageName) -> bool {
        self.of(name).id() != self.default.id()
    }

    /// Checks whether some packages are served by another registry than others.
    pub(crate) fn are_several(&self) -> bool {
        self.default.shared.addresses.len() > 1
    }

    /// Returns the URLs of all registries, without credentials.
    pub(crate) fn ids(&self) -> impl Iterator<Item = &str> {
        self.all().map(|registry| &**registry.id())
    }

    pub(crate) fn circuits(&self) -> AllCircuits {
        AllCircuits(self.all().map(|registry| Arc::clone(&registry.health.circuits)).collect())
    }

    /// Returns the registry of packages that no route matches.
    #[cfg(test)]
    pub(crate) fn default_registry(&self) -> &Arc<Registry> {
        &self.default
    }

    /// Returns the registry of a request that is not about a package: the one whose URL the client addressed, else the default.
    pub(crate) fn nameless(&self, addressed: &Addressed) -> &Arc<Registry> {
        let named = match addressed {
            Addressed::Coldframe => None,
            Addressed::Host(base) | Addressed::Named(base) => self.all().find(|registry| is_address(registry.id(), base)),
        };
        named.unwrap_or(&self.default)
    }

    /// Returns the registry of a request that is not about a package and carries a client's credentials in headers or body. It is
    /// the one of [`Registries::nameless`] if it accepts them, else the only one that does.
    pub(crate) fn account(&self, addressed: &Addressed) -> Option<&Arc<Registry>> {
        let nameless = self.nameless(addressed);
        if nameless.takes_clients(addressed) {
            return Some(nameless);
        }
        let mut taking = self.all().filter(|registry| registry.takes_clients(addressed));
        let first = taking.next()?;
        taking.all(|other| other.id() == first.id()).then_some(first)
    }

    fn all(&self) -> impl Iterator<Item = &Arc<Registry>> {
        std::iter::once(&self.default).chain(&self.routed)
    }
}

/// Returns the HTTP client of a registry: the shared one, or one that trusts the registry's own CAs too.
fn client_of(
    registry: &RegistryConfig,
    config: &Config,
    trust: &TlsTrust,
    shared: &RegistryShared,
) -> Result<HttpClient, UpstreamConfigError> {
    let Some(ca) = &registry.ca else { return Ok(shared.client.clone()) };
    let tls = trust.with_file.get(ca).map(Arc::clone).ok_or_else(|| UpstreamConfigError::Ca(ca.clone()))?;
    let user_agent = HeaderValue::from_str(&config.user_agent);
    let user_agent = user_agent.map_err(|_| UpstreamConfigError::UserAgent(config.user_agent.escape_debug().to_string()))?;
    Ok(HttpClient::new(&ClientConfig { deadlines: config.deadlines, proxies: config.proxies.clone(), tls, user_agent }))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::net::testing::{ScriptedServer, ServerAction, TestIdentity, answer};
    use crate::npm::PackumentForm;
    use crate::upstream::authorization::Authorization;
    use crate::upstream::config::Route;
    use crate::upstream::config::SettingOrigin;
    use crate::upstream::credentials::Credentials;
    use crate::upstream::testing;

    fn routes(of_scopes: &[(&str, &str)]) -> Routes {
        let elsewhere = |url: &str| RegistryConfig::new(Url::parse(url).unwrap(), SettingOrigin::BuiltIn);
        Routes::new(of_scopes.iter().map(|(scope, url)| Route::for_scope(scope, elsewhere(url))).collect()).unwrap()
    }

    #[test]
    fn scopes_have_their_registries_and_others_use_the_default() {
        let mut config = testing::config("http://npm.example/api?x#y");
        config.routes = routes(&[("@acme", "http://acme.example")]);
        let registries = Registries::open(&config, &testing::trust(&[])).unwrap();
        let id = |name: &str| registries.of(&PackageName::parse(name).unwrap()).id().to_string();
        assert_eq!(
            (id("@acme/ui"), id("ui"), id("@acmes/ui")),
            ("http://acme.example/".into(), "http://npm.example/api/".into(), "http://npm.example/api/".into())
        );
        assert!(registries.default_registry().has_credentials);
        let is_private = |name: &str| registries.is_private(&PackageName::parse(name).unwrap());
        assert!(is_private("@acme/ui") && is_private("@ACME/ui") && !is_private("ui") && !is_private("@acmes/ui"));
        config.routes = routes(&[("@acme", "http://npm.example/api")]);
        let same = Registries::open(&config, &testing::trust(&[])).unwrap();
        assert!(!same.is_private(&PackageName::parse("@acme/ui").unwrap()), "the default registry serves the scope");
    }

    #[test]
    fn has_credentials_if_some_may_be_sent_for_its_packages() {
        let open = |key: &str, tarball_hosts: &[&str]| {
            let mut config = testing::config("https://npm.example/a/");
            config.default.credentials = None;
            config.credentials.insert(key, Credentials::bearer("t").unwrap());
            config.tarball_hosts = tarball_hosts.iter().map(|host| host.parse().unwrap()).collect();
            let mut trust = testing::trust(&[]);
            trust.roots = 1;
            Registries::open(&config, &trust).unwrap().default_registry().has_credentials
        };
        assert!(open("npm.example/a/", &[]) && open("npm.example/", &[]) && open("npm.example/b/", &[]));
        assert!(!open("npm.example:8443/a/", &[]) && !open("files.example/", &[]));
        assert!(open("files.example/", &["files.example"]));
    }

    #[test]
    fn client_credentials_are_for_the_only_the_marked_or_the_addressed_registry() {
        let (public, private) = ("http://npm.example/", "http://acme.example/npm/");
        let open = |marked: &[&str], several: bool| {
            let mut config = testing::config(public);
            if several {
                config.routes = routes(&[("@acme", private), ("@also", "http://acme.example/npm")]);
            }
            config.client_credentials = marked.iter().map(|url| Url::parse(url).unwrap()).collect();
            Registries::open(&config, &testing::trust(&[])).unwrap()
        };
        let takes = |registries: &Registries, addressed: &Addressed| {
            ["ui", "@acme/ui"].map(|name| registries.of(&PackageName::parse(name).unwrap()).takes_clients(addressed))
        };
        let at = |base: &str| base.trim_end_matches('/').into();
        for (registries, addressed, expected) in [
            (open(&[], false), Addressed::Coldframe, [true, true]),
            (open(&[], false), Addressed::Named(at("https://alias.example/")), [true, true]),
            (open(&[], false), Addressed::Host(at("https://alias.example/")), [false, false]),
            (open(&[], true), Addressed::Coldframe, [false, false]),
            (open(&[private], true), Addressed::Coldframe, [false, true]),
            (open(&["http://acme.example/npm"], true), Addressed::Coldframe, [false, true]),
            (open(&[private], true), Addressed::Host(at(public)), [true, false]),
            (open(&[public], true), Addressed::Host(at(private)), [false, true]),
            (open(&[public], true), Addressed::Named(at(private)), [false, true]),
            (open(&[public], true), Addressed::Named(at("http://alias.example/")), [true, false]),
            (open(&[public], true), Addressed::Host(at("http://acme.example/")), [false, false]),
            (open(&[public], true), Addressed::Host(at("http://acme.example/npm-other")), [false, false]),
        ] {
            assert_eq!(takes(&registries, &addressed), expected, "{addressed:?}");
        }
    }

    #[tokio::test]
    async fn credentials_in_a_url_are_sent_and_never_shown() {
        let server = ScriptedServer::plain(|_, _| ServerAction::Say(answer("200 OK", &[], b"{}"))).await;
        let mut config = testing::config(&format!("http://user:hunter2@{}/", server.address));
        config.default.credentials = None;
        let registry = testing::open(&config);
        assert_eq!(**registry.id(), *server.url());
        registry
            .packument(&PackageName::parse("ui").unwrap(), PackumentForm::Full, &Authorization::Lent, None, &mut testing::share())
            .await
            .unwrap();
        assert_eq!(server.heard()[0].header("authorization"), Some("Basic dXNlcjpodW50ZXIy"));
        let shown = format!("{config:?} {registry:?} {:?}", Authorization::Own("Bearer hunter2".into()));
        assert!(!shown.contains("hunter2") && !shown.contains("dXNlcjpodW50ZXIy"), "{shown}");
    }

    #[test]
    fn registry_url_must_be_http() {
        let config = testing::config("ftp://user:hunter2@npm.example/");
        let error = Registries::open(&config, &testing::trust(&[])).unwrap_err().to_string();
        assert_eq!(error, "registry from `--upstream` is not an `http` or `https` URL: `ftp://npm.example/`");
    }

    #[tokio::test]
    async fn untrusted_authority_error_names_a_working_fix() {
        let identity = TestIdentity::of("localhost");
        let server = ScriptedServer::secure(&identity, |_, _| ServerAction::Say(answer("200 OK", &[], b"{}"))).await;
        let name = PackageName::parse("ui").unwrap();
        let folder = tempfile::tempdir().unwrap();
        let (right, wrong) = (folder.path().join("right.pem"), folder.path().join("wrong.pem"));
        std::fs::write(&right, &identity.authority).unwrap();
        std::fs::write(&wrong, TestIdentity::of("localhost").authority).unwrap();
        let config = testing::config(&format!("https://localhost:{}/", server.address.port()));
        // The other authority keeps the list of roots from being empty, which would fail earlier.
        let trusting = |roots: &[std::path::PathBuf]| {
            Arc::clone(Registries::open(&config, &testing::trust(roots)).unwrap().default_registry())
        };
        let refused = trusting(std::slice::from_ref(&wrong))
            .packument(&name, PackumentForm::Full, &Authorization::None, None, &mut testing::share())
            .await
            .unwrap_err()
            .to_string();
        let expected = "TLS: certificate issued by an untrusted authority; add it with `--upstream-ca FILE`";
        assert!(refused.ends_with(expected), "{refused}");
        trusting(&[wrong, right])
            .packument(&name, PackumentForm::Full, &Authorization::None, None, &mut testing::share())
            .await
            .unwrap();
    }
}
