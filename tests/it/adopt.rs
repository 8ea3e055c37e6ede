//! `coldframe adopt`: held versions of a lockfile are approved, invalid entries are left out.

use serde_json::json;
use tempfile::TempDir;

use crate::package::{Package, days, hours, sha512};
use crate::process::{Program, coldframe, machine_clock, run};
use crate::registry::Registry;

#[tokio::test(flavor = "multi_thread")]
async fn held_versions_in_lockfile_are_adopted_until_they_would_open() {
    let (home, data) = (TempDir::new().unwrap(), TempDir::new().unwrap());
    let registry = Registry::start(&machine_clock()).await;
    registry.absent("acme");
    let young = Package::new("left-pad", "1.1.0").aged(hours(1));
    let scoped = Package::new("@acme/ui", "2.0.0").aged(hours(70));
    let swapped = Package::new("axios", "1.14.1").aged(hours(1));
    for package in [&young, &scoped, &swapped, &Package::new("old", "1.0.0").aged(days(90))] {
        registry.publish(package.clone());
    }
    registry.absent("never");
    let program = Program::serve(home.path(), data.path(), &registry.url, &[]);
    let lockfile = home.path().join("package-lock.json");
    let entry = |package: &Package| json!({ "version": package.version, "integrity": sha512(&package.tarball) });
    let text = json!({
        "name": "app",
        "lockfileVersion": 3,
        "packages": {
            "": { "name": "app" },
            "node_modules/left-pad": entry(&young),
            "node_modules/@acme/ui": entry(&scoped),
            "node_modules/axios": { "version": "1.14.1", "integrity": sha512(b"other bytes") },
            "node_modules/old": { "version": "1.0.0" },
            "node_modules/never": { "version": "9.9.9" },
            "node_modules/from-git": { "version": "1.0.0", "resolved": "git+ssh://git@example.com/a/b.git#0123456789abcdef0123456789abcdef01234567" },
        }
    });
    std::fs::write(&lockfile, text.to_string()).unwrap();
    let adopt = |more: &[&str]| {
        let mut command = coldframe(home.path());
        command.arg("adopt").arg(&lockfile).args(more).args(["--upstream", &registry.url, "--data-dir"]).arg(data.path());
        run(&mut command)
    };
    let (code, text, errors) = adopt(&["--dry-run"]);
    assert_eq!(code, 0, "{text}{errors}");
    for part in [
        "adopted: left-pad@1.1.0 until",
        "adopted: @acme/ui@2.0.0 until",
        "left out: axios@1.14.1: the lockfile's integrity differs from upstream's",
        "left out: never@9.9.9:",
        "2 adopted, 2 left out, 1 already allowed, 1 not from a registry",
    ] {
        assert!(text.contains(part), "{part:?} is missing:\n{text}");
    }
    program.get("/left-pad/-/left-pad-1.1.0.tgz").await.is(403);
    let (code, text, errors) = adopt(&[]);
    assert!(code == 0 && text.contains("applied by the running server"), "{text}{errors}");
    program.get("/left-pad/-/left-pad-1.1.0.tgz").await.is(200);
    program.get("/@acme%2fui/-/ui-2.0.0.tgz").await.is(200);
    program.get("/axios/-/axios-1.14.1.tgz").await.is(403);
    registry.publish(Package::new("left-pad", "1.1.1").aged(hours(0)));
    program.get("/left-pad/-/left-pad-1.1.1.tgz").await.is(404);
}

#[tokio::test(flavor = "multi_thread")]
async fn adopt_reports_unreachable_registry_once() {
    let (home, data) = (TempDir::new().unwrap(), TempDir::new().unwrap());
    let registry = Registry::start(&machine_clock()).await;
    let lockfile = home.path().join("package-lock.json");
    let entry = json!({ "version": "1.0.0" });
    let text = json!({ "name": "app", "lockfileVersion": 3, "packages": {
        "": { "name": "app" }, "node_modules/left-pad": entry, "node_modules/axios": entry, "node_modules/old": entry } });
    std::fs::write(&lockfile, text.to_string()).unwrap();
    let adopt = |more: &[&str]| {
        let mut command = coldframe(home.path());
        command.arg("adopt").arg(&lockfile).args(more).args(["--upstream", &registry.url, "--data-dir"]).arg(data.path());
        run(&mut command)
    };
    let decisions = || {
        let mut command = coldframe(home.path());
        run(command.args(["decisions", "list", "--json", "--data-dir"]).arg(data.path())).1
    };
    registry.go_down();
    for server in [false, true] {
        let server = server.then(|| Program::serve(home.path(), data.path(), &registry.url, &[]));
        let (code, text, errors) = adopt(&[]);
        assert_eq!((code, text.lines().count()), (69, 1), "{text}{errors}");
        assert!(text.starts_with("nothing could be checked: ") && text.contains("upstream"), "{text}");
        let (code, text, _) = adopt(&["--json", "--dry-run"]);
        let text: serde_json::Value = serde_json::from_str(&text).unwrap();
        assert_eq!((code, text["unchecked"].as_array().unwrap().len(), &text["leftOut"]), (69, 3, &json!([])), "{text}");
        drop(server);
    }
    registry.come_back();
    registry.publish(Package::new("left-pad", "1.0.0").aged(hours(1)));
    registry.publish(Package::new("old", "1.0.0").aged(days(90)));
    registry.answer("/axios", crate::fake_response::Reply::status(503).header("retry-after", "60"));
    assert_eq!(decisions().trim(), "[]");
    // Versions that can be checked are adopted; exit code 69 reports that some could not be.
    let (code, text, errors) = adopt(&[]);
    assert_eq!(code, 69, "{text}{errors}");
    for part in [
        "unchecked: 1 version: ",
        "adopted: left-pad@1.0.0 until",
        "1 adopted, 0 left out, 1 already allowed, 1 could not be checked",
    ] {
        assert!(text.contains(part), "{part:?} is missing:\n{text}");
    }
    assert!(decisions().contains("left-pad"), "{}", decisions());
}
