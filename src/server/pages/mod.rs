//! The pages for people below `/-/coldframe/`, rendered on the server. They load one stylesheet, run no scripts, and change nothing
//! by GET. Text from outside is escaped by the templates and by `response::html_response`.

mod access;
mod clients;
mod decisions;
mod explained;
mod exposure;
mod feed_status;
mod feeds;
mod frame;
mod health;
mod held;
mod list;
mod package;
mod page;
mod policy;
mod provider;
mod refusals;
mod render;
mod request;
mod requests;
mod router;
mod sign_in;
mod state;

pub(crate) use access::PageGate;
pub(crate) use feed_status::{FeedStatus, FeedStatuses};
pub(crate) use page::Page;
pub(crate) use state::{PageSources, Pages};
