//! Egress of the gateway: which other hosts and addresses clients may reach, and through which proxy.

use std::net::{IpAddr, SocketAddr, UdpSocket};
use std::sync::{Arc, Mutex, PoisonError};

use tokio::net::TcpStream;
use tokio::time::timeout;
use url::{Host, Url};

use crate::net::{
    ClientError, ConnectStage, Deadlines, HostPattern, OutboundProxy, ProxyConnection, TunnelStream, all_permitted,
    dial_permitted, is_internal, is_public, resolve_all,
};
use crate::server::config::GatewayConfig;
use crate::server::error::RequestError;
use crate::server::gateway::destination::Destination;
use crate::telemetry::BarLabel;

/// The hosts that clients may reach.
#[derive(Debug)]
pub(crate) struct EgressPolicy {
    allowed: Vec<HostPattern>,
    /// Allowed literal addresses, each with its port if one is given.
    addresses: Vec<(IpAddr, Option<u16>)>,
    /// Whether every other host is allowed too, on the usual ports.
    allows_others: bool,
    pub(crate) context: Arc<EgressContext>,
}

#[derive(Debug)]
pub(crate) struct EgressContext {
    /// The addresses of our own listeners, which are never dialed.
    pub(crate) ours: Vec<SocketAddr>,
    pub(crate) parent: OutboundProxy,
}

/// Permission to reach one host. Its resolved addresses are checked separately.
pub(crate) struct EgressGrant<'a> {
    policy: &'a EgressPolicy,
    /// The host is named exactly, so it may have a private address.
    named: bool,
    /// The host is a loopback name.
    local: bool,
    /// The host matches `--allow-host`, exactly or by a pattern.
    listed: bool,
    indicator_check: &'a IndicatorCheck<'a>,
    /// The reason for the last refused address. Initially [`BarLabel::Address`].
    refusal: Mutex<BarLabel>,
}

/// Returns the reason if a feed indicator matches a name or address.
pub(crate) type IndicatorCheck<'a> = dyn Fn(&str) -> Option<String> + Send + Sync + 'a;

/// The connection for a plain HTTP request.
pub(crate) enum HttpUpstreamRoute {
    Direct(TcpStream),
    /// To a proxy, for a request in absolute form.
    Relayed(ProxyConnection),
}

impl EgressPolicy {
    pub(crate) fn new(config: &GatewayConfig, context: Arc<EgressContext>) -> Self {
        let address = |glob: &HostPattern| {
            let host = glob.host()?.trim_start_matches('[').trim_end_matches(']');
            Some((host.parse::<IpAddr>().ok()?.to_canonical(), glob.port))
        };
        let addresses = config.allowed.iter().filter_map(address).collect();
        Self { allowed: config.allowed.clone(), addresses, allows_others: config.tunnels_others, context }
    }

    pub(crate) async fn connect(
        &self,
        destination: &Destination,
        indicator_check: &IndicatorCheck<'_>,
    ) -> Result<TunnelStream, RequestError> {
        let grant = self.authorize(destination, indicator_check)?;
        let Some(proxy) = self.context.parent.for_target(&destination.dial_host(), destination.port) else {
            return self.dial(destination, &grant).await.map(TunnelStream::from);
        };
        self.check_remote_resolution(destination, &grant).await?;
        proxy.tunnel().await.map_err(|cause| grant.connect_error(destination, cause))
    }

    /// Connects to `destination` for a client whose connection to `original` was redirected here. Dials `original` if the name
    /// resolves to it, or not at all. Otherwise dials the name, so that a false server name opens no other address.
    pub(crate) async fn connect_original(
        &self,
        destination: &Destination,
        original: Option<SocketAddr>,
        indicator_check: &IndicatorCheck<'_>,
    ) -> Result<TunnelStream, RequestError> {
        let Some(original) = original else { return self.connect(destination, indicator_check).await };
        if self.context.parent.for_target(&destination.dial_host(), destination.port).is_some() {
            return self.connect(destination, indicator_check).await;
        }
        let grant = self.authorize(destination, indicator_check)?;
        let known = timeout(Deadlines::default().connect, resolve_all(&destination.dial_host(), destination.port))
            .await
            .unwrap_or_default();
        let is_resolved = known.iter().any(|address| address.ip().to_canonical() == original.ip());
        if !known.is_empty() && !is_resolved {
            return self.dial(destination, &grant).await.map(TunnelStream::from);
        }
        if known.is_empty() && !grant.named {
            let text = format!(
                "egress refused by coldframe, name does not resolve here, so its address cannot be checked: `{destination}`; \
                 allow it with `--allow-host {}`",
                destination.host
            );
            return Err(RequestError::EgressDenied(BarLabel::Address, text));
        }
        self.dial_at(&original.ip().to_string(), destination, &grant).await.map(TunnelStream::from)
    }

    pub(crate) async fn connect_http(
        &self,
        destination: &Destination,
        indicator_check: &IndicatorCheck<'_>,
    ) -> Result<HttpUpstreamRoute, RequestError> {
        let grant = self.authorize(destination, indicator_check)?;
        let Some(proxy) = self.context.parent.for_target(&destination.dial_host(), 80) else {
            return self.dial(destination, &grant).await.map(HttpUpstreamRoute::Direct);
        };
        self.check_remote_resolution(destination, &grant).await?;
        proxy.connect_plain().await.map(HttpUpstreamRoute::Relayed).map_err(|cause| grant.connect_error(destination, cause))
    }

    async fn dial(&self, destination: &Destination, grant: &EgressGrant<'_>) -> Result<TcpStream, RequestError> {
        self.dial_at(&destination.dial_host(), destination, grant).await
    }

    /// Dials `host`, a name or an address, for a connection to `destination`.
    async fn dial_at(&self, host: &str, destination: &Destination, grant: &EgressGrant<'_>) -> Result<TcpStream, RequestError> {
        let deadline = Deadlines::default().connect;
        let dialling = timeout(deadline, dial_permitted(host, destination.port, |address| grant.permits(address))).await;
        dialling
            .unwrap_or(Err(ClientError::TimedOut { after: deadline }))
            .map_err(|cause| grant.connect_error(destination, cause))
    }

    /// Checks a destination that another proxy dials: its addresses must be permitted, or its name if it does not resolve here.
    async fn check_remote_resolution(&self, destination: &Destination, grant: &EgressGrant<'_>) -> Result<(), RequestError> {
        let (deadline, host) = (Deadlines::default().connect, destination.dial_host());
        let result = timeout(deadline, all_permitted(&host, destination.port, |address| grant.permits(address))).await;
        let is_known = result.unwrap_or(Ok(false)).map_err(|cause| grant.connect_error(destination, cause))?;
        if is_known || grant.listed {
            return Ok(());
        }
        let text = format!(
            "egress refused by coldframe, name does not resolve here, so the outbound proxy's target cannot be checked: \
             `{destination}`; allow it with `--allow-host {}`",
            destination.host
        );
        Err(RequestError::EgressDenied(BarLabel::Address, text))
    }

    fn authorize<'a>(
        &'a self,
        destination: &Destination,
        indicator_check: &'a IndicatorCheck<'a>,
    ) -> Result<EgressGrant<'a>, RequestError> {
        // Checked first, since a refusal for another reason would hide the hit.
        if let Some(why) = indicator_check(&destination.dial_host()) {
            return Err(RequestError::EgressDenied(
                BarLabel::Indicator,
                format!("egress refused by coldframe, {why}: `{destination}`"),
            ));
        }
        let usual = matches!(destination.port, 443 | 80);
        // An `http` URL keeps every port but 80, which is its default.
        let url = Url::parse(&format!("http://{destination}/"));
        let allows = |glob: &HostPattern| url.as_ref().is_ok_and(|url| glob.reach(url).is_some());
        let mut allowing = self.allowed.iter().filter(|glob| allows(glob) && (usual || glob.port.is_some()));
        let named = allowing.clone().any(|glob| glob.host().is_some());
        let local =
            named && matches!(&destination.host, Host::Domain(name) if name == "localhost" || name.ends_with(".localhost"));
        let listed = allowing.next().is_some();
        if listed || (self.allows_others && usual) {
            return Ok(EgressGrant {
                policy: self,
                named,
                local,
                listed,
                indicator_check,
                refusal: Mutex::new(BarLabel::Address),
            });
        }
        let host = &destination.host;
        if usual {
            let text = format!(
                "egress refused by coldframe, host not allowed: `{destination}`; allow it with `--allow-host {host}`, or serve it from \
                 upstream with `--intercept {host}`"
            );
            return Err(RequestError::EgressDenied(BarLabel::Host, text));
        }
        let text = format!(
            "egress refused by coldframe, only ports 443 and 80 are allowed: `{destination}`; allow it with `--allow-host {destination}`"
        );
        Err(RequestError::EgressDenied(BarLabel::Port, text))
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
        self.context.ours.iter().any(takes)
    }
}

impl EgressGrant<'_> {
    fn connect_error(&self, destination: &Destination, cause: ClientError) -> RequestError {
        match cause {
            ClientError::Unreachable { layer: ConnectStage::Reach, detail, .. } => {
                let label = *self.refusal.lock().unwrap_or_else(PoisonError::into_inner);
                RequestError::EgressDenied(label, format!("egress refused by coldframe, {detail}: `{destination}`"))
            }
            cause => RequestError::Unreachable { place: destination.to_string(), cause },
        }
    }

    /// Returns the reason if `address`, to which the host resolved, must not be dialed.
    pub(crate) fn permits(&self, address: SocketAddr) -> Result<(), String> {
        let ip = address.ip().to_canonical();
        let note = |label: BarLabel| *self.refusal.lock().unwrap_or_else(PoisonError::into_inner) = label;
        if self.policy.is_own_listener(address) {
            note(BarLabel::Loop);
            return Err(format!("`{address}` is coldframe itself"));
        }
        if let Some(why) = (self.indicator_check)(&ip.to_string()) {
            note(BarLabel::Indicator);
            return Err(why);
        }
        let written = |(known, port): &(IpAddr, Option<u16>)| *known == ip && port.is_none_or(|port| port == address.port());
        if self.policy.addresses.iter().any(written) {
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

    fn policy(allowed: &[&str], tunnels_others: bool) -> EgressPolicy {
        let allowed = allowed.iter().map(|glob| glob.parse().unwrap()).collect();
        let gateway = GatewayConfig { targets: InterceptedHosts::default(), allowed, tunnels_others, users: None };
        let ours = vec!["127.0.0.1:4873".parse().unwrap(), "0.0.0.0:8080".parse().unwrap()];
        EgressPolicy::new(&gateway, Arc::new(EgressContext { ours, parent: OutboundProxy::default() }))
    }

    fn check(policy: &EgressPolicy, place: &str, address: &str) -> Result<(), String> {
        let place = Destination::of(&place.parse().unwrap(), None).unwrap();
        let grant = policy.authorize(&place, &|_| None).map_err(|error| error.to_string())?;
        grant.permits(SocketAddr::new(address.parse().unwrap(), place.port))
    }

    #[test]
    fn refusal_names_the_setting_that_allows_the_host() {
        let text = check(&policy(&["*.example"], false), "other.test:443", "1.1.1.1").unwrap_err();
        assert!(text.contains("`--allow-host other.test`") && text.contains("`other.test:443`"), "{text}");
        let text = check(&policy(&["git.example"], true), "git.example:22", "1.1.1.1").unwrap_err();
        assert!(text.contains("only ports 443 and 80") && text.contains("`--allow-host git.example:22`"), "{text}");
        assert!(check(&policy(&["git.example:22"], false), "git.example:22", "1.1.1.1").is_ok());
        assert!(check(&policy(&["git.example:22"], false), "git.example:443", "1.1.1.1").is_err());
        assert!(check(&policy(&[], true), "any.test:80", "1.1.1.1").is_ok());
    }

    #[test]
    fn dialed_address_is_checked() {
        let open = policy(&["named.example", "*.pattern.example"], true);
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
            assert_eq!(check(&open, place, address).is_ok(), expected, "{place} at {address}");
        }
        let named = policy(&["localhost", "127.0.0.2", "10.0.0.1", "[::1]"], false);
        for (place, address) in
            [("localhost:443", "127.0.0.1"), ("127.0.0.2:443", "127.0.0.2"), ("10.0.0.1:80", "10.0.0.1"), ("[::1]:443", "::1")]
        {
            assert_eq!(check(&named, place, address), Ok(()), "{place}");
        }
    }

    #[test]
    fn own_listeners_are_refused() {
        let all = policy(&["127.0.0.1:4873", "127.0.0.1:8080", "localhost:4873"], true);
        for place in ["127.0.0.1:4873", "127.0.0.1:8080", "localhost:4873"] {
            let text = check(&all, place, "127.0.0.1").unwrap_err();
            assert!(text.ends_with("is coldframe itself"), "{text}");
        }
    }
}
