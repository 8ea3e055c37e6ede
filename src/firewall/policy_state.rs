//! Policies, decisions and advisories, which change at run time. A request loads them once, together with the time, so that all
//! its verdicts use one snapshot and one instant.

use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwap;
use jiff::Timestamp;

use crate::clock::Clock;
use crate::policy::decisions::Decision;
use crate::policy::{ActiveDecisions, Advisories, Evaluation, Facts, PackageRules, Policy, Sink, Verdict, evaluate};
use crate::vetting::provenance::TrustRoot;
use crate::vetting::signatures::{KeyRing, TrustSource};
use crate::vetting::{BASELINE_AGE, Signal};

/// The index of a listener's policy.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub struct Profile(pub usize);

/// Everything a verdict depends on besides the facts of a package.
#[derive(Debug)]
pub struct PolicySnapshot {
    /// The policies by profile; never empty.
    policies: Vec<Policy>,
    /// Every recorded decision.
    pub decisions: Arc<[Decision]>,
    /// The decisions that apply now.
    pub active_decisions: ActiveDecisions,
    /// The advisories of all feeds.
    pub advisories: Advisories,
    /// The keys that the registry's signatures are verified with.
    pub signing_keys: Arc<KeyRing>,
    /// The authorities and logs that provenance is verified with; `None` if it is not verified.
    pub trust_root: Option<Arc<TrustRoot>>,
    /// The next instant at which a decision or rule expires.
    next_change: Option<Timestamp>,
    /// Increments with every change. Verdicts of another revision are evaluated again.
    pub revision: u64,
}

impl PolicySnapshot {
    /// Evaluates one version by these rules, which are of this snapshot.
    pub(crate) fn evaluate<S: Sink>(
        &self,
        rules: &PackageRules<'_>,
        facts: &Facts<'_>,
        as_of: Timestamp,
        sink: &mut S,
    ) -> Verdict {
        evaluate(&Evaluation { rules, decisions: &self.active_decisions, facts, as_of }, sink)
    }

    /// Creates a snapshot with the keys and the revision of `base`.
    fn of(
        policies: Vec<Policy>,
        decisions: Arc<[Decision]>,
        advisories: Advisories,
        now: Timestamp,
        base: &SnapshotBase,
    ) -> Self {
        let standing = ActiveDecisions::of(&decisions, now);
        let until = policies.iter().filter_map(Policy::next_expiry).chain(standing.next_change).min();
        let advisories = advisories.ruled(&standing.rulings);
        Self {
            policies,
            decisions,
            active_decisions: standing,
            advisories,
            signing_keys: Arc::clone(&base.signing_keys),
            trust_root: base.trust_root.clone(),
            next_change: until,
            revision: base.revision,
        }
    }

    /// Returns the policy of a profile.
    pub(crate) fn policy(&self, profile: Profile) -> &Policy {
        // An unknown profile uses the first policy.
        self.policies.get(profile.0).unwrap_or(&self.policies[0])
    }

    /// Returns the longest age for which a rule holds new packages but exempts subpackages of established ones; `None` if no rule
    /// does.
    pub(crate) fn subpackage_exemption_age(&self) -> Option<Duration> {
        self.policies.iter().filter_map(Policy::spares_siblings).max()
    }

    /// Returns the longest age below which a rule of any policy may refuse a release for its signals.
    pub(crate) fn signal_window(&self) -> Duration {
        self.policies.iter().map(Policy::signal_window).max().unwrap_or_default()
    }

    /// Returns the age below which releases are compared with older ones.
    pub(crate) fn comparison_window(&self) -> Duration {
        self.signal_window().max(BASELINE_AGE)
    }

    /// Checks whether a rule of any policy tests this signal.
    pub(crate) fn asks_signal(&self, signal: Signal) -> bool {
        self.policies.iter().any(|policy| policy.asks_signal(signal))
    }

    /// Returns the longest age that a rule of any policy uses.
    pub(crate) fn longest_age(&self) -> Duration {
        self.policies.iter().map(Policy::longest_age).max().unwrap_or_default()
    }

    /// Returns the snapshot as of another instant, with the decisions and rules that applied then. Advisories stay current,
    /// because their history is not recorded.
    pub(crate) fn as_of(&self, at: Timestamp) -> Self {
        let policies = self.policies.iter().map(|policy| policy.as_of(at)).collect();
        let decisions = self.decisions.iter().filter_map(|decision| decision.as_of(at)).collect();
        let base = self.base(self.revision);
        Self::of(policies, decisions, self.advisories.clone(), at, &base)
    }

    /// Returns the snapshot that follows this one, as of `now`.
    fn next(&self, policies: &[Policy], decisions: &Arc<[Decision]>, advisories: &Advisories, now: Timestamp) -> Self {
        let policies = policies.iter().map(|policy| policy.as_of(now)).collect();
        Self::of(policies, Arc::clone(decisions), advisories.clone(), now, &self.base(self.revision + 1))
    }

    fn base(&self, revision: u64) -> SnapshotBase {
        SnapshotBase { signing_keys: Arc::clone(&self.signing_keys), trust_root: self.trust_root.clone(), revision }
    }
}

/// What a snapshot has from elsewhere.
#[derive(Default)]
pub(crate) struct SnapshotBase {
    pub signing_keys: Arc<KeyRing>,
    pub trust_root: Option<Arc<TrustRoot>>,
    pub revision: u64,
}

/// The instant and the policy snapshot of one request.
pub(crate) struct EvalContext {
    pub now: Timestamp,
    pub policy_snapshot: Arc<PolicySnapshot>,
}

/// The current policies, decisions and advisories, and the clock that they are evaluated by.
pub(crate) struct PolicyState {
    current: ArcSwap<PolicySnapshot>,
    clock: Arc<dyn Clock>,
}

impl PolicyState {
    /// Creates the state of a process from the policy of profile 0 and those of further profiles.
    pub(crate) fn new(
        clock: Arc<dyn Clock>,
        policy: Policy,
        further: Vec<Policy>,
        decisions: Vec<Decision>,
        base: &SnapshotBase,
    ) -> Self {
        let now = clock.now();
        let policies = std::iter::once(policy).chain(further).map(|policy| policy.as_of(now)).collect();
        let first = PolicySnapshot::of(policies, decisions.into(), Advisories::default(), now, base);
        Self { current: ArcSwap::from_pointee(first), clock }
    }

    pub(crate) fn now(&self) -> Timestamp {
        self.clock.now()
    }

    /// Returns the current instant with its policy snapshot.
    pub(crate) fn context(&self) -> EvalContext {
        let now = self.now();
        EvalContext { now, policy_snapshot: self.snapshot_at(now) }
    }

    /// Returns the current policy snapshot.
    pub(crate) fn snapshot(&self) -> Arc<PolicySnapshot> {
        self.snapshot_at(self.now())
    }

    /// Returns the current policy snapshot, renewed if a decision or rule has expired.
    fn snapshot_at(&self, now: Timestamp) -> Arc<PolicySnapshot> {
        let is_over = |snapshot: &PolicySnapshot| snapshot.next_change.is_some_and(|until| until <= now);
        let current = self.current.load_full();
        if !is_over(&current) {
            return current;
        }
        self.current.rcu(|current| {
            if !is_over(current) {
                return Arc::clone(current);
            }
            Arc::new(current.next(&current.policies, &current.decisions, &current.advisories, now))
        });
        self.current.load_full()
    }

    pub(crate) fn set_advisories(&self, advisories: &Advisories) {
        let now = self.now();
        self.current.rcu(|current| current.next(&current.policies, &current.decisions, advisories, now));
    }

    /// Replaces what signatures and provenance are verified with, so that both are verified again. Returns whether it differs.
    /// What a repository renewed is not replaced by what is in this program.
    pub(crate) fn set_trust(&self, signing_keys: &Arc<KeyRing>, trust_root: Option<&Arc<TrustRoot>>) -> bool {
        let known = self.current.load();
        let is_older = |new: TrustSource, old: TrustSource| (new, old) == (TrustSource::Bundled, TrustSource::Repository);
        let keys = if is_older(signing_keys.source, known.signing_keys.source) { &known.signing_keys } else { signing_keys };
        let root = match (trust_root, &known.trust_root) {
            (Some(new), Some(old)) if is_older(new.source, old.source) => Some(old),
            (new, _) => new,
        };
        self.replace_trust(keys, root)
    }

    /// Replaces what is in this program by what a repository has. What the operator chose stays. Returns whether it differs.
    pub(crate) fn renew_trust(&self, signing_keys: Option<&Arc<KeyRing>>, trust_root: Option<&Arc<TrustRoot>>) -> bool {
        let known = self.current.load();
        let may_renew = |source: TrustSource| matches!(source, TrustSource::Bundled | TrustSource::Repository);
        let keys = signing_keys.filter(|_| may_renew(known.signing_keys.source)).unwrap_or(&known.signing_keys);
        let may_renew_root = known.trust_root.as_ref().is_some_and(|known| may_renew(known.source));
        let root = trust_root.filter(|_| may_renew_root).or(known.trust_root.as_ref());
        self.replace_trust(keys, root)
    }

    fn replace_trust(&self, signing_keys: &Arc<KeyRing>, trust_root: Option<&Arc<TrustRoot>>) -> bool {
        let now = self.now();
        let known = self.current.load();
        if *known.signing_keys == **signing_keys && known.trust_root.as_ref() == trust_root {
            return false;
        }
        self.current.rcu(|current| {
            let next = current.next(&current.policies, &current.decisions, &current.advisories, now);
            PolicySnapshot { signing_keys: Arc::clone(signing_keys), trust_root: trust_root.cloned(), ..next }
        });
        true
    }

    pub(crate) fn set_decisions(&self, decisions: &Arc<[Decision]>) {
        let now = self.now();
        self.current.rcu(|current| current.next(&current.policies, decisions, &current.advisories, now));
    }

    /// Replaces the policies, one per profile. An empty list keeps the current ones, so that verdicts always have a policy.
    pub(crate) fn set_policies(&self, policies: &[Policy]) {
        let now = self.now();
        self.current.rcu(|current| {
            let policies = if policies.is_empty() { &current.policies } else { policies };
            current.next(policies, &current.decisions, &current.advisories, now)
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock::ManualClock;
    use crate::policy::{compile, presets};

    fn ring(source: TrustSource) -> Arc<KeyRing> {
        let mut ring = KeyRing::bundled();
        ring.source = source;
        Arc::new(ring)
    }

    fn state(source: TrustSource) -> PolicyState {
        let base = SnapshotBase { signing_keys: ring(source), ..SnapshotBase::default() };
        let clock = Arc::new(ManualClock::at(Timestamp::UNIX_EPOCH));
        let file = presets::policy_file("default").unwrap();
        let policy = compile(&[file], &|_, _| Err("not found".to_owned())).unwrap().policy;
        PolicyState::new(clock, policy, Vec::new(), Vec::new(), &base)
    }

    #[test]
    fn repository_renews_bundled_keys_and_not_those_of_the_operator() {
        let renewed = ring(TrustSource::Repository);
        for (source, is_renewed) in [(TrustSource::Bundled, true), (TrustSource::File, false), (TrustSource::Off, false)] {
            let state = state(source);
            let before = state.snapshot().revision;
            assert_eq!(state.renew_trust(Some(&renewed), None), is_renewed, "{source:?}");
            assert_eq!(state.snapshot().revision > before, is_renewed);
            assert!(!state.renew_trust(Some(&renewed), None), "nothing differs any more");
        }
    }

    #[test]
    fn reload_replaces_renewed_keys_by_a_file_and_not_by_bundled_ones() {
        let state = state(TrustSource::Bundled);
        state.renew_trust(Some(&ring(TrustSource::Repository)), None);
        assert!(!state.set_trust(&ring(TrustSource::Bundled), None));
        assert_eq!(state.snapshot().signing_keys.source, TrustSource::Repository);
        assert!(state.set_trust(&ring(TrustSource::File), None));
        assert_eq!(state.snapshot().signing_keys.source, TrustSource::File);
    }
}
