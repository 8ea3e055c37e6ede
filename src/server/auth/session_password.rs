//! The password of a session's gateway: random, in memory only. It needs no hashing, since it cannot be guessed.

use std::fmt;

use aws_lc_rs::constant_time::verify_slices_are_equal;
use http::HeaderMap;
use http::header::PROXY_AUTHORIZATION;
use serde::{Deserialize, Serialize};
use url::Url;

use crate::net::headers::single;
use crate::server::auth::gateway_users::basic;
use crate::server::auth::password_file::PasswordFileError;

/// The user name sent with it. The gateway does not need it to identify the user.
const NAME: &str = "run";

const LENGTH: usize = size_of::<u128>();

/// A password without characters that need escaping in a URL.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub(crate) struct SessionPassword(String);

impl SessionPassword {
    pub(crate) fn random() -> Result<Self, PasswordFileError> {
        let mut bytes = [0; LENGTH];
        aws_lc_rs::rand::fill(&mut bytes).map_err(|_| PasswordFileError::Hash)?;
        Ok(Self(format!("{:032x}", u128::from_ne_bytes(bytes))))
    }

    /// Returns a gateway URL with the password, for client settings.
    pub(crate) fn in_url(&self, gateway: &Url) -> Url {
        let mut url = gateway.clone();
        // A gateway URL has a host, so setting both cannot fail.
        let _ = url.set_username(NAME).and_then(|()| url.set_password(Some(&self.0)));
        url
    }

    /// Checks whether `Proxy-Authorization` contains it.
    pub(crate) fn matches(&self, headers: &HeaderMap) -> bool {
        let shown = single(headers, &PROXY_AUTHORIZATION).ok().flatten().and_then(basic);
        shown.is_some_and(|(name, shown)| name == NAME && verify_slices_are_equal(shown.as_bytes(), self.0.as_bytes()).is_ok())
    }
}

impl fmt::Debug for SessionPassword {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str("SessionPassword")
    }
}

#[cfg(test)]
mod tests {
    use base64::Engine as _;
    use base64::engine::general_purpose::STANDARD;
    use http::HeaderValue;

    use super::*;

    #[test]
    fn session_password_is_random_and_must_match() {
        let (pass, other) = (SessionPassword::random().unwrap(), SessionPassword::random().unwrap());
        let shows = |pair: &str| {
            let value = HeaderValue::from_str(&format!("Basic {}", STANDARD.encode(pair))).unwrap();
            pass.matches(&HeaderMap::from_iter([(PROXY_AUTHORIZATION, value)]))
        };
        let url = pass.in_url(&Url::parse("http://127.0.0.1:4711/").unwrap());
        assert_eq!(url.as_str(), format!("http://run:{}@127.0.0.1:4711/", pass.0));
        assert!(pass.0.len() == 2 * LENGTH && shows(&format!("run:{}", pass.0)));
        for pair in [format!("run:{}", other.0), format!("eve:{}", pass.0), format!("run:{}", &pass.0[1..]), "run:".to_owned()] {
            assert!(!shows(&pair), "{pair}");
        }
        assert!(!pass.matches(&HeaderMap::new()));
        assert_eq!(format!("{pass:?}"), "SessionPassword");
    }
}
