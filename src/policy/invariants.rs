//! Built-in rules that no policy file can switch off: inconsistent manifests, missing or changed integrity, takedowns.

use std::time::Duration;

use jiff::Timestamp;

use crate::policy::facts::{Facts, Presence, Removal};
use crate::policy::verdict::{RuleId, Verdict};
use crate::units::timestamp;

/// A version that was removed below this age counts as taken down; an older one counts as a plain unpublish (as with left-pad).
/// npm lets a publisher unpublish within 72 h. In every recorded incident the registry's team removed the version within days.
pub const TAKEDOWN_AGE: Duration = Duration::from_secs(14 * 24 * 3600);

/// Returns the refusal of a built-in rule. Returns `None` if none applies.
pub(crate) fn check(facts: &Facts<'_>) -> Option<Verdict> {
    if facts.integrity_changed {
        let detail = "its integrity differs from the one first seen for this version";
        return Some(Verdict::deny(RuleId::IntegrityChanged, detail));
    }
    if let Presence::Gone(removal) = facts.presence {
        return judge_gone(facts, removal);
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

/// Checks whether a removed version was taken down: it was last seen below the takedown age. That age is [`TAKEDOWN_AGE`] or
/// `longest_age` (the longest age that any rule names), whichever is longer.
pub(crate) fn is_takedown(effective: Timestamp, last_seen: Timestamp, longest_age: Duration) -> bool {
    timestamp::saturating_add(effective, TAKEDOWN_AGE.max(longest_age)) > last_seen
}

/// Evaluates a removed version. A takedown is refused; any other removed version is still served to clients whose lockfiles have
/// it.
fn judge_gone(facts: &Facts<'_>, removal: Removal) -> Option<Verdict> {
    let Removal { last_seen, replaced, longest_age } = removal;
    let Some(last_seen) = last_seen else {
        return Some(Verdict::deny(RuleId::Unpublished, "it was unpublished upstream before coldframe saw it"));
    };
    let seen = timestamp::format_utc(last_seen);
    if replaced {
        let detail = format!("a security placeholder replaced it upstream, last seen {seen}");
        return Some(Verdict::deny(RuleId::Takedown, detail));
    }
    if is_takedown(facts.effective, last_seen, longest_age) {
        let detail = format!("it was removed upstream soon after its release, last seen {seen}");
        return Some(Verdict::deny(RuleId::Takedown, detail));
    }
    None
}
