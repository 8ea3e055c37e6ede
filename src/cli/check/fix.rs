//! The overrides that make what is refused give way, in each client's own words, and what has to leave the lockfile for them to be
//! heard. Refuses to write into any file.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;

use serde_json::{Map, Value, json};

use crate::cli::check::report::{LockfileReport, RefusedVersion, Report, Requester};
use crate::npm::Range;
use crate::npm::lockfile::LockfileFormat;
use crate::text::{push_line, shell_word};

/// What to change, and where.
#[derive(Default)]
struct Fix {
    /// What is put where clients read overrides.
    overrides: BTreeMap<String, String>,
    /// What the project itself asks for, and what to ask for instead: clients refuse an override against the project's own word.
    direct: BTreeMap<String, String>,
    /// Entries that have to leave the lockfile: their keys, each with its line.
    entries: Vec<(String, u32)>,
    /// What cannot be written as an override, and why.
    left: BTreeSet<String>,
}

pub(crate) fn tell(report: &Report) -> String {
    let mut text = String::new();
    for file in report.files.iter().filter(|file| !file.findings.is_empty()) {
        let _ = write!(text, "\n{}", tell_file(file));
    }
    text
}

pub(crate) fn json(report: &Report) -> Value {
    let mut told = Map::new();
    for file in report.files.iter().filter(|file| !file.findings.is_empty()) {
        let fix = Fix::of(file);
        let entries: Vec<_> = fix.entries.iter().map(|(key, line)| json!({ "entry": key, "line": line })).collect();
        told.insert(
            file.path.clone(),
            json!({
                member(file.dialect): fix.overrides,
                "dependencies": fix.direct,
                "remove": if goes_whole(file.dialect) { json!("lockfile") } else { json!(entries) },
                "left": fix.left,
            }),
        );
    }
    Value::Object(told)
}

fn tell_file(file: &LockfileReport) -> String {
    let (fix, dialect) = (Fix::of(file), file.dialect);
    let mut steps: Vec<(String, Vec<String>)> = Vec::new();
    if goes_whole(dialect) && fix.is_any() {
        steps.push((
            "remove it: deno reads no override against its lockfile".to_owned(),
            vec![format!("rm {}", shell_word(&file.path))],
        ));
    } else if !fix.entries.is_empty() {
        let lines = fix.entries.iter().map(|(key, line)| format!("line {line}: {key}")).collect();
        steps.push((format!("take out of {}, so that it is resolved anew", file.path), lines));
    }
    let direct = (!fix.direct.is_empty()).then(|| {
        let specs: Vec<_> = fix.direct.iter().map(|(name, spec)| shell_word(&format!("{name}@{spec}")).into_owned()).collect();
        ("what the project itself asks for".to_owned(), vec![format!("{} {}", command(dialect), specs.join(" "))])
    });
    let overrides = (!fix.overrides.is_empty()).then(|| {
        let text = if dialect == LockfileFormat::Pnpm9 { yaml(&fix.overrides) } else { nested(dialect, &fix.overrides) };
        (place(dialect).to_owned(), text.lines().map(str::to_owned).collect())
    });
    // npm refuses an override against what the project still asks for; the others refuse to add while the old one is locked.
    let order = if dialect == LockfileFormat::Npm { [direct, overrides] } else { [overrides, direct] };
    steps.extend(order.into_iter().flatten());
    if fix.is_any() {
        steps.push(("then, through Coldframe".to_owned(), vec![install(dialect).to_owned()]));
    }
    let mut text = String::new();
    push_line!(text, "to cure {}:", file.path);
    for (head, lines) in steps {
        text.push('\n');
        push_line!(text, "  {head}:");
        text.push('\n');
        for line in lines {
            push_line!(text, "    {line}");
        }
    }
    for left in &fix.left {
        text.push('\n');
        push_line!(text, "  {left}");
    }
    text
}

/// Whether the lockfile has to go as a whole.
fn goes_whole(dialect: LockfileFormat) -> bool {
    dialect == LockfileFormat::Deno
}

fn place(dialect: LockfileFormat) -> &'static str {
    match dialect {
        LockfileFormat::Pnpm9 => "into pnpm-workspace.yaml (pnpm 9: under `pnpm` in package.json)",
        _ => "into package.json",
    }
}

/// The member that holds overrides.
fn member(dialect: LockfileFormat) -> &'static str {
    match dialect {
        LockfileFormat::YarnClassic | LockfileFormat::YarnBerry => "resolutions",
        _ => "overrides",
    }
}

fn command(dialect: LockfileFormat) -> &'static str {
    match dialect {
        LockfileFormat::Npm => "npm install --save-exact",
        LockfileFormat::Pnpm6 | LockfileFormat::Pnpm9 => "pnpm add --save-exact",
        LockfileFormat::YarnClassic | LockfileFormat::YarnBerry => "yarn add --exact",
        LockfileFormat::Bun => "bun add --exact",
        LockfileFormat::Deno => "deno add --npm",
    }
}

fn install(dialect: LockfileFormat) -> &'static str {
    match dialect {
        LockfileFormat::Npm => "npm install",
        LockfileFormat::Pnpm6 | LockfileFormat::Pnpm9 => "pnpm install",
        LockfileFormat::YarnClassic | LockfileFormat::YarnBerry => "yarn install",
        LockfileFormat::Bun => "bun install",
        LockfileFormat::Deno => "deno install",
    }
}

fn nested(dialect: LockfileFormat, overrides: &BTreeMap<String, String>) -> String {
    let overrides = json!({ member(dialect): overrides });
    let whole = if dialect == LockfileFormat::Pnpm6 { json!({ "pnpm": overrides }) } else { overrides };
    format!("{whole:#}")
}

fn yaml(overrides: &BTreeMap<String, String>) -> String {
    // A string in JSON is one in YAML.
    let quote = |text: &str| Value::from(text).to_string();
    overrides.iter().fold("overrides:\n".to_owned(), |mut text, (key, version)| {
        push_line!(text, "  {}: {}", quote(key), quote(version));
        text
    })
}

impl Fix {
    fn of(file: &LockfileReport) -> Self {
        let mut fix = Self::default();
        for finding in &file.findings {
            fix.take(file.dialect, finding);
        }
        fix
    }

    /// Whether there is anything to do.
    fn is_any(&self) -> bool {
        !(self.overrides.is_empty() && self.direct.is_empty() && self.entries.is_empty())
    }

    fn take(&mut self, dialect: LockfileFormat, finding: &RefusedVersion) {
        let name = finding.judged.name.as_str();
        let Some(instead) = finding.instead() else {
            self.left.insert(format!("nothing of {name} is allowed"));
            return;
        };
        if finding.judged.version == instead {
            self.left.insert(format!("{} is allowed, but with other bytes: lock it anew", finding.what()));
            return;
        }
        // The project asks by the version itself: against its own range npm refuses an override, and yarn 1 warns.
        let (of_project, of_packages): (Vec<_>, Vec<_>) = finding.asks.iter().partition(|asked| asked.by.is_none());
        let by_command = |asked: &&Requester| match dialect {
            // An override reaches every workspace, and changes nobody's package.json; but no alias and no dist-tag.
            LockfileFormat::Pnpm6 | LockfileFormat::Pnpm9 => !asked.is_plain_range(),
            LockfileFormat::YarnBerry => false,
            LockfileFormat::Npm | LockfileFormat::YarnClassic | LockfileFormat::Bun | LockfileFormat::Deno => true,
        };
        let (commanded, overridden): (Vec<_>, Vec<_>) = of_project.into_iter().partition(by_command);
        self.direct.extend(commanded.iter().map(|asked| asked.replaced(name, instead)));
        let overridden: Vec<_> = overridden.into_iter().chain(of_packages).collect();
        if !commanded.is_empty() && overridden.is_empty() {
            // Where another version is locked too, bun asks for what was locked before it takes what is added.
            if dialect == LockfileFormat::Bun && finding.has_siblings {
                self.entries.extend(finding.places.iter().cloned());
            }
            return;
        }
        match dialect {
            LockfileFormat::Npm => self.override_in_npm(finding, &overridden, instead),
            // The key names which version gives way: others of the package stay.
            LockfileFormat::Pnpm6 | LockfileFormat::Pnpm9 => self.put(finding.what(), instead),
            LockfileFormat::YarnClassic => self.override_in_yarn_1(finding, &overridden, instead),
            LockfileFormat::YarnBerry => self.override_in_yarn(finding, &overridden, instead),
            LockfileFormat::Bun => self.override_in_bun(finding, &overridden, instead),
            // Its lockfile does not say what packages ask for, and goes anyway: what is hidden is not taken again.
            LockfileFormat::Deno if finding.has_siblings => self.leave(finding, "deno", "of deno.lock, once it is written anew"),
            LockfileFormat::Deno => self.put(name.to_owned(), instead),
        }
    }

    /// npm keeps to what is locked, override or not, unless its entry is gone.
    fn override_in_npm(&mut self, finding: &RefusedVersion, asked: &[&Requester], instead: &str) {
        let aliases = asked.iter().filter(|asked| asked.alias.is_some());
        let aliased = aliases.clone().count() == asked.len() && !asked.is_empty();
        self.overrides.extend(aliases.map(|asked| asked.replaced(&finding.judged.name, instead)));
        if !aliased {
            self.put(finding.what(), instead);
        }
        self.entries.extend(finding.places.iter().cloned());
    }

    fn override_in_yarn_1(&mut self, finding: &RefusedVersion, asked: &[&Requester], instead: &str) {
        for asked in asked {
            let (name, version) = asked.replaced(&finding.judged.name, instead);
            let by = asked.by.as_deref().filter(|_| finding.has_siblings);
            self.overrides.insert(by.map_or_else(|| name.clone(), |by| format!("**/{by}/{name}")), version);
        }
    }

    /// Later yarns override by exactly what was asked for, each range of it.
    fn override_in_yarn(&mut self, finding: &RefusedVersion, asked: &[&Requester], instead: &str) {
        let name = finding.judged.name.as_str();
        for asked in asked {
            let (as_name, version) = asked.replaced(name, instead);
            let key = match (&asked.range, &asked.alias) {
                (Some(range), None) => format!("{name}@npm:{range}"),
                (Some(range), Some(alias)) => format!("{alias}@npm:{name}@{range}"),
                // A catalog's range stands elsewhere; without other versions the name alone will do.
                (None, _) if !finding.has_siblings => as_name,
                (None, _) => {
                    self.leave(finding, "yarn", "of what asks for it by a catalog");
                    continue;
                }
            };
            self.overrides.insert(key, version);
        }
    }

    /// bun overrides by a package's name, whatever the version, and no alias.
    fn override_in_bun(&mut self, finding: &RefusedVersion, asked: &[&Requester], instead: &str) {
        if finding.has_siblings || asked.iter().any(|asked| asked.alias.is_some()) {
            self.leave(finding, "bun", "out of bun.lock");
            self.entries.extend(finding.places.iter().cloned());
        } else {
            self.put(finding.judged.name.clone(), instead);
        }
    }

    fn put(&mut self, key: String, version: &str) {
        self.overrides.insert(key, version.to_owned());
    }

    fn leave(&mut self, finding: &RefusedVersion, client: &str, place: &str) {
        let what = finding.what();
        let others = if finding.has_siblings { "one of several versions of a package" } else { "an alias" };
        self.left.insert(format!(
            "{client} cannot override {others}, so there is no override for {what}: what Coldframe hides is not chosen again, once it \
             is {place}"
        ));
    }
}

impl Requester {
    /// Whether it was asked for by its own name and a range: no alias, no dist-tag, no catalog.
    fn is_plain_range(&self) -> bool {
        self.alias.is_none() && self.range.as_deref().is_some_and(|range| Range::parse(range).is_some())
    }

    /// The name it is asked for by, and what to ask for in its place.
    fn replaced(&self, name: &str, instead: &str) -> (String, String) {
        match &self.alias {
            Some(alias) => (alias.clone(), format!("npm:{name}@{instead}")),
            None => (name.to_owned(), instead.to_owned()),
        }
    }
}
