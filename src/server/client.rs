//! Who asks and where they reached us, read off one request. Refuses to believe a header that anybody could have sent.

use std::borrow::Cow;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use http::header::{AUTHORIZATION, FORWARDED, HOST, HeaderMap, HeaderName, USER_AGENT, VIA};
use http::request::Parts;

use crate::firewall::{BaseUrl, Client, Profile};
use crate::net::headers::{is_host, list, single, split_host};
use crate::npm::{Tool, UserAgent};
use crate::server::Config;
use crate::server::base_urls::BaseUrls;
use crate::upstream::{Addressed, Authorization, OwnCredentials};

const FORWARDED_FOR: HeaderName = HeaderName::from_static("x-forwarded-for");
const FORWARDED_HOST: HeaderName = HeaderName::from_static("x-forwarded-host");
const FORWARDED_PROTO: HeaderName = HeaderName::from_static("x-forwarded-proto");
const FORWARDED_PREFIX: HeaderName = HeaderName::from_static("x-forwarded-prefix");
/// What npm says it was told to do.
const NPM_COMMAND: HeaderName = HeaderName::from_static("npm-command");

/// Resolves askers: knows our addresses and the base URLs that were seen.
#[derive(Debug)]
pub struct ClientResolver {
    public: Option<PublicUrl>,
    trusted: Vec<ipnet::IpNet>,
    /// Base URLs whose answers are cached.
    known: BaseUrls,
}

/// The public URL, taken apart.
#[derive(Debug)]
struct PublicUrl {
    text: Arc<str>,
    host: String,
    prefix: String,
    /// Whether it names one of our own listeners, with no proxy between.
    direct: bool,
}

/// Where one request came from, as far as headers and the peer tell.
struct RequestOrigin<'a> {
    address: IpAddr,
    /// The host the client named, if it had to name one, in lower case.
    host: Option<Cow<'a, str>>,
    /// Whether a trusted proxy said who the client is.
    vouched: bool,
    /// Whether the request passed a proxy that is not trusted.
    strange: bool,
}

impl ClientResolver {
    /// Reads the configuration; `listeners` are the addresses we are bound to.
    #[must_use]
    pub fn new(config: &Config, listeners: &[SocketAddr]) -> Self {
        let ports: Vec<u16> = listeners.iter().map(SocketAddr::port).collect();
        let public = config.public_url.as_ref().map(|url| PublicUrl {
            text: url.as_str().trim_end_matches('/').into(),
            host: url.host_str().unwrap_or_default().to_ascii_lowercase(),
            prefix: url.path().trim_end_matches('/').to_owned(),
            direct: url.scheme() == "http" && url.port_or_known_default().is_some_and(|port| ports.contains(&port)),
        });
        let ours = listeners.iter().flat_map(|address| {
            let port = address.port();
            [format!("http://{address}"), format!("http://localhost:{port}"), format!("http://127.0.0.1:{port}")]
        });
        let mut known: Vec<Arc<str>> = ours.map(Arc::from).collect();
        known.sort_unstable();
        known.dedup();
        Self { public, trusted: config.trusted_proxies.clone(), known: BaseUrls::new(known) }
    }

    /// Who asks.
    ///
    /// # Errors
    /// What is wrong with the headers that say so, for the client.
    pub fn resolve(&self, peer: IpAddr, head: &Parts) -> Result<Client, String> {
        self.meet(peer, head).map(|(asker, _)| asker)
    }

    /// Who asks us, not the registry, if they are on this machine, or if `all` are welcome. What credentials they bring may be an
    /// operator's token: that is for nobody upstream.
    #[must_use]
    pub fn visitor(&self, peer: IpAddr, head: &Parts, all: bool) -> Option<Client> {
        let (asker, is_here) = self.meet(peer, head).ok()?;
        let authorization = if is_here { Authorization::Lent } else { Authorization::None };
        (all || is_here).then_some(Client { authorization, ..asker })
    }

    /// Who asks, and whether they are on this machine.
    fn meet(&self, peer: IpAddr, head: &Parts) -> Result<(Client, bool), String> {
        let peer = peer.to_canonical();
        let trusted = self.trusted.iter().any(|net| net.contains(&peer));
        let origin = self.origin(peer, trusted, head)?;
        let base = self.base(&origin, trusted, &head.headers)?;
        let agent = head.headers.get(USER_AGENT).and_then(|value| value.to_str().ok()).unwrap_or_default();
        let is_here = self.may_borrow(peer, trusted, &origin);
        let authorization = match single(&head.headers, &AUTHORIZATION)? {
            Some(own) => {
                Authorization::Own(OwnCredentials { header: own.into(), addressed: Addressed::Coldframe, borrows: is_here })
            }
            None if is_here => Authorization::Lent,
            None => Authorization::None,
        };
        let agent = UserAgent::parse(agent);
        let asker = Client {
            address: origin.address,
            user: None,
            resolves: resolves(&agent, &head.headers),
            agent,
            authorization,
            addressed: Addressed::Coldframe,
            base,
            profile: Profile::default(),
        };
        Ok((asker, is_here))
    }

    /// Who asks under `base`, an address that is not ours: the peer itself, whatever proxies may say, by the name it logged in with.
    /// `addressed` says which registries its credentials are for.
    ///
    /// # Errors
    /// As [`ClientResolver::resolve`].
    pub fn resolve_under(
        peer: IpAddr,
        user: Option<Arc<str>>,
        head: &Parts,
        (base, addressed): (BaseUrl, Addressed),
    ) -> Result<Client, String> {
        let address = peer.to_canonical();
        let agent = head.headers.get(USER_AGENT).and_then(|value| value.to_str().ok()).unwrap_or_default();
        let borrows = user.is_some() || (address.is_loopback() && !is_passed_on(&head.headers));
        let authorization = match single(&head.headers, &AUTHORIZATION)? {
            Some(own) => Authorization::Own(OwnCredentials { header: own.into(), addressed: addressed.clone(), borrows }),
            None if borrows => Authorization::Lent,
            None => Authorization::None,
        };
        let agent = UserAgent::parse(agent);
        let resolves = resolves(&agent, &head.headers);
        Ok(Client { address, user, agent, resolves, authorization, addressed, base, profile: Profile::default() })
    }

    /// The path below the public URL's prefix: requests come with and without it, as a proxy before us strips it or not.
    #[must_use]
    pub fn strip<'a>(&self, path: &'a str) -> &'a str {
        let Some(public) = self.public.as_ref().filter(|public| !public.prefix.is_empty()) else { return path };
        match path.strip_prefix(public.prefix.as_str()) {
            Some("") => "/",
            Some(rest) if rest.starts_with('/') => rest,
            _ => path,
        }
    }

    /// Whether answers name the host they were asked under.
    #[must_use]
    pub fn depends_on_host(&self) -> bool {
        self.public.is_none()
    }

    fn origin<'a>(&self, peer: IpAddr, trusted: bool, head: &'a Parts) -> Result<RequestOrigin<'a>, String> {
        let mut named = single(&head.headers, &HOST)?;
        if let Some(authority) = head.uri.authority() {
            named = Some(authority.as_str());
        }
        let forwarded = if trusted { first(&head.headers, &FORWARDED_HOST) } else { None };
        let host = forwarded.map(Cow::Owned).or(named.map(Cow::Borrowed)).map(to_lower_case);
        match &host {
            Some(host) if !is_host(host) => return Err("the `host` header is no host".to_owned()),
            None if self.public.is_none() => return Err("the `host` header is missing".to_owned()),
            _ => {}
        }
        if !trusted {
            return Ok(RequestOrigin { address: peer, host, vouched: false, strange: is_passed_on(&head.headers) });
        }
        let client = list(&head.headers, &FORWARDED_FOR).and_then(|hops| self.client_of(&hops));
        Ok(RequestOrigin { address: client.unwrap_or(peer), host, vouched: client.is_some(), strange: false })
    }

    /// The client in an `X-Forwarded-For`: from the right, the first hop that is not a trusted proxy; the farthest when all
    /// are. What stands left of something unreadable is not believed.
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

    fn base(&self, origin: &RequestOrigin<'_>, trusted: bool, headers: &HeaderMap) -> Result<BaseUrl, String> {
        if let Some(public) = &self.public {
            return Ok(BaseUrl { text: public.text.clone(), remembered: true, explains: true, intercepted: None });
        }
        let host = origin.host.as_deref().unwrap_or_default();
        if !trusted {
            return Ok(self.remember(["http", "://", host, ""], origin.address));
        }
        let scheme = match first(headers, &FORWARDED_PROTO).as_deref() {
            None | Some("http") => "http",
            Some("https") => "https",
            Some(_) => return Err("the `x-forwarded-proto` header is neither `http` nor `https`".to_owned()),
        };
        let prefix = first(headers, &FORWARDED_PREFIX).unwrap_or_default();
        if !is_prefix(&prefix) {
            return Err("the `x-forwarded-prefix` header is no path".to_owned());
        }
        Ok(self.remember([scheme, "://", host, prefix.trim_end_matches('/')], origin.address))
    }

    /// The base URL of these parts, which `client` used.
    fn remember(&self, parts: [&str; 4], client: IpAddr) -> BaseUrl {
        let (text, remembered) = self.known.resolve(&parts, client);
        BaseUrl { text, remembered, explains: true, intercepted: None }
    }

    /// Whether Coldframe's own credentials may be lent: to clients on this machine, and to nobody who only seems to be.
    ///
    /// A web page whose name resolves to loopback names its own host; a proxy on this machine that passes strangers on either
    /// adds its headers or, when it is trusted, must say who the client is.
    fn may_borrow(&self, peer: IpAddr, trusted: bool, origin: &RequestOrigin<'_>) -> bool {
        if !peer.is_loopback() || !origin.address.is_loopback() || origin.strange || (trusted && !origin.vouched) {
            return false;
        }
        let host = origin.host.as_deref().map_or("", |host| split_host(host).0);
        let public = self.public.as_ref().filter(|public| trusted || public.direct);
        is_loopback_host(host) || public.is_some_and(|public| public.host == host)
    }
}

fn to_lower_case(host: Cow<'_, str>) -> Cow<'_, str> {
    if host.bytes().any(|byte| byte.is_ascii_uppercase()) { host.to_ascii_lowercase().into() } else { host }
}

/// Whether a request came from another proxy, as far as it says so.
fn is_passed_on(headers: &HeaderMap) -> bool {
    [FORWARDED_FOR, FORWARDED, VIA, FORWARDED_HOST].iter().any(|name| headers.contains_key(name))
}

/// The first element of a list header: what the proxy nearest to the client said.
fn first(headers: &HeaderMap, name: &HeaderName) -> Option<String> {
    let list = list(headers, name)?;
    list.split(',').next().map(|first| first.trim().to_owned()).filter(|first| !first.is_empty())
}

/// One hop of `X-Forwarded-For`: an address, bare, in brackets, or with a port.
fn parse_hop(hop: &str) -> Option<IpAddr> {
    let bare = hop.trim_matches('"');
    let address = bare.parse().or_else(|_| bare.parse::<SocketAddr>().map(|address| address.ip()));
    let bracketed = || bare.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')).and_then(|inner| inner.parse().ok());
    address.ok().or_else(bracketed).map(|address: IpAddr| address.to_canonical())
}

/// Whether `text` may stand between an authority and a package's path.
fn is_prefix(text: &str) -> bool {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'/' | b'-' | b'_' | b'.' | b'~');
    text.is_empty()
        || (text.starts_with('/') && text.len() <= 200 && text.bytes().all(plain) && !text.contains("//") && !text.contains(".."))
}

/// Whether a host, without its port, can only mean this machine.
fn is_loopback_host(host: &str) -> bool {
    let address = host.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')).unwrap_or(host).parse::<IpAddr>();
    address.map_or(host == "localhost" || host.ends_with(".localhost"), |address| address.to_canonical().is_loopback())
}

/// Whether a client resolves a tree of packages: the tools that install do, and npm says when it does something else.
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

    fn askers(public_url: Option<&str>, trusted: &[&str]) -> ClientResolver {
        let config = Config {
            public_url: public_url.map(|url| url.parse().unwrap()),
            trusted_proxies: trusted.iter().map(|net| net.parse().unwrap()).collect(),
            ..Config::default()
        };
        ClientResolver::new(&config, &[SocketAddr::from((LOCAL, 4873))])
    }

    fn head(target: &str, headers: &[(&str, &str)]) -> Parts {
        let request = headers.iter().fold(http::Request::get(target), |request, (name, value)| request.header(*name, *value));
        request.body(()).unwrap().into_parts().0
    }

    fn resolve(askers: &ClientResolver, peer: [u8; 4], headers: &[(&str, &str)]) -> Result<Client, String> {
        askers.resolve(peer.into(), &head("/axios", headers))
    }

    fn base(askers: &ClientResolver, peer: [u8; 4], headers: &[(&str, &str)]) -> String {
        resolve(askers, peer, headers).unwrap().base.text.to_string()
    }

    #[test]
    fn the_base_is_the_public_url_else_the_host() {
        assert_eq!(base(&askers(None, &[]), FAR, &[("host", "Box:4873")]), "http://box:4873");
        let public = askers(Some("https://npm.example/registry/"), &[]);
        assert_eq!(base(&public, FAR, &[("host", "whatever")]), "https://npm.example/registry");
        assert_eq!(base(&public, FAR, &[]), "https://npm.example/registry");
        let absolute = head("http://other.example:81/axios", &[("host", "x")]);
        assert_eq!(&*askers(None, &[]).resolve(FAR.into(), &absolute).unwrap().base.text, "http://other.example:81");
    }

    #[test]
    fn a_host_that_is_none_is_refused() {
        for wrong in [
            &[][..],
            &[("host", "a b")],
            &[("host", "")],
            &[("host", "a"), ("host", "b")],
            &[("host", "user@a")],
            &[("host", "a/b")],
        ] {
            assert!(resolve(&askers(None, &[]), FAR, wrong).is_err(), "{wrong:?}");
        }
    }

    #[test]
    fn only_a_trusted_peer_forwards() {
        let sent = [
            ("host", "inner:4873"),
            ("x-forwarded-for", "192.0.2.7, 10.9.9.9"),
            ("x-forwarded-host", "npm.example"),
            ("x-forwarded-proto", "https"),
            ("x-forwarded-prefix", "/registry/"),
        ];
        let trusting = askers(None, &["10.0.0.0/8"]);
        let asker = resolve(&trusting, FAR, &sent).unwrap();
        assert_eq!((&*asker.base.text, asker.address), ("https://npm.example/registry", IpAddr::from([192, 0, 2, 7])));
        let asker = resolve(&askers(None, &[]), FAR, &sent).unwrap();
        assert_eq!((&*asker.base.text, asker.address), ("http://inner:4873", IpAddr::from(FAR)));
        for wrong in [
            ("x-forwarded-proto", "gopher"),
            ("x-forwarded-host", "a b"),
            ("x-forwarded-prefix", "/a/../b"),
            ("x-forwarded-prefix", "a"),
        ] {
            assert!(resolve(&trusting, FAR, &[("host", "a"), wrong]).is_err(), "{wrong:?}");
        }
    }

    #[test]
    fn the_client_is_the_nearest_hop_nobody_vouches_for() {
        let trusting = askers(None, &["10.0.0.0/8"]);
        let client = |hops| resolve(&trusting, FAR, &[("host", "a"), ("x-forwarded-for", hops)]).unwrap().address.to_string();
        assert_eq!(client("1.1.1.1, 192.0.2.7, 10.0.0.1"), "192.0.2.7");
        assert_eq!(client("10.0.0.5, 10.0.0.1"), "10.0.0.5");
        assert_eq!(client("1.1.1.1, nonsense, 10.0.0.1"), "10.0.0.1");
        assert_eq!(client("[2001:db8::1]:443"), "2001:db8::1");
        assert_eq!(client("::ffff:192.0.2.7"), "192.0.2.7");
        assert_eq!(client("unknown"), "10.1.2.3");
    }

    #[test]
    fn eight_strange_hosts_are_cached_and_our_own_addresses_always() {
        let askers = askers(None, &[]);
        let remembered = |client: [u8; 4], host: &str| resolve(&askers, client, &[("host", host)]).unwrap().base.remembered;
        assert!((0..100).all(|at| remembered(FAR, &format!("strange-{at}"))));
        assert!(remembered([10, 1, 2, 4], "box.example:4873") && remembered(FAR, "localhost:4873"));
        assert_eq!(askers.known.len(), 8 + 2);
    }

    fn lent(askers: &ClientResolver, peer: [u8; 4], headers: &[(&str, &str)]) -> bool {
        matches!(resolve(askers, peer, headers).unwrap().authorization, Authorization::Lent)
    }

    #[test]
    fn credentials_are_lent_to_this_machine_alone() {
        let plain = askers(None, &[]);
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
    fn a_trusted_proxy_on_this_machine_must_say_who_asks() {
        let trusting = askers(Some("https://npm.example"), &["127.0.0.0/8"]);
        assert!(!lent(&trusting, LOCAL, &[("host", "127.0.0.1:4873")]));
        assert!(!lent(&trusting, LOCAL, &[("host", "npm.example"), ("x-forwarded-for", "192.0.2.7")]));
        assert!(lent(&trusting, LOCAL, &[("host", "npm.example"), ("x-forwarded-for", "127.0.0.1")]));
        assert!(!lent(&trusting, LOCAL, &[("host", "rebound.example"), ("x-forwarded-for", "127.0.0.1")]));
        let far_proxy = askers(None, &["10.0.0.0/8"]);
        assert!(!lent(&far_proxy, FAR, &[("host", "localhost"), ("x-forwarded-for", "127.0.0.1")]));
    }

    #[test]
    fn the_public_urls_host_counts_only_where_it_is_a_listener_of_ours() {
        assert!(lent(&askers(Some("http://devbox:4873"), &[]), LOCAL, &[("host", "devbox:4873")]));
        assert!(!lent(&askers(Some("https://npm.example"), &[]), LOCAL, &[("host", "npm.example")]));
    }

    #[test]
    fn a_clients_own_authorization_goes_before_a_lent_one() {
        let asker = resolve(&askers(None, &[]), LOCAL, &[("host", "localhost:4873"), ("authorization", "Bearer t")]).unwrap();
        assert!(matches!(asker.authorization, Authorization::Own(own) if &*own.header == "Bearer t"));
        let twice = [("host", "localhost"), ("authorization", "Bearer a"), ("authorization", "Bearer b")];
        assert!(resolve(&askers(None, &[]), LOCAL, &twice).is_err());
    }

    #[test]
    fn the_prefix_may_be_there_or_not() {
        let prefixed = askers(Some("https://npm.example/registry/"), &[]);
        assert_eq!(prefixed.strip("/registry/axios"), "/axios");
        assert_eq!(prefixed.strip("/axios"), "/axios");
        assert_eq!(prefixed.strip("/registry"), "/");
        assert_eq!(prefixed.strip("/registry-x"), "/registry-x");
        assert_eq!(askers(None, &[]).strip("/registry/axios"), "/registry/axios");
    }
}
