//! A fake registry on a loopback socket. It answers from its current state, so a test can publish, unpublish and tamper between
//! requests. It records every request. A request for an undeclared path fails the test.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use coldframe::clock::{Clock as _, ManualClock};
use jiff::{SignedDuration, Timestamp};
use serde_json::Value;
use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt as _, BufReader};
use tokio::net::TcpListener;
use tokio::sync::watch;

use crate::fake_package::{Abbreviated, Listing, Style};
use crate::fake_response::{Reply, Request};
use crate::package::{Package, Published, TarballUrl};
use crate::raw_http::{read_body, read_head};

/// A fake registry. Its drop panics if a client requested an undeclared path.
pub struct Registry {
    /// `http://127.0.0.1:PORT`, without a trailing slash.
    pub url: String,
    pub address: SocketAddr,
    shared: Arc<Shared>,
    accepting: tokio::task::JoinHandle<()>,
}

struct Shared {
    url: String,
    clock: ManualClock,
    state: Mutex<State>,
    request_count: watch::Sender<usize>,
}

#[derive(Default)]
struct State {
    style: Style,
    offset: SignedDuration,
    down: bool,
    listings: BTreeMap<String, Listing>,
    tarballs: HashMap<String, (Vec<u8>, Option<String>)>,
    replies: HashMap<String, Reply>,
    token_replies: HashMap<String, Reply>,
    gates: HashMap<String, (watch::Receiver<bool>, Option<usize>)>,
    absent: HashSet<String>,
    tokens: HashMap<String, String>,
    requests: Vec<Request>,
    undeclared: Vec<String>,
}

/// Holds requests for a path until it is opened or dropped.
pub struct Gate(watch::Sender<bool>);

impl Gate {
    /// Releases all held and later requests.
    pub fn open(&self) {
        self.0.send_replace(true);
    }
}

impl Registry {
    /// Starts a registry like the public one: `ETag`, `Last-Modified`, gzip, placeholder signatures.
    pub async fn start(clock: &ManualClock) -> Self {
        Self::listen(clock, "127.0.0.1:0", Style::default(), None).await
    }

    /// Starts a mirror: no validators, no gzip, only the tag `latest`, microseconds and offsets in `time`.
    pub async fn mirror(clock: &ManualClock) -> Self {
        Self::listen(clock, "127.0.0.1:0", Style::mirror(), None).await
    }

    /// Starts a registry on another host, `127.0.0.2`.
    pub async fn on_other_host(clock: &ManualClock) -> Self {
        Self::listen(clock, "127.0.0.2:0", Style::default(), None).await
    }

    /// Starts a registry over TLS.
    pub async fn secure(clock: &ManualClock, config: Arc<rustls::ServerConfig>) -> Self {
        Self::listen(clock, "127.0.0.1:0", Style::default(), Some(config)).await
    }

    async fn listen(clock: &ManualClock, at: &str, style: Style, tls: Option<Arc<rustls::ServerConfig>>) -> Self {
        let listener = TcpListener::bind(at).await.expect("a loopback port");
        let address = listener.local_addr().expect("local address");
        let url = if tls.is_some() { format!("https://localhost:{}", address.port()) } else { format!("http://{address}") };
        let state = Mutex::new(State { style, ..State::default() });
        let shared = Arc::new(Shared { url: url.clone(), clock: clock.clone(), state, request_count: watch::channel(0).0 });
        let accepting = tokio::spawn(accept(listener, Arc::clone(&shared), tls.map(tokio_rustls::TlsAcceptor::from)));
        Self { url, address, shared, accepting }
    }

    /// Publishes a version. A version that exists is replaced.
    #[expect(clippy::needless_pass_by_value, reason = "callers build the package inline")]
    pub fn publish(&self, package: Package) {
        let now = self.now();
        let mut state = self.state();
        if let Some(token) = &package.readers {
            state.tokens.insert(package.name.clone(), token.clone());
        }
        if !matches!(package.place, TarballUrl::Url(_)) {
            state.tarballs.insert(package.path(), (package.tarball.clone(), package.readers.clone()));
        }
        let url = self.shared.url.clone();
        state.listings.entry(package.name.clone()).or_default().publish(&package, &url, now);
    }

    /// Removes a version from `versions` and deletes its tarball. Like npm, it keeps the entry in `time`.
    pub fn unpublish(&self, name: &str, version: &str) {
        let now = self.now();
        let mut state = self.state();
        let listing = state.listings.get_mut(name).expect("a published package");
        listing.unpublish(version, now);
        let tarball = Package::new(name, version).path();
        state.tarballs.remove(&tarball);
    }

    /// Removes the whole package: 404 from now on.
    pub fn remove(&self, name: &str) {
        self.state().listings.remove(name);
        self.absent(name);
    }

    /// Points a dist-tag to a version.
    pub fn tag(&self, name: &str, tag: &str, version: &str) {
        let now = self.now();
        self.state().listings.get_mut(name).expect("a published package").tag(tag, version, now);
    }

    /// Applies a change to the packument in every reply.
    pub fn edit(&self, name: &str, change: impl Fn(&mut Value) + Send + Sync + 'static) {
        self.state().listings.get_mut(name).expect("a published package").edits.push(Box::new(change));
    }

    /// Sends these bytes as the packument, unchecked.
    pub fn raw(&self, name: &str, bytes: impl Into<Vec<u8>>) {
        self.state().listings.entry(name.to_owned()).or_default().raw = Some(bytes.into());
    }

    /// The current packument.
    pub fn packument(&self, name: &str) -> Value {
        let state = self.state();
        serde_json::from_slice(&state.listings[name].packument(name, &state.style)).expect("JSON")
    }

    /// Replaces the bytes of a tarball without changing its integrity.
    pub fn tamper(&self, path: &str, bytes: impl Into<Vec<u8>>) {
        self.state().tarballs.insert(path.to_owned(), (bytes.into(), None));
    }

    /// Sets how abbreviated packuments are built.
    pub fn set_abbreviated(&self, how: Abbreviated) {
        self.state().style.abbreviated = how;
    }

    /// Sends one `ETag` for both forms from now on.
    pub fn share_etag(&self) {
        self.state().style.one_etag = true;
    }

    /// Sends `reply` for a path.
    pub fn answer(&self, path: &str, reply: Reply) {
        self.state().replies.insert(path.to_owned(), reply);
    }

    /// Sends `reply` for a path if the request carries any token.
    pub fn answer_tokens(&self, path: &str, reply: Reply) {
        self.state().token_replies.insert(path.to_owned(), reply);
    }

    /// Removes the reply set by [`Self::answer`].
    pub fn clear_answer(&self, path: &str) {
        self.state().replies.remove(path);
    }

    /// Declares that a package does not exist: 404 without a failed test.
    pub fn absent(&self, name: &str) {
        self.state().absent.insert(name.to_owned());
    }

    /// Holds requests for a path at the gate.
    pub fn hold(&self, path: &str) -> Gate {
        self.gate(path, None)
    }

    /// Sends the head and `after` bytes of the body, then waits at the gate.
    pub fn hold_body(&self, path: &str, after: usize) -> Gate {
        self.gate(path, Some(after))
    }

    fn gate(&self, path: &str, after: Option<usize>) -> Gate {
        let (sender, receiver) = watch::channel(false);
        self.state().gates.insert(path.to_owned(), (receiver, after));
        Gate(sender)
    }

    /// Closes every connection without a reply from now on.
    pub fn go_down(&self) {
        self.state().down = true;
    }

    /// Ends the outage.
    pub fn come_back(&self) {
        self.state().down = false;
    }

    /// Sets how far the registry's clock is ahead of the test's. Negative values put it behind.
    pub fn set_clock_offset(&self, offset: SignedDuration) {
        self.state().offset = offset;
    }

    /// All requests so far.
    pub fn requests(&self) -> Vec<Request> {
        self.state().requests.clone()
    }

    /// The number of requests for a path (decoded, without query).
    pub fn count(&self, path: &str) -> usize {
        self.state().requests.iter().filter(|request| request.path == path).count()
    }

    /// The number of all requests.
    pub fn total(&self) -> usize {
        self.state().requests.len()
    }

    /// The last request for a path.
    #[track_caller]
    pub fn last(&self, path: &str) -> Request {
        let state = self.state();
        state.requests.iter().rfind(|request| request.path == path).unwrap_or_else(|| panic!("no request for {path}")).clone()
    }

    /// Waits until a path was requested `times` times.
    pub async fn wait_for_requests(&self, path: &str, times: usize) {
        let mut count = self.shared.request_count.subscribe();
        let enough = count.wait_for(|_| self.count(path) >= times);
        let waited = tokio::time::timeout(Duration::from_secs(20), enough).await;
        assert!(waited.is_ok(), "{path} was requested {} times, not {times}", self.count(path));
    }

    /// Returns and clears the undeclared requests, for tests that provoke them.
    pub fn take_undeclared(&self) -> Vec<String> {
        std::mem::take(&mut self.state().undeclared)
    }

    fn now(&self) -> Timestamp {
        self.shared.clock.now()
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.shared.state()
    }
}

impl Drop for Registry {
    fn drop(&mut self) {
        self.accepting.abort();
        let undeclared = self.take_undeclared();
        assert!(std::thread::panicking() || undeclared.is_empty(), "undeclared requests: {undeclared:?}");
    }
}

async fn accept(listener: TcpListener, shared: Arc<Shared>, tls: Option<tokio_rustls::TlsAcceptor>) {
    let mut connections = tokio::task::JoinSet::new();
    while let Ok((stream, _)) = listener.accept().await {
        let (shared, tls) = (Arc::clone(&shared), tls.clone());
        connections.spawn(async move {
            match tls {
                None => serve(stream, &shared).await,
                Some(tls) => match tls.accept(stream).await {
                    Ok(stream) => serve(stream, &shared).await,
                    Err(_) => Ok(()),
                },
            }
        });
    }
}

async fn serve<S: AsyncRead + AsyncWrite + Unpin>(stream: S, shared: &Shared) -> std::io::Result<()> {
    let mut stream = BufReader::new(stream);
    while let Some((first, headers)) = read_head(&mut stream).await? {
        let body = read_body(&mut stream, &headers, false).await?;
        let request = Request::new(&first, headers, body);
        let gate = {
            let mut state = shared.state();
            if state.down {
                return Ok(());
            }
            state.requests.push(request.clone());
            state.gates.get(&request.path).cloned()
        };
        shared.request_count.send_modify(|count| *count += 1);
        if let Some((mut gate, None)) = gate.clone() {
            let _ = gate.wait_for(|open| *open).await;
        }
        let mut reply = shared.state().reply(shared, &request);
        if reply.headers.first("date").is_none() {
            let date = shared.clock.now() + shared.state().offset;
            reply.headers.set("date", httpdate::fmt_http_date(date.into()));
        }
        let bytes = reply.to_bytes(request.method == "HEAD");
        let pause = gate.and_then(|(gate, after)| after.map(|after| (gate, reply.head_length() + after)));
        if let Some((mut gate, after)) = pause {
            stream.write_all(&bytes[..after.min(bytes.len())]).await?;
            stream.flush().await?;
            let _ = gate.wait_for(|open| *open).await;
            stream.write_all(&bytes[after.min(bytes.len())..]).await?;
        } else {
            stream.write_all(&bytes).await?;
        }
        stream.flush().await?;
        if reply.ends_connection() {
            return stream.shutdown().await;
        }
    }
    Ok(())
}

impl Shared {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    fn reply(&mut self, shared: &Shared, request: &Request) -> Reply {
        if let Some(reply) = self.token_replies.get(&request.path).filter(|_| request.bearer().is_some()) {
            return reply.clone();
        }
        if let Some(reply) = self.replies.get(&request.path) {
            return reply.clone();
        }
        let path = request.path.clone();
        if let Some((bytes, readers)) = self.tarballs.get(&path) {
            return match readers {
                Some(readers) if !may_read(readers, request) => Reply::error(401, "who are you?"),
                _ => Reply::ok(bytes.clone())
                    .header("content-type", "application/octet-stream")
                    .header("cache-control", "public, immutable, max-age=31557600"),
            };
        }
        match (request.method.as_str(), path.as_str()) {
            ("GET", "/-/ping") => Reply::json("{}"),
            ("GET", "/-/npm/v1/keys") => Reply::json(r#"{"keys":[]}"#),
            ("GET", "/-/v1/search") => self.search(request),
            ("GET", "/-/whoami") => match request.bearer() {
                Some(token) => Reply::json(&format!(r#"{{"username":"{token}"}}"#)),
                None => Reply::error(401, "who are you?"),
            },
            // Most registries have no such endpoint.
            ("GET", path) if path.starts_with("/-/package/") && path.ends_with("/collaborators") => {
                Reply::error(404, "no such path")
            }
            ("POST", audit) if audit.starts_with("/-/npm/v1/security/") => Reply::json("{}"),
            ("GET" | "HEAD", _) => self.package(shared, request),
            _ => self.undeclared(request),
        }
    }

    fn package(&mut self, shared: &Shared, request: &Request) -> Reply {
        let name = request.path.trim_start_matches('/');
        let tags = name.strip_prefix("-/package/").and_then(|rest| rest.strip_suffix("/dist-tags"));
        let (name, only_tags) = (tags.unwrap_or(name), tags.is_some());
        let may_read = self.tokens.get(name).is_none_or(|readers| may_read(readers, request));
        match self.listings.get(name) {
            Some(_) if !may_read => Reply::error(404, "not found"),
            Some(listing) if only_tags => Reply::json(&listing.tags_json()),
            Some(listing) => listing.reply(name, &self.style, request),
            None if self.absent.contains(name) => Reply::error(404, "not found"),
            None if self.is_removed_tarball(name) => Reply::error(404, "no such tarball"),
            None => self.undeclared(request),
        }
        .for_host(&shared.url)
    }

    /// Whether the path is a removed tarball of a known package. A request for it is expected.
    fn is_removed_tarball(&self, path: &str) -> bool {
        path.split_once("/-/").is_some_and(|(name, _)| self.listings.contains_key(name) || self.absent.contains(name))
    }

    fn search(&self, request: &Request) -> Reply {
        let text = request.query("text").unwrap_or_default();
        let found: Vec<Value> = self
            .listings
            .iter()
            .filter(|(name, _)| name.contains(&text))
            .map(|(name, listing)| listing.search_result(name))
            .collect();
        Reply::json(&serde_json::json!({ "total": found.len(), "objects": found, "time": "now" }).to_string())
    }

    fn undeclared(&mut self, request: &Request) -> Reply {
        self.undeclared.push(format!("{} {}", request.method, request.target));
        Reply::error(404, "undeclared path")
    }
}

/// Whether a request carries one of the comma-separated tokens. A trailing `*` makes a token a prefix.
fn may_read(readers: &str, request: &Request) -> bool {
    let token = request.headers.first("authorization").unwrap_or_default();
    let token = token.strip_prefix("Bearer ").unwrap_or(token);
    readers.split(',').any(|reader| match reader.strip_suffix('*') {
        Some(prefix) => token.starts_with(prefix),
        None => token == reader,
    })
}

/// The value for `time`, in the registry's format.
pub fn spell(published: &Published, now: Timestamp) -> Option<Value> {
    match published {
        Published::Aged(age) => Some(Value::from(format!("{:.3}", coldframe::units::timestamp::saturating_sub(now, *age)))),
        Published::Raw(value) => Some(value.clone()),
        Published::Missing => None,
    }
}
