//! What an authenticated client may do: its role, and the packages that it may ask for. Pure.

pub mod issuer;
pub mod scope;
pub mod secret;
pub mod sign_in_provider;

use std::sync::Arc;

use crate::policy::access::scope::PackageScope;
use crate::policy::principal::Principal;
use crate::text::words;

/// Maximum length of a label in bytes. Labels are in ledger rows and log lines.
pub(crate) const MAX_LABEL_BYTES: usize = 64;

/// What an access token may do. Each role includes those before it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Role {
    /// Installs packages, and reads explanations.
    Client,
    /// Asks for approvals.
    Requester,
    /// Decides on requests.
    Approver,
    /// Reads every page of operators.
    Admin,
}

words! { Role { Client = "client", Requester = "requester", Approver = "approver", Admin = "admin", } }

/// How a client authenticated.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum AuthMethod {
    /// An access token, with its number in the ledger.
    Token(i64),
    /// A name and password of the gateway's users.
    Password,
    /// The password of a session of `coldframe run`.
    Session,
    /// A client certificate.
    Certificate,
}

/// An authenticated client.
#[derive(Debug, Clone)]
pub struct Identity {
    /// The label of the token, or the name of the user or certificate.
    pub subject: Arc<str>,
    pub role: Role,
    /// The packages that it may ask for.
    pub scope: PackageScope,
    pub method: AuthMethod,
    pub principal: Principal,
}

impl Identity {
    /// Returns the identity of a user that may ask for every package.
    pub fn user(name: Arc<str>, method: AuthMethod) -> Self {
        let principal = Principal::Person(Arc::clone(&name));
        Self { subject: name, role: Role::Client, scope: PackageScope::default(), method, principal }
    }

    /// Returns the number of the access token, if it authenticated with one.
    pub fn token(&self) -> Option<i64> {
        if let AuthMethod::Token(id) = self.method { Some(id) } else { None }
    }
}

/// Checks a label of a token. It starts with a letter, so that no label looks like a number.
///
/// # Errors
/// Returns what is expected if it is invalid.
pub fn check_label(label: &str) -> Result<(), String> {
    let is_allowed = |byte: u8| byte.is_ascii_alphanumeric() || b"._-+@/".contains(&byte);
    let is_label = label.len() <= MAX_LABEL_BYTES
        && label.starts_with(|first: char| first.is_ascii_alphabetic())
        && label.bytes().all(is_allowed);
    if is_label {
        return Ok(());
    }
    Err(format!("expected a letter, then at most {} letters, digits or `.`, `_`, `-`, `+`, `@`, `/`", MAX_LABEL_BYTES - 1))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn label_starts_with_a_letter_and_has_no_special_characters() {
        for label in ["ci-web", "a", "acme/web@main", &"x".repeat(MAX_LABEL_BYTES)] {
            assert!(check_label(label).is_ok(), "{label}");
        }
        for label in ["", "7", "7up", "-a", "a b", "a\n", "a\u{1b}[2J", "a:b", "ä", &"x".repeat(MAX_LABEL_BYTES + 1)] {
            assert!(check_label(label).is_err(), "{label}");
        }
    }

    #[test]
    fn roles_are_ordered() {
        assert!(Role::ALL.is_sorted() && Role::Admin > Role::Approver && Role::parse("approver") == Some(Role::Approver));
    }
}
