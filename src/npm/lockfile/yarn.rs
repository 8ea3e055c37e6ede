//! `yarn.lock`: yarn 1 writes a format of its own, later ones write YAML. Both file a package under everything that asked
//! for it.

use std::collections::HashMap;
use std::sync::Arc;

use percent_encoding::percent_decode_str;

use crate::npm::lockfile::document::{DocMember, DocNode};
use crate::npm::lockfile::spec::{address, range, source, split, unalias};
use crate::npm::lockfile::{EntrySource, Lockfile, LockfileEntry, LockfileError, LockfileFormat};

/// Whether yarn 1 wrote it.
pub(crate) fn is_classic(text: &str) -> bool {
    !text.lines().any(|line| line.starts_with("__metadata:"))
}

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
        let wrong = |detail: &str| LockfileError::at(number, detail);
        if indent == 0 {
            let keys = trimmed.strip_suffix(':').ok_or_else(|| wrong("a package's line ends with a colon"))?;
            let patterns = tokens(keys).filter(|patterns| !patterns.is_empty()).ok_or_else(|| wrong("a quote is not closed"))?;
            blocks.push(YarnBlock { patterns, line: number, ..YarnBlock::default() });
            inside = "";
            continue;
        }
        let block = blocks.last_mut().ok_or_else(|| wrong("nothing stands before it that it belongs to"))?;
        if indent == 2 && trimmed.ends_with(':') {
            inside = trimmed.trim_end_matches(':');
            continue;
        }
        let words = tokens(trimmed).ok_or_else(|| wrong("a quote is not closed"))?;
        let [key, value] = <[String; 2]>::try_from(words).map_err(|_| wrong("a line holds a key and a value"))?;
        match (indent, key.as_str()) {
            (2, "version") => block.version = value,
            (2, "resolved") => block.resolved = Some(value),
            (2, "integrity") => block.integrity = Some(value),
            (2, _) => {}
            _ if matches!(inside, "dependencies" | "optionalDependencies") => block.wishes.push((key, value)),
            _ => {}
        }
    }
    Ok(Lockfile { dialect: LockfileFormat::YarnClassic, entries: joined(&blocks) })
}

/// A package as `yarn.lock` has it, in either format.
#[derive(Default)]
struct YarnBlock {
    /// `axios@^1.12.0`: everything that asked for it.
    patterns: Vec<String>,
    version: String,
    resolved: Option<String>,
    integrity: Option<String>,
    /// Name and spec of what it asks for itself.
    wishes: Vec<(String, String)>,
    line: u32,
    /// Of later yarns, what it came to: name and locator.
    resolution: Option<(String, String)>,
}

/// The words of a line: bare ones up to a blank or comma, and those in quotes. `None` when a quote is not closed.
fn tokens(line: &str) -> Option<Vec<String>> {
    let mut found = Vec::new();
    let mut rest = line.trim_start_matches([' ', ',']);
    while !rest.is_empty() {
        let end = if rest.starts_with('"') {
            let mut escaped = false;
            let closing = rest.char_indices().skip(1).find(|(_, letter)| {
                let closes = *letter == '"' && !escaped;
                escaped = *letter == '\\' && !escaped;
                closes
            });
            closing?.0 + 1
        } else {
            rest.find([' ', ',']).unwrap_or(rest.len())
        };
        let word = &rest[..end];
        // What is in quotes is escaped as JSON is.
        found.push(if word.starts_with('"') { serde_json::from_str(word).ok()? } else { word.to_owned() });
        rest = rest[end..].trim_start_matches([' ', ',']);
    }
    Some(found)
}

/// The documents of a later yarn's file: one.
pub(crate) fn read_berry(documents: &[DocNode]) -> Result<Lockfile, LockfileError> {
    let document = documents.first().ok_or_else(|| LockfileError::at(1, "it is empty"))?;
    let mut blocks = Vec::new();
    for DocMember { key, line, value } in document.members() {
        if &**key == "__metadata" {
            continue;
        }
        let resolution = value.text_of("resolution").and_then(split);
        let Some((name, locator)) = resolution else { return Err(LockfileError::at(*line, "it has no `resolution`")) };
        let fields = ["dependencies", "optionalDependencies", "peerDependencies"];
        let wishes = fields.iter().flat_map(|field| value.members_of(field));
        blocks.push(YarnBlock {
            patterns: key.split(',').map(|pattern| pattern.trim().to_owned()).collect(),
            version: value.text_of("version").unwrap_or_default().to_owned(),
            resolved: archive(locator),
            integrity: None,
            wishes: wishes.filter_map(|wish| Some((wish.key.to_string(), wish.value.text()?.to_owned()))).collect(),
            line: *line,
            resolution: Some((name.to_owned(), locator.to_owned())),
        });
    }
    Ok(Lockfile { dialect: LockfileFormat::YarnBerry, entries: joined(&blocks) })
}

/// The address in a locator, where it is not the registry's customary one.
fn archive(locator: &str) -> Option<String> {
    if locator.starts_with("http") {
        return Some(locator.to_owned());
    }
    let (_, rest) = locator.split_once("::__archiveUrl=")?;
    let encoded = rest.split('&').next().unwrap_or(rest);
    Some(percent_decode_str(encoded).decode_utf8_lossy().into_owned())
}

/// The entries of the blocks, each with who asked for it.
fn joined(blocks: &[YarnBlock]) -> Vec<LockfileEntry> {
    let mut at: HashMap<&str, usize> = HashMap::new();
    for (number, block) in blocks.iter().enumerate() {
        at.extend(block.patterns.iter().map(|pattern| (&**pattern, number)));
    }
    let mut entries: Vec<LockfileEntry> = blocks.iter().map(of_block).collect();
    for (number, block) in blocks.iter().enumerate() {
        let project = entries[number].source == EntrySource::Workspace;
        let by: Arc<str> = if project { Arc::default() } else { (*entries[number].name).into() };
        for (name, spec) in &block.wishes {
            let asked = [format!("{name}@{spec}"), format!("{name}@npm:{spec}")];
            let Some(target) = asked.iter().find_map(|pattern| at.get(&**pattern)) else { continue };
            entries[*target].ask(&by, project, name, Some(spec));
        }
    }
    // What yarn 1 installs for the project itself nobody in the file asks for: the rest of the patterns.
    for (block, entry) in blocks.iter().zip(&mut entries) {
        for pattern in &block.patterns {
            let (name, spec) = split(pattern).unwrap_or((pattern, ""));
            let asked = range(spec);
            if block.resolution.is_none() && !entry.asks.iter().any(|ask| ask.range == asked) {
                entry.ask(&Arc::default(), true, name, Some(spec));
            }
        }
    }
    entries.retain(|entry| entry.source != EntrySource::Workspace);
    entries
}

fn of_block(block: &YarnBlock) -> LockfileEntry {
    let pattern = block.patterns.first().map_or("", |pattern| pattern);
    let (asked, spec) =
        block.resolution.as_ref().map_or_else(|| split(pattern).unwrap_or((pattern, "")), |(name, locator)| (name, locator));
    let (name, spec) = unalias(asked, spec);
    let resolved = block.resolved.as_deref();
    let source = match source(spec.split("::").next().unwrap_or(spec)) {
        EntrySource::Registry if resolved.is_some_and(|resolved| address(resolved) == EntrySource::Git) => EntrySource::Git,
        found => found,
    };
    LockfileEntry {
        name: name.into(),
        version: block.version.as_str().into(),
        source,
        integrity: block.integrity.as_deref().map(Into::into),
        resolved: resolved.map(Into::into),
        asks: Vec::new(),
        place: pattern.into(),
        line: block.line,
    }
}

#[cfg(test)]
mod tests {
    use expect_test::expect;

    use crate::npm::lockfile::tests::told;

    #[test]
    fn yarn_1_has_a_format_of_its_own() {
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
        "#]].assert_eq(&told("yarn.lock", text));
    }

    #[test]
    fn what_yarn_1_would_not_write_names_its_line() {
        use crate::npm::lockfile::Lockfile;
        for (text, told) in [
            ("<<<<<<< HEAD\n", "line 1: a package's line ends with a colon"),
            ("a@1:\n  version \"1\n", "line 2: a quote is not closed"),
            ("\n  version \"1\"\n", "line 2: nothing stands before it that it belongs to"),
            ("a@1:\n  version\n", "line 2: a line holds a key and a value"),
        ] {
            assert_eq!(Lockfile::read("yarn.lock", text.as_bytes()).unwrap_err().to_string(), told);
        }
    }

    #[test]
    fn later_yarns_write_yaml() {
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
        .assert_eq(&told("yarn.lock", text));
    }
}
