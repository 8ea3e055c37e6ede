//! A digest of what clients resolve by and run: a version's dependency maps, `bin` and install scripts. Pure.

use std::borrow::Cow;
use std::collections::HashSet;

use aws_lc_rs::digest::{Context, SHA256};

use crate::npm::name::PackageName;
use crate::npm::packument::PackumentForm;
use crate::npm::packument::json::{decode, for_each_valid_member};

/// A digest of a manifest's install scripts: npm 11 runs those of the full packument, regardless of the tarball's `package.json`.
pub type ScriptsDigest = [u8; 16];

/// A digest of what a manifest makes clients install and link, whether it has install scripts, and their digest.
///
/// The two forms of a packument state install scripts differently (`scripts` in the full form, `hasInstallScript` in the
/// abbreviated one), and registries are not always consistent between them. Each form is therefore compared with itself only.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ManifestDigest {
    sha256: [u8; 32],
    scripts: u8,
    /// Digest of the scripts, zeros if there are none; `None` until a document with scripts was seen.
    install_scripts: Option<ScriptsDigest>,
}

/// Whether a manifest states that npm runs a script at install.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum InstallScript {
    Absent,
    Present,
}

impl From<bool> for InstallScript {
    fn from(present: bool) -> Self {
        if present { Self::Present } else { Self::Absent }
    }
}

impl ManifestDigest {
    const LENGTH: usize = WITHOUT_SCRIPTS + size_of::<ScriptsDigest>();

    pub(crate) fn new(resolution: [u8; 32], form: PackumentForm, install_script: InstallScript) -> Self {
        Self { sha256: resolution, scripts: (SEEN | install_script as u8) << shift(form), install_scripts: None }
    }

    /// Adds the scripts of a document that contains them; `None` for a manifest without install scripts.
    pub(crate) fn with_install_scripts(self, install_scripts: Option<ScriptsDigest>) -> Self {
        Self { install_scripts: Some(install_scripts.unwrap_or_default()), ..self }
    }

    /// Merges the digest of a newer document. Returns the result and whether it differs from what was known.
    pub(crate) fn followed_by(self, newer: Self) -> (Self, bool) {
        let (mut scripts, mut changed) = (self.scripts, self.sha256 != newer.sha256);
        for shift in [PackumentForm::Full, PackumentForm::Abbreviated].map(shift) {
            let (before, now) = ((self.scripts >> shift) & MASK, (newer.scripts >> shift) & MASK);
            if now & SEEN == 0 {
                continue;
            }
            changed |= before & SEEN != 0 && before != now;
            scripts = (scripts & !(MASK << shift)) | (now << shift);
        }
        changed |= matches!((self.install_scripts, newer.install_scripts), (Some(before), Some(now)) if before != now);
        (Self { sha256: newer.sha256, scripts, install_scripts: newer.install_scripts.or(self.install_scripts) }, changed)
    }

    /// Reads the result of [`ManifestDigest::to_bytes`], also from versions that did not store the scripts.
    pub(crate) fn from_bytes(bytes: &[u8]) -> Option<Self> {
        let (sha256, rest) = bytes.split_first_chunk()?;
        let (scripts, install_scripts) = rest.split_first()?;
        let install_scripts = match install_scripts {
            [] => None,
            stored => Some(stored.try_into().ok()?).filter(|_| scripts & HAS_SCRIPTS != 0),
        };
        Some(Self { sha256: *sha256, scripts: scripts & !HAS_SCRIPTS, install_scripts })
    }

    /// Returns the digest in the ledger's encoding.
    pub(crate) fn to_bytes(self) -> [u8; Self::LENGTH] {
        let mut bytes = [0; Self::LENGTH];
        bytes[..32].copy_from_slice(&self.sha256);
        bytes[32] = self.scripts | if self.install_scripts.is_some() { HAS_SCRIPTS } else { 0 };
        bytes[WITHOUT_SCRIPTS..].copy_from_slice(&self.install_scripts.unwrap_or_default());
        bytes
    }
}

/// Two bits per form: whether it was seen, and whether it has an install script.
const SEEN: u8 = 2;
const MASK: u8 = 3;

/// In the same byte: whether the scripts are known.
const HAS_SCRIPTS: u8 = 1 << 4;

/// Length of a digest stored without the scripts.
const WITHOUT_SCRIPTS: usize = 33;

fn shift(form: PackumentForm) -> u8 {
    match form {
        PackumentForm::Full => 0,
        PackumentForm::Abbreviated => 2,
    }
}

/// The members of a manifest that clients resolve by, as written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct Resolution<'a> {
    pub(crate) dependencies: Option<&'a str>,
    pub(crate) optional: Option<&'a str>,
    pub(crate) peers: Option<&'a str>,
    pub(crate) peers_meta: Option<&'a str>,
    pub(crate) bin: Option<&'a str>,
}

/// One hashed statement of a manifest: its kind, name and value.
type Statement<'a> = (u8, Cow<'a, str>, Cow<'a, str>);

/// Returns the digest of `resolution` of a manifest of `name`, independent of spelling and order.
pub(crate) fn resolution_digest(name: &PackageName, resolution: &Resolution<'_>) -> [u8; 32] {
    let mut statements: Vec<Statement<'_>> = Vec::new();
    collect(b'o', resolution.optional, &mut statements);
    // npm lists optional dependencies under `dependencies` too; some registries do not.
    let optional: HashSet<Cow<'_, str>> = statements.iter().map(|(_, name, _)| name.clone()).collect();
    collect(b'd', resolution.dependencies, &mut statements);
    if !optional.is_empty() {
        statements.retain(|(kind, name, _)| *kind != b'd' || !optional.contains(name));
    }
    collect(b'p', resolution.peers, &mut statements);
    collect_optional_peers(resolution.peers_meta, &mut statements);
    collect_bin(name, resolution.bin, &mut statements);
    hash(&mut statements)
}

/// Returns the digest of the scripts npm runs at install, or `None` if there are none.
pub(crate) fn install_scripts(scripts: &str) -> Option<ScriptsDigest> {
    // Fast path: most manifests have neither install scripts nor escapes that could hide one.
    if !scripts.contains("install") && !scripts.contains('\\') {
        return None;
    }
    let mut statements: Vec<Statement<'_>> = Vec::new();
    for_each_valid_member(scripts, |key, value| {
        if decode(key).is_some_and(|key| matches!(&*key, "preinstall" | "install" | "postinstall")) {
            statements.push((b's', text(key), text(value)));
        }
    });
    if statements.is_empty() { None } else { hash(&mut statements).first_chunk().copied() }
}

/// Hashes statements independent of their order.
fn hash(statements: &mut [Statement<'_>]) -> [u8; 32] {
    statements.sort_unstable();
    let mut context = Context::new(&SHA256);
    for (kind, name, value) in &*statements {
        context.update(&[*kind]);
        for text in [name, value] {
            context.update(&(text.len() as u64).to_le_bytes());
            context.update(text.as_bytes());
        }
    }
    context.finish().as_ref().try_into().unwrap_or_default()
}

/// Adds the members of an object. Any other value becomes one statement without a name; `null` adds nothing.
fn collect<'a>(kind: u8, value: Option<&'a str>, into: &mut Vec<Statement<'a>>) {
    let Some(value) = value.filter(|value| *value != "null") else { return };
    if !value.starts_with('{') {
        into.push((kind, Cow::Borrowed(""), Cow::Borrowed(value)));
    }
    for_each_valid_member(value, |key, value| into.push((kind, text(key), text(value))));
}

/// Adds peers marked as optional, which clients do not install on their own.
fn collect_optional_peers<'a>(value: Option<&'a str>, into: &mut Vec<Statement<'a>>) {
    for_each_valid_member(value.unwrap_or_default(), |key, meta| {
        let mut optional = false;
        for_each_valid_member(meta, |member, value| {
            optional |= decode(member).as_deref() == Some("optional") && value == "true";
        });
        if optional {
            into.push((b'm', text(key), Cow::Borrowed("")));
        }
    });
}

/// Adds the linked commands. A path alone is linked under the package's unscoped name.
fn collect_bin<'a>(name: &'a PackageName, value: Option<&'a str>, into: &mut Vec<Statement<'a>>) {
    match value.filter(|value| value.starts_with('"')) {
        Some(path) => into.push((b'b', Cow::Borrowed(name.unscoped()), text(path))),
        None => collect(b'b', value, into),
    }
}

/// Decodes a string; returns other values as written.
fn text(raw: &str) -> Cow<'_, str> {
    decode(raw).unwrap_or(Cow::Borrowed(raw))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::npm::packument::parse;

    fn of(members: &str) -> [u8; 32] {
        let manifest = format!(r#"{{"name":"@acme/demo","version":"1.0.0",{members}"x":1}}"#);
        let document = format!(r#"{{"name":"@acme/demo","versions":{{"1.0.0":{manifest}}}}}"#);
        let name = PackageName::parse("@acme/demo").unwrap();
        parse::parse(&name, document.as_bytes()).unwrap().packument.entries[0].resolution
    }

    #[test]
    fn spelling_and_order_do_not_change_the_digest() {
        let plain = of(r#""dependencies":{"a":"1","b":"2"},"optionalDependencies":{"b":"2"},"bin":{"demo":"cli.js"},"#);
        let other =
            of("\"bin\":\"cli.js\", \"optionalDependencies\" : {\"\\u0062\":\"2\"}, \"dependencies\" : { \"a\" : \"1\" } , ");
        assert_eq!(plain, other);
        assert_eq!(of(""), of(r#""dependencies":{},"peerDependencies":null,"devDependencies":{"a":"1"},"deprecated":"x","#));
    }

    #[test]
    fn changes_to_resolution_or_bin_change_the_digest() {
        let variants = [
            "",
            r#""dependencies":{"a":"1"},"#,
            r#""dependencies":{"a":"2"},"#,
            r#""dependencies":{"a":"1","evil":"1"},"#,
            r#""optionalDependencies":{"a":"1"},"#,
            r#""peerDependencies":{"a":"1"},"#,
            r#""peerDependencies":{"a":"1"},"peerDependenciesMeta":{"a":{"optional":true}},"#,
            r#""bin":{"npm":"a"},"#,
            r#""bin":"a","#,
            r#""dependencies":["a"],"#,
        ];
        for (at, left) in variants.iter().enumerate() {
            for right in &variants[at + 1..] {
                assert_ne!(of(left), of(right), "{left} {right}");
            }
        }
    }

    #[test]
    fn each_form_is_compared_only_with_itself() {
        let full = |runs: bool| ManifestDigest::new([1; 32], PackumentForm::Full, runs.into());
        let abbreviated = |runs: bool| ManifestDigest::new([1; 32], PackumentForm::Abbreviated, runs.into());
        assert_eq!(full(false).followed_by(full(false)), (full(false), false));
        assert!(full(false).followed_by(full(true)).1 && abbreviated(true).followed_by(abbreviated(false)).1);
        let (both, changed) = full(true).followed_by(abbreviated(false));
        assert!(!changed);
        assert!(!both.followed_by(full(true)).1 && both.followed_by(full(false)).1 && both.followed_by(abbreviated(true)).1);
        assert_eq!(ManifestDigest::from_bytes(&both.to_bytes()), Some(both));
        let other = ManifestDigest::new([2; 32], PackumentForm::Full, InstallScript::Present);
        let (after, changed) = both.followed_by(other);
        assert!(changed && after.followed_by(other) == (after, false));
    }

    #[test]
    fn scripts_are_compared_only_if_both_documents_have_them() {
        let scripts = |scripts: &str| install_scripts(scripts);
        assert_eq!(scripts(r#"{"test":"x","prepublish":"y"}"#), None);
        assert_eq!(scripts(r#"{"postinstall":"a","test":"x"}"#), scripts(r#"{ "post\u0069nstall" : "a" }"#));
        assert_ne!(scripts(r#"{"postinstall":"a"}"#), scripts(r#"{"postinstall":"b"}"#));
        assert_ne!(scripts(r#"{"postinstall":"a"}"#), scripts(r#"{"install":"a"}"#));
        assert_ne!(scripts(r#"{"postinstall":"a"}"#), scripts(r#"{"postinstall":"a","postinstall":"b"}"#));
        let full = |text: &str| {
            ManifestDigest::new([1; 32], PackumentForm::Full, InstallScript::Present).with_install_scripts(scripts(text))
        };
        let (first, second) = (full(r#"{"install":"a"}"#), full(r#"{"install":"b"}"#));
        assert!(first.followed_by(second).1 && !first.followed_by(first).1);
        assert!(full("{}").followed_by(first).1 && first.followed_by(full("{}")).1);
        // The abbreviated form and ledgers from before this field say nothing about the scripts.
        let (after, changed) =
            first.followed_by(ManifestDigest::new([1; 32], PackumentForm::Abbreviated, InstallScript::Present));
        assert!(!changed && after.followed_by(second).1 && !after.followed_by(first).1);
        assert_eq!(ManifestDigest::from_bytes(&first.to_bytes()), Some(first));
        let old = ManifestDigest::from_bytes(&first.to_bytes()[..WITHOUT_SCRIPTS]).unwrap();
        assert_eq!(old, ManifestDigest::new([1; 32], PackumentForm::Full, InstallScript::Present));
        assert!(!old.followed_by(second).1);
        assert_eq!(ManifestDigest::from_bytes(&[0; 40]), None);
    }
}
