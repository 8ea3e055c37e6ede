//! Who uses the gateway: a name and a password, checked against a file of argon2 hashes. What was checked is remembered for a
//! while, since a client shows it with each connection. Refuses to say which of the two was wrong, and to hash for everybody at
//! once.

use std::collections::HashMap;
use std::fmt;
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use arc_swap::ArcSwap;
use argon2::Argon2;
use argon2::password_hash::PasswordVerifier as _;
use argon2::password_hash::phc::PasswordHash;
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

/// How many passwords are hashed at once: each takes a core for some 20 ms, and 19 MiB. A client without a password fills one of
/// them and waits in turn with the others for the second, so it keeps no other client from logging in.
const AT_ONCE: Sizes = Sizes { shared: 1, own: 1, most: 2 };

/// How long a password that was right stays so without being hashed again.
const REMEMBERED: Duration = Duration::from_mins(10);

/// How long one that was wrong stays so: a client that has an old one shows it dozens of times.
const REFUSED: Duration = Duration::from_secs(10);

/// How many are remembered at most.
const MOST: usize = 10_000;

/// The users of a file, and who of them was here.
pub struct GatewayAuth {
    path: PathBuf,
    book: ArcSwap<CredentialCache>,
    /// Marks name and password in memory, where neither stands in clear.
    key: hmac::Key,
    hashing: Arc<FairLimit>,
}

/// What the file held when it was read; what was checked since is forgotten with it.
struct CredentialCache {
    users: PasswordHashes,
    checked: Mutex<HashMap<[u8; 32], CachedCheck>>,
}

/// What came of a name and a password, and until when that holds.
struct CachedCheck {
    user: Option<Arc<str>>,
    until: Instant,
}

/// Who it is, or that it is nobody.
struct AuthResult(Option<Arc<str>>);

impl GatewayAuth {
    /// The users in the file at `path`.
    ///
    /// # Errors
    /// When it cannot be read, or a line of it is wrong.
    pub fn open(path: &Path) -> Result<Self, PasswordFileError> {
        let mut key = [0; 32];
        aws_lc_rs::rand::fill(&mut key).map_err(|_| PasswordFileError::Hash)?;
        let key = hmac::Key::new(hmac::HMAC_SHA256, &key);
        Ok(Self {
            path: path.to_owned(),
            book: ArcSwap::from_pointee(CredentialCache::read(path)?),
            key,
            hashing: FairLimit::new(AT_ONCE),
        })
    }

    /// The file.
    #[must_use]
    pub fn path(&self) -> &PathBuf {
        &self.path
    }

    /// Reads the file again; how many users there are now. Blocks.
    ///
    /// # Errors
    /// When it cannot be read now: those known before stay so.
    pub fn reread(&self) -> Result<usize, PasswordFileError> {
        let book = CredentialCache::read(&self.path)?;
        let count = book.users.len();
        self.book.store(Arc::new(book));
        Ok(count)
    }

    /// Returns the user that `client` names in `Proxy-Authorization`; `None` if the name or the password is wrong.
    pub(crate) async fn admit(&self, client: IpAddr, headers: &HeaderMap) -> Option<Arc<str>> {
        let shown = single(headers, &PROXY_AUTHORIZATION).ok()??;
        let (name, password) = basic(shown)?;
        let book = self.book.load_full();
        let mark = self.mark(&name, &password);
        if let Some(AuthResult(known)) = book.recall(&mark) {
            return known;
        }
        let turn = self.hashing.acquire(client).await;
        // Its client may have shown it a dozen times at once.
        if let Some(AuthResult(known)) = book.recall(&mark) {
            return known;
        }
        let user = book.users.get_key_value(name.as_str()).map(|(user, hash)| (Arc::clone(user), hash.clone()));
        // Somebody who is not there takes as long as somebody who is.
        let hash = user.as_ref().map(|(_, hash)| hash).or_else(|| book.users.values().next())?.clone();
        let checking = tokio::task::spawn_blocking(move || is_right(&password, &hash));
        let right = checking.await.unwrap_or_else(|lost| {
            tracing::error!(error = %lost, "a task that checks a password was lost");
            false
        });
        drop(turn);
        let user = user.map(|(user, _)| user).filter(|_| right);
        book.remember(mark, user.clone());
        user
    }

    fn mark(&self, name: &str, password: &str) -> [u8; 32] {
        // A name holds no NUL, so no two pairs are the same text.
        let tag = hmac::sign(&self.key, format!("{name}\0{password}").as_bytes());
        let mut mark = [0; 32];
        mark.iter_mut().zip(tag.as_ref()).for_each(|(to, from)| *to = *from);
        mark
    }
}

impl fmt::Debug for GatewayAuth {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.debug_struct("Login").field("path", &self.path).finish_non_exhaustive()
    }
}

impl CredentialCache {
    fn read(path: &Path) -> Result<Self, PasswordFileError> {
        Ok(Self { users: password_file::read(path)?, checked: Mutex::default() })
    }

    /// What came of it, if that still holds.
    fn recall(&self, mark: &[u8; 32]) -> Option<AuthResult> {
        let checked = self.checked.lock().unwrap_or_else(PoisonError::into_inner);
        checked.get(mark).filter(|checked| Instant::now() < checked.until).map(|checked| AuthResult(checked.user.clone()))
    }

    fn remember(&self, mark: [u8; 32], user: Option<Arc<str>>) {
        let now = Instant::now();
        let until = now + if user.is_some() { REMEMBERED } else { REFUSED };
        let mut checked = self.checked.lock().unwrap_or_else(PoisonError::into_inner);
        if checked.len() >= MOST {
            checked.retain(|_, checked| now < checked.until && checked.user.is_some());
        }
        if checked.len() >= MOST {
            checked.clear();
        }
        checked.insert(mark, CachedCheck { user, until });
    }
}

fn is_right(password: &str, hash: &PasswordHash) -> bool {
    Argon2::default().verify_password(password.as_bytes(), hash).is_ok()
}

/// The name and the password of a header of the scheme `Basic`.
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

    fn shown(pair: &str) -> HeaderMap {
        let value = format!("Basic {}", STANDARD.encode(pair));
        HeaderMap::from_iter([(PROXY_AUTHORIZATION, HeaderValue::from_str(&value).unwrap())])
    }

    #[tokio::test(start_paused = true)]
    async fn what_was_checked_is_not_hashed_again_until_it_is_old_or_the_file_changes() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("users");
        fs::write(&path, cheap("ada", "p@ss:word")).unwrap();
        let login = GatewayAuth::open(&path).unwrap();
        assert_eq!(login.admit(CLIENT, &shown("ada:p@ss:word")).await.as_deref(), Some("ada"));
        for wrong in ["ada:p@ss:wor", "ada:", "ada", "eve:p@ss:word", ":p@ss:word"] {
            assert_eq!(login.admit(CLIENT, &shown(wrong)).await, None, "{wrong}");
        }
        assert_eq!(login.admit(CLIENT, &HeaderMap::new()).await, None);
        // Nothing can be hashed for this client any more.
        let taken = [login.hashing.acquire(CLIENT).await, login.hashing.acquire(CLIENT).await];
        assert_eq!(login.admit(CLIENT, &shown("ada:p@ss:word")).await.as_deref(), Some("ada"));
        tokio::time::advance(REMEMBERED).await;
        assert!(timeout(A_WHILE, login.admit(CLIENT, &shown("ada:p@ss:word"))).await.is_err());
        drop(taken);
    }

    #[tokio::test(start_paused = true)]
    async fn a_client_that_tries_many_passwords_keeps_no_other_client_waiting() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("users");
        fs::write(&path, cheap("ada", "p@ss:word")).unwrap();
        let login = Arc::new(GatewayAuth::open(&path).unwrap());
        // What the passwords of one client take in all is ten times as long as the other client waits at most.
        let guess = async |login: Arc<GatewayAuth>| {
            let _turn = login.hashing.acquire(CLIENT).await;
            tokio::time::sleep(A_WHILE / 100).await;
        };
        let guesses: Vec<_> = (0..2_000).map(|_| tokio::spawn(guess(Arc::clone(&login)))).collect();
        tokio::task::yield_now().await;
        let other = IpAddr::from([192, 0, 2, 1]);
        let user = timeout(A_WHILE, login.admit(other, &shown("ada:p@ss:word"))).await.unwrap();
        assert_eq!(user.as_deref(), Some("ada"));
        guesses.iter().for_each(tokio::task::JoinHandle::abort);
    }

    #[tokio::test]
    async fn a_file_that_is_read_again_is_in_force_and_a_broken_one_is_not() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("users");
        fs::write(&path, cheap("ada", "one")).unwrap();
        let login = GatewayAuth::open(&path).unwrap();
        assert!(login.admit(CLIENT, &shown("ada:one")).await.is_some());
        fs::write(&path, format!("{}\n{}", cheap("ada", "two"), cheap("eve", "x"))).unwrap();
        assert_eq!(login.reread().unwrap(), 2);
        assert!(login.admit(CLIENT, &shown("ada:one")).await.is_none() && login.admit(CLIENT, &shown("ada:two")).await.is_some());
        fs::write(&path, "nonsense").unwrap();
        assert!(login.reread().is_err());
        assert!(login.admit(CLIENT, &shown("eve:x")).await.is_some());
        fs::remove_file(&path).unwrap();
        assert!(login.reread().is_err() && login.admit(CLIENT, &shown("ada:two")).await.is_some());
    }
}
