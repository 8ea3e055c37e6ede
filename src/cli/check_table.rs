//! What `coldframe check` found, for people.

use std::fmt::Write as _;

use super::check_report::{FileReport, Finding, Report};
use super::output::Columns;
use crate::firewall::Outcome;
use crate::npm::instant;

pub(super) fn tell(report: &Report) -> String {
    report.files.iter().map(tell_file).collect::<Vec<_>>().join("\n")
}

fn tell_file(file: &FileReport) -> String {
    let mut text = format!("{}: {}\n", file.path, summary(file));
    let mut columns = Columns::indented("  ");
    for finding in &file.findings {
        columns.row([finding.what(), format!("line {}", finding.line), outcome(finding), instead(finding), why(finding)]);
    }
    let _ = write!(text, "{columns}");
    for bypass in &file.bypasses {
        let _ = writeln!(text, "  around: {} (line {})", bypass.tell(), bypass.line);
    }
    for note in &file.notes {
        let _ = writeln!(text, "  note: {note}");
    }
    text
}

fn summary(file: &FileReport) -> String {
    let packages = if file.count() == 1 { "1 version".to_owned() } else { format!("{} versions", file.count()) };
    let refused = match file.findings.len() {
        0 => "none would be refused".to_owned(),
        count => format!("{count} would be refused"),
    };
    let mut summary = format!("{packages}, {refused}");
    let opens = file.findings.iter().map(|finding| finding.judged.opens.filter(|_| finding.judged.outcome.is_cured_by_waiting()));
    // Only where each of them opens by itself.
    if let Some(Some(last)) = opens.collect::<Option<Vec<_>>>().map(|opens| opens.into_iter().max()) {
        let _ = write!(summary, "; all open by {}", instant::tell_opening(last));
    }
    summary
}

fn outcome(finding: &Finding) -> String {
    match (finding.judged.outcome, finding.judged.opens) {
        (Outcome::Allow, _) => "allowed".to_owned(),
        (Outcome::Hold, Some(opens)) => format!("held until {}", instant::tell_opening(opens)),
        (Outcome::Hold, None) => "held".to_owned(),
        (Outcome::Deny, _) => "denied".to_owned(),
        (Outcome::OtherBytes, _) => "other bytes".to_owned(),
        (Outcome::Missing, _) => "not found".to_owned(),
        (Outcome::Undecided, _) => "undecided".to_owned(),
    }
}

fn instead(finding: &Finding) -> String {
    match (&finding.judged.fits, &finding.judged.nearest) {
        (Some(fits), _) => format!("use {fits}"),
        (None, Some(nearest)) if finding.ranges.is_empty() => format!("use {nearest}"),
        (None, Some(nearest)) => format!("none fits, nearest {nearest}"),
        (None, None) => "nothing to use".to_owned(),
    }
}

fn why(finding: &Finding) -> String {
    let reason = finding.judged.reason.as_deref().unwrap_or_default();
    format!("{reason} ({})", finding.judged.rule.as_deref().unwrap_or("no rule"))
}
