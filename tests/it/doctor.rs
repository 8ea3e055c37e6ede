//! `coldframe doctor`: whether installs pass through, for a project that is sound and one that is not.

use std::path::Path;
use std::process::Command;

use expect_test::{Expect, expect};
use serde_json::Value;
use tempfile::TempDir;

use crate::package::Package;
use crate::program::{Program, coldframe, machine_clock, run};
use crate::registry::Registry;

/// A project before a running Coldframe.
struct Place {
    home: TempDir,
    data: TempDir,
    registry: Registry,
    server: Program,
}

impl Place {
    async fn make() -> Self {
        let registry = Registry::start(&machine_clock()).await;
        registry.publish(Package::new("left-pad", "1.0.0"));
        let (home, data) = (TempDir::new().unwrap(), TempDir::new().unwrap());
        let server = Program::serve(home.path(), data.path(), &registry.url, &[]);
        Self { home, data, registry, server }
    }

    fn write(&self, name: &str, text: &str) {
        let text = text.replace("UPSTREAM", &self.registry.url).replace("COLDFRAME", &format!("http://{}", self.server.address));
        std::fs::write(self.home.path().join(name), text).unwrap();
    }

    fn command(&self, flags: &[&str]) -> Command {
        let mut command = coldframe(self.home.path());
        command.env("PATH", self.home.path()).args(["doctor", "--upstream", &self.registry.url, "--listen"]);
        command.arg(self.server.address.to_string()).arg("--data-dir").arg(self.data.path()).args(flags);
        command
    }

    fn check(&self, command: &mut Command, code: i32, told: &Expect) {
        let (ended, text, errors) = run(command);
        told.assert_eq(&self.settled(&text));
        assert_eq!(ended, code, "{errors}");
    }

    fn settled(&self, text: &str) -> String {
        let folder = |folder: &Path| format!("{}/", folder.display());
        let text = text.replace(&folder(self.home.path()), "").replace(&self.server.address.to_string(), "coldframe");
        text.replace(&self.registry.address.to_string(), "upstream")
    }
}

const LOCKFILE: &str = r#"{ "lockfileVersion": 3, "packages": {
    "node_modules/left-pad": { "version": "1.0.0", "resolved": "COLDFRAME/left-pad/-/left-pad-1.0.0.tgz" } } }"#;

#[tokio::test(flavor = "multi_thread")]
async fn correct_project_passes() {
    let place = Place::make().await;
    place.write("package-lock.json", LOCKFILE);
    place.write(".npmrc", "registry=COLDFRAME/\n@acme:registry=COLDFRAME/\nmin-release-age=3\n");
    let told = expect![[r#"
        ok       npm asks Coldframe at http://coldframe (`.npmrc`)
        note     npm has its own minimum release age (`.npmrc`)
        ok       package-lock.json has no entries that bypass Coldframe
        ok       Coldframe answers at http://coldframe/
        ok       the clock agrees with that of the server
        ok       the clock agrees with that of upstream
        note     direct connections to upstream are possible
                 why:  clients can bypass Coldframe unless the network allows egress to Coldframe only
                 fix:  coldframe run -- INSTALL COMMAND; or allow egress to Coldframe only
        warning  upstream sends no _npmUser, dist.signatures (checked with left-pad)
                 why:  rules that need it cannot decide; without `time`, age counts from when a release was first seen
                 fix:  coldframe serve --upstream URL, with the registry that the mirror copies
        note     no advisory feed is configured
                 why:  known malware is held by its age only
                 fix:  coldframe serve --feed PATH-or-URL

        installs here go through Coldframe (0 bypass, 1 warning)
    "#]];
    place.check(&mut place.command(&[]), 0, &told);
    let (code, text, _) = run(&mut place.command(&["--json"]));
    let told: Value = serde_json::from_str(&text).unwrap();
    assert_eq!((code, &told["passesThrough"]), (0, &Value::Bool(true)));
    // A variable beats the file.
    let mut strayed = place.command(&[]);
    strayed.env("npm_config_registry", &place.registry.url);
    let (code, text, _) = run(&mut strayed);
    assert!(code == 1 && text.contains("fix:  unset npm_config_registry; npm config set registry"), "{text}");
}

#[tokio::test(flavor = "multi_thread")]
async fn broken_project_gets_all_findings_without_secrets() {
    let place = Place::make().await;
    place.write(
        "package-lock.json",
        r#"{ "lockfileVersion": 3, "packages": {
    "node_modules/left-pad": { "version": "1.0.0", "resolved": "UPSTREAM/left-pad/-/left-pad-1.0.0.tgz" },
    "node_modules/strange": { "version": "1.0.0", "resolved": "https://user:s3cret@cdn.other.example/strange-1.0.0.tgz" } } }"#,
    );
    place.write("pnpm-lock.yaml", "lockfileVersion: '9.0'\n\nimporters:\n\n  .: {}\n");
    place.write(
        "yarn.lock",
        "__metadata:\n  version: 8\n\n\"left-pad@npm:1.0.0\":\n  version: 1.0.0\n  resolution: \"left-pad@npm:1.0.0\"\n",
    );
    place.write("bun.lock", "{ \"lockfileVersion\": 1, \"packages\": {} }");
    place.write(
        ".npmrc",
        "registry=UPSTREAM/\n@acme:registry=https://me:s3cret@npm.acme.example/\n//npm.acme.example/:_authToken=s3cret\nstrict-ssl=false\n",
    );
    place.write(".yarnrc.yml", "npmRegistryServer: UPSTREAM\nnpmScopes:\n  acme:\n    npmRegistryServer: https://npm.acme.example\n    npmAuthToken: s3cret\nnpmMinimalAgeGate: 0\n");
    place.write("bunfig.toml", "[install]\nregistry = { url = \"UPSTREAM\", token = \"s3cret\" }\n");
    place.write("pnpm-workspace.yaml", "registries:\n  default: UPSTREAM\nminimumReleaseAge: 0\n");
    let told = expect![[r#"
        bypass   npm asks http://upstream directly (registry from `.npmrc`)
                 why:  its installs are not checked
                 fix:  npm config set registry http://coldframe/ --location=project
        bypass   npm asks npm.acme.example for @acme directly (`.npmrc`)
                 why:  packages of this scope are not checked
                 fix:  npm config set @acme:registry http://coldframe/ --location=project
        warning  npm does not check certificates (`.npmrc`)
                 why:  a machine in the middle can impersonate the registry
                 fix:  npm config delete strict-ssl --location=project
        note     npm has no minimum release age of its own
                 why:  it protects installs that bypass Coldframe
                 fix:  npm config set min-release-age 3 --location=project
        bypass   pnpm 10 and older asks http://upstream directly (registry from `pnpm-workspace.yaml:2`)
                 why:  its installs are not checked
                 fix:  set registries.default to http://coldframe/ in `pnpm-workspace.yaml:2`
        bypass   pnpm 10 and older asks npm.acme.example for @acme directly (`.npmrc`)
                 why:  packages of this scope are not checked
                 fix:  npm config set @acme:registry http://coldframe/ --location=project
        warning  pnpm 10 and older does not check certificates (`.npmrc`)
                 why:  a machine in the middle can impersonate the registry
                 fix:  npm config delete strict-ssl --location=project
        note     pnpm 10 and older has its own minimum release age turned off (`pnpm-workspace.yaml:3`)
                 why:  it protects installs that bypass Coldframe
                 fix:  remove it from `pnpm-workspace.yaml:3`
        bypass   pnpm 11 and later asks http://upstream directly (registry from `pnpm-workspace.yaml:2`)
                 why:  its installs are not checked
                 fix:  set registries.default to http://coldframe/ in `pnpm-workspace.yaml:2`
        bypass   pnpm 11 and later asks npm.acme.example for @acme directly (`.npmrc`)
                 why:  packages of this scope are not checked
                 fix:  npm config set @acme:registry http://coldframe/ --location=project
        warning  pnpm 11 and later does not check certificates (`.npmrc`)
                 why:  a machine in the middle can impersonate the registry
                 fix:  npm config delete strict-ssl --location=project
        note     pnpm 11 and later has its own minimum release age turned off (`pnpm-workspace.yaml:3`)
                 why:  it protects installs that bypass Coldframe
                 fix:  remove it from `pnpm-workspace.yaml:3`
        bypass   yarn 2 and later asks http://upstream directly (registry from `.yarnrc.yml:1`)
                 why:  its installs are not checked
                 fix:  yarn config set npmRegistryServer http://coldframe/ && yarn config set unsafeHttpWhitelist --json '["127.0.0.1"]'
        bypass   yarn 2 and later asks npm.acme.example for @acme directly (`.yarnrc.yml:4`)
                 why:  packages of this scope are not checked
                 fix:  set the registry of @acme to http://coldframe/ in `.yarnrc.yml:4`
        note     yarn 2 and later has its own minimum release age turned off (`.yarnrc.yml:6`)
                 why:  it protects installs that bypass Coldframe
                 fix:  remove it from `.yarnrc.yml:6`
        bypass   bun asks http://upstream directly (registry from `.npmrc`)
                 why:  its installs are not checked
                 fix:  npm config set registry http://coldframe/ --location=project
        bypass   bun asks npm.acme.example for @acme directly (`.npmrc`)
                 why:  packages of this scope are not checked
                 fix:  set the registry of @acme to http://coldframe/ in `.npmrc`
        note     bun has no minimum release age of its own
                 why:  it protects installs that bypass Coldframe
                 fix:  set minimumReleaseAge = 259200 under [install] in bunfig.toml
        ok       bun.lock has no entries that bypass Coldframe
        bypass   package-lock.json: strange fetched from cdn.other.example
                 why:  clients fetch the addresses in a lockfile, regardless of the registry
                 fix:  coldframe run -- INSTALL COMMAND; or remove the addresses from the lockfile and install again
        bypass   package-lock.json: left-pad fetched from http://upstream
                 why:  clients fetch the addresses in a lockfile, regardless of the registry
                 fix:  coldframe run -- INSTALL COMMAND; or remove the addresses from the lockfile and install again
        ok       pnpm-lock.yaml has no entries that bypass Coldframe
        ok       yarn.lock has no entries that bypass Coldframe
        ok       Coldframe answers at http://coldframe/
        ok       the clock agrees with that of the server
        ok       the clock agrees with that of upstream
        note     direct connections to upstream are possible
                 why:  clients can bypass Coldframe unless the network allows egress to Coldframe only
                 fix:  coldframe run -- INSTALL COMMAND; or allow egress to Coldframe only
        warning  upstream sends no _npmUser, dist.signatures (checked with left-pad)
                 why:  rules that need it cannot decide; without `time`, age counts from when a release was first seen
                 fix:  coldframe serve --upstream URL, with the registry that the mirror copies
        note     no advisory feed is configured
                 why:  known malware is held by its age only
                 fix:  coldframe serve --feed PATH-or-URL

        installs here bypass Coldframe (12 bypass, 4 warning)
    "#]];
    place.check(&mut place.command(&[]), 1, &told);
    for flags in [&[][..], &["--json"]] {
        let (_, text, errors) = run(&mut place.command(flags));
        assert!(!text.contains("s3cret") && !errors.contains("s3cret"), "{text}{errors}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn unreachable_server_is_reported() {
    let place = Place::make().await;
    place.write("package-lock.json", LOCKFILE);
    place.write(".npmrc", "registry=COLDFRAME/\n");
    let mut command = place.command(&["--server", "http://127.0.0.1:9/"]);
    let (code, text, _) = run(&mut command);
    assert!(code == 0 && text.contains("warning  no Coldframe answers at http://127.0.0.1:9/"), "{text}");
    assert!(text.contains("fix:  coldframe serve"), "{text}");
}

/// A project whose clients ask a registry by its name.
fn by_name(place: &Place, port: u16, more: &str) {
    place.write("package-lock.json", r#"{ "lockfileVersion": 3, "packages": {} }"#);
    place.write(".npmrc", &format!("registry=https://localhost:{port}/\nmin-release-age=3\n{more}"));
}

/// The lines of what a command says that begin with one of these.
fn lines(command: &mut Command, of: &[&str]) -> (i32, String) {
    let (code, text, errors) = run(command);
    let mut kept = String::new();
    let mut keeps = false;
    for line in text.lines() {
        if !line.starts_with(' ') {
            keeps = of.iter().any(|part| line.contains(part));
        }
        if keeps {
            kept.push_str(line);
            kept.push('\n');
        }
    }
    assert!(!kept.is_empty(), "{text}{errors}");
    (code, kept)
}

#[tokio::test(flavor = "multi_thread")]
async fn ca_trust_is_checked_by_certificate_content() {
    let place = Place::make().await;
    place.write("package-lock.json", r#"{ "lockfileVersion": 3, "packages": {} }"#);
    place.write(".npmrc", "registry=https://registry.example/\nhttps-proxy=http://127.0.0.1:8080/\n");
    let flags = ["--gateway", "127.0.0.1:8080", "--intercept", "registry.example"];
    let other = TempDir::new().unwrap();
    let export = |data: &Path, name: &str| {
        for words in [&["ca", "init"][..], &["ca", "export", "--to", name]] {
            let mut command = coldframe(place.home.path());
            command.args(words).args(["--upstream", &place.registry.url]).args(flags).arg("--data-dir").arg(data);
            let (code, _, errors) = run(&mut command);
            assert_eq!(code, 0, "{errors}");
        }
    };
    export(place.data.path(), "right.pem");
    export(other.path(), "wrong.pem");
    std::fs::write(place.home.path().join("empty.pem"), "").unwrap();
    let told = |variable: &str, line: &str| {
        place.write(".npmrc", &format!("registry=https://registry.example/\nhttps-proxy=http://127.0.0.1:8080/\n{line}"));
        let mut command = place.command(&flags);
        command.env("NODE_EXTRA_CA_CERTS", variable);
        let (code, told) = lines(&mut command, &["gateway's CA"]);
        assert_eq!(code, 0);
        place.settled(&told)
    };
    let right = "ok       npm trusts the gateway's CA\n";
    let mend = "         why:  installs fail at TLS unless the system trusts it\n         fix:  coldframe ca trust\n";
    let missing = format!("warning  npm is not configured to trust the gateway's CA\n{mend}");
    let lacking = format!("warning  npm: the `cafile` from `.npmrc` does not contain the gateway's CA\n{mend}");
    assert_eq!(told("right.pem", ""), right);
    assert_eq!(told("", "cafile=right.pem\n"), right);
    for wrong in ["", "wrong.pem", "empty.pem", "nowhere.pem"] {
        assert_eq!(told(wrong, ""), missing, "{wrong}");
    }
    // What holds no certificate is told, and the rest is looked at all the same.
    let mut command = place.command(&flags);
    command.env("NODE_EXTRA_CA_CERTS", "empty.pem");
    let (code, shown) = lines(&mut command, &["a PEM certificate in", "answers at"]);
    assert_eq!(code, 0);
    expect![[r#"
        warning  cannot find a PEM certificate in `empty.pem`
                 why:  the server does not start with this file, and clients ignore it
                 fix:  use a PEM file of certificates, such as from `coldframe ca export --to FILE`
        ok       Coldframe answers at http://coldframe/
    "#]]
    .assert_eq(&place.settled(&shown));
    // It stands instead of the variable.
    assert_eq!(told("right.pem", "cafile=wrong.pem\n"), lacking);
}

#[tokio::test(flavor = "multi_thread")]
async fn redirected_connections_are_not_a_bypass() {
    use coldframe::clock::Clock as _;
    let place = Place::make().await;
    let name = rustls_pki_types::DnsName::try_from("localhost").unwrap();
    let now = machine_clock().now();
    let showing = async |data: &Path| {
        let kept = coldframe::tls::CaStore::new(data).load_or_create(std::slice::from_ref(&name), now).unwrap();
        let key = coldframe::tls::ca::LeafKey::generate().unwrap();
        let address = crate::chain::serve_tls(kept.current.issue(&name, &key, now).unwrap()).await;
        (address.port(), coldframe::tls::ca::pem(kept.current.certificate()))
    };
    let (port, _) = showing(place.data.path()).await;
    by_name(&place, port, "");
    let (code, told) = lines(&mut place.command(&[]), &["npm asks", "connections to", "gateway's CA", "installs"]);
    let told = told.replace(&port.to_string(), "PORT");
    expect![[r#"
        ok       npm asks localhost:PORT; its connections are redirected to the gateway (`.npmrc`)
        warning  npm is not configured to trust the gateway's CA
                 why:  installs fail at TLS unless the system trusts it
                 fix:  coldframe ca trust
        note     direct connections to upstream are possible
                 why:  clients can bypass Coldframe unless the network allows egress to Coldframe only
                 fix:  coldframe run -- INSTALL COMMAND; or allow egress to Coldframe only
        ok       connections to localhost:PORT are redirected to the gateway
        installs here go through Coldframe (0 bypass, 1 warning)
    "#]]
    .assert_eq(&place.settled(&told));
    assert_eq!(code, 0);
    // Another machine's: known by what clients here are told to trust.
    let far = TempDir::new().unwrap();
    let (port, certificate) = showing(far.path()).await;
    by_name(&place, port, "");
    place.write("far.pem", &certificate);
    let mut command = place.command(&[]);
    command.env("NODE_EXTRA_CA_CERTS", "far.pem");
    let (code, told) = lines(&mut command, &["npm asks", "gateway's CA"]);
    assert!(code == 0 && told.contains("redirected to the gateway") && told.contains("ok       npm trusts"), "{told}");
    // Behind another proxy the connection is that proxy's.
    by_name(&place, port, "https-proxy=http://127.0.0.1:9/\n");
    let mut command = place.command(&[]);
    command.env("NODE_EXTRA_CA_CERTS", "far.pem");
    let (code, told) = lines(&mut command, &["npm asks"]);
    assert!(code == 1 && told.starts_with("bypass   npm asks localhost"), "{told}");
    // A registry that shows somebody else's certificate is no gateway.
    by_name(&place, port, "");
    let (code, told) = lines(&mut place.command(&[]), &["npm asks"]);
    assert!(code == 1 && told.contains("directly"), "{told}");
}

#[tokio::test(flavor = "multi_thread")]
async fn clock_skew_is_reported_with_its_direction() {
    let place = Place::make().await;
    let ahead = machine_clock();
    ahead.advance(std::time::Duration::from_secs(3_600));
    let upstream = Registry::start(&ahead).await;
    let mut command = coldframe(place.home.path());
    command.env("PATH", place.home.path()).args(["doctor", "--upstream", &upstream.url, "--listen"]);
    command.arg(place.server.address.to_string()).arg("--data-dir").arg(place.data.path());
    let (_, told) = lines(&mut command, &["clock"]);
    let seconds = told.split("the local clock is ").nth(1).and_then(|rest| rest.split(' ').next()).unwrap();
    assert!((3_590..=3_601).contains(&seconds.parse::<u32>().unwrap()), "{told}");
    let told = told.replace(seconds, "3600");
    expect![[r#"
        ok       the clock agrees with that of the server
        warning  the local clock is 3600 s behind that of upstream
                 why:  release ages depend on the clock; a fast clock opens releases too early
                 fix:  timedatectl set-ntp true
    "#]]
    .assert_eq(&told);
    upstream.take_undeclared();
}

#[tokio::test(flavor = "multi_thread")]
async fn yarn_1_deno_and_pnpm_settings_follow_their_own_precedence() {
    let place = Place::make().await;
    place.write("yarn.lock", "# yarn lockfile v1\n\n\nleft-pad@1.0.0:\n  version \"1.0.0\"\n");
    place.write("deno.lock", r#"{ "version": "5" }"#);
    place.write("pnpm-lock.yaml", "lockfileVersion: '9.0'\n\nimporters:\n\n  .: {}\n");
    place.write(".npmrc", "registry=COLDFRAME/\n");
    place.write(".yarnrc", "registry \"UPSTREAM/\"\n");
    let settings = place.home.path().join(".config/pnpm");
    std::fs::create_dir_all(&settings).unwrap();
    place.write(".config/pnpm/rc", "registry=COLDFRAME/\n@acme:registry=https://npm.acme.example/\n");
    place.write(".config/pnpm/config.yaml", "registry: UPSTREAM/\nminimumReleaseAge: 4320\n");
    place.write(".config/pnpm/auth.ini", "@acme:registry=https://auth.acme.example/\n");
    let told = expect![[r#"
        ok       pnpm 10 and older asks Coldframe at http://coldframe (`.npmrc`)
        bypass   pnpm 10 and older asks npm.acme.example for @acme directly (`.config/pnpm/rc:2`)
                 why:  packages of this scope are not checked
                 fix:  npm config set @acme:registry http://coldframe/ --location=project
        bypass   pnpm 11 and later asks http://upstream directly (registry from `.config/pnpm/config.yaml:1`)
                 why:  its installs are not checked
                 fix:  set registry to http://coldframe/ in `.config/pnpm/config.yaml:1`
        bypass   pnpm 11 and later asks auth.acme.example for @acme directly (`.config/pnpm/auth.ini:1`)
                 why:  packages of this scope are not checked
                 fix:  npm config set @acme:registry http://coldframe/ --location=project
        bypass   yarn 1 asks http://upstream directly (registry from `.yarnrc:1`)
                 why:  its installs are not checked
                 fix:  set registry to http://coldframe/ in `.yarnrc:1`
        ok       deno asks Coldframe at http://coldframe (`.npmrc`)
    "#]];
    let mut command = place.command(&[]);
    let coldframe = format!("http://{}/", place.server.address);
    let (code, shown) = lines(&mut command, &["asks"]);
    told.assert_eq(&place.settled(&shown));
    assert_eq!(code, 1);
    // What a variable says beats every file; pnpm 11 and later has its own.
    let mut command = place.command(&[]);
    command.env("NPM_CONFIG_REGISTRY", &coldframe).env("pnpm_config_registry", &coldframe);
    let (_, shown) = lines(&mut command, &["yarn 1 asks", "deno asks", "pnpm 11 and later asks C"]);
    assert_eq!(shown.matches("ok       ").count(), 3, "{shown}");
    assert!(shown.contains("deno asks Coldframe at") && shown.contains("(`NPM_CONFIG_REGISTRY`)"), "{shown}");
}

#[tokio::test(flavor = "multi_thread")]
async fn suggested_client_age_is_that_of_the_running_server() {
    let (home, data) = (TempDir::new().unwrap(), TempDir::new().unwrap());
    let registry = Registry::start(&machine_clock()).await;
    let server = Program::serve(home.path(), data.path(), &registry.url, &["--min-release-age", "25h"]);
    for (name, text) in
        [("package-lock.json", "{ \"lockfileVersion\": 3, \"packages\": {} }"), ("bun.lock", "{ \"lockfileVersion\": 1 }")]
    {
        std::fs::write(home.path().join(name), text).unwrap();
    }
    let doctor = |flags: &[&str]| {
        let mut command = coldframe(home.path());
        command.arg("doctor").args(flags).arg("--data-dir").arg(data.path());
        run(command.current_dir(home.path())).1
    };
    // Rounded up, and whatever this command's own setting is.
    for told in [doctor(&[]), doctor(&["--min-release-age", "9d"])] {
        assert!(told.contains("npm config set min-release-age 2 --location=project"), "{told}");
        assert!(told.contains("minimumReleaseAge = 90000 below"), "{told}");
    }
    server.signal("-TERM");
    assert_eq!(server.ended().await.0, 0);
}
