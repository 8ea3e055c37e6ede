//! What proves to a registry who asks. Refuses to be printed, and to know where it was found.

use std::fmt;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use http::HeaderValue;
use percent_encoding::percent_decode_str;
use url::Url;

/// The `Authorization` of one registry, ready to be sent.
#[derive(Clone, PartialEq, Eq)]
pub struct Credentials(HeaderValue);

/// Why credentials cannot be sent. Never holds them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum CredentialsError {
    /// A line break, or another byte that a header cannot hold.
    #[error("a token or password holds a character that cannot be sent")]
    Characters,
    /// npm keeps passwords in base64.
    #[error("`_password` is not base64")]
    Password,
}

impl Credentials {
    /// A token: npm's `_authToken`.
    ///
    /// # Errors
    /// When it holds what a header cannot.
    pub fn bearer(token: &str) -> Result<Self, CredentialsError> {
        Self::header(&format!("Bearer {token}"))
    }

    /// `user:password` in base64: npm's `_auth`.
    ///
    /// # Errors
    /// When it holds what a header cannot.
    pub fn basic_encoded(auth: &str) -> Result<Self, CredentialsError> {
        Self::header(&format!("Basic {auth}"))
    }

    /// A name and a password in clear.
    ///
    /// # Errors
    /// Never for now: base64 fits every header.
    pub fn basic(username: &str, password: &str) -> Result<Self, CredentialsError> {
        Self::basic_encoded(&STANDARD.encode(format!("{username}:{password}")))
    }

    /// npm's `username` and `_password`, the latter in base64.
    ///
    /// # Errors
    /// When the password is not base64.
    pub fn of_npm(username: &str, password: &str) -> Result<Self, CredentialsError> {
        let password = STANDARD.decode(password.trim()).map_err(|_| CredentialsError::Password)?;
        Self::basic(username, &String::from_utf8_lossy(&password))
    }

    /// Those in an address (`https://user:password@host/`), if there are any.
    ///
    /// # Errors
    /// When they hold what a header cannot.
    pub fn in_address(url: &Url) -> Result<Option<Self>, CredentialsError> {
        if url.username().is_empty() && url.password().is_none() {
            return Ok(None);
        }
        let clear = |text: &str| percent_decode_str(text).decode_utf8_lossy().into_owned();
        Self::basic(&clear(url.username()), &clear(url.password().unwrap_or_default())).map(Some)
    }

    /// The header's value, marked as sensitive.
    #[must_use]
    pub fn value(&self) -> &HeaderValue {
        &self.0
    }

    fn header(text: &str) -> Result<Self, CredentialsError> {
        let mut value = HeaderValue::from_str(text).map_err(|_| CredentialsError::Characters)?;
        value.set_sensitive(true);
        Ok(Self(value))
    }
}

impl fmt::Debug for Credentials {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str("Credentials(…)")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_of_npms_spellings_becomes_a_header() {
        assert_eq!(Credentials::bearer("t0k").unwrap().value(), "Bearer t0k");
        assert_eq!(Credentials::basic_encoded("dTpw").unwrap().value(), "Basic dTpw");
        assert_eq!(Credentials::of_npm("u", "cA==").unwrap().value(), "Basic dTpw");
        let url = Url::parse("https://u:p%40@registry.example/").unwrap();
        assert_eq!(Credentials::in_address(&url).unwrap().unwrap().value(), "Basic dTpwQA==");
        assert_eq!(Credentials::in_address(&Url::parse("https://registry.example/").unwrap()).unwrap(), None);
    }

    #[test]
    fn what_cannot_be_sent_is_refused_without_being_shown() {
        assert_eq!(Credentials::bearer("a\r\nb: c").unwrap_err(), CredentialsError::Characters);
        assert_eq!(Credentials::of_npm("u", "%").unwrap_err(), CredentialsError::Password);
        let shown = format!("{:?}", Credentials::bearer("t0k").unwrap());
        assert!(!shown.contains("t0k"), "{shown}");
    }
}
