//! The policy that is in force: a shipped one, a file, or a directory of files, with the age and the exclusions that settings give.
//! Opens the files that `policy` compiles. Refuses to know what a rule means.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use crate::config::mistake::{Diagnostic, Origin};
use crate::config::parse::SettingsReader;
use crate::config::settings::SettingKey;
use crate::diagnostics;
use crate::diagnostics::SourceFile;
use crate::files;
use crate::policy::{CompiledPolicy, compile};
use crate::policy::{PackageGlob, Policy, presets};

/// The policy in force where no other is named.
pub const DEFAULT: &str = "default";

/// A policy file is never larger; what is larger is something else.
pub const MAX_POLICY_BYTES: u64 = 4 << 20;

/// Why there is no policy.
#[derive(Debug, thiserror::Error)]
pub enum PolicyLoadError {
    /// A file or a directory cannot be read, or there is none.
    #[error("cannot read the policy `{name}`: {detail}")]
    Unreadable {
        /// As it was named.
        name: String,
        /// Why not.
        detail: String,
    },
    /// Something is wrong in it.
    #[error(transparent)]
    Mistaken(#[from] diagnostics::Diagnostics),
}

/// Loads and compiles the policy of a name: a shipped one's, the path of a file, or that of a directory whose `*.toml` files are
/// read in the order of their names.
///
/// # Errors
/// When it cannot be read, and every mistake in it.
pub fn load(name: &str) -> Result<CompiledPolicy, PolicyLoadError> {
    let unreadable = |detail: String| PolicyLoadError::Unreadable { name: name.to_owned(), detail };
    let path = Path::new(name);
    let files = match presets::file(name) {
        Some(file) => vec![file],
        None if path.is_dir() => directory(path, "toml").map_err(unreadable)?,
        None => vec![open(path).map_err(unreadable)?],
    };
    Ok(compile(&files, &find)?)
}

/// The files of cases that stand beside the policy of a name: `x.cases` beside `x.toml`, every `*.cases` in a directory.
///
/// # Errors
/// When one cannot be read, or there is none.
pub fn cases(name: &str) -> Result<Vec<Arc<SourceFile>>, PolicyLoadError> {
    let unreadable = |detail: String| PolicyLoadError::Unreadable { name: name.to_owned(), detail };
    let path = Path::new(name);
    match presets::cases(name) {
        Some(file) => Ok(vec![file]),
        None if path.is_dir() => directory(path, "cases").map_err(unreadable),
        None => {
            let beside = path.with_extension("cases");
            let opened = open(&beside).map_err(|wrong| format!("its cases in `{}`: {wrong}", beside.display()));
            Ok(vec![opened.map_err(unreadable)?])
        }
    }
}

/// The policies that listeners answer by, as they were chosen: enough to read them again.
#[derive(Debug, Clone)]
pub struct PolicyFiles {
    /// Their names, by profile: the first is that of every listener that names none.
    pub names: Vec<String>,
    age: Option<Duration>,
    fix_lane: Option<Duration>,
    exclude: Vec<PackageGlob>,
    /// The files that they were made of.
    pub files: Vec<PathBuf>,
}

/// Policies as they were read.
#[derive(Debug)]
pub struct LoadedPolicies {
    /// One a profile.
    pub policies: Vec<Policy>,
    /// The files that they were made of; of a shipped policy there is none.
    pub files: Vec<PathBuf>,
    /// What is right but should not be, in words.
    pub warnings: Vec<String>,
}

impl PolicyFiles {
    /// Another policy, with the same age and exclusions.
    ///
    /// # Errors
    /// What is wrong with it.
    pub fn other(&self, name: &str) -> Result<Policy, PolicyLoadError> {
        let other = Self { names: vec![name.to_owned()], ..self.clone() };
        let missing = || PolicyLoadError::Unreadable { name: name.to_owned(), detail: "there is none".to_owned() };
        other.read()?.policies.pop().ok_or_else(missing)
    }

    /// Everything that was chosen, in one line: equal for equal choices.
    #[must_use]
    pub fn choices(&self) -> String {
        let exclude: Vec<_> = self.exclude.iter().map(PackageGlob::as_str).collect();
        format!("{:?} {:?} {:?} {exclude:?}", self.names, self.age, self.fix_lane)
    }

    /// The same choices for policies of these names.
    #[must_use]
    pub fn with_names(&self, names: Vec<String>) -> Self {
        Self { names, ..self.clone() }
    }

    /// Reads all of them, with the age and the exclusions that settings give.
    ///
    /// # Errors
    /// What is wrong with the first that is wrong.
    pub fn read(&self) -> Result<LoadedPolicies, PolicyLoadError> {
        let mut read = LoadedPolicies { policies: Vec::new(), files: Vec::new(), warnings: Vec::new() };
        for name in &self.names {
            let CompiledPolicy { policy, warnings, files } = load(name)?;
            let policy = match self.age {
                Some(age) => policy.with_minimum_age(age),
                None => policy,
            };
            let policy = match self.fix_lane {
                Some(age) => policy.with_fix_lane(age),
                None => policy,
            };
            let policy = policy.excluding(&self.exclude).map_err(|wrong| PolicyLoadError::Unreadable {
                name: name.clone(),
                detail: format!("the exclusions cannot be compiled together: {wrong}"),
            })?;
            read.policies.push(policy);
            read.files.extend(files.into_iter().filter(|path| path.exists()));
            read.warnings.extend(
                warnings.iter().map(|warning| format!("{}", Origin::File(warning.place.clone())) + ": " + &warning.problem),
            );
        }
        Ok(read)
    }

    /// The files that are named, and those that lie in directories that are: what is to be looked at for a change.
    #[must_use]
    pub fn paths(&self) -> Vec<PathBuf> {
        let mut paths = Vec::new();
        for name in self.names.iter().filter(|name| presets::file(name).is_none()) {
            let path = PathBuf::from(name);
            let inside = std::fs::read_dir(&path).into_iter().flatten().filter_map(|entry| Some(entry.ok()?.path()));
            paths.extend(inside.filter(|path| path.extension().is_some_and(|extension| extension == "toml")));
            paths.push(path);
        }
        paths.sort();
        paths
    }
}

/// The policies of the listeners, each once, with which of them each listener answers by.
pub(crate) struct ListenerPolicies {
    pub chosen: PolicyFiles,
    pub read: LoadedPolicies,
    pub by_listener: Vec<usize>,
}

/// The policies of what is written; `None` when something is wrong, which is noted. `named` are the policies of the listeners, as
/// far as they name any.
pub(crate) fn choose(
    reader: &mut SettingsReader<'_>,
    named: Vec<Option<String>>,
    (age, fix_lane): (Option<Duration>, Option<Duration>),
    exclude: Vec<PackageGlob>,
) -> Option<ListenerPolicies> {
    let general =
        reader.one(SettingKey::Policy, |text| if text.is_empty() { Err("is empty".to_owned()) } else { Ok(text.to_owned()) })?;
    let mut names = vec![general];
    let mut by_listener = Vec::new();
    for name in named {
        let Some(name) = name else {
            by_listener.push(0);
            continue;
        };
        let place = names.iter().position(|known| *known == name).unwrap_or_else(|| {
            names.push(name);
            names.len() - 1
        });
        by_listener.push(place);
    }
    let mut chosen = PolicyFiles { names, age, fix_lane, exclude, files: Vec::new() };
    match chosen.read() {
        Ok(read) => {
            chosen.files.clone_from(&read.files);
            Some(ListenerPolicies { chosen, read, by_listener })
        }
        Err(PolicyLoadError::Mistaken(mistakes)) => {
            mistakes.iter().for_each(|mistake| reader.note(told(mistake)));
            None
        }
        Err(wrong) => {
            reader.object(SettingKey::Policy, wrong.to_string(), SettingKey::Policy.setting().kind.allowed());
            None
        }
    }
}

fn told(mistake: &diagnostics::Diagnostic) -> Diagnostic {
    Diagnostic::new(Origin::File(mistake.place.clone()), mistake.problem.clone(), mistake.allowed.clone())
}

/// The file that another one includes: a shipped policy, or a path beside it.
fn find(from: &SourceFile, name: &str) -> Result<Arc<SourceFile>, String> {
    if let Some(file) = presets::file(name) {
        return Ok(file);
    }
    if presets::names().iter().any(|known| from.path == Path::new(&format!("policies/{known}.toml"))) && !from.path.exists() {
        return Err("a shipped policy includes shipped policies only".to_owned());
    }
    open(&from.path.parent().unwrap_or(Path::new("")).join(name))
}

fn directory(path: &Path, wanted: &str) -> Result<Vec<Arc<SourceFile>>, String> {
    let entries = std::fs::read_dir(path).map_err(|wrong| wrong.to_string())?;
    let mut paths: Vec<_> = entries.filter_map(|entry| Some(entry.ok()?.path())).collect();
    paths.retain(|path| path.extension().is_some_and(|extension| extension == wanted) && path.is_file());
    paths.sort();
    if paths.is_empty() {
        return Err(format!("it holds no `*.{wanted}` file"));
    }
    paths.iter().map(|path| open(path).map_err(|wrong| format!("`{}`: {wrong}", path.display()))).collect()
}

fn open(path: &Path) -> Result<Arc<SourceFile>, String> {
    // A pipe is empty the second time: a policy without a rule.
    let text = files::read(path, MAX_POLICY_BYTES).and_then(files::text).map_err(|wrong| wrong.to_string())?;
    Ok(Arc::new(SourceFile { path: path.to_owned(), text }))
}
