//! `coldframe decisions list`: lists decisions with author, state and expiry.

use clap::Subcommand;
use jiff::Timestamp;

use crate::app::standalone::decide;
use crate::cli::decisions;
use crate::cli::flags::QueryArgs;
use crate::cli::output::Exit;
use crate::clock::{Clock as _, SystemClock};
use crate::policy::decisions::{Decision, DecisionState};
use crate::text::TextTable;
use crate::units::timestamp;

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
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
    let Command::List { all, query: QueryArgs { output, settings } } = command;
    let data_dir = settings.data_dir()?;
    let now = SystemClock.now();
    let mut decisions = decide::decisions(&data_dir)?;
    decisions.retain(|decision| all || matches!(decision.state(now), DecisionState::Active | DecisionState::AwaitsSecond));
    let entry = |decision: &Decision| decisions::decision_json(decision, decision.state(now).as_str());
    output.print(|| format_text(&decisions, now), || decisions.iter().map(entry).collect())
}

fn format_text(decisions: &[Decision], now: Timestamp) -> String {
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

#[cfg(test)]
mod tests {
    use expect_test::expect;

    use super::*;
    use crate::policy::decisions::{DecisionAction, DecisionProposal, Signature};

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
        .assert_eq(&format_text(&decisions, at("2026-04-05T00:00:00Z")));
    }
}
