//! Finds the platform's directory for program data. Creates nothing.

use std::ffi::OsString;
use std::path::{Path, PathBuf};

/// Returns Coldframe's data directory from environment variables, or `None` if they name no home directory.
#[must_use]
pub fn data_directory(variable: impl Fn(&str) -> Option<OsString>) -> Option<PathBuf> {
    // The XDG base directory specification says to ignore relative paths; they are useless on other platforms too.
    let directory = |name: &str| variable(name).map(PathBuf::from).filter(|path| path.is_absolute());
    let home = || directory("HOME");
    let base = if cfg!(windows) {
        directory("LOCALAPPDATA")
    } else if cfg!(target_os = "macos") {
        home().map(|home| home.join("Library/Application Support"))
    } else {
        directory("XDG_DATA_HOME").or_else(|| home().map(|home| home.join(Path::new(".local/share"))))
    };
    base.map(|base| base.join("coldframe"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[cfg(all(unix, not(target_os = "macos")))]
    #[test]
    fn data_directory_follows_the_xdg_specification() {
        let with = |pairs: &'static [(&str, &str)]| {
            data_directory(|name| pairs.iter().find(|(known, _)| *known == name).map(|(_, value)| value.into()))
        };
        assert_eq!(with(&[("HOME", "/home/me")]), Some("/home/me/.local/share/coldframe".into()));
        assert_eq!(with(&[("HOME", "/home/me"), ("XDG_DATA_HOME", "/data")]), Some("/data/coldframe".into()));
        assert_eq!(with(&[("HOME", "/home/me"), ("XDG_DATA_HOME", "data")]), Some("/home/me/.local/share/coldframe".into()));
        assert_eq!(with(&[]), None);
    }
}
