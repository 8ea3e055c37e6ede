//! Two manifests, separated by a zero byte: each equals itself, differences are printable, and the order does not matter.

use coldframe::vetting::manifest::{Manifest, TarballTraits};

/// Panics if a manifest differs from itself, or if a difference is seen in one direction only.
pub fn holds(input: &[u8]) {
    let mut halves = input.splitn(2, |byte| *byte == 0);
    let mut next = || Manifest::parse(halves.next().unwrap_or_default());
    let (first, second) = (next(), next());
    let plain = TarballTraits::default();
    for manifest in [&first, &second].into_iter().flatten() {
        for traits in [plain, TarballTraits { has_gyp: true, has_shrinkwrap: false }] {
            assert!(manifest.states_install() || !manifest.builds_implicitly(traits) || traits.has_gyp);
        }
        assert!(manifest.differences(manifest, plain).iter().all(|text| text.starts_with("scripts: ")), "{manifest:?}");
    }
    for error in [&first, &second].into_iter().filter_map(|manifest| manifest.as_ref().err()) {
        assert!(error.len() < 1_000, "{error}");
    }
    let (Ok(first), Ok(second)) = (first, second) else { return };
    let (forth, back) = (first.differences(&second, plain), second.differences(&first, plain));
    for text in forth.iter().chain(&back) {
        assert!(!text.chars().any(char::is_control) && text.len() < 8_000, "{text}");
    }
    let names = |texts: &[String]| -> Vec<String> {
        let name = |text: &String| text.split([':', ' ']).next().unwrap_or_default().to_owned();
        texts.iter().map(name).filter(|name| name != "scripts").collect()
    };
    assert_eq!(names(&forth), names(&back));
}
