//! Tarballs are opened before clients request them: of releases that are visible or open soon.

use std::time::{Duration, Instant};

use coldframe::app::standalone::decide;
use coldframe::clock::Clock as _;
use coldframe::policy::decisions::{DecisionAction, DecisionProposal, Signature};
use tempfile::TempDir;

use crate::fake_response::Reply;
use crate::harness::Scene;
use crate::package::{Package, days, hours, tarball};
use crate::process::{Program, coldframe, machine_clock};
use crate::raw_http::Response;
use crate::registry::Registry;

const VETTED: &str = "coldframe_tarballs_vetted_ahead_total";

fn manifest(version: &str, more: &str) -> String {
    format!(r#"{{"name":"demo","version":"{version}","main":"index.js"{more}}}"#)
}

/// A release whose tarball holds what its packument states.
fn honest(version: &str) -> Package {
    let files = [("package/package.json", manifest(version, "")), ("package/index.js", version.to_owned())];
    Package::new("demo", version).packed(tarball(&files.each_ref().map(|(path, text)| (*path, &**text))))
}

/// A release whose tarball has an install script that its packument does not state.
fn confused(version: &str) -> Package {
    let hidden = manifest(version, r#","scripts":{"postinstall":"node evil.js"}"#);
    Package::new("demo", version).packed(tarball(&[("package/package.json", &hidden), ("package/evil.js", "")]))
}

fn path(version: &str) -> String {
    format!("/demo/-/demo-{version}.tgz")
}

async fn install(scene: &Scene) -> Response {
    scene.get("/demo").npm("11.19.1").await
}

async fn deny(scene: &Scene, version: &str) {
    let author = Signature { who: "ada".to_owned(), at: scene.clock.now() };
    let act = DecisionAction::Deny { packages: "demo".to_owned(), range: Some(version.to_owned()) };
    let proposal = DecisionProposal { act, reason: "INC-7".to_owned(), author, expires: None, needs_second: false };
    let data = scene.data().to_owned();
    tokio::task::spawn_blocking(move || decide::record_decision(&data, &proposal)).await.unwrap().unwrap();
}

/// Waits until that many tarballs were vetted.
async fn wait_for_vetted(scene: &Scene, count: f64) {
    let deadline = Instant::now() + Duration::from_secs(20);
    while scene.metric(VETTED, "").await < count {
        assert!(Instant::now() < deadline, "{} of {count} vetted", scene.metric(VETTED, "").await);
        tokio::task::yield_now().await;
    }
}

#[tokio::test]
async fn release_with_a_finding_is_hidden_before_a_client_requests_its_tarball() {
    let scene = Scene::open().await;
    scene.publish(honest("1.0.0").aged(days(60)));
    scene.publish(confused("1.1.0").aged(days(4)));
    assert_eq!(install(&scene).await.versions(), ["1.0.0", "1.1.0"]);
    wait_for_vetted(&scene, 1.0).await;
    assert_eq!(install(&scene).await.versions(), ["1.0.0"]);
    scene.get(&path("1.1.0")).await.is(403);
    assert_eq!(scene.registry.count(&path("1.1.0")), 1);
}

#[tokio::test]
async fn release_that_opens_within_a_day_is_vetted_while_it_is_held() {
    let scene = Scene::open().await;
    scene.publish(honest("1.0.0").aged(days(60)));
    scene.publish(confused("1.1.0").aged(hours(50)));
    scene.publish(honest("1.2.0").aged(hours(10)).tagged("next"));
    assert_eq!(install(&scene).await.versions(), ["1.0.0"]);
    wait_for_vetted(&scene, 1.0).await;
    // The tarball of its predecessor too.
    assert_eq!((scene.registry.count(&path("1.1.0")), scene.registry.count(&path("1.0.0"))), (1, 1));
    assert_eq!(scene.registry.count(&path("1.2.0")), 0);
    scene.advance(hours(23));
    assert_eq!(install(&scene).await.versions(), ["1.0.0"]);
    let refused = scene.get(&path("1.1.0")).await.is(403).error();
    assert!(refused.contains("manifest-confusion"), "{refused}");
    assert_eq!(scene.registry.count(&path("1.1.0")), 1);
}

#[tokio::test]
async fn held_latest_is_vetted_at_once_and_a_denied_one_never() {
    for requests in [1_u8, 0] {
        let scene = Scene::open().await;
        scene.publish(honest("1.0.0").aged(days(60)));
        scene.publish(honest("1.0.1").aged(days(5)));
        scene.publish(honest("1.1.0").aged(hours(2)));
        if requests == 0 {
            deny(&scene, "1.1.0").await;
        }
        install(&scene).await.is(200);
        wait_for_vetted(&scene, 1.0).await;
        assert_eq!(scene.registry.count(&path("1.0.1")), 1);
        wait_for_vetted(&scene, f64::from(1 + requests)).await;
        assert_eq!(scene.registry.count(&path("1.1.0")), usize::from(requests));
    }
}

#[tokio::test]
async fn three_releases_of_a_package_are_vetted_per_day() {
    let scene = Scene::open().await;
    scene.publish(honest("1.0.0").aged(days(60)));
    for patch in 1..8 {
        scene.publish(honest(&format!("1.0.{patch}")).aged(days(12 - patch)));
    }
    install(&scene).await.is(200);
    wait_for_vetted(&scene, 3.0).await;
    let vetted = || (1..8).filter(|patch| scene.registry.count(&path(&format!("1.0.{patch}"))) > 0).collect::<Vec<_>>();
    // The newest ones, and no more when the packument is asked for again.
    assert_eq!(vetted(), [5, 6, 7]);
    scene.advance(hours(1));
    install(&scene).await.is(200);
    // Another package passes the queue after what that request queued.
    scene.publish(Package::new("other", "0.9.0").aged(days(60)));
    scene.publish(Package::new("other", "1.0.0").aged(days(5)));
    scene.get("/other").npm("11.19.1").await.is(200);
    scene.registry.wait_for_requests("/other/-/other-1.0.0.tgz", 1).await;
    assert_eq!(vetted(), [5, 6, 7]);
    scene.advance(days(1));
    install(&scene).await.is(200);
    wait_for_vetted(&scene, 7.0).await;
    assert_eq!(vetted().len(), 6);
}

#[tokio::test]
async fn nothing_is_vetted_ahead_for_other_commands_or_when_disabled() {
    for (setting, agent, command) in [
        ("8", "npm/11.19.1 node/v24.0.0 linux x64", "view"),
        ("8", "Mozilla/5.0", ""),
        ("0", "npm/11.19.1 node/v24.0.0 linux x64", "install"),
    ] {
        let scene = Scene::open().set("prefetch", setting).await;
        scene.publish(honest("0.9.0").aged(days(60)));
        scene.publish(honest("1.0.0").aged(days(5)));
        scene.get("/demo").header("user-agent", agent).header("npm-command", command).await.is(200);
        // It would have been queued by the request, and requested before the metrics of an idle server are read twice.
        for _ in 0..2 {
            assert_eq!(scene.metric(VETTED, "").await.to_string(), "0", "{agent} {command}");
        }
        assert_eq!(scene.registry.count(&path("1.0.0")), 0, "{agent} {command}");
    }
}

#[tokio::test]
async fn clients_that_request_a_tarball_while_it_is_vetted_share_the_download() {
    let scene = Scene::open().await;
    scene.publish(honest("1.0.0").aged(days(60)));
    scene.publish(honest("1.1.0").aged(days(4)));
    let gate = scene.registry.hold(&path("1.1.0"));
    install(&scene).await.is(200);
    scene.registry.wait_for_requests(&path("1.1.0"), 1).await;
    let (path, registry) = (path("1.1.0"), &scene.registry);
    let (answer, ()) = tokio::join!(std::future::IntoFuture::into_future(scene.get(&path)), async {
        registry.wait_for_requests("/demo", 1).await;
        gate.open();
    });
    answer.is(200);
    assert_eq!(scene.registry.count(&path), 1);
}

#[tokio::test]
async fn tarball_that_cannot_be_had_ahead_is_served_later() {
    let scene = Scene::open().await;
    scene.publish(honest("1.0.0").aged(days(60)));
    scene.publish(honest("1.1.0").aged(days(4)));
    scene.registry.answer(&path("1.1.0"), Reply::status(404));
    assert_eq!(install(&scene).await.versions().len(), 2);
    scene.registry.wait_for_requests(&path("1.1.0"), 1).await;
    assert_eq!(install(&scene).await.versions().len(), 2);
    scene.registry.clear_answer(&path("1.1.0"));
    scene.get(&path("1.1.0")).await.is(200);
}

#[tokio::test(flavor = "multi_thread")]
async fn tarballs_are_vetted_with_the_credentials_of_the_client_that_installs() {
    let (home, data, clock) = (TempDir::new().unwrap(), TempDir::new().unwrap(), machine_clock());
    let registry = Registry::start(&clock).await;
    registry.publish(honest("1.0.0").aged(days(60)));
    registry.publish(honest("1.1.0").aged(days(4)).readable_with("mine"));
    std::fs::write(home.path().join(".npmrc"), format!("registry={}/\n", registry.url)).unwrap();
    let mut command = coldframe(home.path());
    command.args(["serve", "--listen", "127.0.0.1:0", "--client-credentials", &registry.url, "--data-dir"]).arg(data.path());
    let program = Program::start(&mut command);
    program.get("/demo").npm("11.19.1").token("mine").await.is(200);
    registry.wait_for_requests(&path("1.1.0"), 1).await;
    assert_eq!(registry.last(&path("1.1.0")).headers.first("authorization"), Some("Bearer mine"));
    // It is in the store now, and still refused to a client that the registry refuses.
    let stranger = program.get(&path("1.1.0")).token("other").await;
    stranger.is(404);
}
