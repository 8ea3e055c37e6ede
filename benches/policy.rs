//! Times policy evaluation: all versions of a generated package of 3,000 with `strict`, and with `strict` below 100 more rules of
//! all kinds. Captured packuments (`just capture`) are measured too.
#![expect(clippy::expect_used, clippy::panic, reason = "a benchmark panics on errors")]
#![expect(clippy::print_stdout, reason = "a benchmark reports to a terminal")]

use std::fmt::Write as _;
use std::hint::black_box;
use std::sync::Arc;
use std::time::{Duration, Instant};

use coldframe::diagnostics::SourceFile;
use coldframe::npm::packument::parse;
use coldframe::npm::{PackageName, Packument};
use coldframe::policy::{Facts, Policy, compile, evaluate_without_decisions, presets};
use jiff::Timestamp;

/// The same allocator as in the binary.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

const ROUNDS: usize = 40;

fn main() {
    let (strict, more) = (compiled("include = \"strict\"\n"), compiled(&more_rules()));
    let ranges = [
        compiled(&more_ranges(|number| format!(">=9{number:02}.0.0 <9{number:02}.7.1"))),
        compiled(&more_ranges(|number| format!("<0.{number}.3 || 1.{number}.{number}"))),
    ];
    println!("{:<28} {:>8} {:>11} {:>16} {:>7}", "package", "versions", "strict ms", "+100 rules", "ratio");
    measure(&made_up(3_000), &strict, &more);
    println!("the same with 100 version range rules for every package: outside the versions, and among them");
    for more in &ranges {
        measure(&made_up(3_000), &strict, more);
    }
    for name in ["typescript", "next", "react", "drizzle-orm"] {
        if let Ok(document) = std::fs::read(format!("corpus/{name}.json")) {
            let name = PackageName::parse(name).expect("a name");
            measure(&parse::parse(&name, &document).expect("a packument").packument, &strict, &more);
        }
    }
}

fn measure(packument: &Packument, strict: &Policy, more: &Policy) {
    let at: Timestamp = "2026-11-24T12:00:00Z".parse().expect("an instant");
    let (base, extended) = (best(|| judge(packument, strict, at)), best(|| judge(packument, more, at)));
    println!(
        "{:<28} {:>8} {base:>11.3} {extended:>16.3} {:>7.2}",
        packument.name.as_str(),
        packument.entries.len(),
        extended / base
    );
}

/// Evaluates every version as the firewall does: rules are selected once for the package, then applied to each. Returns the
/// number of allowed versions.
fn judge(packument: &Packument, policy: &Policy, at: Timestamp) -> usize {
    let facts = |position: usize| {
        let entry = &packument.entries[position];
        Facts::of_entry(packument, entry, entry.published.unwrap_or(at))
    };
    let rules = policy.for_package(&packument.name).prefiltered((0..packument.entries.len()).map(facts));
    (0..packument.entries.len()).filter(|position| evaluate_without_decisions(&rules, &facts(*position), at).is_allowed()).count()
}

/// Returns the shortest time over all rounds, in milliseconds.
fn best<T>(mut work: impl FnMut() -> T) -> f64 {
    let rounds = (0..ROUNDS).map(|_| {
        let start = Instant::now();
        black_box(work());
        start.elapsed()
    });
    rounds.min().unwrap_or(Duration::ZERO).as_secs_f64() * 1e3
}

fn compiled(text: &str) -> Policy {
    let file = Arc::new(SourceFile { path: "bench.toml".into(), text: text.to_owned() });
    let find = |_: &SourceFile, name: &str| presets::policy_file(name).ok_or_else(|| "unknown policy".to_owned());
    compile(&[file], &find).unwrap_or_else(|errors| panic!("{errors}")).policy
}

/// Returns 100 rules as an organisation would collect them: names with ranges, scopes, publishers, scripts, dependencies, tags,
/// ages.
fn more_rules() -> String {
    let mut text = "include = \"strict\"\n".to_owned();
    for number in 0..100 {
        let asks = match number % 10 {
            0 => format!("packages = [\"bad-{number}\", \"worse-{number}-*\"]\nversions = \"<{number}.0.0 || 9{number}.x\""),
            1 => format!("scopes = [\"@team-{number}\"]"),
            2 => format!("publishers = [\"mallory-{number}\", \"trent-{number}*\"]"),
            3 => format!("packages = [\"*-{number}\"]\ninstall-script = true"),
            4 => format!("dependencies = [\"git\"]\nexcept = [\"ours-{number}\"]"),
            5 => format!("dist-tags = [\"canary-{number}\"]\nyounger-than = \"{}d\"", number + 1),
            6 => format!("maintainers = [\"eve-{number}\"]"),
            7 => format!("advisory = {{ kind = \"vulnerability\", feed = \"feed-{number}\" }}"),
            8 => format!("signals = [\"size-jump\", \"dormant\"]\nat-least = 2\nyounger-than = \"{}d\"", number + 30),
            _ => format!("packages = [\"react-{number}*\"]\ndeprecated = true"),
        };
        // Writing to a `String` cannot fail.
        let _ = writeln!(text, "[[rule]]\nid = \"rule-{number}\"\ndeny = true\nreason = \"x\"\n{asks}\n");
    }
    text
}

/// Returns 100 rules that match only a version range, for all packages.
fn more_ranges(range: impl Fn(usize) -> String) -> String {
    (0..100).fold("include = \"strict\"\n".to_owned(), |mut text, number| {
        let _ =
            writeln!(text, "[[rule]]\nid = \"rule-{number}\"\ndeny = true\nreason = \"x\"\nversions = \"{}\"\n", range(number));
        text
    })
}

fn made_up(versions: usize) -> Packument {
    let (mut manifests, mut times) = (Vec::new(), Vec::new());
    let begun: Timestamp = "2016-01-01T00:00:00Z".parse().expect("an instant");
    for patch in 0..versions {
        let people = if patch % 7 == 0 { "alice" } else { "GitHub Actions" };
        let published = begun + jiff::SignedDuration::from_hours(i64::try_from(patch).expect("a small number") * 31);
        manifests.push(format!(
            r#""1.{}.{patch}":{{"name":"demo","version":"1.{}.{patch}","_npmUser":{{"name":"{people}"}},"maintainers":[{{"name":"alice"}}],"dependencies":{{"left-pad":"^{patch}.0.0"}},"dist":{{"tarball":"https://registry.example/demo/-/demo-1.0.{patch}.tgz","shasum":"{:040x}"}}}}"#,
            patch / 50, patch / 50, patch * 7919
        ));
        times.push(format!(r#""1.{}.{patch}":"{published}""#, patch / 50));
    }
    let document = format!(
        r#"{{"name":"demo","dist-tags":{{"latest":"1.0.0"}},"versions":{{{}}},"time":{{{}}}}}"#,
        manifests.join(","),
        times.join(",")
    );
    parse::parse(&PackageName::parse("demo").expect("a name"), document.as_bytes()).expect("a packument").packument
}
