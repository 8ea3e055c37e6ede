//! `coldframe token`: creates, lists and revokes access tokens.

use std::time::Duration;

use clap::builder::PossibleValuesParser;
use clap::{Args, Subcommand};
use jiff::Timestamp;
use serde_json::{Value, json};

use crate::app::standalone::tokens::{self, CreatedToken, TokenRequest};
use crate::cli::decisions;
use crate::cli::decisions::commands::parse_scope;
use crate::cli::flags::QueryArgs;
use crate::cli::operator;
use crate::cli::output::{self, Exit, counted, say, usage};
use crate::clock::{Clock as _, SystemClock};
use crate::policy::access::check_label;
use crate::policy::principal::check_person;
use crate::policy::{PackageScope, Principal, Role};
use crate::store::{ApplyStatus, TokenRecord, TokenSelector, TokenState};
use crate::text::{TextTable, push_line};
use crate::units::timestamp;

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Create a token; prints it once on standard output.
    Create(CreateArgs),
    /// List tokens, without their secrets.
    List {
        /// Include revoked and expired tokens.
        #[arg(long)]
        all: bool,
        #[command(flatten)]
        query: QueryArgs,
    },
    /// Revoke a token; a running server refuses it within a second.
    Revoke {
        /// Number or label of the token.
        #[arg(value_name = "ID|LABEL", required_unless_present = "owner")]
        which: Option<String>,
        /// Revoke all tokens of this person, and those made for machines.
        #[arg(long, value_name = "PERSON", conflicts_with = "which")]
        owner: Option<String>,
        #[command(flatten)]
        query: QueryArgs,
    },
}

#[derive(Debug, Args)]
pub(crate) struct CreateArgs {
    /// Who uses it; the ledger and the log show it.
    #[arg(long, value_name = "LABEL", value_parser = label)]
    label: String,
    /// What it may do.
    #[arg(long, default_value = "client", value_parser = PossibleValuesParser::new(Role::ALL.iter().map(|role| role.as_str())))]
    role: String,
    /// How long it is valid [default: until revoked].
    #[arg(long, value_name = "DURATION", value_parser = decisions::duration)]
    expires: Option<Duration>,
    /// Packages that it may ask for: name or glob (`@acme/*`) [default: all]; may be repeated.
    #[arg(long, value_name = "GLOB", value_parser = parse_scope)]
    scope: Vec<String>,
    /// Person that it belongs to [default: the user that runs this].
    ///
    /// All tokens of one person count as one person: who asked for a version cannot approve it with another token.
    #[arg(long, value_name = "PERSON", value_parser = person)]
    owner: Option<String>,
    /// A machine uses it. It can ask for approvals, but never approve.
    #[arg(long)]
    machine: bool,
    #[command(flatten)]
    query: QueryArgs,
}

fn label(text: &str) -> Result<String, String> {
    check_label(text).map(|()| text.to_owned())
}

fn person(text: &str) -> Result<String, String> {
    check_person(text).map(|()| text.to_owned())
}

pub(crate) fn run(command: Command) -> anyhow::Result<Exit> {
    match command {
        Command::Create(arguments) => create(arguments),
        Command::List { all, query: QueryArgs { output, settings } } => {
            let mut records = tokens::list(&settings.data_dir()?)?;
            let now = SystemClock.now();
            records.retain(|record| all || record.state(now) == TokenState::Active);
            output.print(|| format_list(&records, now), || records.iter().map(|record| token_json(record, now)).collect())
        }
        Command::Revoke { which, owner, query: QueryArgs { output, settings } } => {
            let named = which.unwrap_or_default();
            let which = match owner {
                Some(owner) => TokenSelector::Owner(owner),
                None => named.parse().map_or(TokenSelector::Label(named), TokenSelector::Id),
            };
            let now = SystemClock.now();
            let (revoked, effect) = tokens::revoke(&settings.data_dir()?, &which, &operator::signature(now))?;
            let text = || {
                let mut text = String::new();
                for record in &revoked {
                    push_line!(text, "revoked token {}: {}", record.id, record.token.label);
                }
                push_line!(text, "{}", effect_text(effect));
                text
            };
            output.print(text, || revoked.iter().map(|record| token_json(record, now)).collect())?;
            Ok(exit_of(effect))
        }
    }
}

fn create(arguments: CreateArgs) -> anyhow::Result<Exit> {
    let CreateArgs { label, role, expires, scope, owner, machine, query: QueryArgs { output, settings } } = arguments;
    let now = SystemClock.now();
    let owner: std::sync::Arc<str> = owner.unwrap_or_else(operator::name).into();
    let request = TokenRequest {
        owner: if machine { Principal::Machine(owner) } else { Principal::Person(owner) },
        label,
        role: Role::parse(&role).unwrap_or(Role::Client),
        scope: PackageScope::parse(&scope).map_err(|error| usage(anyhow::anyhow!("invalid scope: {error}")))?,
        expires: expires.map(|lasts| timestamp::saturating_add(now, lasts)),
    };
    let CreatedToken { secret, record, effect } = tokens::create(&settings.data_dir()?, request, operator::signature(now))?;
    if output.json {
        let mut json = token_json(&record, now);
        json["token"] = secret.reveal().into();
        output::print(&format!("{json:#}\n"))?;
        return Ok(exit_of(effect));
    }
    // Only the token is on standard output, so that a script can store it.
    output::print(&format!("{}\n", secret.reveal()))?;
    let TokenRecord { id, token, .. } = &record;
    let until = token.expires.map_or_else(|| "until revoked".to_owned(), |end| format!("until {}", timestamp::format_utc(end)));
    say(&format!("token {id}: {}, role {}, {}, {until}; it is not shown again", token.label, token.role.as_str(), token.scope));
    say(effect_text(effect));
    Ok(exit_of(effect))
}

fn effect_text(effect: ApplyStatus) -> &'static str {
    match effect {
        ApplyStatus::Applied => "applied by the running server",
        ApplyStatus::AtNextStart => "no server runs on this data directory; applies when one starts",
        ApplyStatus::Pending => "recorded, but the running server has not applied it; see its log",
    }
}

fn exit_of(effect: ApplyStatus) -> Exit {
    if effect == ApplyStatus::Pending { Exit::Failed } else { Exit::Done }
}

fn format_list(records: &[TokenRecord], now: Timestamp) -> String {
    if records.is_empty() {
        return "no active tokens\n".to_owned();
    }
    let mut columns = TextTable::indented("");
    columns.row([&"ID", &"LABEL", &"ROLE", &"SCOPE", &"STATE", &"UNTIL", &"LAST USED", &"OWNER"]);
    for record in records {
        let TokenRecord { id, token, last_used, .. } = record;
        let until = token.expires.map_or_else(|| "revoked".to_owned(), timestamp::format_utc);
        let used = last_used.map_or_else(|| "never".to_owned(), timestamp::format_utc);
        let state = record.state(now).as_str();
        let kind = if token.owner.is_machine() { " (machine)" } else { "" };
        let owner = format!("{}{kind}", token.owner.name());
        columns.row([id, &token.label, &token.role.as_str(), &token.scope, &state, &until, &used, &owner]);
    }
    format!("{columns}{}\n", counted(records.len(), "token"))
}

fn token_json(record: &TokenRecord, now: Timestamp) -> Value {
    let TokenRecord { id, token, last_used, revoked } = record;
    json!({
        "id": id,
        "label": token.label,
        "role": token.role.as_str(),
        "scopes": token.scope.globs(),
        "state": record.state(now).as_str(),
        "created": token.created.at,
        "createdBy": token.created.who,
        "owner": token.owner.name(),
        "isMachine": token.owner.is_machine(),
        "expires": token.expires,
        "lastUsed": last_used,
        "revoked": revoked.as_ref().map(|by| json!({ "who": by.who, "at": by.at })),
    })
}
