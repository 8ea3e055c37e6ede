//! Runs the built binary as a child process, which is killed on drop.

use std::io::{BufRead as _, BufReader, Read as _};
use std::net::SocketAddr;
use std::path::Path;
use std::process::{Child, Command, Output, Stdio};
use std::time::Duration;

use coldframe::clock::ManualClock;

use crate::client::Ask;

/// Returns a command whose environment contains only `HOME`.
pub fn coldframe(home: &Path) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_coldframe"));
    command.env_clear().env("HOME", home).current_dir(home).stdin(Stdio::null());
    command
}

/// Runs a command to its end; returns the exit code, standard output and standard error.
pub fn run(command: &mut Command) -> (i32, String, String) {
    let Output { status, stdout, stderr } = command.output().expect("the program starts");
    (status.code().unwrap_or(-1), String::from_utf8_lossy(&stdout).into_owned(), String::from_utf8_lossy(&stderr).into_owned())
}

/// Returns a clock for the fake registry at the machine's time, which child processes use.
#[expect(clippy::disallowed_methods, reason = "a child process uses the machine's clock")]
pub fn machine_clock() -> ManualClock {
    ManualClock::at(jiff::Timestamp::now())
}

/// A server in a child process.
pub struct Program {
    child: Child,
    /// The first address that it listens on.
    pub address: SocketAddr,
    /// Standard output up to the first `registry=` line.
    pub greeting: String,
    errors: Option<std::thread::JoinHandle<String>>,
}

impl Program {
    /// Starts `serve` on a free port with this upstream and data directory, and waits until it listens.
    pub fn serve(home: &Path, data: &Path, upstream: &str, more: &[&str]) -> Self {
        let mut command = coldframe(home);
        command.args(["serve", "--listen", "127.0.0.1:0", "--upstream", upstream, "--data-dir"]).arg(data).args(more);
        Self::start(&mut command)
    }

    /// Starts a serving command and waits until it listens.
    pub fn start(command: &mut Command) -> Self {
        let mut child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("the program starts");
        let mut stdout = BufReader::new(child.stdout.take().expect("a pipe"));
        let mut errors = child.stderr.take().expect("a pipe");
        let errors = std::thread::spawn(move || {
            let mut text = String::new();
            let _ = errors.read_to_string(&mut text);
            text
        });
        let mut greeting = String::new();
        while !greeting.lines().any(|line| line.starts_with("registry=")) {
            if stdout.read_line(&mut greeting).expect("text") == 0 {
                let _ = child.wait();
                panic!("the server exited before it listened:\n{greeting}\n{}", errors.join().unwrap_or_default());
            }
        }
        let line = greeting.lines().find_map(|line| line.trim_start().strip_prefix("listening")).expect("a `listening` line");
        let address = line.trim().trim_start_matches("http://").trim_end_matches('/').parse().expect("an address");
        Self { child, address, greeting, errors: Some(errors) }
    }

    pub fn get(&self, path: &str) -> Ask {
        Ask::new(self.address, "GET", path)
    }

    pub fn id(&self) -> u32 {
        self.child.id()
    }

    /// Sends a signal with `kill`.
    pub fn signal(&self, signal: &str) {
        let sent = Command::new("kill").args([signal, &self.child.id().to_string()]).status().expect("`kill` runs");
        assert!(sent.success());
    }

    /// Kills the process with SIGKILL, so that it writes nothing more.
    pub fn kill(mut self) {
        self.child.kill().expect("a running process");
        self.child.wait().expect("an exit status");
    }

    /// Waits up to a minute for the process to exit; returns the exit code and standard error.
    pub async fn wait_for_exit(mut self) -> (i32, String) {
        let errors = self.errors.take();
        let waiting = tokio::task::spawn_blocking(move || {
            let code = self.child.wait().expect("an exit status").code().unwrap_or(-1);
            (code, errors.map(|errors| errors.join().unwrap_or_default()).unwrap_or_default())
        });
        tokio::time::timeout(Duration::from_secs(60), waiting)
            .await
            .expect("the process exits within a minute")
            .expect("no panic")
    }
}

impl Drop for Program {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
