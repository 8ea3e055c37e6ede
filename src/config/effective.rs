//! The settings that a process runs with, as it reports them to another process: values as text, paths absolute. Compares them with
//! what is written elsewhere, by meaning (`72h` is `3d`).

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use url::Url;

use crate::config::mistake::Origin;
use crate::config::raw::{RawConfig, RawField, RawValue};
use crate::config::settings::{DefaultValue, SETTINGS, SettingKey};
use crate::config::value_kind::ValueKind;
use crate::diagnostics::blot_credentials;
use crate::policy::presets;
use crate::units::quantity;

/// Settings by which verdicts are made: another value means another policy, other feeds or another upstream.
pub const OF_VERDICTS: &[SettingKey] = &[
    SettingKey::Upstream,
    SettingKey::Policy,
    SettingKey::MinReleaseAge,
    SettingKey::FixLane,
    SettingKey::Exclude,
    SettingKey::TarballHost,
    SettingKey::RedirectHost,
    SettingKey::Feed,
    SettingKey::UnsafeServeWithoutFeed,
];

/// Settings that say where a server is reached.
pub const OF_PLACES: &[SettingKey] = &[SettingKey::Listen, SettingKey::PublicUrl, SettingKey::Gateway];

/// Settings that belong to the process that reads them, whatever server it asks.
const OWN: &[SettingKey] = &[SettingKey::DataDir, SettingKey::LogFormat, SettingKey::LogLevel];

/// One value.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct EffectiveValue {
    text: String,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    fields: Vec<(String, String)>,
}

/// Settings by name, those without a value left out.
#[derive(Debug, Clone, std::default::Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Effective(BTreeMap<String, Vec<EffectiveValue>>);

/// The settings of a configuration, and where the written ones come from.
#[derive(Debug, Clone, std::default::Default)]
pub struct Settings {
    effective: Effective,
    origins: BTreeMap<SettingKey, String>,
    /// What relative paths are below.
    folder: PathBuf,
}

/// A setting that is written here and has another value there.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Deviation {
    /// Which setting.
    pub key: SettingKey,
    /// Where it is written: a flag, a variable, a line of a file.
    pub origin: String,
    /// Its value here, for people.
    pub here: String,
    /// Its value there, for people.
    pub there: String,
}

impl Settings {
    /// The settings of `written`; relative paths are below `folder`. `upstream` and `data_dir` are what was found where nothing is
    /// written.
    pub(crate) fn of(written: &RawConfig, folder: &Path, upstream: &Url, data_dir: &Path) -> Self {
        let mut settings = Self { folder: folder.to_owned(), ..Self::default() };
        for setting in &SETTINGS {
            let values = written.values(setting.key);
            let Some(first) = values.first() else { continue };
            if !matches!(first.origin, Origin::Default) {
                settings.origins.insert(setting.key, first.origin.to_string());
            }
            let values = values.iter().map(|value| EffectiveValue::of(setting.kind, value, folder)).collect();
            settings.effective.0.insert(setting.name.to_owned(), values);
        }
        for (key, text) in [(SettingKey::Upstream, upstream.to_string()), (SettingKey::DataDir, data_dir.display().to_string())] {
            settings.effective.set(key, vec![text], false);
        }
        settings
    }

    /// The values.
    #[must_use]
    pub fn effective(&self) -> &Effective {
        &self.effective
    }

    /// The name of a policy, as another process can use it.
    #[must_use]
    pub fn policy_path(&self, name: &str) -> String {
        absolute(ValueKind::Policy, name, &self.folder)
    }

    /// Whether a setting is written.
    #[must_use]
    pub fn is_written(&self, key: SettingKey) -> bool {
        self.origins.contains_key(&key)
    }

    /// Those of `keys` that are written here and have another value in `there`.
    #[must_use]
    pub fn deviations(&self, there: &Effective, keys: &[SettingKey]) -> Vec<Deviation> {
        let written = keys.iter().filter_map(|key| Some((*key, self.origins.get(key)?)));
        let other = written.filter(|(key, _)| !self.effective.agrees(there, *key));
        other
            .map(|(key, origin)| Deviation {
                key,
                origin: origin.clone(),
                here: self.effective.shown(key),
                there: there.shown(key),
            })
            .collect()
    }
}

impl Effective {
    /// Sets a value, also where there is one if `replaces`.
    pub fn set(&mut self, key: SettingKey, texts: Vec<String>, replaces: bool) {
        let name = key.setting().name;
        if replaces || !self.0.contains_key(name) {
            let values = texts.into_iter().map(|text| EffectiveValue { text, fields: Vec::new() });
            self.0.insert(name.to_owned(), values.collect());
        }
    }

    /// Has a setting keep the value that it has in `other`.
    pub fn keep(&mut self, other: &Self, key: SettingKey) {
        let name = key.setting().name;
        match other.0.get(name) {
            Some(values) => drop(self.0.insert(name.to_owned(), values.clone())),
            None => drop(self.0.remove(name)),
        }
    }

    /// The settings whose values differ between the two.
    #[must_use]
    pub fn changed(&self, other: &Self) -> Vec<SettingKey> {
        SETTINGS.iter().map(|setting| setting.key).filter(|key| !self.agrees(other, *key)).collect()
    }

    /// The values of a setting, for people: no credentials.
    #[must_use]
    pub fn shown(&self, key: SettingKey) -> String {
        let values = self.values(key);
        if values.is_empty() {
            return match key.setting().default {
                DefaultValue::Value(text) => text.to_owned(),
                DefaultValue::Absent(words) => words.to_owned(),
            };
        }
        values.iter().map(|value| blot_credentials(&value.text)).collect::<Vec<_>>().join(", ")
    }

    /// The texts of a setting's values.
    #[must_use]
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

    /// The values that a configuration takes over, by setting.
    pub(crate) fn written(&self) -> impl Iterator<Item = (SettingKey, Vec<RawValue>)> {
        let known = self.0.iter().filter_map(|(name, values)| Some((SettingKey::named(name)?, values)));
        known.filter(|(key, _)| !OWN.contains(key)).map(|(key, values)| (key, values.iter().map(EffectiveValue::value).collect()))
    }
}

impl EffectiveValue {
    fn of(kind: ValueKind, value: &RawValue, folder: &Path) -> Self {
        let fields = value.fields.iter().map(|RawField { name, value }| {
            let text = if name == "source" { absolute(kind, &value.text, folder) } else { value.text.clone() };
            (name.clone(), text)
        });
        Self { text: absolute(kind, &value.text, folder), fields: fields.collect() }
    }

    fn value(&self) -> RawValue {
        let origin = || Origin::Given;
        let fields = self.fields.iter().map(|(name, text)| RawField { name: name.clone(), value: RawValue::new(text, origin()) });
        RawValue { fields: fields.collect(), ..RawValue::new(&self.text, origin()) }
    }

    fn canonical(&self, kind: ValueKind) -> Self {
        let text = match kind {
            ValueKind::Duration => quantity::duration(&self.text).ok().map(|duration| duration.as_secs().to_string()),
            ValueKind::Size => quantity::size(&self.text).ok().map(|size| size.to_string()),
            ValueKind::Url => Url::parse(&self.text).ok().map(bare),
            _ => None,
        };
        let mut fields = self.fields.clone();
        fields.sort();
        Self { text: text.unwrap_or_else(|| self.text.clone()), fields }
    }
}

/// An address without credentials and with one slash at its end.
fn bare(mut url: Url) -> String {
    // Neither fails for an address that has a host.
    let _ = url.set_username("");
    let _ = url.set_password(None);
    let mut text = url.to_string();
    while text.ends_with('/') {
        text.pop();
    }
    text
}

/// The text of a path without what depends on the working directory; any other text as it is.
fn absolute(kind: ValueKind, text: &str, folder: &Path) -> String {
    let is_path = match kind {
        ValueKind::Path => true,
        ValueKind::Policy => presets::file(text).is_none(),
        ValueKind::Feed => !text.starts_with("http://") && !text.starts_with("https://"),
        _ => false,
    };
    if !is_path || folder.as_os_str().is_empty() {
        return text.to_owned();
    }
    // Without the `.` and the doubled slashes that people write.
    folder.join(text).components().collect::<PathBuf>().display().to_string()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::raw::FlagValues;

    fn settings(flags: &[(SettingKey, &str)]) -> Settings {
        let mut noted = FlagValues::default();
        for (key, text) in flags {
            noted.note(*key, (*text).to_owned());
        }
        let written = RawConfig::gather(None, &[], noted, &mut Vec::new());
        let upstream = Url::parse("https://registry.example/npm/").unwrap();
        Settings::of(&written, Path::new("/home/me"), &upstream, Path::new("/data"))
    }

    fn deviations(here: &[(SettingKey, &str)], there: &[(SettingKey, &str)]) -> Vec<String> {
        let found = settings(here).deviations(settings(there).effective(), OF_VERDICTS);
        found
            .into_iter()
            .map(|found| format!("{} {}: {} / {}", found.origin, found.key.setting().name, found.here, found.there))
            .collect()
    }

    #[test]
    fn a_flag_that_means_the_same_is_no_deviation() {
        assert!(deviations(&[(SettingKey::MinReleaseAge, "3d")], &[(SettingKey::MinReleaseAge, "72h")]).is_empty());
        assert!(deviations(&[(SettingKey::Upstream, "https://registry.example/npm")], &[]).is_empty());
        let (here, there) =
            ([(SettingKey::Exclude, "a"), (SettingKey::Exclude, "b")], [(SettingKey::Exclude, "b"), (SettingKey::Exclude, "a")]);
        assert!(deviations(&here, &there).is_empty());
        assert!(deviations(&[(SettingKey::Policy, "./own.toml")], &[(SettingKey::Policy, "/home/me/own.toml")]).is_empty());
        assert!(deviations(&[], &[(SettingKey::MinReleaseAge, "30d")]).is_empty(), "it is not written here");
    }

    #[test]
    fn a_flag_that_means_something_else_is_told_with_both_values_and_without_secrets() {
        let there = [(SettingKey::MinReleaseAge, "30d"), (SettingKey::Upstream, "https://registry.example/")];
        let here = [
            (SettingKey::MinReleaseAge, "1h"),
            (SettingKey::Upstream, "https://me:secret@other.example/"),
            (SettingKey::Policy, "default"),
        ];
        assert_eq!(
            deviations(&here, &there),
            [
                "--upstream upstream: https://*********@other.example/ / https://registry.example/",
                "--min-release-age min-release-age: 1h / 30d"
            ]
        );
        assert_eq!(
            deviations(&[(SettingKey::MinReleaseAge, "1h")], &[]),
            ["--min-release-age min-release-age: 1h / the policy's, `72h`"]
        );
    }
}
