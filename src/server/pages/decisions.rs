//! What people decided: approvals, denials, freezes and break-glass, the newest first.

use bytes::Bytes;
use http::Response;
use jiff::Timestamp;

use crate::policy::decisions::Decision;
use crate::server::pages::frame::Pager;
use crate::server::pages::list::{Cell, ListPage, ListTable};
use crate::server::pages::request::PageRequest;
use crate::server::pages::state::Pages;
use crate::units::timestamp;

const PER_PAGE: usize = 100;

impl Pages {
    pub(super) fn decisions(&self, request: PageRequest<'_>) -> Response<Bytes> {
        let (from, now) = (request.position(), self.clock.now());
        let snapshot = self.firewall.policy();
        let total = snapshot.decisions.len();
        let newest = snapshot.decisions.iter().rev().skip(from).take(PER_PAGE);
        let table = ListTable {
            caption: format!("{total} decisions, newest first"),
            columns: &["Number", "State", "Decision", "Subject", "Reason", "By", "Made", "Until"],
            rows: newest.map(|decision| cells(decision, now)).collect(),
            empty: "There are no decisions yet.",
        };
        let pager = Pager::new((from, PER_PAGE), total, &[]);
        ListPage { pager, ..ListPage::new(request.frame.titled("Decisions"), vec![table]) }.response()
    }
}

fn cells(decision: &Decision, now: Timestamp) -> Vec<Cell> {
    let proposal = &decision.proposal;
    let kind = if proposal.act.kind() == "observe" { "break-glass" } else { proposal.act.kind() };
    let revoked = decision.revoked.as_ref().map(|(by, why)| format!(" by {}: {why}", by.who)).unwrap_or_default();
    vec![
        Cell::text(decision.id.to_string()),
        Cell::text(format!("{}{revoked}", decision.state(now).as_str())),
        Cell::text(kind),
        Cell::text(proposal.act.subject()),
        Cell::text(proposal.reason.clone()),
        Cell::text(decision.signatories()),
        Cell::text(timestamp::format_utc(proposal.author.at)),
        Cell::text(proposal.expires.map_or_else(|| "revoked".to_owned(), timestamp::format_utc)),
    ]
}
