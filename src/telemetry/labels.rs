//! The only values a metric's label can have. Refuses text that a client or upstream could choose.

use crate::policy::RuleId;

/// One label of a metric: its key and every value it can have.
pub trait Label: Copy + PartialEq + Send + Sync + 'static {
    /// The label's name.
    const KEY: &'static str;
    /// Every value, so that each series exists from the start.
    const ALL: &'static [Self];

    /// The value as it is written.
    fn value(self) -> &'static str;
}

/// Declares an enum whose values label a metric: the list of all of them cannot be incomplete.
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
    /// What a request asked for.
    EndpointLabel, "endpoint" {
        /// The root document.
        Root = "root",
        /// A packument.
        Packument = "packument",
        /// One manifest.
        Manifest = "manifest",
        /// A tarball.
        Tarball = "tarball",
        /// The dist-tags.
        DistTags = "dist_tags",
        /// A search.
        Search = "search",
        /// A ping.
        Ping = "ping",
        /// Who am I.
        Whoami = "whoami",
        /// The signing keys.
        Keys = "keys",
        /// Attestations.
        Attestations = "attestations",
        /// An audit.
        Audit = "audit",
        /// An account's own data.
        Account = "account",
        /// A change of the registry.
        Write = "write",
        /// Our own health, numbers and pages.
        Own = "own",
        /// Nothing a registry knows.
        Unknown = "unknown",
    }
}

labels! {
    /// What kind a decision is: [`crate::policy::decisions::DecisionAction::kind`].
    DecisionLabel, "kind" {
        /// Versions are allowed.
        Approve = "approve",
        /// Versions of lockfiles are allowed.
        Adopt = "adopt",
        /// Versions are refused.
        Deny = "deny",
        /// Later versions are hidden.
        Freeze = "freeze",
        /// Break-glass: age and signals hold nothing back.
        Observe = "observe",
    }
}

labels! {
    /// What became of a request.
    OutcomeLabel, "outcome" {
        /// Bytes went out.
        Served = "served",
        /// The client had them already.
        NotModified = "not_modified",
        /// The policy said no.
        Refused = "refused",
        /// There is no such thing.
        NotFound = "not_found",
        /// The request was wrong, or upstream wants other credentials.
        ClientError = "client_error",
        /// Upstream did not do its part.
        UpstreamError = "upstream_error",
        /// We failed.
        InternalError = "internal_error",
        /// The client left before there was an answer.
        Abandoned = "abandoned",
    }
}

labels! {
    /// What upstream was asked for.
    UpstreamWhat, "what" {
        /// A packument.
        Packument = "packument",
        /// A tarball.
        Tarball = "tarball",
        /// Anything that is passed on.
        Pass = "pass",
    }
}

labels! {
    /// What upstream answered.
    UpstreamOutcome, "outcome" {
        /// New bytes.
        Changed = "changed",
        /// The same bytes as before.
        NotModified = "not_modified",
        /// It is not there.
        NotFound = "not_found",
        /// It wants other credentials than the client has.
        Denied = "denied",
        /// It did not do its part.
        Failed = "failed",
    }
}

labels! {
    /// Which of our memories was asked.
    CacheLabel, "cache" {
        /// Ingested packuments.
        Document = "document",
        /// Answers made for a view.
        Answer = "answer",
        /// Tarballs on disk.
        Blob = "blob",
    }
}

labels! {
    /// What a memory had.
    CacheOutcome, "outcome" {
        /// What was asked, and fresh.
        Hit = "hit",
        /// Nothing.
        Miss = "miss",
        /// What was asked, though upstream could not confirm it.
        Stale = "stale",
        /// What was asked, confirmed by upstream just now.
        Revalidated = "revalidated",
    }
}

labels! {
    /// What an operator must hear of.
    IncidentLabel, "kind" {
        /// A version was seen with another integrity than before.
        IntegrityChanged = "integrity_changed",
        /// A tarball is not what its packument says.
        IntegrityMismatch = "integrity_mismatch",
        /// A version was taken down upstream.
        Takedown = "takedown",
        /// A version went that was too old to be a takedown.
        Unpublished = "unpublished",
        /// Upstream strips what rules ask for.
        MetadataStripped = "metadata_stripped",
        /// The clocks disagree.
        ClockSkew = "clock_skew",
        /// Rows of the ledger were lost.
        LedgerLost = "ledger_lost",
        /// A version that was served turned out to be bad.
        Exposure = "exposure",
        /// An advisory marks every version of an established package.
        FeedOverbroad = "feed_overbroad",
        /// A feed could not be read, or is not what it should be.
        FeedFailed = "feed_failed",
    }
}

labels! {
    /// A task of ours.
    TaskLabel, "task" {
        /// Work for a request.
        Request = "request",
        /// Following a feed.
        Feed = "feed",
        /// Reading what people decided.
        Decisions = "decisions",
        /// Reading the policies again.
        Policies = "policies",
        /// Reading the gateway's files again.
        Gateway = "gateway",
        /// Fetching ahead.
        Prefetch = "prefetch",
        /// Pruning the ledger.
        Retention = "retention",
        /// Writing what the ledger did not take.
        Ledger = "ledger",
        /// Answering `coldframe run`.
        Control = "control",
        /// Saying how much was served.
        Summary = "summary",
        /// Accepting connections.
        Listener = "listener",
    }
}

labels! {
    /// Why the gateway refused.
    BarLabel, "reason" {
        /// Nobody allowed the host.
        Host = "host",
        /// Nobody allowed the port.
        Port = "port",
        /// The address is one that was to be named.
        Address = "address",
        /// A feed lists it as what malware talks to.
        Indicator = "indicator",
        /// It would come back to us.
        Loop = "loop",
        /// One host outside and another inside.
        Mismatch = "mismatch",
        /// What came is no request that a proxy takes.
        Malformed = "malformed",
        /// No TLS where it is spoken, or the other way around.
        Tls = "tls",
        /// Nobody we know.
        Login = "login",
        /// It could not be reached.
        Unreached = "unreached",
    }
}

labels! {
    /// What became of a policy that was read again.
    ReloadLabel, "outcome" {
        /// It is in force.
        Adopted = "adopted",
        /// It is broken, and the one before is in force.
        Broken = "broken",
    }
}

labels! {
    /// Which rule refused: one of those that are built in, or any of a policy file, whose ids anybody may choose.
    RuleLabel, "rule" {
        /// A rule of a policy file.
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
        /// See [`RuleId::Observed`].
        Observed = "observed",
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
            RuleId::Observed => Self::Observed,
            RuleId::Advisory => Self::Advisory,
            RuleId::FeedMissing => Self::FeedMissing,
        }
    }
}
