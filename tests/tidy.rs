//! Checks rules that the compiler does not check: layers, cycles, names, wording and forbidden text.
//!
//! Every finding has a location and a fix. The samples at the end show that each rule can fail.
#![expect(clippy::expect_used, reason = "a failed step panics")]

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::process::Command;

use source::{Keep, line_of, strip, tests_begin, words};

#[path = "tidy/prose.rs"]
mod prose;
#[path = "tidy/source.rs"]
mod source;

/// The layers of `src/` and their levels. A layer imports only from lower levels.
const LAYERS: &[(&str, u8)] = &[
    ("cli", 11),
    ("app", 10),
    ("config", 9),
    ("server", 8),
    ("firewall", 7),
    ("store", 6),
    ("upstream", 6),
    ("feed", 6),
    ("tls", 6),
    ("net", 5),
    ("telemetry", 5),
    ("policy", 4),
    ("vetting", 3),
    ("npm", 2),
    ("clock", 1),
    ("diagnostics", 1),
    ("files", 1),
    ("text", 0),
    ("units", 0),
];

/// A file with more lines before its tests gets a warning.
const LONG_FILE: usize = 600;

/// Names that do not describe their content.
const EMPTY_NAMES: &[&str] = &["util", "utils", "common", "types", "helpers", "helper", "misc", "shared", "prelude", "manager"];

/// Layers that may use HTTP status codes. Other layers return a verdict or an error.
const STATUS_LAYERS: &[&str] = &["server", "net", "upstream"];

/// Modules without a clock, I/O and async.
const PURE_MODULES: &[&str] = &["src/npm/", "src/policy/", "src/vetting/", "src/firewall/package/", "src/firewall/verdicts/"];

#[test]
fn the_tree_is_tidy() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut findings = Vec::new();
    let paths = tracked(root);
    assert!(paths.len() > 20, "only {} files were found in {}: the walk is broken", paths.len(), root.display());
    let texts: Vec<(&String, String)> =
        paths.iter().filter_map(|path| Some((path, std::fs::read_to_string(root.join(path)).ok()?))).collect();
    let for_tests: Vec<String> = texts.iter().flat_map(|(path, text)| test_modules(path, text)).collect();
    for (path, text) in &texts {
        check(path, text, for_tests.contains(path), &mut findings);
    }
    check_cycles(&texts, &mut findings);
    check_type_names(&texts, &mut findings);
    check_named_tests(&texts, &mut findings);
    check_named_code(&texts, &mut findings);
    warn_of_long_files(&texts);
    for wanted in ["Cargo.lock", "CHANGELOG.md", "README.md", "ARCHITECTURE.md", "SECURITY.md", "LICENSE", "rust-toolchain.toml"]
    {
        if !paths.iter().any(|path| path == wanted) {
            findings.push(format!("{wanted}:1: missing, or ignored by git: add it"));
        }
    }
    let list = findings.iter().fold(String::new(), |mut list, finding| {
        let _ = writeln!(list, "  {finding}");
        list
    });
    assert!(findings.is_empty(), "{} findings:\n{list}", findings.len());
}

/// Returns the files that git tracks or would track, relative to the root. Without git, all files outside ignored folders.
fn tracked(root: &Path) -> Vec<String> {
    let listed = Command::new("git")
        .args(["ls-files", "-z", "--cached", "--others", "--exclude-standard"])
        .current_dir(root)
        .output()
        .ok()
        .filter(|output| output.status.success() && !output.stdout.is_empty());
    let mut paths: Vec<String> = match listed {
        Some(output) => output
            .stdout
            .split(|byte| *byte == 0)
            .filter(|name| !name.is_empty())
            .map(|name| String::from_utf8_lossy(name).into_owned())
            .collect(),
        None => walk(root),
    };
    paths.retain(|path| root.join(path).is_file());
    paths.sort();
    paths.dedup();
    paths
}

fn walk(root: &Path) -> Vec<String> {
    let mut found = Vec::new();
    let mut folders: Vec<PathBuf> = vec![root.to_owned()];
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(&folder).expect("a folder of this repository").flatten() {
            let path = entry.path();
            let name = entry.file_name();
            if path.is_dir() && !["target", ".git", "corpus", "node_modules"].iter().any(|skipped| name == *skipped) {
                folders.push(path);
            } else if path.is_file() {
                found.push(path.strip_prefix(root).expect("below the root").to_string_lossy().into_owned());
            }
        }
    }
    found
}

/// Returns the files that a `mod.rs` declares for tests only.
fn test_modules(path: &str, text: &str) -> Vec<String> {
    let Some(folder) = path.strip_suffix("mod.rs") else { return Vec::new() };
    let code = strip(text, Keep::Code);
    let declared = code.split("#[cfg(test)]").skip(1).filter_map(|after| {
        let name = after.trim_start().trim_start_matches("pub(super) ").trim_start_matches("pub(crate) ").strip_prefix("mod ")?;
        Some(format!("{folder}{}.rs", name.split_once(';')?.0.trim()))
    });
    declared.filter(|file| !file.contains(['{', ' '])).collect()
}

/// Applies all rules to one file. `path` is relative to the root, with forward slashes. `for_tests` marks a file of tests.
fn check(path: &str, text: &str, for_tests: bool, findings: &mut Vec<String>) {
    check_hosts_and_paths(path, text, findings);
    prose::check(path, text, findings);
    if Path::new(path).extension().is_none_or(|extension| extension != "rs") {
        return;
    }
    let code = strip(text, Keep::Code);
    let before_tests = tests_begin(&code, for_tests);
    check_form(path, text, &code, findings);
    check_names(path, &code, findings);
    if path.starts_with("tests/") {
        check_sleep(path, &code, findings);
    }
    if let Some(inside) = path.strip_prefix("src/") {
        check_depth(path, inside, findings);
        let layer = inside.split_once('/').map_or(inside.trim_end_matches(".rs"), |(layer, _)| layer);
        check_panics(path, &code[..before_tests], findings);
        check_output(path, &code[..before_tests], findings);
        check_imports(path, layer, &code, before_tests, findings);
        check_vocabulary(path, layer, text, &code[..before_tests], findings);
    }
}

/// Finds host names of public registries and paths of one machine. They are split here, so that this file passes.
fn check_hosts_and_paths(path: &str, text: &str, findings: &mut Vec<String>) {
    let hosts = [
        ["npm", "js."].concat(),
        ["yarn", "pkg.com"].concat(),
        ["npm", "mirror."].concat(),
        ["crates", ".io"].concat(),
        ["py", "pi.org"].concat(),
        ["python", "hosted."].concat(),
        ["debian", ".org"].concat(),
        ["npm.pkg.", "github"].concat(),
    ];
    let local_paths = [["/wo", "rk/main"], ["/wo", "rk/shared"], ["/tmp", "/wt"], ["/ro", "ot/"], ["/.lib", "rary/"]]
        .map(|pieces| pieces.concat());
    // Cargo writes the source of each crate into the lock file; it cannot be changed.
    let unavoidable = ["github.com/rust-lang/", &hosts[3], "-index"].concat();
    for (number, line) in text.lines().enumerate() {
        let line = if path == "Cargo.lock" { line.replace(&unavoidable, "") } else { line.to_owned() };
        let folded = line.to_ascii_lowercase();
        if hosts.iter().any(|host| folded.contains(host.as_str())) {
            findings.push(format!("{path}:{}: names a public registry's host: write `registry.example`", number + 1));
        }
        if local_paths.iter().any(|local| line.match_indices(local.as_str()).any(|(at, _)| !continues_a_path(&line[..at]))) {
            findings.push(format!("{path}:{}: names a path of one machine: write it relative, or make it a setting", number + 1));
        }
    }
}

/// Checks whether the text before a slash makes it part of a longer path (`target/…`).
fn continues_a_path(before: &str) -> bool {
    before.chars().next_back().is_some_and(|letter| letter.is_alphanumeric() || matches!(letter, '_' | '.' | '}'))
}

fn check_form(path: &str, text: &str, code: &str, findings: &mut Vec<String>) {
    if !text.starts_with("//!") {
        findings.push(format!("{path}:1: does not open with `//!`: say what the module provides"));
    }
    for bare in ["#[allow", "#![allow"] {
        each(path, code, bare, findings, "a bare allow: write `#[expect(lint, reason = \"…\")]`");
    }
    each(path, code, "#[ignore", findings, "an ignored test checks nothing: make it run or remove it");
}

fn check_names(path: &str, code: &str, findings: &mut Vec<String>) {
    let inside = path.strip_suffix(".rs").unwrap_or(path);
    if inside.split('/').any(|part| EMPTY_NAMES.contains(&part)) {
        findings.push(format!("{path}:1: a name that says nothing: name it after its content"));
    }
    for (at, word) in words(code) {
        let after = |keyword: &str| code[..at].trim_end().ends_with(keyword);
        if word.starts_with("get_") && after("fn") {
            findings.push(format!("{path}:{}: `{word}`: a getter has the name of its field", line_of(code, at)));
        }
        let empty = ["Manager", "Helper", "Util", "Utils"].iter().any(|end| word.ends_with(end));
        if empty && (after("struct") || after("enum") || after("trait") || after("type")) {
            findings.push(format!("{path}:{}: `{word}`: name it after what it is", line_of(code, at)));
        }
        if EMPTY_NAMES.contains(&word) && after("mod") {
            findings.push(format!("{path}:{}: `mod {word}`: name it after its content", line_of(code, at)));
        }
    }
}

/// Finds tests that sleep instead of waiting for an event or moving a clock.
fn check_sleep(path: &str, code: &str, findings: &mut Vec<String>) {
    each(path, code, "sleep(", findings, "a test that sleeps is slow and flaky: wait for the event, or move the `ManualClock`");
}

/// Checks that a file is in a layer, and at most two folders deep.
fn check_depth(path: &str, inside: &str, findings: &mut Vec<String>) {
    let parts: Vec<&str> = inside.split('/').collect();
    let is_layer = |name: &str| LAYERS.iter().any(|(layer, _)| *layer == name);
    match parts.as_slice() {
        ["lib.rs" | "main.rs"] => {}
        [file] if is_layer(file.trim_end_matches(".rs")) => {}
        [layer, _] | [layer, _, _] if is_layer(layer) => {}
        [name] | [name, _] | [name, _, _] => {
            findings.push(format!("{path}:1: `{name}` is not a layer: give it a level in tests/tidy.rs and ARCHITECTURE.md"));
        }
        _ => findings.push(format!("{path}:1: deeper than `src/<layer>/<module>/<file>.rs`: flatten it")),
    }
}

fn check_panics(path: &str, code: &str, findings: &mut Vec<String>) {
    each(path, code, ".unwrap()", findings, "return an error, or rule the case out by type");
    each(path, code, ".expect(", findings, "return an error, or rule the case out by type");
    each(path, code, "todo!", findings, "finish it");
    each(path, code, "unimplemented!", findings, "finish it");
}

/// Checks that imports go to lower levels and leave a layer only as `crate::layer`. Tests may import layers of the same level.
fn check_imports(path: &str, layer: &str, code: &str, before_tests: usize, findings: &mut Vec<String>) {
    let level = |name: &str| LAYERS.iter().find(|(known, _)| *known == name).map(|(_, level)| *level);
    let Some(own) = level(layer) else { return };
    for (at, _) in code.match_indices("crate::") {
        if code[..at].ends_with(|before: char| before.is_alphanumeric() || before == '_' || before == '$') {
            continue;
        }
        for other in roots(&code[at + "crate::".len()..]) {
            let line = line_of(code, at);
            match level(other) {
                _ if other == layer => {}
                Some(below) if below < own || (below == own && at >= before_tests) => {}
                Some(above) => findings.push(format!(
                    "{path}:{line}: `{layer}` (level {own}) imports `{other}` (level {above}): imports go to lower levels; move the type down, keep the I/O above"
                )),
                None => findings.push(format!("{path}:{line}: `crate::{other}` is not a layer: import from the layer that defines it")),
            }
        }
    }
    // One `super` is the folder of the file; its tests are one level deeper.
    let depth = path.matches('/').count() - usize::from(path.ends_with("/mod.rs"));
    let (file, tests) = code.split_at(before_tests);
    for (text, depth) in [(file, depth), (tests, depth + 1)] {
        each(path, text, &"super::".repeat(depth), findings, "leaves the layer: write `crate::layer::…`");
    }
}

/// Checks that output goes through `cli::output`, which escapes untrusted text.
fn check_output(path: &str, code: &str, findings: &mut Vec<String>) {
    let advice = "write through `cli::output`, which escapes untrusted text; log with `tracing`";
    if !["src/cli/output.rs", "src/telemetry/logging.rs"].contains(&path) {
        for way in ["println!", "eprintln!", "print!", "eprint!", "io::stdout", "io::stderr"] {
            each(path, code, way, findings, advice);
        }
    }
    if path.starts_with("src/cli/") {
        each(path, code, "writeln!", findings, "a value may start another line: write `push_line!`, or a row of `Columns`");
    }
}

/// Returns the first names after `crate::`: one, or all of a group `{a::b, c}`.
fn roots(rest: &str) -> Vec<&str> {
    let Some(group) = rest.strip_prefix('{') else { return first_word(rest).into_iter().collect() };
    let mut found = Vec::new();
    let (mut depth, mut start) = (0_u32, 0);
    for (at, letter) in group.char_indices() {
        match letter {
            '{' => depth += 1,
            '}' if depth == 0 => {
                found.extend(first_word(&group[start..at]));
                break;
            }
            '}' => depth -= 1,
            ',' if depth == 0 => {
                found.extend(first_word(&group[start..at]));
                start = at + 1;
            }
            _ => {}
        }
    }
    found
}

fn first_word(text: &str) -> Option<&str> {
    let text = text.trim_start();
    let end = text.find(|letter: char| !letter.is_alphanumeric() && letter != '_').unwrap_or(text.len());
    (end > 0).then(|| &text[..end])
}

/// Checks which layers use HTTP, npm words, I/O and `anyhow`.
fn check_vocabulary(path: &str, layer: &str, text: &str, code: &str, findings: &mut Vec<String>) {
    if !STATUS_LAYERS.contains(&layer) {
        each(path, code, "StatusCode", findings, "return a verdict or an error, `server::response` maps it");
    }
    if layer == "firewall" {
        each(path, code, "http::", findings, "no HTTP type in `firewall`: `server` translates");
        each(path, code, "hyper::", findings, "no HTTP type in `firewall`: `server` translates");
    }
    if PURE_MODULES.iter().any(|module| path.starts_with(module)) {
        for outside in ["std::fs", "std::net", "tokio::", "SystemTime", "Timestamp::now", "Instant::now", "async fn"] {
            each(path, code, outside, findings, "this module is pure: no clock, no I/O, no async");
        }
    }
    if layer != "main" && layer != "cli" {
        each(path, code, "anyhow::", findings, "`anyhow` only in `main` and `cli`: a layer has its own error");
    }
    if ["net", "tls"].contains(&layer) {
        let strings = strip(text, Keep::Strings);
        let end = strings.len().min(code.len());
        for word in ["npm", "packument", "tarball", "dist-tag", "dist_tag"] {
            each(
                path,
                &strings[..end].to_ascii_lowercase(),
                word,
                findings,
                "no npm word in this layer: it handles only sockets or certificates",
            );
        }
    }
    each(path, code, "tokio::fs", findings, "3.5 times slower than a mapped file: block in `spawn_blocking`");
}

/// Finds files of a layer that import each other in cycles, and folders that do, together with the files that are in none.
fn check_cycles(texts: &[(&String, String)], findings: &mut Vec<String>) {
    let files = imports(texts);
    for file in circular(&files) {
        findings.push(format!("{file}:1: in an import cycle: move what both files need to a file that imports neither"));
    }
    let mut folders: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
    for (file, imported) in &files {
        let others = imported.iter().map(|other| folder(other)).filter(|other| *other != folder(file));
        folders.entry(folder(file).to_owned()).or_default().extend(others.map(str::to_owned));
    }
    for folder in circular(&folders) {
        findings.push(format!("{folder}:1: in an import cycle of folders: move what both need to a file that imports neither"));
    }
}

/// Returns the folder of a file inside its layer, or the file itself if it is in none.
fn folder(file: &str) -> &str {
    let ends: Vec<usize> = file.match_indices('/').map(|(at, _)| at).collect();
    ends.get(2).map_or(file, |end| &file[..*end])
}

/// Type names that several files may define: a module's configuration, its private state, and the arguments of a command. `Connected`
/// has one definition for each family of systems.
const SHARED_TYPE_NAMES: &[&str] = &["Config", "State", "Arguments", "Command", "Connected"];

/// Finds names of types that two files define. One name means one thing in the tree.
fn check_type_names(texts: &[(&String, String)], findings: &mut Vec<String>) {
    let mut definitions: BTreeMap<String, BTreeSet<&str>> = BTreeMap::new();
    for (path, text) in texts.iter().filter(|(path, _)| path.starts_with("src/")) {
        let code = strip(text, Keep::Code);
        let code = &code[..tests_begin(&code, false)];
        for line in code.lines() {
            let line = ["pub(crate) ", "pub(super) ", "pub "].iter().find_map(|prefix| line.strip_prefix(prefix)).unwrap_or(line);
            let kinds = ["struct ", "enum ", "trait ", "type ", "union "];
            let name = kinds.iter().find_map(|kind| first_word(line.strip_prefix(kind)?));
            if let Some(name) = name.filter(|name| !SHARED_TYPE_NAMES.contains(name)) {
                definitions.entry(name.to_owned()).or_default().insert(path.as_str());
            }
        }
    }
    for (name, paths) in definitions.iter().filter(|(_, paths)| paths.len() > 1) {
        let list = paths.iter().copied().collect::<Vec<_>>().join(", ");
        findings.push(format!("{list}:1: `{name}` is defined {} times: give each type a name of its own", paths.len()));
    }
}

/// Finds tests that SECURITY.md names as `file::test` and that `tests/it` does not have.
fn check_named_tests(texts: &[(&String, String)], findings: &mut Vec<String>) {
    let text = |wanted: &str| texts.iter().find(|(path, _)| *path == wanted).map(|(_, text)| text.as_str());
    let named = text("SECURITY.md").unwrap_or_default().split('`').skip(1).step_by(2);
    for (file, test) in named.filter_map(|span| span.split_once("::")).filter(|(_, test)| !test.contains("::")) {
        let Some(tests) = text(&format!("tests/it/{file}.rs")) else { continue };
        if !tests.contains(&format!("fn {test}(")) {
            findings.push(format!("SECURITY.md:1: `{file}::{test}` is no test: name the test that shows the promise"));
        }
    }
}

/// Finds files and items of `src/` that a Markdown file names, as `src/net/body.rs` or `src/net/body.rs::read`, and that do not exist.
fn check_named_code(texts: &[(&String, String)], findings: &mut Vec<String>) {
    let text = |wanted: &str| texts.iter().find(|(path, _)| *path == wanted).map(|(_, text)| text.as_str());
    for (document, prose) in texts.iter().filter(|(path, _)| path.rsplit_once('.').is_some_and(|(_, ending)| ending == "md")) {
        for (at, line) in (1..).zip(prose.lines()) {
            for span in line
                .split('`')
                .skip(1)
                .step_by(2)
                .filter(|span| span.starts_with("src/") && span.contains(".rs") && !span.contains('<'))
            {
                let (file, item) = span.split_once("::").unwrap_or((span, ""));
                let keywords = ["fn", "struct", "enum", "trait", "const", "static", "type"];
                let defines = |code: &str| {
                    let code = strip(code, Keep::Code);
                    let is_named = |rest: &str| rest.strip_prefix(item).is_some_and(|rest| !rest.starts_with(is_word));
                    item.is_empty() || keywords.iter().any(|word| code.split(&format!("{word} ")).skip(1).any(is_named))
                };
                if !text(file).is_some_and(defines) {
                    findings.push(format!("{document}:{at}: `{span}` does not exist: name what does the work now"));
                }
            }
        }
    }
}

fn is_word(letter: char) -> bool {
    letter.is_alphanumeric() || letter == '_'
}

/// Returns the files that each file of `src/` imports from its own layer, without imports for tests.
fn imports(texts: &[(&String, String)]) -> BTreeMap<String, BTreeSet<String>> {
    let files: BTreeSet<&str> = texts.iter().map(|(path, _)| path.as_str()).filter(|path| path.starts_with("src/")).collect();
    let mut found = BTreeMap::new();
    for (path, text) in texts.iter().filter(|(path, _)| files.contains(path.as_str()) && path.matches('/').count() > 1) {
        let code = strip(text, Keep::Code);
        let code = &code[..tests_begin(&code, false)];
        let mut to = BTreeSet::new();
        for (at, _) in code.match_indices("crate::") {
            for segments in paths(&code[at + "crate::".len()..]) {
                to.extend(file_of(&segments, &files));
            }
        }
        let layer = path.split('/').nth(1);
        to.retain(|file| file != *path && file.split('/').nth(1) == layer);
        found.insert((*path).clone(), to);
    }
    found
}

/// Returns the paths that start here: one, or all of a group `{a::b, c}`.
fn paths(rest: &str) -> Vec<Vec<&str>> {
    let mut found = Vec::new();
    let mut prefix: Vec<&str> = Vec::new();
    let mut groups: Vec<usize> = Vec::new();
    let mut rest = rest;
    loop {
        rest = rest.trim_start();
        if let Some(word) = first_word(rest) {
            prefix.push(word);
            rest = rest[word.len()..].trim_start();
            if let Some(after) = rest.strip_prefix("::") {
                rest = after;
                continue;
            }
            found.push(prefix.clone());
        } else if let Some(after) = rest.strip_prefix('{') {
            groups.push(prefix.len());
            rest = after;
            continue;
        } else if let Some(after) = rest.strip_prefix('*') {
            found.push(prefix.clone());
            rest = after;
        }
        // After a name: the next name of its group, or the end of the group.
        loop {
            let Some(depth) = groups.last() else { return found };
            prefix.truncate(*depth);
            rest = rest.trim_start();
            if let Some(after) = rest.strip_prefix("as ") {
                rest = first_word(after).map_or(after, |word| &after.trim_start()[word.len()..]);
            } else if let Some(after) = rest.strip_prefix(',') {
                rest = after.trim_start();
                if !rest.starts_with('}') {
                    break;
                }
            } else if let Some(after) = rest.strip_prefix('}') {
                groups.pop();
                rest = after;
            } else {
                return found;
            }
        }
    }
}

/// Returns the file that defines a path: the longest prefix of the path that is a file.
fn file_of(segments: &[&str], files: &BTreeSet<&str>) -> Option<String> {
    (1..=segments.len().min(3)).rev().find_map(|count| {
        let module = segments[..count].join("/");
        [format!("src/{module}.rs"), format!("src/{module}/mod.rs")].into_iter().find(|file| files.contains(file.as_str()))
    })
}

/// Returns the files that import themselves through other files.
fn circular(imports: &BTreeMap<String, BTreeSet<String>>) -> Vec<&str> {
    let returns = |start: &String| {
        let mut seen: BTreeSet<&String> = BTreeSet::new();
        let mut open: Vec<&String> = imports[start].iter().collect();
        while let Some(file) = open.pop() {
            if seen.insert(file) {
                open.extend(imports.get(file).into_iter().flatten());
            }
        }
        seen.contains(start)
    };
    imports.keys().filter(|file| returns(file)).map(String::as_str).collect()
}

/// Warns about long files. They are no findings, because length alone is no reason to split a file.
#[expect(clippy::print_stderr, reason = "the warning is for readers of the test output")]
fn warn_of_long_files(texts: &[(&String, String)]) {
    for (path, text) in texts.iter().filter(|(path, _)| path.starts_with("src/")) {
        let code = strip(text, Keep::Code);
        let lines = code[..tests_begin(&code, false)].lines().count();
        if lines > LONG_FILE {
            eprintln!("warning: {path} has {lines} lines before its tests, more than {LONG_FILE}");
        }
    }
}

/// Adds a finding for each occurrence of `needle`.
fn each(path: &str, code: &str, needle: &str, findings: &mut Vec<String>, advice: &str) {
    for (at, _) in code.match_indices(needle) {
        let begins_inside_a_word = needle.starts_with(char::is_alphanumeric)
            && code[..at].ends_with(|before: char| before.is_alphanumeric() || before == '_')
            && needle != "npm";
        if !begins_inside_a_word {
            findings.push(format!("{path}:{}: `{needle}`: {advice}", line_of(code, at)));
        }
    }
}

/// Bad samples, in which the rules must find something.
mod samples {
    use std::collections::{BTreeMap, BTreeSet};

    use super::{
        LAYERS, check, check_named_code, check_named_tests, check_type_names, circular, file_of, paths, roots, test_modules,
    };

    fn findings(path: &str, body: &str) -> Vec<String> {
        let mut found = Vec::new();
        check(path, &format!("//! A sample.\n{body}\n"), false, &mut found);
        found
    }

    #[track_caller]
    fn finds(path: &str, body: &str, what: &str) {
        let found = findings(path, body);
        assert!(found.len() == 1 && found[0].contains(what), "{body:?} in {path} should be found once as {what:?}: {found:?}");
    }

    #[test]
    fn imports_from_higher_levels_are_found_in_every_spelling() {
        finds("src/npm/a.rs", "use crate::store::Blobs;", "`npm` (level 2) imports `store`");
        finds("src/npm/a.rs", "use crate::{npm::Version, store::{Blobs, ledger}};", "imports `store`");
        finds("src/store/a.rs", "fn a() { crate::upstream::ask() }", "`store` (level 6) imports `upstream` (level 6)");
        finds(
            "src/store/a.rs",
            "#[cfg(test)]\nmod tests { use crate::firewall; }",
            "`store` (level 6) imports `firewall` (level 7)",
        );
        assert_eq!(findings("src/store/a.rs", "#[cfg(test)]\nmod tests { use crate::tls; }"), [""; 0]);
        finds("src/net/mod.rs", "use super::cli;", "leaves the layer");
        finds("src/net/a.rs", "use super::super::cli;", "leaves the layer");
        finds("src/net/a.rs", "#[cfg(test)]\nmod tests {\n    use super::super::super::cli;\n}", "leaves the layer");
        assert_eq!(findings("src/net/a.rs", "#[cfg(test)]\nmod tests {\n    use super::super::body;\n}"), [""; 0]);
        assert_eq!(findings("src/net/client/a.rs", "use super::super::body;"), [""; 0]);
        finds("src/net/client/a.rs", "use super::super::super::cli;", "leaves the layer");
        finds("src/server/a.rs", "use crate::Nothing;", "is not a layer");
        assert_eq!(
            findings("src/firewall/a.rs", "use crate::{npm::{A, B}, policy};\n// crate::cli\nconst A: &str = \"crate::cli\";"),
            [""; 0]
        );
        assert_eq!(roots("{a, b::{c, d}, e::f as g};"), ["a", "b", "e"]);
        assert_eq!(LAYERS.len(), 19);
    }

    #[test]
    fn misplaced_files_are_found() {
        finds("src/attic/a.rs", "", "is not a layer");
        finds("src/a.rs", "", "is not a layer");
        finds("src/npm/deep/deeper/a.rs", "", "deeper than");
        assert_eq!(findings("src/npm/deep/a.rs", ""), [""; 0]);
        assert_eq!(findings("src/clock.rs", ""), [""; 0]);
        let mut found = Vec::new();
        check("src/npm/a.rs", "struct A;\n", false, &mut found);
        assert!(found[0].contains("does not open with"), "{found:?}");
    }

    #[test]
    fn import_cycles_are_found_in_every_spelling() {
        assert_eq!(
            paths("a::{b::{C, d}, e as f, g::*}, h;"),
            [vec!["a", "b", "C"], vec!["a", "b", "d"], vec!["a", "e"], vec!["a", "g"]]
        );
        assert_eq!(paths("a::b::C::new()"), [["a", "b", "C", "new"]]);
        let files = BTreeSet::from(["src/a/mod.rs", "src/a/b.rs"]);
        assert_eq!(file_of(&["a", "b", "C"], &files).as_deref(), Some("src/a/b.rs"));
        assert_eq!(file_of(&["a", "D"], &files).as_deref(), Some("src/a/mod.rs"));
        let imports = |from: &str, to: &[&str]| (from.to_owned(), to.iter().map(|file| (*file).to_owned()).collect());
        let graph = BTreeMap::from([imports("a", &["b"]), imports("b", &["c"]), imports("c", &["b"]), imports("d", &["a"])]);
        assert_eq!(circular(&graph), ["b", "c"]);
    }

    #[test]
    fn tests_that_the_promises_name_and_that_are_missing_are_found() {
        let texts =
            [("SECURITY.md", "`age::opens`, `age::closes`, `age`, `net::tests::x`"), ("tests/it/age.rs", "fn opens() {}")]
                .map(|(path, text)| (path.to_owned(), text.to_owned()));
        let texts: Vec<_> = texts.iter().map(|(path, text)| (path, text.clone())).collect();
        let mut found = Vec::new();
        check_named_tests(&texts, &mut found);
        assert_eq!(found, ["SECURITY.md:1: `age::closes` is no test: name the test that shows the promise"]);
    }

    #[test]
    fn files_and_items_that_a_document_names_and_that_are_missing_are_found() {
        let texts = [
            (
                "ARCHITECTURE.md",
                "`src/net/body.rs::read`\n`src/net/body.rs`, `src/net/body.rs::Body`, `src/net/body.rs::rea`, `src/a.rs`",
            ),
            ("src/net/body.rs", "// fn rea\npub(crate) async fn read(x: u8) {}\nstruct Body<T>(T);"),
        ]
        .map(|(path, text)| (path.to_owned(), text.to_owned()));
        let texts: Vec<_> = texts.iter().map(|(path, text)| (path, text.clone())).collect();
        let mut found = Vec::new();
        check_named_code(&texts, &mut found);
        let expected = ["src/net/body.rs::rea", "src/a.rs"];
        assert_eq!(
            found,
            expected.map(|span| format!("ARCHITECTURE.md:2: `{span}` does not exist: name what does the work now"))
        );
    }

    #[test]
    fn types_with_the_name_of_another_type_are_found() {
        let texts =
            [("src/a/b.rs", "pub struct Entry;\npub struct Config;\n"), ("src/c/d.rs", "enum Entry {}\nstruct Config;\n")]
                .map(|(path, text)| (path.to_owned(), text.to_owned()));
        let texts: Vec<_> = texts.iter().map(|(path, text)| (path, text.clone())).collect();
        let mut found = Vec::new();
        check_type_names(&texts, &mut found);
        assert_eq!(found, ["src/a/b.rs, src/c/d.rs:1: `Entry` is defined 2 times: give each type a name of its own"]);
    }

    #[test]
    fn names_without_meaning_are_found() {
        finds("src/npm/util.rs", "", "says nothing");
        finds("src/npm/a.rs", "mod helpers;", "mod helpers");
        finds("src/npm/a.rs", "pub struct TaskManager;", "TaskManager");
        finds("src/npm/a.rs", "pub fn get_name() {}", "getter");
    }

    #[test]
    fn panics_ignored_tests_and_bare_allows_are_found() {
        finds("src/npm/a.rs", "fn a() { b().unwrap(); }", ".unwrap()");
        finds("src/npm/a.rs", "fn a() { b().expect(\"\"); }", ".expect(");
        finds("src/npm/a.rs", "fn a() { todo!() }", "todo!");
        finds("src/npm/a.rs", "#[allow(dead_code)]\nstruct A;", "bare allow");
        finds("tests/it/a.rs", "#[ignore = \"slow\"]\n#[test]\nfn a() {}", "ignored");
        finds("tests/it/a.rs", "async fn a() { tokio::time::sleep(b).await }", "sleep");
        assert_eq!(findings("src/npm/a.rs", "#[cfg(test)]\nmod tests { fn a() { b().unwrap(); } }"), [""; 0]);
        assert_eq!(
            findings(
                "src/npm/a.rs",
                "/// `a.unwrap()`\nconst A: &str = r#\"b.unwrap() \"# ;\nfn a<'a>(b: &'a str) -> char { '\"' }"
            ),
            [""; 0]
        );
    }

    #[test]
    fn unescaped_output_is_found() {
        finds("src/cli/a.rs", "fn a() { println!(\"{}\", b()); }", "println!");
        finds("src/app/a.rs", "use std::io;\nfn a() { io::stderr().lock(); }", "io::stderr");
        finds("src/cli/a.rs", "fn a(b: &mut String) { let _ = writeln!(b, \"{}\", c()); }", "push_line!");
        assert_eq!(findings("src/cli/output.rs", "fn a() { let _ = std::io::stdout().lock(); }"), [""; 0]);
        assert_eq!(findings("src/app/a.rs", "fn a(b: &mut String) { let _ = writeln!(b, \"c\"); }"), [""; 0]);
    }

    #[test]
    fn only_files_for_tests_may_panic() {
        let text = "mod a;\n#[cfg(test)]\nmod trial;\nfn b() {}\n#[cfg(test)]\nmod tests { mod inner; }\n";
        assert_eq!(test_modules("src/net/mod.rs", text), ["src/net/trial.rs"]);
        let mut found = Vec::new();
        check("src/net/trial.rs", "//! A sample.\nfn a() { b().unwrap(); }\n", true, &mut found);
        assert_eq!(found, [""; 0]);
        finds("src/net/mod.rs", "#[cfg(test)]\nmod trial;\nfn a() { b().unwrap(); }", ".unwrap()");
    }

    #[test]
    fn forbidden_words_of_a_layer_are_found() {
        finds("src/firewall/a.rs", "fn a(b: http::Method) {}", "no HTTP type");
        finds("src/store/a.rs", "fn a(b: StatusCode) {}", "StatusCode");
        finds("src/net/a.rs", "const A: &str = \"npm-notice\";", "no npm word");
        finds("src/policy/a.rs", "async fn a() {}", "pure");
        finds("src/store/a.rs", "fn a() -> anyhow::Error {}", "anyhow");
        assert_eq!(findings("src/net/a.rs", "// unlike npm\nfn a() {}"), [""; 0]);
    }

    #[test]
    fn hosts_of_public_registries_and_paths_of_a_machine_are_found() {
        let host = ["https://registry.", "npm", "js.org/"].concat();
        finds("docs/a.md", &host, "public registry");
        finds("src/npm/a.rs", &format!("// {}", ["CRATES", ".IO"].concat()), "public registry");
        finds("README.md", &["see /wo", "rk/main"].concat(), "path of one machine");
        assert_eq!(findings("README.md", &["see target/wo", "rk/main"].concat()), [""; 0]);
        let lock = ["source = \"registry+https://github.com/rust-lang/", "crates", ".io", "-index\""].concat();
        assert_eq!(findings("Cargo.lock", &lock), [""; 0]);
    }
}
