//! `coldframe request`: asks for an approval of a refused version, and decides on requests.

use std::path::PathBuf;
use std::sync::Arc;

use clap::{Args, Subcommand};
use serde::de::DeserializeOwned;
use serde_json::Value;
use url::Url;

use crate::app::operations::requests::RequestOperation;
use crate::app::remote::http::HttpServer;
use crate::app::standalone::requests::RequestEndpoint;
use crate::cli::check::server;
use crate::cli::flags::QueryArgs;
use crate::cli::output::{Exit, counted};
use crate::cli::runtime::block_on;
use crate::cli::{operator, running_server};
use crate::clock::SystemClock;
use crate::firewall::requests::view::{ActorView, ManifestComparison, PackageUsers, RequestDetails, RequestView};
use crate::policy::requests::text::{DecidingReason, ProjectName, RequestReason, parse_period};
use crate::server::admin::requests::{AskBody, ChangedRequest, DecisionBody, RequestAction, RequestList};
use crate::text::{TextTable, json_error, push_line, shell_word};
use crate::units::timestamp;

#[derive(Debug, Args)]
#[command(args_conflicts_with_subcommands = true, subcommand_negates_reqs = true)]
pub(crate) struct Arguments {
    #[command(subcommand)]
    command: Option<Command>,
    /// Package with an exact version: `axios@1.14.1`.
    #[arg(value_name = "PACKAGE@VERSION", required = true)]
    spec: Option<String>,
    /// Why you need it; approvers read it.
    #[arg(long, value_name = "TEXT", required = true, value_parser = request_reason)]
    reason: Option<String>,
    /// How long you need it [default: 7d].
    #[arg(long = "for", value_name = "DURATION", value_parser = period)]
    lasts: Option<String>,
    /// The project that needs it.
    #[arg(long, value_name = "TEXT", value_parser = project)]
    project: Option<String>,
    #[command(flatten)]
    place: PlaceArgs,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// List open requests.
    List {
        /// State to list, such as `declined`; `all` for every request.
        #[arg(long, value_name = "STATE", default_value = "open")]
        state: String,
        #[command(flatten)]
        place: PlaceArgs,
    },
    /// Show a request with everything that is known of the version.
    Show {
        /// Number of the request.
        #[arg(value_name = "ID")]
        id: i64,
        #[command(flatten)]
        place: PlaceArgs,
    },
    /// Approve the bytes that `show` printed, until a date.
    Approve {
        /// Number of the request.
        #[arg(value_name = "ID")]
        id: i64,
        /// The digests that `show` printed.
        #[arg(long, value_name = "SRI")]
        digests: String,
        /// Finding to override, as `show` printed it; may be repeated. A second person must then approve too.
        #[arg(long = "record", value_name = "ID")]
        records: Vec<String>,
        /// How long the approval lasts [default: as long as was asked for].
        #[arg(long = "for", value_name = "DURATION", value_parser = period)]
        lasts: Option<String>,
        /// Reason to record.
        #[arg(long, value_name = "TEXT", value_parser = deciding_reason)]
        reason: String,
        #[command(flatten)]
        place: PlaceArgs,
    },
    /// Decline a request; the version can be asked for again after a week.
    Decline {
        /// Number of the request.
        #[arg(value_name = "ID")]
        id: i64,
        /// Reason for the people who asked.
        #[arg(long, value_name = "TEXT", value_parser = deciding_reason)]
        reason: String,
        #[command(flatten)]
        place: PlaceArgs,
    },
    /// Withdraw what you asked for.
    Withdraw {
        /// Number of the request.
        #[arg(value_name = "ID")]
        id: i64,
        #[command(flatten)]
        place: PlaceArgs,
    },
}

#[derive(Debug, Args)]
struct PlaceArgs {
    /// Ask the Coldframe server at this URL, with your access token.
    #[arg(long, value_name = "URL", value_parser = server)]
    server: Option<Url>,
    /// File with the token for `--server` [default: `admin-token-file`].
    #[arg(long, value_name = "FILE", requires = "server")]
    token_file: Option<PathBuf>,
    #[command(flatten)]
    query: QueryArgs,
}

pub(crate) fn run(arguments: Arguments) -> anyhow::Result<Exit> {
    let Arguments { command, spec, reason, lasts, project, place } = arguments;
    let change = |id, action, body| RequestOperation::Change(id, action, body);
    let decided = |reason: String| DecisionBody { reason: Some(reason), ..DecisionBody::default() };
    match command {
        None => {
            let body = AskBody { spec: spec.unwrap_or_default(), reason: reason.unwrap_or_default(), project, lasts };
            place.perform(RequestOperation::Ask(body), changed_text)
        }
        Some(Command::List { state, place }) => {
            let query: String = url::form_urlencoded::Serializer::new(String::new()).append_pair("state", &state).finish();
            place.perform(RequestOperation::List(query), list_text)
        }
        Some(Command::Show { id, place }) => place.perform(RequestOperation::Show(id), details_text),
        Some(Command::Approve { id, digests, records, lasts, reason, place }) => {
            let body = DecisionBody { digests: Some(digests), records, lasts, ..decided(reason) };
            place.perform(change(id, RequestAction::Approve, body), changed_text)
        }
        Some(Command::Decline { id, reason, place }) => {
            place.perform(change(id, RequestAction::Decline, decided(reason)), changed_text)
        }
        Some(Command::Withdraw { id, place }) => {
            place.perform(change(id, RequestAction::Withdraw, DecisionBody::default()), changed_text)
        }
    }
}

impl PlaceArgs {
    /// Performs an operation and prints the answer.
    fn perform<T: DeserializeOwned>(self, operation: RequestOperation, text: fn(&T) -> String) -> anyhow::Result<Exit> {
        let Self { server, token_file, query: QueryArgs { output, settings } } = self;
        let config = settings.config()?;
        let answer: Value = block_on(async {
            let endpoint = match server {
                Some(url) => RequestEndpoint::Http(Box::new(HttpServer::for_requests(url, &config, token_file.as_deref())?)),
                None => match running_server::find_announced(&config).await? {
                    Some(running) => RequestEndpoint::Running(Box::new(running.server), running.profile),
                    None => RequestEndpoint::here(config, Arc::new(SystemClock))?,
                },
            };
            anyhow::Ok(endpoint.perform(&operator::name(), operation).await?)
        })??;
        let typed: T = serde_json::from_value(answer.clone())
            .map_err(|error| anyhow::anyhow!("cannot read the answer: {}", json_error(&error)))?;
        output.print(|| text(&typed), || answer)
    }
}

fn request_reason(text: &str) -> Result<String, String> {
    RequestReason::parse(text).map(|reason| reason.to_string())
}

fn deciding_reason(text: &str) -> Result<String, String> {
    DecidingReason::parse(text).map(|reason| reason.to_string())
}

fn project(text: &str) -> Result<String, String> {
    ProjectName::parse(text).map(|project| project.to_string())
}

fn period(text: &str) -> Result<String, String> {
    parse_period(text).map(|_| text.to_owned())
}

fn changed_text(changed: &ChangedRequest) -> String {
    let ChangedRequest { request, outcome, applied } = changed;
    let RequestView { id, package, version, decision, .. } = request;
    let mut text = String::new();
    push_line!(text, "request {id}: {package}@{version}, {outcome}");
    if let Some(decision) = decision {
        push_line!(text, "decision {decision}");
    }
    match applied {
        Some(true) => push_line!(text, "applied by the server"),
        Some(false) => push_line!(text, "recorded; a running server applies it within seconds, and others when they start"),
        None => {}
    }
    text
}

fn list_text(list: &RequestList) -> String {
    if list.requests.is_empty() {
        return "no such requests\n".to_owned();
    }
    let mut columns = TextTable::indented("");
    columns.row([&"ID", &"VERSION", &"STATE", &"ASKED", &"BY", &"PROJECT", &"REASON"]);
    for request in &list.requests {
        let Some(first) = request.askers.first() else { continue };
        let spec = format!("{}@{}", request.package, request.version);
        let more = request.askers.len() - 1;
        let by = if more == 0 { person(&first.by) } else { format!("{} and {more} more", person(&first.by)) };
        let (asked, project) = (timestamp::format_utc(first.by.at), first.project.as_deref().unwrap_or("-"));
        columns.row([&request.id, &spec, &request.state, &asked, &by, &project, &first.reason]);
    }
    format!("{columns}{}\n", counted(list.requests.len(), "request"))
}

fn person(by: &ActorView) -> String {
    match by.is_machine {
        true => format!("{} (machine)", by.subject),
        false if by.person == by.subject => by.person.clone(),
        false => format!("{} ({})", by.person, by.subject),
    }
}

fn comparison_text(compared: &ManifestComparison) -> String {
    let mut text = String::new();
    push_line!(text, "");
    let ManifestComparison { with, changes, more } = compared;
    let found = if changes.is_empty() { ": no changes" } else { "" };
    push_line!(text, "manifest compared with {with}{found}");
    for change in changes {
        let entry = if change.name.is_empty() { change.member.clone() } else { format!("{} {}", change.member, change.name) };
        match (&change.old, &change.new) {
            (Some(old), Some(new)) => push_line!(text, "  ~ {entry}: {old} -> {new}"),
            (Some(old), None) => push_line!(text, "  - {entry}: {old}"),
            (None, new) => push_line!(text, "  + {entry}: {}", new.as_deref().unwrap_or_default()),
        }
    }
    if *more > 0 {
        push_line!(text, "  and {more} more");
    }
    text
}

fn users_text(users: &PackageUsers) -> String {
    let mut text = String::new();
    push_line!(text, "");
    push_line!(text, "the package was installed by {}", counted(users.total, "client"));
    for user in &users.clients {
        push_line!(text, "  {} {}, last {}", user.client, user.version, timestamp::format_utc(user.last));
    }
    text
}

fn details_text(details: &RequestDetails) -> String {
    let RequestDetails { request, current, text: explained, owners, changes, used_by, .. } = details;
    let RequestView { id, package, version, digests, state, .. } = request;
    let mut text = String::new();
    push_line!(text, "request {id}: {package}@{version}, {state}");
    for asker in &request.askers {
        let project = asker.project.as_ref().map(|project| format!(" for {project}")).unwrap_or_default();
        let lasts = timestamp::format_duration(std::time::Duration::from_secs(asker.lasts_seconds));
        let withdrawn = if asker.withdrawn.is_some() { ", withdrawn" } else { "" };
        let at = timestamp::format_utc(asker.by.at);
        push_line!(text, "  asked by {} {at}{project}, {lasts}{withdrawn}: {}", person(&asker.by), asker.reason);
    }
    for step in request.steps.iter().filter(|step| step.step != "asked" && step.step != "joined") {
        let at = timestamp::format_utc(step.by.at);
        push_line!(text, "  {} by {} {at} ({}): {}", step.step, person(&step.by), step.by.method, step.detail);
    }
    for owner in owners {
        let must = if owner.must_approve { "; one of them must approve" } else { "" };
        push_line!(text, "  owned by {}{must}", owner.people.join(", "));
    }
    if let Some(explained) = explained {
        text.push('\n');
        text.push_str(explained);
    }
    if let Some(compared) = changes {
        text.push_str(&comparison_text(compared));
    }
    if let Some(users) = used_by {
        text.push_str(&users_text(users));
    }
    text.push('\n');
    let Some(current) = current else {
        push_line!(text, "digests: {digests}");
        return text;
    };
    push_line!(text, "digests: {}", current.digests);
    let records: String = current.records.iter().map(|record| [" --record ", &*shell_word(record)].concat()).collect();
    if current.needs_second {
        push_line!(text, "an approval overrides these and needs a second person: {}", current.records.join(", "));
    }
    push_line!(text, "approve: coldframe request approve {id} --digests {}{records} --reason TEXT", shell_word(&current.digests));
    text
}
