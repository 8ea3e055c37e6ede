//! Registries for tests that connect to a scripted server on loopback.

use std::collections::HashMap;
use std::path::PathBuf;
use std::sync::Arc;

use rustls_pki_types::CertificateDer;
use rustls_pki_types::pem::PemObject as _;
use url::Url;

use crate::net::{Deadlines, MemoryBudget, ProxySettings, Reservation, TlsTrust};
use crate::upstream::config::Routes;
use crate::upstream::config::{Config, RegistryConfig, SettingOrigin};
use crate::upstream::credentials::{CredentialRules, Credentials};
use crate::upstream::registries::Registries;
use crate::upstream::registry::Registry;

pub(crate) fn config(url: &str) -> Config {
    let mut default = RegistryConfig::new(Url::parse(url).unwrap(), SettingOrigin::Setting("--upstream".to_owned()));
    default.credentials = Some(Credentials::bearer("lent").unwrap());
    Config {
        default,
        routes: Routes::default(),
        credentials: CredentialRules::default(),
        client_credentials: Vec::new(),
        proxies: ProxySettings::none(),
        tarball_hosts: Vec::new(),
        redirect_hosts: Vec::new(),
        deadlines: Deadlines::default(),
        packument_limit: 1_000,
        tarball_limit: 1_000,
        user_agent: "coldframe/trial".to_owned(),
    }
}

/// Returns a client configuration that trusts only the certificates in `files`.
pub(crate) fn trust(files: &[PathBuf]) -> TlsTrust {
    let mut roots = rustls::RootCertStore::empty();
    for certificate in files.iter().flat_map(|file| CertificateDer::pem_file_iter(file).unwrap()) {
        roots.add(certificate.unwrap()).unwrap();
    }
    let count = roots.len();
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let client = rustls::ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions().unwrap();
    let client = client.with_root_certificates(roots).with_no_client_auth();
    TlsTrust { client: Arc::new(client), roots: count, trouble: None, with_file: HashMap::new() }
}

pub(crate) fn open(config: &Config) -> Arc<Registry> {
    Arc::clone(Registries::open(config, &trust(&[])).unwrap().default_registry())
}

pub(crate) fn registry(url: &str) -> Arc<Registry> {
    open(&config(url))
}

/// Like [`registry`], with short deadlines.
pub(crate) fn impatient_registry(url: &str) -> Arc<Registry> {
    open(&Config { deadlines: Deadlines::impatient(), ..config(url) })
}

/// Returns a reservation large enough for the tests.
pub(crate) fn share() -> Reservation {
    MemoryBudget::of(1_000_000, std::time::Duration::from_secs(1)).share()
}
