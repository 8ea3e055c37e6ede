//! The audit with which npm ends an install: passed on, and answered with what was held back of the packages in it,
//! worked out from what is known, without fetching anything.

use std::collections::HashMap;
use std::fmt::Write as _;
use std::sync::Arc;

use bytes::Bytes;
use jiff::Timestamp;

use super::known::Slot;
use super::{Asker, Inner, Rejection, refusal};
use crate::npm::{PackageName, Version, instant};
use crate::upstream::{Passage, Passed};

/// Releases named in one notice: beyond that they are counted.
const NAMED: usize = 6;

/// A newer release that an install did not get.
struct HeldBack {
    name: PackageName,
    version: Version,
    opens: Option<Timestamp>,
}

impl Inner {
    pub(super) async fn audit(
        self: &Arc<Self>,
        asker: &Asker,
        passage: Passage,
        body: Bytes,
        bulk: bool,
    ) -> Result<(Passed, Option<String>), Rejection> {
        let notice = if bulk { self.notice(asker, &body) } else { None };
        let passed = self.pass(asker, None, passage).await?;
        Ok((self.advise(asker, passed, &body, bulk), notice))
    }

    /// What was held back of the packages of a bulk audit (`{"name": ["version"]}`): one line of ASCII.
    fn notice(&self, asker: &Asker, bulk: &[u8]) -> Option<String> {
        let installed: HashMap<String, Vec<String>> = serde_json::from_slice(bulk).ok()?;
        let mut held: Vec<_> =
            installed.iter().filter_map(|(name, versions)| self.held_back(asker, name, versions)).flatten().collect();
        if held.is_empty() {
            return None;
        }
        held.sort_by(|one, other| (&one.name, &one.version).cmp(&(&other.name, &other.version)));
        let releases = if held.len() == 1 { "release" } else { "releases" };
        let mut text = format!("coldframe held back {} newer {releases}: ", held.len());
        for (at, HeldBack { name, version, opens }) in held.iter().take(NAMED).enumerate() {
            let lead = if at == 0 { "" } else { ", " };
            let _ = match opens {
                Some(opens) => write!(text, "{lead}{name} {version} opens {}", instant::tell_opening(*opens)),
                None => write!(text, "{lead}{name} {version} is refused"),
            };
        }
        if held.len() > NAMED {
            let _ = write!(text, ", and {} more", held.len() - NAMED);
        }
        let link = held.first().and_then(|first| refusal::link(&asker.base, &first.name, Some(first.version.as_str())));
        text.extend(link.map(|link| format!("{}{link}", refusal::WHY)));
        Some(refusal::one_line(&text))
    }

    /// Hidden versions of a package that are newer than what was installed of it: stable ones, and prereleases for whoever
    /// installed one.
    fn held_back(&self, asker: &Asker, name: &str, versions: &[String]) -> Option<Vec<HeldBack>> {
        let name = PackageName::parse(name).ok()?;
        let slot = Slot::of(&name, self.registries.of(&name), &asker.authorization);
        let known = self.documents.get(&slot)?;
        let packument = known.packument.as_ref()?;
        let installed = versions.iter().filter_map(|version| Version::parse(version)).max()?;
        let screen = known.screen(&self.world(), asker.profile);
        let newer = screen.verdicts.iter().filter_map(|(at, verdict)| {
            let version = packument.entries[*at].version.clone()?;
            let wanted = version > installed && (!version.is_prerelease() || installed.is_prerelease());
            wanted.then(|| HeldBack { name: name.clone(), version, opens: verdict.opens() })
        });
        Some(newer.collect())
    }
}
