//! Connections to the gateway's doors that begin and do not go on, by the hundred: the server parts with each, and their files are
//! given back.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use tempfile::TempDir;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

use crate::gate::connect;
use crate::program::{Program, machine_clock};
use crate::registry::Registry;
use crate::transparent::hello_for;

const MANY: usize = 200;

/// Where the server said that it listens.
fn door(server: &Program, name: &str) -> SocketAddr {
    let line = server.greeting.lines().find_map(|line| line.trim_start().strip_prefix(name)).expect("a line that says where");
    let place = line.trim().trim_start_matches("http://").split(['/', ',']).next().expect("an address");
    place.parse().expect("an address")
}

fn files(server: &Program) -> usize {
    std::fs::read_dir(format!("/proc/{}/fd", server.id())).expect("its files").count()
}

/// Waits until the server has no more files than before.
async fn settled(server: &Program, before: usize, what: &str) {
    let deadline = Instant::now() + Duration::from_secs(20);
    while files(server) > before {
        assert!(Instant::now() < deadline, "{what}: {} files, {before} before", files(server));
        tokio::task::yield_now().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn handshakes_that_stop_halfway_or_break_off_leave_no_file_behind() {
    let (home, data, registry) = (TempDir::new().unwrap(), TempDir::new().unwrap(), Registry::start(&machine_clock()).await);
    let doors = ["--gateway", "127.0.0.1:0", "--transparent", "127.0.0.1:0", "--intercept", "registry.example"];
    let server = Program::serve(home.path(), data.path(), &registry.url, &[&doors[..], &["--header-timeout", "1s"]].concat());
    let (gateway, transparent) = (door(&server, "gateway"), door(&server, "transparent"));
    let hello = hello_for("registry.example");
    // Everything that is made for the first of all stays.
    drop(connect(gateway, "registry.example:443", "").await);
    server.get("/-/coldframe/healthz").await.is(200);
    let before = files(&server);
    for sent in [&hello[..], &hello[..20], b""] {
        for breaks_off in [false, true] {
            let mut open = Vec::new();
            for at in 0..MANY {
                let mut stream = match at % 2 {
                    0 => connect(gateway, "registry.example:443", "").await.1,
                    _ => TcpStream::connect(transparent).await.unwrap(),
                };
                stream.write_all(sent).await.unwrap();
                open.push(stream);
            }
            let what = format!("{} bytes, {breaks_off}", sent.len());
            for mut stream in open {
                let mut told = Vec::new();
                let closed = async { if breaks_off { Ok(0) } else { stream.read_to_end(&mut told).await } };
                assert!(tokio::time::timeout(Duration::from_secs(20), closed).await.is_ok(), "{what}: it is open still");
            }
            settled(&server, before, &what).await;
        }
    }
    assert_eq!(registry.total(), 0);
}
