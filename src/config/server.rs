//! Reads the settings of the HTTP server, its connection limits and the gateway.

use std::net::SocketAddr;
use std::path::PathBuf;

use rustls_pki_types::DnsName;
use url::Url;

use crate::config::parse::{self, SettingsReader};
use crate::config::settings::{self, DEFAULT_EGRESS, SettingKey};
use crate::net::ConnectionLimits;
use crate::server::{self, InterceptedHosts};
use crate::upstream::{self, npmrc};

/// The gateway, for clients that do not name Coldframe as their registry.
#[derive(Debug, Clone)]
pub struct GatewaySettings {
    /// The addresses of the gateway; empty without a gateway.
    pub listen: Vec<SocketAddr>,
    /// The addresses for transparently redirected connections.
    pub transparent: Vec<SocketAddr>,
    pub proxy: server::GatewayConfig,
    /// The certificate and key files of a configured CA; `None` if Coldframe creates one.
    pub ca_files: Option<(PathBuf, PathBuf)>,
}

/// Reads the gateway settings. Returns `None` after it has added an error.
pub(crate) fn gateway(reader: &mut SettingsReader<'_>, registries: Option<&upstream::Config>) -> Option<GatewaySettings> {
    let listen = reader.several(SettingKey::Gateway, parse::address);
    let transparent = reader.several(SettingKey::Transparent, parse::address);
    let intercepted = reader.several(SettingKey::Intercept, parse::host_name);
    let default_egress = reader.one(SettingKey::DefaultEgress, parse::one_of(DEFAULT_EGRESS));
    let allowed = reader.several(SettingKey::AllowHost, parse::host_glob);
    let certificate = reader.one(SettingKey::CaCertFile, parse::path);
    let key = reader.one(SettingKey::CaKeyFile, parse::path);
    let users = reader.one(SettingKey::GatewayUsers, parse::path);
    match (&certificate, &key) {
        (Some(_), None) => reader.reject(SettingKey::CaCertFile, "`ca-cert` without `ca-key`", "both settings, or neither"),
        (None, Some(_)) => {
            reader.reject(SettingKey::CaKeyFile, "`ca-key` without `ca-cert`", "both settings, or neither");
        }
        _ => {}
    }
    let registries = registries?;
    let mut targets = InterceptedHosts::default();
    for registry in std::iter::once(&registries.default).chain(registries.scoped.values()) {
        targets.add_registry(&registry.url);
    }
    targets.add_registry(&npmrc::npm_default_registry());
    if let Some(alias) = npmrc::yarn_registry_host().and_then(|name| DnsName::try_from(name).ok()) {
        targets.add_alias(&alias);
    }
    for host in intercepted {
        targets.add_host(&host);
    }
    let proxy = server::GatewayConfig { targets, allowed, tunnels_others: default_egress? == "tunnel", users };
    Some(GatewaySettings { listen, transparent, proxy, ca_files: certificate.zip(key) })
}

/// Reads the server settings. Returns `None` after it has added an error.
pub(crate) fn read(reader: &mut SettingsReader<'_>, public_url: Option<Url>) -> Option<server::Config> {
    let trusted_proxies = reader.several(SettingKey::TrustedProxy, parse::network);
    let allow_writes = reader.one(SettingKey::AllowWrites, parse::boolean);
    let explain_access = reader.one(SettingKey::ExplainAccess, parse::one_of(settings::EXPLAIN_ACCESS));
    let admin_tokens = reader.one(SettingKey::AdminTokenFile, parse::path);
    let limits = limits(reader);
    let body_timeout = reader.one(SettingKey::BodyTimeout, parse::nonzero_duration);
    let body_limit = reader.one(SettingKey::BodyLimit, parse::size_from(1_000));
    let write_limit = reader.one(SettingKey::WriteLimit, parse::size_from(1_000));
    Some(server::Config {
        public_url,
        trusted_proxies,
        upstream_prefixes: Vec::new(),
        allow_writes: allow_writes?,
        explains_to_all: explain_access? == "all",
        admin_tokens,
        body_limit: body_limit?,
        write_limit: write_limit?,
        body_timeout: body_timeout?,
        limits: limits?,
    })
}

fn limits(reader: &mut SettingsReader<'_>) -> Option<ConnectionLimits> {
    let connections = reader.one(SettingKey::MaxConnections, parse::count);
    let header_timeout = reader.one(SettingKey::HeaderTimeout, parse::nonzero_duration);
    let head_bytes = reader.one(SettingKey::HeaderLimit, parse::size_within(8 << 10, 1 << 20));
    let max_headers = reader.one(SettingKey::MaxHeaders, parse::count_to(1_000));
    let idle_timeout = reader.one(SettingKey::IdleTimeout, parse::nonzero_duration);
    let send_timeout = reader.one(SettingKey::SendTimeout, parse::nonzero_duration);
    let drain = reader.one(SettingKey::DrainTimeout, parse::duration);
    Some(ConnectionLimits {
        connections: connections?,
        header_timeout: header_timeout?,
        idle_timeout: idle_timeout?,
        head_bytes: head_bytes?,
        max_headers: max_headers?,
        send_timeout: send_timeout?,
        drain: drain?,
    })
}
