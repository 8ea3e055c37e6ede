//! A command's process at the Coldframe that runs on the data directory: asks it for a way, and for what became of everything.
//! Refuses to know any other server.

use std::collections::BTreeMap;
use std::path::Path;
use std::time::Duration;

use tokio::io::{AsyncBufRead, AsyncWrite, AsyncWriteExt as _, BufReader};
use tokio::net::TcpStream;
use tokio::time::timeout;

use crate::app::run::RunReport;
#[cfg(unix)]
use crate::app::session::control_socket::{Connected, connect};
use crate::app::session::protocol::{
    self, LONGEST_END, LONGEST_START, OpenReply, OpenRequest, OpenedMessage, ReportMessage, Request, What,
};
use crate::app::session::{SessionInfo, SessionRequest};

/// How long it may take to open a way.
const PATIENCE: Duration = Duration::from_secs(5);

/// How long it may take to end one: requests that nobody waits for any more may go on until its drain deadline.
const LEAVING: Duration = Duration::from_mins(2);

/// A way that is open.
pub(crate) struct RemoteSession {
    pub(crate) lead: SessionInfo,
    lines: Box<dyn AsyncBufRead + Send + Unpin>,
    /// Closed when the command has ended.
    asking: Box<dyn AsyncWrite + Send + Unpin>,
}

/// Why there is none.
pub(crate) struct OpenRefused(pub(crate) String);

/// Asks the Coldframe that runs on a data directory, if one does, for a way. `registries` are those that the command would ask
/// without it.
pub(crate) async fn open(
    data_dir: &Path,
    wish: &SessionRequest,
    registries: &BTreeMap<String, String>,
) -> Result<RemoteSession, OpenRefused> {
    let silent = || OpenRefused("it takes in no commands".to_owned());
    let (lines, mut asking) = match timeout(PATIENCE, connect(data_dir)).await {
        Ok(Connected::To(lines, asking)) => (lines, asking),
        Ok(Connected::Refused(why)) => return Err(OpenRefused(why)),
        Ok(Connected::NoProcess | Connected::Without) | Err(_) => return Err(silent()),
    };
    let mut lines: Box<dyn AsyncBufRead + Send + Unpin> = Box::new(BufReader::new(lines));
    let asked = async {
        protocol::write(&mut asking, &Request::new(What::Session(Box::new(OpenRequest::of(wish, registries))))).await;
        protocol::read(&mut lines, LONGEST_START).await
    };
    let opened: OpenedMessage = match timeout(PATIENCE, asked).await.ok().flatten().ok_or_else(silent)? {
        OpenReply::Open(opened) => *opened,
        OpenReply::Refused(why) => return Err(OpenRefused(why)),
    };
    let lead = opened.read().ok_or_else(silent)?;
    let port = lead.way.proxy.socket_addrs(|| None).unwrap_or_default();
    // A container shares its files with us, and has a loopback of its own.
    match timeout(PATIENCE, TcpStream::connect(port.as_slice())).await {
        Ok(Ok(_)) => Ok(RemoteSession { lead, lines, asking: Box::new(asking) }),
        _ => Err(OpenRefused(format!("its gateway at `{}` cannot be reached from here", lead.way.proxy))),
    }
}

/// Where there are no such sockets, no Coldframe can be asked.
#[cfg(not(unix))]
pub(crate) async fn connect(_data_dir: &Path) -> Connected {
    Connected::NoProcess
}

#[cfg(not(unix))]
#[expect(dead_code, reason = "elsewhere there is more than one outcome")]
pub(crate) enum Connected {
    To(tokio::io::Empty, tokio::io::Sink),
    NoProcess,
    Without,
    Refused(String),
}

impl RemoteSession {
    /// Closes the way; what became of everything.
    pub(crate) async fn leave(mut self) -> RunReport {
        // Whoever is gone does not miss it.
        let _ = self.asking.shutdown().await;
        match timeout(LEAVING, protocol::read::<ReportMessage>(&mut self.lines, LONGEST_END)).await.ok().flatten() {
            Some(told) => told.read(),
            None => RunReport {
                trouble: Some("the running coldframe went away: what it served and refused is not known here".to_owned()),
                ..RunReport::default()
            },
        }
    }
}
