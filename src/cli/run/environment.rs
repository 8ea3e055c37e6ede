//! Environment variables that send every client through the gateway, regardless of project files. Tested with npm 9 to 12,
//! pnpm 9 to 12, yarn 1, 3 and 4, bun and deno. Yarn 2 is not supported: it sends no password to a proxy.
//!
//! No variable works for all clients: pnpm 11 and later ignore `npm_config_registry`, yarn 4 reads only `YARN_*`, and deno
//! reads only upper case. `npm_config_*` and `pnpm_config_*` override proxy, `noproxy` and `cafile` in a project's `.npmrc`.

use std::ffi::{OsStr, OsString};
use std::path::Path;

use crate::app::session::ProxyEndpoint;
use crate::cli::run::project::ProjectFiles;

/// Variables to remove because they bypass the gateway or its CA, in lower case. yarn 2 and 3 fail on the name of yarn 4's CA
/// setting and yarn 4 fails on theirs, so each is set only for a project that uses it.
const REMOVED: [&str; 8] = [
    "all_proxy",
    "npm_config_ca",
    "pnpm_config_ca",
    "npm_config_replace_registry_host",
    "npm_config_no_proxy",
    "yarn_cafile",
    "yarn_https_ca_file_path",
    "yarn_ca_file_path",
];

/// Variables to set, in this order. Inherited ones that differ only in case are removed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct ClientEnvironment(Vec<(&'static str, OsString)>);

impl ClientEnvironment {
    /// Builds the environment for a proxy. Hosts in `no_proxy` are reached without it. npm replaces the host `replaced` in its
    /// lockfile with the registry. The file `added` has our CA and this machine's extra CAs, for variables that add to the system's
    /// roots; `whole` also has these roots, for settings that replace them.
    pub(crate) fn of(
        way: &ProxyEndpoint,
        (added, whole): (&Path, &Path),
        no_proxy: &str,
        project: &ProjectFiles,
        replaced: Option<&str>,
    ) -> Self {
        let proxy = way.pass.in_url(&way.proxy);
        let (proxy, registry) = (OsStr::new(proxy.as_str()), OsStr::new(way.registry.as_str()));
        let (direct, added, whole) = (OsStr::new(no_proxy), added.as_os_str(), whole.as_os_str());
        let mut set = Vec::new();
        let mut all = |names: &[&'static str], value: &OsStr| set.extend(names.iter().map(|name| (*name, value.to_owned())));
        all(&["HTTPS_PROXY", "https_proxy", "HTTP_PROXY", "http_proxy", "YARN_HTTPS_PROXY", "YARN_HTTP_PROXY"], proxy);
        all(&["npm_config_https_proxy", "npm_config_proxy", "pnpm_config_https_proxy", "pnpm_config_proxy"], proxy);
        all(&["NO_PROXY", "no_proxy", "npm_config_noproxy", "pnpm_config_noproxy", "pnpm_config_no_proxy"], direct);
        all(&["NODE_EXTRA_CA_CERTS", "DENO_CERT"], added);
        all(&["npm_config_cafile", "pnpm_config_cafile"], whole);
        all(&["npm_config_registry", "NPM_CONFIG_REGISTRY", "pnpm_config_registry"], registry);
        all(&["YARN_NPM_REGISTRY_SERVER", "BUN_CONFIG_REGISTRY"], registry);
        // yarn 4 must be allowed to use an HTTP registry.
        if let Some(host) = way.registry.host_str().filter(|_| way.registry.scheme() == "http") {
            all(&["YARN_UNSAFE_HTTP_WHITELIST"], OsStr::new(host));
        }
        all(&project.yarn_authority, whole);
        if let Some(host) = replaced {
            all(&["npm_config_replace_registry_host"], OsStr::new(host));
        }
        // pnpm 9 and 10 obey a `no-proxy` line. Only for projects with such a line, because npm warns about the variable.
        if project.names_exceptions {
            all(&["npm_config_no_proxy"], direct);
        }
        // Only for projects with a `registry` line of yarn 1, because yarn 2 fails on the variable.
        if project.names_yarn_registry {
            all(&["YARN_REGISTRY"], registry);
        }
        Self(set)
    }

    /// Applies the variables to a command that would inherit `inherited`.
    pub(crate) fn apply(&self, command: &mut tokio::process::Command, inherited: &[(OsString, OsString)]) {
        for name in self.removed(inherited) {
            command.env_remove(name);
        }
        command.envs(self.0.iter().map(|(name, value)| (name, value)));
    }

    /// Returns the variables of `inherited` that conflict, in any case.
    fn removed<'a>(&self, inherited: &'a [(OsString, OsString)]) -> Vec<&'a OsStr> {
        let conflicts = |name: &str| {
            let folded = name.to_ascii_lowercase();
            REMOVED.contains(&folded.as_str()) || self.0.iter().any(|(set, _)| set.eq_ignore_ascii_case(&folded))
        };
        let names = inherited.iter().map(|(name, _)| name.as_os_str());
        names.filter(|name| name.to_str().is_some_and(conflicts)).collect()
    }
}

#[cfg(test)]
mod tests {
    use expect_test::expect;

    use url::Url;

    use super::*;
    use crate::server::SessionPassword;

    fn recipe(registry: &str, project: &ProjectFiles) -> ClientEnvironment {
        let proxy = Url::parse("http://127.0.0.1:4711/").unwrap();
        let way = ProxyEndpoint { proxy, pass: SessionPassword::random().unwrap(), registry: Url::parse(registry).unwrap() };
        let trusted = (Path::new("/run/added.pem"), Path::new("/run/whole.pem"));
        ClientEnvironment::of(&way, trusted, "localhost", project, None)
    }

    #[test]
    fn all_variables_are_set() {
        let recipe_of = recipe("https://registry.example/", &ProjectFiles::default());
        let lines: Vec<_> = recipe_of.0.iter().map(|(name, value)| format!("{name}={}", value.display())).collect();
        let (_, pass) = lines[0].split_once("//run:").unwrap();
        let (pass, _) = pass.split_once('@').unwrap();
        let lines: Vec<_> = lines.iter().map(|line| line.replace(pass, "PASS")).collect();
        expect![[r#"
            HTTPS_PROXY=http://run:PASS@127.0.0.1:4711/
            https_proxy=http://run:PASS@127.0.0.1:4711/
            HTTP_PROXY=http://run:PASS@127.0.0.1:4711/
            http_proxy=http://run:PASS@127.0.0.1:4711/
            YARN_HTTPS_PROXY=http://run:PASS@127.0.0.1:4711/
            YARN_HTTP_PROXY=http://run:PASS@127.0.0.1:4711/
            npm_config_https_proxy=http://run:PASS@127.0.0.1:4711/
            npm_config_proxy=http://run:PASS@127.0.0.1:4711/
            pnpm_config_https_proxy=http://run:PASS@127.0.0.1:4711/
            pnpm_config_proxy=http://run:PASS@127.0.0.1:4711/
            NO_PROXY=localhost
            no_proxy=localhost
            npm_config_noproxy=localhost
            pnpm_config_noproxy=localhost
            pnpm_config_no_proxy=localhost
            NODE_EXTRA_CA_CERTS=/run/added.pem
            DENO_CERT=/run/added.pem
            npm_config_cafile=/run/whole.pem
            pnpm_config_cafile=/run/whole.pem
            npm_config_registry=https://registry.example/
            NPM_CONFIG_REGISTRY=https://registry.example/
            pnpm_config_registry=https://registry.example/
            YARN_NPM_REGISTRY_SERVER=https://registry.example/
            BUN_CONFIG_REGISTRY=https://registry.example/
        "#]]
        .assert_eq(&(lines.join("\n") + "\n"));
        let plain = recipe("http://127.0.0.1:4000/", &ProjectFiles::default());
        assert_eq!(plain.0.last(), Some(&("YARN_UNSAFE_HTTP_WHITELIST", "127.0.0.1".into())));
        let project =
            ProjectFiles { yarn_authority: vec!["YARN_CA_FILE_PATH"], names_exceptions: true, ..ProjectFiles::default() };
        let ClientEnvironment(berry) = recipe("http://127.0.0.1:4000/", &project);
        assert_eq!(
            berry[berry.len() - 2..],
            [("YARN_CA_FILE_PATH", OsString::from("/run/whole.pem")), ("npm_config_no_proxy", OsString::from("localhost"))]
        );
    }

    #[test]
    fn conflicting_inherited_variables_are_removed() {
        let inherited =
            ["PATH", "NPM_CONFIG_CAFILE", "Npm_Config_NoProxy", "ALL_PROXY", "no_proxy", "YARN_CA_FILE_PATH", "npm_config_fund"];
        let inherited: Vec<_> = inherited.map(|name| (OsString::from(name), OsString::from("x"))).into();
        let removed = recipe("https://registry.example/", &ProjectFiles::default())
            .removed(&inherited)
            .into_iter()
            .map(OsStr::to_owned)
            .collect::<Vec<_>>();
        assert_eq!(removed, ["NPM_CONFIG_CAFILE", "Npm_Config_NoProxy", "ALL_PROXY", "no_proxy", "YARN_CA_FILE_PATH"]);
    }
}
