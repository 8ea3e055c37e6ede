//! Why a request for an approval, or a decision on one, is refused.

use jiff::Timestamp;

use crate::firewall::error::FirewallError;
use crate::policy::requests::{DecidingRefusal, RequestState};
use crate::store::StoreError;
use crate::units::timestamp;

#[derive(Debug, thiserror::Error)]
pub enum ApprovalError {
    #[error("no request with this number: {0}")]
    NotFound(i64),
    #[error("name an exact version, such as `axios@1.14.1`; found: {0}")]
    NotExact(String),
    /// Nothing has to be approved.
    #[error("{0} is allowed, so there is nothing to ask for")]
    Allowed(String),
    /// The rule that refuses cannot be overridden, or policy forbids asking.
    #[error("{spec} cannot be asked for: {why}")]
    Forbidden { spec: String, why: String },
    #[error("{spec} was declined (request {id}) and can be asked for again from {}: {why}", timestamp::format_utc_ceil(*until))]
    Declined { spec: String, id: i64, until: Timestamp, why: String },
    #[error("too many requests of yours are open, at most {0}; withdraw one, or wait until they are decided")]
    TooManyOpen(u64),
    #[error("you asked for too many versions today; try again tomorrow")]
    TooManyToday,
    #[error("too many requests are open, or too many people joined this one; decide on them first")]
    TooMany,
    #[error("request {id} is not open: {}", state.as_str())]
    NotOpen { id: i64, state: RequestState },
    #[error("request {0} is not one of yours, or it was withdrawn")]
    NotYours(i64),
    #[error(transparent)]
    Deciding(#[from] DecidingRefusal),
    /// A policy file says who must approve it.
    #[error("{spec} must be approved by one of its owners: {}", owners.join(", "))]
    NotAnOwner { spec: String, owners: Vec<String> },
    #[error("the digests are not those of request {0}; show it again, and compare what changed")]
    DigestsDiffer(i64),
    /// What an approval must name was not shown to the approver.
    #[error("request {id} is refused for more than was shown; show it again, and name each: {}", records.join(", "))]
    RecordsDiffer { id: i64, records: Vec<String> },
    #[error("the decision of request {0} was revoked or has ended; decline the request")]
    DecisionEnded(i64),
    #[error(transparent)]
    Firewall(#[from] FirewallError),
    #[error(transparent)]
    Store(#[from] StoreError),
    #[error("request not completed: internal error")]
    TaskFailed,
}
