//! What goes out of the program: text, complaints and exit codes. Refuses to know which command speaks.

use std::io::{self, Write as _};
use std::process::ExitCode;

pub(super) use crate::admin::Columns;

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
    /// `check`: refusals, which time alone cures.
    Later = 75,
}

impl Exit {
    /// Every way to end.
    pub const ALL: [Self; 8] =
        [Self::Done, Self::Failed, Self::Usage, Self::Listen, Self::DataDirInUse, Self::DataDir, Self::Refused, Self::Later];
}

impl From<Exit> for ExitCode {
    fn from(exit: Exit) -> Self {
        Self::from(exit as u8)
    }
}

/// A command that did not do what it should.
#[derive(Debug)]
pub struct Failure {
    /// How the program ends.
    pub exit: Exit,
    /// Why.
    pub cause: anyhow::Error,
}

impl Failure {
    /// A failure that ends the program with `exit`.
    pub fn new(exit: Exit, cause: impl Into<anyhow::Error>) -> Self {
        Self { exit, cause: cause.into() }
    }
}

impl From<crate::config::Mistakes> for Failure {
    fn from(mistakes: crate::config::Mistakes) -> Self {
        Self::new(Exit::Usage, mistakes)
    }
}

impl From<io::Error> for Failure {
    fn from(wrong: io::Error) -> Self {
        Self::new(Exit::Failed, wrong)
    }
}

/// Writes to standard output. Nobody reading any more, as behind `| head`, is not a failure.
///
/// # Errors
/// When standard output does not take it for another reason.
pub(super) fn print(text: &str) -> io::Result<()> {
    let mut out = io::stdout().lock();
    match out.write_all(text.as_bytes()).and_then(|()| out.flush()) {
        Err(wrong) if wrong.kind() != io::ErrorKind::BrokenPipe => Err(wrong),
        _ => Ok(()),
    }
}

/// Writes a failure to standard error, each cause after a colon.
pub(super) fn complain(failure: &Failure) {
    // Where standard error is gone too, nobody can be told.
    let _ = writeln!(io::stderr().lock(), "coldframe: {:#}", failure.cause);
}

/// Writes what the command line's parser has to say: help and version as asked for, or what is wrong.
pub(super) fn tell_usage(told: &clap::Error) -> Exit {
    if !told.use_stderr() {
        // Help on a closed pipe is help nobody wanted.
        let _ = told.print();
        return Exit::Done;
    }
    let text = told.render().to_string();
    let _ = match text.strip_prefix("error: ") {
        Some(problem) => write!(io::stderr().lock(), "coldframe: {problem}"),
        None => write!(io::stderr().lock(), "{text}"),
    };
    Exit::Usage
}
