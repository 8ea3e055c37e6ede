//! Finds banned words in comments, strings and Markdown, and names the replacement.

use super::line_of;
use super::source::{Keep, strip};

/// Phrases in lower case, each with its replacement.
const BANNED: &[(&str, &str)] = &[
    ("whoever", "the client, the caller, any client that"),
    ("nobody", "no client, no one"),
    ("somebody", "a client, a user, another process"),
    ("anybody", "a client, a user, any process"),
    ("everybody", "all clients, everyone"),
    ("the house", "the project, this module"),
    ("sails", "fetches"),
    ("voyage", "request, fetch"),
    ("owed", "pending"),
    ("kin", "parent package"),
    ("errand", "run"),
    ("doorstep", "access"),
    ("is told", "receives"),
    ("makes way", "is closed, is replaced"),
    ("make way", "close, replace"),
    ("all the same", "still, anyway"),
    ("at hand", "cached, in memory"),
    ("for the occasion", "temporary"),
    ("beside", "next to, in parallel with, compared with"),
    ("anew", "again"),
    ("without more ado", "directly"),
    ("by itself", "automatically, alone"),
    ("in its stead", "instead"),
    ("as good as", "is treated as"),
    ("come of age", "reach the minimum age"),
    ("comes of age", "reaches the minimum age"),
    ("goes on", "continues"),
    ("shall", "must, will"),
    ("for ever", "permanently"),
    ("the like", "name the thing"),
    ("so many", "at most N, that many"),
    ("a line each", "one per line"),
    ("be it", "if, regardless of"),
    ("once it has", "an active verb with a subject"),
    ("otherwise than", "differently from"),
    ("held against", "compared with"),
    ("put in force", "applied"),
    ("in force", "active, applied"),
    ("looks at", "checks, reads"),
    ("breaks the glass", "break-glass is active"),
    ("a moment ago", "give the interval"),
    ("by and by", "later"),
    ("refuses to know", "delete it, or state the guarantee"),
    ("refuses to judge", "delete it, or state the guarantee"),
];

/// Finds banned phrases in the comments and strings of a Rust file, or in all of a Markdown file, a script or a recipe.
pub fn check(path: &str, text: &str, findings: &mut Vec<String>) {
    let prose = match path.rsplit_once('.').map(|(_, extension)| extension) {
        _ if path == "tests/tidy/prose.rs" => return,
        Some("rs") => blank_code(text),
        Some("md" | "py" | "mjs" | "toml" | "cases" | "yml" | "yaml" | "service") => text.to_owned(),
        _ => return,
    };
    let prose = prose.to_ascii_lowercase();
    for (phrase, advice) in BANNED {
        for (at, _) in prose.match_indices(phrase) {
            let is_part = |letter: char| letter.is_alphanumeric() || letter == '_';
            let is_word = !prose[..at].ends_with(is_part) && !prose[at + phrase.len()..].starts_with(is_part);
            if is_word {
                findings.push(format!("{path}:{}: `{phrase}`: write {advice}", line_of(&prose, at)));
            }
        }
    }
}

/// Replaces everything except comments and strings with spaces. Byte offsets and lines stay the same.
fn blank_code(text: &str) -> String {
    let code = strip(text, Keep::Code);
    let keep = |(byte, code): (u8, u8)| if byte == b'\n' || byte != code { byte } else { b' ' };
    let bytes = text.bytes().zip(code.bytes()).map(keep).collect();
    String::from_utf8(bytes).expect("only whole tokens differ, so UTF-8 stays valid")
}

#[test]
fn banned_words_are_found_in_comments_strings_and_markdown() {
    let findings = |path: &str, text: &str| {
        let mut findings = Vec::new();
        check(path, text, &mut findings);
        findings
    };
    assert_eq!(findings("src/a.rs", "// Whoever asks.\n").len(), 1);
    assert_eq!(findings("src/a.rs", "const A: &str = \"ä told anew\";\n"), ["src/a.rs:1: `anew`: write again"]);
    assert_eq!(findings("docs/a.md", "One.\nIt goes on.\n"), ["docs/a.md:2: `goes on`: write continues"]);
    assert_eq!(findings("src/a.rs", "fn whoever(kin: u8) {} // skin, kinds\n"), [""; 0]);
    assert_eq!(findings("docker/a.yaml", "# whoever\n").len(), 1);
    assert_eq!(findings("LICENSE", "shall mean\n"), [""; 0]);
}
