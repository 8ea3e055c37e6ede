//! Client for the server that runs on a data directory, over its control socket. All waits are bounded.

pub(crate) mod http;

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use serde::de::DeserializeOwned;
use serde_json::Value;
use tokio::io::BufReader;
use tokio::sync::Semaphore;
use tokio::task::JoinSet;
use tokio::time::timeout;
use url::Url;

use crate::app::error::AppError;
use crate::app::listeners::{local_url, reachable};
use crate::app::operations::Purged;
use crate::app::operations::adoption::{self, Adoption, WantedVersions};
use crate::app::operations::approval::ApprovalPlan;
use crate::app::operations::messages::{Description, Explained, MAX_ENTRIES, OperationReply, OperationRequest};
use crate::app::operations::requests::RequestOperation;
#[cfg(not(unix))]
use crate::app::run::remote_session::{Connected, connect};
#[cfg(unix)]
use crate::app::session::control_socket::{Connected, connect};
use crate::app::session::protocol::{self, ControlRequest, MAX_END_BYTES, What};
use crate::firewall::LockedVersion;
use crate::npm::{Integrity, Lockfile, PackageName, PackageSpec};
use crate::server::admin::{CheckResponse, ClientPolicy};
use crate::text::json_error;
use crate::units::timestamp;

/// How long the server may take to describe itself.
const HELLO_TIMEOUT: Duration = Duration::from_secs(5);

/// How long the server may take for other requests. Longer than its own limit.
const ANSWER_TIMEOUT: Duration = Duration::from_mins(6);

/// How many parts of a lockfile are checked in parallel: the server fetches packuments of one while it evaluates another.
const PARTS_AT_ONCE: usize = 3;

/// The maximum size of names, versions and ranges in one request, in bytes. As JSON it fits in the request limit.
const MAX_PART_BYTES: usize = 2 << 20;

#[derive(Debug, Clone)]
pub(crate) struct RemoteServer {
    data_dir: PathBuf,
    pub(crate) description: Description,
}

#[derive(Debug, Clone)]
pub(crate) enum Owner {
    Server(Box<RemoteServer>),
    NoProcess,
    /// A process without a control socket, such as a standalone `coldframe run`.
    Silent,
}

impl RemoteServer {
    /// Finds the owner of a data directory. A server that cannot be queried is an error: another version, one that hangs or stops, or
    /// a socket of another user. A command must not fall back to its own settings then.
    pub(crate) async fn find(data_dir: &Path) -> Result<Owner, AppError> {
        let connected = match connect(data_dir).await {
            Connected::NoProcess => return Ok(Owner::NoProcess),
            Connected::Without => return Ok(Owner::Silent),
            connected => connected,
        };
        match ask(connected, &OperationRequest::Describe, HELLO_TIMEOUT).await {
            Ok(description) => Ok(Owner::Server(Box::new(Self { data_dir: data_dir.to_owned(), description }))),
            Err(detail) => Err(failed(data_dir, detail)),
        }
    }

    pub(crate) fn first_profile(&self) -> usize {
        self.description.listeners.first().map(|listener| listener.profile).unwrap_or_default()
    }

    pub(crate) fn profile_named(&self, name: &str) -> Option<usize> {
        self.description.policies.iter().position(|policy| policy.name == name)
    }

    /// Returns the policy of the address in `url`, if the server listens there.
    pub(crate) fn profile_at(&self, url: &Url) -> Option<usize> {
        if self.description.public_url.as_ref().is_some_and(|public| public.as_str() == url.as_str()) {
            return Some(self.first_profile());
        }
        let port = url.port_or_known_default()?;
        let host = url.host_str()?.trim_start_matches('[').trim_end_matches(']').to_owned();
        let is_here = |address: &SocketAddr| {
            address.port() == port
                && (reachable(*address).ip().to_string() == host
                    || (host == "localhost" && reachable(*address).ip().is_loopback()))
        };
        self.description.listeners.iter().find(|listener| is_here(&listener.address)).map(|listener| listener.profile)
    }

    /// Returns the URL that clients use as their registry.
    pub(crate) fn url(&self) -> Option<Url> {
        self.description.public_url.clone().or_else(|| self.url_of(self.first_profile()))
    }

    pub(crate) fn url_of(&self, profile: usize) -> Option<Url> {
        let listener = self.description.listeners.iter().find(|listener| listener.profile == profile)?;
        Url::parse(&local_url(listener.listen_address())).ok()
    }

    /// Returns the settings that clients of a policy should use.
    pub(crate) fn terms(&self, profile: usize) -> Option<&ClientPolicy> {
        self.description.policies.get(profile).map(|policy| &policy.terms)
    }

    pub(crate) fn policy_words(&self, profile: usize) -> String {
        let Some(policy) = self.description.policies.get(profile) else { return "unknown".to_owned() };
        match policy.terms.age() {
            age if age.is_zero() => format!("{}, no minimum release age", policy.name),
            age => format!("{}, minimum release age {}", policy.name, timestamp::format_duration(age)),
        }
    }

    pub(crate) async fn explain(&self, spec: &PackageSpec, at: Option<Timestamp>, profile: usize) -> Result<Explained, AppError> {
        self.ask(&OperationRequest::Explain { spec: written(spec), at, profile }).await
    }

    /// Returns one outcome for each of `locked`, in the same order.
    pub(crate) async fn check(&self, locked: &[LockedVersion], profile: usize) -> Result<CheckResponse, AppError> {
        let parts = parts(locked).into_iter().map(<[LockedVersion]>::to_vec).collect();
        let asked = ask_in_parts(parts, |packages| {
            let (data_dir, request) = (self.data_dir.clone(), OperationRequest::Check { packages, profile });
            async move { ask::<CheckResponse>(connect(&data_dir).await, &request, ANSWER_TIMEOUT).await }
        });
        let mut checked = asked.await.map_err(|detail| failed(&self.data_dir, detail))?;
        if locked.is_empty() {
            checked.upstreams.clone_from(&self.description.upstreams);
        }
        Ok(checked)
    }

    pub(crate) async fn expand(&self, spec: &PackageSpec, records: &[String], profile: usize) -> Result<ApprovalPlan, AppError> {
        self.ask(&OperationRequest::Expand { spec: written(spec), records: records.to_vec(), profile }).await
    }

    pub(crate) async fn adopt(&self, lockfiles: &[Lockfile], profile: usize) -> Result<Adoption, AppError> {
        let (mut adoption, wanted) = adoption::wanted(lockfiles);
        let mut rest = wanted.into_iter();
        loop {
            let wanted: WantedVersions = rest.by_ref().take(MAX_ENTRIES).collect();
            adoption.add(self.ask(&OperationRequest::Adopt { wanted, profile }).await?);
            if rest.len() == 0 {
                return Ok(adoption);
            }
        }
    }

    /// Performs an operation on requests for approvals in the name of `user`.
    pub(crate) async fn request(&self, user: &str, operation: RequestOperation, profile: usize) -> Result<Value, AppError> {
        let request = OperationRequest::Request { user: user.to_owned(), operation, profile };
        ask(connect(&self.data_dir).await, &request, ANSWER_TIMEOUT).await.map_err(AppError::Request)
    }

    /// Makes the server write its pending ledger rows, so that the ledger can be read. Failures are logged.
    pub(crate) async fn flush(&self) {
        let flushed: Result<Option<()>, _> = self.ask(&OperationRequest::Flush).await;
        if let Err(error) = flushed {
            tracing::warn!(error = %error, "ledger not flushed");
        }
    }

    /// Removes tarballs and cached packuments from the server's store, and returns how many there were.
    pub(crate) async fn purge(&self, integrities: &[Integrity], packages: &[PackageName]) -> Result<Purged, AppError> {
        let mut purged = Purged::default();
        let (mut integrities, mut packages) = (integrities.chunks(MAX_ENTRIES), packages.chunks(MAX_ENTRIES));
        loop {
            let (some, named) = (integrities.next().unwrap_or_default(), packages.next().unwrap_or_default());
            if some.is_empty() && named.is_empty() {
                return Ok(purged);
            }
            let integrities = some.iter().map(Integrity::to_sri).collect();
            let packages = named.iter().map(|name| name.as_str().to_owned()).collect();
            let part: Purged = self.ask(&OperationRequest::Purge { integrities, packages }).await?;
            purged.tarballs += part.tarballs;
            purged.packuments += part.packuments;
        }
    }

    async fn ask<T: DeserializeOwned>(&self, request: &OperationRequest) -> Result<T, AppError> {
        ask(connect(&self.data_dir).await, request, ANSWER_TIMEOUT).await.map_err(|detail| failed(&self.data_dir, detail))
    }
}

/// Checks `parts` with limited parallelism and joins the results in order.
pub(crate) async fn ask_in_parts<F>(
    parts: Vec<Vec<LockedVersion>>,
    ask: impl Fn(Vec<LockedVersion>) -> F,
) -> Result<CheckResponse, String>
where
    F: Future<Output = Result<CheckResponse, String>> + Send + 'static,
{
    let (slots, mut asking) = (Arc::new(Semaphore::new(PARTS_AT_ONCE)), JoinSet::new());
    let lengths: Vec<usize> = parts.iter().map(Vec::len).collect();
    for (at, part) in parts.into_iter().enumerate() {
        let (answer, slots) = (ask(part), Arc::clone(&slots));
        asking.spawn(async move {
            let _slot = slots.acquire_owned().await;
            (at, answer.await)
        });
    }
    let mut answers: BTreeMap<usize, CheckResponse> = BTreeMap::new();
    while let Some(answer) = asking.join_next().await {
        let (at, answer) = answer.map_err(|lost| lost.to_string())?;
        let answer = answer?;
        if answer.packages.len() != lengths[at] {
            return Err(format!("the server checked {} of {} packages", answer.packages.len(), lengths[at]));
        }
        answers.insert(at, answer);
    }
    let mut checked = CheckResponse { packages: Vec::new(), upstreams: Vec::new() };
    for CheckResponse { packages, upstreams } in answers.into_values() {
        checked.packages.extend(packages);
        checked.upstreams = upstreams;
    }
    Ok(checked)
}

/// Splits locked versions into parts that fit into one request.
fn parts(locked: &[LockedVersion]) -> Vec<&[LockedVersion]> {
    let length = |entry: &LockedVersion| {
        let ranges: usize = entry.ranges.iter().map(String::len).sum();
        entry.name.len() + entry.version.len() + entry.integrity.as_ref().map_or(0, String::len) + ranges
    };
    let (mut parts, mut start, mut bytes) = (Vec::new(), 0, 0);
    for (at, entry) in locked.iter().enumerate() {
        let more = length(entry);
        if at > start && (at - start >= MAX_ENTRIES || bytes + more > MAX_PART_BYTES) {
            parts.push(&locked[start..at]);
            (start, bytes) = (at, 0);
        }
        bytes += more;
    }
    if start < locked.len() {
        parts.push(&locked[start..]);
    }
    parts
}

fn failed(data_dir: &Path, detail: String) -> AppError {
    AppError::Control { data_dir: data_dir.to_owned(), detail }
}

fn written(spec: &PackageSpec) -> String {
    match &spec.wanted {
        Some(wanted) => format!("{}@{wanted}", spec.name),
        None => spec.name.to_string(),
    }
}

/// Sends one request over a connection of its own.
async fn ask<T: DeserializeOwned>(connected: Connected, request: &OperationRequest, at_most: Duration) -> Result<T, String> {
    let (lines, mut asking) = match connected {
        Connected::To(lines, asking) => (lines, asking),
        Connected::Refused(why) => return Err(why),
        Connected::NoProcess | Connected::Without => return Err("the server exited".to_owned()),
    };
    let asking = async {
        protocol::write(&mut asking, &ControlRequest::new(What::Ask(Box::new(request.clone())))).await;
        protocol::read::<OperationReply>(&mut BufReader::new(lines), MAX_END_BYTES).await
    };
    let answer = timeout(at_most, asking).await.map_err(|_| format!("no answer within {} s", at_most.as_secs()))?;
    match answer.ok_or("the server closed the connection without an answer")? {
        OperationReply::Done(value) => {
            serde_json::from_value(value).map_err(|error| format!("cannot parse the server's answer: {}", json_error(&error)))
        }
        OperationReply::Failed(why) | OperationReply::Refused(why) => Err(why),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn requests_are_split_by_entries_and_bytes_without_loss() {
        let locked = |length: usize| LockedVersion {
            name: "left-pad".to_owned(),
            version: "1.0.0".to_owned(),
            integrity: None,
            ranges: vec!["x".repeat(length)],
        };
        assert!(parts(&[]).is_empty());
        let many = vec![locked(1); 2 * MAX_ENTRIES + 1];
        assert_eq!(parts(&many).iter().map(|part| part.len()).collect::<Vec<_>>(), [MAX_ENTRIES, MAX_ENTRIES, 1]);
        let long = vec![locked(MAX_PART_BYTES), locked(1), locked(1), locked(MAX_PART_BYTES), locked(MAX_PART_BYTES * 2)];
        assert_eq!(parts(&long).iter().map(|part| part.len()).collect::<Vec<_>>(), [1, 2, 1, 1]);
    }
}
