//! The versions of a package that wait for siblings, by position in its index. Pure.

use std::collections::HashMap;
use std::time::Duration;

use jiff::Timestamp;

use crate::policy::CohortWait;
use crate::units::timestamp;

/// The longest that a version waits for its siblings after its own rules open it.
pub(crate) const MAX_COHORT_WAIT: Duration = Duration::from_secs(7 * 24 * 3600);

#[derive(Debug, Default)]
pub(crate) struct CohortTable {
    /// The revision of the policy snapshot.
    pub revision: u64,
    /// 0 until the siblings were looked up.
    pub generation: u64,
    pub waits: HashMap<usize, CohortWait>,
}

/// A sibling that a version needs, directly or through others.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct CohortMember {
    /// As `name@version`.
    pub spec: String,
    /// The effective publish time.
    pub effective: Timestamp,
    /// When its rules open it; `None` if they never do.
    pub opens: Option<Timestamp>,
}

/// Returns how long a version waits whose own rules open it at `opens`. Members that were published after that do not count: the
/// version was open before. Neither do members that never open.
pub(crate) fn wait(opens: Timestamp, members: &[CohortMember]) -> Option<CohortWait> {
    let counts = |member: &&CohortMember| member.effective <= opens;
    let (sibling_opens, last) =
        members.iter().filter(counts).filter_map(|member| Some((member.opens?, member))).max_by_key(|of| of.0)?;
    let latest = timestamp::saturating_add(opens, MAX_COHORT_WAIT);
    let until = sibling_opens.min(latest);
    (until > opens).then(|| CohortWait { until, sibling: last.spec.clone(), sibling_opens })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn at(hours: i64) -> Timestamp {
        Timestamp::from_second(1_774_915_200 + hours * 3600).unwrap()
    }

    fn member(effective: i64, opens: Option<i64>) -> CohortMember {
        CohortMember { spec: format!("@x/y@{effective}"), effective: at(effective), opens: opens.map(at) }
    }

    #[test]
    fn version_opens_with_the_last_sibling_that_it_needs() {
        let members = [member(0, Some(72)), member(1, Some(73)), member(2, None), member(80, Some(152))];
        let found = wait(at(72), &members).unwrap();
        assert_eq!((found.until, found.sibling.as_str()), (at(73), "@x/y@1"));
        assert_eq!(wait(at(73), &members[..2]), None);
        assert_eq!(wait(at(72), &[member(0, Some(900))]).unwrap().until, at(72 + 168));
    }

    proptest! {
        #[test]
        fn wait_never_shortens_and_is_at_most_seven_days(
            opens in 0..400_i64,
            members in prop::collection::vec((0..800_i64, prop::option::of(0..800_i64)), 0..6),
        ) {
            let members: Vec<_> = members.into_iter().map(|(effective, opens)| member(effective, opens)).collect();
            if let Some(wait) = wait(at(opens), &members) {
                prop_assert!(wait.until > at(opens) && wait.until <= at(opens + 168) && wait.until <= wait.sibling_opens);
                // What is published later changes nothing.
                let mut more = members.clone();
                more.push(member(opens + 1, Some(opens + 100)));
                prop_assert_eq!(super::wait(at(opens), &more), Some(wait));
            }
        }
    }
}
