//! Holds our reading of npm's ranges against npm's own `semver`: the one inside the npm that is installed with node. Asked for by
//! name (`just oracle`), since it needs node. The cases are generated, always the same.
#![expect(clippy::unwrap_used, clippy::expect_used, reason = "a check that cannot go on says so by panicking")]

use std::io::Write as _;
use std::process::{Command, Stdio};

use coldframe::npm::{Range, Version};

const CASES: usize = 60_000;

/// Reads `[[version, range], …]`, writes for each `[strict, inclusive]`, or `null` where the range or the version is invalid.
const SCRIPT: &str = r"
const { join } = require('path');
const semver = require(join(process.argv[1], 'npm', 'node_modules', 'semver'));
const cases = JSON.parse(require('fs').readFileSync(0, 'utf8'));
const told = cases.map(([version, range]) => {
  if (semver.validRange(range) === null || semver.valid(version) === null) return null;
  return [semver.satisfies(version, range), semver.satisfies(version, range, { includePrerelease: true })];
});
process.stdout.write(JSON.stringify(told));
";

#[test]
fn ranges_are_read_as_npm_reads_them() {
    let mut dice = Dice(0x9e37_79b9_7f4a_7c15);
    let cases: Vec<(String, String)> = (0..CASES).map(|_| (version(&mut dice), range(&mut dice))).collect();
    let told = ask(&cases);
    assert_eq!(told.len(), cases.len());
    let (mut wrong, mut valid, mut matching) = (Vec::new(), 0, 0);
    for ((version, range), told) in cases.iter().zip(told) {
        let ours = Version::parse(version).zip(Range::parse(range));
        let ours = ours.map(|(version, range)| (range.matches(&version), range.covers(&version)));
        valid += usize::from(told.is_some());
        matching += usize::from(told.is_some_and(|(strict, inclusive)| strict || inclusive));
        // A denial covers what a range takes, and its prereleases.
        let told = told.map(|(strict, inclusive)| (strict, inclusive || strict));
        if ours != told {
            wrong.push(format!("{version:?} in {range:?}: npm says {told:?}, we {ours:?}"));
        }
    }
    assert!(valid > CASES / 3 && matching > CASES / 20, "the cases say little: {valid} valid, {matching} match");
    assert!(wrong.is_empty(), "{} of {CASES} differ:\n{}", wrong.len(), wrong[..wrong.len().min(40)].join("\n"));
}

fn ask(cases: &[(String, String)]) -> Vec<Option<(bool, bool)>> {
    let root = Command::new("npm").args(["root", "-g"]).output().expect("npm is here").stdout;
    let root = String::from_utf8(root).unwrap();
    let mut node = Command::new("node")
        .args(["-e", SCRIPT, root.trim()])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .expect("node is here");
    let mut stdin = node.stdin.take().unwrap();
    let asked = serde_json::to_vec(cases).unwrap();
    let writing = std::thread::spawn(move || stdin.write_all(&asked).unwrap());
    let output = node.wait_with_output().unwrap();
    writing.join().unwrap();
    serde_json::from_slice(&output.stdout).expect("node answers")
}

/// A dice that always falls the same way.
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
