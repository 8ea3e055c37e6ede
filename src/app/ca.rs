//! Loads the gateway's CA: the configured one, or one that Coldframe creates in the data directory.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use rustls_pki_types::CertificateDer;

use crate::clock::Clock;
use crate::config::GatewaySettings;
use crate::tls::{CaSet, CaStore, LeafIssuer, TlsError, ca_store};

pub(crate) fn watched_files(gateway: &GatewaySettings, data_dir: &Path) -> Vec<PathBuf> {
    match &gateway.ca_files {
        Some((certificate, key)) => vec![certificate.clone(), key.clone()],
        None => vec![CaStore::new(data_dir).file()],
    }
}

/// Loads the active CA, or creates it if there is none.
pub(crate) fn active_ca(gateway: &GatewaySettings, data_dir: &Path, now: Timestamp) -> Result<CaSet, TlsError> {
    match &gateway.ca_files {
        Some((certificate, key)) => Ok(CaSet { current: ca_store::load_external(certificate, key)?, retiring: Vec::new() }),
        None => CaStore::new(data_dir).load_or_create(&gateway.proxy.targets.hosts(), now),
    }
}

/// Returns the certificates that clients must trust, the active one first. Takes no lock and creates nothing.
/// Returns an error if there are none yet, or if they cannot be read.
pub(crate) fn trusted_certificates(
    gateway: &GatewaySettings,
    data_dir: &Path,
    now: Timestamp,
) -> Result<Vec<CertificateDer<'static>>, TlsError> {
    if let Some((certificate, key)) = &gateway.ca_files {
        return Ok(vec![ca_store::load_external(certificate, key)?.certificate().clone()]);
    }
    let keeping = CaStore::new(data_dir);
    let missing = || TlsError::Missing { folder: keeping.file() };
    let kept = keeping.read(now)?.ok_or_else(missing)?;
    let retiring = kept.retiring.iter().rev().map(|(authority, _)| authority.certificate().clone());
    Ok(std::iter::once(kept.current.certificate().clone()).chain(retiring).collect())
}

/// Creates a new CA for all intercepted hosts and activates it. The previous one stays valid until `overlap` has passed.
pub(crate) fn rotate(gateway: &GatewaySettings, data_dir: &Path, overlap: Duration, now: Timestamp) -> Result<(), TlsError> {
    CaStore::new(data_dir).rotate(&gateway.proxy.targets.hosts(), overlap, now)
}

/// Creates the issuer of leaf certificates of the active CA. A configured or older CA may lack hosts that only some clients use.
/// Returns an error if the CA does not cover a configured host, or has expired.
pub(crate) fn leaf_issuer(gateway: &GatewaySettings, data_dir: &Path, clock: &Arc<dyn Clock>) -> Result<LeafIssuer, TlsError> {
    let (targets, active) = (&gateway.proxy.targets, active_ca(gateway, data_dir, clock.now())?);
    let issuer = LeafIssuer::new(active, &targets.hosts(), &targets.expected(), Arc::clone(clock));
    issuer.map_err(|error| match (error, &gateway.ca_files) {
        // Coldframe cannot rotate a configured CA, so the hint to rotate it is replaced.
        (TlsError::Uncovered { host }, Some((path, _))) => TlsError::NotVouched { host, path: path.clone() },
        (error, _) => error,
    })
}
