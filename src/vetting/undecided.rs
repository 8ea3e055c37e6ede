//! Determines from packuments alone which signals a release may have: those that a comparison with its baseline does not exclude.
//! A rule that requires a signal's absence does not match while the signal is undecided. Pure.

use std::time::Duration;

use crate::npm::packument::index::VersionEntry;
use crate::vetting::names::{Signal, Signals};

/// Minimum age difference between a release and its baseline: an attack this month cannot have created the baseline.
pub const BASELINE_AGE: Duration = Duration::from_secs(30 * 24 * 3600);

/// Returns the signals of `entry` that the baseline does not exclude: all of them if the baseline is empty.
#[must_use]
pub fn undecided<'a>(entry: &VersionEntry, baseline: impl Iterator<Item = &'a VersionEntry>) -> Signals {
    let traits = entry.traits;
    let mut open: Vec<Signal> = Signal::ALL.to_vec();
    let mut any = false;
    let mut lost = Vec::new();
    let mut known = |signal: Signal, is_excluded: bool| {
        if is_excluded {
            open.retain(|candidate| *candidate != signal);
        }
    };
    let is_remote = |entry: &VersionEntry| entry.traits.git_dependency || entry.traits.url_dependency;
    known(Signal::FirstInstallScript, !traits.install_script);
    known(Signal::BindingGypAdded, !entry.outline.has_gyp);
    known(Signal::RemoteDependencyAdded, !is_remote(entry));
    known(Signal::NewbornDependency, entry.outline.dependencies.is_none());
    known(Signal::DeprecatedYoung, !traits.deprecated);
    for before in baseline {
        any = true;
        known(Signal::FirstInstallScript, before.traits.install_script);
        known(Signal::BindingGypAdded, before.outline.has_gyp);
        known(Signal::RemoteDependencyAdded, is_remote(before));
        known(Signal::NewbornDependency, before.outline.dependencies == entry.outline.dependencies);
        known(Signal::NewPublisher, before.publisher.is_some() && before.publisher == entry.publisher);
        known(Signal::MaintainersChanged, before.maintainers == entry.maintainers);
        if before.outline.has_provenance && !entry.outline.has_provenance {
            lost.push(Signal::ProvenanceLost);
        }
        if before.outline.is_trusted && !entry.outline.is_trusted {
            lost.push(Signal::TrustedPublisherLost);
        }
    }
    if !any {
        return Signal::ALL.iter().copied().collect();
    }
    // These weak signals need more than a packument and are left to vetting.
    open.retain(|signal| {
        !matches!(
            signal,
            Signal::PublisherEmailChanged
                | Signal::Dormant
                | Signal::ReleaseBurst
                | Signal::SizeJump
                | Signal::VersionJump
                | Signal::CommitLost
                | Signal::ToolChanged
                | Signal::ShrinkwrapAdded
                | Signal::ProvenanceLost
                | Signal::TrustedPublisherLost
        )
    });
    open.into_iter().chain(lost).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::npm::PackageName;
    use crate::npm::packument::parse;

    /// Returns the signals that `new` may have after `old`, both given as extra members of a manifest.
    fn may_show(old: &str, new: &str) -> Vec<&'static str> {
        let manifest = |version: &str, more: &str| {
            format!(r#""{version}":{{"name":"demo","version":"{version}","dist":{{"tarball":"x"}}{more}}}"#)
        };
        let document = format!(r#"{{"name":"demo","versions":{{{},{}}}}}"#, manifest("1.0.0", old), manifest("1.0.1", new));
        let read = parse::parse(&PackageName::parse("demo").unwrap(), document.as_bytes()).unwrap().packument;
        undecided(&read.entries[1], read.entries[..1].iter()).iter().map(Signal::as_str).collect()
    }

    #[test]
    fn unchanged_facts_are_excluded() {
        let same = r#","_npmUser":{"name":"ada"},"scripts":{"install":"x"},"dependencies":{"a":"^1","b":"^1"}"#;
        let bumped = r#","_npmUser":{"name":"ada"},"scripts":{"install":"y"},"dependencies":{"b":"^2","a":"^2"}"#;
        assert_eq!(may_show(same, bumped), [""; 0]);
        assert_eq!(may_show(same, r#","_npmUser":{"name":"ada"}"#), [""; 0], "removed members are not signals");
    }

    #[test]
    fn new_or_lost_facts_are_undecided() {
        let ada = r#","_npmUser":{"name":"ada"}"#;
        let with = |more: &str| format!("{ada}{more}");
        assert_eq!(may_show(ada, &with(r#","scripts":{"postinstall":"x"}"#)), ["first-install-script"]);
        assert_eq!(may_show(ada, &with(r#","gypfile":true"#)), ["binding-gyp-added"]);
        assert_eq!(may_show(ada, &with(r#","dependencies":{"a":"1"}"#)), ["newborn-dependency"]);
        let remote = may_show(ada, &with(r#","dependencies":{"a":"git+https://x/y"}"#));
        assert_eq!(remote, ["remote-dependency-added", "newborn-dependency"]);
        assert_eq!(may_show(ada, r#","_npmUser":{"name":"mallory"}"#), ["new-publisher"]);
        assert_eq!(may_show("", ""), ["new-publisher"], "unknown publishers are never equal");
        let trusted = r#","_npmUser":{"name":"ada","trustedPublisher":{"id":"github"}}"#;
        assert_eq!(may_show(trusted, ada), ["trusted-publisher-lost"]);
    }
}
