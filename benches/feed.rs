//! Measures import, lookup and memory of 300,000 advisories, generated from a directory of real OSV records. Run `cargo bench
//! --bench feed -- DIRECTORY`.
#![expect(clippy::print_stdout, clippy::unwrap_used, reason = "a benchmark prints its results")]

use std::fs::File;
use std::io::{BufWriter, Write as _};
use std::path::Path;
use std::time::{Duration, Instant};

use coldframe::clock::{Clock as _, SystemClock};
use coldframe::feed::{self, FeedConfig, FeedSource, FeedStore};
use coldframe::npm::Version;
use coldframe::policy::{Advisories, FeedTrust};
use serde_json::Value;

const RECORDS: usize = 300_000;

fn main() {
    let Some(directory) = std::env::args().skip(1).find(|word| !word.starts_with('-')) else {
        println!("usage: cargo bench --bench feed -- DIRECTORY (with OSV records)");
        return;
    };
    let home = tempfile::tempdir().unwrap();
    let archive = home.path().join("all.zip");
    let names = synthesise(Path::new(&directory), &archive);
    println!("{RECORDS} records in a zip of {} MB", std::fs::metadata(&archive).unwrap().len() / 1_000_000);
    let feed = FeedConfig {
        name: "osv".to_owned(),
        source: FeedSource::Path(archive),
        trust: FeedTrust::Deny,
        interval: Duration::from_secs(300),
        expiry: Duration::from_secs(86_400),
        key: None,
        may_be_empty: false,
    };
    let store = FeedStore::of(home.path());
    let before = resident();
    let begun = Instant::now();
    let loaded = feed::load_path_once(&feed, &store, &store, SystemClock.now()).unwrap().unwrap();
    println!(
        "read, stored and indexed in {:.1} s; resident memory +{} kB, peak {} kB",
        begun.elapsed().as_secs_f64(),
        resident() - before,
        peak()
    );
    println!(
        "{} advisories on {} packages, {} kB",
        loaded.advisories.count(),
        loaded.advisories.packages(),
        loaded.advisories.weight() / 1000
    );
    let advisories = Advisories::of_feeds(vec![loaded.advisories]);
    let version = Version::parse("1.0.0").unwrap();
    for (what, suffix) in [("present", ""), ("absent", "-x")] {
        let queries: Vec<String> = names.iter().map(|name| format!("{name}{suffix}")).collect();
        let begun = Instant::now();
        let found: usize = queries.iter().filter(|name| !advisories.of(name).is_empty()).count();
        println!("{what} package: {:.0} ns per lookup ({found} found)", nanoseconds(begun, queries.len()));
    }
    let versions: Vec<(&str, Option<&Version>, jiff::Timestamp)> =
        vec![("1.0.0", Some(&version), jiff::Timestamp::UNIX_EPOCH); 8];
    let begun = Instant::now();
    let mut matched = 0;
    for name in &names {
        let applicable = advisories.of(name).applicable_to(versions.iter().copied());
        matched += applicable.matching("1.0.0", Some(&version)).count();
    }
    println!("lookup, guard and one version: {:.0} ns per package ({matched} matched)", nanoseconds(begun, names.len()));
    let begun = Instant::now();
    let again = feed::load(&FeedConfig { source: feed.source.clone(), ..feed }, &store).unwrap();
    println!("reloaded from the store: {:.1} s ({})", begun.elapsed().as_secs_f64(), again.is_some());
}

/// Writes an archive of `RECORDS` records, each a real one with another id and name. Returns the names.
fn synthesise(directory: &Path, archive: &Path) -> Vec<String> {
    let files = std::fs::read_dir(directory).unwrap().flatten().map(|entry| std::fs::read(entry.path()).unwrap());
    let is_record = |record: &Value| record["affected"][0]["package"]["name"].is_string() && record["withdrawn"].is_null();
    let records: Vec<Value> = files.filter_map(|text| serde_json::from_slice(&text).ok()).filter(is_record).collect();
    let mut zip = rawzip::ZipArchiveWriter::new(BufWriter::new(File::create(archive).unwrap()));
    let mut names = Vec::with_capacity(RECORDS);
    for number in 0..RECORDS {
        let mut record = records[number % records.len()].clone();
        let name = format!("{}-{number}", record["affected"][0]["package"]["name"].as_str().unwrap());
        record["id"] = format!("MAL-2026-{number}").into();
        record["affected"][0]["package"]["name"] = name.clone().into();
        names.push(name);
        let method = rawzip::CompressionMethod::DEFLATE;
        let path = format!("MAL-2026-{number}.json");
        let (mut entry, config) = zip.new_file(path.as_str()).compression_method(method).start().unwrap();
        let mut writer = config.wrap(flate2::write::DeflateEncoder::new(&mut entry, flate2::Compression::fast()));
        writer.write_all(record.to_string().as_bytes()).unwrap();
        let (encoder, descriptor) = writer.finish().unwrap();
        encoder.finish().unwrap();
        entry.finish(descriptor).unwrap();
    }
    zip.finish().unwrap().flush().unwrap();
    names
}

#[expect(clippy::cast_precision_loss, reason = "the count is a few hundred thousand")]
fn nanoseconds(begun: Instant, count: usize) -> f64 {
    begun.elapsed().as_secs_f64() * 1e9 / count as f64
}

fn resident() -> u64 {
    status("VmRSS:")
}

fn peak() -> u64 {
    status("VmHWM:")
}

fn status(field: &str) -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix(field)).unwrap_or_default().to_owned();
    line.trim().trim_end_matches("kB").trim().parse().unwrap_or_default()
}
