//! Shared by the commands that record decisions: reason, expiry and output.

pub(crate) mod adopt;
pub(crate) mod approve;
pub(crate) mod commands;

use std::time::Duration;

use clap::Args;
use jiff::Timestamp;
use serde_json::{Value, json};

use crate::app::standalone::decide::{self, RecordedDecision};
use crate::cli::flags::QueryArgs;
use crate::cli::operator;
use crate::cli::output::{Exit, OutputArgs};
use crate::clock::{Clock as _, SystemClock};
use crate::policy::decisions::{Decision, DecisionAction, DecisionProposal};
use crate::store::ApplyStatus;
use crate::text::push_line;
use crate::units::{quantity, timestamp};

/// The arguments of all commands that record a decision.
#[derive(Debug, Args)]
pub(crate) struct RecordArgs {
    /// Reason to record: a ticket, an advisory, a sentence.
    #[arg(long, value_name = "TEXT", value_parser = reason)]
    pub(crate) reason: String,
    #[command(flatten)]
    pub(crate) query: QueryArgs,
}

impl RecordArgs {
    /// Records a decision that ends after `lasts`, if given, and prints the result.
    pub(crate) fn submit(self, act: DecisionAction, lasts: Option<Duration>) -> anyhow::Result<Exit> {
        let data_dir = self.query.settings.data_dir()?;
        let expires = lasts.map(|lasts| timestamp::saturating_add(SystemClock.now(), lasts));
        print_result(&decide::record_decision(&data_dir, &propose(act, self.reason, expires))?, self.query.output)
    }
}

/// The longest reason, in bytes. Reasons are sent in HTTP headers of refusals.
const MAX_REASON_BYTES: usize = 300;

pub(crate) fn reason(text: &str) -> Result<String, String> {
    let text = text.trim();
    if text.is_empty() {
        return Err("the reason is empty".to_owned());
    }
    if text.len() > MAX_REASON_BYTES || text.chars().any(char::is_control) {
        return Err(format!("expected one line of at most {MAX_REASON_BYTES} bytes"));
    }
    Ok(text.to_owned())
}

pub(crate) fn duration(text: &str) -> Result<Duration, String> {
    let duration =
        quantity::parse_duration(text).map_err(|flaw| format!("it {flaw}; expected a duration such as `90m`, `48h`, `7d`"))?;
    if duration.is_zero() { Err("expected a duration above zero, such as `90m`, `48h`, `7d`".to_owned()) } else { Ok(duration) }
}

/// Proposes a decision in the name of the user that runs the command. It needs no second person.
pub(crate) fn propose(act: DecisionAction, reason: String, expires: Option<Timestamp>) -> DecisionProposal {
    DecisionProposal { act, reason, author: operator::signature(SystemClock.now()), expires, needs_second: false }
}

pub(crate) fn print_result(recorded: &RecordedDecision, output: OutputArgs) -> anyhow::Result<Exit> {
    let state = recorded.decision.state(SystemClock.now()).as_str();
    output.print(|| format_text(recorded), || decision_json(&recorded.decision, state))?;
    Ok(if recorded.effect == ApplyStatus::Pending { Exit::Failed } else { Exit::Done })
}

fn format_text(recorded: &RecordedDecision) -> String {
    let decision = &recorded.decision;
    let proposal = &decision.proposal;
    let end = match (&decision.revoked, proposal.expires) {
        (Some((by, why)), _) => format!("revoked by {}: {why}", by.who),
        (None, Some(end)) => format!("until {}", timestamp::format_utc(end)),
        (None, None) => "until revoked".to_owned(),
    };
    let mut text = String::new();
    push_line!(text, "decision {}: {} {}, {end}", decision.id, proposal.act.kind(), proposal.act.subject());
    if let DecisionAction::Approve { versions, .. } = &proposal.act
        && decision.revoked.is_none()
    {
        for approved in versions {
            let until = approved.until.map(|until| format!(" until {}", timestamp::format_utc(until))).unwrap_or_default();
            push_line!(text, "  {} {}{until}", approved.version, approved.integrity);
        }
    }
    if proposal.needs_second && decision.second.is_none() && decision.revoked.is_none() {
        match operator::not_told_apart() {
            None => push_line!(text, "not active until another user of this system runs: coldframe confirm {}", decision.id),
            Some(why) => push_line!(text, "not active, and cannot be confirmed here: {why}"),
        }
    }
    text.push_str(match recorded.effect {
        ApplyStatus::Applied => "applied by the running server\n",
        ApplyStatus::AtNextStart => "no server runs on this data directory; applies when one starts\n",
        ApplyStatus::Pending => "recorded, but the running server has not applied it; see its log\n",
    });
    text
}

pub(crate) fn decision_json(decision: &Decision, state: &str) -> Value {
    let proposal = &decision.proposal;
    json!({
        "id": decision.id,
        "state": state,
        "act": proposal.act,
        "reason": proposal.reason,
        "author": proposal.author.who,
        "made": proposal.author.at,
        "expires": proposal.expires,
        "needsSecond": proposal.needs_second,
        "second": decision.second.as_ref().map(|second| json!({ "who": second.who, "at": second.at })),
        "revoked": decision.revoked.as_ref().map(|(by, why)| json!({ "who": by.who, "at": by.at, "reason": why })),
    })
}
