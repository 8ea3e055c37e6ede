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
