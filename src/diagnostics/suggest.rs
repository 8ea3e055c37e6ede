//! Suggestions for misspelt words.

/// Returns the candidate closest to `word`, if one is near. Each of `words` is a pair: the form to compare and the form to print.
pub(crate) fn closest<'a>(word: &str, words: impl Iterator<Item = (String, &'a str)>) -> Option<&'a str> {
    let allowed = (word.len() / 3).clamp(1, 4);
    let compared = words.map(|(compared, shown)| (distance(word, &compared), shown));
    compared.filter(|(distance, _)| *distance <= allowed).min().map(|(_, shown)| shown)
}

/// Returns at most three names similar to `word`: those at a small edit distance, else those that share a part with it.
fn suggestions<'a>(word: &str, names: impl Iterator<Item = &'a str> + Clone) -> Vec<&'a str> {
    if word.len() > MAX_WORD_BYTES {
        return Vec::new();
    }
    let word = word.to_ascii_lowercase().replace('_', "-");
    let allowed = (word.len() / 3).clamp(1, 4);
    let compared = names.clone().map(|name| (distance(&word, &name.replace('_', "-")), name));
    let mut near: Vec<_> = compared.filter(|(distance, _)| *distance <= allowed).collect();
    near.sort_unstable();
    if near.is_empty() {
        let parts: Vec<&str> = word.split('-').filter(|part| part.len() > 2).collect();
        let shared = |name: &str| name.split(['-', '_']).filter(|part| parts.contains(part)).count();
        near = names.map(|name| (usize::MAX - shared(name), name)).filter(|(unlike, _)| *unlike < usize::MAX).collect();
        near.sort_unstable();
    }
    near.into_iter().take(3).map(|(_, name)| name).collect()
}

/// Formats the names similar to `word` for an error message. Returns `None` if there are none.
pub(crate) fn nearest<'a>(word: &str, names: impl Iterator<Item = &'a str> + Clone) -> Option<String> {
    let names: Vec<_> = suggestions(word, names).into_iter().map(|name| format!("`{name}`")).collect();
    (!names.is_empty()).then(|| format!("{}, if that was meant", names.join(" or ")))
}

/// Longest word, in bytes, that is compared: longer ones are not typos.
const MAX_WORD_BYTES: usize = 64;

fn distance(from: &str, to: &str) -> usize {
    strsim::generic_levenshtein(&from.as_bytes().to_vec(), &to.as_bytes().to_vec())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nearest_names_are_suggested() {
        let names = ["min-release-age", "max-stale", "cache-size", "packument-ttl", "trust"];
        for (word, meant) in [
            ("trus", &["trust"][..]),
            ("release_age", &["min-release-age"]),
            ("cache", &["cache-size"]),
            ("stale-age", &["max-stale", "min-release-age"]),
            ("colour", &[]),
            ("é", &[]),
        ] {
            assert_eq!(suggestions(word, names.into_iter()), meant, "{word}");
        }
        assert_eq!(nearest("stale-age", names.into_iter()).unwrap(), "`max-stale` or `min-release-age`, if that was meant");
        assert!(suggestions(&"x".repeat(1 << 20), names.into_iter()).is_empty());
    }
}
