//! Gateway users: unknown clients get 407, downloads are recorded with the user's name, and proxy credentials are not forwarded.

use std::io::Write as _;
use std::path::PathBuf;
use std::process::Stdio;
use std::time::{Duration, Instant};

use base64::Engine as _;
use tempfile::TempDir;
use tokio::net::TcpStream;

use crate::client::raw;
use crate::gateway_client::{REGISTRY, ask, connect, gateway, gateway_address, handshake, tls_config};
use crate::harness::{Opening, Scene};
use crate::process::{coldframe, run};

struct Users {
    folder: TempDir,
}

impl Users {
    fn none() -> Self {
        Self { folder: TempDir::new().unwrap() }
    }

    fn file(&self) -> PathBuf {
        self.folder.path().join("users")
    }

    /// Runs `user add` with the password on standard input.
    fn add(&self, name: &str, password: &str) -> (i32, String, String) {
        let mut command = coldframe(self.folder.path());
        command.args(["user", "add", name, "--gateway-users"]).arg(self.file());
        let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        // The command does not read the password if the name is invalid.
        let _ = child.stdin.take().unwrap().write_all(format!("{password}\n").as_bytes());
        let output = child.wait_with_output().unwrap();
        let text = |bytes| String::from_utf8(bytes).unwrap();
        (output.status.code().unwrap(), text(output.stdout), text(output.stderr))
    }

    fn opening(&self) -> Opening {
        gateway().set("gateway-users", self.file().to_str().unwrap())
    }
}

fn header(pair: &str) -> String {
    format!("proxy-authorization: Basic {}\r\n", base64::engine::general_purpose::STANDARD.encode(pair))
}

async fn line(scene: &Scene, target: &str, headers: &str) -> String {
    connect(gateway_address(scene), target, headers).await.0.lines().next().unwrap_or_default().to_owned()
}

#[tokio::test(flavor = "multi_thread")]
async fn unknown_users_get_407_and_known_users_are_named_in_the_ledger() {
    let users = Users::none();
    let (code, stdout, errors) = users.add("ada", "correct horse: battery");
    assert!(code == 0 && stdout.starts_with("added ada") && !stdout.contains("horse"), "{stdout}{errors}");
    let mut scene = users.opening().set("log-level", "trace").await;
    scene.publish_old("left-pad", &["1.0.0"]);
    for headers in
        [String::new(), header("ada:wrong"), header("eve:correct horse: battery"), "proxy-authorization: Bearer x\r\n".to_owned()]
    {
        let (head, _) = connect(gateway_address(&scene), "registry.example:443", &headers).await;
        assert!(
            head.starts_with("HTTP/1.1 407 ") && head.contains("proxy-authenticate: Basic realm=\"coldframe\""),
            "{headers}: {head}"
        );
        // The answer does not reveal whether the host is allowed.
        assert!(line(&scene, "other.example:443", &headers).await.starts_with("HTTP/1.1 407 "));
    }
    let request = "GET http://registry.example/left-pad HTTP/1.1\r\nhost: registry.example\r\nconnection: close\r\n";
    assert!(raw(gateway_address(&scene), format!("{request}\r\n").as_bytes()).await.starts_with("HTTP/1.1 407 "));
    assert_eq!(scene.registry.total(), 0);
    let credentials = header("ada:correct horse: battery");
    assert!(line(&scene, "other.example:443", &credentials).await.starts_with("HTTP/1.1 403 "));
    assert!(raw(gateway_address(&scene), format!("{request}{credentials}\r\n").as_bytes()).await.starts_with("HTTP/1.1 200 "));
    let (_, stream) = connect(gateway_address(&scene), "registry.example:443", &credentials).await;
    let stream = handshake(tls_config(scene.data(), &scene.clock, &[]), REGISTRY, stream).await.unwrap();
    ask(stream, "/left-pad/-/left-pad-1.0.0.tgz", REGISTRY).await.is(200);
    for path in ["/left-pad", "/left-pad/-/left-pad-1.0.0.tgz"] {
        assert!(scene.registry.last(path).headers.first("proxy-authorization").is_none(), "{path}");
    }
    // Health probes need no credentials.
    ask(TcpStream::connect(gateway_address(&scene)).await.unwrap(), "/-/coldframe/healthz", "gateway").await.is(200);
    scene.coldframe.stop().await;
    let spec = coldframe::npm::PackageSpec::parse("left-pad").unwrap();
    let exposed = coldframe::app::exposure(scene.data(), &spec).unwrap();
    assert_eq!(exposed.iter().map(|row| row.client.as_str()).collect::<Vec<_>>(), ["ada@127.0.0.1"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_users_file_is_reloaded_while_serving() {
    let users = Users::none();
    users.add("ada", "one");
    let scene = users.opening().await;
    let opens = async |pair: &str| line(&scene, "registry.example:443", &header(pair)).await.starts_with("HTTP/1.1 200 ");
    let until = async |pair: &str, expected: bool| {
        let deadline = Instant::now() + Duration::from_secs(20);
        while opens(pair).await != expected {
            assert!(Instant::now() < deadline, "{pair} never becomes {expected}");
        }
    };
    assert!(opens("ada:one").await);
    users.add("eve", "two");
    until("eve:two", true).await;
    let (code, stdout, errors) =
        run(coldframe(users.folder.path()).args(["user", "remove", "ada", "--gateway-users"]).arg(users.file()));
    assert!(code == 0, "{stdout}{errors}");
    until("ada:one", false).await;
    // A broken file changes nothing.
    std::fs::write(users.file(), "nonsense").unwrap();
    assert!(opens("eve:two").await);
}

#[tokio::test(flavor = "multi_thread")]
async fn overwriting_the_users_file_locks_no_user_out() {
    let users = Users::none();
    users.add("ada", "one");
    let (scene, whole) = (users.opening().await, std::fs::read(users.file()).unwrap());
    let opens = async || line(&scene, "registry.example:443", &header("ada:one")).await.starts_with("HTTP/1.1 200 ");
    // The password is hashed once, which takes a while.
    assert!(opens().await);
    // Longer than several poll intervals.
    let begun = Instant::now();
    while begun.elapsed() < Duration::from_secs(1) {
        // The file is empty for a moment.
        std::fs::write(users.file(), "").unwrap();
        assert!(opens().await);
        std::fs::write(users.file(), &whole).unwrap();
        assert!(opens().await);
    }
    // A file that stays empty is loaded.
    std::fs::write(users.file(), "").unwrap();
    let deadline = Instant::now() + Duration::from_secs(20);
    while opens().await {
        assert!(Instant::now() < deadline, "the empty file is not loaded");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_fifo_instead_of_the_users_file_keeps_the_users_until_the_next_file() {
    let users = Users::none();
    users.add("ada", "one");
    let (scene, elsewhere) = (users.opening().await, Users::none());
    elsewhere.add("eve", "two");
    std::fs::remove_file(users.file()).unwrap();
    assert!(std::process::Command::new("mkfifo").arg(users.file()).status().unwrap().success());
    let opens = async |pair: &str| line(&scene, "registry.example:443", &header(pair)).await.starts_with("HTTP/1.1 200 ");
    // Longer than two poll intervals.
    let begun = Instant::now();
    while begun.elapsed() < Duration::from_millis(700) {
        assert!(opens("ada:one").await);
    }
    std::fs::remove_file(users.file()).unwrap();
    std::fs::copy(elsewhere.file(), users.file()).unwrap();
    let deadline = Instant::now() + Duration::from_secs(20);
    while !opens("eve:two").await {
        assert!(Instant::now() < deadline, "the file after the FIFO is not loaded");
    }
}

#[test]
fn invalid_names_and_passwords_are_refused_and_without_a_file_the_line_is_printed() {
    let users = Users::none();
    for (name, password) in [("a:b", "x"), ("", "x"), ("ada", ""), ("a,b", "x")] {
        let (code, _, errors) = users.add(name, password);
        assert!(code == 2 && !errors.is_empty(), "{name}: {errors}");
    }
    assert!(!users.file().exists());
    let (code, _, errors) =
        run(coldframe(users.folder.path()).args(["user", "remove", "ada", "--gateway-users"]).arg(users.file()));
    assert!(code == 1 && errors.contains("no such user"), "{errors}");
    let mut command = coldframe(users.folder.path());
    let mut child = command.args(["user", "add", "ada"]).stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
    child.stdin.take().unwrap().write_all(b"secret\r\n").unwrap();
    let stdout = String::from_utf8(child.wait_with_output().unwrap().stdout).unwrap();
    assert!(stdout.starts_with("ada:$argon2id$v=19$m=19456,t=2,p=1$") && stdout.lines().count() == 1, "{stdout}");
}
