//! Credentials of one registry that a file or a helper program provides, and that may expire. They are obtained when a request needs
//! them: one at a time, within limits, and never by a shell. What a helper prints is never logged.

use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwapOption;
use tokio::io::AsyncReadExt as _;
use tokio::process::{Child, Command};
use tokio::sync::Mutex;
use tokio::time::{Instant, timeout};

use crate::files;
use crate::upstream::credentials::Credentials;

/// How long a helper may run. A client waits for it.
const HELPER_TIMEOUT: Duration = Duration::from_secs(10);

/// The largest credential, in bytes. Short-lived tokens of clouds have up to 3 kB.
const MAX_SECRET_BYTES: u64 = 8 << 10;

/// How long after a failure, and after a renewal, the source is not asked again.
const RETRY_DELAY: Duration = Duration::from_secs(30);

/// How long the content of a file is used before it is read again.
pub(crate) const FILE_LIFE: Duration = Duration::from_secs(5);

/// Where the credentials of a registry come from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CredentialSource {
    pub kind: CredentialSourceKind,
    /// The user of Basic credentials. Without it, the secret is a Bearer token.
    pub username: Option<String>,
    /// How long they are used before they are obtained again.
    pub life: Duration,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum CredentialSourceKind {
    /// The first line of a file.
    File(PathBuf),
    /// A program with its arguments, which prints one line.
    Command(Vec<String>),
}

impl CredentialSource {
    /// Creates credentials from a secret. Returns an error that does not contain it.
    pub(crate) fn credentials(username: Option<&str>, secret: &str) -> Result<Credentials, String> {
        let secret = secret.strip_suffix('\n').unwrap_or(secret);
        let secret = secret.strip_suffix('\r').unwrap_or(secret);
        if secret.is_empty() {
            return Err("the credential is empty".to_owned());
        }
        if secret.len() as u64 > MAX_SECRET_BYTES {
            return Err(format!("the credential is longer than {MAX_SECRET_BYTES} bytes"));
        }
        if !secret.bytes().all(|byte| byte.is_ascii_graphic() || byte == b' ') {
            return Err("the credential is not one line of printable ASCII".to_owned());
        }
        let created = username.map_or_else(|| Credentials::bearer(secret), |username| Credentials::basic(username, secret));
        created.map_err(|error| error.to_string())
    }

    async fn obtain(&self) -> Result<Credentials, String> {
        let secret = match &self.kind {
            CredentialSourceKind::File(path) => read_file(path.clone()).await?,
            CredentialSourceKind::Command(words) => run_helper(words).await?,
        };
        Self::credentials(self.username.as_deref(), &secret)
    }

    /// Formats the source without a secret.
    fn describe(&self) -> String {
        match &self.kind {
            CredentialSourceKind::File(path) => format!("`{}`", path.display()),
            CredentialSourceKind::Command(words) => {
                format!("`{}`", words.first().map_or("", |program| program.as_str()).escape_debug())
            }
        }
    }
}

/// The credentials of a source, as last obtained.
pub(crate) struct CredentialCell {
    source: CredentialSource,
    obtained: ArcSwapOption<ObtainedCredentials>,
    /// Held while they are obtained. The last failure, and until when it is not retried.
    turn: Mutex<Option<(Arc<str>, Instant)>>,
}

struct ObtainedCredentials {
    credentials: Credentials,
    since: Instant,
}

impl CredentialCell {
    pub(crate) fn new(source: CredentialSource) -> Self {
        Self { source, obtained: ArcSwapOption::empty(), turn: Mutex::default() }
    }

    /// Returns the credentials. Obtains them if they are missing or at the end of their life. All that wait share one attempt.
    pub(crate) async fn current(&self) -> Result<Credentials, Arc<str>> {
        if let Some(credentials) = self.valid() {
            return Ok(credentials);
        }
        let mut failure = self.turn.lock().await;
        if let Some(credentials) = self.valid() {
            return Ok(credentials);
        }
        if let Some((why, until)) = &*failure
            && Instant::now() < *until
        {
            return Err(Arc::clone(why));
        }
        let source = self.source.describe();
        match self.source.obtain().await {
            Ok(credentials) => {
                *failure = None;
                let obtained = ObtainedCredentials { credentials: credentials.clone(), since: Instant::now() };
                self.obtained.store(Some(Arc::new(obtained)));
                tracing::debug!(credentials.source = %source, "upstream credentials obtained");
                Ok(credentials)
            }
            Err(detail) => {
                let why = Arc::from(format!("cannot obtain credentials from {source}: {detail}"));
                tracing::warn!(credentials.source = %source, error = %detail, "upstream credentials not obtained");
                *failure = Some((Arc::clone(&why), Instant::now() + RETRY_DELAY));
                Err(why)
            }
        }
    }

    /// Obtains them again at the next request, because upstream refused them. Not if they are new.
    pub(crate) fn refused(&self) {
        if self.obtained.load().as_ref().is_some_and(|obtained| obtained.since.elapsed() >= RETRY_DELAY) {
            self.obtained.store(None);
        }
    }

    fn valid(&self) -> Option<Credentials> {
        let obtained = self.obtained.load();
        let obtained = obtained.as_ref()?;
        (obtained.since.elapsed() < self.source.life).then(|| obtained.credentials.clone())
    }
}

async fn read_file(path: PathBuf) -> Result<String, String> {
    let reading = tokio::task::spawn_blocking(move || {
        let text = files::read_bounded(&path, MAX_SECRET_BYTES).and_then(files::into_text);
        text.map_err(|error| error.to_string())
    });
    let text = reading.await.map_err(|error| error.to_string())??;
    Ok(text.lines().next().unwrap_or_default().to_owned())
}

/// Runs a helper and returns what it prints.
async fn run_helper(words: &[String]) -> Result<String, String> {
    let (program, arguments) = words.split_first().ok_or("no program")?;
    let mut command = Command::new(Path::new(program));
    command.args(arguments).stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::null()).kill_on_drop(true);
    // Its own group, so that what it starts ends with it.
    #[cfg(unix)]
    command.process_group(0);
    let mut child = command.spawn().map_err(|error| format!("cannot start it: {}", error.kind()))?;
    let ended = timeout(HELPER_TIMEOUT, read_output(&mut child)).await;
    let result = ended.unwrap_or_else(|_| Err(format!("it did not end within {} s", HELPER_TIMEOUT.as_secs())));
    if result.is_err() {
        end(&mut child).await;
    }
    result
}

/// Reads what a helper prints until it ends. Fails if it prints too much or ends with an error.
async fn read_output(child: &mut Child) -> Result<String, String> {
    let stdout = child.stdout.take().ok_or("no output")?;
    let mut output = Vec::new();
    stdout.take(MAX_SECRET_BYTES + 2).read_to_end(&mut output).await.map_err(|error| error.to_string())?;
    if output.len() as u64 > MAX_SECRET_BYTES {
        return Err(format!("it prints more than {MAX_SECRET_BYTES} bytes"));
    }
    let status = child.wait().await.map_err(|error| error.to_string())?;
    if !status.success() {
        return Err(format!("it failed ({status})"));
    }
    String::from_utf8(output).map_err(|_| "it prints no text".to_owned())
}

/// Kills a helper and what it started.
async fn end(child: &mut Child) {
    #[cfg(unix)]
    if let Some(group) = child.id().and_then(|id| i32::try_from(id).ok()).and_then(rustix::process::Pid::from_raw) {
        // It may have ended already.
        let _ = rustix::process::kill_process_group(group, rustix::process::Signal::KILL);
    }
    let _ = child.kill().await;
}

#[cfg(unix)]
#[cfg(test)]
mod tests {
    use super::*;

    fn command(words: &[&str]) -> CredentialSource {
        let words = words.iter().map(|word| (*word).to_owned()).collect();
        CredentialSource { kind: CredentialSourceKind::Command(words), username: None, life: Duration::from_secs(3600) }
    }

    async fn shown(source: CredentialSource) -> Result<String, String> {
        let obtained = CredentialCell::new(source).current().await;
        obtained.map(|credentials| credentials.0.to_str().unwrap().to_owned()).map_err(|why| why.to_string())
    }

    #[tokio::test]
    async fn helper_prints_a_token_or_a_password() {
        assert_eq!(shown(command(&["printf", "t0k\\n"])).await.unwrap(), "Bearer t0k");
        let basic = CredentialSource { username: Some("aws".to_owned()), ..command(&["printf", "p"]) };
        assert_eq!(shown(basic).await.unwrap(), "Basic YXdzOnA=");
    }

    #[tokio::test]
    async fn output_that_is_no_token_is_an_error_without_it() {
        for (words, expected) in [
            (&["printf", "a\\nx-evil: 1\\n"][..], "not one line of printable ASCII"),
            (&["printf", "a\\rb"], "not one line of printable ASCII"),
            (&["printf", "\\033[2J"], "not one line of printable ASCII"),
            (&["printf", ""], "the credential is empty"),
            (&["printf", "%09000d", "1"], "more than 8192 bytes"),
            (&["head", "-c", "10000000", "/dev/zero"], "more than 8192 bytes"),
            (&["false"], "it failed (exit status: 1)"),
            (&["/no/such/helper", "secret"], "cannot start it: entity not found"),
        ] {
            let why = shown(command(words)).await.unwrap_err();
            assert!(why.ends_with(expected) && !why.contains("evil") && !why.contains("secret"), "{why}");
        }
    }

    #[tokio::test]
    async fn helper_and_what_it_started_are_killed_at_the_time_limit() {
        let folder = tempfile::tempdir().unwrap();
        let pid = folder.path().join("pid");
        let script = format!("sleep 1000 & echo $! > '{}'; wait", pid.display());
        tokio::time::pause();
        let why = shown(command(&["sh", "-c", &script])).await.unwrap_err();
        tokio::time::resume();
        assert!(why.ends_with("it did not end within 10 s"), "{why}");
        // With a paused clock the limit may pass before the helper has written anything.
        let started = std::fs::read_to_string(&pid).ok().and_then(|text| text.trim().parse::<u32>().ok());
        if let Some(id) = started {
            while std::fs::read_to_string(format!("/proc/{id}/stat")).is_ok_and(|stat| !stat.contains(") Z ")) {
                tokio::task::yield_now().await;
            }
        }
    }

    #[tokio::test]
    async fn credentials_are_obtained_once_in_their_life_and_failures_are_remembered() {
        let folder = tempfile::tempdir().unwrap();
        let log = folder.path().join("log");
        let script = format!("echo x >> '{}'; printf t", log.display());
        let cell = CredentialCell::new(command(&["sh", "-c", &script]));
        let (first, second) = tokio::join!(cell.current(), cell.current());
        assert!(first.is_ok() && second.is_ok() && cell.current().await.is_ok());
        cell.refused();
        assert!(cell.current().await.is_ok(), "new credentials are kept");
        assert_eq!(std::fs::read_to_string(&log).unwrap(), "x\n");
        let script = format!("echo y >> '{}'; exit 1", log.display());
        let failing = CredentialCell::new(command(&["sh", "-c", &script]));
        assert!(failing.current().await.is_err() && failing.current().await.is_err());
        assert_eq!(std::fs::read_to_string(&log).unwrap(), "x\ny\n");
        let expired = CredentialCell::new(CredentialSource { life: Duration::ZERO, ..command(&["printf", "t"]) });
        assert!(expired.current().await.is_ok() && expired.valid().is_none());
    }

    #[tokio::test]
    async fn file_is_read_again_after_its_life() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("token");
        std::fs::write(&path, "one\n").unwrap();
        let source = CredentialSource { kind: CredentialSourceKind::File(path.clone()), username: None, life: Duration::ZERO };
        let cell = CredentialCell::new(source);
        assert_eq!(cell.current().await.unwrap().0, "Bearer one");
        std::fs::write(&path, "two\n").unwrap();
        assert_eq!(cell.current().await.unwrap().0, "Bearer two");
    }
}
