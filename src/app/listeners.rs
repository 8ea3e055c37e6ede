//! Binds the addresses of a server, and runs the listeners on them until they are stopped.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::task::{JoinError, JoinSet};
use tokio::time::timeout;

use crate::app::error::AppError;
use crate::app::supervisor::Supervisor;
use crate::firewall::Profile;
use crate::net::{ConnectionLimit, ListenAddress, Scheme};
use crate::telemetry::TaskLabel;

/// How long the process on an occupied address may take to identify itself.
const PROBE_TIMEOUT: Duration = Duration::from_secs(1);

/// The maximum size of its response, in bytes.
const PROBE_BYTES: u64 = 8 << 10;

pub(crate) struct BoundListener {
    pub(crate) listener: TcpListener,
    /// The address, with the assigned port if port 0 was configured.
    pub(crate) address: SocketAddr,
    pub(crate) profile: Profile,
    pub(crate) scheme: Scheme,
}

/// The tasks that serve listeners. They share a limit of connections, and stop together.
pub(crate) struct RunningListeners {
    pub(crate) tasks: JoinSet<()>,
    limit: Arc<ConnectionLimit>,
    pub(crate) stop: watch::Sender<bool>,
}

impl RunningListeners {
    pub(crate) fn new(connections: usize) -> Self {
        Self { tasks: JoinSet::new(), limit: ConnectionLimit::of(connections), stop: watch::Sender::new(false) }
    }

    /// Starts to serve a listener with the shared limit, until the signal to stop.
    pub(crate) fn serve<F: Future<Output = usize> + Send + 'static>(
        &mut self,
        serve: impl FnOnce(Arc<ConnectionLimit>, watch::Receiver<bool>) -> F,
    ) {
        let serving = serve(Arc::clone(&self.limit), self.stop.subscribe());
        self.tasks.spawn(async move {
            let _drained = serving.await;
        });
    }

    /// Waits for `shutdown`. Records the listeners that panic meanwhile in `tasks`.
    pub(crate) async fn run_until(&mut self, shutdown: impl Future<Output = ()>, tasks: &Supervisor) {
        let mut shutdown = pin!(shutdown);
        loop {
            tokio::select! {
                () = &mut shutdown => return,
                Some(ended) = self.tasks.join_next() => note_end(ended, tasks),
            }
        }
    }

    /// Stops accepting requests, and waits until the running ones are finished or were cut at the drain deadline.
    pub(crate) async fn stop(mut self, tasks: &Supervisor) {
        self.stop.send_replace(true);
        while let Some(ended) = self.tasks.join_next().await {
            note_end(ended, tasks);
        }
    }
}

fn note_end(ended: Result<(), JoinError>, tasks: &Supervisor) {
    if let Err(error) = ended {
        tasks.note_lost(TaskLabel::Listener, "listener", &error);
    }
}

/// Resolves when `stop` has the value `true`, or when its sender is gone.
pub(crate) async fn stopped(mut stop: watch::Receiver<bool>) {
    let _ = stop.wait_for(|stop| *stop).await;
}

/// Binds the addresses in order. `profiles` has the policy of each address; the default is the first policy.
/// Returns an error if the first address cannot be bound. Failures of the others are logged.
pub(crate) async fn bind(addresses: &[ListenAddress], profiles: &[usize]) -> Result<Vec<BoundListener>, AppError> {
    let mut bound = Vec::new();
    for (at, ListenAddress { scheme, socket }) in addresses.iter().copied().enumerate() {
        let profile = Profile(profiles.get(at).copied().unwrap_or_default());
        match bind_or_explain(socket, profile, "--listen").await {
            Ok(listener) => bound.push(BoundListener { scheme, ..listener }),
            Err(source) if at == 0 => return Err(AppError::Listen { address: socket, source }),
            Err(error) => tracing::error!(server.address = %socket, error = %error, "listener not opened"),
        }
    }
    Ok(bound)
}

/// Binds addresses that are all required, with the first policy. `flag` is the flag to name in errors.
pub(crate) async fn bind_all(addresses: &[SocketAddr], flag: &str) -> Result<Vec<BoundListener>, AppError> {
    let mut bound = Vec::new();
    for address in addresses {
        let listener = bind_or_explain(*address, Profile::default(), flag).await;
        bound.push(listener.map_err(|source| AppError::Listen { address: *address, source })?);
    }
    Ok(bound)
}

pub(crate) async fn bind_one(address: SocketAddr, profile: Profile) -> io::Result<BoundListener> {
    let listener = TcpListener::bind(address).await?;
    let address = listener.local_addr()?;
    Ok(BoundListener { listener, address, profile, scheme: Scheme::Http })
}

/// Binds one address. The error for an occupied address says whether another Coldframe has it, and which flag changes it.
async fn bind_or_explain(address: SocketAddr, profile: Profile, flag: &str) -> io::Result<BoundListener> {
    let error = match bind_one(address, profile).await {
        Err(error) if error.kind() == io::ErrorKind::AddrInUse => error,
        bound => return bound,
    };
    let holder = match timeout(PROBE_TIMEOUT, version_at(address)).await {
        Ok(Some(version)) => format!("another Coldframe (version {version})"),
        Ok(None) | Err(_) => "another program".to_owned(),
    };
    Err(io::Error::new(error.kind(), format!("address in use by {holder}; stop it or choose another address with `{flag}`")))
}

pub(crate) fn addresses(bound: &[BoundListener]) -> Vec<SocketAddr> {
    bound.iter().map(|bound| bound.address).collect()
}

/// Returns the addresses with their schemes.
pub(crate) fn with_schemes(bound: &[BoundListener]) -> Vec<ListenAddress> {
    bound.iter().map(|bound| ListenAddress { scheme: bound.scheme, socket: bound.address }).collect()
}

/// Returns the URL under which local clients can connect to a listener, with a final slash.
pub(crate) fn local_url(listener: ListenAddress) -> String {
    format!("{}/", ListenAddress { socket: reachable(listener.socket), ..listener })
}

/// Returns an address that local clients can connect to: loopback instead of an unspecified address.
pub(crate) fn reachable(address: SocketAddr) -> SocketAddr {
    let ip = match address.ip() {
        IpAddr::V4(ip) if ip.is_unspecified() => Ipv4Addr::LOCALHOST.into(),
        IpAddr::V6(ip) if ip.is_unspecified() => Ipv6Addr::LOCALHOST.into(),
        ip => ip,
    };
    SocketAddr::new(ip, address.port())
}

/// Asks the server at `address` for its Coldframe version. Returns `None` if it is not a Coldframe.
async fn version_at(address: SocketAddr) -> Option<String> {
    let address = reachable(address);
    let mut stream = TcpStream::connect(address).await.ok()?;
    stream.write_all(format!("GET / HTTP/1.1\r\nhost: {address}\r\nconnection: close\r\n\r\n").as_bytes()).await.ok()?;
    let mut answer = Vec::new();
    stream.take(PROBE_BYTES).read_to_end(&mut answer).await.ok()?;
    version_in(&String::from_utf8_lossy(&answer)).map(str::to_owned)
}

fn version_in(answer: &str) -> Option<&str> {
    let (version, _) = answer.split_once("{\"coldframe\":\"")?.1.split_once('"')?;
    let plain = |letter: char| letter.is_ascii_alphanumeric() || matches!(letter, '.' | '-' | '+');
    (version.len() <= 32 && version.chars().all(plain)).then_some(version)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn only_the_first_address_must_be_free() {
        let holder = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let (taken, free) = (holder.local_addr().unwrap(), "127.0.0.1:0".parse::<SocketAddr>().unwrap());
        assert!(
            matches!(bind(&[taken.into(), free.into()], &[]).await, Err(AppError::Listen { address, .. }) if address == taken)
        );
        let bound = bind(&[free, taken, free].map(ListenAddress::from), &[0, 1, 2]).await.unwrap();
        assert_eq!(bound.iter().map(|bound| bound.profile).collect::<Vec<_>>(), [Profile(0), Profile(2)]);
        assert_eq!(bound.len(), 2);
        assert!(bound.iter().all(|bound| bound.address.port() != 0));
    }

    #[test]
    fn other_coldframe_is_identified_by_its_root_document() {
        assert_eq!(version_in("HTTP/1.1 200 OK\r\n\r\n{\"coldframe\":\"0.1.0-rc.1\"}"), Some("0.1.0-rc.1"));
        for other in ["", "{\"other\":\"1\"}", "{\"coldframe\":\"a\u{1b}[2J\"}", "{\"coldframe\":\"1"] {
            assert_eq!(version_in(other), None, "{other:?}");
        }
    }
}
