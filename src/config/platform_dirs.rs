//! Where the platform keeps a program's data. Refuses to create anything.

use std::ffi::OsString;
use std::path::{Path, PathBuf};

/// The directory for Coldframe's data, from the environment; `None` on a machine that names no home.
#[must_use]
pub fn data_directory(variable: impl Fn(&str) -> Option<OsString>) -> Option<PathBuf> {
    // The base directory specification has a relative path ignored; elsewhere it is as useless.
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
    fn data_lies_where_the_base_directory_specification_says() {
        let with = |pairs: &'static [(&str, &str)]| {
            data_directory(|name| pairs.iter().find(|(known, _)| *known == name).map(|(_, value)| value.into()))
        };
        assert_eq!(with(&[("HOME", "/home/me")]), Some("/home/me/.local/share/coldframe".into()));
        assert_eq!(with(&[("HOME", "/home/me"), ("XDG_DATA_HOME", "/data")]), Some("/data/coldframe".into()));
        assert_eq!(with(&[("HOME", "/home/me"), ("XDG_DATA_HOME", "data")]), Some("/home/me/.local/share/coldframe".into()));
        assert_eq!(with(&[]), None);
    }
}
