//! Client side of a session at the server on the data directory: opens it, and receives the report when it is closed.

use std::path::Path;
use std::time::Duration;

use tokio::io::{AsyncBufRead, AsyncWrite, AsyncWriteExt as _, BufReader};
use tokio::net::TcpStream;
use tokio::time::timeout;

#[cfg(unix)]
use crate::app::session::control_socket::{Connected, connect};
use crate::app::session::protocol::{self, ControlRequest, MAX_END_BYTES, MAX_START_BYTES, OpenReply, ReportMessage, What};
use crate::app::session::{RunReport, SessionInfo, SessionRequest};

/// The time limit for opening a session.
const REPLY_TIMEOUT: Duration = Duration::from_secs(5);

/// The time limit for closing a session. Requests that the command no longer waits for may run until the server's drain deadline.
const LEAVING: Duration = Duration::from_mins(2);

pub(crate) struct RemoteSession {
    pub(crate) info: SessionInfo,
    lines: Box<dyn AsyncBufRead + Send + Unpin>,
    /// Closed when the command has ended.
    asking: Box<dyn AsyncWrite + Send + Unpin>,
}

/// Opens a session at the server on a data directory. Returns why the server refuses, or cannot be used.
pub(crate) async fn open(data_dir: &Path, request: &SessionRequest) -> Result<RemoteSession, String> {
    let silent = || "the server accepts no commands".to_owned();
    let (lines, mut asking) = match timeout(REPLY_TIMEOUT, connect(data_dir)).await {
        Ok(Connected::To(lines, asking)) => (lines, asking),
        Ok(Connected::Refused(why)) => return Err(why),
        Ok(Connected::NoProcess | Connected::Without) | Err(_) => return Err(silent()),
    };
    let mut lines: Box<dyn AsyncBufRead + Send + Unpin> = Box::new(BufReader::new(lines));
    let asked = async {
        protocol::write(&mut asking, &ControlRequest::new(What::Session(Box::new(request.clone())))).await;
        protocol::read(&mut lines, MAX_START_BYTES).await
    };
    let info = match timeout(REPLY_TIMEOUT, asked).await.ok().flatten().ok_or_else(silent)? {
        OpenReply::Open(info) => *info,
        OpenReply::Refused(why) => return Err(why),
    };
    let port = info.way.proxy.socket_addrs(|| None).unwrap_or_default();
    // A container may share the data directory but has a loopback interface of its own.
    match timeout(REPLY_TIMEOUT, TcpStream::connect(port.as_slice())).await {
        Ok(Ok(_)) => Ok(RemoteSession { info, lines, asking: Box::new(asking) }),
        _ => Err(format!("cannot reach the server's gateway: `{}`", info.way.proxy)),
    }
}

/// Without Unix sockets there is no control socket.
#[cfg(not(unix))]
pub(crate) async fn connect(_data_dir: &Path) -> Connected {
    Connected::NoProcess
}

#[cfg(not(unix))]
#[expect(dead_code, reason = "the other variants are used on Unix")]
pub(crate) enum Connected {
    To(tokio::io::Empty, tokio::io::Sink),
    NoProcess,
    Without,
    Refused(String),
}

impl RemoteSession {
    pub(crate) async fn close(mut self) -> RunReport {
        // An error means that the server is gone, which the read below reports.
        let _ = self.asking.shutdown().await;
        let lost = || {
            let trouble = "the running coldframe exited without a report; served and refused versions are unknown";
            RunReport { trouble: Some(trouble.to_owned()), ..RunReport::default() }
        };
        let report = timeout(LEAVING, protocol::read::<ReportMessage>(&mut self.lines, MAX_END_BYTES)).await;
        report.ok().flatten().map_or_else(lost, ReportMessage::read)
    }
}
