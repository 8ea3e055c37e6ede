//! Looks up packages in memory, in the store, or with one shared request to upstream.

pub(crate) mod abbreviated;
pub(crate) mod cache;
pub(crate) mod client_limits;
pub(crate) mod fetch;
pub(crate) mod fetch_slots;
pub(crate) mod ingest;
pub(crate) mod load;
pub(crate) mod parse_pool;
pub(crate) mod request;
pub(crate) mod requester;
pub(crate) mod service;
pub(crate) mod services;
pub(crate) mod slow_registries;
pub(crate) mod subpackages;
pub(crate) mod views;
