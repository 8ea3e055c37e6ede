//! The addresses of a server: the first must be free, a further one that is not is told and done without.

use std::net::SocketAddr;

use tokio::net::TcpListener;

use super::AppError;
use crate::firewall::Profile;

/// A listener and where it really listens.
pub(super) struct Bound {
    /// The socket.
    pub(super) listener: TcpListener,
    /// Its address, with the port it got where 0 was asked for.
    pub(super) address: SocketAddr,
    /// Which policy it answers by.
    pub(super) profile: Profile,
}

/// Binds the addresses, in their order; each answers by the policy that `profiles` names at its place, else by the first.
///
/// # Errors
/// When the first one cannot be had.
pub(super) async fn bind(addresses: &[SocketAddr], profiles: &[usize]) -> Result<Vec<Bound>, AppError> {
    let mut bound = Vec::new();
    for (at, address) in addresses.iter().enumerate() {
        let profile = Profile(profiles.get(at).copied().unwrap_or_default());
        match bind_one(*address, profile).await {
            Ok(one) => bound.push(one),
            Err(source) if at == 0 => return Err(AppError::Listen { address: *address, source }),
            Err(error) => {
                tracing::error!(server.address = %address, error = %error, "cannot listen here, serving on the other addresses");
            }
        }
    }
    Ok(bound)
}

/// Binds addresses that have all to be had, with the first policy.
///
/// # Errors
/// For the first that cannot be had.
pub(super) async fn bind_all(addresses: &[SocketAddr]) -> Result<Vec<Bound>, AppError> {
    let mut bound = Vec::new();
    for address in addresses {
        let one = bind_one(*address, Profile::default()).await;
        bound.push(one.map_err(|source| AppError::Listen { address: *address, source })?);
    }
    Ok(bound)
}

/// Binds one address.
pub(super) async fn bind_one(address: SocketAddr, profile: Profile) -> std::io::Result<Bound> {
    let listener = TcpListener::bind(address).await?;
    let address = listener.local_addr()?;
    Ok(Bound { listener, address, profile })
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
}
