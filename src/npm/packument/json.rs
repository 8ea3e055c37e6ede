//! Visits the members of JSON objects as slices of the document, without building a tree.

use std::borrow::Cow;
use std::collections::HashSet;
use std::fmt;
use std::sync::Arc;

use serde::de::{DeserializeSeed, MapAccess, Visitor};
use serde_json::value::RawValue;

/// A byte range of the document; `end` is exclusive.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ByteSpan {
    pub(crate) start: u32,
    pub(crate) end: u32,
}

impl ByteSpan {
    pub(crate) fn of(self, document: &[u8]) -> &[u8] {
        document.get(self.start as usize..self.end as usize).unwrap_or_default()
    }

    pub(crate) fn is_empty(self) -> bool {
        self.start == self.end
    }
}

pub(crate) struct JsonSource<'a>(pub(crate) &'a str);

impl JsonSource<'_> {
    /// Returns the span of `part`, which must be a slice of this document.
    pub(crate) fn span(&self, part: &str) -> ByteSpan {
        let start = part.as_ptr() as usize - self.0.as_ptr() as usize;
        debug_assert!(start + part.len() <= self.0.len());
        // The document is shorter than 4 GiB: the parser rejects longer ones.
        #[expect(clippy::cast_possible_truncation, reason = "positions were checked to fit")]
        ByteSpan { start: start as u32, end: (start + part.len()) as u32 }
    }

    /// Returns the start of the value of a member whose key ends at `key_end`.
    pub(crate) fn value_after(&self, key_end: u32) -> u32 {
        let colon = self.after_blanks(key_end);
        self.after_blanks(colon + 1)
    }

    /// Checks whether an object begins at `start`, judging by its first byte.
    pub(crate) fn is_object(&self, start: u32) -> bool {
        self.0.as_bytes().get(start as usize) == Some(&b'{')
    }

    /// Returns the end of an object, after its closing brace. `last_end` is the end of its last member or opening brace.
    pub(crate) fn closed_after(&self, last_end: u32) -> u32 {
        self.after_blanks(last_end) + 1
    }

    fn after_blanks(&self, from: u32) -> u32 {
        let rest = self.0.as_bytes().get(from as usize..).unwrap_or_default();
        let blanks = rest.iter().take_while(|byte| byte.is_ascii_whitespace()).count();
        #[expect(clippy::cast_possible_truncation, reason = "positions were checked to fit")]
        let blanks = blanks as u32;
        from + blanks
    }
}

/// Decodes a quoted key or string. Returns `None` for other values, and for a lone surrogate, which no Rust string can hold.
pub(crate) fn decode(raw: &str) -> Option<Cow<'_, str>> {
    let inner = raw.strip_prefix('"')?.strip_suffix('"')?;
    if inner.contains('\\') { serde_json::from_str::<String>(raw).ok().map(Cow::Owned) } else { Some(Cow::Borrowed(inner)) }
}

/// Calls `take` with the key and value of each member of the object `json`, as written.
pub(crate) fn for_each_member<'a>(json: &'a str, take: impl FnMut(&'a str, &'a str)) -> Result<(), serde_json::Error> {
    walk(json, &mut EachMember(take))
}

/// Like [`for_each_member`], for a value that was validated with its document. Values other than objects have no members.
pub(crate) fn for_each_valid_member<'a>(json: &'a str, take: impl FnMut(&'a str, &'a str)) {
    if json.starts_with('{') {
        let walked = for_each_member(json, take);
        debug_assert!(walked.is_ok(), "objects were validated when parsed");
    }
}

/// Returns the last string member `wanted` of a JSON object; `None` for other values.
pub(crate) fn string_member<'a>(object: &'a str, wanted: &str) -> Option<Cow<'a, str>> {
    let mut found = None;
    for_each_valid_member(object, |key, value| {
        if decode(key).is_some_and(|key| key == wanted) {
            found = decode(value);
        }
    });
    found
}

/// Returns the shared copy of `text`.
pub(crate) fn intern(texts: &mut HashSet<Arc<str>>, text: &str) -> Arc<str> {
    if let Some(known) = texts.get(text) {
        return Arc::clone(known);
    }
    let text: Arc<str> = text.into();
    texts.insert(Arc::clone(&text));
    text
}

/// Visits the members of an object in order, while the document is validated.
pub(crate) trait ObjectVisitor<'a> {
    /// The implementation must take the member's value from `members`.
    fn member<A: MapAccess<'a>>(&mut self, key: &'a str, members: &mut A) -> Result<(), A::Error>;
}

pub(crate) fn walk<'a>(document: &'a str, walk: &mut impl ObjectVisitor<'a>) -> Result<(), serde_json::Error> {
    let mut parser = serde_json::Deserializer::from_str(document);
    ObjectSeed(walk).deserialize(&mut parser).and_then(|()| parser.end())
}

/// Visits an object's members during deserialization, so that no byte is read twice.
pub(crate) struct ObjectSeed<'w, W>(pub(crate) &'w mut W);

impl<'de, W: ObjectVisitor<'de>> DeserializeSeed<'de> for ObjectSeed<'_, W> {
    type Value = ();

    fn deserialize<D: serde::Deserializer<'de>>(self, deserializer: D) -> Result<(), D::Error> {
        deserializer.deserialize_map(self)
    }
}

impl<'de, W: ObjectVisitor<'de>> Visitor<'de> for ObjectSeed<'_, W> {
    type Value = ();

    fn expecting(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str("an object")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut members: A) -> Result<(), A::Error> {
        while let Some(key) = members.next_key::<&'de RawValue>()? {
            self.0.member(key.get(), &mut members)?;
        }
        Ok(())
    }
}

struct EachMember<F>(F);

impl<'a, F: FnMut(&'a str, &'a str)> ObjectVisitor<'a> for EachMember<F> {
    fn member<A: MapAccess<'a>>(&mut self, key: &'a str, members: &mut A) -> Result<(), A::Error> {
        (self.0)(key, members.next_value::<&'a RawValue>()?.get());
        Ok(())
    }
}

/// Number of keys up to which duplicates are found by linear comparison.
const MAX_LINEAR_KEYS: usize = 64;

/// Detects duplicate keys of an object. A bit filter comes first, so that the common case compares nothing.
#[derive(Default)]
pub(crate) struct SeenKeys<'a> {
    filter: u64,
    seen: Vec<Cow<'a, str>>,
    /// All keys of an object with many: possibly an attempt to make comparison slow.
    many: HashSet<Cow<'a, str>>,
}

impl<'a> SeenKeys<'a> {
    pub(crate) fn clear(&mut self) {
        self.filter = 0;
        self.seen.clear();
        self.many = HashSet::new();
    }

    pub(crate) fn repeats(&mut self, key: Cow<'a, str>) -> bool {
        if self.seen.len() >= MAX_LINEAR_KEYS {
            if self.many.is_empty() {
                self.many.extend(self.seen.iter().cloned());
            }
            return !self.many.insert(key);
        }
        let hash = key.bytes().fold(key.len(), |hash, byte| hash.wrapping_mul(31).wrapping_add(byte as usize));
        let bit = 1_u64 << (hash % 64);
        if self.filter & bit != 0 && self.seen.contains(&key) {
            return true;
        }
        self.filter |= bit;
        self.seen.push(key);
        false
    }
}
