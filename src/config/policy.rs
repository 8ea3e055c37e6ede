//! Loads policies: a shipped one, a file, or a directory of files. Settings for ages and exclusions are applied on top.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use crate::config::parse::SettingsReader;
use crate::config::settings::SettingKey;
use crate::diagnostics::{Diagnostics, SourceFile};
use crate::files;
use crate::policy::{CompiledPolicy, PackageGlob, Policy, compile, presets};

pub const MAX_POLICY_BYTES: u64 = 4 << 20;

#[derive(Debug, thiserror::Error)]
pub enum PolicyLoadError {
    #[error("cannot read the policy `{name}`: {detail}")]
    Unreadable { name: String, detail: String },
    #[error(transparent)]
    Invalid(#[from] Diagnostics),
}

fn unreadable(name: &str) -> impl Fn(String) -> PolicyLoadError {
    |detail| PolicyLoadError::Unreadable { name: name.to_owned(), detail }
}

/// Loads a policy: a shipped one, a file, or the `*.toml` files of a directory in the order of names. Returns all errors in it.
pub(crate) fn load(name: &str) -> Result<CompiledPolicy, PolicyLoadError> {
    let path = Path::new(name);
    let files = match presets::policy_file(name) {
        Some(file) => vec![file],
        None if path.is_dir() => directory(path, "toml").map_err(unreadable(name))?,
        None => vec![open(path).map_err(unreadable(name))?],
    };
    Ok(compile(&files, &find)?)
}

/// Loads the test cases of a policy: `x.cases` for `x.toml`, or all `*.cases` files of a directory.
pub(crate) fn cases(name: &str) -> Result<Vec<Arc<SourceFile>>, PolicyLoadError> {
    let path = Path::new(name);
    match presets::case_file(name) {
        Some(file) => Ok(vec![file]),
        None if path.is_dir() => directory(path, "cases").map_err(unreadable(name)),
        None => {
            let cases = path.with_extension("cases");
            let detail = |error| unreadable(name)(format!("cannot read its cases `{}`: {error}", cases.display()));
            Ok(vec![open(&cases).map_err(detail)?])
        }
    }
}

/// The configured policies of the listeners, with what is needed to read them again.
#[derive(Debug, Clone)]
pub struct PolicyFiles {
    /// The names by profile. Profile 0 is for all listeners without a policy of their own.
    pub names: Vec<String>,
    pub(crate) age: Option<Duration>,
    pub(crate) fix_lane: Option<Duration>,
    pub(crate) exclude: Vec<PackageGlob>,
    /// The files that the policies were read from.
    pub files: Vec<PathBuf>,
}

#[derive(Debug)]
pub struct LoadedPolicies {
    /// The policies by profile.
    pub policies: Vec<Policy>,
    /// The files that they were read from; a shipped policy has none.
    pub files: Vec<PathBuf>,
    /// Warnings about valid but questionable rules.
    pub warnings: Vec<String>,
}

impl PolicyFiles {
    /// Loads one policy and applies the configured ages and exclusions.
    pub(crate) fn load(&self, name: &str) -> Result<CompiledPolicy, PolicyLoadError> {
        let mut compiled = load(name)?;
        if let Some(age) = self.age {
            compiled.policy = compiled.policy.with_minimum_age(age);
        }
        if let Some(age) = self.fix_lane {
            compiled.policy = compiled.policy.with_fix_lane(age);
        }
        let excluding = compiled.policy.excluding(&self.exclude);
        compiled.policy = excluding.map_err(|error| unreadable(name)(format!("cannot compile the exclusions: {error}")))?;
        Ok(compiled)
    }

    /// Renders the configuration in one line, which is equal for equal configurations.
    pub(crate) fn choices(&self) -> String {
        let exclude: Vec<_> = self.exclude.iter().map(PackageGlob::as_str).collect();
        format!("{:?} {:?} {:?} {exclude:?}", self.names, self.age, self.fix_lane)
    }

    /// Reads all policies and applies the configured ages and exclusions. Stops at the first one that cannot be read.
    pub(crate) fn read(&self) -> Result<LoadedPolicies, PolicyLoadError> {
        let mut read = LoadedPolicies { policies: Vec::new(), files: Vec::new(), warnings: Vec::new() };
        for name in &self.names {
            let CompiledPolicy { policy, warnings, files } = self.load(name)?;
            read.policies.push(policy);
            read.files.extend(files.into_iter().filter(|path| path.exists()));
            read.warnings.extend(warnings.iter().map(|warning| format!("{}: {}", warning.origin, warning.problem)));
        }
        Ok(read)
    }

    /// Returns the files to watch for changes: the configured paths, and the policy files in configured directories.
    pub(crate) fn watched_files(&self) -> Vec<PathBuf> {
        let mut paths = Vec::new();
        for name in self.names.iter().filter(|name| presets::policy_file(name).is_none()) {
            let path = PathBuf::from(name);
            let inside = std::fs::read_dir(&path).into_iter().flatten().filter_map(|entry| Some(entry.ok()?.path()));
            paths.extend(inside.filter(|path| path.extension().is_some_and(|extension| extension == "toml")));
            paths.push(path);
        }
        paths.sort();
        paths
    }
}

/// The policies of the listeners, without duplicates.
#[derive(Debug)]
pub struct ListenerPolicies {
    /// The policy of listeners without one of their own, which is profile 0.
    pub default: Policy,
    /// The policies of other listeners: profile 1, 2, …
    pub further: Vec<Policy>,
    /// The profile of each address in `listen`.
    pub profiles: Vec<usize>,
    /// The sources of the policies, for reloads.
    pub files: PolicyFiles,
}

impl ListenerPolicies {
    pub(crate) fn first_profile(&self) -> usize {
        self.profiles.first().copied().unwrap_or_default()
    }

    pub(crate) fn first_policy(&self) -> &Policy {
        self.first_profile().checked_sub(1).and_then(|at| self.further.get(at)).unwrap_or(&self.default)
    }
}

/// Reads the policies and returns them with warnings about valid but questionable rules. `listeners` has the policy of each
/// listener, if it names one. Returns `None` after it has added an error.
pub(crate) fn read(
    reader: &mut SettingsReader<'_>,
    listeners: Vec<Option<String>>,
    (age, fix_lane): (Option<Duration>, Option<Duration>),
    exclude: Vec<PackageGlob>,
) -> Option<(ListenerPolicies, Vec<String>)> {
    let name = |text: &str| if text.is_empty() { Err("is empty".to_owned()) } else { Ok(text.to_owned()) };
    let mut names = vec![reader.optional(SettingKey::Policy, name)?];
    let mut profile_of = |name: Option<String>| {
        let Some(name) = name else { return 0 };
        names.iter().position(|known| *known == name).unwrap_or_else(|| {
            names.push(name);
            names.len() - 1
        })
    };
    let profiles = listeners.into_iter().map(&mut profile_of).collect();
    let mut files = PolicyFiles { names, age, fix_lane, exclude, files: Vec::new() };
    match files.read() {
        Ok(read) => {
            files.files = read.files;
            let mut policies = read.policies.into_iter();
            Some((ListenerPolicies { default: policies.next()?, further: policies.collect(), profiles, files }, read.warnings))
        }
        Err(PolicyLoadError::Invalid(errors)) => {
            reader.errors.extend(errors.iter().cloned());
            None
        }
        Err(error) => {
            reader.reject(SettingKey::Policy, error.to_string(), SettingKey::Policy.setting().kind.allowed());
            None
        }
    }
}

/// Finds an included file: a shipped policy, or a path relative to the including file.
fn find(from: &SourceFile, name: &str) -> Result<Arc<SourceFile>, String> {
    if let Some(file) = presets::policy_file(name) {
        return Ok(file);
    }
    if presets::names().iter().any(|known| from.path == Path::new(&format!("policies/{known}.toml"))) && !from.path.exists() {
        return Err("a shipped policy includes shipped policies only".to_owned());
    }
    open(&from.path.parent().unwrap_or(Path::new("")).join(name))
}

fn directory(path: &Path, wanted: &str) -> Result<Vec<Arc<SourceFile>>, String> {
    let entries = std::fs::read_dir(path).map_err(|error| error.to_string())?;
    let mut paths: Vec<_> = entries.filter_map(|entry| Some(entry.ok()?.path())).collect();
    paths.retain(|path| path.extension().is_some_and(|extension| extension == wanted) && path.is_file());
    paths.sort();
    if paths.is_empty() {
        return Err(format!("no `*.{wanted}` file in this directory"));
    }
    paths.iter().map(|path| open(path).map_err(|error| format!("`{}`: {error}", path.display()))).collect()
}

fn open(path: &Path) -> Result<Arc<SourceFile>, String> {
    // Pipes are rejected: on the next reload, a pipe would be empty and give a policy without rules.
    let text = files::read_bounded(path, MAX_POLICY_BYTES).and_then(files::into_text).map_err(|error| error.to_string())?;
    Ok(Arc::new(SourceFile { path: path.to_owned(), text }))
}
