//! Compares Coldframe's version ranges with npm's own `semver`, taken from the installed npm. Needs node, so it runs only with
//! `just oracle`. The generated cases are always the same.
#![expect(clippy::unwrap_used, clippy::expect_used, reason = "a test panics on errors")]

use std::io::Write as _;
use std::process::{Command, Stdio};

use coldframe::npm::{Range, Version};

const CASES: usize = 60_000;

/// Reads `[[version, range], …]` and writes `[strict, inclusive]` for each, or `null` if the range or version is invalid.
const SCRIPT: &str = r"
const { join } = require('path');
const semver = require(join(process.argv[1], 'npm', 'node_modules', 'semver'));
const cases = JSON.parse(require('fs').readFileSync(0, 'utf8'));
const results = cases.map(([version, range]) => {
  if (semver.validRange(range) === null || semver.valid(version) === null) return null;
  return [semver.satisfies(version, range), semver.satisfies(version, range, { includePrerelease: true })];
});
process.stdout.write(JSON.stringify(results));
";

#[test]
fn ranges_match_as_in_npm() {
    let mut dice = Dice(0x9e37_79b9_7f4a_7c15);
    let cases: Vec<(String, String)> = (0..CASES).map(|_| (version(&mut dice), range(&mut dice))).collect();
    let results = ask(&cases);
    assert_eq!(results.len(), cases.len());
    let (mut differing, mut valid, mut matching) = (Vec::new(), 0, 0);
    for ((version, range), expected) in cases.iter().zip(results) {
        let ours = Version::parse(version).zip(Range::parse(range));
        let ours = ours.map(|(version, range)| (range.matches(&version), range.covers(&version)));
        valid += usize::from(expected.is_some());
        matching += usize::from(expected.is_some_and(|(strict, inclusive)| strict || inclusive));
        // A denial covers all versions that match, prereleases included.
        let expected = expected.map(|(strict, inclusive)| (strict, inclusive || strict));
        if ours != expected {
            differing.push(format!("{version:?} in {range:?}: npm returns {expected:?}, coldframe {ours:?}"));
        }
    }
    assert!(valid > CASES / 3 && matching > CASES / 20, "too few useful cases: {valid} valid, {matching} match");
    assert!(differing.is_empty(), "{} of {CASES} differ:\n{}", differing.len(), differing[..differing.len().min(40)].join("\n"));
}

fn ask(cases: &[(String, String)]) -> Vec<Option<(bool, bool)>> {
    let root = Command::new("npm").args(["root", "-g"]).output().expect("npm must be installed").stdout;
    let root = String::from_utf8(root).unwrap();
    let mut node = Command::new("node")
        .args(["-e", SCRIPT, root.trim()])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .expect("node must be installed");
    let mut stdin = node.stdin.take().unwrap();
    let input = serde_json::to_vec(cases).unwrap();
    let writing = std::thread::spawn(move || stdin.write_all(&input).unwrap());
    let output = node.wait_with_output().unwrap();
    writing.join().unwrap();
    serde_json::from_slice(&output.stdout).expect("node must return JSON")
}

/// A random number generator (xorshift) with a fixed seed.
struct Dice(u64);

impl Dice {
    fn roll(&mut self, sides: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        usize::try_from(self.0 >> 33).unwrap() % sides
    }

    fn pick<'a>(&mut self, from: &[&'a str]) -> &'a str {
        from[self.roll(from.len())]
    }
}

fn number(dice: &mut Dice) -> &'static str {
    let rare = dice.roll(40) == 0;
    dice.pick(if rare { &["9007199254740991", "01"] } else { &["0", "0", "1", "1", "2", "3", "10"] })
}

fn pre(dice: &mut Dice) -> &'static str {
    dice.pick(&["-0", "-1", "-alpha", "-alpha.1", "-beta", "-beta.2", "-rc.0", "-alpha-x", "-a.b.0", "-01", "-"])
}

fn version(dice: &mut Dice) -> String {
    let mut text = format!("{}.{}.{}", number(dice), number(dice), number(dice));
    if dice.roll(2) == 0 {
        text += dice.pick(&["-0", "-1", "-alpha", "-alpha.1", "-beta", "-beta.2", "-rc.0", "-alpha-x", "-a.b.0"]);
    }
    if dice.roll(12) == 0 {
        text += "+build.5";
    }
    text.replace("01.", "1.").replace(".01", ".1")
}

fn partial(dice: &mut Dice) -> String {
    let part = |dice: &mut Dice| if dice.roll(6) == 0 { dice.pick(&["x", "X", "*"]).to_owned() } else { number(dice).to_owned() };
    let mut text = part(dice);
    for _ in 0..[2, 2, 2, 1, 0][dice.roll(5)] {
        text = format!("{text}.{}", part(dice));
    }
    if dice.roll(4) == 0 {
        text += pre(dice);
    }
    if dice.roll(20) == 0 {
        text += dice.pick(&["+build", "+b.1", "+"]);
    }
    if dice.roll(16) == 0 {
        text = format!("{}{text}", dice.pick(&["v", "=", "v ", "= v"]));
    }
    text
}

fn range(dice: &mut Dice) -> String {
    let mut text = String::new();
    for _ in 0..=[0, 0, 0, 1, 2][dice.roll(5)] {
        if !text.is_empty() {
            text += dice.pick(&[" || ", "||", " ||"]);
        }
        if dice.roll(6) == 0 {
            text += &[partial(dice), dice.pick(&[" - ", " - ", "  -  ", "-"]).to_owned(), partial(dice)].concat();
            continue;
        }
        for at in 0..=[0, 0, 1, 2][dice.roll(4)] {
            if at > 0 {
                let rare = dice.roll(90) == 0;
                text += if rare { "," } else { dice.pick(&[" ", " ", "  "]) };
            }
            let operator = dice
                .pick(&["", "", "^", "^", "~", "~", "~>", ">=", ">=", "<", "<=", ">", "=", "<", "^ ", "~ ", ">= ", "< ", "~> "]);
            text += operator;
            text += &partial(dice);
        }
    }
    if dice.roll(200) == 0 { dice.pick(&["", "*", "latest", "||", "x", ">", "blerg", " "]).to_owned() } else { text }
}
