//! The pages that judge packages. They send requests upstream and name packages, so they are for those alone whom the doorstep
//! lets ask: clients on this machine and operators, unless a setting says otherwise.

use std::pin::Pin;
use std::sync::Arc;

use bytes::Bytes;
use http::{Response, StatusCode};
use serde::{Deserialize, Serialize};
use serde_json::json;

use super::pages::{Request, page};
use crate::firewall::{Asker, Judged, Locked};

/// The most versions that one request may ask about.
pub const MOST_LOCKED: usize = 500;

/// An answer that takes its time.
pub type Answering<'a, T> = Pin<Box<dyn Future<Output = T> + Send + 'a>>;

/// Who judges packages.
pub trait Judges: Send + Sync {
    /// One outcome for each of `locked`, in their order.
    fn check<'a>(&'a self, asker: &'a Asker, locked: &'a [Locked]) -> Answering<'a, Vec<Judged>>;

    /// Where packages come from, without credentials.
    fn upstreams(&self) -> Vec<String>;
}

/// Who judges packages, shared.
pub type Judge = Arc<dyn Judges>;

/// The body of a request for `check`.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Wanted {
    /// The versions, at most [`MOST_LOCKED`].
    pub packages: Vec<Locked>,
}

/// The body of its answer.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Checked {
    /// What came out for each, in the order of the request.
    pub packages: Vec<Judged>,
    /// Where packages come from, without credentials.
    pub upstreams: Vec<String>,
}

pub(super) async fn check(judge: &Judge, request: Request) -> Response<Bytes> {
    let Some(asker) = request.visitor else { return not_here() };
    let wanted = match serde_json::from_slice::<Wanted>(&request.body) {
        Ok(wanted) if wanted.packages.len() <= MOST_LOCKED => wanted,
        Ok(_) => return refused(StatusCode::PAYLOAD_TOO_LARGE, &format!("at most {MOST_LOCKED} packages are judged at once")),
        Err(wrong) => return refused(StatusCode::BAD_REQUEST, &format!("the body does not list packages: {wrong}")),
    };
    let checked = Checked { packages: judge.check(&asker, &wanted.packages).await, upstreams: judge.upstreams() };
    page(StatusCode::OK, &json!(checked))
}

fn not_here() -> Response<Bytes> {
    refused(
        StatusCode::FORBIDDEN,
        "asked from another machine: coldframe answers this there only with `explain-to = \"everybody\"`",
    )
}

fn refused(status: StatusCode, why: &str) -> Response<Bytes> {
    page(status, &json!({ "error": why }))
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    /// Judges nothing.
    pub(in crate::admin) struct Nobody;

    impl Judges for Nobody {
        fn check<'a>(&'a self, _asker: &'a Asker, _locked: &'a [Locked]) -> Answering<'a, Vec<Judged>> {
            Box::pin(async { Vec::new() })
        }

        fn upstreams(&self) -> Vec<String> {
            Vec::new()
        }
    }
}
