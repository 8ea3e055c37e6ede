//! Compares the `package.json` of a tarball with the manifest in the packument. Clients resolve by the packument and run what
//! `package.json` says, so a difference hides something from one of them.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::{Map, Value};

use crate::npm::packument::index::without_build;
use crate::text;
use crate::vetting::contents::Builds;
use crate::vetting::surface::{EntryPoints, INSTALL_SCRIPTS, clean};

/// The longest manifest read, in bytes. As a JSON tree, it takes up to twenty times the memory.
const MAX_MANIFEST_BYTES: usize = 1 << 20;

/// Differences listed in one text; further ones are counted.
const MAX_LISTED: usize = 5;

/// The longest value printed, in characters.
const MAX_VALUE_CHARS: usize = 100;

/// The members of a manifest that clients resolve or run, with one spelling each.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Manifest {
    name: Option<String>,
    version: Option<String>,
    /// Including optional ones: older npm versions copy these.
    dependencies: BTreeMap<String, String>,
    optional: BTreeMap<String, String>,
    peers: BTreeMap<String, String>,
    bundled: BTreeSet<String>,
    engines: BTreeMap<String, String>,
    /// `None` if a folder of commands is named instead, which the publisher's npm lists.
    commands: Option<BTreeMap<String, String>>,
    scripts: BTreeMap<String, String>,
    /// Whether it says that npm must not build its `binding.gyp` (`"gypfile": false`).
    forbids_build: bool,
    /// What only a packument states.
    stated: StatedTraits,
    /// What npm and node run.
    pub(crate) entry_points: EntryPoints,
}

/// What a packument says about a tarball besides its `package.json`.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
struct StatedTraits {
    has_gyp: bool,
    has_shrinkwrap: bool,
    /// The abbreviated form states this instead of scripts.
    has_install_script: bool,
}

/// What the files of a tarball say besides its `package.json`.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct TarballTraits {
    /// Whether it has a `binding.gyp` in its main folder.
    pub has_gyp: bool,
    /// Whether it has an `npm-shrinkwrap.json` in its main folder.
    pub has_shrinkwrap: bool,
}

impl Manifest {
    /// Reads a manifest.
    ///
    /// # Errors
    /// Returns a message if it is no JSON object, longer than 1 MiB, or if a key is given twice.
    pub fn parse(json: &[u8]) -> Result<Self, String> {
        if json.len() > MAX_MANIFEST_BYTES {
            return Err(format!("it is longer than {} MiB", MAX_MANIFEST_BYTES >> 20));
        }
        let json = json.strip_prefix("\u{feff}".as_bytes()).unwrap_or(json);
        let unique: UniqueKeys = serde_json::from_slice(json).map_err(|error| text::json_error(&error))?;
        let Value::Object(members) = unique.0 else { return Err("it is not an object".to_owned()) };
        Ok(Self::of(&members))
    }

    fn of(members: &Map<String, Value>) -> Self {
        let text = |key: &str| members.get(key).and_then(Value::as_str).map(|text| text.trim().to_owned());
        let name = text("name");
        let optional = specs(members.get("optionalDependencies"));
        let mut dependencies = specs(members.get("dependencies"));
        dependencies.extend(optional.clone());
        let bundle = members.get("bundleDependencies").or_else(|| members.get("bundledDependencies"));
        let bundled: BTreeSet<String> = match bundle {
            Some(Value::Bool(true)) => dependencies.keys().cloned().collect(),
            Some(Value::Array(names)) => names.iter().filter_map(Value::as_str).map(str::to_owned).collect(),
            Some(Value::Object(names)) => names.keys().cloned().collect(),
            _ => BTreeSet::new(),
        };
        // The publisher's npm adds these.
        for name in &bundled {
            dependencies.entry(name.clone()).or_insert_with(|| "*".to_owned());
        }
        let scripts = strings(members.get("scripts"));
        let has = |key: &str| members.get(key) == Some(&Value::Bool(true));
        Self {
            version: text("version").map(|version| clean_version(&version)),
            commands: commands(members, name.as_deref().unwrap_or_default()),
            name,
            dependencies,
            optional,
            peers: specs(members.get("peerDependencies")),
            bundled,
            engines: specs(members.get("engines")),
            forbids_build: members.get("gypfile") == Some(&Value::Bool(false)),
            scripts: scripts.into_iter().filter(|(name, _)| INSTALL_SCRIPTS.contains(&&**name)).collect(),
            stated: StatedTraits {
                has_gyp: has("gypfile"),
                has_shrinkwrap: has("_hasShrinkwrap"),
                has_install_script: has("hasInstallScript"),
            },
            entry_points: EntryPoints::from_manifest(members),
        }
    }

    /// Returns what npm builds at install. An install script may call node-gyp itself.
    pub(crate) fn builds(&self, tarball: TarballTraits) -> Builds {
        if tarball.has_gyp && !self.forbids_build { Builds::Gyp } else { Builds::Nothing }
    }

    /// Checks whether npm builds the package although no script says so.
    pub fn builds_implicitly(&self, tarball: TarballTraits) -> bool {
        tarball.has_gyp
            && !self.forbids_build
            && !self.scripts.contains_key("install")
            && !self.scripts.contains_key("preinstall")
    }

    /// Checks whether the packument says that npm runs something when it installs the package.
    pub fn states_install(&self) -> bool {
        self.stated.has_gyp || self.stated.has_install_script || !self.scripts.is_empty()
    }

    /// Returns where the packument's manifest `stated` differs from this one, which is the tarball's. Each text is one line and safe
    /// to print.
    pub fn differences(&self, stated: &Self, tarball: TarballTraits) -> Vec<String> {
        let mut found = Vec::new();
        let mut compare = |what: &str, inside: Option<&str>, outside: Option<&str>| {
            if inside != outside {
                found.push(difference(what, inside, outside));
            }
        };
        compare("name", self.name.as_deref(), stated.name.as_deref());
        compare("version", self.version.as_deref(), stated.version.as_deref());
        let names = |bundled: &BTreeSet<String>| bundled.iter().map(|name| (name.clone(), "bundled".to_owned())).collect();
        let maps: [(_, &BTreeMap<_, _>, &BTreeMap<_, _>); 5] = [
            ("dependencies", &self.dependencies, &stated.dependencies),
            ("optionalDependencies", &self.optional, &stated.optional),
            ("peerDependencies", &self.peers, &stated.peers),
            ("bundleDependencies", &names(&self.bundled), &names(&stated.bundled)),
            ("engines", &self.engines, &stated.engines),
        ];
        for (what, inside, outside) in maps {
            found.extend(differences_of_maps(what, inside, outside));
        }
        if let (Some(inside), Some(outside)) = (&self.commands, &stated.commands) {
            found.extend(differences_of_maps("bin", inside, outside));
        }
        found.extend(self.script_differences(stated, tarball));
        if tarball.has_shrinkwrap && !stated.stated.has_shrinkwrap {
            found.push("npm-shrinkwrap.json: the packument does not state it".to_owned());
        }
        found
    }

    fn script_differences(&self, stated: &Self, tarball: TarballTraits) -> Vec<String> {
        if stated.stated.has_install_script && stated.scripts.is_empty() {
            // The abbreviated form says no more.
            let has_any = !self.scripts.is_empty() || tarball.has_gyp;
            return if has_any { Vec::new() } else { vec!["scripts: the packument states install scripts".to_owned()] };
        }
        let mut outside = stated.scripts.clone();
        // The publisher's npm adds it.
        if self.builds_implicitly(tarball) && outside.get("install").is_some_and(|script| script == "node-gyp rebuild") {
            outside.remove("install");
        }
        differences_of_maps("scripts", &self.scripts, &outside)
    }
}

/// Returns one text about all differences of a map, or none.
fn differences_of_maps(what: &str, inside: &BTreeMap<String, String>, outside: &BTreeMap<String, String>) -> Vec<String> {
    let names: BTreeSet<&String> = inside.keys().chain(outside.keys()).collect();
    let differing = names.into_iter().filter(|name| inside.get(*name) != outside.get(*name));
    let texts: Vec<String> = differing
        .map(|name| difference(name, inside.get(name).map(|text| &**text), outside.get(name).map(|text| &**text)))
        .collect();
    if texts.is_empty() {
        return Vec::new();
    }
    let rest = texts.len().saturating_sub(MAX_LISTED);
    let rest = if rest > 0 { format!("; {rest} more") } else { String::new() };
    vec![format!("{what}: {}{rest}", texts[..texts.len().min(MAX_LISTED)].join("; "))]
}

fn difference(what: &str, inside: Option<&str>, outside: Option<&str>) -> String {
    let what = printed(what);
    match (inside.map(printed), outside.map(printed)) {
        (Some(inside), Some(outside)) => format!("{what} is \"{inside}\", the packument says \"{outside}\""),
        (Some(inside), None) => format!("{what} is \"{inside}\", which the packument does not state"),
        (None, outside) => format!("{what} is missing, the packument says \"{}\"", outside.unwrap_or_default()),
    }
}

fn printed(text: &str) -> String {
    let text: String = text.chars().take(MAX_VALUE_CHARS).collect();
    text::single_line(&text).into_owned()
}

/// Returns a version without build metadata and leading letters, as npm publishes it.
fn clean_version(version: &str) -> String {
    without_build(version.trim_start_matches(['v', '=', ' '])).to_owned()
}

/// Returns the string members of an object.
fn strings(object: Option<&Value>) -> BTreeMap<String, String> {
    let members = object.and_then(Value::as_object).into_iter().flatten();
    members.filter_map(|(name, value)| Some((name.clone(), value.as_str()?.trim().to_owned()))).collect()
}

/// Returns a map of ranges. Repositories have one spelling each, since npm rewrites them.
fn specs(object: Option<&Value>) -> BTreeMap<String, String> {
    strings(object).into_iter().map(|(name, spec)| (name, canonical_spec(spec))).collect()
}

fn canonical_spec(spec: String) -> String {
    if !spec.contains('/') || spec.starts_with("npm:") || spec.starts_with("file:") {
        return spec;
    }
    let rest = spec.split_once("://").map_or(&*spec, |(_, rest)| rest);
    let rest = rest.split_once('@').filter(|(user, _)| !user.contains('/')).map_or(rest, |(_, rest)| rest);
    let rest = rest.replacen("github:", "github.com/", 1).replacen("github.com:", "github.com/", 1);
    let (repository, fragment) = rest.split_once('#').unwrap_or((&rest, ""));
    let repository = repository.trim_end_matches(".git");
    let host = if repository.matches('/').count() == 1 { "github.com/" } else { "" };
    format!("{host}{repository}#{fragment}")
}

/// Returns the commands that the package installs, by name.
fn commands(members: &Map<String, Value>, package: &str) -> Option<BTreeMap<String, String>> {
    let bin = members.get("bin");
    if bin.is_none() && members.get("directories").and_then(|directories| directories.get("bin")).is_some() {
        return None;
    }
    let commands = match bin {
        Some(Value::String(path)) => BTreeMap::from([(package.to_owned(), path.clone())]),
        bin => strings(bin),
    };
    let base = |name: &str| name.rsplit(['/', '\\', ':']).next().unwrap_or_default().to_owned();
    let commands = commands.iter().map(|(name, path)| (base(name), clean("", path)));
    Some(commands.filter(|(name, path)| !name.is_empty() && !path.is_empty()).collect())
}

/// A JSON value in which no object has a key twice: parsers disagree which one counts.
struct UniqueKeys(Value);

impl<'de> serde::Deserialize<'de> for UniqueKeys {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(UniqueKeysVisitor).map(Self)
    }
}

struct UniqueKeysVisitor;

impl<'de> serde::de::Visitor<'de> for UniqueKeysVisitor {
    type Value = Value;

    fn expecting(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.write_str("JSON")
    }

    fn visit_bool<E>(self, value: bool) -> Result<Value, E> {
        Ok(Value::Bool(value))
    }

    fn visit_i64<E>(self, value: i64) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_u64<E>(self, value: u64) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_f64<E>(self, value: f64) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_str<E>(self, value: &str) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_unit<E>(self) -> Result<Value, E> {
        Ok(Value::Null)
    }

    fn visit_seq<A: serde::de::SeqAccess<'de>>(self, mut items: A) -> Result<Value, A::Error> {
        let mut found = Vec::new();
        while let Some(UniqueKeys(item)) = items.next_element()? {
            found.push(item);
        }
        Ok(Value::Array(found))
    }

    fn visit_map<A: serde::de::MapAccess<'de>>(self, mut members: A) -> Result<Value, A::Error> {
        let mut found = Map::new();
        while let Some((key, UniqueKeys(value))) = members.next_entry::<String, _>()? {
            if found.contains_key(&key) {
                return Err(serde::de::Error::custom(format!("`{}` is given twice", printed(&key))));
            }
            found.insert(key, value);
        }
        Ok(Value::Object(found))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn differences(inside: &str, outside: &str, tarball: TarballTraits) -> Vec<String> {
        let parse = |json: &str| Manifest::parse(json.as_bytes()).unwrap();
        parse(inside).differences(&parse(outside), tarball)
    }

    fn none(inside: &str, outside: &str) {
        assert_eq!(differences(inside, outside, TarballTraits::default()), [""; 0], "{inside} {outside}");
    }

    fn one(inside: &str, outside: &str, text: &str) {
        assert_eq!(differences(inside, outside, TarballTraits::default()), [text], "{inside} {outside}");
    }

    #[test]
    fn what_npm_rewrites_on_publish_is_no_difference() {
        none(r#"{"version":"v1.0.0+build.5"}"#, r#"{"version":"1.0.0"}"#);
        none(r#"{"name":"@a/b","bin":"./x.js"}"#, r#"{"name":"@a/b","bin":{"b":"x.js"}}"#);
        none(r#"{"optionalDependencies":{"a":"1"}}"#, r#"{"optionalDependencies":{"a":"1"},"dependencies":{"a":"1"}}"#);
        none(r#"{"bundledDependencies":["a"]}"#, r#"{"bundleDependencies":["a"],"dependencies":{"a":"*"}}"#);
        none(r#"{"dependencies":{"a":"o/r"}}"#, r#"{"dependencies":{"a":"github:o/r"}}"#);
        none(r#"{"dependencies":{"a":" ^1.0.0 "}}"#, r#"{"dependencies":{"a":"^1.0.0"}}"#);
        none(r#"{"directories":{"bin":"bin"}}"#, r#"{"bin":{"a":"bin/a"}}"#);
        none(r#"{"scripts":{"test":"x"},"devDependencies":{"a":"1"}}"#, "{}");
        none("\u{feff}{}", "{}");
    }

    #[test]
    fn each_member_that_clients_resolve_or_run_is_compared() {
        one(r#"{"name":"a"}"#, r#"{"name":"b"}"#, "name is \"a\", the packument says \"b\"");
        one(r#"{"version":"1.0.0"}"#, r#"{"version":"1.0.1"}"#, "version is \"1.0.0\", the packument says \"1.0.1\"");
        let evil = "dependencies: evil is \"1\", which the packument does not state";
        one(r#"{"dependencies":{"evil":"1"}}"#, "{}", evil);
        one("{}", r#"{"peerDependencies":{"a":"1"}}"#, "peerDependencies: a is missing, the packument says \"1\"");
        one(r#"{"scripts":{"postinstall":"x"}}"#, "{}", "scripts: postinstall is \"x\", which the packument does not state");
        one(r#"{"bin":{"a":"b.js"}}"#, r#"{"bin":{"a":"a.js"}}"#, "bin: a is \"b.js\", the packument says \"a.js\"");
        one(r#"{"engines":{"node":">=4"}}"#, "{}", "engines: node is \">=4\", which the packument does not state");
        let bundled = r#"{"dependencies":{"a":"1"},"bundleDependencies":true}"#;
        let text = "bundleDependencies: a is \"bundled\", which the packument does not state";
        one(bundled, r#"{"dependencies":{"a":"1"}}"#, text);
    }

    #[test]
    fn abbreviated_manifest_states_scripts_by_a_flag() {
        let gyp = TarballTraits { has_gyp: true, ..TarballTraits::default() };
        none(r#"{"scripts":{"install":"x"}}"#, r#"{"hasInstallScript":true}"#);
        assert_eq!(differences("{}", r#"{"hasInstallScript":true}"#, gyp), [""; 0]);
        one("{}", r#"{"hasInstallScript":true}"#, "scripts: the packument states install scripts");
    }

    #[test]
    fn implicit_build_that_npm_states_is_no_difference() {
        let gyp = TarballTraits { has_gyp: true, ..TarballTraits::default() };
        let stated = Manifest::parse(br#"{"gypfile":true,"scripts":{"install":"node-gyp rebuild"}}"#).unwrap();
        let inside = Manifest::parse(b"{}").unwrap();
        assert!(inside.builds_implicitly(gyp) && stated.states_install());
        assert_eq!(inside.differences(&stated, gyp), [""; 0]);
        let forbidden = Manifest::parse(br#"{"gypfile":false}"#).unwrap();
        assert!(!forbidden.builds_implicitly(gyp));
        let shrinkwrap = TarballTraits { has_shrinkwrap: true, ..TarballTraits::default() };
        assert_eq!(inside.differences(&inside, shrinkwrap), ["npm-shrinkwrap.json: the packument does not state it"]);
    }

    #[test]
    fn repeated_keys_and_other_values_are_refused() {
        for json in [r#"{"a":1,"a":2}"#, r#"{"dependencies":{"a":"1","a":"2"}}"#, "[]", "1", "", "{"] {
            assert!(Manifest::parse(json.as_bytes()).is_err(), "{json}");
        }
        assert!(Manifest::parse(&b"[".repeat(100_000)).is_err());
        let long = format!(r#"{{"name":"{}"}}"#, "x".repeat(MAX_MANIFEST_BYTES));
        assert_eq!(Manifest::parse(long.as_bytes()), Err("it is longer than 1 MiB".to_owned()));
    }

    #[test]
    fn hostile_values_are_escaped_and_shortened() {
        let inside = format!(r#"{{"dependencies":{{"a":"\u001b[2J{}"}}}}"#, "x".repeat(1_000));
        let text = &differences(&inside, "{}", TarballTraits::default())[0];
        assert!(!text.contains('\u{1b}') && text.len() < 300, "{text}");
    }
}
