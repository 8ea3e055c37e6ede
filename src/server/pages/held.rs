//! What the minimum release age holds now, and when it opens.

use std::collections::HashSet;

use bytes::Bytes;
use http::Response;

use crate::npm::PackageName;
use crate::policy::decisions::{Decision, DecisionAction, DecisionState};
use crate::server::pages::frame::Pager;
use crate::server::pages::list::{Cell, ListPage, ListTable, SearchField};
use crate::server::pages::request::PageRequest;
use crate::server::pages::state::Pages;
use crate::store::{YoungRelease, YoungReleases};
use crate::units::timestamp;

const PER_PAGE: usize = 100;

/// Young releases that are read for one page at most. Those of packages without a minimum age are left out.
const MAX_READ: usize = 10_000;
const PER_READ: usize = 1_000;

/// The furthest position of a page. Beyond, a search is of more use.
const MAX_POSITION: usize = 20_000;

impl Pages {
    pub(super) async fn held(&self, request: PageRequest<'_>) -> Response<Bytes> {
        let (wanted, from) = (request.parameter("q").unwrap_or_default(), request.position().min(MAX_POSITION));
        let profile = request.viewer.client.profile;
        let (now, snapshot) = (self.clock.now(), self.firewall.policy());
        let frame = request.frame.titled("Held now");
        let approved = approved(&snapshot.decisions, now);
        let query = YoungReleases {
            since: timestamp::saturating_sub(now, snapshot.policy(profile).longest_minimum_age()),
            search: wanted.trim().to_ascii_lowercase(),
        };
        let read = self.read(move |ledger| {
            let policy = snapshot.policy(profile);
            let (mut shown, mut seen, mut next) = (Vec::new(), HashSet::new(), from);
            let mut is_more = true;
            while is_more && shown.len() < PER_PAGE && next - from < MAX_READ {
                let releases = ledger.young_releases(&query, (next, PER_READ))?;
                is_more = releases.len() == PER_READ;
                for release in releases {
                    if shown.len() == PER_PAGE {
                        is_more = true;
                        break;
                    }
                    next += 1;
                    let Ok(name) = PackageName::parse(&release.name) else { continue };
                    let opens = timestamp::saturating_add(release.since, policy.minimum_release_age(&name));
                    let key = (release.name.clone(), release.version.clone());
                    // A package has a record for each of its views.
                    if opens > now && !approved.contains(&key) && seen.insert(key) {
                        shown.push((release, opens));
                    }
                }
            }
            Ok((shown, is_more.then_some(next)))
        });
        let (shown, next) = match read.await {
            Ok(read) => read,
            Err(error) => return frame.refusal(&error),
        };
        let row = |(release, opens): (YoungRelease, jiff::Timestamp)| {
            let since = timestamp::format_utc(release.since);
            let version = Cell::version(&release.name, &release.version);
            vec![Cell::package(&release.name), version, Cell::text(since), Cell::text(timestamp::format_utc_ceil(opens))]
        };
        let table = ListTable {
            caption: "Versions below their minimum release age, the next one to open first".to_owned(),
            columns: &["Package", "Version", "Counts from", "Opens"],
            rows: shown.into_iter().map(row).collect(),
            empty: "Nothing that clients asked for is held by its age.",
        };
        let note = "These are the versions of packages that clients asked for. Other rules may hold or deny a version longer; its page \
            names the rule.";
        ListPage {
            pager: Pager::of_links((from > 0).then_some(0), next, &[("q", &wanted)]),
            search: Some(SearchField { label: "Part of a package name", value: wanted }),
            notes: vec![note.to_owned()],
            ..ListPage::new(frame, vec![table])
        }
        .response()
    }
}

/// Returns the versions that an active decision opens.
fn approved(decisions: &[Decision], now: jiff::Timestamp) -> HashSet<(String, String)> {
    let active = decisions.iter().filter(|decision| decision.state(now) == DecisionState::Active);
    let versions = active.flat_map(|decision| match &decision.proposal.act {
        DecisionAction::Approve { package, versions, .. } => {
            versions.iter().map(|approved| (package.clone(), approved.version.clone())).collect()
        }
        DecisionAction::Adopt { versions, .. } => {
            versions.iter().map(|adopted| (adopted.package.clone(), adopted.approved.version.clone())).collect()
        }
        _ => Vec::new(),
    });
    versions.collect()
}
