//! Issues and caches the leaf certificates of intercepted hosts, at the first connection and again before they expire.

use std::collections::HashMap;
use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};

use jiff::Timestamp;
use rustls::ServerConfig;
use rustls::sign::SingleCertAndKey;
use rustls_pki_types::DnsName;

use crate::clock::Clock;
use crate::tls::TlsError;
use crate::tls::ca::{CertificateAuthority, LEAF_LIFE, LeafKey, provider};
use crate::tls::ca_store::CaSet;

/// Maximum number of cached certificates. Issuing one takes microseconds.
const REMEMBERED: usize = 64;

pub struct LeafIssuer {
    /// Retiring CAs in order of retirement, then the current one.
    authorities: Vec<IssuingCa>,
    key: LeafKey,
    clock: Arc<dyn Clock>,
    remembered: Mutex<HashMap<Box<str>, CachedLeaf>>,
}

/// A CA, the end of its signing period, and the intercepted hosts it permits.
struct IssuingCa {
    authority: CertificateAuthority,
    until: Option<Timestamp>,
    hosts: Vec<DnsName<'static>>,
}

/// The configuration with a leaf, and when to issue another.
type CachedLeaf = (Arc<ServerConfig>, Timestamp);

impl LeafIssuer {
    /// Creates an issuer for `hosts`. The current CA must permit each host of `expected`. During a rotation the oldest CA that
    /// permits a host signs for it, because all clients already trust that one.
    pub(crate) fn new(
        ca_set: CaSet,
        hosts: &[DnsName<'static>],
        expected: &[DnsName<'static>],
        clock: Arc<dyn Clock>,
    ) -> Result<Self, TlsError> {
        let (now, key) = (clock.now(), LeafKey::generate()?);
        if ca_set.current.not_after <= now {
            return Err(TlsError::Expired);
        }
        let covered =
            |authority: &CertificateAuthority| hosts.iter().filter(|host| authority.permits(host, &key, now)).cloned().collect();
        let mut authorities = Vec::with_capacity(ca_set.retiring.len() + 1);
        for (authority, until) in ca_set.retiring {
            let until = until.min(authority.not_after);
            authorities.push(IssuingCa { hosts: covered(&authority), authority, until: Some(until) });
        }
        let current = IssuingCa { hosts: covered(&ca_set.current), authority: ca_set.current, until: None };
        if let Some(host) = expected.iter().find(|host| !current.hosts.contains(host)) {
            return Err(TlsError::Uncovered { host: host.as_ref().to_owned() });
        }
        authorities.push(current);
        Ok(Self { authorities, key, clock, remembered: Mutex::default() })
    }

    /// Returns the configuration for a connection to `host`: TLS 1.2 or newer, HTTP/2 or HTTP/1.1. Fails if no CA signs for it.
    pub(crate) fn server_config(&self, host: &DnsName<'_>) -> Result<Arc<ServerConfig>, TlsError> {
        let now = self.clock.now();
        let mut remembered = self.remembered.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((config, _)) = remembered.get(host.as_ref()).filter(|(_, due)| now < *due) {
            return Ok(Arc::clone(config));
        }
        let (config, due) = self.make(host, now)?;
        if remembered.len() >= REMEMBERED {
            remembered.clear();
        }
        remembered.insert(host.as_ref().into(), (Arc::clone(&config), due));
        Ok(config)
    }

    fn make(&self, host: &DnsName<'_>, now: Timestamp) -> Result<CachedLeaf, TlsError> {
        let signs = |signer: &&IssuingCa| signer.hosts.iter().any(|known| known.as_ref() == host.as_ref());
        let mut able = self.authorities.iter().filter(signs).filter(|signer| signer.until.is_none_or(|until| until > now));
        let signer = able.next().ok_or_else(|| TlsError::Uncovered { host: host.as_ref().to_owned() })?;
        let leaf = signer.authority.issue(host, &self.key, now)?;
        let mut config = ServerConfig::builder_with_provider(provider())
            .with_protocol_versions(&[&rustls::version::TLS13, &rustls::version::TLS12])?
            .with_no_client_auth()
            .with_cert_resolver(Arc::new(SingleCertAndKey::from(leaf)));
        config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
        let half = now.checked_add(LEAF_LIFE / 2).unwrap_or(Timestamp::MAX).min(signer.authority.not_after);
        Ok((Arc::new(config), signer.until.map_or(half, |until| until.min(half))))
    }
}

impl fmt::Debug for LeafIssuer {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.debug_struct("LeafIssuer").field("authorities", &self.authorities.len()).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::clock::ManualClock;
    use crate::tls::ca_store::CaStore;

    fn name(text: &'static str) -> DnsName<'static> {
        DnsName::try_from(text).unwrap()
    }

    #[test]
    fn leaf_is_cached_for_half_its_life() {
        let data = tempfile::tempdir().unwrap();
        let clock = ManualClock::at("2026-04-03T12:00:00Z".parse().unwrap());
        let ca_set = CaStore::new(data.path()).load_or_create(&[name("a.example")], clock.now()).unwrap();
        let leaves = LeafIssuer::new(ca_set, &[name("a.example")], &[], Arc::new(clock.clone())).unwrap();
        let first = leaves.server_config(&name("a.example")).unwrap();
        assert!(Arc::ptr_eq(&first, &leaves.server_config(&name("a.example")).unwrap()));
        clock.advance(LEAF_LIFE / 2);
        assert!(!Arc::ptr_eq(&first, &leaves.server_config(&name("a.example")).unwrap()));
        assert!(matches!(leaves.server_config(&name("b.example")), Err(TlsError::Uncovered { .. })));
    }

    #[test]
    fn ca_need_not_permit_unexpected_hosts() {
        let data = tempfile::tempdir().unwrap();
        let clock = ManualClock::at("2026-04-03T12:00:00Z".parse().unwrap());
        let (one, both) = ([name("a.example")], [name("a.example"), name("b.example")]);
        let ca_set = CaStore::new(data.path()).load_or_create(&one, clock.now()).unwrap();
        let leaves = LeafIssuer::new(ca_set, &both, &one, Arc::new(clock.clone())).unwrap();
        assert!(leaves.server_config(&name("a.example")).is_ok());
        assert!(matches!(leaves.server_config(&name("b.example")), Err(TlsError::Uncovered { .. })));
    }

    #[test]
    fn host_outside_constraints_requires_rotation() {
        let data = tempfile::tempdir().unwrap();
        let clock = ManualClock::at("2026-04-03T12:00:00Z".parse().unwrap());
        let store = CaStore::new(data.path());
        let (one, both) = ([name("a.example")], [name("a.example"), name("b.example")]);
        let ca_set = store.load_or_create(&one, clock.now()).unwrap();
        let message = LeafIssuer::new(ca_set, &both, &both, Arc::new(clock.clone())).unwrap_err().to_string();
        assert!(message.contains("ca rotate") && message.ends_with("`b.example`"), "{message}");
        let month = Duration::from_secs(30 * 24 * 3600);
        store.rotate(&both, month, clock.now()).unwrap();
        let ca_set = store.read(clock.now()).unwrap().unwrap();
        let (old, new) = (ca_set.retiring[0].0.certificate().clone(), ca_set.current.certificate().clone());
        let leaves = LeafIssuer::new(ca_set, &both, &both, Arc::new(clock.clone())).unwrap();
        let issuer = |host| {
            let signs =
                |signer: &&IssuingCa| signer.hosts.contains(&host) && signer.until.is_none_or(|until| until > clock.now());
            leaves.authorities.iter().find(signs).unwrap().authority.certificate().clone()
        };
        // The old CA still signs for the old host, so clients that trust only it keep working. Only the new CA permits the new
        // host.
        assert_eq!((issuer(name("a.example")), issuer(name("b.example"))), (old, new.clone()));
        clock.advance(month);
        assert_eq!(issuer(name("a.example")), new);
    }
}
