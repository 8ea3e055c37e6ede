//! A client that sends exact bytes and returns the exact response.

use std::future::{Future, IntoFuture};
use std::net::SocketAddr;
use std::pin::Pin;

use tokio::io::AsyncWriteExt as _;
use tokio::net::TcpStream;
use tokio::task::JoinHandle;

use crate::package::gzip;
use crate::raw_http::{Headers, Response};

/// The `accept` header of pnpm, bun, yarn 1 and npm up to 9.
pub const ABBREVIATED: &str = "application/vnd.npm.install-v1+json; q=1.0, application/json; q=0.8, */*";

/// A request builder; awaiting it sends the request.
#[derive(Clone)]
#[must_use = "a request is sent when it is awaited"]
pub struct Ask {
    address: SocketAddr,
    method: String,
    path: String,
    headers: Headers,
    body: Vec<u8>,
}

impl Ask {
    pub fn new(address: SocketAddr, method: &str, path: &str) -> Self {
        let mut headers = Headers::default();
        headers.set("host", address.to_string());
        Self { address, method: method.to_owned(), path: path.to_owned(), headers, body: Vec::new() }
    }

    pub fn header(mut self, name: &str, value: &str) -> Self {
        self.headers.set(name, value);
        self
    }

    pub fn accept(self, accept: &str) -> Self {
        self.header("accept", accept)
    }

    /// Requests the abbreviated form with the `accept` header of most clients.
    pub fn abbreviated(self) -> Self {
        self.accept(ABBREVIATED)
    }

    pub fn gzip(self) -> Self {
        self.header("accept-encoding", "gzip, deflate, br")
    }

    /// Sends the headers of `npm install` of this version.
    pub fn npm(self, version: &str) -> Self {
        self.header("user-agent", &format!("npm/{version} node/v22.23.3 linux x64 workspaces/false"))
            .header("npm-command", "install")
    }

    pub fn token(self, token: &str) -> Self {
        self.header("authorization", &format!("Bearer {token}"))
    }

    pub fn if_none_match(self, etag: &str) -> Self {
        self.header("if-none-match", etag)
    }

    pub fn json(mut self, body: &serde_json::Value) -> Self {
        self.body = body.to_string().into_bytes();
        self.header("content-type", "application/json")
    }

    /// Compresses the body with gzip, as npm does for audits.
    pub fn gzip_body(mut self) -> Self {
        self.body = gzip(&self.body);
        self.header("content-encoding", "gzip")
    }

    pub fn body(mut self, body: impl Into<Vec<u8>>) -> Self {
        self.body = body.into();
        self
    }

    /// Sends the request in a task. Aborting the handle closes the connection.
    pub fn start(self) -> JoinHandle<Response> {
        tokio::spawn(self.into_future())
    }

    /// Sends the request. A truncated response is an error, not a failed test.
    pub async fn attempt(self) -> std::io::Result<Response> {
        let mut stream = TcpStream::connect(self.address).await?;
        let mut head = format!("{} {} HTTP/1.1\r\n", self.method, self.path);
        for (name, value) in &self.headers.0 {
            head.push_str(&format!("{name}: {value}\r\n"));
        }
        if !self.body.is_empty() || matches!(self.method.as_str(), "POST" | "PUT") {
            head.push_str(&format!("content-length: {}\r\n", self.body.len()));
        }
        head.push_str("connection: close\r\n\r\n");
        stream.write_all(head.as_bytes()).await?;
        stream.write_all(&self.body).await?;
        Response::read(&mut stream, self.method == "HEAD").await
    }
}

impl IntoFuture for Ask {
    type Output = Response;
    type IntoFuture = Pin<Box<dyn Future<Output = Response> + Send>>;

    fn into_future(self) -> Self::IntoFuture {
        Box::pin(async move {
            let request = format!("{} {}", self.method, self.path);
            match tokio::time::timeout(std::time::Duration::from_secs(60), self.attempt()).await {
                Ok(Ok(response)) => response,
                Ok(Err(error)) => panic!("{request}: {error}"),
                Err(_elapsed @ tokio::time::error::Elapsed { .. }) => panic!("{request}: no answer within a minute"),
            }
        })
    }
}

/// Sends raw bytes and returns everything the server sends until it closes. Used for requests that no client would send.
pub async fn raw(address: SocketAddr, bytes: &[u8]) -> String {
    let mut stream = TcpStream::connect(address).await.expect("a connection");
    stream.write_all(bytes).await.expect("an open connection");
    stream.shutdown().await.expect("an open connection");
    let mut answer = Vec::new();
    // A server that refuses early may reset the connection; the bytes received before still count.
    let _ = tokio::io::AsyncReadExt::read_to_end(&mut stream, &mut answer).await;
    String::from_utf8_lossy(&answer).into_owned()
}
