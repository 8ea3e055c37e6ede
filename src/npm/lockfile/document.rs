//! A common tree for JSON and YAML lockfiles: strings, lists and maps with line numbers.
//!
//! YAML aliases, anchors and tags are rejected, since no client writes them. Nesting is bounded.

use granit_parser::{Event, Parser, ScalarStyle};
use jsonc_parser::ast::Value;
use jsonc_parser::common::Ranged as _;
use jsonc_parser::{CollectOptions, CommentCollectionStrategy, ParseOptions, parse_to_ast};

use crate::npm::lockfile::model::LockfileError;

/// Maximum nesting. npm's old format nests two levels per `node_modules`.
const MAX_DEPTH: usize = 200;

/// Maximum length of a YAML key on one line. Clients write longer keys with `?`, which YAML requires above 1,024 characters.
const MAX_KEY_CHARS: usize = 4096;

#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum DocNode {
    /// A string, number or boolean as text.
    Text(Box<str>),
    List(Vec<DocNode>),
    /// Members in order, duplicate keys included.
    Map(Vec<DocMember>),
    Nothing,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct DocMember {
    pub key: Box<str>,
    /// The line of the key, from 1.
    pub line: u32,
    pub value: DocNode,
}

impl DocNode {
    /// Returns the value of this key; of duplicates the last, as in every client.
    pub(crate) fn member(&self, key: &str) -> Option<&Self> {
        self.members().iter().rev().find(|member| *member.key == *key).map(|member| &member.value)
    }

    pub(crate) fn members(&self) -> &[DocMember] {
        if let Self::Map(members) = self { members } else { &[] }
    }

    pub(crate) fn members_of(&self, key: &str) -> &[DocMember] {
        self.member(key).map_or(&[], Self::members)
    }

    /// Returns the members of the maps at these keys that are strings, by name.
    pub(crate) fn texts_in<'a>(&'a self, keys: &'a [&str]) -> impl Iterator<Item = (&'a str, &'a str)> {
        let members = keys.iter().flat_map(|key| self.members_of(key));
        members.filter_map(|member| Some((&*member.key, member.value.text()?)))
    }

    pub(crate) fn elements(&self) -> &[Self] {
        if let Self::List(elements) = self { elements } else { &[] }
    }

    pub(crate) fn text(&self) -> Option<&str> {
        if let Self::Text(text) = self { Some(text) } else { None }
    }

    /// Returns the text at this key, unless missing or empty.
    pub(crate) fn text_of(&self, key: &str) -> Option<&str> {
        self.member(key)?.text().filter(|text| !text.is_empty())
    }

    pub(crate) fn is_true(&self, key: &str) -> bool {
        self.text_of(key) == Some("true")
    }

    pub(crate) fn unsupported(&self, member: &'static str, supported: &'static str) -> LockfileError {
        let found = self.text_of(member).map_or_else(|| "missing".to_owned(), |text| format!("`{}`", text.escape_debug()));
        LockfileError::Version { member, found, supported }
    }
}

/// Parses JSON with comments and trailing commas.
pub(crate) fn read_json(text: &str) -> Result<DocNode, LockfileError> {
    let options = ParseOptions {
        allow_comments: true,
        allow_trailing_commas: true,
        allow_loose_object_property_names: false,
        allow_missing_commas: false,
        allow_single_quoted_strings: false,
        allow_hexadecimal_numbers: false,
        allow_unary_plus_numbers: false,
        allow_bare_decimal_point_numbers: false,
        allow_non_finite_numbers: false,
        allow_extended_string_escapes: false,
    };
    let collect = CollectOptions { comments: CommentCollectionStrategy::Off, tokens: false };
    let parsed = parse_to_ast(text, &collect, &options)
        .map_err(|error| LockfileError::at(narrow(error.line_display()), error.kind().to_string()))?;
    let value = parsed.value.ok_or_else(|| LockfileError::at(1, "the file is empty"))?;
    let mut lines = LineCounter { text: text.as_bytes(), at: 0, line: 1 };
    of_json(value, &mut lines, 0)
}

fn of_json(value: Value<'_>, lines: &mut LineCounter<'_>, depth: usize) -> Result<DocNode, LockfileError> {
    if depth >= MAX_DEPTH {
        return Err(too_deep(lines.of(value.start())));
    }
    Ok(match value {
        Value::StringLit(text) => DocNode::Text(text.value.into()),
        Value::NumberLit(number) => DocNode::Text(number.value.into()),
        Value::BooleanLit(truth) => DocNode::Text(if truth.value { "true" } else { "false" }.into()),
        Value::NullKeyword(_) => DocNode::Nothing,
        Value::Array(array) => {
            let elements = array.elements.into_iter().map(|element| of_json(element, lines, depth + 1));
            DocNode::List(elements.collect::<Result<_, _>>()?)
        }
        Value::Object(object) => {
            let mut members = Vec::with_capacity(object.properties.len());
            for property in object.properties {
                let line = lines.of(property.range.start);
                let value = of_json(property.value, lines, depth + 1)?;
                members.push(DocMember { key: property.name.into_string().into(), line, value });
            }
            DocNode::Map(members)
        }
    })
}

/// Counts lines for ascending positions.
struct LineCounter<'a> {
    text: &'a [u8],
    at: usize,
    line: u32,
}

impl LineCounter<'_> {
    fn of(&mut self, position: usize) -> u32 {
        let passed = self.text.get(self.at..position).unwrap_or_default();
        self.line = self.line.saturating_add(narrow(passed.split(|byte| *byte == b'\n').count() - 1));
        self.at = self.at.max(position);
        self.line
    }
}

/// Parses the documents of a YAML file: pnpm writes a document for its own dependencies before the project's.
pub(crate) fn read_yaml(text: &str) -> Result<Vec<DocNode>, LockfileError> {
    let options = granit_parser::options! {
        disallow_directives: true,
        flow_nesting_limit: MAX_DEPTH,
        block_nesting_limit: MAX_DEPTH,
        simple_key_max_lookahead: MAX_KEY_CHARS
    };
    let mut open: Vec<OpenNode> = Vec::new();
    let mut documents = Vec::new();
    for event in Parser::new_from_str_with_options(text, options) {
        let (event, span) = event.map_err(|error| LockfileError::at(narrow(error.marker().line()), error.info()))?;
        let line = narrow(span.start.line());
        let whole = match event {
            Event::Scalar(text, style, 0, None) => {
                let nothing = style == ScalarStyle::Plain && matches!(&*text, "" | "~" | "null");
                if nothing { DocNode::Nothing } else { DocNode::Text(text.into()) }
            }
            Event::SequenceStart(_, 0, None) => {
                open.push(OpenNode::List(Vec::new()));
                continue;
            }
            Event::MappingStart(_, 0, None) => {
                open.push(OpenNode::Map(Vec::new(), None));
                continue;
            }
            Event::SequenceEnd | Event::MappingEnd => open.pop().map_or(DocNode::Nothing, OpenNode::close),
            Event::StreamStart | Event::StreamEnd | Event::DocumentStart(..) | Event::DocumentEnd => continue,
            _ => return Err(LockfileError::at(line, "anchors, aliases and tags are not supported")),
        };
        if open.len() >= MAX_DEPTH {
            return Err(too_deep(line));
        }
        match open.last_mut() {
            Some(open) => open.take(whole, line)?,
            None => documents.push(whole),
        }
    }
    Ok(documents)
}

enum OpenNode {
    List(Vec<DocNode>),
    /// The members, and a key that has no value yet.
    Map(Vec<DocMember>, Option<(Box<str>, u32)>),
}

impl OpenNode {
    fn take(&mut self, node: DocNode, line: u32) -> Result<(), LockfileError> {
        match self {
            Self::List(elements) => elements.push(node),
            Self::Map(members, waiting) => match (waiting.take(), node) {
                (Some((key, line)), value) => members.push(DocMember { key, line, value }),
                (None, DocNode::Text(key)) => *waiting = Some((key, line)),
                (None, DocNode::Nothing) => *waiting = Some(("null".into(), line)),
                (None, DocNode::List(_) | DocNode::Map(_)) => return Err(LockfileError::at(line, "a key must be a string")),
            },
        }
        Ok(())
    }

    fn close(self) -> DocNode {
        match self {
            Self::List(elements) => DocNode::List(elements),
            Self::Map(members, _) => DocNode::Map(members),
        }
    }
}

fn too_deep(line: u32) -> LockfileError {
    LockfileError::at(line, format!("nested more than {MAX_DEPTH} levels deep"))
}

fn narrow(count: usize) -> u32 {
    u32::try_from(count).unwrap_or(u32::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn members_have_the_line_of_their_key() {
        let json = "{\n  \"a\": {\n    // why\n    \"b\": [1, true, null,],\n  },\n  \"c\": \"\\u0064\"\n}\n";
        let yaml = "a:\n\n  b: [1, true, null]\nc: 'd'\n";
        for (read, lines) in [(read_json(json).unwrap(), [2, 4, 6]), (read_yaml(yaml).unwrap().remove(0), [1, 3, 4])] {
            let [a, c] = read.members() else { panic!("{read:?}") };
            let [b] = a.value.members() else { panic!("{read:?}") };
            assert_eq!([a.line, b.line, c.line], lines);
            assert_eq!(b.value, DocNode::List(vec![DocNode::Text("1".into()), DocNode::Text("true".into()), DocNode::Nothing]));
            assert_eq!(c.value, DocNode::Text("d".into()));
        }
    }

    #[test]
    fn errors_name_the_line() {
        for (error, line) in [
            (read_json("{\n\"a\": 1,\n\"b\" 2\n}").unwrap_err(), "line 3"),
            (read_yaml("a: 1\nb: [\n").unwrap_err(), "line"),
            (read_yaml("a: &x 1\nb: *x\n").unwrap_err(), "line 1: anchors, aliases and tags"),
            (read_yaml("a: !!str 1\n").unwrap_err(), "line 1: anchors, aliases and tags"),
            (read_yaml("a: 1\n? [b]\n: 2\n").unwrap_err(), "line 2: a key must be a string"),
        ] {
            assert!(error.to_string().starts_with(line), "{error}");
        }
        assert!(read_json("{a: 1}").is_err() && read_json("{'a': 1}").is_err() && read_json("{\"a\" 1}").is_err());
    }

    #[test]
    fn deep_nesting_is_rejected() {
        for deep in ["[".repeat(100_000), "{\"a\":".repeat(100_000), format!("{}{}", "[".repeat(300), "]".repeat(300))] {
            assert!(read_json(&deep).is_err());
            assert!(read_yaml(&deep).is_err());
        }
        let block = (0..5_000).map(|depth| " ".repeat(depth) + "a:\n").collect::<Vec<_>>().concat();
        assert!(read_yaml(&block).is_err());
        assert!(read_json(&format!("{}{}", "[".repeat(199), "]".repeat(199))).is_ok());
    }
}
