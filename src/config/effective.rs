//! The settings that a process runs with, in a form that another process can read: values as text, paths absolute.
//! Values are compared by meaning: `72h` equals `3d`.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use url::Url;

use crate::config::raw::{RawConfig, RawValue};
use crate::config::settings::{SETTINGS, SettingKey};
use crate::config::signing::NOTHING;
use crate::config::value_kind::ValueKind;
use crate::diagnostics::{Origin, redact_credentials};
use crate::net;
use crate::policy::presets;
use crate::units::quantity;

pub const OF_VERDICTS: &[SettingKey] = &[
    SettingKey::Upstream,
    SettingKey::Route,
    SettingKey::Policy,
    SettingKey::MinReleaseAge,
    SettingKey::FixLane,
    SettingKey::Exclude,
    SettingKey::TarballHost,
    SettingKey::RedirectHost,
    SettingKey::Feed,
    SettingKey::UnsafeServeWithoutFeed,
];

pub const OF_PLACES: &[SettingKey] = &[SettingKey::Listen, SettingKey::PublicUrl, SettingKey::Gateway];

/// Settings that a process never takes over from a server.
const LOCAL_SETTINGS: &[SettingKey] = &[SettingKey::DataDir, SettingKey::LogFormat, SettingKey::LogLevel];

#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct EffectiveValue {
    text: String,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    fields: Vec<(String, String)>,
}

/// The values of settings by name. Settings without a value are left out.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Effective(BTreeMap<String, Vec<EffectiveValue>>);

/// The settings of a configuration and the origins of those that are set.
#[derive(Debug, Clone, Default)]
pub struct Settings {
    pub(crate) effective: Effective,
    origins: BTreeMap<SettingKey, String>,
    /// The base directory of relative paths.
    folder: PathBuf,
}

impl Settings {
    /// Collects the settings of `raw`, with paths relative to `folder`. `upstream` and `data_dir` apply if `raw` has none.
    pub(crate) fn new(raw: &RawConfig, folder: &Path, upstream: &Url, data_dir: &Path) -> Self {
        let mut settings = Self { folder: folder.to_owned(), ..Self::default() };
        for setting in &SETTINGS {
            let values = raw.values(setting.key);
            let Some(first) = values.first() else { continue };
            if !matches!(first.origin, Origin::Default) {
                settings.origins.insert(setting.key, first.origin.to_string());
            }
            let values = values.iter().map(|value| EffectiveValue::from_raw(setting.kind, value, folder)).collect();
            settings.effective.0.insert(setting.name.to_owned(), values);
        }
        for (key, text) in [(SettingKey::Upstream, upstream.to_string()), (SettingKey::DataDir, data_dir.display().to_string())] {
            let value = || vec![EffectiveValue { text, fields: Vec::new() }];
            settings.effective.0.entry(key.setting().name.to_owned()).or_insert_with(value);
        }
        settings
    }

    /// Returns the name of a policy with its path made absolute, so that another process can use it.
    pub fn policy_path(&self, name: &str) -> String {
        absolute(ValueKind::Policy, name, &self.folder)
    }

    pub fn is_set(&self, key: SettingKey) -> bool {
        self.origins.contains_key(&key)
    }

    /// Returns those of `keys` that are set here and have another value on the server, with both values.
    pub(crate) fn deviations(&self, server: &Effective, keys: &[SettingKey]) -> Vec<(SettingKey, String)> {
        let set = keys.iter().filter_map(|key| Some((*key, self.origins.get(key)?)));
        let deviating = set.filter(|(key, _)| !self.effective.agrees(server, *key)).map(|(key, origin)| {
            let (name, here, there) = (key.setting().name, self.effective.shown(key), server.shown(key));
            (key, format!("{origin}: `{name}` is {here} here and {there} on the server"))
        });
        deviating.collect()
    }
}

impl Effective {
    pub fn set(&mut self, key: SettingKey, texts: Vec<String>) {
        let values = texts.into_iter().map(|text| EffectiveValue { text, fields: Vec::new() });
        self.0.insert(key.setting().name.to_owned(), values.collect());
    }

    /// Resets a setting to its value in `other`.
    pub fn keep(&mut self, other: &Self, key: SettingKey) {
        let name = key.setting().name;
        self.0.remove(name);
        self.0.extend(other.0.get(name).map(|values| (name.to_owned(), values.clone())));
    }

    pub fn changed(&self, other: &Self) -> Vec<SettingKey> {
        SETTINGS.iter().map(|setting| setting.key).filter(|key| !self.agrees(other, *key)).collect()
    }

    /// Returns the values of a setting, or its default, without credentials.
    pub fn shown(&self, key: SettingKey) -> String {
        let values = self.values(key);
        if values.is_empty() {
            return key.setting().default.text().to_owned();
        }
        values.iter().map(|value| redact_credentials(&value.text)).collect::<Vec<_>>().join(", ")
    }

    pub fn texts(&self, key: SettingKey) -> Vec<String> {
        self.values(key).iter().map(|value| value.text.clone()).collect()
    }

    fn values(&self, key: SettingKey) -> &[EffectiveValue] {
        self.0.get(key.setting().name).map(Vec::as_slice).unwrap_or_default()
    }

    fn agrees(&self, other: &Self, key: SettingKey) -> bool {
        let canonical = |of: &Self| {
            let mut values: Vec<_> = of.values(key).iter().map(|value| value.canonical(key.setting().kind)).collect();
            values.sort();
            values
        };
        canonical(self) == canonical(other)
    }

    /// Returns the values that another process takes over, by setting.
    pub(crate) fn to_raw(&self) -> impl Iterator<Item = (SettingKey, Vec<RawValue>)> {
        let known = self.0.iter().filter_map(|(name, values)| Some((SettingKey::named(name)?, values)));
        let shared = known.filter(|(key, _)| !LOCAL_SETTINGS.contains(key));
        shared.map(|(key, values)| (key, values.iter().map(EffectiveValue::to_raw).collect()))
    }
}

impl EffectiveValue {
    fn from_raw(kind: ValueKind, value: &RawValue, folder: &Path) -> Self {
        let fields = value.fields.iter().map(|(name, value)| {
            let text = if name == "source" { absolute(kind, &value.text, folder) } else { value.text.clone() };
            (name.clone(), text)
        });
        Self { text: absolute(kind, &value.text, folder), fields: fields.collect() }
    }

    fn to_raw(&self) -> RawValue {
        let fields = self.fields.iter().map(|(name, text)| (name.clone(), RawValue::new(text, Origin::Given)));
        RawValue { fields: fields.collect(), ..RawValue::new(&self.text, Origin::Given) }
    }

    fn canonical(&self, kind: ValueKind) -> Self {
        let text = match kind {
            ValueKind::Duration => quantity::parse_duration(&self.text).ok().map(|duration| duration.as_secs().to_string()),
            ValueKind::Size => quantity::parse_size(&self.text).ok().map(|size| size.to_string()),
            ValueKind::Url => Url::parse(&self.text).ok().map(|mut url| {
                net::remove_credentials(&mut url);
                url.as_str().trim_end_matches('/').to_owned()
            }),
            _ => None,
        };
        let mut fields = self.fields.clone();
        fields.sort();
        Self { text: text.unwrap_or_else(|| self.text.clone()), fields }
    }
}

/// Makes a path independent of the working directory. Other texts are returned unchanged.
fn absolute(kind: ValueKind, text: &str, folder: &Path) -> String {
    let is_path = match kind {
        ValueKind::Path => true,
        ValueKind::FileOrNone => text != NOTHING,
        ValueKind::Policy => presets::policy_file(text).is_none(),
        ValueKind::Feed => !text.starts_with("http://") && !text.starts_with("https://"),
        _ => false,
    };
    if !is_path || folder.as_os_str().is_empty() {
        return text.to_owned();
    }
    // Collecting the components removes `.` and doubled slashes.
    folder.join(text).components().collect::<PathBuf>().display().to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn settings(flags: &[(SettingKey, &str)]) -> Settings {
        let raw = RawConfig::merge(None, &[], RawConfig::from_flags(flags), &mut Vec::new());
        let upstream = Url::parse("https://registry.example/npm/").unwrap();
        Settings::new(&raw, Path::new("/home/me"), &upstream, Path::new("/data"))
    }

    fn deviations(here: &[(SettingKey, &str)], there: &[(SettingKey, &str)]) -> Vec<String> {
        settings(here).deviations(&settings(there).effective, OF_VERDICTS).into_iter().map(|(_, text)| text).collect()
    }

    #[test]
    fn equivalent_values_do_not_deviate() {
        assert!(deviations(&[(SettingKey::MinReleaseAge, "3d")], &[(SettingKey::MinReleaseAge, "72h")]).is_empty());
        assert!(deviations(&[(SettingKey::Upstream, "https://registry.example/npm")], &[]).is_empty());
        let (here, there) =
            ([(SettingKey::Exclude, "a"), (SettingKey::Exclude, "b")], [(SettingKey::Exclude, "b"), (SettingKey::Exclude, "a")]);
        assert!(deviations(&here, &there).is_empty());
        assert!(deviations(&[(SettingKey::Policy, "./own.toml")], &[(SettingKey::Policy, "/home/me/own.toml")]).is_empty());
        assert!(deviations(&[], &[(SettingKey::MinReleaseAge, "30d")]).is_empty(), "the setting is not set here");
    }

    #[test]
    fn deviation_has_both_values_without_credentials() {
        let there = [(SettingKey::MinReleaseAge, "30d"), (SettingKey::Upstream, "https://registry.example/")];
        let here = [
            (SettingKey::MinReleaseAge, "1h"),
            (SettingKey::Upstream, "https://me:secret@other.example/"),
            (SettingKey::Policy, "default"),
        ];
        assert_eq!(
            deviations(&here, &there),
            [
                "--upstream: `upstream` is https://*********@other.example/ here and https://registry.example/ on the server",
                "--min-release-age: `min-release-age` is 1h here and 30d on the server"
            ]
        );
        assert_eq!(
            deviations(&[(SettingKey::MinReleaseAge, "1h")], &[]),
            ["--min-release-age: `min-release-age` is 1h here and the policy's, `72h` on the server"]
        );
    }
}
