//! Typed access to the values of a TOML table. Each mistake is collected with its position in the file.

use std::ops::Range as Bytes;
use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use jiff::civil::Date;
use toml::Spanned;
use toml::de::{DeTable, DeValue};

use crate::diagnostics::{Diagnostic, SourceFile, SourceSpan, suggest};
use crate::units::{quantity, timestamp};

/// A table of a file and the mistakes found so far.
pub(crate) struct TomlTable<'t, 'm> {
    pub file: &'t Arc<SourceFile>,
    pub inside: &'t DeTable<'t>,
    pub errors: &'m mut Vec<Diagnostic>,
}

pub(crate) type SpannedText<'t> = (&'t str, Bytes<usize>);

const DURATION: &str = "numbers with a unit of s, m, h, d or w, such as `45s`, `72h`, `14d`, `1d12h`";
const INSTANT: &str = "a day or an instant, such as `\"2026-12-31\"` or `\"2026-12-31T12:00:00Z\"`";

impl<'t> TomlTable<'t, '_> {
    /// Reports keys that are not in `known`.
    pub(crate) fn reject_unknown(&mut self, known: &[&'static str]) {
        let table = self.inside;
        for (key, _) in table.iter().filter(|(key, _)| !known.contains(&key.get_ref().as_ref())) {
            let name = key.get_ref().as_ref();
            let allowed = suggest::nearest(name, known.iter().copied()).unwrap_or_else(|| quoted(known.iter().copied()));
            self.note(key.span(), format!("unknown key: `{}`", name.escape_debug()), allowed);
        }
    }

    /// Reports a mistake at a byte range of the file.
    pub(crate) fn note(&mut self, span: Bytes<usize>, problem: impl Into<String>, allowed: impl Into<String>) {
        let place = self.place(span);
        self.errors.push(Diagnostic::new(place, problem, allowed));
    }

    pub(crate) fn place(&self, span: Bytes<usize>) -> SourceSpan {
        SourceSpan::new(self.file, span)
    }

    /// Reports a value of a type that the key cannot have.
    pub(crate) fn wrong_type<T>(&mut self, name: &str, value: &Spanned<DeValue<'_>>, allowed: &str) -> Option<T> {
        self.note(value.span(), format!("`{name}` cannot be of this type: {}", value.get_ref().type_str()), allowed);
        None
    }

    /// Returns the position of a key, or `None` if it is missing.
    pub(crate) fn key(&self, name: &str) -> Option<Bytes<usize>> {
        self.inside.iter().find(|(key, _)| key.get_ref().as_ref() == name).map(|(key, _)| key.span())
    }

    pub(crate) fn value(&self, name: &str) -> Option<&'t Spanned<DeValue<'t>>> {
        let table = self.inside;
        table.iter().find(|(key, _)| key.get_ref().as_ref() == name).map(|(_, value)| value)
    }

    pub(crate) fn text(&mut self, name: &str, allowed: &str) -> Option<SpannedText<'t>> {
        let value = self.value(name)?;
        match value.get_ref() {
            DeValue::String(text) => Some((text, value.span())),
            _ => self.wrong_type(name, value, allowed),
        }
    }

    pub(crate) fn texts(&mut self, name: &str, allowed: &str) -> Option<Vec<SpannedText<'t>>> {
        let value = self.value(name)?;
        let items: Vec<_> = match value.get_ref() {
            DeValue::Array(items) => items.iter().collect(),
            _ => vec![value],
        };
        if items.is_empty() {
            self.note(value.span(), format!("`{name}` is empty, so the rule would match nothing"), allowed);
            return None;
        }
        let text = |item: &'t Spanned<DeValue<'t>>| match item.get_ref() {
            DeValue::String(text) => Some((text.as_ref(), item.span())),
            _ => self.wrong_type(name, item, allowed),
        };
        Some(items.into_iter().filter_map(text).collect())
    }

    /// Parses each of one or more strings. An error of `parse` is printed after the key name.
    pub(crate) fn parsed<T>(&mut self, name: &str, allowed: &str, parse: impl Fn(&str) -> Result<T, String>) -> Option<Vec<T>> {
        let texts = self.texts(name, allowed)?;
        Some(texts.into_iter().filter_map(|text| self.parse(name, text, allowed, &parse)).collect())
    }

    /// Parses a string value. An error of `parse` is printed after the key name.
    pub(crate) fn one<T>(&mut self, name: &str, allowed: &str, parse: impl Fn(&str) -> Result<T, String>) -> Option<T> {
        let text = self.text(name, allowed)?;
        self.parse(name, text, allowed, parse)
    }

    fn parse<T>(
        &mut self,
        name: &str,
        (text, span): SpannedText<'_>,
        allowed: &str,
        parse: impl Fn(&str) -> Result<T, String>,
    ) -> Option<T> {
        let note = |flaw| self.note(span, format!("`{name}` {flaw}: `{}`", text.escape_debug()), allowed);
        parse(text).map_err(note).ok()
    }

    /// Reads one of the words that `as_str` returns for `all`.
    pub(crate) fn word<T: Copy>(&mut self, name: &str, all: &[T], as_str: fn(T) -> &'static str) -> Option<T> {
        self.one(name, &quoted(all.iter().map(|value| as_str(*value))), find_word(all, as_str))
    }

    /// Reads one or more of the words that `as_str` returns for `all`.
    pub(crate) fn words<T: Copy>(&mut self, name: &str, all: &[T], as_str: fn(T) -> &'static str) -> Option<Vec<T>> {
        self.parsed(name, &quoted(all.iter().map(|value| as_str(*value))), find_word(all, as_str))
    }

    pub(crate) fn boolean(&mut self, name: &str) -> Option<bool> {
        let value = self.value(name)?;
        match value.get_ref() {
            DeValue::Boolean(truth) => Some(*truth),
            _ => self.wrong_type(name, value, "`true` or `false`, without quotes"),
        }
    }

    /// Returns a whole number of at least 1.
    pub(crate) fn count(&mut self, name: &str) -> Option<u32> {
        let value = self.value(name)?;
        let count = match value.get_ref() {
            DeValue::Integer(number) => number.to_string().parse().ok().filter(|count| *count > 0),
            _ => None,
        };
        if count.is_none() {
            self.note(value.span(), format!("`{name}` is not a count"), "a whole number of at least 1, without quotes");
        }
        count
    }

    /// Returns a duration, which must not be zero.
    pub(crate) fn duration(&mut self, name: &str) -> Option<Duration> {
        let value = self.value(name)?;
        if let DeValue::Integer(number) = value.get_ref() {
            self.note(value.span(), format!("`{name}` lacks a unit: `{number}`"), DURATION);
            return None;
        }
        self.one(name, DURATION, |text| match quantity::parse_duration(text) {
            Ok(duration) if duration.is_zero() => Err("cannot be zero".to_owned()),
            read => read.map_err(str::to_owned),
        })
    }

    /// Returns an instant. A day means its end (UTC).
    pub(crate) fn instant(&mut self, name: &str) -> Option<Timestamp> {
        let value = self.value(name)?;
        let text = match value.get_ref() {
            DeValue::String(text) => text.to_string(),
            DeValue::Datetime(datetime) => datetime.to_string(),
            _ => return self.wrong_type(name, value, INSTANT),
        };
        let read = timestamp::parse(&text).or_else(|| end_of_day(&text));
        if read.is_none() {
            self.note(value.span(), format!("`{name}` is not an instant: `{}`", text.escape_debug()), INSTANT);
        }
        read
    }
}

fn end_of_day(text: &str) -> Option<Timestamp> {
    let day: Date = text.trim().parse().ok()?;
    let midnight = day.tomorrow().ok()?.at(0, 0, 0, 0);
    timestamp::parse(&format!("{midnight}Z"))
}

fn find_word<T: Copy>(all: &[T], as_str: fn(T) -> &'static str) -> impl Fn(&str) -> Result<T, String> {
    move |text| all.iter().copied().find(|value| as_str(*value) == text).ok_or_else(|| "has an unknown value".to_owned())
}

/// Formats words in backticks, for lists of allowed values.
pub(crate) fn quoted<'a>(words: impl IntoIterator<Item = &'a str>) -> String {
    words.into_iter().map(|word| format!("`{word}`")).collect::<Vec<_>>().join(", ")
}
