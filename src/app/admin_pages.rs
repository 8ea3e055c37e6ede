//! Joins the doorstep of `/-/coldframe/` to the pages, and the pages to the firewall. Refuses to answer anything itself.

use std::sync::Arc;

use jiff::Timestamp;

use crate::firewall::{Asker, Explanation, Firewall, Judged, Locked, Rejection};
use crate::npm::Spec;
use crate::server::admin::{Admin, Answering, Judges, Request, Terms};
use crate::server::{Own, OwnRequest};

/// Hands what lies below `/-/coldframe/` to `admin`.
pub(crate) fn own(admin: &Arc<Admin>) -> Own {
    let admin = Arc::clone(admin);
    Arc::new(move |request| {
        let admin = Arc::clone(&admin);
        let OwnRequest { method, page, query, accept, agent, visitor, body } = request;
        Box::pin(async move { admin.answer(Request { method, page, query, accept, agent, visitor, body }).await })
    })
}

impl Judges for Firewall {
    fn check<'a>(&'a self, asker: &'a Asker, locked: &'a [Locked]) -> Answering<'a, Vec<Judged>> {
        Box::pin(Firewall::check(self, asker, locked))
    }

    fn explain<'a>(
        &'a self,
        asker: &'a Asker,
        spec: &'a Spec,
        at: Option<Timestamp>,
    ) -> Answering<'a, Result<Explanation, Rejection>> {
        Box::pin(Firewall::explain(self, asker, &spec.name, spec.wanted.as_deref(), at))
    }

    fn terms(&self, asker: &Asker) -> Terms {
        Terms::of(self.world().policy(asker.profile))
    }

    fn upstreams(&self) -> Vec<String> {
        Firewall::upstreams(self)
    }
}
