//! The control socket of a running server in its data directory: opens sessions for `coldframe run` and executes operations for
//! other commands. Both ends must run as the same user or root.

use std::fs;
use std::io;
use std::net::SocketAddr;
use std::os::unix::fs::{FileTypeExt as _, MetadataExt as _, PermissionsExt as _};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use tokio::io::{AsyncBufReadExt as _, BufReader};
use tokio::net::unix::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::{Semaphore, watch};
use tokio::task::{JoinError, JoinSet};
use tokio::time::timeout;

use crate::app::core::Core;
use crate::app::listeners::stopped;
use crate::app::operations::Operations;
use crate::app::operations::messages::{OperationReply, OperationRequest};
use crate::app::session::protocol::{self, ControlRequest, MAX_REQUEST_BYTES, OpenReply, PROTOCOL, ReportMessage, What};
use crate::app::session::{LocalSession, RunReport, SessionRequest, SessionTemplate};
use crate::store::{DataDir, Ledger as _};
use crate::telemetry::{TaskFailed, TaskLabel};

/// The socket's name in the data directory.
const NAME: &str = "control";

/// The maximum number of open connections.
const MAX_CONNECTIONS: usize = 128;

/// The maximum number of sessions among them. The rest is left to operations.
const MAX_SESSIONS: usize = 64;

/// The time limit of one operation, which may fetch hundreds of packuments. Clients wait a little longer.
pub(crate) const ANSWER_TIMEOUT: Duration = Duration::from_mins(5);

/// How often to retry a socket that refuses connections while a process owns the data directory, because it starts or stops.
const RETRY_INTERVAL: Duration = Duration::from_millis(100);
const RETRIES: u32 = 20;

/// How often to retry if a process owns the directory without a socket. A server creates it at the end of its startup.
const RETRIES_WITHOUT: u32 = 10;

/// How long a client may take to send its request.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(5);

/// Signals that the server stops.
type Stop = watch::Receiver<bool>;

pub(crate) struct ControlSocket {
    listener: UnixListener,
    parts: Arc<ControlContext>,
}

struct ControlContext {
    core: Core,
    session_template: Arc<SessionTemplate>,
    /// The addresses of this server.
    ours: Vec<SocketAddr>,
    operations: Arc<Operations>,
    sessions: Semaphore,
}

/// The result of an attempt to connect to the server on a data directory.
pub(crate) enum Connected {
    To(OwnedReadHalf, OwnedWriteHalf),
    /// No process owns the data directory.
    NoProcess,
    /// A process owns it without a control socket: a standalone `coldframe run`, or a server with a path too long for one.
    Without,
    /// There is a socket that cannot be used, for this reason.
    Refused(String),
}

/// Connects to the server on a data directory. Rejects a socket of another user, which anyone with write access can create.
pub(crate) async fn connect(data_dir: &Path) -> Connected {
    let path = data_dir.join(NAME);
    for tries in 0..=RETRIES {
        let found = fs::symlink_metadata(&path);
        let is_owned = DataDir::is_owned(data_dir);
        match found {
            Ok(found) if found.file_type().is_socket() => {}
            Ok(_) => return Connected::Refused("the control socket is not a socket".to_owned()),
            Err(_) if DataDir::is_server(data_dir) => {
                let why = "the server has no control socket, see its log; use its address instead: `coldframe check --server URL`, or \
                           `/-/coldframe/explain/PACKAGE@VERSION` there";
                return Connected::Refused(why.to_owned());
            }
            Err(_) if is_owned && tries < RETRIES_WITHOUT => {
                tokio::time::sleep(RETRY_INTERVAL).await;
                continue;
            }
            Err(_) if is_owned => return Connected::Without,
            Err(_) => return Connected::NoProcess,
        }
        match UnixStream::connect(&path).await {
            Ok(stream) => {
                return match foreign(&stream, &trusted(data_dir)) {
                    None => {
                        let (lines, asking) = stream.into_split();
                        Connected::To(lines, asking)
                    }
                    Some(why) => Connected::Refused(why),
                };
            }
            Err(error) if error.kind() == io::ErrorKind::PermissionDenied => {
                return Connected::Refused("the control socket belongs to another user".to_owned());
            }
            // The socket was left by a killed process.
            Err(_) if !is_owned => return Connected::NoProcess,
            Err(error) if tries == RETRIES => {
                return Connected::Refused(format!("the server is starting or stopping, or hangs: {error}"));
            }
            Err(_) => tokio::time::sleep(RETRY_INTERVAL).await,
        }
    }
    Connected::NoProcess
}

/// Returns the trusted users: this process's own and root. Root also trusts the owner of a data directory that only its owner can
/// write, because servers have a user of their own and operators use `sudo`.
fn trusted(data_dir: &Path) -> Vec<u32> {
    let own = rustix::process::getuid().as_raw();
    let mut users = vec![own, 0];
    if own == 0
        && let Ok(found) = fs::metadata(data_dir)
        && found.permissions().mode() & 0o022 == 0
    {
        users.push(found.uid());
    }
    users
}

/// Returns why the process at the other end is not trusted, if it is not.
fn foreign(stream: &UnixStream, trusted: &[u32]) -> Option<String> {
    match stream.peer_cred() {
        Ok(peer) if trusted.contains(&peer.uid()) => None,
        Ok(peer) => Some(format!("the process at the control socket belongs to another user: uid {}", peer.uid())),
        Err(error) => Some(format!("cannot get the user of the process at the control socket: {error}")),
    }
}

impl ControlSocket {
    /// Binds the socket. An existing one was left by a process that is gone, because this process owns the data directory.
    /// Returns an error if the path is too long, or if the file system has no sockets.
    pub(crate) fn open(
        data_dir: &Path,
        core: Core,
        session_template: Arc<SessionTemplate>,
        ours: Vec<SocketAddr>,
        operations: Arc<Operations>,
    ) -> io::Result<Self> {
        let path = data_dir.join(NAME);
        clear(data_dir)?;
        let listener = UnixListener::bind(&path)?;
        // Only the owner of the data directory may connect.
        fs::set_permissions(&path, fs::Permissions::from_mode(0o600))?;
        let parts = ControlContext { core, session_template, ours, operations, sessions: Semaphore::new(MAX_SESSIONS) };
        Ok(Self { listener, parts: Arc::new(parts) })
    }

    /// Serves until `stop` resolves. Then closes the open sessions and sends their reports.
    pub(crate) async fn serve(self, stop: Stop) {
        let mut open = JoinSet::new();
        let mut stopped = std::pin::pin!(stopped(stop.clone()));
        loop {
            tokio::select! {
                () = &mut stopped => break,
                Some(ended) = open.join_next(), if !open.is_empty() => self.parts.note_end(ended),
                accepted = self.listener.accept(), if open.len() < MAX_CONNECTIONS => match accepted {
                    Ok((stream, _)) => drop(open.spawn(answer(stream, Arc::clone(&self.parts), stop.clone()))),
                    Err(error) => {
                        tracing::warn!(error = %error, "control connection not accepted");
                        tokio::time::sleep(REQUEST_TIMEOUT / 5).await;
                    }
                },
            }
        }
        // The file stays until the process releases the data directory, so that no command falls back to its own settings.
        drop(self.listener);
        while let Some(ended) = open.join_next().await {
            self.parts.note_end(ended);
        }
    }
}

impl ControlContext {
    /// Records a connection task that panicked.
    fn note_end(&self, ended: Result<(), JoinError>) {
        if let Err(error) = ended {
            TaskFailed { task: TaskLabel::Control, detail: &error.to_string(), restart: None }.emit(&self.core.metrics);
        }
    }
}

/// Removes the socket of a process that is gone. The data directory must be owned by this process.
pub(crate) fn clear(data_dir: &Path) -> io::Result<()> {
    match fs::remove_file(data_dir.join(NAME)) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

async fn answer(stream: UnixStream, parts: Arc<ControlContext>, stop: Stop) {
    // Other users may have connected between `bind` and the change of the socket's mode.
    if let Some(why) = foreign(&stream, &[rustix::process::getuid().as_raw(), 0]) {
        tracing::warn!(error = why, "control connection refused");
        return;
    }
    let (lines, mut replies) = stream.into_split();
    let mut lines = BufReader::new(lines);
    let asked = timeout(REQUEST_TIMEOUT, protocol::read::<ControlRequest>(&mut lines, MAX_REQUEST_BYTES)).await;
    match asked.ok().flatten().filter(|request| request.protocol == PROTOCOL).map(|request| request.what) {
        None => protocol::write(&mut replies, &refused("the server has another version")).await,
        Some(What::Ask(request)) => reply(*request, (&mut lines, &mut replies), &parts, stop).await,
        Some(What::Session(request)) => match parts.sessions.try_acquire() {
            Ok(_slot) => lead(*request, (lines, replies), &parts, stop).await,
            Err(_) => protocol::write(&mut replies, &refused("the server has too many open sessions")).await,
        },
    }
}

fn refused(why: &str) -> OpenReply {
    OpenReply::Refused(why.to_owned())
}

/// Executes one operation, unless the client disconnects or the server stops first.
async fn reply(
    request: OperationRequest,
    (lines, replies): (&mut BufReader<OwnedReadHalf>, &mut OwnedWriteHalf),
    parts: &ControlContext,
    mut stop: Stop,
) {
    let answered = tokio::select! {
        answered = timeout(ANSWER_TIMEOUT, parts.operations.answer(request)) => {
            answered.unwrap_or_else(|_| OperationReply::Failed(format!("no answer within {} s", ANSWER_TIMEOUT.as_secs())))
        }
        _ = lines.fill_buf() => return,
        _ = stop.wait_for(|stop| *stop) => OperationReply::Failed("the server is stopping".to_owned()),
    };
    protocol::write(replies, &answered).await;
}

/// Opens a session for one command, and closes it with the command.
async fn lead(
    request: SessionRequest,
    (mut lines, mut replies): (BufReader<OwnedReadHalf>, OwnedWriteHalf),
    parts: &ControlContext,
    mut stop: Stop,
) {
    if let Some(why) = parts.session_template.registry_mismatch(&request.registries) {
        return protocol::write(&mut replies, &OpenReply::Refused(why)).await;
    }
    let (template, core) = ((&*parts.session_template, parts.ours.as_slice()), &parts.core);
    let session = match LocalSession::open(&core.firewall, template, &request, Arc::clone(&core.metrics), &core.clock).await {
        Ok(session) => session,
        Err(error) => return protocol::write(&mut replies, &refused(&error.to_string())).await,
    };
    tracing::info!(client.user = request.user, gateway.address = %session.lead.way.proxy, "session opened");
    protocol::write(&mut replies, &OpenReply::Open(Box::new(session.lead.clone()))).await;
    let cut = tokio::select! {
        // The client sends nothing more, so any event means that the command has ended.
        _ = lines.fill_buf() => false,
        _ = stop.wait_for(|stop| *stop) => true,
    };
    let sum = session.close().await;
    let ledger = Arc::clone(&core.ledger);
    // Flushed first, so that the ledger has all rows of the command when it ends.
    let written = tokio::task::spawn_blocking(move || ledger.flush()).await;
    let trouble = match (cut, written) {
        (true, _) => Some("the running coldframe stopped before the command ended".to_owned()),
        (_, Err(error)) => {
            parts.note_end(Err(error));
            Some("the ledger could not be written".to_owned())
        }
        _ => sum.trouble.clone(),
    };
    tracing::info!(client.user = request.user, packages = sum.noted.served.len(), "session closed");
    protocol::write(&mut replies, &ReportMessage::of(RunReport { trouble, ..sum })).await;
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn process_of_another_user_is_rejected() {
        let (here, _there) = UnixStream::pair().unwrap();
        let own = rustix::process::getuid().as_raw();
        assert_eq!(foreign(&here, &[own]), None);
        let reason = foreign(&here, &[own + 1]).unwrap();
        assert!(reason.ends_with(&format!("belongs to another user: uid {own}")), "{reason}");
    }

    #[tokio::test]
    async fn only_a_real_socket_in_the_directory_is_accepted() {
        let (data, elsewhere) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        assert!(matches!(connect(data.path()).await, Connected::NoProcess));
        let other = elsewhere.path().join("socket");
        let _listener = UnixListener::bind(&other).unwrap();
        std::os::unix::fs::symlink(&other, data.path().join(NAME)).unwrap();
        assert!(matches!(connect(data.path()).await, Connected::Refused(why) if why == "the control socket is not a socket"));
        clear(data.path()).unwrap();
        fs::write(data.path().join(NAME), "").unwrap();
        assert!(matches!(connect(data.path()).await, Connected::Refused(_)));
        clear(data.path()).unwrap();
        clear(data.path()).unwrap();
        // A process owns the directory without a socket.
        let _owned = DataDir::open(data.path()).unwrap();
        assert!(matches!(connect(data.path()).await, Connected::Without));
    }
}
