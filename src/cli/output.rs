//! Standard output, standard error and exit codes. Nothing else in `cli` writes to them. All text passes
//! [`crate::text::printable`], so that untrusted values cannot control a terminal or a CI runner.

use std::backtrace::{Backtrace, BacktraceStatus};
use std::error::Error;
use std::io::{self, Write as _};
use std::ops::ControlFlow;
use std::panic::PanicHookInfo;
use std::process::ExitCode;

use serde_json::Value;

use crate::app::AppError;
use crate::config::Diagnostics;
use crate::config::policy::PolicyLoadError;
use crate::server::PasswordFileError;
use crate::store::StoreError;
use crate::text::{printable, single_line};
use crate::tls::TlsError;

/// The exit code of the program. The numbers are stable and documented in `--help`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub(crate) enum Exit {
    Done = 0,
    Failed = 1,
    Usage = 2,
    Listen = 3,
    DataDirInUse = 4,
    DataDir = 5,
    Refused = 10,
    Unchecked = 69,
    Later = 75,
}

impl From<Exit> for ExitCode {
    fn from(exit: Exit) -> Self {
        Self::from(exit as u8)
    }
}

/// A failure because of flags, configuration or input.
#[derive(Debug, thiserror::Error)]
#[error(transparent)]
struct UsageError(anyhow::Error);

/// Turns an error into one that exits with [`Exit::Usage`].
pub(crate) fn usage(cause: impl Into<anyhow::Error>) -> anyhow::Error {
    UsageError(cause.into()).into()
}

fn exit_of(failure: &anyhow::Error) -> Exit {
    if failure.is::<UsageError>() || failure.is::<Diagnostics>() || failure.is::<PolicyLoadError>() {
        return Exit::Usage;
    }
    if let Some(PasswordFileError::Name(_) | PasswordFileError::Empty | PasswordFileError::Line { .. }) = failure.downcast_ref() {
        return Exit::Usage;
    }
    if let Some(TlsError::Disk { .. }) = failure.downcast_ref() {
        return Exit::DataDir;
    }
    match failure.downcast_ref() {
        Some(AppError::Listen { .. }) => Exit::Listen,
        Some(AppError::DataDir(StoreError::Locked { .. })) => Exit::DataDirInUse,
        Some(AppError::DataDir(_) | AppError::Authority(TlsError::Disk { .. })) => Exit::DataDir,
        Some(AppError::Upstream(_) | AppError::Tls(_) | AppError::Authority(_) | AppError::Tokens(_) | AppError::Users(_)) => {
            Exit::Usage
        }
        _ => Exit::Failed,
    }
}

#[derive(Debug, Clone, Copy, clap::Args)]
pub(crate) struct OutputArgs {
    /// Print JSON.
    #[arg(long)]
    pub(crate) json: bool,
}

impl OutputArgs {
    pub(crate) fn print(self, text: impl FnOnce() -> String, json: impl FnOnce() -> Value) -> anyhow::Result<Exit> {
        print(&if self.json { format!("{:#}\n", json()) } else { text() })
    }
}

/// Writes text or JSON to standard output and returns [`Exit::Done`]. A closed pipe, as from `| head`, is not a failure.
pub(crate) fn print(text: &str) -> anyhow::Result<Exit> {
    print_verbatim(&printable(text))
}

/// Writes text to standard output unchanged. The caller ensures that it contains no untrusted value or escapes each of
/// them: shell scripts, shipped policies, workflow commands of a CI runner.
pub(crate) fn print_verbatim(text: &str) -> anyhow::Result<Exit> {
    let mut out = io::stdout().lock();
    match out.write_all(text.as_bytes()).and_then(|()| out.flush()) {
        Err(error) if error.kind() != io::ErrorKind::BrokenPipe => Err(error.into()),
        _ => Ok(Exit::Done),
    }
}

/// Writes a part of a long output. Returns whether to continue: a closed pipe has no reader.
pub(crate) fn write(text: &str) -> anyhow::Result<ControlFlow<()>> {
    match io::stdout().lock().write_all(printable(text).as_bytes()) {
        Ok(()) => Ok(ControlFlow::Continue(())),
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Ok(ControlFlow::Break(())),
        Err(error) => Err(error.into()),
    }
}

/// Writes a failure to standard error, causes separated by colons: one line, except for diagnostics with excerpts.
/// Returns the exit code.
pub(crate) fn print_error(failure: &anyhow::Error) -> Exit {
    let text = format!("coldframe: {failure:#}");
    let is_list = |cause: &(dyn Error + 'static)| cause.is::<Diagnostics>() || cause.is::<PolicyLoadError>();
    note(&if failure.chain().any(is_list) { text + "\n" } else { format!("{}\n", single_line(&text)) });
    exit_of(failure)
}

pub(crate) fn note(text: &str) {
    // If standard error is closed, there is nowhere left to report to.
    let _ = io::stderr().lock().write_all(printable(text).as_bytes());
}

pub(crate) fn say(text: &str) {
    note(&format!("coldframe: {}\n", single_line(text)));
}

/// Prints or logs a panic. Replaces the hook of the standard library, which does not escape values in the message.
pub(crate) fn print_panic(panic: &PanicHookInfo<'_>) {
    let detail = panic.payload_as_str().unwrap_or("no message");
    let location = panic.location().map(ToString::to_string).unwrap_or_default();
    let backtrace = Backtrace::capture();
    let backtrace = if backtrace.status() == BacktraceStatus::Captured { format!("\n{backtrace}") } else { String::new() };
    if tracing::dispatcher::has_been_set() {
        tracing::error!(panic.location = location, panic.detail = detail, panic.backtrace = backtrace, "panicked");
    } else {
        note(&panic_text(&location, detail, &backtrace));
    }
}

/// Formats a panic for a command: one line, then the backtrace if `RUST_BACKTRACE` enables it.
fn panic_text(location: &str, detail: &str, backtrace: &str) -> String {
    format!("coldframe: panicked at {location}: {}{backtrace}\n", single_line(detail))
}

/// Formats a number of things: `1 version`, `2 versions`.
pub(crate) fn counted(count: usize, noun: &str) -> String {
    if count == 1 { format!("1 {noun}") } else { format!("{count} {noun}s") }
}

pub(crate) fn prompt(text: &str) -> io::Result<()> {
    let mut errors = io::stderr().lock();
    errors.write_all(single_line(text).as_bytes())?;
    errors.flush()
}

pub(crate) fn print_usage(error: &clap::Error) -> Exit {
    if !error.use_stderr() {
        // Help written to a closed pipe is no error.
        let _ = error.print();
        return Exit::Done;
    }
    let text = error.render().to_string();
    match text.strip_prefix("error: ") {
        Some(problem) => note(&format!("coldframe: {problem}")),
        None => note(&text),
    }
    Exit::Usage
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn panic_is_printed_as_one_escaped_line() {
        let hostile = "byte index 1 is not a char boundary of `a\n::error::PWNED\u{1b}[2J##[x]`";
        let text = panic_text("src/a.rs:1:2", hostile, "");
        assert_eq!(
            printable(&text),
            "coldframe: panicked at src/a.rs:1:2: byte index 1 is not a char boundary of `a\\n::error::PWNED\\u001b[2J\\u0023#[x]`\n"
        );
    }
}
