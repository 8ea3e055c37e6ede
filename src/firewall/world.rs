//! What changes while serving: the policy in force, the decisions above it, and their joint revision. Loaded once at the top
//! of a request together with the time, so that one request sees one world and one instant.

use std::sync::Arc;

use jiff::Timestamp;

use super::Inner;
use crate::policy::decision::Decision;
use crate::policy::{Advisories, Policy, Standing};

/// Everything a verdict depends on besides a package's own facts.
#[derive(Debug)]
pub struct World {
    /// The rules in force.
    pub policy: Arc<Policy>,
    /// Every decision that was ever taken.
    pub decisions: Arc<[Decision]>,
    /// Those of them that are in force.
    pub standing: Standing,
    /// What the feeds say.
    pub advisories: Advisories,
    /// Counts worlds: a judgement made in another one is made again.
    pub revision: u64,
}

impl World {
    /// The world that a process starts with.
    pub(super) fn first(policy: Policy, decisions: Vec<Decision>, now: Timestamp) -> Self {
        let standing = Standing::of(&decisions, now);
        Self { policy: Arc::new(policy), decisions: decisions.into(), standing, advisories: Advisories::default(), revision: 0 }
    }

    /// The world after this one, with other decisions, as of `now`.
    fn with_decisions(&self, decisions: Arc<[Decision]>, now: Timestamp) -> Self {
        let standing = Standing::of(&decisions, now);
        let (policy, advisories) = (Arc::clone(&self.policy), self.advisories.clone());
        Self { policy, decisions, standing, advisories, revision: self.revision + 1 }
    }

    /// The world after this one, with other advisories.
    fn with_advisories(&self, advisories: Advisories) -> Self {
        let (policy, decisions, standing) = (Arc::clone(&self.policy), Arc::clone(&self.decisions), self.standing.clone());
        Self { policy, decisions, standing, advisories, revision: self.revision + 1 }
    }
}

impl Inner {
    /// The world as it is now: a decision that has ended by itself is no part of it from that instant on.
    pub(super) fn world(&self) -> Arc<World> {
        let world = self.world.load_full();
        let now = self.clock.now();
        if world.standing.until().is_none_or(|until| now < until) {
            return world;
        }
        self.world.rcu(|world| {
            let ended = world.standing.until().is_some_and(|until| until <= now);
            if ended { Arc::new(world.with_decisions(Arc::clone(&world.decisions), now)) } else { Arc::clone(world) }
        });
        self.world.load_full()
    }

    /// Follows these advisories from now on.
    pub(super) fn follow(&self, advisories: &Advisories) {
        self.world.rcu(|world| world.with_advisories(advisories.clone()));
    }

    /// Judges by these decisions from now on.
    pub(super) fn decide(&self, decisions: &Arc<[Decision]>) {
        let now = self.clock.now();
        self.world.rcu(|world| world.with_decisions(Arc::clone(decisions), now));
    }
}
