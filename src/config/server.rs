//! How the doors behave, and what a connection may cost. Refuses to know which addresses they are at.

use std::net::SocketAddr;
use std::path::PathBuf;

use rustls_pki_types::DnsName;
use url::Url;

use crate::config::parse::{self, SettingsReader};
use crate::config::settings::{self, OTHERS, SettingKey};
use crate::net::ConnectionLimits;
use crate::server::{self, InterceptedHosts};
use crate::upstream::{self, npmrc};

/// The gateway: a door for clients that do not know us.
#[derive(Debug, Clone)]
pub struct GatewaySettings {
    /// Where it listens; nowhere when there is none.
    pub listen: Vec<SocketAddr>,
    /// Where it takes connections that were to go elsewhere.
    pub transparent: Vec<SocketAddr>,
    /// How it behaves.
    pub door: server::GatewayConfig,
    /// The files of a given authority, its certificate and its key; `None` for one of its own.
    pub given: Option<(PathBuf, PathBuf)>,
}

/// The gateway of what is written; `None` when something is wrong, which is noted.
pub(crate) fn gateway(reader: &mut SettingsReader<'_>, registries: Option<&upstream::Config>) -> Option<GatewaySettings> {
    let listen = reader.several(SettingKey::Gateway, parse::address);
    let transparent = reader.several(SettingKey::Transparent, parse::address);
    let named = reader.several(SettingKey::Intercept, parse::host_name);
    let others = reader.one(SettingKey::Others, parse::word(OTHERS));
    let allowed = reader.several(SettingKey::AllowHost, parse::host_glob);
    let certificate = reader.one(SettingKey::CaCertFile, parse::path);
    let key = reader.one(SettingKey::CaKeyFile, parse::path);
    let users = reader.one(SettingKey::GatewayUsers, parse::path);
    match (&certificate, &key) {
        (Some(_), None) => reader.object(SettingKey::CaCertFile, "`ca-cert` lacks its key", "`ca-key` with a path beside it"),
        (None, Some(_)) => {
            reader.object(SettingKey::CaKeyFile, "`ca-key` lacks its certificate", "`ca-cert` with a path beside it");
        }
        _ => {}
    }
    let registries = registries?;
    let mut targets = InterceptedHosts::default();
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
    let door = server::GatewayConfig { targets, allowed, tunnels_others: others? == "tunnel", users };
    Some(GatewaySettings { listen, transparent, door, given: certificate.zip(key) })
}

/// The doors of what is written; `None` when something is wrong, which is noted.
pub(crate) fn read(reader: &mut SettingsReader<'_>, public_url: Option<Url>) -> Option<server::Config> {
    let trusted_proxies = reader.several(SettingKey::TrustedProxy, parse::network);
    let allow_writes = reader.one(SettingKey::AllowWrites, parse::truth);
    let explain_to = reader.one(SettingKey::ExplainTo, parse::word(settings::EXPLAIN_TO));
    let admin_tokens = reader.one(SettingKey::AdminTokenFile, parse::path);
    let limits = limits(reader);
    let body_timeout = reader.one(SettingKey::BodyTimeout, parse::some_duration);
    let body_limit = reader.one(SettingKey::BodyLimit, parse::size_from(1_000));
    let write_limit = reader.one(SettingKey::WriteLimit, parse::size_from(1_000));
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

fn limits(reader: &mut SettingsReader<'_>) -> Option<ConnectionLimits> {
    let connections = reader.one(SettingKey::MaxConnections, parse::count);
    let head_timeout = reader.one(SettingKey::HeadTimeout, parse::some_duration);
    let head_bytes = reader.one(SettingKey::HeadLimit, parse::size_within(8 << 10, 1 << 20));
    let head_lines = reader.one(SettingKey::HeadLines, parse::count_to(1_000));
    let idle_timeout = reader.one(SettingKey::IdleTimeout, parse::some_duration);
    let send_timeout = reader.one(SettingKey::SendTimeout, parse::some_duration);
    let drain = reader.one(SettingKey::DrainTimeout, parse::duration);
    Some(ConnectionLimits {
        connections: connections?,
        head_timeout: head_timeout?,
        idle_timeout: idle_timeout?,
        head_bytes: head_bytes?,
        head_lines: head_lines?,
        send_timeout: send_timeout?,
        drain: drain?,
    })
}
