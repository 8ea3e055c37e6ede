//! Indicators: domains and addresses that malware contacts, and files that it consists of, according to malware records.

use core::net::IpAddr;

use crate::npm::Digest;
use crate::policy::advisories::record::FeedTrust;

/// What the indicator of a file begins with, so that it is no digest of a tarball.
pub(super) const FILE_PREFIX: &str = "file:";

/// A match of a domain or address with an indicator.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct IndicatorMatch<'a> {
    /// The listed domain or address, normalized.
    pub listed: &'a str,
    pub advisory: &'a str,
    /// The package of the record. If the record covers several packages, one of them.
    pub package: &'a str,
    pub feed: &'a str,
    pub trust: FeedTrust,
}

/// Returns the indicator for a file with this digest.
pub(crate) fn file_indicator(digest: &Digest) -> String {
    format!("{FILE_PREFIX}{}", digest.to_sri())
}

/// Normalizes a listed domain or address, including defanged forms (`evil[.]example`). Returns `None` if the text is neither, or
/// if the domain has only one label: it would cover a whole top-level domain.
pub(crate) fn normalize_indicator(text: &str) -> Option<String> {
    let plain = text.trim().replace("[.]", ".").replace("(.)", ".").to_ascii_lowercase();
    if let Ok(address) = plain.trim_start_matches('[').trim_end_matches(']').parse::<IpAddr>() {
        return Some(address.to_canonical().to_string());
    }
    let name = plain.trim_start_matches("*.").trim_end_matches('.');
    let is_label = |label: &str| {
        let plain = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_');
        (1..=63).contains(&label.len()) && label.bytes().all(plain)
    };
    let last = name.rsplit('.').next().unwrap_or_default();
    let is_name = name.len() <= 253 && name.contains('.') && name.split('.').all(is_label);
    (is_name && !last.bytes().all(|byte| byte.is_ascii_digit())).then(|| name.to_owned())
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::policy::advisories::Advisories;
    use crate::policy::advisories::index::{FeedAdvisories, FeedIndexBuilder};
    use crate::policy::advisories::{AdvisoryKind, AdvisoryRecord};

    fn record(id: &str, kind: AdvisoryKind, indicators: &[&str]) -> AdvisoryRecord {
        let indicators = indicators.iter().filter_map(|text| normalize_indicator(text)).map(Into::into).collect();
        AdvisoryRecord { id: id.into(), kind, package: "axios".into(), indicators, ..AdvisoryRecord::default() }
    }

    fn feed(name: &str, trust: FeedTrust, records: &[AdvisoryRecord]) -> Arc<FeedAdvisories> {
        let mut builder = FeedIndexBuilder::default();
        assert!(records.iter().all(|record| builder.add(record)));
        Arc::new(builder.build(name, trust))
    }

    #[test]
    fn domain_covers_subdomains_and_address_covers_itself() {
        let held = Advisories::of_feeds(vec![
            feed("notes", FeedTrust::Warn, &[record("MAL-1", AdvisoryKind::Malware, &["Evil.Example", "other.example"])]),
            feed(
                "osv",
                FeedTrust::Deny,
                &[
                    record(
                        "MAL-2",
                        AdvisoryKind::Malware,
                        &["*.evil[.]example.", "198.51.100.7", "[2001:DB8::7]", "com", "1.2.3", "a b.example"],
                    ),
                    record("GHSA-1", AdvisoryKind::Vulnerability, &["fine.example"]),
                    record("MAL-3", AdvisoryKind::Malware, &["gone.example"]),
                    // Of two records with the same id, the later one wins.
                    record("MAL-3", AdvisoryKind::Malware, &[]),
                ],
            ),
        ]);
        let says = |place: &str| held.match_indicator(place).map(|found| (found.advisory.to_owned(), found.listed.to_owned()));
        let evil = Some(("MAL-2".to_owned(), "evil.example".to_owned()));
        assert_eq!((says("evil.example"), says("a.b.evil.example")), (evil.clone(), evil));
        assert_eq!(says("other.example"), Some(("MAL-1".to_owned(), "other.example".to_owned())));
        assert_eq!(says("198.51.100.7").unwrap().0, "MAL-2");
        assert_eq!(says("2001:db8::7").unwrap().1, "2001:db8::7");
        for place in
            ["notevil.example", "example", "com", "x.com", "100.7", "1.198.51.100.7", "fine.example", "gone.example", "2.3", ""]
        {
            assert_eq!(says(place), None, "{place}");
        }
    }
}
