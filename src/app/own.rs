//! Joins the doorstep of `/-/coldframe/` to the pages, and the pages to the firewall. Refuses to answer anything itself.

use std::sync::Arc;

use crate::admin::{Admin, Answering, Judges, Request};
use crate::firewall::{Asker, Firewall, Judged, Locked};
use crate::proxy::{Own, OwnRequest};

/// Hands what lies below `/-/coldframe/` to `admin`.
pub(super) fn own(admin: &Arc<Admin>) -> Own {
    let admin = Arc::clone(admin);
    Arc::new(move |request| {
        let admin = Arc::clone(&admin);
        let OwnRequest { method, page, query, visitor, body } = request;
        Box::pin(async move { admin.answer(Request { method, page, query, visitor, body }).await })
    })
}

impl Judges for Firewall {
    fn check<'a>(&'a self, asker: &'a Asker, locked: &'a [Locked]) -> Answering<'a, Vec<Judged>> {
        Box::pin(Firewall::check(self, asker, locked))
    }

    fn upstreams(&self) -> Vec<String> {
        Firewall::upstreams(self)
    }
}
