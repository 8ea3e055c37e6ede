//! Splits Rust source for the rules: words, lines, and text without comments or strings.

/// Returns each word and its offset.
pub fn words(code: &str) -> impl Iterator<Item = (usize, &str)> {
    let is_part = |letter: char| letter.is_alphanumeric() || letter == '_';
    code.split(move |letter: char| !is_part(letter))
        .filter(|word| !word.is_empty())
        .map(move |word| (word.as_ptr() as usize - code.as_ptr() as usize, word))
}

/// Returns the line number of an offset, starting at one.
pub fn line_of(text: &str, at: usize) -> usize {
    text[..at].matches('\n').count() + 1
}

/// Returns the offset of the start of the line.
pub fn line_start(text: &str, at: usize) -> usize {
    text[..at].rfind('\n').map_or(0, |end| end + 1)
}

/// The parts of a source file that are kept.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Keep {
    /// Code without comments and without the contents of strings.
    Code,
    /// Code and strings, no comments.
    Strings,
}

/// Blanks comments, and strings unless they are kept. Byte offsets and lines stay the same.
pub fn strip(text: &str, keep: Keep) -> String {
    let mut out: Vec<u8> = text.as_bytes().to_vec();
    let mut at = 0;
    while at < text.len() {
        let (length, blank) = token(&text[at..]);
        let is_comment = text[at..].starts_with("//") || text[at..].starts_with("/*");
        if blank && (is_comment || keep == Keep::Code) {
            out[at..at + length].iter_mut().filter(|byte| **byte != b'\n').for_each(|byte| *byte = b' ');
        }
        at += length;
    }
    String::from_utf8(out).expect("blanking whole tokens keeps UTF-8 valid")
}

/// Returns the length of the token at the start of `rest`, and whether it is a comment or a string.
fn token(rest: &str) -> (usize, bool) {
    let bytes = rest.as_bytes();
    if rest.starts_with("//") {
        return (rest.find('\n').unwrap_or(rest.len()), true);
    }
    if rest.starts_with("/*") {
        return (rest.find("*/").map_or(rest.len(), |end| end + 2), true);
    }
    if bytes[0].is_ascii_alphanumeric() || bytes[0] == b'_' {
        let word = rest.find(|letter: char| !letter.is_alphanumeric() && letter != '_').unwrap_or(rest.len());
        let hashes = rest[word..].bytes().take_while(|byte| *byte == b'#').count();
        let opens = rest[word + hashes..].starts_with('"');
        return match &rest[..word] {
            "r" | "br" | "cr" if opens => (raw_end(rest, word + hashes, hashes), true),
            _ => (word, false),
        };
    }
    match bytes[0] {
        b'"' => (quote_end(rest, b'"'), true),
        // A lifetime has no closing quote after one letter.
        b'\'' if rest[1..].starts_with('\\') || rest[1..].chars().nth(1) == Some('\'') => (quote_end(rest, b'\''), true),
        _ => (rest.chars().next().map_or(1, char::len_utf8), false),
    }
}

fn raw_end(rest: &str, open: usize, hashes: usize) -> usize {
    let close = format!("\"{}", "#".repeat(hashes));
    rest[open + 1..].find(&close).map_or(rest.len(), |at| open + 1 + at + close.len())
}

fn quote_end(rest: &str, quote: u8) -> usize {
    let mut escaped = false;
    for (at, byte) in rest.bytes().enumerate().skip(1) {
        match byte {
            _ if escaped => escaped = false,
            b'\\' => escaped = true,
            _ if byte == quote => return at + 1,
            _ => {}
        }
    }
    rest.len()
}

/// Returns the offset of the first `#[cfg(test)]` item with a body, or the end of the file. A file for tests starts at zero.
pub fn tests_begin(code: &str, for_tests: bool) -> usize {
    if for_tests {
        return 0;
    }
    let mut marks = code.match_indices("#[cfg(test)]").map(|(at, _)| at);
    let has_body = |at: &usize| code[*at..].find(['{', ';']).is_some_and(|end| code[at + end..].starts_with('{'));
    marks.find(has_body).map_or(code.len(), |at| line_start(code, at))
}
