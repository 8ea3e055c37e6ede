//! Real clients against a real Coldframe and a fake registry: what they install and print when a version is held.
//!
//! `cargo test --test clients` (or `just clients`) fetches fixed versions of the clients once into `target/clients`. Plain
//! `cargo test` does not run these tests. Tests reach only loopback. After a deliberate change of texts, run
//! `just clients-bless` and review the diff.
#![expect(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test fails by panicking")]
#![expect(clippy::format_push_string, reason = "message heads are short")]
#![expect(dead_code, reason = "the fixtures are shared with tests/it, which uses all of them")]

#[path = "../it/chain.rs"]
mod chain;
#[path = "../it/client.rs"]
mod client;
#[path = "../it/listing.rs"]
mod listing;
#[path = "../it/package.rs"]
mod package;
#[path = "../it/program.rs"]
mod program;
#[path = "../it/registry.rs"]
mod registry;
#[path = "../it/reply.rs"]
mod reply;
#[path = "../it/scene.rs"]
mod scene;
mod tool;
#[path = "../it/wire.rs"]
mod wire;

mod archives;
mod authority;
mod configured;
mod doors;
mod held_back;
mod locked;
mod outage;
mod run;
mod words_of_npm;
mod works;
