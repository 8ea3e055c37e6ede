//! Probes the surroundings of an installation: the server, clock skew, egress around the server, and the metadata that upstream
//! sends. Every probe ends within seconds.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::Method;
use http::header::{ACCEPT, AUTHORIZATION, DATE, HeaderMap, HeaderValue};
use jiff::{SignedDuration, Timestamp};
use rustls_pki_types::{CertificateDer, ServerName};
use tokio::time::timeout;
use tokio_rustls::TlsConnector;
use url::{Host, Url};

use crate::app::error::AppError;
use crate::app::outbound::{self, HttpReply, below};
use crate::clock::Clock;
use crate::config::Config;
use crate::net::{Deadlines, HttpClient, dial_permitted, is_loopback};
use crate::npm::packument::parse::parse;
use crate::npm::{PackageName, Packument};
use crate::tls;
use crate::upstream::credential_source::CredentialCell;
use crate::upstream::{self, RegistryConfig};

/// The time limit of each request.
const PROBE_TIMEOUT: Duration = Duration::from_secs(8);

const CONNECTING: Duration = Duration::from_secs(3);

#[derive(Debug, Clone)]
pub(crate) struct ProbeReport {
    /// The local clock minus the clock of the server that clients use, or why the server did not answer.
    pub(crate) server: Result<Option<SignedDuration>, String>,
    /// The local clock minus upstream's clock, or why upstream did not answer.
    pub(crate) upstream: Result<Option<SignedDuration>, String>,
    /// Registries by host and port, and whether a direct connection to each succeeds.
    pub(crate) egress: Vec<(String, bool)>,
    /// The metadata that the sample packument lacks; `None` without a sample.
    pub(crate) stripped: Option<MissingMetadata>,
}

#[derive(Debug, Clone)]
pub(crate) struct MissingMetadata {
    pub(crate) name: PackageName,
    /// The missing fields by their npm names, or why the packument could not be read.
    pub(crate) missing: Result<Vec<&'static str>, String>,
}

/// Hosts with ports, and the certificate chains presented there.
pub(crate) type RedirectedHosts = BTreeMap<String, Vec<CertificateDer<'static>>>;

/// Runs all probes in parallel. `server` is the URL that clients use, `around` has the registries that they must not reach
/// directly, and `sample` is a package to fetch.
pub(crate) async fn probe(
    config: &Config,
    (server, around): (&Url, &[Url]),
    sample: Option<PackageName>,
    clock: &dyn Clock,
) -> Result<ProbeReport, AppError> {
    let deadlines = Deadlines { connect: CONNECTING, headers: PROBE_TIMEOUT, idle: PROBE_TIMEOUT, whole: PROBE_TIMEOUT };
    let client = outbound::http_client(config, deadlines, config.upstream.proxies.clone())?;
    // The certificate of the server on this machine need not name the address that it is asked at.
    let is_here = server.scheme() == "https" && server.host().is_some_and(|host| is_loopback(&host));
    let own = match &config.server.tls {
        Some(files) if is_here => outbound::pinned_client(files, deadlines)?,
        _ => client.clone(),
    };
    let (server, upstream, egress, stripped) =
        tokio::join!(health(&own, server, clock), date(&client, &config.upstream, clock), egress(around), async {
            let name = sample?;
            let missing = missing(&client, config, &name).await;
            Some(MissingMetadata { name, missing })
        },);
    Ok(ProbeReport { server, upstream, egress, stripped })
}

async fn health(client: &HttpClient, server: &Url, clock: &dyn Clock) -> Result<Option<SignedDuration>, String> {
    let url = below(server, "-/coldframe/healthz");
    let HttpReply { is_success, status, headers, .. } = ask(client, url, HeaderMap::new(), 0).await?;
    if is_success { Ok(skew(&headers, clock)) } else { Err(format!("not a Coldframe response: {status}")) }
}

/// Returns upstream's clock skew. Any response has a date, including errors.
async fn date(client: &HttpClient, config: &upstream::Config, clock: &dyn Clock) -> Result<Option<SignedDuration>, String> {
    let upstream = &config.default;
    let url = below(&upstream.address(), "-/ping");
    let headers = credentials(config, upstream, &url).await?;
    let answer = ask(client, url, headers, 0).await?;
    Ok(skew(&answer.headers, clock))
}

/// Checks all registries in parallel, because each may take the full connection timeout.
async fn egress(around: &[Url]) -> Vec<(String, bool)> {
    let mut opening = tokio::task::JoinSet::new();
    for url in around {
        let url = url.clone();
        opening.spawn(async move { can_connect(&url).await });
    }
    let mut found: Vec<_> = opening.join_all().await.into_iter().flatten().collect();
    found.sort();
    found.dedup();
    found
}

/// Checks whether a direct connection to a registry succeeds. Sends nothing.
async fn can_connect(url: &Url) -> Option<(String, bool)> {
    let (host, port) = (url.host_str()?, url.port_or_known_default()?);
    let dialled = host.trim_start_matches('[').trim_end_matches(']');
    let opened = timeout(CONNECTING, dial_permitted(dialled, port, |_| Ok(()))).await;
    Some((format!("{host}:{port}"), matches!(opened, Ok(Ok(_)))))
}

/// Finds registries to which a connection from here ends at a gateway with one of these CAs, because of a packet filter or DNS.
/// Returns the hosts with ports and the presented certificates. Sends no request.
pub(crate) async fn probe_redirects(registries: &[Url], authorities: &[CertificateDer<'static>]) -> RedirectedHosts {
    let Some(trusting) = tls::trust_only(authorities) else { return RedirectedHosts::new() };
    let mut opening = tokio::task::JoinSet::new();
    for url in registries.iter().filter(|url| url.scheme() == "https") {
        let (Some(Host::Domain(host)), Some(port)) = (url.host(), url.port_or_known_default()) else { continue };
        let (host, connector) = (host.to_owned(), TlsConnector::from(Arc::clone(&trusting)));
        opening.spawn(timeout(CONNECTING, async move {
            let name = ServerName::try_from(host.clone()).ok()?;
            let stream = dial_permitted(&host, port, |_| Ok(())).await.ok()?;
            let stream = connector.connect(name, stream).await.ok()?;
            let chain = stream.get_ref().1.peer_certificates()?.iter().map(|shown| shown.clone().into_owned()).collect();
            Some((format!("{host}:{port}"), chain))
        }));
    }
    opening.join_all().await.into_iter().filter_map(|found| found.ok().flatten()).collect()
}

async fn missing(client: &HttpClient, config: &Config, name: &PackageName) -> Result<Vec<&'static str>, String> {
    let packument = fetch_packument(client, config, name).await?;
    let has_integrity = packument.entries.iter().any(|entry| entry.integrity.is_some());
    let unchecked = (!has_integrity).then_some("dist.integrity");
    Ok(packument.contents.missing().into_iter().chain(unchecked).collect())
}

/// Fetches packuments from their registries one after the other, without a server. Those that fail are fetched once more at the end:
/// of 577 packages, six could not be connected to at first.
pub(crate) async fn packuments<'n>(
    config: &Config,
    names: impl Iterator<Item = &'n PackageName>,
) -> Result<Vec<(&'n PackageName, Result<Packument, String>)>, AppError> {
    let deadlines = Deadlines { connect: CONNECTING, headers: PROBE_TIMEOUT, idle: PROBE_TIMEOUT, whole: PROBE_TIMEOUT };
    let client = outbound::http_client(config, deadlines, config.upstream.proxies.clone())?;
    let mut fetched = Vec::new();
    for name in names {
        fetched.push((name, fetch_packument(&client, config, name).await));
    }
    for (name, result) in fetched.iter_mut().filter(|(_, result)| result.is_err()) {
        *result = fetch_packument(&client, config, name).await;
    }
    Ok(fetched)
}

async fn fetch_packument(client: &HttpClient, config: &Config, name: &PackageName) -> Result<Packument, String> {
    let registry = config.upstream.registry_of(name);
    let url = below(&registry.address(), &name.as_str().replace('/', "%2f"));
    let mut headers = credentials(&config.upstream, registry, &url).await?;
    headers.insert(ACCEPT, HeaderValue::from_static("application/json"));
    let HttpReply { is_success, status, body, .. } = ask(client, url, headers, config.upstream.packument_limit).await?;
    if !is_success {
        return Err(format!("upstream answers {status}"));
    }
    Ok(parse(name, &body).map_err(|error| error.to_string())?.packument)
}

async fn ask(client: &HttpClient, url: Url, headers: HeaderMap, limit: u64) -> Result<HttpReply, String> {
    let asking = outbound::send(client, (Method::GET, url, headers, Bytes::new()), limit);
    timeout(PROBE_TIMEOUT, asking).await.unwrap_or_else(|_| Err(format!("no answer within {} s", PROBE_TIMEOUT.as_secs())))
}

async fn credentials(config: &upstream::Config, registry: &RegistryConfig, url: &Url) -> Result<HeaderMap, String> {
    let value = match registry.source.clone() {
        Some(source) => Some(CredentialCell::new(source).current().await.map_err(|why| why.to_string())?),
        None => config.lent_for(registry, url),
    };
    Ok(value.into_iter().map(|credentials| (AUTHORIZATION, credentials.0)).collect())
}

/// Returns the local clock minus the server's.
fn skew(headers: &HeaderMap, clock: &dyn Clock) -> Option<SignedDuration> {
    let date = httpdate::parse_http_date(headers.get(DATE)?.to_str().ok()?).ok()?;
    Some(clock.now().duration_since(Timestamp::try_from(date).ok()?))
}
