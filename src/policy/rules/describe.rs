//! Why a rule refuses a version, or does not match it, in words. Refuses to decide anything.

use crate::policy::facts::Facts;
use crate::policy::rules::rule::{AgeSubject, MINIMUM_AGE, Rule, RuleAction, UnmetCondition};
use crate::units::timestamp;

/// The particulars of a refusal or a warning: what a person reads after the version's name.
pub(crate) fn refusal(rule: &Rule, facts: &Facts<'_>) -> String {
    let published = published(facts);
    if let RuleAction::Hold { age, of: AgeSubject::Release } = rule.action
        && *rule.id == *MINIMUM_AGE
    {
        return format!("{published}, minimum release age {}", timestamp::tell_age(age));
    }
    let mut parts = vec![rule.reason.to_string()];
    if rule.asks.advisory.is_some() {
        parts.extend(advisories(rule, facts));
    }
    if let Some((wanted, _)) = rule.asks.signals {
        parts.extend(facts.signals.and(wanted).iter().map(|signal| signal.as_str().to_owned()));
    }
    if let Some(wanted) = rule.asks.findings {
        parts.extend(facts.findings.and(wanted).iter().map(|finding| finding.as_str().to_owned()));
    }
    match rule.action {
        RuleAction::Hold { age, of: AgeSubject::Release } => {
            parts.push(format!("waits for an age of {}", timestamp::tell_age(age)));
        }
        RuleAction::Hold { age, of: AgeSubject::Package } => {
            let born = facts.born.map_or_else(|| "at an unknown time".to_owned(), timestamp::tell);
            parts.push(format!("its package was first published {born}, new packages wait {}", timestamp::tell_age(age)));
        }
        RuleAction::Allow | RuleAction::Deny | RuleAction::Warn => {}
    }
    format!("{published}, {}", parts.join(", "))
}

/// Why a rule lets a version through.
pub(crate) fn permission(rule: &Rule, facts: &Facts<'_>) -> String {
    let fix = facts.fix.filter(|_| rule.asks.fixes).map(|advisory| format!(": {advisory}"));
    format!("{}{}", rule.reason, fix.unwrap_or_default())
}

/// Why a rule does not match.
pub(crate) fn difference(rule: &Rule, facts: &Facts<'_>, differs: UnmetCondition) -> String {
    let (asks, traits) = (&rule.asks, facts.traits);
    match differs {
        UnmetCondition::Package => "it is about other packages".to_owned(),
        UnmetCondition::Excepted => "the package is excepted".to_owned(),
        UnmetCondition::Version => {
            let range = asks.versions.as_ref().map(ToString::to_string).unwrap_or_default();
            format!("{} does not lie in `{range}`", facts.version)
        }
        UnmetCondition::Age => format!("{} at another age", published(facts)),
        UnmetCondition::PackageAge => match facts.born {
            Some(born) => format!("its package was first published {}", timestamp::tell(born)),
            None => "nobody knows how old the package is".to_owned(),
        },
        UnmetCondition::Publisher => {
            facts.publisher.map_or_else(|| "its publisher is not known".to_owned(), |name| format!("its publisher is {name}"))
        }
        UnmetCondition::Maintainers => "no maintainer of that name is known".to_owned(),
        UnmetCondition::InstallScript if traits.install_script => "it runs a script at install".to_owned(),
        UnmetCondition::InstallScript => "it runs no script at install".to_owned(),
        UnmetCondition::Deprecated if traits.deprecated => "it is deprecated".to_owned(),
        UnmetCondition::Deprecated => "it is not deprecated".to_owned(),
        UnmetCondition::Dependencies => "its dependencies come from registries".to_owned(),
        UnmetCondition::Tags => "no such dist-tag points to it".to_owned(),
        UnmetCondition::Advisory => "no such advisory names it".to_owned(),
        UnmetCondition::Signals if facts.signals.is_empty() => "there are no signals".to_owned(),
        UnmetCondition::Signals => "too few such signals".to_owned(),
        UnmetCondition::Findings => "there are no such findings".to_owned(),
        UnmetCondition::Fix if facts.fix.is_some() && !facts.signals.is_empty() => "there are signals".to_owned(),
        UnmetCondition::Fix if facts.fix.is_some() => {
            let undecided: Vec<_> = facts.undecided.iter().map(crate::vetting::Signal::as_str).collect();
            format!("not decided yet: {}", undecided.join(", "))
        }
        UnmetCondition::Fix => {
            "no reviewed advisory names it as the fix, or its publisher published nothing of the package before".to_owned()
        }
        UnmetCondition::Unknown => "the document does not say what the rule asks for".to_owned(),
        UnmetCondition::Sibling => "an established package pins it as one of its own parts".to_owned(),
    }
}

/// When it was published, as far as upstream says and we believe it.
fn published(facts: &Facts<'_>) -> String {
    let effective = timestamp::tell(facts.effective);
    match facts.published {
        None => format!("upstream gives no publish time, first seen {effective}"),
        Some(published) if published < facts.effective => {
            format!("published {}, but was not there at {effective}", timestamp::tell(published))
        }
        Some(published) => format!("published {}", timestamp::tell(published)),
    }
}

fn advisories(rule: &Rule, facts: &Facts<'_>) -> Vec<String> {
    let Some(ask) = &rule.asks.advisory else { return Vec::new() };
    let fitting = facts.advised().filter(|advisory| ask.fits(advisory));
    fitting.map(|advisory| format!("{} ({})", advisory.id, advisory.feed)).collect()
}
