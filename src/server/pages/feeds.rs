//! The feeds of advisories, and how fresh they are.

use bytes::Bytes;
use http::Response;
use jiff::Timestamp;

use crate::server::pages::feed_status::FeedStatus;
use crate::server::pages::list::{Cell, ListPage, ListTable};
use crate::server::pages::request::PageRequest;
use crate::server::pages::state::Pages;
use crate::units::timestamp;

impl Pages {
    pub(super) fn feeds(&self, request: PageRequest<'_>) -> Response<Bytes> {
        let instant = |at: Option<Timestamp>| Cell::text(at.map_or_else(|| "never".to_owned(), timestamp::format_utc));
        let row = |feed: FeedStatus| {
            let state = match feed.staleness {
                None => Cell { class: "tag allow", ..Cell::text("fresh") },
                Some(why) => Cell { class: "tag deny", ..Cell::text(why) },
            };
            let (read, changed) = (instant(feed.synced), instant(feed.changed));
            vec![Cell::text(feed.name), state, Cell::text(feed.trust), Cell::number(feed.records), read, changed]
        };
        let table = ListTable {
            caption: "Feeds of advisories".to_owned(),
            columns: &["Feed", "State", "Trust", "Records", "Last read", "Last change"],
            rows: self.feeds.statuses().into_iter().map(row).collect(),
            empty: "No feed is configured, so known malware is not refused by name. Set `feed`.",
        };
        ListPage::new(request.frame.titled("Feeds"), vec![table]).response()
    }
}
