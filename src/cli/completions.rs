//! `coldframe completions`: prints a shell completion script.

use clap::Args;
use clap::builder::{PossibleValuesParser, TypedValueParser as _};
use clap_complete::Shell;

use crate::cli::output::{self, CliError, Exit};

#[derive(Debug, Args)]
pub(crate) struct Arguments {
    /// Shell to print a script for.
    #[arg(value_parser = PossibleValuesParser::new(["bash", "zsh", "fish"]).try_map(|name| name.parse::<Shell>()))]
    shell: Shell,
}

pub(crate) fn run(arguments: &Arguments, mut command: clap::Command) -> Result<Exit, CliError> {
    let mut script = Vec::new();
    clap_complete::generate(arguments.shell, &mut command, "coldframe", &mut script);
    output::print_verbatim(&String::from_utf8_lossy(&script))
}
