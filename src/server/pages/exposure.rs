//! Who requested a package or a version.

use bytes::Bytes;
use http::{Response, StatusCode};

use crate::npm::PackageSpec;
use crate::server::pages::list::{Cell, ListPage, ListTable, SearchField};
use crate::server::pages::request::PageRequest;
use crate::server::pages::state::Pages;
use crate::store::Exposure;
use crate::units::timestamp;

/// Clients that are listed.
const MAX_ROWS: usize = 500;

impl Pages {
    pub(super) async fn exposure(&self, request: PageRequest<'_>) -> Response<Bytes> {
        let wanted = request.parameter("q").unwrap_or_default();
        let search = SearchField { label: "Package or version", value: wanted.clone() };
        let frame = request.frame.titled("Who has it");
        if wanted.trim().is_empty() {
            let notes = vec!["Search for a package, or for one version such as axios@1.14.1.".to_owned()];
            return ListPage { search: Some(search), notes, ..ListPage::new(frame, Vec::new()) }.response();
        }
        let spec = match PackageSpec::parse(wanted.trim()) {
            Ok(spec) => spec,
            Err(error) => return frame.message(StatusCode::BAD_REQUEST, "Cannot search", &error.to_string()),
        };
        let (caption, name) = (format!("Requests for {}", wanted.trim()), spec.name.as_str().to_owned());
        let rows = match self.read(move |ledger| ledger.last_requests(&spec.name, spec.wanted.as_deref(), MAX_ROWS)).await {
            Ok(rows) => rows,
            Err(error) => return frame.refusal(&error),
        };
        let mut notes = Vec::new();
        if rows.len() >= MAX_ROWS {
            notes.push(format!("These are the newest {MAX_ROWS}; `coldframe exposure` lists all."));
        }
        let table = ListTable {
            caption,
            columns: &["Client", "Tool", "Version", "Outcome", "Rule", "Times", "First", "Last"],
            rows: rows.into_iter().map(|row| cells(&name, row)).collect(),
            empty: "No client requested a tarball.",
        };
        ListPage { search: Some(search), notes, ..ListPage::new(frame, vec![table]) }.response()
    }
}

fn cells(name: &str, row: Exposure) -> Vec<Cell> {
    let Exposure { client, tool, tool_version, version, outcome, rule, times, first, last, .. } = row;
    vec![
        Cell::text(client),
        Cell::text(format!("{tool} {tool_version}")),
        Cell::version(name, &version),
        Cell::text(outcome.as_str()),
        Cell::text(rule.unwrap_or_default()),
        Cell::number(times),
        Cell::text(timestamp::format_utc(first)),
        Cell::text(timestamp::format_utc(last)),
    ]
}
