//! The control protocol: one line of JSON in each direction, and one more at the end of a session.

use std::collections::BTreeMap;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use rustls_pki_types::{CertificateDer, DnsName};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use tokio::io::{AsyncBufRead, AsyncBufReadExt as _, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use url::Url;

use crate::app::operations::messages::OperationRequest;
use crate::app::session::model::{ProxyEndpoint, RunReport};
use crate::app::session::recorder::RecordedRequests;
use crate::app::session::{ProxiedHosts, SessionInfo, SessionRequest};
use crate::firewall::{HeldVersion, HiddenVersions, Refusal, Want, WantedVersion};
use crate::npm::PackageName;
use crate::policy::RuleId;
use crate::server::{RefusedDestination, SessionPassword};
use crate::units::timestamp;

/// The protocol version, which must be equal on both sides.
pub(crate) const PROTOCOL: u32 = 3;

/// The maximum size of a request, in bytes: hundreds of locked versions with their ranges.
pub(crate) const MAX_REQUEST_BYTES: u64 = 16 << 20;

/// The maximum size of the reply that opens a session, in bytes.
pub(crate) const MAX_START_BYTES: u64 = 1 << 20;

/// The maximum size of a report or an answer, in bytes. A report has at most 100,000 packages per kind.
pub(crate) const MAX_END_BYTES: u64 = 256 << 20;

/// The first line of a connection.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct ControlRequest {
    pub(crate) protocol: u32,
    pub(crate) what: What,
}

/// The kind of a request.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) enum What {
    /// Opens a session for a command.
    Session(Box<OpenRequest>),
    /// Executes an operation.
    Ask(Box<OperationRequest>),
}

impl ControlRequest {
    /// Creates a request with this protocol version.
    pub(crate) fn new(what: What) -> Self {
        Self { protocol: PROTOCOL, what }
    }
}

/// A request to open a session.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct OpenRequest {
    /// The registries that the command would use without the server, by scope.
    pub(crate) registries: BTreeMap<String, String>,
    user: String,
    hosts: Vec<String>,
    itself: Vec<Url>,
    allowed: Vec<String>,
    tunnels_others: bool,
    #[serde(default)]
    wants: Vec<(String, Want)>,
}

/// The reply to a request to open a session.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) enum OpenReply {
    /// The session is open.
    Open(Box<OpenedMessage>),
    /// The session was refused, for this reason.
    Refused(String),
}

/// The wire form of [`SessionInfo`].
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct OpenedMessage {
    proxy: Url,
    pass: SessionPassword,
    registry: Url,
    certificate: String,
    policy: String,
    origins: Vec<String>,
    allowed: Vec<String>,
    tunnels_others: bool,
    /// Older servers do not send it.
    #[serde(default)]
    on_loopback: Option<bool>,
}

/// The wire form of [`RunReport`].
#[derive(Debug, Default, Serialize, Deserialize)]
pub(crate) struct ReportMessage {
    served: Vec<(String, String, bool)>,
    bytes: u64,
    refused: Vec<RefusalMessage>,
    failed: Vec<(String, String)>,
    hidden: Vec<HiddenMessage>,
    turned_away: Vec<(String, u64, String)>,
    trouble: Option<String>,
}

#[derive(Debug, Serialize, Deserialize)]
struct RefusalMessage {
    name: String,
    version: Option<String>,
    rule: String,
    opens: Option<String>,
    text: String,
}

#[derive(Debug, Serialize, Deserialize)]
struct HiddenMessage {
    name: String,
    newer: Vec<HeldMessage>,
    others: Option<(HeldMessage, usize)>,
    #[serde(default)]
    is_wanted: bool,
    #[serde(default)]
    wanted: Vec<WantedMessage>,
}

#[derive(Debug, Serialize, Deserialize)]
struct WantedMessage {
    want: Want,
    fails: bool,
    kept: HeldMessage,
}

#[derive(Debug, Serialize, Deserialize)]
struct HeldMessage {
    version: String,
    rule: String,
    detail: String,
    opens: Option<String>,
    nearest: Option<String>,
}

/// Reads one line of at most `longest` bytes. Returns `None` at the end of the stream, or if the line is invalid or too long.
pub(crate) async fn read<T: DeserializeOwned>(from: &mut (impl AsyncBufRead + Unpin), longest: u64) -> Option<T> {
    let mut line = Vec::new();
    from.take(longest).read_until(b'\n', &mut line).await.ok()?;
    serde_json::from_slice(line.strip_suffix(b"\n")?).ok()
}

/// Writes one line. Errors are ignored, because they mean that the peer is gone.
pub(crate) async fn write(to: &mut (impl AsyncWrite + Unpin), what: &impl Serialize) {
    let Ok(mut line) = serde_json::to_vec(what) else { return };
    line.push(b'\n');
    let _ = to.write_all(&line).await;
}

impl OpenRequest {
    pub(crate) fn of(request: &SessionRequest, registries: &BTreeMap<String, String>) -> Self {
        Self {
            registries: registries.clone(),
            user: request.user.clone(),
            hosts: request.hosts.iter().map(|host| host.as_ref().to_owned()).collect(),
            itself: request.itself.clone(),
            allowed: request.allowed.iter().map(ToString::to_string).collect(),
            tunnels_others: request.tunnels_others,
            wants: request.wants.clone(),
        }
    }

    /// Converts the request. Invalid entries are left out.
    pub(crate) fn request(&self) -> SessionRequest {
        SessionRequest {
            user: self.user.clone(),
            hosts: self.hosts.iter().filter_map(|host| DnsName::try_from(host.clone()).ok()).collect(),
            itself: self.itself.clone(),
            allowed: self.allowed.iter().filter_map(|glob| glob.parse().ok()).collect(),
            tunnels_others: self.tunnels_others,
            wants: self.wants.clone(),
        }
    }
}

impl OpenedMessage {
    pub(crate) fn of(lead: &SessionInfo) -> Self {
        let SessionInfo { way, reach, certificate, policy } = lead;
        Self {
            proxy: way.proxy.clone(),
            pass: way.pass.clone(),
            registry: way.registry.clone(),
            certificate: STANDARD.encode(certificate),
            policy: policy.clone(),
            origins: reach.origins.iter().cloned().collect(),
            allowed: reach.allowed.iter().map(ToString::to_string).collect(),
            tunnels_others: reach.tunnels_others,
            on_loopback: Some(reach.on_loopback),
        }
    }

    /// Converts the message. Returns `None` if the certificate is invalid.
    pub(crate) fn read(self) -> Option<SessionInfo> {
        let certificate = CertificateDer::from(STANDARD.decode(self.certificate).ok()?);
        let reach = ProxiedHosts {
            origins: self.origins.into_iter().collect(),
            allowed: self.allowed.iter().filter_map(|glob| glob.parse().ok()).collect(),
            tunnels_others: self.tunnels_others,
            on_loopback: self.on_loopback.unwrap_or(true),
        };
        let way = ProxyEndpoint { proxy: self.proxy, pass: self.pass, registry: self.registry };
        Some(SessionInfo { way, reach, certificate, policy: self.policy })
    }
}

impl ReportMessage {
    pub(crate) fn of(sum: RunReport) -> Self {
        let RunReport { noted: RecordedRequests { served, bytes, refused, failed, hidden }, turned_away, trouble } = sum;
        let served = served.into_iter().map(|((name, version), kept)| (name.to_string(), version.into(), kept));
        let refused = refused.into_values().map(|refusal| RefusalMessage {
            name: refusal.name.to_string(),
            version: refusal.version.map(Into::into),
            rule: refusal.rule.as_str().to_owned(),
            opens: refusal.opens.map(|opens| opens.to_string()),
            text: refusal.text.to_string(),
        });
        let hidden = hidden.into_iter().map(|(name, hidden)| HiddenMessage {
            name: name.to_string(),
            newer: hidden.newer.into_iter().map(HeldMessage::of).collect(),
            others: hidden.others.map(|(kept, count)| (HeldMessage::of(kept), count)),
            is_wanted: hidden.is_wanted,
            wanted: hidden.wanted.into_iter().map(WantedMessage::of).collect(),
        });
        Self {
            served: served.collect(),
            bytes,
            refused: refused.collect(),
            failed: failed.into_iter().map(|(name, why)| (name.to_string(), why)).collect(),
            hidden: hidden.collect(),
            turned_away: turned_away.into_iter().map(|(place, turned)| (place, turned.times, turned.reason)).collect(),
            trouble,
        }
    }

    pub(crate) fn read(self) -> RunReport {
        let name = |text: &str| PackageName::parse(text).ok();
        let refused = self.refused.into_iter().filter_map(|message| {
            let refusal = message.read()?;
            Some(((refusal.name.clone(), refusal.version.clone()), refusal))
        });
        let hidden = self.hidden.into_iter().filter_map(|message| {
            let hidden = HiddenVersions {
                newer: message.newer.into_iter().map(HeldMessage::read).collect(),
                others: message.others.map(|(kept, count)| (kept.read(), count)),
                is_wanted: message.is_wanted,
                wanted: message.wanted.into_iter().map(WantedMessage::read).collect(),
            };
            Some((name(&message.name)?, hidden))
        });
        let turned_away =
            self.turned_away.into_iter().map(|(place, times, reason)| (place, RefusedDestination { times, reason }));
        let served = self.served.into_iter();
        let noted = RecordedRequests {
            served: served.filter_map(|(package, version, kept)| Some(((name(&package)?, version.into()), kept))).collect(),
            bytes: self.bytes,
            refused: refused.collect(),
            failed: self.failed.into_iter().filter_map(|(package, why)| Some((name(&package)?, why))).collect(),
            hidden: hidden.collect(),
        };
        RunReport { noted, turned_away: turned_away.collect(), trouble: self.trouble }
    }
}

impl RefusalMessage {
    fn read(self) -> Option<Refusal> {
        Some(Refusal {
            name: PackageName::parse(&self.name).ok()?,
            version: self.version.map(Into::into),
            rule: RuleId::read(&self.rule),
            opens: self.opens.as_deref().and_then(timestamp::parse),
            text: self.text.into(),
            link: None,
        })
    }
}

impl WantedMessage {
    fn of(WantedVersion { want, fails, kept }: WantedVersion) -> Self {
        Self { want, fails, kept: HeldMessage::of(kept) }
    }

    fn read(self) -> WantedVersion {
        WantedVersion { want: self.want, fails: self.fails, kept: self.kept.read() }
    }
}

impl HeldMessage {
    fn of(kept: HeldVersion) -> Self {
        let HeldVersion { version, rule, detail, opens, nearest } = kept;
        let opens = opens.map(|opens| opens.to_string());
        Self { version: version.into(), rule: rule.as_str().to_owned(), detail, opens, nearest: nearest.map(Into::into) }
    }

    fn read(self) -> HeldVersion {
        let opens = self.opens.as_deref().and_then(timestamp::parse);
        let (version, nearest) = (self.version.into(), self.nearest.map(Into::into));
        HeldVersion { version, rule: RuleId::read(&self.rule), detail: self.detail, opens, nearest }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use jiff::Timestamp;

    use super::*;

    #[tokio::test]
    async fn report_survives_the_wire_format() {
        let name = PackageName::parse("@acme/ui").unwrap();
        let opens = Some(Timestamp::UNIX_EPOCH + Duration::from_millis(1_500));
        let kept = |version: &str, nearest: Option<&str>| HeldVersion {
            version: version.into(),
            rule: RuleId::read("minimum-age"),
            detail: "published just now".to_owned(),
            opens,
            nearest: nearest.map(Into::into),
        };
        let refusal = |version: Option<&str>| Refusal {
            name: name.clone(),
            version: version.map(Into::into),
            rule: RuleId::Denied,
            opens,
            text: "no".into(),
            link: None,
        };
        let one = refusal(Some("2.0.0"));
        let all = refusal(None);
        let keyed = |refusal: Refusal| ((refusal.name.clone(), refusal.version.clone()), refusal);
        let want = Want { by: "package.json".into(), spec: "^2".into(), is_direct: true };
        let hidden = HiddenVersions {
            newer: vec![kept("2.0.0", Some("1.0.0"))],
            others: Some((kept("0.9.0", None), 3)),
            is_wanted: true,
            wanted: vec![WantedVersion { want, fails: true, kept: kept("2.0.0", None) }],
        };
        let sum = RunReport {
            noted: RecordedRequests {
                served: [((name.clone(), "1.0.0".into()), true)].into(),
                bytes: 7,
                refused: [keyed(one), keyed(all)].into(),
                failed: [(name.clone(), "upstream is gone".to_owned())].into(),
                hidden: [(name.clone(), hidden)].into(),
            },
            turned_away: [(
                "files.example:443".to_owned(),
                RefusedDestination { times: 2, reason: "it is not allowed".to_owned() },
            )]
            .into(),
            trouble: Some("the disk is full".to_owned()),
        };
        let mut line = Vec::new();
        write(&mut line, &ReportMessage::of(sum.clone())).await;
        let back = read::<ReportMessage>(&mut line.as_slice(), MAX_END_BYTES).await.unwrap().read();
        assert_eq!(format!("{back:?}"), format!("{sum:?}"));
    }

    #[tokio::test]
    async fn long_or_unterminated_lines_are_rejected() {
        assert!(read::<u32>(&mut &b"12\n"[..], 3).await.is_some());
        assert!(read::<u32>(&mut &b"123\n"[..], 3).await.is_none());
        assert!(read::<u32>(&mut &b"12"[..], 9).await.is_none());
    }
}
