//! What is wrong with what was written, where, and what is allowed there. Refuses to stop at the first mistake.

use std::fmt;
use std::path::PathBuf;
use std::sync::Arc;

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
pub struct Place {
    /// The file.
    pub file: Arc<SourceFile>,
    /// Its bytes from, and up to.
    pub span: std::ops::Range<usize>,
}

/// Where a value or a mistake comes from.
#[derive(Debug, Clone)]
pub enum Origin {
    /// A flag: `--listen`.
    Flag(String),
    /// An environment variable.
    Variable(String),
    /// A piece of the configuration file.
    File(Place),
    /// Handed over by a program that embeds Coldframe.
    Given,
    /// npm's configuration, in its words.
    Npm(String),
    /// Nothing was written.
    Default,
}

impl Place {
    /// Line and column, both from one, the column in characters.
    #[must_use]
    pub fn position(&self) -> (usize, usize) {
        let before = self.file.text.get(..self.span.start).unwrap_or(&self.file.text);
        let line_start = before.rfind('\n').map_or(0, |at| at + 1);
        (before.matches('\n').count() + 1, before.get(line_start..).unwrap_or_default().chars().count() + 1)
    }

    /// The line it starts on, whole or up to its `=`, with a line of carets below it. Credentials in URLs are blotted out:
    /// mistakes end up in logs.
    fn excerpt(&self, whole: bool) -> String {
        let text = &self.file.text;
        let (line, _) = self.position();
        let line_start = text.get(..self.span.start).and_then(|before| before.rfind('\n')).map_or(0, |at| at + 1);
        let line_end =
            text.get(self.span.start..).and_then(|after| after.find('\n')).map_or(text.len(), |at| self.span.start + at);
        let span_end = self.span.end.clamp(self.span.start, line_end);
        let line_text = text.get(line_start..line_end).unwrap_or_default();
        let shown = if whole { line_text } else { line_text.split_inclusive('=').next().unwrap_or_default() };
        let shown = blot_credentials(shown.trim_end());
        let indent: String = text
            .get(line_start..self.span.start)
            .unwrap_or_default()
            .chars()
            .map(|letter| if letter == '\t' { '\t' } else { ' ' })
            .collect();
        let carets = "^".repeat(text.get(self.span.start..span_end).map_or(1, |marked| marked.trim_end().chars().count().max(1)));
        let number = line.to_string();
        let margin = " ".repeat(number.len());
        format!(" {number} | {shown}\n {margin} | {indent}{carets}")
    }
}

impl fmt::Display for Origin {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Flag(name) | Self::Variable(name) | Self::Npm(name) => out.write_str(name),
            Self::File(place) => {
                let (line, column) = place.position();
                write!(out, "{}:{line}:{column}", place.file.path.display())
            }
            Self::Given => out.write_str("given"),
            Self::Default => out.write_str("default"),
        }
    }
}

/// One mistake.
#[derive(Debug, Clone)]
pub struct Mistake {
    /// Where.
    pub origin: Origin,
    /// What is wrong: lower case, the value last after a colon.
    pub problem: String,
    /// What is allowed there.
    pub allowed: String,
    /// Whether what follows the `=` on its line may be shown. Not for keys we do not know: it may be a token.
    pub shows_line: bool,
}

impl Mistake {
    /// A mistake whose whole line may be shown.
    #[must_use]
    pub fn new(origin: Origin, problem: impl Into<String>, allowed: impl Into<String>) -> Self {
        Self { origin, problem: problem.into(), allowed: allowed.into(), shows_line: true }
    }
}

impl fmt::Display for Mistake {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.origin {
            Origin::Default => out.write_str(&self.problem)?,
            _ => write!(out, "{}: {}", self.origin, self.problem)?,
        }
        if let Origin::File(place) = &self.origin {
            write!(out, "\n{}", place.excerpt(self.shows_line))?;
        }
        if self.allowed.is_empty() { Ok(()) } else { write!(out, "\n   = allowed: {}", self.allowed) }
    }
}

/// Every mistake that was found, in the order of the file, then environment, then flags. Never empty.
#[derive(Debug, Clone, thiserror::Error)]
pub struct Mistakes(Vec<Mistake>);

impl Mistakes {
    /// `value`, unless there are mistakes or it is missing.
    ///
    /// # Errors
    /// The mistakes, in order.
    pub(super) fn or<T>(mut mistakes: Vec<Mistake>, value: Option<T>) -> Result<T, Self> {
        if let (true, Some(value)) = (mistakes.is_empty(), value) {
            return Ok(value);
        }
        mistakes.sort_by_key(|mistake| match &mistake.origin {
            Origin::File(place) => (0, place.span.start),
            Origin::Npm(_) | Origin::Default => (1, 0),
            Origin::Variable(_) => (2, 0),
            Origin::Flag(_) | Origin::Given => (3, 0),
        });
        Err(Self(mistakes))
    }

    /// Each of them.
    pub fn iter(&self) -> impl Iterator<Item = &Mistake> {
        self.0.iter()
    }
}

impl From<Mistake> for Mistakes {
    fn from(mistake: Mistake) -> Self {
        Self(vec![mistake])
    }
}

impl fmt::Display for Mistakes {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (count, noun) = (self.0.len(), if self.0.len() == 1 { "mistake" } else { "mistakes" });
        write!(out, "{count} {noun} in the configuration")?;
        for mistake in &self.0 {
            write!(out, "\n\n{mistake}")?;
        }
        Ok(())
    }
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

    #[test]
    fn a_mistake_is_marked_below_its_line() {
        let file = Arc::new(SourceFile { path: "x.toml".into(), text: "a = 1\r\n\tñ = 22 # why\r\n".to_owned() });
        let span = file.text.find("22").map(|at| at..at + 2).unwrap();
        let mistake = Mistake::new(Origin::File(Place { file, span }), "is wrong", "");
        assert_eq!(mistake.to_string(), "x.toml:2:6: is wrong\n 2 | \tñ = 22 # why\n   | \t    ^^");
    }
}
