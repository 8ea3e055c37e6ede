//! The certificates of the hosts that the gateway answers for: minted when a host is first asked for, remembered, minted
//! again before they end. Refuses to know what is said over the connections they secure.

use std::collections::HashMap;
use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use jiff::Timestamp;
use rustls::ServerConfig;
use rustls::sign::SingleCertAndKey;
use rustls_pki_types::DnsName;

use crate::clock::Clock;
use crate::tls::TlsError;
use crate::tls::ca::{CertificateAuthority, LEAF_LIFE, LeafKey, provider};
use crate::tls::ca_store::CaSet;

/// How many hosts' certificates are remembered; minting one takes microseconds.
const REMEMBERED: usize = 64;

/// Mints and remembers.
pub struct LeafIssuer {
    /// Those that retire, the first to retire first, then the one in force.
    authorities: Vec<IssuingCa>,
    key: LeafKey,
    clock: Arc<dyn Clock>,
    remembered: Mutex<HashMap<Box<str>, CachedLeaf>>,
}

/// An authority, until when it signs, and for which of our hosts.
struct IssuingCa {
    authority: CertificateAuthority,
    until: Option<Timestamp>,
    hosts: Vec<DnsName<'static>>,
}

struct CachedLeaf {
    config: Arc<ServerConfig>,
    /// When it is minted again.
    due: Timestamp,
}

impl LeafIssuer {
    /// Leaves for `hosts`; the authority in force must cover each of `expected`. During a rotation a host goes on being signed
    /// for by the oldest authority that covers it, which every client trusts already.
    ///
    /// # Errors
    /// [`TlsError::Uncovered`] for the first expected host that is not covered; [`TlsError::Expired`].
    pub fn new(
        kept: CaSet,
        hosts: &[DnsName<'static>],
        expected: &[DnsName<'static>],
        clock: Arc<dyn Clock>,
    ) -> Result<Self, TlsError> {
        let (now, key) = (clock.now(), LeafKey::generate()?);
        if kept.current.ends() <= now {
            return Err(TlsError::Expired);
        }
        let covered =
            |authority: &CertificateAuthority| hosts.iter().filter(|host| authority.covers(host, &key, now)).cloned().collect();
        let mut authorities = Vec::with_capacity(kept.retiring.len() + 1);
        for (authority, until) in kept.retiring {
            let until = until.min(authority.ends());
            authorities.push(IssuingCa { hosts: covered(&authority), authority, until: Some(until) });
        }
        let current = IssuingCa { hosts: covered(&kept.current), authority: kept.current, until: None };
        if let Some(host) = expected.iter().find(|host| !current.hosts.contains(host)) {
            return Err(TlsError::Uncovered { host: host.as_ref().to_owned() });
        }
        authorities.push(current);
        Ok(Self { authorities, key, clock, remembered: Mutex::default() })
    }

    /// What a connection for `host` is secured with: TLS 1.2 or newer, HTTP/2 or HTTP/1.1.
    ///
    /// # Errors
    /// [`TlsError::Uncovered`] for a host that is none of ours.
    pub fn config_for(&self, host: &DnsName<'_>) -> Result<Arc<ServerConfig>, TlsError> {
        let now = self.clock.now();
        let mut remembered = self.remembered.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(known) = remembered.get(host.as_ref()).filter(|known| now < known.due) {
            return Ok(Arc::clone(&known.config));
        }
        let (config, due) = self.make(host, now)?;
        if remembered.len() >= REMEMBERED {
            remembered.clear();
        }
        remembered.insert(host.as_ref().into(), CachedLeaf { config: Arc::clone(&config), due });
        Ok(config)
    }

    fn make(&self, host: &DnsName<'_>, now: Timestamp) -> Result<(Arc<ServerConfig>, Timestamp), TlsError> {
        let signs = |signer: &&IssuingCa| signer.hosts.iter().any(|known| known.as_ref() == host.as_ref());
        let mut able = self.authorities.iter().filter(signs).filter(|signer| signer.until.is_none_or(|until| until > now));
        let signer = able.next().ok_or_else(|| TlsError::Uncovered { host: host.as_ref().to_owned() })?;
        let leaf = signer.authority.mint(host, &self.key, now)?;
        let mut config = ServerConfig::builder_with_provider(provider())
            .with_protocol_versions(&[&rustls::version::TLS13, &rustls::version::TLS12])?
            .with_no_client_auth()
            .with_cert_resolver(Arc::new(SingleCertAndKey::from(leaf)));
        config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
        let half = later(now, LEAF_LIFE / 2).min(signer.authority.ends());
        Ok((Arc::new(config), signer.until.map_or(half, |until| until.min(half))))
    }
}

impl fmt::Debug for LeafIssuer {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.debug_struct("Leaves").field("authorities", &self.authorities.len()).finish_non_exhaustive()
    }
}

fn later(now: Timestamp, by: Duration) -> Timestamp {
    now.checked_add(by).unwrap_or(Timestamp::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock::ManualClock;
    use crate::tls::ca_store::CaStore;

    fn name(text: &'static str) -> DnsName<'static> {
        DnsName::try_from(text).unwrap()
    }

    #[test]
    fn a_leaf_is_remembered_until_half_its_life_has_passed() {
        let data = tempfile::tempdir().unwrap();
        let clock = ManualClock::at("2026-04-03T12:00:00Z".parse().unwrap());
        let kept = CaStore::in_data_dir(data.path()).read_or_make(&[name("a.example")], clock.now()).unwrap();
        let leaves = LeafIssuer::new(kept, &[name("a.example")], &[], Arc::new(clock.clone())).unwrap();
        let first = leaves.config_for(&name("a.example")).unwrap();
        assert!(Arc::ptr_eq(&first, &leaves.config_for(&name("a.example")).unwrap()));
        clock.advance(LEAF_LIFE / 2);
        assert!(!Arc::ptr_eq(&first, &leaves.config_for(&name("a.example")).unwrap()));
        assert!(matches!(leaves.config_for(&name("b.example")), Err(TlsError::Uncovered { .. })));
    }

    #[test]
    fn a_host_that_nobody_expects_may_be_left_out() {
        let data = tempfile::tempdir().unwrap();
        let clock = ManualClock::at("2026-04-03T12:00:00Z".parse().unwrap());
        let (one, both) = ([name("a.example")], [name("a.example"), name("b.example")]);
        let kept = CaStore::in_data_dir(data.path()).read_or_make(&one, clock.now()).unwrap();
        let leaves = LeafIssuer::new(kept, &both, &one, Arc::new(clock.clone())).unwrap();
        assert!(leaves.config_for(&name("a.example")).is_ok());
        assert!(matches!(leaves.config_for(&name("b.example")), Err(TlsError::Uncovered { .. })));
    }

    #[test]
    fn a_host_outside_the_constraints_asks_for_a_rotation() {
        let data = tempfile::tempdir().unwrap();
        let clock = ManualClock::at("2026-04-03T12:00:00Z".parse().unwrap());
        let keeping = CaStore::in_data_dir(data.path());
        let (one, both) = ([name("a.example")], [name("a.example"), name("b.example")]);
        let kept = keeping.read_or_make(&one, clock.now()).unwrap();
        let told = LeafIssuer::new(kept, &both, &both, Arc::new(clock.clone())).unwrap_err().to_string();
        assert!(told.contains("ca rotate") && told.ends_with("`b.example`"), "{told}");
        let month = Duration::from_secs(30 * 24 * 3600);
        keeping.rotate(&both, month, clock.now()).unwrap();
        let kept = keeping.read(clock.now()).unwrap().unwrap();
        let (old, new) = (kept.retiring[0].0.certificate().clone(), kept.current.certificate().clone());
        let leaves = LeafIssuer::new(kept, &both, &both, Arc::new(clock.clone())).unwrap();
        let issuer = |host| {
            let signs =
                |signer: &&IssuingCa| signer.hosts.contains(&host) && signer.until.is_none_or(|until| until > clock.now());
            leaves.authorities.iter().find(signs).unwrap().authority.certificate().clone()
        };
        // Clients that know the old one alone go on; only the new one covers the new host.
        assert_eq!((issuer(name("a.example")), issuer(name("b.example"))), (old, new.clone()));
        clock.advance(month);
        assert_eq!(issuer(name("a.example")), new);
    }
}
