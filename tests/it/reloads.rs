//! The configuration is edited while the server runs, and it is asked to read it again: what can change does, what cannot is named,
//! and mistakes change nothing.

use std::path::PathBuf;
use std::time::{Duration, Instant};

use tempfile::TempDir;

use crate::package::{Package, days};
use crate::program::{Program, coldframe, machine_clock, run};
use crate::registry::Registry;

/// A server with a configuration file, and a package whose newest version is ten days old.
struct Place {
    home: TempDir,
    data: TempDir,
    registry: Registry,
    file: PathBuf,
}

impl Place {
    async fn make() -> Self {
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

    /// The file is edited, and the server told.
    fn edit(&self, program: &Program, lines: &str) {
        self.write(&format!("listen = [\"127.0.0.1:0\"]\n{lines}"));
        program.signal("-HUP");
    }
}

/// Waits until something is so.
async fn until<T>(what: &str, mut look: impl AsyncFnMut() -> Option<T>) -> T {
    let deadline = Instant::now() + Duration::from_secs(30);
    loop {
        if let Some(found) = look().await {
            return found;
        }
        assert!(Instant::now() < deadline, "{what} never came");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_age_and_an_exclusion_that_are_edited_are_in_force_after_a_hangup() {
    let place = Place::make().await;
    let program = place.serve("min-release-age = \"1h\"\n");
    assert_eq!(program.get("/left-pad").await.versions().len(), 2);
    place.edit(&program, "min-release-age = \"30d\"\n");
    until("the longer age", async || (program.get("/left-pad").await.versions().len() == 1).then_some(())).await;
    // The commands that answer for the server know it.
    let (code, told, errors) =
        run(coldframe(place.home.path()).args(["explain", "left-pad@1.1.0", "--data-dir"]).arg(place.data.path()));
    assert!(code == 10 && errors.contains("minimum release age 30 d"), "{told}{errors}");
    place.edit(&program, "min-release-age = \"30d\"\nexclude = [\"left-pad\"]\n");
    until("the exclusion", async || (program.get("/left-pad").await.versions().len() == 2).then_some(())).await;
    program.signal("-TERM");
    let (code, log) = program.ended().await;
    assert_eq!(code, 0, "{log}");
    for part in ["configuration reloaded config.changed=min-release-age", "configuration reloaded config.changed=exclude"] {
        assert!(log.contains(part), "{part}: {log}");
    }
    assert!(!log.contains("need a restart"), "{log}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_configuration_with_mistakes_changes_nothing_and_all_of_them_are_listed() {
    let place = Place::make().await;
    let program = place.serve("min-release-age = \"1h\"\n");
    place.edit(&program, "min-release-age = \"30\"\nexclude = [\"[\"]\nupsteam = \"x\"\n");
    let told = until("the mistakes", async || {
        let told = program.get("/-/coldframe/readyz").await.is(200).text();
        told.contains("3 mistakes").then_some(told)
    });
    assert!(told.await.contains("the previous configuration is active"));
    assert_eq!(program.get("/left-pad").await.versions().len(), 2);
    place.edit(&program, "min-release-age = \"1h\"\n");
    until("the end of it", async || {
        program.get("/-/coldframe/readyz").await.text().contains("\"configuration\":\"ok\"").then_some(())
    })
    .await;
    program.signal("-TERM");
    let (_, log) = program.ended().await;
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
async fn settings_that_need_a_restart_are_named_and_the_others_are_applied() {
    let place = Place::make().await;
    let program = place.serve("min-release-age = \"1h\"\n");
    place.edit(&program, "min-release-age = \"30d\"\ncache-size = \"2GB\"\npackument-ttl = \"1m\"\n");
    let told = until("the names", async || {
        let told = program.get("/-/coldframe/readyz").await.is(200).text();
        told.contains("need a restart").then_some(told)
    });
    assert!(told.await.contains("these settings need a restart: packument-ttl, cache-size"));
    until("the longer age", async || (program.get("/left-pad").await.versions().len() == 1).then_some(())).await;
    // Another address is one of them.
    std::fs::write(&place.file, std::fs::read_to_string(&place.file).unwrap().replace("127.0.0.1:0", "127.0.0.1:1")).unwrap();
    program.signal("-HUP");
    until("the address", async || program.get("/-/coldframe/readyz").await.text().contains("listen").then_some(())).await;
    program.signal("-TERM");
    let (_, log) = program.ended().await;
    assert!(log.contains("settings changed that need a restart config.changed=packument-ttl, cache-size"), "{log}");
}

#[tokio::test(flavor = "multi_thread")]
async fn another_policy_of_an_address_and_tokens_and_hosts_are_taken_up() {
    let place = Place::make().await;
    let (old, new) = (place.home.path().join("old.tokens"), place.home.path().join("new.tokens"));
    std::fs::write(&old, "an-old-token-of-forty-letters-and-more-letters\n").unwrap();
    std::fs::write(&new, "a-new-token-of-forty-letters-and-more-letters\n").unwrap();
    let tokens = |path: &PathBuf| format!("admin-token-file = \"{}\"\n", path.display());
    let gateway = "gateway = [\"127.0.0.1:0\"]\n";
    let program = place.serve(&format!("{gateway}{}", tokens(&old)));
    let place_of_gateway = program.greeting.lines().find_map(|line| line.trim_start().strip_prefix("gateway")).unwrap();
    let address: std::net::SocketAddr =
        place_of_gateway.trim().trim_start_matches("http://").split('/').next().unwrap().parse().unwrap();
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
    place.edit(&program, &format!("{gateway}{}allow-host = [\"{}\"]\npolicy = \"strict\"\n", tokens(&new), other.address));
    until("the tokens", async || (ask("a-new-token-of-forty-letters-and-more-letters").await.status == 200).then_some(())).await;
    ask("an-old-token-of-forty-letters-and-more-letters").await.is(401);
    until("the host", async || (through().await.status == 200).then_some(())).await;
    let (_, _, errors) =
        run(coldframe(place.home.path()).args(["explain", "left-pad@1.1.0", "--data-dir"]).arg(place.data.path()));
    assert!(errors.contains("policy: strict"), "{errors}");
    // A file of tokens that is not there leaves those that are known.
    place.edit(
        &program,
        &format!(
            "{gateway}{}allow-host = [\"{}\"]\npolicy = \"strict\"\n",
            tokens(&place.home.path().join("none")),
            other.address
        ),
    );
    until("the trouble", async || program.get("/-/coldframe/readyz").await.text().contains("admin-token-file").then_some(()))
        .await;
    ask("a-new-token-of-forty-letters-and-more-letters").await.is(200);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_token_for_upstream_that_is_replaced_is_lent_after_a_hangup() {
    let place = Place::make().await;
    let npmrc = |token: &str| {
        let line = format!("//{}/:_authToken={token}\n", place.registry.address);
        std::fs::write(place.home.path().join(".npmrc"), line).unwrap();
    };
    npmrc("old");
    let program = place.serve("packument-ttl = \"0s\"\n");
    let lent = || {
        let requests = place.registry.requests();
        let last = requests.iter().rev().find(|asked| asked.path == "/left-pad").unwrap();
        last.headers.first("authorization").unwrap_or_default().to_owned()
    };
    program.get("/left-pad").await.is(200);
    assert_eq!(lent(), "Bearer old");
    npmrc("new");
    place.edit(&program, "packument-ttl = \"0s\"\n");
    until("the new token", async || {
        program.get("/left-pad").await.is(200);
        (lent() == "Bearer new").then_some(())
    })
    .await;
    // Without any, what is remembered would be another's view: that needs a restart.
    std::fs::write(place.home.path().join(".npmrc"), "").unwrap();
    program.signal("-HUP");
    until("the note", async || {
        program.get("/-/coldframe/readyz").await.text().contains("whether upstream has credentials changed").then_some(())
    })
    .await;
    program.get("/left-pad").await.is(200);
    assert_eq!(lent(), "Bearer new");
    program.signal("-TERM");
    let (_, log) = program.ended().await;
    assert!(log.contains("upstream credentials reloaded") && !log.contains("Bearer"), "{log}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_feed_that_is_added_holds_back_once_it_is_read_and_one_that_is_taken_out_no_longer() {
    let place = Place::make().await;
    let list = place.home.path().join("blocked.txt");
    let lines = |feeds: &str| format!("min-release-age = \"1h\"\n{feeds}");
    let program = place.serve(&lines(""));
    assert_eq!(program.get("/left-pad").await.versions().len(), 2);
    let feed = format!("feed = [\"{}\"]\n", list.display());
    // It is not there yet: nothing is refused for want of it.
    place.edit(&program, &lines(&feed));
    until("the note", async || program.get("/-/coldframe/readyz").await.text().contains("blocked").then_some(())).await;
    assert_eq!(program.get("/left-pad").await.is(200).versions().len(), 2);
    std::fs::write(&list, "left-pad@1.1.0\n").unwrap();
    until("the feed", async || (program.get("/left-pad").await.versions().len() == 1).then_some(())).await;
    place.edit(&program, &lines(""));
    until("its end", async || (program.get("/left-pad").await.versions().len() == 2).then_some(())).await;
    program.signal("-TERM");
    let (_, log) = program.ended().await;
    assert!(log.contains("configuration reloaded config.changed=feed"), "{log}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_feed_with_another_address_or_key_opens_nothing_before_it_is_read() {
    let place = Place::make().await;
    let path = |name: &str| place.home.path().join(name);
    let (list, elsewhere) = (path("blocked.txt"), path("elsewhere.txt"));
    std::fs::write(&list, "left-pad@1.1.0\n").unwrap();
    let following = |path: &PathBuf| format!("min-release-age = \"1h\"\nfeed = [\"{}\"]\n", path.display());
    let shown = async |program: &Program| program.get("/left-pad").await.is(200).versions().len();
    let program = place.serve(&following(&list));
    assert_eq!(shown(&program).await, 1);
    // A mistyped address, and then another one.
    for name in ["mistyped.txt", "elsewhere.txt"] {
        place.edit(&program, &following(&path(name)));
        let stem = name.trim_end_matches(".txt");
        until("the note", async || {
            program.get("/-/coldframe/readyz").await.is(200).text().contains(&format!("`{stem}` is stale")).then_some(())
        })
        .await;
        assert_eq!(shown(&program).await, 1, "{name}");
    }
    std::fs::write(&elsewhere, "right-pad\n").unwrap();
    until("the other list", async || (shown(&program).await == 2).then_some(())).await;
    std::fs::write(&elsewhere, "left-pad@1.0.0\n").unwrap();
    until("its change", async || (shown(&program).await == 1).then_some(())).await;
    program.signal("-TERM");
    assert_eq!(program.ended().await.0, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_refuses_for_want_of_a_feed_opens_when_the_feed_in_its_stead_is_read() {
    let place = Place::make().await;
    let path = |name: &str| place.home.path().join(name);
    let following = |name: &str| format!("min-release-age = \"1h\"\nfeed = [\"{}\"]\n", path(name).display());
    let program = place.serve(&following("mistyped.txt"));
    program.get("/left-pad").await.is(403);
    place.edit(&program, &following("blocked.txt"));
    until("the other feed", async || {
        let told = program.get("/-/coldframe/readyz").await.is(503).text();
        (told.contains("blocked") && !told.contains("mistyped")).then_some(())
    })
    .await;
    assert!(program.get("/left-pad").await.is(403).error().contains("blocked"));
    std::fs::write(path("blocked.txt"), "left-pad@1.1.0\n").unwrap();
    until("the feed", async || (program.get("/left-pad").await.status == 200).then_some(())).await;
    assert_eq!(program.get("/left-pad").await.versions().len(), 1);
    program.get("/-/coldframe/readyz").await.is(200);
    // Without any feed nothing is refused for want of one.
    place.edit(&program, &following("mistyped.txt").replace("feed = ", "# "));
    until("the end of it", async || (program.get("/left-pad").await.is(200).versions().len() == 2).then_some(())).await;
    program.signal("-TERM");
    assert_eq!(program.ended().await.0, 0);
}
