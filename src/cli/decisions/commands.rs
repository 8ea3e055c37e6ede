//! The commands that record, change and list decisions.

use std::time::Duration;

use clap::Subcommand;
use jiff::Timestamp;

use crate::app::standalone::decide;
use crate::cli::decisions::{self, RecordArgs, adopt, approve};
use crate::cli::flags::QueryArgs;
use crate::cli::operator;
use crate::cli::output::{Exit, usage};
use crate::clock::{Clock as _, SystemClock};
use crate::npm::{Range, Version};
use crate::policy::PackageGlob;
use crate::policy::decisions::{Decision, DecisionAction, DecisionState};
use crate::text::TextTable;
use crate::units::timestamp;

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Approve held versions for a limited time, by exact bytes.
    Approve(approve::Arguments),
    /// Approve held versions in lockfiles until they open.
    Adopt(adopt::Arguments),
    /// Confirm a decision that needs a second person.
    Confirm {
        /// Number of the decision.
        #[arg(value_name = "ID")]
        id: i64,
        #[command(flatten)]
        query: QueryArgs,
    },
    /// Deny versions regardless of the rules.
    Deny {
        /// Package or glob, with an optional range: `lodash@<4.17.21`, `@acme/*`.
        ///
        /// Prereleases within the range are denied too. Without a range, all versions are.
        #[arg(value_name = "PACKAGES[@RANGE]", value_parser = parse_denial)]
        target: DecisionAction,
        /// How long the denial lasts [default: until revoked].
        #[arg(long, value_name = "DURATION", value_parser = decisions::duration)]
        expires: Option<Duration>,
        #[command(flatten)]
        record: RecordArgs,
    },
    /// Revoke a decision.
    Revoke {
        /// Number of the decision.
        #[arg(value_name = "ID")]
        id: i64,
        #[command(flatten)]
        record: RecordArgs,
    },
    /// Hide releases after an instant, for a limited time.
    Freeze {
        /// Hide what was published after this instant: `2026-03-31T00:00Z`, or `now`.
        #[arg(value_name = "INSTANT", value_parser = parse_instant)]
        at: Timestamp,
        /// How long it lasts; it ends automatically.
        #[arg(long = "for", value_name = "DURATION", value_parser = decisions::duration)]
        lasts: Duration,
        /// Freeze only these packages: name or glob (`@acme/*`); may be repeated.
        #[arg(long, value_name = "GLOB", value_parser = parse_scope)]
        scope: Vec<String>,
        #[command(flatten)]
        record: RecordArgs,
    },
    /// Record ages and signals instead of refusing, for a while.
    BreakGlass {
        /// How long it lasts, at most 7d; it ends automatically.
        #[arg(long = "for", value_name = "DURATION", value_parser = parse_break_glass)]
        lasts: Duration,
        #[command(flatten)]
        record: RecordArgs,
    },
    /// Manage decisions of operators.
    #[command(subcommand)]
    Decisions(ListCommand),
}

#[derive(Debug, Subcommand)]
pub(crate) enum ListCommand {
    /// List approvals, denials, freezes and break-glass periods.
    List {
        /// Include decisions that have ended.
        #[arg(long)]
        all: bool,
        #[command(flatten)]
        query: QueryArgs,
    },
}

pub(crate) fn run(command: Command) -> anyhow::Result<Exit> {
    match command {
        Command::Approve(arguments) => approve::run(arguments),
        Command::Adopt(arguments) => adopt::run(arguments),
        Command::Confirm { id, query: QueryArgs { output, settings } } => {
            let data_dir = settings.data_dir()?;
            if let Some(why) = operator::not_told_apart() {
                anyhow::bail!("cannot confirm decision {id} here: {why}");
            }
            let recorded = decide::confirm(&data_dir, id, &operator::signature(SystemClock.now()))?;
            decisions::print_result(&recorded, output)
        }
        Command::Deny { target, expires, record } => record.submit(target, expires),
        Command::Revoke { id, record: RecordArgs { reason, query: QueryArgs { output, settings } } } => {
            let by = operator::signature(SystemClock.now());
            decisions::print_result(&decide::revoke(&settings.data_dir()?, id, &by, &reason)?, output)
        }
        Command::Freeze { at, lasts, scope, record } => {
            if at >= timestamp::saturating_add(SystemClock.now(), lasts) {
                let at = timestamp::format_utc(at);
                return Err(usage(anyhow::anyhow!("the freeze would hide nothing: it ends before {at}")));
            }
            record.submit(DecisionAction::Freeze { at, packages: scope }, Some(lasts))
        }
        Command::BreakGlass { lasts, record } => record.submit(DecisionAction::BreakGlass, Some(lasts)),
        Command::Decisions(ListCommand::List { all, query: QueryArgs { output, settings } }) => {
            let mut decisions = decide::decisions(&settings.data_dir()?)?;
            let now = SystemClock.now();
            let is_open = |state| matches!(state, DecisionState::Active | DecisionState::AwaitsSecond);
            decisions.retain(|decision| all || is_open(decision.state(now)));
            let entry = |decision: &Decision| decisions::decision_json(decision, decision.state(now).as_str());
            output.print(|| format_list(&decisions, now), || decisions.iter().map(entry).collect())
        }
    }
}

fn format_list(decisions: &[Decision], now: Timestamp) -> String {
    if decisions.is_empty() {
        return "no active decisions\n".to_owned();
    }
    let mut columns = TextTable::indented("");
    columns.row([&"ID", &"WHAT", &"ABOUT", &"STATE", &"BY", &"UNTIL", &"REASON"]);
    for decision in decisions {
        let proposal = &decision.proposal;
        let until = proposal.expires.map_or_else(|| "revoked".to_owned(), timestamp::format_utc);
        let (state, by) = (decision.state(now).as_str(), decision.signatories());
        columns.row([&decision.id, &proposal.act.kind(), &proposal.act.subject(), &state, &by, &until, &proposal.reason]);
    }
    columns.to_string()
}

fn parse_denial(text: &str) -> Result<DecisionAction, String> {
    let at = text.char_indices().skip(1).find(|(_, letter)| *letter == '@').map(|(at, _)| at);
    let (packages, range) = at.map_or((text, None), |at| (&text[..at], Some(text[at + 1..].trim())));
    PackageGlob::parse(packages)?;
    let range = range.filter(|range| !range.is_empty());
    if let Some(range) = range.filter(|range| Range::parse(range).is_none() && Version::parse(range).is_none()) {
        return Err(format!("not a range that npm accepts: `{range}`"));
    }
    Ok(DecisionAction::Deny { packages: packages.to_owned(), range: range.map(str::to_owned) })
}

/// Parses an instant with an offset, to the minute or finer, or `now`.
fn parse_instant(text: &str) -> Result<Timestamp, String> {
    if text == "now" {
        return Ok(SystemClock.now());
    }
    text.parse().map_err(|_| "expected an instant with an offset, such as `2026-03-31T00:00Z`, or `now`".to_owned())
}

pub(crate) fn parse_scope(text: &str) -> Result<String, String> {
    // `@acme` means the whole scope.
    let text = if text.starts_with('@') && !text.contains('/') { format!("{text}/*") } else { text.to_owned() };
    PackageGlob::parse(&text).map(|_| text)
}

/// Parses the length of a break-glass period. The policy `observe` is for longer ones.
fn parse_break_glass(text: &str) -> Result<Duration, String> {
    let lasts = decisions::duration(text)?;
    let is_short = lasts <= Duration::from_secs(7 * 24 * 3600);
    is_short.then_some(lasts).ok_or_else(|| "at most `7d`; for longer periods use the policy `observe`".to_owned())
}

#[cfg(test)]
mod tests {
    use expect_test::expect;

    use super::*;
    use crate::policy::decisions::{DecisionProposal, Signature};

    #[test]
    fn scope_is_not_read_as_a_range() {
        let denial = |packages: &str, range: Option<&str>| {
            Ok(DecisionAction::Deny { packages: packages.to_owned(), range: range.map(str::to_owned) })
        };
        assert_eq!(parse_denial("@acme/*"), denial("@acme/*", None));
        assert_eq!(parse_denial("@acme/ui@<2"), denial("@acme/ui", Some("<2")));
        assert!(parse_denial("axios@not a range").is_err() && parse_denial("").is_err() && parse_denial("[").is_err());
    }

    #[test]
    fn instant_needs_an_offset_but_no_seconds() {
        assert_eq!(parse_instant("2026-03-31T00:00Z").unwrap(), "2026-03-31T00:00:00Z".parse().unwrap());
        assert_eq!(parse_instant("2026-03-31T02:00+02:00").unwrap(), "2026-03-31T00:00:00Z".parse().unwrap());
        assert!(
            parse_instant("2026-03-31").is_err()
                && parse_instant("2026-03-31T00:00").is_err()
                && parse_instant("yesterday").is_err()
        );
    }

    #[test]
    fn scope_expands_to_all_its_packages() {
        assert_eq!(parse_scope("@acme"), Ok("@acme/*".to_owned()));
        assert_eq!(parse_scope("axios"), Ok("axios".to_owned()));
    }

    #[test]
    fn decisions_are_listed_one_per_line() {
        let at = |text| timestamp::parse(text).unwrap();
        let decision = |id, act, expires| Decision {
            id,
            proposal: DecisionProposal {
                act,
                reason: "INC-7".to_owned(),
                author: Signature { who: "ada".to_owned(), at: at("2026-03-31T01:00:00Z") },
                expires,
                needs_second: false,
            },
            second: None,
            revoked: None,
        };
        let freeze = DecisionAction::Freeze { at: at("2026-03-31T00:00:00Z"), packages: Vec::new() };
        let deny = DecisionAction::Deny { packages: "axios".to_owned(), range: Some("1.14.1".to_owned()) };
        let decisions = [decision(1, deny, None), decision(2, freeze, Some(at("2026-04-02T01:00:00Z")))];
        expect![[r#"
            ID  WHAT    ABOUT                                  STATE    BY   UNTIL                 REASON
            1   deny    axios@1.14.1                           active   ada  revoked               INC-7
            2   freeze  everything after 2026-03-31 00:00 UTC  expired  ada  2026-04-02 01:00 UTC  INC-7
        "#]]
        .assert_eq(&format_list(&decisions, at("2026-04-05T00:00:00Z")));
    }
}
