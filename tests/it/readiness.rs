//! Readiness, restarts of background tasks, and the summary that a server logs when it stops.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use coldframe::app::App;
use coldframe::clock::{Clock, ManualClock};
use coldframe::config::Config;
use jiff::Timestamp;
use tempfile::TempDir;
use tokio::sync::oneshot;

use crate::client::Ask;
use crate::fake_response::Reply;
use crate::harness::{NOON, Scene};
use crate::package::Package;
use crate::process::{Program, machine_clock};
use crate::registry::Registry;

/// Limit for every wait in this file, far longer than any should take.
const TIMEOUT: Duration = Duration::from_secs(30);

/// Repeats a request until `is_done` accepts the response. Panics with `what` after `TIMEOUT`.
async fn until(ask: impl Fn() -> Ask, what: &str, is_done: impl Fn(&crate::raw_http::Response) -> bool) {
    let deadline = Instant::now() + TIMEOUT;
    loop {
        let answer = ask().await;
        if is_done(&answer) {
            return;
        }
        assert!(Instant::now() < deadline, "{what}: {} {}", answer.status, answer.text());
        tokio::task::yield_now().await;
    }
}

#[tokio::test]
async fn slow_feed_delays_neither_startup_nor_other_feeds() {
    let (feeds, home) = (Registry::start(&machine_clock()).await, TempDir::new().unwrap());
    let list = home.path().join("list.txt");
    std::fs::write(&list, "other@1.0.0\n").unwrap();
    feeds.answer("/slow.txt", Reply::ok("left-pad@1.1.0\n"));
    let gate = feeds.hold_body("/slow.txt", 3);
    let scene = Scene::open().set("feed", &format!("{}/slow.txt", feeds.url)).set("feed", list.to_str().unwrap()).await;
    scene.publish_old("left-pad", &["1.0.0", "1.1.0"]);
    feeds.wait_for_requests("/slow.txt", 1).await;
    scene.get("/-/coldframe/healthz").await.is(200);
    let page = scene.get("/-/coldframe/readyz").await.is(503);
    assert_eq!(page.json()["ready"], false);
    assert!(page.text().contains("`slow` was never read, so everything is refused"), "{}", page.text());
    for path in ["/left-pad", "/left-pad/-/left-pad-1.0.0.tgz"] {
        let refused = scene.get(path).await.is(403);
        let error = refused.error();
        assert!(error.starts_with("coldframe refuses all packages: the feed `slow`"), "{error}");
        assert!(error.contains("feed-missing") && !error.contains("none will open"), "{error}");
    }
    // The other list is loaded, and so are its changes.
    assert!((scene.metric("coldframe_advisories", "").await - 1.0).abs() < f64::EPSILON);
    std::fs::write(&list, "other@1.0.0\nleft-pad@1.0.0\n").unwrap();
    let numbers = || scene.get("/-/coldframe/metrics");
    until(numbers, "list not reloaded", |page| page.text().contains("\ncoldframe_advisories 2\n")).await;
    gate.open();
    until(|| scene.get("/-/coldframe/readyz"), "server not ready", |page| page.status == 200).await;
    let refused = scene.get("/left-pad").await.is(403);
    assert!(refused.error().contains("rule advisory"), "{}", refused.error());
}

#[tokio::test]
async fn feed_without_records_is_not_ready_and_names_the_setting() {
    let (home, empty) = (TempDir::new().unwrap(), TempDir::new().unwrap());
    let feed = empty.path().to_str().unwrap();
    let mut scene = Scene::open().set("feed", feed).await;
    scene.publish_old("ms", &["1.0.0"]);
    let page = scene.get("/-/coldframe/readyz").await.is(503);
    for part in ["the feed has no record of an npm package", "feed-may-be-empty"] {
        assert!(page.text().contains(part), "{part:?} is missing: {}", page.text());
    }
    assert!(scene.get("/ms").await.is(403).error().starts_with("coldframe refuses all packages: the feed `"));
    // One record makes it ready.
    std::fs::write(empty.path().join("list.json"), r#"[{"package_name":"other","version":"1.0.0"}]"#).unwrap();
    let record = r#"{"id":"MAL-1","modified":"2026-01-01T00:00:00Z","affected":[{"package":{"ecosystem":"npm","name":"other"},"versions":["1.0.0"]}]}"#;
    std::fs::write(empty.path().join("MAL-1.json"), record).unwrap();
    until(|| scene.get("/-/coldframe/readyz"), "server not ready", |page| page.status == 200).await;
    scene.get("/ms").await.is(200);
    // `feed-may-be-empty` permits an empty feed.
    let other = TempDir::new().unwrap();
    scene.restart_with("feed", other.path().to_str().unwrap()).await;
    scene.get("/ms").await.is(403);
    scene.restart_with("feed-may-be-empty", "true").await;
    scene.get("/-/coldframe/readyz").await.is(200);
    scene.get("/ms").await.is(200);
    // The startup output gives the reason.
    let (registry, data, nothing) = (Registry::start(&machine_clock()).await, TempDir::new().unwrap(), TempDir::new().unwrap());
    let program = Program::serve(home.path(), data.path(), &registry.url, &["--feed", nothing.path().to_str().unwrap()]);
    let greeting = program.greeting.clone();
    assert!(greeting.contains("not ready") && greeting.contains("feed-may-be-empty"), "{greeting}");
    program.signal("-TERM");
    let (_, errors) = program.wait_for_exit().await;
    assert!(errors.contains("ERROR") && errors.contains("feed has never been read"), "{errors}");
}

/// A clock that panics once after its flag is set.
#[derive(Debug)]
struct PanickingClock(ManualClock, AtomicBool);

impl Clock for PanickingClock {
    fn now(&self) -> Timestamp {
        assert!(!self.1.swap(false, Ordering::SeqCst), "the clock broke");
        self.0.now()
    }
}

#[tokio::test]
async fn panicking_background_task_is_restarted_counted_and_reported() {
    let (data, home, registry) = (TempDir::new().unwrap(), TempDir::new().unwrap(), Registry::start(&machine_clock()).await);
    let list = home.path().join("list.txt");
    std::fs::write(&list, "other@1.0.0\n").unwrap();
    let settings = [
        ("listen", "127.0.0.1:0"),
        ("upstream", registry.url.as_str()),
        ("data-dir", data.path().to_str().unwrap()),
        ("feed", list.to_str().unwrap()),
    ];
    let clock = Arc::new(PanickingClock(ManualClock::at(NOON.parse().unwrap()), AtomicBool::new(false)));
    let app = App::build(Config::from_pairs(&settings).unwrap(), Arc::clone(&clock) as Arc<dyn Clock>).await.unwrap();
    let address = app.addresses()[0];
    let (stop, stopped) = oneshot::channel::<()>();
    let running = tokio::spawn(app.run(async move { drop(stopped.await) }));
    registry.publish(Package::new("left-pad", "1.0.0"));
    let get = |path: &str| Ask::new(address, "GET", path);
    get("/-/coldframe/readyz").await.is(200);
    // From here on only background tasks read the clock.
    clock.1.store(true, Ordering::SeqCst);
    let deadline = Instant::now() + TIMEOUT;
    while clock.1.load(Ordering::SeqCst) {
        assert!(Instant::now() < deadline, "no task read the clock");
        tokio::task::yield_now().await;
    }
    until(
        || get("/-/coldframe/readyz"),
        "server not ready again",
        |page| page.status == 200 && page.text().contains("was restarted"),
    )
    .await;
    let page = get("/-/coldframe/readyz").await.is(200).text();
    assert!(page.contains("was restarted: 1 failures") && page.contains("the clock broke"), "{page}");
    let numbers = get("/-/coldframe/metrics").await.is(200).text();
    let failures = numbers.lines().filter(|line| line.starts_with("coldframe_task_failures_total{") && line.ends_with(" 1"));
    assert_eq!(failures.count(), 1, "{numbers}");
    // The restarted task works again.
    std::fs::write(&list, "other@1.0.0\nleft-pad@1.0.0\n").unwrap();
    until(|| get("/left-pad"), "list not reloaded", |page| page.status == 403).await;
    drop(stop);
    running.await.unwrap().unwrap();
}

#[tokio::test]
async fn summary_is_logged_once_and_only_if_something_was_served() {
    let (home, registry) = (TempDir::new().unwrap(), Registry::start(&machine_clock()).await);
    registry.publish(Package::new("left-pad", "1.0.0"));
    registry.publish(Package::new("young", "1.0.0").aged(Duration::from_secs(60)));
    for (used, lines) in [(true, 1), (false, 0)] {
        let data = TempDir::new().unwrap();
        let program = Program::serve(home.path(), data.path(), &registry.url, &[]);
        program.get("/-/coldframe/healthz").await.is(200);
        if used {
            program.get("/left-pad").await.is(200);
            program.get("/left-pad/-/left-pad-1.0.0.tgz").await.is(200);
            program.get("/young").await.is(403);
        }
        program.signal("-TERM");
        let (code, errors) = program.wait_for_exit().await;
        let summaries: Vec<_> = errors.lines().filter(|line| line.contains("tarballs.served=1")).collect();
        assert!(code == 0 && summaries.len() == lines, "{used}: {errors}");
        for part in ["INFO", "requests.total=3", "requests.refused=1", "response.bytes="] {
            assert!(summaries.iter().all(|line| line.contains(part)), "{part:?} is missing: {summaries:?}");
        }
    }
}
