//! Real clients against a real Coldframe and a fake registry: what they install and print when a version is held.
//!
//! `cargo test --test clients` (or `just clients`) fetches fixed versions of the clients once into `target/clients`. Plain
//! `cargo test` does not run these tests. Tests reach only loopback. After a deliberate change of texts, run
//! `just clients-bless` and review the diff.
#![expect(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test fails by panicking")]
#![expect(clippy::format_push_string, reason = "message heads are short")]
#![expect(dead_code, reason = "the fixtures are shared with tests/it, which uses all of them")]

#[path = "../it/client.rs"]
mod client;
#[path = "../it/fake_package.rs"]
mod fake_package;
#[path = "../it/fake_response.rs"]
mod fake_response;
#[path = "../it/harness.rs"]
mod harness;
#[path = "../it/package.rs"]
mod package;
#[path = "../it/process.rs"]
mod process;
#[path = "../it/raw_http.rs"]
mod raw_http;
#[path = "../it/registry.rs"]
mod registry;
#[path = "../it/tar.rs"]
mod tar;
#[path = "../it/tls_chain.rs"]
mod tls_chain;

mod access_tokens;
mod archives;
mod ca;
mod client_config;
mod held_versions;
mod installs;
mod lockfile_installs;
mod modes;
mod npm_output;
mod outage;
mod package_manager;
mod run;
