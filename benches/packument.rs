//! Times the packument engine on captured documents (`just capture`), or on one that is made up when there are none.
//! Prints the best of several rounds, beside a bare validation of the same bytes, so that machines compare by ratio.
#![expect(clippy::expect_used, reason = "a benchmark that cannot go on says so by panicking")]
#![expect(clippy::print_stdout, reason = "a benchmark reports to a terminal")]

use std::cell::RefCell;
use std::hint::black_box;
use std::time::{Duration, Instant};

use coldframe::npm::press::{Packing, Press};
use coldframe::npm::render::{Choice, View};
use coldframe::npm::{Form, PackageName, brotli, ingest};

/// As in the program.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

const ROUNDS: usize = 9;

fn main() {
    let mut documents = captured();
    if documents.is_empty() {
        documents.push((PackageName::parse("demo").expect("a name"), made_up(3_000)));
    }
    println!(
        "{:<24} {:>9} {:>8} {:>11} {:>10} {:<6} {:>11} {:>11} {:>10} {:>9} {:>8}",
        "package", "MB", "versions", "validate ms", "ingest ms", "coding", "full ms", "abbrev. ms", "join ms", "plain ms", "MB"
    );
    for (name, document) in documents {
        measure(&name, &document);
    }
}

fn measure(name: &PackageName, document: &[u8]) {
    let ingested = ingest::ingest(name, document).expect("a packument");
    let count = ingested.packument.entries.len();
    let young = |at: usize| at + 5 >= count;
    print!(
        "{:<24} {:>9.2} {:>8} {:>11.2} {:>10.2}",
        name.as_str(),
        mega(document.len()),
        count,
        best(|| serde_json::from_slice::<&serde_json::value::RawValue>(document).map(drop)),
        best(|| ingest::ingest(name, document).map(drop)),
    );
    let shown: Vec<_> = (0..count).map(|at| !young(at)).collect();
    let choice = Choice { shown: &shown, tags: None, restrictions: None };
    for (coding, packing) in [("gzip", Packing::Gzip), ("zstd", Packing::Zstd)] {
        let press = RefCell::new(Press::of(packing));
        let render = |form| {
            View::render(
                document,
                &ingested.packument,
                &ingested.fields,
                form,
                "http://127.0.0.1:4873",
                &young,
                &mut press.borrow_mut(),
            )
        };
        let view = render(Form::Full);
        let join = || view.assemble(&choice).map(|assembly| assembly.packed());
        let plain = || view.assemble(&choice).map(|assembly| assembly.identity());
        let size: usize = join().iter().flatten().map(bytes::Bytes::len).sum();
        let indent = if packing == Packing::Gzip { 0 } else { 66 };
        println!(
            "{:indent$} {coding:<6} {:>11.2} {:>11.2} {:>10.3} {:>9.2} {:>8.2}",
            "",
            best(|| render(Form::Full)),
            best(|| render(Form::Abbreviated)),
            best(join),
            best(plain),
            mega(size)
        );
        if packing == Packing::Zstd {
            let plain = plain().expect("young versions stand alone");
            let (ms, size) = (best(|| brotli::compress(&plain)), mega(brotli::compress(&plain).len()));
            println!("{:indent$} {:<6} {ms:>11.2} {:>11} {:>10} {:>9} {size:>8.2}", "", "br", "-", "-", "-");
        }
    }
}

/// The best of the rounds, in milliseconds.
fn best<T>(mut work: impl FnMut() -> T) -> f64 {
    let rounds = (0..ROUNDS).map(|_| {
        let start = Instant::now();
        black_box(work());
        start.elapsed()
    });
    rounds.min().unwrap_or(Duration::ZERO).as_secs_f64() * 1e3
}

#[expect(clippy::cast_precision_loss, reason = "sizes are told to two digits")]
fn mega(bytes: usize) -> f64 {
    bytes as f64 / 1e6
}

fn captured() -> Vec<(PackageName, Vec<u8>)> {
    let Ok(folder) = std::fs::read_dir("corpus") else { return Vec::new() };
    let mut found: Vec<_> = folder
        .flatten()
        .filter_map(|file| {
            let stem = file.path().file_stem()?.to_str()?.replace("%2f", "/");
            Some((PackageName::parse(&stem).ok()?, std::fs::read(file.path()).ok()?))
        })
        .collect();
    found.sort_by(|one, other| one.0.cmp(&other.0));
    found
}

fn made_up(versions: usize) -> Vec<u8> {
    let manifests: Vec<_> = (0..versions)
        .map(|patch| {
            format!(
                r#""1.0.{patch}":{{"name":"demo","version":"1.0.{patch}","description":"a package that was made up","dependencies":{{"left-pad":"^{patch}.0.0"}},"scripts":{{"test":"x"}},"dist":{{"tarball":"https://registry.example/demo/-/demo-1.0.{patch}.tgz","shasum":"{:040x}"}}}}"#,
                patch * 7919
            )
        })
        .collect();
    format!(r#"{{"name":"demo","dist-tags":{{"latest":"1.0.0"}},"versions":{{{}}}}}"#, manifests.join(",")).into_bytes()
}
