//! Finds rules that can never be reached because an earlier rule decides everything they match. Reports no reachable rule, but
//! may miss unreachable ones.

use crate::diagnostics::Diagnostic;
use crate::policy::rules::rule::{AgeSubject, GlobList, Rule, RuleAction, RuleConditions};

/// Reports every rule that an earlier rule shadows.
pub(crate) fn find_shadowed(rules: &[Rule], errors: &mut Vec<Diagnostic>) {
    for (at, rule) in rules.iter().enumerate() {
        let Some(place) = rule.place.clone() else { continue };
        let Some(above) = rules[..at].iter().find(|above| shadows(above, rule)) else { continue };
        let line = above.place.as_ref().map(|place| place.position().0).unwrap_or_default();
        let problem = format!("`{}` is never reached: `{}` on line {line} decides everything it matches", rule.id, above.id);
        errors.push(Diagnostic::new(place, problem, "the rule moved above the other one, or removed"));
    }
}

/// Checks whether `above` decides everything that `rule` matches. A rule that expires or only observes shadows nothing.
fn shadows(above: &Rule, rule: &Rule) -> bool {
    if above.observe || above.expires.is_some() {
        return false;
    }
    let decides = match (above.action, rule.action) {
        (RuleAction::Allow | RuleAction::Deny, _) => true,
        (RuleAction::Hold { age, of }, RuleAction::Hold { age: later, of: whose }) => of == whose && age >= later,
        (RuleAction::Hold { .. } | RuleAction::Warn, _) => false,
    };
    // The same range matches fewer versions in an allowing rule than in a refusing one.
    let as_wide = above.action != RuleAction::Allow || rule.action == RuleAction::Allow || above.conditions.versions.is_none();
    let of_package = |rule: &Rule| matches!(rule.action, RuleAction::Hold { of: AgeSubject::Package, .. });
    decides && as_wide && of_package(above) <= of_package(rule) && implies(&rule.conditions, &above.conditions)
}

/// Checks whether every version that meets `narrow` also meets `wide`.
fn implies(narrow: &RuleConditions, wide: &RuleConditions) -> bool {
    globs(narrow.packages.as_ref(), wide.packages.as_ref())
        && excepts(narrow, wide)
        && wide.versions.as_ref().is_none_or(|wide| narrow.versions.as_ref().is_some_and(|narrow| narrow.text == wide.text))
        && narrow.age.implies(wide.age)
        && narrow.package_age.implies(wide.package_age)
        && globs(narrow.publishers.as_ref(), wide.publishers.as_ref())
        && globs(narrow.maintainers.as_ref(), wide.maintainers.as_ref())
        && (wide.install_script.is_none() || wide.install_script == narrow.install_script)
        && (wide.deprecated.is_none() || wide.deprecated == narrow.deprecated)
        && among(narrow.dependencies.as_deref(), wide.dependencies.as_deref())
        && among(narrow.tags.as_deref(), wide.tags.as_deref())
        && (wide.advisory.is_none() || wide.advisory == narrow.advisory)
        && (wide.signals.is_none() || wide.signals == narrow.signals)
        && (wide.findings.is_none() || wide.findings == narrow.findings)
        && (!wide.spares_siblings || narrow.spares_siblings)
        && (!wide.fixes || narrow.fixes)
}

/// Checks whether the wide globs match everything that the narrow ones match, as far as their text shows.
fn globs(narrow: Option<&GlobList>, wide: Option<&GlobList>) -> bool {
    let Some(wide) = wide else { return true };
    let literal = |word: &str| !word.contains(['*', '?', '[', '{', '\\']);
    narrow.is_some_and(|narrow| {
        narrow.words.iter().all(|word| wide.words.contains(word) || (literal(word) && wide.set.is_match(&**word)))
    })
}

/// Checks whether the wide rule excepts nothing that the narrow rule matches.
fn excepts(narrow: &RuleConditions, wide: &RuleConditions) -> bool {
    let Some(spared) = &wide.except else { return true };
    narrow.except.as_ref().is_some_and(|excepted| spared.words.iter().all(|word| excepted.words.contains(word)))
}

fn among<T: PartialEq>(narrow: Option<&[T]>, wide: Option<&[T]>) -> bool {
    let Some(wide) = wide else { return true };
    narrow.is_some_and(|narrow| narrow.iter().all(|value| wide.contains(value)))
}
