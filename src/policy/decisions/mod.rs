//! Decisions of operators at run time: approvals, denials, freezes and break-glass. Each has an author and a reason, and most
//! expire. [`active`] applies them to versions.

pub mod active;
pub(crate) mod trace;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use crate::text::words;
use crate::units::timestamp;

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "lowercase", deny_unknown_fields)]
pub enum DecisionAction {
    /// Allows versions regardless of the rules on ages and signals.
    Approve {
        package: String,
        /// The requested version or range before it was expanded, for display.
        asked: String,
        /// The approved versions. They existed when the approval was given; later versions are never included.
        versions: Vec<ApprovedVersion>,
        /// The records that the approval names and overrides: advisory ids, strong signals, or
        /// [`CHANGED_INTEGRITY`](crate::policy::verdict::CHANGED_INTEGRITY).
        records: Vec<String>,
    },
    /// Allows versions that lockfiles already contain, until they would open anyway.
    Adopt {
        /// The lockfiles as named by the operator.
        lockfiles: Vec<String>,
        /// The held versions in the lockfiles.
        versions: Vec<AdoptedVersion>,
    },
    Deny {
        /// A glob over package names.
        packages: String,
        /// A range, which includes prereleases. `None` means every version.
        range: Option<String>,
    },
    /// Hides versions that were published after an instant.
    Freeze {
        at: Timestamp,
        /// Globs over package names. Empty means every package.
        packages: Vec<String>,
    },
    /// Waives rules on ages and signals and records what they would have refused. Rules on malware and integrity still apply.
    #[serde(rename = "observe")]
    BreakGlass,
    /// Rules on an advisory that covers every version of an established package: apply it to all versions, or only to listed
    /// ones.
    Record {
        /// The id of the advisory, or an alias.
        advisory: String,
        /// Whether the advisory applies to all versions.
        obey: bool,
    },
}

/// An approved version, bound to its bytes.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ApprovedVersion {
    pub version: String,
    /// The integrity at the time of approval, as SRI. Other bytes under this version are not approved.
    pub integrity: String,
    /// When the approval of this version ends, if before the end of the decision: the instant at which it would open anyway.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub until: Option<Timestamp>,
}

/// An adopted version of a package, bound to its bytes.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct AdoptedVersion {
    pub package: String,
    #[serde(flatten)]
    pub approved: ApprovedVersion,
}

/// A person who signed a decision, and when.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Signature {
    /// The operating system user or the owner of a token.
    pub who: String,
    pub at: Timestamp,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DecisionProposal {
    pub act: DecisionAction,
    pub reason: String,
    pub author: Signature,
    pub expires: Option<Timestamp>,
    /// Whether the decision has no effect until a second person confirms it.
    pub needs_second: bool,
}

/// A recorded decision and its later changes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Decision {
    /// The number that operators use for it.
    pub id: i64,
    pub proposal: DecisionProposal,
    /// The second person, who confirmed the decision.
    pub second: Option<Signature>,
    /// Who revoked the decision, and why.
    pub revoked: Option<(Signature, String)>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum DecisionState {
    Active,
    /// A second person must confirm it.
    AwaitsSecond,
    Expired,
    Revoked,
}

impl Decision {
    pub(crate) fn state(&self, now: Timestamp) -> DecisionState {
        if self.revoked.is_some() {
            DecisionState::Revoked
        } else if self.proposal.expires.is_some_and(|expires| expires <= now) {
            DecisionState::Expired
        } else if self.proposal.needs_second && self.second.is_none() {
            DecisionState::AwaitsSecond
        } else {
            DecisionState::Active
        }
    }

    /// Returns the decision as of an instant. Returns `None` if it did not exist yet.
    pub(crate) fn as_of(&self, at: Timestamp) -> Option<Self> {
        let was = |signature: &Signature| signature.at <= at;
        was(&self.proposal.author).then(|| Self {
            second: self.second.clone().filter(was),
            revoked: self.revoked.clone().filter(|(signature, _)| was(signature)),
            ..self.clone()
        })
    }

    /// Returns the author and the second person, for display.
    pub(crate) fn signatories(&self) -> String {
        let author = &self.proposal.author.who;
        self.second.as_ref().map_or_else(|| author.clone(), |second| format!("{author} and {}", second.who))
    }
}

words! { DecisionState { Active = "active", AwaitsSecond = "awaits a second person", Expired = "expired", Revoked = "revoked", } }

impl DecisionAction {
    /// Returns the kind, as in the JSON field `kind`.
    pub(crate) fn kind(&self) -> &'static str {
        match self {
            Self::Approve { .. } => "approve",
            Self::Adopt { .. } => "adopt",
            Self::Deny { .. } => "deny",
            Self::Freeze { .. } => "freeze",
            Self::BreakGlass => "observe",
            Self::Record { .. } => "record",
        }
    }

    pub(crate) fn subject(&self) -> String {
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
                format!("{scope} after {}", timestamp::format_utc(*at))
            }
            Self::BreakGlass => "age and signals".to_owned(),
            Self::Record { advisory, obey: true } => format!("{advisory}, applied to all versions"),
            Self::Record { advisory, obey: false } => format!("{advisory}, applied to listed versions only"),
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
    fn decision_is_active_between_confirmation_and_expiry() {
        let proposal = DecisionProposal {
            act: DecisionAction::BreakGlass,
            reason: "an outage".to_owned(),
            author: signature("ada"),
            expires: Some(at(5)),
            needs_second: true,
        };
        let mut decision = Decision { id: 1, proposal, second: None, revoked: None };
        assert_eq!(decision.state(at(1)), DecisionState::AwaitsSecond);
        decision.second = Some(signature("grace"));
        assert_eq!((decision.state(at(1)), decision.state(at(5))), (DecisionState::Active, DecisionState::Expired));
        assert_eq!(decision.signatories(), "ada and grace");
        decision.revoked = Some((signature("ada"), "a mistake".to_owned()));
        assert_eq!(decision.state(at(1)), DecisionState::Revoked);
        assert_eq!(decision.as_of(at(1)), Some(decision.clone()));
        assert_eq!(decision.as_of(at(-1)), None, "it did not exist yet");
    }

    #[test]
    fn decision_action_round_trips_as_json() {
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
            DecisionAction::BreakGlass,
            DecisionAction::Record { advisory: "MAL-2026-1".to_owned(), obey: true },
        ] {
            let text = serde_json::to_string(&act).unwrap();
            assert!(text.contains(&format!("\"kind\":\"{}\"", act.kind())), "{text}");
            assert_eq!(serde_json::from_str::<DecisionAction>(&text).unwrap(), act);
        }
    }
}
