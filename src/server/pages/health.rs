//! Whether the server is ready, and what its checks found.

use bytes::Bytes;
use http::Response;

use crate::server::pages::list::{Cell, ListPage, ListTable};
use crate::server::pages::request::PageRequest;
use crate::server::pages::state::Pages;

impl Pages {
    pub(super) async fn health(&self, request: PageRequest<'_>) -> Response<Bytes> {
        let health = self.admin.health().await;
        let row = |(name, found): (String, String)| {
            let class = if found == "ok" { "tag allow" } else { "tag deny" };
            vec![Cell::text(name), Cell { class, ..Cell::text(found) }]
        };
        let state = match (health.is_draining, health.is_ready) {
            (true, _) => "The server is stopping.",
            (false, true) => "The server is ready.",
            (false, false) => "The server is not ready: load balancers use other instances.",
        };
        let table = ListTable {
            caption: "Checks".to_owned(),
            columns: &["Check", "Result"],
            rows: health.checks.into_iter().map(row).collect(),
            empty: "There are no checks.",
        };
        ListPage { notes: vec![state.to_owned()], ..ListPage::new(request.frame.titled("Health"), vec![table]) }.response()
    }
}
