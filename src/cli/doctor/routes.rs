//! Determines from each client's settings whether its installs go through Coldframe. Makes no network requests.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::time::Duration;

use rustls_pki_types::CertificateDer;
use rustls_pki_types::pem::PemObject as _;
use url::Url;

use self::FindingLevel::{Bypass, Note, Warning, Well};
use crate::app::probe::RedirectedHosts;
use crate::cli::doctor::client_settings::{ClientSetting, SettingsSurvey, SurveyedClient, UsedClient};
use crate::cli::registry_hosts::{AddressRoute, RegistryHosts, host, place};
use crate::npm::lockfile::{EntrySource, LockfileFormat};
use crate::text::shell_word;
use crate::upstream::npmrc;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum FindingLevel {
    Well,
    Note,
    /// Something is missing or will fail, but installs do not bypass Coldframe.
    Warning,
    Bypass,
}

impl FindingLevel {
    pub(crate) fn as_str(self) -> &'static str {
        match self {
            Self::Well => "ok",
            Self::Note => "note",
            Self::Warning => "warning",
            Self::Bypass => "bypass",
        }
    }
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct DoctorFinding {
    pub(crate) grade: FindingLevel,
    /// A stable name of the check.
    pub(crate) check: &'static str,
    pub(crate) what: String,
    /// Why it matters. Empty if there is no problem.
    pub(crate) why: &'static str,
    /// The command or step that fixes it.
    pub(crate) fix: Option<String>,
}

impl DoctorFinding {
    pub(crate) fn new(grade: FindingLevel, check: &'static str, what: impl Into<String>) -> Self {
        Self { grade, check, what: what.into(), why: "", fix: None }
    }

    pub(crate) fn because(self, why: &'static str, fix: impl Into<String>) -> Self {
        Self { why, fix: Some(fix.into()), ..self }
    }
}

pub(crate) struct RouteAnalyzer<'a> {
    pub(crate) survey: &'a SettingsSurvey,
    pub(crate) hosts: &'a RegistryHosts,
    /// The registry URL that clients should use.
    pub(crate) server: &'a Url,
    /// The addresses of our gateways, as `host:port`.
    pub(crate) gateways: &'a [String],
    /// The CA certificates that clients of the gateway must trust. Empty without a CA.
    pub(crate) authority: &'a [CertificateDer<'static>],
    /// Addresses (`host:port`) whose connections are redirected to a gateway, with the CA of that gateway.
    pub(crate) redirected: &'a RedirectedHosts,
    pub(crate) folder: &'a Path,
    /// The minimum age of the policy, which clients should also use.
    pub(crate) age: Duration,
}

enum ClientRoute<'a> {
    Registry,
    Gateway,
    /// Through the gateway, because the network redirects connections.
    Redirected,
    /// Past the gateway, because of this `noproxy` setting.
    Excepted(&'a ClientSetting),
    Around,
}

impl RouteAnalyzer<'_> {
    pub(crate) fn findings(&self) -> Vec<DoctorFinding> {
        let mut found = Vec::new();
        for used in &self.survey.clients {
            let mut of_client = vec![self.registry(used)];
            of_client.extend(self.scopes(used));
            of_client.extend(self.trust(used));
            of_client.extend(self.age(used));
            if !used.is_of_project {
                // Clients that the project does not use cause warnings only.
                of_client.retain(|finding| finding.grade != Note);
                for finding in of_client.iter_mut().filter(|finding| finding.grade == Bypass) {
                    finding.grade = Warning;
                    finding.what.push_str("; this project does not use it");
                }
            }
            found.extend(of_client);
        }
        found.extend(self.lockfiles());
        let why = "its contents were not checked";
        let unreadable = |error| DoctorFinding { why, ..DoctorFinding::new(Warning, "unreadable", error) };
        found.extend(self.survey.trouble.iter().map(unreadable));
        found
    }

    fn registry(&self, used: &UsedClient) -> DoctorFinding {
        let name = used.client.as_str();
        let setting = used.find("registry");
        let (url, origin) = match setting {
            Some(setting) => (Url::parse(&setting.value), setting.origin.as_str()),
            None => (Ok(npmrc::npm_default_registry()), "its built-in default"),
        };
        let Ok(url) = url else {
            let what = format!("{name}: the registry from {origin} is not a URL");
            let why = "the client will fail or use its default";
            return DoctorFinding { why, ..DoctorFinding::new(Warning, "registry", what) };
        };
        let shown = host(url.as_str());
        match self.route(used, &url) {
            ClientRoute::Registry => DoctorFinding::new(Well, "registry", format!("{name} asks Coldframe at {shown} ({origin})")),
            ClientRoute::Gateway => DoctorFinding::new(Well, "registry", format!("{name} asks {shown} through the gateway")),
            ClientRoute::Redirected => {
                let what = format!("{name} asks {shown}; its connections are redirected to the gateway ({origin})");
                DoctorFinding::new(Well, "registry", what)
            }
            ClientRoute::Excepted(by) => {
                let what = format!("{name} asks {shown} past the gateway: {} excludes it ({})", by.key, by.origin);
                let fix = format!("remove {} from {} in {}", url.host_str().unwrap_or_default(), by.key, by.origin);
                DoctorFinding::new(Bypass, "no-proxy", what).because("its installs are not checked", fix)
            }
            ClientRoute::Around => {
                let what = format!("{name} asks {shown} directly (registry from {origin})");
                let fix = self.mend_registry(used.client, setting);
                DoctorFinding::new(Bypass, "registry", what).because("its installs are not checked", fix)
            }
        }
    }

    /// Returns the command that configures a client for Coldframe. A variable that overrides it must be unset first.
    fn mend_registry(&self, client: SurveyedClient, setting: Option<&ClientSetting>) -> String {
        let server = self.server;
        let origin = setting.map(|setting| setting.origin.as_str()).unwrap_or_default();
        let named = origin.strip_prefix('`').and_then(|name| name.strip_suffix('`'));
        let variable = named.filter(|name| !name.contains(['/', '.']));
        let unset = variable.map(|name| format!("unset {name}; ")).unwrap_or_default();
        let host = server.host_str().unwrap_or_default();
        let allow_host = format!(" && yarn config set unsafeHttpWhitelist --json '[\"{host}\"]'");
        let plain = if server.scheme() == "http" { &*allow_host } else { "" };
        let is_in = |file: &str| origin.contains(file);
        match client {
            SurveyedClient::Berry => format!("{unset}yarn config set npmRegistryServer {server}{plain}"),
            SurveyedClient::Pnpm | SurveyedClient::Pnpm11 if is_in("pnpm-workspace") => {
                format!("{unset}set registries.default to {server} in {origin}")
            }
            SurveyedClient::Bun | SurveyedClient::Yarn if is_in("bunfig") || is_in(".yarnrc") => {
                format!("{unset}set registry to {server} in {origin}")
            }
            // `pnpm config set` writes a file with lower priority than this one.
            SurveyedClient::Pnpm11 if is_in("pnpm/config.yaml") => format!("{unset}set registry to {server} in {origin}"),
            _ => format!("{unset}npm config set registry {server} --location=project"),
        }
    }

    fn scopes(&self, used: &UsedClient) -> Vec<DoctorFinding> {
        let mut seen = BTreeSet::new();
        let mut found = Vec::new();
        for setting in used.settings.iter().filter(|setting| setting.key.starts_with('@') && seen.insert(&setting.key)) {
            let Ok(url) = Url::parse(&setting.value) else { continue };
            if matches!(self.route(used, &url), ClientRoute::Around | ClientRoute::Excepted(_)) {
                let (scope, _) = setting.key.split_once(':').unwrap_or((&setting.key, ""));
                let (name, origin) = (used.client.as_str(), &setting.origin);
                let what = format!("{name} asks {} for {scope} directly ({origin})", host(url.as_str()));
                let fix = match used.client {
                    SurveyedClient::Berry | SurveyedClient::Bun => {
                        format!("set the registry of {scope} to {} in {origin}", self.server)
                    }
                    _ => format!("npm config set {} {} --location=project", shell_word(&setting.key), self.server),
                };
                let why = "packages of this scope are not checked";
                found.push(DoctorFinding::new(Bypass, "scope", what).because(why, fix));
            }
        }
        found
    }

    /// Checks whether a client of the gateway trusts its CA, and whether certificate checks are on.
    fn trust(&self, used: &UsedClient) -> Vec<DoctorFinding> {
        let (mut found, name) = (Vec::new(), used.client.as_str());
        if let Some(setting) = used.find("strict-ssl").filter(|setting| setting.value == "false") {
            let what = format!("{name} does not check certificates ({})", setting.origin);
            let fix = match used.client {
                SurveyedClient::Berry => "yarn config unset enableStrictSsl",
                _ => "npm config delete strict-ssl --location=project",
            };
            let why = "a machine in the middle can impersonate the registry";
            found.push(DoctorFinding::new(Warning, "tls", what).because(why, fix));
        }
        let Some(url) = registry_of(used).filter(|url| url.scheme() == "https") else { return found };
        // The CA of our gateway, or of the gateway that connections are redirected to.
        let authority = match self.route(used, &url) {
            ClientRoute::Gateway => self.authority,
            ClientRoute::Redirected => {
                place(&url).and_then(|place| self.redirected.get(&place)).map(Vec::as_slice).unwrap_or_default()
            }
            _ => return found,
        };
        let cafile = used.find("cafile");
        if cafile.or(used.find("extra-ca")).is_some_and(|setting| self.holds(authority, &setting.value)) {
            found.push(DoctorFinding::new(Well, "ca", format!("{name} trusts the gateway's CA")));
            return found;
        }
        let what = match cafile {
            Some(setting) => format!("{name}: the `cafile` from {} does not contain the gateway's CA", setting.origin),
            None => format!("{name} is not configured to trust the gateway's CA"),
        };
        let why = "installs fail at TLS unless the system trusts it";
        found.push(DoctorFinding::new(Warning, "ca", what).because(why, "coldframe ca trust"));
        found
    }

    fn holds(&self, authority: &[CertificateDer<'static>], path: &str) -> bool {
        let certificates = CertificateDer::pem_file_iter(self.folder.join(path));
        certificates.is_ok_and(|read| read.filter_map(Result::ok).any(|certificate| authority.contains(&certificate)))
    }

    fn age(&self, used: &UsedClient) -> Option<DoctorFinding> {
        let (name, why) = (used.client.as_str(), "it protects installs that bypass Coldframe");
        match used.find("age") {
            Some(setting) if setting.value == "0" => {
                let what = format!("{name} has its own minimum release age turned off ({})", setting.origin);
                Some(DoctorFinding::new(Note, "age", what).because(why, format!("remove it from {}", setting.origin)))
            }
            Some(setting) => {
                Some(DoctorFinding::new(Note, "age", format!("{name} has its own minimum release age ({})", setting.origin)))
            }
            None if self.age.is_zero() => None,
            None => {
                let rounded = |unit: u64| (self.age.as_secs() + u64::from(self.age.subsec_nanos() > 0)).div_ceil(unit);
                let fix = match used.client {
                    SurveyedClient::Pnpm => format!("set minimumReleaseAge: {} in pnpm-workspace.yaml", rounded(60)),
                    SurveyedClient::Bun => format!("set minimumReleaseAge = {} under [install] in bunfig.toml", rounded(1)),
                    SurveyedClient::Npm => format!("npm config set min-release-age {} --location=project", rounded(86_400)),
                    // yarn 1 has no such setting. By default, the others hold new releases for a day.
                    SurveyedClient::Yarn | SurveyedClient::Pnpm11 | SurveyedClient::Berry | SurveyedClient::Deno => return None,
                };
                let what = format!("{name} has no minimum release age of its own");
                Some(DoctorFinding::new(Note, "age", what).because(why, fix))
            }
        }
    }

    fn lockfiles(&self) -> Vec<DoctorFinding> {
        let mut found = Vec::new();
        for (name, lockfile) in &self.survey.lockfiles {
            let mut places: BTreeMap<String, (usize, &str, bool)> = BTreeMap::new();
            for entry in &lockfile.entries {
                let Some(address) = entry.resolved.as_deref() else { continue };
                if !matches!(entry.source, EntrySource::Registry | EntrySource::Http | EntrySource::Git) {
                    continue;
                }
                let is_closed = self.is_proxied(lockfile.dialect, address);
                if self.hosts.way(address, lockfile.dialect) != AddressRoute::Through && !is_closed {
                    let is_registry = entry.source == EntrySource::Registry;
                    places.entry(host(address)).or_insert((0, &entry.name, is_registry)).0 += 1;
                }
            }
            if places.is_empty() {
                found.push(DoctorFinding::new(Well, "lockfile", format!("{name} has no entries that bypass Coldframe")));
            }
            for (place, (count, first, is_registry)) in places {
                let more = if count > 1 { format!(" and {} more", count - 1) } else { String::new() };
                let what = format!("{name}: {first}{more} fetched from {place}");
                let fix = if is_registry {
                    "coldframe run -- INSTALL COMMAND; or remove the addresses from the lockfile and install again"
                } else {
                    "coldframe run -- INSTALL COMMAND, which refuses such hosts"
                };
                let why = "clients fetch the addresses in a lockfile, regardless of the registry";
                found.push(DoctorFinding::new(Bypass, "lockfile", what).because(why, fix));
            }
        }
        found
    }

    /// Checks whether all clients of a lockfile format reach an address through the gateway.
    fn is_proxied(&self, dialect: LockfileFormat, address: &str) -> bool {
        let Ok(url) = Url::parse(address) else { return false };
        let mut clients = self.survey.clients.iter().filter(|used| used.client.reads(dialect)).peekable();
        let is_closed = |used| matches!(self.route(used, &url), ClientRoute::Gateway | ClientRoute::Redirected);
        clients.peek().is_some() && clients.all(is_closed)
    }

    fn route<'u>(&self, used: &'u UsedClient, url: &Url) -> ClientRoute<'u> {
        let client = used.client;
        if self.hosts.is_own(url) {
            return ClientRoute::Registry;
        }
        // npm and pnpm use either proxy setting for both schemes.
        let falls_back = matches!(client, SurveyedClient::Npm | SurveyedClient::Pnpm | SurveyedClient::Pnpm11);
        let (first, second) = if url.scheme() == "https" { ("https-proxy", "proxy") } else { ("proxy", "https-proxy") };
        let both = falls_back || (client == SurveyedClient::Yarn && first == "https-proxy");
        let proxy = used.find(first).or_else(|| used.find(second).filter(|_| both));
        let address = proxy.and_then(|setting| place(&Url::parse(&setting.value).ok()?));
        let is_ours = address.is_some_and(|address| self.gateways.contains(&address));
        let is_redirected = place(url).is_some_and(|place| self.redirected.contains_key(&place));
        if !is_ours {
            // Another proxy opens connections from its own machine.
            return if is_redirected && proxy.is_none() { ClientRoute::Redirected } else { ClientRoute::Around };
        }
        // yarn 2 and later have no exceptions. The other clients read one of these keys.
        let is_list = |key: &str| key == "noproxy" || (key == "no-proxy" && client != SurveyedClient::Npm);
        let exceptions = used.settings.iter().find(|setting| is_list(&setting.key));
        match exceptions.filter(|setting| is_proxy_exempt(&setting.value, url)) {
            None => ClientRoute::Gateway,
            Some(_) if is_redirected => ClientRoute::Redirected,
            Some(setting) => ClientRoute::Excepted(setting),
        }
    }
}

/// Returns the registry of a client, by default npm's. Returns `None` if the setting is not a URL.
pub(crate) fn registry_of(used: &UsedClient) -> Option<Url> {
    used.find("registry").map_or_else(|| Some(npmrc::npm_default_registry()), |setting| Url::parse(&setting.value).ok())
}

/// Checks whether a list of exceptions contains the host of `url`, a parent domain, or `*`.
fn is_proxy_exempt(list: &str, url: &Url) -> bool {
    let host = url.host_str().unwrap_or_default();
    list.split([',', ' ']).map(str::trim).filter(|entry| !entry.is_empty()).any(|entry| {
        let (name, port) = entry.rsplit_once(':').map_or((entry, None), |(name, port)| (name, port.parse::<u16>().ok()));
        let name = name.trim_start_matches('*').trim_start_matches('.');
        let fits = name.is_empty() || host == name || host.strip_suffix(name).is_some_and(|before| before.ends_with('.'));
        fits && port.is_none_or(|port| Some(port) == url.port_or_known_default())
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Config;

    /// Returns the registry findings of each client for these variables and this `.npmrc`.
    fn registries(variables: &[(&str, &str)], npmrc: &str) -> Vec<String> {
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(folder.path().join(".npmrc"), npmrc).unwrap();
        for (name, text) in [
            ("package-lock.json", r#"{ "lockfileVersion": 3, "packages": {} }"#),
            ("pnpm-lock.yaml", "lockfileVersion: '9.0'\n"),
            ("bun.lock", r#"{ "lockfileVersion": 1, "packages": {} }"#),
        ] {
            std::fs::write(folder.path().join(name), text).unwrap();
        }
        let surroundings = crate::config::ProcessEnvironment {
            variables: variables.iter().map(|(name, value)| (name.into(), value.into())).collect(),
            home: Some(folder.path().join("home")),
            working_directory: folder.path().to_owned(),
        };
        let config =
            Config::from_pairs(&[("data-dir", "/data"), ("upstream", "https://registry.example/"), ("listen", "127.0.0.1:4873")]);
        let (survey, server) = (SettingsSurvey::of(&surroundings), Url::parse("http://127.0.0.1:4873/").unwrap());
        let (hosts, gateways) = (RegistryHosts::of(&config.unwrap(), None), ["127.0.0.1:8080".to_owned()]);
        let (survey, hosts, server, folder) = (&survey, &hosts, &server, folder.path());
        let analyzer = RouteAnalyzer {
            survey,
            hosts,
            server,
            gateways: &gateways,
            authority: &[],
            redirected: &RedirectedHosts::new(),
            folder,
            age: Duration::ZERO,
        };
        let findings = analyzer.findings().into_iter().filter(|finding| matches!(finding.check, "registry" | "no-proxy"));
        findings
            .map(|finding| format!("{} {}", finding.grade.as_str(), finding.what.split(" (").next().unwrap_or_default()))
            .collect()
    }

    #[test]
    fn route_follows_the_settings_each_client_reads() {
        let npmrc = "registry=https://registry.example/\n";
        let proxy = ("HTTPS_PROXY", "http://127.0.0.1:8080");
        let of = |clients: &str, rest: &str| clients.split(", ").map(|client| format!("{client} {rest}")).collect::<Vec<_>>();
        let all = "npm, pnpm 10 and older, pnpm 11 and later, bun";
        let lines = |grade: &str, rest: &str| of(all, rest).into_iter().map(|line| format!("{grade} {line}")).collect::<Vec<_>>();
        assert_eq!(registries(&[], npmrc), lines("bypass", "asks registry.example directly"));
        assert_eq!(registries(&[proxy], npmrc), lines("ok", "asks registry.example through the gateway"));
        let elsewhere = ("HTTPS_PROXY", "http://proxy.example:8080");
        assert_eq!(registries(&[elsewhere], npmrc), lines("bypass", "asks registry.example directly"));
        let excepted = registries(&[proxy, ("NO_PROXY", "localhost,.example")], npmrc);
        assert_eq!(excepted, lines("bypass", "asks registry.example past the gateway: noproxy excludes it"));
        // pnpm 11 and later do not read this variable, and deno reads only its upper-case form.
        assert_eq!(
            registries(&[("npm_config_registry", "http://localhost:4873/")], npmrc),
            [
                "ok npm asks Coldframe at http://localhost:4873",
                "ok pnpm 10 and older asks Coldframe at http://localhost:4873",
                "bypass pnpm 11 and later asks registry.example directly",
                "ok bun asks Coldframe at http://localhost:4873",
            ]
        );
        // npm and pnpm prefer the proxy in the file to the variable. bun does not read the file.
        let npmrc = format!("{npmrc}https-proxy=http://proxy.example/\n");
        assert_eq!(
            registries(&[proxy], &npmrc),
            [
                "bypass npm asks registry.example directly",
                "bypass pnpm 10 and older asks registry.example directly",
                "bypass pnpm 11 and later asks registry.example directly",
                "ok bun asks registry.example through the gateway",
            ]
        );
    }

    #[test]
    fn exceptions_match_names_domains_and_wildcards() {
        let url = Url::parse("https://npm.registry.example/").unwrap();
        for (list, expected) in [
            ("npm.registry.example", true),
            ("a.example, .registry.example", true),
            ("registry.example", true),
            ("*", true),
            ("*.registry.example", true),
            ("npm.registry.example:443", true),
            ("npm.registry.example:8443", false),
            ("istry.example", false),
            ("127.0.0.1,localhost", false),
            ("", false),
        ] {
            assert_eq!(is_proxy_exempt(list, &url), expected, "{list}");
        }
    }
}
