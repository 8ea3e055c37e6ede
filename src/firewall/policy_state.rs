//! What changes while serving: the policies in force, the decisions above them, and their joint revision. Loaded once at
//! the top of a request together with the time, so that one request sees one world and one instant.

use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;

use crate::firewall::Components;
use crate::policy::decisions::Decision;
use crate::policy::{ActiveDecisions, Advisories, Policy};

/// Which of the policies in force: that of a listener.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub struct Profile(pub usize);

/// Everything a verdict depends on besides a package's own facts.
#[derive(Debug)]
pub struct PolicySnapshot {
    /// The policies in force, by profile; never empty.
    policies: Vec<Policy>,
    /// Every decision that was ever taken.
    pub decisions: Arc<[Decision]>,
    /// Those of them that are in force.
    pub standing: ActiveDecisions,
    /// What the feeds say.
    pub advisories: Advisories,
    /// The next instant at which something ends by itself: a decision, or a rule.
    until: Option<Timestamp>,
    /// Counts worlds: a judgement made in another one is made again.
    pub revision: u64,
}

impl PolicySnapshot {
    /// The world that a process starts with: the first policy, and those of further profiles.
    pub(crate) fn first(policy: Policy, further: Vec<Policy>, decisions: Vec<Decision>, now: Timestamp) -> Self {
        let policies = std::iter::once(policy).chain(further).map(|policy| policy.as_of(now)).collect();
        Self::of(policies, decisions.into(), Advisories::default(), now, 0)
    }

    fn of(policies: Vec<Policy>, decisions: Arc<[Decision]>, advisories: Advisories, now: Timestamp, revision: u64) -> Self {
        let standing = ActiveDecisions::of(&decisions, now);
        let until = policies.iter().filter_map(Policy::next_expiry).chain(standing.until()).min();
        let advisories = advisories.ruled(standing.rulings());
        Self { policies, decisions, standing, advisories, until, revision }
    }

    /// The policy of a profile.
    #[must_use]
    pub fn policy(&self, profile: Profile) -> &Policy {
        // A profile that is not there has the first one's.
        self.policies.get(profile.0).unwrap_or(&self.policies[0])
    }

    /// The longest age for which a rule holds new packages and spares the parts of established ones; `None` where none
    /// does.
    #[must_use]
    pub(crate) fn spares_siblings(&self) -> Option<Duration> {
        self.policies.iter().filter_map(Policy::spares_siblings).max()
    }

    /// The longest age that a rule of any policy names.
    #[must_use]
    pub(crate) fn longest_age(&self) -> Duration {
        self.policies.iter().map(Policy::longest_age).max().unwrap_or_default()
    }

    /// The world after this one, as of `now`, with these decisions.
    fn with_decisions(&self, decisions: Arc<[Decision]>, now: Timestamp) -> Self {
        let policies = self.policies.iter().map(|policy| policy.as_of(now)).collect();
        Self::of(policies, decisions, self.advisories.clone(), now, self.revision + 1)
    }

    /// The world as of another instant: the decisions that were taken by then, and what of them and of the rules was in
    /// force. Of feeds it is not kept what they said when.
    pub(crate) fn as_of(&self, at: Timestamp) -> Self {
        let policies = self.policies.iter().map(|policy| policy.as_of(at)).collect();
        let decisions = self.decisions.iter().filter_map(|decision| decision.as_of(at)).collect();
        Self::of(policies, decisions, self.advisories.clone(), at, self.revision)
    }

    /// The world after this one, with these policies, as of `now`. Without any nothing would be judged: then it keeps its
    /// own.
    fn with_policies(&self, policies: &[Policy], now: Timestamp) -> Self {
        let policies = if policies.is_empty() { self.policies.as_slice() } else { policies };
        let policies = policies.iter().map(|policy| policy.as_of(now)).collect();
        Self::of(policies, Arc::clone(&self.decisions), self.advisories.clone(), now, self.revision + 1)
    }

    /// The world after this one, as of `now`, with other advisories.
    fn with_advisories(&self, advisories: Advisories, now: Timestamp) -> Self {
        let policies = self.policies.iter().map(|policy| policy.as_of(now)).collect();
        Self::of(policies, Arc::clone(&self.decisions), advisories, now, self.revision + 1)
    }
}

/// One instant and the world as it is then: what one request sees.
pub(crate) struct EvalContext {
    /// The instant.
    pub now: Timestamp,
    /// The world.
    pub world: Arc<PolicySnapshot>,
}

impl Components {
    /// Now.
    pub(crate) fn moment(&self) -> EvalContext {
        let now = self.clock.now();
        EvalContext { now, world: self.world_at(now) }
    }

    /// The world as it is now.
    pub(crate) fn world(&self) -> Arc<PolicySnapshot> {
        self.world_at(self.clock.now())
    }

    /// The world as it is now: what has ended by itself is no part of it from that instant on.
    fn world_at(&self, now: Timestamp) -> Arc<PolicySnapshot> {
        let world = self.world.load_full();
        if world.until.is_none_or(|until| now < until) {
            return world;
        }
        self.world.rcu(|world| {
            let ended = world.until.is_some_and(|until| until <= now);
            if ended { Arc::new(world.with_decisions(Arc::clone(&world.decisions), now)) } else { Arc::clone(world) }
        });
        self.world.load_full()
    }

    /// Follows these advisories from now on.
    pub(crate) fn follow(&self, advisories: &Advisories) {
        let now = self.clock.now();
        self.world.rcu(|world| world.with_advisories(advisories.clone(), now));
    }

    /// Judges by these decisions from now on.
    pub(crate) fn decide(&self, decisions: &Arc<[Decision]>) {
        let now = self.clock.now();
        self.world.rcu(|world| world.with_decisions(Arc::clone(decisions), now));
    }

    /// Judges by these policies from now on, one a profile.
    pub(crate) fn adopt(&self, policies: &[Policy]) {
        let now = self.clock.now();
        self.world.rcu(|world| world.with_policies(policies, now));
    }
}
