//! `coldframe doctor`: checks whether installs in this directory go through Coldframe, and suggests fixes. Changes nothing.
//! Asks the server and upstream, and opens connections to the registries, for a few seconds at most.

pub(crate) mod client_settings;
pub(crate) mod formats;
pub(crate) mod routes;

use std::error::Error as _;
use std::sync::Arc;

use clap::Args;
use jiff::SignedDuration;
use serde_json::{Value, json};
use url::Url;

use crate::app::ca;
use crate::app::listeners::reachable;
use crate::app::probe::{self, ProbeReport, RedirectedHosts};
use crate::app::standalone::incident;
use crate::cli::check::server;
use crate::cli::doctor::client_settings::SettingsSurvey;
use crate::cli::doctor::routes::FindingLevel::{self, Bypass, Note, Warning, Well};
use crate::cli::doctor::routes::{DoctorFinding, RouteAnalyzer, registry_of};
use crate::cli::flags::QueryArgs;
use crate::cli::output::Exit;
use crate::cli::registry_hosts::{RegistryHosts, own_url};
use crate::cli::running_server;
use crate::cli::runtime::block_on;
use crate::clock::{Clock as _, SystemClock};
use crate::config::Config;
use crate::config::effective::{OF_PLACES, OF_VERDICTS};
use crate::npm::PackageName;
use crate::npm::lockfile::EntrySource;
use crate::server::admin::ClientPolicy;
use crate::text::push_line;
use crate::tls::server_certificate::EXPIRY_NOTICE;
use crate::tls::{self, ServerCertificate};
use crate::units::timestamp;
use crate::vetting::Signals;
use crate::vetting::compare::signals_needing;

#[derive(Debug, Args)]
pub(crate) struct Arguments {
    /// Coldframe URL for clients [default: running server, else first `listen`].
    #[arg(long, value_name = "URL", value_parser = server)]
    server: Option<Url>,
    #[command(flatten)]
    query: QueryArgs,
}

/// Clocks that differ by more than this cause a warning.
const SKEW: SignedDuration = SignedDuration::from_mins(5);

pub(crate) fn run(arguments: Arguments) -> anyhow::Result<Exit> {
    block_on(examine(arguments))?
}

async fn examine(arguments: Arguments) -> anyhow::Result<Exit> {
    let Arguments { server: named, query: QueryArgs { output, settings } } = arguments;
    let (mut config, surroundings) = settings.read(|sources| {
        let surroundings = sources.environment.clone();
        Ok((Config::load(sources)?, surroundings))
    })?;
    let survey = SettingsSurvey::of(&surroundings);
    let running = running_server::find(&config).await?;
    if let Some(running) = &running {
        running.announce(&config, &[OF_VERDICTS, OF_PLACES].concat(), "the value of this command applies");
        config = running.overridden_config(&settings).unwrap_or(config);
    }
    let hosts = RegistryHosts::of(&config, named.as_ref());
    let is_at = |url: &Url| running.as_ref().is_some_and(|running| running.server.profile_at(url).is_some());
    let is_ours = running.is_some() && named.as_ref().is_none_or(is_at);
    let found = running.as_ref().and_then(|running| running.server.url());
    let server = named.clone().or(found).or_else(|| own_url(&config)).unwrap_or_else(|| config.upstream.default.address());
    let gateways = config.gateway.listen.iter().map(|address| reachable(*address));
    let gateways: Vec<_> = gateways.flat_map(|address| [address.to_string(), format!("localhost:{}", address.port())]).collect();
    let authority = ca::trusted_certificates(&config.gateway, &config.store.data_dir, SystemClock.now()).unwrap_or_default();
    let known = [authority.clone(), survey.authorities(&surroundings.working_directory)].concat();
    let redirected = probe::probe_redirects(&survey.registries(), &known).await;
    let age = running.as_ref().filter(|_| is_ours).and_then(|running| {
        let named = named.as_ref().and_then(|server| running.server.profile_at(server));
        running.server.terms(named.unwrap_or(running.profile)).map(ClientPolicy::age)
    });
    let analyzer = RouteAnalyzer {
        survey: &survey,
        hosts: &hosts,
        server: &server,
        gateways: &gateways,
        authority: &authority,
        redirected: &redirected,
        folder: &surroundings.working_directory,
        age: age.unwrap_or_else(|| config.policies.default.minimum_age()),
    };
    let mut findings = analyzer.findings();
    findings.extend(root_findings(&mut config.tls));
    // The registries that clients would use without Coldframe: upstream, and the configured ones.
    let named = survey.clients.iter().filter(|used| used.is_of_project).filter_map(registry_of);
    let direct = std::iter::once(config.upstream.default.address()).chain(named).filter(|url| !hosts.is_own(url));
    let entries = survey.lockfiles.values().flat_map(|lockfile| &lockfile.entries);
    let mut entries = entries.filter(|entry| entry.source == EntrySource::Registry);
    let sample = entries.find_map(|entry| PackageName::parse(&entry.name).ok());
    let seen = probe::probe(&config, (&server, &direct.collect::<Vec<_>>()), sample, &SystemClock).await?;
    findings.extend(environment_findings(&seen, &server, &redirected));
    if seen.server.is_ok() && !is_ours {
        let data_dir = config.store.data_dir.display();
        let what = format!("the server at {server} does not use the data directory `{data_dir}`");
        let why = "it has its own policy, feeds and decisions";
        let fix = "coldframe doctor --data-dir DIR, with the directory of that server";
        findings.push(DoctorFinding::new(Note, "server", what).because(why, fix));
    }
    findings.extend(feed_findings(&config));
    findings.extend(certificate_findings(&config));
    let bypassed = findings.iter().any(|finding| finding.grade == Bypass);
    output.print(|| format_text(&findings, bypassed), || to_json(&findings, bypassed))?;
    Ok(if bypassed { Exit::Failed } else { Exit::Done })
}

/// Removes CA files without certificates from `trust` and reports them.
fn root_findings(trust: &mut tls::Config) -> Vec<DoctorFinding> {
    let mut found = Vec::new();
    trust.extra_roots.retain(|path| {
        let alone = tls::Config { extra_roots: vec![path.clone()], ..tls::Config::default() };
        let Err(error) = tls::client_config(&alone) else { return true };
        let why = "the server does not start with this file, and clients ignore it";
        let fix = "use a PEM file of certificates, such as from `coldframe ca export --to FILE`";
        found.push(DoctorFinding::new(Warning, "ca", error.to_string()).because(why, fix));
        false
    });
    found
}

/// Checks the certificate of the registry's own addresses.
fn certificate_findings(config: &Config) -> Option<DoctorFinding> {
    let files = config.server.tls.clone()?;
    let certificate = match ServerCertificate::load(files, Arc::new(SystemClock)) {
        Ok(certificate) => certificate,
        Err(error) => {
            let causes = std::iter::successors(error.source(), |cause| (*cause).source());
            let what = causes.fold(error.to_string(), |what, cause| format!("{what}: {cause}"));
            let why = "the server does not start with these files, and a running one keeps the previous certificate";
            return Some(
                DoctorFinding::new(Warning, "certificate", what).because(why, "coldframe serve --tls-cert FILE --tls-key FILE"),
            );
        }
    };
    let end = timestamp::format_utc(certificate.not_after());
    let soon = timestamp::saturating_add(SystemClock.now(), EXPIRY_NOTICE);
    Some(if certificate.not_after() <= soon {
        let what = format!("the certificate for HTTPS ends at {end}");
        let why = "clients refuse an expired certificate";
        DoctorFinding::new(Warning, "certificate", what).because(why, "renew the files of `tls-cert` and `tls-key`")
    } else {
        DoctorFinding::new(Well, "certificate", format!("the certificate for HTTPS is valid until {end}"))
    })
}

fn environment_findings(seen: &ProbeReport, server: &Url, redirected: &RedirectedHosts) -> Vec<DoctorFinding> {
    let mut found = Vec::new();
    found.push(match &seen.server {
        Ok(_) => DoctorFinding::new(Well, "server", format!("Coldframe answers at {server}")),
        Err(why) => DoctorFinding::new(Warning, "server", format!("no Coldframe answers at {server}: {why}"))
            .because("clients that use it cannot install", "coldframe serve"),
    });
    if let Err(why) = &seen.upstream {
        let finding = DoctorFinding::new(Warning, "upstream", format!("upstream does not answer: {why}"));
        found.push(finding.because("only cached packages are served", "coldframe config show"));
    }
    for (who, skew) in [("the server", &seen.server), ("upstream", &seen.upstream)] {
        let Ok(Some(skew)) = skew else { continue };
        if skew.abs() > SKEW {
            let (seconds, side) = (skew.as_secs().abs(), if skew.is_positive() { "ahead of" } else { "behind" });
            let finding = DoctorFinding::new(Warning, "clock", format!("the local clock is {seconds} s {side} that of {who}"));
            let why = "release ages depend on the clock; a fast clock opens releases too early";
            found.push(finding.because(why, "timedatectl set-ntp true"));
        } else {
            found.push(DoctorFinding::new(Well, "clock", format!("the clock agrees with that of {who}")));
        }
    }
    for (place, opens) in &seen.egress {
        found.push(if redirected.contains_key(place) {
            DoctorFinding::new(Well, "egress", format!("connections to {place} are redirected to the gateway"))
        } else if *opens {
            DoctorFinding::new(Note, "egress", format!("direct connections to {place} are possible")).because(
                "clients can bypass Coldframe unless the network allows egress to Coldframe only",
                "coldframe run -- INSTALL COMMAND; or allow egress to Coldframe only",
            )
        } else {
            DoctorFinding::new(Well, "egress", format!("direct connections to {place} are not possible"))
        });
    }
    if let Some(stripped) = &seen.stripped {
        let name = &stripped.name;
        found.push(match &stripped.missing {
            Ok(missing) if missing.is_empty() => {
                DoctorFinding::new(Well, "metadata", format!("upstream sends the metadata that rules need (checked with {name})"))
            }
            Ok(missing) => {
                let signals = missing.iter().fold(Signals::NONE, |all, member| all.or(signals_needing(member)));
                let unseen =
                    if signals.is_empty() { String::new() } else { format!("; signals not observable: {}", signals.describe()) };
                let why = "rules that need it cannot decide; without `time`, age counts from when a release was first seen";
                let what = format!("upstream sends no {} (checked with {name}){unseen}", missing.join(", "));
                let fix = "coldframe serve --upstream URL, with the registry that the mirror copies";
                DoctorFinding::new(Warning, "metadata", what).because(why, fix)
            }
            Err(why) => DoctorFinding::new(Note, "metadata", format!("cannot read the metadata of {name}: {why}")),
        });
    }
    found
}

fn feed_findings(config: &Config) -> Vec<DoctorFinding> {
    let statuses = incident::status(config, SystemClock.now());
    if statuses.is_empty() {
        let finding = DoctorFinding::new(Note, "feeds", "no advisory feed is configured");
        return vec![finding.because("known malware is held by its age only", "coldframe serve --feed PATH-or-URL")];
    }
    let format_text = |status: incident::StoredFeedStatus| match status.staleness {
        None => DoctorFinding::new(Well, "feeds", format!("the feed `{}` is fresh", status.feed.name)),
        Some(why) => DoctorFinding::new(Warning, "feeds", format!("the feed `{}` is stale: {why}", status.feed.name))
            .because("malware published since then is not known here", "coldframe feed sync"),
    };
    statuses.into_iter().map(format_text).collect()
}

fn format_text(findings: &[DoctorFinding], bypassed: bool) -> String {
    let mut text = String::new();
    for DoctorFinding { grade, what, why, fix, .. } in findings {
        push_line!(text, "{:<8} {what}", grade.as_str());
        if !why.is_empty() {
            push_line!(text, "         why:  {why}");
        }
        if let Some(fix) = fix {
            push_line!(text, "         fix:  {fix}");
        }
    }
    let count = |grade: FindingLevel| findings.iter().filter(|finding| finding.grade == grade).count();
    let end = if bypassed { "installs here bypass Coldframe" } else { "installs here go through Coldframe" };
    let (bypasses, warnings) = (count(Bypass), count(Warning));
    text.push('\n');
    push_line!(text, "{end} ({bypasses} bypass, {warnings} warning)");
    text
}

fn to_json(findings: &[DoctorFinding], bypassed: bool) -> Value {
    let found = findings.iter().map(|DoctorFinding { grade, check, what, why, fix }| {
        json!({ "grade": grade.as_str(), "check": check, "what": what, "why": (!why.is_empty()).then_some(why), "mend": fix })
    });
    json!({ "passesThrough": !bypassed, "findings": found.collect::<Vec<_>>() })
}
