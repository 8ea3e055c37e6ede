//! The persons who answer for identities. Persons are compared, not tokens. Pure.

use std::sync::Arc;

use crate::text::single_line;

/// The person who answers for an identity. The name is that of a user of the operating system, or the one that the maker of a
/// token stated. One person has one name, whatever token is used.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Principal {
    /// The person whom it belongs to.
    Person(Arc<str>),
    /// Used by a machine. Names who made the token: a person or an issuer.
    Machine(Arc<str>),
}

/// The longest name of a person, in bytes.
const MAX_PERSON_BYTES: usize = 120;

impl Principal {
    pub fn name(&self) -> &str {
        match self {
            Self::Person(name) | Self::Machine(name) => name,
        }
    }

    pub fn is_machine(&self) -> bool {
        matches!(self, Self::Machine(_))
    }

    /// Checks whether the same person answers for both.
    pub fn is_same_person(&self, other: &Self) -> bool {
        self.key() == other.key()
    }

    /// Returns the name as it is compared: mail addresses and user names are written in either case.
    pub(crate) fn key(&self) -> String {
        self.name().trim().to_lowercase()
    }
}

/// Checks the name of a person.
///
/// # Errors
/// Returns what is expected if it is invalid.
pub fn check_person(name: &str) -> Result<(), String> {
    let is_name = !name.is_empty() && name.len() <= MAX_PERSON_BYTES && name.trim() == name && single_line(name) == name;
    if is_name { Ok(()) } else { Err(format!("expected one visible line of at most {MAX_PERSON_BYTES} bytes")) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn person_is_one_visible_line_and_compared_without_case() {
        for name in ["ada", "uid 1000", "ada@acme.example", "Zoë"] {
            assert!(check_person(name).is_ok(), "{name}");
        }
        for name in ["", " ada", "a\nb", "a\u{202e}b", &"x".repeat(MAX_PERSON_BYTES + 1)] {
            assert!(check_person(name).is_err(), "{name}");
        }
        let (ada, machine) = (Principal::Person("Ada".into()), Principal::Machine("ada".into()));
        assert!(ada.is_same_person(&machine) && !ada.is_same_person(&Principal::Person("bob".into())));
    }
}
