//! What a misspelt word was meant to be. Refuses to know which words there are.

/// Of `words`, each as it is compared and as it is told, the one that comes nearest to `wrong`, if one comes near.
pub fn nearest<'a>(wrong: &str, words: impl Iterator<Item = (String, &'a str)>) -> Option<&'a str> {
    let allowed = (wrong.len() / 3).clamp(1, 4);
    words
        .map(|(compared, told)| (distance(wrong, &compared), told))
        .filter(|(distance, _)| *distance <= allowed)
        .min()
        .map(|(_, told)| told)
}

/// The names that may have been meant, at most three: those that come near to `wrong`, else those that share a word with it.
pub fn suggestions<'a>(wrong: &str, names: impl Iterator<Item = &'a str> + Clone) -> Vec<&'a str> {
    if wrong.len() > LONGEST {
        return Vec::new();
    }
    let wrong = wrong.to_ascii_lowercase().replace('_', "-");
    let allowed = (wrong.len() / 3).clamp(1, 4);
    let compared = names.clone().map(|name| (distance(&wrong, &name.replace('_', "-")), name));
    let mut near: Vec<_> = compared.filter(|(distance, _)| *distance <= allowed).collect();
    near.sort_unstable();
    if near.is_empty() {
        let words: Vec<&str> = wrong.split('-').filter(|word| word.len() > 2).collect();
        let shared = |name: &str| name.split(['-', '_']).filter(|word| words.contains(word)).count();
        near = names.map(|name| (usize::MAX - shared(name), name)).filter(|(unlike, _)| *unlike < usize::MAX).collect();
        near.sort_unstable();
    }
    near.into_iter().take(3).map(|(_, name)| name).collect()
}

/// Suggestions as a sentence tells them, or `None` where nothing comes near.
#[must_use]
pub fn suggested(suggestions: &[&str]) -> Option<String> {
    let names: Vec<_> = suggestions.iter().map(|name| format!("`{name}`")).collect();
    (!names.is_empty()).then(|| format!("{}, if that was meant", names.join(" or ")))
}

/// Letters of a name that are compared: longer ones are no slip.
const LONGEST: usize = 64;

/// How many letters must be put in, left out or exchanged to come from one word to the other.
fn distance(from: &str, to: &str) -> usize {
    let mut row: Vec<usize> = (0..=to.len()).collect();
    for (line, left) in from.bytes().enumerate() {
        let mut diagonal = row[0];
        row[0] = line + 1;
        for (column, right) in to.bytes().enumerate() {
            let exchanged = diagonal + usize::from(left != right);
            diagonal = row[column + 1];
            row[column + 1] = exchanged.min(diagonal + 1).min(row[column] + 1);
        }
    }
    row[to.len()]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_nearest_names_are_suggested() {
        let names = ["min-release-age", "max-stale", "cache-size", "packument-ttl", "trust"];
        for (wrong, meant) in [
            ("trus", &["trust"][..]),
            ("release_age", &["min-release-age"]),
            ("cache", &["cache-size"]),
            ("stale-age", &["max-stale", "min-release-age"]),
            ("colour", &[]),
            ("é", &[]),
        ] {
            assert_eq!(suggestions(wrong, names.into_iter()), meant, "{wrong}");
        }
        assert_eq!(suggested(&["a", "b"]).as_deref(), Some("`a` or `b`, if that was meant"));
        assert!(suggestions(&"x".repeat(1 << 20), names.into_iter()).is_empty());
    }
}
