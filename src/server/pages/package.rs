//! The page of a package: its versions on a time line and in a list, its dist-tags here and upstream, and who requested it.

use askama::Template;
use bytes::Bytes;
use http::{Response, StatusCode};

use crate::firewall::{OverviewVersion, PackageOverview};
use crate::npm::PackageSpec;
use crate::policy::Verdict;
use crate::server::admin::packages::status;
use crate::server::pages::explained::{MAX_INSTALLS, ShownInstall};
use crate::server::pages::frame::{Frame, Pager, escaped, name_path};
use crate::server::pages::render::render;
use crate::server::pages::request::PageRequest;
use crate::server::pages::state::Pages;
use crate::units::timestamp;

/// Versions per page.
const PER_PAGE: usize = 100;

/// Versions on the time line, the newest ones.
const MAX_MARKS: usize = 300;

/// Dist-tags that are listed. There may be thousands.
const MAX_TAGS: usize = 100;

struct ShownVersion {
    version: String,
    path: String,
    outcome: &'static str,
    verdict: &'static str,
    counts_from: String,
    opens: String,
    reason: String,
}

struct ShownTag {
    tag: String,
    here: String,
    upstream: String,
    differs: bool,
}

/// A version on the time line.
struct TimelineMark {
    x: i64,
    y: u8,
    outcome: &'static str,
    title: String,
}

#[derive(Template)]
#[template(path = "package.html")]
struct PackagePage {
    frame: Frame,
    name_path: String,
    upstream: String,
    minimum_age: String,
    counts: VersionCounts,
    timeline: Timeline,
    tags: Vec<ShownTag>,
    versions: Vec<ShownVersion>,
    pager: Pager,
    installs: Option<Vec<ShownInstall>>,
    most_installs: usize,
}

struct VersionCounts {
    total: usize,
    allowed: usize,
    held: usize,
    denied: usize,
}

struct Timeline {
    marks: Vec<TimelineMark>,
    label: String,
}

impl Pages {
    pub(super) async fn package(&self, request: PageRequest<'_>, name: &str) -> Response<Bytes> {
        const TITLE: &str = "Cannot show this package";
        let spec = match PackageSpec::parse(name) {
            Ok(PackageSpec { name, wanted: None }) => name,
            Ok(_) => return request.frame.message(StatusCode::BAD_REQUEST, TITLE, "expected a name without a version"),
            Err(error) => return request.frame.message(StatusCode::BAD_REQUEST, TITLE, &error.to_string()),
        };
        match self.firewall.overview(&request.viewer.client, &spec).await {
            Ok(overview) => {
                let installs = self.installs(&request, &spec, None).await;
                let from = request.position();
                render(StatusCode::OK, &PackagePage::new(request.frame, &overview, from, installs))
            }
            Err(error) => request.frame.message(status(&error), TITLE, &error.to_string()),
        }
    }
}

impl PackagePage {
    fn new(frame: Frame, overview: &PackageOverview, from: usize, installs: Option<Vec<ShownInstall>>) -> Self {
        let tags = overview.tags.iter().take(MAX_TAGS).map(|tag| ShownTag {
            tag: tag.tag.to_string(),
            here: tag.shown.as_deref().unwrap_or("left out").to_owned(),
            upstream: tag.upstream.to_string(),
            differs: tag.shown.as_deref() != Some(&*tag.upstream),
        });
        let total = overview.versions.len();
        let validated = timestamp::format_utc(overview.validated);
        Self {
            frame: frame.titled(overview.name.as_str()),
            name_path: name_path(&overview.name),
            upstream: format!("{} (asked {validated})", overview.upstream),
            minimum_age: timestamp::format_duration(overview.minimum_release_age),
            counts: VersionCounts::new(&overview.versions),
            timeline: Timeline::new(&overview.versions),
            tags: tags.collect(),
            versions: overview.versions.iter().skip(from).take(PER_PAGE).map(ShownVersion::new).collect(),
            pager: Pager::new((from, PER_PAGE), total, &[]),
            installs,
            most_installs: MAX_INSTALLS,
        }
    }
}

impl VersionCounts {
    fn new(versions: &[OverviewVersion]) -> Self {
        let count = |is: fn(&Verdict) -> bool| versions.iter().filter(|version| is(&version.verdict)).count();
        Self {
            total: versions.len(),
            allowed: count(|verdict| matches!(verdict, Verdict::Allow)),
            held: count(|verdict| matches!(verdict, Verdict::Hold { .. })),
            denied: count(|verdict| matches!(verdict, Verdict::Deny { .. })),
        }
    }
}

impl ShownVersion {
    fn new(version: &OverviewVersion) -> Self {
        let (outcome, verdict) = words(&version.verdict);
        let opens = match &version.verdict {
            Verdict::Allow => String::new(),
            refused => refused.opens_at().map_or_else(|| "not automatically".to_owned(), timestamp::format_utc_ceil),
        };
        let reason = version.verdict.reason().map(|reason| format!("{}: {}", reason.rule, reason.detail));
        Self {
            version: version.key.to_string(),
            path: escaped(&version.key),
            outcome,
            verdict,
            counts_from: timestamp::format_utc(version.effective),
            opens,
            reason: reason.unwrap_or_default(),
        }
    }
}

impl Timeline {
    /// Places the newest of `versions`, which are in order, newest first.
    fn new(versions: &[OverviewVersion]) -> Self {
        let shown = &versions[..versions.len().min(MAX_MARKS)];
        let (Some(newest), Some(oldest)) = (shown.first(), shown.last()) else {
            return Self { marks: Vec::new(), label: String::new() };
        };
        let (start, end) = (oldest.effective.as_second(), newest.effective.as_second());
        let span = end.saturating_sub(start).max(1);
        let marks = shown.iter().map(|version| {
            let (outcome, verdict) = words(&version.verdict);
            let since = version.effective.as_second().saturating_sub(start);
            TimelineMark {
                x: 10 + since.saturating_mul(980) / span,
                y: if outcome == "allow" { 40 } else { 15 },
                outcome,
                title: format!("{} {verdict}, {}", version.key, timestamp::format_utc(version.effective)),
            }
        });
        let label = format!(
            "The newest {} versions, from {} to {}",
            shown.len(),
            timestamp::format_utc(oldest.effective),
            timestamp::format_utc(newest.effective)
        );
        Self { marks: marks.collect(), label }
    }
}

/// Returns the class and the word for a verdict.
fn words(verdict: &Verdict) -> (&'static str, &'static str) {
    match verdict {
        Verdict::Allow => ("allow", "allowed"),
        Verdict::Hold { .. } => ("hold", "held"),
        Verdict::Deny { .. } => ("deny", "denied"),
    }
}
