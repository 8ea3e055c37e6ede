//! The built program as a process of its own: started, spoken to, signalled, killed, and never left behind.

use std::io::{BufRead as _, BufReader, Read as _};
use std::net::SocketAddr;
use std::path::Path;
use std::process::{Child, Command, Output, Stdio};
use std::time::Duration;

use coldframe::clock::ManualClock;

use crate::client::Ask;

/// A command of the program in an environment that holds nothing but a home.
pub fn coldframe(home: &Path) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_coldframe"));
    command.env_clear().env("HOME", home).current_dir(home).stdin(Stdio::null());
    command
}

/// Runs a command to its end.
pub fn run(command: &mut Command) -> (i32, String, String) {
    let Output { status, stdout, stderr } = command.output().expect("the program starts");
    (status.code().unwrap_or(-1), String::from_utf8_lossy(&stdout).into_owned(), String::from_utf8_lossy(&stderr).into_owned())
}

/// The clock of a registry that a process asks: the process has the machine's.
#[expect(clippy::disallowed_methods, reason = "a process of its own has no other clock")]
pub fn machine_clock() -> ManualClock {
    ManualClock::at(jiff::Timestamp::now())
}

/// A server in a process.
pub struct Program {
    child: Child,
    /// Its first address.
    pub address: SocketAddr,
    /// What it said when it started.
    pub greeting: String,
    errors: Option<std::thread::JoinHandle<String>>,
}

impl Program {
    /// Starts `serve` on a free port before `upstream`, its data in `data`, and waits until it listens.
    pub fn serve(home: &Path, data: &Path, upstream: &str, more: &[&str]) -> Self {
        let mut command = coldframe(home);
        command.args(["serve", "--listen", "127.0.0.1:0", "--upstream", upstream, "--data-dir"]).arg(data).args(more);
        Self::start(&mut command)
    }

    /// Starts a command that serves, and waits until it listens.
    pub fn start(command: &mut Command) -> Self {
        let mut child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("the program starts");
        let mut told = BufReader::new(child.stdout.take().expect("a pipe"));
        let mut errors = child.stderr.take().expect("a pipe");
        let errors = std::thread::spawn(move || {
            let mut text = String::new();
            let _ = errors.read_to_string(&mut text);
            text
        });
        let mut greeting = String::new();
        while !greeting.lines().any(|line| line.starts_with("registry=")) {
            if told.read_line(&mut greeting).expect("text") == 0 {
                let _ = child.wait();
                panic!("it ended before it listened:\n{greeting}\n{}", errors.join().unwrap_or_default());
            }
        }
        let line = greeting.lines().find_map(|line| line.trim_start().strip_prefix("listening")).expect("a line that says where");
        let address = line.trim().trim_start_matches("http://").trim_end_matches('/').parse().expect("an address");
        Self { child, address, greeting, errors: Some(errors) }
    }

    pub fn get(&self, path: &str) -> Ask {
        Ask::new(self.address, "GET", path)
    }

    /// The process' id.
    pub fn id(&self) -> u32 {
        self.child.id()
    }

    /// Sends a signal by the process's own id.
    pub fn signal(&self, signal: &str) {
        let sent = Command::new("kill").args([signal, &self.child.id().to_string()]).status().expect("`kill` is there");
        assert!(sent.success());
    }

    /// SIGKILL: nothing is written any more.
    pub fn kill(mut self) {
        self.child.kill().expect("it runs");
        self.child.wait().expect("it ends");
    }

    /// Waits for its end: the exit code and what stood on standard error.
    pub async fn ended(mut self) -> (i32, String) {
        let errors = self.errors.take();
        let waiting = tokio::task::spawn_blocking(move || {
            let code = self.child.wait().expect("it ends").code().unwrap_or(-1);
            (code, errors.map(|errors| errors.join().unwrap_or_default()).unwrap_or_default())
        });
        tokio::time::timeout(Duration::from_secs(60), waiting).await.expect("it ends within a minute").expect("no panic")
    }
}

impl Drop for Program {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
