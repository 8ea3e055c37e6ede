//! Hosts that the gateway does not answer for: to which of them it goes, at which addresses, and through whom. Refuses to know
//! what is said there.

use std::net::{IpAddr, SocketAddr, UdpSocket};
use std::sync::{Arc, Mutex, PoisonError};

use tokio::net::TcpStream;
use tokio::time::timeout;
use url::Url;

use crate::net::HostPattern;
use crate::net::{
    ClientError, ConnectStage, Deadlines, OutboundProxy, ProxyConnection, TunnelStream, addresses_of, are_permitted,
    dial_permitted, is_inward, is_public,
};
use crate::server::gateway::destination::Destination;
use crate::server::{GatewayConfig, RequestError};
use crate::telemetry::BarLabel;

/// What may be reached.
#[derive(Debug)]
pub struct EgressPolicy {
    allowed: Vec<HostPattern>,
    /// Addresses that are written out, each with its port if one is.
    addresses: Vec<(IpAddr, Option<u16>)>,
    tunnels: bool,
    way: Arc<EgressContext>,
}

/// How others are reached.
#[derive(Debug)]
pub struct EgressContext {
    /// Where this process listens: nothing leads there.
    pub ours: Vec<SocketAddr>,
    /// Who connects for us, where somebody does.
    pub parent: OutboundProxy,
}

/// Leave to go to one place; which of its addresses may be dialled is another question.
pub(crate) struct EgressGrant<'a> {
    others: &'a EgressPolicy,
    /// The host is written out, so that a private address of it is meant.
    named: bool,
    /// The host is this machine by its name.
    local: bool,
    /// Somebody allowed the host, by its name or by a pattern.
    listed: bool,
    warned: &'a IndicatorCheck<'a>,
    /// The last reason for which an address was not permitted; that of an address which nobody named, at first.
    why: Mutex<BarLabel>,
}

/// Why nobody may go to a name or an address, by what feeds say of it.
pub(crate) type IndicatorCheck<'a> = dyn Fn(&str) -> Option<String> + Send + Sync + 'a;

/// What leads to a place that is asked in plain HTTP.
pub(crate) enum HttpUpstreamRoute {
    /// The place itself.
    Direct(TcpStream),
    /// A proxy that asks it.
    Relayed(ProxyConnection),
}

impl EgressPolicy {
    /// As the gateway is configured.
    #[must_use]
    pub fn new(gateway: &GatewayConfig, way: Arc<EgressContext>) -> Self {
        let address = |glob: &HostPattern| {
            let host = glob.host()?.trim_start_matches('[').trim_end_matches(']');
            Some((host.parse::<IpAddr>().ok()?.to_canonical(), glob.port()))
        };
        let addresses = gateway.allowed.iter().filter_map(address).collect();
        Self { allowed: gateway.allowed.clone(), addresses, tunnels: gateway.tunnels_others, way }
    }

    /// How others are reached.
    pub(crate) fn way(&self) -> Arc<EgressContext> {
        Arc::clone(&self.way)
    }

    /// A connection to `place`, if that is allowed.
    ///
    /// # Errors
    /// [`ProxyError::Barred`] and [`ProxyError::Unreached`].
    pub(crate) async fn reach(&self, place: &Destination, warned: &IndicatorCheck<'_>) -> Result<TunnelStream, RequestError> {
        let leave = self.admit(place, warned)?;
        let Some(before) = self.way.parent.before(&place.dialled(), place.port) else {
            return self.dial(place, &leave).await.map(TunnelStream::from);
        };
        self.check_unseen(place, &leave).await?;
        before.tunnel().await.map_err(|cause| leave.unreached(place, cause))
    }

    /// A connection to `place` for somebody whose own was to go to `original` before it was sent here. It goes there where the
    /// place has that address here or none at all; where it has others, those are what its name stands for.
    ///
    /// # Errors
    /// As [`Others::reach`].
    pub(crate) async fn splice(
        &self,
        place: &Destination,
        original: Option<SocketAddr>,
        warned: &IndicatorCheck<'_>,
    ) -> Result<TunnelStream, RequestError> {
        let Some(original) = original else { return self.reach(place, warned).await };
        if self.way.parent.before(&place.dialled(), place.port).is_some() {
            return self.reach(place, warned).await;
        }
        let leave = self.admit(place, warned)?;
        let known = timeout(Deadlines::default().connect, addresses_of(&place.dialled(), place.port)).await.unwrap_or_default();
        let is_its = known.iter().any(|address| address.ip().to_canonical() == original.ip());
        if !known.is_empty() && !is_its {
            return self.dial(place, &leave).await.map(TunnelStream::from);
        }
        if known.is_empty() && !leave.named {
            let told = format!(
                "this name has no address here that could be checked, so that anybody could call it that: `--allow-host {}` allows \
                 it: `{place}`",
                place.host
            );
            return Err(RequestError::Barred(BarLabel::Address, told));
        }
        self.dial_at(&original.ip().to_string(), place, &leave).await.map(TunnelStream::from)
    }

    /// A connection for plain HTTP to `place`, if that is allowed.
    ///
    /// # Errors
    /// As [`Others::reach`].
    pub(crate) async fn reach_for_http(
        &self,
        place: &Destination,
        warned: &IndicatorCheck<'_>,
    ) -> Result<HttpUpstreamRoute, RequestError> {
        let leave = self.admit(place, warned)?;
        let Some(before) = self.way.parent.before(&place.dialled(), 80) else {
            return self.dial(place, &leave).await.map(HttpUpstreamRoute::Direct);
        };
        self.check_unseen(place, &leave).await?;
        before.relayed().await.map(HttpUpstreamRoute::Relayed).map_err(|cause| leave.unreached(place, cause))
    }

    async fn dial(&self, place: &Destination, leave: &EgressGrant<'_>) -> Result<TcpStream, RequestError> {
        self.dial_at(&place.dialled(), place, leave).await
    }

    /// Dials `host`, a name or an address, on the way to `place`.
    async fn dial_at(&self, host: &str, place: &Destination, leave: &EgressGrant<'_>) -> Result<TcpStream, RequestError> {
        let deadline = Deadlines::default().connect;
        let dialling = timeout(deadline, dial_permitted(host, place.port, |address| leave.permits(address))).await;
        dialling.unwrap_or(Err(ClientError::TimedOut { after: deadline })).map_err(|cause| leave.unreached(place, cause))
    }

    /// Checks a place that somebody else dials: every address that it has here has to be permitted, and one that has none here,
    /// about which nothing can be said, has to be allowed by its name.
    async fn check_unseen(&self, place: &Destination, leave: &EgressGrant<'_>) -> Result<(), RequestError> {
        let (deadline, host) = (Deadlines::default().connect, place.dialled());
        let looked = timeout(deadline, are_permitted(&host, place.port, |address| leave.permits(address))).await;
        let is_known = looked.unwrap_or(Ok(false)).map_err(|cause| leave.unreached(place, cause))?;
        if is_known || leave.listed {
            return Ok(());
        }
        let told = format!(
            "this name has no address here that could be checked, and another proxy would connect to it: `--allow-host {}` allows \
             that: `{place}`",
            place.host
        );
        Err(RequestError::Barred(BarLabel::Address, told))
    }

    /// Leave to go to `place`.
    ///
    /// # Errors
    /// [`ProxyError::Barred`], in words.
    fn admit<'a>(&'a self, place: &Destination, warned: &'a IndicatorCheck<'a>) -> Result<EgressGrant<'a>, RequestError> {
        // Before anything else: whoever is refused for another reason would go unnoticed.
        if let Some(why) = warned(&place.dialled()) {
            return Err(RequestError::Barred(BarLabel::Indicator, format!("coldframe does not connect there, {why}: `{place}`")));
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
            let told = format!(
                "coldframe does not connect to this host, `--allow-host {host}` has it do so and `--intercept {host}` has it answer \
                 from upstream: `{place}`"
            );
            return Err(RequestError::Barred(BarLabel::Host, told));
        }
        let told = format!("coldframe connects to ports 443 and 80 only, `--allow-host {place}` allows another: `{place}`");
        Err(RequestError::Barred(BarLabel::Port, told))
    }

    fn allows(glob: &HostPattern, place: &Destination) -> bool {
        // Such a URL has no other port than the one that is written.
        Url::parse(&format!("http://{place}/")).is_ok_and(|url| glob.reach(&url).is_some())
    }

    /// Whether a connection to `address` would come back to us.
    fn is_ours(&self, address: SocketAddr) -> bool {
        let ip = address.ip().to_canonical();
        let takes = |listening: &SocketAddr| {
            listening.port() == address.port()
                && (listening.ip().to_canonical() == ip
                    // Only an address of this machine can be bound.
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
                RequestError::Barred(label, format!("coldframe does not connect there, {detail}: `{place}`"))
            }
            cause => RequestError::Unreached { place: place.to_string(), cause },
        }
    }

    /// Whether `address`, which the place was resolved to, may be dialled.
    ///
    /// # Errors
    /// Why not.
    pub(crate) fn permits(&self, address: SocketAddr) -> Result<(), String> {
        let ip = address.ip().to_canonical();
        let note = |label: BarLabel| *self.why.lock().unwrap_or_else(PoisonError::into_inner) = label;
        if self.others.is_ours(address) {
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
            if self.named { !is_inward(ip) || (self.local && ip.is_loopback()) } else { is_public(ip) && !is_inward(ip) };
        let whose = if is_inward(ip) { "this machine's, this link's or a cloud's own" } else { "a private or reserved" };
        if permitted { Ok(()) } else { Err(format!("`{ip}` is {whose} address, which nobody named")) }
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

    fn leads(others: &EgressPolicy, place: &str, address: &str) -> Result<(), String> {
        let place = Destination::of(&place.parse().unwrap(), None).unwrap();
        let leave = others.admit(&place, &|_| None).map_err(|error| error.to_string())?;
        leave.permits(SocketAddr::new(address.parse().unwrap(), place.port))
    }

    #[test]
    fn a_host_that_nobody_allowed_is_refused_with_what_allows_it() {
        let told = leads(&others(&["*.example"], false), "other.test:443", "1.1.1.1").unwrap_err();
        assert!(told.contains("`--allow-host other.test`") && told.ends_with("`other.test:443`"), "{told}");
        let told = leads(&others(&["git.example"], true), "git.example:22", "1.1.1.1").unwrap_err();
        assert!(told.contains("ports 443 and 80 only") && told.contains("`--allow-host git.example:22`"), "{told}");
        assert!(leads(&others(&["git.example:22"], false), "git.example:22", "1.1.1.1").is_ok());
        assert!(leads(&others(&["git.example:22"], false), "git.example:443", "1.1.1.1").is_err());
        assert!(leads(&others(&[], true), "any.test:80", "1.1.1.1").is_ok());
    }

    #[test]
    fn the_address_that_is_dialled_decides() {
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
            assert_eq!(leads(&open, place, address).is_ok(), expected, "{place} at {address}");
        }
        let named = others(&["localhost", "127.0.0.2", "10.0.0.1", "[::1]"], false);
        for (place, address) in
            [("localhost:443", "127.0.0.1"), ("127.0.0.2:443", "127.0.0.2"), ("10.0.0.1:80", "10.0.0.1"), ("[::1]:443", "::1")]
        {
            assert_eq!(leads(&named, place, address), Ok(()), "{place}");
        }
    }

    #[test]
    fn nothing_leads_back_to_us() {
        let all = others(&["127.0.0.1:4873", "127.0.0.1:8080", "localhost:4873"], true);
        for place in ["127.0.0.1:4873", "127.0.0.1:8080", "localhost:4873"] {
            let told = leads(&all, place, "127.0.0.1").unwrap_err();
            assert!(told.ends_with("is coldframe itself"), "{told}");
        }
    }
}
