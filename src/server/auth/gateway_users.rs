//! Users of the gateway: names and passwords, checked against a file of argon2 hashes. Results are cached, since clients send the
//! password with each connection. Concurrent hashing is limited.

use std::collections::HashMap;
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use arc_swap::ArcSwap;
use argon2::Argon2;
use argon2::password_hash::PasswordVerifier as _;
use aws_lc_rs::hmac;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use http::HeaderMap;
use http::header::PROXY_AUTHORIZATION;
use tokio::time::Instant;

use crate::net::FairLimit;
use crate::net::fair_limit::Sizes;
use crate::net::headers::single;
use crate::server::auth::password_file::{self, PasswordFileError, PasswordHashes};

/// Limit on concurrent hashing: each takes a core for about 20 ms, and 19 MiB. A client that guesses passwords can use one permit
/// fully and takes turns for the second, so it does not prevent other clients from logging in.
const AT_ONCE: Sizes = Sizes { shared: 1, own: 1, most: 2 };

const REMEMBERED: Duration = Duration::from_mins(10);

/// How long a wrong password is cached. A client with an old password sends it dozens of times.
const REFUSED: Duration = Duration::from_secs(10);

const MAX_CACHED_LOGINS: usize = 10_000;

pub(crate) struct GatewayAuth {
    pub(crate) path: PathBuf,
    cache: ArcSwap<CredentialCache>,
    /// Keys the cache, so that names and passwords are not in memory in plain text.
    key: hmac::Key,
    hashing: Arc<FairLimit>,
}

/// The content of the file and the results checked against it. Both are replaced together.
struct CredentialCache {
    users: PasswordHashes,
    checked: Mutex<HashMap<[u8; 32], CachedCheck>>,
}

struct CachedCheck {
    user: Option<Arc<str>>,
    until: Instant,
}

/// The authenticated user, or `None` if refused.
struct AuthResult(Option<Arc<str>>);

impl GatewayAuth {
    /// Loads the users in the file at `path`. Returns an error if the file cannot be read or has an invalid line.
    pub(crate) fn open(path: &Path) -> Result<Self, PasswordFileError> {
        let mut key = [0; 32];
        aws_lc_rs::rand::fill(&mut key).map_err(|_| PasswordFileError::Hash)?;
        let key = hmac::Key::new(hmac::HMAC_SHA256, &key);
        Ok(Self {
            path: path.to_owned(),
            cache: ArcSwap::from_pointee(CredentialCache::read(path)?),
            key,
            hashing: FairLimit::new(AT_ONCE),
        })
    }

    /// Reloads the file and returns the number of users. Blocks. If the file cannot be read, the previous users stay active.
    pub(crate) fn reread(&self) -> Result<usize, PasswordFileError> {
        let cache = CredentialCache::read(&self.path)?;
        let count = cache.users.len();
        self.cache.store(Arc::new(cache));
        Ok(count)
    }

    /// Returns the user authenticated by `Proxy-Authorization`, or `None` if the name or password is wrong.
    pub(crate) async fn authenticate(&self, client: IpAddr, headers: &HeaderMap) -> Option<Arc<str>> {
        let header = single(headers, &PROXY_AUTHORIZATION).ok()??;
        let (name, password) = basic(header)?;
        let cache = self.cache.load_full();
        let entry_key = self.cache_key(&name, &password);
        if let Some(AuthResult(known)) = cache.recall(&entry_key) {
            return known;
        }
        let permit = self.hashing.acquire(client).await;
        // The client may have sent the same password several times at once.
        if let Some(AuthResult(known)) = cache.recall(&entry_key) {
            return known;
        }
        let user = cache.users.get_key_value(name.as_str()).map(|(user, hash)| (Arc::clone(user), hash.clone()));
        // An unknown user takes as long to check as a known one.
        let hash = user.as_ref().map(|(_, hash)| hash).or_else(|| cache.users.values().next())?.clone();
        let checking = tokio::task::spawn_blocking(move || Argon2::default().verify_password(password.as_bytes(), &hash).is_ok());
        let is_valid = checking.await.unwrap_or_else(|error| {
            tracing::error!(error = %error, "password check task failed");
            false
        });
        drop(permit);
        let user = user.map(|(user, _)| user).filter(|_| is_valid);
        cache.remember(entry_key, user.clone());
        user
    }

    fn cache_key(&self, name: &str, password: &str) -> [u8; 32] {
        // A name contains no NUL, so the pair is unambiguous.
        let tag = hmac::sign(&self.key, format!("{name}\0{password}").as_bytes());
        let mut entry_key = [0; 32];
        entry_key.iter_mut().zip(tag.as_ref()).for_each(|(to, from)| *to = *from);
        entry_key
    }
}

impl CredentialCache {
    fn read(path: &Path) -> Result<Self, PasswordFileError> {
        Ok(Self { users: password_file::read(path)?, checked: Mutex::default() })
    }

    fn recall(&self, entry_key: &[u8; 32]) -> Option<AuthResult> {
        let checked = self.checked.lock().unwrap_or_else(PoisonError::into_inner);
        checked.get(entry_key).filter(|checked| Instant::now() < checked.until).map(|checked| AuthResult(checked.user.clone()))
    }

    fn remember(&self, entry_key: [u8; 32], user: Option<Arc<str>>) {
        let now = Instant::now();
        let until = now + if user.is_some() { REMEMBERED } else { REFUSED };
        let mut checked = self.checked.lock().unwrap_or_else(PoisonError::into_inner);
        if checked.len() >= MAX_CACHED_LOGINS {
            checked.retain(|_, checked| now < checked.until && checked.user.is_some());
        }
        if checked.len() >= MAX_CACHED_LOGINS {
            checked.clear();
        }
        checked.insert(entry_key, CachedCheck { user, until });
    }
}

/// Parses name and password from a `Basic` header.
pub(crate) fn basic(header: &str) -> Option<(String, String)> {
    let (scheme, coded) = header.split_once(' ')?;
    let text = scheme.eq_ignore_ascii_case("basic").then(|| STANDARD.decode(coded.trim()))?.ok()?;
    let text = String::from_utf8(text).ok()?;
    let (name, password) = text.split_once(':')?;
    Some((name.to_owned(), password.to_owned()))
}

#[cfg(test)]
mod tests {
    use std::fs;

    use http::HeaderValue;
    use tokio::time::timeout;

    use super::*;
    use crate::server::auth::password_file::tests::cheap;

    const CLIENT: IpAddr = IpAddr::V4(std::net::Ipv4Addr::LOCALHOST);
    const A_WHILE: Duration = Duration::from_secs(60);

    fn credentials(pair: &str) -> HeaderMap {
        let value = format!("Basic {}", STANDARD.encode(pair));
        HeaderMap::from_iter([(PROXY_AUTHORIZATION, HeaderValue::from_str(&value).unwrap())])
    }

    #[tokio::test(start_paused = true)]
    async fn checked_password_is_cached_until_it_expires() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("users");
        fs::write(&path, cheap("ada", "p@ss:word")).unwrap();
        let login = GatewayAuth::open(&path).unwrap();
        assert_eq!(login.authenticate(CLIENT, &credentials("ada:p@ss:word")).await.as_deref(), Some("ada"));
        for pair in ["ada:p@ss:wor", "ada:", "ada", "eve:p@ss:word", ":p@ss:word"] {
            assert_eq!(login.authenticate(CLIENT, &credentials(pair)).await, None, "{pair}");
        }
        assert_eq!(login.authenticate(CLIENT, &HeaderMap::new()).await, None);
        // All permits are in use, so nothing can be hashed for this client.
        let permits = [login.hashing.acquire(CLIENT).await, login.hashing.acquire(CLIENT).await];
        assert_eq!(login.authenticate(CLIENT, &credentials("ada:p@ss:word")).await.as_deref(), Some("ada"));
        tokio::time::advance(REMEMBERED).await;
        assert!(timeout(A_WHILE, login.authenticate(CLIENT, &credentials("ada:p@ss:word"))).await.is_err());
        drop(permits);
    }

    #[tokio::test(start_paused = true)]
    async fn password_guessing_does_not_block_other_clients() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("users");
        fs::write(&path, cheap("ada", "p@ss:word")).unwrap();
        let login = Arc::new(GatewayAuth::open(&path).unwrap());
        // The guesses of one client take ten times as long in total as the other client may wait.
        let guess = async |login: Arc<GatewayAuth>| {
            let _turn = login.hashing.acquire(CLIENT).await;
            tokio::time::sleep(A_WHILE / 100).await;
        };
        let guesses: Vec<_> = (0..2_000).map(|_| tokio::spawn(guess(Arc::clone(&login)))).collect();
        tokio::task::yield_now().await;
        let other = IpAddr::from([192, 0, 2, 1]);
        let user = timeout(A_WHILE, login.authenticate(other, &credentials("ada:p@ss:word"))).await.unwrap();
        assert_eq!(user.as_deref(), Some("ada"));
        guesses.iter().for_each(tokio::task::JoinHandle::abort);
    }

    #[tokio::test]
    async fn reloaded_file_is_active_and_invalid_one_is_ignored() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("users");
        fs::write(&path, cheap("ada", "one")).unwrap();
        let login = GatewayAuth::open(&path).unwrap();
        assert!(login.authenticate(CLIENT, &credentials("ada:one")).await.is_some());
        fs::write(&path, format!("{}\n{}", cheap("ada", "two"), cheap("eve", "x"))).unwrap();
        assert_eq!(login.reread().unwrap(), 2);
        assert!(
            login.authenticate(CLIENT, &credentials("ada:one")).await.is_none()
                && login.authenticate(CLIENT, &credentials("ada:two")).await.is_some()
        );
        fs::write(&path, "nonsense").unwrap();
        assert!(login.reread().is_err());
        assert!(login.authenticate(CLIENT, &credentials("eve:x")).await.is_some());
        fs::remove_file(&path).unwrap();
        assert!(login.reread().is_err() && login.authenticate(CLIENT, &credentials("ada:two")).await.is_some());
    }
}
