//! Reads what signatures and provenance are verified with: from files, or from this program.

use std::path::Path;
use std::sync::Arc;

use crate::config::environment::DefaultsFrom;
use crate::config::parse::{self, SettingsReader};
use crate::config::settings::SettingKey;
use crate::files;
use crate::firewall::TrustUpdates;
use crate::vetting::provenance::{MAX_ROOT_BYTES, TrustRoot};
use crate::vetting::signatures::{KeyRing, MAX_KEYS_BYTES, TrustSource};

/// The largest root of a repository, in bytes. Sigstore's is 6 kB.
const MAX_REPOSITORY_ROOT_BYTES: usize = 1 << 20;

/// The value that switches a verification off.
pub(crate) const NOTHING: &str = "none";

/// Reads the keys of the registry's signatures.
pub(crate) fn keys(reader: &mut SettingsReader<'_>, machine: &DefaultsFrom<'_>) -> Arc<KeyRing> {
    let load = |text: &str| match parse::path(text)? {
        _ if text == NOTHING => Ok(KeyRing::default()),
        path if is_here(machine) => {
            let document = read(&path, MAX_KEYS_BYTES)?;
            KeyRing::parse(&document, TrustSource::File).map_err(|error| format!("cannot be used ({error})"))
        }
        _ => Ok(KeyRing::bundled()),
    };
    Arc::new(reader.optional(SettingKey::SigningKeys, load).unwrap_or_else(KeyRing::bundled))
}

/// Reads the authorities and logs of provenance.
pub(crate) fn trust_root(reader: &mut SettingsReader<'_>, machine: &DefaultsFrom<'_>) -> Option<Arc<TrustRoot>> {
    let parse = |root: Result<TrustRoot, _>| root.map(Some).map_err(|error| format!("cannot be used ({error})"));
    let load = |text: &str| match parse::path(text)? {
        _ if text == NOTHING => Ok(None),
        path if is_here(machine) => parse(TrustRoot::parse(&read(&path, MAX_ROOT_BYTES)?, TrustSource::File)),
        _ => parse(TrustRoot::bundled()),
    };
    let root = if reader.is_absent(SettingKey::SigstoreRoot) {
        TrustRoot::bundled().ok()
    } else {
        reader.optional(SettingKey::SigstoreRoot, load).flatten()
    };
    root.map(Arc::new)
}

/// Reads the repository that renews keys and authorities, and its root.
pub(crate) fn updates(reader: &mut SettingsReader<'_>, machine: &DefaultsFrom<'_>) -> Option<TrustUpdates> {
    let repository = reader.optional(SettingKey::TrustUpdates, parse::public_url);
    let load = |text: &str| match parse::path(text)? {
        path if is_here(machine) => read(&path, MAX_REPOSITORY_ROOT_BYTES),
        _ => Ok(Vec::new()),
    };
    let root = reader.optional(SettingKey::TrustUpdatesRoot, load);
    for (key, other) in
        [(SettingKey::TrustUpdates, SettingKey::TrustUpdatesRoot), (SettingKey::TrustUpdatesRoot, SettingKey::TrustUpdates)]
    {
        if !reader.is_absent(key) && reader.is_absent(other) {
            let problem = format!("`{}` without `{}`", key.setting().name, other.setting().name);
            reader.reject(key, problem, "both settings, or neither");
        }
    }
    Some(TrustUpdates { repository: repository?, root: root? })
}

/// Checks whether files that the configuration names are on this machine.
fn is_here(machine: &DefaultsFrom<'_>) -> bool {
    !matches!(machine, DefaultsFrom::AnotherMachine)
}

fn read(path: &Path, limit: usize) -> Result<Vec<u8>, String> {
    files::read_bounded(path, limit as u64).map_err(|error| format!("cannot be read ({error})"))
}
