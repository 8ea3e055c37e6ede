//! Reads the certificate of the registry listeners again when its files change. Files that cannot be used change nothing.

use std::error::Error;
use std::sync::{Arc, Mutex, PoisonError};

use crate::app::supervisor::TaskEnd;
use crate::clock::Clock;
use crate::files::{FilePoller, FileStamps, POLL_INTERVAL};
use crate::server::admin::HealthChecks;
use crate::text::single_line;
use crate::tls::server_certificate::EXPIRY_NOTICE;
use crate::tls::{ServerCertificate, ServerCertificateFiles, TlsError};
use crate::units::timestamp;

/// The certificate of a server, and what its files were when they were last read.
pub(crate) struct CertificateReloader {
    pub(crate) certificate: Arc<ServerCertificate>,
    poller: Mutex<FilePoller>,
    /// Why the files on disk are not active.
    problem: Arc<Mutex<Option<String>>>,
    clock: Arc<dyn Clock>,
}

impl CertificateReloader {
    pub(crate) fn open(files: ServerCertificateFiles, clock: &Arc<dyn Clock>) -> Result<Arc<Self>, TlsError> {
        // Stamped before reading, so that a later change is noticed.
        let poller = Mutex::new(FilePoller::from(FileStamps::at(files.paths())));
        let certificate = Arc::new(ServerCertificate::load(files, Arc::clone(clock))?);
        Ok(Arc::new(Self { certificate, poller, problem: Arc::default(), clock: Arc::clone(clock) }))
    }

    pub(crate) fn add_checks(&self, checks: &mut HealthChecks) {
        let (problem, certificate, clock) = (Arc::clone(&self.problem), Arc::clone(&self.certificate), Arc::clone(&self.clock));
        checks.warn("certificate", move || {
            if let Some(why) = &*problem.lock().unwrap_or_else(PoisonError::into_inner) {
                return Err(format!("the certificate on disk cannot be used, the previous one is active: {why}"));
            }
            let end = certificate.not_after();
            let is_due = end <= timestamp::saturating_add(clock.now(), EXPIRY_NOTICE);
            if is_due { Err(format!("the certificate ends at {}", timestamp::format_utc(end))) } else { Ok(()) }
        });
    }

    fn reload_if_changed(&self) {
        let stamps = FileStamps::at(self.certificate.files().paths());
        if !self.poller.lock().unwrap_or_else(PoisonError::into_inner).changed(stamps) {
            return;
        }
        let problem = match self.certificate.reload() {
            Ok(()) => {
                let end = timestamp::format_utc(self.certificate.not_after());
                tracing::info!(certificate.not_after = %end, "server certificate reloaded");
                None
            }
            Err(error) => {
                tracing::warn!(error = &error as &dyn Error, "server certificate not reloaded");
                Some(single_line(&error.to_string()).to_string())
            }
        };
        *self.problem.lock().unwrap_or_else(PoisonError::into_inner) = problem;
    }
}

/// Checks the files until it is dropped. Returns an error if a check panicked.
pub(crate) async fn run(reloader: Arc<CertificateReloader>) -> TaskEnd {
    loop {
        tokio::time::sleep(POLL_INTERVAL).await;
        let reloader = Arc::clone(&reloader);
        tokio::task::spawn_blocking(move || reloader.reload_if_changed()).await?;
    }
}
