//! Accepts connections and serves HTTP/1.1 on them with limits and timeouts, until shutdown.

pub(crate) mod activity;
pub(crate) mod connection;
pub(crate) mod connection_limit;
pub(crate) mod io_timeouts;
pub(crate) mod tunnel;

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use tokio::net::{TcpListener, TcpStream};
use tokio::task::{JoinError, JoinSet};
use tokio::time::{MissedTickBehavior, sleep, timeout};

use crate::net::fair_limit::network_of;
use crate::net::listener::connection::Connection;
use crate::net::listener::connection_limit::{ConnectionLimit, ConnectionLimits, ConnectionPermit, LogThrottle};

/// Wait after `accept` fails for lack of file descriptors or memory.
const BACK_OFF: Duration = Duration::from_millis(100);

/// Interval at which idle connections are closed while others wait.
const CLOSE_IDLE_INTERVAL: Duration = Duration::from_millis(100);

/// Accepted connections that wait for a permit, in total and per client. Beyond the total, connections stay in the kernel's
/// backlog. Beyond the limit per client they are closed, so that they do not block other clients in the backlog.
const MAX_WAITING: usize = 1_024;
const MAX_WAITING_PER_CLIENT: usize = 256;

/// Serves each connection of `listener` with `handle` until `stop` resolves. Then it accepts no more, lets requests finish for
/// [`ConnectionLimits::drain`], closes the rest, and returns their number. Listeners that share a limit drain together.
pub async fn serve<H, F>(
    listener: TcpListener,
    limits: &ConnectionLimits,
    limit: &Arc<ConnectionLimit>,
    handle: H,
    stop: impl Future<Output = ()>,
) -> usize
where
    H: Fn(TcpStream, Connection) -> F,
    F: Future<Output = ()> + Send + 'static,
{
    let mut connections = JoinSet::new();
    let mut stop = pin!(stop);
    let (mut waiting, mut throttle) = (WaitingConnections::default(), LogThrottle::default());
    let mut idle_ticks = tokio::time::interval(CLOSE_IDLE_INTERVAL);
    idle_ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        let (stream, peer, permit) = tokio::select! {
            biased;
            () = &mut stop => break,
            Some(ended) = connections.join_next(), if !connections.is_empty() => {
                log_lost(ended);
                continue;
            }
            Some(entered) = waiting.next(), if !waiting.entering.is_empty() => entered,
            (stream, peer) = accept(&listener, limit, &mut throttle), if waiting.entering.len() < MAX_WAITING => {
                let Some(permit) = limit.try_enter(peer.ip()) else {
                    limit.log_full(peer.ip());
                    limit.close_idle();
                    waiting.add(limit, stream, peer);
                    continue;
                };
                (stream, peer, permit)
            }
            _ = idle_ticks.tick(), if !waiting.entering.is_empty() => {
                limit.close_idle();
                continue;
            }
        };
        connections.spawn(handle(stream, Connection { peer, limits: *limits, permit }));
    }
    drop((listener, waiting));
    limit.close();
    let finished = timeout(limits.drain, async {
        while let Some(ended) = connections.join_next().await {
            log_lost(ended);
        }
    })
    .await;
    let cut = connections.len();
    connections.shutdown().await;
    if finished.is_err() {
        tracing::warn!(connections.cut = cut, "drain deadline passed");
    }
    cut
}

#[derive(Default)]
struct WaitingConnections {
    entering: JoinSet<(TcpStream, SocketAddr, ConnectionPermit)>,
    of_clients: HashMap<IpAddr, usize>,
}

impl WaitingConnections {
    /// Queues a connection, or closes it if its client has too many waiting.
    fn add(&mut self, limit: &Arc<ConnectionLimit>, stream: TcpStream, peer: SocketAddr) {
        let count = self.of_clients.entry(network_of(peer.ip())).or_default();
        if *count >= MAX_WAITING_PER_CLIENT {
            return;
        }
        *count += 1;
        let limit = Arc::clone(limit);
        self.entering.spawn(async move {
            let permit = limit.acquire(peer.ip()).await;
            (stream, peer, permit)
        });
    }

    async fn next(&mut self) -> Option<(TcpStream, SocketAddr, ConnectionPermit)> {
        let entered = self.entering.join_next().await?.ok()?;
        if let Entry::Occupied(mut count) = self.of_clients.entry(network_of(entered.1.ip())) {
            *count.get_mut() -= 1;
            if *count.get() == 0 {
                count.remove();
            }
        }
        Some(entered)
    }
}

fn log_lost(ended: Result<(), JoinError>) {
    if let Err(error) = ended {
        tracing::error!(error = %error, "connection task failed");
    }
}

/// Accepts the next connection. Without file descriptors or memory, closes idle connections and retries.
async fn accept(listener: &TcpListener, limit: &ConnectionLimit, throttle: &mut LogThrottle) -> (TcpStream, SocketAddr) {
    loop {
        match listener.accept().await {
            Ok(accepted) => return accepted,
            Err(error) if is_the_peers(&error) => {}
            Err(error) => {
                if throttle.is_due() {
                    tracing::warn!(error = %error, "cannot accept connection");
                }
                limit.close_idle();
                sleep(BACK_OFF).await;
            }
        }
    }
}

/// Checks whether an error of `accept` concerns only a connection that is already gone.
fn is_the_peers(error: &io::Error) -> bool {
    use io::ErrorKind::{ConnectionAborted, ConnectionRefused, ConnectionReset};
    matches!(error.kind(), ConnectionAborted | ConnectionRefused | ConnectionReset)
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use http::{Request, Response};
    use http_body_util::{BodyExt as _, Collected};
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
    use tokio::sync::{Notify, oneshot};

    use super::*;
    use crate::net::body::Body;
    use crate::net::listener::activity::RequestBody;
    use crate::net::listener::connection::serve_connection;

    /// A server that responds with the method, path and body of the request.
    struct Server {
        address: SocketAddr,
        stop: oneshot::Sender<()>,
        drained: tokio::task::JoinHandle<usize>,
        /// Lets requests for `/slow` continue.
        gate: Arc<Notify>,
        /// Notified when a request for `/slow` arrives.
        arrived: Arc<Notify>,
    }

    async fn serve_with(limits: ConnectionLimits) -> Server {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let (stop, stopped) = oneshot::channel();
        let (gate, arrived) = (Arc::new(Notify::new()), Arc::new(Notify::new()));
        let (waiting, telling) = (gate.clone(), arrived.clone());
        let handler = move |_, request: Request<RequestBody>| {
            let (waiting, telling) = (waiting.clone(), telling.clone());
            async move {
                if request.uri().path() == "/slow" {
                    telling.notify_one();
                    waiting.notified().await;
                }
                let line = format!("{} {} ", request.method(), request.uri().path());
                let received = request.into_body().collect().await.map(Collected::to_bytes).unwrap_or_default();
                Response::new(Body::from(Bytes::from([line.as_bytes(), &received].concat())))
            }
        };
        let drained = tokio::spawn(async move {
            let limit = ConnectionLimit::of(limits.connections);
            let handle = move |stream, connection| serve_connection(stream, connection, handler.clone());
            serve(listener, &limits, &limit, handle, async { stopped.await.unwrap() }).await
        });
        Server { address, stop, drained, gate, arrived }
    }

    /// Sends bytes, ends the sending side, and reads until the server closes.
    async fn exchange(address: SocketAddr, bytes: &[u8]) -> String {
        let mut stream = TcpStream::connect(address).await.unwrap();
        stream.write_all(bytes).await.unwrap();
        stream.shutdown().await.unwrap();
        read_all(&mut stream).await
    }

    async fn read_all(stream: &mut TcpStream) -> String {
        let mut answer = Vec::new();
        // A reset after the response ends it like a close.
        let _ = stream.read_to_end(&mut answer).await;
        String::from_utf8(answer).unwrap()
    }

    #[tokio::test]
    async fn half_closed_client_still_gets_its_response() {
        let server = serve_with(ConnectionLimits::default()).await;
        let answer = exchange(server.address, b"GET /a HTTP/1.1\r\nhost: x\r\n\r\n").await;
        assert!(answer.starts_with("HTTP/1.1 200 OK\r\n") && answer.ends_with("GET /a "), "{answer}");
        assert!(answer.contains("content-length: 7\r\n"), "{answer}");
    }

    #[tokio::test]
    async fn requests_on_one_connection_are_answered_in_order() {
        let server = serve_with(ConnectionLimits::default()).await;
        let two = b"GET /a HTTP/1.1\r\nhost: x\r\n\r\nPOST /b HTTP/1.1\r\nhost: x\r\ncontent-length: 3\r\n\r\nabc";
        let answer = exchange(server.address, two).await;
        assert!(answer.contains("GET /a ") && answer.ends_with("POST /b abc"), "{answer}");
    }

    #[tokio::test]
    async fn ambiguous_framing_is_rejected_or_read_once() {
        let server = serve_with(ConnectionLimits::default()).await;
        for framing in [
            "content-length: 3\r\ncontent-length: 4\r\n\r\nabcd",
            "content-length: +3\r\n\r\nabc",
            "transfer-encoding: chunked, identity\r\n\r\n0\r\n\r\n",
            "transfer-encoding : chunked\r\n\r\n0\r\n\r\n",
            "x: a\0b\r\n\r\n",
        ] {
            let answer = exchange(server.address, format!("POST /a HTTP/1.1\r\nhost: x\r\n{framing}").as_bytes()).await;
            assert!(answer.starts_with("HTTP/1.1 400 "), "{framing:?}: {answer}");
        }
        let both = "content-length: 30\r\ntransfer-encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n\r\n";
        let answer = exchange(server.address, format!("POST /a HTTP/1.1\r\nhost: x\r\n{both}").as_bytes()).await;
        assert!(answer.ends_with("POST /a abc"), "{answer}");
        let old = "POST /a HTTP/1.0\r\nhost: x\r\ntransfer-encoding: chunked\r\n\r\n0\r\n\r\n";
        let answer = exchange(server.address, old.as_bytes()).await;
        assert!(!answer.contains(" 200 "), "{answer}");
    }

    #[tokio::test]
    async fn head_is_limited_in_bytes_lines_and_time() {
        let limits = ConnectionLimits {
            head_bytes: 8192,
            max_headers: 10,
            header_timeout: Duration::from_millis(100),
            ..ConnectionLimits::default()
        };
        let server = serve_with(limits).await;
        let large = format!("GET /a HTTP/1.1\r\nhost: x\r\nx: {}\r\n\r\n", "y".repeat(9000));
        assert!(exchange(server.address, large.as_bytes()).await.starts_with("HTTP/1.1 431 "));
        let many = format!("GET /a HTTP/1.1\r\nhost: x\r\n{}\r\n", "x: y\r\n".repeat(11));
        assert!(exchange(server.address, many.as_bytes()).await.starts_with("HTTP/1.1 431 "));
        let mut slow = TcpStream::connect(server.address).await.unwrap();
        slow.write_all(b"GET /a HTTP/1.1\r\nhost:").await.unwrap();
        assert_eq!(read_all(&mut slow).await, "");
    }

    #[tokio::test]
    async fn connection_above_the_limit_waits() {
        let server = serve_with(ConnectionLimits { connections: 1, ..ConnectionLimits::default() }).await;
        let mut first = TcpStream::connect(server.address).await.unwrap();
        first.write_all(b"GET /slow HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n").await.unwrap();
        server.arrived.notified().await;
        let address = server.address;
        let second = tokio::spawn(async move { exchange(address, b"GET /b HTTP/1.1\r\nhost: x\r\n\r\n").await });
        assert!(!second.is_finished());
        server.gate.notify_one();
        assert!(read_all(&mut first).await.ends_with("GET /slow "));
        assert!(second.await.unwrap().ends_with("GET /b "));
    }

    #[tokio::test]
    async fn drain_finishes_requests_and_closes_idle_connections() {
        let server = serve_with(ConnectionLimits::default()).await;
        let mut fresh = TcpStream::connect(server.address).await.unwrap();
        let mut busy = TcpStream::connect(server.address).await.unwrap();
        busy.write_all(b"GET /slow HTTP/1.1\r\nhost: x\r\n\r\n").await.unwrap();
        server.arrived.notified().await;
        server.stop.send(()).unwrap();
        assert_eq!(read_all(&mut fresh).await, "");
        assert!(TcpStream::connect(server.address).await.is_err());
        server.gate.notify_one();
        let answer = read_all(&mut busy).await;
        assert!(answer.contains("connection: close\r\n") && answer.ends_with("GET /slow "), "{answer}");
        assert_eq!(server.drained.await.unwrap(), 0);
    }

    #[tokio::test]
    async fn connection_is_closed_at_the_drain_deadline() {
        let server = serve_with(ConnectionLimits { drain: Duration::from_millis(50), ..ConnectionLimits::default() }).await;
        let mut busy = TcpStream::connect(server.address).await.unwrap();
        busy.write_all(b"GET /slow HTTP/1.1\r\nhost: x\r\n\r\n").await.unwrap();
        server.arrived.notified().await;
        server.stop.send(()).unwrap();
        assert_eq!(server.drained.await.unwrap(), 1);
        assert_eq!(read_all(&mut busy).await, "");
    }
}
