//! `coldframe explain`: whether a version would be served, and why. Needs no running server and writes nothing down.

use std::sync::Arc;

use clap::Args;
use serde_json::{Value, json};

use super::flags::SettingFlags;
use super::output::{self, Columns, Exit, Failure};
use super::serve::runtime;
use crate::app;
use crate::config::Config;
use crate::firewall::{Explanation, TagMove};
use crate::npm::{Spec, instant};
use crate::policy::{Step, Verdict};
use crate::telemetry::SystemClock;

#[derive(Debug, Args)]
pub(super) struct Arguments {
    /// A package and a version, a dist-tag or a range: `axios@1.14.1`, `axios@^1`, `axios`.
    #[arg(value_name = "SPEC", value_parser = Spec::parse)]
    spec: Spec,
    /// Print JSON.
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    settings: SettingFlags<false>,
}

pub(super) fn run(arguments: Arguments) -> Result<Exit, Failure> {
    let config = arguments.settings.read(Config::gather)?;
    let spec = arguments.spec;
    let explanation = runtime()?.block_on(app::explain(config, Arc::new(SystemClock), &spec))?;
    let text = if arguments.json { tell_json(&explanation) } else { tell(&explanation) };
    output::print(&text)?;
    Ok(if explanation.verdict.allows() { Exit::Done } else { Exit::Refused })
}

fn tell_json(explanation: &Explanation) -> String {
    let instant = |at: Option<jiff::Timestamp>| at.map(|at| at.to_string());
    let reason = explanation.verdict.reason();
    let told = json!({
        "name": explanation.name.as_str(),
        "version": explanation.version,
        "verdict": word(&explanation.verdict),
        "rule": reason.map(|reason| reason.rule.as_str()),
        "reason": reason.map(|reason| &reason.detail),
        "waiver": explanation.waiver.as_ref().map(|reason| json!({ "rule": reason.rule.as_str(), "reason": reason.detail })),
        "rules": explanation.steps.iter().map(step_json).collect::<Vec<_>>(),
        "distTags": explanation.tags.iter().map(tag_json).collect::<Vec<_>>(),
        "published": instant(explanation.published),
        "effective": explanation.effective.to_string(),
        "opens": instant(explanation.verdict.opens()),
        "nearest": explanation.nearest,
        "minimumReleaseAgeSeconds": explanation.minimum_release_age.as_secs(),
        "upstream": &*explanation.upstream,
        "validated": explanation.validated.to_string(),
    });
    format!("{told:#}\n")
}

fn tell(explanation: &Explanation) -> String {
    let mut columns = Columns::indented("  ");
    let published = explanation.published.map_or_else(|| "unknown".to_owned(), instant::tell);
    columns.row(["published", &published]);
    if let Some(reason) = explanation.verdict.reason() {
        columns.row(["rule", reason.rule.as_str()]);
        columns.row(["reason", &reason.detail]);
        let opens = explanation.verdict.opens().map_or_else(|| "never by itself".to_owned(), instant::tell_opening);
        columns.row(["opens", &opens]);
        let nearest = explanation.nearest.as_ref().map(|nearest| format!("{}@{nearest}", explanation.name));
        columns.row(["use instead", nearest.as_deref().unwrap_or("no version is allowed")]);
    } else {
        columns.row(["minimum age", &instant::tell_age(explanation.minimum_release_age)]);
    }
    columns.row(["upstream", &format!("{} (asked {})", explanation.upstream, instant::tell(explanation.validated))]);
    if let Some(waiver) = &explanation.waiver {
        columns.row(["waived", &waiver.detail]);
    }
    for moved in explanation.tags.iter().filter(|moved| moved.shown.as_ref() != Some(&moved.upstream)) {
        let here = moved.shown.as_deref().unwrap_or("nowhere");
        columns.row(["dist-tag", &format!("{} points to {here} here, to {} upstream", moved.tag, moved.upstream)]);
    }
    let mut rules = Columns::indented("    ");
    for step in &explanation.steps {
        rules.row([step.rule.as_str(), &step.action, step.outcome.as_str(), &step.detail]);
    }
    let rules = if explanation.steps.is_empty() { String::new() } else { format!("  rules, first to last\n{rules}") };
    format!("{}@{} is {}\n{columns}{rules}", explanation.name, explanation.version, outcome(&explanation.verdict))
}

fn step_json(step: &Step) -> Value {
    json!({ "rule": step.rule.as_str(), "action": step.action, "outcome": step.outcome.as_str(), "detail": step.detail })
}

fn tag_json(moved: &TagMove) -> Value {
    json!({ "tag": moved.tag, "upstream": moved.upstream, "here": moved.shown })
}

fn word(verdict: &Verdict) -> &'static str {
    match verdict {
        Verdict::Allow => "allow",
        Verdict::Hold { .. } => "hold",
        Verdict::Deny { .. } => "deny",
    }
}

fn outcome(verdict: &Verdict) -> &'static str {
    match verdict {
        Verdict::Allow => "allowed",
        Verdict::Hold { .. } => "held",
        Verdict::Deny { .. } => "denied",
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use expect_test::expect;

    use super::*;
    use crate::npm::PackageName;
    use crate::policy::{Reason, RuleId};

    fn explanation(verdict: Verdict) -> Explanation {
        let published = instant::parse("2026-03-31T00:20:30Z").unwrap();
        Explanation {
            name: PackageName::parse("axios").unwrap(),
            version: "1.14.1".into(),
            verdict,
            waiver: None,
            steps: Vec::new(),
            tags: Vec::new(),
            published: Some(published),
            effective: published,
            nearest: Some("1.14.0".into()),
            minimum_release_age: Duration::from_secs(72 * 3600),
            upstream: "https://registry.example/".into(),
            validated: instant::parse("2026-03-31T04:00:00Z").unwrap(),
        }
    }

    #[test]
    fn a_held_version_is_explained_in_full() {
        let until = instant::parse("2026-04-03T00:20:30Z").unwrap();
        let detail = "published 2026-03-31 00:20 UTC, minimum release age 72 h".to_owned();
        let held = explanation(Verdict::Hold { until, reason: Reason { rule: RuleId::File("minimum-age".into()), detail } });
        expect![[r"
            axios@1.14.1 is held
              published    2026-03-31 00:20 UTC
              rule         minimum-age
              reason       published 2026-03-31 00:20 UTC, minimum release age 72 h
              opens        2026-04-03 00:21 UTC
              use instead  axios@1.14.0
              upstream     https://registry.example/ (asked 2026-03-31 04:00 UTC)
        "]]
        .assert_eq(&tell(&held));
    }

    #[test]
    fn an_allowed_version_needs_few_words() {
        expect![[r"
            axios@1.14.1 is allowed
              published    2026-03-31 00:20 UTC
              minimum age  72 h
              upstream     https://registry.example/ (asked 2026-03-31 04:00 UTC)
        "]]
        .assert_eq(&tell(&explanation(Verdict::Allow)));
    }

    #[test]
    fn json_names_every_part() {
        let told: serde_json::Value =
            serde_json::from_str(&tell_json(&explanation(Verdict::deny(RuleId::Takedown, "gone")))).unwrap();
        assert_eq!(
            (&told["verdict"], &told["rule"], &told["opens"]),
            (&"deny".into(), &"takedown".into(), &serde_json::Value::Null)
        );
    }
}
