//! Reads the configuration file: flat TOML with the names of settings as keys. Checks only keys and TOML types.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::ops::Range;
use std::path::Path;
use std::sync::Arc;

use toml::Spanned;
use toml::de::{DeTable, DeValue};

use crate::config::raw::value::RawValue;
use crate::config::settings::{Setting, SettingKey};
use crate::config::suggest;
use crate::config::value_kind::{FEED_SOURCE, ValueKind};
use crate::diagnostics::suggest::nearest;
use crate::diagnostics::{Diagnostic, Origin, SourceFile, SourceSpan};
use crate::files;

const MAX_FILE_BYTES: u64 = 1 << 20;

/// The keys of a feed's table and their allowed values.
pub(crate) const FEED_KEYS: [(&str, &str); 6] = [
    ("source", FEED_SOURCE),
    ("name", "lower case letters, digits, `-`, `_` and `.`, at most 64, such as `osv`"),
    ("trust", "`deny`, `hold`, `warn`"),
    ("interval", "a duration, such as `5m`"),
    ("expiry", "a duration, such as `24h`"),
    ("key", "`ed25519:` and Base64, as `coldframe feed export` prints it"),
];

/// The keys of an upstream's table and their allowed values.
pub(crate) const UPSTREAM_KEYS: [(&str, &str); 10] = [
    ("url", "an `http` or `https` URL, such as `https://acme.example/npm/`"),
    ("scopes", "scopes in brackets, such as `[\"@acme\"]`"),
    ("packages", "globs of package names in brackets, such as `[\"acme-*\"]`"),
    ("time", "`checked`, `first-seen`, `trust`, `ignore-age`"),
    ("username", "the user whose password the token is, for Basic credentials"),
    ("token-file", "the path of a file with one line"),
    ("token-variable", "the name of an environment variable"),
    ("token-command", "a program and its arguments in brackets, such as `[\"/usr/bin/helper\", \"token\"]`"),
    ("token-life", "a duration, such as `10h`"),
    ("ca", "the path of a PEM file with further CAs"),
];

/// What the tables of a setting contain.
struct TableShape {
    /// What one is called in errors.
    noun: &'static str,
    /// The key that each has, which is the text of the value.
    main: &'static str,
    keys: &'static [(&'static str, &'static str)],
}

const FEED: TableShape = TableShape { noun: "a feed", main: "source", keys: &FEED_KEYS };
const UPSTREAM: TableShape = TableShape { noun: "an upstream", main: "url", keys: &UPSTREAM_KEYS };

impl TableShape {
    fn of(key: SettingKey) -> Option<&'static Self> {
        match key {
            SettingKey::Feed => Some(&FEED),
            SettingKey::Upstream | SettingKey::Route => Some(&UPSTREAM),
            _ => None,
        }
    }
}

/// Checks whether the value of a key in a table is a list of strings.
pub(crate) fn is_list(key: &str) -> bool {
    matches!(key, "scopes" | "packages" | "token-command")
}

/// Reads a file. Adds errors to `errors` and returns the valid settings. `origin` is the flag or variable that names the file.
pub(crate) fn read(path: &Path, origin: Origin, errors: &mut Vec<Diagnostic>) -> BTreeMap<SettingKey, Vec<RawValue>> {
    match files::read_pipe_bounded(path, MAX_FILE_BYTES).and_then(files::into_text) {
        Ok(text) => parse(path, text, errors),
        Err(error) => {
            let problem = format!("cannot read the configuration file `{}`: {error}", path.display());
            errors.push(Diagnostic::new(origin, problem, ""));
            BTreeMap::new()
        }
    }
}

/// Parses `text` as a file with the path `path`. Adds errors to `errors` and returns the valid settings.
pub(crate) fn parse(path: &Path, text: String, errors: &mut Vec<Diagnostic>) -> BTreeMap<SettingKey, Vec<RawValue>> {
    let file = Arc::new(SourceFile { path: path.to_owned(), text });
    let (table, syntax_errors) = DeTable::parse_recoverable(&file.text);
    let readable = syntax_errors.iter().filter_map(toml::de::Error::span).map(|span| span.start).min().unwrap_or(usize::MAX);
    let mut reader = FileReader { file: &file, errors };
    reader.add_syntax_errors(syntax_errors);
    // After the first error the parser guesses, and its entries may not exist in the file.
    let entries = table.get_ref().iter().filter(|(key, value)| key.span().end.max(value.span().end) <= readable);
    let mut found = BTreeMap::new();
    for (key, value) in entries {
        let Some((key, values)) = reader.read_entry(key, value) else { continue };
        if key == SettingKey::Upstream {
            reader.split_upstreams(values, &mut found);
        } else {
            found.entry(key).or_insert_with(Vec::new).extend(values);
        }
    }
    found
}

struct FileReader<'a> {
    file: &'a Arc<SourceFile>,
    errors: &'a mut Vec<Diagnostic>,
}

impl FileReader<'_> {
    fn add(&mut self, span: Range<usize>, problem: String, allowed: impl Into<String>) {
        self.errors.push(Diagnostic::new(SourceSpan::new(self.file, span), problem, allowed));
    }

    /// Adds an error about an unknown key, whose value may be a token and is not shown.
    fn add_unknown(&mut self, span: Range<usize>, problem: String, allowed: impl Into<String>) {
        let error = Diagnostic::new(SourceSpan::new(self.file, span), problem, allowed);
        self.errors.push(Diagnostic { shows_line: false, ..error });
    }

    /// Adds the first syntax error of each line. Further errors on the same line follow from it.
    fn add_syntax_errors(&mut self, mut found: Vec<toml::de::Error>) {
        found.sort_by_key(|error| error.span().map_or(0, |span| span.start));
        let mut last = 0;
        for error in found {
            let span = SourceSpan::new(self.file, error.span().unwrap_or(0..0));
            let (line, _) = span.position();
            if line == last {
                continue;
            }
            last = line;
            let text = self.file.text.lines().nth(line - 1).unwrap_or_default();
            let shows_line = text.split('=').next().is_some_and(|key| SettingKey::named(key.trim()).is_some());
            let error = Diagnostic::new(span, format!("not TOML: {}", error.message()), "");
            self.errors.push(Diagnostic { shows_line, ..error });
        }
    }

    fn read_entry(&mut self, key: &Spanned<Cow<'_, str>>, value: &Spanned<DeValue<'_>>) -> Option<(SettingKey, Vec<RawValue>)> {
        let name = key.get_ref().as_ref();
        let Some(known) = SettingKey::named(name) else {
            if value.get_ref().is_table() {
                let allowed =
                    "settings at the top level, as in `min-release-age = \"72h\"`, and tables `[[feed]]` and `[[upstream]]`";
                self.add_unknown(key.span(), format!("unknown table: `{name}`"), allowed);
            } else {
                self.errors.push(suggest::unknown_name(SourceSpan::new(self.file, key.span()).into(), "key", name));
            }
            return None;
        };
        let setting = known.setting();
        let items = match value.get_ref() {
            DeValue::Array(items) if setting.several || known == SettingKey::Upstream => items.iter().collect(),
            _ => vec![value],
        };
        let mut texts = Vec::new();
        for item in items {
            if let (Some(shape), DeValue::Table(table)) = (TableShape::of(known), item.get_ref()) {
                texts.extend(self.read_table(shape, item.span(), table));
            } else if let Some(text) = text_of(setting, item.get_ref()) {
                texts.push(RawValue::new(text, SourceSpan::new(self.file, item.span())));
            } else {
                let problem = format!("`{name}` cannot be of this type: {}", item.get_ref().type_str());
                self.add(item.span(), problem, shape(setting));
            }
        }
        Some((known, texts))
    }

    /// Reads a table as text fields. The elements of a list are fields with the same name.
    fn read_table(&mut self, shape: &TableShape, span: Range<usize>, table: &DeTable<'_>) -> Option<RawValue> {
        let main = shape.main;
        let fields: Vec<_> = table.iter().flat_map(|(key, value)| self.read_field(shape, key, value)).collect();
        let Some(text) = fields.iter().find(|(name, _)| name == main).map(|(_, value)| value.text.clone()) else {
            if !table.keys().any(|key| key.get_ref() == main) {
                let allowed = shape.keys.iter().find(|(known, _)| *known == main).map_or("", |(_, allowed)| allowed);
                self.add(span, format!("{} without `{main}`", shape.noun), format!("`{main}` with {allowed}"));
            }
            return None;
        };
        Some(RawValue { fields, ..RawValue::new(text, SourceSpan::new(self.file, span)) })
    }

    fn read_field(
        &mut self,
        shape: &TableShape,
        key: &Spanned<Cow<'_, str>>,
        value: &Spanned<DeValue<'_>>,
    ) -> Vec<(String, RawValue)> {
        let name = key.get_ref().as_ref();
        let Some((_, allowed)) = shape.keys.iter().find(|(known, _)| *known == name) else {
            let all = || shape.keys.iter().map(|(known, _)| format!("`{known}`")).collect::<Vec<_>>().join(", ");
            let allowed = nearest(name, shape.keys.iter().map(|(known, _)| *known)).unwrap_or_else(all);
            self.add_unknown(key.span(), format!("unknown key of {}: `{}`", shape.noun, name.escape_debug()), allowed);
            return Vec::new();
        };
        let items: Vec<_> = match value.get_ref() {
            DeValue::Array(items) if is_list(name) => items.iter().collect(),
            _ => vec![value],
        };
        let mut fields = Vec::new();
        for item in items {
            if let DeValue::String(text) = item.get_ref() {
                fields.push((name.to_owned(), RawValue::new(text.to_string(), SourceSpan::new(self.file, item.span()))));
            } else {
                let problem = format!("`{name}` cannot be of this type: {}", item.get_ref().type_str());
                let allowed = if is_list(name) { (*allowed).to_owned() } else { format!("a string: {allowed}") };
                self.add(item.span(), problem, allowed);
            }
        }
        fields
    }

    /// Adds upstreams to the settings: those with `scopes` or `packages` are routes, and one without is the default.
    fn split_upstreams(&mut self, values: Vec<RawValue>, found: &mut BTreeMap<SettingKey, Vec<RawValue>>) {
        for value in values {
            let is_route = value.field("scopes").or(value.field("packages")).is_some();
            let key = if is_route { SettingKey::Route } else { SettingKey::Upstream };
            let known = found.entry(key).or_default();
            if !is_route && !known.is_empty() {
                let allowed = "`scopes` or `packages` in all upstreams but one";
                self.errors.push(Diagnostic::new(
                    value.origin,
                    "two upstreams without `scopes` and `packages`".to_owned(),
                    allowed,
                ));
                continue;
            }
            known.push(value);
        }
    }
}

/// Returns the text of a value of a fitting TOML type. A bare number also passes: the parser reports its missing unit best.
fn text_of(setting: &Setting, value: &DeValue<'_>) -> Option<String> {
    match (setting.kind, value) {
        (ValueKind::Truth, DeValue::Boolean(truth)) => Some(truth.to_string()),
        (ValueKind::Count | ValueKind::Duration | ValueKind::Size, DeValue::Integer(number)) => Some(number.to_string()),
        (ValueKind::Truth | ValueKind::Count, _) => None,
        (_, DeValue::String(text)) => Some(text.to_string()),
        _ => None,
    }
}

/// Describes how a value of a setting is written in TOML.
fn shape(setting: &Setting) -> String {
    let allowed = setting.kind.allowed();
    match setting.kind {
        ValueKind::Truth | ValueKind::Count => format!("{allowed}, without quotes"),
        _ if setting.several => format!("strings in brackets, each {allowed}"),
        _ => format!("a string: {allowed}"),
    }
}
