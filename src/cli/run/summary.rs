//! The summary of `coldframe run`, as text, JSON, and Markdown for CI job summaries.

use std::collections::BTreeSet;

use serde_json::{Value, json};

use crate::app::session::RunReport;
use crate::firewall::{HeldVersion, HiddenVersions, Refusal, WantedVersion};
use crate::npm::PackageName;
use crate::policy::RuleId;
use crate::text::{markdown, markdown_code, push_line, shell_word};
use crate::units::timestamp;

/// At most this many lines per kind are printed as text. The rest is counted.
const SHOWN: usize = 12;

pub(crate) struct RunSummary<'a> {
    pub(crate) command: String,
    pub(crate) code: u8,
    pub(crate) policy: String,
    pub(crate) sum: &'a RunReport,
    /// The lockfiles after the command ended, and the locked names and versions from registries.
    pub(crate) lockfiles: Vec<String>,
    pub(crate) locked: BTreeSet<(String, String)>,
    /// Flags for suggested commands, so that they answer like this one.
    pub(crate) flags: String,
}

impl RunSummary<'_> {
    pub(crate) fn text(&self) -> String {
        let mut text = String::new();
        push_line!(text, "coldframe: {}", self.headline());
        for (kind, lines) in self.parts() {
            for line in lines.iter().take(SHOWN) {
                push_line!(text, "  {kind:<12} {line}");
            }
            if lines.len() > SHOWN {
                push_line!(text, "  {kind:<12} and {} more", lines.len() - SHOWN);
            }
        }
        let advice = self.advice();
        if !advice.is_empty() {
            text.push_str("what to do:\n");
        }
        for line in advice {
            push_line!(text, "  {line}");
        }
        text
    }

    pub(crate) fn markdown(&self) -> String {
        let end = if self.code == 0 { "succeeded".to_owned() } else { format!("exited with code {}", self.code) };
        let mut text = String::new();
        push_line!(text, "### Coldframe: {} {end}", markdown_code(&self.command));
        text.push('\n');
        push_line!(text, "{}; policy {}", markdown(&self.headline()), markdown(&self.policy));
        for (kind, lines) in self.parts() {
            if !lines.is_empty() {
                text.push('\n');
                push_line!(text, "| {kind} |");
                text.push_str("|---|\n");
            }
            for line in lines {
                push_line!(text, "| {} |", markdown(&line));
            }
        }
        let advice = self.advice();
        if !advice.is_empty() {
            text.push_str("\nWhat to do:\n\n```\n");
            for line in advice {
                // A line must not end the code block.
                push_line!(text, "{}", line.replace('`', "'"));
            }
            text.push_str("```\n");
        }
        text.push('\n');
        text
    }

    pub(crate) fn json(&self) -> Value {
        let noted = &self.sum.noted;
        let (total, cached) = (noted.served.len(), self.cached());
        let wanted = |wanted: Vec<_>| wanted.into_iter().map(|(name, wanted)| wanted_json(name, wanted)).collect::<Vec<_>>();
        json!({
            "command": self.command,
            "exitCode": self.code,
            "policy": self.policy,
            "packages": { "total": total, "fromCache": cached, "fetched": total - cached, "bytes": noted.bytes },
            "refused": noted.refused.values().map(refused_json).collect::<Vec<_>>(),
            "stoppedBy": wanted(self.culprits()),
            "wouldTake": wanted(self.would_take()),
            "hidden": noted.hidden.iter().map(|(name, hidden)| hidden_json(name, hidden)).collect::<Vec<_>>(),
            "failed": noted.failed.iter().map(|(name, why)| json!({ "name": name.as_str(), "reason": why })).collect::<Vec<_>>(),
            "notReached": self.sum.turned_away.iter().map(|(place, turned)| {
                json!({ "place": place, "times": turned.times, "reason": turned.reason })
            }).collect::<Vec<_>>(),
            "notAskedFor": self.not_requested().unwrap_or_default(),
            "whatToDo": self.advice(),
        })
    }

    fn cached(&self) -> usize {
        self.sum.noted.served.values().filter(|kept| **kept).count()
    }

    fn headline(&self) -> String {
        let noted = &self.sum.noted;
        let (total, cached) = (noted.served.len(), self.cached());
        let (refused, failed) = (noted.refused.len(), noted.failed.len());
        let mut parts = vec![match total {
            0 if refused + failed > 0 => "no package was served".to_owned(),
            0 => "no package was requested".to_owned(),
            1 => format!("1 package, {cached} from the cache"),
            _ => format!("{total} packages, {cached} from the cache"),
        }];
        let culprits = self.culprits();
        parts.extend(culprits.first().map(|(name, wanted)| match culprits.len() {
            1 => format!("stopped by {name}@{}", wanted.kept.version),
            count => format!("stopped by {name}@{} and {} more", wanted.kept.version, count - 1),
        }));
        let held = self.held_versions().count();
        parts.extend((held > 0).then(|| format!("{held} with newer releases held back")));
        parts.extend((refused > 0).then(|| format!("{refused} refused")));
        parts.extend((failed > 0).then(|| format!("{failed} failed")));
        parts.extend((total > 0 && parts.len() == 1).then(|| "nothing was held back".to_owned()));
        parts.extend(self.not_requested().filter(|_| total == 0).map(|count| {
            let lockfiles = self.lockfiles.join(", ");
            format!("{count} of {lockfiles} not checked, clients have cached copies")
        }));
        parts.join("; ")
    }

    /// Returns the number of locked packages that were not requested. `None` if the command failed, as it may have stopped early.
    fn not_requested(&self) -> Option<usize> {
        let served = &self.sum.noted.served;
        let asked = |(name, version): &&(String, String)| {
            served.keys().any(|(known, served)| known.as_str() == name && **served == **version)
        };
        let count = self.locked.len() - self.locked.iter().filter(asked).count();
        (count > 0 && self.code == 0).then_some(count)
    }

    fn parts(&self) -> [(&'static str, Vec<String>); 7] {
        let noted = &self.sum.noted;
        let refused = noted.refused.values().map(|refusal| refusal.text.to_string()).collect();
        let culprits = self.culprits().into_iter().map(|(name, wanted)| format_wanted(name, wanted)).collect();
        let mut held: Vec<String> = self.would_take().into_iter().map(|(name, wanted)| format_wanted(name, wanted)).collect();
        let is_wanted = |name: &PackageName| noted.hidden.get(name).is_some_and(|hidden| hidden.is_wanted);
        let unwanted = self.held_versions().filter(|(name, _)| !is_wanted(name));
        held.extend(unwanted.map(|(name, kept)| format_text(name, &kept[0], kept.len())));
        let rest = self.held_versions().filter(|(name, _)| is_wanted(name) && noted.hidden[*name].wanted.is_empty()).count();
        held.extend((rest > 0).then(|| match rest {
            1 => "1 package has a newer release that nothing here requests".to_owned(),
            _ => format!("{rest} packages have newer releases that nothing here requests"),
        }));
        // Only listed if the command failed and its wants are unknown: it may have wanted one of these.
        let others = noted.hidden.iter().filter(|(_, hidden)| self.code != 0 && !hidden.is_wanted);
        let others = others.filter_map(|(name, hidden)| {
            let (kept, count) = hidden.others.as_ref()?;
            Some(format_text(name, kept, *count))
        });
        let failed = noted.failed.iter().map(|(name, why)| format!("{name}: {why}")).collect();
        let away = self.sum.turned_away.iter().map(|(place, turned)| {
            let times = if turned.times > 1 { format!(" ({} times)", turned.times) } else { String::new() };
            format!("{place}{times}: {}", turned.reason)
        });
        [
            ("stopped by", culprits),
            ("refused", refused),
            ("held back", held),
            ("also hidden", others.collect()),
            ("failed", failed),
            ("not reached", away.collect()),
            ("problems", self.sum.trouble.iter().cloned().collect()),
        ]
    }

    /// Returns hidden newer versions of installed packages. If nothing was installed or the command failed, returns those of all
    /// packages, because it may have wanted one of them.
    fn held_versions(&self) -> impl Iterator<Item = (&PackageName, &[HeldVersion])> {
        let newer = self.sum.noted.hidden.iter().filter(|(_, hidden)| !hidden.newer.is_empty());
        newer.filter(|(name, _)| self.may_be_installed(name)).map(|(name, hidden)| (name, &*hidden.newer))
    }

    fn may_be_installed(&self, name: &PackageName) -> bool {
        let served = &self.sum.noted.served;
        self.code != 0 || served.is_empty() || served.keys().any(|(served, _)| served == name)
    }

    /// Returns the hidden versions that made the command fail, one per package, direct dependencies first.
    fn culprits(&self) -> Vec<(&PackageName, &WantedVersion)> {
        if self.code == 0 { Vec::new() } else { self.wanted(|_, wanted| wanted.fails) }
    }

    /// Returns the other hidden versions that the command would have used, one per package, direct dependencies first.
    fn would_take(&self) -> Vec<(&PackageName, &WantedVersion)> {
        self.wanted(|name, wanted| self.may_be_installed(name) && (self.code == 0 || !wanted.fails))
    }

    fn wanted(&self, which: impl Fn(&PackageName, &WantedVersion) -> bool) -> Vec<(&PackageName, &WantedVersion)> {
        let each = self.sum.noted.hidden.iter().filter_map(|(name, hidden)| {
            let fitting = hidden.wanted.iter().filter(|wanted| which(name, wanted));
            Some((name, fitting.min_by_key(|wanted| !wanted.want.is_direct)?))
        });
        let mut each: Vec<_> = each.collect();
        each.sort_by_key(|(_, wanted)| !wanted.want.is_direct);
        each
    }

    fn advice(&self) -> Vec<String> {
        let noted = &self.sum.noted;
        let culprits = self.culprits();
        let stopped = culprits.iter().map(|(name, wanted)| Withheld::of(name, &wanted.kept));
        let refused = noted.refused.values().filter_map(|refusal| {
            let (name, version) = (&refusal.name, refusal.version.as_deref()?);
            Some(Withheld { name, version, rule: &refusal.rule, opens: refusal.opens.is_some() })
        });
        let unsegmented = noted.refused.values().filter(|refusal| refusal.version.is_none()).map(|refusal| &refusal.name);
        let unsegmented = unsegmented.filter_map(|name| Some(Withheld::of(name, noted.hidden.get(name)?.newer.first()?)));
        let mut withheld: Vec<Withheld<'_>> = Vec::new();
        for one in stopped.chain(refused).chain(unsegmented) {
            if !withheld.iter().any(|known| (known.name, known.version) == (one.name, one.version)) {
                withheld.push(one);
            }
        }
        if withheld.is_empty() && self.code != 0 {
            // If a version was hidden and not refused, the client reports that it does not exist.
            withheld.extend(self.held_versions().map(|(name, kept)| Withheld::of(name, &kept[0])));
        }
        withheld.truncate(MAX_SUGGESTED);
        let mut lines = Vec::new();
        if !withheld.is_empty() {
            if !culprits.is_empty() {
                lines.push("pnpm, yarn and bun only report that no version matches".to_owned());
            }
            let or_wait = if withheld.iter().any(|one| one.opens) { ", or wait until the release opens" } else { "" };
            lines.push(format!("use the allowed version{or_wait}; otherwise:"));
            lines.push("coldframe check --fix (with a lockfile: prints allowed replacements)".to_owned());
        }
        lines.extend(withheld.iter().flat_map(|one| one.advice(&self.flags)));
        if !noted.failed.is_empty() {
            lines.push(format!("coldframe doctor{} (checks whether upstream answers)", self.flags));
        }
        lines
    }
}

/// At most this many versions get suggested commands.
const MAX_SUGGESTED: usize = 3;

struct Withheld<'a> {
    name: &'a PackageName,
    version: &'a str,
    rule: &'a RuleId,
    opens: bool,
}

impl<'a> Withheld<'a> {
    fn of(name: &'a PackageName, kept: &'a HeldVersion) -> Self {
        Self { name, version: &kept.version, rule: &kept.rule, opens: kept.opens.is_some() }
    }

    /// Returns commands that explain the version and, if possible, open it. Commands that open malware are never suggested.
    fn advice(&self, flags: &str) -> impl Iterator<Item = String> {
        let spec = shell_word(&format!("{}@{}", self.name, self.version)).into_owned();
        let opens = match self.rule {
            RuleId::Denied => {
                Some(format!("coldframe decisions list{flags} (shows who denied it; undo it with `coldframe revoke`)"))
            }
            RuleId::Advisory | RuleId::IntegrityChanged => None,
            rule if rule.may_be_approved() => Some(format!("coldframe approve {spec} --reason \"why it cannot wait\"{flags}")),
            _ => None,
        };
        std::iter::once(format!("coldframe explain {spec}{flags}")).chain(opens)
    }
}

fn format_text(name: &PackageName, kept: &HeldVersion, count: usize) -> String {
    let HeldVersion { version, rule, detail, opens, nearest } = kept;
    let more = if count > 1 { format!(" (and {} more)", count - 1) } else { String::new() };
    let opens = opens.map(|opens| format!("; opens {}", timestamp::format_utc_ceil(opens))).unwrap_or_default();
    let nearest = nearest.as_ref().map(|nearest| format!("; newest allowed: {nearest}")).unwrap_or_default();
    format!("{name}@{version}{more}: {detail} (rule {rule}){opens}{nearest}")
}

fn format_wanted(name: &PackageName, wanted: &WantedVersion) -> String {
    let (kept, want) = (&wanted.kept, &wanted.want);
    let spec = if *want.spec == *kept.version { String::new() } else { format!(" as `{}`", want.spec) };
    let formatted = format_text(name, kept, 1);
    let (version, rest) = formatted.split_once(": ").unwrap_or((&formatted, ""));
    format!("{version}, wanted{spec} by {}: {rest}", want.by)
}

fn wanted_json(name: &PackageName, wanted: &WantedVersion) -> Value {
    let mut document = held_json(&wanted.kept);
    document["name"] = name.as_str().into();
    document["wantedBy"] = (&*wanted.want.by).into();
    document["spec"] = (&*wanted.want.spec).into();
    document["direct"] = wanted.want.is_direct.into();
    document
}

fn held_json(kept: &HeldVersion) -> Value {
    json!({
        "version": kept.version,
        "rule": kept.rule.as_str(),
        "reason": kept.detail,
        "opens": kept.opens,
        "nearest": kept.nearest,
    })
}

fn refused_json(refusal: &Refusal) -> Value {
    json!({
        "name": refusal.name.as_str(),
        "version": refusal.version,
        "rule": refusal.rule.as_str(),
        "opens": refusal.opens,
        "reason": &*refusal.text,
    })
}

fn hidden_json(name: &PackageName, hidden: &HiddenVersions) -> Value {
    json!({
        "name": name.as_str(),
        "newer": hidden.newer.iter().map(held_json).collect::<Vec<_>>(),
        "others": hidden.others.as_ref().map(|(kept, count)| json!({ "count": count, "highest": held_json(kept) })),
    })
}
