//! `coldframe doctor`: whether installs in this folder really pass through Coldframe, and what would mend it where they do
//! not. Changes nothing; asks the server, upstream and the registries' ports, for seconds at most.

pub(crate) mod client_settings;
pub(crate) mod formats;
pub(crate) mod routes;

use std::net::SocketAddr;
use std::sync::Arc;

use clap::Args;
use jiff::SignedDuration;
use serde_json::json;
use url::Url;

use crate::app::ca;
use crate::app::probe::{self, ProbeReport, RedirectedHosts};
use crate::app::remote::reachable;
use crate::app::standalone::incident;
use crate::cli::check::server;
use crate::cli::doctor::client_settings::SettingsSurvey;
use crate::cli::doctor::routes::{DoctorFinding, FindingLevel, RouteAnalyzer};
use crate::cli::flags::SettingFlags;
use crate::cli::output::{self, CliError, Exit};
use crate::cli::registry_hosts::RegistryHosts;
use crate::cli::running_server;
use crate::cli::runtime::runtime;
use crate::clock::{Clock, SystemClock};
use crate::config::Config;
use crate::config::effective::{OF_PLACES, OF_VERDICTS};
use crate::npm::PackageName;
use crate::npm::lockfile::EntrySource;
use crate::server::admin::ClientPolicy;
use crate::text::push_line;
use crate::tls;

#[derive(Debug, Args)]
pub(crate) struct Arguments {
    /// The Coldframe that clients are to use [default: the running server, else the first address of `listen`].
    #[arg(long, value_name = "URL", value_parser = server)]
    server: Option<Url>,
    /// Print JSON.
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    settings: SettingFlags<false>,
}

/// Clocks further apart than this are told of.
const SKEW: SignedDuration = SignedDuration::from_mins(5);

pub(crate) fn run(arguments: Arguments) -> Result<Exit, CliError> {
    let (mut config, surroundings) = arguments.settings.clone().read(|sources| {
        let surroundings = sources.surroundings.clone();
        Ok((Config::load(sources)?, surroundings))
    })?;
    let clock = Arc::new(SystemClock);
    let survey = SettingsSurvey::of(&surroundings);
    let runtime = runtime()?;
    let running = runtime.block_on(running_server::find(&config))?;
    if let Some(running) = &running {
        running.announce_beside(&config, &[OF_VERDICTS, OF_PLACES].concat());
        config = running.config_beside(&arguments.settings, config);
    }
    let hosts = RegistryHosts::of(&config, arguments.server.as_ref());
    let is_ours = match (&running, &arguments.server) {
        (Some(running), Some(server)) => running.server.profile_at(server).is_some(),
        (Some(_), None) => true,
        (None, _) => false,
    };
    let found = running.as_ref().and_then(|running| running.server.url());
    let server_named = arguments.server;
    let server =
        server_named.clone().or(found).or_else(|| registry_of(&config)).unwrap_or_else(|| config.upstream.default.address());
    let gateways: Vec<_> = config.gateway.listen.iter().flat_map(places).collect();
    let authority = ca::trusted(&config.gateway, &config.store.data_dir, clock.now()).unwrap_or_default();
    let known = [authority.clone(), survey.authorities(&surroundings.working_directory)].concat();
    let redirected = runtime.block_on(probe::probe_redirects(&survey.registries(), &known));
    let age = match &running {
        Some(running) if is_ours => {
            let named = server_named.as_ref().and_then(|server| running.server.profile_at(server));
            running.server.terms(named.unwrap_or(running.profile)).map(ClientPolicy::age)
        }
        _ => None,
    };
    let judge = RouteAnalyzer {
        survey: &survey,
        hosts: &hosts,
        server: &server,
        gateways: &gateways,
        authority: &authority,
        redirected: &redirected,
        folder: &surroundings.working_directory,
        age: age.unwrap_or_else(|| config.policy.minimum_age()),
    };
    let mut findings = judge.findings();
    findings.extend(root_findings(&mut config.tls));
    let seen = runtime.block_on(probe::look(&config, (&server, &judge.direct_registries(&config)), sample(&survey), &*clock))?;
    findings.extend(environment_findings(&seen, &server, &redirected));
    if seen.server.is_ok() && !is_ours {
        let data_dir = config.store.data_dir.display();
        let what = format!("what answers at {server} is not a server of the data directory `{data_dir}`");
        let why = "its policy, feeds and decisions are its own, whatever is decided or explained here";
        findings.push(
            DoctorFinding::new(FindingLevel::Note, "server", what)
                .because(why)
                .with_fix("coldframe doctor --data-dir DIR, with the server's"),
        );
    }
    findings.extend(feed_findings(&config, &*clock));
    let bypassed = findings.iter().any(|finding| finding.grade == FindingLevel::Bypass);
    output::print(&if arguments.json { tell_json(&findings, bypassed) } else { tell(&findings, bypassed) })?;
    Ok(if bypassed { Exit::Failed } else { Exit::Done })
}

/// The address that clients name as their registry.
fn registry_of(config: &Config) -> Option<Url> {
    let listening = config.listen.first().map(|address| format!("http://{}/", reachable(*address)));
    config.proxy.public_url.clone().or_else(|| Url::parse(&listening?).ok())
}

/// How clients may name a listener: host and port.
fn places(address: &SocketAddr) -> Vec<String> {
    let reached = reachable(*address);
    vec![reached.to_string(), format!("localhost:{}", reached.port())]
}

/// A package of the project's to look at: one that a registry has.
fn sample(survey: &SettingsSurvey) -> Option<PackageName> {
    let entries = survey.lockfiles.values().flat_map(|lockfile| &lockfile.entries);
    entries.filter(|entry| entry.source == EntrySource::Registry).find_map(|entry| PackageName::parse(&entry.name).ok())
}

/// The files of authorities that hold none: they are done without from here on.
fn root_findings(trust: &mut tls::Config) -> Vec<DoctorFinding> {
    let mut found = Vec::new();
    trust.extra_roots.retain(|path| {
        let alone = tls::Config { extra_roots: vec![path.clone()] };
        let Err(error) = tls::client_config(&alone) else { return true };
        let why = "no Coldframe starts with it, and a client trusts nobody more for it";
        let finding = DoctorFinding::new(FindingLevel::Warning, "ca", error.to_string()).because(why);
        found.push(finding.with_fix("name a PEM file of certificates instead, as `coldframe ca export --to FILE` writes one"));
        false
    });
    found
}

fn environment_findings(seen: &ProbeReport, server: &Url, redirected: &RedirectedHosts) -> Vec<DoctorFinding> {
    let mut found = Vec::new();
    match &seen.server {
        Ok(_) => found.push(DoctorFinding::new(FindingLevel::Well, "server", format!("Coldframe answers at {server}"))),
        Err(why) => found.push(
            DoctorFinding::new(FindingLevel::Warning, "server", format!("no Coldframe answers at {server}: {why}"))
                .because("clients that ask there cannot install")
                .with_fix("coldframe serve"),
        ),
    }
    if let Err(why) = &seen.upstream {
        let finding = DoctorFinding::new(FindingLevel::Warning, "upstream", format!("upstream does not answer: {why}"));
        found.push(finding.because("only what is cached is served").with_fix("coldframe config show"));
    }
    for (who, skew) in [("the server", &seen.server), ("upstream", &seen.upstream)] {
        let Ok(Some(skew)) = skew else { continue };
        if skew.abs() > SKEW {
            let (seconds, side) = (skew.as_secs().abs(), if skew.is_positive() { "ahead of" } else { "behind" });
            let finding =
                DoctorFinding::new(FindingLevel::Warning, "clock", format!("the clock here is {seconds} s {side} that of {who}"));
            let why = "a release's age is counted by the clock: too early opens what is young";
            found.push(finding.because(why).with_fix("timedatectl set-ntp true"));
        } else {
            found.push(DoctorFinding::new(FindingLevel::Well, "clock", format!("the clock agrees with that of {who}")));
        }
    }
    for (place, opens) in &seen.egress {
        found.push(if redirected.contains_key(place) {
            DoctorFinding::new(FindingLevel::Well, "egress", format!("a connection to {place} ends at the gateway"))
        } else if *opens {
            DoctorFinding::new(FindingLevel::Note, "egress", format!("a connection to {place} opens from here"))
                .because(
                    "whoever names the registry itself goes around; only a network that lets Coldframe alone out prevents that",
                )
                .with_fix("coldframe run -- the command that installs; or allow egress to Coldframe alone")
        } else {
            DoctorFinding::new(FindingLevel::Well, "egress", format!("no connection to {place} opens from here"))
        });
    }
    if let Some(stripped) = &seen.stripped {
        found.push(match &stripped.missing {
            Ok(missing) if missing.is_empty() => DoctorFinding::new(
                FindingLevel::Well,
                "metadata",
                format!("upstream sends what rules ask for (looked at {})", stripped.name),
            ),
            Ok(missing) => DoctorFinding::new(
                FindingLevel::Warning,
                "metadata",
                format!("upstream sends no {} (looked at {})", missing.join(", "), stripped.name),
            )
            .because("rules that ask for it cannot decide: without `time` a release waits from when it was first seen")
            .with_fix("coldframe serve --upstream, with the registry that the mirror copies"),
            Err(why) => DoctorFinding::new(
                FindingLevel::Note,
                "metadata",
                format!("what upstream sends of {} could not be read: {why}", stripped.name),
            ),
        });
    }
    found
}

fn feed_findings(config: &Config, clock: &dyn Clock) -> Vec<DoctorFinding> {
    let standings = incident::status(config, clock.now());
    if standings.is_empty() {
        let finding = DoctorFinding::new(FindingLevel::Note, "feeds", "no feed of advisories is followed");
        return vec![
            finding.because("known malware is held back by its age alone").with_fix("coldframe serve --feed PATH-or-URL"),
        ];
    }
    let tell = |standing: incident::FeedStatus| match standing.staleness {
        None => DoctorFinding::new(FindingLevel::Well, "feeds", format!("the feed `{}` is fresh", standing.feed.name)),
        Some(why) => {
            DoctorFinding::new(FindingLevel::Warning, "feeds", format!("the feed `{}` is stale: {why}", standing.feed.name))
                .because("what was published as malware since then is not known here")
                .with_fix("coldframe feed sync")
        }
    };
    standings.into_iter().map(tell).collect()
}

fn tell(findings: &[DoctorFinding], bypassed: bool) -> String {
    let mut text = String::new();
    for DoctorFinding { grade, what, why, mend, .. } in findings {
        push_line!(text, "{:<8} {what}", grade.as_str());
        if !why.is_empty() {
            push_line!(text, "         why:  {why}");
        }
        if let Some(mend) = mend {
            push_line!(text, "         mend: {mend}");
        }
    }
    let count = |grade: FindingLevel| findings.iter().filter(|finding| finding.grade == grade).count();
    let end = if bypassed { "installs here go around Coldframe" } else { "installs here pass through Coldframe" };
    let (bypasses, warnings) = (count(FindingLevel::Bypass), count(FindingLevel::Warning));
    text.push('\n');
    push_line!(text, "{end} ({bypasses} bypass, {warnings} warning)");
    text
}

fn tell_json(findings: &[DoctorFinding], bypassed: bool) -> String {
    let found = findings.iter().map(|DoctorFinding { grade, check, what, why, mend }| {
        json!({ "grade": grade.as_str(), "check": check, "what": what, "why": (!why.is_empty()).then_some(why), "mend": mend })
    });
    format!("{:#}\n", json!({ "passesThrough": !bypassed, "findings": found.collect::<Vec<_>>() }))
}
