//! Reads `[[feed]]` tables of the configuration file as text fields. Checks only keys and TOML types.

use std::borrow::Cow;
use std::sync::Arc;

use toml::Spanned;
use toml::de::{DeTable, DeValue};

use crate::config::raw::value::RawValue;
use crate::config::value_kind::FEED_SOURCE;
use crate::diagnostics::{Diagnostic, SourceFile, SourceSpan, suggest};

/// The keys of a feed's table and their allowed values.
pub(crate) const KEYS: [(&str, &str); 6] = [
    ("source", FEED_SOURCE),
    ("name", "lower case letters, digits, `-`, `_` and `.`, at most 64, such as `osv`"),
    ("trust", "`deny`, `hold`, `warn`"),
    ("interval", "a duration, such as `5m`"),
    ("expiry", "a duration, such as `24h`"),
    ("key", "`ed25519:` and Base64, as `coldframe feed export` prints it"),
];

/// Reads the table of one feed. Adds errors to `errors` and returns the valid fields.
pub(crate) fn read(
    file: &Arc<SourceFile>,
    origin: SourceSpan,
    table: &DeTable<'_>,
    errors: &mut Vec<Diagnostic>,
) -> Option<RawValue> {
    let fields: Vec<_> = table.iter().filter_map(|(key, value)| field(file, key, value, errors)).collect();
    let Some(source) = fields.iter().find(|(name, _)| name == "source").map(|(_, value)| value.text.clone()) else {
        if !table.keys().any(|key| key.get_ref() == "source") {
            errors.push(Diagnostic::new(origin, "a feed without `source`", format!("`source` with {FEED_SOURCE}")));
        }
        return None;
    };
    Some(RawValue { fields, ..RawValue::new(source, origin) })
}

fn field(
    file: &Arc<SourceFile>,
    key: &Spanned<Cow<'_, str>>,
    value: &Spanned<DeValue<'_>>,
    errors: &mut Vec<Diagnostic>,
) -> Option<(String, RawValue)> {
    let name = key.get_ref().as_ref();
    let Some((_, allowed)) = KEYS.iter().find(|(known, _)| *known == name) else {
        let all = || KEYS.map(|(known, _)| format!("`{known}`")).join(", ");
        let near = suggest::suggestions(name, KEYS.iter().map(|(known, _)| *known));
        let allowed = suggest::suggested(&near).unwrap_or_else(all);
        let problem = format!("unknown key of a feed: `{}`", name.escape_debug());
        let error = Diagnostic::new(SourceSpan::new(file, key.span()), problem, allowed);
        errors.push(Diagnostic { shows_line: false, ..error });
        return None;
    };
    let origin = SourceSpan::new(file, value.span());
    let DeValue::String(text) = value.get_ref() else {
        let problem = format!("`{name}` cannot be of this type: {}", value.get_ref().type_str());
        errors.push(Diagnostic::new(origin, problem, format!("a string: {allowed}")));
        return None;
    };
    Some((name.to_owned(), RawValue::new(text.to_string(), origin)))
}
