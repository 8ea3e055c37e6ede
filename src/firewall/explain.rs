//! Explains one version to a person: verdict, dates, rule, and what to take instead. Refuses to serve anything.

use std::sync::Arc;

use super::catalog::Need;
use super::packument::{Spoken, best, no_version};
use super::{Asker, Explanation, Form, Inner, Rejection, TagMove};
use crate::npm::{PackageName, Packument, Range, tag};
use crate::policy::waiver;

impl Inner {
    pub(super) async fn explain(
        self: &Arc<Self>,
        asker: &Asker,
        name: &PackageName,
        wanted: Option<&str>,
    ) -> Result<Explanation, Rejection> {
        let Spoken { reading, packument, screen } = self.spoken(asker, name, Need::Form(Form::Abbreviated), None).await?;
        let wanted = wanted.unwrap_or("latest");
        let Some((at, entry)) = resolve(&packument, wanted).and_then(|key| packument.find(key)) else {
            return Err(no_version(name, wanted));
        };
        let world = self.world();
        let versions = packument.entries.iter().map(|entry| (&*entry.key, entry.version.as_ref()));
        let advisories = world.advisories.of(name.as_str()).among(versions);
        let facts = reading.known.facts(&packument, at, &advisories);
        let policy = world.policy(asker.profile);
        let tags = packument.dist_tags.iter().map(|(tag, target)| {
            let shown = screen.tag(&packument, tag).map(Into::into);
            TagMove { tag: tag.clone(), upstream: target.clone(), shown }
        });
        Ok(Explanation {
            waiver: waiver(&policy.about(name), &world.standing, &facts, reading.known.validated).map(|note| note.reason),
            steps: policy.trace(&facts, reading.known.validated),
            tags: tags.collect(),
            name: name.clone(),
            version: entry.key.clone(),
            verdict: screen.verdict(at).clone(),
            published: entry.published,
            effective: reading.known.provenance[at].effective,
            nearest: screen.nearest(&packument, &entry.key).map(Into::into),
            minimum_release_age: policy.minimum_release_age(name),
            upstream: Arc::clone(reading.known.registry.id()),
            validated: reading.known.validated,
        })
    }
}

/// What `wanted` means over everything upstream has, hidden or not.
fn resolve<'a>(packument: &'a Packument, wanted: &str) -> Option<&'a str> {
    if let Some((_, entry)) = packument.find(wanted) {
        return Some(&entry.key);
    }
    let latest = packument.dist_tags.iter().find(|(tag, _)| **tag == *wanted);
    if let Some((_, target)) = latest {
        return Some(target);
    }
    if wanted == "latest" {
        return tag::highest(packument.entries.iter());
    }
    best(packument, &Range::parse(wanted)?, None, |_| true)
}
