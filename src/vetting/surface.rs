//! The execution surface of a package: the files that npm runs when it installs the package, and those that run when it is used.

use std::collections::{BTreeSet, HashMap, HashSet};

use serde_json::{Map, Value};

/// Scripts that npm runs when it installs the package from a registry.
pub(crate) const INSTALL_SCRIPTS: [&str; 3] = ["preinstall", "install", "postinstall"];

/// Targets kept of one manifest, and the longest one.
const MAX_TARGETS: usize = 4_096;
const MAX_TARGET_BYTES: usize = 1_024;

/// Of a longer install command it is unknown what it runs.
const MAX_COMMAND_BYTES: usize = 64 << 10;

/// Folders in which the words of install commands are looked up, for `cd lib && node setup`.
const MAX_WORK_FOLDERS: usize = 8;

/// Words read of all install commands.
const MAX_WORDS: usize = 10_000;

/// What node adds to a path that names no file.
const EXTENSIONS: [&str; 6] = [".js", ".json", ".node", ".cjs", ".mjs", ".ts"];

/// What a manifest names for npm and node to run.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct EntryPoints {
    /// The commands that npm runs at install, with those of the scripts that they start.
    pub install_commands: Vec<String>,
    /// Files that node or a shell starts from: `bin`, `main`, `exports`, `module`, `browser`.
    heads: Vec<String>,
    /// Whether there is more than was read, so that it is unknown what runs at install.
    pub is_crowded: bool,
    /// The folder whose files are commands.
    command_folder: Option<String>,
}

/// Extensions of scripts that a command starts.
const SCRIPT_EXTENSIONS: [&str; 9] = ["js", "cjs", "mjs", "ts", "sh", "py", "ps1", "bat", "cmd"];

/// Where a file is on the execution surface.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct Surface(u8);

impl Surface {
    /// Runs at install.
    pub const INSTALL: Self = Self(1);
    /// Is where use of the package begins.
    pub const HEAD: Self = Self(2);

    pub(crate) fn from_bits(bits: u8) -> Self {
        Self(bits)
    }

    pub(crate) fn bits(self) -> u8 {
        self.0
    }

    pub(crate) fn contains(self, other: Self) -> bool {
        self.0 & other.0 == other.0
    }

    fn add(&mut self, other: Self) {
        self.0 |= other.0;
    }
}

impl EntryPoints {
    pub(crate) fn from_manifest(members: &Map<String, Value>) -> Self {
        let mut found = Self::default();
        found.add_install_commands(members.get("scripts"));
        for key in ["main", "module", "browser", "bin", "exports"] {
            found.add_targets(members.get(key), key);
        }
        if ["main", "exports"].iter().all(|key| !members.contains_key(*key)) {
            found.heads.push("index.js".to_owned());
        }
        let folder = members.get("directories").and_then(|folders| folders.get("bin")).and_then(Value::as_str);
        found.command_folder = folder.map(|folder| format!("{}/", clean("", folder)));
        found
    }

    /// Adds all texts in the value of a key, except the types of `exports`.
    fn add_targets(&mut self, value: Option<&Value>, key: &str) {
        let is_types = |condition: &str| key == "exports" && (condition == "types" || condition.starts_with("types@"));
        let mut left: Vec<&Value> = value.into_iter().collect();
        while let Some(value) = left.pop() {
            match value {
                // A target with a `*` is a whole folder. Files in it are code by their names.
                Value::String(target) if target.len() <= MAX_TARGET_BYTES && self.heads.len() < MAX_TARGETS => {
                    self.heads.push(clean("", target));
                }
                Value::Array(values) => left.extend(values),
                Value::Object(members) => {
                    left.extend(members.iter().filter(|(condition, _)| !is_types(condition)).map(|(_, value)| value));
                }
                _ => {}
            }
        }
    }

    /// Adds the commands of the install scripts and of the scripts that they run by name.
    fn add_install_commands(&mut self, scripts: Option<&Value>) {
        let script = |name: &str| scripts.and_then(|scripts| scripts.get(name)).and_then(Value::as_str);
        let mut left: Vec<String> = INSTALL_SCRIPTS.iter().rev().map(|name| (*name).to_owned()).collect();
        let (mut seen, mut count) = (BTreeSet::new(), 0);
        while let Some(name) = left.pop() {
            let Some(command) = script(&name).filter(|_| seen.insert(name.clone())) else { continue };
            self.install_commands.push(command.to_owned());
            self.is_crowded |= is_computed(command);
            // `npm run x`, `npm-run-all x y`, `yarn x`: any word that is the name of a script.
            for word in words(command) {
                count += 1;
                if count > MAX_WORDS {
                    self.is_crowded = true;
                    return;
                }
                let named = [word.to_owned(), format!("pre{word}"), format!("post{word}")];
                left.extend(named.into_iter().filter(|name| script(name).is_some() && !seen.contains(name)));
            }
        }
    }
}

/// Checks whether a shell computes words of a command, so that they name other files than they seem to: `$x`, `s*p.js`, `se""tup.js`.
fn is_computed(command: &str) -> bool {
    let is_of_word = |letter: u8| letter.is_ascii_alphanumeric() || b"._-/".contains(&letter);
    let (mut before, mut is_quoted) = (b' ', false);
    for letter in command.bytes() {
        match letter {
            b'$' | b'*' | b'?' | b'`' => return true,
            b'"' | b'\'' => is_quoted = true,
            _ if is_quoted && is_of_word(before) && is_of_word(letter) => return true,
            _ => (before, is_quoted) = (letter, false),
        }
    }
    command.len() > MAX_COMMAND_BYTES
}

/// Returns the words of a command that may name files or scripts.
pub(crate) fn words(command: &str) -> impl Iterator<Item = &str> {
    let separator = |letter: char| {
        letter.is_whitespace()
            || matches!(letter, '"' | '\'' | '`' | '=' | ';' | '&' | '|' | '(' | ')' | ',' | '[' | ']' | '<' | '>')
    };
    command.split(separator).filter(|word| !word.is_empty() && !word.starts_with('-') && word.len() <= MAX_TARGET_BYTES)
}

/// Returns `path` relative to the package, read from a file in `folder`. Parts that leave the package are dropped.
pub(crate) fn clean(folder: &str, path: &str) -> String {
    let mut parts: Vec<&str> = folder.split('/').filter(|part| !part.is_empty()).collect();
    for part in path.split(['/', '\\']) {
        match part {
            "" | "." => {}
            ".." => drop(parts.pop()),
            part => parts.push(part),
        }
    }
    parts.join("/")
}

/// The paths of a package's files, in order of the files, and the files by path.
pub(crate) struct FileIndex<'a> {
    pub paths: Vec<&'a str>,
    by_path: HashMap<&'a str, usize>,
}

impl<'a> FileIndex<'a> {
    pub(crate) fn new(paths: impl Iterator<Item = &'a str>) -> Self {
        let paths: Vec<&str> = paths.collect();
        Self { by_path: paths.iter().enumerate().map(|(at, path)| (*path, at)).collect(), paths }
    }

    /// Returns the file at exactly this path.
    pub(crate) fn find(&self, path: &str) -> Option<usize> {
        self.by_path.get(path).copied()
    }

    /// Returns the file that node loads for a path without `.` and `..`.
    pub(crate) fn resolve(&self, path: &str) -> Option<usize> {
        let with_extension = |path: &str| EXTENSIONS.iter().find_map(|extension| self.find(&format!("{path}{extension}")));
        if path.is_empty() {
            return with_extension("index");
        }
        self.find(path).or_else(|| with_extension(path)).or_else(|| with_extension(&format!("{path}/index")))
    }

    /// Returns the folder of the file at `at`, empty for that of the package.
    pub(crate) fn folder_of(&self, at: usize) -> &'a str {
        self.paths[at].rsplit_once('/').map_or("", |(folder, _)| folder)
    }
}

/// What install commands name.
#[derive(Debug, Default)]
pub(crate) struct InstallTargets {
    pub files: Vec<usize>,
    /// Whether a command names a script that is no file, so that it is unknown what runs.
    pub has_unknown: bool,
}

impl InstallTargets {
    pub(crate) fn find(entry_points: &EntryPoints, index: &FileIndex<'_>) -> Self {
        let mut found = Self::default();
        for command in &entry_points.install_commands {
            let words: Vec<&str> = words(command).take(MAX_WORDS).collect();
            let folders: Vec<String> = if words.iter().any(|word| matches!(*word, "cd" | "chdir" | "pushd")) {
                let named: BTreeSet<String> = words.iter().map(|word| clean("", word)).filter(|word| !word.is_empty()).collect();
                let is_within = |path: &&str, name: &str| path.strip_prefix(name).is_some_and(|rest| rest.starts_with('/'));
                let is_folder = |name: &String| index.paths.iter().any(|path| is_within(path, name));
                named.into_iter().take(MAX_WORK_FOLDERS * 8).filter(is_folder).take(MAX_WORK_FOLDERS).collect()
            } else {
                Vec::new()
            };
            for word in words {
                let places = std::iter::once("").chain(folders.iter().map(String::as_str));
                let before = found.files.len();
                let target = clean("", word);
                if target.is_empty() {
                    // `node .`
                    found.files.extend(entry_points.heads.iter().filter_map(|head| index.resolve(head)));
                    continue;
                }
                found.files.extend(places.filter_map(|folder| index.resolve(&clean(folder, word))));
                let extension = target.rsplit_once('.').map_or("", |(_, extension)| extension);
                found.has_unknown |= found.files.len() == before && SCRIPT_EXTENSIONS.contains(&extension);
            }
        }
        found
    }
}

/// Returns the files that a `binding.gyp` names. Only what node starts may lack an extension: `'target_name': 'bcrypt'` is no file.
fn gyp_targets(gyp: &str, index: &FileIndex<'_>) -> Vec<usize> {
    let mut before = "";
    let mut found = Vec::new();
    for word in words(gyp).take(MAX_WORDS) {
        let path = clean("", word);
        found.extend(if matches!(before, "node" | "nodejs") { index.resolve(&path) } else { index.find(&path) });
        before = word;
    }
    found
}

/// Returns the place of each file on the execution surface. `named` are the paths that files name, in order of the files; `gyp` is
/// the text of a `binding.gyp` that npm builds.
pub(crate) fn surfaces(
    entry_points: &EntryPoints,
    targets: &InstallTargets,
    index: &FileIndex<'_>,
    named: &[(usize, Box<str>)],
    gyp: Option<&str>,
) -> Vec<Surface> {
    let mut surfaces = vec![Surface::default(); index.paths.len()];
    let heads = entry_points.heads.iter().filter_map(|head| index.resolve(head));
    heads.for_each(|at| surfaces[at].add(Surface::HEAD));
    for (at, path) in index.paths.iter().enumerate() {
        let in_folder =
            entry_points.command_folder.as_ref().is_some_and(|folder| folder.len() > 1 && path.starts_with(&**folder));
        if in_folder {
            surfaces[at].add(Surface::HEAD);
        }
    }
    let mut left = targets.files.clone();
    if let Some(gyp) = gyp {
        left.extend(index.find("binding.gyp"));
        left.extend(gyp_targets(gyp, index));
    }
    let mut seen = HashSet::new();
    while let Some(at) = left.pop() {
        if !seen.insert(at) {
            continue;
        }
        surfaces[at].add(Surface::INSTALL);
        let folder = index.folder_of(at);
        let first = named.partition_point(|(file, _)| *file < at);
        let of_file = named[first..].iter().take_while(|(file, _)| *file == at);
        left.extend(of_file.filter_map(|(_, name)| index.resolve(&clean(folder, name))));
    }
    surfaces
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Returns the files that run at install, and the heads.
    fn surfaces_of(manifest: &str, paths: &[&str], named: &[(usize, &str)], gyp: Option<&str>) -> (Vec<String>, Vec<String>) {
        let Value::Object(members) = serde_json::from_str(manifest).unwrap() else { panic!("{manifest}") };
        let named: Vec<(usize, Box<str>)> = named.iter().map(|(at, name)| (*at, (*name).into())).collect();
        let entry_points = EntryPoints::from_manifest(&members);
        let index = FileIndex::new(paths.iter().copied());
        let found = surfaces(&entry_points, &InstallTargets::find(&entry_points, &index), &index, &named, gyp);
        let on = |surface: Surface| {
            let files = paths.iter().zip(&found).filter(|(_, found)| found.contains(surface));
            files.map(|(path, _)| (*path).to_owned()).collect()
        };
        (on(Surface::INSTALL), on(Surface::HEAD))
    }

    fn install(scripts: &str, paths: &[&str]) -> Vec<String> {
        surfaces_of(&format!(r#"{{"scripts":{scripts}}}"#), paths, &[], None).0
    }

    #[test]
    fn install_scripts_name_files_in_many_ways() {
        let paths = ["a.js", "lib/b.cjs", "c", "d.sh", "e/index.js", "f.py", "g.bin"];
        for (command, target) in [
            ("node a", "a.js"),
            ("node ./lib/b.cjs --x", "lib/b.cjs"),
            ("FOO=1 node .\\lib\\b", "lib/b.cjs"),
            ("node c", "c"),
            ("true && (sh ./d.sh || exit 0)", "d.sh"),
            ("node -r ./a -e 0", "a.js"),
            ("node --require=./a.js -e 0", "a.js"),
            ("node -e \"require('./e')\"", "e/index.js"),
            ("python3 'f.py'", "f.py"),
            ("./g.bin", "g.bin"),
            ("node ../../lib/../a.js", "a.js"),
        ] {
            assert_eq!(install(&serde_json::json!({ "postinstall": command }).to_string(), &paths), [target], "{command}");
        }
        assert_eq!(install(r#"{"test":"node a.js","prepare":"node c"}"#, &paths), [""; 0]);
    }

    #[test]
    fn commands_that_change_the_folder_are_followed() {
        let paths = ["lib/setup.js", "lib/in/x.js", "y.js", "z/setup.js"];
        assert_eq!(install(r#"{"install":"cd lib && node setup"}"#, &paths), ["lib/setup.js"]);
        assert_eq!(install(r#"{"install":"cd ./lib/in; node x.js; cd .. ; node ../y"}"#, &paths), ["lib/in/x.js", "y.js"]);
        assert_eq!(install(r#"{"install":"node setup"}"#, &paths), [""; 0]);
    }

    #[test]
    fn it_is_noticed_that_a_command_hides_what_it_runs() {
        let hides = |command: &str| {
            let manifest = serde_json::json!({ "scripts": { "install": command } });
            let entry_points = EntryPoints::from_manifest(manifest.as_object().unwrap());
            entry_points.is_crowded
                || InstallTargets::find(&entry_points, &FileIndex::new(["setup.js", "lib/a.js"].into_iter())).has_unknown
        };
        for command in [
            "node $PWD/setup.js",
            "node s*p.js",
            "node set?p",
            "sh `ls *.sh`",
            "node se\"\"tup.js",
            "node s'etu'p.js",
            "node s\\etup.js",
        ] {
            assert!(hides(command), "{command}");
        }
        for command in [
            "node setup.js",
            "node \"setup.js\"",
            "node .\\lib\\a.js",
            "node -e \"try{require('./lib/a')}catch(e){}\"",
            ":; (node ./setup.js > /dev/null 2>&1 || true)",
            "prebuild-install -r napi || node-gyp rebuild",
            "node-pre-gyp install --fallback-to-build --library=static_library",
        ] {
            assert!(!hides(command), "{command}");
        }
        assert!(hides(&"a ".repeat(40_000)));
    }

    #[test]
    fn scripts_that_run_scripts_are_followed() {
        let scripts = r#"{"preinstall":"npm run x","x":"yarn y && x","prey":"node a","y":"node b","z":"node c"}"#;
        assert_eq!(install(scripts, &["a.js", "b.js", "c.js"]), ["a.js", "b.js"]);
        assert_eq!(install(r#"{"install":"node ."}"#, &["index.js"]), ["index.js"]);
    }

    #[test]
    fn files_that_an_install_file_names_run_too() {
        let paths = ["setup.js", "lib/x.js", "lib/y/index.js", "z.js"];
        let named = [(0, "./lib/x"), (1, "./y"), (2, "../x.js"), (3, "./setup")];
        let found = surfaces_of(r#"{"scripts":{"install":"node setup"}}"#, &paths, &named, None);
        assert_eq!(found.0, ["setup.js", "lib/x.js", "lib/y/index.js"]);
        let gyp = "{'targets':[{'actions':[{'action':['node','z.js']}]}]}";
        assert_eq!(surfaces_of("{}", &paths, &named, Some(gyp)).0, ["setup.js", "lib/x.js", "lib/y/index.js", "z.js"]);
        for gyp in ["<!(node z.js)", "<!@(node z)", "['sh', './z.js']"] {
            assert_eq!(surfaces_of("{}", &["binding.gyp", "z.js"], &[], Some(gyp)).0, ["binding.gyp", "z.js"], "{gyp}");
        }
        assert_eq!(surfaces_of("{}", &["binding.gyp", "z.js"], &[], Some("'target_name': 'z'")).0, ["binding.gyp"]);
    }

    #[test]
    fn heads_are_resolved_as_node_does() {
        let paths = ["index.js", "lib/index.js", "m.mjs", "b.js", "cli.js", "bin/x", "p/a.js", "t.d.ts", "c.cjs"];
        for (manifest, heads) in [
            ("{}", vec!["index.js"]),
            (r#"{"main":"./lib"}"#, vec!["lib/index.js"]),
            (
                r#"{"main":"lib/","module":"m.mjs","browser":{"./lib/index.js":"./b.js","fs":false}}"#,
                vec!["lib/index.js", "m.mjs", "b.js"],
            ),
            (r#"{"main":"b","bin":"cli.js"}"#, vec!["b.js", "cli.js"]),
            (r#"{"main":"b","bin":{"types":"./cli"}}"#, vec!["b.js", "cli.js"]),
            (r#"{"main":"b","directories":{"bin":"./bin"}}"#, vec!["b.js", "bin/x"]),
            (
                r#"{"exports":{".":{"types":"./t.d.ts","import":[{"node":"./m.mjs"},"./b.js"],"default":"./c.cjs"}}}"#,
                vec!["m.mjs", "b.js", "c.cjs"],
            ),
        ] {
            assert_eq!(surfaces_of(manifest, &paths, &[], None).1, heads, "{manifest}");
        }
    }
}
