//! `coldframe decisions list`: what people decided, who stands for it, and what holds of it now.

use clap::{Args, Subcommand};
use jiff::Timestamp;
use serde_json::Value;

use super::decree;
use super::flags::SettingFlags;
use super::output::{self, Columns, Exit, Failure};
use crate::app::deciding;
use crate::config;
use crate::npm::instant;
use crate::policy::decision::{Decision, State};
use crate::telemetry::{Clock as _, SystemClock};

#[derive(Debug, Subcommand)]
pub(super) enum Command {
    /// List approvals, denials, freezes and hours of observation.
    List(Arguments),
}

#[derive(Debug, Args)]
pub(super) struct Arguments {
    /// Those that have ended too.
    #[arg(long)]
    all: bool,
    /// Print JSON.
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    settings: SettingFlags<false>,
}

pub(super) fn run(command: Command) -> Result<Exit, Failure> {
    let Command::List(Arguments { all, json, settings }) = command;
    let data_dir = settings.read(config::data_dir)?;
    let now = SystemClock.now();
    let mut decisions = deciding::decisions(&data_dir)?;
    decisions.retain(|decision| all || matches!(decision.state(now), State::Active | State::AwaitsSecond));
    let text = if json {
        let told = decisions.iter().map(|decision| decree::tell_json(decision, decision.state(now).as_str())).collect();
        format!("{:#}\n", Value::Array(told))
    } else {
        tell(&decisions, now)
    };
    output::print(&text)?;
    Ok(Exit::Done)
}

fn tell(decisions: &[Decision], now: Timestamp) -> String {
    if decisions.is_empty() {
        return "nothing that is in force was decided\n".to_owned();
    }
    let mut columns = Columns::indented("");
    columns.row(["ID", "WHAT", "ABOUT", "STATE", "BY", "UNTIL", "REASON"]);
    for decision in decisions {
        let proposal = &decision.proposal;
        let until = proposal.expires.map_or_else(|| "it is revoked".to_owned(), instant::tell);
        columns.row([
            decision.id.to_string(),
            proposal.act.kind().to_owned(),
            proposal.act.subject(),
            decision.state(now).as_str().to_owned(),
            decision.signed(),
            until,
            proposal.reason.clone(),
        ]);
    }
    columns.to_string()
}

#[cfg(test)]
mod tests {
    use expect_test::expect;

    use super::*;
    use crate::policy::decision::{Act, Proposal, Signature};

    #[test]
    fn each_is_a_line() {
        let at = |text| instant::parse(text).unwrap();
        let decision = |id, act, expires| Decision {
            id,
            proposal: Proposal {
                act,
                reason: "INC-7".to_owned(),
                author: Signature { who: "ada".to_owned(), at: at("2026-03-31T01:00:00Z") },
                expires,
                needs_second: false,
            },
            second: None,
            revoked: None,
        };
        let freeze = Act::Freeze { at: at("2026-03-31T00:00:00Z"), packages: Vec::new() };
        let deny = Act::Deny { packages: "axios".to_owned(), range: Some("1.14.1".to_owned()) };
        let decisions = [decision(1, deny, None), decision(2, freeze, Some(at("2026-04-02T01:00:00Z")))];
        expect![[r#"
            ID  WHAT    ABOUT                                  STATE    BY   UNTIL                 REASON
            1   deny    axios@1.14.1                           active   ada  it is revoked         INC-7
            2   freeze  everything after 2026-03-31 00:00 UTC  expired  ada  2026-04-02 01:00 UTC  INC-7
        "#]]
        .assert_eq(&tell(&decisions, at("2026-04-05T00:00:00Z")));
    }
}
