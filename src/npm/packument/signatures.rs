//! Registry signatures as manifests state them (`dist.signatures`), packed into one table per document. Nothing is verified here.
//! The text is the upstream's, so that each list, name and signature has a limit.

use std::borrow::Cow;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde::Deserialize;

/// The longest `dist.signatures` that is read, in bytes. The registry writes one signature of about 180 bytes.
const MAX_LIST_BYTES: usize = 2048;

/// The most signatures of one version. While a key is replaced, there may be two.
const MAX_SIGNATURES: usize = 4;

/// The longest name of a key, in bytes. The registry uses 50.
const MAX_KEY_ID_BYTES: usize = 128;

/// The longest ECDSA signature over P-256 in DER, in bytes.
const MAX_SIGNATURE_BYTES: usize = 72;

/// The most different names of keys in one document.
const MAX_KEY_IDS: usize = 64;

/// One signature of a version.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct StatedSignature<'a> {
    /// The name of the key. Text from upstream.
    pub key_id: &'a str,
    /// DER; empty if it cannot be one.
    pub signature: &'a [u8],
}

/// The signatures of a document, ordered by entry.
#[derive(Debug, Clone, Default)]
pub struct StatedSignatures {
    rows: Vec<SignatureRow>,
    bytes: Vec<u8>,
    key_ids: Vec<Box<str>>,
}

#[derive(Debug, Clone, Copy)]
struct SignatureRow {
    entry: u32,
    start: u32,
    length: u8,
    key: u8,
}

/// What a manifest states as one signature.
#[derive(Deserialize)]
struct SignatureMember<'a> {
    #[serde(borrow)]
    keyid: Cow<'a, str>,
    #[serde(borrow)]
    sig: Cow<'a, str>,
}

impl StatedSignatures {
    /// Returns the signatures of the entry at `entry`: none if the manifest states none. A list that is not usable is one signature
    /// without a key.
    pub fn of(&self, entry: usize) -> impl Iterator<Item = StatedSignature<'_>> {
        let first = self.rows.partition_point(|row| (row.entry as usize) < entry);
        let rows = self.rows[first..].iter().take_while(move |row| row.entry as usize == entry);
        rows.map(|row| StatedSignature {
            key_id: self.key_ids.get(usize::from(row.key)).map_or("", |id| id),
            signature: self.bytes.get(row.start as usize..row.start as usize + usize::from(row.length)).unwrap_or_default(),
        })
    }

    pub fn is_empty(&self) -> bool {
        self.rows.is_empty()
    }

    /// Returns the approximate memory in bytes.
    pub(crate) fn weight(&self) -> usize {
        let key_ids: usize = self.key_ids.iter().map(|id| id.len() + size_of::<Box<str>>()).sum();
        self.rows.len() * size_of::<SignatureRow>() + self.bytes.len() + key_ids
    }

    /// Adds the value of `dist.signatures` of the entry at `entry`, which is the last one so far.
    pub(crate) fn add(&mut self, entry: u32, raw: &str) {
        let parsed = (raw.len() <= MAX_LIST_BYTES).then(|| serde_json::from_str::<Vec<SignatureMember<'_>>>(raw).ok()).flatten();
        match parsed {
            // The registry's own way to say that there is none.
            None if raw == "null" => {}
            Some(members) if members.len() <= MAX_SIGNATURES => {
                for member in members {
                    self.push(entry, &member.keyid, &member.sig);
                }
            }
            _ => self.push(entry, "", ""),
        }
    }

    fn push(&mut self, entry: u32, key_id: &str, encoded: &str) {
        let key = self.intern(key_id);
        let longest = MAX_SIGNATURE_BYTES.div_ceil(3) * 4;
        let decoded = (encoded.len() <= longest).then(|| STANDARD.decode(encoded).ok()).flatten().unwrap_or_default();
        let usable = if decoded.len() <= MAX_SIGNATURE_BYTES && key.is_some() { decoded } else { Vec::new() };
        // The document fits into `u32`, and each signature is shorter than its text.
        let start = u32::try_from(self.bytes.len()).unwrap_or(u32::MAX);
        let length = u8::try_from(usable.len()).unwrap_or_default();
        self.bytes.extend_from_slice(&usable);
        self.rows.push(SignatureRow { entry, start, length, key: key.unwrap_or(u8::MAX) });
    }

    /// Returns the position of a key's name; `None` if it is empty, too long, or one too many.
    fn intern(&mut self, key_id: &str) -> Option<u8> {
        if key_id.is_empty() || key_id.len() > MAX_KEY_ID_BYTES {
            return None;
        }
        let known = self.key_ids.iter().position(|known| **known == *key_id);
        let position = known.or_else(|| {
            (self.key_ids.len() < MAX_KEY_IDS).then(|| {
                self.key_ids.push(key_id.into());
                self.key_ids.len() - 1
            })
        });
        position.and_then(|position| u8::try_from(position).ok())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn stated(table: &StatedSignatures, entry: usize) -> Vec<(&str, usize)> {
        table.of(entry).map(|stated| (stated.key_id, stated.signature.len())).collect()
    }

    #[test]
    fn signatures_are_found_by_entry() {
        let mut table = StatedSignatures::default();
        table.add(0, r#"[{"keyid":"SHA256:a","sig":"AAAA"}]"#);
        table.add(1, "[]");
        table.add(2, "null");
        table.add(4, r#"[{"sig":"AAAAAAAA","keyid":"SHA256:a"},{"keyid":"SHA256:b","sig":"AA==","more":[1]}]"#);
        assert_eq!(stated(&table, 0), [("SHA256:a", 3)]);
        assert!([1, 2, 3, 5].iter().all(|entry| stated(&table, *entry).is_empty()));
        assert_eq!(stated(&table, 4), [("SHA256:a", 6), ("SHA256:b", 1)]);
        assert_eq!(table.key_ids.len(), 2);
    }

    #[test]
    fn unusable_lists_are_one_signature_without_a_key() {
        let long = format!(r#"[{{"keyid":"a","sig":"{}"}}]"#, "A".repeat(MAX_LIST_BYTES));
        let many = format!("[{}]", [r#"{"keyid":"a","sig":"AAAA"}"#; MAX_SIGNATURES + 1].join(","));
        let deep = "[".repeat(1000);
        for raw in [
            "7",
            "{}",
            r#"[{"keyid":"a"}]"#,
            r#"[{"keyid":1,"sig":"AAAA"}]"#,
            r#"[{"keyid":"a","keyid":"b","sig":"AAAA"}]"#,
            "[[]]",
            &long,
            &many,
            &deep,
        ] {
            let mut table = StatedSignatures::default();
            table.add(0, raw);
            assert_eq!(stated(&table, 0), [("", 0)], "{raw:.60}");
        }
    }

    #[test]
    fn unusable_signatures_keep_their_key() {
        let mut table = StatedSignatures::default();
        table.add(0, r#"[{"keyid":"a","sig":"not base64!"}]"#);
        table.add(1, &format!(r#"[{{"keyid":"a","sig":"{}"}}]"#, "A".repeat(200)));
        assert_eq!((stated(&table, 0), stated(&table, 1)), (vec![("a", 0)], vec![("a", 0)]));
        let long = "k".repeat(MAX_KEY_ID_BYTES + 1);
        table.add(2, &format!(r#"[{{"keyid":"{long}","sig":"AAAA"}}]"#));
        assert_eq!(stated(&table, 2), [("", 0)]);
    }

    #[test]
    fn names_of_keys_are_bounded() {
        let mut table = StatedSignatures::default();
        for entry in 0..10_000 {
            table.add(entry, &format!(r#"[{{"keyid":"key{entry}","sig":"AAAA"}}]"#));
        }
        assert_eq!((table.key_ids.len(), table.rows.len()), (MAX_KEY_IDS, 10_000));
        assert_eq!(stated(&table, 63), [("key63", 3)]);
        assert_eq!(stated(&table, 9_999), [("", 0)]);
    }
}
