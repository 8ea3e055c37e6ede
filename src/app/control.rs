//! Where a Coldframe that runs is asked for a command's way: a socket in its data directory, which whoever may write there may
//! use. Refuses to be reached over the network.

use std::fs;
use std::io;
use std::net::SocketAddr;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use tokio::io::{AsyncBufReadExt as _, BufReader};
use tokio::net::unix::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{UnixListener, UnixStream};
use tokio::task::JoinSet;
use tokio::time::timeout;

use super::errand::Sum;
use super::session::{Premises, Session};
use super::wire::{self, LONGEST_START, Opened, Opening, PROTOCOL, Reply, Told};
use crate::firewall::Firewall;
use crate::store::{Ledger, SqliteLedger};
use crate::telemetry::{Clock, Metrics};

/// The socket's name in the data directory.
const NAME: &str = "control";

/// How many commands may be under way at once.
const MOST: usize = 64;

/// How long whoever connects may take to say what for.
const PATIENCE: Duration = Duration::from_secs(5);

/// The socket, bound.
pub(super) struct Control {
    listener: UnixListener,
    path: PathBuf,
    parts: Arc<Parts>,
}

/// What a command's way leads to.
pub(super) struct Parts {
    pub(super) firewall: Arc<Firewall>,
    pub(super) ledger: Arc<SqliteLedger>,
    pub(super) metrics: Arc<Metrics>,
    pub(super) clock: Arc<dyn Clock>,
    pub(super) premises: Arc<Premises>,
    /// Where this process listens.
    pub(super) ours: Vec<SocketAddr>,
}

/// Connects to the Coldframe that runs on a data directory; `None` where none does, or it has no socket.
pub(super) async fn connect(data_dir: &Path) -> Option<(OwnedReadHalf, OwnedWriteHalf)> {
    Some(UnixStream::connect(data_dir.join(NAME)).await.ok()?.into_split())
}

impl Control {
    /// Binds the socket. The data directory is this process's own, so one that is there was left by a process that is gone.
    ///
    /// # Errors
    /// When there can be none: the path is too long for one, or the disk has no such files.
    pub(super) fn open(data_dir: &Path, parts: Parts) -> io::Result<Self> {
        let path = data_dir.join(NAME);
        match fs::remove_file(&path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
        let listener = UnixListener::bind(&path)?;
        // Whoever may write the data directory: nobody else may ask.
        fs::set_permissions(&path, fs::Permissions::from_mode(0o600))?;
        Ok(Self { listener, path, parts: Arc::new(parts) })
    }

    /// Answers until `stop` resolves; then ends the ways that are open, and says what became of them.
    pub(super) async fn serve(self, stop: tokio::sync::watch::Receiver<bool>) {
        let mut open = JoinSet::new();
        let mut stopped = stop.clone();
        let mut stopped = std::pin::pin!(async move {
            // An error means that the sender is gone, and with it whoever could ask for more.
            let _ = stopped.wait_for(|stop| *stop).await;
        });
        loop {
            tokio::select! {
                () = &mut stopped => break,
                Some(_) = open.join_next(), if !open.is_empty() => {}
                accepted = self.listener.accept(), if open.len() < MOST => match accepted {
                    Ok((stream, _)) => drop(open.spawn(answer(stream, Arc::clone(&self.parts), stop.clone()))),
                    Err(error) => {
                        tracing::warn!(error = %error, "cannot take a command in");
                        tokio::time::sleep(PATIENCE / 5).await;
                    }
                },
            }
        }
        drop(self.listener);
        let _ = fs::remove_file(&self.path);
        while open.join_next().await.is_some() {}
    }
}

async fn answer(stream: UnixStream, parts: Arc<Parts>, mut stop: tokio::sync::watch::Receiver<bool>) {
    let (lines, mut replies) = stream.into_split();
    let mut lines = BufReader::new(lines);
    let asked = timeout(PATIENCE, wire::read::<Opening>(&mut lines, LONGEST_START)).await;
    let refused = |why: &str| Reply::Refused(why.to_owned());
    let Some(opening) = asked.ok().flatten().filter(|opening| opening.protocol == PROTOCOL) else {
        return wire::write(&mut replies, &refused("it is of another version")).await;
    };
    if let Some(why) = parts.premises.differ(&opening.registries) {
        return wire::write(&mut replies, &Reply::Refused(why)).await;
    }
    let wish = opening.wish();
    let premises = (&*parts.premises, parts.ours.as_slice());
    let session = match Session::open(&parts.firewall, premises, &wish, Arc::clone(&parts.metrics), &parts.clock).await {
        Ok(session) => session,
        Err(wrong) => return wire::write(&mut replies, &refused(&wrong.to_string())).await,
    };
    tracing::info!(client.user = wish.user, gateway.address = %session.lead.way.proxy, "a command is led here");
    wire::write(&mut replies, &Reply::Open(Box::new(Opened::of(&session.lead)))).await;
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
        (_, Err(_)) => Some("the ledger could not be written".to_owned()),
        _ => sum.trouble.clone(),
    };
    tracing::info!(client.user = wish.user, packages = sum.noted.served.len(), "a command has ended");
    wire::write(&mut replies, &Told::of(Sum { trouble, ..sum })).await;
}
