//! Requests of people for an approval: who asks for which bytes, how a request ends, and who may decide. Pure.
//! Persons are compared, not tokens.

pub(crate) mod text;

use std::time::Duration;

use jiff::Timestamp;

use crate::policy::access::{AuthMethod, Identity};
use crate::policy::principal::Principal;
use crate::policy::requests::text::{ProjectName, RequestReason};
use crate::text::words;

/// How long a version that was declined cannot be asked for again.
pub(crate) const DECLINED_FOR: Duration = Duration::from_secs(7 * 24 * 3600);

/// How long an approval lasts if neither the request nor the approver says so.
pub(crate) const DEFAULT_PERIOD: Duration = Duration::from_secs(7 * 24 * 3600);

/// The number of the page of requests that one answer contains.
pub const MAX_LISTED_REQUESTS: usize = 200;

/// Who did something, and how he was identified.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Actor {
    pub principal: Principal,
    /// The label of the token, or the name of the user.
    pub subject: String,
    /// How the identity was established: `token 7`, `local user`.
    pub method: String,
    pub at: Timestamp,
}

/// The version and the bytes that a request is about.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RequestedBytes {
    pub package: String,
    /// The key in `versions`.
    pub version: String,
    /// Everything that is known of the bytes, as SRI.
    pub digests: String,
}

/// What one person asks for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Wish {
    pub reason: RequestReason,
    pub project: Option<ProjectName>,
    /// How long the version is needed.
    pub lasts: Duration,
}

/// A person or a machine who asked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Asker {
    pub by: Actor,
    pub wish: Wish,
    /// When the request was withdrawn by this asker. Who asked once cannot approve later.
    pub withdrawn: Option<Timestamp>,
}

/// A request to record.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NewRequest {
    pub bytes: RequestedBytes,
    pub asker: Asker,
    /// The index of the policy under which the version is refused.
    pub profile: usize,
    /// When to check whether the request is still needed.
    pub check_at: Timestamp,
}

/// A recorded request. There is at most one open request for a version; others join it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ApprovalRequest {
    /// The number that people use for it.
    pub id: i64,
    pub bytes: RequestedBytes,
    pub profile: usize,
    pub state: RequestState,
    /// The first one asked first. There is always one.
    pub askers: Vec<Asker>,
    /// The decision that a person proposed for this request.
    pub decision: Option<i64>,
    /// What happened to it, oldest first.
    pub steps: Vec<RequestStep>,
}

/// A change of a request, for the record.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RequestStep {
    pub kind: StepKind,
    pub by: Actor,
    /// A reason, or what was approved.
    pub detail: String,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum RequestState {
    Open,
    /// One person approved, and a second one must.
    AwaitsSecond,
    Approved,
    Declined,
    Withdrawn,
    /// The version is allowed without an approval.
    Opened,
    /// Upstream no longer has the version.
    Unpublished,
    /// A rule that no approval overrides refuses the version now.
    Denied,
    /// Upstream states other bytes for the version.
    BytesChanged,
}

words! {
    RequestState {
        Open = "open",
        AwaitsSecond = "awaits a second person",
        Approved = "approved",
        Declined = "declined",
        Withdrawn = "withdrawn",
        Opened = "opened",
        Unpublished = "unpublished",
        Denied = "denied",
        BytesChanged = "bytes changed",
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum StepKind {
    Asked,
    Joined,
    /// An approval, by the first or by the second person.
    Approved,
    Declined,
    Withdrawn,
    /// The server ended it.
    Ended,
}

words! {
    StepKind {
        Asked = "asked",
        Joined = "joined",
        Approved = "approved",
        Declined = "declined",
        Withdrawn = "withdrawn",
        Ended = "ended",
    }
}

/// Why an identity may not decide on a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum DecidingRefusal {
    #[error("a token of a machine cannot decide on requests; use one that belongs to a person")]
    Machine,
    #[error("who asked for a version cannot decide on it; another person must, and all tokens of one person count as one")]
    Asker,
    #[error("the approval needs a second person, and you are the first one")]
    AlreadyApproved,
}

impl RequestState {
    pub fn is_open(self) -> bool {
        matches!(self, Self::Open | Self::AwaitsSecond)
    }
}

impl Actor {
    /// Returns what an identity does now.
    pub(crate) fn of(identity: &Identity, at: Timestamp) -> Self {
        let method = match identity.method {
            AuthMethod::Token(id) => format!("token {id}"),
            AuthMethod::Password => "gateway password".to_owned(),
            AuthMethod::Session => "session".to_owned(),
            AuthMethod::Certificate => "client certificate".to_owned(),
        };
        Self { principal: identity.principal.clone(), subject: identity.subject.to_string(), method, at }
    }

    /// Returns what a user of this machine does with the data directory. Who can write there could take any name.
    pub(crate) fn local(user: &str, at: Timestamp) -> Self {
        let principal = Principal::Person(user.into());
        Self { principal, subject: user.to_owned(), method: "local user".to_owned(), at }
    }

    /// Returns the actor for changes that no person made.
    pub(crate) fn server(at: Timestamp) -> Self {
        let name = "coldframe";
        Self { principal: Principal::Machine(name.into()), subject: name.to_owned(), method: "server".to_owned(), at }
    }

    /// Returns the name for display: the person, and the label if it differs.
    pub fn describe(&self) -> String {
        match &self.principal {
            Principal::Person(person) if **person == *self.subject => self.subject.clone(),
            Principal::Person(person) => format!("{person} ({})", self.subject),
            Principal::Machine(_) => self.subject.clone(),
        }
    }

    /// Returns the text that limits are counted by: a person with all tokens, or one label of machines.
    pub(crate) fn quota_key(&self) -> String {
        match &self.principal {
            Principal::Person(_) => format!("person {}", self.principal.key()),
            Principal::Machine(_) => format!("machine {}", self.subject),
        }
    }
}

impl ApprovalRequest {
    /// Checks that a person may approve the request. Who asked may not, even if he withdrew: he chose what others decide on.
    ///
    /// # Errors
    /// Returns why not.
    pub fn check_approver(&self, by: &Actor) -> Result<(), DecidingRefusal> {
        self.check_decider(by)?;
        if self.askers.iter().any(|asker| asker.by.principal.is_same_person(&by.principal)) {
            return Err(DecidingRefusal::Asker);
        }
        let approved = self.steps.iter().filter(|step| step.kind == StepKind::Approved);
        if self.state == RequestState::AwaitsSecond
            && approved.into_iter().any(|step| step.by.principal.is_same_person(&by.principal))
        {
            return Err(DecidingRefusal::AlreadyApproved);
        }
        Ok(())
    }

    /// Checks that a person may decline the request. Who asked withdraws instead.
    ///
    /// # Errors
    /// Returns why not.
    pub fn check_decliner(&self, by: &Actor) -> Result<(), DecidingRefusal> {
        self.check_decider(by)
    }

    #[expect(clippy::unused_self, reason = "whether a person decides is a question about a request")]
    fn check_decider(&self, by: &Actor) -> Result<(), DecidingRefusal> {
        if by.principal.is_machine() { Err(DecidingRefusal::Machine) } else { Ok(()) }
    }

    /// Returns the one who asked first.
    pub fn first_asker(&self) -> Option<&Asker> {
        self.askers.first()
    }

    /// Returns when it was asked for first.
    pub fn asked_at(&self) -> Timestamp {
        self.first_asker().map_or(Timestamp::MIN, |asker| asker.by.at)
    }

    /// Returns the last step that ended it or decided on it.
    pub fn outcome(&self) -> Option<&RequestStep> {
        self.steps.iter().rev().find(|step| !matches!(step.kind, StepKind::Asked | StepKind::Joined))
    }

    pub fn spec(&self) -> String {
        format!("{}@{}", self.bytes.package, self.bytes.version)
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    pub(crate) fn actor(person: &str, label: &str) -> Actor {
        Actor {
            principal: Principal::Person(person.into()),
            subject: label.to_owned(),
            method: "token 1".to_owned(),
            at: Timestamp::UNIX_EPOCH,
        }
    }

    fn request(state: RequestState, askers: &[Actor], approvers: &[Actor]) -> ApprovalRequest {
        let wish = Wish { reason: RequestReason::parse("a fix").unwrap(), project: None, lasts: DEFAULT_PERIOD };
        let asker = |by: &Actor| Asker { by: by.clone(), wish: wish.clone(), withdrawn: Some(Timestamp::UNIX_EPOCH) };
        let step = |by: &Actor| RequestStep { kind: StepKind::Approved, by: by.clone(), detail: String::new() };
        ApprovalRequest {
            id: 1,
            bytes: RequestedBytes { package: "axios".to_owned(), version: "1.0.0".to_owned(), digests: String::new() },
            profile: 0,
            state,
            askers: askers.iter().map(asker).collect(),
            decision: None,
            steps: approvers.iter().map(step).collect(),
        }
    }

    #[test]
    fn persons_are_compared_and_not_tokens() {
        let asked = request(RequestState::Open, &[actor("Ada", "ada-laptop"), actor("bob", "bob-ci")], &[]);
        assert_eq!(asked.check_approver(&actor("ada", "ada-phone")), Err(DecidingRefusal::Asker));
        assert_eq!(asked.check_approver(&actor("BOB ", "other")), Err(DecidingRefusal::Asker), "who joined or withdrew");
        assert_eq!(asked.check_approver(&actor("grace", "ada-laptop")), Ok(()), "the label is no person");
    }

    #[test]
    fn machines_never_decide_and_their_maker_cannot_approve() {
        let machine = Actor { principal: Principal::Machine("ada".into()), ..actor("", "ci-web") };
        let asked = request(RequestState::Open, std::slice::from_ref(&machine), &[]);
        let other = Actor { principal: Principal::Machine("grace".into()), ..machine };
        assert_eq!(asked.check_approver(&other), Err(DecidingRefusal::Machine));
        assert_eq!(asked.check_decliner(&other), Err(DecidingRefusal::Machine));
        assert_eq!(asked.check_approver(&actor("ada", "ada")), Err(DecidingRefusal::Asker));
        assert_eq!(asked.check_approver(&actor("grace", "grace")), Ok(()));
    }

    #[test]
    fn second_person_is_another_one() {
        let asked = request(RequestState::AwaitsSecond, &[actor("ada", "ada")], &[actor("grace", "grace-1")]);
        assert_eq!(asked.check_approver(&actor("grace", "grace-2")), Err(DecidingRefusal::AlreadyApproved));
        assert_eq!(asked.check_approver(&actor("alan", "alan")), Ok(()));
    }

    #[test]
    fn limits_count_persons_and_labels_of_machines() {
        assert_eq!(actor("Ada", "a").quota_key(), actor("ada", "b").quota_key());
        let machine = |label: &str| Actor { principal: Principal::Machine("issuer".into()), ..actor("", label) };
        assert_ne!(machine("web").quota_key(), machine("app").quota_key());
        let person = actor("x", "x");
        assert_ne!(person.quota_key(), machine("x").quota_key());
    }
}
