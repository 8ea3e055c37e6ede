//! Renders an explanation for a terminal. Text from upstream and users is escaped.

use crate::firewall::Explanation;
use crate::text::TextTable;
use crate::text::single_line;

pub(crate) fn text(explanation: &Explanation) -> String {
    let pairs = |rows: Vec<(&'static str, String)>, indent| {
        let mut columns = TextTable::indented(indent);
        for (label, value) in rows {
            columns.row([&label, &value]);
        }
        columns.to_string()
    };
    let mut rules = TextTable::indented("    ");
    for step in &explanation.steps {
        rules.row([&step.rule, &step.action, &step.outcome.as_str(), &step.detail]);
    }
    let (verdict, facts) = (pairs(explanation.rows(), "  "), pairs(explanation.seen.rows(), "    "));
    let facts = if facts.is_empty() { facts } else { format!("  facts\n{facts}") };
    let rules = if explanation.steps.is_empty() { String::new() } else { format!("  rules, first to last\n{rules}") };
    format!("{}\n{verdict}{rules}{facts}", single_line(&explanation.headline()))
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use expect_test::expect;

    use super::*;
    use crate::firewall::explain::explanation::{DistTagChange, ExplainedFacts, RequestedSpec};
    use crate::npm::PackageName;
    use crate::policy::{RuleId, StepOutcome, TraceStep, Verdict};
    use crate::units::timestamp;

    fn explanation(verdict: Verdict) -> Explanation {
        let published = timestamp::parse("2026-03-31T00:20:30Z").unwrap();
        Explanation {
            name: PackageName::parse("axios").unwrap(),
            version: "1.14.1".into(),
            asked: None,
            verdict,
            waiver: None,
            steps: Vec::new(),
            tags: Vec::new(),
            seen: ExplainedFacts::default(),
            published: Some(published),
            effective: published,
            nearest: Some("1.14.0".into()),
            minimum_release_age: Duration::from_secs(72 * 3600),
            upstream: "https://registry.example/".into(),
            validated: timestamp::parse("2026-03-31T04:00:00Z").unwrap(),
            as_of: None,
            may_be_requested: true,
            remarks: Vec::new(),
        }
    }

    fn held() -> Explanation {
        let until = timestamp::parse("2026-04-03T00:20:30Z").unwrap();
        let detail = "published 2026-03-31 00:20 UTC, minimum release age 72 h".to_owned();
        let step = |rule: &str, action: &str, outcome, detail: &str| TraceStep {
            rule: RuleId::File(rule.into()),
            action: action.to_owned(),
            outcome,
            detail: detail.to_owned(),
        };
        Explanation {
            asked: Some(RequestedSpec { text: "^1".into(), given: Some("1.14.0".into()) }),
            steps: vec![
                step("built-in", "deny", StepOutcome::NoMatch, "it agrees with itself"),
                step("minimum-age", "hold 72 h", StepOutcome::Decided, &detail),
            ],
            tags: vec![DistTagChange { tag: "latest".into(), upstream: "1.14.1".into(), shown: Some("1.14.0".into()) }],
            seen: ExplainedFacts {
                publisher: Some("<script>alert(1)</script>".to_owned()),
                maintainers: vec!["ada\u{1b}[2J".to_owned()],
                ..ExplainedFacts::default()
            },
            ..explanation(Verdict::hold(until, RuleId::File("minimum-age".into()), detail))
        }
    }

    #[test]
    fn held_version_is_explained_in_full() {
        expect![[r#"
            axios@1.14.1 is held
              asked        `^1` resolves to 1.14.1 upstream, to axios@1.14.0 here
              published    2026-03-31 00:20 UTC
              rule         minimum-age
              reason       published 2026-03-31 00:20 UTC, minimum release age 72 h
              opens        2026-04-03 00:21 UTC
              use instead  axios@1.14.0
              ask          coldframe request axios@1.14.1 --reason TEXT
              upstream     https://registry.example/ (asked 2026-03-31 04:00 UTC)
              dist-tag     latest points to 1.14.0 here, to 1.14.1 upstream
              rules, first to last
                built-in     deny       no match  it agrees with itself
                minimum-age  hold 72 h  decides   published 2026-03-31 00:20 UTC, minimum release age 72 h
              facts
                publisher    <script>alert(1)</script>
                maintainers  ada\u001b[2J
        "#]]
        .assert_eq(&text(&held()));
    }

    #[test]
    fn allowed_version_has_a_short_explanation() {
        expect![[r#"
            axios@1.14.1 is allowed
              published    2026-03-31 00:20 UTC
              minimum age  72 h
              tarball      checked against its integrity before it is sent
              upstream     https://registry.example/ (asked 2026-03-31 04:00 UTC)
        "#]]
        .assert_eq(&text(&explanation(Verdict::Allow)));
    }

    #[test]
    fn json_has_verdict_rule_and_opening_time() {
        let json = explanation(Verdict::deny(RuleId::Takedown, "gone")).json();
        assert_eq!(
            (&json["verdict"], &json["rule"], &json["opens"]),
            (&"deny".into(), &"takedown".into(), &serde_json::Value::Null)
        );
    }
}
