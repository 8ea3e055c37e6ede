//! The policies that are shipped, compiled in: `default`, `strict`, `ci`, `observe`. Refuses to know which one is in force.

use std::path::PathBuf;
use std::sync::Arc;

use crate::diagnostics::SourceFile;

/// A policy that is shipped, and the cases beside it.
struct Preset {
    name: &'static str,
    text: &'static str,
    cases: &'static str,
}

macro_rules! shipped {
    ($($name:literal),*) => {
        &[$(Preset {
            name: $name,
            text: include_str!(concat!("../../policies/", $name, ".toml")),
            cases: include_str!(concat!("../../policies/", $name, ".cases")),
        }),*]
    };
}

const SHIPPED: &[Preset] = shipped!["default", "strict", "ci", "observe"];

/// Incidents that happened, with their sources: what a policy is put before where no other file is named.
pub const INCIDENTS: &str = include_str!("../../policies/incidents.json");

/// Where they are in the repository.
pub const INCIDENTS_PATH: &str = "policies/incidents.json (shipped)";

/// The names, in the order in which they are told.
#[must_use]
pub fn names() -> Vec<&'static str> {
    SHIPPED.iter().map(|shipped| shipped.name).collect()
}

/// The shipped policy of a name.
#[must_use]
pub fn file(name: &str) -> Option<Arc<SourceFile>> {
    let shipped = SHIPPED.iter().find(|shipped| shipped.name == name)?;
    Some(Arc::new(SourceFile { path: PathBuf::from(format!("policies/{name}.toml")), text: shipped.text.to_owned() }))
}

/// The cases that are shipped beside it.
#[must_use]
pub fn cases(name: &str) -> Option<Arc<SourceFile>> {
    let shipped = SHIPPED.iter().find(|shipped| shipped.name == name)?;
    Some(Arc::new(SourceFile { path: PathBuf::from(format!("policies/{name}.cases")), text: shipped.cases.to_owned() }))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::policy::cases;
    use crate::policy::rules::compose::compile;

    /// The shipped policy of a name.
    fn policy(name: &str) -> crate::policy::rules::Policy {
        let find = |_: &SourceFile, name: &str| file(name).ok_or_else(|| "there is none".to_owned());
        let compiled = compile(&[file(name).unwrap()], &find).unwrap_or_else(|mistakes| panic!("{mistakes}"));
        assert!(compiled.warnings.is_empty(), "{:?}", compiled.warnings);
        compiled.policy
    }

    #[test]
    fn every_shipped_policy_answers_its_cases() {
        for name in names() {
            let (policy, cases) =
                (policy(name), cases::parse(&cases(name).unwrap()).unwrap_or_else(|mistakes| panic!("{mistakes}")));
            assert!(cases.len() > 1, "{name}");
            for case in cases {
                case.run(&policy).unwrap_or_else(|failed| panic!("{failed}"));
            }
        }
    }

    #[test]
    fn every_shipped_rule_stands_below_the_attack_that_it_answers() {
        for shipped in SHIPPED {
            let mut comment = String::new();
            for line in shipped.text.lines() {
                match line.strip_prefix('#') {
                    Some(words) => comment += words,
                    None if line == "[[rule]]" => {
                        let known = comment.contains("(20") || comment.contains("`default`");
                        let follows_suit = comment.is_empty() && shipped.name == "default";
                        assert!(known || follows_suit, "{}: {comment:?}", shipped.name);
                        comment.clear();
                    }
                    None => {}
                }
            }
        }
    }
}
