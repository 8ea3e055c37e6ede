//! Registries for tests, which ask a scripted server on loopback. Refuses to be used outside tests.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;

use url::Url;

use super::{Config, Credentials, Origin, Registries, Registry, RegistryConfig};
use crate::net::{Deadlines, Proxies, Trust};
use crate::tls;

pub(super) fn config(url: &str) -> Config {
    let mut default = RegistryConfig::new(Url::parse(url).unwrap(), Origin::Setting("--upstream".to_owned()));
    default.credentials = Some(Credentials::bearer("lent").unwrap());
    Config {
        default,
        scoped: BTreeMap::new(),
        proxies: Proxies::none(),
        tarball_hosts: Vec::new(),
        redirect_hosts: Vec::new(),
        deadlines: Deadlines::default(),
        packument_limit: 1_000,
        tarball_limit: 1_000,
        user_agent: "coldframe/trial".to_owned(),
    }
}

/// Whom to trust: the system and these.
pub(super) fn trust(extra_roots: &[PathBuf]) -> Trust {
    tls::client_config(&tls::Config { extra_roots: extra_roots.to_vec() }).unwrap()
}

pub(super) fn open(config: &Config) -> Arc<Registry> {
    Arc::clone(Registries::open(config, &trust(&[])).unwrap().default_registry())
}

pub(super) fn registry(url: &str) -> Arc<Registry> {
    open(&config(url))
}

/// Like [`registry`], but soon out of patience.
pub(super) fn hasty(url: &str) -> Arc<Registry> {
    open(&Config { deadlines: Deadlines::hasty(), ..config(url) })
}
