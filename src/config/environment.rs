//! The environment of a process, and where values come from that are not set.

use std::ffi::OsString;
use std::fmt;
use std::path::{Path, PathBuf};

use crate::upstream::NpmEnvironment;

#[derive(Clone, Default)]
pub struct ProcessEnvironment {
    pub variables: Vec<(OsString, OsString)>,
    pub home: Option<PathBuf>,
    pub working_directory: PathBuf,
}

impl ProcessEnvironment {
    pub(crate) fn variable(&self, name: &str) -> Option<OsString> {
        self.variables.iter().find(|(known, _)| known == name).map(|(_, value)| value.clone())
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

/// Where values come from that are not set.
pub(crate) enum DefaultsFrom<'a> {
    /// npm's configuration on this machine names an upstream, and the platform a data directory.
    ThisMachine(&'a ProcessEnvironment),
    /// Values that are not set are errors.
    Nothing,
    /// A machine that is not known yet: values that are not set are no errors.
    AnotherMachine,
}

impl DefaultsFrom<'_> {
    /// Returns the base of relative paths.
    pub(crate) fn working_directory(&self) -> &Path {
        match self {
            Self::ThisMachine(environment) => &environment.working_directory,
            Self::Nothing | Self::AnotherMachine => Path::new(""),
        }
    }
}
