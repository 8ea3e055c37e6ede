//! Texts that explain why a rule refuses a version, allows it, or does not match it.

use std::sync::Arc;
use std::time::Duration;

use crate::policy::advisories::AdvisoryKind;
use crate::policy::facts::Facts;
use crate::policy::rules::rule::{
    AdvisoryCondition, AgeSubject, DependencyKind, GlobList, MINIMUM_AGE, Rule, RuleAction, RuleOutcome, UnmetCondition,
};
use crate::policy::trace::{StepOutcome, TraceStep};
use crate::policy::verdict::RuleId;
use crate::units::timestamp;
use crate::vetting::compare::SignalEvidence;
use crate::vetting::{Finding, Findings, Signal, Signals};

pub(crate) fn rule_step(rule: &Rule, facts: &Facts<'_>, outcome: RuleOutcome) -> TraceStep {
    let matched = || match rule.action {
        RuleAction::Allow => describe_allow(rule, facts),
        RuleAction::Deny | RuleAction::Hold { .. } | RuleAction::Warn => describe_refusal(rule, facts),
    };
    let (outcome, detail) = match outcome {
        RuleOutcome::NoMatch(unmet) => (StepOutcome::NoMatch, describe_mismatch(rule, facts, unmet)),
        RuleOutcome::Excluded => (StepOutcome::Waived, "ages are waived for the package".to_owned()),
        RuleOutcome::Passed => (StepOutcome::Passed, "the minimum age has passed".to_owned()),
        RuleOutcome::BrokenGlass => (StepOutcome::Waived, "break-glass waives rules on ages and signals".to_owned()),
        RuleOutcome::Warned => (StepOutcome::Warned, matched()),
        RuleOutcome::Decided => (StepOutcome::Decided, matched()),
    };
    let action = if rule.observe { format!("{}, observed", rule.action.describe()) } else { rule.action.describe() };
    TraceStep { rule: RuleId::File(Arc::clone(&rule.id)), action, outcome, detail }
}

/// Describes a refusal or a warning. The text follows the version's name.
pub(crate) fn describe_refusal(rule: &Rule, facts: &Facts<'_>) -> String {
    let published = published(facts);
    if let RuleAction::Hold { age, of: AgeSubject::Release } = rule.action
        && *rule.id == *MINIMUM_AGE
    {
        return format!("{published}, minimum release age {}", timestamp::format_duration(age));
    }
    let mut parts = vec![rule.reason.to_string()];
    if let Some(ask) = &rule.conditions.advisory {
        let fitting = facts.advisories.matching(facts.version, facts.parsed).filter(|advisory| ask.fits(advisory));
        parts.extend(fitting.map(|advisory| format!("{} ({})", advisory.id, advisory.feed)));
    }
    if let Some((wanted, _)) = rule.conditions.signals {
        parts.extend(facts.signals.and(wanted).iter().map(|signal| describe_signal(signal, facts)));
        parts.extend(facts.pending.and(wanted).iter().map(|signal| format!("{} is not decided yet", signal.as_str())));
    }
    if let Some(wanted) = rule.conditions.findings {
        parts.extend(facts.findings.and(wanted).iter().map(|finding| describe_finding(finding, facts)));
    }
    match rule.action {
        RuleAction::Hold { age, of: AgeSubject::Release } => {
            parts.push(format!("held until it is {} old", timestamp::format_duration(age)));
        }
        RuleAction::Hold { age, of: AgeSubject::Package } => {
            let first_published = facts.first_published.map_or_else(|| "at an unknown time".to_owned(), timestamp::format_utc);
            parts.push(format!(
                "its package was first published {first_published}, new packages wait {}",
                timestamp::format_duration(age)
            ));
        }
        RuleAction::Allow | RuleAction::Deny | RuleAction::Warn => {}
    }
    format!("{published}, {}", parts.join(", "))
}

/// Names a signal with its evidence: `first-install-script (an install script; none of 40 earlier releases has an install script)`.
fn describe_signal(signal: Signal, facts: &Facts<'_>) -> String {
    let evidence = facts.evidence.iter().filter(|evidence| evidence.signal == signal);
    let evidence: Vec<_> = evidence.map(SignalEvidence::describe).collect();
    if evidence.is_empty() { signal.as_str().to_owned() } else { format!("{} ({})", signal.as_str(), evidence.join("; ")) }
}

/// Names a finding with its evidence: `manifest-confusion (scripts: postinstall is "node a.js", which the packument does not state)`.
fn describe_finding(finding: Finding, facts: &Facts<'_>) -> String {
    let evidence: Vec<_> = facts.finding_evidence.iter().filter(|evidence| evidence.finding == finding).collect();
    let Some(first) = evidence.first() else { return finding.as_str().to_owned() };
    let more = if evidence.len() > 1 { format!("; {} more", evidence.len() - 1) } else { String::new() };
    format!("{} ({}{more})", finding.as_str(), first.detail)
}

pub(crate) fn describe_allow(rule: &Rule, facts: &Facts<'_>) -> String {
    let fix = facts.fix.filter(|_| rule.conditions.fixes).map(|advisory| format!(": {advisory}"));
    format!("{}{}", rule.reason, fix.unwrap_or_default())
}

/// Describes why a rule does not match.
pub(crate) fn describe_mismatch(rule: &Rule, facts: &Facts<'_>, differs: UnmetCondition) -> String {
    let (conditions, traits) = (&rule.conditions, facts.traits);
    match differs {
        UnmetCondition::Package => "the rule is for other packages".to_owned(),
        UnmetCondition::Excepted => "the rule excepts the package".to_owned(),
        UnmetCondition::Version => {
            let range = conditions.versions.as_ref().map(ToString::to_string).unwrap_or_default();
            format!("{} is not in `{range}`", facts.version)
        }
        UnmetCondition::Age => format!("{}, outside the age limits of the rule", published(facts)),
        UnmetCondition::PackageAge => match facts.first_published {
            Some(first_published) => format!("its package was first published {}", timestamp::format_utc(first_published)),
            None => "the age of the package is unknown".to_owned(),
        },
        UnmetCondition::Publisher => {
            facts.publisher.map_or_else(|| "its publisher is unknown".to_owned(), |name| format!("its publisher is {name}"))
        }
        UnmetCondition::Maintainers => "no maintainer matches".to_owned(),
        UnmetCondition::InstallScript if traits.install_script => "it has an install script".to_owned(),
        UnmetCondition::InstallScript => "it has no install script".to_owned(),
        UnmetCondition::Deprecated if traits.deprecated => "it is deprecated".to_owned(),
        UnmetCondition::Deprecated => "it is not deprecated".to_owned(),
        UnmetCondition::Dependencies => "it has no dependency of these kinds".to_owned(),
        UnmetCondition::Tags => "no dist-tag of the rule points to it".to_owned(),
        UnmetCondition::Advisory => "no matching advisory".to_owned(),
        UnmetCondition::Signals if facts.signals.is_empty() => "it has no signals".to_owned(),
        UnmetCondition::Signals => "it has too few of these signals".to_owned(),
        UnmetCondition::Findings => "it has none of these findings".to_owned(),
        UnmetCondition::Fix if facts.fix.is_some() && !facts.signals.is_empty() => "it has signals".to_owned(),
        UnmetCondition::Fix if facts.fix.is_some() => {
            let open = facts.unobservable.or(facts.pending);
            let open: Vec<_> = open.iter().map(Signal::as_str).collect();
            format!("signals that cannot be excluded: {}", open.join(", "))
        }
        UnmetCondition::Fix => "no reviewed advisory names it as the fix, or its publisher is new to the package".to_owned(),
        UnmetCondition::Unknown => "the document does not carry a fact that the rule tests".to_owned(),
        UnmetCondition::Sibling => "it is a subpackage of an established package".to_owned(),
    }
}

/// Describes when a rule applies, for people who read a policy.
pub(crate) fn describe_conditions(rule: &Rule) -> String {
    let conditions = &rule.conditions;
    let mut parts = Vec::new();
    let mut part = |label: &str, text: Option<String>| parts.extend(text.map(|text| format!("{label} {text}")));
    let globs = |globs: &Option<GlobList>| globs.as_ref().map(|globs| globs.words.join(", "));
    let age = |age: Option<Duration>| age.map(timestamp::format_duration);
    part("packages", globs(&conditions.packages));
    part("except", globs(&conditions.except));
    part("versions", conditions.versions.as_ref().map(ToString::to_string));
    part("older than", age(conditions.age.older_than));
    part("younger than", age(conditions.age.younger_than));
    part("package older than", age(conditions.package_age.older_than));
    part("package younger than", age(conditions.package_age.younger_than));
    part("publishers", globs(&conditions.publishers));
    part("maintainers", globs(&conditions.maintainers));
    part("install script:", conditions.install_script.map(yes_or_no));
    part("deprecated:", conditions.deprecated.map(yes_or_no));
    let kinds = |kinds: &Vec<DependencyKind>| kinds.iter().map(|kind| kind.as_str()).collect::<Vec<_>>().join(", ");
    part("dependencies on", conditions.dependencies.as_ref().map(kinds));
    part("dist-tags", conditions.tags.as_ref().map(|tags| tags.join(", ")));
    part("advisories:", conditions.advisory.as_ref().map(describe_advisories));
    let signals = |(signals, least): (Signals, u32)| {
        format!("{least} or more of {}", signals.iter().map(Signal::as_str).collect::<Vec<_>>().join(", "))
    };
    part("signals:", conditions.signals.map(signals));
    let findings = |findings: Findings| findings.iter().map(Finding::as_str).collect::<Vec<_>>().join(", ");
    part("findings:", conditions.findings.map(findings));
    part("not for", conditions.spares_siblings.then(|| "parts of established packages".to_owned()));
    part("an advisory names it as", conditions.fixes.then(|| "the fix".to_owned()));
    if parts.is_empty() { "always".to_owned() } else { parts.join("; ") }
}

fn yes_or_no(is: bool) -> String {
    if is { "yes" } else { "no" }.to_owned()
}

fn describe_advisories(condition: &AdvisoryCondition) -> String {
    let AdvisoryCondition { kind, severity, feeds, trust } = condition;
    let kind = kind.map_or("any kind", AdvisoryKind::as_str);
    let severity = severity.map(|least| format!(", severity {} or more", least.as_str())).unwrap_or_default();
    let feeds = feeds.as_ref().map(|feeds| format!(", feeds {}", feeds.join(", "))).unwrap_or_default();
    let trust = trust.map(|trust| format!(", trust {}", trust.as_str())).unwrap_or_default();
    format!("{kind}{severity}{feeds}{trust}")
}

/// Describes the publish time, or when the version was first seen if upstream states none or an implausible one.
fn published(facts: &Facts<'_>) -> String {
    let effective = timestamp::format_utc(facts.effective);
    match facts.published {
        None => format!("upstream gives no publish time, first seen {effective}"),
        Some(published) if published < facts.effective => {
            format!("published {}, but was missing upstream at {effective}", timestamp::format_utc(published))
        }
        Some(published) => format!("published {}", timestamp::format_utc(published)),
    }
}
