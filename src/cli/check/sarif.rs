//! The report of `coldframe check` as SARIF 2.1.0: one result per name and version, across all lockfiles.

use std::collections::BTreeMap;

use percent_encoding::{AsciiSet, CONTROLS, utf8_percent_encode};
use serde_json::{Value, json};

use crate::cli::check::github::message;
use crate::cli::check::report::{RefusedVersion, Report, spec};
use crate::text::single_line;

/// Characters to escape in the path of a URI reference.
const PATH: &AsciiSet = &{
    let (mut set, mut rest) = (CONTROLS.add(b' '), b"\"#%<>?[\\]^`{|}:".as_slice());
    while let [character, others @ ..] = rest {
        (set, rest) = (set.add(*character), others);
    }
    set
};

/// At most this many locations per bypass, and notifications per run.
const PLACES: usize = 10;

pub(crate) fn format_text(report: &Report) -> Value {
    let mut rules = SarifRules::default();
    let mut results = Vec::new();
    let mut found: BTreeMap<_, Vec<(&str, &RefusedVersion)>> = BTreeMap::new();
    for file in &report.files {
        for finding in &file.findings {
            let key = (spec(&finding.judged), finding.judged.rule.as_deref());
            found.entry(key).or_default().push((&file.path, finding));
        }
    }
    for ((what, rule), places) in found {
        let Some((_, first)) = places.first() else { continue };
        let locations: Vec<_> = places.iter().map(|(path, finding)| location(path, finding.package.line)).collect();
        let rule = rule.unwrap_or("refused");
        results.push(rules.result(rule, "error", &message(first), &locations, &format!("{what}/{rule}")));
    }
    for file in &report.files {
        for bypass in file.bypasses() {
            let id = format!("bypass-{}", bypass.kind.as_str());
            let locations = bypass.packages.iter().take(PLACES).map(|(_, line)| location(&file.path, *line)).collect::<Vec<_>>();
            let print = format!("{}/{id}/{}", file.path, bypass.place);
            results.push(rules.result(&id, "warning", &bypass.format_text(), &locations, &print));
        }
    }
    let mut reasons: BTreeMap<&str, usize> = BTreeMap::new();
    for (reason, packages) in report.files.iter().flat_map(|file| &file.unchecked) {
        *reasons.entry(reason).or_default() += packages.len();
    }
    let nothing = report.why_nothing().is_some();
    let notification = |(reason, count): (&str, usize)| {
        let what = if nothing { "nothing could".to_owned() } else { format!("{count} versions could not") };
        json!({ "level": "error", "message": { "text": plain(&format!("{what} be checked: {reason}")) } })
    };
    // An unreachable registry has one reason. If each package has its own reason, a few are enough.
    let unchecked: Vec<Value> = reasons.into_iter().take(if nothing { 1 } else { PLACES }).map(notification).collect();
    let rule = |id: &String| json!({ "id": id, "shortDescription": { "text": describe(id) } });
    let rules: Vec<Value> = rules.0.iter().map(rule).collect();
    json!({
        "$schema": "https://json.schemastore.org/sarif-2.1.0.json",
        "version": "2.1.0",
        "runs": [{
            "invocations": [{ "executionSuccessful": unchecked.is_empty(), "toolExecutionNotifications": unchecked }],
            "tool": { "driver": { "name": "coldframe", "semanticVersion": env!("CARGO_PKG_VERSION"), "rules": rules } },
            "results": results,
        }],
    })
}

/// The rules of the results, in order of first use.
#[derive(Default)]
struct SarifRules(Vec<String>);

impl SarifRules {
    fn result(&mut self, rule: &str, level: &str, message: &str, locations: &[Value], fingerprint: &str) -> Value {
        json!({
            "ruleId": rule,
            "ruleIndex": self.index(rule),
            "level": level,
            "message": { "text": plain(message) },
            "locations": locations,
            "partialFingerprints": { "coldframe/v1": fingerprint },
        })
    }

    fn index(&mut self, id: &str) -> usize {
        self.0.iter().position(|known| known == id).unwrap_or_else(|| {
            self.0.push(id.to_owned());
            self.0.len() - 1
        })
    }
}

fn describe(rule: &str) -> String {
    match rule {
        "minimum-age" => "the release is below the minimum release age".to_owned(),
        "lockfile-integrity" => "the lockfile and the registry have different integrity values".to_owned(),
        "not-found" => "the registry has no such package or version".to_owned(),
        "undecided" => "the version could not be checked".to_owned(),
        "bypass-git" | "bypass-http" | "bypass-other-host" => "the package is fetched without Coldframe".to_owned(),
        other => format!("refused by rule {other}"),
    }
}

/// Breaks up link syntax: SARIF viewers render `[text](address)` as a link.
fn plain(text: &str) -> String {
    single_line(text).replace("](", "] (")
}

fn location(path: &str, line: u32) -> Value {
    let uri = utf8_percent_encode(path, PATH).to_string();
    json!({ "physicalLocation": { "artifactLocation": { "uri": uri }, "region": { "startLine": line.max(1) } } })
}
