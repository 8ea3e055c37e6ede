//! All values of metric labels. Clients and upstream cannot add label values.

use crate::policy::RuleId;
use crate::vetting::Signal;
use crate::vetting::provenance::ProvenanceStatus;
use crate::vetting::signatures::SignatureStatus;

/// A label of a metric: its key and all its values.
pub trait Label: Copy + PartialEq + Send + Sync + 'static {
    const KEY: &'static str;
    /// All values, so that each series exists from the start.
    const ALL: &'static [Self];

    fn value(self) -> &'static str;
}

/// Declares enums of label values. The list of all values is always complete.
macro_rules! labels {
    ($($(#[$about:meta])* $name:ident, $key:literal { $($(#[$doc:meta])* $variant:ident = $value:literal,)* })*) => {$(
        $(#[$about])*
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
        pub enum $name { $($(#[$doc])* $variant,)* }

        impl Label for $name {
            const KEY: &'static str = $key;
            const ALL: &'static [Self] = &[$(Self::$variant),*];

            fn value(self) -> &'static str {
                match self { $(Self::$variant => $value,)* }
            }
        }
    )*};
}

labels! {
    EndpointLabel, "endpoint" {
        Root = "root",
        Packument = "packument",
        Manifest = "manifest",
        Tarball = "tarball",
        DistTags = "dist_tags",
        Search = "search",
        Ping = "ping",
        Whoami = "whoami",
        Keys = "keys",
        Attestations = "attestations",
        Audit = "audit",
        Account = "account",
        /// A change of a package or account.
        Write = "write",
        /// Coldframe's own health, metrics and pages.
        Own = "own",
        Unknown = "unknown",
    }

    /// The kind of a decision: [`crate::policy::decisions::DecisionAction::kind`].
    DecisionLabel, "kind" {
        Approve = "approve",
        Adopt = "adopt",
        Deny = "deny",
        Freeze = "freeze",
        /// Break-glass: age and signals are not enforced.
        Observe = "observe",
    }

    /// What became of a request for an approval.
    ApprovalRequestLabel, "outcome" {
        Asked = "asked",
        Joined = "joined",
        AwaitsSecond = "awaits_second",
        Approved = "approved",
        Declined = "declined",
        Withdrawn = "withdrawn",
        Opened = "opened",
        Unpublished = "unpublished",
        Denied = "denied",
        BytesChanged = "bytes_changed",
    }

    OutcomeLabel, "outcome" {
        Served = "served",
        /// The client's cached response is current.
        NotModified = "not_modified",
        Refused = "refused",
        NotFound = "not_found",
        /// The request is invalid, or upstream requires other credentials.
        ClientError = "client_error",
        UpstreamError = "upstream_error",
        InternalError = "internal_error",
        /// The client disconnected before the response.
        Abandoned = "abandoned",
    }

    /// The result of an access token that a client presented.
    AuthLabel, "result" {
        Accepted = "accepted",
        /// A typing error, found by the checksum.
        Malformed = "malformed",
        Unknown = "unknown",
        Expired = "expired",
        Revoked = "revoked",
        /// None was presented where one is required.
        Missing = "missing",
        /// An OIDC token that may not be exchanged.
        Untrusted = "untrusted",
    }

    UpstreamWhat, "what" {
        Packument = "packument",
        Tarball = "tarball",
        Pass = "pass",
    }

    UpstreamOutcome, "outcome" {
        Changed = "changed",
        /// The cached content is current.
        NotModified = "not_modified",
        NotFound = "not_found",
        /// Upstream requires credentials that the client does not have.
        Denied = "denied",
        Failed = "failed",
    }

    CacheLabel, "cache" {
        /// Parsed packuments.
        Document = "document",
        /// Responses rendered for a view.
        Answer = "answer",
        /// Tarballs on disk.
        Blob = "blob",
    }

    CacheOutcome, "outcome" {
        Hit = "hit",
        Miss = "miss",
        /// An entry that upstream could not confirm.
        Stale = "stale",
        /// An entry that upstream has just confirmed.
        Revalidated = "revalidated",
    }

    IncidentLabel, "kind" {
        IntegrityChanged = "integrity_changed",
        IntegrityMismatch = "integrity_mismatch",
        /// A tarball was opened and has findings.
        Findings = "findings",
        FalseSignature = "false_signature",
        FalseProvenance = "false_provenance",
        Takedown = "takedown",
        /// Upstream removed a version too old for a takedown.
        Unpublished = "unpublished",
        MetadataStripped = "metadata_stripped",
        ClockSkew = "clock_skew",
        LedgerLost = "ledger_lost",
        /// A client downloaded a flagged version or contacted an indicator.
        Exposure = "exposure",
        FeedOverbroad = "feed_overbroad",
        FeedFailed = "feed_failed",
    }

    /// What the registry's signature of a version shows.
    SignatureLabel, "result" {
        Valid = "valid",
        False = "false",
        /// The key had ended before the stated publish time.
        KeyEnded = "key_ended",
        /// Older releases are signed as falsely: upstream states other digests than the registry signed.
        Rewritten = "rewritten",
        UnknownKey = "unknown_key",
        Unusable = "unusable",
        Unsigned = "unsigned",
    }

    /// What the provenance of a version shows.
    ProvenanceLabel, "result" {
        Valid = "valid",
        False = "false",
        NotObservable = "not_observable",
        /// Upstream announces attestations and sends none.
        Missing = "missing",
    }

    TaskLabel, "task" {
        Request = "request",
        Feed = "feed",
        Decisions = "decisions",
        /// Reloading access tokens.
        Tokens = "tokens",
        Policies = "policies",
        Gateway = "gateway",
        Prefetch = "prefetch",
        /// Opening tarballs before clients request them.
        Vetting = "vetting",
        Retention = "retention",
        /// Ending requests for approvals that are no longer needed.
        Requests = "requests",
        Ledger = "ledger",
        /// Answering `coldframe run`.
        Control = "control",
        Summary = "summary",
        /// Renewing keys and authorities.
        Trust = "trust",
        Certificate = "certificate",
        Listener = "listener",
    }

    /// Why the gateway refused a connection.
    BarLabel, "reason" {
        Host = "host",
        Port = "port",
        /// The address must be allowed explicitly.
        Address = "address",
        Indicator = "indicator",
        /// The connection would lead back to Coldframe.
        Loop = "loop",
        /// The host of the connection differs from the host inside TLS or HTTP.
        Mismatch = "mismatch",
        Malformed = "malformed",
        /// TLS was expected and is missing, or the reverse.
        Tls = "tls",
        Login = "login",
        Unreached = "unreached",
    }

    ReloadLabel, "outcome" {
        Adopted = "adopted",
        /// The new policy is invalid; the previous one stays active.
        Broken = "broken",
    }

    /// The rule that refused: a built-in rule, or `policy` for all rules of policy files, whose ids are free text.
    RuleLabel, "rule" {
        Policy = "policy",
        IntegrityChanged = "integrity-changed",
        IntegrityMismatch = "integrity-mismatch",
        IntegrityMissing = "integrity-missing",
        SelfContradiction = "self-contradiction",
        Takedown = "takedown",
        Unpublished = "unpublished",
        TarballHost = "tarball-host",
        Denied = "denied",
        Freeze = "freeze",
        Approved = "approved",
        BreakGlass = "break-glass",
        Advisory = "advisory",
        FeedMissing = "feed-missing",
        Cohort = "cohort",
    }
}

impl Label for Signal {
    const KEY: &'static str = "signal";
    const ALL: &'static [Self] = Self::ALL;

    fn value(self) -> &'static str {
        self.as_str()
    }
}

impl From<&RuleId> for RuleLabel {
    fn from(rule: &RuleId) -> Self {
        let of_built_in = || Self::ALL.iter().copied().find(|label| label.value() == rule.as_str());
        if matches!(rule, RuleId::File(_)) { Self::Policy } else { of_built_in().unwrap_or(Self::Policy) }
    }
}

impl From<&ProvenanceStatus> for ProvenanceLabel {
    fn from(status: &ProvenanceStatus) -> Self {
        match status {
            ProvenanceStatus::Valid { .. } => Self::Valid,
            ProvenanceStatus::False { .. } => Self::False,
            ProvenanceStatus::NotObservable { .. } => Self::NotObservable,
        }
    }
}

impl From<&SignatureStatus> for SignatureLabel {
    fn from(status: &SignatureStatus) -> Self {
        match status {
            SignatureStatus::Valid { .. } => Self::Valid,
            SignatureStatus::False { .. } => Self::False,
            SignatureStatus::KeyEnded { .. } => Self::KeyEnded,
            SignatureStatus::Rewritten { .. } => Self::Rewritten,
            SignatureStatus::UnknownKey { .. } => Self::UnknownKey,
            SignatureStatus::Unusable => Self::Unusable,
            SignatureStatus::Unsigned | SignatureStatus::NoneStated | SignatureStatus::Off => Self::Unsigned,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_built_in_rule_has_a_label_of_its_own() {
        for rule in RuleId::BUILT_IN {
            assert_eq!(RuleLabel::from(&rule).value(), rule.as_str());
        }
        assert_eq!(RuleLabel::from(&RuleId::File("takedown".into())), RuleLabel::Policy);
    }
}
