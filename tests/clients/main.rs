//! Real clients before a real Coldframe and a fake registry: what a person reads when something is held back.
//!
//! `cargo test --test clients` (or `just clients`) fetches the clients once, by name and version, into `target/clients`;
//! plain `cargo test` does not run this. While a test runs nothing but loopback is reachable. After a deliberate change of
//! words: `just clients-bless`, and read the diff.
#![expect(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test that cannot go on says so by panicking")]
#![expect(clippy::format_push_string, reason = "a head of a message is short")]
#![expect(dead_code, reason = "the harness is shared with tests/it, which uses all of it")]

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

mod authority;
mod configured;
mod doors;
mod held_back;
mod locked;
mod outage;
mod run;
mod words_of_npm;
mod works;
