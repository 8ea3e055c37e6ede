//! Machine faults: a full or read-only disk, a ledger locked by another process, a wrong clock.
//! Allowed versions are still served, no history is lost and no version opens early.

use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use coldframe::units::timestamp;
use rusqlite::Connection;
use tempfile::TempDir;

use crate::harness::{NOON, Scene};
use crate::package::{Package, days, hours};
use crate::process::{Program, coldframe, machine_clock, run};
use crate::registry::Registry;

/// Locks the ledger from another connection with an open transaction.
fn lock_ledger(scene: &Scene) -> Connection {
    let lock = Connection::open(scene.data().join("ledger.sqlite")).expect("the ledger");
    lock.execute_batch("BEGIN IMMEDIATE").expect("its lock");
    lock
}

#[tokio::test(flavor = "multi_thread")]
async fn a_locked_ledger_does_not_delay_requests_for_long() {
    let mut scene = Scene::open().await;
    for number in 0..12 {
        scene.publish_old(&format!("package-{number}"), &["1.0.0"]);
    }
    let lock = lock_ledger(&scene);
    let begun = Instant::now();
    let asking: Vec<_> = (0..12)
        .flat_map(|number| [format!("/package-{number}"), format!("/package-{number}/-/package-{number}-1.0.0.tgz")])
        .map(|path| scene.get(&path).start())
        .collect();
    for answer in asking {
        answer.await.expect("an answer").is(200);
    }
    // The first request waits for the lock; the others skip the wait.
    assert!(begun.elapsed() < Duration::from_secs(12), "{:?}", begun.elapsed());
    let written =
        |lock: &Connection| lock.query_row("SELECT count(*) FROM packages", [], |row| row.get::<_, i64>(0)).expect("the table");
    assert_eq!(written(&lock), 0, "the ledger was not locked");
    lock.execute_batch("ROLLBACK").expect("the end of a transaction");
    scene.coldframe.stop().await;
    assert_eq!(written(&lock), 12);
}

#[tokio::test(flavor = "multi_thread")]
async fn first_seen_times_are_recorded_while_the_ledger_is_locked() {
    let mut scene = Scene::open().await;
    scene.publish_old("left-pad", &["1.0.0"]);
    scene.get("/left-pad").await.is(200);
    let lock = lock_ledger(&scene);
    // Fetched without 1.1.0 ten hours later, so 1.1.0 counts from then despite its publish time.
    scene.advance(hours(10));
    scene.get("/left-pad").await.is(200);
    scene.advance(hours(1));
    scene.publish(Package::new("left-pad", "1.1.0").aged(days(90)));
    assert_eq!(scene.get("/left-pad").await.versions(), ["1.0.0"]);
    drop(lock);
    scene.restart().await;
    scene.advance(hours(70));
    assert_eq!(scene.get("/left-pad").await.versions(), ["1.0.0"]);
    scene.advance(hours(2));
    assert_eq!(scene.get("/left-pad").await.versions(), ["1.0.0", "1.1.0"]);
}

#[tokio::test]
async fn an_unreadable_ledger_is_not_treated_as_empty() {
    let mut scene = Scene::open().await;
    scene.publish_old("left-pad", &["1.0.0"]);
    scene.get("/left-pad").await.is(200);
    scene.advance(hours(1));
    scene.publish(Package::new("left-pad", "1.1.0").aged(days(90)));
    scene.restart().await;
    let lock = Connection::open(scene.data().join("ledger.sqlite")).expect("the ledger");
    lock.execute_batch("ALTER TABLE releases RENAME TO hidden").expect("another schema");
    let answer = scene.get("/left-pad").await.is(500);
    assert!(answer.error().contains("cannot read the ledger"), "{}", answer.error());
    scene.get("/left-pad/-/left-pad-1.1.0.tgz").await.is(500);
    lock.execute_batch("ALTER TABLE hidden RENAME TO releases").expect("its own schema");
    assert_eq!(scene.get("/left-pad").await.versions(), ["1.0.0"]);
}

#[tokio::test]
async fn a_clock_set_forward_opens_nothing() {
    for ahead in [hours(5), days(3650)] {
        let scene = Scene::open().await;
        scene.publish_old("left-pad", &["1.0.0"]);
        scene.publish(Package::new("left-pad", "1.1.0").aged(hours(70)));
        let requests = |scene: &Scene| (scene.get("/left-pad"), scene.get("/left-pad/-/left-pad-1.1.0.tgz"));
        assert_eq!(requests(&scene).0.await.versions(), ["1.0.0"]);
        // Only the local clock is ahead; the upstream clock stays correct.
        scene.registry.set_clock_offset(-jiff::SignedDuration::try_from(ahead).unwrap());
        scene.advance(ahead);
        assert_eq!(requests(&scene).0.await.versions(), ["1.0.0"], "{ahead:?} ahead");
        requests(&scene).1.await.is(403);
        // Corrected, an hour after the start.
        scene.registry.set_clock_offset(jiff::SignedDuration::ZERO);
        scene.clock.set(timestamp::saturating_add(NOON.parse().unwrap(), hours(1)));
        assert_eq!(requests(&scene).0.await.versions(), ["1.0.0"]);
        scene.advance(hours(2));
        assert_eq!(requests(&scene).0.await.versions(), ["1.0.0", "1.1.0"]);
        requests(&scene).1.await.is(200);
    }
}

#[tokio::test]
async fn a_clock_set_back_opens_nothing_and_loses_nothing() {
    for back in [hours(5), days(300)] {
        let mut scene = Scene::open().await;
        scene.publish_old("left-pad", &["1.0.0"]);
        scene.publish(Package::new("left-pad", "1.1.0").aged(hours(70)));
        assert_eq!(scene.get("/left-pad").await.versions(), ["1.0.0"]);
        scene.registry.set_clock_offset(jiff::SignedDuration::try_from(back).unwrap());
        scene.clock.set(timestamp::saturating_sub(NOON.parse().unwrap(), back));
        assert_eq!(scene.get("/left-pad").await.versions(), ["1.0.0"], "{back:?} behind");
        scene.publish(Package::new("left-pad", "1.0.1").aged(days(20)).untagged());
        scene.advance(hours(1));
        assert_eq!(scene.get("/left-pad").await.versions(), ["1.0.0"], "{back:?} behind");
        scene.restart().await;
        scene.registry.set_clock_offset(jiff::SignedDuration::ZERO);
        scene.clock.set(timestamp::saturating_add(NOON.parse().unwrap(), hours(3)));
        // The version backdated meanwhile is still held; the version close to its minimum age has opened.
        assert_eq!(scene.get("/left-pad").await.versions(), ["1.0.0", "1.1.0"]);
        scene.advance(days(3));
        assert_eq!(scene.get("/left-pad").await.versions(), ["1.0.0", "1.0.1", "1.1.0"]);
    }
}

/// Starts a server on a 6 MB file system if the process may mount one, otherwise with a limit on the size of each file.
fn serve_on_small_disk(home: &TempDir, upstream: &str) -> Program {
    let data = home.path().join("data");
    std::fs::create_dir(&data).unwrap();
    let command_in_home = |more: &[&str]| {
        let mut command = Command::new(more[0]);
        command.env_clear().env("HOME", home.path()).env("PATH", "/usr/local/sbin:/usr/sbin:/sbin:/usr/local/bin:/usr/bin:/bin");
        command.args(&more[1..]).stdin(Stdio::null()).current_dir(home.path());
        command
    };
    let serve = r#"exec "$0" serve --listen 127.0.0.1:0 --upstream "$1" --data-dir "$2""#;
    let mounted = format!(r#"mount -t tmpfs -o size=6m coldframe "$2" && {serve}"#);
    let limited = format!(r#"trap "" XFSZ; ulimit -f 2000; {serve}"#);
    let may_mount = command_in_home(&["unshare", "-rm", "mount", "-t", "tmpfs", "coldframe", "data"]).output();
    let mut command = match may_mount {
        Ok(tried) if tried.status.success() => command_in_home(&["unshare", "-rm", "sh", "-c", &mounted]),
        _ => command_in_home(&["sh", "-c", &limited]),
    };
    Program::start(command.arg(env!("CARGO_BIN_EXE_coldframe")).arg(upstream).arg(&data))
}

#[tokio::test(flavor = "multi_thread")]
async fn a_full_disk_is_logged_and_allowed_versions_are_still_served() {
    let registry = Registry::start(&machine_clock()).await;
    let home = TempDir::new().unwrap();
    let program = serve_on_small_disk(&home, &registry.url);
    let mut tarballs = Vec::new();
    for number in 0..8 {
        let package = Package::new(&format!("package-{number}"), "1.0.0").sized(1_500_000);
        tarballs.push((package.path(), package.tarball.clone()));
        registry.publish(package);
        registry.publish(Package::new(&format!("package-{number}"), "1.1.0").aged(hours(1)).field("notes", "n".repeat(50_000)));
    }
    for _ in 0..3 {
        for (number, (path, bytes)) in tarballs.iter().enumerate() {
            assert_eq!(program.get(&format!("/package-{number}")).await.versions(), ["1.0.0"]);
            assert!(program.get(path).await.is(200).body == *bytes, "{path}: wrong bytes");
            assert_eq!(program.get(path).header("range", "bytes=5-9").await.is(206).body, bytes[5..10]);
            program.get(&path.replace("1.0.0", "1.1.0")).await.is(403);
        }
    }
    program.get("/-/coldframe/readyz").await.is(200);
    program.signal("-TERM");
    let (_, errors) = program.wait_for_exit().await;
    assert!(errors.contains("packument write failed") || errors.contains("cannot write"), "{errors}");
}

/// A data directory that is read-only under a running server until dropped: files cannot grow. If the process may mount, files
/// cannot be created, changed or removed either.
#[cfg(target_os = "linux")]
struct ReadOnly<'a> {
    program: &'a Program,
    limit: rustix::process::Rlimit,
    mounted: Option<std::path::PathBuf>,
}

#[cfg(target_os = "linux")]
impl<'a> ReadOnly<'a> {
    /// Starts a server in its own mount namespace if possible, and with SIGXFSZ ignored.
    fn server(home: &TempDir, upstream: &str) -> Program {
        let inside = Command::new("unshare").args(["-rm", "true"]).stderr(Stdio::null()).status();
        let apart = inside.is_ok_and(|status| status.success());
        let mut command = Command::new(if apart { "unshare" } else { "sh" });
        command.args(if apart { ["-rm", "sh"].as_slice() } else { &[] });
        command.args(["-c", r#"trap "" XFSZ; exec "$0" serve --listen 127.0.0.1:0 --upstream "$1" --data-dir "$2""#]);
        command.args([env!("CARGO_BIN_EXE_coldframe"), upstream]).arg(home.path().join("data"));
        command.env_clear().env("HOME", home.path()).env("PATH", "/usr/local/sbin:/usr/sbin:/sbin:/usr/local/bin:/usr/bin:/bin");
        Program::start(command.stdin(Stdio::null()).current_dir(home.path()))
    }

    #[expect(clippy::print_stderr, reason = "a machine that cannot mount must be reported")]
    fn turn(program: &'a Program, home: &TempDir) -> Self {
        use rustix::process::{Resource, Rlimit, getrlimit, prlimit};
        let none = Rlimit { current: Some(0), maximum: getrlimit(Resource::Fsize).maximum };
        let limit = prlimit(Self::process(program), Resource::Fsize, none).expect("its limit");
        let data = home.path().join("data");
        // A bind mount, because a file system with open writers cannot be remounted read-only.
        let mounted = Self::inside(program, r#"mount --bind "$0" "$0" && mount -o remount,bind,ro "$0""#, &data).then_some(data);
        if mounted.is_none() {
            eprintln!("cannot mount on this machine: files cannot grow but can be created");
        }
        Self { program, limit, mounted }
    }

    fn inside(program: &Program, words: &str, data: &std::path::Path) -> bool {
        let mut command = Command::new("nsenter");
        command.args(["-t", &program.id().to_string(), "-U", "--preserve-credentials", "-m", "sh", "-c", words]).arg(data);
        command.stderr(Stdio::null()).status().is_ok_and(|status| status.success())
    }

    fn process(program: &Program) -> Option<rustix::process::Pid> {
        rustix::process::Pid::from_raw(i32::try_from(program.id()).expect("an id"))
    }
}

#[cfg(target_os = "linux")]
impl Drop for ReadOnly<'_> {
    fn drop(&mut self) {
        rustix::process::prlimit(Self::process(self.program), rustix::process::Resource::Fsize, self.limit).expect("its limit");
        // Lazily: the server may have a file open in it at this moment.
        assert!(self.mounted.as_ref().is_none_or(|data| Self::inside(self.program, r#"umount -l "$0""#, data)));
    }
}

#[cfg(target_os = "linux")]
#[tokio::test(flavor = "multi_thread")]
async fn a_read_only_data_directory_stops_only_writes_until_it_is_writable() {
    let registry = Registry::start(&machine_clock()).await;
    let home = TempDir::new().unwrap();
    let program = ReadOnly::server(&home, &registry.url);
    let mut packages = Vec::new();
    for name in ["before", "meanwhile", "later"] {
        let package = Package::new(name, "1.0.0").sized(200_000);
        packages.push((format!("/{name}"), package.path(), package.tarball.clone()));
        registry.publish(package);
        registry.publish(Package::new(name, "1.1.0").aged(hours(1)));
    }
    let files = || {
        let found = Command::new("find").arg(home.path().join("data")).args(["-type", "f", "-not", "-name", "ledger*"]).output();
        String::from_utf8(found.expect("`find` runs").stdout).unwrap().lines().count()
    };
    let install = async |(packument, path, bytes): &(String, String, Vec<u8>)| {
        assert_eq!(program.get(packument).await.versions(), ["1.0.0"]);
        assert!(program.get(path).await.is(200).body == *bytes, "{path}: wrong bytes");
        assert_eq!(program.get(path).header("range", "bytes=5-9").await.is(206).body, bytes[5..10]);
        program.get(&path.replace("1.0.0", "1.1.0")).await.is(403);
    };
    let settled = async |count: usize| {
        let deadline = Instant::now() + Duration::from_secs(20);
        while files() != count {
            assert!(Instant::now() < deadline, "{} files, not {count}", files());
            tokio::task::yield_now().await;
        }
    };
    install(&packages[0]).await;
    // The lock, a packument and a tarball.
    settled(3).await;
    let read_only = ReadOnly::turn(&program, &home);
    install(&packages[0]).await;
    install(&packages[1]).await;
    install(&packages[1]).await;
    program.get("/-/coldframe/readyz").await.is(200);
    settled(3).await;
    drop(read_only);
    install(&packages[1]).await;
    install(&packages[2]).await;
    let fetches = registry.count(&packages[1].1);
    install(&packages[1]).await;
    assert_eq!(registry.count(&packages[1].1), fetches, "the tarball was not stored");
    assert_eq!((registry.count(&packages[0].1), registry.count(&packages[1].0)), (1, 1));
    program.signal("-TERM");
    let (code, errors) = program.wait_for_exit().await;
    assert!(code == 0 && errors.contains("tarball write failed, served from memory"), "{code}: {errors}");
    assert!(errors.contains("ledger write failed"), "{errors}");
    // Pending ledger rows are written when the disk is writable again.
    let exposure = ["exposure", "meanwhile@1.0.0", "--json", "--data-dir"];
    let (code, stdout, errors) = run(coldframe(home.path()).args(exposure).arg(home.path().join("data")));
    assert_eq!(code, 0, "{errors}");
    let rows: serde_json::Value = serde_json::from_str(&stdout).unwrap();
    assert_eq!(rows[0]["times"], 8, "{rows:#}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_data_directory_of_a_newer_version_is_not_modified() {
    let registry = Registry::start(&machine_clock()).await;
    let (home, data) = (TempDir::new().unwrap(), TempDir::new().unwrap());
    Program::serve(home.path(), data.path(), &registry.url, &[]).kill();
    let file = data.path().join("ledger.sqlite");
    Connection::open(&file).unwrap().execute_batch("PRAGMA user_version = 99; PRAGMA wal_checkpoint(TRUNCATE)").unwrap();
    let before = std::fs::read(&file).unwrap();
    let mut command = coldframe(home.path());
    command.args(["serve", "--listen", "127.0.0.1:0", "--upstream", &registry.url, "--data-dir"]).arg(data.path());
    let (code, _, errors) = run(&mut command);
    assert!(code == 5 && errors.contains("newer Coldframe") && errors.contains("schema 99"), "{code}: {errors}");
    assert!(std::fs::read(&file).unwrap() == before, "the ledger was modified");
}

#[cfg(unix)]
#[tokio::test(flavor = "multi_thread")]
async fn an_unwritable_data_directory_exits_with_code_5() {
    use std::os::unix::fs::PermissionsExt as _;
    let registry = Registry::start(&machine_clock()).await;
    let (home, data) = (TempDir::new().unwrap(), TempDir::new().unwrap());
    std::fs::set_permissions(data.path(), std::fs::Permissions::from_mode(0o500)).unwrap();
    // Permissions do not bind root, so root drops its capabilities first if `setpriv` exists.
    let is_root = std::fs::write(data.path().join("probe"), "").is_ok();
    let mut command = coldframe(home.path());
    if is_root {
        command = Command::new("setpriv");
        command.args(["--bounding-set=-all", "--inh-caps=-all", env!("CARGO_BIN_EXE_coldframe")]);
        command.env_clear().env("HOME", home.path()).env("PATH", "/usr/bin:/bin").stdin(Stdio::null());
    }
    command.args(["serve", "--listen", "127.0.0.1:0", "--upstream", &registry.url, "--data-dir"]).arg(data.path());
    let (code, _, errors) = run(&mut command);
    assert!(code == 5 && errors.contains("Permission denied"), "{code}: {errors}");
}
