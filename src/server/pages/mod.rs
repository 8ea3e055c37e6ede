//! The pages for people below `/-/coldframe/`, rendered on the server. They load one stylesheet, run no scripts, and change nothing
//! by GET. Text from outside is escaped by the templates and by `response::html_response`.

mod access;
mod explained;
mod frame;
mod package;
mod page;
mod render;
mod request;
mod router;
mod sign_in;
mod state;

pub(crate) use access::PageGate;
pub(crate) use page::Page;
pub(crate) use state::Pages;
