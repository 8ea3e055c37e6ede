//! Requests for approvals in the ledger.

use std::time::Duration;

use jiff::Timestamp;

use crate::policy::decisions::DecisionProposal;
use crate::policy::requests::{Actor, ApprovalRequest, NewRequest, RequestState};
use crate::store::error::StoreError;

/// The most open requests of one person, or of one label of machines.
pub(crate) const MAX_OPEN_PER_ASKER: u64 = 20;

/// The most open requests of all machines whose tokens one person or issuer made. Labels may come from branch names.
pub(crate) const MAX_OPEN_PER_MAKER: u64 = 500;

/// How often one asker may ask in a day. Who asks and withdraws in a loop would fill the ledger.
pub(crate) const MAX_PER_DAY: u64 = 200;

/// The most open requests in total.
pub(crate) const MAX_OPEN_REQUESTS: u64 = 10_000;

/// The most askers of one request, and the most steps that askers add to it.
pub(crate) const MAX_ASKERS: u64 = 100;
pub(crate) const MAX_STEPS: u64 = 400;

/// How many ended requests are kept at most, about 500 bytes each. The oldest are deleted first.
pub(crate) const MAX_ENDED_REQUESTS: u64 = 50_000;

/// The result of asking.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum AskOutcome {
    /// A new request.
    Created(i64),
    /// The version was asked for by others, and this asker joined them.
    Joined(i64),
    /// This asker asked before.
    Repeated(i64),
    /// The asker has [`MAX_OPEN_PER_ASKER`] open requests, or [`MAX_OPEN_PER_MAKER`] for machines.
    TooManyOwn,
    /// The asker asked [`MAX_PER_DAY`] times in a day.
    TooManyToday,
    /// There are [`MAX_OPEN_REQUESTS`], or the request has [`MAX_ASKERS`].
    TooMany,
    /// The version was declined, and cannot be asked for before `until`.
    Declined { id: i64, until: Timestamp, why: String },
}

/// How a request ends other than by an approval.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RequestEnd {
    pub state: RequestState,
    pub by: Actor,
    pub why: String,
}

/// A decision that an approval of a request recorded.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ApprovedRequest {
    pub decision: i64,
    /// The revision of the decisions to wait for.
    pub revision: u64,
}

/// Which requests to list.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct RequestFilter {
    pub states: Vec<RequestState>,
    /// Only those of this package.
    pub package: Option<String>,
    /// Only those with a lower number, for the next page.
    pub before: Option<i64>,
    /// The most requests to return.
    pub limit: usize,
}

/// Requests for approvals in the ledger. Each change is one transaction with its step. Methods block.
#[expect(
    clippy::missing_errors_doc,
    reason = "each method fails if the ledger cannot be read or written, and changes nothing then"
)]
pub trait RequestLedger: Send + Sync {
    fn request(&self, id: i64) -> Result<Option<ApprovalRequest>, StoreError>;

    /// Returns requests, newest first.
    fn requests(&self, filter: &RequestFilter) -> Result<Vec<ApprovalRequest>, StoreError>;

    /// Returns the number of open requests.
    fn open_requests(&self) -> Result<u64, StoreError>;

    /// Returns at most `limit` open requests whose check is due, longest overdue first.
    fn due_requests(&self, now: Timestamp, limit: usize) -> Result<Vec<ApprovalRequest>, StoreError>;

    /// Sets when an open request is checked next.
    fn check_request_at(&self, id: i64, at: Timestamp) -> Result<(), StoreError>;

    /// Records a request, or joins the open one for the same bytes. An open one for other bytes of the version ends.
    fn ask(&self, new: &NewRequest) -> Result<AskOutcome, StoreError>;

    /// Ends an open request. Revokes a decision that waits for a second person. Returns whether the request was open.
    fn end_request(&self, id: i64, end: &RequestEnd) -> Result<bool, StoreError>;

    /// Removes an asker from an open request, which ends if it was the last one. Returns whether the asker was one.
    fn withdraw_request(&self, id: i64, by: &Actor) -> Result<bool, StoreError>;

    /// Records the approval of an open request with its decision. The request waits for a second person if the decision does.
    /// Returns `None` if it is no longer open.
    fn approve_request(&self, id: i64, by: &Actor, proposal: &DecisionProposal) -> Result<Option<ApprovedRequest>, StoreError>;

    /// Confirms the decision of a request as the second person. Returns `None` if there is none that waits for this person.
    fn confirm_request(&self, id: i64, by: &Actor, why: &str) -> Result<Option<ApprovedRequest>, StoreError>;

    /// Returns the revision of the decisions that a server applies.
    fn applied_decisions(&self) -> Result<u64, StoreError>;

    /// Deletes requests that ended before `before`. Those that still keep others from asking are kept.
    fn prune_requests(&self, before: Timestamp) -> Result<u64, StoreError>;
}

/// How long ended requests are kept at least, whatever the retention is: they keep others from asking again.
pub(crate) const MIN_RETENTION: Duration = Duration::from_secs(8 * 24 * 3600);
