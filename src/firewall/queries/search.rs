//! Filters search results. Each result describes a version that the client may see and contains only the members listed here. A
//! search fetches no packuments: a result is evaluated by the cached packument, else by its date.

use std::sync::Arc;

use serde_json::{Value, json};

use crate::firewall::client_scope;
use crate::firewall::components::Firewall;
use crate::firewall::error::Result;
use crate::firewall::package::CacheKey;
use crate::firewall::policy_state::Profile;
use crate::firewall::request::Client;
use crate::firewall::verdicts::cache::CachedPackage;
use crate::npm::packument::index::VersionEntry;
use crate::npm::{PackageName, Version};
use crate::policy::{Facts, UnknownFacts};
use crate::units::timestamp;
use crate::upstream::{PassthroughRequest, PassthroughResponse, UpstreamError};

/// The largest response that is filtered, in bytes. A page of 250 results has 400 kB.
const MAX_ANSWER_BYTES: usize = 4 << 20;

/// The longest text of a member, in bytes. npm limits descriptions to 255 characters.
const MAX_TEXT_BYTES: usize = 4096;

/// The most elements of a list: keywords, maintainers.
const MAX_ELEMENTS: usize = 256;

impl Firewall {
    /// Passes a search to upstream and filters its results.
    pub(crate) async fn search(&self, client: &Client, passage: PassthroughRequest) -> Result<PassthroughResponse> {
        let named = self.searched(&passage);
        let registry =
            named.as_ref().map_or_else(|| self.0.registries.nameless(&client.addressed), |name| self.0.registries.of(name));
        let asked = Arc::clone(registry.id());
        let mut passed = self.0.passthrough.send(client, named.as_ref(), passage).await?;
        if !passed.status.is_success() {
            return Ok(passed);
        }
        let _share = self.0.passthrough.reserve_for_parsing(&passed).await?;
        let _permit = self.0.workers.heavy.acquire(client.address).await;
        let (inner, client, body) = (self.clone(), client.clone(), std::mem::take(&mut passed.body));
        let host = Arc::clone(&asked);
        let filtered = self.0.workers.run(move || inner.filter(&client, &asked, &body)).await?;
        // A response that cannot be parsed cannot be filtered.
        let Some(filtered) = filtered else {
            return Err(UpstreamError::Broken { host, detail: "invalid search results".into() }.into());
        };
        passed.body = filtered.to_string().into();
        Ok(passed)
    }

    /// Returns a private package that the text of a search names, or one of a private scope that it names. Such a search is not for
    /// the default registry.
    fn searched(&self, passage: &PassthroughRequest) -> Option<PackageName> {
        if !self.0.registries.are_several() {
            return None;
        }
        let (_, query) = passage.path.split_once('?')?;
        let texts = url::form_urlencoded::parse(query.as_bytes()).filter(|(key, _)| key == "text").map(|(_, text)| text);
        let named = |word: &str| {
            let (key, word) = word.rsplit_once(':').unwrap_or(("", word));
            let scope = word.split('/').next().filter(|scope| scope.starts_with('@') || key == "scope").unwrap_or_default();
            let of_scope = PackageName::parse(&format!("@{}/x", scope.trim_start_matches('@'))).ok();
            let names = [PackageName::parse(word).ok(), of_scope];
            names.into_iter().flatten().find(|name| self.0.registries.is_private(name))
        };
        let letters = |letter: char| letter.is_whitespace() || matches!(letter, ',' | '"' | '+');
        texts.take(MAX_ELEMENTS).find_map(|text| text.split(letters).take(MAX_ELEMENTS).find_map(named))
    }

    /// Returns the response with the visible results; `None` if `body` is not a search response. Blocks.
    fn filter(&self, client: &Client, asked: &str, body: &[u8]) -> Option<Value> {
        let answer: Value = serde_json::from_slice(Some(body).filter(|body| body.len() <= MAX_ANSWER_BYTES)?).ok()?;
        let objects = answer.get("objects")?.as_array()?.iter();
        let objects: Vec<Value> = objects.filter_map(|object| self.result(client, asked, object)).collect();
        let objects_found = objects.len();
        let mut filtered = json!({ "objects": objects });
        // The total counts packages outside the client's scope.
        if client_scope::limited(client).is_none() {
            copy(&answer, "total", &mut filtered, number);
        } else {
            filtered["total"] = objects_found.into();
        }
        copy(&answer, "time", &mut filtered, text);
        Some(filtered)
    }

    /// Returns the visible part of one result of the registry `asked`, if it serves the package and any version of the package is visible.
    fn result(&self, client: &Client, asked: &str, object: &Value) -> Option<Value> {
        let package = object.get("package")?;
        let name = PackageName::parse(package.get("name")?.as_str()?).ok()?;
        if client_scope::check(client, &name).is_err() || **self.0.registries.of(&name).id() != *asked {
            return None;
        }
        let version = package.get("version")?.as_str()?;
        let cache_key = CacheKey::of(&name, self.0.registries.of(&name), &client.authorization);
        let described = match self.0.cache.get(&cache_key) {
            Some(known) => self.of_known(&known, package, version, client.profile)?,
            // The view of other tokens may hide the version, but discloses nothing else.
            None if self.is_hidden_from_others(&cache_key, version, client.profile) => return None,
            None => self.of_unknown(&name, package, version, client.profile)?,
        };
        let mut result = json!({ "package": described });
        copy(object, "score", &mut result, score);
        copy(object, "searchScore", &mut result, number);
        copy(object, "downloads", &mut result, |downloads| members(downloads, &["weekly", "monthly"], number));
        copy(object, "dependents", &mut result, number);
        Some(result)
    }

    /// Checks whether the document that another client's token was shown last contains this version and hides it.
    fn is_hidden_from_others(&self, cache_key: &CacheKey, version: &str, profile: Profile) -> bool {
        let Some(known) = self.0.cache.get(&cache_key.shared()).filter(|_| cache_key.is_client_scoped()) else { return false };
        let at = known.packument.as_ref().and_then(|packument| packument.find(version)).map(|(at, _)| at);
        at.is_some_and(|at| !known.verdicts(&self.0.policy.snapshot(), profile).shown[at])
    }

    /// Describes the version of the result if it is visible, else the visible `latest` from the packument alone.
    fn of_known(&self, known: &CachedPackage, package: &Value, version: &str, profile: Profile) -> Option<Value> {
        let packument = known.packument.as_ref()?;
        let table = known.verdicts(&self.0.policy.snapshot(), profile);
        let shown = packument.find(version).filter(|(at, _)| table.shown[*at]).map(|(_, entry)| entry);
        // Registries describe `latest`. If that is hidden, the texts may be about it, regardless of the stated version.
        let is_latest = packument.dist_tags.iter().any(|(tag, target)| **tag == *"latest" && **target == *version);
        match shown {
            Some(entry) if is_latest || table.hidden.is_empty() => {
                let mut described = described(&packument.name, version, package);
                if let Some(published) = entry.published {
                    described["date"] = published.to_string().into();
                }
                Some(described)
            }
            Some(entry) => Some(of_entry(&packument.name, entry)),
            None => Some(of_entry(&packument.name, packument.find(table.tag(packument, "latest")?)?.1)),
        }
    }

    /// Describes the version of the result if its date allows it. A version without a date counts as published now.
    fn of_unknown(&self, name: &PackageName, package: &Value, version: &str, profile: Profile) -> Option<Value> {
        let now = self.0.policy.now();
        let published = package.get("date").and_then(Value::as_str).and_then(timestamp::parse);
        let (policy_snapshot, parsed) = (self.0.policy.snapshot(), Version::parse(version));
        let advisories = policy_snapshot.advisories.of(name.as_str()).applicable_to(std::iter::empty());
        let facts = Facts {
            published,
            parsed: parsed.as_ref(),
            advisories: &advisories,
            // People in search results may differ from those in the packument.
            unknown: UnknownFacts::ALL,
            ..Facts::of(name, version, published.unwrap_or(now))
        };
        let rules = policy_snapshot.policy(profile).for_package(name);
        let is_allowed = policy_snapshot.evaluate(&rules, &facts, now, &mut ()).is_allowed();
        (parsed.is_some() && is_allowed).then(|| described(name, version, package))
    }
}

/// Returns the result's members for this version.
fn described(name: &PackageName, version: &str, package: &Value) -> Value {
    let mut described = bare(name, version);
    for member in ["description", "date", "license"] {
        copy(package, member, &mut described, text);
    }
    copy(package, "keywords", &mut described, keywords);
    copy(package, "links", &mut described, |links| members(links, &["npm", "homepage", "repository", "bugs"], text));
    copy(package, "author", &mut described, person);
    copy(package, "publisher", &mut described, person);
    copy(package, "maintainers", &mut described, people);
    described
}

/// Returns the packument's members for this version.
fn of_entry(name: &PackageName, entry: &VersionEntry) -> Value {
    let mut described = bare(name, &entry.key);
    if let Some(published) = entry.published {
        described["date"] = published.to_string().into();
    }
    if let Some(publisher) = &entry.publisher {
        described["publisher"] = json!({ "username": **publisher });
    }
    if let Some(maintainers) = &entry.maintainers {
        described["maintainers"] = maintainers.iter().map(|name| json!({ "username": **name })).collect();
    }
    described
}

/// Returns a description without metadata. npm fails without `maintainers`.
fn bare(name: &PackageName, version: &str) -> Value {
    let scope = name.scope().map_or("unscoped", |scope| scope.trim_start_matches('@'));
    json!({ "name": name.as_str(), "scope": scope, "version": version, "maintainers": [] })
}

/// Copies a member as parsed by `read`.
fn copy(from: &Value, member: &str, to: &mut Value, read: impl Fn(&Value) -> Option<Value>) {
    if let Some(value) = from.get(member).and_then(read) {
        to[member] = value;
    }
}

fn text(value: &Value) -> Option<Value> {
    value.as_str().filter(|text| text.len() <= MAX_TEXT_BYTES).map(Value::from)
}

fn number(value: &Value) -> Option<Value> {
    value.is_number().then(|| value.clone())
}

/// Parses `{"final": 1, "detail": {"quality": 1}}`.
fn score(value: &Value) -> Option<Value> {
    let mut read = members(value, &["final"], number)?;
    copy(value, "detail", &mut read, |detail| members(detail, &["quality", "popularity", "maintenance"], number));
    Some(read)
}

/// Returns these members of an object, each as parsed by `read`.
fn members(value: &Value, names: &[&str], read: impl Fn(&Value) -> Option<Value>) -> Option<Value> {
    let value = value.as_object()?;
    let found = names.iter().filter_map(|name| Some(((*name).to_owned(), read(value.get(*name)?)?)));
    Some(Value::Object(found.collect()))
}

fn person(value: &Value) -> Option<Value> {
    members(value, &["username", "name", "email", "url"], text)
}

fn people(value: &Value) -> Option<Value> {
    // npm fails on a maintainer without a name.
    let named = |person: &Value| person.get("username").is_some();
    Some(value.as_array()?.iter().filter_map(person).filter(named).take(MAX_ELEMENTS).collect())
}

fn keywords(value: &Value) -> Option<Value> {
    text(value).or_else(|| Some(value.as_array()?.iter().filter_map(text).take(MAX_ELEMENTS).collect()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn result_contains_only_listed_members() {
        let name = PackageName::parse("@acme/ui").unwrap();
        let package = json!({
            "name": "@acme/ui",
            "version": "1.0.0",
            "scope": "evil",
            "description": "old",
            "keywords": ["a", 1, {"versions": "9.9.9"}],
            "links": {"npm": "https://registry.example/ui", "next": "9.9.9", "bugs": ["9.9.9"]},
            "author": {"name": "ada", "versions": ["9.9.9"]},
            "publisher": "9.9.9",
            "maintainers": [{"username": "ada", "email": 9}, {"email": "x"}, "9.9.9"],
            "dist-tags": {"next": "9.9.9"},
            "versions": ["9.9.9"],
            "readme": "9.9.9",
            "license": {"type": "9.9.9"},
            "date": "2026-01-01T00:00:00Z",
        });
        let expected = json!({
            "name": "@acme/ui",
            "scope": "acme",
            "version": "1.0.0",
            "description": "old",
            "keywords": ["a"],
            "links": {"npm": "https://registry.example/ui"},
            "author": {"name": "ada"},
            "maintainers": [{"username": "ada"}],
            "date": "2026-01-01T00:00:00Z",
        });
        assert_eq!(described(&name, "1.0.0", &package), expected);
    }

    #[test]
    fn scores_contain_only_numbers() {
        let value = json!({"final": 0.5, "detail": {"quality": 1, "latest": "9.9.9", "9.9.9": 1}, "9.9.9": 1});
        assert_eq!(score(&value), Some(json!({"final": 0.5, "detail": {"quality": 1}})));
        assert_eq!(text(&"x".repeat(MAX_TEXT_BYTES + 1).into()), None);
    }
}
