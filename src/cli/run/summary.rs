//! What `coldframe run` says at its end: for the person at the terminal, for programs, and as Markdown for a job's page.
//! Refuses to ask anybody anything.

use std::collections::BTreeSet;

use serde_json::{Value, json};

use crate::app::run::RunReport;
use crate::firewall::{HeldVersion, HiddenVersions, Refusal, WantedVersion};
use crate::npm::PackageName;
use crate::policy::RuleId;
use crate::text::{markdown, markdown_code, push_line, shell_word};
use crate::units::timestamp;

/// Lines of a kind that a person is shown; the rest is counted.
const SHOWN: usize = 12;

/// A command that has ended.
pub(crate) struct RunSummary<'a> {
    /// The command, as it was written.
    pub(crate) command: String,
    /// Its exit code.
    pub(crate) code: u8,
    /// The policy, in words.
    pub(crate) policy: String,
    /// What became of its requests.
    pub(crate) sum: &'a RunReport,
    /// The lockfiles beside it, after it ended, and what they lock of registries: name and version, each once.
    pub(crate) lockfiles: Vec<String>,
    pub(crate) locked: BTreeSet<(String, String)>,
    /// What commands that are advised have to be given to answer as this one did.
    pub(crate) flags: String,
}

impl RunSummary<'_> {
    /// The whole in a few lines.
    pub(crate) fn text(&self) -> String {
        let mut text = String::new();
        push_line!(text, "coldframe: {}", self.headline());
        for (kind, lines) in self.parts() {
            let width = lines.len().min(SHOWN);
            for line in &lines[..width] {
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

    /// The same for a page, everything listed.
    pub(crate) fn markdown(&self) -> String {
        let end = if self.code == 0 { "ended well".to_owned() } else { format!("ended with exit code {}", self.code) };
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
                // Nothing in a line ends the block.
                push_line!(text, "{}", line.replace('`', "'"));
            }
            text.push_str("```\n");
        }
        text.push('\n');
        text
    }

    /// Everything, for programs: one object.
    pub(crate) fn json(&self) -> Value {
        let noted = &self.sum.noted;
        let total = noted.served.len();
        let cached = self.cached();
        json!({
            "command": self.command,
            "exitCode": self.code,
            "policy": self.policy,
            "packages": { "total": total, "fromCache": cached, "fetched": total - cached, "bytes": noted.bytes },
            "refused": noted.refused.values().map(refused_json).collect::<Vec<_>>(),
            "stoppedBy": self.culprits().into_iter().map(|(name, wanted)| wanted_json(name, wanted)).collect::<Vec<_>>(),
            "wouldTake": self.would_take().into_iter().map(|(name, wanted)| wanted_json(name, wanted)).collect::<Vec<_>>(),
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
            0 => "no package was asked for".to_owned(),
            1 => format!("1 package, {cached} from the cache"),
            _ => format!("{total} packages, {cached} from the cache"),
        }];
        let culprits = self.culprits();
        parts.extend(culprits.first().map(|(name, wanted)| match culprits.len() {
            1 => format!("stopped by {name}@{}", wanted.kept.version),
            count => format!("stopped by {name}@{} and {} more", wanted.kept.version, count - 1),
        }));
        match self.held().count() {
            0 => {}
            1 => parts.push("1 with newer releases held back".to_owned()),
            held => parts.push(format!("{held} with newer releases held back")),
        }
        parts.extend((refused > 0).then(|| format!("{refused} refused")));
        parts.extend((failed > 0).then(|| format!("{failed} could not be had")));
        parts.extend((total > 0 && parts.len() == 1).then(|| "nothing was held back".to_owned()));
        parts.extend(self.not_requested().filter(|_| total == 0).map(|count| {
            let lockfiles = self.lockfiles.join(", ");
            format!("{count} of {lockfiles} not judged, clients keep copies of their own")
        }));
        parts.join("; ")
    }

    /// How many packages of lockfiles nobody asked for. Where the command failed, nobody may have come so far.
    fn not_requested(&self) -> Option<usize> {
        let served = &self.sum.noted.served;
        let asked = |(name, version): &&(String, String)| {
            served.keys().any(|(known, served)| known.as_str() == name && **served == **version)
        };
        let count = self.locked.len() - self.locked.iter().filter(asked).count();
        (count > 0 && self.code == 0).then_some(count)
    }

    /// What stands below the headline, by kind.
    fn parts(&self) -> [(&'static str, Vec<String>); 7] {
        let noted = &self.sum.noted;
        let refused = noted.refused.values().map(|refusal| refusal.text.to_string()).collect();
        let culprits = self.culprits().into_iter().map(|(name, wanted)| tell_wanted(name, wanted)).collect();
        let mut held: Vec<String> = self.would_take().into_iter().map(|(name, wanted)| tell_wanted(name, wanted)).collect();
        let is_wanted = |name: &PackageName| noted.hidden.get(name).is_some_and(|hidden| hidden.is_wanted);
        held.extend(self.held().filter(|(name, _)| !is_wanted(name)).map(|(name, kept)| tell(name, &kept[0], kept.len())));
        let rest = self.held().filter(|(name, _)| is_wanted(name) && noted.hidden[*name].wanted.is_empty()).count();
        held.extend((rest > 0).then(|| match rest {
            1 => "1 package has a newer release that nothing here asks for".to_owned(),
            _ => format!("{rest} packages have newer releases that nothing here asks for"),
        }));
        // Only a command that failed may have wanted one of these, and only where it is not known what it wants.
        let others =
            noted.hidden.iter().filter(|(_, hidden)| self.code != 0 && !hidden.is_wanted).filter_map(|(name, hidden)| {
                let (kept, count) = hidden.others.as_ref()?;
                Some(tell(name, kept, *count))
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
            ("trouble", self.sum.trouble.iter().cloned().collect()),
        ]
    }

    /// What is newer than what is shown, of packages that were installed; of all, where none was or the command failed: then it
    /// may be what was wanted.
    fn held(&self) -> impl Iterator<Item = (&PackageName, &[HeldVersion])> {
        let noted = &self.sum.noted;
        let all = self.code != 0 || noted.served.is_empty();
        let installed = move |name: &PackageName| all || noted.served.keys().any(|(served, _)| served == name);
        let newer = noted.hidden.iter().filter(|(_, hidden)| !hidden.newer.is_empty());
        newer.filter(move |(name, _)| installed(name)).map(|(name, hidden)| (name, &*hidden.newer))
    }

    /// What made the command fail: the only versions that something wants, each once; what the project wants first.
    fn culprits(&self) -> Vec<(&PackageName, &WantedVersion)> {
        if self.code == 0 { Vec::new() } else { self.wanted(|_, wanted| wanted.fails) }
    }

    /// What else the command would have taken, each package once; what the project wants first.
    fn would_take(&self) -> Vec<(&PackageName, &WantedVersion)> {
        let noted = &self.sum.noted;
        let all = self.code != 0 || noted.served.is_empty();
        let installed = |name: &PackageName| all || noted.served.keys().any(|(served, _)| served == name);
        self.wanted(|name, wanted| installed(name) && (self.code == 0 || !wanted.fails))
    }

    fn wanted(&self, which: impl Fn(&PackageName, &WantedVersion) -> bool) -> Vec<(&PackageName, &WantedVersion)> {
        let each = self.sum.noted.hidden.iter().filter_map(|(name, hidden)| {
            let mut fitting = hidden.wanted.iter().filter(|wanted| which(name, wanted));
            let first = fitting.clone().find(|wanted| wanted.want.is_direct).or_else(|| fitting.next())?;
            Some((name, first))
        });
        let mut each: Vec<_> = each.collect();
        each.sort_by_key(|(_, wanted)| !wanted.want.is_direct);
        each
    }

    /// The commands that help, when something was not to be had.
    fn advice(&self) -> Vec<String> {
        let noted = &self.sum.noted;
        let culprits = self.culprits();
        let stopped = culprits.iter().map(|(name, wanted)| Withheld::of(name, &wanted.kept));
        let refused = noted.refused.values().filter_map(|refusal| {
            let (name, version) = (&refusal.name, refusal.version.as_deref()?);
            Some(Withheld { name, version, rule: &refusal.rule, opens: refusal.opens.is_some() })
        });
        let wholes = noted.refused.values().filter(|refusal| refusal.version.is_none());
        let wholes =
            wholes.filter_map(|refusal| Some(Withheld::of(&refusal.name, noted.hidden.get(&refusal.name)?.newer.first()?)));
        let mut withheld: Vec<Withheld<'_>> = Vec::new();
        for one in stopped.chain(refused).chain(wholes) {
            if !withheld.iter().any(|known| (known.name, known.version) == (one.name, one.version)) {
                withheld.push(one);
            }
        }
        if withheld.is_empty() && self.code != 0 {
            // Where a version was hidden rather than refused, its client says that there is none.
            withheld.extend(self.held().map(|(name, kept)| Withheld::of(name, &kept[0])));
        }
        withheld.truncate(ADVISED);
        let mut lines = Vec::new();
        if !withheld.is_empty() {
            if !culprits.is_empty() {
                lines.push("pnpm, yarn and bun say of these only that no version matches".to_owned());
            }
            let or_wait = if withheld.iter().any(|one| one.opens) { ", or wait until the release opens" } else { "" };
            lines.push(format!("take the version that is allowed{or_wait}; else"));
            lines.push("coldframe check --fix (where there is a lockfile: says what fits instead)".to_owned());
        }
        lines.extend(withheld.iter().flat_map(|one| one.advice(&self.flags)));
        lines.extend(
            (!noted.failed.is_empty()).then(|| format!("coldframe doctor{} (says whether upstream answers here)", self.flags)),
        );
        lines
    }
}

/// Versions that commands are advised for.
const ADVISED: usize = 3;

/// A version that the command was not given.
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

    /// The commands that say more of it, and the one that opens it, if there is one. No command is advised that opens malware.
    fn advice(&self, flags: &str) -> impl Iterator<Item = String> {
        let spec = format!("{}@{}", self.name, self.version);
        let spec = shell_word(&spec);
        let opens = match self.rule {
            RuleId::Denied => {
                Some(format!("coldframe decisions list{flags} (says who denied it; `coldframe revoke` takes that back)"))
            }
            RuleId::Advisory | RuleId::IntegrityChanged => None,
            rule if rule.may_be_approved() => Some(format!("coldframe approve {spec} --reason \"why it cannot wait\"{flags}")),
            _ => None,
        };
        std::iter::once(format!("coldframe explain {spec}{flags}")).chain(opens)
    }
}

/// The first of `count` hidden versions in a line.
fn tell(name: &PackageName, kept: &HeldVersion, count: usize) -> String {
    let HeldVersion { version, rule, detail, opens, nearest } = kept;
    let more = if count > 1 { format!(" (and {} more)", count - 1) } else { String::new() };
    let opens = opens.map(|opens| format!("; opens {}", timestamp::format_utc_ceil(opens))).unwrap_or_default();
    let nearest = nearest.as_ref().map(|nearest| format!("; newest allowed: {nearest}")).unwrap_or_default();
    format!("{name}@{version}{more}: {detail} (rule {rule}){opens}{nearest}")
}

/// A version that would have been taken, in a line.
fn tell_wanted(name: &PackageName, wanted: &WantedVersion) -> String {
    let (kept, want) = (&wanted.kept, &wanted.want);
    let spec = if *want.spec == *kept.version { String::new() } else { format!(" as `{}`", want.spec) };
    let told = tell(name, kept, 1);
    let (version, rest) = told.split_once(": ").unwrap_or((&told, ""));
    format!("{version}, wanted{spec} by {}: {rest}", want.by)
}

fn wanted_json(name: &PackageName, wanted: &WantedVersion) -> Value {
    let kept = &wanted.kept;
    json!({
        "name": name.as_str(),
        "version": kept.version,
        "wantedBy": wanted.want.by,
        "spec": wanted.want.spec,
        "direct": wanted.want.is_direct,
        "rule": kept.rule.as_str(),
        "reason": kept.detail,
        "opens": kept.opens.map(|opens| opens.to_string()),
        "nearest": kept.nearest,
    })
}

fn refused_json(refusal: &Refusal) -> Value {
    json!({
        "name": refusal.name.as_str(),
        "version": refusal.version,
        "rule": refusal.rule.as_str(),
        "opens": refusal.opens.map(|opens| opens.to_string()),
        "reason": &*refusal.text,
    })
}

fn hidden_json(name: &PackageName, hidden: &HiddenVersions) -> Value {
    let one = |kept: &HeldVersion| {
        json!({
            "version": kept.version,
            "rule": kept.rule.as_str(),
            "reason": kept.detail,
            "opens": kept.opens.map(|opens| opens.to_string()),
            "nearest": kept.nearest,
        })
    };
    json!({
        "name": name.as_str(),
        "newer": hidden.newer.iter().map(one).collect::<Vec<_>>(),
        "others": hidden.others.as_ref().map(|(kept, count)| json!({ "count": count, "highest": one(kept) })),
    })
}
