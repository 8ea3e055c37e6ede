//! The clients that requested something, with their tools, the last one first.

use bytes::Bytes;
use http::Response;

use crate::server::pages::frame::Pager;
use crate::server::pages::list::{Cell, ListPage, ListTable, SearchField};
use crate::server::pages::request::PageRequest;
use crate::server::pages::state::Pages;
use crate::units::timestamp;

/// Clients that are read: one per address, user, tool and version of the tool.
const MAX_CLIENTS: usize = 20_000;

const PER_PAGE: usize = 200;

impl Pages {
    pub(super) async fn clients(&self, request: PageRequest<'_>) -> Response<Bytes> {
        let (wanted, from) = (request.parameter("q").unwrap_or_default(), request.position());
        let frame = request.frame.titled("Clients");
        let mut clients = match self.read(|ledger| ledger.clients(MAX_CLIENTS)).await {
            Ok(clients) => clients,
            Err(error) => return frame.refusal(&error),
        };
        let mut notes = Vec::new();
        if clients.len() >= MAX_CLIENTS {
            notes.push(format!("There are more than {MAX_CLIENTS} clients. The others are not shown."));
        }
        clients.retain(|client| client.client.contains(wanted.trim()) || client.tool.contains(wanted.trim()));
        clients.sort_by_key(|client| std::cmp::Reverse(client.last));
        let total = clients.len();
        let row = |client: crate::store::SeenClient| {
            let tool = format!("{} {}", client.tool, client.tool_version);
            vec![Cell::text(client.client), Cell::text(tool), Cell::text(timestamp::format_utc(client.last))]
        };
        let table = ListTable {
            caption: format!("{total} clients, the last one first"),
            columns: &["Client", "Tool", "Last seen"],
            rows: clients.into_iter().skip(from).take(PER_PAGE).map(row).collect(),
            empty: "No client requested anything.",
        };
        ListPage {
            pager: Pager::new((from, PER_PAGE), total, &[("q", &wanted)]),
            search: Some(SearchField { label: "Address, label or tool", value: wanted }),
            notes,
            ..ListPage::new(frame, vec![table])
        }
        .response()
    }
}
