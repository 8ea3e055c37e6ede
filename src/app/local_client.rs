//! The client that commands on this machine are.

use std::net::{IpAddr, Ipv4Addr};

use crate::firewall::{BaseUrl, Client, Profile};
use crate::npm::UserAgent;
use crate::upstream::{Addressed, Authorization};

/// Returns the local client with this policy. It may use the configured credentials.
pub(crate) fn local_client(profile: Profile) -> Client {
    Client {
        address: IpAddr::V4(Ipv4Addr::LOCALHOST),
        user: None,
        agent: UserAgent::parse(concat!("coldframe/", env!("CARGO_PKG_VERSION"))),
        is_installing: false,
        authorization: Authorization::Lent,
        addressed: Addressed::Coldframe,
        base: BaseUrl { text: "http://127.0.0.1".into(), cacheable: false, serves_admin: false, intercepted: None },
        profile,
    }
}
