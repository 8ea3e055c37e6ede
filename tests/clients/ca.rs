//! Every common TLS library accepts the gateway's certificate authority for its hosts and for no others. The test fails if one of
//! the programs is not installed.

use std::net::SocketAddr;
use std::path::Path;
use std::process::{Command, Stdio};

use coldframe::clock::Clock as _;
use coldframe::tls::ca::{LeafKey, pem};
use coldframe::tls::{CaStore, CertificateAuthority};
use rustls_pki_types::DnsName;
use tempfile::TempDir;

use crate::process::machine_clock;
use crate::tls_chain::{serve_tls, tls_clients};

/// A client with Go's `crypto/tls`.
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
	connection, err := tls.Dial("tcp", os.Args[1], &tls.Config{ServerName: os.Args[2], RootCAs: roots})
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(7)
	}
	connection.Close()
}
"#;

fn name(host: &'static str) -> DnsName<'static> {
    DnsName::try_from(host).unwrap()
}

/// Builds the Go client. Panics if Go is not installed.
fn build_go_client(folder: &Path) -> std::path::PathBuf {
    let (source, built) = (folder.join("main.go"), folder.join("client"));
    std::fs::write(&source, GO).unwrap();
    let mut build = Command::new("go");
    build.env("GOTOOLCHAIN", "local").env("GOFLAGS", "-mod=mod").env("GOCACHE", folder.join("cache"));
    let output = build.arg("build").arg("-o").arg(&built).arg(&source).output().expect("`go` is needed (Debian: golang-go)");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    built
}

/// Starts a TLS server with a certificate for `host`.
async fn serve_certificate(authority: &CertificateAuthority, host: &'static str) -> SocketAddr {
    let key = LeafKey::generate().unwrap();
    serve_tls(authority.issue(&name(host), &key, machine_clock().now()).unwrap()).await
}

#[tokio::test(flavor = "multi_thread")]
async fn openssl_node_curl_and_go_accept_the_authority_only_for_its_hosts() {
    let folder = TempDir::new().unwrap();
    let authorities = CaStore::new(folder.path()).load_or_create(&[name("registry.example")], machine_clock().now()).unwrap();
    let roots = folder.path().join("roots.pem");
    std::fs::write(&roots, pem(authorities.current.certificate())).unwrap();
    let go_client = tokio::task::block_in_place(|| build_go_client(folder.path()));
    for (host, expected) in
        [("registry.example", true), ("below.registry.example", true), ("other.example", false), ("localhost", false)]
    {
        let address = serve_certificate(&authorities.current, host).await;
        let mut go = Command::new(&go_client);
        go.args([&address.to_string(), host]).arg(&roots).stdin(Stdio::null());
        for mut program in tls_clients(&roots, host, address).into_iter().chain([go]) {
            let ended = tokio::task::block_in_place(|| program.output());
            let ended = ended.unwrap_or_else(|error| panic!("cannot run {:?}: {error}", program.get_program()));
            let errors = String::from_utf8_lossy(&ended.stderr);
            assert_eq!(ended.status.success(), expected, "{:?}: {host}: {errors}", program.get_program());
        }
    }
}
