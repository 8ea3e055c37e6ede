//! `yarn.lock`: yarn 1 has its own format, later versions use YAML. Both key a package by all specs that require it.

use std::collections::HashMap;
use std::sync::Arc;

use percent_encoding::percent_decode_str;

use crate::npm::lockfile::document::{DocMember, DocNode};
use crate::npm::lockfile::model::{Lockfile, LockfileEntry, LockfileError, LockfileFormat};
use crate::npm::lockfile::spec::{EntrySource, range, resolve_alias, source};
use crate::npm::name::split_spec;

pub(crate) fn read_classic(text: &str) -> Result<Lockfile, LockfileError> {
    let mut blocks: Vec<YarnBlock> = Vec::new();
    let mut inside = "";
    for (at, line) in text.lines().enumerate() {
        let number = u32::try_from(at + 1).unwrap_or(u32::MAX);
        let trimmed = line.trim();
        if trimmed.is_empty() || trimmed.starts_with('#') {
            continue;
        }
        let indent = line.len() - line.trim_start_matches(' ').len();
        let error = |detail: &str| LockfileError::at(number, detail);
        if indent == 0 {
            let keys = trimmed.strip_suffix(':').ok_or_else(|| error("expected `:` at the end of the line"))?;
            let patterns = tokens(keys).filter(|patterns| !patterns.is_empty()).ok_or_else(|| error("unterminated quote"))?;
            blocks.push(YarnBlock { patterns, line: number, ..YarnBlock::default() });
            inside = "";
            continue;
        }
        let block = blocks.last_mut().ok_or_else(|| error("indented line outside of a package"))?;
        if indent == 2 && trimmed.ends_with(':') {
            inside = trimmed.trim_end_matches(':');
            continue;
        }
        let words = tokens(trimmed).ok_or_else(|| error("unterminated quote"))?;
        let [key, value] = <[String; 2]>::try_from(words).map_err(|_| error("expected a key and a value"))?;
        match (indent, key.as_str()) {
            (2, "version") => block.version = value,
            (2, "resolved") => block.resolved = Some(value),
            (2, "integrity") => block.integrity = Some(value),
            (2, _) => {}
            _ if matches!(inside, "dependencies" | "optionalDependencies") => block.dependencies.push((key, value)),
            _ => {}
        }
    }
    Ok(Lockfile { dialect: LockfileFormat::YarnClassic, entries: joined(&blocks) })
}

/// A package in `yarn.lock`, in either format.
#[derive(Default)]
struct YarnBlock {
    /// The specs that require it, such as `axios@^1.12.0`.
    patterns: Vec<String>,
    version: String,
    resolved: Option<String>,
    integrity: Option<String>,
    dependencies: Vec<(String, String)>,
    line: u32,
    /// In the YAML format, the resolved name and locator.
    resolution: Option<(String, String)>,
}

/// Splits a line into words: bare ones up to a space or comma, and quoted ones. Returns `None` for an unterminated quote.
fn tokens(line: &str) -> Option<Vec<String>> {
    let mut found = Vec::new();
    let mut rest = line.trim_start_matches([' ', ',']);
    while !rest.is_empty() {
        let end = if rest.starts_with('"') {
            let mut escaped = false;
            let closing = rest.char_indices().skip(1).find(|(_, ch)| {
                let closes = *ch == '"' && !escaped;
                escaped = *ch == '\\' && !escaped;
                closes
            });
            closing?.0 + 1
        } else {
            rest.find([' ', ',']).unwrap_or(rest.len())
        };
        let word = &rest[..end];
        // Quoted words have JSON escapes.
        found.push(if word.starts_with('"') { serde_json::from_str(word).ok()? } else { word.to_owned() });
        rest = rest[end..].trim_start_matches([' ', ',']);
    }
    Some(found)
}

/// Reads the YAML format, which has one document.
pub(crate) fn read_berry(documents: &[DocNode]) -> Result<Lockfile, LockfileError> {
    let document = documents.first().ok_or_else(|| LockfileError::at(1, "the file is empty"))?;
    let mut blocks = Vec::new();
    for DocMember { key, line, value } in document.members() {
        if &**key == "__metadata" {
            continue;
        }
        let resolution = value.text_of("resolution").and_then(split_spec);
        let Some((name, locator)) = resolution else { return Err(LockfileError::at(*line, "missing `resolution`")) };
        let dependencies = value.texts_in(&["dependencies", "optionalDependencies", "peerDependencies"]);
        blocks.push(YarnBlock {
            patterns: key.split(',').map(|pattern| pattern.trim().to_owned()).collect(),
            version: value.text_of("version").unwrap_or_default().to_owned(),
            resolved: archive(locator),
            integrity: None,
            dependencies: dependencies.map(|(name, spec)| (name.to_owned(), spec.to_owned())).collect(),
            line: *line,
            resolution: Some((name.to_owned(), locator.to_owned())),
        });
    }
    Ok(Lockfile { dialect: LockfileFormat::YarnBerry, entries: joined(&blocks) })
}

/// Returns the address in a locator, if it is not the registry's conventional one.
fn archive(locator: &str) -> Option<String> {
    if locator.starts_with("http") {
        return Some(locator.to_owned());
    }
    let (_, rest) = locator.split_once("::__archiveUrl=")?;
    let encoded = rest.split('&').next().unwrap_or(rest);
    Some(percent_decode_str(encoded).decode_utf8_lossy().into_owned())
}

fn joined(blocks: &[YarnBlock]) -> Vec<LockfileEntry> {
    let mut at: HashMap<&str, usize> = HashMap::new();
    for (number, block) in blocks.iter().enumerate() {
        at.extend(block.patterns.iter().map(|pattern| (&**pattern, number)));
    }
    let mut entries: Vec<LockfileEntry> = blocks.iter().map(of_block).collect();
    for (number, block) in blocks.iter().enumerate() {
        let is_project = entries[number].source == EntrySource::Workspace;
        let by: Arc<str> = (*entries[number].name).into();
        for (name, spec) in &block.dependencies {
            let patterns = [format!("{name}@{spec}"), format!("{name}@npm:{spec}")];
            let Some(target) = patterns.iter().find_map(|pattern| at.get(&**pattern)) else { continue };
            if is_project {
                entries[*target].add_direct(name, spec);
            } else {
                entries[*target].add_dependent(&by, name, Some(spec));
            }
        }
    }
    // In yarn 1, specs that no package in the file requires are the project's own.
    for (block, entry) in blocks.iter().zip(&mut entries) {
        for pattern in &block.patterns {
            let (name, spec) = split_spec(pattern).unwrap_or((pattern, ""));
            let range = range(spec);
            if block.resolution.is_none() && !entry.requested_by.iter().any(|request| request.range == range) {
                entry.add_direct(name, spec);
            }
        }
    }
    entries.retain(|entry| entry.source != EntrySource::Workspace);
    entries
}

fn of_block(block: &YarnBlock) -> LockfileEntry {
    let pattern = block.patterns.first().map_or("", |pattern| pattern);
    let (written, spec) =
        block.resolution.as_ref().map_or_else(|| split_spec(pattern).unwrap_or((pattern, "")), |(name, locator)| (name, locator));
    let (name, spec) = resolve_alias(written, spec);
    let resolved = block.resolved.as_deref();
    let source = source(spec.split("::").next().unwrap_or(spec)).with_address(resolved);
    LockfileEntry::new(name, &block.version, source, pattern, block.line).with_tarball(block.integrity.as_deref(), resolved)
}

#[cfg(test)]
mod tests {
    use expect_test::expect;

    use crate::npm::lockfile::tests::summary;

    #[test]
    fn yarn_1_format_is_parsed() {
        let text = r#"# yarn lockfile v1


"@acme/follow@^2.0.0", "@acme/follow@>=1 <3":
  version "2.0.0"
  resolved "https://registry.example/@acme/follow/-/follow-2.0.0.tgz#0123"
  integrity sha512-f

axios@^1.0.0:
  version "1.14.1"
  resolved "https://registry.example/axios/-/axios-1.14.1.tgz#0123"
  integrity sha512-a
  dependencies:
    "@acme/follow" "^2.0.0"

"forked@a/b#01":
  version "1.0.0"
  resolved "https://codeload.github.com/a/b/tar.gz/01"

"local@file:./local":
  version "2.0.0"

"lodash4@npm:lodash@^4":
  version "4.18.1"
"#;
        expect![[r#"
            4 Registry @acme/follow@2.0.0 sha512-f https://registry.example/@acme/follow/-/follow-2.0.0.tgz#0123 [axios:^2.0.0 project:>=1 <3] at @acme/follow@^2.0.0
            9 Registry axios@1.14.1 sha512-a https://registry.example/axios/-/axios-1.14.1.tgz#0123 [project:^1.0.0] at axios@^1.0.0
            16 Git forked@1.0.0 - https://codeload.github.com/a/b/tar.gz/01 [project:?] at forked@a/b#01
            20 File local@2.0.0 - - [project:?] at local@file:./local
            23 Registry lodash@4.18.1 - - [project:^4=lodash4] at lodash4@npm:lodash@^4
        "#]].assert_eq(&summary("yarn.lock", text));
    }

    #[test]
    fn syntax_errors_name_their_line() {
        use crate::npm::lockfile;
        for (text, message) in [
            ("<<<<<<< HEAD\n", "line 1: expected `:` at the end of the line"),
            ("a@1:\n  version \"1\n", "line 2: unterminated quote"),
            ("\n  version \"1\"\n", "line 2: indented line outside of a package"),
            ("a@1:\n  version\n", "line 2: expected a key and a value"),
        ] {
            assert_eq!(lockfile::parse("yarn.lock", text.as_bytes()).unwrap_err().to_string(), message);
        }
    }

    #[test]
    fn yaml_format_is_parsed() {
        let text = r#"__metadata:
  version: 8

"@acme/follow@npm:^2.0.0, @acme/follow@npm:^2.1.0":
  version: 2.1.0
  resolution: "@acme/follow@npm:2.1.0::__archiveUrl=https%3A%2F%2Ffiles.example%2Ffollow.tgz"

"app@workspace:.":
  version: 0.0.0-use.local
  resolution: "app@workspace:."
  dependencies:
    axios: "npm:^1.0.0"
    lodash4: "npm:lodash@^4"

"axios@npm:^1.0.0":
  version: 1.14.1
  resolution: "axios@npm:1.14.1"
  dependencies:
    "@acme/follow": "npm:^2.0.0"
    forked: "https://git.example/a/b.git"
  checksum: 10c0/0123

"forked@https://git.example/a/b.git":
  version: 1.0.0
  resolution: "forked@https://git.example/a/b.git#commit=01"

"fsevents@patch:fsevents@npm%3A~2.3.2#optional!builtin<compat/fsevents>":
  version: 2.3.3
  resolution: "fsevents@patch:fsevents@npm%3A2.3.3#optional!builtin<compat/fsevents>::version=2.3.3&hash=df0bf1"

"lodash4@npm:lodash@^4":
  version: 4.18.1
  resolution: "lodash@npm:4.18.1"
"#;
        expect![[r#"
            4 Registry @acme/follow@2.1.0 - https://files.example/follow.tgz [axios:^2.0.0] at @acme/follow@npm:^2.0.0
            15 Registry axios@1.14.1 - - [project:^1.0.0] at axios@npm:^1.0.0
            23 Git forked@1.0.0 - https://git.example/a/b.git#commit=01 [axios:?] at forked@https://git.example/a/b.git
            27 File fsevents@2.3.3 - - [] at fsevents@patch:fsevents@npm%3A~2.3.2#optional!builtin<compat/fsevents>
            31 Registry lodash@4.18.1 - - [project:^4=lodash4] at lodash4@npm:lodash@^4
        "#]]
        .assert_eq(&summary("yarn.lock", text));
    }
}
