//! The environment that npm reads its configuration from, as values, for tests. Locates npm's files but does not read them.

use std::collections::BTreeMap;
use std::fmt;
use std::path::{Path, PathBuf};

/// Variables and directories of a process.
#[derive(Clone, Default)]
pub struct NpmEnvironment {
    pub vars: BTreeMap<String, String>,
    pub home: Option<PathBuf>,
    pub cwd: PathBuf,
}

impl NpmEnvironment {
    /// Returns the non-empty variables that are npm settings (`npm_config_…`, in any case) as `(variable, key, value)`.
    pub(crate) fn npm_settings(&self) -> impl Iterator<Item = (&str, String, &str)> {
        self.vars.iter().filter(|(_, value)| !value.is_empty()).filter_map(|(name, value)| {
            let (prefix, key) = name.split_at_checked("npm_config_".len())?;
            if !prefix.eq_ignore_ascii_case("npm_config_") || key.is_empty() {
                return None;
            }
            Some((name.as_str(), normal_key(key), value.as_str()))
        })
    }

    /// Expands each `${NAME}` in `text`. An unset variable stays as written; an unset `${NAME?}` becomes empty.
    pub(crate) fn expand(&self, text: &str) -> String {
        let mut expanded = String::with_capacity(text.len());
        let mut rest = text;
        while let Some((before, from)) = rest.split_once("${")
            && let Some((name, after)) = from.split_once('}')
        {
            expanded.push_str(before);
            expanded.push_str(&self.lookup(name).unwrap_or_else(|| format!("${{{name}}}")));
            rest = after;
        }
        expanded.push_str(rest);
        expanded
    }

    /// Returns the value of `NAME`, or of `NAME?`, which is empty if unset.
    pub(crate) fn lookup(&self, name: &str) -> Option<String> {
        match name.strip_suffix('?') {
            None => self.vars.get(name).cloned(),
            Some(name) => Some(self.vars.get(name).cloned().unwrap_or_default()),
        }
    }

    /// Resolves a path as npm does: `~/` is the home directory, and relative paths start at the working directory.
    pub(crate) fn path(&self, text: &str) -> PathBuf {
        match (text.strip_prefix("~/"), &self.home) {
            (Some(rest), Some(home)) => home.join(rest),
            _ => self.cwd.join(text),
        }
    }

    /// Returns the `.npmrc` of the current project: the nearest directory upwards with a `package.json` or `node_modules`, else
    /// the working directory. Does not handle workspaces, whose root overrides its members.
    pub(crate) fn project_file(&self) -> PathBuf {
        let is_project = |folder: &&Path| folder.join("package.json").is_file() || folder.join("node_modules").is_dir();
        self.cwd.ancestors().find(is_project).unwrap_or(&self.cwd).join(".npmrc")
    }

    /// Returns npm's default install prefix: `PREFIX`, else derived from the location of `node`.
    pub(crate) fn prefix(&self) -> Option<PathBuf> {
        let set = self.vars.get("PREFIX").filter(|prefix| !prefix.is_empty()).map(|prefix| self.path(prefix));
        set.or_else(|| Some(self.program("node")?.parent()?.parent()?.to_owned()))
    }

    /// Returns the built-in `npmrc` that a packager may have added to npm.
    pub(crate) fn builtin_file(&self) -> Option<PathBuf> {
        // `npm` on `PATH` is a link to `bin/npm-cli.js` in npm's own package.
        Some(self.program("npm")?.parent()?.parent()?.join("npmrc"))
    }

    fn program(&self, name: &str) -> Option<PathBuf> {
        let found = std::env::split_paths(self.vars.get("PATH")?).map(|folder| folder.join(name)).find(|path| path.is_file())?;
        found.canonicalize().ok()
    }
}

impl fmt::Debug for NpmEnvironment {
    /// Shows only the names of variables, because values may be secrets.
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        let names: Vec<&String> = self.vars.keys().collect();
        out.debug_struct("Environment").field("vars", &names).field("home", &self.home).field("cwd", &self.cwd).finish()
    }
}

/// Normalizes a key as npm does: `strict_ssl` becomes `strict-ssl`. Keys of one registry (`//host/:_authToken`) are unchanged.
fn normal_key(key: &str) -> String {
    if key.starts_with("//") {
        return key.to_owned();
    }
    let (first, rest) = key.split_at(key.chars().next().map_or(0, char::len_utf8));
    format!("{first}{}", rest.replace('_', "-")).to_lowercase()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn environment(vars: &[(&str, &str)]) -> NpmEnvironment {
        let vars = vars.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
        NpmEnvironment { vars, home: Some("/home/a".into()), cwd: "/project".into() }
    }

    #[test]
    fn npm_variables_in_any_case_are_settings_unless_empty() {
        let env = environment(&[
            ("npm_config_strict_ssl", "false"),
            ("NPM_CONFIG_REGISTRY", "x"),
            ("npm_config_cafile", ""),
            ("OTHER", "y"),
        ]);
        let found: Vec<_> = env.npm_settings().map(|(_, key, value)| (key, value)).collect();
        assert_eq!(found, [("registry".to_owned(), "x"), ("strict-ssl".to_owned(), "false")]);
        let token = environment(&[("npm_config_//registry.example/:_authToken", "t")]);
        assert_eq!(token.npm_settings().next().unwrap().1, "//registry.example/:_authToken");
    }

    #[test]
    fn variables_are_expanded_as_npm_expands_them() {
        let env = environment(&[("A", "1")]);
        assert_eq!(env.expand("x${A}y${B}z${B?}${"), "x1y${B}z${");
    }

    #[test]
    fn paths_start_at_home_or_the_working_directory() {
        let env = environment(&[]);
        assert_eq!(env.path("~/ca.pem"), Path::new("/home/a/ca.pem"));
        assert_eq!(env.path("ca.pem"), Path::new("/project/ca.pem"));
        assert_eq!(env.path("/ca.pem"), Path::new("/ca.pem"));
    }

    #[test]
    fn debug_shows_no_value() {
        let shown = format!("{:?}", environment(&[("TOKEN", "s3cret")]));
        assert!(shown.contains("TOKEN") && !shown.contains("s3cret"), "{shown}");
    }
}
