//! All values of metric labels. Clients and upstream cannot add label values.

use crate::policy::RuleId;

/// A label of a metric: its key and all its values.
pub trait Label: Copy + PartialEq + Send + Sync + 'static {
    const KEY: &'static str;
    /// All values, so that each series exists from the start.
    const ALL: &'static [Self];

    /// Returns the value as written in the metrics.
    fn value(self) -> &'static str;
}

/// Declares an enum of label values. The list of all values is always complete.
macro_rules! labels {
    ($(#[$about:meta])* $name:ident, $key:literal { $($(#[$doc:meta])* $variant:ident = $value:literal,)* }) => {
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
    };
}

labels! {
    /// The kind of a request.
    EndpointLabel, "endpoint" {
        /// The registry's root document.
        Root = "root",
        Packument = "packument",
        Manifest = "manifest",
        Tarball = "tarball",
        DistTags = "dist_tags",
        Search = "search",
        Ping = "ping",
        /// The name of the logged-in user.
        Whoami = "whoami",
        Keys = "keys",
        Attestations = "attestations",
        Audit = "audit",
        /// Data of the client's own account.
        Account = "account",
        /// A change of a package or account.
        Write = "write",
        /// Coldframe's own health, metrics and pages.
        Own = "own",
        /// Not a registry endpoint.
        Unknown = "unknown",
    }
}

labels! {
    /// The kind of a decision: [`crate::policy::decisions::DecisionAction::kind`].
    DecisionLabel, "kind" {
        /// Allows versions.
        Approve = "approve",
        /// Allows the versions of lockfiles.
        Adopt = "adopt",
        /// Refuses versions.
        Deny = "deny",
        /// Hides later versions.
        Freeze = "freeze",
        /// Break-glass: age and signals are not enforced.
        Observe = "observe",
    }
}

labels! {
    /// The outcome of a request.
    OutcomeLabel, "outcome" {
        /// A response was sent.
        Served = "served",
        /// The client's cached response is current.
        NotModified = "not_modified",
        /// The policy refused it.
        Refused = "refused",
        /// The object does not exist.
        NotFound = "not_found",
        /// The request is invalid, or upstream requires other credentials.
        ClientError = "client_error",
        /// Upstream failed.
        UpstreamError = "upstream_error",
        /// Coldframe failed.
        InternalError = "internal_error",
        /// The client disconnected before the response.
        Abandoned = "abandoned",
    }
}

labels! {
    /// The kind of an upstream request.
    UpstreamWhat, "what" {
        Packument = "packument",
        Tarball = "tarball",
        /// A request that is passed through.
        Pass = "pass",
    }
}

labels! {
    /// The outcome of an upstream request.
    UpstreamOutcome, "outcome" {
        /// New content.
        Changed = "changed",
        /// The cached content is current.
        NotModified = "not_modified",
        /// The object does not exist.
        NotFound = "not_found",
        /// Upstream requires credentials that the client does not have.
        Denied = "denied",
        /// Upstream failed to answer correctly.
        Failed = "failed",
    }
}

labels! {
    /// A cache.
    CacheLabel, "cache" {
        /// Parsed packuments.
        Document = "document",
        /// Responses rendered for a view.
        Answer = "answer",
        /// Tarballs on disk.
        Blob = "blob",
    }
}

labels! {
    /// The outcome of a cache lookup.
    CacheOutcome, "outcome" {
        /// A fresh entry.
        Hit = "hit",
        /// No entry.
        Miss = "miss",
        /// An entry that upstream could not confirm.
        Stale = "stale",
        /// An entry that upstream has just confirmed.
        Revalidated = "revalidated",
    }
}

labels! {
    /// An incident that an operator should investigate.
    IncidentLabel, "kind" {
        /// Upstream changed the integrity of a version.
        IntegrityChanged = "integrity_changed",
        /// A tarball does not match the integrity in its packument.
        IntegrityMismatch = "integrity_mismatch",
        /// Upstream took down a version.
        Takedown = "takedown",
        /// Upstream removed a version too old for a takedown.
        Unpublished = "unpublished",
        /// Upstream strips metadata that rules need.
        MetadataStripped = "metadata_stripped",
        /// The local clock and upstream's differ.
        ClockSkew = "clock_skew",
        /// Ledger rows were lost.
        LedgerLost = "ledger_lost",
        /// A client downloaded a flagged version or contacted an indicator.
        Exposure = "exposure",
        /// An advisory covers every version of an established package.
        FeedOverbroad = "feed_overbroad",
        /// A feed could not be read or is not valid.
        FeedFailed = "feed_failed",
    }
}

labels! {
    /// A background task.
    TaskLabel, "task" {
        /// Work for a request.
        Request = "request",
        /// Reading a feed.
        Feed = "feed",
        /// Reading decisions.
        Decisions = "decisions",
        /// Reloading the policies.
        Policies = "policies",
        /// Reloading the gateway's files.
        Gateway = "gateway",
        /// Prefetching.
        Prefetch = "prefetch",
        /// Pruning the ledger.
        Retention = "retention",
        /// Writing pending ledger rows.
        Ledger = "ledger",
        /// Answering `coldframe run`.
        Control = "control",
        /// Logging the summary of requests served.
        Summary = "summary",
        /// Accepting connections.
        Listener = "listener",
    }
}

labels! {
    /// Why the gateway refused a connection.
    BarLabel, "reason" {
        /// The host is not allowed.
        Host = "host",
        /// The port is not allowed.
        Port = "port",
        /// The address must be allowed explicitly.
        Address = "address",
        /// A feed lists the target as an indicator.
        Indicator = "indicator",
        /// The connection would lead back to Coldframe.
        Loop = "loop",
        /// The host of the connection differs from the host inside TLS or HTTP.
        Mismatch = "mismatch",
        /// Not a valid proxy request.
        Malformed = "malformed",
        /// TLS was expected and is missing, or the reverse.
        Tls = "tls",
        /// Missing or wrong credentials.
        Login = "login",
        /// The target could not be reached.
        Unreached = "unreached",
    }
}

labels! {
    /// The outcome of a policy reload.
    ReloadLabel, "outcome" {
        /// The new policy is active.
        Adopted = "adopted",
        /// The new policy is invalid; the previous one stays active.
        Broken = "broken",
    }
}

labels! {
    /// The rule that refused: a built-in rule, or `policy` for all rules of policy files, whose ids are free text.
    RuleLabel, "rule" {
        /// Any rule of a policy file.
        Policy = "policy",
        /// See [`RuleId::IntegrityChanged`].
        IntegrityChanged = "integrity-changed",
        /// See [`RuleId::IntegrityMismatch`].
        IntegrityMismatch = "integrity-mismatch",
        /// See [`RuleId::IntegrityMissing`].
        IntegrityMissing = "integrity-missing",
        /// See [`RuleId::SelfContradiction`].
        SelfContradiction = "self-contradiction",
        /// See [`RuleId::Takedown`].
        Takedown = "takedown",
        /// See [`RuleId::Unpublished`].
        Unpublished = "unpublished",
        /// See [`RuleId::TarballHost`].
        TarballHost = "tarball-host",
        /// See [`RuleId::Denied`].
        Denied = "denied",
        /// See [`RuleId::Freeze`].
        Freeze = "freeze",
        /// See [`RuleId::Approved`].
        Approved = "approved",
        /// See [`RuleId::BreakGlass`].
        BreakGlass = "break-glass",
        /// See [`RuleId::Advisory`].
        Advisory = "advisory",
        /// See [`RuleId::FeedMissing`].
        FeedMissing = "feed-missing",
    }
}

impl From<&RuleId> for RuleLabel {
    fn from(rule: &RuleId) -> Self {
        match rule {
            RuleId::File(_) => Self::Policy,
            RuleId::IntegrityChanged => Self::IntegrityChanged,
            RuleId::IntegrityMismatch => Self::IntegrityMismatch,
            RuleId::IntegrityMissing => Self::IntegrityMissing,
            RuleId::SelfContradiction => Self::SelfContradiction,
            RuleId::Takedown => Self::Takedown,
            RuleId::Unpublished => Self::Unpublished,
            RuleId::TarballHost => Self::TarballHost,
            RuleId::Denied => Self::Denied,
            RuleId::Freeze => Self::Freeze,
            RuleId::Approved => Self::Approved,
            RuleId::BreakGlass => Self::BreakGlass,
            RuleId::Advisory => Self::Advisory,
            RuleId::FeedMissing => Self::FeedMissing,
        }
    }
}
