//! Reads the settings of the HTTP server, its connection limits and the gateway.

use std::net::SocketAddr;
use std::path::PathBuf;

use rustls_pki_types::DnsName;
use url::Url;

use crate::config::parse::{self, ListenerText, SettingsReader};
use crate::config::settings::SettingKey;
use crate::files;
use crate::net::{ConnectionLimits, ListenAddress, Scheme};
use crate::policy::access::issuer::TrustedIssuer;
use crate::policy::access::sign_in_provider::SignInProvider;
use crate::server::{self, AuthConfig, AuthRequirement, ClientSecret, InterceptedHosts, SignInConfig};
use crate::tls::ServerCertificateFiles;
use crate::upstream::{self, npmrc};

/// The gateway, for clients that do not name Coldframe as their registry.
#[derive(Debug, Clone)]
pub struct GatewaySettings {
    pub listen: Vec<SocketAddr>,
    /// The addresses for transparently redirected connections.
    pub transparent: Vec<SocketAddr>,
    pub proxy: server::GatewayConfig,
    /// The certificate and key files of a configured CA; `None` if Coldframe creates one.
    pub ca_files: Option<(PathBuf, PathBuf)>,
}

/// Reads the gateway settings. Returns `None` without registries.
pub(crate) fn gateway(reader: &mut SettingsReader<'_>, registries: Option<&upstream::Config>) -> Option<GatewaySettings> {
    let listen = reader.several(SettingKey::Gateway, parse::address);
    let transparent = reader.several(SettingKey::Transparent, parse::address);
    let intercepted = reader.several(SettingKey::Intercept, parse::host_name);
    let tunnels_others = reader.word(SettingKey::DefaultEgress) == "tunnel";
    let allowed = reader.several(SettingKey::AllowHost, parse::host_glob);
    let certificate = reader.optional(SettingKey::CaCertFile, parse::path);
    let key = reader.optional(SettingKey::CaKeyFile, parse::path);
    let users = reader.optional(SettingKey::GatewayUsers, parse::path);
    match (&certificate, &key) {
        (Some(_), None) => reader.reject(SettingKey::CaCertFile, "`ca-cert` without `ca-key`", "both settings, or neither"),
        (None, Some(_)) => reader.reject(SettingKey::CaKeyFile, "`ca-key` without `ca-cert`", "both settings, or neither"),
        _ => {}
    }
    let registries = registries?;
    let mut targets = InterceptedHosts::default();
    for registry in registries.registries() {
        targets.add_registry(&registry.url);
    }
    targets.add_registry(&npmrc::npm_default_registry());
    if let Some(alias) = npmrc::yarn_registry_host().and_then(|name| DnsName::try_from(name).ok()) {
        targets.add_alias(&alias);
    }
    for host in intercepted {
        targets.add_host(&host);
    }
    let proxy = server::GatewayConfig { targets, allowed, tunnels_others, users };
    Some(GatewaySettings { listen, transparent, proxy, ca_files: certificate.zip(key) })
}

/// Reads the files of the registry's certificate. `None` if there are none, or after it has added an error.
pub(crate) fn tls_files(reader: &mut SettingsReader<'_>) -> Option<ServerCertificateFiles> {
    let certificate = reader.optional(SettingKey::TlsCert, parse::path);
    let key = reader.optional(SettingKey::TlsKey, parse::path);
    let client_authorities = reader.optional(SettingKey::TlsClientCa, parse::path);
    match (certificate, key) {
        (Some(certificate), Some(key)) => return Some(ServerCertificateFiles { certificate, key, client_authorities }),
        (Some(_), None) => reader.reject(SettingKey::TlsCert, "`tls-cert` without `tls-key`", "both settings, or neither"),
        (None, Some(_)) => reader.reject(SettingKey::TlsKey, "`tls-key` without `tls-cert`", "both settings, or neither"),
        (None, None) if client_authorities.is_some() => {
            let allowed = "it together with `tls-cert` and `tls-key`";
            reader.reject(SettingKey::TlsClientCa, "`tls-client-ca` without `tls-cert`", allowed);
        }
        (None, None) => {}
    }
    None
}

/// Reads the addresses to listen on, with the policies that they name. With a certificate, they speak HTTPS unless written with
/// `http://`.
pub(crate) fn listeners(reader: &mut SettingsReader<'_>, has_certificate: bool) -> (Vec<ListenAddress>, Vec<Option<String>>) {
    let usual = if has_certificate { Scheme::Https } else { Scheme::Http };
    let read = reader.several(SettingKey::Listen, parse::listener);
    if !has_certificate && reader.is_absent(SettingKey::TlsCert) && read.iter().any(|text| text.scheme == Some(Scheme::Https)) {
        reader.reject(SettingKey::Listen, "`https` address without `tls-cert` and `tls-key`", "both settings, or no `https://`");
    }
    let address = |text: &ListenerText| ListenAddress { scheme: text.scheme.unwrap_or(usual), socket: text.socket };
    read.into_iter().map(|text| (address(&text), text.policy)).unzip()
}

/// The largest file of issuers, in bytes.
const MAX_ISSUERS_BYTES: u64 = 1 << 20;

/// The largest secret of a client of a sign-in provider, in bytes.
const MAX_SECRET_BYTES: u64 = 4 << 10;

fn auth(reader: &mut SettingsReader<'_>) -> AuthConfig {
    let is_required = reader.one(SettingKey::RequireAuth, parse::boolean);
    let issuers = reader.optional(SettingKey::TrustedIssuers, |text| {
        let read = files::read_bounded(&parse::path(text)?, MAX_ISSUERS_BYTES).and_then(files::into_text);
        TrustedIssuer::parse_file(&read.map_err(|error| format!("cannot be read: {error}"))?)
    });
    let sign_in = reader.optional(SettingKey::SignIn, |text| {
        let read = files::read_bounded(&parse::path(text)?, MAX_ISSUERS_BYTES).and_then(files::into_text);
        let provider = SignInProvider::parse_file(&read.map_err(|error| format!("cannot be read: {error}"))?)?;
        let secret = provider.secret_file.as_deref().map(|path| {
            let read = files::read_bounded(path, MAX_SECRET_BYTES).and_then(files::into_text);
            read.map(|secret| secret.trim().to_owned()).map_err(|error| format!("`client-secret-file` cannot be read: {error}"))
        });
        Ok(SignInConfig { provider, secret: secret.transpose()?.map(ClientSecret) })
    });
    AuthConfig {
        requirement: if is_required { AuthRequirement::Required } else { AuthRequirement::Optional },
        issuers: issuers.unwrap_or_default(),
        sign_in,
    }
}

/// Reads the server settings. The prefixes of upstream are not known yet.
pub(crate) fn read(reader: &mut SettingsReader<'_>, public_url: Option<Url>) -> server::Config {
    server::Config {
        public_url,
        tls: None,
        trusted_proxies: reader.several(SettingKey::TrustedProxy, parse::network),
        upstream_prefixes: Vec::new(),
        allow_writes: reader.one(SettingKey::AllowWrites, parse::boolean),
        explains_to_all: reader.word(SettingKey::ExplainAccess) == "all",
        admin_tokens: reader.optional(SettingKey::AdminTokenFile, parse::path),
        auth: auth(reader),
        limits: ConnectionLimits {
            connections: reader.one(SettingKey::MaxConnections, parse::number(1..=usize::MAX)),
            header_timeout: reader.one(SettingKey::HeaderTimeout, parse::nonzero_duration),
            head_bytes: reader.one(SettingKey::HeaderLimit, parse::size(8 << 10..=1 << 20)),
            max_headers: reader.one(SettingKey::MaxHeaders, parse::number(1..=1_000)),
            idle_timeout: reader.one(SettingKey::IdleTimeout, parse::nonzero_duration),
            send_timeout: reader.one(SettingKey::SendTimeout, parse::nonzero_duration),
            drain: reader.one(SettingKey::DrainTimeout, parse::duration),
        },
        body_timeout: reader.one(SettingKey::BodyTimeout, parse::nonzero_duration),
        body_limit: reader.one(SettingKey::BodyLimit, parse::size(1_000..=u64::MAX)),
        write_limit: reader.one(SettingKey::WriteLimit, parse::size(1_000..=u64::MAX)),
    }
}
