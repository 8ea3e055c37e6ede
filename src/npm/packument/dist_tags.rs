//! Retargets dist-tags whose target is hidden. Not by date, which would make backports of newer releases `latest`.

use std::collections::HashMap;

use crate::npm::packument::index::{Packument, VersionEntry};
use crate::npm::semver::version::Version;

/// Returns the shown version that `tag` points to if `target` is hidden or missing. `previous` are the tag's earlier trusted
/// targets, newest first. `None` means that the tag is dropped.
///
/// The result is the first previous target that is shown. Otherwise it is the highest shown version at or below the target by
/// SemVer precedence: stable if the target is stable, else of the same prerelease channel. Deprecated versions are used only if
/// there is no other. Only `latest` falls back further, because pnpm and yarn 4 fail without it.
pub fn retarget<'a>(packument: &'a Packument, shown: &[bool], tag: &str, target: &str, previous: &[&str]) -> Option<&'a str> {
    let visible = |key: &&str| packument.find(key).filter(|(at, _)| shown[*at]).map(|(_, entry)| &*entry.key);
    if let Some(before) = previous.iter().find_map(visible) {
        return Some(before);
    }
    let target = Version::parse(target);
    let candidates = || packument.entries.iter().zip(shown).filter(|(_, shown)| **shown).map(|(entry, _)| entry);
    let below =
        |entry: &VersionEntry| entry.version.as_ref().zip(target.as_ref()).is_some_and(|(version, target)| version <= target);
    let channel = target.as_ref().and_then(Version::prerelease_channel);
    let same_channel =
        |entry: &VersionEntry| entry.version.as_ref().is_some_and(|version| version.prerelease_channel() == channel);

    let bounded = highest(candidates().filter(|entry| below(entry) && same_channel(entry)));
    if bounded.is_some() || tag != "latest" {
        return bounded;
    }
    let stable = |entry: &&VersionEntry| entry.version.as_ref().is_some_and(|version| !version.is_prerelease());
    highest(candidates().filter(|entry| below(entry)).filter(stable))
        .or_else(|| highest(candidates().filter(|entry| below(entry))))
        .or_else(|| highest(candidates().filter(stable)))
        .or_else(|| highest(candidates()))
}

/// Like [`retarget`], for many dist-tags. Sorts the shown versions once: thousands of tags on hidden versions cost O(n log n).
pub struct Retargets<'a> {
    packument: &'a Packument,
    shown: &'a [bool],
    versioned: Ladder<'a>,
    /// The highest of all, including entries whose key is not a version.
    highest: Option<&'a str>,
    channels: HashMap<Option<&'a str>, Ladder<'a>>,
}

impl<'a> Retargets<'a> {
    pub fn new(packument: &'a Packument, shown: &'a [bool]) -> Self {
        let mut entries: Vec<&VersionEntry> =
            packument.entries.iter().zip(shown).filter(|(_, shown)| **shown).map(|(entry, _)| entry).collect();
        entries.sort_by(|left, right| left.version.cmp(&right.version));
        let highest = highest(entries.iter().copied());
        let mut channels: HashMap<_, Ladder<'_>> = HashMap::new();
        let mut versioned = Ladder::default();
        for entry in entries {
            if let Some(version) = &entry.version {
                channels.entry(version.prerelease_channel()).or_default().push(entry);
                versioned.push(entry);
            }
        }
        Self { packument, shown, versioned, highest, channels }
    }

    /// Returns the same as [`retarget`].
    pub fn find(&self, tag: &str, target: &str, previous: &[&str]) -> Option<&'a str> {
        let visible = |key: &&str| self.packument.find(key).filter(|(at, _)| self.shown[*at]).map(|(_, entry)| &*entry.key);
        if let Some(before) = previous.iter().find_map(visible) {
            return Some(before);
        }
        let target = Version::parse(target);
        let (stable, below) = (self.channels.get(&None), target.as_ref());
        let bounded = below.and_then(|below| self.channels.get(&below.prerelease_channel())?.at_or_below(below));
        if bounded.is_some() || tag != "latest" {
            return bounded;
        }
        stable
            .and_then(|ladder| ladder.at_or_below(below?))
            .or_else(|| self.versioned.at_or_below(below?))
            .or_else(|| stable?.highest())
            .or(self.highest)
    }
}

/// Entries with a version in ascending order, each with the best entry up to and including itself.
#[derive(Default)]
struct Ladder<'a>(Vec<(&'a VersionEntry, &'a VersionEntry)>);

impl<'a> Ladder<'a> {
    fn push(&mut self, entry: &'a VersionEntry) {
        let better = self.0.last().map(|(_, best)| *best).filter(|best| entry.traits.deprecated && !best.traits.deprecated);
        self.0.push((entry, better.unwrap_or(entry)));
    }

    fn at_or_below(&self, target: &Version) -> Option<&'a str> {
        let count = self.0.partition_point(|(entry, _)| entry.version.as_ref().is_some_and(|version| version <= target));
        let (_, best) = self.0.get(count.checked_sub(1)?)?;
        Some(&*best.key)
    }

    fn highest(&self) -> Option<&'a str> {
        self.0.last().map(|(_, best)| &*best.key)
    }
}

/// Returns the highest version. Deprecated ones are used only if there is no other.
pub(crate) fn highest<'a>(entries: impl Iterator<Item = &'a VersionEntry>) -> Option<&'a str> {
    entries
        .max_by(|left, right| (!left.traits.deprecated, &left.version).cmp(&(!right.traits.deprecated, &right.version)))
        .map(|entry| &*entry.key)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::npm::name::PackageName;
    use crate::npm::packument::parse::parse;

    /// Returns a packument with these versions; a leading `-` marks a deprecated one.
    fn packument(versions: &[&str]) -> Packument {
        let manifests: Vec<_> = versions
            .iter()
            .map(|text| {
                let version = text.trim_start_matches('-');
                let deprecated = if text.starts_with('-') { r#","deprecated":"x""# } else { "" };
                format!(r#""{version}":{{"name":"demo","version":"{version}","dist":{{"tarball":"x"}}{deprecated}}}"#)
            })
            .collect();
        let document = format!(r#"{{"name":"demo","versions":{{{}}}}}"#, manifests.join(","));
        parse(&PackageName::parse("demo").unwrap(), document.as_bytes()).unwrap().packument
    }

    fn moved(versions: &[&str], hidden: &[&str], tag: &str, target: &str, previous: &[&str]) -> Option<String> {
        let packument = packument(versions);
        let shown: Vec<_> = packument.entries.iter().map(|entry| !hidden.contains(&&*entry.key)).collect();
        let moved = retarget(&packument, &shown, tag, target, previous);
        assert_eq!(Retargets::new(&packument, &shown).find(tag, target, previous), moved);
        moved.map(str::to_owned)
    }

    #[test]
    fn retargets_agree_with_retarget() {
        let versions = ["1.0.0", "-1.1.0", "1.2.0-beta.1", "1.2.0-rc.1", "-1.2.0", "2.0.0-beta.1", "2.0.0", "-3.0.0", "junk"];
        for hidden in 0..1_u32 << versions.len() {
            let hidden: Vec<_> = (0..versions.len()).filter(|bit| hidden & (1 << bit) != 0).map(|bit| versions[bit]).collect();
            let hidden: Vec<_> = hidden.iter().map(|text| text.trim_start_matches('-')).collect();
            let packument = packument(&versions);
            let shown: Vec<_> = packument.entries.iter().map(|entry| !hidden.contains(&&*entry.key)).collect();
            let many = Retargets::new(&packument, &shown);
            for tag in ["latest", "next"] {
                for target in ["0.1.0", "1.2.0-beta.9", "1.2.0", "2.0.0-beta.1", "3.0.0", "4.0.0-alpha.1", "no version"] {
                    let expected = retarget(&packument, &shown, tag, target, &[]);
                    assert_eq!(many.find(tag, target, &[]), expected, "{tag} {target} without {hidden:?}");
                }
            }
        }
    }

    #[test]
    fn invalid_version_keys_are_below_nothing() {
        assert_eq!(moved(&["junk", "-2.0.0-rc.1"], &[], "latest", "2.1.0-beta", &[]).as_deref(), Some("2.0.0-rc.1"));
        assert_eq!(moved(&["junk", "-1.0.0"], &[], "latest", "0.1.0", &[]).as_deref(), Some("1.0.0"));
    }

    #[test]
    fn tag_moves_to_its_previous_target() {
        assert_eq!(moved(&["1.0.0", "1.1.0", "1.2.0"], &["1.2.0"], "latest", "1.2.0", &["1.0.0"]).as_deref(), Some("1.0.0"));
        assert_eq!(
            moved(&["1.0.0", "1.1.0", "1.2.0"], &["1.1.0", "1.2.0"], "latest", "1.2.0", &["1.1.0", "1.0.0"]).as_deref(),
            Some("1.0.0")
        );
    }

    #[test]
    fn tag_moves_to_the_highest_version_at_or_below_its_target() {
        let versions = ["1.0.0", "1.10.0", "1.9.0", "2.0.0", "0.35.0", "3.0.0"];
        assert_eq!(moved(&versions, &["2.0.0"], "latest", "2.0.0", &[]).as_deref(), Some("1.10.0"));
        assert_eq!(moved(&["1.0.0", "1.1.0-rc.1", "1.1.0"], &["1.1.0"], "latest", "1.1.0", &[]).as_deref(), Some("1.0.0"));
        assert_eq!(moved(&["1.0.0", "-1.1.0", "1.2.0"], &["1.2.0"], "latest", "1.2.0", &[]).as_deref(), Some("1.0.0"));
        assert_eq!(moved(&["-1.1.0", "1.2.0"], &["1.2.0"], "latest", "1.2.0", &[]).as_deref(), Some("1.1.0"));
    }

    #[test]
    fn prerelease_tag_stays_in_its_channel_or_is_dropped() {
        let versions = ["1.0.0", "2.0.0-alpha.9", "2.0.0-beta.1", "2.0.0-beta.2"];
        assert_eq!(moved(&versions, &["2.0.0-beta.2"], "next", "2.0.0-beta.2", &[]).as_deref(), Some("2.0.0-beta.1"));
        assert_eq!(moved(&versions, &["2.0.0-beta.2", "2.0.0-beta.1"], "next", "2.0.0-beta.2", &[]), None);
    }

    #[test]
    fn latest_is_dropped_only_if_nothing_is_shown() {
        assert_eq!(moved(&["1.0.0-rc.1", "1.0.0"], &["1.0.0"], "latest", "1.0.0", &[]).as_deref(), Some("1.0.0-rc.1"));
        assert_eq!(moved(&["1.0.0", "2.0.0"], &["1.0.0"], "latest", "1.0.0", &[]).as_deref(), Some("2.0.0"));
        assert_eq!(moved(&["1.0.0", "2.0.0"], &["1.0.0"], "stable", "1.0.0", &[]), None);
        assert_eq!(moved(&["1.0.0"], &["1.0.0"], "latest", "1.0.0", &[]), None);
        assert_eq!(moved(&["1.0.0"], &[], "latest", "not a version", &[]).as_deref(), Some("1.0.0"));
    }
}
