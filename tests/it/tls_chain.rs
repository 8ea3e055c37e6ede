//! A TLS server with a given certificate, and clients with other TLS implementations that verify it.

use std::net::SocketAddr;
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::Arc;

use tokio::io::AsyncWriteExt as _;
use tokio::net::TcpListener;
use tokio_rustls::TlsAcceptor;

/// Starts a TLS server that sends the certificate of `key` and answers every request with an empty body. Returns its address.
pub async fn serve_tls(key: rustls::sign::CertifiedKey) -> SocketAddr {
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let resolver = Arc::new(rustls::sign::SingleCertAndKey::from(key));
    let config = rustls::ServerConfig::builder_with_provider(provider).with_safe_default_protocol_versions().expect("TLS");
    let acceptor = TlsAcceptor::from(Arc::new(config.with_no_client_auth().with_cert_resolver(resolver)));
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let address = listener.local_addr().expect("its address");
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let acceptor = acceptor.clone();
            tokio::spawn(async move {
                let Ok(mut stream) = acceptor.accept(stream).await else { return };
                let answer = b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\nconnection: close\r\n\r\n";
                // Keeps the connection open until the client closes it.
                if stream.write_all(answer).await.is_ok() {
                    drop(tokio::io::copy(&mut stream, &mut tokio::io::sink()).await);
                }
            });
        }
    });
    address
}

/// Returns commands that connect to `host` at `address` and trust only `roots`. Each exits with 0 if its TLS handshake succeeds.
pub fn tls_clients(roots: &Path, host: &str, address: SocketAddr) -> [Command; 3] {
    let mut openssl = Command::new("openssl");
    openssl.args(["s_client", "-connect", &address.to_string(), "-servername", host, "-verify_hostname", host]);
    openssl.args(["-verify_return_error", "-brief", "-CAfile"]).arg(roots);
    let mut node = Command::new("node");
    let script = "const [port, servername, roots] = process.argv.slice(1);
        const socket = require('tls').connect({ port, host: '127.0.0.1', servername, ca: require('fs').readFileSync(roots) });
        socket.on('secureConnect', () => process.exit(0)).on('error', (error) => { console.error(error); process.exit(7) });";
    node.args(["-e", script, &address.port().to_string(), host]).arg(roots);
    let mut curl = Command::new("curl");
    let port = address.port();
    curl.args(["--silent", "--show-error", "--max-time", "60", "--noproxy", "*"]);
    curl.args(["--resolve", &format!("{host}:{port}:127.0.0.1"), &format!("https://{host}:{port}/"), "--cacert"]).arg(roots);
    let mut all = [openssl, node, curl];
    for program in &mut all {
        program.stdin(Stdio::null());
        // These variables would add trusted certificates.
        for name in ["NODE_EXTRA_CA_CERTS", "SSL_CERT_FILE", "SSL_CERT_DIR"] {
            program.env_remove(name);
        }
    }
    all
}
