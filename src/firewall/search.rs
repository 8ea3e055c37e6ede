//! Search results without what the policy hides, judged by what is known and by the dates in the results. A search never
//! fetches packuments.

use std::sync::Arc;

use serde_json::Value;

use super::known::{Known, Slot};
use super::world::Profile;
use super::{Asker, Inner, Rejection};
use crate::npm::{PackageName, Version, instant};
use crate::policy::{Facts, Unknown, judge};
use crate::upstream::{Passage, Passed, UpstreamError};

impl Inner {
    pub(super) async fn search(self: &Arc<Self>, asker: &Asker, passage: Passage) -> Result<Passed, Rejection> {
        let mut passed = self.pass(asker, None, passage).await?;
        if !passed.status.is_success() {
            return Ok(passed);
        }
        let mut results = serde_json::from_slice::<Value>(&passed.body).unwrap_or_default();
        // What cannot be read cannot be filtered, so it is not passed on.
        let Some(objects) = results.get_mut("objects").and_then(Value::as_array_mut) else {
            let host = Arc::clone(self.registries.default_registry().id());
            return Err(UpstreamError::Broken { host, detail: "its search results are no search results".into() }.into());
        };
        objects.retain_mut(|object| object.get_mut("package").is_some_and(|package| self.show(asker, package)));
        passed.body = results.to_string().into();
        Ok(passed)
    }

    /// Whether a result may be shown; its version is set back to the newest allowed one where that is known.
    fn show(&self, asker: &Asker, package: &mut Value) -> bool {
        let name = package.get("name").and_then(Value::as_str).and_then(|name| PackageName::parse(name).ok());
        let version = package.get("version").and_then(Value::as_str).map(str::to_owned);
        let (Some(name), Some(version)) = (name, version) else { return false };
        let slot = Slot::of(&name, self.registries.of(&name), &asker.authorization);
        match self.documents.get(&slot) {
            Some(known) => self.set_back(&known, package, &version, asker.profile),
            None => self.is_old_enough(&name, &version, package, asker.profile),
        }
    }

    fn set_back(&self, known: &Known, package: &mut Value, version: &str, profile: Profile) -> bool {
        let Some(packument) = &known.packument else { return false };
        let screen = known.screen(&self.world(), profile);
        if packument.find(version).is_some_and(|(at, _)| screen.shown[at]) {
            return true;
        }
        let Some((_, entry)) = screen.tag(packument, "latest").and_then(|latest| packument.find(latest)) else { return false };
        package["version"] = Value::from(&*entry.key);
        match entry.published {
            Some(published) => package["date"] = published.to_string().into(),
            None => {
                package.as_object_mut().map(|package| package.remove("date"));
            }
        }
        true
    }

    /// Of a package that is not known only the date of its newest release is: without one it is taken for young.
    fn is_old_enough(&self, name: &PackageName, version: &str, package: &Value, profile: Profile) -> bool {
        let now = self.clock.now();
        let published = package.get("date").and_then(Value::as_str).and_then(instant::parse);
        let (world, parsed) = (self.world(), Version::parse(version));
        let advisories = world.advisories.of(name.as_str()).among(std::iter::empty());
        let facts = Facts {
            published,
            parsed: parsed.as_ref(),
            advisories: &advisories,
            // Names in search results are not those of the packument.
            unknown: Unknown::ALL,
            ..Facts::of(name, version, published.unwrap_or(now))
        };
        judge(&world.policy(profile).about(name), &world.standing, &facts, now).allows()
    }
}
