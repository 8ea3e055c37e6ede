//! `coldframe user`: who may use the gateway. Reads passwords from standard input alone: what stands on a command line, everybody on the
//! machine can see.

use std::io::{self, BufRead as _, IsTerminal as _};

use clap::{Args, Subcommand};

use crate::cli::flags::SettingFlags;
use crate::cli::output::{self, CliError, Exit};
use crate::config;
use crate::server::PasswordFileError;
use crate::server::auth::password_file;
use crate::text::single_line;

/// The longest password that is read, in bytes.
const LONGEST: u64 = 4096;

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Give a user a password, which is read from standard input: into the file of `gateway-users`, else print the line for it.
    Add(Arguments),
    /// Take a user out of the file of `gateway-users`.
    Remove(Arguments),
}

#[derive(Debug, Args)]
pub(crate) struct Arguments {
    /// The user's name.
    #[arg(value_name = "NAME")]
    name: String,
    #[command(flatten)]
    settings: SettingFlags<false>,
}

impl From<PasswordFileError> for CliError {
    fn from(wrong: PasswordFileError) -> Self {
        let exit = match &wrong {
            PasswordFileError::Name(_) | PasswordFileError::Empty | PasswordFileError::Line { .. } => Exit::Usage,
            PasswordFileError::File { .. } | PasswordFileError::Hash => Exit::Failed,
        };
        Self::new(exit, wrong)
    }
}

pub(crate) fn run(command: Command) -> Result<Exit, CliError> {
    match command {
        Command::Add(Arguments { name, settings }) => {
            let file = settings.read(config::gateway_users)?;
            // Before anybody types a password for it.
            password_file::line(&name, "any")?;
            let line = password_file::line(&name, &password()?)?;
            let Some(path) = file else { return say(&line) };
            let there = password_file::put(&path, &name, Some(&line))?;
            let verb = if there { "has another password" } else { "may use the gateway" };
            say(&format!("{name} {verb}, by {}", path.display()))
        }
        Command::Remove(Arguments { name, settings }) => {
            let path = settings.read(config::gateway_users)?.ok_or_else(no_file)?;
            if !password_file::put(&path, &name, None)? {
                return Err(CliError::new(
                    Exit::Failed,
                    anyhow::anyhow!("there is no such user in `{}`: `{name}`", path.display()),
                ));
            }
            say(&format!("{name} may no longer use the gateway, by {}", path.display()))
        }
    }
}

fn no_file() -> CliError {
    CliError::new(Exit::Usage, anyhow::anyhow!("say which file: `--gateway-users FILE`"))
}

fn say(text: &str) -> Result<Exit, CliError> {
    output::print(&format!("{}\n", single_line(text)))?;
    Ok(Exit::Done)
}

/// The first line of standard input; at a terminal it is asked for, and not shown.
fn password() -> Result<String, CliError> {
    let input = io::stdin();
    let hidden = input.is_terminal().then(EchoOff::ask).transpose()?;
    let mut line = String::new();
    io::Read::take(input.lock(), LONGEST).read_line(&mut line)?;
    drop(hidden);
    Ok(line.trim_end_matches(['\r', '\n']).to_owned())
}

/// A terminal that does not show what is typed, until this is dropped.
struct EchoOff(#[cfg(unix)] rustix::termios::Termios);

impl EchoOff {
    fn ask() -> io::Result<Self> {
        output::prompt("password: ")?;
        Self::hide()
    }

    #[cfg(unix)]
    fn hide() -> io::Result<Self> {
        use rustix::termios::{LocalModes, OptionalActions, tcgetattr, tcsetattr};
        let before = tcgetattr(io::stdin())?;
        let mut quiet = before.clone();
        quiet.local_modes.remove(LocalModes::ECHO);
        tcsetattr(io::stdin(), OptionalActions::Now, &quiet)?;
        Ok(Self(before))
    }

    #[cfg(not(unix))]
    #[expect(clippy::unnecessary_wraps, reason = "elsewhere it can fail")]
    fn hide() -> io::Result<Self> {
        Ok(Self())
    }
}

impl Drop for EchoOff {
    fn drop(&mut self) {
        #[cfg(unix)]
        {
            use rustix::termios::{OptionalActions, tcsetattr};
            // A terminal that is gone shows nothing any more.
            let _ = tcsetattr(io::stdin(), OptionalActions::Now, &self.0);
        }
        // The line end that was typed was not shown either.
        output::note("\n");
    }
}
