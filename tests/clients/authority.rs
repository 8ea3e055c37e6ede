//! The gateway's authority before every TLS that the issue names: taken at its word for its hosts, and for no other. Whoever is
//! not installed fails the test, by name.

use std::net::SocketAddr;
use std::path::Path;
use std::process::{Command, Stdio};

use coldframe::clock::Clock as _;
use coldframe::tls::ca::{LeafKey, pem};
use coldframe::tls::{CaStore, CertificateAuthority};
use rustls_pki_types::DnsName;
use tempfile::TempDir;

use crate::chain::{programs, showing};
use crate::program::machine_clock;

/// A client of Go's `crypto/tls`.
const GO: &str = r#"package main

import (
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"os"
)

func main() {
	roots := x509.NewCertPool()
	text, _ := os.ReadFile(os.Args[3])
	roots.AppendCertsFromPEM(text)
	connection, wrong := tls.Dial("tcp", os.Args[1], &tls.Config{ServerName: os.Args[2], RootCAs: roots})
	if wrong != nil {
		fmt.Fprintln(os.Stderr, wrong)
		os.Exit(7)
	}
	connection.Close()
}
"#;

fn name(host: &'static str) -> DnsName<'static> {
    DnsName::try_from(host).unwrap()
}

/// Builds the client; where there is no Go, that fails.
fn go(folder: &Path) -> std::path::PathBuf {
    let (source, built) = (folder.join("main.go"), folder.join("client"));
    std::fs::write(&source, GO).unwrap();
    let mut build = Command::new("go");
    build.env("GOTOOLCHAIN", "local").env("GOFLAGS", "-mod=mod").env("GOCACHE", folder.join("cache"));
    let output = build.arg("build").arg("-o").arg(&built).arg(&source).output().expect("`go` is needed (Debian: golang-go)");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    built
}

async fn shown(authority: &CertificateAuthority, host: &'static str) -> SocketAddr {
    let key = LeafKey::generate().unwrap();
    showing(authority.issue(&name(host), &key, machine_clock().now()).unwrap()).await
}

#[tokio::test(flavor = "multi_thread")]
async fn openssl_node_curl_and_go_take_its_word_for_its_hosts_and_for_no_other() {
    let folder = TempDir::new().unwrap();
    let kept = CaStore::new(folder.path()).load_or_create(&[name("registry.example")], machine_clock().now()).unwrap();
    let roots = folder.path().join("roots.pem");
    std::fs::write(&roots, pem(kept.current.certificate())).unwrap();
    let go = tokio::task::block_in_place(|| go(folder.path()));
    for (host, expected) in
        [("registry.example", true), ("below.registry.example", true), ("other.example", false), ("localhost", false)]
    {
        let address = shown(&kept.current, host).await;
        let mut gos = Command::new(&go);
        gos.args([&address.to_string(), host]).arg(&roots).stdin(Stdio::null());
        for mut program in programs(&roots, host, address).into_iter().chain([gos]) {
            let ended = tokio::task::block_in_place(|| program.output());
            let ended = ended.unwrap_or_else(|wrong| panic!("{:?} is needed: {wrong}", program.get_program()));
            let said = String::from_utf8_lossy(&ended.stderr);
            assert_eq!(ended.status.success(), expected, "{:?}: {host}: {said}", program.get_program());
        }
    }
}
