//! Finds the platform's directory for program data. Creates nothing.

use std::path::{Path, PathBuf};

use crate::config::environment::ProcessEnvironment;

/// Returns Coldframe's data directory, or `None` if the environment names no home directory.
pub(crate) fn data_directory(environment: &ProcessEnvironment) -> Option<PathBuf> {
    // The XDG base directory specification says to ignore relative paths; they are useless on other platforms too.
    let directory = |name: &str| environment.variable(name).map(PathBuf::from).filter(|path| path.is_absolute());
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
        let with = |pairs: &[(&str, &str)]| {
            let variables = pairs.iter().map(|(name, value)| (name.into(), value.into())).collect();
            data_directory(&ProcessEnvironment { variables, ..ProcessEnvironment::default() })
        };
        assert_eq!(with(&[("HOME", "/home/me")]), Some("/home/me/.local/share/coldframe".into()));
        assert_eq!(with(&[("HOME", "/home/me"), ("XDG_DATA_HOME", "/data")]), Some("/data/coldframe".into()));
        assert_eq!(with(&[("HOME", "/home/me"), ("XDG_DATA_HOME", "data")]), Some("/home/me/.local/share/coldframe".into()));
        assert_eq!(with(&[]), None);
    }
}
