//! `coldframe doctor`: findings for a correctly configured project and for broken ones.

use std::path::Path;
use std::process::Command;

use expect_test::{Expect, expect};
use serde_json::Value;
use tempfile::TempDir;

use crate::package::Package;
use crate::process::{Program, coldframe, machine_clock, run};
use crate::registry::Registry;

/// A project and a running Coldframe.
struct Setup {
    home: TempDir,
    data: TempDir,
    registry: Registry,
    server: Program,
}

impl Setup {
    async fn new() -> Self {
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

    fn check(&self, command: &mut Command, code: i32, expected: &Expect) {
        let (ended, text, errors) = run(command);
        expected.assert_eq(&self.normalize(&text));
        assert_eq!(ended, code, "{errors}");
    }

    fn normalize(&self, text: &str) -> String {
        let folder = |folder: &Path| format!("{}/", folder.display());
        let text = text.replace(&folder(self.home.path()), "").replace(&self.server.address.to_string(), "coldframe");
        text.replace(&self.registry.address.to_string(), "upstream")
    }
}

const LOCKFILE: &str = r#"{ "lockfileVersion": 3, "packages": {
    "node_modules/left-pad": { "version": "1.0.0", "resolved": "COLDFRAME/left-pad/-/left-pad-1.0.0.tgz" } } }"#;

#[tokio::test(flavor = "multi_thread")]
async fn correct_project_passes() {
    let setup = Setup::new().await;
    setup.write("package-lock.json", LOCKFILE);
    setup.write(".npmrc", "registry=COLDFRAME/\n@acme:registry=COLDFRAME/\nmin-release-age=3\n");
    let expected = expect![[r#"
        ok       npm asks Coldframe at http://coldframe (`.npmrc`)
        note     npm has its own minimum release age (`.npmrc`)
        ok       package-lock.json has no entries that bypass Coldframe
        ok       Coldframe answers at http://coldframe/
        ok       the clock agrees with that of the server
        ok       the clock agrees with that of upstream
        note     direct connections to upstream are possible
                 why:  clients can bypass Coldframe unless the network allows egress to Coldframe only
                 fix:  coldframe run -- INSTALL COMMAND; or allow egress to Coldframe only
        warning  upstream sends no _npmUser, dist.signatures, dist.attestations (checked with left-pad); signals not observable: provenance-lost, trusted-publisher-lost, provenance-dropped, ci-to-human, new-publisher, publisher-email-changed, maintainers-changed, signature-lost, provenance-repository-changed, provenance-workflow-changed
                 why:  rules that need it cannot decide; without `time`, age counts from when a release was first seen
                 fix:  coldframe serve --upstream URL, with the registry that the mirror copies
        note     no advisory feed is configured
                 why:  known malware is held by its age only
                 fix:  coldframe serve --feed PATH-or-URL

        installs here go through Coldframe (0 bypass, 1 warning)
    "#]];
    setup.check(&mut setup.command(&[]), 0, &expected);
    let (code, text, _) = run(&mut setup.command(&["--json"]));
    let text: Value = serde_json::from_str(&text).unwrap();
    assert_eq!((code, &text["passesThrough"]), (0, &Value::Bool(true)));
    // An environment variable overrides the file.
    let mut command = setup.command(&[]);
    command.env("npm_config_registry", &setup.registry.url);
    let (code, text, _) = run(&mut command);
    assert!(code == 1 && text.contains("fix:  unset npm_config_registry; npm config set registry"), "{text}");
}

#[tokio::test(flavor = "multi_thread")]
async fn broken_project_gets_all_findings_without_secrets() {
    let setup = Setup::new().await;
    setup.write(
        "package-lock.json",
        r#"{ "lockfileVersion": 3, "packages": {
    "node_modules/left-pad": { "version": "1.0.0", "resolved": "UPSTREAM/left-pad/-/left-pad-1.0.0.tgz" },
    "node_modules/strange": { "version": "1.0.0", "resolved": "https://user:s3cret@cdn.other.example/strange-1.0.0.tgz" } } }"#,
    );
    setup.write("pnpm-lock.yaml", "lockfileVersion: '9.0'\n\nimporters:\n\n  .: {}\n");
    setup.write(
        "yarn.lock",
        "__metadata:\n  version: 8\n\n\"left-pad@npm:1.0.0\":\n  version: 1.0.0\n  resolution: \"left-pad@npm:1.0.0\"\n",
    );
    setup.write("bun.lock", "{ \"lockfileVersion\": 1, \"packages\": {} }");
    setup.write(
        ".npmrc",
        "registry=UPSTREAM/\n@acme:registry=https://me:s3cret@npm.acme.example/\n//npm.acme.example/:_authToken=s3cret\nstrict-ssl=false\n",
    );
    setup.write(".yarnrc.yml", "npmRegistryServer: UPSTREAM\nnpmScopes:\n  acme:\n    npmRegistryServer: https://npm.acme.example\n    npmAuthToken: s3cret\nnpmMinimalAgeGate: 0\n");
    setup.write("bunfig.toml", "[install]\nregistry = { url = \"UPSTREAM\", token = \"s3cret\" }\n");
    setup.write("pnpm-workspace.yaml", "registries:\n  default: UPSTREAM\nminimumReleaseAge: 0\n");
    let expected = expect![[r#"
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
        warning  upstream sends no _npmUser, dist.signatures, dist.attestations (checked with left-pad); signals not observable: provenance-lost, trusted-publisher-lost, provenance-dropped, ci-to-human, new-publisher, publisher-email-changed, maintainers-changed, signature-lost, provenance-repository-changed, provenance-workflow-changed
                 why:  rules that need it cannot decide; without `time`, age counts from when a release was first seen
                 fix:  coldframe serve --upstream URL, with the registry that the mirror copies
        note     no advisory feed is configured
                 why:  known malware is held by its age only
                 fix:  coldframe serve --feed PATH-or-URL

        installs here bypass Coldframe (12 bypass, 4 warning)
    "#]];
    setup.check(&mut setup.command(&[]), 1, &expected);
    for flags in [&[][..], &["--json"]] {
        let (_, text, errors) = run(&mut setup.command(flags));
        assert!(!text.contains("s3cret") && !errors.contains("s3cret"), "{text}{errors}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn unreachable_server_is_reported() {
    let setup = Setup::new().await;
    setup.write("package-lock.json", LOCKFILE);
    setup.write(".npmrc", "registry=COLDFRAME/\n");
    let mut command = setup.command(&["--server", "http://127.0.0.1:9/"]);
    let (code, text, _) = run(&mut command);
    assert!(code == 0 && text.contains("warning  no Coldframe answers at http://127.0.0.1:9/"), "{text}");
    assert!(text.contains("fix:  coldframe serve"), "{text}");
}

/// Writes a project whose clients use a registry at `localhost`.
fn write_localhost_project(setup: &Setup, port: u16, more: &str) {
    setup.write("package-lock.json", r#"{ "lockfileVersion": 3, "packages": {} }"#);
    setup.write(".npmrc", &format!("registry=https://localhost:{port}/\nmin-release-age=3\n{more}"));
}

/// Runs a command and returns the exit code and the findings whose first line contains one of `parts`.
fn findings(command: &mut Command, parts: &[&str]) -> (i32, String) {
    let (code, text, errors) = run(command);
    let mut found = String::new();
    let mut keeps = false;
    for line in text.lines() {
        if !line.starts_with(' ') {
            keeps = parts.iter().any(|part| line.contains(part));
        }
        if keeps {
            found.push_str(line);
            found.push('\n');
        }
    }
    assert!(!found.is_empty(), "{text}{errors}");
    (code, found)
}

#[tokio::test(flavor = "multi_thread")]
async fn ca_trust_is_checked_by_certificate_content() {
    let setup = Setup::new().await;
    setup.write("package-lock.json", r#"{ "lockfileVersion": 3, "packages": {} }"#);
    setup.write(".npmrc", "registry=https://registry.example/\nhttps-proxy=http://127.0.0.1:8080/\n");
    let flags = ["--gateway", "127.0.0.1:8080", "--intercept", "registry.example"];
    let other = TempDir::new().unwrap();
    let export = |data: &Path, name: &str| {
        for words in [&["ca", "init"][..], &["ca", "export", "--to", name]] {
            let mut command = coldframe(setup.home.path());
            command.args(words).args(["--upstream", &setup.registry.url]).args(flags).arg("--data-dir").arg(data);
            let (code, _, errors) = run(&mut command);
            assert_eq!(code, 0, "{errors}");
        }
    };
    export(setup.data.path(), "right.pem");
    export(other.path(), "wrong.pem");
    std::fs::write(setup.home.path().join("empty.pem"), "").unwrap();
    let finding = |variable: &str, line: &str| {
        setup.write(".npmrc", &format!("registry=https://registry.example/\nhttps-proxy=http://127.0.0.1:8080/\n{line}"));
        let mut command = setup.command(&flags);
        command.env("NODE_EXTRA_CA_CERTS", variable);
        let (code, text) = findings(&mut command, &["gateway's CA"]);
        assert_eq!(code, 0);
        setup.normalize(&text)
    };
    let right = "ok       npm trusts the gateway's CA\n";
    let fix = "         why:  installs fail at TLS unless the system trusts it\n         fix:  coldframe ca trust\n";
    let missing = format!("warning  npm is not configured to trust the gateway's CA\n{fix}");
    let lacking = format!("warning  npm: the `cafile` from `.npmrc` does not contain the gateway's CA\n{fix}");
    assert_eq!(finding("right.pem", ""), right);
    assert_eq!(finding("", "cafile=right.pem\n"), right);
    for file in ["", "wrong.pem", "empty.pem", "nowhere.pem"] {
        assert_eq!(finding(file, ""), missing, "{file}");
    }
    // A file without a certificate is reported, and the other checks still run.
    let mut command = setup.command(&flags);
    command.env("NODE_EXTRA_CA_CERTS", "empty.pem");
    let (code, shown) = findings(&mut command, &["a PEM certificate in", "answers at"]);
    assert_eq!(code, 0);
    expect![[r#"
        warning  cannot find a PEM certificate in `empty.pem`
                 why:  the server does not start with this file, and clients ignore it
                 fix:  use a PEM file of certificates, such as from `coldframe ca export --to FILE`
        ok       Coldframe answers at http://coldframe/
    "#]]
    .assert_eq(&setup.normalize(&shown));
    // `cafile` replaces the variable.
    assert_eq!(finding("right.pem", "cafile=wrong.pem\n"), lacking);
}

#[tokio::test(flavor = "multi_thread")]
async fn redirected_connections_are_not_a_bypass() {
    use coldframe::clock::Clock as _;
    let setup = Setup::new().await;
    let name = rustls_pki_types::DnsName::try_from("localhost").unwrap();
    let now = machine_clock().now();
    let serve_tls = async |data: &Path| {
        let ca = coldframe::tls::CaStore::new(data).load_or_create(std::slice::from_ref(&name), now).unwrap();
        let key = coldframe::tls::ca::LeafKey::generate().unwrap();
        let address = crate::tls_chain::serve_tls(ca.current.issue(&name, &key, now).unwrap()).await;
        (address.port(), coldframe::tls::ca::pem(ca.current.certificate()))
    };
    let (port, _) = serve_tls(setup.data.path()).await;
    write_localhost_project(&setup, port, "");
    let (code, text) = findings(&mut setup.command(&[]), &["npm asks", "connections to", "gateway's CA", "installs"]);
    let text = text.replace(&port.to_string(), "PORT");
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
    .assert_eq(&setup.normalize(&text));
    assert_eq!(code, 0);
    // The gateway of another machine is recognized by the CA that clients here are configured to trust.
    let far = TempDir::new().unwrap();
    let (port, certificate) = serve_tls(far.path()).await;
    write_localhost_project(&setup, port, "");
    setup.write("far.pem", &certificate);
    let mut command = setup.command(&[]);
    command.env("NODE_EXTRA_CA_CERTS", "far.pem");
    let (code, text) = findings(&mut command, &["npm asks", "gateway's CA"]);
    assert!(code == 0 && text.contains("redirected to the gateway") && text.contains("ok       npm trusts"), "{text}");
    // With another proxy configured, the client does not connect to the gateway.
    write_localhost_project(&setup, port, "https-proxy=http://127.0.0.1:9/\n");
    let mut command = setup.command(&[]);
    command.env("NODE_EXTRA_CA_CERTS", "far.pem");
    let (code, text) = findings(&mut command, &["npm asks"]);
    assert!(code == 1 && text.starts_with("bypass   npm asks localhost"), "{text}");
    // A registry with a certificate from an unknown CA is not a gateway.
    write_localhost_project(&setup, port, "");
    let (code, text) = findings(&mut setup.command(&[]), &["npm asks"]);
    assert!(code == 1 && text.contains("directly"), "{text}");
}

#[tokio::test(flavor = "multi_thread")]
async fn clock_skew_is_reported_with_its_direction() {
    let setup = Setup::new().await;
    let ahead = machine_clock();
    ahead.advance(std::time::Duration::from_secs(3_600));
    let upstream = Registry::start(&ahead).await;
    let mut command = coldframe(setup.home.path());
    command.env("PATH", setup.home.path()).args(["doctor", "--upstream", &upstream.url, "--listen"]);
    command.arg(setup.server.address.to_string()).arg("--data-dir").arg(setup.data.path());
    let (_, text) = findings(&mut command, &["clock"]);
    let seconds = text.split("the local clock is ").nth(1).and_then(|rest| rest.split(' ').next()).unwrap();
    assert!((3_590..=3_601).contains(&seconds.parse::<u32>().unwrap()), "{text}");
    let text = text.replace(seconds, "3600");
    expect![[r#"
        ok       the clock agrees with that of the server
        warning  the local clock is 3600 s behind that of upstream
                 why:  release ages depend on the clock; a fast clock opens releases too early
                 fix:  timedatectl set-ntp true
    "#]]
    .assert_eq(&text);
    upstream.take_undeclared();
}

#[tokio::test(flavor = "multi_thread")]
async fn yarn_1_deno_and_pnpm_settings_follow_their_own_precedence() {
    let setup = Setup::new().await;
    setup.write("yarn.lock", "# yarn lockfile v1\n\n\nleft-pad@1.0.0:\n  version \"1.0.0\"\n");
    setup.write("deno.lock", r#"{ "version": "5" }"#);
    setup.write("pnpm-lock.yaml", "lockfileVersion: '9.0'\n\nimporters:\n\n  .: {}\n");
    setup.write(".npmrc", "registry=COLDFRAME/\n");
    setup.write(".yarnrc", "registry \"UPSTREAM/\"\n");
    let settings = setup.home.path().join(".config/pnpm");
    std::fs::create_dir_all(&settings).unwrap();
    setup.write(".config/pnpm/rc", "registry=COLDFRAME/\n@acme:registry=https://npm.acme.example/\n");
    setup.write(".config/pnpm/config.yaml", "registry: UPSTREAM/\nminimumReleaseAge: 4320\n");
    setup.write(".config/pnpm/auth.ini", "@acme:registry=https://auth.acme.example/\n");
    let expected = expect![[r#"
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
    let mut command = setup.command(&[]);
    let coldframe = format!("http://{}/", setup.server.address);
    let (code, shown) = findings(&mut command, &["asks"]);
    expected.assert_eq(&setup.normalize(&shown));
    assert_eq!(code, 1);
    // Environment variables override every file; pnpm 11 and later has its own variable.
    let mut command = setup.command(&[]);
    command.env("NPM_CONFIG_REGISTRY", &coldframe).env("pnpm_config_registry", &coldframe);
    let (_, shown) = findings(&mut command, &["yarn 1 asks", "deno asks", "pnpm 11 and later asks C"]);
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
    // Rounded up to whole days for npm, and independent of this command's own setting.
    for text in [doctor(&[]), doctor(&["--min-release-age", "9d"])] {
        assert!(text.contains("npm config set min-release-age 2 --location=project"), "{text}");
        assert!(text.contains("minimumReleaseAge = 90000 under"), "{text}");
    }
    server.signal("-TERM");
    assert_eq!(server.wait_for_exit().await.0, 0);
}
