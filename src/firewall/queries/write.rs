//! Passes writes to upstream with the client's own credentials and invalidates the package. The unfiltered packument that a write
//! starts with is served only to tokens that upstream confirmed for the package.

use std::collections::BTreeMap;
use std::sync::Arc;

use bytes::Bytes;
use jiff::Timestamp;
use serde::Deserialize;
use serde_json::value::RawValue;

use crate::firewall::components::Firewall;
use crate::firewall::credential_binding::registry_of;
use crate::firewall::error::{FirewallError, Result};
use crate::firewall::package::CacheKey;
use crate::firewall::packages::request::DocumentNeed;
use crate::firewall::packages::service::EvaluatedPackage;
use crate::firewall::request::Client;
use crate::npm::compression::SegmentEncoder;
use crate::npm::packument::parse;
use crate::npm::packument::render::{RenderSource, VersionFilter};
use crate::npm::{Endpoint, PackageName, Packument, PackumentForm, PackumentView, ParsedPackument};
use crate::upstream::{Authorization, PassthroughRequest, PassthroughResponse, Registry};

/// The largest body in which tarball URLs are restored, in bytes. A larger one is a publish, whose URLs registries write
/// themselves.
const MAX_RESTORED_BYTES: usize = 32 << 20;

/// The query with which clients request a packument that they will send back changed.
const WRITE_QUERY: &str = "?write=true";

impl Firewall {
    /// Passes a write to upstream, or returns the packument that a write starts with. The next read of the package is revalidated.
    pub(crate) async fn write(
        &self,
        client: &Client,
        name: Option<&PackageName>,
        mut passage: PassthroughRequest,
    ) -> Result<PassthroughResponse> {
        let registry = Arc::clone(registry_of(&self.0.registries, client, name, true)?);
        if passage.is_read() {
            return match name.filter(|name| is_packument(&passage, name)) {
                Some(name) => self.writable_packument(client, name, &registry).await,
                None => self.0.passthrough.send(client, name, passage).await,
            };
        }
        let (path, method, body) = (passage.path.clone(), passage.method.clone(), passage.body.clone());
        if let Some(name) = name.filter(|_| body.len() <= MAX_RESTORED_BYTES) {
            let _reservation = self.0.passthrough.reserve(2 * body.len() as u64).await?;
            let (base, name, to) = (Arc::clone(&client.base.text), name.clone(), registry.id().to_string());
            let restored = self.0.workers.run(move || restore_addresses(&body, &base, &name, &to)).await?;
            passage.body = restored.unwrap_or(passage.body);
        }
        let sent = passage.body.clone();
        let passed = self.0.passthrough.send(client, name, passage).await;
        let now = self.0.policy.now();
        let answer = match &passed {
            Ok(answer) if answer.status.is_success() => answer,
            Ok(answer) if answer.status.is_client_error() => return passed,
            // The failure may have happened after the change.
            _ => {
                self.invalidate(name, &registry, now);
                return passed;
            }
        };
        let staged = path.starts_with("-/stage/").then(|| named_in(&answer.body)).flatten();
        self.invalidate(name.or(staged.as_ref()), &registry, now);
        if name.is_none() && staged.is_none() && path.starts_with("-/stage/") {
            // A package whose name is unknown here may have been published.
            self.0.cache.absent.invalidate_all();
            self.0.cache.unreachable.invalidate_all();
        }
        if let (Some(name), Authorization::Own(_)) = (name, &client.authorization) {
            let confirms = self.0.workers.run(move || confirms(method.as_str(), &path, &sent)).await?;
            if confirms {
                self.0.writers.confirm(CacheKey::of(name, &registry, &client.authorization), now);
            }
        }
        passed
    }

    /// Invalidates a package in all views, so that upstream is asked again.
    fn invalidate(&self, name: Option<&PackageName>, registry: &Registry, now: Timestamp) {
        let Some(name) = name else { return };
        self.0.cache.invalidate(name, now);
        self.0.fetcher.requester.slow.mark_responsive(registry.id());
    }

    /// Returns the packument with all versions and tarball URLs below the base URL, to be sent back changed.
    async fn writable_packument(
        &self,
        client: &Client,
        name: &PackageName,
        registry: &Arc<Registry>,
    ) -> Result<PassthroughResponse> {
        let EvaluatedPackage { lookup, packument: known, table, .. } =
            self.0.packages.evaluated(client, name, DocumentNeed::Form(PackumentForm::Full), None).await?;
        // Checked before anything large is fetched.
        let held = table.shown.iter().filter(|shown| !**shown).count();
        if held > 0 && !self.is_confirmed(client, name, registry).await {
            return Err(unconfirmed(name, held));
        }
        let mut share = self.0.passthrough.reserve(3 * lookup.package.document.length).await?;
        let passage = PassthroughRequest::get(format!("{}{WRITE_QUERY}", name.to_segment()));
        let passed = self.0.passthrough.send(client, Some(name), passage).await?;
        if !passed.status.is_success() {
            return Ok(passed);
        }
        let (length, base, this) = (passed.body.len() as u64, Arc::clone(&client.base.text), name.clone());
        share.grow_to(3 * length).await?;
        let rendered = self.0.workers.run(move || {
            let rendered = render_whole(&this, &passed.body, &base);
            drop(share);
            rendered
        });
        let (packument, body) = rendered.await??;
        let is_shown = |key: &str| known.find(key).is_some_and(|(at, _)| table.shown[at]);
        let hidden = packument.entries.iter().filter(|entry| !is_shown(&entry.key)).count();
        if hidden > 0 {
            if !self.is_confirmed(client, name, registry).await {
                return Err(unconfirmed(name, hidden));
            }
            tracing::warn!(
                package.name = %name,
                client.address = %client.address,
                client.user = client.user().map(|user| &**user),
                versions.hidden = hidden,
                "hidden versions shown for a write"
            );
            let detail = format!("{hidden} hidden versions, to {}", client.address);
            self.0.recorder.event("unfiltered_packument", Some(name), None, detail);
        }
        Ok(PassthroughResponse::of_json(body))
    }

    /// Checks whether upstream confirmed within the hour that the client's token may write the package. It did if it accepted a
    /// write that only owners may make, or if the token's account may write.
    async fn is_confirmed(&self, client: &Client, name: &PackageName, registry: &Arc<Registry>) -> bool {
        let cache_key = CacheKey::of(name, registry, &client.authorization);
        if !cache_key.is_client_scoped() {
            return false;
        }
        let now = self.0.policy.now();
        if let Some(may_write) = self.0.writers.find(&cache_key, now) {
            return may_write;
        }
        if !self.0.packages.rechecks.admits(client.address, now) {
            return false;
        }
        let may_write = self.may_write(client, name).await.unwrap_or(false);
        if may_write {
            self.0.writers.confirm(cache_key, now);
        } else {
            self.0.writers.reject(cache_key, now);
        }
        may_write
    }

    /// Asks upstream for the token's account and whether that account may write the package. `None` if upstream does not answer
    /// both.
    async fn may_write(&self, client: &Client, name: &PackageName) -> Option<bool> {
        #[derive(Deserialize)]
        struct Account {
            username: String,
        }
        let ask = async |path: String| {
            let passed = self.0.passthrough.send(client, Some(name), PassthroughRequest::get(path)).await.ok()?;
            passed.status.is_success().then_some(passed.body)
        };
        let account: Account = serde_json::from_slice(&ask("-/whoami".to_owned()).await?).ok()?;
        let path = format!("-/package/{}/collaborators?format=cli", name.to_segment());
        let collaborators: BTreeMap<String, String> = serde_json::from_slice(&ask(path).await?).ok()?;
        let permission = collaborators.get(&account.username).filter(|_| !account.username.is_empty());
        Some(permission.is_some_and(|permission| permission.split('-').any(|word| word == "write")))
    }
}

/// Returns the error for a client that may not see hidden versions.
fn unconfirmed(name: &PackageName, hidden: usize) -> FirewallError {
    let versions = if hidden == 1 { "a version" } else { "versions" };
    let text = format!(
        "{name} has {versions} hidden by coldframe, shown for a write only to a token that the registry confirmed for {name} \
         within the last hour; publish or set a dist-tag through coldframe, become a collaborator, or use the registry directly"
    );
    FirewallError::NotEntitled(text.into())
}

/// Checks whether a request is for the packument of a package.
fn is_packument(passage: &PassthroughRequest, name: &PackageName) -> bool {
    let path = passage.path.split('?').next().unwrap_or_default();
    matches!(Endpoint::parse("GET", &format!("/{path}"), None), Ok(Endpoint::Packument(asked)) if asked == *name)
}

/// Renders the packument with every version and tarball URLs below `base`.
fn render_whole(name: &PackageName, document: &[u8], base: &str) -> Result<(Packument, Bytes)> {
    let parsed = parse::parse(name, document).map_err(|error| FirewallError::unreadable(name, error))?;
    let ParsedPackument { packument, fields } = parsed;
    let source = RenderSource { document, packument: &packument, fields: &fields };
    let view = PackumentView::render(source, PackumentForm::Full, base, &|_| false, &mut SegmentEncoder::default());
    let shown = vec![true; packument.entries.len()];
    let assembly = view.assemble(&VersionFilter { shown: &shown, tags: None, restrictions: None });
    let body = assembly.map(|assembly| assembly.identity());
    Ok((packument, body.ok_or_else(|| FirewallError::Internal("cannot render the complete packument".into()))?))
}

/// Checks whether an accepted write proves that its sender may write the package. Starring does not: every account may do it, by
/// a PUT to the package URL without versions.
fn confirms(method: &str, path: &str, body: &[u8]) -> bool {
    #[derive(Deserialize)]
    struct Published<'a> {
        #[serde(borrow)]
        versions: BTreeMap<String, &'a RawValue>,
        #[serde(borrow, rename = "_attachments")]
        attachments: BTreeMap<String, &'a RawValue>,
    }
    let path = path.split('?').next().unwrap_or_default();
    let segments: Vec<&str> = path.trim_end_matches('/').split('/').collect();
    match segments.as_slice() {
        ["-", "package", rest @ ..] => {
            // The name has one segment, or two if the slash of a scope is not escaped.
            let unescaped = rest.first().is_some_and(|first| is_scope(first));
            let what = rest.get(if unescaped { 2 } else { 1 });
            what.is_some_and(|what| matches!(*what, "dist-tags" | "access" | "visibility" | "collaborators" | "trust"))
        }
        ["-", "stage", "package", ..] => true,
        ["-", ..] => false,
        _ if segments.contains(&"-rev") => true,
        _ if method == "PUT" => {
            let published = serde_json::from_slice::<Published<'_>>(body);
            published.is_ok_and(|published| !published.attachments.is_empty() && !published.versions.is_empty())
        }
        _ => false,
    }
}

/// Checks whether a path segment is a scope without a name.
fn is_scope(segment: &str) -> bool {
    let name = percent_encoding::percent_decode_str(segment).decode_utf8_lossy();
    name.starts_with('@') && !name.contains('/')
}

/// Returns the package named in the response to a staged publish.
fn named_in(body: &[u8]) -> Option<PackageName> {
    #[derive(Deserialize)]
    struct StagedPublish {
        #[serde(alias = "packageName", alias = "package")]
        name: String,
    }
    PackageName::parse(&serde_json::from_slice::<StagedPublish>(body).ok()?.name).ok()
}

/// Replaces tarball URLs below `base` by those of the registry; `None` if there are none.
fn restore_addresses(body: &[u8], base: &str, name: &PackageName, registry: &str) -> Option<Bytes> {
    let bare = base.trim_start_matches("https://").trim_start_matches("http://");
    // npm publishes with the scheme `http` regardless of the registry's.
    let ours = ["http", "https"].map(|scheme| format!("\"{scheme}://{bare}/{name}/-/"));
    let theirs = format!("\"{registry}{name}/-/");
    let text = std::str::from_utf8(body).ok()?;
    if !ours.iter().any(|ours| text.contains(ours.as_str())) {
        return None;
    }
    let [plain, secure] = ours;
    Some(text.replace(&plain, &theirs).replace(&secure, &theirs).into())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn name(text: &str) -> PackageName {
        PackageName::parse(text).unwrap()
    }

    #[test]
    fn only_owner_operations_confirm_a_token() {
        let published = br#"{"name":"ui","versions":{"1.0.0":{}},"_attachments":{"ui-1.0.0.tgz":{"data":"x"}}}"#;
        let attached = br#"{"_id":"ui","users":{"mallory":true},"_attachments":{"x":{}}}"#;
        let starred = br#"{"_id":"ui","_rev":"1","users":{"mallory":true}}"#;
        let empty = br#"{"_id":"ui","users":{},"versions":{"1.0.0":{}},"_attachments":{}}"#;
        for (method, path, body, expected) in [
            ("PUT", "@acme%2fui", published.as_slice(), true),
            ("PUT", "ui", starred, false),
            ("PUT", "ui", empty, false),
            ("PUT", "ui", attached, false),
            ("PUT", "ui", b"no json", false),
            ("PUT", "ui/-rev/1-0", b"{}", true),
            ("DELETE", "ui/-/ui-1.0.0.tgz/-rev/1-0", b"", true),
            ("PUT", "-/package/@acme%2fui/dist-tags/next", b"\"1.0.0\"", true),
            ("PUT", "-/package/@acme/ui/dist-tags/next", b"\"1.0.0\"", true),
            ("PUT", "-/package/trust/star", b"{}", false),
            ("PUT", "-/package/@acme/access/star", b"{}", false),
            ("PUT", "-/package/@acme%2faccess/star", b"{}", false),
            ("POST", "-/npm/v1/oidc/token/exchange/package/ui", b"", false),
            ("POST", "-/stage/package/ui", published, true),
            ("PUT", "-/user/org.couchdb.user:me", b"{}", false),
        ] {
            assert_eq!(confirms(method, path, body), expected, "{method} {path}");
        }
    }

    #[test]
    fn tarball_urls_are_restored_before_a_packument_is_written() {
        let restore = |body: &str| {
            let restored =
                restore_addresses(body.as_bytes(), "https://npm.example/x", &name("@acme/ui"), "https://registry.example/npm/");
            restored.map(|bytes| String::from_utf8(bytes.to_vec()).unwrap())
        };
        assert_eq!(
            restore(r#"{"tarball":"https://npm.example/x/@acme/ui/-/ui-1.0.0.tgz","other":"http://npm.example/x/@acme/ui/-/ui-2.0.0.tgz"}"#).unwrap(),
            r#"{"tarball":"https://registry.example/npm/@acme/ui/-/ui-1.0.0.tgz","other":"https://registry.example/npm/@acme/ui/-/ui-2.0.0.tgz"}"#
        );
        assert_eq!(restore(r#"{"tarball":"https://npm.example/x/@acme/other/-/other-1.0.0.tgz"}"#), None);
    }

    #[test]
    fn packument_request_is_recognized_for_every_path_spelling() {
        let is = |path: &str, text: &str| is_packument(&PassthroughRequest::get(path.to_owned()), &name(text));
        assert!(is("ui?write=true", "ui") && is("@acme%2Fui?write=true", "@acme/ui") && is("-/?write=true", "-"));
        assert!(!is("-/stage/1", "ui") && !is("ui/1.0.0?write=true", "ui"));
    }
}
