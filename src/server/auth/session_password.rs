//! What lets one person through a gateway that was made for them: a password that nobody chose, which ends with the gateway.
//! Refuses to hash: it cannot be guessed, and lies on no disk.

use std::fmt;

use aws_lc_rs::constant_time::verify_slices_are_equal;
use http::HeaderMap;
use http::header::PROXY_AUTHORIZATION;
use serde::{Deserialize, Serialize};
use url::Url;

use crate::net::headers::single;
use crate::server::auth::gateway_users::basic;
use crate::server::auth::password_file::PasswordFileError;

/// The name beside it. Who somebody is, the gateway knows without it.
const NAME: &str = "run";

/// How many random bytes it is made of: those of a number.
const LENGTH: usize = size_of::<u128>();

/// A password, in characters that need no escape in a URL.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct SessionPassword(String);

impl SessionPassword {
    /// One that nobody has had before.
    ///
    /// # Errors
    /// When the system has no randomness.
    pub fn random() -> Result<Self, PasswordFileError> {
        let mut bytes = [0; LENGTH];
        aws_lc_rs::rand::fill(&mut bytes).map_err(|_| PasswordFileError::Hash)?;
        Ok(Self(format!("{:032x}", u128::from_ne_bytes(bytes))))
    }

    /// A gateway's address with it, as clients take it.
    #[must_use]
    pub fn within(&self, gateway: &Url) -> Url {
        let mut url = gateway.clone();
        // An address of a gateway has a host, so it can have these.
        let _ = url.set_username(NAME).and_then(|()| url.set_password(Some(&self.0)));
        url
    }

    /// Whether a request shows it by `Proxy-Authorization`.
    pub(crate) fn is_shown_in(&self, headers: &HeaderMap) -> bool {
        let shown = single(headers, &PROXY_AUTHORIZATION).ok().flatten().and_then(basic);
        shown.is_some_and(|(name, shown)| name == NAME && verify_slices_are_equal(shown.as_bytes(), self.0.as_bytes()).is_ok())
    }
}

impl fmt::Debug for SessionPassword {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str("Pass")
    }
}

#[cfg(test)]
mod tests {
    use base64::Engine as _;
    use base64::engine::general_purpose::STANDARD;
    use http::HeaderValue;

    use super::*;

    #[test]
    fn it_is_another_each_time_and_only_itself_will_do() {
        let (pass, other) = (SessionPassword::random().unwrap(), SessionPassword::random().unwrap());
        let shows = |pair: &str| {
            let value = HeaderValue::from_str(&format!("Basic {}", STANDARD.encode(pair))).unwrap();
            pass.is_shown_in(&HeaderMap::from_iter([(PROXY_AUTHORIZATION, value)]))
        };
        let url = pass.within(&Url::parse("http://127.0.0.1:4711/").unwrap());
        assert_eq!(url.as_str(), format!("http://run:{}@127.0.0.1:4711/", pass.0));
        assert!(pass.0.len() == 2 * LENGTH && shows(&format!("run:{}", pass.0)));
        for wrong in [format!("run:{}", other.0), format!("eve:{}", pass.0), format!("run:{}", &pass.0[1..]), "run:".to_owned()] {
            assert!(!shows(&wrong), "{wrong}");
        }
        assert!(!pass.is_shown_in(&HeaderMap::new()));
        assert_eq!(format!("{pass:?}"), "Pass");
    }
}
