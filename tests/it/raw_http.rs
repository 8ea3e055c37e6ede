//! A minimal HTTP/1.1 reader for both ends of a test. Tests write their bytes themselves, so that they can send invalid messages.

use std::collections::BTreeMap;
use std::io::{Error, ErrorKind, Read as _, Result};

use serde_json::Value;
use tokio::io::{AsyncBufReadExt as _, AsyncRead, AsyncReadExt as _, BufReader};

/// Header lines in the order received, with lower-case names.
#[derive(Debug, Clone, Default)]
pub struct Headers(pub Vec<(String, String)>);

impl Headers {
    /// The first value of a header.
    pub fn first(&self, name: &str) -> Option<&str> {
        self.0.iter().find(|(known, _)| known == name).map(|(_, value)| value.as_str())
    }

    /// Sets a header and removes all others of that name.
    pub fn set(&mut self, name: &str, value: impl Into<String>) {
        self.0.retain(|(known, _)| known != name);
        self.0.push((name.to_owned(), value.into()));
    }
}

/// Reads the first line and the headers of a message. Returns `None` if the connection ended cleanly.
pub async fn read_head<S: AsyncRead + Unpin>(stream: &mut BufReader<S>) -> Result<Option<(String, Headers)>> {
    let mut first = String::new();
    if stream.read_line(&mut first).await? == 0 {
        return Ok(None);
    }
    let mut headers = Headers::default();
    loop {
        let mut line = String::new();
        if stream.read_line(&mut line).await? == 0 {
            return Err(Error::new(ErrorKind::UnexpectedEof, "the head ended early"));
        }
        let Some((name, value)) = line.trim_end().split_once(':') else { break };
        headers.0.push((name.to_ascii_lowercase(), value.trim().to_owned()));
    }
    Ok(Some((first.trim_end().to_owned(), headers)))
}

/// Reads a body by the framing in `headers`. With `to_end`, a body without framing runs to the end of the connection.
pub async fn read_body<S: AsyncRead + Unpin>(stream: &mut BufReader<S>, headers: &Headers, to_end: bool) -> Result<Vec<u8>> {
    let mut body = Vec::new();
    if headers.first("transfer-encoding").is_some() {
        loop {
            let mut line = String::new();
            stream.read_line(&mut line).await?;
            let length = usize::from_str_radix(line.trim(), 16).map_err(|_| Error::new(ErrorKind::InvalidData, "not a chunk"))?;
            let start = body.len();
            body.resize(start + length, 0);
            stream.read_exact(&mut body[start..]).await?;
            stream.read_line(&mut line).await?;
            if length == 0 {
                return Ok(body);
            }
        }
    }
    match headers.first("content-length").and_then(|length| length.parse().ok()) {
        Some(length) => {
            body.resize(length, 0);
            stream.read_exact(&mut body).await?;
        }
        None if to_end => {
            stream.read_to_end(&mut body).await?;
        }
        None => {}
    }
    Ok(body)
}

#[derive(Debug, Clone)]
pub struct Response {
    pub status: u16,
    /// The reason phrase.
    pub reason: String,
    pub headers: Headers,
    /// The raw body, still compressed.
    pub body: Vec<u8>,
}

impl Response {
    /// Reads a response. `bodiless` is set for responses to HEAD.
    pub async fn read<S: AsyncRead + Unpin>(stream: S, bodiless: bool) -> Result<Self> {
        let mut stream = BufReader::new(stream);
        let (first, headers) = read_head(&mut stream).await?.ok_or_else(|| Error::new(ErrorKind::UnexpectedEof, "no answer"))?;
        let mut words = first.splitn(3, ' ').skip(1);
        let status = words.next().and_then(|status| status.parse().ok()).unwrap_or(0);
        let reason = words.next().unwrap_or_default().to_owned();
        let bodiless = bodiless || status == 304 || status == 204;
        let body = if bodiless { Vec::new() } else { read_body(&mut stream, &headers, true).await? };
        Ok(Self { status, reason, headers, body })
    }

    /// The value of a header, or an empty string.
    pub fn header(&self, name: &str) -> &str {
        self.headers.first(name).unwrap_or_default()
    }

    /// The decompressed body. Panics on more than one gzip member: some clients read only the first.
    pub fn content(&self) -> Vec<u8> {
        match self.header("content-encoding") {
            "gzip" => {}
            "zstd" => return zstd::decode_all(self.body.as_slice()).expect("zstd frames"),
            "" => return self.body.clone(),
            other => panic!("unknown content coding: {other}"),
        }
        let mut content = Vec::new();
        let mut member = flate2::bufread::GzDecoder::new(self.body.as_slice());
        member.read_to_end(&mut content).expect("a gzip member");
        assert!(member.into_inner().is_empty(), "data after the first gzip member");
        content
    }

    pub fn text(&self) -> String {
        String::from_utf8(self.content()).expect("text")
    }

    #[track_caller]
    pub fn json(&self) -> Value {
        serde_json::from_slice(&self.content()).unwrap_or_else(|error| panic!("not JSON ({error}): {self:?}"))
    }

    /// The versions of a packument.
    #[track_caller]
    pub fn versions(&self) -> Vec<String> {
        assert_eq!(self.status, 200, "{} {}", self.reason, self.text());
        self.json()["versions"].as_object().expect("versions").keys().cloned().collect()
    }

    /// The dist-tags of a packument.
    #[track_caller]
    pub fn tags(&self) -> BTreeMap<String, String> {
        assert_eq!(self.status, 200, "{} {}", self.reason, self.text());
        serde_json::from_value(self.json()["dist-tags"].clone()).expect("dist-tags")
    }

    /// The target of a dist-tag.
    #[track_caller]
    pub fn tag(&self, tag: &str) -> Option<String> {
        self.tags().remove(tag)
    }

    /// The `error` of a refusal. It must be a string: clients print objects as `[object Object]`.
    #[track_caller]
    pub fn error(&self) -> String {
        self.json()["error"].as_str().unwrap_or_else(|| panic!("no error string: {}", self.text())).to_owned()
    }

    /// Asserts the status. A failure shows the headers and the start of the body.
    #[track_caller]
    pub fn is(self, status: u16) -> Self {
        let body = String::from_utf8_lossy(&self.body);
        assert_eq!(self.status, status, "{} {:?} {}", self.reason, self.headers, body.get(..600).unwrap_or(&body));
        self
    }
}
