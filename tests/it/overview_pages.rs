//! Pages about all packages: what is held and opens when, what was refused, who has what, and who may see that.

use coldframe::app::standalone::decide;
use coldframe::clock::Clock as _;
use coldframe::policy::Role;
use coldframe::policy::decisions::{ApprovedVersion, DecisionAction, DecisionProposal, Signature};
use coldframe::store::ApplyStatus;

use crate::harness::Scene;
use crate::package::{Package, hours, sha512};
use crate::tokens::create;

const BROWSER: &str = "text/html,application/xhtml+xml,application/xml;q=0.9,*/*;q=0.8";
const PAGES: [&str; 8] = ["held", "refusals", "exposure", "clients", "decisions", "feeds", "policy", "health"];
const HOSTILE: &str = "<script>alert(1)</script>\u{202e}\u{200b}\"'><img src=x>";

async fn page(scene: &Scene, path: &str) -> String {
    scene.get(&format!("/-/coldframe/{path}")).accept(BROWSER).await.is(200).text()
}

/// Records a decision as `ada`, with a hostile reason, and waits until the server applies it.
async fn decide(scene: &Scene, act: DecisionAction) {
    let author = Signature { who: "ada".to_owned(), at: scene.clock.now() };
    let proposal = DecisionProposal { act, reason: HOSTILE.to_owned(), author, expires: None, needs_second: false };
    let data = scene.data().to_owned();
    let recorded = tokio::task::spawn_blocking(move || decide::record_decision(&data, &proposal)).await.unwrap().unwrap();
    assert_eq!(recorded.effect, ApplyStatus::Applied);
}

#[tokio::test(flavor = "multi_thread")]
async fn pages_about_all_packages_need_an_approver_without_a_scope() {
    let scene = Scene::open().set("require-auth", "true").await;
    let client = create(&scene, "client", Role::Client, &[], None).await;
    let requester = create(&scene, "requester", Role::Requester, &[], None).await;
    let scoped = create(&scene, "scoped", Role::Admin, &["@acme/*"], None).await;
    let approver = create(&scene, "approver", Role::Approver, &[], None).await;
    for page in PAGES {
        let ask = || scene.get(&format!("/-/coldframe/{page}")).accept(BROWSER);
        ask().await.is(401);
        for token in [&client, &requester, &scoped] {
            let refused = ask().token(token).await.is(403).text();
            assert!(refused.contains("without a scope") && !refused.contains("<table"), "{page}: {refused}");
        }
        let shown = ask().token(&approver).await.is(200);
        assert!(shown.header("content-security-policy").starts_with("default-src 'none'; style-src 'self';"), "{page}");
        assert!(shown.text().contains(&format!("href=\"./{page}\" aria-current=\"page\"")), "{page}");
        // The same address has no JSON.
        assert!(scene.get(&format!("/-/coldframe/{page}")).token(&approver).await.status >= 403, "{page}");
    }
    let home = scene.get("/-/coldframe/").accept(BROWSER).token(&client).await.is(200).text();
    assert!(home.contains("name=\"package\"") && !home.contains("refusals"), "{home}");
}

#[tokio::test(flavor = "multi_thread")]
async fn held_versions_are_listed_until_they_open_or_are_approved() {
    let scene = Scene::open().set("exclude", "@acme/*").await;
    for name in ["left-pad", "right-pad", "@acme/ui"] {
        scene.publish_old(name, &["1.0.0"]);
    }
    let young = Package::new("right-pad", "1.1.0").aged(hours(2));
    for package in
        [Package::new("left-pad", "1.1.0").aged(hours(1)), young.clone(), Package::new("@acme/ui", "1.1.0").aged(hours(1))]
    {
        scene.publish(package);
    }
    for name in ["left-pad", "right-pad", "@acme/ui"] {
        scene.get(&format!("/{name}")).await.is(200);
    }
    let held = page(&scene, "held").await;
    let place = |text: &str| held.find(text).unwrap_or_else(|| panic!("no {text}:\n{held}"));
    assert!(place("explain/right-pad@1.1.0") < place("explain/left-pad@1.1.0") && !held.contains("@acme/ui"), "{held}");
    assert!(held.contains("2026-04-06 11:00 UTC") && !held.contains("1.0.0"), "{held}");
    let found = page(&scene, "held?q=LEFT").await;
    assert!(
        found.contains("explain/left-pad@1.1.0") && !found.contains("right-pad") && found.contains("value=\"LEFT\""),
        "{found}"
    );
    for beyond in ["held?from=1000", "held?from=18446744073709551615", "held?from=x", "held?q=%25", "held?q=%00"] {
        page(&scene, beyond).await;
    }
    let approved = ApprovedVersion { version: "1.1.0".to_owned(), integrity: sha512(&young.tarball), until: None };
    let (package, asked) = ("right-pad".to_owned(), "1.1.0".to_owned());
    decide(&scene, DecisionAction::Approve { package, asked, versions: vec![approved], records: Vec::new() }).await;
    assert!(!page(&scene, "held").await.contains("right-pad"));
    scene.advance(hours(72));
    assert!(page(&scene, "held").await.contains("is held by its age"));
}

#[tokio::test(flavor = "multi_thread")]
async fn refusals_are_counted_by_rule_package_client_and_day() {
    let scene = Scene::open().await;
    scene.publish_old("left-pad", &["1.0.0"]);
    scene.publish(Package::new("left-pad", "1.1.0").aged(hours(1)));
    assert!(page(&scene, "refusals").await.contains("Nothing was refused"));
    let token = create(&scene, "ci-web", Role::Client, &[], None).await;
    for _ in 0..3 {
        scene.get("/left-pad/-/left-pad-1.1.0.tgz").token(&token).npm("10.9.0").await.is(403);
    }
    let shown = page(&scene, "refusals").await;
    for part in
        ["minimum-age", "packages/left-pad", "ci-web@127.0.0.1", "<title>2026-04-03: 3</title>", "<td class=\"number\">3</td>"]
    {
        assert!(shown.contains(part), "no {part}:\n{shown}");
    }
    scene.advance(hours(15 * 24));
    assert!(page(&scene, "refusals").await.contains("Nothing was refused"));
}

#[tokio::test(flavor = "multi_thread")]
async fn clients_and_their_requests_are_found() {
    let scene = Scene::open().await;
    scene.publish_old("left-pad", &["1.0.0", "1.0.1"]);
    let token = create(&scene, "ci-web", Role::Client, &[], None).await;
    scene.get("/left-pad/-/left-pad-1.0.0.tgz").token(&token).npm("10.9.0").await.is(200);
    scene.get("/left-pad/-/left-pad-1.0.1.tgz").npm("11.0.0").await.is(200);
    let clients = page(&scene, "clients").await;
    for part in ["ci-web@127.0.0.1", "npm 10.9.0", "npm 11.0.0", "2026-04-03 12:00 UTC", "2 clients"] {
        assert!(clients.contains(part), "no {part}:\n{clients}");
    }
    assert!(!page(&scene, "clients?q=ci-").await.contains("11.0.0"));
    let exposed = page(&scene, "exposure?q=left-pad%401.0.0").await;
    assert!(exposed.contains("ci-web@127.0.0.1") && !exposed.contains("11.0.0") && exposed.contains("served"), "{exposed}");
    assert!(page(&scene, "exposure?q=left-pad").await.contains("11.0.0"));
    assert!(page(&scene, "exposure?q=nothing").await.contains("No client requested"));
    scene.get("/-/coldframe/exposure?q=%2e%2e").accept(BROWSER).await.is(400);
}

#[tokio::test(flavor = "multi_thread")]
async fn decisions_feeds_policy_and_health_are_shown() {
    let feed = tempfile::TempDir::new().unwrap();
    let scene = Scene::open().set("feed", feed.path().to_str().unwrap()).set("feed-may-be-empty", "true").await;
    decide(&scene, DecisionAction::Deny { packages: "evil-*".to_owned(), range: None }).await;
    let decisions = page(&scene, "decisions").await;
    for part in ["1 decisions", "deny", "evil-*", "ada", "active"] {
        assert!(decisions.contains(part), "no {part}:\n{decisions}");
    }
    let policy = page(&scene, "policy").await;
    assert!(policy.contains("minimum-age") && policy.contains("hold 72 h"), "{policy}");
    assert!(page(&scene, "health").await.contains("ledger"));
    assert!(page(&scene, "feeds").await.contains("fresh"));
}

#[tokio::test(flavor = "multi_thread")]
async fn text_of_strangers_is_inert_in_pages_about_all_packages() {
    let scene = Scene::open().await;
    scene.publish_old("left-pad", &["1.0.0"]);
    let agent = "npm/<script>alert(1)</script> node/v22 linux x64";
    scene.get("/left-pad/-/left-pad-1.0.0.tgz").header("user-agent", agent).await.is(200);
    decide(&scene, DecisionAction::Deny { packages: "left-pad".to_owned(), range: Some("9.9.9".to_owned()) }).await;
    let encoded: String = url::form_urlencoded::byte_serialize(HOSTILE.as_bytes()).collect();
    for path in
        PAGES.iter().flat_map(|page| [(*page).to_owned(), format!("{page}?q={encoded}"), format!("{page}?from={encoded}")])
    {
        let shown = scene.get(&format!("/-/coldframe/{path}")).accept(BROWSER).await.text();
        for part in ["<script", "<img", "\u{202e}", "\u{200b}"] {
            assert!(!shown.contains(part), "{path} has {part:?}:\n{shown}");
        }
    }
    assert!(page(&scene, "decisions").await.contains("&#60;script&#62;alert(1)"));
}
