//! What goes out of the program: text, complaints and exit codes. Nothing else in `cli` writes to standard output or error, and all
//! that is written here passes [`crate::text::printable`], so that no value from outside acts on a terminal or a CI runner.

use std::backtrace::{Backtrace, BacktraceStatus};
use std::io::{self, Write as _};
use std::panic::PanicHookInfo;
use std::process::ExitCode;

use crate::config;
use crate::text::{printable, single_line};

/// How the program ends. The numbers are documented in `--help` and stable.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum Exit {
    /// It did what it should.
    Done = 0,
    /// It failed while running.
    Failed = 1,
    /// Wrong flags or configuration.
    Usage = 2,
    /// The first address is not free.
    Listen = 3,
    /// Another coldframe owns the data directory.
    DataDirInUse = 4,
    /// The data directory cannot be used.
    DataDir = 5,
    /// `explain`: held or denied.
    Refused = 10,
    /// `check`, `adopt`: nothing, or not all, could be judged.
    Unchecked = 69,
    /// `check`: refusals, which time alone cures.
    Later = 75,
}

impl Exit {
    /// Every way to end.
    pub const ALL: [Self; 9] = [
        Self::Done,
        Self::Failed,
        Self::Usage,
        Self::Listen,
        Self::DataDirInUse,
        Self::DataDir,
        Self::Refused,
        Self::Unchecked,
        Self::Later,
    ];
}

impl From<Exit> for ExitCode {
    fn from(exit: Exit) -> Self {
        Self::from(exit as u8)
    }
}

/// A command that did not do what it should.
#[derive(Debug)]
pub struct CliError {
    /// How the program ends.
    pub exit: Exit,
    /// Why.
    pub cause: anyhow::Error,
}

impl CliError {
    /// A failure that ends the program with `exit`.
    pub fn new(exit: Exit, cause: impl Into<anyhow::Error>) -> Self {
        Self { exit, cause: cause.into() }
    }
}

impl From<crate::config::Diagnostics> for CliError {
    fn from(mistakes: crate::config::Diagnostics) -> Self {
        Self::new(Exit::Usage, mistakes)
    }
}

impl From<io::Error> for CliError {
    fn from(wrong: io::Error) -> Self {
        Self::new(Exit::Failed, wrong)
    }
}

/// Writes to standard output: lines for people, or a JSON document. A closed pipe, as behind `| head`, is not a failure.
///
/// # Errors
/// When standard output does not take it for another reason.
pub(crate) fn print(text: &str) -> io::Result<()> {
    print_verbatim(&printable(text))
}

/// Writes to standard output what holds no value from outside, or escapes each of them itself: a shell's script, a policy that is
/// shipped, the workflow commands of a CI runner.
///
/// # Errors
/// As [`print`].
pub(crate) fn print_verbatim(text: &str) -> io::Result<()> {
    let mut out = io::stdout().lock();
    match out.write_all(text.as_bytes()).and_then(|()| out.flush()) {
        Err(wrong) if wrong.kind() != io::ErrorKind::BrokenPipe => Err(wrong),
        _ => Ok(()),
    }
}

/// Writes a failure to standard error, each cause after a colon: one line, unless it is a list of mistakes with excerpts.
pub(crate) fn complain(failure: &CliError) {
    let text = format!("coldframe: {:#}", failure.cause);
    let is_list = |cause: &(dyn std::error::Error + 'static)| {
        cause.is::<config::Diagnostics>()
            || cause.is::<config::policy::PolicyLoadError>()
            || cause.is::<crate::diagnostics::Diagnostics>()
    };
    note(&if failure.cause.chain().any(is_list) { text + "\n" } else { format!("{}\n", single_line(&text)) });
}

/// Writes lines to standard error.
pub(crate) fn note(text: &str) {
    // Where standard error is gone too, there is no one left to inform.
    let _ = io::stderr().lock().write_all(printable(text).as_bytes());
}

/// Writes one line to standard error, in the program's name.
pub(crate) fn say(text: &str) {
    note(&format!("coldframe: {}\n", single_line(text)));
}

/// Prints or logs a panic in place of the standard library, which prints the values in its message as they are.
pub(crate) fn tell_panic(panic: &PanicHookInfo<'_>) {
    let detail = panic.payload_as_str().unwrap_or("no message");
    let place = panic.location().map(ToString::to_string).unwrap_or_default();
    let backtrace = Backtrace::capture();
    let backtrace = if backtrace.status() == BacktraceStatus::Captured { format!("\n{backtrace}") } else { String::new() };
    if tracing::dispatcher::has_been_set() {
        tracing::error!(panic.location = place, panic.detail = detail, panic.backtrace = backtrace, "panicked");
    } else {
        note(&panic_text(&place, detail, &backtrace));
    }
}

/// A panic as a command prints it: one line, and the backtrace where `RUST_BACKTRACE` asks for one.
fn panic_text(place: &str, detail: &str, backtrace: &str) -> String {
    format!("coldframe: panicked at {place}: {}{backtrace}\n", single_line(detail))
}

/// Asks for something on standard error, without a line end.
///
/// # Errors
/// When standard error does not take it.
pub(crate) fn prompt(text: &str) -> io::Result<()> {
    let mut errors = io::stderr().lock();
    errors.write_all(single_line(text).as_bytes())?;
    errors.flush()
}

/// Writes what the command line's parser has to say: help and version as asked for, or what is wrong.
pub(crate) fn tell_usage(told: &clap::Error) -> Exit {
    if !told.use_stderr() {
        // Help on a closed pipe is help nobody wanted.
        let _ = told.print();
        return Exit::Done;
    }
    let text = told.render().to_string();
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
    fn a_panic_is_one_line_whatever_it_holds() {
        let hostile = "byte index 1 is not a char boundary of `a\n::error::PWNED\u{1b}[2J##[x]`";
        let text = panic_text("src/a.rs:1:2", hostile, "");
        assert_eq!(
            printable(&text),
            "coldframe: panicked at src/a.rs:1:2: byte index 1 is not a char boundary of `a\\n::error::PWNED\\u001b[2J\\u0023#[x]`\n"
        );
    }
}
