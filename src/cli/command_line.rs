//! The commands and their help, and the dispatch to the files that run them.

use std::ffi::OsString;
use std::process::ExitCode;

use clap::builder::{PossibleValuesParser, TypedValueParser as _};
use clap::error::{ContextKind, ContextValue};
use clap::{CommandFactory as _, FromArgMatches as _, Parser, Subcommand};
use clap_complete::Shell;

use crate::cli::flags::SettingFlags;
use crate::cli::{
    ca, check, client_config, clients, config, decisions, doctor, explain, exposure, feed, healthcheck, incident, ledger, output,
    policy, request, serve, token, user, vet,
};
use crate::config::suggest;
use crate::text::push_line;

const EXIT_CODES: &str = "\
Exit codes:
   0  success; `explain`, `check`: everything is allowed
   1  failure; `check`: versions would be refused; `doctor`: installs bypass Coldframe
   2  invalid flags or configuration
   3  cannot listen on the first address
   4  another coldframe uses the data directory
   5  cannot use the data directory
  10  `explain`: the version is held or denied; `vet`: a tarball has findings
  69  `check`, `adopt`: some or all versions could not be checked
  75  `check`: versions would be refused, but all of them open in time
 any  `run`: the command's exit code; 126: cannot run it; 127: not found; 128 + n: signal n

Settings:
  Set each one with a flag (`--min-release-age 7d`), an environment variable
  (`COLDFRAME_MIN_RELEASE_AGE=7d`), or in the TOML file that `--config` or COLDFRAME_CONFIG names
  (`min-release-age = \"7d\"`). Flags override the environment, and the environment overrides
  the file.";

/// An npm firewall: holds back new releases, verifies tarballs, explains refusals.
#[derive(Debug, Parser)]
#[command(name = "coldframe", version, max_term_width = 122)]
#[command(after_help = "Exit codes and settings: coldframe serve --help")]
#[command(subcommand_required = true, arg_required_else_help = true, infer_subcommands = false)]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Start the server for npm clients; needs no configuration.
    #[command(after_long_help = EXIT_CODES)]
    Serve(SettingFlags<true>),
    /// Run one command through Coldframe and summarize refusals.
    #[command(after_long_help = EXIT_CODES)]
    Run(crate::cli::run::Arguments),
    /// Check whether installs here go through Coldframe.
    Doctor(doctor::Arguments),
    /// Explain whether a version would be served, and why.
    Explain(explain::Arguments),
    /// List the versions in lockfiles that would be refused.
    Check(check::Arguments),
    /// Open tarballs and print what looks wrong in them.
    Vet(vet::Arguments),
    /// Print client configuration with a matching minimum age.
    ClientConfig(client_config::Arguments),
    /// List the clients that requested a package, from the ledger.
    Exposure(exposure::Arguments),
    /// List or export the requests in the ledger.
    #[command(subcommand)]
    Ledger(ledger::Command),
    /// List the clients in the ledger, with their tools.
    Clients(clients::Arguments),
    /// Ask for an approval of a refused version; decide on requests.
    Request(Box<request::Arguments>),
    #[command(flatten)]
    Decide(decisions::commands::Command),
    /// Check, test and compare policies.
    #[command(subcommand)]
    Policy(policy::Command),
    /// Respond to an advisory: deny, freeze, purge, list clients.
    Incident(incident::Arguments),
    /// Sync advisory feeds, show their status, export denials.
    #[command(subcommand)]
    Feed(feed::Command),
    /// Create, export, install or rotate the gateway's CA.
    #[command(subcommand)]
    Ca(ca::Command),
    /// Create, list or revoke access tokens of clients.
    #[command(subcommand)]
    Token(token::Command),
    /// Add or remove gateway users in the file of `gateway-users`.
    #[command(subcommand)]
    User(user::Command),
    /// Check whether the server is ready; for containers.
    Healthcheck(SettingFlags<false>),
    /// Create or check a configuration file, or show the settings.
    #[command(subcommand)]
    Config(config::Command),
    /// Print a shell completion script.
    Completions {
        /// Shell to print a script for.
        #[arg(value_parser = PossibleValuesParser::new(["bash", "zsh", "fish"]).try_map(|name| name.parse::<Shell>()))]
        shell: Shell,
    },
}

/// The groups of commands in the help.
const GROUPS: [(&str, &[&str]); 5] = [
    ("Serve and run", &["serve", "run", "healthcheck"]),
    ("Understand", &["explain", "check", "vet", "exposure", "ledger", "clients", "doctor"]),
    ("Decide", &["approve", "adopt", "confirm", "deny", "revoke", "freeze", "break-glass", "decisions", "request", "policy"]),
    ("Feeds and incidents", &["feed", "incident"]),
    ("Set up", &["client-config", "ca", "token", "user", "config", "completions", "help"]),
];

/// Returns the parser. Its help lists the commands in groups.
fn command_line() -> clap::Command {
    let command = Arguments::command();
    let mut groups = String::new();
    for (title, names) in GROUPS {
        push_line!(groups, " {title}:");
        for name in names {
            let about = command.find_subcommand(name).and_then(clap::Command::get_about).map(ToString::to_string);
            push_line!(groups, "  {name:<14} {}", about.as_deref().unwrap_or("Print the help of a command"));
        }
    }
    let template = "{about-with-newline}\n{usage-heading} {usage}\n\nCommands:\nGROUPS\nOptions:\n{options}{after-help}";
    command.help_template(template.replace("GROUPS", &groups))
}

/// Runs one command line, program name first. Failures are printed on standard error before it returns.
pub fn run(words: impl IntoIterator<Item = OsString>) -> ExitCode {
    std::panic::set_hook(Box::new(output::print_panic));
    let parsed = command_line().try_get_matches_from(words);
    let arguments = match parsed.and_then(|matches| Arguments::from_arg_matches(&matches)) {
        Ok(arguments) => arguments,
        Err(error) => return output::print_usage(&with_new_name(error)).into(),
    };
    let outcome = match arguments.command {
        Command::Serve(settings) => serve::run(settings),
        Command::Run(arguments) => {
            return crate::cli::run::run(arguments).unwrap_or_else(|failure| output::print_error(&failure).into());
        }
        Command::Doctor(arguments) => doctor::run(arguments),
        Command::Explain(arguments) => explain::run(arguments),
        Command::Check(arguments) => check::run(arguments),
        Command::Vet(arguments) => vet::run(arguments),
        Command::ClientConfig(arguments) => client_config::run(arguments),
        Command::Exposure(arguments) => exposure::run(arguments),
        Command::Ledger(command) => ledger::run(command),
        Command::Clients(arguments) => clients::run(&arguments),
        Command::Request(arguments) => request::run(*arguments),
        Command::Decide(command) => decisions::commands::run(command),
        Command::Policy(command) => policy::run(command),
        Command::Incident(arguments) => incident::run(arguments),
        Command::Feed(command) => feed::run(command),
        Command::Ca(command) => ca::run(command),
        Command::Token(command) => token::run(command),
        Command::User(command) => user::run(command),
        Command::Healthcheck(settings) => healthcheck::run(&settings),
        Command::Config(command) => config::run(command),
        Command::Completions { shell } => {
            let mut script = Vec::new();
            clap_complete::generate(shell, &mut command_line(), "coldframe", &mut script);
            output::print_verbatim(&String::from_utf8_lossy(&script))
        }
    };
    outcome.unwrap_or_else(|failure| output::print_error(&failure)).into()
}

/// Adds the new name of a flag or a command that was renamed to the parser's error.
fn with_new_name(mut error: clap::Error) -> clap::Error {
    let text = |kind| match error.get(kind) {
        Some(ContextValue::String(text)) => Some(text.as_str()),
        _ => None,
    };
    let flag = text(ContextKind::InvalidArg).and_then(|given| Some((given, format!("--{}", suggest::renamed(given)?))));
    let command = text(ContextKind::InvalidSubcommand).filter(|given| *given == "observe");
    let renamed = flag.or_else(|| Some((command?, "break-glass".to_owned())));
    let Some(tip) = renamed.map(|(old, new)| format!("`{old}` is now called `{new}`")) else { return error };
    error.insert(ContextKind::Suggested, ContextValue::StyledStrs(vec![tip.into()]));
    error
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::output::Exit;

    #[test]
    fn command_line_passes_clap_checks() {
        command_line().debug_assert();
    }

    #[test]
    fn help_lists_every_command_once_and_fits_a_screen() {
        let mut command = command_line();
        let help = command.render_long_help().to_string();
        for subcommand in command.get_subcommands() {
            let start = format!("  {:<14} ", subcommand.get_name());
            assert_eq!(help.lines().filter(|line| line.starts_with(&start)).count(), 1, "{start}");
        }
        assert!(help.lines().count() <= 48 && help.lines().all(|line| line.len() < 80), "{help}");
    }

    #[test]
    fn old_names_of_flags_and_commands_lead_to_the_new_ones() {
        for (line, tip) in [
            ("serve --others tunnel", "`--others` is now called `--default-egress`"),
            ("serve --head-lines=5", "`--head-lines` is now called `--max-headers`"),
            ("observe --for 1h", "`observe` is now called `break-glass`"),
        ] {
            let error = Arguments::try_parse_from(["coldframe"].into_iter().chain(line.split(' '))).unwrap_err();
            let text = with_new_name(error).render().to_string();
            assert!(text.contains(tip), "{text}");
        }
    }

    #[test]
    fn every_exit_code_is_documented() {
        use Exit::{DataDir, DataDirInUse, Done, Failed, Later, Listen, Refused, Unchecked, Usage};
        for exit in [Done, Failed, Usage, Listen, DataDirInUse, DataDir, Refused, Unchecked, Later] {
            let code = format!("{:>4}  ", exit as u8);
            assert!(EXIT_CODES.lines().any(|line| line.starts_with(&code)), "{exit:?}");
        }
    }
}
