//! Escapes text from outside for its destination: terminal, CI log, log line, HTTP header, HTML or Markdown.

use std::borrow::Cow;
use std::fmt::Write as _;

/// The longest description of a JSON error, without its position.
const MAX_JSON_ERROR_CHARS: usize = 200;

/// Appends a formatted line to a `String`. The values in it cannot start another line or control the terminal.
macro_rules! push_line {
    ($text:expr, $($arguments:tt)*) => {{
        $text.push_str(&$crate::text::single_line(&::std::format!($($arguments)*)));
        $text.push('\n');
    }};
}
pub(crate) use push_line;

/// Returns `text` as one inert line: it cannot move a cursor, change the writing direction, hide characters, start another line
/// or be a CI runner command.
pub fn single_line(text: &str) -> Cow<'_, str> {
    if is_inert(text, false) { Cow::Borrowed(text) } else { Cow::Owned(escaped_line(text, false)) }
}

/// Returns multi-line `text` with the same guarantee for each line; only line feeds and tabs are kept.
pub fn printable(text: &str) -> Cow<'_, str> {
    if text.split('\n').all(|line| is_inert(line, true)) {
        return Cow::Borrowed(text);
    }
    let lines: Vec<String> = text.split('\n').map(|line| escaped_line(line, true)).collect();
    Cow::Owned(lines.join("\n"))
}

/// Returns the first `longest` characters of `text` as [`single_line`], with `...` if there are more.
pub fn excerpt(text: &str, longest: usize) -> String {
    let Some((end, _)) = text.char_indices().nth(longest) else { return single_line(text).into_owned() };
    single_line(&text[..end]).into_owned() + "..."
}

/// Describes in one line why JSON could not be read. serde repeats a value that it did not expect, whatever its length is.
pub fn json_error(error: &serde_json::Error) -> String {
    let message = error.to_string();
    let position = message.rfind(" at line ").filter(|_| error.line() > 0).unwrap_or(message.len());
    excerpt(&message[..position], MAX_JSON_ERROR_CHARS) + &message[position..]
}

/// Returns one line of at most `longest` characters of visible ASCII, for reason phrases and headers. Control, invisible and
/// non-ASCII characters become `?`; white space becomes a space.
pub fn ascii_line(text: &str, longest: usize) -> String {
    let visible = |ch: char| match ch {
        ' '..='~' => ch,
        _ if ch.is_whitespace() => ' ',
        _ => '?',
    };
    let line: String = text.trim().chars().take(longest.saturating_add(1)).map(visible).collect();
    let mut line = single_line(&line).into_owned();
    if line.len() > longest {
        line.truncate(longest.saturating_sub(3));
        line.truncate(line.trim_end().len());
        line.push_str(&"..."[..longest.min(3)]);
    }
    line
}

/// Returns `text` as plain Markdown text, also safe in a table cell: no markup, links, images, mentions or HTML.
pub fn markdown(text: &str) -> String {
    let text = single_line(text).replace("://", "\0").replace("www.", "\u{1}");
    let mut escaped = String::with_capacity(text.len());
    let mut before = ' ';
    for ch in text.chars() {
        match ch {
            // Renderers turn a bare URL into a link, and a name after `@` into a mention.
            '\0' => escaped.push_str(":&#47;/"),
            '\u{1}' => escaped.push_str("www&#46;"),
            '@' if !before.is_alphanumeric() => escaped.push_str("&#64;"),
            '<' => escaped.push_str("&lt;"),
            '>' => escaped.push_str("&gt;"),
            '&' => escaped.push_str("&amp;"),
            '\\' | '`' | '*' | '_' | '[' | ']' | '|' | '~' | '$' | '#' => escaped.extend(['\\', ch]),
            _ => escaped.push(ch),
        }
        before = ch;
    }
    escaped
}

/// Returns `text` as a Markdown code span, also safe in a table cell: no links, images, mentions or HTML.
pub fn markdown_code(text: &str) -> String {
    format!("`{}`", single_line(text).replace('`', "'").replace('|', "\\|"))
}

/// Returns `text` for a message to Slack or a compatible receiver: no mentions, links or channel names. Some receivers also turn a
/// bare `@here` or a bare URL into one, so these are written with look-alikes.
#[cfg_attr(not(test), expect(dead_code, reason = "for notifications, which are not sent yet"))]
pub(crate) fn slack(text: &str) -> String {
    let text = single_line(text).replace("://", ":\u{2044}\u{2044}");
    let mut escaped = String::with_capacity(text.len());
    let mut before = ' ';
    for ch in text.chars() {
        let starts_word = !before.is_alphanumeric();
        match ch {
            '&' => escaped.push_str("&amp;"),
            '<' => escaped.push_str("&lt;"),
            '>' => escaped.push_str("&gt;"),
            '@' if starts_word => escaped.push('\u{ff20}'),
            '#' if starts_word => escaped.push('\u{ff03}'),
            _ => escaped.push(ch),
        }
        before = ch;
    }
    escaped
}

/// Returns `text` as one CSV field. A spreadsheet does not run it as a formula.
pub(crate) fn csv(text: &str) -> String {
    let line = single_line(text);
    let is_formula =
        line.trim_start().starts_with(['=', '+', '-', '@', '|', '%', '\u{ff1d}', '\u{ff0b}', '\u{ff0d}', '\u{ff20}']);
    let line = if is_formula { format!("'{line}") } else { line.into_owned() };
    if line.contains([',', ';', '"', '\'']) { format!("\"{}\"", line.replace('"', "\"\"")) } else { line }
}

/// Returns `text` as one shell word, for commands that users copy.
pub fn shell_word(text: &str) -> Cow<'_, str> {
    let plain = |ch: char| ch.is_alphanumeric() || "@%+=:,./_-".contains(ch);
    if !text.is_empty() && text.chars().all(plain) {
        return Cow::Borrowed(text);
    }
    Cow::Owned(format!("'{}'", single_line(text).replace('\'', r"'\''")))
}

/// Writes `ch` as a JSON escape.
fn escape(ch: char, into: &mut String) {
    match ch {
        '\n' => into.push_str("\\n"),
        '\r' => into.push_str("\\r"),
        '\t' => into.push_str("\\t"),
        _ => {
            for unit in ch.encode_utf16(&mut [0; 2]) {
                // Writing to a string cannot fail.
                let _ = write!(into, "\\u{unit:04x}");
            }
        }
    }
}

/// Checks whether a terminal or viewer interprets, hides or reorders `ch`.
fn is_unsafe(ch: char) -> bool {
    if matches!(ch, ' '..='~') {
        return false;
    }
    // Soft hyphens, joiners, fillers, zero-width spaces, direction marks and overrides, line separators, tag characters.
    ch.is_control()
        || matches!(ch,
            '\u{ad}' | '\u{34f}' | '\u{61c}' | '\u{115f}' | '\u{1160}' | '\u{17b4}' | '\u{17b5}' | '\u{180b}'..='\u{180f}'
            | '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2060}'..='\u{206f}' | '\u{3164}' | '\u{fe00}'..='\u{fe0f}'
            | '\u{feff}' | '\u{ffa0}' | '\u{fff0}'..='\u{fffb}' | '\u{1bca0}'..='\u{1bca3}' | '\u{1d173}'..='\u{1d17a}'
            | '\u{e0000}'..='\u{e0fff}')
}

fn is_inert(line: &str, keeps_tabs: bool) -> bool {
    let plain = |ch: char| !is_unsafe(ch) || (keeps_tabs && ch == '\t');
    line.chars().all(plain) && !line.trim_start().starts_with("::") && next_command(line).is_none()
}

fn escaped_line(line: &str, keeps_tabs: bool) -> String {
    let mut escaped = String::with_capacity(line.len() + 16);
    let blank = line.len() - line.trim_start().len();
    let mut rest = line;
    if line[blank..].starts_with("::") {
        push(&line[..blank], keeps_tabs, &mut escaped);
        escape(':', &mut escaped);
        rest = &line[blank + 1..];
    }
    while let Some(at) = next_command(rest) {
        push(&rest[..at], keeps_tabs, &mut escaped);
        escape('#', &mut escaped);
        rest = &rest[at + 1..];
    }
    push(rest, keeps_tabs, &mut escaped);
    escaped
}

fn push(text: &str, keeps_tabs: bool, into: &mut String) {
    for ch in text.chars() {
        if is_unsafe(ch) && !(keeps_tabs && ch == '\t') {
            escape(ch, into);
        } else {
            into.push(ch);
        }
    }
}

/// Returns the position of the first `#` of a CI runner command anywhere in a line: `##[…`, `##vso[…`, `##teamcity[…`.
fn next_command(line: &str) -> Option<usize> {
    line.match_indices("##").map(|(at, _)| at).find(|at| {
        let word = line[at + 2..].trim_start_matches('#').trim_start_matches(|ch: char| ch.is_ascii_alphanumeric() || ch == '-');
        word.starts_with('[')
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn excerpts_are_short_lines() {
        assert_eq!(excerpt("a\nb", 5), "a\\nb");
        assert_eq!((excerpt("äöü", 3), excerpt("äöü", 2)), ("äöü".to_owned(), "äö...".to_owned()));
    }

    #[test]
    fn json_errors_are_short_and_keep_their_position() {
        #[derive(Debug, serde::Deserialize)]
        enum Word {
            One,
        }
        let long = format!("\n[\"{}\"]", "x".repeat(1_000_000));
        let error = json_error(&serde_json::from_str::<Vec<u8>>(&long).unwrap_err());
        assert!(error.starts_with("invalid type: string \"xxx") && error.len() < 300, "{error:.400}");
        assert!(error.contains("...") && error.contains(" at line 2 column "), "{error}");
        // serde repeats this one without quotes and escapes.
        let error = json_error(&serde_json::from_str::<Word>("\"a\\n\\u202e at line 1\"").unwrap_err());
        assert!(error.contains(r"`a\n\u202e at line 1`") && error.ends_with(" at line 1 column 21"), "{error}");
        let error = json_error(&serde_json::from_value::<u8>("x".repeat(1_000).into()).unwrap_err());
        assert!(error.len() < 300, "{error}");
    }

    /// Sequences that must not reach a terminal or log unescaped.
    const HOSTILE: &str =
        "a\n::error::b\r\u{1b}[2J\u{9b}31m\u{7f}\u{0}\u{85}\u{2028}\u{202e}\u{2066}\u{200b}\u{feff}\u{e0041}##[add-mask]c";

    #[test]
    fn single_line_escapes_hostile_characters() {
        assert_eq!(
            single_line(HOSTILE),
            "a\\n::error::b\\r\\u001b[2J\\u009b31m\\u007f\\u0000\\u0085\\u2028\\u202e\\u2066\\u200b\\ufeff\\udb40\\udc41\\u0023#[add-mask]c"
        );
        for plain in ["", "axios@1.14.1", "Größe 日本語 🎉", "a::b # c ## d [e]", "C:\\temp"] {
            assert!(matches!(single_line(plain), Cow::Borrowed(same) if same == plain), "{plain}");
        }
    }

    #[test]
    fn ci_runner_commands_are_escaped() {
        assert_eq!(single_line(" \t::error::x"), " \\t\\u003a:error::x");
        assert_eq!(single_line("\u{3000}::error::x"), "\u{3000}\\u003a:error::x");
        assert_eq!(single_line("a ##vso[task.x]y ####[z]"), "a \\u0023#vso[task.x]y \\u0023\\u0023\\u0023#[z]");
        assert_eq!(single_line("##teamcity[x]"), "\\u0023#teamcity[x]");
        assert_eq!(
            printable("fine\n\t::set-env name=x::y\n##[group]z\r\n"),
            "fine\n\t\\u003a:set-env name=x::y\n\\u0023#[group]z\\r\n"
        );
        assert!(matches!(printable("a\n\tb\n"), Cow::Borrowed(_)));
    }

    #[test]
    fn printable_json_stays_equivalent() {
        let value = serde_json::json!({ HOSTILE: [HOSTILE, "::x", "\u{10fffd}\u{e0100}"] });
        for text in [value.to_string(), format!("{value:#}\n")] {
            let safe = printable(&text);
            assert_eq!(serde_json::from_str::<serde_json::Value>(&safe).unwrap(), value);
            assert!(safe.chars().all(|ch| ch == '\n' || !is_unsafe(ch)) && !safe.contains("##["), "{safe}");
        }
    }

    #[test]
    fn ascii_line_is_short_and_visible() {
        assert_eq!(ascii_line("a\r\nb\u{e9}\0c", 100), "a  b??c");
        assert_eq!(ascii_line(&"x".repeat(20), 10), "xxxxxxx...");
        assert_eq!((ascii_line("", 10).as_str(), ascii_line("abc", 2).as_str()), ("", ".."));
        assert_eq!(ascii_line("##[add-mask]x", 100), "\\u0023#[add-mask]x");
        assert!(ascii_line(&"é ##[".repeat(500), 200).len() <= 200);
    }

    #[test]
    fn shell_word_is_quoted_when_needed() {
        assert_eq!(shell_word("@acme/ui@^1.0.0"), "'@acme/ui@^1.0.0'");
        assert_eq!(shell_word("axios@1.14.0"), "axios@1.14.0");
        assert_eq!(shell_word("a; rm -rf $HOME `x` 'y'\nz"), r"'a; rm -rf $HOME `x` '\''y'\''\nz'");
        assert_eq!(shell_word(""), "''");
    }

    #[test]
    fn push_line_appends_exactly_one_line() {
        let mut text = String::new();
        push_line!(text, "{}: {:<3}|", "a\n::error::b", "c");
        push_line!(text, "{}", "::notice::d");
        assert_eq!(text, "a\\n::error::b: c  |\n\\u003a:notice::d\n");
    }

    #[test]
    fn mentions_and_links_of_chats_are_inert() {
        assert_eq!(
            slack("<!channel> <@U1> <http://x|y> a&b"),
            "&lt;!channel&gt; &lt;\u{ff20}U1&gt; &lt;http:\u{2044}\u{2044}x|y&gt; a&amp;b"
        );
        assert_eq!(slack("@here #general ada@acme.example"), "\u{ff20}here \u{ff03}general ada@acme.example");
        assert_eq!(slack("axios@1.14.1 (rule minimum-age)"), "axios@1.14.1 (rule minimum-age)");
        assert!(!slack(HOSTILE).contains(['\n', '\u{1b}', '\u{202e}', '<']));
    }

    #[test]
    fn formulas_of_spreadsheets_are_inert() {
        for text in ["=1+1", "+1", "-1", "@SUM(A1)", " =1", "|calc", "\u{ff1d}1"] {
            let field = csv(text);
            assert!(field.starts_with('\'') || field.starts_with("\"'"), "{text}: {field}");
        }
        assert_eq!((&*csv("plain text"), &*csv("a,b"), &*csv("a\"b")), ("plain text", "\"a,b\"", "\"a\"\"b\""));
        assert_eq!(csv("=HYPERLINK(\"http://x\")"), "\"'=HYPERLINK(\"\"http://x\"\")\"");
        assert!(!csv(HOSTILE).contains(['\n', '\r', '\t']));
    }

    #[test]
    fn markup_is_escaped() {
        assert_eq!(markdown("left-pad@1.1.0 is held (rule minimum-age)"), "left-pad@1.1.0 is held (rule minimum-age)");
        assert_eq!(markdown("![x](http://y) @all |`"), r"!\[x\](http:&#47;/y) &#64;all \|\`");
        assert_eq!(markdown("www.y <b>&\n"), r"www&#46;y &lt;b&gt;&amp;\\n");
        assert_eq!(markdown_code("a`b|\n<c>"), "`a'b\\|\\n<c>`");
    }
}
