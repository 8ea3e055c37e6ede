//! Whatever upstream sends: the reader never panics, and what it takes is written again as JSON that holds just the
//! versions that were chosen.
#![no_main]

use std::sync::LazyLock;

use coldframe::npm::press::Press;
use coldframe::npm::render::{Choice, View};
use coldframe::npm::{Form, PackageName, ingest};
use libfuzzer_sys::fuzz_target;

static NAME: LazyLock<PackageName> = LazyLock::new(|| PackageName::parse("demo").expect("a name"));

fuzz_target!(|document: &[u8]| {
    let Ok(ingested) = ingest::ingest(&NAME, document) else { return };
    let count = ingested.packument.entries.len();
    for form in [Form::Full, Form::Abbreviated] {
        let entries = &ingested.packument.entries;
        let shown: Vec<_> = (0..count).map(|at| at % 2 == 0 && entries[at].flaw.is_none()).collect();
        let view = View::render(document, &ingested.packument, &ingested.fields, form, "http://127.0.0.1:1", &|at| !shown[at], &mut Press::default());
        let choice = Choice { shown: &shown, tags: Some(&[]), restrictions: Some("{}") };
        let written = view.assemble(&choice).expect("hidden versions stand alone").identity();
        let again = ingest::ingest(&NAME, &written).unwrap_or_else(|error| panic!("{error}: {}", String::from_utf8_lossy(&written)));
        let kept: Vec<_> = entries.iter().zip(&shown).filter(|(_, shown)| **shown).map(|(entry, _)| &entry.key).collect();
        assert_eq!(again.packument.entries.iter().map(|entry| &entry.key).collect::<Vec<_>>(), kept);
    }
});
