//! The control socket: where a running server is asked, through its data directory, for a command's way (`coldframe run`) and for
//! answers (`explain`, `check`, …). It belongs to the server's user, and the other end must too, or be root.

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

use crate::app::operations::{Answer, Operations, Question};
use crate::app::run::RunReport;
use crate::app::session::protocol::{
    self, MAX_REQUEST_BYTES, OpenReply, OpenRequest, OpenedMessage, PROTOCOL, ReportMessage, Request, What,
};
use crate::app::session::{LocalSession, SessionTemplate};
use crate::clock::Clock;
use crate::firewall::Firewall;
use crate::store::{DataDir, Ledger, SqliteLedger};
use crate::telemetry::{Metrics, TaskFailed, TaskLabel};

/// The socket's name in the data directory.
const NAME: &str = "control";

/// How many connections may be open at once.
const MAX_CONNECTIONS: usize = 128;

/// How many of them may be commands that are led through the server; the rest is left to questions.
const MAX_SESSIONS: usize = 64;

/// How long a question may take: it may have hundreds of packuments to fetch first. The other end waits a little longer.
pub(crate) const ANSWER_TIMEOUT: Duration = Duration::from_mins(5);

/// How often a socket is tried again that refuses connections while a process owns the data directory: it starts or stops.
const RETRY_INTERVAL: Duration = Duration::from_millis(100);
const RETRIES: u32 = 20;

/// How often a directory is looked at again that a process owns and that has no socket: a server makes it at the end of its start.
const RETRIES_WITHOUT: u32 = 10;

/// How long whoever connects may take to say what for.
const PATIENCE: Duration = Duration::from_secs(5);

/// Tells that the server stops.
type Stop = watch::Receiver<bool>;

/// What the other end writes.
type Lines = BufReader<OwnedReadHalf>;

/// The socket, bound.
pub(crate) struct ControlSocket {
    listener: UnixListener,
    parts: Arc<ControlContext>,
}

/// What a command's way leads to.
pub(crate) struct ControlContext {
    pub(crate) firewall: Arc<Firewall>,
    pub(crate) ledger: Arc<SqliteLedger>,
    pub(crate) metrics: Arc<Metrics>,
    pub(crate) clock: Arc<dyn Clock>,
    pub(crate) premises: Arc<SessionTemplate>,
    /// Where this process listens.
    pub(crate) ours: Vec<SocketAddr>,
    /// What questions are answered by.
    pub(crate) operations: Arc<Operations>,
    /// The commands that may still be led.
    pub(crate) sessions: Arc<Semaphore>,
}

impl ControlContext {
    /// How many commands may be led at once.
    pub(crate) fn sessions() -> Arc<Semaphore> {
        Arc::new(Semaphore::new(MAX_SESSIONS))
    }
}

/// What became of an attempt to connect to the server of a data directory.
pub(crate) enum Connected {
    /// It is connected.
    To(OwnedReadHalf, OwnedWriteHalf),
    /// No process owns the data directory.
    NoProcess,
    /// A process owns it and has no control socket: a `coldframe run` of its own, or a server whose path is too long for one.
    Without,
    /// There is a socket, and nothing is to be asked there, for this reason.
    Refused(String),
}

/// Connects to the server that runs on a data directory. A socket that belongs to another user is not spoken to: any user who may
/// write a directory can put one there.
pub(crate) async fn connect(data_dir: &Path) -> Connected {
    let path = data_dir.join(NAME);
    for tries in 0..=RETRIES {
        let found = fs::symlink_metadata(&path);
        let is_owned = DataDir::is_owned(data_dir);
        match found {
            Ok(found) if found.file_type().is_socket() => {}
            Ok(_) => return Connected::Refused("its control socket is no socket".to_owned()),
            Err(_) if DataDir::is_server(data_dir) => {
                let why = "it has no control socket, its log says why; ask it by its address: `coldframe check --server URL`, or \
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
                return Connected::Refused("its control socket belongs to another user".to_owned());
            }
            // A process that was killed left it.
            Err(_) if !is_owned => return Connected::NoProcess,
            Err(error) if tries == RETRIES => return Connected::Refused(format!("it starts or stops, or hangs: {error}")),
            Err(_) => tokio::time::sleep(RETRY_INTERVAL).await,
        }
    }
    Connected::NoProcess
}

/// The users that may stand at the other end: this process's own and root. Root also trusts the owner of a data directory that only the owner
/// may write: a server has a user of its own, and its operators use `sudo`.
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

/// Why the process at the other end is not to be trusted, if it is not.
fn foreign(stream: &UnixStream, trusted: &[u32]) -> Option<String> {
    match stream.peer_cred() {
        Ok(peer) if trusted.contains(&peer.uid()) => None,
        Ok(peer) => Some(format!("the process at its control socket belongs to another user: uid {}", peer.uid())),
        Err(error) => Some(format!("whose process is at its control socket cannot be found out: {error}")),
    }
}

impl ControlSocket {
    /// Binds the socket. The data directory is this process's own, so one that is there was left by a process that is gone.
    ///
    /// # Errors
    /// When there can be none: the path is too long for one, or the disk has no such files.
    pub(crate) fn open(data_dir: &Path, parts: ControlContext) -> io::Result<Self> {
        let path = data_dir.join(NAME);
        clear(data_dir)?;
        let listener = UnixListener::bind(&path)?;
        // Whoever may write the data directory: nobody else may ask.
        fs::set_permissions(&path, fs::Permissions::from_mode(0o600))?;
        Ok(Self { listener, parts: Arc::new(parts) })
    }

    /// Answers until `stop` resolves; then ends the ways that are open, and says what became of them.
    pub(crate) async fn serve(self, stop: Stop) {
        let mut open = JoinSet::new();
        let mut stopped = stop.clone();
        let mut stopped = std::pin::pin!(async move {
            // An error means that the sender is gone, and with it whoever could ask for more.
            let _ = stopped.wait_for(|stop| *stop).await;
        });
        loop {
            tokio::select! {
                () = &mut stopped => break,
                Some(ended) = open.join_next(), if !open.is_empty() => self.parts.note_end(ended),
                accepted = self.listener.accept(), if open.len() < MAX_CONNECTIONS => match accepted {
                    Ok((stream, _)) => drop(open.spawn(answer(stream, Arc::clone(&self.parts), stop.clone()))),
                    Err(error) => {
                        tracing::warn!(error = %error, "cannot take a command in");
                        tokio::time::sleep(PATIENCE / 5).await;
                    }
                },
            }
        }
        // The file stays until the process gives the data directory up: as long as it is there, nobody takes the settings of another
        // process for those of this one.
        drop(self.listener);
        while let Some(ended) = open.join_next().await {
            self.parts.note_end(ended);
        }
    }
}

impl ControlContext {
    /// A way was closed; one that panicked took its command's connections with it.
    fn note_end(&self, ended: Result<(), JoinError>) {
        if let Err(error) = ended {
            TaskFailed { task: TaskLabel::Control, detail: &error.to_string(), restart: None }.emit(&self.metrics);
        }
    }
}

/// Removes a socket that a process left which is gone. The data directory is this process's own.
///
/// # Errors
/// When it is there and cannot be removed.
pub(crate) fn clear(data_dir: &Path) -> io::Result<()> {
    match fs::remove_file(data_dir.join(NAME)) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

async fn answer(stream: UnixStream, parts: Arc<ControlContext>, stop: Stop) {
    // Between `bind` and the change of its mode the socket may have been open to others.
    if let Some(why) = foreign(&stream, &[rustix::process::getuid().as_raw(), 0]) {
        tracing::warn!(error = why, "control connection refused");
        return;
    }
    let (lines, mut replies) = stream.into_split();
    let mut lines = BufReader::new(lines);
    let asked = timeout(PATIENCE, protocol::read::<Request>(&mut lines, MAX_REQUEST_BYTES)).await;
    match asked.ok().flatten().filter(|request| request.protocol == PROTOCOL).map(|request| request.what) {
        None => protocol::write(&mut replies, &refused("it is of another version")).await,
        Some(What::Ask(question)) => reply(*question, (&mut lines, &mut replies), &parts, stop).await,
        Some(What::Session(opening)) => match Arc::clone(&parts.sessions).try_acquire_owned() {
            Ok(_slot) => lead(*opening, (lines, replies), &parts, stop).await,
            Err(_) => protocol::write(&mut replies, &refused("it leads as many commands as it may")).await,
        },
    }
}

fn refused(why: &str) -> OpenReply {
    OpenReply::Refused(why.to_owned())
}

/// Answers one question, unless the other end goes away or the server stops first.
async fn reply(question: Question, (lines, replies): (&mut Lines, &mut OwnedWriteHalf), parts: &ControlContext, mut stop: Stop) {
    let answered = tokio::select! {
        answered = timeout(ANSWER_TIMEOUT, parts.operations.answer(question)) => {
            answered.unwrap_or_else(|_| Answer::failed(format!("no answer within {} s", ANSWER_TIMEOUT.as_secs())))
        }
        _ = lines.fill_buf() => return,
        _ = stop.wait_for(|stop| *stop) => Answer::failed("the server stops".to_owned()),
    };
    protocol::write(replies, &answered).await;
}

/// Opens a way for one command, and ends it with the command.
async fn lead(opening: OpenRequest, (mut lines, mut replies): (Lines, OwnedWriteHalf), parts: &ControlContext, mut stop: Stop) {
    if let Some(why) = parts.premises.differ(&opening.registries) {
        return protocol::write(&mut replies, &OpenReply::Refused(why)).await;
    }
    let wish = opening.wish();
    let premises = (&*parts.premises, parts.ours.as_slice());
    let session = match LocalSession::open(&parts.firewall, premises, &wish, Arc::clone(&parts.metrics), &parts.clock).await {
        Ok(session) => session,
        Err(wrong) => return protocol::write(&mut replies, &refused(&wrong.to_string())).await,
    };
    tracing::info!(client.user = wish.user, gateway.address = %session.lead.way.proxy, "a command is led here");
    protocol::write(&mut replies, &OpenReply::Open(Box::new(OpenedMessage::of(&session.lead)))).await;
    let cut = tokio::select! {
        // The command has ended, or its process: either way nobody says anything more.
        _ = lines.fill_buf() => false,
        _ = stop.wait_for(|stop| *stop) => true,
    };
    let sum = session.close().await;
    let ledger = Arc::clone(&parts.ledger);
    // What it says of this command can be asked for as soon as the command has ended.
    let written = tokio::task::spawn_blocking(move || ledger.flush()).await;
    let trouble = match (cut, written) {
        (true, _) => Some("the running coldframe was stopped before the command had ended".to_owned()),
        (_, Err(error)) => {
            parts.note_end(Err(error));
            Some("the ledger could not be written".to_owned())
        }
        _ => sum.trouble.clone(),
    };
    tracing::info!(client.user = wish.user, packages = sum.noted.served.len(), "a command has ended");
    protocol::write(&mut replies, &ReportMessage::of(RunReport { trouble, ..sum })).await;
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_process_of_another_user_is_not_spoken_to() {
        let (here, _there) = UnixStream::pair().unwrap();
        let own = rustix::process::getuid().as_raw();
        assert_eq!(foreign(&here, &[own]), None);
        let told = foreign(&here, &[own + 1]).unwrap();
        assert!(told.ends_with(&format!("belongs to another user: uid {own}")), "{told}");
    }

    #[tokio::test]
    async fn only_a_socket_in_the_directory_itself_is_connected_to() {
        let (data, elsewhere) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        assert!(matches!(connect(data.path()).await, Connected::NoProcess));
        let other = elsewhere.path().join("socket");
        let _listener = UnixListener::bind(&other).unwrap();
        std::os::unix::fs::symlink(&other, data.path().join(NAME)).unwrap();
        assert!(matches!(connect(data.path()).await, Connected::Refused(why) if why == "its control socket is no socket"));
        clear(data.path()).unwrap();
        fs::write(data.path().join(NAME), "").unwrap();
        assert!(matches!(connect(data.path()).await, Connected::Refused(_)));
        clear(data.path()).unwrap();
        clear(data.path()).unwrap();
        // A process that owns the directory, and has none.
        let _owned = DataDir::open(data.path()).unwrap();
        assert!(matches!(connect(data.path()).await, Connected::Without));
    }
}
