//! How the doors behave, and what a connection may cost. Refuses to know which addresses they are at.

use std::net::SocketAddr;
use std::path::PathBuf;

use rustls_pki_types::DnsName;
use url::Url;

use super::read::{self, Reader};
use super::settings::{self, Key, OTHERS};
use crate::net::Limits;
use crate::proxy::{self, Targets};
use crate::upstream::{self, npmrc};

/// The gateway: a door for clients that do not know us.
#[derive(Debug, Clone)]
pub struct Gateway {
    /// Where it listens; nowhere when there is none.
    pub listen: Vec<SocketAddr>,
    /// Where it takes connections that were to go elsewhere.
    pub transparent: Vec<SocketAddr>,
    /// How it behaves.
    pub door: proxy::Gateway,
    /// The files of a given authority, its certificate and its key; `None` for one of its own.
    pub given: Option<(PathBuf, PathBuf)>,
}

/// The gateway of what is written; `None` when something is wrong, which is noted.
pub(super) fn gateway(reader: &mut Reader<'_>, registries: Option<&upstream::Config>) -> Option<Gateway> {
    let listen = reader.several(Key::Gateway, read::address);
    let transparent = reader.several(Key::Transparent, read::address);
    let named = reader.several(Key::Intercept, read::host_name);
    let others = reader.one(Key::Others, read::word(OTHERS));
    let allowed = reader.several(Key::AllowHost, read::host_glob);
    let certificate = reader.one(Key::CaCertFile, read::path);
    let key = reader.one(Key::CaKeyFile, read::path);
    let users = reader.one(Key::GatewayUsers, read::path);
    match (&certificate, &key) {
        (Some(_), None) => reader.object(Key::CaCertFile, "`ca-cert` lacks its key", "`ca-key` with a path beside it"),
        (None, Some(_)) => reader.object(Key::CaKeyFile, "`ca-key` lacks its certificate", "`ca-cert` with a path beside it"),
        _ => {}
    }
    let registries = registries?;
    let mut targets = Targets::default();
    for registry in std::iter::once(&registries.default).chain(registries.scoped.values()) {
        targets.add_registry(&registry.url);
    }
    targets.add_registry(&npmrc::built_in());
    if let Some(alias) = npmrc::yarns_alias().and_then(|name| DnsName::try_from(name).ok()) {
        targets.add_alias(&alias);
    }
    for host in named {
        targets.add_host(&host);
    }
    let door = proxy::Gateway { targets, allowed, tunnels_others: others? == "tunnel", users };
    Some(Gateway { listen, transparent, door, given: certificate.zip(key) })
}

/// The doors of what is written; `None` when something is wrong, which is noted.
pub(super) fn read(reader: &mut Reader<'_>, public_url: Option<Url>) -> Option<proxy::Config> {
    let trusted_proxies = reader.several(Key::TrustedProxy, read::network);
    let allow_writes = reader.one(Key::AllowWrites, read::truth);
    let explain_to = reader.one(Key::ExplainTo, read::word(settings::EXPLAIN_TO));
    let admin_tokens = reader.one(Key::AdminTokenFile, read::path);
    let limits = limits(reader);
    let body_timeout = reader.one(Key::BodyTimeout, read::some_duration);
    let body_limit = reader.one(Key::BodyLimit, read::size_from(1_000));
    let write_limit = reader.one(Key::WriteLimit, read::size_from(1_000));
    Some(proxy::Config {
        public_url,
        trusted_proxies,
        upstream_prefixes: Vec::new(),
        allow_writes: allow_writes?,
        explains_to_all: explain_to? == "everybody",
        admin_tokens,
        body_limit: body_limit?,
        write_limit: write_limit?,
        body_timeout: body_timeout?,
        limits: limits?,
    })
}

fn limits(reader: &mut Reader<'_>) -> Option<Limits> {
    let connections = reader.one(Key::MaxConnections, read::count);
    let head_timeout = reader.one(Key::HeadTimeout, read::some_duration);
    let head_bytes = reader.one(Key::HeadLimit, read::size_within(8 << 10, 1 << 20));
    let head_lines = reader.one(Key::HeadLines, read::count_to(1_000));
    let idle_timeout = reader.one(Key::IdleTimeout, read::some_duration);
    let send_timeout = reader.one(Key::SendTimeout, read::some_duration);
    let drain = reader.one(Key::DrainTimeout, read::duration);
    Some(Limits {
        connections: connections?,
        head_timeout: head_timeout?,
        idle_timeout: idle_timeout?,
        head_bytes: head_bytes?,
        head_lines: head_lines?,
        send_timeout: send_timeout?,
        drain: drain?,
    })
}
