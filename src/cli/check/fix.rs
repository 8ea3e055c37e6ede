//! Prints overrides that replace refused versions, in each client's format, and the lockfile entries to remove for them.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::{Value, json};

use crate::cli::check::report::{LockfileReport, RefusedVersion, Report, Requester, spec};
use crate::npm::Range;
use crate::npm::lockfile::LockfileFormat;
use crate::text::{push_line, shell_word};

#[derive(Default)]
struct Fix {
    overrides: BTreeMap<String, String>,
    /// Direct dependencies and their new versions. Clients reject an override that conflicts with a direct dependency.
    direct: BTreeMap<String, String>,
    /// Keys and lines of the entries to remove from the lockfile.
    entries: Vec<(String, u32)>,
    /// Why some versions have no override.
    left: BTreeSet<String>,
}

pub(crate) fn format_text(report: &Report) -> String {
    let files = report.files.iter().filter(|file| !file.findings.is_empty());
    files.map(|file| format!("\n{}", format_file(file))).collect::<Vec<_>>().concat()
}

pub(crate) fn json(report: &Report) -> Value {
    let fix = |file: &LockfileReport| {
        let fix = Fix::of(file);
        let entries: Vec<_> = fix.entries.iter().map(|(key, line)| json!({ "entry": key, "line": line })).collect();
        json!({
            member(file.dialect): fix.overrides,
            "dependencies": fix.direct,
            "remove": if file.dialect == LockfileFormat::Deno { json!("lockfile") } else { json!(entries) },
            "left": fix.left,
        })
    };
    let files = report.files.iter().filter(|file| !file.findings.is_empty());
    files.map(|file| (file.path.clone(), fix(file))).collect()
}

fn format_file(file: &LockfileReport) -> String {
    let (fix, dialect) = (Fix::of(file), file.dialect);
    let mut steps: Vec<(String, Vec<String>)> = Vec::new();
    if dialect == LockfileFormat::Deno && fix.is_any() {
        let why = "delete the lockfile: deno ignores overrides for locked versions";
        steps.push((why.to_owned(), vec![format!("rm {}", shell_word(&file.path))]));
    } else if !fix.entries.is_empty() {
        let lines = fix.entries.iter().map(|(key, line)| format!("line {line}: {key}")).collect();
        steps.push((format!("remove from {}, so that it is resolved again", file.path), lines));
    }
    let (change, install) = commands(dialect);
    let direct = (!fix.direct.is_empty()).then(|| {
        let specs: Vec<_> = fix.direct.iter().map(|(name, spec)| shell_word(&format!("{name}@{spec}")).into_owned()).collect();
        ("change direct dependencies".to_owned(), vec![format!("{change} {}", specs.join(" "))])
    });
    let overrides = (!fix.overrides.is_empty()).then(|| {
        let (place, text) = match dialect {
            LockfileFormat::Pnpm9 => {
                // A JSON string is also a YAML string.
                let line = |(key, version): (&String, &String)| format!("\n  {}: {}", json!(key), json!(version));
                let lines: String = fix.overrides.iter().map(line).collect();
                ("add to pnpm-workspace.yaml (pnpm 9: under `pnpm` in package.json)", format!("overrides:{lines}"))
            }
            LockfileFormat::Pnpm6 => ("add to package.json", format!("{:#}", json!({ "pnpm": { "overrides": fix.overrides } }))),
            _ => ("add to package.json", format!("{:#}", json!({ member(dialect): fix.overrides }))),
        };
        (place.to_owned(), text.lines().map(str::to_owned).collect())
    });
    // npm rejects an override that conflicts with a direct dependency. The others cannot add while the old one is locked.
    let order = if dialect == LockfileFormat::Npm { [direct, overrides] } else { [overrides, direct] };
    steps.extend(order.into_iter().flatten());
    if fix.is_any() {
        steps.push(("then install through Coldframe".to_owned(), vec![install.to_owned()]));
    }
    let mut text = String::new();
    push_line!(text, "to fix {}:", file.path);
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

/// Returns the JSON member that contains overrides.
fn member(dialect: LockfileFormat) -> &'static str {
    match dialect {
        LockfileFormat::YarnClassic | LockfileFormat::YarnBerry => "resolutions",
        _ => "overrides",
    }
}

/// Returns the commands that change a direct dependency, and that install.
fn commands(dialect: LockfileFormat) -> (&'static str, &'static str) {
    match dialect {
        LockfileFormat::Npm => ("npm install --save-exact", "npm install"),
        LockfileFormat::Pnpm6 | LockfileFormat::Pnpm9 => ("pnpm add --save-exact", "pnpm install"),
        LockfileFormat::YarnClassic | LockfileFormat::YarnBerry => ("yarn add --exact", "yarn install"),
        LockfileFormat::Bun => ("bun add --exact", "bun install"),
        LockfileFormat::Deno => ("deno add --npm", "deno install"),
    }
}

impl Fix {
    fn of(file: &LockfileReport) -> Self {
        let mut fix = Self::default();
        for finding in &file.findings {
            fix.take(file.dialect, finding);
        }
        fix
    }

    fn is_any(&self) -> bool {
        !(self.overrides.is_empty() && self.direct.is_empty() && self.entries.is_empty())
    }

    fn take(&mut self, dialect: LockfileFormat, finding: &RefusedVersion) {
        let name = finding.judged.name.as_str();
        // One in range, else the nearest allowed one.
        let Some(instead) = finding.judged.fits.as_deref().or(finding.judged.nearest.as_deref()) else {
            self.left.insert(format!("no version of {name} is allowed"));
            return;
        };
        if finding.judged.version == instead {
            self.left.insert(format!("{} is allowed, but its bytes differ; lock it again", spec(&finding.judged)));
            return;
        }
        // For direct dependencies: npm rejects an override that conflicts with the project's range, and yarn 1 warns.
        let (of_project, of_packages): (Vec<_>, Vec<_>) = finding.package.asks.iter().partition(|asked| asked.by.is_none());
        let by_command = |asked: &&Requester| match dialect {
            // An override covers every workspace and leaves package.json alone, but does not match aliases and dist-tags.
            LockfileFormat::Pnpm6 | LockfileFormat::Pnpm9 => {
                asked.alias.is_some() || asked.range.as_deref().and_then(Range::parse).is_none()
            }
            LockfileFormat::YarnBerry => false,
            LockfileFormat::Npm | LockfileFormat::YarnClassic | LockfileFormat::Bun | LockfileFormat::Deno => true,
        };
        let (commanded, overridden): (Vec<_>, Vec<_>) = of_project.into_iter().partition(by_command);
        self.direct.extend(commanded.iter().map(|asked| asked.replaced(name, instead)));
        let overridden: Vec<_> = overridden.into_iter().chain(of_packages).collect();
        if !commanded.is_empty() && overridden.is_empty() {
            // If another version is locked too, bun first requests the locked version and only then the added one.
            if dialect == LockfileFormat::Bun && finding.has_siblings {
                self.entries.extend(finding.package.places.iter().cloned());
            }
            return;
        }
        match dialect {
            LockfileFormat::Npm => self.override_in_npm(finding, &overridden, instead),
            // The key names the version to replace. Other versions of the package stay.
            LockfileFormat::Pnpm6 | LockfileFormat::Pnpm9 => self.put(spec(&finding.judged), instead),
            LockfileFormat::YarnClassic => self.override_in_yarn_1(finding, &overridden, instead),
            LockfileFormat::YarnBerry => self.override_in_yarn(finding, &overridden, instead),
            LockfileFormat::Bun => self.override_in_bun(finding, &overridden, instead),
            // deno.lock contains no ranges and is deleted anyway. Hidden versions are then not chosen again.
            LockfileFormat::Deno if finding.has_siblings => self.remove_entry(finding, "deno", "deno.lock"),
            LockfileFormat::Deno => self.put(name.to_owned(), instead),
        }
    }

    /// npm keeps a locked version despite an override, unless its lockfile entry is removed.
    fn override_in_npm(&mut self, finding: &RefusedVersion, asked: &[&Requester], instead: &str) {
        let aliases = asked.iter().filter(|asked| asked.alias.is_some());
        let aliased = aliases.clone().count() == asked.len() && !asked.is_empty();
        self.overrides.extend(aliases.map(|asked| asked.replaced(&finding.judged.name, instead)));
        if !aliased {
            self.put(spec(&finding.judged), instead);
        }
        self.entries.extend(finding.package.places.iter().cloned());
    }

    fn override_in_yarn_1(&mut self, finding: &RefusedVersion, asked: &[&Requester], instead: &str) {
        for asked in asked {
            let (name, version) = asked.replaced(&finding.judged.name, instead);
            let by = asked.by.as_deref().filter(|_| finding.has_siblings);
            self.overrides.insert(by.map_or_else(|| name.clone(), |by| format!("**/{by}/{name}")), version);
        }
    }

    /// yarn 2 and later match overrides by the exact requested range, so each range needs its own.
    fn override_in_yarn(&mut self, finding: &RefusedVersion, asked: &[&Requester], instead: &str) {
        let name = finding.judged.name.as_str();
        for asked in asked {
            let (as_name, version) = asked.replaced(name, instead);
            let key = match (&asked.range, &asked.alias) {
                (Some(range), None) => format!("{name}@npm:{range}"),
                (Some(range), Some(alias)) => format!("{alias}@npm:{name}@{range}"),
                // The lockfile has no range for a catalog. If no other version is locked, the name is enough.
                (None, _) if !finding.has_siblings => as_name,
                (None, _) => {
                    self.remove_entry(finding, "yarn", "its entry for the catalog");
                    continue;
                }
            };
            self.overrides.insert(key, version);
        }
    }

    /// bun matches overrides by package name for all versions, and does not match aliases.
    fn override_in_bun(&mut self, finding: &RefusedVersion, asked: &[&Requester], instead: &str) {
        if finding.has_siblings || asked.iter().any(|asked| asked.alias.is_some()) {
            self.remove_entry(finding, "bun", "its entry in bun.lock");
            self.entries.extend(finding.package.places.iter().cloned());
        } else {
            self.put(finding.judged.name.clone(), instead);
        }
    }

    fn put(&mut self, key: String, version: &str) {
        self.overrides.insert(key, version.to_owned());
    }

    fn remove_entry(&mut self, finding: &RefusedVersion, client: &str, place: &str) {
        let what = spec(&finding.judged);
        let others = if finding.has_siblings { "one of several versions of a package" } else { "an alias" };
        self.left.insert(format!(
            "{client} cannot override {others}; to replace {what}, remove {place}: hidden versions are not chosen again"
        ));
    }
}

impl Requester {
    /// Returns the name it is requested by, and what to request instead.
    fn replaced(&self, name: &str, instead: &str) -> (String, String) {
        match &self.alias {
            Some(alias) => (alias.clone(), format!("npm:{name}@{instead}")),
            None => (name.to_owned(), instead.to_owned()),
        }
    }
}
