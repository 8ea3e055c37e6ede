//! The report of `coldframe check` as readable text.

use std::fmt::Write as _;

use crate::cli::check::report::{LockfileReport, RefusedVersion, Report, spec};
use crate::cli::output::counted;
use crate::firewall::CheckOutcome;
use crate::text::{TextTable, push_line};
use crate::units::timestamp;

/// Reasons that are printed per lockfile.
const REASONS: usize = 10;

pub(crate) fn format_text(report: &Report) -> String {
    let mut text = String::new();
    if let Some(reason) = report.why_nothing() {
        push_line!(text, "nothing could be checked: {reason}");
        text.push('\n');
    }
    text + &report.files.iter().map(|file| format_file(file, report.why_nothing().is_some())).collect::<Vec<_>>().join("\n")
}

fn format_file(file: &LockfileReport, is_told: bool) -> String {
    let mut text = String::new();
    push_line!(text, "{}: {}", file.path, summary(file));
    let mut columns = TextTable::indented("  ");
    for finding in &file.findings {
        let (line, judged) = (format!("line {}", finding.package.line), &finding.judged);
        let reason = judged.reason.as_deref().unwrap_or_default();
        let why = format!("{reason} ({})", judged.rule.as_deref().unwrap_or("no rule"));
        columns.row([&spec(&finding.judged), &line, &outcome(finding), &instead(finding), &why]);
    }
    let _ = write!(text, "{columns}");
    for (reason, packages) in file.unchecked.iter().filter(|_| !is_told).take(REASONS) {
        push_line!(text, "  unchecked: {}: {reason}", counted(packages.len(), "version"));
    }
    for bypass in file.bypasses() {
        push_line!(text, "  bypass: {} (line {})", bypass.format_text(), bypass.line);
    }
    for note in &file.notes {
        push_line!(text, "  note: {note}");
    }
    text
}

fn summary(file: &LockfileReport) -> String {
    let unchecked: usize = file.unchecked.values().map(Vec::len).sum();
    let refused = match file.findings.len() {
        0 if unchecked > 0 && unchecked == file.packages.len() => String::new(),
        0 => ", none would be refused".to_owned(),
        count => format!(", {count} would be refused"),
    };
    let mut summary = format!("{}{refused}", counted(file.packages.len(), "version"));
    if unchecked > 0 {
        let _ = write!(summary, ", {unchecked} could not be checked");
    }
    let opens = file.findings.iter().map(|finding| finding.judged.opens.filter(|_| finding.judged.outcome == CheckOutcome::Hold));
    // Only if all of them open in time.
    if let Some(Some(last)) = opens.collect::<Option<Vec<_>>>().map(|opens| opens.into_iter().max()) {
        let _ = write!(summary, "; all open by {}", timestamp::format_utc_ceil(last));
    }
    summary
}

fn outcome(finding: &RefusedVersion) -> String {
    match (finding.judged.outcome, finding.judged.opens) {
        (CheckOutcome::Allow, _) => "allowed".to_owned(),
        (CheckOutcome::Hold, Some(opens)) => format!("held until {}", timestamp::format_utc_ceil(opens)),
        (CheckOutcome::Hold, None) => "held".to_owned(),
        (CheckOutcome::Deny, _) => "denied".to_owned(),
        (CheckOutcome::OtherBytes, _) => "different bytes".to_owned(),
        (CheckOutcome::Missing, _) => "not found".to_owned(),
        (CheckOutcome::Undecided, _) => "undecided".to_owned(),
    }
}

fn instead(finding: &RefusedVersion) -> String {
    match (&finding.judged.fits, &finding.judged.nearest) {
        (Some(fits), _) => format!("use {fits}"),
        (None, Some(nearest)) if finding.package.locked.ranges.is_empty() => format!("use {nearest}"),
        (None, Some(nearest)) => format!("none in range, nearest {nearest}"),
        (None, None) => "no version allowed".to_owned(),
    }
}
