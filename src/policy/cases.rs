//! Cases written beside a policy: a release in words, an instant, and what the policy must say then. Refuses to look anything up:
//! what a case does not say, the release does not have.

use std::fmt;
use std::sync::Arc;

use jiff::Timestamp;
use jiff::civil::Date;

use crate::diagnostics::{Diagnostic, Diagnostics};
use crate::diagnostics::{SourceFile, SourceSpan};
use crate::npm::packument::index::ManifestTraits;
use crate::npm::{PackageName, Version};
use crate::policy::advisories::index::FeedIndexBuilder;
use crate::policy::advisories::{Advisories, AdvisoryKind, AdvisoryRecord, FeedTrust, Severity};
use crate::policy::facts::Facts;
use crate::policy::rules::Policy;
use crate::policy::verdict::Verdict;
use crate::units::timestamp;
use crate::vetting::{Finding, Signal};

/// What may stand in a case, for whoever wrote something else.
pub const WORDS: &str = "`at`, `published`, `package` and a day, `fix` and an advisory, `publisher`, `maintainer`, `tag`, `signal`, `finding`, `advisory` \
    and `malware` or a severity, `feed`, `trust`, `part-of` and a day, `install-script`, `deprecated`, `git-dependency`, \
    `url-dependency`, `file-dependency`";

const EXPECTED: &str = "`allow`, `deny by RULE`, `hold by RULE` or `hold by RULE until INSTANT`";

/// One case.
#[derive(Debug, Clone)]
pub struct PolicyCase {
    /// Where it is written.
    pub place: SourceSpan,
    /// The line, as written.
    pub text: String,
    told: CaseRelease,
    expected: ExpectedVerdict,
}

/// A case that did not come out as written.
#[derive(Debug, Clone)]
pub struct CaseFailure {
    /// The case.
    pub case: PolicyCase,
    /// What the policy says instead.
    pub found: String,
}

/// What a case says of its release.
#[derive(Debug, Clone)]
struct CaseRelease {
    name: PackageName,
    version: Version,
    at: Timestamp,
    published: Option<Timestamp>,
    born: Option<Timestamp>,
    kin: Option<Timestamp>,
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

/// What the policy must say.
#[derive(Debug, Clone, PartialEq, Eq)]
enum ExpectedVerdict {
    Allow,
    Deny(String),
    Hold(String, Option<Timestamp>),
}

/// Reads the cases of a file: one a line, blank lines and those that begin with `#` aside.
///
/// # Errors
/// Every line that is no case.
pub fn parse(file: &Arc<SourceFile>) -> Result<Vec<PolicyCase>, Diagnostics> {
    let (mut cases, mut mistakes) = (Vec::new(), Vec::new());
    let mut start = 0;
    for line in file.text.split_inclusive('\n') {
        let span = start..start + line.trim_end().len();
        start += line.len();
        let text = line.trim();
        if text.is_empty() || text.starts_with('#') {
            continue;
        }
        let place = SourceSpan { file: Arc::clone(file), span };
        match read(text) {
            Ok((told, expected)) => cases.push(PolicyCase { place, text: text.to_owned(), told, expected }),
            Err((problem, allowed)) => mistakes.push(Diagnostic::new(place, problem, allowed)),
        }
    }
    if mistakes.is_empty() { Ok(cases) } else { Err(Diagnostics(mistakes)) }
}

impl PolicyCase {
    /// Whether the policy says what is written.
    ///
    /// # Errors
    /// What it says instead.
    pub fn run(&self, policy: &Policy) -> Result<(), Box<CaseFailure>> {
        let found = self.told.judge(policy);
        let fits = match (&self.expected, &found) {
            (ExpectedVerdict::Allow, Verdict::Allow) => true,
            (ExpectedVerdict::Deny(rule), Verdict::Deny { reason }) => *rule == reason.rule.as_str(),
            (ExpectedVerdict::Hold(rule, until), Verdict::Hold { until: opens, reason }) => {
                *rule == reason.rule.as_str() && until.is_none_or(|until| until == *opens)
            }
            _ => false,
        };
        if fits { Ok(()) } else { Err(Box::new(CaseFailure { case: self.clone(), found: tell(&found) })) }
    }
}

impl fmt::Display for CaseFailure {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (line, _) = self.case.place.position();
        write!(out, "{}:{line}: {}\n   = found: {}", self.case.place.file.path.display(), self.case.text, self.found)
    }
}

impl CaseRelease {
    fn judge(&self, policy: &Policy) -> Verdict {
        let published = self.published.unwrap_or(self.at);
        let feeds = self.advisories.iter().map(|advised| Arc::new(advised.index(&self.name, &self.version))).collect();
        let feeds = Advisories::of_feeds(feeds);
        let advisories = feeds.of(self.name.as_str()).among(std::iter::empty());
        let facts = Facts {
            parsed: Some(&self.version),
            born: Some(self.born.unwrap_or(Timestamp::UNIX_EPOCH).min(published)),
            kin: self.kin,
            fix: self.fix.as_deref(),
            traits: self.traits,
            publisher: self.publisher.as_deref(),
            maintainers: &self.maintainers,
            tags: &self.tags,
            advisories: &advisories,
            signals: self.signals.iter().copied().collect(),
            findings: self.findings.iter().copied().collect(),
            ..Facts::of(&self.name, self.version.as_str(), published)
        };
        policy.as_of(self.at).judge(&facts, self.at)
    }
}

impl CaseAdvisory {
    fn index(&self, name: &PackageName, version: &Version) -> crate::policy::advisories::index::FeedAdvisories {
        let mut builder = FeedIndexBuilder::default();
        builder.add(&AdvisoryRecord {
            id: "CASE".into(),
            aliases: Vec::new(),
            kind: self.kind,
            severity: self.severity,
            reviewed: true,
            summary: "".into(),
            modified: None,
            known_since: None,
            cvss: "".into(),
            cwes: Vec::new(),
            package: name.as_str().into(),
            versions: vec![version.as_str().into()],
            spans: Vec::new(),
            indicators: Vec::new(),
        });
        builder.build(&self.feed, self.trust)
    }
}

/// A verdict in the words of a case.
fn tell(verdict: &Verdict) -> String {
    let rule = verdict.reason().map(|reason| reason.rule.to_string()).unwrap_or_default();
    match verdict {
        Verdict::Allow => "allow".to_owned(),
        Verdict::Deny { .. } => format!("deny by {rule}"),
        Verdict::Hold { until, .. } => format!("hold by {rule} until {until}"),
    }
}

type Wrong = (String, String);

fn read(text: &str) -> Result<(CaseRelease, ExpectedVerdict), Wrong> {
    let (release, expected) =
        text.split_once("=>").ok_or_else(|| ("the case expects nothing".to_owned(), format!("`=>` and {EXPECTED}")))?;
    Ok((told(release)?, expectation(expected)?))
}

fn expectation(text: &str) -> Result<ExpectedVerdict, Wrong> {
    let words: Vec<_> = text.split_whitespace().collect();
    match &*words {
        ["allow"] => Ok(ExpectedVerdict::Allow),
        ["deny", "by", rule] => Ok(ExpectedVerdict::Deny((*rule).to_owned())),
        ["hold", "by", rule] => Ok(ExpectedVerdict::Hold((*rule).to_owned(), None)),
        ["hold", "by", rule, "until", until] => Ok(ExpectedVerdict::Hold((*rule).to_owned(), Some(moment(until)?))),
        _ => Err((format!("no verdict: `{}`", text.trim().escape_debug()), EXPECTED.to_owned())),
    }
}

fn told(text: &str) -> Result<CaseRelease, Wrong> {
    let mut words = words(text).into_iter();
    let spec = words.next().unwrap_or_default();
    let unnamed = || (format!("no release: `{}`", spec.escape_debug()), "`NAME@VERSION` first".to_owned());
    let (name, version) = spec.rsplit_once('@').ok_or_else(unnamed)?;
    let name = PackageName::parse(name).map_err(|_| unnamed())?;
    let version = Version::parse(version).ok_or_else(unnamed)?;
    let mut told = CaseRelease {
        name,
        version,
        at: Timestamp::MIN,
        published: None,
        born: None,
        kin: None,
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
        let mut value = || words.next().ok_or_else(|| (format!("`{word}` says nothing"), format!("a value behind `{word}`")));
        match &*word {
            "install-script" => told.traits.install_script = true,
            "deprecated" => told.traits.deprecated = true,
            "git-dependency" => told.traits.git_dependency = true,
            "url-dependency" => told.traits.url_dependency = true,
            "file-dependency" => told.traits.file_dependency = true,
            "at" => told.at = moment(&value()?)?,
            "published" => told.published = Some(moment(&value()?)?),
            "package" => told.born = Some(moment(&value()?)?),
            "part-of" => told.kin = Some(moment(&value()?)?),
            "fix" => told.fix = Some(value()?),
            "publisher" => told.publisher = Some(value()?),
            "maintainer" => told.maintainers.push(value()?.into()),
            "tag" => told.tags.push((value()?.into(), told.version.as_str().into())),
            "signal" => told.signals.push(named(&value()?, "signal", Signal::parse, Signal::ALL.iter().map(|one| one.as_str()))?),
            "finding" => {
                told.findings.push(named(&value()?, "finding", Finding::parse, Finding::ALL.iter().map(|one| one.as_str()))?);
            }
            "advisory" => told.advisories.push(advised(&value()?)?),
            "feed" => last_advised(&mut told)?.feed = value()?,
            "trust" => {
                let trust = named(&value()?, "trust", FeedTrust::parse, FeedTrust::ALL.iter().map(|one| one.as_str()))?;
                last_advised(&mut told)?.trust = trust;
            }
            unknown => return Err((format!("unknown word: `{}`", unknown.escape_debug()), WORDS.to_owned())),
        }
    }
    if told.at == Timestamp::MIN {
        return Err(("the case says no instant".to_owned(), "`at` and an instant, such as `at 2026-03-31T01:00Z`".to_owned()));
    }
    Ok(told)
}

/// Words between blanks and commas; what stands in quotes is one.
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

fn moment(text: &str) -> Result<Timestamp, Wrong> {
    let day = || text.parse::<Date>().ok().and_then(|day| timestamp::parse(&format!("{}Z", day.at(0, 0, 0, 0))));
    timestamp::parse(text).or_else(day).ok_or_else(|| {
        let allowed = "an instant or a day, such as `2026-03-31T01:00Z` or `2026-03-31`".to_owned();
        (format!("no instant: `{}`", text.escape_debug()), allowed)
    })
}

fn named<T>(
    text: &str,
    what: &str,
    parse: impl Fn(&str) -> Option<T>,
    all: impl Iterator<Item = &'static str>,
) -> Result<T, Wrong> {
    parse(text).ok_or_else(|| {
        let all: Vec<_> = all.map(|name| format!("`{name}`")).collect();
        (format!("unknown {what}: `{}`", text.escape_debug()), all.join(", "))
    })
}

fn advised(text: &str) -> Result<CaseAdvisory, Wrong> {
    let advised = |kind, severity| CaseAdvisory { kind, severity, feed: "osv".to_owned(), trust: FeedTrust::Deny };
    if text == "malware" {
        return Ok(advised(AdvisoryKind::Malware, None));
    }
    let all = ["malware"].into_iter().chain(Severity::ALL.iter().map(|one| one.as_str()));
    Ok(advised(AdvisoryKind::Vulnerability, Some(named(text, "advisory", Severity::parse, all)?)))
}

fn last_advised(told: &mut CaseRelease) -> Result<&mut CaseAdvisory, Wrong> {
    let allowed = "`feed` and `trust` behind `advisory`".to_owned();
    told.advisories.last_mut().ok_or_else(|| ("there is no advisory before it".to_owned(), allowed))
}
