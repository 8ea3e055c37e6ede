//! The control protocol: one line of JSON in each direction, and one more at the end of a session.

use jiff::Timestamp;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use tokio::io::{AsyncBufRead, AsyncBufReadExt as _, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};

use crate::app::operations::messages::OperationRequest;
use crate::app::session::recorder::RecordedRequests;
use crate::app::session::{RunReport, SessionInfo, SessionRequest};
use crate::firewall::{HiddenVersions, Refusal};
use crate::npm::PackageName;
use crate::policy::RuleId;
use crate::server::RefusedDestination;

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

#[derive(Debug, Serialize, Deserialize)]
pub(crate) enum What {
    Session(Box<SessionRequest>),
    Ask(Box<OperationRequest>),
}

impl ControlRequest {
    pub(crate) fn new(what: What) -> Self {
        Self { protocol: PROTOCOL, what }
    }
}

#[derive(Debug, Serialize, Deserialize)]
pub(crate) enum OpenReply {
    Open(Box<SessionInfo>),
    Refused(String),
}

/// The wire form of [`RunReport`].
#[derive(Debug, Default, Serialize, Deserialize)]
pub(crate) struct ReportMessage {
    served: Vec<(String, Box<str>, bool)>,
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
    version: Option<Box<str>>,
    rule: RuleId,
    opens: Option<Timestamp>,
    text: String,
}

#[derive(Debug, Serialize, Deserialize)]
struct HiddenMessage {
    name: String,
    #[serde(flatten)]
    hidden: HiddenVersions,
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

impl ReportMessage {
    pub(crate) fn of(sum: RunReport) -> Self {
        let RunReport { noted: RecordedRequests { served, bytes, refused, failed, hidden }, turned_away, trouble } = sum;
        let refused = refused.into_values().map(|Refusal { name, version, rule, opens, text, .. }| RefusalMessage {
            name: name.to_string(),
            version,
            rule,
            opens,
            text: text.to_string(),
        });
        Self {
            served: served.into_iter().map(|((name, version), kept)| (name.to_string(), version, kept)).collect(),
            bytes,
            refused: refused.collect(),
            failed: failed.into_iter().map(|(name, why)| (name.to_string(), why)).collect(),
            hidden: hidden.into_iter().map(|(name, hidden)| HiddenMessage { name: name.to_string(), hidden }).collect(),
            turned_away: turned_away.into_iter().map(|(place, turned)| (place, turned.times, turned.reason)).collect(),
            trouble,
        }
    }

    /// Converts the message. Entries with invalid names are left out.
    pub(crate) fn read(self) -> RunReport {
        let name = |text: &str| PackageName::parse(text).ok();
        let refused = self.refused.into_iter().filter_map(|RefusalMessage { name, version, rule, opens, text }| {
            let name = PackageName::parse(&name).ok()?;
            let key = (name.clone(), version.clone());
            Some((key, Refusal { name, version, rule, opens, text: text.into(), link: None, request: None }))
        });
        let turned_away =
            self.turned_away.into_iter().map(|(place, times, reason)| (place, RefusedDestination { times, reason }));
        let served = self.served.into_iter();
        let noted = RecordedRequests {
            served: served.filter_map(|(package, version, kept)| Some(((name(&package)?, version), kept))).collect(),
            bytes: self.bytes,
            refused: refused.collect(),
            failed: self.failed.into_iter().filter_map(|(package, why)| Some((name(&package)?, why))).collect(),
            hidden: self.hidden.into_iter().filter_map(|entry| Some((name(&entry.name)?, entry.hidden))).collect(),
        };
        RunReport { noted, turned_away: turned_away.collect(), trouble: self.trouble }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::firewall::{HeldVersion, Want, WantedVersion};

    #[tokio::test]
    async fn report_survives_the_wire_format() {
        let name = PackageName::parse("@acme/ui").unwrap();
        let opens = Some(Timestamp::UNIX_EPOCH + Duration::from_millis(1_500));
        let kept = |version: &str, nearest: Option<&str>| HeldVersion {
            version: version.into(),
            rule: RuleId::File("minimum-age".into()),
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
            request: None,
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
