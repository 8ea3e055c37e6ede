//! `coldframe completions`: prints a shell completion script.

use clap::{Args, ValueEnum};

use crate::cli::output::{self, CliError, Exit};

#[derive(Debug, Args)]
pub(crate) struct Arguments {
    /// Shell to print a script for.
    #[arg(value_enum)]
    shell: Shell,
}

/// The supported shells.
#[derive(Debug, Clone, Copy, ValueEnum)]
enum Shell {
    Bash,
    Zsh,
    Fish,
}

pub(crate) fn run(arguments: &Arguments, mut command: clap::Command) -> Result<Exit, CliError> {
    let shell = match arguments.shell {
        Shell::Bash => clap_complete::Shell::Bash,
        Shell::Zsh => clap_complete::Shell::Zsh,
        Shell::Fish => clap_complete::Shell::Fish,
    };
    let mut script = Vec::new();
    clap_complete::generate(shell, &mut command, "coldframe", &mut script);
    output::print_verbatim(&String::from_utf8_lossy(&script))?;
    Ok(Exit::Done)
}
