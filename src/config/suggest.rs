//! What somebody may have meant who spelt a setting otherwise. Refuses to take it for meant.

use crate::config::settings::SETTINGS;
use crate::diagnostics::suggest;

/// The name of the table that comes nearest to `wrong`, if one comes near.
#[must_use]
pub fn nearest(wrong: &str) -> Option<&'static str> {
    let wrong = plain(wrong);
    suggest::nearest(&wrong, SETTINGS.iter().map(|setting| (plain(setting.name), setting.name)))
}

/// A name without what people mix up: case, `-`, `_`, and the long form of `min`.
fn plain(name: &str) -> String {
    let letters: String = name.chars().filter(char::is_ascii_alphanumeric).collect();
    letters.to_ascii_lowercase().replace("minimum", "min")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_nearest_name_is_what_was_meant() {
        for (wrong, meant) in [
            ("min_release_age", Some("min-release-age")),
            ("minimumReleaseAge", Some("min-release-age")),
            ("MIN_RELEASE_AGES", Some("min-release-age")),
            ("upsteam", Some("upstream")),
            ("excludes", Some("exclude")),
            ("port", None),
            ("colour", None),
        ] {
            assert_eq!(nearest(wrong), meant, "{wrong}");
        }
    }
}
