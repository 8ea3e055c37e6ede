//! `coldframe user`: adds and removes gateway users. Reads passwords from standard input only, because all users of the
//! machine can see command lines.

use std::io::{self, BufRead as _, IsTerminal as _};

use clap::{Args, Subcommand};

use crate::cli::flags::SettingFlags;
use crate::cli::output::{self, Exit, usage};
use crate::config;
use crate::server::auth::password_file;
use crate::text::single_line;

const MAX_PASSWORD_BYTES: u64 = 4096;

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Add a user or change a password; reads the password from standard input.
    Add(Arguments),
    /// Remove a user.
    Remove(Arguments),
}

#[derive(Debug, Args)]
pub(crate) struct Arguments {
    /// Name of the user.
    #[arg(value_name = "NAME")]
    name: String,
    #[command(flatten)]
    settings: SettingFlags<false>,
}

pub(crate) fn run(command: Command) -> anyhow::Result<Exit> {
    match command {
        Command::Add(Arguments { name, settings }) => {
            let file = settings.read(config::gateway_users)?;
            // Check the name before the user types a password.
            password_file::hash_line(&name, "any")?;
            let line = password_file::hash_line(&name, &password()?)?;
            let Some(path) = file else { return say(&line) };
            let verb = if password_file::update(&path, &name, Some(&line))? { "changed" } else { "added" };
            say(&format!("{verb} {name} in {}", path.display()))
        }
        Command::Remove(Arguments { name, settings }) => {
            let Some(path) = settings.read(config::gateway_users)? else {
                return Err(usage(anyhow::anyhow!("no file of users is configured; set `--gateway-users FILE`")));
            };
            if !password_file::update(&path, &name, None)? {
                anyhow::bail!("no such user in `{}`: `{name}`", path.display());
            }
            say(&format!("removed {name} from {}", path.display()))
        }
    }
}

fn say(text: &str) -> anyhow::Result<Exit> {
    output::print(&format!("{}\n", single_line(text)))
}

/// Reads the first line of standard input. On a terminal, prompts and turns off echo.
fn password() -> anyhow::Result<String> {
    let input = io::stdin();
    let hidden = if input.is_terminal() {
        output::prompt("password: ")?;
        Some(EchoOff::hide()?)
    } else {
        None
    };
    let mut line = String::new();
    io::Read::take(input.lock(), MAX_PASSWORD_BYTES).read_line(&mut line)?;
    drop(hidden);
    Ok(line.trim_end_matches(['\r', '\n']).to_owned())
}

/// Turns off terminal echo until dropped.
struct EchoOff(#[cfg(unix)] rustix::termios::Termios);

impl EchoOff {
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
    #[expect(clippy::unnecessary_wraps, reason = "same signature as on Unix")]
    fn hide() -> io::Result<Self> {
        Ok(Self())
    }
}

impl Drop for EchoOff {
    fn drop(&mut self) {
        // If the terminal is closed, there is no echo to restore.
        #[cfg(unix)]
        let _ = rustix::termios::tcsetattr(io::stdin(), rustix::termios::OptionalActions::Now, &self.0);
        // The newline of the user was not echoed.
        output::note("\n");
    }
}
