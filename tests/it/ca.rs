//! The gateway's CA: creation at the first start, export, rotation and external CAs. Its private key is never printed.

use std::path::Path;

use tempfile::TempDir;

use crate::process::{Program, coldframe, machine_clock, run};
use crate::registry::Registry;

struct Setup {
    home: TempDir,
    data: TempDir,
    registry: Registry,
}

impl Setup {
    async fn new() -> Self {
        let registry = Registry::start(&machine_clock()).await;
        Self { home: TempDir::new().unwrap(), data: TempDir::new().unwrap(), registry }
    }

    fn ca(&self, words: &[&str]) -> (i32, String, String) {
        let mut command = coldframe(self.home.path());
        command.arg("ca").args(words).args(["--upstream", &self.registry.url, "--data-dir"]).arg(self.data.path());
        run(&mut command)
    }

    fn serve(&self, more: &[&str]) -> Program {
        Program::serve(self.home.path(), self.data.path(), &self.registry.url, &[&["--gateway", "127.0.0.1:0"], more].concat())
    }

    fn refused(&self, more: &[&str]) -> (i32, String) {
        let mut command = coldframe(self.home.path());
        command.args(["serve", "--listen", "127.0.0.1:0", "--gateway", "127.0.0.1:0", "--upstream", &self.registry.url]);
        let (code, _, errors) = run(command.arg("--data-dir").arg(self.data.path()).args(more));
        (code, errors)
    }
}

/// Returns all files below `folder` that contain a private key.
fn keys(folder: &Path) -> Vec<std::path::PathBuf> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(folder).unwrap().flatten() {
        let path = entry.path();
        if path.is_dir() {
            found.extend(keys(&path));
        } else if path.is_file() && std::fs::read(&path).unwrap().windows(11).any(|window| window == b"PRIVATE KEY") {
            found.push(path);
        }
    }
    found
}

#[tokio::test(flavor = "multi_thread")]
async fn ca_is_created_at_first_start_and_exported_while_the_server_runs() {
    let setup = Setup::new().await;
    let program = setup.serve(&["--intercept", "registry.example", "--log-level", "trace"]);
    assert!(program.greeting.contains("gateway") && program.greeting.contains("registry.example"), "{}", program.greeting);
    let key_files = keys(setup.data.path());
    assert_eq!(key_files.len(), 1, "{key_files:?}");
    #[cfg(unix)]
    {
        use std::os::unix::fs::PermissionsExt as _;
        assert_eq!(std::fs::metadata(&key_files[0]).unwrap().permissions().mode() & 0o777, 0o600);
    }
    let (code, printed, errors) = setup.ca(&["export", "--intercept", "registry.example"]);
    assert_eq!(code, 0, "{errors}");
    assert!(printed.starts_with("-----BEGIN CERTIFICATE-----\n") && printed.matches("BEGIN").count() == 1, "{printed}");
    assert!(std::fs::read_to_string(&key_files[0]).unwrap().replace('\r', "").contains(printed.trim_end()));
    let (code, text, _) = setup.ca(&["trust"]);
    assert!(code == 0 && text.contains("NODE_EXTRA_CA_CERTS") && text.contains("update-ca-certificates"), "{text}");
    program.signal("-TERM");
    let (code, log) = program.wait_for_exit().await;
    assert!(code == 0 && !log.contains("PRIVATE KEY"), "{log}");
}

#[tokio::test(flavor = "multi_thread")]
async fn added_host_requires_rotation_and_export_prints_both_cas() {
    let setup = Setup::new().await;
    let (code, text, errors) = setup.ca(&["init", "--intercept", "registry.example"]);
    assert!(code == 0 && text.contains("registry.example"), "{text}{errors}");
    let (code, text) = setup.refused(&["--intercept", "registry.example", "--intercept", "added.example"]);
    assert!(code == 2 && text.contains("ca rotate") && text.contains("`added.example`"), "{code} {text}");
    let (code, text, errors) = setup.ca(&["rotate", "--intercept", "registry.example", "--intercept", "added.example"]);
    assert!(code == 0 && text.contains("added.example") && text.contains("30 d"), "{text}{errors}");
    let (_, printed, _) = setup.ca(&["export"]);
    assert_eq!(printed.matches("BEGIN CERTIFICATE").count(), 2, "{printed}");
    drop(setup.serve(&["--intercept", "registry.example", "--intercept", "added.example"]));
}

/// Returns the issuer certificate that the gateway sends, or `None` if a client that trusts the active CA rejects it.
async fn issuer(scene: &crate::harness::Scene) -> Option<Vec<u8>> {
    let (_, stream) =
        crate::gateway_client::connect(crate::gateway_client::gateway_address(scene), "registry.example:443", "").await;
    let config = crate::gateway_client::tls_config(scene.data(), &scene.clock, &[]);
    let stream = crate::gateway_client::handshake(config, crate::gateway_client::REGISTRY, stream).await.ok()?;
    Some(stream.get_ref().1.peer_certificates()?.last()?.to_vec())
}

#[tokio::test(flavor = "multi_thread")]
async fn running_server_uses_rotated_ca() {
    let scene = crate::gateway_client::gateway().await;
    let first = issuer(&scene).await.unwrap();
    let name = rustls_pki_types::DnsName::try_from(crate::gateway_client::REGISTRY).unwrap();
    let default = coldframe::upstream::npmrc::npm_default_registry();
    let default = rustls_pki_types::DnsName::try_from(default.host_str().unwrap().to_owned()).unwrap();
    let ca_store = coldframe::tls::CaStore::new(scene.data());
    let now = coldframe::clock::Clock::now(&scene.clock);
    ca_store.rotate(&[name, default], std::time::Duration::ZERO, now).unwrap();
    let deadline = std::time::Instant::now() + std::time::Duration::from_secs(20);
    let second = loop {
        // Until the reload, the gateway's certificate is not signed by the active CA.
        if let Some(second) = issuer(&scene).await {
            break second;
        }
        assert!(std::time::Instant::now() < deadline, "the new CA is never used");
    };
    assert_ne!(first, second);
}

#[tokio::test(flavor = "multi_thread")]
async fn export_without_ca_fails_and_certificate_without_key_is_rejected() {
    let setup = Setup::new().await;
    let (code, printed, errors) = setup.ca(&["export"]);
    assert!(code == 1 && printed.is_empty() && errors.contains("coldframe ca init"), "{code} {errors}");
    let (code, text) = setup.refused(&["--ca-cert", "ca.pem"]);
    assert!(code == 2 && text.contains("`ca-cert` without `ca-key`"), "{code} {text}");
}

#[tokio::test(flavor = "multi_thread")]
async fn external_ca_issues_only_within_its_constraints() {
    let setup = Setup::new().await;
    let (certificate, key) = intermediate("registry.example");
    let files = [setup.home.path().join("ca.pem"), setup.home.path().join("ca.key")];
    std::fs::write(&files[0], &certificate).unwrap();
    std::fs::write(&files[1], &key).unwrap();
    let given = ["--ca-cert", files[0].to_str().unwrap(), "--ca-key", files[1].to_str().unwrap()];
    // npm's default registry is intercepted too, and this CA is not permitted to issue for it.
    let (code, text) = setup.refused(&[&given[..], &["--intercept", "registry.example"]].concat());
    assert!(code == 2 && text.contains("may not issue certificates for this host"), "{code} {text}");
    let (certificate, key) = intermediate("");
    std::fs::write(&files[0], &certificate).unwrap();
    std::fs::write(&files[1], &key).unwrap();
    drop(setup.serve(&[&given[..], &["--intercept", "registry.example"]].concat()));
    assert!(keys(setup.data.path()).is_empty());
    let (_, printed, _) = setup.ca(&[&["export"], &given[..]].concat());
    assert_eq!(printed, certificate);
    std::fs::write(&files[1], intermediate("").1).unwrap();
    let (code, text) = setup.refused(&given);
    assert!(code == 2 && text.contains("the private key does not match the certificate"), "{code} {text}");
}

#[tokio::test(flavor = "multi_thread")]
async fn running_server_uses_replaced_external_ca() {
    let home = TempDir::new().unwrap();
    let (certificate, key) = (home.path().join("ca.pem"), home.path().join("ca.key"));
    let write = |(pem, secret): (String, String)| {
        std::fs::write(&certificate, pem).unwrap();
        std::fs::write(&key, secret).unwrap();
    };
    write(intermediate(""));
    let opening = crate::gateway_client::gateway().set("ca-cert", certificate.to_str().unwrap());
    let scene = opening.set("ca-key", key.to_str().unwrap()).await;
    let is_signed = async |by: &Path| {
        let (_, stream) =
            crate::gateway_client::connect(crate::gateway_client::gateway_address(&scene), "registry.example:443", "").await;
        let config = crate::gateway_client::tls_config_for(by, &scene.clock, &[]);
        crate::gateway_client::handshake(config, crate::gateway_client::REGISTRY, stream).await.is_ok()
    };
    assert!(is_signed(&certificate).await);
    let first = home.path().join("first.pem");
    std::fs::copy(&certificate, &first).unwrap();
    write(intermediate(""));
    let deadline = std::time::Instant::now() + std::time::Duration::from_secs(20);
    while !is_signed(&certificate).await {
        assert!(std::time::Instant::now() < deadline, "the new CA is never used");
    }
    assert!(!is_signed(&first).await);
    // A CA that is not permitted for the intercepted hosts is not loaded.
    let second = home.path().join("second.pem");
    std::fs::copy(&certificate, &second).unwrap();
    write(intermediate("other.example"));
    // Longer than the poll interval of the files.
    for _ in 0..60 {
        assert!(is_signed(&second).await);
    }
    // A pipe is not read and does not block the reload of the next file.
    std::fs::remove_file(&certificate).unwrap();
    assert!(std::process::Command::new("mkfifo").arg(&certificate).status().unwrap().success());
    for _ in 0..60 {
        assert!(is_signed(&second).await);
    }
    std::fs::remove_file(&certificate).unwrap();
    write(intermediate(""));
    let deadline = std::time::Instant::now() + std::time::Duration::from_secs(20);
    while !is_signed(&certificate).await {
        assert!(std::time::Instant::now() < deadline, "the file that replaced the pipe is never used");
    }
}

/// Creates a CA that is constrained to `host` and its subdomains, or unconstrained if empty. Returns its certificate and key.
fn intermediate(host: &str) -> (String, String) {
    let key = rcgen::KeyPair::generate().unwrap();
    let mut parameters = rcgen::CertificateParams::new(Vec::new()).unwrap();
    parameters.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Constrained(0));
    parameters.key_usages = vec![rcgen::KeyUsagePurpose::KeyCertSign];
    let permitted = vec![rcgen::GeneralSubtree::DnsName(host.to_owned())];
    parameters.name_constraints =
        (!host.is_empty()).then(|| rcgen::NameConstraints { permitted_subtrees: permitted, excluded_subtrees: Vec::new() });
    let pem = parameters.self_signed(&key).unwrap().pem().replace('\r', "");
    (pem, key.serialize_pem())
}

#[tokio::test(flavor = "multi_thread")]
async fn tls_clients_accept_ca_for_its_hosts_only() {
    use coldframe::clock::Clock as _;
    let (data, clock) = (TempDir::new().unwrap(), machine_clock());
    let name = |host: &'static str| rustls_pki_types::DnsName::try_from(host).unwrap();
    let ca = coldframe::tls::CaStore::new(data.path()).load_or_create(&[name("registry.example")], clock.now()).unwrap();
    let roots = data.path().join("roots.pem");
    std::fs::write(&roots, coldframe::tls::ca::pem(ca.current.certificate())).unwrap();
    let key = coldframe::tls::ca::LeafKey::generate().unwrap();
    for (host, expected) in [("registry.example", true), ("other.example", false), ("localhost", false)] {
        let address = crate::tls_chain::serve_tls(ca.current.issue(&name(host), &key, clock.now()).unwrap()).await;
        let stream = tokio::net::TcpStream::connect(address).await.unwrap();
        let rustls =
            crate::gateway_client::handshake(crate::gateway_client::tls_config(data.path(), &clock, &[]), host, stream).await;
        assert_eq!(rustls.is_ok(), expected, "rustls: {host}");
        for mut program in crate::tls_chain::tls_clients(&roots, host, address) {
            let output = tokio::task::block_in_place(|| program.output());
            // A program may be missing on this machine; `tests/clients` requires all of them.
            let Ok(output) = output else { continue };
            let stderr = String::from_utf8_lossy(&output.stderr);
            assert_eq!(output.status.success(), expected, "{:?}: {host}: {stderr}", program.get_program());
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn export_writes_world_readable_file() {
    use std::os::unix::fs::PermissionsExt as _;

    let setup = Setup::new().await;
    let program = setup.serve(&["--intercept", "registry.example"]);
    let file = setup.home.path().join("shared.pem");
    std::fs::write(&file, "previous content").unwrap();
    let (code, text, errors) = setup.ca(&["export", "--intercept", "registry.example", "--to", &file.to_string_lossy()]);
    assert_eq!((code, &*text), (0, ""), "{errors}");
    let (_, printed, _) = setup.ca(&["export", "--intercept", "registry.example"]);
    assert!(printed.starts_with("-----BEGIN CERTIFICATE-----"), "{printed}");
    assert_eq!(std::fs::read_to_string(&file).unwrap(), printed);
    assert_eq!(std::fs::metadata(&file).unwrap().permissions().mode() & 0o777, 0o644);

    let nowhere = setup.home.path().join("missing/shared.pem");
    let (code, _, errors) = setup.ca(&["export", "--intercept", "registry.example", "--to", &nowhere.to_string_lossy()]);
    assert!(code == 1 && errors.contains("missing/shared.pem"), "{code} {errors}");
    drop(program);
}
