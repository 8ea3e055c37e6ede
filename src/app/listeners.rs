//! Binds the addresses of a server. Only the first one is required; failures of the others are logged.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::time::Duration;

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::time::timeout;

use crate::app::AppError;
use crate::firewall::Profile;

/// How long the process on an occupied address may take to identify itself.
const PROBE_TIMEOUT: Duration = Duration::from_secs(1);

/// The maximum size of its response, in bytes.
const PROBE_BYTES: u64 = 8 << 10;

/// A bound listener.
pub(crate) struct BoundListener {
    pub(crate) listener: TcpListener,
    /// The address, with the assigned port if port 0 was configured.
    pub(crate) address: SocketAddr,
    /// The policy for its clients.
    pub(crate) profile: Profile,
}

/// Binds the addresses in order. `profiles` has the policy of each address; the default is the first policy.
///
/// # Errors
/// Returns an error if the first address cannot be bound.
pub(crate) async fn bind(addresses: &[SocketAddr], profiles: &[usize]) -> Result<Vec<BoundListener>, AppError> {
    let mut bound = Vec::new();
    for (at, address) in addresses.iter().enumerate() {
        let profile = Profile(profiles.get(at).copied().unwrap_or_default());
        match bind_one(*address, profile).await {
            Ok(listener) => bound.push(listener),
            Err(source) if at == 0 => {
                let source = explained(*address, "--listen", source).await;
                return Err(AppError::Listen { address: *address, source });
            }
            Err(error) => {
                let error = explained(*address, "--listen", error).await;
                tracing::error!(server.address = %address, error = %error, "listener not opened");
            }
        }
    }
    Ok(bound)
}

/// Binds addresses that are all required, with the first policy. `flag` is the flag to name in errors.
///
/// # Errors
/// Returns an error for the first address that cannot be bound.
pub(crate) async fn bind_all(addresses: &[SocketAddr], flag: &str) -> Result<Vec<BoundListener>, AppError> {
    let mut bound = Vec::new();
    for address in addresses {
        match bind_one(*address, Profile::default()).await {
            Ok(listener) => bound.push(listener),
            Err(source) => return Err(AppError::Listen { address: *address, source: explained(*address, flag, source).await }),
        }
    }
    Ok(bound)
}

/// Adds to an error for an occupied address whether another Coldframe has it, and the flag to choose another one.
async fn explained(address: SocketAddr, flag: &str, error: io::Error) -> io::Error {
    if error.kind() != io::ErrorKind::AddrInUse {
        return error;
    }
    let holder = match timeout(PROBE_TIMEOUT, version_at(address)).await {
        Ok(Some(version)) => format!("another Coldframe (version {version})"),
        Ok(None) | Err(_) => "another program".to_owned(),
    };
    io::Error::new(error.kind(), format!("address in use by {holder}; stop it or choose another address with `{flag}`"))
}

/// Asks the server at `address` for its Coldframe version. Returns `None` if it is not a Coldframe.
async fn version_at(address: SocketAddr) -> Option<String> {
    let ip = match address.ip() {
        IpAddr::V4(ip) if ip.is_unspecified() => Ipv4Addr::LOCALHOST.into(),
        IpAddr::V6(ip) if ip.is_unspecified() => Ipv6Addr::LOCALHOST.into(),
        ip => ip,
    };
    let address = SocketAddr::new(ip, address.port());
    let mut stream = TcpStream::connect(address).await.ok()?;
    stream.write_all(format!("GET / HTTP/1.1\r\nhost: {address}\r\nconnection: close\r\n\r\n").as_bytes()).await.ok()?;
    let mut answer = Vec::new();
    stream.take(PROBE_BYTES).read_to_end(&mut answer).await.ok()?;
    version_in(&String::from_utf8_lossy(&answer)).map(str::to_owned)
}

/// Extracts the version from the root document of a Coldframe.
fn version_in(answer: &str) -> Option<&str> {
    let (version, _) = answer.split_once("{\"coldframe\":\"")?.1.split_once('"')?;
    let plain = |letter: char| letter.is_ascii_alphanumeric() || matches!(letter, '.' | '-' | '+');
    (version.len() <= 32 && version.chars().all(plain)).then_some(version)
}

/// Binds one address.
pub(crate) async fn bind_one(address: SocketAddr, profile: Profile) -> std::io::Result<BoundListener> {
    let listener = TcpListener::bind(address).await?;
    let address = listener.local_addr()?;
    Ok(BoundListener { listener, address, profile })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn only_the_first_address_must_be_free() {
        let holder = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let (taken, free) = (holder.local_addr().unwrap(), "127.0.0.1:0".parse().unwrap());
        assert!(matches!(bind(&[taken, free], &[]).await, Err(AppError::Listen { address, .. }) if address == taken));
        let bound = bind(&[free, taken, free], &[0, 1, 2]).await.unwrap();
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
