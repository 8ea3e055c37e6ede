//! Merges flags, environment and file into raw settings: text values with their origins.

pub(crate) mod file;
mod value;

use std::collections::BTreeMap;
use std::path::Path;

pub use value::RawValue;

use crate::config::settings::{DefaultValue, FILE_VARIABLE, PREFIX, SETTINGS, Setting, SettingKey};
use crate::config::suggest;
use crate::config::value_kind::ValueKind;
use crate::diagnostics::{Diagnostic, Diagnostics, Origin, redact_credentials};

/// All settings that are set. A source of higher precedence replaces the whole value of a setting, including lists.
#[derive(Debug, Clone, Default)]
pub struct RawConfig(pub(crate) BTreeMap<SettingKey, Vec<RawValue>>);

/// Environment variables of the process or of a test.
pub type EnvPairs = [(std::ffi::OsString, std::ffi::OsString)];

impl RawConfig {
    /// Creates a configuration from names and values. Only names of settings that accept several values may repeat.
    ///
    /// # Errors
    /// Returns an error for each unknown name and for each repeated name of a setting with one value.
    pub fn from_pairs(pairs: &[(&str, &str)]) -> Result<Self, Diagnostics> {
        let (mut raw, mut errors) = (Self::default(), Vec::new());
        for (name, text) in pairs {
            let value = RawValue::new(*text, Origin::Given);
            match SettingKey::named(name) {
                None => errors.push(suggest::unknown_name(Origin::Given, "setting", name)),
                Some(key) if raw.0.contains_key(&key) && !key.setting().several => {
                    errors.push(Diagnostic::new(Origin::Given, format!("given twice: `{name}`"), "one value"));
                }
                Some(key) => raw.0.entry(key).or_default().push(value),
            }
        }
        Diagnostics::or(errors, Some(raw))
    }

    /// Parses the text of a configuration file. `path` is used in errors and need not exist.
    ///
    /// # Errors
    /// Returns all errors of TOML syntax, keys and types. Values are not parsed.
    pub fn from_text(path: &Path, text: &str) -> Result<Self, Diagnostics> {
        let mut errors = Vec::new();
        let raw = Self(file::parse(path, text.to_owned(), &mut errors));
        Diagnostics::or(errors, Some(raw))
    }

    /// Merges flags over the environment over the file, if `file` or the environment names one. Keeps the valid settings.
    pub(crate) fn merge(file: Option<&Path>, environment: &EnvPairs, flags: Self, errors: &mut Vec<Diagnostic>) -> Self {
        let mut raw = Self::default();
        let named = environment.iter().find(|(name, value)| name == FILE_VARIABLE && !value.is_empty());
        let named = named.map(|(_, value)| (Path::new(value), Origin::Variable(FILE_VARIABLE.to_owned())));
        if let Some((path, origin)) = file.map(|path| (path, Origin::Flag("--config".to_owned()))).or(named) {
            raw.0.extend(file::read(path, origin, errors));
        }
        raw.0.extend(read_environment(environment, errors));
        raw.0.extend(flags.0);
        raw
    }

    /// Returns the values of a setting, or else its default, or else nothing.
    pub fn values(&self, key: SettingKey) -> Vec<RawValue> {
        match (self.0.get(&key), key.setting().default) {
            (Some(values), _) => values.clone(),
            (None, DefaultValue::Value(text)) => vec![RawValue::new(text, Origin::Default)],
            (None, DefaultValue::Absent(_)) => Vec::new(),
        }
    }

    /// Sets those settings in `values` that are not set.
    pub(crate) fn fill(&mut self, values: impl IntoIterator<Item = (SettingKey, Vec<RawValue>)>) {
        for (key, values) in values {
            self.0.entry(key).or_insert(values);
        }
    }

    /// Returns the flags of these settings as command-line arguments, without credentials.
    pub(crate) fn words(&self, keys: &[SettingKey]) -> Vec<String> {
        let given = self.0.iter().filter(|(key, _)| keys.contains(key));
        let values = given.flat_map(|(key, values)| values.iter().map(|value| (key.setting(), redact_credentials(&value.text))));
        let words = |(setting, text): (&Setting, String)| match setting.kind {
            ValueKind::Truth => vec![format!("{}={text}", setting.flag())],
            _ => vec![setting.flag(), text],
        };
        values.flat_map(words).collect()
    }

    #[cfg(test)]
    pub(crate) fn from_flags(pairs: &[(SettingKey, &str)]) -> Self {
        let mut flags = Self::default();
        for (key, text) in pairs {
            flags.push_flag(*key, (*text).to_owned());
        }
        flags
    }

    pub fn push_flag(&mut self, key: SettingKey, text: String) {
        self.0.entry(key).or_default().push(RawValue::new(text, Origin::Flag(key.setting().flag())));
    }
}

/// Reads the settings in environment variables. An empty variable counts as not set, because compose files and CI pass those.
fn read_environment(environment: &EnvPairs, errors: &mut Vec<Diagnostic>) -> BTreeMap<SettingKey, Vec<RawValue>> {
    let mut values = BTreeMap::new();
    for (name, value) in environment {
        let is_ours = |name: &&str| name.starts_with(PREFIX) && *name != FILE_VARIABLE && !is_service_link(name);
        let Some(name) = name.to_str().filter(is_ours).filter(|_| !value.is_empty()) else { continue };
        let origin = Origin::Variable(name.to_owned());
        match (SETTINGS.iter().find(|setting| setting.variable() == name), value.to_str()) {
            (None, _) => errors.push(unknown_variable(origin, name)),
            (Some(setting), None) => errors.push(Diagnostic::new(origin, "is not UTF-8", setting.kind.allowed())),
            (Some(setting), Some(text)) => {
                let texts = if setting.several { split(text) } else { vec![text] };
                values.insert(setting.key, texts.into_iter().map(|text| RawValue::new(text, origin.clone())).collect());
            }
        }
    }
    values
}

fn unknown_variable(origin: Origin, name: &str) -> Diagnostic {
    let rest = name.trim_start_matches(PREFIX);
    let allowed = match suggest::suggest_setting(rest).and_then(SettingKey::named) {
        Some(key) => {
            let relation = if suggest::renamed(rest).is_some() { "its new name" } else { "if that was meant" };
            format!("`{}`, {relation}", key.setting().variable())
        }
        None => format!("`{FILE_VARIABLE}`, and `{PREFIX}` before the name of a setting"),
    };
    Diagnostic::new(origin, format!("unknown variable: `{name}`"), allowed)
}

/// Checks for a variable that Kubernetes adds to every container if a service is named `coldframe`.
fn is_service_link(name: &str) -> bool {
    let rest = name.trim_start_matches(PREFIX);
    matches!(rest, "PORT" | "SERVICE_HOST" | "SERVICE_PORT") || rest.starts_with("PORT_") || rest.starts_with("SERVICE_PORT_")
}

/// Splits a list at its commas, except within the braces of a glob.
fn split(text: &str) -> Vec<&str> {
    let (mut parts, mut start, mut depth) = (Vec::new(), 0, 0_i32);
    for (at, letter) in text.char_indices() {
        match letter {
            '{' => depth += 1,
            '}' => depth -= 1,
            ',' if depth <= 0 => {
                parts.push(&text[start..at]);
                start = at + 1;
            }
            _ => {}
        }
    }
    parts.push(&text[start..]);
    parts.into_iter().map(str::trim).filter(|part| !part.is_empty()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn environment(pairs: &[(&str, &str)]) -> Vec<(std::ffi::OsString, std::ffi::OsString)> {
        pairs.iter().map(|(name, value)| (name.into(), value.into())).collect()
    }

    fn texts(raw: &RawConfig, key: SettingKey) -> Vec<String> {
        raw.values(key).into_iter().map(|value| format!("{} <- {}", value.text, value.origin)).collect()
    }

    #[test]
    fn precedence_is_flag_environment_file_default() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("coldframe.toml");
        std::fs::write(&path, "memory = \"1GB\"\nlisten = [\"127.0.0.1:1\", \"127.0.0.1:2\"]\nmax-stale = \"1h\"\n").unwrap();
        let variables = environment(&[
            ("COLDFRAME_CONFIG", path.to_str().unwrap()),
            ("COLDFRAME_LISTEN", "127.0.0.1:3, 127.0.0.1:4"),
            ("COLDFRAME_MAX_STALE", "2h"),
            ("COLDFRAME_UPSTREAM", ""),
            ("PATH", "/bin"),
        ]);
        let (mut flags, mut errors) = (RawConfig::default(), Vec::new());
        flags.push_flag(SettingKey::MaxStale, "3h".to_owned());
        let raw = RawConfig::merge(None, &variables, flags, &mut errors);
        assert!(errors.is_empty(), "{errors:?}");
        assert_eq!(texts(&raw, SettingKey::MaxStale), ["3h <- --max-stale"]);
        assert_eq!(texts(&raw, SettingKey::Listen), ["127.0.0.1:3 <- COLDFRAME_LISTEN", "127.0.0.1:4 <- COLDFRAME_LISTEN"]);
        assert_eq!(texts(&raw, SettingKey::Memory), [format!("1GB <- {}:1:10", path.display())]);
        assert_eq!(texts(&raw, SettingKey::LogLevel), ["info <- default"]);
        assert!(raw.values(SettingKey::Upstream).is_empty());
    }

    #[test]
    fn unknown_variable_is_an_error_except_kubernetes_service_links() {
        let variables = environment(&[
            ("COLDFRAME_MIN_AGE", "7d"),
            ("COLDFRAME_UPSTREAMS", "x"),
            ("COLDFRAME_PORT", "tcp://10.0.0.1:4873"),
            ("COLDFRAME_SERVICE_HOST", "10.0.0.1"),
            ("COLDFRAME_PORT_4873_TCP_ADDR", "10.0.0.1"),
        ]);
        let mut errors = Vec::new();
        RawConfig::merge(None, &variables, RawConfig::default(), &mut errors);
        let messages: Vec<_> = errors.iter().map(ToString::to_string).collect();
        assert_eq!(
            messages,
            [
                "COLDFRAME_MIN_AGE: unknown variable: `COLDFRAME_MIN_AGE`\n   = allowed: `COLDFRAME_CONFIG`, and `COLDFRAME_` before the name of a setting",
                "COLDFRAME_UPSTREAMS: unknown variable: `COLDFRAME_UPSTREAMS`\n   = allowed: `COLDFRAME_UPSTREAM`, if that was meant",
            ]
        );
    }

    #[test]
    fn variable_lists_are_split_at_commas_outside_braces() {
        assert_eq!(split("@acme/{a,b}, lodash,,"), ["@acme/{a,b}", "lodash"]);
    }

    #[test]
    fn single_valued_setting_must_not_repeat() {
        assert!(RawConfig::from_pairs(&[("listen", "127.0.0.1:1"), ("listen", "127.0.0.1:2")]).is_ok());
        assert!(RawConfig::from_pairs(&[("memory", "1GB"), ("memory", "2GB")]).is_err());
        assert!(RawConfig::from_pairs(&[("ports", "1")]).is_err());
    }
}
