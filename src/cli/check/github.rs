//! The report of `coldframe check` as GitHub workflow commands: one annotation per version, on its line.

use std::fmt::Write as _;

use crate::cli::check::report::{RefusedVersion, Report, spec};
use crate::firewall::CheckOutcome;
use crate::text::single_line;
use crate::units::timestamp;

/// At most this many annotations per lockfile for versions that could not be checked, one per reason.
const REASONS: usize = 10;

pub(crate) fn format_text(report: &Report) -> String {
    let mut text = String::new();
    if let (Some(reason), Some(file)) = (report.why_nothing(), report.files.first()) {
        command(&mut text, "error", (&file.path, 1), "nothing could be checked", reason);
    }
    for file in &report.files {
        for (reason, packages) in file.unchecked.iter().filter(|_| report.why_nothing().is_none()).take(REASONS) {
            let title = format!("{} could not be checked", packages.len());
            let line = packages.iter().map(|(_, line)| *line).min().unwrap_or(1);
            command(&mut text, "error", (&file.path, line), &title, reason);
        }
        for finding in &file.findings {
            let title = format!("{} would be refused", spec(&finding.judged));
            command(&mut text, "error", (&file.path, finding.package.line), &title, &message(finding));
        }
        for bypass in file.bypasses() {
            let title = format!("bypasses Coldframe: {}", bypass.place);
            command(&mut text, "warning", (&file.path, bypass.line), &title, &bypass.format_text());
        }
        for note in &file.notes {
            command(&mut text, "notice", (&file.path, 1), "bypasses Coldframe", note);
        }
    }
    text
}

/// Describes why a version would be refused, until when, and what to use instead.
pub(crate) fn message(finding: &RefusedVersion) -> String {
    let judged = &finding.judged;
    let rule = judged.rule.as_deref().unwrap_or("no rule");
    let mut text = format!("{}: {} (rule {rule})", spec(&finding.judged), judged.reason.as_deref().unwrap_or("refused"));
    if let Some(opens) = judged.opens.filter(|_| judged.outcome == CheckOutcome::Hold) {
        let _ = write!(text, "; opens {}", timestamp::format_utc_ceil(opens));
    }
    text + &match (&judged.fits, &judged.nearest) {
        (Some(fits), _) => format!("; allowed and in range: {fits}"),
        (None, Some(nearest)) => format!("; nearest allowed: {nearest}"),
        (None, None) => String::new(),
    }
}

fn command(text: &mut String, level: &str, (file, line): (&str, u32), title: &str, message: &str) {
    // Not `push_line!`, which escapes workflow commands. Each value is escaped here.
    let line = format!("::{level} file={},line={line},title={}::{}\n", property(file), property(title), data(message));
    text.push_str(&line);
}

fn data(text: &str) -> String {
    single_line(text).replace('%', "%25").replace('\r', "%0D").replace('\n', "%0A")
}

/// Escapes a property, which ends at a comma or a colon.
fn property(text: &str) -> String {
    data(text).replace(':', "%3A").replace(',', "%2C")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn command_values_are_escaped() {
        let mut text = String::new();
        command(&mut text, "error", ("a,line=9::b%.json", 3), "x\n::error::y", "100%\r\n::warning::z");
        let expected = "::error file=a%2Cline=9%3A%3Ab%25.json,line=3,title=x\\n%3A%3Aerror%3A%3Ay::100%25\\r\\n::warning::z\n";
        assert_eq!(text, expected);
    }
}
