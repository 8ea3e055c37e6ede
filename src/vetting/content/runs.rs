//! Long runs of one class of characters: code of brackets only, encoded texts, and invisible characters. Runs are found from
//! samples, so that text without any costs almost nothing.

/// The shortest run of brackets and signs that counts as code. `JSFuck` needs thousands for a line of code.
const MIN_SYMBOL_CODE: usize = 256;

/// The shortest run of base64 or hexadecimal characters that counts as an encoded text.
const MIN_BLOB: usize = 2_048;

/// The fewest invisible characters in a row that count as hidden text. Emoji have at most a few.
const MIN_INVISIBLE: usize = 8;

/// The first byte of the lowest character that reorders text or is invisible.
const FIRST_HIDDEN: u8 = 0xe2;

/// Media types that are embedded in honest code.
const EMBEDDED: [&[u8]; 7] =
    [b"data:image", b"data:font", b"data:application/", b"data:audio", b"data:video", b"AGFzbQ", b"data:text/css"];

/// Finds the first run of characters that are in `class`, at least `least` long. Returns its start and end.
fn find_run(content: &[u8], from: usize, least: usize, class: fn(u8) -> bool) -> Option<(usize, usize)> {
    let mut at = from + least / 2;
    while at < content.len() {
        if !class(content[at]) {
            at += least / 2;
            continue;
        }
        let start = content[from..at].iter().rposition(|byte| !class(*byte)).map_or(from, |before| from + before + 1);
        let end = content[at..].iter().position(|byte| !class(*byte)).map_or(content.len(), |after| at + after);
        if end - start >= least {
            return Some((start, end));
        }
        at = end + least / 2;
    }
    None
}

/// Returns the position of code that consists of brackets and signs.
pub(super) fn find_symbol_code(content: &[u8]) -> Option<usize> {
    let class = |byte| matches!(byte, b'[' | b']' | b'(' | b')' | b'!' | b'+');
    let (start, end) = find_run(content, 0, MIN_SYMBOL_CODE, class)?;
    // A line of one sign is decoration.
    let run = &content[start..end];
    (run.contains(&b'[') && run.contains(&b'!') && run.contains(&b'+')).then_some(start)
}

/// Returns the position of an encoded text that is no embedded image, font or WebAssembly.
pub(super) fn find_blob(content: &[u8]) -> Option<usize> {
    let class = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'+' | b'/' | b'=' | b'_' | b'-');
    let mut from = 0;
    while let Some((start, end)) = find_run(content, from, MIN_BLOB, class) {
        let around = &content[start.saturating_sub(64)..content.len().min(start + 8)];
        let is_embedded = EMBEDDED.iter().any(|kind| around.windows(kind.len()).any(|part| part == *kind));
        let run = &content[start..end];
        // A long name or a line of dashes has few different characters.
        if !is_embedded && has_many_characters(run) {
            return Some(start);
        }
        from = end;
    }
    None
}

fn has_many_characters(run: &[u8]) -> bool {
    let mut seen = [false; 256];
    run[..run.len().min(MIN_BLOB)].iter().for_each(|byte| seen[usize::from(*byte)] = true);
    seen.iter().filter(|is_seen| **is_seen).count() >= 12
}

/// What a text holds besides ASCII.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct UnicodeRuns {
    /// The first character that reorders text.
    pub bidi: Option<usize>,
    /// The first long run of characters that no editor shows.
    pub invisible: Option<usize>,
}

pub(super) fn find_hidden(content: &[u8]) -> UnicodeRuns {
    let (mut found, mut at, mut run, mut start) = (UnicodeRuns::default(), 0, 0, 0);
    while at < content.len() {
        if content[at] < FIRST_HIDDEN {
            (at, run) = (next_hidden(content, at), 0);
            continue;
        }
        let rest = &content[at..];
        match rest {
            [0xe2, 0x80, 0xaa..=0xae, ..] | [0xe2, 0x81, 0xa6..=0xa9, ..] => {
                found.bidi.get_or_insert(at);
                (at, run) = (at + 3, 0);
            }
            _ => {
                let Some(length) = invisible_length(rest) else {
                    (at, run) = (at + 1, 0);
                    continue;
                };
                if run == 0 {
                    start = at;
                }
                run += 1;
                at += length;
                if run >= MIN_INVISIBLE {
                    found.invisible.get_or_insert(start);
                }
            }
        }
    }
    found
}

/// Returns the next position from `from` on where such a character could begin, or the length of the content.
fn next_hidden(content: &[u8], from: usize) -> usize {
    let (blocks, _) = content[from..].as_chunks::<64>();
    // The compiler vectorizes the search for a maximum, and no search for a position.
    let plain = blocks.iter().take_while(|block| block.iter().fold(0, |most: u8, byte| most.max(*byte)) < FIRST_HIDDEN).count();
    let rest = &content[from + plain * 64..];
    content.len() - rest.len() + rest.iter().position(|byte| *byte >= FIRST_HIDDEN).unwrap_or(rest.len())
}

/// Returns the bytes of an invisible character: variation selectors, tags, zero widths, Hangul fillers.
fn invisible_length(rest: &[u8]) -> Option<usize> {
    match rest {
        [0xef, 0xb8, 0x80..=0x8f, ..]
        | [0xe2, 0x80, 0x8b..=0x8f, ..]
        | [0xe2, 0x81, 0xa0..=0xa4, ..]
        | [0xe3, 0x85, 0xa4, ..]
        | [0xef, 0xbe, 0xa0, ..]
        | [0xef, 0xbb, 0xbf, ..] => Some(3),
        [0xf3, 0xa0, 0x80..=0x87, _, ..] => Some(4),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn code_of_brackets_is_found_anywhere() {
        let code = "[][(![]+[])[+[]]+(![]+[])[!+[]+!+[]]]".repeat(20);
        let text = format!("{}{code}{}", "const a = 1;\n".repeat(99), "const b = 2;\n".repeat(99));
        assert_eq!(find_symbol_code(text.as_bytes()), Some(13 * 99));
        assert_eq!(find_symbol_code(code.as_bytes()), Some(0));
        for plain in ["a(b[c], !d);".repeat(999), "+".repeat(9_999), "[[[[".repeat(999)] {
            assert_eq!(find_symbol_code(plain.as_bytes()), None);
        }
    }

    #[test]
    fn encoded_text_is_found_unless_it_is_an_image() {
        let encoded = "dGhpcyBpcyBub3QgbWFsd2FyZSwgb25seSBhIHRlc3Q".repeat(99);
        assert_eq!(find_blob(format!("const a = \"{encoded}\"").as_bytes()), Some(11));
        assert_eq!(find_blob(format!("url(data:image/png;base64,{encoded})").as_bytes()), None);
        // The second one is no image.
        assert!(find_blob(format!("\"data:image/png;base64,{encoded}\";x=\"{encoded}\"").as_bytes()).is_some());
        assert_eq!(find_blob("-".repeat(9_999).as_bytes()), None);
        assert_eq!(find_blob("const name = value;\n".repeat(999).as_bytes()), None);
    }

    #[test]
    fn invisible_and_reordering_characters_are_found() {
        let payload: String = (0..40).filter_map(|at| char::from_u32(0xe0100 + at)).collect();
        let text = format!("eval(decode(`é{payload}`))");
        assert_eq!(find_hidden(text.as_bytes()), UnicodeRuns { bidi: None, invisible: Some(15) });
        assert_eq!(find_hidden("if (a) /*\u{202e} } */".as_bytes()).bidi, Some(9));
        let emoji = "👩\u{200d}👩\u{200d}👧\u{fe0f} 日本語 «é»".repeat(99);
        assert_eq!(find_hidden(emoji.as_bytes()), UnicodeRuns::default());
        // Cut characters end the input.
        for end in 0..text.len() {
            find_hidden(&text.as_bytes()[..end]);
        }
    }
}
