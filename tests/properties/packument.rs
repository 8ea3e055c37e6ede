//! Untrusted packuments: an accepted document is rendered as JSON with exactly the selected versions, compressed and plain. Each
//! version's tarball address parses to that version.
//!
//! An input is the packument of `demo`.

use std::io::Read as _;
use std::sync::LazyLock;

use coldframe::npm::compression::SegmentEncoder;
use coldframe::npm::packument::parse;
use coldframe::npm::packument::render::{RenderSource, VersionFilter};
use coldframe::npm::{Endpoint, PackageName, PackumentForm};
use coldframe::npm::{PackumentView, tarball_url};

static NAME: LazyLock<PackageName> = LazyLock::new(|| PackageName::parse("demo").expect("a name"));

/// Panics if the rendered document differs from the selection.
pub fn holds(document: &[u8]) {
    let Ok(ingested) = parse::parse(&NAME, document) else { return };
    let entries = &ingested.packument.entries;
    let shown: Vec<_> = entries.iter().enumerate().map(|(at, entry)| at % 2 == 0 && entry.inconsistency.is_none()).collect();
    for form in [PackumentForm::Full, PackumentForm::Abbreviated] {
        let alone = |at: usize| !shown[at];
        let (base, mut encoder) = ("http://127.0.0.1:1", SegmentEncoder::default());
        let view = PackumentView::render(
            RenderSource { document, packument: &ingested.packument, fields: &ingested.fields },
            form,
            base,
            &alone,
            &mut encoder,
        );
        let choice = VersionFilter { shown: &shown, tags: Some(&[]), restrictions: Some("{}") };
        let assembly = view.assemble(&choice).expect("hidden versions have their own runs");
        let written = assembly.identity();
        let again =
            parse::parse(&NAME, &written).unwrap_or_else(|error| panic!("{error}: {}", String::from_utf8_lossy(&written)));
        let kept: Vec<_> = entries.iter().zip(&shown).filter(|(_, shown)| **shown).map(|(entry, _)| &entry.key).collect();
        assert_eq!(again.packument.entries.iter().map(|entry| &entry.key).collect::<Vec<_>>(), kept);
        assert!(
            again.packument.entries.iter().all(|entry| entry.inconsistency.is_none()),
            "{}",
            String::from_utf8_lossy(&written)
        );
        let (mut inflated, coded) = (Vec::new(), assembly.packed().concat());
        flate2::bufread::GzDecoder::new(&*coded).read_to_end(&mut inflated).expect("one gzip member");
        assert_eq!(inflated, written);
    }
    for entry in entries.iter().filter(|entry| entry.inconsistency.is_none()) {
        let found = Endpoint::parse("GET", &tarball_url("", &NAME, &entry.key), None);
        assert_eq!(found, Ok(Endpoint::Tarball { name: NAME.clone(), version: entry.key.to_string() }));
    }
}
