//! What was refused in the last days: over time, by rule, by package and by client.

use std::time::Duration;

use bytes::Bytes;
use http::Response;
use jiff::Timestamp;

use crate::server::pages::list::{BarChart, Cell, ListPage, ListTable};
use crate::server::pages::request::PageRequest;
use crate::server::pages::state::Pages;
use crate::store::RefusalReport;
use crate::units::timestamp;

/// The days that are shown.
const DAYS: u32 = 14;
const DAY: Duration = Duration::from_secs(24 * 3600);

/// Rows of the ledger that are read, and entries per table.
const MAX_ROWS: usize = 100_000;
const MAX_ENTRIES: usize = 50;

impl Pages {
    pub(super) async fn refusals(&self, request: PageRequest<'_>) -> Response<Bytes> {
        let since = timestamp::saturating_sub(self.clock.now(), DAY * DAYS);
        let frame = request.frame.titled("Refusals");
        let report = match self.read(move |ledger| ledger.refusals(since, (MAX_ROWS, MAX_ENTRIES))).await {
            Ok(report) => report,
            Err(error) => return frame.refusal(&error),
        };
        let mut notes =
            vec![format!("{} requests for tarballs, manifests and packuments were refused in {DAYS} days.", report.total)];
        if report.is_cut {
            notes.push(format!("There were more; only the newest {MAX_ROWS} rows are counted here."));
        }
        let chart = chart(&report, self.clock.now());
        let counted = |counts: Vec<(String, u64)>, cell: fn(&str) -> Cell| -> Vec<Vec<Cell>> {
            counts.into_iter().map(|(what, times)| vec![cell(&what), Cell::number(times)]).collect()
        };
        let empty = "Nothing was refused.";
        let table = |caption: &str, columns, rows| ListTable { caption: caption.to_owned(), columns, rows, empty };
        let tables = vec![
            table("By rule", &["Rule", "Times"], counted(report.rules, |rule| Cell::text(rule))),
            table("By package", &["Package", "Times"], counted(report.packages, Cell::package)),
            table("By client", &["Client", "Times"], counted(report.clients, |client| Cell::text(client))),
        ];
        ListPage { notes, chart: Some(chart), ..ListPage::new(frame, tables) }.response()
    }
}

/// Draws the refusals of each day, the last one on the right.
fn chart(report: &RefusalReport, now: Timestamp) -> BarChart {
    let today = now.as_second().div_euclid(86_400);
    let days = (0..i64::from(DAYS)).rev().map(|ago| today - ago);
    let entries = days.map(|day| {
        let times = report.days.iter().find(|(known, _)| *known == day).map_or(0, |(_, times)| *times);
        let at = Timestamp::from_second(day * 86_400).unwrap_or(now);
        let date = timestamp::format_utc(at).split(' ').next().unwrap_or_default().to_owned();
        (date.get(5..).unwrap_or_default().to_owned(), date, times)
    });
    BarChart::new(format!("Refused requests per day, of {DAYS} days"), &entries.collect::<Vec<_>>())
}
