//! What signals compare between the versions of a package: names of dependencies and commands, the repository, and the publisher's
//! email address. Most versions equal the one before and share one value.

use std::borrow::Cow;
use std::collections::HashSet;
use std::sync::Arc;

use crate::npm::integrity::{Algorithm, Digest};
use crate::npm::packument::json::{decode, for_each_valid_member, intern, string_member};

/// Names kept per document. The dependencies of 10,000 versions of a large package are 500,000 names.
const MAX_NAMES: usize = 1_000_000;

const MAX_REPOSITORY_BYTES: usize = 256;

#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct ReleaseShape {
    /// The packages in `dependencies`, `optionalDependencies` and `peerDependencies`, which npm installs too, sorted. An alias
    /// counts as the package that it names.
    pub dependencies: Box<[Arc<str>]>,
    /// The commands that `bin` adds, sorted. A `bin` that is only a path is an empty name.
    pub commands: Box<[Arc<str>]>,
    /// The repository without protocol, credentials and `.git`.
    pub repository: Option<Arc<str>>,
    /// A digest of the publisher's email address. Addresses are not kept.
    pub publisher_email: Option<[u8; 16]>,
}

/// The members of one manifest that shapes are made of, as JSON.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct ShapeSource<'a> {
    pub dependencies: Option<&'a str>,
    pub optional: Option<&'a str>,
    pub peers: Option<&'a str>,
    pub bin: Option<&'a str>,
    pub repository: Option<&'a str>,
    pub publisher: Option<&'a str>,
}

/// Reads shapes and shares equal ones.
#[derive(Default)]
pub(crate) struct ShapeReader<'a> {
    texts: HashSet<Arc<str>>,
    names: usize,
    last: Option<(ShapeSource<'a>, Arc<ReleaseShape>)>,
}

impl<'a> ShapeReader<'a> {
    /// Returns the shape of a manifest; `None` if the document has too many names already.
    pub(crate) fn read(&mut self, source: ShapeSource<'a>) -> Option<Arc<ReleaseShape>> {
        if let Some((_, shape)) = self.last.as_ref().filter(|(last, _)| *last == source) {
            return Some(Arc::clone(shape));
        }
        let shape = ReleaseShape {
            dependencies: self.names(&[source.dependencies, source.optional, source.peers], dependency_name)?,
            commands: match source.bin {
                Some(bin) if bin.starts_with('"') => Box::new([intern(&mut self.texts, "")]),
                bin => self.names(&[bin], |key, _| decode(key))?,
            },
            repository: source.repository.and_then(repository).map(|text| intern(&mut self.texts, &text)),
            publisher_email: source.publisher.and_then(email_digest),
        };
        let known = self.last.as_ref().map(|(_, known)| known).filter(|known| ***known == shape);
        let shape = known.map_or_else(|| Arc::new(shape), Arc::clone);
        self.last = Some((source, Arc::clone(&shape)));
        Some(shape)
    }

    /// Returns the names that `name` reads from the members of these objects, sorted.
    fn names(
        &mut self,
        objects: &[Option<&'a str>],
        name: impl Fn(&'a str, &'a str) -> Option<Cow<'a, str>>,
    ) -> Option<Box<[Arc<str>]>> {
        let mut names = Vec::new();
        for object in objects.iter().flatten() {
            for_each_valid_member(object, |key, value| {
                self.names += 1;
                if self.names <= MAX_NAMES {
                    names.extend(name(key, value).map(|name| intern(&mut self.texts, &name)));
                }
            });
        }
        names.sort_unstable();
        names.dedup();
        (self.names <= MAX_NAMES).then(|| names.into())
    }
}

impl ReleaseShape {
    /// Returns the approximate memory in bytes, without the shared texts.
    pub(crate) fn weight(&self) -> usize {
        size_of::<Self>() + (self.dependencies.len() + self.commands.len()) * size_of::<Arc<str>>()
    }
}

/// Returns the package that a dependency installs: the one that an alias (`npm:name@range`) names, else the key.
fn dependency_name<'a>(key: &'a str, value: &'a str) -> Option<Cow<'a, str>> {
    let is_alias = |spec: &str| spec.get(..4).is_some_and(|prefix| prefix.eq_ignore_ascii_case("npm:"));
    // Most values are plain ranges, which need no decoding.
    let may_be_alias = value.contains('\\') || is_alias(value.trim_start_matches(['"', ' ']));
    let spec = if may_be_alias { decode(value) } else { None };
    let Some(target) = spec.as_deref().map(str::trim).filter(|spec| is_alias(spec)).map(|spec| &spec[4..]) else {
        return decode(key);
    };
    let end = target.char_indices().skip(1).find(|(_, char)| *char == '@').map_or(target.len(), |(at, _)| at);
    Some(Cow::Owned(target[..end].to_owned()))
}

/// Returns `host/owner/name` of a `repository` member, which is an address or an object with one.
fn repository(raw: &str) -> Option<String> {
    let text = if raw.starts_with('{') { string_member(raw, "url") } else { decode(raw) }?;
    let text = text.trim().split(['#', '?']).next().unwrap_or_default();
    let text = text.split_once("://").map_or(text, |(_, rest)| rest);
    let text = text.split_once('@').map_or(text, |(_, rest)| rest);
    // `github:owner/name`, `owner/name` and `git@host:owner/name` are other spellings.
    let text = text.replacen(':', "/", 1).replacen("github/", "github.com/", 1);
    let text = text.trim_end_matches('/').trim_end_matches(".git").trim_start_matches("www.").to_ascii_lowercase();
    let text = if text.matches('/').count() == 1 { format!("github.com/{text}") } else { text };
    (!text.is_empty() && text.len() <= MAX_REPOSITORY_BYTES).then_some(text)
}

/// Returns a digest of the address in `_npmUser`.
fn email_digest(raw: &str) -> Option<[u8; 16]> {
    let email = string_member(raw, "email")?;
    let digest = Digest::of(Algorithm::Sha256, email.trim().to_ascii_lowercase().as_bytes());
    digest.as_bytes().first_chunk().copied()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn spellings_of_one_repository_are_equal() {
        for raw in [
            r#"{"type":"git","url":"git+https://github.com/axios/axios.git"}"#,
            r#""https://github.com/axios/axios""#,
            r#"{"url":"git://github.com/axios/axios.git#main"}"#,
            r#"{"url":"git@github.com:axios/axios.git"}"#,
            r#"{"url":"ssh://git@github.com/Axios/axios"}"#,
            r#""github:axios/axios""#,
            r#""axios/axios""#,
        ] {
            assert_eq!(repository(raw).as_deref(), Some("github.com/axios/axios"), "{raw}");
        }
        assert_eq!(repository(r#"{"type":"git"}"#), None);
    }

    #[test]
    fn equal_shapes_are_shared_and_names_are_bounded() {
        let mut reader = ShapeReader::default();
        let source = |dependencies| ShapeSource { dependencies: Some(dependencies), ..ShapeSource::default() };
        let first = reader.read(source(r#"{"b":"1","a":"1"}"#)).unwrap();
        let second = reader.read(source(r#"{"a":"2","b":"2"}"#)).unwrap();
        assert!(Arc::ptr_eq(&first, &second));
        assert_eq!(first.dependencies.iter().map(|name| &**name).collect::<Vec<_>>(), ["a", "b"]);
        let alias = reader.read(source(r#"{"a":"npm:evil@1","b":"NPM:@x/evil","c":"\u006epm:other@^2","d":"npm"}"#)).unwrap();
        assert_eq!(alias.dependencies.iter().map(|name| &**name).collect::<Vec<_>>(), ["@x/evil", "d", "evil", "other"]);
        reader.names = MAX_NAMES;
        assert!(reader.read(source(r#"{"c":"1"}"#)).is_none());
    }
}
