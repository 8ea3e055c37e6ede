//! The rules of the house that a compiler does not hold: floors, sizes, names, and what must not stand in this repository.
//!
//! Every finding says where it is and what to do. The samples at the end show that each rule can fail.
#![expect(clippy::expect_used, reason = "a check that cannot go on says so by panicking")]

use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::process::Command;

use source::{Keep, line_of, strip, tests_begin, words};

#[path = "tidy/source.rs"]
mod source;

/// The rooms and their floors (DESIGN §2). A room imports strictly lower ones only.
const FLOORS: &[(&str, u8)] = &[
    ("cli", 10),
    ("app", 9),
    ("config", 8),
    ("proxy", 7),
    ("admin", 7),
    ("patrol", 7),
    ("firewall", 6),
    ("store", 5),
    ("upstream", 5),
    ("feed", 5),
    ("tls", 5),
    ("net", 4),
    ("telemetry", 3),
    ("policy", 2),
    ("vet", 1),
    ("npm", 0),
    ("file", 0),
    ("text", 0),
];

/// Lines a file may have before its tests.
const LONGEST: usize = 1000;

/// Names that say nothing about what is inside.
const EMPTY_NAMES: &[&str] = &["util", "utils", "common", "types", "helpers", "helper", "misc", "shared", "prelude", "manager"];

/// Rooms that may name an HTTP status (DESIGN §7): they speak HTTP. Everyone else returns a verdict or an error.
const STATUS_ROOMS: &[&str] = &["proxy", "admin", "net", "upstream"];

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
    for wanted in ["Cargo.lock", "CHANGELOG.md", "README.md", "ARCHITECTURE.md", "SECURITY.md", "LICENSE", "rust-toolchain.toml"]
    {
        if !paths.iter().any(|path| path == wanted) {
            findings.push(format!("{wanted}:1: it is missing, or git ignores it: add it"));
        }
    }
    let list = findings.iter().fold(String::new(), |mut list, finding| {
        let _ = writeln!(list, "  {finding}");
        list
    });
    assert!(findings.is_empty(), "untidy, in {} places:\n{list}", findings.len());
}

/// Every file git tracks or would track, relative to the root; without git, every file outside the ignored folders.
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

/// The files that a `mod.rs` declares for tests only.
fn test_modules(path: &str, text: &str) -> Vec<String> {
    let Some(folder) = path.strip_suffix("mod.rs") else { return Vec::new() };
    let code = strip(text, Keep::Code);
    let declared = code.split("#[cfg(test)]").skip(1).filter_map(|after| {
        let name = after.trim_start().trim_start_matches("pub(super) ").trim_start_matches("pub(crate) ").strip_prefix("mod ")?;
        Some(format!("{folder}{}.rs", name.split_once(';')?.0.trim()))
    });
    declared.filter(|file| !file.contains(['{', ' '])).collect()
}

/// All rules for one file; `path` is relative to the root, with forward slashes. `for_tests` says that all of it is a test.
fn check(path: &str, text: &str, for_tests: bool, findings: &mut Vec<String>) {
    check_secrets_of_place(path, text, findings);
    if Path::new(path).extension().is_none_or(|extension| extension != "rs") {
        return;
    }
    let code = strip(text, Keep::Code);
    let before_tests = tests_begin(&code, for_tests);
    check_form(path, text, &code, before_tests, findings);
    check_names(path, &code, findings);
    if path.starts_with("tests/") {
        check_sleep(path, &code, findings);
    }
    if let Some(inside) = path.strip_prefix("src/") {
        check_place(path, inside, findings);
        let room = inside.split_once('/').map(|(room, _)| room);
        check_panics(path, &code[..before_tests], findings);
        check_output(path, &code[..before_tests], findings);
        if let Some(room) = room {
            check_floors(path, room, &code, before_tests, findings);
            check_tongues(path, room, text, &code[..before_tests], findings);
        }
    }
}

/// Host names of public registries and paths of a machine stand nowhere. Spelled here in pieces, so that this file passes.
fn check_secrets_of_place(path: &str, text: &str, findings: &mut Vec<String>) {
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
    let places = [["/wo", "rk/main"], ["/wo", "rk/shared"], ["/tmp", "/wt"], ["/ro", "ot/"], ["/.lib", "rary/"]]
        .map(|pieces| pieces.concat());
    // Cargo writes where a crate came from into the lock file, and takes no other word for it.
    let unavoidable = ["github.com/rust-lang/", &hosts[3], "-index"].concat();
    for (number, line) in text.lines().enumerate() {
        let line = if path == "Cargo.lock" { line.replace(&unavoidable, "") } else { line.to_owned() };
        let folded = line.to_ascii_lowercase();
        if hosts.iter().any(|host| folded.contains(host.as_str())) {
            findings.push(format!("{path}:{}: names a public registry's host: write `registry.example`", number + 1));
        }
        if places.iter().any(|place| line.match_indices(place.as_str()).any(|(at, _)| !continues_a_path(&line[..at]))) {
            findings.push(format!("{path}:{}: names a path of one machine: write it relative, or make it a setting", number + 1));
        }
    }
}

/// Whether what stands before a slash makes it the middle of a longer path (`target/…`), not its beginning.
fn continues_a_path(before: &str) -> bool {
    before.chars().next_back().is_some_and(|letter| letter.is_alphanumeric() || matches!(letter, '_' | '.' | '}'))
}

fn check_form(path: &str, text: &str, code: &str, before_tests: usize, findings: &mut Vec<String>) {
    if !text.starts_with("//!") {
        findings.push(format!("{path}:1: does not open with `//!`: say what it is and what it refuses to know"));
    }
    let lines = code[..before_tests].lines().count();
    if lines > LONGEST {
        findings.push(format!("{path}:{LONGEST}: {lines} lines before its tests, at most {LONGEST}: split it by what it does"));
    }
    for bare in ["#[allow", "#![allow"] {
        each(path, code, bare, findings, "a bare allow: write `#[expect(lint, reason = \"…\")]`");
    }
    each(path, code, "#[ignore", findings, "an ignored test checks nothing: make it run or remove it");
}

fn check_names(path: &str, code: &str, findings: &mut Vec<String>) {
    let inside = path.strip_suffix(".rs").unwrap_or(path);
    if inside.split('/').any(|part| EMPTY_NAMES.contains(&part)) {
        findings.push(format!("{path}:1: a name that says nothing: name it after what it knows"));
    }
    for (at, word) in words(code) {
        let after = |keyword: &str| code[..at].trim_end().ends_with(keyword);
        if word.starts_with("get_") && after("fn") {
            findings.push(format!("{path}:{}: `{word}`: a getter has the name of what it gives", line_of(code, at)));
        }
        let empty = ["Manager", "Helper", "Util", "Utils"].iter().any(|end| word.ends_with(end));
        if empty && (after("struct") || after("enum") || after("trait") || after("type")) {
            findings.push(format!("{path}:{}: `{word}`: name it after what it is", line_of(code, at)));
        }
        if EMPTY_NAMES.contains(&word) && after("mod") {
            findings.push(format!("{path}:{}: `mod {word}`: name it after what it knows", line_of(code, at)));
        }
    }
}

/// A test waits for an event or moves a clock.
fn check_sleep(path: &str, code: &str, findings: &mut Vec<String>) {
    each(path, code, "sleep(", findings, "a test that sleeps is slow and flaky: wait for the event, or move the `ManualClock`");
}

/// `src/` holds rooms, a room holds files.
fn check_place(path: &str, inside: &str, findings: &mut Vec<String>) {
    let parts: Vec<&str> = inside.split('/').collect();
    match parts.as_slice() {
        ["lib.rs" | "main.rs"] => {}
        [room, _] if FLOORS.iter().any(|(name, _)| name == room) => {}
        [room, _] => findings.push(format!("{path}:1: `{room}` has no floor: give it one in tests/tidy.rs and ARCHITECTURE.md")),
        [_] => findings.push(format!("{path}:1: a file outside every room: move it into one")),
        _ => findings.push(format!("{path}:1: a room holds files, not rooms: flatten it")),
    }
}

fn check_panics(path: &str, code: &str, findings: &mut Vec<String>) {
    each(path, code, ".unwrap()", findings, "return an error, or make the type so that it cannot be");
    each(path, code, ".expect(", findings, "return an error, or make the type so that it cannot be");
    each(path, code, "todo!", findings, "finish it");
    each(path, code, "unimplemented!", findings, "finish it");
}

/// Imports go strictly down, and only as `crate::room`. Tests may meet a neighbour: an upstream is tried with real trust.
fn check_floors(path: &str, room: &str, code: &str, before_tests: usize, findings: &mut Vec<String>) {
    let floor = |name: &str| FLOORS.iter().find(|(known, _)| *known == name).map(|(_, floor)| *floor);
    let Some(own) = floor(room) else { return };
    for (at, _) in code.match_indices("crate::") {
        if code[..at].ends_with(|before: char| before.is_alphanumeric() || before == '_' || before == '$') {
            continue;
        }
        for other in roots(&code[at + "crate::".len()..]) {
            let line = line_of(code, at);
            match floor(other) {
                _ if other == room => {}
                Some(below) if below < own || (below == own && at >= before_tests) => {}
                Some(above) => findings.push(format!(
                    "{path}:{line}: `{room}` (floor {own}) imports `{other}` (floor {above}): imports go strictly down; move the type to the lower room, keep the I/O in the upper"
                )),
                None => findings.push(format!("{path}:{line}: `crate::{other}` is no room: import from the room that defines it")),
            }
        }
    }
    // From a room's own file one step up is the room; its tests stand one step deeper.
    let (file, tests) = code.split_at(before_tests);
    let (leaves_file, leaves_tests) =
        if path.ends_with("/mod.rs") { ("super::", "super::super::") } else { ("super::super::", "super::super::super::") };
    each(path, file, leaves_file, findings, "leaves the room by the window: write `crate::room::…`");
    each(path, tests, leaves_tests, findings, "leaves the room by the window: write `crate::room::…`");
}

/// All output passes one place, which escapes it: what is printed elsewhere may hold what strangers wrote.
fn check_output(path: &str, code: &str, findings: &mut Vec<String>) {
    let advice = "write through `cli::output`, which escapes what strangers wrote; log with `tracing`";
    if !["src/cli/output.rs", "src/telemetry/logging.rs"].contains(&path) {
        for way in ["println!", "eprintln!", "print!", "eprint!", "io::stdout", "io::stderr"] {
            each(path, code, way, findings, advice);
        }
    }
    if path.starts_with("src/cli/") {
        each(path, code, "writeln!", findings, "a value may begin another line: write `push_line!`, or a row of `Columns`");
    }
}

/// The first names behind `crate::`: one, or all of a group `{a::b, c}`.
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

/// Which rooms may speak HTTP, and which may speak npm.
fn check_tongues(path: &str, room: &str, text: &str, code: &str, findings: &mut Vec<String>) {
    if !STATUS_ROOMS.contains(&room) {
        each(
            path,
            code,
            "StatusCode",
            findings,
            "statuses exist where HTTP is spoken: return a verdict or an error, `proxy::respond` maps it",
        );
    }
    if room == "firewall" {
        each(path, code, "http::", findings, "no HTTP type in `firewall`: `proxy` translates");
        each(path, code, "hyper::", findings, "no HTTP type in `firewall`: `proxy` translates");
    }
    if ["npm", "policy", "vet"].contains(&room) {
        for outside in ["std::fs", "std::net", "tokio::", "SystemTime", "Timestamp::now", "Instant::now", "async fn"] {
            each(path, code, outside, findings, "this room is pure: no clock, no I/O, no async");
        }
    }
    if room != "main" && room != "cli" {
        each(path, code, "anyhow::", findings, "`anyhow` only in `main` and `cli`: a room has its own `<Room>Error`");
    }
    if ["net", "tls"].contains(&room) {
        let spoken = strip(text, Keep::Strings);
        let end = spoken.len().min(code.len());
        for word in ["npm", "packument", "tarball", "dist-tag", "dist_tag"] {
            each(
                path,
                &spoken[..end].to_ascii_lowercase(),
                word,
                findings,
                "no npm word in this room: it knows sockets, or certificates, only",
            );
        }
    }
    each(path, code, "tokio::fs", findings, "3.5 times slower than a mapped file: block in `spawn_blocking`");
}

/// One finding for each place where `needle` stands.
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

/// Bad samples: a rule that finds nothing in them is no rule.
mod samples {
    use super::{FLOORS, LONGEST, check, roots, test_modules};

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
    fn imports_that_climb_are_found_in_every_spelling() {
        finds("src/npm/a.rs", "use crate::store::Blobs;", "`npm` (floor 0) imports `store`");
        finds("src/npm/a.rs", "use crate::{npm::Version, store::{Blobs, ledger}};", "imports `store`");
        finds("src/store/a.rs", "fn a() { crate::upstream::ask() }", "`store` (floor 5) imports `upstream` (floor 5)");
        finds(
            "src/store/a.rs",
            "#[cfg(test)]\nmod tests { use crate::firewall; }",
            "`store` (floor 5) imports `firewall` (floor 6)",
        );
        assert_eq!(findings("src/store/a.rs", "#[cfg(test)]\nmod tests { use crate::tls; }"), [""; 0]);
        finds("src/net/mod.rs", "use super::cli;", "leaves the room");
        finds("src/net/a.rs", "use super::super::cli;", "leaves the room");
        finds("src/net/a.rs", "#[cfg(test)]\nmod tests {\n    use super::super::super::cli;\n}", "leaves the room");
        assert_eq!(findings("src/net/a.rs", "#[cfg(test)]\nmod tests {\n    use super::super::body;\n}"), [""; 0]);
        finds("src/proxy/a.rs", "use crate::Nothing;", "is no room");
        assert_eq!(
            findings("src/firewall/a.rs", "use crate::{npm::{A, B}, policy};\n// crate::cli\nconst A: &str = \"crate::cli\";"),
            [""; 0]
        );
        assert_eq!(roots("{a, b::{c, d}, e::f as g};"), ["a", "b", "e"]);
        assert_eq!(FLOORS.len(), 18);
    }

    #[test]
    fn misplaced_and_oversized_files_are_found() {
        finds("src/attic/a.rs", "", "has no floor");
        finds("src/a.rs", "", "outside every room");
        finds("src/npm/deep/a.rs", "", "a room holds files");
        finds("src/npm/a.rs", &"const A: u8 = 0;\n".repeat(LONGEST), "lines before its tests");
        assert_eq!(findings("src/npm/a.rs", &format!("#[cfg(test)]\nmod tests {{\n{}}}", "// a\n".repeat(LONGEST))), [""; 0]);
        let mut found = Vec::new();
        check("src/npm/a.rs", "struct A;\n", false, &mut found);
        assert!(found[0].contains("does not open with"), "{found:?}");
    }

    #[test]
    fn names_that_say_nothing_are_found() {
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
    fn output_that_nothing_escapes_is_found() {
        finds("src/cli/a.rs", "fn a() { println!(\"{}\", b()); }", "println!");
        finds("src/app/a.rs", "use std::io;\nfn a() { io::stderr().lock(); }", "io::stderr");
        finds("src/cli/a.rs", "fn a(b: &mut String) { let _ = writeln!(b, \"{}\", c()); }", "push_line!");
        assert_eq!(findings("src/cli/output.rs", "fn a() { let _ = std::io::stdout().lock(); }"), [""; 0]);
        assert_eq!(findings("src/app/a.rs", "fn a(b: &mut String) { let _ = writeln!(b, \"c\"); }"), [""; 0]);
    }

    #[test]
    fn a_file_that_only_tests_see_may_panic_and_no_other() {
        let room = "mod a;\n#[cfg(test)]\nmod trial;\nfn b() {}\n#[cfg(test)]\nmod tests { mod inner; }\n";
        assert_eq!(test_modules("src/net/mod.rs", room), ["src/net/trial.rs"]);
        let mut found = Vec::new();
        check("src/net/trial.rs", "//! A sample.\nfn a() { b().unwrap(); }\n", true, &mut found);
        assert_eq!(found, [""; 0]);
        finds("src/net/mod.rs", "#[cfg(test)]\nmod trial;\nfn a() { b().unwrap(); }", ".unwrap()");
    }

    #[test]
    fn rooms_that_speak_the_wrong_tongue_are_found() {
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
