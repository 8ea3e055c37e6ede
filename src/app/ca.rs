//! Which authority the gateway's certificates are signed by: one that is given, or its own in the data directory. Refuses to
//! know who trusts it.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use rustls_pki_types::CertificateDer;

use crate::clock::Clock;
use crate::config::GatewaySettings;
use crate::tls::{CaSet, CaStore, LeafIssuer, TlsError, ca_store};

/// The files that the authority in force is read from: when they change, another one is.
pub(crate) fn files(gateway: &GatewaySettings, data_dir: &Path) -> Vec<PathBuf> {
    match &gateway.given {
        Some((certificate, key)) => vec![certificate.clone(), key.clone()],
        None => vec![CaStore::in_data_dir(data_dir).file()],
    }
}

/// The authority in force; made when there is none.
///
/// # Errors
/// When it cannot be read or made.
pub fn in_force(gateway: &GatewaySettings, data_dir: &Path, now: Timestamp) -> Result<CaSet, TlsError> {
    match &gateway.given {
        Some((certificate, key)) => Ok(CaSet { current: ca_store::read_given(certificate, key)?, retiring: Vec::new() }),
        None => CaStore::in_data_dir(data_dir).read_or_make(&gateway.door.targets.hosts(), now),
    }
}

/// The certificates that clients have to trust, that of the authority in force first. Needs no lock and makes nothing.
///
/// # Errors
/// When there are none yet, or they cannot be read.
pub fn trusted(gateway: &GatewaySettings, data_dir: &Path, now: Timestamp) -> Result<Vec<CertificateDer<'static>>, TlsError> {
    if let Some((certificate, key)) = &gateway.given {
        return Ok(vec![ca_store::read_given(certificate, key)?.certificate().clone()]);
    }
    let keeping = CaStore::in_data_dir(data_dir);
    let missing = || TlsError::Missing { folder: keeping.file() };
    let kept = keeping.read(now)?.ok_or_else(missing)?;
    let retiring = kept.retiring.iter().rev().map(|(authority, _)| authority.certificate().clone());
    Ok(std::iter::once(kept.current.certificate().clone()).chain(retiring).collect())
}

/// Puts a new authority into force for all hosts that are intercepted; the one before it signs on until `overlap` has passed.
///
/// # Errors
/// When there is none yet, or it cannot be written.
pub fn rotate(gateway: &GatewaySettings, data_dir: &Path, overlap: Duration, now: Timestamp) -> Result<(), TlsError> {
    CaStore::in_data_dir(data_dir).rotate(&gateway.door.targets.hosts(), overlap, now)
}

/// What the gateway's connections are secured with. A name that some client uses by itself may be left out by an authority that
/// was made before, or given.
///
/// # Errors
/// When the authority cannot vouch for a host that is configured, or has expired.
pub(crate) fn leaves(gateway: &GatewaySettings, kept: CaSet, clock: &Arc<dyn Clock>) -> Result<LeafIssuer, TlsError> {
    let targets = &gateway.door.targets;
    LeafIssuer::new(kept, &targets.hosts(), &targets.expected(), Arc::clone(clock)).map_err(|error| told(gateway, error))
}

/// What is wrong, told for the authority it is wrong with: one that is given is not ours to rotate.
fn told(gateway: &GatewaySettings, error: TlsError) -> TlsError {
    match (error, &gateway.given) {
        (TlsError::Uncovered { host }, Some((path, _))) => TlsError::NotVouched { host, path: path.clone() },
        (error, _) => error,
    }
}
