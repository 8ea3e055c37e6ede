//! The rules that stand above every file and that no file switches off: what cannot be believed or checked, and what was taken
//! down. Refuses to ask for anything but the facts.

use std::time::Duration;

use jiff::Timestamp;

use crate::policy::facts::{Facts, Presence};
use crate::policy::verdict::{RuleId, Verdict};
use crate::units::timestamp;

/// A version that went while it was younger than this was taken down, not left-padded. npm itself lets a publisher
/// unpublish within 72 h; what the registry's own team removes, it removed within days in every incident we hold.
pub const TAKEDOWN_AGE: Duration = Duration::from_secs(14 * 24 * 3600);

/// What no file waives; `None` when nothing of it applies.
#[must_use]
pub fn verdict(facts: &Facts<'_>) -> Option<Verdict> {
    if facts.integrity_changed {
        let detail = "its integrity is not the one this version was first seen with";
        return Some(Verdict::deny(RuleId::IntegrityChanged, detail));
    }
    if let Presence::Gone { last_seen, replaced } = facts.presence {
        return judge_gone(facts, last_seen, replaced);
    }
    if let Some(flaw) = facts.flaw {
        return Some(Verdict::deny(RuleId::SelfContradiction, flaw));
    }
    if !facts.has_integrity {
        let detail = "upstream states no integrity for it, so its tarball cannot be checked";
        return Some(Verdict::deny(RuleId::IntegrityMissing, detail));
    }
    None
}

/// Whether a version that left upstream was taken down: a security placeholder came, or it was young when last seen. Young is what is
/// below [`TAKEDOWN_AGE`], or below `longest_age`, the longest that any rule names.
#[must_use]
pub fn is_takedown(effective: Timestamp, last_seen: Timestamp, replaced: bool, longest_age: Duration) -> bool {
    replaced || timestamp::after(effective, TAKEDOWN_AGE.max(longest_age)) > last_seen
}

/// A version that left upstream: a takedown when it was young or a security placeholder came, else a left-pad that goes
/// on being served to those whose lockfiles hold it.
fn judge_gone(facts: &Facts<'_>, last_seen: Option<Timestamp>, replaced: bool) -> Option<Verdict> {
    let Some(last_seen) = last_seen else {
        return Some(Verdict::deny(RuleId::Unpublished, "it was unpublished before it was ever seen here"));
    };
    let seen = timestamp::tell(last_seen);
    if replaced {
        let detail = format!("a security placeholder took its place upstream, last seen {seen}");
        return Some(Verdict::deny(RuleId::Takedown, detail));
    }
    if is_takedown(facts.effective, last_seen, replaced, facts.longest_age) {
        let detail = format!("it was taken down upstream while it was young, last seen {seen}");
        return Some(Verdict::deny(RuleId::Takedown, detail));
    }
    None
}
