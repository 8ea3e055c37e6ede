//! Decisions that people take while Coldframe runs: approvals, denials, freezes, and hours of observation. Each has an
//! author and a reason, most end by themselves.
//!
//! Refuses to know where they are kept, who may take one, and what they mean for a version: `standing` says that.

pub mod active;
pub(crate) mod trace;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

/// The word by which an approval names a changed integrity, as it names an advisory by its id.
pub const CHANGED_INTEGRITY: &str = "integrity-changed";

/// What was decided.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "lowercase", deny_unknown_fields)]
pub enum DecisionAction {
    /// Versions are allowed, whatever the rules say of their age and signals.
    Approve {
        /// The package.
        package: String,
        /// What was asked for, before it was expanded: for people.
        asked: String,
        /// The versions that this approves: what existed when it was given. Never what is published later.
        versions: Vec<ApprovedVersion>,
        /// The records that this approval names and overrides: advisory ids, strong signals, or [`CHANGED_INTEGRITY`].
        records: Vec<String>,
    },
    /// What lockfiles hold already is allowed until it would have opened anyway.
    Adopt {
        /// The lockfiles, as they were named.
        lockfiles: Vec<String>,
        /// Their young versions.
        versions: Vec<AdoptedVersion>,
    },
    /// Versions are refused.
    Deny {
        /// A glob over package names.
        packages: String,
        /// A range, prereleases within it included; every version where it is missing.
        range: Option<String>,
    },
    /// Nothing that was published later than an instant is visible.
    Freeze {
        /// The instant.
        at: Timestamp,
        /// Globs over package names; every package where there are none.
        packages: Vec<String>,
    },
    /// Age and signals hold nobody back, and everything that they would have is noted. Malware and integrity still do.
    Observe,
    /// A record that marks every version of an established package is obeyed whole, or for what it lists alone.
    Record {
        /// Its id, or an alias.
        advisory: String,
        /// Whether it is obeyed whole.
        obey: bool,
    },
}

/// A version that is approved, by its bytes.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ApprovedVersion {
    /// The key in `versions`.
    pub version: String,
    /// Its integrity when it was approved, as SRI: other bytes under this version are not approved.
    pub integrity: String,
    /// When this version's approval ends, if before the decision's own end: the moment it would have opened anyway.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub until: Option<Timestamp>,
}

/// A version of some package that is approved, by its bytes.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct AdoptedVersion {
    /// The package.
    pub package: String,
    /// The version.
    #[serde(flatten)]
    pub approved: ApprovedVersion,
}

/// Somebody who put their name to something, and when.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Signature {
    /// The user of the operating system, or the owner of a token.
    pub who: String,
    /// When.
    pub at: Timestamp,
}

/// A decision as it was asked for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DecisionProposal {
    /// What.
    pub act: DecisionAction,
    /// Why, in the author's words.
    pub reason: String,
    /// Who, and since when.
    pub author: Signature,
    /// When it ends by itself.
    pub expires: Option<Timestamp>,
    /// Whether it is without effect until another person has confirmed it.
    pub needs_second: bool,
}

/// A decision that was taken, and what became of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Decision {
    /// Its number: what people call it by.
    pub id: i64,
    /// What was asked for.
    pub proposal: DecisionProposal,
    /// Who confirmed it.
    pub second: Option<Signature>,
    /// Who took it back, and why.
    pub revoked: Option<(Signature, String)>,
}

/// What holds of a decision at an instant.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum DecisionState {
    /// It is in force.
    Active,
    /// Another person has to confirm it.
    AwaitsSecond,
    /// It ended by itself.
    Expired,
    /// Somebody took it back.
    Revoked,
}

impl Decision {
    /// What holds of it at `now`.
    #[must_use]
    pub fn state(&self, now: Timestamp) -> DecisionState {
        if self.revoked.is_some() {
            return DecisionState::Revoked;
        }
        if self.proposal.expires.is_some_and(|expires| expires <= now) {
            return DecisionState::Expired;
        }
        if self.proposal.needs_second && self.second.is_none() {
            return DecisionState::AwaitsSecond;
        }
        DecisionState::Active
    }

    /// The decision as it stood at an instant; `None` where it was not taken yet.
    #[must_use]
    pub fn as_of(&self, at: Timestamp) -> Option<Self> {
        let was = |signature: &Signature| signature.at <= at;
        was(&self.proposal.author).then(|| Self {
            second: self.second.clone().filter(was),
            revoked: self.revoked.clone().filter(|(signature, _)| was(signature)),
            ..self.clone()
        })
    }

    /// Who stands for it: its author, and who confirmed it.
    #[must_use]
    pub fn signed(&self) -> String {
        let author = &self.proposal.author.who;
        self.second.as_ref().map_or_else(|| author.clone(), |second| format!("{author} and {}", second.who))
    }
}

impl DecisionState {
    /// The word for it.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Active => "active",
            Self::AwaitsSecond => "awaits a second person",
            Self::Expired => "expired",
            Self::Revoked => "revoked",
        }
    }
}

impl DecisionAction {
    /// The word for what kind it is.
    #[must_use]
    pub fn kind(&self) -> &'static str {
        match self {
            Self::Approve { .. } => "approve",
            Self::Adopt { .. } => "adopt",
            Self::Deny { .. } => "deny",
            Self::Freeze { .. } => "freeze",
            Self::Observe => "observe",
            Self::Record { .. } => "record",
        }
    }

    /// What it is about, in one line.
    #[must_use]
    pub fn subject(&self) -> String {
        match self {
            Self::Approve { package, asked, versions, .. } => match &versions[..] {
                [one] => format!("{package}@{}", one.version),
                several => format!("{package}@{asked} ({} versions)", several.len()),
            },
            Self::Adopt { lockfiles, versions } => format!("{} versions of {}", versions.len(), lockfiles.join(", ")),
            Self::Deny { packages, range } => {
                range.as_ref().map_or_else(|| packages.clone(), |range| format!("{packages}@{range}"))
            }
            Self::Freeze { at, packages } => {
                let scope = if packages.is_empty() { "everything".to_owned() } else { packages.join(", ") };
                format!("{scope} after {}", crate::units::timestamp::tell(*at))
            }
            Self::Observe => "age and signals".to_owned(),
            Self::Record { advisory, obey: true } => format!("{advisory}, obeyed whole"),
            Self::Record { advisory, obey: false } => format!("{advisory}, set aside"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(hour: i64) -> Timestamp {
        Timestamp::from_second(1_774_915_200 + hour * 3600).unwrap()
    }

    fn signature(who: &str) -> Signature {
        Signature { who: who.to_owned(), at: at(0) }
    }

    #[test]
    fn a_decision_is_active_between_its_second_name_and_its_end() {
        let proposal = DecisionProposal {
            act: DecisionAction::Observe,
            reason: "an outage".to_owned(),
            author: signature("ada"),
            expires: Some(at(5)),
            needs_second: true,
        };
        let mut decision = Decision { id: 1, proposal, second: None, revoked: None };
        assert_eq!(decision.state(at(1)), DecisionState::AwaitsSecond);
        decision.second = Some(signature("grace"));
        assert_eq!((decision.state(at(1)), decision.state(at(5))), (DecisionState::Active, DecisionState::Expired));
        assert_eq!(decision.signed(), "ada and grace");
        decision.revoked = Some((signature("ada"), "a mistake".to_owned()));
        assert_eq!(decision.state(at(1)), DecisionState::Revoked);
        assert_eq!(decision.as_of(at(1)), Some(decision.clone()));
        assert_eq!(decision.as_of(at(-1)), None, "it was not taken yet");
    }

    #[test]
    fn an_act_is_written_as_json_and_read_back() {
        let approved = ApprovedVersion { version: "1.14.1".to_owned(), integrity: "sha512-AA==".to_owned(), until: Some(at(3)) };
        for act in [
            DecisionAction::Approve {
                package: "axios".to_owned(),
                asked: "^1".to_owned(),
                versions: vec![approved.clone()],
                records: vec!["MAL-2026-1".to_owned()],
            },
            DecisionAction::Adopt {
                lockfiles: vec!["yarn.lock".to_owned()],
                versions: vec![AdoptedVersion { package: "axios".to_owned(), approved: approved.clone() }],
            },
            DecisionAction::Deny { packages: "@acme/*".to_owned(), range: Some("<2".to_owned()) },
            DecisionAction::Freeze { at: at(0), packages: vec!["@acme/*".to_owned()] },
            DecisionAction::Observe,
            DecisionAction::Record { advisory: "MAL-2026-1".to_owned(), obey: true },
        ] {
            let text = serde_json::to_string(&act).unwrap();
            assert!(text.contains(&format!("\"kind\":\"{}\"", act.kind())), "{text}");
            assert_eq!(serde_json::from_str::<DecisionAction>(&text).unwrap(), act);
        }
    }
}
