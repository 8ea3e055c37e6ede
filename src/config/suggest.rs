//! Suggests the setting that a misspelt name may stand for.

use crate::config::settings::SETTINGS;
use crate::diagnostics::{Diagnostic, Origin, suggest};

/// Settings that had another name before the first release: old and new name.
const RENAMED: &[(&str, &str)] = &[
    ("fetch-ahead", "prefetch"),
    ("others", "default-egress"),
    ("explain-to", "explain-access"),
    ("upstream-patience", "stale-wait"),
    ("head-timeout", "header-timeout"),
    ("head-limit", "header-limit"),
    ("head-lines", "max-headers"),
];

/// Returns the present name of a setting that was renamed, however it is spelled.
pub(crate) fn renamed(name: &str) -> Option<&'static str> {
    let name = plain(name);
    RENAMED.iter().find(|(old, _)| plain(old) == name).map(|(_, new)| *new)
}

pub(crate) fn suggest_setting(name: &str) -> Option<&'static str> {
    renamed(name).or_else(|| suggest::closest(&plain(name), SETTINGS.iter().map(|setting| (plain(setting.name), setting.name))))
}

pub(crate) fn unknown_name(origin: Origin, noun: &str, name: &str) -> Diagnostic {
    let names = SETTINGS.iter().map(|setting| setting.name);
    let allowed = match (renamed(name), suggest_setting(name)) {
        (Some(new), _) => format!("`{new}`, its new name"),
        (None, Some(closest)) => format!("`{closest}`, if that was meant"),
        (None, None) => suggest::nearest(name, names.clone())
            .unwrap_or_else(|| names.map(|name| format!("`{name}`")).collect::<Vec<_>>().join(", ")),
    };
    Diagnostic { shows_line: false, ..Diagnostic::new(origin, format!("unknown {noun}: `{}`", name.escape_debug()), allowed) }
}

/// Normalizes a name: drops case, `-` and `_`, and shortens `minimum`.
fn plain(name: &str) -> String {
    let letters: String = name.chars().filter(char::is_ascii_alphanumeric).collect();
    letters.to_ascii_lowercase().replace("minimum", "min")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_renamed_setting_is_found_in_every_spelling() {
        for spelling in ["fetch-ahead", "FETCH_AHEAD", "fetchAhead"] {
            assert_eq!((renamed(spelling), suggest_setting(spelling)), (Some("prefetch"), Some("prefetch")), "{spelling}");
        }
        assert_eq!((renamed("prefetch"), renamed("observe")), (None, None));
        let is_setting = |name: &str| SETTINGS.iter().any(|setting| setting.name == name);
        assert!(RENAMED.iter().all(|(old, new)| !is_setting(old) && is_setting(new)));
    }

    #[test]
    fn misspelt_names_get_a_suggestion() {
        for (name, meant) in [
            ("min_release_age", Some("min-release-age")),
            ("minimumReleaseAge", Some("min-release-age")),
            ("MIN_RELEASE_AGES", Some("min-release-age")),
            ("upsteam", Some("upstream")),
            ("excludes", Some("exclude")),
            ("port", None),
            ("colour", None),
        ] {
            assert_eq!(suggest_setting(name), meant, "{name}");
        }
    }
}
