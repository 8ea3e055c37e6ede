//! Sentences over real sockets: a fake registry, a real Coldframe before it, and what a client sees.
//!
//! One binary, loopback only. A request to the registry that no test declared fails the test.
#![expect(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test that cannot go on says so by panicking")]
#![expect(clippy::format_push_string, reason = "a head of a message is short")]

mod client;
mod gate;
mod listing;
mod package;
mod program;
mod registry;
mod reply;
mod scene;
mod wire;

mod addresses;
mod admin;
mod adopting;
mod age;
mod ahead;
mod audit;
mod authority;
mod beside;
mod binary;
mod bindings;
mod bulkheads;
mod bytes;
mod chain;
mod check;
mod contacts;
mod credentials;
mod crowd;
mod crowds;
mod decisions;
mod disk;
mod doctor;
mod everywhere;
mod explain;
mod facts;
mod feeds;
mod flights;
mod forms;
mod gateway;
mod half_open;
mod hostile;
mod integrity;
mod intelligence;
mod kills;
mod ledger;
mod lent;
mod logins;
mod machine;
mod names;
mod once_more;
mod outage;
mod parent;
mod policy;
mod printed;
mod publishing;
mod readme;
mod refusals;
mod reloads;
mod restart;
mod run;
mod run_beside;
mod run_terminal;
mod running_server;
mod search;
mod sidecar;
mod smuggling;
mod tags;
mod takedown;
mod tarballs;
mod transparent;
mod upstream;
mod withheld;
mod writes;
