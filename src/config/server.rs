//! How the doors behave, and what a connection may cost. Refuses to know which addresses they are at.

use std::net::SocketAddr;
use std::path::PathBuf;

use rustls_pki_types::DnsName;
use url::Url;

use crate::config::parse::{self, Reader};
use crate::config::settings::{self, Key, OTHERS};
use crate::net::Limits;
use crate::server::{self, Targets};
use crate::upstream::{self, npmrc};

/// The gateway: a door for clients that do not know us.
#[derive(Debug, Clone)]
pub struct Gateway {
    /// Where it listens; nowhere when there is none.
    pub listen: Vec<SocketAddr>,
    /// Where it takes connections that were to go elsewhere.
    pub transparent: Vec<SocketAddr>,
    /// How it behaves.
    pub door: server::Gateway,
    /// The files of a given authority, its certificate and its key; `None` for one of its own.
    pub given: Option<(PathBuf, PathBuf)>,
}

/// The gateway of what is written; `None` when something is wrong, which is noted.
pub(crate) fn gateway(reader: &mut Reader<'_>, registries: Option<&upstream::Config>) -> Option<Gateway> {
    let listen = reader.several(Key::Gateway, parse::address);
    let transparent = reader.several(Key::Transparent, parse::address);
    let named = reader.several(Key::Intercept, parse::host_name);
    let others = reader.one(Key::Others, parse::word(OTHERS));
    let allowed = reader.several(Key::AllowHost, parse::host_glob);
    let certificate = reader.one(Key::CaCertFile, parse::path);
    let key = reader.one(Key::CaKeyFile, parse::path);
    let users = reader.one(Key::GatewayUsers, parse::path);
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
    let door = server::Gateway { targets, allowed, tunnels_others: others? == "tunnel", users };
    Some(Gateway { listen, transparent, door, given: certificate.zip(key) })
}

/// The doors of what is written; `None` when something is wrong, which is noted.
pub(crate) fn read(reader: &mut Reader<'_>, public_url: Option<Url>) -> Option<server::Config> {
    let trusted_proxies = reader.several(Key::TrustedProxy, parse::network);
    let allow_writes = reader.one(Key::AllowWrites, parse::truth);
    let explain_to = reader.one(Key::ExplainTo, parse::word(settings::EXPLAIN_TO));
    let admin_tokens = reader.one(Key::AdminTokenFile, parse::path);
    let limits = limits(reader);
    let body_timeout = reader.one(Key::BodyTimeout, parse::some_duration);
    let body_limit = reader.one(Key::BodyLimit, parse::size_from(1_000));
    let write_limit = reader.one(Key::WriteLimit, parse::size_from(1_000));
    Some(server::Config {
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
    let connections = reader.one(Key::MaxConnections, parse::count);
    let head_timeout = reader.one(Key::HeadTimeout, parse::some_duration);
    let head_bytes = reader.one(Key::HeadLimit, parse::size_within(8 << 10, 1 << 20));
    let head_lines = reader.one(Key::HeadLines, parse::count_to(1_000));
    let idle_timeout = reader.one(Key::IdleTimeout, parse::some_duration);
    let send_timeout = reader.one(Key::SendTimeout, parse::some_duration);
    let drain = reader.one(Key::DrainTimeout, parse::duration);
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
