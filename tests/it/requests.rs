//! Requests for approvals over HTTP: who may ask, who may decide, on which bytes, and how a request ends.

use std::time::{Duration, Instant};

use coldframe::policy::{Principal, Role};
use serde_json::{Value, json};

use crate::client::Ask;
use crate::harness::Scene;
use crate::package::{Package, days, hours};
use crate::process::{coldframe, machine_clock, run};
use crate::registry::Registry;
use crate::tokens::{create_for, revoke};

const PAGE: &str = "/-/coldframe/requests";

/// The tokens of the people in these tests. Ada and Bob ask, Grace and Alan decide.
struct People {
    ada: String,
    ada_as_approver: String,
    bob: String,
    grace: String,
    alan: String,
    machine: String,
}

fn person(name: &str) -> Principal {
    Principal::Person(name.into())
}

async fn people(scene: &Scene) -> People {
    let token = async |label: &str, owner: Principal, role: Role| create_for(scene, (label, owner), role, &[], None).await;
    People {
        ada: token("ada-laptop", person("ada"), Role::Requester).await,
        ada_as_approver: token("ada-desk", person("Ada"), Role::Admin).await,
        bob: token("bob", person("bob"), Role::Requester).await,
        grace: token("grace", person("grace"), Role::Approver).await,
        alan: token("alan", person("alan"), Role::Approver).await,
        machine: token("bot", Principal::Machine("grace".into()), Role::Admin).await,
    }
}

/// A scene with a held version of axios.
async fn scene() -> (Scene, People) {
    let scene = Scene::open().await;
    scene.publish_old("axios", &["1.14.0"]);
    scene.publish(Package::new("axios", "1.14.1").aged(hours(1)));
    let people = people(&scene).await;
    (scene, people)
}

fn ask_for(scene: &Scene, token: &str, spec: &str) -> Ask {
    scene
        .ask("POST", PAGE)
        .token(token)
        .json(&json!({ "spec": spec, "reason": "the fix, INC-7", "project": "acme/web", "for": "30d" }))
}

/// Asks for the held version, and returns the number of the request.
async fn asked(scene: &Scene, token: &str) -> i64 {
    ask_for(scene, token, "axios@1.14.1").await.is(201).json()["request"]["id"].as_i64().unwrap()
}

async fn shown(scene: &Scene, token: &str, id: i64) -> Value {
    scene.get(&format!("{PAGE}/{id}")).token(token).await.is(200).json()
}

fn act(scene: &Scene, token: &str, id: i64, action: &str, body: &Value) -> Ask {
    scene.ask("POST", &format!("{PAGE}/{id}/{action}")).token(token).json(body)
}

/// Approves what a request shows to the approver.
async fn approve(scene: &Scene, token: &str, id: i64) -> Ask {
    let shown = shown(scene, token, id).await;
    let body = json!({ "reason": "looks fine", "digests": shown["current"]["digests"], "records": shown["current"]["records"] });
    act(scene, token, id, "approve", &body)
}

async fn state(scene: &Scene, token: &str, id: i64) -> String {
    shown(scene, token, id).await["request"]["state"].as_str().unwrap().to_owned()
}

#[tokio::test(flavor = "multi_thread")]
async fn approved_request_opens_the_version_until_its_date() {
    let (scene, people) = scene().await;
    scene.get("/axios/1.14.1").await.is(403);
    let id = asked(&scene, &people.ada).await;
    let shown = shown(&scene, &people.grace, id).await;
    let (request, current) = (&shown["request"], &shown["current"]);
    assert_eq!((&request["state"], &request["askers"][0]["by"]["person"]), (&json!("open"), &json!("ada")));
    assert_eq!((&request["askers"][0]["project"], &request["digests"]), (&json!("acme/web"), &current["digests"]));
    assert_eq!((&current["needsSecond"], &shown["explanation"]["rule"]), (&json!(false), &json!("minimum-age")));
    let answer = approve(&scene, &people.grace, id).await.await.is(200).json();
    assert_eq!((&answer["outcome"], &answer["applied"]), (&json!("approved"), &json!(true)));
    scene.get("/axios/1.14.1").await.is(200);
    let steps = answer["request"]["steps"].as_array().unwrap().clone();
    let step = |at: usize| (steps[at]["step"].clone(), steps[at]["by"]["person"].clone(), steps[at]["by"]["method"].clone());
    assert_eq!((step(0).0, step(1).0, step(1).1), (json!("asked"), json!("approved"), json!("grace")));
    assert!(step(1).2.as_str().unwrap().starts_with("token "), "{steps:?}");
    assert!(scene.metric("coldframe_approval_requests_total", "approved").await >= 1.0);
    assert!(scene.metric("coldframe_approval_requests_open", "").await < 1.0);
}

#[tokio::test(flavor = "multi_thread")]
async fn who_asked_cannot_approve_with_any_token() {
    let (scene, people) = scene().await;
    let id = asked(&scene, &people.ada).await;
    let refused = approve(&scene, &people.ada_as_approver, id).await.await.is(403);
    assert!(refused.error().contains("another person must"), "{refused:?}");
    // Who joins and withdraws asked too.
    ask_for(&scene, &people.alan, "axios@1.14.1").await.is(200);
    act(&scene, &people.alan, id, "withdraw", &json!({})).await.is(200);
    approve(&scene, &people.alan, id).await.await.is(403);
    scene.get("/axios/1.14.1").await.is(403);
    approve(&scene, &people.grace, id).await.await.is(200);
}

#[tokio::test(flavor = "multi_thread")]
async fn machines_ask_and_never_decide() {
    let (scene, people) = scene().await;
    let id = asked(&scene, &people.machine).await;
    let refused = approve(&scene, &people.machine, id).await.await.is(403);
    assert!(refused.error().contains("a token of a machine cannot decide"), "{refused:?}");
    act(&scene, &people.machine, id, "decline", &json!({ "reason": "no" })).await.is(403);
    approve(&scene, &people.grace, id).await.await.is(403).error().contains("another person must");
    approve(&scene, &people.alan, id).await.await.is(200);
}

#[tokio::test(flavor = "multi_thread")]
async fn roles_and_identities_are_required() {
    let (scene, people) = scene().await;
    let client = create_for(&scene, ("ci", person("ci")), Role::Client, &[], None).await;
    let body = json!({ "spec": "axios@1.14.1", "reason": "x" });
    scene.ask("POST", PAGE).token(&client).json(&body).await.is(403);
    scene.get(PAGE).token(&client).await.is(403);
    let id = asked(&scene, &people.ada).await;
    let refused = act(&scene, &people.bob, id, "approve", &json!({})).await.is(403);
    assert!(refused.error().contains("needs an access token with the role `approver`"), "{refused:?}");
    act(&scene, &people.bob, id, "decline", &json!({ "reason": "no" })).await.is(403);
    act(&scene, &people.bob, id, "withdraw", &json!({})).await.is(403);
    // Without a token, this machine reads requests and changes none.
    scene.get(PAGE).await.is(200);
    let refused = scene.ask("POST", PAGE).json(&body).await.is(403);
    assert!(refused.error().contains("names who asks"), "{refused:?}");
    for action in ["approve", "decline", "withdraw"] {
        scene.ask("POST", &format!("{PAGE}/{id}/{action}")).json(&json!({ "reason": "x", "digests": "x" })).await.is(403);
    }
    assert_eq!(state(&scene, &people.ada, id).await, "open");
}

#[tokio::test(flavor = "multi_thread")]
async fn revoked_approver_decides_nothing() {
    let (scene, people) = scene().await;
    let id = asked(&scene, &people.ada).await;
    let approval = approve(&scene, &people.grace, id).await;
    revoke(&scene, "grace").await;
    approval.await.is(401);
    assert_eq!(state(&scene, &people.alan, id).await, "open");
}

#[tokio::test(flavor = "multi_thread")]
async fn approval_of_other_bytes_than_shown_is_refused() {
    let (scene, people) = scene().await;
    let id = asked(&scene, &people.ada).await;
    let before = approve(&scene, &people.grace, id).await;
    for digests in [json!(null), json!(""), json!("sha512-AAAA")] {
        let refused = act(&scene, &people.grace, id, "approve", &json!({ "reason": "fine", "digests": digests })).await;
        assert!(matches!(refused.status, 400 | 409), "{refused:?}");
    }
    scene.publish(Package::new("axios", "1.14.1").aged(hours(1)).content("swapped"));
    scene.advance(hours(1));
    before.await.is(409);
    assert_eq!(state(&scene, &people.grace, id).await, "bytes changed");
    scene.get("/axios/1.14.1").await.is(403);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_needs_two_people_waits_for_the_second_one() {
    let (scene, people) = scene().await;
    scene.get("/axios").await.is(200);
    scene.publish(Package::new("axios", "1.14.0").content("swapped").aged(days(100)));
    scene.advance(hours(1));
    scene.get("/axios/1.14.0").await.is(403);
    let id = ask_for(&scene, &people.ada, "axios@1.14.0").await.is(201).json()["request"]["id"].as_i64().unwrap();
    let shown = shown(&scene, &people.grace, id).await;
    assert_eq!(shown["current"]["records"], json!(["integrity-changed"]));
    let unnamed = json!({ "reason": "fine", "digests": shown["current"]["digests"] });
    let refused = act(&scene, &people.grace, id, "approve", &unnamed).await.is(409);
    assert!(refused.error().contains("integrity-changed"), "{refused:?}");
    let answer = approve(&scene, &people.grace, id).await.await.is(200).json();
    assert_eq!(answer["outcome"], "awaits a second person");
    scene.get("/axios/1.14.0").await.is(403);
    approve(&scene, &people.grace, id).await.await.is(403);
    approve(&scene, &people.ada_as_approver, id).await.await.is(403);
    let answer = approve(&scene, &people.alan, id).await.await.is(200).json();
    assert_eq!(answer["outcome"], "approved");
    scene.get("/axios/1.14.0").await.is(200);
}

#[tokio::test(flavor = "multi_thread")]
async fn of_two_approvals_at_once_one_wins() {
    let (scene, people) = scene().await;
    let id = asked(&scene, &people.ada).await;
    // Both see the open request before one decides.
    let (first, second) = (approve(&scene, &people.grace, id).await, approve(&scene, &people.alan, id).await);
    let (first, second) = (first.start(), second.start());
    let mut statuses = [first.await.unwrap().status, second.await.unwrap().status];
    statuses.sort_unstable();
    assert_eq!(statuses, [200, 409]);
    let shown = shown(&scene, &people.grace, id).await;
    let approvals = shown["request"]["steps"].as_array().unwrap().iter().filter(|step| step["step"] == "approved").count();
    assert_eq!(approvals, 1, "{shown}");
}

#[tokio::test(flavor = "multi_thread")]
async fn declined_version_can_be_asked_for_again_after_a_week() {
    let scene = Scene::open().set("min-release-age", "30d").await;
    scene.publish(Package::new("axios", "1.14.1").aged(hours(1)));
    let people = people(&scene).await;
    let id = asked(&scene, &people.ada).await;
    act(&scene, &people.grace, id, "decline", &json!({ "reason": "" })).await.is(400);
    act(&scene, &people.grace, id, "decline", &json!({ "reason": "wait for 1.14.2" })).await.is(200);
    for token in [&people.ada, &people.bob] {
        let refused = ask_for(&scene, token, "axios@1.14.1").await.is(409);
        assert!(refused.error().contains("was declined") && refused.error().contains("wait for 1.14.2"), "{refused:?}");
    }
    approve(&scene, &people.alan, id).await.await.is(400);
    scene.advance(days(7) + Duration::from_secs(1));
    let again = asked(&scene, &people.bob).await;
    assert!(again > id);
    ask_for(&scene, &people.ada, "axios@1.14.1").await.is(200);
}

#[tokio::test(flavor = "multi_thread")]
async fn one_request_is_shared_and_ends_when_the_last_one_withdraws() {
    let (scene, people) = scene().await;
    let id = asked(&scene, &people.ada).await;
    assert_eq!(ask_for(&scene, &people.ada_as_approver, "axios@1.14.1").await.is(200).json()["outcome"], "repeated");
    let joined = ask_for(&scene, &people.bob, "axios@1.14.1").await.is(200).json();
    assert_eq!((&joined["outcome"], &joined["request"]["id"]), (&json!("joined"), &json!(id)));
    assert_eq!(scene.get(PAGE).token(&people.grace).await.is(200).json()["requests"].as_array().unwrap().len(), 1);
    act(&scene, &people.ada, id, "withdraw", &json!({})).await.is(200);
    act(&scene, &people.ada, id, "withdraw", &json!({})).await.is(403);
    assert_eq!(state(&scene, &people.bob, id).await, "open");
    act(&scene, &people.bob, id, "withdraw", &json!({})).await.is(200);
    assert_eq!(state(&scene, &people.bob, id).await, "withdrawn");
    approve(&scene, &people.grace, id).await.await.is(400);
    assert_eq!(scene.get(PAGE).token(&people.grace).await.is(200).json()["requests"], json!([]));
    let all = scene.get(&format!("{PAGE}?state=all&package=axios")).token(&people.grace).await.is(200).json();
    assert_eq!(all["requests"][0]["state"], "withdrawn");
    scene.get(&format!("{PAGE}?state=lost")).token(&people.grace).await.is(400);
}

#[tokio::test(flavor = "multi_thread")]
async fn twenty_open_requests_per_person_are_the_limit() {
    let scene = Scene::open().await;
    for number in 0..21 {
        scene.publish(Package::new("axios", &format!("1.0.{number}")).aged(hours(1)));
    }
    let people = people(&scene).await;
    for number in 0..20 {
        ask_for(&scene, &people.ada, &format!("axios@1.0.{number}")).await.is(201);
    }
    ask_for(&scene, &people.ada_as_approver, "axios@1.0.20").await.is(429);
    ask_for(&scene, &people.bob, "axios@1.0.20").await.is(201);
}

#[tokio::test(flavor = "multi_thread")]
async fn only_what_can_be_approved_is_asked_for() {
    let scene = Scene::open().await;
    scene.publish_old("axios", &["1.14.0", "1.14.1"]);
    scene.publish(Package::new("axios", "1.15.0").aged(hours(1)));
    scene.registry.absent("missing");
    let people = people(&scene).await;
    for (spec, status, text) in [
        ("axios@1.14.0", 409, "is allowed"),
        ("axios@9.9.9", 404, "no version axios@9.9.9"),
        ("missing@1.0.0", 404, ""),
        ("axios", 400, "name an exact version"),
        ("axios@latest", 400, "name an exact version"),
        ("axios@^1", 400, "name an exact version"),
        ("axios@v1.15.0", 404, ""),
        ("../axios@1.0.0", 400, ""),
        ("", 400, ""),
    ] {
        let refused = ask_for(&scene, &people.ada, spec).await.is(status);
        assert!(refused.error().contains(text), "{spec}: {refused:?}");
    }
    scene.registry.unpublish("axios", "1.15.0");
    scene.advance(hours(1));
    ask_for(&scene, &people.ada, "axios@1.15.0").await.is(404);
    assert_eq!(scene.get(&format!("{PAGE}?state=all")).await.json()["requests"], json!([]));
}

#[tokio::test(flavor = "multi_thread")]
async fn texts_of_people_are_bounded_and_visible() {
    let (scene, people) = scene().await;
    let post = |body: Value| scene.ask("POST", PAGE).token(&people.ada).json(&body);
    let with = |reason: &str, project: &str| json!({ "spec": "axios@1.14.1", "reason": reason, "project": project });
    let long = "x".repeat(501);
    for (reason, project) in [
        ("", "web"),
        (" ", "web"),
        ("a\nb", "web"),
        ("a\u{202e}b", "web"),
        ("a\u{1b}[2J", "web"),
        ("a\u{200b}b", "web"),
        (&*long, "web"),
        ("fine", "acme/web\nforged: line"),
        ("fine", "acme/web\u{2066}"),
    ] {
        post(with(reason, project)).await.is(400);
    }
    post(json!({ "spec": "axios@1.14.1", "reason": "x".repeat(64 << 10) })).await.is(413);
    post(json!({ "spec": "axios@1.14.1", "reason": "fine", "for": "400d" })).await.is(400);
    post(json!({ "spec": "axios@1.14.1", "reason": "fine", "person": "grace" })).await.is(400);
    let id = asked(&scene, &people.ada).await;
    for body in [json!({ "reason": "a\u{202e}b" }), json!({ "reason": "x".repeat(251) }), json!({ "reason": 7 })] {
        act(&scene, &people.grace, id, "decline", &body).await.is(400);
    }
    assert_eq!(state(&scene, &people.ada, id).await, "open");
}

#[tokio::test(flavor = "multi_thread")]
async fn token_with_a_scope_asks_sees_and_decides_only_within_it() {
    let scene = Scene::open().await;
    for name in ["@acme/ui", "@acme-evil/ui", "axios"] {
        scene.publish(Package::new(name, "1.14.1").aged(hours(1)));
    }
    scene.registry.absent("acme");
    let people = people(&scene).await;
    let asks = create_for(&scene, ("web", person("eve")), Role::Requester, &["@acme/*"], None).await;
    let decides = create_for(&scene, ("lead", person("linus")), Role::Approver, &["@acme/*"], None).await;
    ask_for(&scene, &asks, "@acme/ui@1.14.1").await.is(201);
    for spec in ["axios@1.14.1", "@acme-evil/ui@1.14.1", "@ACME/ui@1.14.1", "@acme%2fui@1.14.1", "@acme/../axios@1.14.1"] {
        let refused = ask_for(&scene, &asks, spec).await;
        assert!(matches!(refused.status, 400 | 403), "{spec}: {refused:?}");
    }
    let id = asked(&scene, &people.ada).await;
    let approval = approve(&scene, &people.grace, id).await;
    for token in [&asks, &decides] {
        scene.get(&format!("{PAGE}/{id}")).token(token).await.is(404);
        let listed = scene.get(&format!("{PAGE}?state=all")).token(token).await.is(200).json();
        let names: Vec<_> = listed["requests"].as_array().unwrap().iter().map(|request| request["package"].clone()).collect();
        assert_eq!(names, [json!("@acme/ui")]);
    }
    approval.token(&decides).await.is(404);
    act(&scene, &decides, id, "decline", &json!({ "reason": "no" })).await.is(404);
    assert_eq!(state(&scene, &people.ada, id).await, "open");
}

#[tokio::test(flavor = "multi_thread")]
async fn request_ends_when_its_version_opens_or_leaves_or_is_denied() {
    let mut scene = Scene::open().await;
    scene.publish_old("axios", &["0.1.0"]);
    for version in ["1.0.0", "2.0.0", "3.0.0"] {
        scene.publish(Package::new("axios", version).aged(hours(1)));
    }
    let people = people(&scene).await;
    let mut ids = Vec::new();
    for version in ["1.0.0", "2.0.0"] {
        let asked = ask_for(&scene, &people.ada, &format!("axios@{version}")).await.is(201).json();
        ids.push(asked["request"]["id"].as_i64().unwrap());
    }
    scene.restart().await;
    assert_eq!(state(&scene, &people.ada, ids[0]).await, "open", "a restart keeps it");
    scene.registry.unpublish("axios", "2.0.0");
    scene.advance(hours(2));
    // The background task ends it without any request for it.
    ended(&scene, &people, ids[1], "unpublished").await;
    scene.advance(days(3));
    ended(&scene, &people, ids[0], "opened").await;
    approve(&scene, &people.grace, ids[0]).await.await.is(400);
    scene.get("/axios/1.0.0").await.is(200);
}

/// Waits until a request is listed with a state.
async fn ended(scene: &Scene, people: &People, id: i64, state: &str) {
    let deadline = Instant::now() + Duration::from_secs(20);
    loop {
        let listed = scene.get(&format!("{PAGE}?state={state}")).token(&people.grace).await.is(200).json();
        if listed["requests"].as_array().unwrap().iter().any(|request| request["id"] == id) {
            return;
        }
        assert!(Instant::now() < deadline, "request {id} is not {state}");
        tokio::task::yield_now().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn pages_answer_only_the_methods_and_paths_that_exist() {
    let (scene, people) = scene().await;
    let id = asked(&scene, &people.ada).await;
    for (method, path, status) in [
        ("PUT", PAGE.to_owned(), 405),
        ("DELETE", format!("{PAGE}/{id}"), 405),
        ("GET", format!("{PAGE}/{id}/approve"), 405),
        ("GET", format!("{PAGE}/{id}/nothing"), 404),
        ("GET", format!("{PAGE}/999"), 404),
        ("GET", format!("{PAGE}/x"), 404),
        ("GET", format!("{PAGE}/{id}/approve/more"), 404),
        ("GET", "/-/coldframe/requestsx".to_owned(), 404),
    ] {
        scene.ask(method, &path).token(&people.ada_as_approver).await.is(status);
    }
    // A page of another site cannot use a browser on this machine.
    let forged = ask_for(&scene, &people.bob, "axios@1.14.1").header("origin", "https://evil.example");
    forged.await.is(403);
}

#[tokio::test(flavor = "multi_thread")]
async fn approver_sees_what_the_manifest_changed_and_who_uses_the_package() {
    let scene = Scene::open().await;
    scene.publish(Package::new("axios", "1.14.0").depends_on("left-pad", "^1.0.0"));
    scene.publish(
        Package::new("axios", "1.14.1")
            .aged(hours(1))
            .depends_on("left-pad", "^1.0.0")
            .depends_on("plain-crypto-js", "^4.2.1")
            .script("postinstall", "node setup.js"),
    );
    scene.publish_old("left-pad", &["1.0.0"]);
    scene.publish_old("plain-crypto-js", &["4.2.1"]);
    let people = people(&scene).await;
    scene.get("/axios/-/axios-1.14.0.tgz").token(&people.bob).await.is(200);
    let id = asked(&scene, &people.ada).await;
    let details = shown(&scene, &people.grace, id).await;
    let changes = details["changes"]["changes"].as_array().unwrap().clone();
    assert_eq!(details["changes"]["with"], "1.14.0");
    let script = json!({ "member": "scripts", "name": "postinstall", "old": null, "new": "node setup.js" });
    let dependency = json!({ "member": "dependencies", "name": "plain-crypto-js", "old": null, "new": "^4.2.1" });
    assert!(changes.contains(&script) && changes.contains(&dependency), "{changes:?}");
    assert!(details["explanation"]["facts"]["signals"].to_string().contains("first-install-script"), "{details}");
    let users = details["usedBy"]["clients"].as_array().unwrap();
    assert_eq!((users[0]["client"].clone(), users[0]["version"].clone()), (json!("bob@127.0.0.1"), json!("1.14.0")));
    assert_eq!(shown(&scene, &people.bob, id).await["usedBy"], json!(null), "others do not see who installs what");
}

/// A scene with a policy file, and a held version of axios and of `@acme/ui`.
async fn with_policy(text: &str) -> (Scene, People, tempfile::TempDir) {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("policy.toml");
    std::fs::write(&path, format!("include = \"default\"\n{text}")).unwrap();
    let scene = Scene::open().set("policy", path.to_str().unwrap()).await;
    for name in ["axios", "@acme/ui"] {
        scene.publish_old(name, &["1.0.0"]);
        scene.publish(Package::new(name, "1.14.1").aged(hours(1)));
    }
    scene.registry.absent("acme");
    let people = people(&scene).await;
    (scene, people, folder)
}

#[tokio::test(flavor = "multi_thread")]
async fn owners_are_named_and_must_approve_where_the_policy_says_so() {
    let text = "[[owner]]\nscopes = [\"@acme\"]\npeople = [\"Alan\", \"ada\"]\nmust-approve = true\n\
                [[owner]]\npackages = [\"axios\"]\npeople = [\"alan\"]\n";
    let (scene, people, _folder) = with_policy(text).await;
    let id = ask_for(&scene, &people.ada, "@acme/ui@1.14.1").await.is(201).json()["request"]["id"].as_i64().unwrap();
    let owners = json!([{ "people": ["Alan", "ada"], "mustApprove": true }]);
    assert_eq!(shown(&scene, &people.bob, id).await["owners"], owners);
    let refused = approve(&scene, &people.grace, id).await.await.is(403);
    assert!(refused.error().contains("one of its owners: Alan, ada"), "{refused:?}");
    approve(&scene, &people.ada_as_approver, id).await.await.is(403);
    approve(&scene, &people.alan, id).await.await.is(200);
    let id = asked(&scene, &people.ada).await;
    approve(&scene, &people.grace, id).await.await.is(200);
}

#[tokio::test(flavor = "multi_thread")]
async fn rule_can_forbid_requests() {
    let text = "[[rule]]\nid = \"no-axios\"\nhold = \"30d\"\npackages = [\"axios\"]\nreason = \"wait for the team\"\nrequest = \"forbidden\"\n";
    let (scene, people, _folder) = with_policy(text).await;
    let refused = ask_for(&scene, &people.ada, "axios@1.14.1").await.is(403);
    assert!(refused.error().contains("rule no-axios forbids it: wait for the team"), "{refused:?}");
    ask_for(&scene, &people.ada, "@acme/ui@1.14.1").await.is(201);
}

#[tokio::test(flavor = "multi_thread")]
async fn malware_cannot_be_asked_for() {
    let feed = tempfile::tempdir().unwrap();
    let record = json!({
        "id": "MAL-2026-1",
        "modified": "2026-03-31T00:00:00Z",
        "affected": [{ "package": { "ecosystem": "npm", "name": "axios" }, "versions": ["1.14.1"] }],
    });
    std::fs::write(feed.path().join("record.json"), record.to_string()).unwrap();
    let scene = Scene::open().set("feed", feed.path().to_str().unwrap()).await;
    scene.publish_old("axios", &["1.14.0"]);
    scene.publish(Package::new("axios", "1.14.1").aged(hours(1)));
    let people = people(&scene).await;
    let refused = ask_for(&scene, &people.ada, "axios@1.14.1").await.is(403);
    assert!(refused.error().contains("MAL-2026-1 lists it as malware"), "{refused:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn commands_ask_and_decide_with_a_token() {
    let (scene, people) = scene().await;
    let home = tempfile::TempDir::new().unwrap();
    let token = |name: &str, text: &str| {
        let path = home.path().join(name);
        std::fs::write(&path, format!("{text}\n")).unwrap();
        path.to_str().unwrap().to_owned()
    };
    let (ada, grace) = (token("ada", &people.ada), token("grace", &people.grace));
    let url = scene.coldframe.url();
    let request = async |words: &[&str]| {
        let mut command = coldframe(home.path());
        command.arg("request").args(words);
        tokio::task::spawn_blocking(move || run(&mut command)).await.unwrap()
    };
    let (code, text, errors) =
        request(&["axios@1.14.1", "--reason", "the fix", "--for", "30d", "--server", &url, "--token-file", &ada]).await;
    assert_eq!((code, &*text), (0, "request 1: axios@1.14.1, created\n"), "{errors}");
    let (code, text, errors) = request(&["show", "1", "--server", &url, "--token-file", &grace]).await;
    assert!(code == 0 && text.contains("asked by ada (ada-laptop)"), "{text}{errors}");
    let digests = text.lines().find_map(|line| line.strip_prefix("digests: ")).unwrap().to_owned();
    let approval = ["approve", "1", "--digests", &digests, "--reason", "fine", "--server", &url, "--token-file"];
    let (code, _, errors) = request(&[&approval[..], &[&ada]].concat()).await;
    assert!(code == 1 && errors.contains("role `approver`"), "{errors}");
    let (code, text, errors) = request(&[&approval[..], &[&grace]].concat()).await;
    assert_eq!((code, &*text), (0, "request 1: axios@1.14.1, approved\ndecision 1\napplied by the server\n"), "{errors}");
    scene.get("/axios/1.14.1").await.is(200);
}

#[tokio::test(flavor = "multi_thread")]
async fn commands_work_on_a_data_directory_without_a_server() {
    let (home, registry) = (tempfile::TempDir::new().unwrap(), Registry::start(&machine_clock()).await);
    registry.publish(Package::new("axios", "1.14.0"));
    registry.publish(Package::new("axios", "1.14.1").aged(hours(1)));
    let request = async |words: &[&str]| {
        let mut command = coldframe(home.path());
        command.arg("request").args(words).args(["--data-dir", "data", "--upstream", &registry.url]);
        tokio::task::spawn_blocking(move || run(&mut command)).await.unwrap()
    };
    let (code, text, errors) = request(&["axios@1.14.1", "--reason", "the fix"]).await;
    assert_eq!((code, &*text), (0, "request 1: axios@1.14.1, created\n"), "{errors}");
    let (code, text, errors) = request(&["list", "--json"]).await;
    let listed: Value = serde_json::from_str(&text).unwrap_or_else(|error| panic!("{error}: {text}{errors}"));
    assert_eq!((code, &listed["requests"][0]["askers"][0]["by"]["method"]), (0, &json!("local user")));
    let (_, text, _) = request(&["show", "1"]).await;
    let digests = text.lines().find_map(|line| line.strip_prefix("digests: ")).unwrap().to_owned();
    let (code, _, errors) = request(&["approve", "1", "--digests", &digests, "--reason", "mine"]).await;
    assert!(code == 1 && errors.contains("another person must"), "{errors}");
    let (code, text, _) = request(&["withdraw", "1"]).await;
    assert_eq!((code, &*text), (0, "request 1: axios@1.14.1, withdrawn\n"));
    for words in [&["axios@1.14.1"][..], &["axios@1.14.1", "--reason", "a\u{1b}[2J"], &["--reason", "x"], &["approve", "1"]] {
        let (code, _, errors) = request(words).await;
        assert!(code == 2 && !errors.contains('\u{1b}'), "{words:?}: {errors}");
    }
}
