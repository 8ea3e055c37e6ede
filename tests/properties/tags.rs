//! The history of dist-tags: it records only targets that upstream stated, dated by the fetches, and a hidden tag moves to a
//! shown version.
//!
//! An input is a list of lines of words. `v VERSION` and `v VERSION old` publish, `h VERSION` hides or shows, `t TAG VERSION` and
//! `d TAG` move and delete a dist-tag. `look MINUTES` advances the clock and fetches; `gone MINUTES` does the same while the
//! registry lacks the package.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use coldframe::firewall::package::history::{Look, NOWHERE, Parted, mark_all_removed, reconcile};
use coldframe::npm::packument::dist_tags::{Retargets, retarget};
use coldframe::npm::packument::parse;
use coldframe::npm::{PackageName, PackumentForm, Version};
use coldframe::store::{PackageChange, PackageRecord, StoredPackument};
use coldframe::upstream::TimeMode;
use jiff::{SignedDuration, Timestamp};
use serde_json::{Value, json};

/// Maximum number of lines: longer histories take longer and reach nothing new.
const MAX_LINES: usize = 300;

/// The state of upstream, and the facts at each fetch.
#[derive(Default)]
struct Upstream {
    versions: BTreeMap<String, bool>,
    hidden: BTreeSet<String>,
    tags: BTreeMap<String, String>,
    /// The first and last fetch in which a tag had a target.
    stated: BTreeMap<(String, String), (Timestamp, Timestamp)>,
    record: PackageRecord,
    now: Timestamp,
}

/// Panics if the history has a target that upstream never stated, or if a tag moves to a hidden version.
pub fn holds(input: &[u8]) {
    let text = String::from_utf8_lossy(input);
    let mut upstream = Upstream::default();
    for line in text.lines().take(MAX_LINES) {
        let words: Vec<&str> = line.split_whitespace().collect();
        match words.as_slice() {
            ["v", version] => drop(upstream.versions.insert((*version).to_owned(), false)),
            ["v", version, "old"] => drop(upstream.versions.insert((*version).to_owned(), true)),
            ["h", version] => upstream.hide_or_show(version),
            ["t", tag, version] => drop(upstream.tags.insert((*tag).to_owned(), (*version).to_owned())),
            ["d", tag] => drop(upstream.tags.remove(*tag)),
            ["look", minutes] => {
                upstream.pass(minutes);
                upstream.look();
            }
            ["gone", minutes] => {
                upstream.pass(minutes);
                upstream.look_in_vain();
            }
            _ => {}
        }
    }
}

impl Upstream {
    fn hide_or_show(&mut self, version: &str) {
        if !self.hidden.remove(version) {
            self.hidden.insert(version.to_owned());
        }
    }

    fn pass(&mut self, minutes: &str) {
        let minutes = minutes.parse::<u32>().unwrap_or_default() % 100_000;
        self.now += SignedDuration::from_mins(i64::from(minutes));
    }

    fn look_in_vain(&mut self) {
        let change = mark_all_removed(&self.record, self.now).change;
        let document = StoredPackument { content: None, ..self.document() };
        self.record.apply(&PackageChange { document: Some(document), ..change });
        self.check_history();
    }

    fn document(&self) -> StoredPackument {
        StoredPackument {
            first_seen: self.record.document.as_ref().map_or(self.now, |last| last.first_seen),
            validated: self.now,
            changed: self.now,
            looked: self.now,
            modified: None,
            content: Some([0; 32]),
            length: 1,
            etag: None,
            last_modified: None,
            form: Some(PackumentForm::Full),
        }
    }

    fn look(&mut self) {
        let name = PackageName::parse("demo").expect("a name");
        let manifest = |(version, deprecated): (&String, &bool)| {
            let mut manifest = json!({ "name": "demo", "version": version, "dist": { "tarball": format!("https://registry.example/demo/-/demo-{version}.tgz") } });
            if *deprecated {
                manifest["deprecated"] = Value::from("old");
            }
            (version.clone(), manifest)
        };
        let versions: serde_json::Map<String, Value> = self.versions.iter().map(manifest).collect();
        let document = json!({ "name": "demo", "dist-tags": self.tags, "versions": versions }).to_string();
        let Ok(read) = parse::parse(&name, document.as_bytes()) else { return };
        let packument = read.packument;
        let diverged = Parted::new();
        let look = Look {
            packument: &packument,
            form: PackumentForm::Full,
            at: self.now,
            mode: TimeMode::Checked,
            longest_age: Duration::from_hours(72),
            diverged: &diverged,
            other_token: None,
            tokens: None,
            stranger: false,
        };
        let change = reconcile(&self.record, &[], &look).change;
        self.record.apply(&PackageChange { document: Some(self.document()), ..change });
        for (tag, version) in &packument.dist_tags {
            let seen = self.stated.entry((tag.to_string(), version.to_string())).or_insert((self.now, self.now));
            seen.1 = self.now;
        }
        self.check_history();
        self.check_targets(&packument);
    }

    fn check_history(&self) {
        for sighting in self.record.tags.iter().filter(|sighting| *sighting.version != *NOWHERE) {
            let target = (sighting.tag.to_string(), sighting.version.to_string());
            let (first, last) = self.stated.get(&target).expect("a target that upstream stated");
            assert!(sighting.first_seen <= sighting.last_seen, "{sighting:?}");
            assert!(*first <= sighting.first_seen && sighting.last_seen <= *last, "{sighting:?} was seen from {first} to {last}");
        }
        let is_there = self.record.document.as_ref().is_some_and(|document| document.content.is_some());
        let is_recorded = |(tag, version): &(&String, &String)| is_there && tag.len() <= 256 && version.len() <= 256;
        for (tag, version) in self.tags.iter().filter(is_recorded) {
            let of_tag = self.record.tags.iter().filter(|sighting| *sighting.tag == **tag);
            let newest = of_tag.max_by_key(|sighting| sighting.first_seen).map(|sighting| sighting.first_seen);
            let is_newest = |sighting: &coldframe::store::TagSighting| {
                *sighting.tag == **tag && *sighting.version == **version && Some(sighting.first_seen) == newest
            };
            let is_read = self.stated.contains_key(&(tag.clone(), version.clone()));
            assert!(!is_read || self.record.tags.iter().any(is_newest), "`{tag}` points to {version}");
        }
    }

    fn check_targets(&self, packument: &coldframe::npm::Packument) {
        let shown: Vec<bool> = packument.entries.iter().map(|entry| !self.hidden.contains(&*entry.key)).collect();
        let many = Retargets::new(packument, &shown);
        for (tag, target) in &packument.dist_tags {
            let previous: Vec<&str> = self.record.tags.iter().rev().map(|sighting| &*sighting.version).collect();
            for previous in [&previous[..], &[]] {
                let moved = retarget(packument, &shown, tag, target, previous);
                assert_eq!(many.find(tag, target, previous), moved, "`{tag}` from {target}");
                let Some(moved) = moved else {
                    assert!(
                        **tag != *"latest" || shown.iter().all(|shown| !shown),
                        "`latest` is dropped while a version is shown"
                    );
                    continue;
                };
                let (at, entry) = packument.find(moved).expect("a version of the packument");
                assert!(shown[at], "`{tag}` moves to {moved}, which is hidden");
                let is_above = |target: Version| entry.version.as_ref().is_some_and(|version| *version > target);
                let rises = Version::parse(target).is_some_and(is_above);
                assert!(!rises || **tag == *"latest" || previous.contains(&moved), "`{tag}` rises from {target} to {moved}");
            }
        }
    }
}
