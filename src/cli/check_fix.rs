//! The overrides that make what is refused give way, in each client's own words. Refuses to write into any file.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use serde_json::{Map, Value, json};

use super::check_report::{FileReport, Finding, Report};
use crate::npm::lockfile::Dialect;

/// What to add, and where.
struct Fix {
    /// What to do with it, for a person.
    place: &'static str,
    /// What is put there.
    overrides: BTreeMap<String, String>,
    /// What the project itself asks for, and what to ask for instead: clients refuse an override against the project's own word.
    direct: BTreeMap<String, String>,
    /// What cannot be written as an override.
    left: Vec<String>,
}

pub(super) fn tell(report: &Report) -> String {
    let mut text = String::new();
    for file in report.files.iter().filter(|file| !file.findings.is_empty()) {
        let _ = write!(text, "\n{}", tell_file(file));
    }
    text
}

pub(super) fn json(report: &Report) -> Value {
    let mut told = Map::new();
    for file in &report.files {
        let fix = Fix::of(file);
        told.insert(file.path.clone(), json!({ member(file.dialect): fix.overrides, "dependencies": fix.direct }));
    }
    Value::Object(told)
}

fn tell_file(file: &FileReport) -> String {
    let fix = Fix::of(file);
    let mut text = format!("to cure {}:\n", file.path);
    if !fix.direct.is_empty() {
        let specs: Vec<_> = fix.direct.iter().map(|(name, version)| format!("{name}@{version}")).collect();
        let _ = writeln!(text, "\n  what the project itself asks for:\n\n    {} {}", command(file.dialect), specs.join(" "));
    }
    if !fix.overrides.is_empty() {
        let _ = writeln!(text, "\n  {}:\n", fix.place);
        let lines = if file.dialect == Dialect::Pnpm9 { yaml(&fix.overrides) } else { nested(file.dialect, &fix.overrides) };
        for line in lines.lines() {
            let _ = writeln!(text, "    {line}");
        }
    }
    for left in &fix.left {
        let _ = writeln!(text, "\n  {left}");
    }
    text
}

/// The member that holds overrides.
fn member(dialect: Dialect) -> &'static str {
    match dialect {
        Dialect::YarnClassic | Dialect::YarnBerry => "resolutions",
        _ => "overrides",
    }
}

fn command(dialect: Dialect) -> &'static str {
    match dialect {
        Dialect::Npm => "npm install --save-exact",
        Dialect::Pnpm6 | Dialect::Pnpm9 => "pnpm add --save-exact",
        Dialect::YarnClassic | Dialect::YarnBerry => "yarn add --exact",
        Dialect::Bun => "bun add --exact",
        Dialect::Deno => "deno add --npm",
    }
}

fn nested(dialect: Dialect, overrides: &BTreeMap<String, String>) -> String {
    let overrides = json!({ member(dialect): overrides });
    let whole = if dialect == Dialect::Pnpm6 { json!({ "pnpm": overrides }) } else { overrides };
    format!("{whole:#}")
}

fn yaml(overrides: &BTreeMap<String, String>) -> String {
    // A string in JSON is one in YAML.
    let quote = |text: &str| Value::from(text).to_string();
    overrides.iter().fold("overrides:\n".to_owned(), |mut text, (key, version)| {
        let _ = writeln!(text, "  {}: {}", quote(key), quote(version));
        text
    })
}

impl Fix {
    fn of(file: &FileReport) -> Self {
        let place = match file.dialect {
            Dialect::Npm | Dialect::Deno => "into package.json, then install anew",
            Dialect::Pnpm6 => "into package.json, then `pnpm install`",
            Dialect::Pnpm9 => "into pnpm-workspace.yaml (pnpm 9: under `pnpm` in package.json), then `pnpm install`",
            Dialect::YarnClassic | Dialect::YarnBerry => "into package.json, then `yarn install`",
            Dialect::Bun => "into package.json, then `bun install`",
        };
        let mut fix = Self { place, overrides: BTreeMap::new(), direct: BTreeMap::new(), left: Vec::new() };
        for finding in &file.findings {
            fix.take(file.dialect, finding);
        }
        fix
    }

    fn take(&mut self, dialect: Dialect, finding: &Finding) {
        let judged = &finding.judged;
        let Some(instead) = finding.instead().map(str::to_owned) else {
            self.left.push(format!("nothing of {} is allowed", judged.name));
            return;
        };
        if judged.version == instead {
            self.left.push(format!("{} is allowed, but with other bytes: lock it anew", finding.what()));
            return;
        }
        let keys = match dialect {
            // The key names which version gives way: others of the package stay.
            Dialect::Npm | Dialect::Pnpm6 | Dialect::Pnpm9 => vec![finding.what()],
            Dialect::YarnBerry => finding.ranges.iter().map(|range| format!("{}@npm:{range}", judged.name)).collect(),
            Dialect::YarnClassic if finding.has_siblings => {
                finding.asks.by.iter().map(|by| format!("**/{by}/{}", judged.name)).collect()
            }
            Dialect::Bun | Dialect::Deno if finding.has_siblings => {
                self.left.push(format!(
                    "{} cannot be overridden: the lockfile holds other versions of it too, and the override would be for all",
                    finding.what()
                ));
                return;
            }
            _ => vec![judged.name.clone()],
        };
        // Against the project's own range npm refuses an override, and yarn 1 warns.
        if finding.asks.direct && matches!(dialect, Dialect::Npm | Dialect::YarnClassic | Dialect::Bun | Dialect::Deno) {
            self.direct.insert(judged.name.clone(), instead.clone());
        }
        if finding.asks.direct
            && finding.asks.by.is_empty()
            && !matches!(dialect, Dialect::Pnpm6 | Dialect::Pnpm9 | Dialect::YarnBerry)
        {
            return;
        }
        self.overrides.extend(keys.into_iter().map(|key| (key, instead.clone())));
    }
}
