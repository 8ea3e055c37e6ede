//! Egress of the gateway: which other hosts and addresses clients may reach, and through which proxy.

use std::net::{IpAddr, SocketAddr, UdpSocket};
use std::sync::{Arc, Mutex, PoisonError};

use tokio::net::TcpStream;
use tokio::time::timeout;
use url::Url;

use crate::net::HostPattern;
use crate::net::{
    ClientError, ConnectStage, Deadlines, OutboundProxy, ProxyConnection, TunnelStream, all_permitted, dial_permitted,
    is_internal, is_public, resolve_all,
};
use crate::server::config::GatewayConfig;
use crate::server::error::RequestError;
use crate::server::gateway::destination::Destination;
use crate::telemetry::BarLabel;

/// The hosts that clients may reach.
#[derive(Debug)]
pub struct EgressPolicy {
    allowed: Vec<HostPattern>,
    /// Allowed literal addresses, each with its port if one is given.
    addresses: Vec<(IpAddr, Option<u16>)>,
    tunnels: bool,
    way: Arc<EgressContext>,
}

/// The network context of egress connections.
#[derive(Debug)]
pub struct EgressContext {
    /// The addresses of our own listeners, which are never dialed.
    pub ours: Vec<SocketAddr>,
    /// The outbound proxy, if any.
    pub parent: OutboundProxy,
}

/// Permission to reach one host. Its resolved addresses are checked separately.
pub(crate) struct EgressGrant<'a> {
    others: &'a EgressPolicy,
    /// The host is named exactly, so it may have a private address.
    named: bool,
    /// The host is a loopback name.
    local: bool,
    /// The host matches `--allow-host`, exactly or by a pattern.
    listed: bool,
    warned: &'a IndicatorCheck<'a>,
    /// The reason for the last refused address. Initially [`BarLabel::Address`].
    why: Mutex<BarLabel>,
}

/// Returns the reason if a feed indicator matches a name or address.
pub(crate) type IndicatorCheck<'a> = dyn Fn(&str) -> Option<String> + Send + Sync + 'a;

/// The connection for a plain HTTP request.
pub(crate) enum HttpUpstreamRoute {
    /// To the host itself.
    Direct(TcpStream),
    /// To a proxy, for a request in absolute form.
    Relayed(ProxyConnection),
}

impl EgressPolicy {
    /// Creates the policy from the gateway settings.
    #[must_use]
    pub fn new(gateway: &GatewayConfig, way: Arc<EgressContext>) -> Self {
        let address = |glob: &HostPattern| {
            let host = glob.host()?.trim_start_matches('[').trim_end_matches(']');
            Some((host.parse::<IpAddr>().ok()?.to_canonical(), glob.port()))
        };
        let addresses = gateway.allowed.iter().filter_map(address).collect();
        Self { allowed: gateway.allowed.clone(), addresses, tunnels: gateway.tunnels_others, way }
    }

    /// Returns the network context.
    pub(crate) fn way(&self) -> Arc<EgressContext> {
        Arc::clone(&self.way)
    }

    /// Connects to `place`, if allowed.
    ///
    /// # Errors
    /// Returns [`RequestError::EgressDenied`] or [`RequestError::Unreachable`].
    pub(crate) async fn connect(&self, place: &Destination, warned: &IndicatorCheck<'_>) -> Result<TunnelStream, RequestError> {
        let grant = self.authorize(place, warned)?;
        let Some(before) = self.way.parent.for_target(&place.dial_host(), place.port) else {
            return self.dial(place, &grant).await.map(TunnelStream::from);
        };
        self.check_remote_resolution(place, &grant).await?;
        before.tunnel().await.map_err(|cause| grant.unreached(place, cause))
    }

    /// Connects to `place` for a client whose connection to `original` was redirected here. Dials `original` if the name resolves
    /// to it, or not at all. Otherwise dials the addresses of the name, so that a false server name does not open other
    /// addresses.
    ///
    /// # Errors
    /// Returns [`RequestError::EgressDenied`] or [`RequestError::Unreachable`].
    pub(crate) async fn connect_original(
        &self,
        place: &Destination,
        original: Option<SocketAddr>,
        warned: &IndicatorCheck<'_>,
    ) -> Result<TunnelStream, RequestError> {
        let Some(original) = original else { return self.connect(place, warned).await };
        if self.way.parent.for_target(&place.dial_host(), place.port).is_some() {
            return self.connect(place, warned).await;
        }
        let grant = self.authorize(place, warned)?;
        let known = timeout(Deadlines::default().connect, resolve_all(&place.dial_host(), place.port)).await.unwrap_or_default();
        let is_resolved = known.iter().any(|address| address.ip().to_canonical() == original.ip());
        if !known.is_empty() && !is_resolved {
            return self.dial(place, &grant).await.map(TunnelStream::from);
        }
        if known.is_empty() && !grant.named {
            let text = format!(
                "egress refused by coldframe, name does not resolve here, so its address cannot be checked: `{place}`; \
                 allow it with `--allow-host {}`",
                place.host
            );
            return Err(RequestError::EgressDenied(BarLabel::Address, text));
        }
        self.dial_at(&original.ip().to_string(), place, &grant).await.map(TunnelStream::from)
    }

    /// Connects to `place` for plain HTTP, if allowed.
    ///
    /// # Errors
    /// Returns [`RequestError::EgressDenied`] or [`RequestError::Unreachable`].
    pub(crate) async fn connect_http(
        &self,
        place: &Destination,
        warned: &IndicatorCheck<'_>,
    ) -> Result<HttpUpstreamRoute, RequestError> {
        let grant = self.authorize(place, warned)?;
        let Some(before) = self.way.parent.for_target(&place.dial_host(), 80) else {
            return self.dial(place, &grant).await.map(HttpUpstreamRoute::Direct);
        };
        self.check_remote_resolution(place, &grant).await?;
        before.connect_plain().await.map(HttpUpstreamRoute::Relayed).map_err(|cause| grant.unreached(place, cause))
    }

    async fn dial(&self, place: &Destination, grant: &EgressGrant<'_>) -> Result<TcpStream, RequestError> {
        self.dial_at(&place.dial_host(), place, grant).await
    }

    /// Dials `host`, a name or an address, for a connection to `place`.
    async fn dial_at(&self, host: &str, place: &Destination, grant: &EgressGrant<'_>) -> Result<TcpStream, RequestError> {
        let deadline = Deadlines::default().connect;
        let dialling = timeout(deadline, dial_permitted(host, place.port, |address| grant.permits(address))).await;
        dialling.unwrap_or(Err(ClientError::TimedOut { after: deadline })).map_err(|cause| grant.unreached(place, cause))
    }

    /// Checks a destination that another proxy dials. All its local addresses must be permitted. If it does not resolve here, its
    /// name must be allowed.
    async fn check_remote_resolution(&self, place: &Destination, grant: &EgressGrant<'_>) -> Result<(), RequestError> {
        let (deadline, host) = (Deadlines::default().connect, place.dial_host());
        let result = timeout(deadline, all_permitted(&host, place.port, |address| grant.permits(address))).await;
        let is_known = result.unwrap_or(Ok(false)).map_err(|cause| grant.unreached(place, cause))?;
        if is_known || grant.listed {
            return Ok(());
        }
        let text = format!(
            "egress refused by coldframe, name does not resolve here, so the outbound proxy's target cannot be checked: \
             `{place}`; allow it with `--allow-host {}`",
            place.host
        );
        Err(RequestError::EgressDenied(BarLabel::Address, text))
    }

    /// Authorizes a connection to `place`.
    ///
    /// # Errors
    /// Returns [`RequestError::EgressDenied`].
    fn authorize<'a>(&'a self, place: &Destination, warned: &'a IndicatorCheck<'a>) -> Result<EgressGrant<'a>, RequestError> {
        // Checked first, since a refusal for another reason would hide the hit.
        if let Some(why) = warned(&place.dial_host()) {
            return Err(RequestError::EgressDenied(
                BarLabel::Indicator,
                format!("egress refused by coldframe, {why}: `{place}`"),
            ));
        }
        let usual = matches!(place.port, 443 | 80);
        let mut allowing = self.allowed.iter().filter(|glob| Self::allows(glob, place) && (usual || glob.port().is_some()));
        let named = allowing.clone().any(|glob| glob.host().is_some());
        let local = named && place.name().is_some_and(|name| name == "localhost" || name.ends_with(".localhost"));
        let listed = allowing.next().is_some();
        if listed || (self.tunnels && usual) {
            return Ok(EgressGrant { others: self, named, local, listed, warned, why: Mutex::new(BarLabel::Address) });
        }
        let host = &place.host;
        if usual {
            let text = format!(
                "egress refused by coldframe, host not allowed: `{place}`; allow it with `--allow-host {host}`, or serve it from \
                 upstream with `--intercept {host}`"
            );
            return Err(RequestError::EgressDenied(BarLabel::Host, text));
        }
        let text = format!(
            "egress refused by coldframe, only ports 443 and 80 are allowed: `{place}`; allow it with `--allow-host {place}`"
        );
        Err(RequestError::EgressDenied(BarLabel::Port, text))
    }

    fn allows(glob: &HostPattern, place: &Destination) -> bool {
        // An `http` URL keeps every port but 80, which is its default.
        Url::parse(&format!("http://{place}/")).is_ok_and(|url| glob.reach(&url).is_some())
    }

    /// Checks whether a connection to `address` would reach our own listener.
    fn is_own_listener(&self, address: SocketAddr) -> bool {
        let ip = address.ip().to_canonical();
        let takes = |listening: &SocketAddr| {
            listening.port() == address.port()
                && (listening.ip().to_canonical() == ip
                    // Only a local address can be bound.
                    || (listening.ip().is_unspecified() && (ip.is_loopback() || UdpSocket::bind((ip, 0)).is_ok())))
        };
        self.way.ours.iter().any(takes)
    }
}

impl EgressGrant<'_> {
    fn unreached(&self, place: &Destination, cause: ClientError) -> RequestError {
        match cause {
            ClientError::Unreachable { layer: ConnectStage::Reach, detail, .. } => {
                let label = *self.why.lock().unwrap_or_else(PoisonError::into_inner);
                RequestError::EgressDenied(label, format!("egress refused by coldframe, {detail}: `{place}`"))
            }
            cause => RequestError::Unreachable { place: place.to_string(), cause },
        }
    }

    /// Checks whether `address`, to which the host resolved, may be dialed.
    ///
    /// # Errors
    /// Returns the reason if it must not.
    pub(crate) fn permits(&self, address: SocketAddr) -> Result<(), String> {
        let ip = address.ip().to_canonical();
        let note = |label: BarLabel| *self.why.lock().unwrap_or_else(PoisonError::into_inner) = label;
        if self.others.is_own_listener(address) {
            note(BarLabel::Loop);
            return Err(format!("`{address}` is coldframe itself"));
        }
        if let Some(why) = (self.warned)(&ip.to_string()) {
            note(BarLabel::Indicator);
            return Err(why);
        }
        let written = |(known, port): &(IpAddr, Option<u16>)| *known == ip && port.is_none_or(|port| port == address.port());
        if self.others.addresses.iter().any(written) {
            return Ok(());
        }
        let permitted =
            if self.named { !is_internal(ip) || (self.local && ip.is_loopback()) } else { is_public(ip) && !is_internal(ip) };
        let kind = if is_internal(ip) { "loopback, link-local or cloud metadata" } else { "private or reserved" };
        if permitted { Ok(()) } else { Err(format!("`{ip}` is a {kind} address not named by `--allow-host`")) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::server::intercepted_hosts::InterceptedHosts;

    fn others(allowed: &[&str], tunnels_others: bool) -> EgressPolicy {
        let allowed = allowed.iter().map(|glob| glob.parse().unwrap()).collect();
        let gateway = GatewayConfig { targets: InterceptedHosts::default(), allowed, tunnels_others, users: None };
        let ours = vec!["127.0.0.1:4873".parse().unwrap(), "0.0.0.0:8080".parse().unwrap()];
        EgressPolicy::new(&gateway, Arc::new(EgressContext { ours, parent: OutboundProxy::none() }))
    }

    fn prefetch_queue(others: &EgressPolicy, place: &str, address: &str) -> Result<(), String> {
        let place = Destination::of(&place.parse().unwrap(), None).unwrap();
        let grant = others.authorize(&place, &|_| None).map_err(|error| error.to_string())?;
        grant.permits(SocketAddr::new(address.parse().unwrap(), place.port))
    }

    #[test]
    fn refusal_names_the_setting_that_allows_the_host() {
        let text = prefetch_queue(&others(&["*.example"], false), "other.test:443", "1.1.1.1").unwrap_err();
        assert!(text.contains("`--allow-host other.test`") && text.contains("`other.test:443`"), "{text}");
        let text = prefetch_queue(&others(&["git.example"], true), "git.example:22", "1.1.1.1").unwrap_err();
        assert!(text.contains("only ports 443 and 80") && text.contains("`--allow-host git.example:22`"), "{text}");
        assert!(prefetch_queue(&others(&["git.example:22"], false), "git.example:22", "1.1.1.1").is_ok());
        assert!(prefetch_queue(&others(&["git.example:22"], false), "git.example:443", "1.1.1.1").is_err());
        assert!(prefetch_queue(&others(&[], true), "any.test:80", "1.1.1.1").is_ok());
    }

    #[test]
    fn dialed_address_is_checked() {
        let open = others(&["named.example", "*.pattern.example"], true);
        for (place, address, expected) in [
            ("any.test:443", "10.0.0.1", false),
            ("any.test:443", "127.0.0.1", false),
            ("any.test:443", "::ffff:127.0.0.1", false),
            ("any.test:443", "169.254.169.254", false),
            ("any.test:443", "fd00:ec2::254", false),
            ("a.pattern.example:443", "192.168.1.1", false),
            ("a.pattern.example:443", "1.1.1.1", true),
            ("named.example:443", "10.0.0.1", true),
            ("named.example:443", "127.0.0.1", false),
            ("named.example:443", "169.254.169.254", false),
            ("localhost:443", "127.0.0.1", false),
            ("127.0.0.1:443", "127.0.0.1", false),
        ] {
            assert_eq!(prefetch_queue(&open, place, address).is_ok(), expected, "{place} at {address}");
        }
        let named = others(&["localhost", "127.0.0.2", "10.0.0.1", "[::1]"], false);
        for (place, address) in
            [("localhost:443", "127.0.0.1"), ("127.0.0.2:443", "127.0.0.2"), ("10.0.0.1:80", "10.0.0.1"), ("[::1]:443", "::1")]
        {
            assert_eq!(prefetch_queue(&named, place, address), Ok(()), "{place}");
        }
    }

    #[test]
    fn own_listeners_are_refused() {
        let all = others(&["127.0.0.1:4873", "127.0.0.1:8080", "localhost:4873"], true);
        for place in ["127.0.0.1:4873", "127.0.0.1:8080", "localhost:4873"] {
            let text = prefetch_queue(&all, place, "127.0.0.1").unwrap_err();
            assert!(text.ends_with("is coldframe itself"), "{text}");
        }
    }
}
