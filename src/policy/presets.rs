//! The shipped policies, compiled in: `default`, `strict`, `ci`, `observe`.

use std::path::PathBuf;
use std::sync::Arc;

use crate::diagnostics::SourceFile;

/// A shipped policy and its test cases.
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

/// Past incidents with their sources: the default input of `coldframe policy replay`.
pub const INCIDENTS: &str = include_str!("../../policies/incidents.json");

pub const INCIDENTS_PATH: &str = "policies/incidents.json (shipped)";

/// Returns the policy names in display order.
pub(crate) fn names() -> Vec<&'static str> {
    SHIPPED.iter().map(|shipped| shipped.name).collect()
}

pub fn policy_file(name: &str) -> Option<Arc<SourceFile>> {
    let shipped = SHIPPED.iter().find(|shipped| shipped.name == name)?;
    Some(Arc::new(SourceFile { path: PathBuf::from(format!("policies/{name}.toml")), text: shipped.text.to_owned() }))
}

/// Returns the test cases of the shipped policy with this name.
pub(crate) fn case_file(name: &str) -> Option<Arc<SourceFile>> {
    let shipped = SHIPPED.iter().find(|shipped| shipped.name == name)?;
    Some(Arc::new(SourceFile { path: PathBuf::from(format!("policies/{name}.cases")), text: shipped.cases.to_owned() }))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::policy::cases;
    use crate::policy::rules::compose::compile;

    fn policy(name: &str) -> crate::policy::rules::Policy {
        let find = |_: &SourceFile, name: &str| policy_file(name).ok_or_else(|| "not found".to_owned());
        let compiled = compile(&[policy_file(name).unwrap()], &find).unwrap_or_else(|errors| panic!("{errors}"));
        assert!(compiled.warnings.is_empty(), "{:?}", compiled.warnings);
        compiled.policy
    }

    #[test]
    fn every_shipped_policy_passes_its_cases() {
        for name in names() {
            let (policy, cases) =
                (policy(name), cases::parse(&case_file(name).unwrap()).unwrap_or_else(|errors| panic!("{errors}")));
            assert!(cases.len() > 1, "{name}");
            for case in cases {
                case.run(&policy).unwrap_or_else(|failed| panic!("{failed}"));
            }
        }
    }

    #[test]
    fn every_shipped_rule_names_an_attack_in_its_comment() {
        for shipped in SHIPPED {
            let mut comment = String::new();
            for line in shipped.text.lines() {
                match line.strip_prefix('#') {
                    Some(words) => comment += words,
                    None if line == "[[rule]]" => {
                        let known = comment.contains("(20") || comment.contains("`default`");
                        let is_uncommented_default = comment.is_empty() && shipped.name == "default";
                        assert!(known || is_uncommented_default, "{}: {comment:?}", shipped.name);
                        comment.clear();
                    }
                    None => {}
                }
            }
        }
    }
}
