//! Configuration reloads on SIGHUP: changes are applied or reported as needing a restart. A file with mistakes changes nothing.

use std::path::PathBuf;
use std::time::{Duration, Instant};

use tempfile::TempDir;

use crate::package::{Package, days};
use crate::process::{Program, coldframe, machine_clock, run};
use crate::registry::Registry;

/// A server with a configuration file, and a package whose newest version is ten days old.
struct Fixture {
    home: TempDir,
    data: TempDir,
    registry: Registry,
    file: PathBuf,
}

impl Fixture {
    async fn new() -> Self {
        let registry = Registry::start(&machine_clock()).await;
        registry.publish(Package::new("left-pad", "1.0.0").aged(days(400)));
        registry.publish(Package::new("left-pad", "1.1.0").aged(days(10)));
        let home = TempDir::new().unwrap();
        let file = home.path().join("coldframe.toml");
        Self { data: TempDir::new().unwrap(), home, registry, file }
    }

    fn write(&self, lines: &str) {
        let (upstream, data) = (&self.registry.url, self.data.path().display());
        std::fs::write(&self.file, format!("upstream = \"{upstream}\"\ndata-dir = \"{data}\"\n{lines}")).unwrap();
    }

    fn serve(&self, lines: &str) -> Program {
        self.write(&format!("listen = [\"127.0.0.1:0\"]\n{lines}"));
        let mut command = coldframe(self.home.path());
        Program::start(command.args(["serve", "--config"]).arg(&self.file))
    }

    /// Edits the file and sends SIGHUP to the server.
    fn edit(&self, program: &Program, lines: &str) {
        self.write(&format!("listen = [\"127.0.0.1:0\"]\n{lines}"));
        program.signal("-HUP");
    }
}

/// Polls until `check` returns a value. Panics with `what` after 30 s.
async fn until<T>(what: &str, mut check: impl AsyncFnMut() -> Option<T>) -> T {
    let deadline = Instant::now() + Duration::from_secs(30);
    loop {
        if let Some(found) = check().await {
            return found;
        }
        assert!(Instant::now() < deadline, "timed out waiting for {what}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn edited_age_and_exclusion_apply_after_sighup() {
    let fixture = Fixture::new().await;
    let program = fixture.serve("min-release-age = \"1h\"\n");
    assert_eq!(program.get("/left-pad").await.versions().len(), 2);
    fixture.edit(&program, "min-release-age = \"30d\"\n");
    until("the longer age", async || (program.get("/left-pad").await.versions().len() == 1).then_some(())).await;
    // Commands that answer for the server use the new age.
    let (code, output, errors) =
        run(coldframe(fixture.home.path()).args(["explain", "left-pad@1.1.0", "--data-dir"]).arg(fixture.data.path()));
    assert!(code == 10 && errors.contains("minimum release age 30 d"), "{output}{errors}");
    fixture.edit(&program, "min-release-age = \"30d\"\nexclude = [\"left-pad\"]\n");
    until("the exclusion", async || (program.get("/left-pad").await.versions().len() == 2).then_some(())).await;
    program.signal("-TERM");
    let (code, log) = program.wait_for_exit().await;
    assert_eq!(code, 0, "{log}");
    for part in ["configuration reloaded config.changed=min-release-age", "configuration reloaded config.changed=exclude"] {
        assert!(log.contains(part), "{part}: {log}");
    }
    assert!(!log.contains("need a restart"), "{log}");
}

#[tokio::test(flavor = "multi_thread")]
async fn configuration_with_mistakes_changes_nothing_and_lists_all_of_them() {
    let fixture = Fixture::new().await;
    let program = fixture.serve("min-release-age = \"1h\"\n");
    fixture.edit(&program, "min-release-age = \"30\"\nexclude = [\"[\"]\nupsteam = \"x\"\n");
    let page = until("the mistakes", async || {
        let page = program.get("/-/coldframe/readyz").await.is(200).text();
        page.contains("3 errors").then_some(page)
    });
    assert!(page.await.contains("the previous configuration is active"));
    assert_eq!(program.get("/left-pad").await.versions().len(), 2);
    fixture.edit(&program, "min-release-age = \"1h\"\n");
    until("the corrected configuration", async || {
        program.get("/-/coldframe/readyz").await.text().contains("\"configuration\":\"ok\"").then_some(())
    })
    .await;
    program.signal("-TERM");
    let (_, log) = program.wait_for_exit().await;
    for part in [
        "`min-release-age` lacks a unit",
        "`exclude`",
        "unknown key: `upsteam`",
        "coldframe.toml:4",
        "configuration not reloaded",
        "configuration unchanged",
    ] {
        assert!(log.contains(part), "{part}: {log}");
    }
    assert!(!log.contains("configuration reloaded"), "{log}");
}

#[tokio::test(flavor = "multi_thread")]
async fn settings_that_need_a_restart_are_reported_and_others_applied() {
    let fixture = Fixture::new().await;
    let program = fixture.serve("min-release-age = \"1h\"\n");
    fixture.edit(&program, "min-release-age = \"30d\"\ncache-size = \"2GB\"\npackument-ttl = \"1m\"\n");
    let page = until("the names", async || {
        let page = program.get("/-/coldframe/readyz").await.is(200).text();
        page.contains("need a restart").then_some(page)
    });
    assert!(page.await.contains("these settings need a restart: packument-ttl, cache-size"));
    until("the longer age", async || (program.get("/left-pad").await.versions().len() == 1).then_some(())).await;
    // A new `listen` address also needs a restart.
    std::fs::write(&fixture.file, std::fs::read_to_string(&fixture.file).unwrap().replace("127.0.0.1:0", "127.0.0.1:1")).unwrap();
    program.signal("-HUP");
    until("the address", async || program.get("/-/coldframe/readyz").await.text().contains("listen").then_some(())).await;
    program.signal("-TERM");
    let (_, log) = program.wait_for_exit().await;
    assert!(log.contains("settings changed that need a restart config.changed=packument-ttl, cache-size"), "{log}");
}

#[tokio::test(flavor = "multi_thread")]
async fn requirement_of_access_tokens_is_reloaded() {
    let fixture = Fixture::new().await;
    let program = fixture.serve("");
    program.get("/left-pad").await.is(200);
    fixture.edit(&program, "require-auth = true\n");
    until("the requirement", async || (program.get("/left-pad").await.status == 401).then_some(())).await;
    fixture.edit(&program, "");
    until("the end of the requirement", async || (program.get("/left-pad").await.status == 200).then_some(())).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn policy_admin_tokens_and_allowed_hosts_are_reloaded() {
    let fixture = Fixture::new().await;
    let (old, new) = (fixture.home.path().join("old.tokens"), fixture.home.path().join("new.tokens"));
    std::fs::write(&old, "an-old-token-of-forty-letters-and-more-letters\n").unwrap();
    std::fs::write(&new, "a-new-token-of-forty-letters-and-more-letters\n").unwrap();
    let tokens = |path: &PathBuf| format!("admin-token-file = \"{}\"\n", path.display());
    let gateway = "gateway = [\"127.0.0.1:0\"]\n";
    let program = fixture.serve(&format!("{gateway}{}", tokens(&old)));
    let gateway_line = program.greeting.lines().find_map(|line| line.trim_start().strip_prefix("gateway")).unwrap();
    let address: std::net::SocketAddr =
        gateway_line.trim().trim_start_matches("http://").split('/').next().unwrap().parse().unwrap();
    let ask = |token: &str| {
        crate::client::Ask::new(address, "GET", "/-/coldframe/metrics").header("authorization", &format!("Bearer {token}"))
    };
    ask("an-old-token-of-forty-letters-and-more-letters").await.is(200);
    ask("a-new-token-of-forty-letters-and-more-letters").await.is(401);
    let other = Registry::start(&machine_clock()).await;
    other.publish(Package::new("elsewhere", "1.0.0"));
    let through = || {
        crate::client::Ask::new(address, "GET", &format!("{}/elsewhere", other.url)).header("host", &other.address.to_string())
    };
    through().await.is(403);
    fixture.edit(&program, &format!("{gateway}{}allow-host = [\"{}\"]\npolicy = \"strict\"\n", tokens(&new), other.address));
    until("the tokens", async || (ask("a-new-token-of-forty-letters-and-more-letters").await.status == 200).then_some(())).await;
    ask("an-old-token-of-forty-letters-and-more-letters").await.is(401);
    until("the host", async || (through().await.status == 200).then_some(())).await;
    let (_, _, errors) =
        run(coldframe(fixture.home.path()).args(["explain", "left-pad@1.1.0", "--data-dir"]).arg(fixture.data.path()));
    assert!(errors.contains("policy: strict"), "{errors}");
    // A missing token file leaves the loaded tokens active.
    fixture.edit(
        &program,
        &format!(
            "{gateway}{}allow-host = [\"{}\"]\npolicy = \"strict\"\n",
            tokens(&fixture.home.path().join("none")),
            other.address
        ),
    );
    until("the error", async || program.get("/-/coldframe/readyz").await.text().contains("admin-token-file").then_some(())).await;
    ask("a-new-token-of-forty-letters-and-more-letters").await.is(200);
}

#[tokio::test(flavor = "multi_thread")]
async fn replaced_upstream_token_is_used_after_sighup() {
    let fixture = Fixture::new().await;
    let npmrc = |token: &str| {
        let line = format!("//{}/:_authToken={token}\n", fixture.registry.address);
        std::fs::write(fixture.home.path().join(".npmrc"), line).unwrap();
    };
    npmrc("old");
    let program = fixture.serve("packument-ttl = \"0s\"\n");
    let sent_token = || {
        let requests = fixture.registry.requests();
        let last = requests.iter().rev().find(|request| request.path == "/left-pad").unwrap();
        last.headers.first("authorization").unwrap_or_default().to_owned()
    };
    program.get("/left-pad").await.is(200);
    assert_eq!(sent_token(), "Bearer old");
    npmrc("new");
    fixture.edit(&program, "packument-ttl = \"0s\"\n");
    until("the new token", async || {
        program.get("/left-pad").await.is(200);
        (sent_token() == "Bearer new").then_some(())
    })
    .await;
    // Removing all credentials needs a restart: cached answers belong to the authenticated view.
    std::fs::write(fixture.home.path().join(".npmrc"), "").unwrap();
    program.signal("-HUP");
    until("the note", async || {
        program.get("/-/coldframe/readyz").await.text().contains("upstream credentials added or removed").then_some(())
    })
    .await;
    program.get("/left-pad").await.is(200);
    assert_eq!(sent_token(), "Bearer new");
    program.signal("-TERM");
    let (_, log) = program.wait_for_exit().await;
    assert!(log.contains("upstream credentials reloaded") && !log.contains("Bearer"), "{log}");
}

#[tokio::test(flavor = "multi_thread")]
async fn added_feed_applies_after_its_first_read_and_removed_feed_stops() {
    let fixture = Fixture::new().await;
    let list = fixture.home.path().join("blocked.txt");
    let lines = |feeds: &str| format!("min-release-age = \"1h\"\n{feeds}");
    let program = fixture.serve(&lines(""));
    assert_eq!(program.get("/left-pad").await.versions().len(), 2);
    let feed = format!("feed = [\"{}\"]\n", list.display());
    // The file does not exist yet. A missing added feed refuses nothing.
    fixture.edit(&program, &lines(&feed));
    until("the note", async || program.get("/-/coldframe/readyz").await.text().contains("blocked").then_some(())).await;
    assert_eq!(program.get("/left-pad").await.is(200).versions().len(), 2);
    std::fs::write(&list, "left-pad@1.1.0\n").unwrap();
    until("the feed", async || (program.get("/left-pad").await.versions().len() == 1).then_some(())).await;
    fixture.edit(&program, &lines(""));
    until("the removal", async || (program.get("/left-pad").await.versions().len() == 2).then_some(())).await;
    program.signal("-TERM");
    let (_, log) = program.wait_for_exit().await;
    assert!(log.contains("configuration reloaded config.changed=feed"), "{log}");
}

#[tokio::test(flavor = "multi_thread")]
async fn feed_with_new_address_or_key_opens_nothing_before_first_read() {
    let fixture = Fixture::new().await;
    let path = |name: &str| fixture.home.path().join(name);
    let (list, elsewhere) = (path("blocked.txt"), path("elsewhere.txt"));
    std::fs::write(&list, "left-pad@1.1.0\n").unwrap();
    let config = |path: &PathBuf| format!("min-release-age = \"1h\"\nfeed = [\"{}\"]\n", path.display());
    let visible = async |program: &Program| program.get("/left-pad").await.is(200).versions().len();
    let program = fixture.serve(&config(&list));
    assert_eq!(visible(&program).await, 1);
    // First a mistyped address, then a correct new one.
    for name in ["mistyped.txt", "elsewhere.txt"] {
        fixture.edit(&program, &config(&path(name)));
        let stem = name.trim_end_matches(".txt");
        until("the note", async || {
            program.get("/-/coldframe/readyz").await.is(200).text().contains(&format!("`{stem}` is stale")).then_some(())
        })
        .await;
        assert_eq!(visible(&program).await, 1, "{name}");
    }
    std::fs::write(&elsewhere, "right-pad\n").unwrap();
    until("the other list", async || (visible(&program).await == 2).then_some(())).await;
    std::fs::write(&elsewhere, "left-pad@1.0.0\n").unwrap();
    until("the changed list", async || (visible(&program).await == 1).then_some(())).await;
    program.signal("-TERM");
    assert_eq!(program.wait_for_exit().await.0, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn server_without_feed_opens_when_the_replacement_feed_is_read() {
    let fixture = Fixture::new().await;
    let path = |name: &str| fixture.home.path().join(name);
    let config = |name: &str| format!("min-release-age = \"1h\"\nfeed = [\"{}\"]\n", path(name).display());
    let program = fixture.serve(&config("mistyped.txt"));
    program.get("/left-pad").await.is(403);
    fixture.edit(&program, &config("blocked.txt"));
    until("the other feed", async || {
        let page = program.get("/-/coldframe/readyz").await.is(503).text();
        (page.contains("blocked") && !page.contains("mistyped")).then_some(())
    })
    .await;
    assert!(program.get("/left-pad").await.is(403).error().contains("blocked"));
    std::fs::write(path("blocked.txt"), "left-pad@1.1.0\n").unwrap();
    until("the feed", async || (program.get("/left-pad").await.status == 200).then_some(())).await;
    assert_eq!(program.get("/left-pad").await.versions().len(), 1);
    program.get("/-/coldframe/readyz").await.is(200);
    // Without any configured feed, none can be missing.
    fixture.edit(&program, &config("mistyped.txt").replace("feed = ", "# "));
    until("the removed feed", async || (program.get("/left-pad").await.is(200).versions().len() == 2).then_some(())).await;
    program.signal("-TERM");
    assert_eq!(program.wait_for_exit().await.0, 0);
}
