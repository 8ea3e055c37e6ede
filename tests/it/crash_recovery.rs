//! Kills the server at random moments under load: it starts again, serves no partial data and changes no verdict.
//! Six kills by default; the variable `KILLS` sets the number (`just kills`).

use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use coldframe::npm::{Algorithm, Digest};
use tempfile::TempDir;
use tokio::sync::Semaphore;
use tokio::task::JoinSet;

use crate::package::{Package, days, hours};
use crate::process::{Program, machine_clock};
use crate::registry::Registry;

const PACKAGES: usize = 24;
const CLIENTS: usize = 8;

const TIMEOUT: Duration = Duration::from_secs(60);

/// The most answers before a kill.
const MAX_ANSWERS: u32 = 200;

/// The expected answers, which stay the same across all kills.
struct Expected {
    registry: Registry,
    tarballs: Vec<Vec<u8>>,
}

impl Expected {
    /// Publishes an allowed and a held version of each package.
    async fn publish() -> Arc<Self> {
        let registry = Registry::start(&machine_clock()).await;
        let mut tarballs = Vec::new();
        for number in 0..PACKAGES {
            let old = Package::new(&name(number), "1.0.0").sized(5_000 + 40_000 * (number % 6));
            tarballs.push(old.tarball.clone());
            registry.publish(old);
            registry.publish(Package::new(&name(number), "1.1.0").aged(hours(3)));
        }
        Arc::new(Self { registry, tarballs })
    }

    /// Sends requests and checks each answer until the server is gone. Adds a permit for each answer.
    async fn request_until_gone(self: Arc<Self>, program: Arc<Program>, answered: Arc<Semaphore>, first: usize) {
        for step in first.. {
            let number = (step * 7) % PACKAGES;
            let path = |version: &str| format!("/{0}/-/{0}-{version}.tgz", name(number));
            let request = match step % 5 {
                0 => program.get(&format!("/{}", name(number))).abbreviated().gzip(),
                1 => program.get(&format!("/{}", name(number))),
                2 => program.get(&path("1.1.0")),
                _ => program.get(&path("1.0.0")),
            };
            let Ok(answer) = request.attempt().await else { return };
            answered.add_permits(1);
            match step % 5 {
                // A backdated version, published after the first kill, is hidden like the young one.
                0 | 1 => assert_eq!(answer.versions(), ["1.0.0"], "{}", name(number)),
                2 => drop(answer.is(403)),
                _ => assert!(answer.is(200).body == self.tarballs[number], "{}: wrong bytes", name(number)),
            }
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn kills_under_load_leave_no_partial_data_and_change_no_verdict() {
    let expected = Expected::publish().await;
    let (home, data) = (TempDir::new().unwrap(), TempDir::new().unwrap());
    // Fetch each package once, so that versions backdated later are recognized.
    let program = Program::serve(home.path(), data.path(), &expected.registry.url, &[]);
    for number in 0..PACKAGES {
        assert_eq!(program.get(&format!("/{}", name(number))).await.versions(), ["1.0.0"]);
    }
    program.kill();
    for kill in 0..kills() {
        // Short lifetimes and a small cache, so that the ledger and the store are written constantly.
        let program =
            Program::serve(home.path(), data.path(), &expected.registry.url, &["--packument-ttl", "1s", "--cache-size", "3MB"]);
        let program = Arc::new(program);
        let answered = Arc::new(Semaphore::new(0));
        let mut clients = JoinSet::new();
        for client in 0..CLIENTS {
            let requests =
                Arc::clone(&expected).request_until_gone(Arc::clone(&program), Arc::clone(&answered), client * 11 + kill);
            clients.spawn(requests);
        }
        // From the first requests to the middle of a load, however fast the machine is.
        let count = fastrand::u32(..MAX_ANSWERS);
        tokio::time::timeout(TIMEOUT, answered.acquire_many(count)).await.expect("answers").expect("an open semaphore").forget();
        pause_random().await;
        program.signal("-KILL");
        clients.join_all().await;
        drop(program);
        assert_eq!(damaged(&data.path().join("blobs")), [""; 0], "after kill {kill}");
        expected.registry.publish(Package::new(&name(kill % PACKAGES), &format!("1.2.{kill}")).aged(days(200)).untagged());
    }
    let program = Program::serve(home.path(), data.path(), &expected.registry.url, &[]);
    for number in 0..PACKAGES {
        assert_eq!(program.get(&format!("/{}", name(number))).await.versions(), ["1.0.0"]);
        program.get(&format!("/{0}/-/{0}-1.1.0.tgz", name(number))).await.is(403);
    }
    // Packuments are written after their answers; temporary files left by a kill would stay permanently.
    let deadline = Instant::now() + Duration::from_secs(20);
    while std::fs::read_dir(data.path().join("tmp")).unwrap().count() > 0 {
        assert!(Instant::now() < deadline, "temporary files are left");
        tokio::task::yield_now().await;
    }
}

fn name(number: usize) -> String {
    format!("package-{number}")
}

#[expect(clippy::disallowed_methods, reason = "the number of kills is set from outside")]
fn kills() -> usize {
    std::env::var("KILLS").map_or(6, |kills| kills.parse().expect("`KILLS` is a number"))
}

/// Waits up to 20 ms, so that not each kill follows an answer.
async fn pause_random() {
    let moment = Duration::from_millis(20).mul_f64(fastrand::f64());
    let _ = tokio::time::timeout(moment, std::future::pending::<()>()).await;
}

/// Returns the blobs whose bytes do not match the digest in their name.
fn damaged(folder: &Path) -> Vec<String> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(folder).into_iter().flatten().flatten() {
        let path = entry.path();
        if path.is_dir() {
            found.extend(damaged(&path));
            continue;
        }
        let algorithm = if path.to_string_lossy().contains("/sha512/") { Algorithm::Sha512 } else { Algorithm::Sha256 };
        let bytes = std::fs::read(&path).unwrap();
        if Digest::of(algorithm, &bytes).to_hex() != entry.file_name().to_string_lossy() {
            found.push(path.display().to_string());
        }
    }
    found
}
