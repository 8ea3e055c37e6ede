//! Times the work between a request and a cached response: parsing the endpoint, and, after a version reached its minimum age or
//! the policy changed, evaluating every version and joining the stored segments. Uses captured documents (`just capture`) or a
//! generated one. Prints the best of several rounds.
#![expect(clippy::expect_used, reason = "a benchmark panics on errors")]
#![expect(clippy::print_stdout, reason = "a benchmark reports to a terminal")]

#[path = "documents/mod.rs"]
mod documents;

use std::hint::black_box;
use std::time::Duration;

use coldframe::npm::PackumentView;
use coldframe::npm::compression::{SegmentEncoder, SegmentFormat};
use coldframe::npm::packument::render::{RenderSource, VersionFilter};
use coldframe::npm::packument::{dist_tags, parse};
use coldframe::npm::{Endpoint, PackageName, Packument, PackumentForm};
use coldframe::policy::{ActiveDecisions, Evaluation, Facts, Policy, evaluate};
use jiff::{SignedDuration, Timestamp};

use documents::{best, captured, made_up};

/// The same allocator as in the binary.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

const AGE: Duration = Duration::from_hours(72);

/// Requested paths, each parsed a thousand times per round.
const PATHS: [&str; 6] = [
    "/axios",
    "/@babel%2fcore",
    "/@types/node",
    "/typescript/-/typescript-5.9.3.tgz",
    "/@babel/core/-/core-7.28.5.tgz",
    "/-/npm/v1/security/advisories/bulk",
];

fn main() {
    println!("{:<36} {:>10}", "endpoint", "ns");
    for path in PATHS {
        let method = if path.starts_with("/-/") { "POST" } else { "GET" };
        let thousand = || (0..1000).for_each(|_| drop(black_box(Endpoint::parse(method, black_box(path), None))));
        println!("{path:<36} {:>10.0}", best(thousand) * 1e3);
    }
    let mut documents = captured();
    if documents.is_empty() {
        documents.push((PackageName::parse("demo").expect("a name"), made_up(3_000)));
    }
    println!(
        "\n{:<36} {:>8} {:>8} {:>10} {:>13} {:>12}",
        "package", "versions", "hidden", "judge ms", "gzip join ms", "total ms"
    );
    for (name, document) in documents {
        measure(&name, &document);
    }
}

fn measure(name: &PackageName, document: &[u8]) {
    let ingested = parse::parse(name, document).expect("a packument");
    let packument = &ingested.packument;
    let policy = Policy::with_ages(AGE, &[]).expect("a policy");
    // One hour after the newest version was published, the youngest versions are hidden.
    let newest = packument.entries.iter().filter_map(|entry| entry.published).max().unwrap_or(Timestamp::UNIX_EPOCH);
    let now = newest + SignedDuration::from_hours(1);
    let decisions = ActiveDecisions::of(&[], now);
    let judge_all = || shown(packument, &policy, &decisions, now);
    let young = judge_all();
    let mut encoder = SegmentEncoder::of(SegmentFormat::Gzip);
    let alone = |at: usize| !young[at];
    let view = PackumentView::render(
        RenderSource { document, packument, fields: &ingested.fields },
        PackumentForm::Full,
        "http://127.0.0.1:4873",
        &alone,
        &mut encoder,
    );
    let join = |shown: &[bool]| {
        let tags = retagged(packument, shown);
        let assembly = view
            .assemble(&VersionFilter { shown, tags: Some(&tags), restrictions: None })
            .expect("hidden versions have their own runs");
        (assembly.fingerprint(), assembly.packed())
    };
    println!(
        "{:<36} {:>8} {:>8} {:>10.3} {:>13.3} {:>12.3}",
        name.as_str(),
        young.len(),
        young.iter().filter(|shown| !**shown).count(),
        best(judge_all),
        best(|| join(&young)),
        best(|| join(&judge_all())),
    );
}

/// Returns for each version whether the policy allows it.
fn shown(packument: &Packument, policy: &Policy, decisions: &ActiveDecisions, now: Timestamp) -> Vec<bool> {
    let facts = packument.entries.iter().map(|entry| Facts::of_entry(packument, entry, entry.published.unwrap_or(now)));
    let rules = policy.for_package(&packument.name);
    let evaluate = |facts: Facts<'_>| evaluate(&Evaluation { rules: &rules, decisions, facts: &facts, as_of: now }, &mut ());
    facts.map(|facts| evaluate(facts).is_allowed()).collect()
}

/// Returns the remaining dist-tags with their new targets.
fn retagged(packument: &Packument, shown: &[bool]) -> Vec<(Box<str>, Box<str>)> {
    let moved = |tag: &str, target: &str| match packument.find(target) {
        Some((at, _)) if shown[at] => Some(target.into()),
        _ => dist_tags::retarget(packument, shown, tag, target, &[]).map(Box::from),
    };
    packument.dist_tags.iter().filter_map(|(tag, target)| Some((tag.clone(), moved(tag, target)?))).collect()
}
