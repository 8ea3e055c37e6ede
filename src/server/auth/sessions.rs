//! Sessions of people in a browser: signed cookies that name an access token, which is looked up at each request. The key lives in
//! memory, so a restart ends all sessions, and there is no file to protect.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use arc_swap::ArcSwap;
use aws_lc_rs::constant_time::verify_slices_are_equal;
use aws_lc_rs::error::Unspecified;
use aws_lc_rs::hmac::{self, HMAC_SHA256, Key, Tag};
use aws_lc_rs::rand;
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use http::HeaderMap;
use http::header::COOKIE;
use serde::{Deserialize, Serialize};

use crate::clock::Clock;
use crate::units::timestamp;

/// How long a session lasts: a working day.
pub(crate) const SESSION_LIFE: Duration = Duration::from_secs(10 * 3600);

/// How long the form of the sign-in page is valid.
const FORM_LIFE: Duration = Duration::from_secs(600);

/// The longest cookie that is read. A longer one is not ours.
const MAX_COOKIE_BYTES: usize = 2_048;

/// Sessions that are remembered as ended until they expire. Beyond, the key is replaced, which ends all.
const MAX_ENDED: usize = 10_000;

/// The prefix binds a cookie to this host and to HTTPS. Browsers refuse it on plain HTTP.
const PREFIX: &str = "__Host-";

/// Random bytes of a session or a form.
type Nonce = [u8; 16];

/// Whether browsers reach this server over HTTPS.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Transport {
    Https,
    /// Plain HTTP that does not leave this machine.
    LoopbackHttp,
}

/// What a cookie is for. A value that was signed for one purpose is not valid for another.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Purpose {
    Session,
    SignInForm,
    Provider,
    FormToken,
    AdminToken,
}

/// Who signed in.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum SessionSubject {
    /// The number of an access token in the ledger.
    Token(i64),
    /// A token of `admin-token-file`, by its signature, which tells nothing about the token.
    AdminToken(String),
}

/// A session as signed in its cookie.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct BrowserSession {
    nonce: Nonce,
    pub(crate) subject: SessionSubject,
    expires: i64,
}

/// A sign-in at a provider that has not ended, as signed in its cookie.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct PendingSignIn {
    /// What the provider sends back, so that the answer belongs to this browser.
    pub(crate) state: String,
    /// What the provider signs, so that its token belongs to this sign-in.
    pub(crate) nonce: String,
    /// What the code is exchanged with (PKCE). The provider learns only its hash before.
    pub(crate) verifier: String,
    /// The page to return to.
    pub(crate) next: String,
    expires: i64,
}

/// Signs and checks the cookies of browsers.
pub(crate) struct BrowserSessions {
    key: ArcSwap<Key>,
    clock: Arc<dyn Clock>,
    /// Sessions that were signed out, until they expire.
    ended: Mutex<HashMap<Nonce, i64>>,
}

impl BrowserSessions {
    pub(crate) fn new(clock: Arc<dyn Clock>) -> Result<Self, Unspecified> {
        Ok(Self { key: ArcSwap::from_pointee(random_key()?), clock, ended: Mutex::default() })
    }

    /// Begins a session. Returns its `Set-Cookie` header.
    pub(crate) fn begin(&self, subject: SessionSubject, transport: Transport) -> Result<String, Unspecified> {
        let expires = timestamp::saturating_add(self.clock.now(), SESSION_LIFE).as_second();
        let session = BrowserSession { nonce: random()?, subject, expires };
        let value = self.seal(Purpose::Session, &session);
        Ok(transport.cookie(SESSION_COOKIE, &value, SESSION_LIFE))
    }

    /// Begins a session and ends the earlier one of the browser, so that its cookie is of no use to another user of it. Returns the
    /// `Set-Cookie` header.
    pub(crate) fn replace(
        &self,
        headers: &HeaderMap,
        subject: SessionSubject,
        transport: Transport,
    ) -> Result<String, Unspecified> {
        if let Some(previous) = self.find(headers, transport) {
            self.end(&previous, transport)?;
        }
        self.begin(subject, transport)
    }

    /// Returns the session of a request, unless it has expired or was signed out.
    pub(crate) fn find(&self, headers: &HeaderMap, transport: Transport) -> Option<BrowserSession> {
        let session: BrowserSession = self.open(Purpose::Session, cookie(headers, transport, SESSION_COOKIE)?)?;
        let ended = self.ended.lock().unwrap_or_else(PoisonError::into_inner);
        (session.expires > self.clock.now().as_second() && !ended.contains_key(&session.nonce)).then_some(session)
    }

    /// Ends a session, also for copies of its cookie. Returns the `Set-Cookie` header that removes it.
    pub(crate) fn end(&self, session: &BrowserSession, transport: Transport) -> Result<String, Unspecified> {
        let now = self.clock.now().as_second();
        let mut ended = self.ended.lock().unwrap_or_else(PoisonError::into_inner);
        if ended.len() >= MAX_ENDED {
            ended.retain(|_, expires| *expires > now);
        }
        if ended.len() >= MAX_ENDED {
            self.key.store(Arc::new(random_key()?));
            ended.clear();
        } else {
            ended.insert(session.nonce, session.expires);
        }
        Ok(transport.cookie(SESSION_COOKIE, "", Duration::ZERO))
    }

    /// Returns the token that forms of a session send, so that no other site can send them.
    pub(crate) fn form_token(&self, session: &BrowserSession) -> String {
        self.sign(Purpose::FormToken, &session.nonce)
    }

    pub(crate) fn is_form_token(&self, session: &BrowserSession, token: &str) -> bool {
        self.verify(Purpose::FormToken, &session.nonce, token)
    }

    /// Returns the token of a sign-in form, and the `Set-Cookie` header that it is bound to.
    pub(crate) fn sign_in_form(&self, transport: Transport) -> Result<(String, String), Unspecified> {
        let expires = timestamp::saturating_add(self.clock.now(), FORM_LIFE).as_second();
        let nonce: Nonce = random()?;
        let value = self.seal(Purpose::SignInForm, &(nonce, expires));
        Ok((self.sign(Purpose::FormToken, &nonce), transport.cookie(FORM_COOKIE, &value, FORM_LIFE)))
    }

    /// Checks whether a sign-in form was sent by the browser that it was made for, in time.
    pub(crate) fn is_sign_in_form(&self, headers: &HeaderMap, transport: Transport, token: &str) -> bool {
        let cookie = cookie(headers, transport, FORM_COOKIE);
        let Some((nonce, expires)) = cookie.and_then(|value| self.open::<(Nonce, i64)>(Purpose::SignInForm, value)) else {
            return false;
        };
        expires > self.clock.now().as_second() && self.verify(Purpose::FormToken, &nonce, token)
    }

    /// Begins a sign-in at a provider. Returns its `Set-Cookie` header. The provider's answer comes from another site, which a strict
    /// cookie would not survive.
    pub(crate) fn begin_at_provider(&self, next: String, transport: Transport) -> Result<(PendingSignIn, String), Unspecified> {
        let expires = timestamp::saturating_add(self.clock.now(), FORM_LIFE).as_second();
        let text = || random::<32>().map(|bytes| URL_SAFE_NO_PAD.encode(bytes));
        let pending = PendingSignIn { state: text()?, nonce: text()?, verifier: text()?, next, expires };
        let value = self.seal(Purpose::Provider, &pending);
        let cookie = transport.cookie(PROVIDER_COOKIE, &value, FORM_LIFE).replace("SameSite=Strict", "SameSite=Lax");
        Ok((pending, cookie))
    }

    /// Returns the sign-in that a provider answers with this state, if the browser began it in time.
    pub(crate) fn find_at_provider(&self, headers: &HeaderMap, transport: Transport, state: &str) -> Option<PendingSignIn> {
        let pending: PendingSignIn = self.open(Purpose::Provider, cookie(headers, transport, PROVIDER_COOKIE)?)?;
        let is_same = verify_slices_are_equal(pending.state.as_bytes(), state.as_bytes()).is_ok();
        (is_same && pending.expires > self.clock.now().as_second()).then_some(pending)
    }

    /// Returns the `Set-Cookie` header that ends a sign-in at a provider.
    pub(crate) fn end_at_provider(transport: Transport) -> String {
        transport.cookie(PROVIDER_COOKIE, "", Duration::ZERO)
    }

    /// Returns the signature of a token of `admin-token-file`.
    pub(crate) fn sign_admin_token(&self, token: &[u8]) -> String {
        self.sign(Purpose::AdminToken, token)
    }

    pub(crate) fn is_admin_token(&self, token: &[u8], signature: &str) -> bool {
        self.verify(Purpose::AdminToken, token, signature)
    }

    fn seal(&self, purpose: Purpose, content: &impl Serialize) -> String {
        // Serialization to a string fails only for maps with other keys than strings.
        let content = URL_SAFE_NO_PAD.encode(serde_json::to_vec(content).unwrap_or_default());
        let signature = self.sign(purpose, content.as_bytes());
        format!("{content}.{signature}")
    }

    fn open<T: for<'de> Deserialize<'de>>(&self, purpose: Purpose, value: &str) -> Option<T> {
        let (content, signature) = value.split_once('.')?;
        if value.len() > MAX_COOKIE_BYTES || !self.verify(purpose, content.as_bytes(), signature) {
            return None;
        }
        serde_json::from_slice(&URL_SAFE_NO_PAD.decode(content).ok()?).ok()
    }

    fn sign(&self, purpose: Purpose, content: &[u8]) -> String {
        let mut context = hmac::Context::with_key(&self.key.load());
        context.update(purpose.label());
        context.update(content);
        let tag: Tag = context.sign();
        URL_SAFE_NO_PAD.encode(tag.as_ref())
    }

    fn verify(&self, purpose: Purpose, content: &[u8], signature: &str) -> bool {
        let Ok(signature) = URL_SAFE_NO_PAD.decode(signature) else { return false };
        let signed = [purpose.label(), content].concat();
        hmac::verify(&self.key.load(), &signed, &signature).is_ok()
    }
}

const SESSION_COOKIE: &str = "coldframe-session";
const FORM_COOKIE: &str = "coldframe-form";
const PROVIDER_COOKIE: &str = "coldframe-provider";

impl Purpose {
    /// Returns what precedes the signed content. No label is the start of another one.
    fn label(self) -> &'static [u8] {
        match self {
            Self::Session => b"session\0",
            Self::SignInForm => b"sign-in\0",
            Self::Provider => b"provider\0",
            Self::FormToken => b"form\0",
            Self::AdminToken => b"admin\0",
        }
    }
}

impl Transport {
    fn cookie(self, name: &str, value: &str, lasts: Duration) -> String {
        let seconds = lasts.as_secs();
        let rest = format!("Path=/; Max-Age={seconds}; HttpOnly; SameSite=Strict");
        match self {
            Self::Https => format!("{PREFIX}{name}={value}; Secure; {rest}"),
            Self::LoopbackHttp => format!("{name}={value}; {rest}"),
        }
    }
}

/// Returns the value of a cookie; `None` if there is none, or more than one: then another page set one of them.
fn cookie<'a>(headers: &'a HeaderMap, transport: Transport, name: &str) -> Option<&'a str> {
    let lines = headers.get_all(COOKIE).iter().filter_map(|line| line.to_str().ok());
    let pairs = lines.flat_map(|line| line.split(';')).filter_map(|pair| pair.trim().split_once('='));
    let mut values = pairs.filter_map(|(known, value)| {
        let bare = if transport == Transport::Https { known.strip_prefix(PREFIX)? } else { known };
        (bare == name).then_some(value)
    });
    let value = values.next()?;
    values.next().is_none().then_some(value)
}

fn random<const N: usize>() -> Result<[u8; N], Unspecified> {
    let mut bytes = [0; N];
    rand::fill(&mut bytes)?;
    Ok(bytes)
}

fn random_key() -> Result<Key, Unspecified> {
    Ok(Key::new(HMAC_SHA256, &random::<32>()?))
}

#[cfg(test)]
mod tests {
    use jiff::Timestamp;

    use super::*;
    use crate::clock::ManualClock;

    const TRANSPORTS: [Transport; 2] = [Transport::Https, Transport::LoopbackHttp];

    fn sessions(clock: &ManualClock) -> BrowserSessions {
        BrowserSessions::new(Arc::new(clock.clone())).unwrap()
    }

    fn headers(cookies: &[&str]) -> HeaderMap {
        let mut headers = HeaderMap::new();
        for cookie in cookies {
            headers.append(COOKIE, cookie.parse().unwrap());
        }
        headers
    }

    /// Returns the pair of a `Set-Cookie` header.
    fn pair(set: &str) -> String {
        set.split(';').next().unwrap().to_owned()
    }

    #[test]
    fn session_is_found_until_it_expires_or_is_signed_out() {
        let clock = ManualClock::at(Timestamp::UNIX_EPOCH);
        let sessions = sessions(&clock);
        for transport in TRANSPORTS {
            let set = sessions.begin(SessionSubject::Token(7), transport).unwrap();
            assert!(set.contains("HttpOnly; SameSite=Strict") && set.contains("Path=/;"), "{set}");
            assert_eq!(transport == Transport::Https, set.starts_with("__Host-") && set.contains("; Secure;"), "{set}");
            let sent = headers(&["a=b", &format!("x=y; {} ;z", pair(&set))]);
            let session = sessions.find(&sent, transport).unwrap();
            assert_eq!(session.subject, SessionSubject::Token(7));
            assert!(sessions.find(&headers(&[&pair(&set), &pair(&set)]), transport).is_none(), "two cookies of one name");
            sessions.end(&session, transport).unwrap();
            assert!(sessions.find(&sent, transport).is_none());
        }
        let set = sessions.begin(SessionSubject::Token(7), Transport::Https).unwrap();
        assert!(sessions.find(&headers(&[&pair(&set)]), Transport::LoopbackHttp).is_none());
        clock.advance(SESSION_LIFE);
        assert!(sessions.find(&headers(&[&pair(&set)]), Transport::Https).is_none());
    }

    #[test]
    fn forged_and_foreign_cookies_are_refused() {
        let clock = ManualClock::at(Timestamp::UNIX_EPOCH);
        let (sessions, other) = (sessions(&clock), sessions(&clock));
        let set = pair(&sessions.begin(SessionSubject::Token(7), Transport::LoopbackHttp).unwrap());
        let find = |cookie: &str| sessions.find(&headers(&[cookie]), Transport::LoopbackHttp);
        assert!(find(&set).is_some() && other.find(&headers(&[&set]), Transport::LoopbackHttp).is_none());
        for at in "coldframe-session=".len()..set.len() {
            let mut forged = set.clone().into_bytes();
            forged[at] = if forged[at] == b'A' { b'B' } else { b'A' };
            // The last character of base64 has unused bits, and a decoder that ignored them would accept other spellings.
            assert!(find(std::str::from_utf8(&forged).unwrap()).is_none(), "{at}");
        }
        let (_, form) = sessions.sign_in_form(Transport::LoopbackHttp).unwrap();
        let value = pair(&form).split_once('=').unwrap().1.to_owned();
        for cookie in [format!("{SESSION_COOKIE}={value}"), format!("{SESSION_COOKIE}="), format!("{SESSION_COOKIE}=.")] {
            assert!(find(&cookie).is_none(), "{cookie}");
        }
        assert!(find(&format!("{SESSION_COOKIE}={}", "A".repeat(100_000))).is_none());
    }

    #[test]
    fn forms_belong_to_one_browser_and_expire() {
        let clock = ManualClock::at(Timestamp::UNIX_EPOCH);
        let sessions = sessions(&clock);
        let (token, set) = sessions.sign_in_form(Transport::Https).unwrap();
        let (other, _) = sessions.sign_in_form(Transport::Https).unwrap();
        let sent = headers(&[&pair(&set)]);
        let is_valid = |headers: &HeaderMap, token: &str| sessions.is_sign_in_form(headers, Transport::Https, token);
        assert!(is_valid(&sent, &token) && !is_valid(&sent, &other) && !is_valid(&sent, "") && !is_valid(&headers(&[]), &token));
        clock.advance(FORM_LIFE);
        assert!(!is_valid(&sent, &token));
        let session = |number| {
            let set = sessions.begin(SessionSubject::Token(number), Transport::Https).unwrap();
            sessions.find(&headers(&[&pair(&set)]), Transport::Https).unwrap()
        };
        let (one, two) = (session(1), session(1));
        assert!(
            sessions.is_form_token(&one, &sessions.form_token(&one)) && !sessions.is_form_token(&two, &sessions.form_token(&one))
        );
    }

    #[test]
    fn too_many_ended_sessions_end_all() {
        let sessions = sessions(&ManualClock::at(Timestamp::UNIX_EPOCH));
        let begin = || pair(&sessions.begin(SessionSubject::Token(1), Transport::Https).unwrap());
        let find = |cookie: &str| sessions.find(&headers(&[cookie]), Transport::Https);
        let first = begin();
        let ended = find(&first).unwrap();
        sessions.end(&ended, Transport::Https).unwrap();
        for _ in 0..MAX_ENDED {
            assert!(sessions.ended.lock().unwrap().len() <= MAX_ENDED);
            if let Some(session) = find(&begin()) {
                sessions.end(&session, Transport::Https).unwrap();
            }
        }
        assert!(find(&first).is_none());
    }
}
