//! Hosts that a command may reach without the gateway: this machine, and entries of the user's own `NO_PROXY`. Drops entries
//! that any client could match against a registry, because they would bypass the gateway.

use std::collections::BTreeSet;
use std::ffi::OsString;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::path::Path;

use ipnet::IpNet;
use url::{Host, Url};

use crate::upstream::SettingOrigin;
use crate::upstream::npmrc::NpmrcLine;

/// Names of this machine, in the forms that clients compare: Node and npm use brackets, Go does not.
const LOOPBACK: [&str; 5] = ["localhost", ".localhost", "127.0.0.1", "::1", "[::1]"];

/// A host that does not exist. With an empty list, clients would use the list of a file.
const NOWHERE: &str = "none.invalid";

/// The variables that contain such lists, in lower case.
const VARIABLES: [&str; 5] =
    ["no_proxy", "npm_config_noproxy", "npm_config_no_proxy", "pnpm_config_noproxy", "pnpm_config_no_proxy"];

/// Limits for entries of the user: their number, and the length of each in bytes.
const MAX_ENTRIES: usize = 200;
const MAX_ENTRY_BYTES: usize = 255;

/// Returns the value of `NO_PROXY`: this machine, unless it hosts a registry, and entries that match none of `registries`.
pub(crate) fn no_proxy(registries: &[Url], entries: impl IntoIterator<Item = String>) -> String {
    let registries: Vec<RegistryHost> = registries.iter().filter_map(RegistryHost::new).collect();
    let on_loopback = registries.iter().any(RegistryHost::is_loopback);
    let mut kept: Vec<String> = if on_loopback { Vec::new() } else { LOOPBACK.map(str::to_owned).into() };
    let mut seen: BTreeSet<String> = kept.iter().cloned().collect();
    let own = entries.into_iter().filter(|entry| {
        let is_safe = NoProxyEntry::parse(entry).is_some_and(|entry| {
            let leads_past = registries.iter().any(|registry| entry.may_match(registry));
            !(leads_past || on_loopback && entry.is_loopback())
        });
        is_safe && seen.insert(entry.clone())
    });
    kept.extend(own.take(MAX_ENTRIES));
    if kept.is_empty() { NOWHERE.to_owned() } else { kept.join(",") }
}

/// Returns the entries from variables and from `.npmrc` files outside the project. Files in the project are not trusted.
pub(crate) fn entries(
    variables: &[(OsString, OsString)],
    lines: &[NpmrcLine],
    folder: &Path,
    home: Option<&Path>,
) -> Vec<String> {
    let of_variables = variables.iter().filter_map(|(name, value)| {
        let name = name.to_str()?.to_ascii_lowercase();
        VARIABLES.contains(&name.as_str()).then(|| value.to_str())?
    });
    let is_users = |origin: &SettingOrigin| {
        let SettingOrigin::File(path) = origin else { return false };
        path.parent().is_some_and(|parent| Some(parent) == home || !folder.starts_with(parent))
    };
    let of_files = lines.iter().filter(|line| matches!(line.key.as_str(), "noproxy" | "no-proxy") && is_users(&line.origin));
    let lists = of_variables.chain(of_files.map(|line| line.value.as_str()));
    let entries = lists.flat_map(|list| list.split(|letter: char| letter == ',' || letter.is_whitespace()));
    entries.filter(|entry| !entry.is_empty()).map(str::to_ascii_lowercase).collect()
}

pub(crate) fn is_loopback(url: &Url) -> bool {
    RegistryHost::new(url).is_some_and(|registry| registry.is_loopback())
}

struct RegistryHost {
    name: String,
    address: Option<IpAddr>,
}

/// A parsed entry, in lower case.
enum NoProxyEntry {
    Network(IpNet),
    /// A host, or a suffix of host names.
    Host(RegistryHost),
}

impl RegistryHost {
    fn new(url: &Url) -> Option<Self> {
        let address = match url.host()? {
            Host::Ipv4(address) => Some(IpAddr::V4(address)),
            Host::Ipv6(address) => Some(IpAddr::V6(address).to_canonical()),
            Host::Domain(_) => None,
        };
        let name = url.host_str()?.trim_matches(['[', ']', '.']).to_ascii_lowercase();
        Some(Self { name, address })
    }

    fn is_loopback(&self) -> bool {
        self.address.map_or_else(|| is_localhost(&self.name), is_this_machine)
    }
}

impl NoProxyEntry {
    /// Parses an entry. Returns `None` for entries that clients interpret in different ways.
    fn parse(entry: &str) -> Option<Self> {
        let is_plain = |byte: u8| byte.is_ascii_alphanumeric() || b".-_*:[]/".contains(&byte);
        if entry.len() > MAX_ENTRY_BYTES || !entry.bytes().all(is_plain) {
            return None;
        }
        let entry = entry.to_ascii_lowercase();
        if entry.contains('/') {
            // Some clients treat a network of all addresses like `*`.
            return entry.parse::<IpNet>().ok().filter(|network| network.prefix_len() > 0).map(Self::Network);
        }
        let host = without_port(&entry);
        let suffix = host.trim_start_matches(['*', '.']).trim_matches(['[', ']']).trim_end_matches('.');
        if suffix.is_empty() || suffix.contains('*') {
            return None;
        }
        let address = suffix.parse().ok().or_else(|| match Host::parse(suffix) {
            Ok(Host::Ipv4(address)) => Some(IpAddr::V4(address)),
            _ => None,
        });
        let address = address.map(|address: IpAddr| address.to_canonical());
        Some(Self::Host(RegistryHost { name: suffix.to_owned(), address }))
    }

    /// Checks whether any client could match the entry against `registry`. Some clients match any suffix of the name, with or
    /// without a leading dot, and some compare addresses as text.
    fn may_match(&self, registry: &RegistryHost) -> bool {
        let matches = match self {
            Self::Network(network) => registry.address.is_some_and(|address| network.contains(&address)),
            Self::Host(host) => {
                (host.address.is_some() && host.address == registry.address) || registry.name.ends_with(host.name.as_str())
            }
        };
        matches || (registry.is_loopback() && self.is_loopback())
    }

    fn is_loopback(&self) -> bool {
        match self {
            Self::Network(network) => {
                let of_this_machine = [IpAddr::V4(Ipv4Addr::LOCALHOST), IpAddr::V6(Ipv6Addr::LOCALHOST)];
                of_this_machine.iter().any(|address| network.contains(address)) || is_this_machine(network.addr())
            }
            Self::Host(RegistryHost { name, address }) => {
                let is_suffix = |known: &&str| known.trim_matches(['[', ']']).ends_with(name.as_str());
                address.is_some_and(is_this_machine) || is_localhost(name) || LOOPBACK.iter().any(is_suffix)
            }
        }
    }
}

/// Returns an entry without its port. An IPv6 address without brackets has none.
fn without_port(entry: &str) -> &str {
    let Some((host, port)) = entry.rsplit_once(':') else { return entry };
    let has_port = port.bytes().all(|byte| byte.is_ascii_digit()) && (!host.contains(':') || host.ends_with(']'));
    if has_port { host } else { entry }
}

fn is_localhost(name: &str) -> bool {
    name == "localhost" || name.ends_with(".localhost")
}

/// Checks whether an address reaches this machine itself, which includes the unspecified addresses.
fn is_this_machine(address: IpAddr) -> bool {
    let address = address.to_canonical();
    address.is_loopback() || address.is_unspecified()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn value(registries: &[&str], entries: &[&str]) -> String {
        let registries: Vec<Url> = registries.iter().map(|url| Url::parse(url).unwrap()).collect();
        no_proxy(&registries, entries.iter().map(|entry| (*entry).to_owned()))
    }

    const ALL_LOOPBACK: &str = "localhost,.localhost,127.0.0.1,::1,[::1]";

    #[test]
    fn loopback_is_direct_unless_a_registry_is_on_it() {
        assert_eq!(value(&["https://registry.example/"], &[]), ALL_LOOPBACK);
        for registry in [
            "http://127.0.0.1:4000/",
            "http://localhost:4873/",
            "http://npm.localhost/",
            "http://[::1]:4000/",
            "http://[::ffff:127.0.0.1]/",
            "http://127.1/",
            "http://0.0.0.0:4873/",
        ] {
            assert_eq!(value(&["https://registry.example/", registry], &[]), NOWHERE, "{registry}");
        }
        assert_eq!(value(&["http://localhost/"], &["internal.example", "localhost"]), "internal.example");
    }

    #[test]
    fn entries_that_match_no_registry_are_kept() {
        let kept =
            ["internal.example", ".svc.example", "*.corp.example", "db.example:5432", "10.0.0.0/8", "192.168.1.7", "fd00::/8"];
        assert_eq!(value(&["https://registry.example/"], &kept), format!("{ALL_LOOPBACK},{}", kept.join(",")));
    }

    #[test]
    fn entries_that_may_match_a_registry_are_dropped() {
        let registries = ["https://npm.registry.example:8443/npm/", "http://10.1.2.3:8081/", "http://[fd00::5]/"];
        for entry in [
            "*",
            "*.*",
            "**",
            ".",
            "npm.registry.example",
            "NPM.REGISTRY.EXAMPLE",
            "npm.registry.example.",
            "npm.registry.example:8443",
            "npm.registry.example:1",
            ".registry.example",
            "registry.example",
            "*registry.example",
            "*istry.example",
            "example",
            "e",
            ".example:8443",
            "n*.registry.example",
            "10.1.2.3",
            "10.1.2.3:8081",
            "*.2.3",
            "2.3",
            "3",
            "0xa.1.2.3",
            "167838211",
            "10.1.515",
            "10.0.0.0/8",
            "10.1.2.3/32",
            "0.0.0.0/0",
            "::/0",
            "fd00::/8",
            "fd00::5",
            "[fd00::5]",
            "[fd00::5]:80",
            "[fd00:0:0::5]",
            "::ffff:10.1.2.3",
            "10.0.0.0/x",
            "http://npm.registry.example",
            "<local>",
            "user@npm.registry.example",
            "npm%2eregistry.example",
            "r\u{e9}gistry.example",
        ] {
            assert_eq!(value(&registries, &[entry]), ALL_LOOPBACK, "{entry}");
        }
    }

    #[test]
    fn loopback_entries_are_dropped_for_a_loopback_registry() {
        for registry in ["http://127.0.0.1:4000/", "http://localhost:4000/", "http://[::1]:4000/"] {
            for entry in [
                "localhost",
                "localhost:4000",
                ".localhost",
                "a.localhost",
                "127.0.0.1",
                "127.0.0.2",
                "127.0.0.0/8",
                "0.0.0.0",
                "0",
                "127.1",
                "2130706433",
                "1",
                "0.1",
                "host",
                "::1",
                "[::1]:4000",
                "::/1",
                "::ffff:7f00:1",
                "::",
            ] {
                assert_eq!(value(&[registry], &[entry]), NOWHERE, "{registry} {entry}");
            }
        }
    }

    #[test]
    fn entries_of_project_files_are_ignored() {
        let line = |path: &str, value: &str| NpmrcLine {
            key: "noproxy".to_owned(),
            value: value.to_owned(),
            origin: SettingOrigin::File(path.into()),
        };
        let lines = [
            line("/home/ada/app/.npmrc", "evil.example"),
            line("/home/ada/.npmrc", "a.example, b.example"),
            line("/etc/npmrc", "c"),
        ];
        let variables = [("NO_PROXY", "D.example d2.example"), ("Npm_Config_NoProxy", "e"), ("HTTP_PROXY", "f")];
        let variables = variables.map(|(name, value)| (OsString::from(name), OsString::from(value)));
        let found = entries(&variables, &lines, Path::new("/home/ada/app"), Some(Path::new("/home/ada")));
        assert_eq!(found, ["d.example", "d2.example", "e", "a.example", "b.example", "c"]);
    }
}
