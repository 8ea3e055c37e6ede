//! Isolation: a package, registry or client that fails, hangs or sends many requests does not slow the others.

use std::fmt::Write as _;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use serde_json::json;
use tempfile::TempDir;
use tokio::io::AsyncWriteExt as _;
use tokio::net::{TcpSocket, TcpStream};
use tokio::task::JoinHandle;

use crate::fake_response::Reply;
use crate::harness::Scene;
use crate::package::{Package, days, minutes};
use crate::process::{Program, machine_clock};
use crate::raw_http::Response;
use crate::registry::{Gate, Registry};

/// Much longer than any step here should take.
const TIMEOUT: Duration = Duration::from_secs(30);

/// Number of failing packages that opens a circuit.
const FAILURES_TO_OPEN: usize = 5;

async fn circuit(scene: &Scene) -> String {
    let page = scene.get("/-/coldframe/readyz").await.is(200);
    page.json()["checks"]["upstream"].as_str().expect("the upstream check").to_owned()
}

/// Sends a request from another address of this machine, which counts as another client.
fn from_another_client(address: SocketAddr, path: &str) -> JoinHandle<Response> {
    let request = format!("GET {path} HTTP/1.1\r\nhost: {address}\r\nconnection: close\r\n\r\n");
    tokio::spawn(async move {
        let socket = TcpSocket::new_v4().expect("a socket");
        socket.bind("127.0.0.2:0".parse().expect("an address")).expect("an address of this machine");
        let mut stream = socket.connect(address).await.expect("a connection");
        stream.write_all(request.as_bytes()).await.expect("an open connection");
        let answer = tokio::time::timeout(TIMEOUT, Response::read(&mut stream, false)).await;
        answer.expect("an answer in time").expect("an answer")
    })
}

async fn until_total(registry: &Registry, total: usize) {
    let deadline = Instant::now() + TIMEOUT;
    while registry.total() < total {
        assert!(Instant::now() < deadline, "{} requests, not {total}", registry.total());
        tokio::task::yield_now().await;
    }
}

#[tokio::test]
async fn failures_of_unknown_packages_do_not_open_the_circuit() {
    let scene = Scene::open().await;
    let failures = [
        Reply::status(503).header("retry-after", "60"),
        Reply::status(502).header("retry-after", "60"),
        Reply::status(429).header("retry-after", "60"),
        Reply::ok("{}").cut_after(0),
    ];
    for (number, failure) in failures.iter().cycle().take(40).enumerate() {
        scene.registry.answer(&format!("/bad-{number}"), failure.clone());
    }
    for number in 0..40 {
        assert!(scene.get(&format!("/bad-{number}")).await.status >= 429);
        if number % 4 == 3 {
            let good = format!("good-{number}");
            scene.publish_old(&good, &["1.0.0"]);
            scene.get(&format!("/{good}")).await.is(200);
        }
    }
    // The same without successful requests in between, and with tarballs of unknown packages.
    for number in 0..40 {
        scene.registry.answer(&format!("/bad-{number}/-/bad-{number}-1.0.0.tgz"), failures[0].clone());
        assert!(scene.get(&format!("/bad-{number}/-/bad-{number}-1.0.0.tgz")).await.status >= 429);
    }
    assert_eq!(circuit(&scene).await, "ok");
    scene.publish_old("good", &["1.0.0"]);
    scene.get("/good").await.is(200);
}

#[tokio::test]
async fn circuit_opens_after_five_known_packages_fail() {
    let scene = Scene::open().await;
    let paths: Vec<_> = (0..FAILURES_TO_OPEN).map(|number| format!("/known-{number}")).collect();
    for path in &paths {
        scene.publish_old(&path[1..], &["1.0.0"]);
        scene.get(path).await.is(200);
    }
    let fails = Reply::status(503).header("retry-after", "60");
    scene.registry.answer(&paths[0], fails.clone());
    for count in 1..=4 * FAILURES_TO_OPEN {
        scene.advance(minutes(10));
        assert_ne!(scene.get(&paths[0]).await.is(200).header("warning"), "");
        assert_eq!(scene.registry.count(&paths[0]), 1 + count);
    }
    assert_eq!(circuit(&scene).await, "ok");
    for path in &paths {
        scene.registry.answer(path, fails.clone());
        scene.get(path).await.is(200);
    }
    assert!(circuit(&scene).await.contains("circuit open"));
    let refused = scene.get("/another").await.is(502);
    assert!(refused.error().contains("is down"), "{}", refused.error());
}

#[tokio::test]
async fn hanging_registry_does_not_exhaust_slots_of_another() {
    let (home, data) = (TempDir::new().expect("a folder"), TempDir::new().expect("a folder"));
    let (registry, acme) = (Registry::start(&machine_clock()).await, Registry::start(&machine_clock()).await);
    std::fs::write(home.path().join(".npmrc"), format!("@acme:registry={}/\n", acme.url)).expect("a file");
    let program = Program::serve(home.path(), data.path(), &registry.url, &["--upstream-timeout", "1h", "--drain-timeout", "1s"]);
    for number in 0..80 {
        acme.publish(Package::new(&format!("@acme/hangs-{number}"), "1.0.0"));
    }
    registry.publish(Package::new("cold", "1.0.0"));
    registry.publish(Package::new("other", "1.0.0"));
    // The packages must be known before their tarballs are requested.
    let (mut gates, mut pending) = (Vec::<Gate>::new(), Vec::new());
    for number in 0..80 {
        program.get(&format!("/@acme%2fhangs-{number}")).await.is(200);
    }
    let before = acme.total();
    for number in 0..80 {
        let tarball = format!("/@acme/hangs-{number}/-/hangs-{number}-1.0.0.tgz");
        gates.push(acme.hold(&tarball));
        pending.push(program.get(&tarball).start());
    }
    until_total(&acme, before + 64).await;
    program.get("/cold/-/cold-1.0.0.tgz").await.is(200);
    let before = acme.total();
    for number in 0..60 {
        gates.push(acme.hold(&format!("/@acme/cold-{number}")));
        acme.absent(&format!("@acme/cold-{number}"));
        pending.push(program.get(&format!("/@acme%2fcold-{number}")).start());
    }
    until_total(&acme, before + 48).await;
    program.get("/other").await.is(200);
    pending.iter().for_each(JoinHandle::abort);
    drop(gates);
}

#[tokio::test]
async fn one_client_cannot_take_all_upstream_slots() {
    let scene = Scene::open().set("upstream-timeout", "1h").set("drain-timeout", "1s").await;
    let (mut gates, mut pending) = (Vec::new(), Vec::new());
    for number in 0..70 {
        let path = format!("/hangs-{number}");
        scene.registry.absent(&path[1..]);
        gates.push(scene.registry.hold(&path));
        pending.push(scene.get(&path).start());
    }
    until_total(&scene.registry, 48).await;
    scene.publish_old("cold", &["1.0.0"]);
    scene.publish_old("popular", &["1.0.0"]);
    // This fetch waits behind the others, and another client requests the same package.
    pending.push(scene.get("/popular").start());
    let address = scene.coldframe.address;
    from_another_client(address, "/cold").await.expect("no panic").is(200);
    from_another_client(address, "/popular").await.expect("no panic").is(200);
    from_another_client(address, "/cold/-/cold-1.0.0.tgz").await.expect("no panic").is(200);
    from_another_client(address, "/-/ping").await.expect("no panic").is(200);
    pending.iter().for_each(JoinHandle::abort);
    drop(gates);
}

#[tokio::test]
async fn slow_body_or_full_slots_do_not_mark_upstream_slow() {
    let scene = Scene::open().set("stale-wait", "1s").set("upstream-timeout", "1h").set("drain-timeout", "1s").await;
    for name in ["slow", "waits", "other", "another"] {
        scene.publish_old(name, &["1.0.0"]);
        scene.get(&format!("/{name}")).await.is(200);
    }
    scene.advance(minutes(10));
    scene.publish_old("slow", &["1.1.0"]);
    let body = scene.registry.hold_body("/slow", 20);
    assert_ne!(scene.get("/slow").await.is(200).header("warning"), "");
    assert_eq!(scene.get("/other").await.is(200).headers.first("warning"), None);
    // Requests that wait for an answer do not mark the registry slow either.
    let (mut gates, mut pending) = (vec![body], Vec::new());
    for number in 0..60 {
        let path = format!("/hangs-{number}");
        scene.registry.absent(&path[1..]);
        gates.push(scene.registry.hold(&path));
        pending.push(scene.get(&path).start());
    }
    until_total(&scene.registry, 50).await;
    assert_ne!(scene.get("/waits").await.is(200).header("warning"), "");
    let another = from_another_client(scene.coldframe.address, "/another").await.expect("no panic").is(200);
    assert_eq!(another.headers.first("warning"), None);
    pending.iter().for_each(JoinHandle::abort);
    drop(gates);
}

#[tokio::test]
async fn one_hanging_package_does_not_make_others_stale() {
    let mut scene = Scene::open().set("stale-wait", "1s").set("upstream-timeout", "1h").set("drain-timeout", "1s").await;
    for restarted in [false, true] {
        for name in ["hangs", "other", "third"] {
            scene.publish_old(name, &["1.0.0"]);
            scene.get(&format!("/{name}")).await.is(200);
        }
        if restarted {
            scene.restart().await;
        }
        scene.advance(minutes(10));
        let gate = scene.registry.hold("/hangs");
        assert_ne!(scene.get("/hangs").await.is(200).header("warning"), "");
        // No client waits to learn this: the first response of the registry shows that it is not silent.
        scene.get("/other").await.is(200);
        let deadline = Instant::now() + TIMEOUT;
        while scene.get("/third").await.is(200).headers.first("warning").is_some() {
            assert!(Instant::now() < deadline, "restarted: {restarted}");
        }
        assert_eq!(scene.get("/other").await.is(200).headers.first("warning"), None);
        gate.open();
    }
}

/// Connects from the address `source` of this machine, which counts as a separate client.
async fn connect_from(source: &str, address: SocketAddr, receives: Option<u32>) -> TcpStream {
    let socket = TcpSocket::new_v4().expect("a socket");
    if let Some(bytes) = receives {
        socket.set_recv_buffer_size(bytes).expect("an option");
    }
    socket.bind(format!("{source}:0").parse().expect("an address")).expect("an address of this machine");
    socket.connect(address).await.expect("a connection")
}

#[tokio::test]
async fn one_client_cannot_take_all_connections() {
    let scene = Scene::open().set("max-connections", "32").set("header-timeout", "1h").set("drain-timeout", "1s").await;
    let address = scene.coldframe.address;
    let mut greedy = Vec::new();
    for _ in 0..100 {
        let mut stream = connect_from("127.0.0.1", address, None).await;
        stream.write_all(b"GET / HTTP/1.1\r\nhost:").await.expect("an open connection");
        greedy.push(stream);
    }
    for _ in 0..20 {
        from_another_client(address, "/-/coldframe/healthz").await.expect("no panic").is(200);
    }
    // Waiting connections are served when others close.
    greedy.truncate(1);
    scene.get("/-/coldframe/healthz").await.is(200);
}

#[tokio::test]
async fn endless_uploads_leave_memory_for_other_clients() {
    let scene = Scene::open().set("allow-writes", "true").set("body-timeout", "1h").set("drain-timeout", "1s").await;
    scene.registry.answer("/mine", Reply::json("{}"));
    let address = scene.coldframe.address;
    let head = |length: usize| {
        format!(
            "PUT /mine HTTP/1.1\r\nhost: {address}\r\nauthorization: Bearer t\r\ncontent-length: {length}\r\nconnection: close\r\n\r\n"
        )
    };
    let mut dripping = Vec::new();
    for _ in 0..3 {
        let mut stream = connect_from("127.0.0.1", address, None).await;
        stream.write_all(head(81_000_000).as_bytes()).await.expect("an open connection");
        dripping.push(tokio::spawn(async move {
            // The second upload waits for the first and is refused, so this write may fail.
            let _ = stream.write_all(&vec![b' '; 80_000_000]).await;
            stream
        }));
    }
    let first = dripping.remove(0).await.expect("no panic");
    let mut honest = connect_from("127.0.0.2", address, None).await;
    let body = vec![b' '; 3_000_000];
    honest.write_all(head(body.len()).as_bytes()).await.expect("an open connection");
    honest.write_all(&body).await.expect("an open connection");
    let answer = tokio::time::timeout(TIMEOUT, Response::read(&mut honest, false)).await;
    answer.expect("an answer in time").expect("an answer").is(200);
    dripping.iter().for_each(JoinHandle::abort);
    drop(first);
}

#[tokio::test]
async fn absent_name_limit_applies_per_client() {
    let scene = Scene::open().set("absent-names", "3").await;
    for number in 0..5 {
        scene.registry.absent(&format!("absent-{number}"));
    }
    scene.publish_old("known", &["1.0.0"]);
    scene.publish_old("cold", &["1.0.0"]);
    scene.get("/known").await.is(200);
    for number in 0..3 {
        scene.get(&format!("/absent-{number}")).await.is(404);
        // Requesting a name again does not count again.
        scene.get(&format!("/absent-{number}")).await.is(404);
    }
    let total = scene.registry.total();
    let refused = scene.get("/absent-3").await.is(429);
    assert!(refused.error().contains("too many packages"), "{}", refused.error());
    scene.get("/absent-4/-/absent-4-1.0.0.tgz").await.is(429);
    scene.get("/cold").await.is(429);
    assert_eq!(scene.registry.total(), total);
    scene.get("/known").await.is(200);
    scene.get("/known/-/known-1.0.0.tgz").await.is(200);
    scene.get("/absent-0").await.is(404);
    let address = scene.coldframe.address;
    from_another_client(address, "/cold").await.expect("no panic").is(200);
    from_another_client(address, "/absent-3").await.expect("no panic").is(404);
    scene.get("/absent-3").await.is(404);
}

#[tokio::test]
async fn full_absent_name_ledger_refuses_new_names_until_entries_age_out() {
    let mut scene = Scene::open().await;
    for name in ["absent", "asked-before", "later"] {
        scene.registry.absent(name);
    }
    scene.get("/asked-before").await.is(404);
    scene.coldframe.stop().await;
    let ledger = rusqlite::Connection::open(scene.data().join("ledger.sqlite")).expect("the ledger");
    let filled = ledger.execute(
        "WITH RECURSIVE numbers(n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM numbers WHERE n < 200000)
         INSERT INTO packages (upstream, name, first_seen, validated, changed, looked, seen)
         SELECT ?1 || '/', 'filler-' || n, ?2, ?2, ?2, ?2, 0 FROM numbers",
        (&scene.registry.url, i64::try_from(scene.now().as_nanosecond()).expect("an instant")),
    );
    assert_eq!(filled.expect("rows"), 200_000);
    drop(ledger);
    scene.restart().await;
    scene.publish_old("known", &["1.0.0"]);
    scene.get("/known").await.is(200);
    for _ in 0..3 {
        scene.get("/absent").await.is(429);
    }
    // A recorded name needs no new entry. If it is published later, its age counts from then.
    scene.get("/asked-before").await.is(404);
    scene.publish(Package::new("asked-before", "1.0.0").aged(crate::package::days(900)));
    scene.advance(minutes(2));
    scene.get("/asked-before").await.is(403);
    scene.get("/absent").await.is(429);
    // Entries older than every age in the policy no longer count.
    scene.advance(crate::package::days(400));
    scene.get("/absent").await.is(404);
    scene.get("/later").await.is(404);
}

const BULK: &str = "/-/npm/v1/security/advisories/bulk";
const QUICK: &str = "/-/npm/v1/security/audits/quick";

/// Returns an audit of a tree with `packages` packages below one whose name has `above` bytes.
fn tree(above: usize, packages: usize) -> String {
    let mut tree = format!(r#"{{"dependencies":{{"{}":{{"version":"1.0.0","dependencies":{{"#, "x".repeat(above));
    for number in 0..packages {
        let comma = if number == 0 { "" } else { "," };
        let _ = write!(tree, r#"{comma}"left-pad-{number}":{{"version":"1.0.0"}}"#);
    }
    tree + "}}}}"
}

#[tokio::test]
async fn oversized_audit_is_refused_and_not_forwarded() {
    let scene = Scene::open().set("feed", vulnerabilities(&["left-pad"]).path().to_str().expect("UTF-8")).await;
    let mut names = "{".to_owned();
    for number in 0..60_000 {
        let _ = write!(names, r#""p{number}":["1.0.0"],"#);
    }
    let versions: Vec<_> = (0..2_000).map(|patch| format!("1.0.{patch}")).collect();
    for (path, body, what) in [
        (BULK, names + r#""last":[]}"#, "more than 50000 packages"),
        (BULK, json!({ "left-pad": versions }).to_string(), "more than 1000 versions of one package"),
        (QUICK, tree(40_000, 110_000), "more than 50000 packages"),
    ] {
        let refused = scene.ask("POST", path).npm("11.21.2").body(body).gzip_body().await.is(413);
        assert!(refused.error().contains(what), "{}", refused.error());
    }
    assert_eq!(scene.registry.total(), 0);
    // An audit of the size that real installs send is answered.
    let body = json!({ "left-pad": ["1.0.0"], "other": ["2.0.0"] });
    let advised = scene.ask("POST", BULK).npm("11.21.2").json(&body).await.is(200).json();
    assert_eq!((advised["left-pad"][0]["severity"].as_str(), advised.get("other")), (Some("high"), None));
}

/// Creates a feed folder with one vulnerability per package. The server reads it at start, so it may be deleted afterwards.
fn vulnerabilities(names: &[&str]) -> TempDir {
    let folder = TempDir::new().expect("a folder");
    for name in names {
        let record = json!({
            "id": format!("GHSA-{name}"), "modified": "2026-04-03T10:00:00Z", "summary": "a flaw",
            "database_specific": { "severity": "HIGH" },
            "affected": [{ "package": { "ecosystem": "npm", "name": name },
                           "ranges": [{ "type": "SEMVER", "events": [{ "introduced": "0" }, { "fixed": "9.0.0" }] }] }],
        });
        std::fs::write(folder.path().join(format!("GHSA-{name}.json")), record.to_string()).expect("a file");
    }
    folder
}

#[tokio::test]
async fn check_limits_number_and_length_of_ranges() {
    let scene = Scene::open().await;
    scene.publish_old("left-pad", &["1.0.0", "1.1.0"]);
    scene.publish(Package::new("left-pad", "1.2.0").aged(Duration::from_secs(60)));
    let check = async |ranges: Vec<String>| {
        let body = json!({ "packages": [{ "name": "left-pad", "version": "1.2.0", "ranges": ranges }] });
        scene.ask("POST", "/-/coldframe/check").json(&body).await
    };
    let many = check((0..1_000).map(|patch| format!(">=0.0.{patch} <1.1.1")).collect()).await.is(200);
    assert_eq!(many.json()["packages"][0]["fits"], "1.1.0");
    check(vec!["^1.0.0".to_owned(); 1_001]).await.is(413);
    let refused = check(vec![format!("^1.0.0 || {}", "x".repeat(2_000))]).await.is(413);
    assert!(refused.text().contains("`left-pad`"), "{}", refused.text());
    let large = "x".repeat(3 << 20);
    scene.ask("POST", "/-/coldframe/check").body(large).await.is(413);
}

/// More versions than a request thread may evaluate. Debug builds panic if one does, and the request fails.
const MANY_VERSIONS: usize = 4_200;

/// Publishes a package of many versions; one is held and one was removed.
async fn publish_many(scene: &Scene) {
    for (version, age) in [("8.0.0", days(500)), ("9.0.0", days(400)), ("9.1.0", minutes(60))] {
        scene.publish(Package::new("vers", version).aged(age));
    }
    scene.registry.edit("vers", |packument| {
        let manifest = packument["versions"]["9.0.0"].to_string();
        for patch in 0..MANY_VERSIONS {
            let version = format!("1.0.{patch}");
            let manifest = manifest.replace("9.0.0", &version);
            packument["versions"][&version] = serde_json::from_str(&manifest).expect("JSON");
            packument["time"][&version] = format!("202{}-06-01T00:00:00.000Z", patch % 5).into();
        }
    });
    scene.get("/vers").await.is(200);
    scene.registry.unpublish("vers", "8.0.0");
    scene.advance(minutes(10));
    scene.get("/vers").await.is(200);
}

/// Requests every resource of the package, twice in parallel.
async fn request_everything(scene: &Scene) {
    let check = json!({ "packages": [{ "name": "vers", "version": "9.1.0", "ranges": ["^9.0.0"] }] });
    for (path, status) in [
        ("/vers/-/vers-9.9.9.tgz", 404),
        ("/vers/-/vers-9.1.0.tgz", 403),
        ("/vers/-/vers-9.0.0.tgz", 200),
        ("/vers/-/vers-8.0.0.tgz", 404),
        ("/vers", 200),
        ("/vers/latest", 200),
        ("/vers/%5E1.0.0", 200),
        ("/vers/9.1.0", 403),
        ("/vers/%5E7.0.0", 404),
        ("/-/package/vers/dist-tags", 200),
        ("/-/coldframe/explain/vers", 200),
        ("/-/coldframe/explain/vers@8.0.0", 200),
    ] {
        for reply in [scene.get(path).start(), scene.get(path).gzip().start()] {
            let answer = reply.await.map(|answer| answer.status).unwrap_or_default();
            assert_eq!(answer, status, "{path}");
        }
    }
    scene.get("/vers/-/vers-9.9.9.tgz").token("a-new-one").await.is(404);
    scene.ask("POST", "/-/coldframe/check").json(&check).await.is(200);
}

#[tokio::test]
async fn large_package_is_evaluated_off_the_request_threads() {
    let feed = TempDir::new().expect("a folder");
    let everything = json!({
        "id": "MAL-2026-1", "modified": "2026-04-03T10:00:00Z", "published": "2026-04-03T10:00:00Z", "summary": "Malicious code",
        "affected": [{ "package": { "ecosystem": "npm", "name": "vers" },
                       "ranges": [{ "type": "SEMVER", "events": [{ "introduced": "0" }] }] }],
    });
    std::fs::write(feed.path().join("MAL-2026-1.json"), everything.to_string()).expect("a file");
    // With 1 MB of memory the package is read from the store for each request.
    for memory in ["128MB", "1MB"] {
        let mut scene = Scene::open().set("memory", memory).set("feed", feed.path().to_str().expect("UTF-8")).await;
        publish_many(&scene).await;
        scene.restart().await;
        // Revalidated by a 304.
        scene.advance(minutes(10));
        request_everything(&scene).await;
    }
}

#[cfg(target_os = "linux")]
mod process_memory {
    use super::*;
    use crate::client::Ask;

    /// Returns the peak resident memory of the process in kB.
    fn peak(program: &Program) -> u64 {
        let process = std::path::Path::new("/proc").join(program.id().to_string());
        let status = std::fs::read_to_string(process.join("status")).expect("its status");
        let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).expect("the line");
        line.trim().trim_end_matches(" kB").trim().parse().expect("a number")
    }

    #[tokio::test]
    async fn stalled_readers_share_one_copy_of_a_packument() {
        let (home, data) = (TempDir::new().expect("a folder"), TempDir::new().expect("a folder"));
        let registry = Registry::start(&machine_clock()).await;
        for minor in 0..40 {
            registry.publish(Package::new("large", &format!("1.{minor}.0")));
        }
        registry.edit("large", |packument| {
            for manifest in packument["versions"].as_object_mut().expect("versions").values_mut() {
                manifest["description"] = "x".repeat(250_000).into();
            }
        });
        let program = Program::serve(home.path(), data.path(), &registry.url, &["--drain-timeout", "1s"]);
        program.get("/large").gzip().await.is(200);
        let before = peak(&program);
        let mut slow = Vec::new();
        for number in 0..40 {
            let mut stream = connect_from("127.0.0.1", program.address, Some(4096)).await;
            // Some use host names for which no response is cached.
            let host = format!("host-{}.example", number % 15);
            stream.write_all(format!("GET /large HTTP/1.1\r\nhost: {host}\r\n\r\n").as_bytes()).await.expect("a connection");
            slow.push(stream);
        }
        let deadline = Instant::now() + TIMEOUT;
        let waits = "coldframe_requests_in_flight 41";
        while !program.get("/-/coldframe/metrics").await.is(200).text().contains(waits) {
            assert!(Instant::now() < deadline, "not all requests are in flight");
        }
        for path in ["/large", "/large/1.7.0", "/large"] {
            from_another_client(program.address, path).await.expect("no panic").is(200);
        }
        let grown = peak(&program).saturating_sub(before);
        assert!(grown < 250_000, "{grown} kB more");
        drop(slow);
    }

    #[tokio::test]
    async fn concurrent_tarball_requests_do_not_each_load_the_package_record() {
        let (home, data) = (TempDir::new().expect("a folder"), TempDir::new().expect("a folder"));
        let registry = Registry::start(&machine_clock()).await;
        registry.publish(Package::new("many", "1.0.0"));
        registry.edit("many", |packument| {
            let (first, time) = (packument["versions"]["1.0.0"].clone(), packument["time"]["1.0.0"].clone());
            for patch in 1..20_000 {
                let (version, mut manifest) = (format!("1.0.{patch}"), first.clone());
                manifest["version"] = version.as_str().into();
                packument["versions"][&version] = manifest;
                packument["time"][&version] = time.clone();
            }
        });
        // Too little memory to cache the package.
        let program = Program::serve(home.path(), data.path(), &registry.url, &["--memory", "2MB", "--upstream-timeout", "1h"]);
        program.get("/many").gzip().await.is(200);
        let before = peak(&program);
        let pending: Vec<_> = (0..80).map(|number| program.get(&format!("/many/-/many-9.9.{number}.tgz")).start()).collect();
        for answer in pending {
            answer.await.expect("an answer").is(404);
        }
        let grown = peak(&program).saturating_sub(before);
        assert!(grown < 200_000, "{grown} kB more");
    }

    #[tokio::test]
    async fn packuments_with_false_gzip_length_are_decoded_one_at_a_time() {
        let (home, data) = (TempDir::new().expect("a folder"), TempDir::new().expect("a folder"));
        let registry = Registry::start(&machine_clock()).await;
        let program = Program::serve(home.path(), data.path(), &registry.url, &["--packument-limit", "120MB"]);
        let mut bomb = crate::package::gzip(&vec![b' '; 128 << 20]);
        // The last four bytes of a gzip stream state its decompressed length.
        let length = bomb.len();
        bomb[length - 4..].copy_from_slice(&10_u32.to_le_bytes());
        program.get("/-/coldframe/healthz").await.is(200);
        let before = peak(&program);
        let mut pending = Vec::new();
        for number in 0..8 {
            let path = format!("/bomb-{number}");
            registry.answer(&path, Reply::ok(bomb.clone()).header("content-encoding", "gzip"));
            pending.push(program.get(&path).start());
        }
        for answer in pending {
            let refused = answer.await.expect("an answer").is(502);
            assert!(refused.error().contains("larger than 120000000 bytes"), "{}", refused.error());
        }
        let grown = peak(&program).saturating_sub(before);
        assert!(grown < 250_000, "{grown} kB more");
    }

    #[tokio::test]
    async fn compressed_audit_uses_bounded_memory() {
        let (home, data) = (TempDir::new().expect("a folder"), TempDir::new().expect("a folder"));
        let registry = Registry::start(&machine_clock()).await;
        let names: Vec<_> = (0..500).map(|number| format!("left-pad-{number}")).collect();
        let feed = vulnerabilities(&names.iter().map(String::as_str).collect::<Vec<_>>());
        let feed = ["--feed", feed.path().to_str().expect("UTF-8")];
        let program = Program::serve(home.path(), data.path(), &registry.url, &feed);
        program.get("/-/coldframe/healthz").await.is(200);
        let before = peak(&program);
        let ask = |path: &str, body: String| Ask::new(program.address, "POST", path).npm("9.9.4").body(body).gzip_body();
        // The paths of all packages would be 1.6 GB in total.
        let answer = ask(QUICK, tree(40_000, 40_000)).await.is(200);
        assert!(answer.body.len() < 10 << 20, "{} bytes", answer.body.len());
        // 14 MB of nested JSON without content, twenty in parallel.
        let shape = format!(r#"{{"dependencies":{{"a":{{"version":"1.0.0","x":[{}0]}}}}}}"#, "0,".repeat(7_000_000));
        let pending: Vec<_> = (0..20).map(|_| ask(QUICK, shape.clone()).start()).collect();
        for answer in pending {
            answer.await.expect("an answer").is(200);
        }
        let grown = peak(&program).saturating_sub(before);
        assert!(grown < 200_000, "{grown} kB more");
    }
}
