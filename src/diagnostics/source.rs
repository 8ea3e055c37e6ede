//! A piece of a file that a person wrote, and how it is shown to them when it is wrong. Refuses to know what is wrong with it.

use std::path::PathBuf;
use std::sync::Arc;

/// Letters of a line that are shown: a longer one is cut around what is marked.
const WIDEST: usize = 120;

/// Letters that are left before what is marked in a line that is cut.
const BEFORE: usize = 40;

/// A file as it was read: mistakes show its lines.
#[derive(Debug)]
pub struct SourceFile {
    /// Where it lies, as it was named.
    pub path: PathBuf,
    /// What stands in it.
    pub text: String,
}

/// A piece of a file.
#[derive(Debug, Clone)]
pub struct SourceSpan {
    /// The file.
    pub file: Arc<SourceFile>,
    /// Its bytes from, and up to.
    pub span: std::ops::Range<usize>,
}

impl SourceSpan {
    /// Line and column, both from one, the column in characters.
    #[must_use]
    pub fn position(&self) -> (usize, usize) {
        let before = self.file.text.get(..self.span.start).unwrap_or(&self.file.text);
        let line_start = before.rfind('\n').map_or(0, |at| at + 1);
        (before.matches('\n').count() + 1, before.get(line_start..).unwrap_or_default().chars().count() + 1)
    }

    /// The line it starts on, whole or up to its `=`, with a line of carets below it. Credentials in URLs are blotted out:
    /// mistakes end up in logs.
    #[must_use]
    pub fn excerpt(&self, whole: bool) -> String {
        let text = &self.file.text;
        let (line, _) = self.position();
        let line_start = text.get(..self.span.start).and_then(|before| before.rfind('\n')).map_or(0, |at| at + 1);
        let line_end =
            text.get(self.span.start..).and_then(|after| after.find('\n')).map_or(text.len(), |at| self.span.start + at);
        let span_end = self.span.end.clamp(self.span.start, line_end);
        let line_text = text.get(line_start..line_end).unwrap_or_default();
        let shown = if whole { line_text } else { line_text.split_inclusive('=').next().unwrap_or_default() };
        let letters: Vec<char> = blot_credentials(shown.trim_end()).chars().collect();
        let column = text.get(line_start..self.span.start).map_or(0, |before| before.chars().count());
        let column = column.min(letters.len().max(WIDEST));
        let marked = text.get(self.span.start..span_end).map_or(1, |marked| marked.trim_end().chars().count().max(1));
        let window = window(letters.len(), column);
        let cut = |is_cut: bool| if is_cut { "…" } else { "" };
        let seen: String = letters[window.clone()].iter().collect();
        let shown = format!("{}{seen}{}", cut(window.start > 0), cut(window.end < letters.len()));
        let blank = |at: usize| if letters.get(at) == Some(&'\t') { '\t' } else { ' ' };
        let indent: String = (window.start..column).map(blank).chain((window.start > 0).then_some(' ')).collect();
        let room = if window.end < letters.len() { window.end.saturating_sub(column) } else { marked };
        let carets = "^".repeat(marked.min(room.max(1)));
        let number = line.to_string();
        let margin = " ".repeat(number.len());
        format!(" {number} | {shown}\n {margin} | {indent}{carets}")
    }
}

/// Which letters of a line are shown: all, or of a long one those around `column`.
fn window(letters: usize, column: usize) -> std::ops::Range<usize> {
    if letters <= WIDEST {
        return 0..letters;
    }
    let start = column.saturating_sub(BEFORE).min(letters - WIDEST);
    start..start + WIDEST
}

/// `text` with what stands between `//` and `@` of an authority overwritten, letter by letter, so that columns stay.
#[must_use]
pub fn blot_credentials(text: &str) -> String {
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

/// How many bytes of what follows `//` are credentials. A password with a bare slash in it ends the authority early, which
/// leaves something behind the colon that is no port: then the last `@` of all counts.
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
        SourceSpan { file, span: start..start + what.len() }.excerpt(true)
    }

    #[test]
    fn a_long_line_is_cut_around_what_is_marked() {
        assert_eq!(marked("a = 1\n\tbé = wrong\n", "wrong"), " 2 | \tbé = wrong\n   | \t     ^^^^^");
        let (before, after) = ("é".repeat(1_500), "x".repeat(1_500));
        let told = marked(&format!("{before}wrong{after}\n"), "wrong");
        let expected = format!(" 1 | …{}wrong{}…\n   |  {}^^^^^", "é".repeat(40), "x".repeat(75), " ".repeat(40));
        assert_eq!(told, expected);
        let told = marked(&format!("k = \"{after}\"\n"), &format!("\"{after}\""));
        assert_eq!(told, format!(" 1 | k = \"{}…\n   |     {}", "x".repeat(115), "^".repeat(116)));
        let told = marked(&format!("{before}end\n"), "end");
        assert_eq!(told, format!(" 1 | …{}end\n   |  {}^^^", "é".repeat(117), " ".repeat(117)));
        assert!(marked(&format!("{before} # wrong"), " # wrong").ends_with("^^^^^^^^"));
    }

    #[test]
    fn credentials_in_urls_are_blotted_out() {
        assert_eq!(
            blot_credentials("upstream = \"https://me:secret@registry.example/\" # x"),
            "upstream = \"https://*********@registry.example/\" # x"
        );
        assert_eq!(blot_credentials("https://a@b@c/"), "https://***@c/");
        assert_eq!(blot_credentials("https://me:se/cret@c/ # a@b"), "https://**********@c/ # a@b");
        assert_eq!(blot_credentials("http://[::1]:4873/@acme"), "http://[::1]:4873/@acme");
        assert_eq!(blot_credentials("http://127.0.0.1:4873/@acme"), "http://127.0.0.1:4873/@acme");
        assert_eq!(blot_credentials("@acme/*"), "@acme/*");
    }
}
