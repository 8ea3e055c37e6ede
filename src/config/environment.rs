//! The environment of a process, and where values come from that are not set.

use std::ffi::OsString;
use std::fmt;
use std::path::PathBuf;

use crate::upstream::NpmEnvironment;

#[derive(Clone, Default)]
pub struct ProcessEnvironment {
    pub variables: Vec<(OsString, OsString)>,
    pub home: Option<PathBuf>,
    pub working_directory: PathBuf,
}

impl ProcessEnvironment {
    /// Returns the platform's data directory for Coldframe, or `None` if the environment names no home directory.
    pub(crate) fn data_directory(&self) -> Option<PathBuf> {
        // The XDG base directory specification says to ignore relative paths; they are useless on other platforms too.
        let variable = |name: &str| self.variables.iter().find(|(known, _)| known == name).map(|(_, value)| value);
        let directory = |name: &str| variable(name).map(PathBuf::from).filter(|path| path.is_absolute());
        let base = if cfg!(windows) {
            directory("LOCALAPPDATA")
        } else if cfg!(target_os = "macos") {
            directory("HOME").map(|home| home.join("Library/Application Support"))
        } else {
            directory("XDG_DATA_HOME").or_else(|| Some(directory("HOME")?.join(".local/share")))
        };
        base.map(|base| base.join("coldframe"))
    }

    /// Returns the environment for reading npm's configuration. Variables that are not UTF-8 are left out.
    pub(crate) fn npm_environment(&self) -> NpmEnvironment {
        let text = |(name, value): &(OsString, OsString)| Some((name.to_str()?.to_owned(), value.to_str()?.to_owned()));
        NpmEnvironment {
            vars: self.variables.iter().filter_map(text).collect(),
            home: self.home.clone(),
            cwd: self.working_directory.clone(),
        }
    }
}

impl fmt::Debug for ProcessEnvironment {
    /// Prints only the number of variables, because they contain secrets.
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "ProcessEnvironment({} variables)", self.variables.len())
    }
}

pub(crate) enum DefaultsFrom<'a> {
    /// npm's configuration on this machine names an upstream, and the platform a data directory.
    ThisMachine(&'a ProcessEnvironment),
    /// Values that are not set are errors.
    Nothing,
    /// A machine that is not known yet: values that are not set are no errors.
    AnotherMachine,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[cfg(all(unix, not(target_os = "macos")))]
    #[test]
    fn data_directory_follows_the_xdg_specification() {
        let with = |pairs: &[(&str, &str)]| {
            let variables = pairs.iter().map(|(name, value)| (name.into(), value.into())).collect();
            ProcessEnvironment { variables, ..ProcessEnvironment::default() }.data_directory()
        };
        assert_eq!(with(&[("HOME", "/home/me")]), Some("/home/me/.local/share/coldframe".into()));
        assert_eq!(with(&[("HOME", "/home/me"), ("XDG_DATA_HOME", "/data")]), Some("/data/coldframe".into()));
        assert_eq!(with(&[("HOME", "/home/me"), ("XDG_DATA_HOME", "data")]), Some("/home/me/.local/share/coldframe".into()));
        assert_eq!(with(&[]), None);
    }
}
