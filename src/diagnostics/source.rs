//! Spans of source files and their excerpts in error messages.

use std::path::PathBuf;
use std::sync::Arc;

/// Characters of a line that are shown. A longer line is cut around the marked span.
const MAX_CHARS: usize = 120;

/// Characters kept before the marked span in a line that is cut.
const CONTEXT_CHARS: usize = 40;

/// The path and text of a file, for excerpts in error messages.
#[derive(Debug)]
pub struct SourceFile {
    /// The path as given by the user.
    pub path: PathBuf,
    pub text: String,
}

#[derive(Debug, Clone)]
pub struct SourceSpan {
    pub file: Arc<SourceFile>,
    pub span: std::ops::Range<usize>,
}

impl SourceSpan {
    pub fn new(file: &Arc<SourceFile>, span: std::ops::Range<usize>) -> Self {
        Self { file: Arc::clone(file), span }
    }

    /// Returns line and column, both counted from one, the column in characters.
    pub fn position(&self) -> (usize, usize) {
        let before = self.file.text.get(..self.span.start).unwrap_or(&self.file.text);
        let line_start = before.rfind('\n').map_or(0, |at| at + 1);
        (before.matches('\n').count() + 1, before.get(line_start..).unwrap_or_default().chars().count() + 1)
    }

    /// Returns the `shown` part of the span's line with a line of carets below it. Credentials in URLs are masked because errors
    /// end up in logs.
    pub(crate) fn excerpt(&self, shown: impl Fn(&str) -> &str) -> String {
        let text = &self.file.text;
        let (line, _) = self.position();
        let line_start = text.get(..self.span.start).and_then(|before| before.rfind('\n')).map_or(0, |at| at + 1);
        let line_end =
            text.get(self.span.start..).and_then(|after| after.find('\n')).map_or(text.len(), |at| self.span.start + at);
        let span_end = self.span.end.clamp(self.span.start, line_end);
        let shown = shown(text.get(line_start..line_end).unwrap_or_default());
        let chars: Vec<char> = redact_credentials(shown.trim_end()).chars().collect();
        let column = text.get(line_start..self.span.start).map_or(0, |before| before.chars().count());
        let column = column.min(chars.len().max(MAX_CHARS));
        let marked = text.get(self.span.start..span_end).map_or(1, |marked| marked.trim_end().chars().count().max(1));
        let window = window(chars.len(), column);
        let cut = |is_cut: bool| if is_cut { "…" } else { "" };
        let visible: String = chars[window.clone()].iter().collect();
        let shown = format!("{}{visible}{}", cut(window.start > 0), cut(window.end < chars.len()));
        let blank = |at: usize| if chars.get(at) == Some(&'\t') { '\t' } else { ' ' };
        let indent: String = (window.start..column).map(blank).chain((window.start > 0).then_some(' ')).collect();
        let space = if window.end < chars.len() { window.end.saturating_sub(column) } else { marked };
        let carets = "^".repeat(marked.min(space.max(1)));
        let margin = " ".repeat(line.to_string().len());
        format!(" {line} | {shown}\n {margin} | {indent}{carets}")
    }
}

/// Returns the range of characters to show: all, or those around `column` in a long line.
fn window(length: usize, column: usize) -> std::ops::Range<usize> {
    if length <= MAX_CHARS {
        return 0..length;
    }
    let start = column.saturating_sub(CONTEXT_CHARS).min(length - MAX_CHARS);
    start..start + MAX_CHARS
}

/// Returns `text` with the credentials of URLs (between `//` and `@`) masked character by character, so that columns stay.
pub fn redact_credentials(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(at) = rest.find("//") {
        let (before, after) = rest.split_at(at + 2);
        out.push_str(before);
        let end = after.find(['"', '\'', ' ', '\t']).unwrap_or(after.len());
        let secret = after.get(..end).map_or(0, credentials);
        out.extend(after.chars().take(after.get(..secret).map_or(0, |secret| secret.chars().count())).map(|_| '*'));
        rest = after.get(secret..).unwrap_or_default();
    }
    out.push_str(rest);
    out
}

/// Returns the number of bytes after `//` that are credentials. A password with a bare slash ends the authority early and leaves
/// something after the colon that is not a port. In that case everything up to the last `@` is masked.
fn credentials(url: &str) -> usize {
    let authority = url.split(['/', '?', '#']).next().unwrap_or_default();
    let port_like =
        authority.rsplit_once(':').is_none_or(|(_, port)| port.bytes().all(|byte| byte.is_ascii_digit() || byte == b']'));
    let searched = if authority.contains('@') || port_like { authority } else { url };
    searched.rfind('@').unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn marked(text: &str, what: &str) -> String {
        let start = text.find(what).unwrap();
        let file = Arc::new(SourceFile { path: "p.toml".into(), text: text.to_owned() });
        SourceSpan { file, span: start..start + what.len() }.excerpt(|line| line)
    }

    #[test]
    fn long_line_is_cut_around_the_marked_span() {
        assert_eq!(marked("a = 1\n\tbé = wrong\n", "wrong"), " 2 | \tbé = wrong\n   | \t     ^^^^^");
        let (before, after) = ("é".repeat(1_500), "x".repeat(1_500));
        let excerpt = marked(&format!("{before}wrong{after}\n"), "wrong");
        let expected = format!(" 1 | …{}wrong{}…\n   |  {}^^^^^", "é".repeat(40), "x".repeat(75), " ".repeat(40));
        assert_eq!(excerpt, expected);
        let excerpt = marked(&format!("k = \"{after}\"\n"), &format!("\"{after}\""));
        assert_eq!(excerpt, format!(" 1 | k = \"{}…\n   |     {}", "x".repeat(115), "^".repeat(116)));
        let excerpt = marked(&format!("{before}end\n"), "end");
        assert_eq!(excerpt, format!(" 1 | …{}end\n   |  {}^^^", "é".repeat(117), " ".repeat(117)));
        assert!(marked(&format!("{before} # wrong"), " # wrong").ends_with("^^^^^^^^"));
    }

    #[test]
    fn credentials_in_urls_are_masked() {
        assert_eq!(
            redact_credentials("upstream = \"https://me:secret@registry.example/\" # x"),
            "upstream = \"https://*********@registry.example/\" # x"
        );
        assert_eq!(redact_credentials("https://a@b@c/"), "https://***@c/");
        assert_eq!(redact_credentials("https://me:se/cret@c/ # a@b"), "https://**********@c/ # a@b");
        assert_eq!(redact_credentials("http://[::1]:4873/@acme"), "http://[::1]:4873/@acme");
        assert_eq!(redact_credentials("http://127.0.0.1:4873/@acme"), "http://127.0.0.1:4873/@acme");
        assert_eq!(redact_credentials("@acme/*"), "@acme/*");
    }
}
