//! Requests for approvals: records who asks for a refused version, and turns an approval into an ordinary decision about exactly
//! the bytes that the approver was shown. Checks persons and digests; callers check roles.

pub mod current;
pub mod error;
pub mod view;

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;

use crate::clock::Clock;
use crate::firewall::client_scope;
use crate::firewall::components::Firewall;
use crate::firewall::error::{FirewallError, one_line};
use crate::firewall::explain::explanation::Explanation;
use crate::firewall::policy_state::Profile;
use crate::firewall::queries::inspect::InspectedVersion;
use crate::firewall::request::Client;
use crate::firewall::requests::current::CurrentVersion;
use crate::firewall::requests::error::ApprovalError;
use crate::firewall::requests::view::{ManifestComparison, OwnerView, PackageUser, PackageUsers};
use crate::npm::{DigestComparison, Integrity, PackageName, PackageSpec, Version};
use crate::policy::decisions::{ApprovedVersion, DecisionAction, DecisionProposal, Signature};
use crate::policy::requests::text::DecidingReason;
use crate::policy::requests::{
    Actor, ApprovalRequest, Asker, DEFAULT_PERIOD, MAX_LISTED_REQUESTS, NewRequest, RequestState, RequestedBytes, StepKind, Wish,
};
use crate::policy::rules::RequestAccess;
use crate::policy::rules::owners::PackageOwner;
use crate::policy::{RuleId, Verdict};
use crate::store::request_ledger::{MAX_OPEN_PER_ASKER, MIN_RETENTION};
use crate::store::{
    ApprovedRequest, AskOutcome, DownloadOutcome, Exposure, RequestEnd, RequestFilter, RequestLedger, StoreError,
};
use crate::telemetry::{ApprovalRequestChanged, Metrics};
use crate::units::timestamp;
use crate::vetting::manifest_changes::ManifestChanges;

/// How long after a check an open request is checked again, unless its version opens before.
const CHECK_INTERVAL: Duration = Duration::from_secs(3600);

/// How many requests one round of checks covers. Each may fetch a packument.
const CHECKED_AT_ONCE: usize = 20;

/// How many rounds of listing may skip requests outside the scope of a token.
const MAX_LIST_ROUNDS: usize = 50;

/// How many clients of a package are listed.
const MAX_LISTED_USERS: usize = 20;

/// How often a new decision is looked for in those that apply, and for how long.
const APPLY_INTERVAL: Duration = Duration::from_millis(20);
const APPLY_TIMEOUT: Duration = Duration::from_secs(5);

/// All requests of a data directory.
#[derive(Clone)]
pub struct ApprovalRequests {
    firewall: Firewall,
    ledger: Arc<dyn RequestLedger>,
    clock: Arc<dyn Clock>,
    metrics: Arc<Metrics>,
    /// Whether a server applies decisions.
    has_server: bool,
}

/// The request for a version that was asked for, and whether it is new.
#[derive(Debug, Clone)]
pub struct AskedRequest {
    pub request: ApprovalRequest,
    pub outcome: AskOutcome,
}

/// What an approver returns of what he was shown, and what he decides.
#[derive(Debug, Clone)]
pub struct GivenApproval {
    /// The digests, as they were shown.
    pub digests: String,
    /// The advisories and signals that he was shown and overrides.
    pub records: Vec<String>,
    pub reason: DecidingReason,
    /// How long it lasts. By default, as long as was asked for.
    pub lasts: Option<Duration>,
}

impl ApprovalRequests {
    pub(crate) fn new(firewall: Firewall, ledger: Arc<dyn RequestLedger>, clock: Arc<dyn Clock>, metrics: Arc<Metrics>) -> Self {
        Self { firewall, ledger, clock, metrics, has_server: true }
    }

    /// Does not wait for a server to apply decisions, because none runs.
    pub(crate) fn without_server(self) -> Self {
        Self { has_server: false, ..self }
    }

    pub fn now(&self) -> Timestamp {
        self.clock.now()
    }

    /// Asks for an exact version that is refused now. Joins an open request for it.
    ///
    /// # Errors
    /// Returns an error if the version is allowed or unknown, if it cannot be approved, or beyond a limit.
    pub async fn ask(&self, client: &Client, by: Actor, spec: &PackageSpec, wish: Wish) -> Result<AskedRequest, ApprovalError> {
        client_scope::check(client, &spec.name)?;
        let text = format!("{}@{}", spec.name, spec.wanted.as_deref().unwrap_or("latest"));
        let inspected = self.inspect(client, &spec.name).await?;
        let wanted = spec.wanted.as_deref().unwrap_or_default();
        let Some(version) = inspected.into_iter().find(|version| *version.key == *wanted) else {
            // A range or a dist-tag could match another version tomorrow.
            let is_exact = Version::parse(wanted).is_some();
            let missing = || ApprovalError::Firewall(FirewallError::NotFound(one_line(&format!("no version {text}")).into()));
            return Err(if is_exact { missing() } else { ApprovalError::NotExact(one_line(&text)) });
        };
        if version.verdict.is_allowed() {
            return Err(ApprovalError::Allowed(text));
        }
        let Some(digests) = version.integrity.as_ref().map(Integrity::to_sri) else {
            return Err(ApprovalError::Forbidden {
                spec: text,
                why: "upstream states no digest that could be approved".to_owned(),
            });
        };
        if let Some(why) = forbidden(&version.verdict).or(forbidden_by_policy(&version)) {
            return Err(ApprovalError::Forbidden { spec: text, why });
        }
        let bytes = RequestedBytes { package: spec.name.as_str().to_owned(), version: version.key.to_string(), digests };
        let check_at = next_check(&version.verdict, by.at);
        let asker = Asker { by, wish, withdrawn: None };
        self.record(NewRequest { bytes, asker, profile: client.profile.0, check_at }).await
    }

    async fn record(&self, new: NewRequest) -> Result<AskedRequest, ApprovalError> {
        let spec = format!("{}@{}", new.bytes.package, new.bytes.version);
        let recorded = self.with_ledger(move |ledger| ledger.ask(&new)).await?;
        let (id, kind) = match &recorded {
            AskOutcome::Created(id) => (*id, Some(StepKind::Asked)),
            AskOutcome::Joined(id) => (*id, Some(StepKind::Joined)),
            AskOutcome::Repeated(id) => (*id, None),
            AskOutcome::TooManyOwn => return Err(ApprovalError::TooManyOpen(MAX_OPEN_PER_ASKER)),
            AskOutcome::TooManyToday => return Err(ApprovalError::TooManyToday),
            AskOutcome::TooMany => return Err(ApprovalError::TooMany),
            AskOutcome::Declined { id, until, why } => {
                return Err(ApprovalError::Declined { spec, id: *id, until: *until, why: why.clone() });
            }
        };
        let request = self.read(id).await?;
        if kind.is_some() {
            self.report(&request).await;
        }
        Ok(AskedRequest { request, outcome: recorded })
    }

    /// Returns requests in the scope of a client, newest first, at most [`MAX_LISTED_REQUESTS`].
    ///
    /// # Errors
    /// Returns an error if the ledger cannot be read.
    pub async fn list(&self, client: &Client, filter: RequestFilter) -> Result<Vec<ApprovalRequest>, ApprovalError> {
        let limit = filter.limit.clamp(1, MAX_LISTED_REQUESTS);
        let mut found = Vec::new();
        let mut filter = RequestFilter { limit, ..filter };
        for _ in 0..MAX_LIST_ROUNDS {
            let asked = filter.clone();
            let page = self.with_ledger(move |ledger| ledger.requests(&asked)).await?;
            let (is_last, next) = (page.len() < limit, page.last().map(|request| request.id));
            found.extend(page.into_iter().filter(|request| is_in_scope(client, request)));
            if found.len() >= limit || is_last {
                break;
            }
            filter.before = next;
        }
        found.truncate(limit);
        Ok(found)
    }

    /// Returns a request in the scope of a client. An open one ends first if its version opened or is gone.
    ///
    /// # Errors
    /// Returns an error if there is none, or if it is outside the scope.
    pub async fn find(&self, client: &Client, id: i64) -> Result<ApprovalRequest, ApprovalError> {
        let request = self.read(id).await?;
        // A token must not learn what is outside its scope.
        if is_in_scope(client, &request) { Ok(request) } else { Err(ApprovalError::NotFound(id)) }
    }

    /// Returns a request with the current state of its version, if the request is open. Ends it if it is no longer needed.
    ///
    /// # Errors
    /// Returns an error if there is no such request, or if upstream cannot be asked.
    pub async fn current(&self, client: &Client, id: i64) -> Result<(ApprovalRequest, Option<CurrentVersion>), ApprovalError> {
        let request = self.find(client, id).await?;
        if !request.state.is_open() {
            return Ok((request, None));
        }
        self.refresh(client, request).await
    }

    /// Explains the version that a request is about.
    ///
    /// # Errors
    /// Returns an error if upstream cannot be asked or no longer has the version.
    pub async fn explain(&self, client: &Client, request: &ApprovalRequest) -> Result<Explanation, ApprovalError> {
        let (name, client) = (name_of(request)?, &asking(client, request));
        Ok(self.firewall.explain(client, &name, Some(&request.bytes.version), None).await?)
    }

    /// Approves a request for the bytes and in view of the facts that the approver was shown. If the version is refused for more
    /// than its age, the first approval waits for one of a second person.
    ///
    /// # Errors
    /// Returns an error if this person may not approve it, or if anything changed since it was shown.
    pub async fn approve(
        &self,
        client: &Client,
        by: Actor,
        id: i64,
        given: GivenApproval,
    ) -> Result<(ApprovalRequest, ApprovedRequest), ApprovalError> {
        let request = self.find(client, id).await?;
        if !request.state.is_open() {
            return Err(ApprovalError::NotOpen { id, state: request.state });
        }
        request.check_approver(&by)?;
        self.check_owner(&request, &by)?;
        let (request, current) = self.refresh(client, request).await?;
        let Some(current) = current else { return Err(ApprovalError::NotOpen { id, state: request.state }) };
        if given.digests != current.digests {
            return Err(ApprovalError::DigestsDiffer(id));
        }
        if let Some(why) = forbidden(&current.verdict) {
            return Err(ApprovalError::Forbidden { spec: request.spec(), why });
        }
        if current.records.iter().any(|record| !given.records.contains(record)) {
            return Err(ApprovalError::RecordsDiffer { id, records: current.records });
        }
        let reason = format!("{} (request {id})", given.reason);
        let lasts = given.lasts.or_else(|| request.first_asker().map(|asker| asker.wish.lasts)).unwrap_or(DEFAULT_PERIOD);
        let proposal = propose(&request, current, &by, (reason, lasts));
        let is_second = request.state == RequestState::AwaitsSecond;
        let why = given.reason.to_string();
        let recorded = self
            .with_ledger(move |ledger| {
                if is_second { ledger.confirm_request(id, &by, &why) } else { ledger.approve_request(id, &by, &proposal) }
            })
            .await?;
        let request = self.read(id).await?;
        match recorded {
            Some(approved) => {
                self.report(&request).await;
                Ok((request, approved))
            }
            None if request.state == RequestState::AwaitsSecond && is_second => Err(ApprovalError::DecisionEnded(id)),
            None => Err(ApprovalError::NotOpen { id, state: request.state }),
        }
    }

    /// Returns who answers for the package of a request.
    pub fn owners(&self, request: &ApprovalRequest) -> Vec<OwnerView> {
        let Ok(name) = name_of(request) else { return Vec::new() };
        let snapshot = self.firewall.policy();
        let view = |owner: &PackageOwner| OwnerView {
            people: owner.people.iter().map(ToString::to_string).collect(),
            must_approve: owner.must_approve,
        };
        snapshot.policy(Profile(request.profile)).owners_of(&name).map(view).collect()
    }

    /// Checks that an owner approves, if a policy file requires it.
    fn check_owner(&self, request: &ApprovalRequest, by: &Actor) -> Result<(), ApprovalError> {
        let snapshot = self.firewall.policy();
        let name = name_of(request)?;
        let required: Vec<_> =
            snapshot.policy(Profile(request.profile)).owners_of(&name).filter(|owner| owner.must_approve).collect();
        if required.is_empty() || required.iter().any(|owner| owner.includes(&by.principal)) {
            return Ok(());
        }
        let owners = required.iter().flat_map(|owner| &owner.people).map(ToString::to_string).collect();
        Err(ApprovalError::NotAnOwner { spec: request.spec(), owners })
    }

    /// Returns what the manifest of the version changed against `predecessor`, or against the highest version below.
    ///
    /// # Errors
    /// Returns an error if upstream cannot be asked.
    pub async fn manifest_changes(
        &self,
        client: &Client,
        request: &ApprovalRequest,
        predecessor: Option<&str>,
    ) -> Result<Option<ManifestComparison>, ApprovalError> {
        let (name, version) = (name_of(request)?, &*request.bytes.version);
        let compared = self.firewall.manifest_changes(client, &name, (version, predecessor)).await?;
        let view =
            |(with, ManifestChanges { changes, more }): (Box<str>, _)| ManifestComparison { with: with.into(), changes, more };
        Ok(compared.map(view))
    }

    /// Returns the clients that received tarballs of the package, by the ledger.
    ///
    /// # Errors
    /// Returns an error if the ledger cannot be read.
    pub async fn used_by(&self, request: &ApprovalRequest) -> Result<PackageUsers, ApprovalError> {
        let (firewall, name) = (self.firewall.clone(), name_of(request)?);
        run_blocking(move || firewall.exposure_of(&name)).await.map(users)
    }

    /// Declines an open request. The version cannot be asked for again for a week.
    ///
    /// # Errors
    /// Returns an error if this person may not decide, or if the request is not open.
    pub async fn decline(
        &self,
        client: &Client,
        by: Actor,
        id: i64,
        reason: DecidingReason,
    ) -> Result<ApprovalRequest, ApprovalError> {
        let request = self.find(client, id).await?;
        request.check_decliner(&by)?;
        let end = RequestEnd { state: RequestState::Declined, by, why: reason.to_string() };
        self.end(request, end).await
    }

    /// Withdraws what this client asked for. Others who joined keep the request open.
    ///
    /// # Errors
    /// Returns an error if it is not open, or if this client did not ask.
    pub async fn withdraw(&self, client: &Client, by: Actor, id: i64) -> Result<ApprovalRequest, ApprovalError> {
        let request = self.find(client, id).await?;
        if !request.state.is_open() {
            return Err(ApprovalError::NotOpen { id, state: request.state });
        }
        if !self.with_ledger(move |ledger| ledger.withdraw_request(id, &by)).await? {
            return Err(ApprovalError::NotYours(id));
        }
        let request = self.read(id).await?;
        self.report(&request).await;
        Ok(request)
    }

    /// Waits until the server applies the decisions of a revision. Returns whether it does.
    pub async fn until_applied(&self, revision: u64) -> bool {
        let applied = async {
            loop {
                match self.with_ledger(RequestLedger::applied_decisions).await {
                    Ok(applied) if applied >= revision => return true,
                    Ok(_) => tokio::time::sleep(APPLY_INTERVAL).await,
                    Err(_) => return false,
                }
            }
        };
        if !self.has_server {
            return false;
        }
        tokio::time::timeout(APPLY_TIMEOUT, applied).await.unwrap_or(false)
    }

    /// Checks some open requests whose check is due, and ends those that are no longer needed. Returns how many it checked.
    ///
    /// # Errors
    /// Returns an error if the ledger cannot be used.
    pub(crate) async fn check_due(&self, client: impl Fn(usize) -> Client) -> Result<usize, ApprovalError> {
        let now = self.now();
        let due = self.with_ledger(move |ledger| ledger.due_requests(now, CHECKED_AT_ONCE)).await?;
        let count = due.len();
        for request in due {
            let id = request.id;
            // First, so that one whose check fails does not keep others from being checked.
            let later = timestamp::saturating_add(now, CHECK_INTERVAL);
            self.with_ledger(move |ledger| ledger.check_request_at(id, later)).await?;
            let checked = self.refresh(&client(request.profile), request).await;
            let opens = match checked {
                Ok((_, current)) => current.and_then(|current| current.verdict.opens_at()),
                Err(error) => {
                    tracing::debug!(request.id = id, error = %error, "approval request not checked");
                    None
                }
            };
            if let Some(opens) = opens.filter(|opens| now < *opens && *opens < later) {
                self.with_ledger(move |ledger| ledger.check_request_at(id, opens)).await?;
            }
        }
        Ok(count)
    }

    /// Deletes requests that ended longer than `retention` ago. Blocks.
    pub(crate) fn prune(&self, retention: Duration) -> Result<u64, StoreError> {
        self.ledger.prune_requests(timestamp::saturating_sub(self.now(), retention.max(MIN_RETENTION)))
    }

    /// Counts the open requests for the metrics.
    pub(crate) async fn count(&self) -> Result<(), ApprovalError> {
        let open = self.with_ledger(RequestLedger::open_requests).await?;
        self.metrics.set_open_approval_requests(open);
        Ok(())
    }

    /// Compares an open request with the current state of its version. Ends it if it is no longer needed.
    async fn refresh(
        &self,
        client: &Client,
        request: ApprovalRequest,
    ) -> Result<(ApprovalRequest, Option<CurrentVersion>), ApprovalError> {
        let now = self.now();
        let (name, client) = (name_of(&request)?, &asking(client, &request));
        let ends = |state, why: String| RequestEnd { state, by: Actor::server(now), why };
        let versions = self.inspect(client, &name).await?;
        let Some(version) = versions.into_iter().find(|version| *version.key == *request.bytes.version) else {
            let end = ends(RequestState::Unpublished, "upstream no longer has this version".to_owned());
            return Ok((self.end(request, end).await?, None));
        };
        let digests = version.integrity.as_ref().map(Integrity::to_sri).unwrap_or_default();
        let end = match (&version.verdict, &version.integrity) {
            (Verdict::Allow, _) if request.decision.is_some() => Some(ends(RequestState::Approved, String::new())),
            (Verdict::Allow, _) => Some(ends(RequestState::Opened, "the version is allowed now".to_owned())),
            (_, integrity) if !integrity.as_ref().is_some_and(|current| are_same_bytes(current, &request.bytes.digests)) => {
                Some(ends(RequestState::BytesChanged, "upstream states other digests".to_owned()))
            }
            (verdict, _) => denied(verdict).or(forbidden_by_policy(&version)).map(|why| ends(RequestState::Denied, why)),
        };
        if let Some(end) = end {
            return Ok((self.end(request, end).await?, None));
        }
        let InspectedVersion { verdict, records, .. } = version;
        Ok((request, Some(CurrentVersion { digests, verdict, records })))
    }

    async fn end(&self, request: ApprovalRequest, end: RequestEnd) -> Result<ApprovalRequest, ApprovalError> {
        let id = request.id;
        let is_ended = self.with_ledger(move |ledger| ledger.end_request(id, &end)).await?;
        let request = self.read(id).await?;
        if !is_ended {
            return Err(ApprovalError::NotOpen { id, state: request.state });
        }
        self.report(&request).await;
        Ok(request)
    }

    async fn inspect(&self, client: &Client, name: &PackageName) -> Result<Vec<InspectedVersion>, ApprovalError> {
        Ok(self.firewall.inspect(client, name).await?.versions)
    }

    async fn read(&self, id: i64) -> Result<ApprovalRequest, ApprovalError> {
        self.with_ledger(move |ledger| ledger.request(id)).await?.ok_or(ApprovalError::NotFound(id))
    }

    /// Logs and counts the last change of a request.
    async fn report(&self, request: &ApprovalRequest) {
        ApprovalRequestChanged { request }.emit(&self.metrics);
        if let Err(error) = self.count().await {
            tracing::warn!(error = &error as &dyn std::error::Error, "open approval requests not counted");
        }
    }

    async fn with_ledger<T: Send + 'static>(
        &self,
        work: impl FnOnce(&(dyn RequestLedger + 'static)) -> Result<T, StoreError> + Send + 'static,
    ) -> Result<T, ApprovalError> {
        let ledger = Arc::clone(&self.ledger);
        run_blocking(move || work(&*ledger)).await
    }
}

async fn run_blocking<T, E>(work: impl FnOnce() -> Result<T, E> + Send + 'static) -> Result<T, ApprovalError>
where
    T: Send + 'static,
    E: Into<ApprovalError> + Send + 'static,
{
    match tokio::task::spawn_blocking(work).await {
        Ok(done) => done.map_err(Into::into),
        Err(error) => {
            tracing::error!(error = %error, "approval request task failed");
            Err(ApprovalError::TaskFailed)
        }
    }
}

/// Returns the decision that an approval records. With overrides, it has no effect before a second person confirms it.
fn propose(
    request: &ApprovalRequest,
    current: CurrentVersion,
    by: &Actor,
    (reason, lasts): (String, Duration),
) -> DecisionProposal {
    let RequestedBytes { package, version, .. } = request.bytes.clone();
    let approved = ApprovedVersion { version: version.clone(), integrity: current.digests, until: None };
    DecisionProposal {
        needs_second: !current.records.is_empty(),
        act: DecisionAction::Approve { package, asked: version, versions: vec![approved], records: current.records },
        reason,
        author: Signature { who: by.principal.name().to_owned(), at: by.at },
        expires: Some(timestamp::saturating_add(by.at, lasts)),
    }
}

/// Sums what each client received, most recent first.
fn users(rows: Vec<Exposure>) -> PackageUsers {
    let mut by_client: HashMap<String, PackageUser> = HashMap::new();
    for row in rows.into_iter().filter(|row| row.outcome == DownloadOutcome::Served) {
        let Exposure { client, version, times, last, .. } = row;
        match by_client.entry(client) {
            Entry::Vacant(new) => {
                let client = new.key().clone();
                new.insert(PackageUser { client, version, times, last });
            }
            Entry::Occupied(mut known) => {
                let known = known.get_mut();
                known.times += times;
                if last >= known.last {
                    (known.version, known.last) = (version, last);
                }
            }
        }
    }
    let mut clients: Vec<_> = by_client.into_values().collect();
    let total = clients.len();
    clients.sort_by(|left, right| right.last.cmp(&left.last).then_with(|| left.client.cmp(&right.client)));
    clients.truncate(MAX_LISTED_USERS);
    PackageUsers { clients, total }
}

fn name_of(request: &ApprovalRequest) -> Result<PackageName, StoreError> {
    PackageName::parse(&request.bytes.package).map_err(|error| StoreError::Damaged(error.to_string()))
}

/// Returns the client under the policy for which a version was asked. Another policy may allow what that one refuses.
fn asking(client: &Client, request: &ApprovalRequest) -> Client {
    Client { profile: Profile(request.profile), ..client.clone() }
}

fn is_in_scope(client: &Client, request: &ApprovalRequest) -> bool {
    PackageName::parse(&request.bytes.package).is_ok_and(|name| client_scope::check(client, &name).is_ok())
}

/// Returns why a refused version cannot be asked for, or `None` if it can.
fn forbidden(verdict: &Verdict) -> Option<String> {
    let reason = verdict.reason()?;
    (!reason.rule.may_be_approved()).then(|| format!("no approval overrides rule {}: {}", reason.rule, reason.detail))
}

/// Returns why policy forbids to ask for a version, such as for malware.
fn forbidden_by_policy(version: &InspectedVersion) -> Option<String> {
    match &version.request {
        RequestAccess::Forbidden(why) => Some(why.clone()),
        RequestAccess::Ask => None,
    }
}

/// Returns why an open request cannot be approved any more, or `None`. What may pass, as a feed that cannot be read, ends nothing.
fn denied(verdict: &Verdict) -> Option<String> {
    let reason = verdict.reason()?;
    matches!(reason.rule, RuleId::Denied | RuleId::Takedown | RuleId::Unpublished).then(|| reason.detail.clone())
}

fn are_same_bytes(current: &Integrity, requested: &str) -> bool {
    Integrity::parse(Some(requested), None).is_some_and(|requested| current.compare(&requested) == DigestComparison::Same)
}

fn next_check(verdict: &Verdict, now: Timestamp) -> Timestamp {
    let later = timestamp::saturating_add(now, CHECK_INTERVAL);
    verdict.opens_at().map_or(later, |opens| opens.min(later))
}
