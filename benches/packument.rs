//! Times the packument engine on captured documents (`just capture`), or on a generated one. Prints the best of several rounds
//! next to a bare JSON validation of the same bytes, so that machines compare by ratio.
#![expect(clippy::expect_used, reason = "a benchmark panics on errors")]
#![expect(clippy::print_stdout, reason = "a benchmark reports to a terminal")]

#[path = "documents/mod.rs"]
mod documents;

use std::cell::RefCell;

use coldframe::npm::PackumentView;
use coldframe::npm::compression::{SegmentEncoder, SegmentFormat};
use coldframe::npm::packument::parse;
use coldframe::npm::packument::render::{RenderSource, VersionFilter};
use coldframe::npm::{PackageName, PackumentForm};

use documents::{best, captured, made_up};

/// The same allocator as in the binary.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

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
    let ingested = parse::parse(name, document).expect("a packument");
    let count = ingested.packument.entries.len();
    let young = |at: usize| at + 5 >= count;
    print!(
        "{:<24} {:>9.2} {:>8} {:>11.2} {:>10.2}",
        name.as_str(),
        mega(document.len()),
        count,
        best(|| serde_json::from_slice::<&serde_json::value::RawValue>(document).map(drop)),
        best(|| parse::parse(name, document).map(drop)),
    );
    let shown: Vec<_> = (0..count).map(|at| !young(at)).collect();
    let choice = VersionFilter { shown: &shown, tags: None, restrictions: None };
    for (coding, packing) in [("gzip", SegmentFormat::Gzip), ("zstd", SegmentFormat::Zstd)] {
        let encoder = RefCell::new(SegmentEncoder::of(packing));
        let render = |form| {
            PackumentView::render(
                RenderSource { document, packument: &ingested.packument, fields: &ingested.fields },
                form,
                "http://127.0.0.1:4873",
                &young,
                &mut encoder.borrow_mut(),
            )
        };
        let view = render(PackumentForm::Full);
        let join = || view.assemble(&choice).map(|assembly| assembly.packed());
        let plain = || view.assemble(&choice).map(|assembly| assembly.identity());
        let size: usize = join().iter().flatten().map(bytes::Bytes::len).sum();
        let indent = if packing == SegmentFormat::Gzip { 0 } else { 66 };
        println!(
            "{:indent$} {coding:<6} {:>11.2} {:>11.2} {:>10.3} {:>9.2} {:>8.2}",
            "",
            best(|| render(PackumentForm::Full)),
            best(|| render(PackumentForm::Abbreviated)),
            best(join),
            best(plain),
            mega(size)
        );
    }
}

#[expect(clippy::cast_precision_loss, reason = "sizes are printed with two digits")]
fn mega(bytes: usize) -> f64 {
    bytes as f64 / 1e6
}
