//! Composes a policy file and its includes into one list of rules. Does no I/O: the caller resolves includes.

use std::collections::HashMap;
use std::path::PathBuf;
use std::sync::Arc;

use jiff::Timestamp;
use toml::de::{DeTable, DeValue};

use crate::diagnostics::{Diagnostic, Diagnostics, SourceFile, SourceSpan};
use crate::policy::rules::Policy;
use crate::policy::rules::owners::{self, MAX_OWNERS, PackageOwner};
use crate::policy::rules::rule::{AgeSubject, MINIMUM_AGE, Rule, RuleAction};
use crate::policy::rules::toml_table::{TomlTable, quoted};
use crate::policy::rules::{parse, shadowing};

/// Allowed top-level keys.
const KEYS: &[&str] = &["include", "observe", "owner", "rule"];

/// Maximum number of rules in a policy, which bounds the cost of an evaluation.
const MAX_RULES: usize = 10_000;

/// Maximum include depth.
const MAX_INCLUDE_DEPTH: usize = 16;

#[derive(Debug, Clone)]
pub struct CompiledPolicy {
    pub policy: Policy,
    /// Warnings on exemptions without an owner or an expiry.
    pub warnings: Vec<Diagnostic>,
    /// The source files in reading order.
    pub files: Vec<PathBuf>,
}

impl CompiledPolicy {
    /// Returns a diagnostic for each rule that has expired at `now` and has no effect.
    pub(crate) fn expired_rules(&self, now: Timestamp) -> Vec<Diagnostic> {
        let ended = self.policy.rules().iter().filter(|rule| rule.expires.is_some_and(|expires| expires <= now));
        let diagnostic = |rule: &Rule| {
            let problem = format!("the rule `{}` has expired and has no effect", rule.id);
            Some(Diagnostic::new(rule.place.clone()?, problem, "the rule removed, or a later `expires`"))
        };
        ended.filter_map(diagnostic).collect()
    }
}

/// Finds the file that `from` includes as `name`: a path relative to it, or the name of a shipped policy. Errors are messages for
/// the user.
pub type IncludeResolver<'f> = dyn Fn(&SourceFile, &str) -> Result<Arc<SourceFile>, String> + 'f;

/// Compiles files in order, with their includes. A file's own rules come before those of the files it includes.
///
/// # Errors
/// Returns every mistake in all files.
pub fn compile(files: &[Arc<SourceFile>], find: &IncludeResolver<'_>) -> Result<CompiledPolicy, Diagnostics> {
    let mut reading =
        Composer { find, rules: Vec::new(), owners: Vec::new(), mistakes: Vec::new(), files: Vec::new(), open: Vec::new() };
    for file in files {
        reading.file(file);
    }
    let Composer { rules, owners, mut mistakes, files, .. } = reading;
    check_ids(&rules, &mut mistakes);
    shadowing::find_shadowed(&rules, &mut mistakes);
    if let Some(place) = rules.get(MAX_RULES).and_then(|rule| rule.place.clone()) {
        mistakes.push(Diagnostic::new(place, format!("more than {MAX_RULES} rules"), ""));
    }
    if !mistakes.is_empty() {
        let rank = |place: &SourceSpan| files.iter().position(|path| *path == place.file.path);
        mistakes.sort_by_key(|mistake| mistake.place().map(|place| (rank(place), place.span.start)));
        return Err(Diagnostics { subject: "policy", errors: mistakes });
    }
    let warnings = rules.iter().filter_map(warning).collect();
    Ok(CompiledPolicy { warnings, policy: Policy::new(rules).with_owners(owners), files })
}

struct Composer<'r> {
    find: &'r IncludeResolver<'r>,
    rules: Vec<Rule>,
    owners: Vec<PackageOwner>,
    mistakes: Vec<Diagnostic>,
    files: Vec<PathBuf>,
    /// The files that are being read. Including one of them again is a cycle.
    open: Vec<PathBuf>,
}

impl Composer<'_> {
    fn file(&mut self, file: &Arc<SourceFile>) {
        // Two files may include the same third file. It counts only at its first position.
        if self.files.contains(&file.path) {
            return;
        }
        self.files.push(file.path.clone());
        self.open.push(file.path.clone());
        let (table, errors) = DeTable::parse_recoverable(&file.text);
        for error in errors.iter().take(1) {
            let place = SourceSpan::new(file, error.span().unwrap_or(0..0));
            self.mistakes.push(Diagnostic::new(place, format!("not TOML: {}", error.message()), ""));
        }
        // After a syntax error the parser guesses, so its results are ignored.
        if errors.iter().all(|error| error.span().is_none()) {
            self.table(file, table.get_ref());
        }
        self.open.pop();
    }

    fn table<'t>(&mut self, file: &'t Arc<SourceFile>, table: &'t DeTable<'t>) {
        let mut top = TomlTable { file, inside: table, errors: &mut self.mistakes };
        top.reject_unknown(KEYS);
        let observe = top.boolean("observe").unwrap_or(false);
        let allowed = "paths of policy files, relative to this one, or names of shipped policies";
        let includes = top.value("include").and_then(|_| top.texts("include", allowed));
        let first = self.rules.len();
        let of_rule = "rules, each below its own `[[rule]]` line";
        each_entry(&mut top, "rule", of_rule, |table, place| self.rules.extend(parse::parse_rule(table, place)));
        let of_owner = "owners, each below its own `[[owner]]` line";
        each_entry(&mut top, "owner", of_owner, |table, place| {
            if self.owners.len() == MAX_OWNERS {
                table.note(place.span.clone(), format!("more than {MAX_OWNERS} owners"), "fewer entries with more globs");
            }
            self.owners.extend(owners::parse_owner(table, &place));
        });
        for (name, span) in includes.into_iter().flatten() {
            self.include(file, name, span);
        }
        if observe {
            let refusing = |rule: &&mut Rule| rule.action.refuses();
            self.rules[first..].iter_mut().filter(refusing).for_each(|rule| rule.observe = true);
        }
    }

    fn include(&mut self, from: &Arc<SourceFile>, name: &str, span: std::ops::Range<usize>) {
        let place = SourceSpan::new(from, span);
        let escaped_name = name.escape_debug();
        match (self.find)(from, name) {
            Err(problem) => {
                self.mistakes.push(Diagnostic::new(place, format!("cannot include `{escaped_name}`: {problem}"), ""));
            }
            Ok(file) if self.open.contains(&file.path) || self.open.len() >= MAX_INCLUDE_DEPTH => {
                let allowed = "files that do not include each other";
                self.mistakes.push(Diagnostic::new(place, format!("includes form a cycle: `{escaped_name}`"), allowed));
            }
            Ok(file) => self.file(&file),
        }
    }
}

/// Calls `read` for each table of an array of tables.
fn each_entry(top: &mut TomlTable<'_, '_>, name: &str, allowed: &str, mut read: impl FnMut(&mut TomlTable<'_, '_>, SourceSpan)) {
    let Some(value) = top.value(name) else { return };
    let DeValue::Array(items) = value.get_ref() else {
        top.wrong_type::<()>(name, value, allowed);
        return;
    };
    for item in items {
        let Some(table) = item.get_ref().as_table() else {
            top.wrong_type::<()>(name, item, allowed);
            continue;
        };
        let mut table = TomlTable { file: top.file, inside: table, errors: &mut *top.errors };
        let place = table.place(heading(&top.file.text, item.span()));
        read(&mut table, place);
    }
}

/// Returns the span of the first line of a rule: its `[[rule]]` header or, in an inline array, its table.
fn heading(text: &str, span: std::ops::Range<usize>) -> std::ops::Range<usize> {
    let end = text.get(span.start..).and_then(|rest| rest.find('\n')).map_or(text.len(), |at| span.start + at);
    span.start..end.min(span.end).max(span.start)
}

fn check_ids(rules: &[Rule], mistakes: &mut Vec<Diagnostic>) {
    let mut first: HashMap<&str, &Rule> = HashMap::new();
    for rule in rules {
        let Some(place) = rule.place.clone() else { continue };
        if let Some(before) = first.insert(&rule.id, rule).and_then(|before| before.place.clone()) {
            let (line, _) = before.position();
            let problem = format!("the id is already used at {}:{line}: `{}`", before.file.path.display(), rule.id);
            mistakes.push(Diagnostic::new(place.clone(), problem, "a unique id for each rule"));
        }
        // The setting `min-release-age` replaces its age.
        let is_minimum = matches!(rule.action, RuleAction::Hold { of: AgeSubject::Release, .. });
        if *rule.id == *MINIMUM_AGE && !is_minimum {
            let problem = format!("a rule with this id must set the minimum release age: `{MINIMUM_AGE}`");
            mistakes.push(Diagnostic::new(place, problem, "`hold` with a release age, or another id"));
        }
    }
}

/// Warns about an exemption without an owner or an expiry: it tends to be forgotten. The fix lane is no exemption, since each
/// release must qualify for it.
fn warning(rule: &Rule) -> Option<Diagnostic> {
    let place = rule.place.clone().filter(|_| rule.action == RuleAction::Allow && !rule.conditions.fixes)?;
    let owner = rule.owner.is_none().then_some("owner");
    let missing: Vec<_> = owner.into_iter().chain(rule.expires.is_none().then_some("expires")).collect();
    if missing.is_empty() {
        return None;
    }
    let problem = format!("the exemption `{}` has no {}", rule.id, quoted(missing));
    Some(Diagnostic::new(place, problem, "`owner` with a person or a team, and `expires` with a day"))
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use expect_test::expect;

    use super::*;
    use crate::policy::presets;

    fn source(path: &str, text: &str) -> Arc<SourceFile> {
        Arc::new(SourceFile { path: path.into(), text: text.to_owned() })
    }

    /// Compiles the first of these files. It can include the others.
    fn compiled(files: &[(&str, &str)]) -> Result<CompiledPolicy, Diagnostics> {
        let sources: Vec<_> = files.iter().map(|(path, text)| source(path, text)).collect();
        let find = |_: &SourceFile, name: &str| {
            let local = sources.iter().find(|file| file.path == Path::new(name)).cloned();
            local.or_else(|| presets::policy_file(name)).ok_or_else(|| "not found".to_owned())
        };
        compile(&sources[..1], &find)
    }

    fn mistakes(text: &str) -> String {
        compiled(&[("p.toml", text)]).unwrap_err().to_string()
    }

    #[test]
    fn owners_and_request_policies_are_read_and_mistakes_reported() {
        let text = r#"
[[owner]]
scopes = ["@acme"]
people = ["grace", "alan"]
must-approve = true

[[owner]]
packages = ["eslint-*"]
people = "ada"

[[rule]]
id = "no"
deny = true
packages = ["left-pad"]
reason = "x"
request = "forbidden"
"#;
        let policy = compiled(&[("p.toml", text)]).unwrap().policy;
        let owners = |name: &str| -> Vec<(Vec<String>, bool)> {
            let name = crate::npm::PackageName::parse(name).unwrap();
            let people = |owner: &PackageOwner| owner.people.iter().map(ToString::to_string).collect();
            policy.owners_of(&name).map(|owner| (people(owner), owner.must_approve)).collect()
        };
        assert_eq!(owners("@acme/ui"), [(vec!["grace".to_owned(), "alan".to_owned()], true)]);
        assert_eq!((owners("eslint-plugin-x"), owners("acme")), (vec![(vec!["ada".to_owned()], false)], vec![]));
        let allows = |rule: &str| policy.allows_requests(&crate::policy::RuleId::File(rule.into()));
        assert!(!allows("no") && allows("minimum-age"));
        let text = mistakes(
            "[[owner]]\npeople = [\"a\\nb\"]\nteam = 1\n[[owner]]\npackages = [\"[\"]\n[[rule]]\nid = \"a\"\nreason = \"x\"\nwarn = true\nrequest = \"maybe\"\n",
        );
        for problem in [
            "unknown key: `team`",
            "`people` is not a name of a person",
            "has no `packages` and no `scopes`",
            "has no `people`",
            "`packages` is not a glob",
            "`request` has an unknown value: `maybe`",
            "`request` in a rule that refuses nothing",
        ] {
            assert!(text.contains(problem), "{problem}: {text}");
        }
    }

    #[test]
    fn all_mistakes_are_reported_with_position_and_allowed_values() {
        let text = r#"
observ = true

[[rule]]
id = "a rule"
hold = 14
packages = ["lodash", "[broken"]
scopes = ["acme"]
versions = ">2 <1"
resaon = "typo"

[[rule]]
id = "b"
deny = true
warn = true
reason = "x"
versions = "not a range"
signals = ["first-install-scripts"]
findings = "nothing"
older-than = "30d"
advisory = { kind = "virus", feeds = "osv" }

[[rule]]
id = "c"
allow = true
observe = true
reason = "x"
expires = "soon"
siblings = "spared"
dependencies = "svn"
younger-than = "1d"
dist-tags = []
"#;
        expect![[r#"
            21 errors in the policy

            p.toml:2:1: unknown key: `observ`
             2 | observ = true
               | ^^^^^^
               = allowed: `observe`, if that was meant

            p.toml:4:1: the rule has no `reason`
             4 | [[rule]]
               | ^^^^^^^^
               = allowed: `reason` with a sentence for affected users

            p.toml:5:6: `id` is invalid: `a rule`
             5 | id = "a rule"
               |      ^^^^^^^^
               = allowed: letters, digits and hyphens, such as `minimum-age`

            p.toml:6:8: `hold` lacks a unit: `14`
             6 | hold = 14
               |        ^^
               = allowed: numbers with a unit of s, m, h, d or w, such as `45s`, `72h`, `14d`, `1d12h`

            p.toml:7:23: `packages` is not a glob (unclosed character class; missing ']'): `[broken`
             7 | packages = ["lodash", "[broken"]
               |                       ^^^^^^^^^
               = allowed: package names or globs, such as `"lodash"`, `"@acme/*"` or `"eslint-*"`

            p.toml:8:11: `scopes` is not a scope: `acme`
             8 | scopes = ["acme"]
               |           ^^^^^^
               = allowed: scopes, such as `"@acme"`

            p.toml:9:12: `versions` is a range that matches no version: `>2 <1`
             9 | versions = ">2 <1"
               |            ^^^^^^^
               = allowed: an npm range, such as `"<2.0.0"`, `"1.x || >=2.5.0"` or `"1.14.1"`

            p.toml:10:1: unknown key: `resaon`
             10 | resaon = "typo"
                | ^^^^^^
               = allowed: `reason`, if that was meant

            p.toml:15:1: the rule has a second action: `warn`
             15 | warn = true
                | ^^^^
               = allowed: exactly one of `allow = true`, `deny = true`, `hold = "14d"`, `warn = true`

            p.toml:17:12: `versions` is not a range: `not a range`
             17 | versions = "not a range"
                |            ^^^^^^^^^^^^^
               = allowed: an npm range, such as `"<2.0.0"`, `"1.x || >=2.5.0"` or `"1.14.1"`

            p.toml:18:12: `signals` has an unknown value: `first-install-scripts`
             18 | signals = ["first-install-scripts"]
                |            ^^^^^^^^^^^^^^^^^^^^^^^
               = allowed: `strong`, `weak`, `first-install-script`, `binding-gyp-added`, `remote-dependency-added`, `provenance-lost`, `trusted-publisher-lost`, `newborn-dependency`, `provenance-dropped`, `ci-to-human`, `new-publisher`, `new-dependency`, `publisher-email-changed`, `dormant`, `release-burst`, `size-jump`, `deprecated-young`, `version-jump`, `maintainers-changed`, `commit-lost`, `shrinkwrap-added`, `bin-added`, `repository-changed`, `signature-lost`, `provenance-repository-changed`, `provenance-workflow-changed`, `off-rhythm`, `lookalike-name`

            p.toml:19:12: `findings` has an unknown value: `nothing`
             19 | findings = "nothing"
                |            ^^^^^^^^^
               = allowed: `behaviour`, `change`, `manifest-confusion`, `implicit-build`, `advised-integrity`, `advised-file`, `unreadable`, `unsafe-archive`, `ambiguous-archive`, `archive-bomb`, `false-signature`, `false-provenance`, `install-file-added`, `entry-file-added`, `native-code-added`, `blob-added`, `file-grew`, `secrets-to-network`, `download-and-run`, `runs-decoded-code`, `self-propagation`, `hidden-unicode`, `obfuscated-code`, `suspicious-install`

            p.toml:21:21: `kind` has an unknown value: `virus`
             21 | advisory = { kind = "virus", feeds = "osv" }
                |                     ^^^^^^^
               = allowed: `malware`, `vulnerability`

            p.toml:21:30: unknown key: `feeds`
             21 | advisory = { kind = "virus", feeds = "osv" }
                |                              ^^^^^
               = allowed: `feed`, if that was meant

            p.toml:26:1: `observe` in a rule that refuses nothing
             26 | observe = true
                | ^^^^^^^
               = allowed: `observe` together with `deny` or `hold`

            p.toml:28:11: `expires` is not an instant: `soon`
             28 | expires = "soon"
                |           ^^^^^^
               = allowed: a day or an instant, such as `"2026-12-31"` or `"2026-12-31T12:00:00Z"`

            p.toml:29:1: `siblings` in a rule that is not a hold
             29 | siblings = "spared"
                | ^^^^^^^^
               = allowed: `siblings` together with `hold`

            p.toml:29:12: `siblings` has an unknown value: `spared`
             29 | siblings = "spared"
                |            ^^^^^^^^
               = allowed: `exempt`

            p.toml:30:16: `dependencies` has an unknown value: `svn`
             30 | dependencies = "svn"
                |                ^^^^^
               = allowed: `git`, `url`, `file`

            p.toml:31:1: `younger-than` in an `allow`: an open version would close over time
             31 | younger-than = "1d"
                | ^^^^^^^^^^^^
               = allowed: `older-than`, `package-older-than`

            p.toml:32:13: `dist-tags` is empty, so the rule would match nothing
             32 | dist-tags = []
                |             ^^
               = allowed: dist-tags, such as `"latest"`"#]].assert_eq(&mistakes(text));
    }

    #[test]
    fn syntax_error_is_reported_at_its_position() {
        expect![[r#"
            1 error in the policy

            p.toml:2:8: not TOML: invalid basic string, expected `"`
             2 | id = "a
               |        ^"#]]
        .assert_eq(&mistakes("[[rule]]\nid = \"a\nhold = \"14d\"\n"));
    }

    #[test]
    fn unreachable_rules_and_duplicate_ids_are_mistakes() {
        let text = r#"
[[rule]]
id = "ours"
allow = true
scopes = ["@acme"]
reason = "ours"

[[rule]]
id = "one-of-ours"
deny = true
packages = ["@acme/ui"]
reason = "shadowed by the scope"

[[rule]]
id = "age"
hold = "7d"
reason = "x"

[[rule]]
id = "age"
hold = "72h"
reason = "shorter, so never decides"

[[rule]]
id = "all"
deny = true
reason = "x"

[[rule]]
id = "last"
warn = true
signals = "strong"
reason = "behind a catch-all"
"#;
        expect![[r#"
            4 errors in the policy

            p.toml:8:1: `one-of-ours` is never reached: `ours` on line 2 decides everything it matches
             8 | [[rule]]
               | ^^^^^^^^
               = allowed: the rule moved above the other one, or removed

            p.toml:19:1: the id is already used at p.toml:14: `age`
             19 | [[rule]]
                | ^^^^^^^^
               = allowed: a unique id for each rule

            p.toml:19:1: `age` is never reached: `age` on line 14 decides everything it matches
             19 | [[rule]]
                | ^^^^^^^^
               = allowed: the rule moved above the other one, or removed

            p.toml:29:1: `last` is never reached: `all` on line 24 decides everything it matches
             29 | [[rule]]
                | ^^^^^^^^
               = allowed: the rule moved above the other one, or removed"#]]
        .assert_eq(&mistakes(text));
    }

    #[test]
    fn rules_that_may_be_reached_are_not_mistakes() {
        let text = r#"
[[rule]]
id = "narrow"
deny = true
packages = ["@acme/*"]
versions = "<2"
reason = "x"

[[rule]]
id = "wide"
deny = true
packages = ["@acme/ui"]
reason = "x"

[[rule]]
id = "until-summer"
deny = true
packages = ["left-pad"]
expires = "2030-06-01"
reason = "x"

[[rule]]
id = "after-summer"
hold = "7d"
packages = ["left-pad"]
reason = "x"

[[rule]]
id = "watched"
deny = true
observe = true
reason = "x"

[[rule]]
id = "package"
hold = "14d"
of = "package"
reason = "x"

[[rule]]
id = "release"
hold = "14d"
reason = "x"
"#;
        assert_eq!(compiled(&[("p.toml", text)]).unwrap().policy.rules().len(), 7);
    }

    #[test]
    fn exemption_without_owner_or_expiry_is_a_warning() {
        let text = "[[rule]]\nid = \"ours\"\nallow = true\nscopes = [\"@acme\"]\nreason = \"ours\"\nowner = \"platform\"\n";
        let warnings = compiled(&[("p.toml", text)]).unwrap().warnings;
        expect![[r#"
            p.toml:1:1: the exemption `ours` has no `expires`
             1 | [[rule]]
               | ^^^^^^^^
               = allowed: `owner` with a person or a team, and `expires` with a day"#]]
        .assert_eq(&warnings.iter().map(ToString::to_string).collect::<Vec<_>>().concat());
    }

    #[test]
    fn expired_rule_is_a_warning() {
        let text = "\n[[rule]]\nid = \"for-now\"\nallow = true\npackages = [\"x\"]\nreason = \"x\"\nowner = \"a\"\nexpires = \"2026-04-01\"\n";
        let compiled = compiled(&[("p.toml", text)]).unwrap();
        assert!(compiled.warnings.is_empty() && compiled.expired_rules("2026-04-01T23:59:59Z".parse().unwrap()).is_empty());
        let ended = compiled.expired_rules("2026-04-02T00:00:00Z".parse().unwrap());
        expect![[r#"
            p.toml:2:1: the rule `for-now` has expired and has no effect
             2 | [[rule]]
               | ^^^^^^^^
               = allowed: the rule removed, or a later `expires`"#]]
        .assert_eq(&ended.iter().map(ToString::to_string).collect::<Vec<_>>().concat());
    }

    #[test]
    fn own_rules_come_before_included_rules() {
        let own =
            "include = [\"default\", \"b.toml\"]\n[[rule]]\nid = \"own\"\nhold = \"1d\"\nscopes = [\"@acme\"]\nreason = \"x\"\n";
        let other = "[[rule]]\nid = \"other\"\nwarn = true\ninstall-script = true\nreason = \"x\"\n";
        let compiled = compiled(&[("a.toml", own), ("b.toml", other)]).unwrap();
        let ids: Vec<_> = compiled.policy.rules().iter().map(|rule| rule.id.to_string()).collect();
        assert_eq!((ids.first().unwrap().as_str(), ids.last().unwrap().as_str()), ("own", "other"));
        assert!(ids.iter().any(|id| id == "minimum-age"));
    }

    #[test]
    fn include_cycles_and_missing_includes_are_mistakes() {
        let circle = compiled(&[("a.toml", "include = \"b.toml\""), ("b.toml", "include = [\"a.toml\", \"c.toml\"]")]);
        expect![[r#"
            2 errors in the policy

            b.toml:1:12: includes form a cycle: `a.toml`
             1 | include = ["a.toml", "c.toml"]
               |            ^^^^^^^^
               = allowed: files that do not include each other

            b.toml:1:22: cannot include `c.toml`: not found
             1 | include = ["a.toml", "c.toml"]
               |                      ^^^^^^^^"#]]
        .assert_eq(&circle.unwrap_err().to_string());
    }
}
