//! Identifies the client of a request and the base URL it used. A forwarding header is trusted only from a trusted proxy.

use std::borrow::Cow;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use http::header::{AUTHORIZATION, FORWARDED, HOST, HeaderMap, HeaderName, USER_AGENT, VIA};
use http::request::Parts;
use url::Url;

use crate::firewall::{BaseUrl, Client, Profile};
use crate::net::headers::{is_host, list, single, split_host};
use crate::net::{ListenAddress, Scheme};
use crate::npm::{Tool, UserAgent};
use crate::policy::Identity;
use crate::server::base_urls::BaseUrls;
use crate::server::config::Config;
use crate::upstream::{Addressed, Authorization, OwnCredentials};

const FORWARDED_FOR: HeaderName = HeaderName::from_static("x-forwarded-for");
const FORWARDED_HOST: HeaderName = HeaderName::from_static("x-forwarded-host");
const FORWARDED_PROTO: HeaderName = HeaderName::from_static("x-forwarded-proto");
const FORWARDED_PREFIX: HeaderName = HeaderName::from_static("x-forwarded-prefix");
const NPM_COMMAND: HeaderName = HeaderName::from_static("npm-command");

/// Resolves requests to clients. Holds our own URLs and the base URLs seen.
#[derive(Debug)]
pub(crate) struct ClientResolver {
    public: Option<PublicUrl>,
    trusted: Vec<ipnet::IpNet>,
    base_urls: BaseUrls,
}

/// Where the base URL in responses comes from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum BaseUrlSource {
    /// The setting `public-url`.
    PublicUrl,
    /// The `Host` header, so that responses depend on it.
    Host,
}

#[derive(Debug)]
struct PublicUrl {
    text: Arc<str>,
    host: String,
    prefix: String,
    /// Whether it names one of our own listeners, without a proxy in between.
    direct: bool,
}

/// The connection of a request.
#[derive(Debug, Clone)]
pub(crate) struct Peer {
    pub(crate) address: IpAddr,
    pub(crate) scheme: Scheme,
    /// The identity that the connection was authenticated as.
    pub(crate) identity: Option<Arc<Identity>>,
}

impl From<IpAddr> for Peer {
    /// Returns the peer of an unencrypted connection without identity.
    fn from(address: IpAddr) -> Self {
        Self { address, scheme: Scheme::Http, identity: None }
    }
}

/// The origin of a request according to its headers and peer.
struct RequestOrigin<'a> {
    address: IpAddr,
    /// The host named by the client, in lower case.
    host: Option<Cow<'a, str>>,
    /// Whether a trusted proxy reported the client.
    is_reported: bool,
    /// Whether the request passed an untrusted proxy.
    passed_untrusted_proxy: bool,
}

impl ClientResolver {
    pub(crate) fn new(config: &Config, listeners: &[ListenAddress]) -> Self {
        let is_listener = |url: &Url| {
            let is_there = |listener: &ListenAddress| {
                url.scheme() == listener.scheme.as_str() && url.port_or_known_default() == Some(listener.socket.port())
            };
            listeners.iter().any(is_there)
        };
        let public = config.public_url.as_ref().map(|url| PublicUrl {
            text: url.as_str().trim_end_matches('/').into(),
            host: url.host_str().unwrap_or_default().to_ascii_lowercase(),
            prefix: url.path().trim_end_matches('/').to_owned(),
            direct: is_listener(url),
        });
        let ours = listeners.iter().flat_map(|listener| {
            let (scheme, port) = (listener.scheme.as_str(), listener.socket.port());
            [listener.to_string(), format!("{scheme}://localhost:{port}"), format!("{scheme}://127.0.0.1:{port}")]
        });
        let mut own: Vec<Arc<str>> = ours.map(Arc::from).collect();
        own.sort_unstable();
        own.dedup();
        Self { public, trusted: config.trusted_proxies.clone(), base_urls: BaseUrls::new(own) }
    }

    /// Returns the client of a request.
    /// Returns a text for the client if a header is missing, duplicate or invalid.
    pub(crate) fn resolve(&self, peer: &Peer, head: &Parts) -> Result<Client, String> {
        self.resolve_with_locality(peer, head).map(|(client, _)| client)
    }

    /// Returns the client of an admin request, and whether it is on this machine. Its `Authorization`, maybe a token, is dropped.
    pub(crate) fn admin_client(&self, peer: &Peer, head: &Parts) -> Option<(Client, bool)> {
        let (client, is_local) = self.resolve_with_locality(peer, head).ok()?;
        let authorization = if is_local { Authorization::Lent } else { Authorization::None };
        Some((Client { authorization, ..client }, is_local))
    }

    fn resolve_with_locality(&self, from: &Peer, head: &Parts) -> Result<(Client, bool), String> {
        let peer = from.address.to_canonical();
        let trusted = self.trusted.iter().any(|net| net.contains(&peer));
        let origin = self.origin(peer, trusted, head)?;
        let base = self.base(&origin, (trusted, from.scheme), &head.headers)?;
        let is_local = self.may_use_configured_credentials(peer, trusted, &origin);
        // A certificate that a trusted proxy presents is the proxy's own, not its client's.
        let identity = from.identity.as_ref().filter(|_| !trusted).cloned();
        let borrows = is_local || identity.is_some();
        let client = client_from_headers(&head.headers, origin.address, Addressed::Coldframe, base, borrows)?;
        Ok((Client { identity, ..client }, is_local))
    }

    /// Returns the client of an intercepted request under `base`. It is always the peer, regardless of forwarding headers, with
    /// the identity of its connection. `addressed` names the registries its credentials are meant for.
    pub(crate) fn resolve_intercepted(
        peer: IpAddr,
        identity: Option<Arc<Identity>>,
        head: &Parts,
        (base, addressed): (BaseUrl, Addressed),
    ) -> Result<Client, String> {
        let address = peer.to_canonical();
        let borrows = identity.is_some() || (address.is_loopback() && !is_passed_on(&head.headers));
        Ok(Client { identity, ..client_from_headers(&head.headers, address, addressed, base, borrows)? })
    }

    /// Removes the prefix of the public URL from a path. A proxy in front may have removed it already.
    pub(crate) fn strip<'a>(&self, path: &'a str) -> &'a str {
        let Some(public) = self.public.as_ref().filter(|public| !public.prefix.is_empty()) else { return path };
        match path.strip_prefix(public.prefix.as_str()) {
            Some("") => "/",
            Some(rest) if rest.starts_with('/') => rest,
            _ => path,
        }
    }

    pub(crate) fn base_url_source(&self) -> BaseUrlSource {
        if self.public.is_some() { BaseUrlSource::PublicUrl } else { BaseUrlSource::Host }
    }

    fn origin<'a>(&self, peer: IpAddr, trusted: bool, head: &'a Parts) -> Result<RequestOrigin<'a>, String> {
        let mut named = single(&head.headers, &HOST)?;
        if let Some(authority) = head.uri.authority() {
            named = Some(authority.as_str());
        }
        let forwarded = if trusted { first(&head.headers, &FORWARDED_HOST) } else { None };
        let host = forwarded.map(Cow::Owned).or(named.map(Cow::Borrowed)).map(|host| match host {
            host if host.bytes().any(|byte| byte.is_ascii_uppercase()) => host.to_ascii_lowercase().into(),
            host => host,
        });
        match &host {
            Some(host) if !is_host(host) => return Err("invalid `host` header".to_owned()),
            None if self.public.is_none() => return Err("missing `host` header".to_owned()),
            _ => {}
        }
        if !trusted {
            return Ok(RequestOrigin {
                address: peer,
                host,
                is_reported: false,
                passed_untrusted_proxy: is_passed_on(&head.headers),
            });
        }
        let client = list(&head.headers, &FORWARDED_FOR).and_then(|hops| self.client_of(&hops));
        Ok(RequestOrigin { address: client.unwrap_or(peer), host, is_reported: client.is_some(), passed_untrusted_proxy: false })
    }

    /// Returns the client in `X-Forwarded-For`: from the right, the first hop that is not a trusted proxy, or the leftmost if all
    /// are. Hops to the left of an unreadable one are ignored.
    fn client_of(&self, hops: &str) -> Option<IpAddr> {
        let mut farthest = None;
        for hop in hops.rsplit(',') {
            let Some(address) = parse_hop(hop.trim()) else { break };
            farthest = Some(address);
            if !self.trusted.iter().any(|net| net.contains(&address)) {
                break;
            }
        }
        farthest
    }

    fn base(
        &self,
        origin: &RequestOrigin<'_>,
        (trusted, scheme): (bool, Scheme),
        headers: &HeaderMap,
    ) -> Result<BaseUrl, String> {
        if let Some(public) = &self.public {
            return Ok(BaseUrl { text: public.text.clone(), cacheable: true, serves_admin: true, intercepted: None });
        }
        let host = origin.host.as_deref().unwrap_or_default();
        if !trusted {
            return Ok(self.base_url([scheme.as_str(), "://", host, ""], origin.address));
        }
        let scheme = match first(headers, &FORWARDED_PROTO).as_deref() {
            None => scheme.as_str(),
            Some("http") => "http",
            Some("https") => "https",
            Some(_) => return Err("invalid `x-forwarded-proto` header, expected `http` or `https`".to_owned()),
        };
        let prefix = first(headers, &FORWARDED_PREFIX).unwrap_or_default();
        if !is_prefix(&prefix) {
            return Err("invalid `x-forwarded-prefix` header, expected a path".to_owned());
        }
        Ok(self.base_url([scheme, "://", host, prefix.trim_end_matches('/')], origin.address))
    }

    fn base_url(&self, parts: [&str; 4], client: IpAddr) -> BaseUrl {
        let (text, cacheable) = self.base_urls.resolve(&parts, client);
        BaseUrl { text, cacheable, serves_admin: true, intercepted: None }
    }

    /// Checks whether Coldframe's configured credentials may be used: only for clients on this machine.
    ///
    /// A web page whose name resolves to loopback (DNS rebinding) sends its own host. A local proxy that forwards remote clients
    /// either adds its headers or, if trusted, must report the client.
    fn may_use_configured_credentials(&self, peer: IpAddr, trusted: bool, origin: &RequestOrigin<'_>) -> bool {
        if !peer.is_loopback()
            || !origin.address.is_loopback()
            || origin.passed_untrusted_proxy
            || (trusted && !origin.is_reported)
        {
            return false;
        }
        let host = origin.host.as_deref().map_or("", |host| split_host(host).0);
        let public = self.public.as_ref().filter(|public| trusted || public.direct);
        is_loopback_host(host) || public.is_some_and(|public| public.host == host)
    }
}

/// Returns a client at `address`. If it `borrows`, it may use the configured credentials.
fn client_from_headers(
    headers: &HeaderMap,
    address: IpAddr,
    addressed: Addressed,
    base: BaseUrl,
    borrows: bool,
) -> Result<Client, String> {
    let authorization = match single(headers, &AUTHORIZATION)? {
        Some(own) => Authorization::Own(OwnCredentials { header: own.into(), addressed: addressed.clone(), borrows }),
        None if borrows => Authorization::Lent,
        None => Authorization::None,
    };
    let agent = headers.get(USER_AGENT).and_then(|value| value.to_str().ok()).unwrap_or_default();
    let agent = UserAgent::parse(agent);
    let is_installing = resolves(&agent, headers);
    Ok(Client { address, identity: None, agent, is_installing, authorization, addressed, base, profile: Profile::default() })
}

/// Checks whether a header shows that the request passed a proxy.
fn is_passed_on(headers: &HeaderMap) -> bool {
    [FORWARDED_FOR, FORWARDED, VIA, FORWARDED_HOST].iter().any(|name| headers.contains_key(name))
}

/// Returns the first element of a list header, which the proxy nearest to the client added.
fn first(headers: &HeaderMap, name: &HeaderName) -> Option<String> {
    let list = list(headers, name)?;
    list.split(',').next().map(|first| first.trim().to_owned()).filter(|first| !first.is_empty())
}

/// Parses a hop of `X-Forwarded-For`: an address, bare, in brackets, or with a port.
fn parse_hop(hop: &str) -> Option<IpAddr> {
    let bare = hop.trim_matches('"');
    let address = bare.parse().or_else(|_| bare.parse::<SocketAddr>().map(|address| address.ip()));
    let bracketed = || bare.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')).and_then(|inner| inner.parse().ok());
    address.ok().or_else(bracketed).map(|address: IpAddr| address.to_canonical())
}

fn is_prefix(text: &str) -> bool {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'/' | b'-' | b'_' | b'.' | b'~');
    text.is_empty()
        || (text.starts_with('/') && text.len() <= 200 && text.bytes().all(plain) && !text.contains("//") && !text.contains(".."))
}

/// Checks whether a host without port is this machine.
pub(crate) fn is_loopback_host(host: &str) -> bool {
    let address = host.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')).unwrap_or(host).parse::<IpAddr>();
    address.map_or(host == "localhost" || host.ends_with(".localhost"), |address| address.to_canonical().is_loopback())
}

/// Checks whether a client resolves a dependency tree: an install tool, unless npm reports another command.
fn resolves(agent: &UserAgent, headers: &HeaderMap) -> bool {
    let command = headers.get(NPM_COMMAND).and_then(|command| command.to_str().ok());
    agent.tool != Tool::Other
        && command.is_none_or(|command| {
            matches!(
                command,
                "install" | "ci" | "update" | "exec" | "dedupe" | "link" | "audit" | "install-test" | "install-ci-test"
            )
        })
}

#[cfg(test)]
mod tests {
    use super::*;

    const LOCAL: [u8; 4] = [127, 0, 0, 1];
    const FAR: [u8; 4] = [10, 1, 2, 3];

    fn resolver(public_url: Option<&str>, trusted: &[&str]) -> ClientResolver {
        let config = Config {
            public_url: public_url.map(|url| url.parse().unwrap()),
            trusted_proxies: trusted.iter().map(|net| net.parse().unwrap()).collect(),
            ..Config::default()
        };
        ClientResolver::new(&config, &[SocketAddr::from((LOCAL, 4873)).into()])
    }

    fn head(target: &str, headers: &[(&str, &str)]) -> Parts {
        let request = headers.iter().fold(http::Request::get(target), |request, (name, value)| request.header(*name, *value));
        request.body(()).unwrap().into_parts().0
    }

    fn resolve(resolver: &ClientResolver, peer: [u8; 4], headers: &[(&str, &str)]) -> Result<Client, String> {
        resolver.resolve(&IpAddr::from(peer).into(), &head("/axios", headers))
    }

    fn base(resolver: &ClientResolver, peer: [u8; 4], headers: &[(&str, &str)]) -> String {
        resolve(resolver, peer, headers).unwrap().base.text.to_string()
    }

    #[test]
    fn base_is_the_public_url_or_the_host() {
        assert_eq!(base(&resolver(None, &[]), FAR, &[("host", "Box:4873")]), "http://box:4873");
        let public = resolver(Some("https://npm.example/registry/"), &[]);
        assert_eq!(base(&public, FAR, &[("host", "whatever")]), "https://npm.example/registry");
        assert_eq!(base(&public, FAR, &[]), "https://npm.example/registry");
        let absolute = head("http://other.example:81/axios", &[("host", "x")]);
        assert_eq!(
            &*resolver(None, &[]).resolve(&IpAddr::from(FAR).into(), &absolute).unwrap().base.text,
            "http://other.example:81"
        );
    }

    #[test]
    fn invalid_host_is_refused() {
        for header in [
            &[][..],
            &[("host", "a b")],
            &[("host", "")],
            &[("host", "a"), ("host", "b")],
            &[("host", "user@a")],
            &[("host", "a/b")],
        ] {
            assert!(resolve(&resolver(None, &[]), FAR, header).is_err(), "{header:?}");
        }
    }

    #[test]
    fn forwarding_headers_need_a_trusted_peer() {
        let sent = [
            ("host", "inner:4873"),
            ("x-forwarded-for", "192.0.2.7, 10.9.9.9"),
            ("x-forwarded-host", "npm.example"),
            ("x-forwarded-proto", "https"),
            ("x-forwarded-prefix", "/registry/"),
        ];
        let trusting = resolver(None, &["10.0.0.0/8"]);
        let client = resolve(&trusting, FAR, &sent).unwrap();
        assert_eq!((&*client.base.text, client.address), ("https://npm.example/registry", IpAddr::from([192, 0, 2, 7])));
        let client = resolve(&resolver(None, &[]), FAR, &sent).unwrap();
        assert_eq!((&*client.base.text, client.address), ("http://inner:4873", IpAddr::from(FAR)));
        for header in [
            ("x-forwarded-proto", "gopher"),
            ("x-forwarded-host", "a b"),
            ("x-forwarded-prefix", "/a/../b"),
            ("x-forwarded-prefix", "a"),
        ] {
            assert!(resolve(&trusting, FAR, &[("host", "a"), header]).is_err(), "{header:?}");
        }
    }

    #[test]
    fn client_is_the_nearest_untrusted_hop() {
        let trusting = resolver(None, &["10.0.0.0/8"]);
        let client = |hops| resolve(&trusting, FAR, &[("host", "a"), ("x-forwarded-for", hops)]).unwrap().address.to_string();
        assert_eq!(client("1.1.1.1, 192.0.2.7, 10.0.0.1"), "192.0.2.7");
        assert_eq!(client("10.0.0.5, 10.0.0.1"), "10.0.0.5");
        assert_eq!(client("1.1.1.1, nonsense, 10.0.0.1"), "10.0.0.1");
        assert_eq!(client("[2001:db8::1]:443"), "2001:db8::1");
        assert_eq!(client("::ffff:192.0.2.7"), "192.0.2.7");
        assert_eq!(client("unknown"), "10.1.2.3");
    }

    #[test]
    fn unknown_hosts_are_limited_and_own_urls_always_cached() {
        let resolver = resolver(None, &[]);
        let remembered = |client: [u8; 4], host: &str| resolve(&resolver, client, &[("host", host)]).unwrap().base.cacheable;
        assert!((0..100).all(|at| remembered(FAR, &format!("strange-{at}"))));
        assert!(remembered([10, 1, 2, 4], "box.example:4873") && remembered(FAR, "localhost:4873"));
        assert_eq!(resolver.base_urls.len(), 8 + 2);
    }

    fn lent(resolver: &ClientResolver, peer: [u8; 4], headers: &[(&str, &str)]) -> bool {
        matches!(resolve(resolver, peer, headers).unwrap().authorization, Authorization::Lent)
    }

    #[test]
    fn configured_credentials_are_for_this_machine_only() {
        let plain = resolver(None, &[]);
        for host in ["127.0.0.1:4873", "localhost:4873", "[::1]:4873", "npm.localhost"] {
            assert!(lent(&plain, LOCAL, &[("host", host)]), "{host}");
        }
        for host in ["rebound.example:4873", "127.0.0.1.rebound.example", "10.1.2.3", "localhost.example"] {
            assert!(!lent(&plain, LOCAL, &[("host", host)]), "{host}");
        }
        assert!(!lent(&plain, FAR, &[("host", "127.0.0.1:4873")]));
        for header in ["x-forwarded-for", "forwarded", "via", "x-forwarded-host"] {
            assert!(!lent(&plain, LOCAL, &[("host", "127.0.0.1:4873"), (header, "127.0.0.1")]), "{header}");
        }
    }

    #[test]
    fn trusted_local_proxy_must_report_the_client() {
        let trusting = resolver(Some("https://npm.example"), &["127.0.0.0/8"]);
        assert!(!lent(&trusting, LOCAL, &[("host", "127.0.0.1:4873")]));
        assert!(!lent(&trusting, LOCAL, &[("host", "npm.example"), ("x-forwarded-for", "192.0.2.7")]));
        assert!(lent(&trusting, LOCAL, &[("host", "npm.example"), ("x-forwarded-for", "127.0.0.1")]));
        assert!(!lent(&trusting, LOCAL, &[("host", "rebound.example"), ("x-forwarded-for", "127.0.0.1")]));
        let far_proxy = resolver(None, &["10.0.0.0/8"]);
        assert!(!lent(&far_proxy, FAR, &[("host", "localhost"), ("x-forwarded-for", "127.0.0.1")]));
    }

    #[test]
    fn public_host_is_local_only_if_it_is_a_listener() {
        assert!(lent(&resolver(Some("http://devbox:4873"), &[]), LOCAL, &[("host", "devbox:4873")]));
        assert!(!lent(&resolver(Some("https://npm.example"), &[]), LOCAL, &[("host", "npm.example")]));
    }

    #[test]
    fn client_authorization_takes_precedence() {
        let client = resolve(&resolver(None, &[]), LOCAL, &[("host", "localhost:4873"), ("authorization", "Bearer t")]).unwrap();
        assert!(matches!(client.authorization, Authorization::Own(own) if &*own.header == "Bearer t"));
        let twice = [("host", "localhost"), ("authorization", "Bearer a"), ("authorization", "Bearer b")];
        assert!(resolve(&resolver(None, &[]), LOCAL, &twice).is_err());
    }

    #[test]
    fn public_prefix_is_optional() {
        let prefixed = resolver(Some("https://npm.example/registry/"), &[]);
        assert_eq!(prefixed.strip("/registry/axios"), "/axios");
        assert_eq!(prefixed.strip("/axios"), "/axios");
        assert_eq!(prefixed.strip("/registry"), "/");
        assert_eq!(prefixed.strip("/registry-x"), "/registry-x");
        assert_eq!(resolver(None, &[]).strip("/registry/axios"), "/registry/axios");
    }
}
