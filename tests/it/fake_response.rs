//! A request as the fake registry received it, and a reply, valid or broken, byte for byte.

use crate::raw_http::Headers;

#[derive(Debug, Clone)]
pub struct Request {
    pub method: String,
    /// The raw request target.
    pub target: String,
    /// The decoded path, without the query.
    pub path: String,
    pub headers: Headers,
    pub body: Vec<u8>,
}

impl Request {
    pub fn new(first: &str, headers: Headers, body: Vec<u8>) -> Self {
        let mut words = first.split(' ');
        let method = words.next().unwrap_or_default().to_owned();
        let target = words.next().unwrap_or_default().to_owned();
        let path = target.split('?').next().unwrap_or_default();
        let path = percent_encoding::percent_decode_str(path).decode_utf8_lossy().into_owned();
        Self { method, target, path, headers, body }
    }

    /// The bearer token in `Authorization`.
    pub fn bearer(&self) -> Option<&str> {
        self.headers.first("authorization").and_then(|value| value.strip_prefix("Bearer "))
    }

    /// The value of a query parameter.
    pub fn query(&self, name: &str) -> Option<String> {
        let query = self.target.split_once('?')?.1;
        url::form_urlencoded::parse(query.as_bytes()).find(|(key, _)| key == name).map(|(_, value)| value.into_owned())
    }
}

#[derive(Debug, Clone)]
pub struct Reply {
    status: u16,
    pub headers: Headers,
    body: Vec<u8>,
    stated_length: Option<usize>,
    cut_after: Option<usize>,
    chunked: bool,
}

impl Reply {
    pub fn status(status: u16) -> Self {
        Self { status, headers: Headers::default(), body: Vec::new(), stated_length: None, cut_after: None, chunked: false }
    }

    pub fn ok(body: impl Into<Vec<u8>>) -> Self {
        Self { body: body.into(), ..Self::status(200) }
    }

    /// A 206 reply with the bytes of `whole` from `from` on.
    pub fn part(whole: &[u8], from: usize) -> Self {
        let range = format!("bytes {from}-{}/{}", whole.len() - 1, whole.len());
        Self { body: whole[from..].to_vec(), ..Self::status(206) }.header("content-range", &range)
    }

    pub fn json(body: &str) -> Self {
        Self::ok(body).header("content-type", "application/json")
    }

    pub fn error(status: u16, error: &str) -> Self {
        Self { status, ..Self::json(&format!(r#"{{"error":"{error}"}}"#)) }
    }

    pub fn redirect(status: u16, to: &str) -> Self {
        Self::status(status).header("location", to)
    }

    pub fn header(mut self, name: &str, value: &str) -> Self {
        self.headers.set(name, value);
        self
    }

    /// Sends a wrong `Content-Length`.
    pub fn says_length(mut self, length: usize) -> Self {
        self.stated_length = Some(length);
        self
    }

    /// Closes the connection in the middle of the body.
    pub fn cut_after(mut self, bytes: usize) -> Self {
        self.cut_after = Some(bytes);
        self
    }

    /// Sends the body in chunks, without a length.
    pub fn chunked(mut self) -> Self {
        self.chunked = true;
        self
    }

    /// Replaces `{registry}` in the headers, for redirects to the registry itself.
    pub fn for_host(mut self, url: &str) -> Self {
        for (_, value) in &mut self.headers.0 {
            *value = value.replace("{registry}", url);
        }
        self
    }

    /// Whether the stated and the sent length differ. No further reply can follow on the connection then.
    pub fn ends_connection(&self) -> bool {
        self.cut_after.is_some() || self.stated_length.is_some_and(|length| length != self.body.len())
    }

    pub fn head_length(&self) -> usize {
        self.head().len()
    }

    fn head(&self) -> String {
        let mut head = format!("HTTP/1.1 {} Whatever\r\n", self.status);
        for (name, value) in &self.headers.0 {
            head.push_str(&format!("{name}: {value}\r\n"));
        }
        if self.chunked {
            head.push_str("transfer-encoding: chunked\r\n");
        } else if self.status != 304 {
            head.push_str(&format!("content-length: {}\r\n", self.stated_length.unwrap_or(self.body.len())));
        }
        head.push_str("\r\n");
        head
    }

    pub fn to_bytes(&self, bodiless: bool) -> Vec<u8> {
        let mut bytes = self.head().into_bytes();
        if bodiless || self.status == 304 {
            return bytes;
        }
        let body = &self.body[..self.cut_after.unwrap_or(self.body.len()).min(self.body.len())];
        if self.chunked {
            for chunk in body.chunks(4096) {
                bytes.extend_from_slice(format!("{:x}\r\n", chunk.len()).as_bytes());
                bytes.extend_from_slice(chunk);
                bytes.extend_from_slice(b"\r\n");
            }
            if self.cut_after.is_none() {
                bytes.extend_from_slice(b"0\r\n\r\n");
            }
        } else {
            bytes.extend_from_slice(body);
        }
        bytes
    }
}
