//! Hundreds of gateway connections that start and stall: the server closes each one and its file descriptor.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use tempfile::TempDir;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

use crate::gateway_client::connect;
use crate::process::{Program, machine_clock};
use crate::registry::Registry;
use crate::transparent::hello_for;

const MANY: usize = 200;

/// Connections that the ledger opens when two background tasks read it at the same time.
const LEDGER_READERS: usize = 4;

/// Returns the address that the server printed for a listener.
fn listener_address(server: &Program, name: &str) -> SocketAddr {
    let line = server.greeting.lines().find_map(|line| line.trim_start().strip_prefix(name)).expect("a line for the listener");
    let address = line.trim().trim_start_matches("http://").split(['/', ',']).next().expect("an address");
    address.parse().expect("an address")
}

fn open_files(server: &Program) -> usize {
    std::fs::read_dir(format!("/proc/{}/fd", server.id())).expect("the file descriptors").count()
}

/// Waits until the server has closed the additional file descriptors.
async fn until_closed(server: &Program, before: usize, what: &str) {
    let deadline = Instant::now() + Duration::from_secs(20);
    while open_files(server) > before {
        assert!(Instant::now() < deadline, "{what}: {} files, {before} before", open_files(server));
        tokio::task::yield_now().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn stalled_and_aborted_handshakes_leak_no_file_descriptor() {
    let (home, data, registry) = (TempDir::new().unwrap(), TempDir::new().unwrap(), Registry::start(&machine_clock()).await);
    let flags = ["--gateway", "127.0.0.1:0", "--transparent", "127.0.0.1:0", "--intercept", "registry.example"];
    let server = Program::serve(home.path(), data.path(), &registry.url, &[&flags[..], &["--header-timeout", "1s"]].concat());
    let (gateway, transparent) = (listener_address(&server, "gateway"), listener_address(&server, "transparent"));
    let hello = hello_for("registry.example");
    // Warm up: files that the first requests open stay open.
    drop(connect(gateway, "registry.example:443", "").await);
    server.get("/-/coldframe/healthz").await.is(200);
    let before = open_files(&server) + LEDGER_READERS;
    for sent in [&hello[..], &hello[..20], b""] {
        for aborts in [false, true] {
            let mut open = Vec::new();
            for at in 0..MANY {
                let mut stream = match at % 2 {
                    0 => connect(gateway, "registry.example:443", "").await.1,
                    _ => TcpStream::connect(transparent).await.unwrap(),
                };
                stream.write_all(sent).await.unwrap();
                open.push(stream);
            }
            let what = format!("{} bytes, {aborts}", sent.len());
            for mut stream in open {
                let mut received = Vec::new();
                let closed = async { if aborts { Ok(0) } else { stream.read_to_end(&mut received).await } };
                assert!(tokio::time::timeout(Duration::from_secs(20), closed).await.is_ok(), "{what}: still open");
            }
            until_closed(&server, before, &what).await;
        }
    }
    assert_eq!(registry.total(), 0);
}
