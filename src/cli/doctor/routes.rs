//! Where each client goes with what it is told: through Coldframe, or around it. Refuses to ask anybody.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::Duration;

use rustls_pki_types::CertificateDer;
use rustls_pki_types::pem::PemObject as _;
use url::Url;

use crate::app::probe::RedirectedHosts;
use crate::cli::doctor::client_settings::{ClientSetting, SettingsSurvey, SurveyedClient};
use crate::cli::registry_hosts::{AddressRoute, RegistryHosts, host};
use crate::config::Config;
use crate::npm::lockfile::{EntrySource, LockfileFormat};
use crate::text::shell_word;
use crate::upstream::npmrc;

/// How bad something is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum FindingLevel {
    /// As it should be.
    Well,
    /// Worth knowing.
    Note,
    /// Something is missing or will fail; nothing goes around.
    Warning,
    /// Installs go around Coldframe.
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

/// One line of what was found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct DoctorFinding {
    pub(crate) grade: FindingLevel,
    /// A stable word for what was looked at.
    pub(crate) check: &'static str,
    /// What is the case.
    pub(crate) what: String,
    /// Why it matters; empty where all is well.
    pub(crate) why: &'static str,
    /// The command that mends it.
    pub(crate) mend: Option<String>,
}

impl DoctorFinding {
    pub(crate) fn new(grade: FindingLevel, check: &'static str, what: impl Into<String>) -> Self {
        Self { grade, check, what: what.into(), why: "", mend: None }
    }

    pub(crate) fn because(self, why: &'static str) -> Self {
        Self { why, ..self }
    }

    pub(crate) fn with_fix(self, mend: impl Into<String>) -> Self {
        Self { mend: Some(mend.into()), ..self }
    }
}

/// What there is to judge by.
pub(crate) struct RouteAnalyzer<'a> {
    pub(crate) survey: &'a SettingsSurvey,
    pub(crate) hosts: &'a RegistryHosts,
    /// Where clients are to go as their registry.
    pub(crate) server: &'a Url,
    /// The addresses of our gateways, host and port.
    pub(crate) gateways: &'a [String],
    /// Whom the gateway's clients have to trust; empty without an authority.
    pub(crate) authority: &'a [CertificateDer<'static>],
    /// The places, host and port, to which a connection ends at a gateway that nobody was told of.
    pub(crate) redirected: &'a RedirectedHosts,
    pub(crate) folder: &'a Path,
    /// The age that clients are to wait for themselves, as the policy has it.
    pub(crate) age: Duration,
}

/// Where a client goes with the registry that it has.
enum ClientRoute {
    Registry,
    Gateway,
    /// Through the gateway, by the network's doing.
    Redirected,
    /// Past the gateway: the line that says so.
    Excepted(ClientSetting),
    Around,
}

impl RouteAnalyzer<'_> {
    /// Everything that files and variables tell.
    pub(crate) fn findings(&self) -> Vec<DoctorFinding> {
        let mut found = Vec::new();
        for (client, is_of_project) in &self.survey.clients {
            let told = self.survey.told(*client);
            let mut of_client = vec![self.registry(*client, &told)];
            of_client.extend(self.scopes(*client, &told));
            of_client.extend(self.trust(*client, &told));
            of_client.extend(self.age(*client, &told));
            // Others that are installed do not install this project.
            for finding in &mut of_client {
                if !is_of_project && finding.grade == FindingLevel::Bypass {
                    finding.grade = FindingLevel::Warning;
                    finding.what.push_str("; this project does not use it");
                }
            }
            found.extend(of_client.into_iter().filter(|finding| *is_of_project || finding.grade != FindingLevel::Note));
        }
        found.extend(self.lockfiles());
        found.extend(self.survey.trouble.iter().map(|error| {
            DoctorFinding::new(FindingLevel::Warning, "unreadable", error).because("what it says was not looked at")
        }));
        found
    }

    /// The registries that clients here would go to without Coldframe: upstream, and what each of them names.
    pub(crate) fn direct_registries(&self, config: &Config) -> Vec<Url> {
        let clients = self.survey.clients.iter().filter(|(_, is_of_project)| *is_of_project);
        let named = clients.map(|(client, _)| registry_of(&self.survey.told(*client)));
        let all = std::iter::once(config.upstream.default.address()).chain(named.flatten());
        all.filter(|url| !self.hosts.is_own(url)).collect()
    }

    fn registry(&self, client: SurveyedClient, told: &[ClientSetting]) -> DoctorFinding {
        let name = client.as_str();
        let said = find(told, "registry");
        let (url, origin) = match said {
            Some(said) => (Url::parse(&said.value), said.origin.as_str()),
            None => (Ok(npmrc::npm_default_registry()), "its built-in default"),
        };
        let Ok(url) = url else {
            let what = format!("{name}: the registry from {origin} is no address");
            return DoctorFinding::new(FindingLevel::Warning, "registry", what)
                .because("the client will fail, or take its default");
        };
        let shown = host(url.as_str());
        match self.route(client, told, &url) {
            ClientRoute::Registry => {
                DoctorFinding::new(FindingLevel::Well, "registry", format!("{name} asks Coldframe at {shown} ({origin})"))
            }
            ClientRoute::Gateway => {
                DoctorFinding::new(FindingLevel::Well, "registry", format!("{name} asks {shown} through the gateway"))
            }
            ClientRoute::Redirected => {
                let what = format!("{name} asks {shown}, and its connections end at the gateway ({origin})");
                DoctorFinding::new(FindingLevel::Well, "registry", what)
            }
            ClientRoute::Excepted(by) => {
                let what = format!("{name} asks {shown} past the gateway: {} excepts it ({})", by.key, by.origin);
                let mend = format!("take {} out of {} in {}", url.host_str().unwrap_or_default(), by.key, by.origin);
                DoctorFinding::new(FindingLevel::Bypass, "no-proxy", what)
                    .because("nothing that it installs is judged")
                    .with_fix(mend)
            }
            ClientRoute::Around => {
                let what = format!("{name} asks {shown} directly (registry from {origin})");
                let finding =
                    DoctorFinding::new(FindingLevel::Bypass, "registry", what).because("nothing that it installs is judged");
                finding.with_fix(self.mend_registry(client, said))
            }
        }
    }

    /// The command that leads a client here. A variable that says otherwise has to go first.
    fn mend_registry(&self, client: SurveyedClient, said: Option<&ClientSetting>) -> String {
        let server = self.server;
        let variable =
            said.and_then(|said| said.origin.strip_prefix('`')?.strip_suffix('`')).filter(|name| !name.contains(['/', '.']));
        let unset = variable.map(|name| format!("unset {name}; ")).unwrap_or_default();
        let plain = if server.scheme() == "http" {
            format!(" && yarn config set unsafeHttpWhitelist --json '[\"{}\"]'", server.host_str().unwrap_or_default())
        } else {
            String::new()
        };
        match client {
            SurveyedClient::Berry => format!("{unset}yarn config set npmRegistryServer {server}{plain}"),
            SurveyedClient::Bun | SurveyedClient::Yarn
                if said.is_some_and(|said| said.origin.contains("bunfig") || said.origin.contains(".yarnrc")) =>
            {
                format!("{unset}set registry to {server} in {}", said.map(|said| said.origin.as_str()).unwrap_or_default())
            }
            SurveyedClient::Pnpm | SurveyedClient::Pnpm11 if said.is_some_and(|said| said.origin.contains("pnpm-workspace")) => {
                format!(
                    "{unset}set registries.default to {server} in {}",
                    said.map(|said| said.origin.as_str()).unwrap_or_default()
                )
            }
            SurveyedClient::Pnpm11 if said.is_some_and(|said| said.origin.contains("pnpm/config.yaml")) => {
                // `pnpm config set` writes another file, which this one beats.
                format!("{unset}set registry to {server} in {}", said.map(|said| said.origin.as_str()).unwrap_or_default())
            }
            _ => format!("{unset}npm config set registry {server} --location=project"),
        }
    }

    fn scopes(&self, client: SurveyedClient, told: &[ClientSetting]) -> Vec<DoctorFinding> {
        let mut seen: Vec<&str> = Vec::new();
        let mut found = Vec::new();
        for said in told.iter().filter(|said| said.key.starts_with('@')) {
            if seen.contains(&said.key.as_str()) {
                continue;
            }
            seen.push(&said.key);
            let Ok(url) = Url::parse(&said.value) else { continue };
            if matches!(self.route(client, told, &url), ClientRoute::Around | ClientRoute::Excepted(_)) {
                let (scope, _) = said.key.split_once(':').unwrap_or((&said.key, ""));
                let what = format!("{} asks {} for {scope} directly ({})", client.as_str(), host(url.as_str()), said.origin);
                let mend = match client {
                    SurveyedClient::Berry | SurveyedClient::Bun => {
                        format!("set the registry of {scope} to {} in {}", self.server, said.origin)
                    }
                    _ => format!("npm config set {} {} --location=project", shell_word(&said.key), self.server),
                };
                let finding =
                    DoctorFinding::new(FindingLevel::Bypass, "scope", what).because("packages of this scope are not judged");
                found.push(finding.with_fix(mend));
            }
        }
        found
    }

    /// Whether a client behind the gateway trusts it, and whether any checks whom it talks to.
    fn trust(&self, client: SurveyedClient, told: &[ClientSetting]) -> Vec<DoctorFinding> {
        let mut found = Vec::new();
        if let Some(said) = find(told, "strict-ssl").filter(|said| said.value == "false") {
            let what = format!("{} does not check certificates ({})", client.as_str(), said.origin);
            let mend = if client == SurveyedClient::Berry {
                "yarn config unset enableStrictSsl"
            } else {
                "npm config delete strict-ssl --location=project"
            };
            let finding = DoctorFinding::new(FindingLevel::Warning, "tls", what)
                .because("whoever stands between answers in the registry's name");
            found.push(finding.with_fix(mend));
        }
        let Some(url) = registry_of(told) else { return found };
        // Ours, or whose gateway it is that connections end at.
        let authority = match self.route(client, told, &url) {
            ClientRoute::Gateway => self.authority,
            ClientRoute::Redirected => self.redirected.get(&place(&url)).map(Vec::as_slice).unwrap_or_default(),
            _ => return found,
        };
        if url.scheme() != "https" {
            return found;
        }
        let (cafile, extra) = (find(told, "cafile"), find(told, "extra-ca"));
        if cafile.or(extra).is_some_and(|said| self.holds(authority, &said.value)) {
            found.push(DoctorFinding::new(
                FindingLevel::Well,
                "ca",
                format!("{} trusts the gateway's authority", client.as_str()),
            ));
            return found;
        }
        let what = match cafile {
            Some(said) => format!("{}: the `cafile` from {} lacks the gateway's authority", client.as_str(), said.origin),
            None => format!("{} is not told to trust the gateway's authority", client.as_str()),
        };
        let finding =
            DoctorFinding::new(FindingLevel::Warning, "ca", what).because("unless the system trusts it, installs fail at TLS");
        found.push(finding.with_fix("coldframe ca trust"));
        found
    }

    /// Whether a file holds one of these certificates.
    fn holds(&self, authority: &[CertificateDer<'static>], path: &str) -> bool {
        let path: PathBuf = self.folder.join(path);
        let Ok(certificates) = CertificateDer::pem_file_iter(path) else { return false };
        certificates.flatten().any(|certificate| authority.contains(&certificate))
    }

    fn age(&self, client: SurveyedClient, told: &[ClientSetting]) -> Option<DoctorFinding> {
        let name = client.as_str();
        match find(told, "age") {
            Some(said) if said.value == "0" => {
                let what = format!("{name} has its own minimum release age switched off ({})", said.origin);
                let why = "it is a second net below Coldframe, where an install goes around";
                Some(
                    DoctorFinding::new(FindingLevel::Note, "age", what)
                        .because(why)
                        .with_fix(format!("remove it from {}", said.origin)),
                )
            }
            Some(said) => Some(DoctorFinding::new(
                FindingLevel::Note,
                "age",
                format!("{name} has a minimum release age of its own ({})", said.origin),
            )),
            None if client.has_builtin_age_gate() || self.age.is_zero() => None,
            None => {
                let rounded = |unit: u64| (self.age.as_secs() + u64::from(self.age.subsec_nanos() > 0)).div_ceil(unit);
                let why = "a second net below Coldframe, where an install goes around";
                let mend = match client {
                    SurveyedClient::Pnpm => format!("write minimumReleaseAge: {} into pnpm-workspace.yaml", rounded(60)),
                    SurveyedClient::Bun => format!("write minimumReleaseAge = {} below [install] into bunfig.toml", rounded(1)),
                    SurveyedClient::Yarn => return None,
                    _ => format!("npm config set min-release-age {} --location=project", rounded(86_400)),
                };
                let what = format!("{name} has no minimum release age of its own");
                Some(DoctorFinding::new(FindingLevel::Note, "age", what).because(why).with_fix(mend))
            }
        }
    }

    /// Entries that their client fetches from elsewhere.
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
                found.push(DoctorFinding::new(FindingLevel::Well, "lockfile", format!("{name} names nothing that goes around")));
            }
            for (place, (count, first, is_registry)) in places {
                let more = if count > 1 { format!(" and {} more", count - 1) } else { String::new() };
                let what = format!("{name}: {first}{more} come from {place}");
                let mend = if is_registry {
                    "coldframe run -- the command that installs; or delete the lockfile's addresses and install anew"
                } else {
                    "coldframe run -- the command that installs, which refuses such places"
                };
                let finding = DoctorFinding::new(FindingLevel::Bypass, "lockfile", what);
                found.push(finding.because("a client fetches what a lockfile names, whatever its registry is").with_fix(mend));
            }
        }
        found
    }

    /// Whether all clients of a dialect that install here come by the gateway with an address, which answers or refuses.
    fn is_proxied(&self, dialect: LockfileFormat, address: &str) -> bool {
        let Ok(url) = Url::parse(address) else { return false };
        let mut clients = self.survey.clients.iter().filter(|(client, _)| client.reads(dialect)).peekable();
        clients.peek().is_some()
            && clients.all(|(client, _)| {
                matches!(self.route(*client, &self.survey.told(*client), &url), ClientRoute::Gateway | ClientRoute::Redirected)
            })
    }

    fn route(&self, client: SurveyedClient, told: &[ClientSetting], url: &Url) -> ClientRoute {
        if self.hosts.is_own(url) {
            return ClientRoute::Registry;
        }
        // npm and pnpm take one for the other.
        let falls_back = matches!(client, SurveyedClient::Npm | SurveyedClient::Pnpm | SurveyedClient::Pnpm11);
        let (first, second) = if url.scheme() == "https" { ("https-proxy", "proxy") } else { ("proxy", "https-proxy") };
        let both = falls_back || (client == SurveyedClient::Yarn && first == "https-proxy");
        let proxy = find(told, first).or_else(|| find(told, second).filter(|_| both));
        let is_ours =
            proxy.and_then(|said| Url::parse(&said.value).ok()).is_some_and(|proxy| self.gateways.contains(&place(&proxy)));
        let is_redirected = self.redirected.contains_key(&place(url));
        if !is_ours {
            // Another proxy connects from where it is.
            return if is_redirected && proxy.is_none() { ClientRoute::Redirected } else { ClientRoute::Around };
        }
        // yarn from 2 on knows no exceptions; of the others some read one key, some the other.
        let exceptions = told.iter().filter(|said| matches!(said.key.as_str(), "noproxy" | "no-proxy"));
        let first = exceptions.filter(|said| client != SurveyedClient::Npm || said.key == "noproxy").take(1);
        let hole = first.into_iter().find(|said| is_proxy_exempt(&said.value, url));
        match hole {
            None => ClientRoute::Gateway,
            Some(_) if is_redirected => ClientRoute::Redirected,
            Some(said) => ClientRoute::Excepted(said.clone()),
        }
    }
}

/// Host and port.
fn place(url: &Url) -> String {
    format!("{}:{}", url.host_str().unwrap_or_default(), url.port_or_known_default().unwrap_or_default())
}

/// The registry of a client: what it is told, else npm's default; `None` where it is told nonsense.
fn registry_of(told: &[ClientSetting]) -> Option<Url> {
    find(told, "registry").map_or_else(|| Some(npmrc::npm_default_registry()), |said| Url::parse(&said.value).ok())
}

fn find<'a>(told: &'a [ClientSetting], key: &str) -> Option<&'a ClientSetting> {
    told.iter().find(|said| said.key == key)
}

/// Whether a list of exceptions has the host of `url`: by name, by a domain above it, or everything.
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

    /// What is found of the registry of each client, with these variables and this `.npmrc`.
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
            Config::of(&[("data-dir", "/data"), ("upstream", "https://registry.example/"), ("listen", "127.0.0.1:4873")]);
        let (survey, server) = (SettingsSurvey::of(&surroundings), Url::parse("http://127.0.0.1:4873/").unwrap());
        let (hosts, gateways) = (RegistryHosts::of(&config.unwrap(), None), ["127.0.0.1:8080".to_owned()]);
        let (survey, hosts, server, folder) = (&survey, &hosts, &server, folder.path());
        let judge = RouteAnalyzer {
            survey,
            hosts,
            server,
            gateways: &gateways,
            authority: &[],
            redirected: &RedirectedHosts::new(),
            folder,
            age: Duration::ZERO,
        };
        let told = judge.findings().into_iter().filter(|finding| matches!(finding.check, "registry" | "no-proxy"));
        told.map(|finding| format!("{} {}", finding.grade.as_str(), finding.what.split(" (").next().unwrap_or_default()))
            .collect()
    }

    #[test]
    fn each_client_goes_where_what_it_reads_leads() {
        let npmrc = "registry=https://registry.example/\n";
        let proxy = ("HTTPS_PROXY", "http://127.0.0.1:8080");
        let of = |clients: &str, rest: &str| clients.split(", ").map(|client| format!("{client} {rest}")).collect::<Vec<_>>();
        let all = "npm, pnpm up to 10, pnpm from 11 on, bun";
        let told = |grade: &str, rest: &str| of(all, rest).into_iter().map(|line| format!("{grade} {line}")).collect::<Vec<_>>();
        assert_eq!(registries(&[], npmrc), told("bypass", "asks registry.example directly"));
        assert_eq!(registries(&[proxy], npmrc), told("ok", "asks registry.example through the gateway"));
        let elsewhere = ("HTTPS_PROXY", "http://proxy.example:8080");
        assert_eq!(registries(&[elsewhere], npmrc), told("bypass", "asks registry.example directly"));
        let excepted = registries(&[proxy, ("NO_PROXY", "localhost,.example")], npmrc);
        assert_eq!(excepted, told("bypass", "asks registry.example past the gateway: noproxy excepts it"));
        // pnpm from 11 on does not read this one, and deno not this case of it.
        assert_eq!(
            registries(&[("npm_config_registry", "http://localhost:4873/")], npmrc),
            [
                "ok npm asks Coldframe at http://localhost:4873",
                "ok pnpm up to 10 asks Coldframe at http://localhost:4873",
                "bypass pnpm from 11 on asks registry.example directly",
                "ok bun asks Coldframe at http://localhost:4873",
            ]
        );
        // A file's proxy beats the variable for npm and pnpm, bun does not read it.
        let npmrc = format!("{npmrc}https-proxy=http://proxy.example/\n");
        assert_eq!(
            registries(&[proxy], &npmrc),
            [
                "bypass npm asks registry.example directly",
                "bypass pnpm up to 10 asks registry.example directly",
                "bypass pnpm from 11 on asks registry.example directly",
                "ok bun asks registry.example through the gateway",
            ]
        );
    }

    #[test]
    fn exceptions_are_names_domains_and_everything() {
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
