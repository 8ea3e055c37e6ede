//! Test cases of a policy: a release, an instant, and the expected verdict. Nothing is looked up: the release has only the facts
//! that the case states.

use std::sync::Arc;

use jiff::Timestamp;
use jiff::civil::Date;

use crate::diagnostics::{Diagnostic, Diagnostics, SourceFile, SourceSpan};
use crate::npm::packument::index::{ManifestTraits, TagIndex};
use crate::npm::{PackageName, Version};
use crate::policy::advisories::index::{FeedAdvisories, FeedIndexBuilder};
use crate::policy::advisories::{Advisories, AdvisoryKind, AdvisoryRecord, FeedTrust, Severity};
use crate::policy::evaluate::evaluate_without_decisions;
use crate::policy::facts::Facts;
use crate::policy::rules::Policy;
use crate::policy::verdict::Verdict;
use crate::units::timestamp;
use crate::vetting::{Finding, Signal};

/// Words that a case may contain, for error messages.
const WORDS: &str = "`at`, `published`, `package` and a day, `fix` and an advisory, `publisher`, `maintainer`, `tag`, `signal`, `finding`, `advisory` \
    and `malware` or a severity, `feed`, `trust`, `part-of` and a day, `install-script`, `deprecated`, `git-dependency`, \
    `url-dependency`, `file-dependency`";

const EXPECTED: &str = "`allow`, `deny by RULE`, `hold by RULE` or `hold by RULE until INSTANT`";

#[derive(Debug, Clone)]
pub struct PolicyCase {
    place: SourceSpan,
    text: String,
    release: CaseRelease,
    expected: ExpectedVerdict,
}

#[derive(Debug, Clone)]
struct CaseRelease {
    name: PackageName,
    version: Version,
    at: Timestamp,
    published: Option<Timestamp>,
    first_published: Option<Timestamp>,
    parent: Option<Timestamp>,
    fix: Option<String>,
    traits: ManifestTraits,
    publisher: Option<String>,
    maintainers: Vec<Arc<str>>,
    tags: Vec<(Box<str>, Box<str>)>,
    signals: Vec<Signal>,
    findings: Vec<Finding>,
    advisories: Vec<CaseAdvisory>,
}

#[derive(Debug, Clone)]
struct CaseAdvisory {
    kind: AdvisoryKind,
    severity: Option<Severity>,
    feed: String,
    trust: FeedTrust,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum ExpectedVerdict {
    Allow,
    Deny(String),
    Hold(String, Option<Timestamp>),
}

/// Parses the cases of a file, one per line. Blank lines and lines that begin with `#` are skipped.
pub(crate) fn parse(file: &Arc<SourceFile>) -> Result<Vec<PolicyCase>, Diagnostics> {
    let (mut cases, mut errors) = (Vec::new(), Vec::new());
    let mut start = 0;
    for line in file.text.split_inclusive('\n') {
        let span = start..start + line.trim_end().len();
        start += line.len();
        let text = line.trim();
        if text.is_empty() || text.starts_with('#') {
            continue;
        }
        let place = SourceSpan::new(file, span);
        match parse_case(text) {
            Ok((release, expected)) => cases.push(PolicyCase { place, text: text.to_owned(), release, expected }),
            Err((problem, allowed)) => errors.push(Diagnostic::new(place, problem, allowed)),
        }
    }
    if errors.is_empty() { Ok(cases) } else { Err(Diagnostics { subject: "policy", errors }) }
}

impl PolicyCase {
    /// Runs the case against a policy. An error describes the policy's verdict if it differs from the expected one.
    pub(crate) fn run(&self, policy: &Policy) -> Result<(), String> {
        let found = self.evaluate(policy);
        let fits = match (&self.expected, &found) {
            (ExpectedVerdict::Allow, Verdict::Allow) => true,
            (ExpectedVerdict::Deny(rule), Verdict::Deny { reason }) => *rule == reason.rule.as_str(),
            (ExpectedVerdict::Hold(rule, until), Verdict::Hold { until: opens, reason }) => {
                *rule == reason.rule.as_str() && until.is_none_or(|until| until == *opens)
            }
            _ => false,
        };
        if fits {
            return Ok(());
        }
        let (line, _) = self.place.position();
        let path = self.place.file.path.display();
        Err(format!("{path}:{line}: {}\n   = found: {}", self.text, format_verdict(&found)))
    }

    fn evaluate(&self, policy: &Policy) -> Verdict {
        let release = &self.release;
        let published = release.published.unwrap_or(release.at);
        let feeds = release.advisories.iter().map(|advisory| Arc::new(advisory.index(&release.name, &release.version))).collect();
        let feeds = Advisories::of_feeds(feeds);
        let advisories = feeds.of(release.name.as_str()).applicable_to(std::iter::empty());
        let facts = Facts {
            parsed: Some(&release.version),
            first_published: Some(release.first_published.unwrap_or(Timestamp::UNIX_EPOCH).min(published)),
            parent: release.parent,
            fix: release.fix.as_deref(),
            traits: release.traits,
            publisher: release.publisher.as_deref(),
            maintainers: &release.maintainers,
            tags: TagIndex { tags: &release.tags, by_target: &[] },
            advisories: &advisories,
            signals: release.signals.iter().copied().collect(),
            findings: release.findings.iter().copied().collect(),
            ..Facts::of(&release.name, release.version.as_str(), published)
        };
        let policy = policy.as_of(release.at);
        evaluate_without_decisions(&policy.for_package(&release.name), &facts, release.at)
    }
}

impl CaseAdvisory {
    fn index(&self, name: &PackageName, version: &Version) -> FeedAdvisories {
        let mut builder = FeedIndexBuilder::default();
        builder.add(&AdvisoryRecord {
            id: "CASE".into(),
            kind: self.kind,
            severity: self.severity,
            reviewed: true,
            package: name.as_str().into(),
            versions: vec![version.as_str().into()],
            ..AdvisoryRecord::default()
        });
        builder.build(&self.feed, self.trust)
    }
}

fn format_verdict(verdict: &Verdict) -> String {
    let rule = verdict.reason().map(|reason| reason.rule.to_string()).unwrap_or_default();
    match verdict {
        Verdict::Allow => "allow".to_owned(),
        Verdict::Deny { .. } => format!("deny by {rule}"),
        Verdict::Hold { until, .. } => format!("hold by {rule} until {until}"),
    }
}

type CaseError = (String, String);

fn parse_case(text: &str) -> Result<(CaseRelease, ExpectedVerdict), CaseError> {
    let (release, expected) =
        text.split_once("=>").ok_or_else(|| ("the case has no expected verdict".to_owned(), format!("`=>` and {EXPECTED}")))?;
    Ok((parse_release(release)?, parse_expected(expected)?))
}

fn parse_expected(text: &str) -> Result<ExpectedVerdict, CaseError> {
    let words: Vec<_> = text.split_whitespace().collect();
    match &*words {
        ["allow"] => Ok(ExpectedVerdict::Allow),
        ["deny", "by", rule] => Ok(ExpectedVerdict::Deny((*rule).to_owned())),
        ["hold", "by", rule] => Ok(ExpectedVerdict::Hold((*rule).to_owned(), None)),
        ["hold", "by", rule, "until", until] => Ok(ExpectedVerdict::Hold((*rule).to_owned(), Some(parse_instant(until)?))),
        _ => Err((format!("not a verdict: `{}`", text.trim().escape_debug()), EXPECTED.to_owned())),
    }
}

fn parse_release(text: &str) -> Result<CaseRelease, CaseError> {
    let mut words = words(text).into_iter();
    let spec = words.next().unwrap_or_default();
    let unnamed = || (format!("not a release: `{}`", spec.escape_debug()), "`NAME@VERSION` first".to_owned());
    let (name, version) = spec.rsplit_once('@').ok_or_else(unnamed)?;
    let name = PackageName::parse(name).map_err(|_| unnamed())?;
    let version = Version::parse(version).ok_or_else(unnamed)?;
    let mut release = CaseRelease {
        name,
        version,
        at: Timestamp::MIN,
        published: None,
        first_published: None,
        parent: None,
        fix: None,
        traits: ManifestTraits::default(),
        publisher: None,
        maintainers: Vec::new(),
        tags: Vec::new(),
        signals: Vec::new(),
        findings: Vec::new(),
        advisories: Vec::new(),
    };
    while let Some(word) = words.next() {
        let mut value = || words.next().ok_or_else(|| (format!("`{word}` has no value"), format!("a value after `{word}`")));
        match &*word {
            "install-script" => release.traits.install_script = true,
            "deprecated" => release.traits.deprecated = true,
            "git-dependency" => release.traits.git_dependency = true,
            "url-dependency" => release.traits.url_dependency = true,
            "file-dependency" => release.traits.file_dependency = true,
            "at" => release.at = parse_instant(&value()?)?,
            "published" => release.published = Some(parse_instant(&value()?)?),
            "package" => release.first_published = Some(parse_instant(&value()?)?),
            "part-of" => release.parent = Some(parse_instant(&value()?)?),
            "fix" => release.fix = Some(value()?),
            "publisher" => release.publisher = Some(value()?),
            "maintainer" => release.maintainers.push(value()?.into()),
            "tag" => release.tags.push((value()?.into(), release.version.as_str().into())),
            "signal" => release.signals.push(parse_named(&value()?, "signal", Signal::ALL, Signal::as_str)?),
            "finding" => release.findings.push(parse_named(&value()?, "finding", Finding::ALL, Finding::as_str)?),
            "advisory" => release.advisories.push(parse_advisory(&value()?)?),
            "feed" => last_advisory(&mut release)?.feed = value()?,
            "trust" => {
                let trust = parse_named(&value()?, "trust", FeedTrust::ALL, FeedTrust::as_str)?;
                last_advisory(&mut release)?.trust = trust;
            }
            unknown => return Err((format!("unknown word: `{}`", unknown.escape_debug()), WORDS.to_owned())),
        }
    }
    if release.at == Timestamp::MIN {
        return Err(("the case has no instant".to_owned(), "`at` and an instant, such as `at 2026-03-31T01:00Z`".to_owned()));
    }
    Ok(release)
}

/// Splits text into words at blanks and commas. Quoted text is one word.
fn words(text: &str) -> Vec<String> {
    let mut words = Vec::new();
    for (at, part) in text.split('"').enumerate() {
        if at % 2 == 1 {
            words.push(part.to_owned());
            continue;
        }
        let plain = part.split(|letter: char| letter.is_whitespace() || letter == ',');
        words.extend(plain.filter(|word| !word.is_empty()).map(str::to_owned));
    }
    words
}

fn parse_instant(text: &str) -> Result<Timestamp, CaseError> {
    let day = || text.parse::<Date>().ok().and_then(|day| timestamp::parse(&format!("{}Z", day.at(0, 0, 0, 0))));
    timestamp::parse(text).or_else(day).ok_or_else(|| {
        let allowed = "an instant or a day, such as `2026-03-31T01:00Z` or `2026-03-31`".to_owned();
        (format!("not an instant: `{}`", text.escape_debug()), allowed)
    })
}

fn parse_named<T: Copy>(text: &str, what: &str, all: &[T], as_str: fn(T) -> &'static str) -> Result<T, CaseError> {
    all.iter().copied().find(|value| as_str(*value) == text).ok_or_else(|| {
        let all: Vec<_> = all.iter().map(|value| format!("`{}`", as_str(*value))).collect();
        (format!("unknown {what}: `{}`", text.escape_debug()), all.join(", "))
    })
}

fn parse_advisory(text: &str) -> Result<CaseAdvisory, CaseError> {
    let advisory = |kind, severity| CaseAdvisory { kind, severity, feed: "osv".to_owned(), trust: FeedTrust::Deny };
    if text == "malware" {
        return Ok(advisory(AdvisoryKind::Malware, None));
    }
    let severity = parse_named(text, "advisory", Severity::ALL, Severity::as_str);
    let severity = severity.map_err(|(problem, allowed)| (problem, format!("`malware`, {allowed}")))?;
    Ok(advisory(AdvisoryKind::Vulnerability, Some(severity)))
}

fn last_advisory(release: &mut CaseRelease) -> Result<&mut CaseAdvisory, CaseError> {
    let allowed = "`feed` and `trust` after `advisory`".to_owned();
    release.advisories.last_mut().ok_or_else(|| ("no `advisory` comes before it".to_owned(), allowed))
}
