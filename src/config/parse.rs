//! Parses setting values. Each setting is parsed once, here, and every error is noted.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::ops::RangeInclusive;
use std::path::PathBuf;
use std::time::Duration;

use ipnet::IpNet;
use rustls_pki_types::DnsName;
use url::Url;

use crate::config::environment::DefaultsFrom;
use crate::config::raw::{RawConfig, RawValue};
use crate::config::settings::SettingKey;
use crate::config::value_kind::ValueKind;
use crate::diagnostics::{Diagnostic, Origin};
use crate::net::{HostPattern, Scheme};
use crate::policy::PackageGlob;
use crate::units::quantity;
use crate::upstream::TimeMode;

/// Reads settings and collects their errors.
pub(crate) struct SettingsReader<'a> {
    pub(crate) raw: &'a RawConfig,
    pub(crate) errors: &'a mut Vec<Diagnostic>,
}

impl SettingsReader<'_> {
    /// Parses the value of a setting that has a default. After an error, returns a placeholder in a result that is not used.
    pub(crate) fn one<T: Default>(&mut self, key: SettingKey, parse: impl Fn(&str) -> Result<T, String>) -> T {
        self.optional(key, parse).unwrap_or_default()
    }

    /// Parses the value of a setting. Returns `None` if there is none, or after it has added an error.
    pub(crate) fn optional<T>(&mut self, key: SettingKey, parse: impl Fn(&str) -> Result<T, String>) -> Option<T> {
        let values = self.raw.values(key);
        if let [_, again, ..] = &*values {
            let problem = format!("given twice: `{}`", key.setting().name);
            self.errors.push(Diagnostic::new(again.origin.clone(), problem, "one value"));
        }
        values.first().and_then(|value| self.parse(key, value, &parse))
    }

    /// Parses the values of a setting that accepts several. Invalid values are added to the errors and left out.
    pub(crate) fn several<T>(&mut self, key: SettingKey, parse: impl Fn(&str) -> Result<T, String>) -> Vec<T> {
        let values = self.raw.values(key);
        values.iter().filter_map(|value| self.parse(key, value, &parse)).collect()
    }

    /// Parses the value of a setting with a fixed set of words.
    pub(crate) fn word(&mut self, key: SettingKey) -> &'static str {
        let ValueKind::Word(words) = key.setting().kind else { return "" };
        let known = |text: &str| words.iter().copied().find(|word| *word == text.trim());
        self.one(key, |text| known(text).ok_or_else(|| "has an unknown value".to_owned()))
    }

    /// Adds an error about values of `key` that are valid on their own but not together or in this context.
    pub(crate) fn reject(&mut self, key: SettingKey, problem: impl Into<String>, allowed: impl Into<String>) {
        self.errors.push(Diagnostic::new(self.origin(key), problem, allowed));
    }

    pub(crate) fn origin(&self, key: SettingKey) -> Origin {
        self.raw.values(key).pop().map_or(Origin::Default, |value| value.origin)
    }

    pub(crate) fn is_absent(&self, key: SettingKey) -> bool {
        self.raw.values(key).is_empty()
    }

    /// Returns the configured data directory, or else the platform's.
    pub(crate) fn data_dir(&mut self, machine: &DefaultsFrom<'_>) -> Option<PathBuf> {
        let platform = match machine {
            DefaultsFrom::ThisMachine(environment) => environment.data_directory(),
            DefaultsFrom::Nothing | DefaultsFrom::AnotherMachine => None,
        };
        let is_known = platform.is_some() || matches!(machine, DefaultsFrom::AnotherMachine);
        if self.is_absent(SettingKey::DataDir) && !is_known {
            self.reject(SettingKey::DataDir, "no data directory is known", "`data-dir` with a path");
        }
        self.optional(SettingKey::DataDir, path).or(platform)
    }

    fn parse<T>(&mut self, key: SettingKey, value: &RawValue, parse: impl Fn(&str) -> Result<T, String>) -> Option<T> {
        let setting = key.setting();
        let add = |flaw: String| self.errors.push(value.flawed(setting.name, &flaw, setting.kind.allowed()));
        parse(&value.text).map_err(add).ok()
    }
}

/// Parses an address to listen on. `localhost` means 127.0.0.1.
pub(crate) fn address(text: &str) -> Result<SocketAddr, String> {
    let text = text.trim();
    if let Some(port) = text.strip_prefix("localhost:") {
        let port = port.parse().map_err(|_| "is not an address".to_owned())?;
        return Ok(SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), port));
    }
    match text.parse::<IpAddr>() {
        Ok(_) => Err("lacks a port".to_owned()),
        Err(_) => text.parse().map_err(|_| "is not an address".to_owned()),
    }
}

/// An address to listen on as it is written: with its scheme and the policy of its clients, if it names them.
pub(crate) struct ListenerText {
    pub(crate) scheme: Option<Scheme>,
    pub(crate) socket: SocketAddr,
    pub(crate) policy: Option<String>,
}

/// Parses an address to listen on, such as `127.0.0.1:4873`, `127.0.0.1:4874=strict` or `http://127.0.0.1:4873`.
pub(crate) fn listener(text: &str) -> Result<ListenerText, String> {
    let (written, policy) = match text.split_once('=') {
        None => (text, None),
        Some((_, "")) => return Err("names no policy".to_owned()),
        Some((written, policy)) => (written, Some(policy.trim().to_owned())),
    };
    let scheme = Scheme::ALL.iter().copied().find_map(|scheme| {
        let bare = written.trim().strip_prefix(scheme.as_str())?.strip_prefix("://")?;
        Some((scheme, bare.strip_suffix('/').unwrap_or(bare)))
    });
    let (scheme, bare) = scheme.map_or((None, written), |(scheme, bare)| (Some(scheme), bare));
    Ok(ListenerText { scheme, socket: address(bare)?, policy })
}

/// Parses an `http` or `https` URL with a host and without query or fragment. Adds a trailing slash to its path.
pub(crate) fn url(text: &str) -> Result<Url, String> {
    let mut url = Url::parse(text.trim()).map_err(|_| "is not a URL".to_owned())?;
    if !matches!(url.scheme(), "http" | "https") || url.host_str().is_none_or(str::is_empty) {
        return Err("is not an `http` or `https` URL".to_owned());
    }
    if url.query().is_some() || url.fragment().is_some() {
        return Err("has a query or a fragment".to_owned());
    }
    if !url.path().ends_with('/') {
        let path = format!("{}/", url.path());
        url.set_path(&path);
    }
    Ok(url)
}

/// Parses a URL that must not contain credentials, such as one that clients see.
pub(crate) fn public_url(text: &str) -> Result<Url, String> {
    let url = url(text)?;
    if url.username().is_empty() && url.password().is_none() { Ok(url) } else { Err("contains credentials".to_owned()) }
}

pub(crate) fn package_glob(text: &str) -> Result<PackageGlob, String> {
    PackageGlob::parse(text).map_err(|error| format!("is not a glob ({error})"))
}

pub(crate) fn duration(text: &str) -> Result<Duration, String> {
    Ok(quantity::parse_duration(text)?)
}

pub(crate) fn nonzero_duration(text: &str) -> Result<Duration, String> {
    let duration = duration(text)?;
    if duration.is_zero() { Err("cannot be zero".to_owned()) } else { Ok(duration) }
}

/// Parses a size in bytes within `range`.
pub(crate) fn size<T: TryFrom<u64>>(range: RangeInclusive<u64>) -> impl Fn(&str) -> Result<T, String> {
    move |text| {
        let bytes = quantity::parse_size(text)?;
        if bytes < *range.start() {
            return Err(format!("must be at least {} bytes", range.start()));
        }
        let fitting = T::try_from(bytes).ok().filter(|_| bytes <= *range.end());
        fitting.ok_or_else(|| format!("must be at most {} bytes", range.end()))
    }
}

/// Parses a whole number within `range`, which starts at 0 or 1.
pub(crate) fn number(range: RangeInclusive<usize>) -> impl Fn(&str) -> Result<usize, String> {
    move |text| match text.trim().parse() {
        Ok(number) if number < *range.start() => Err("cannot be zero".to_owned()),
        Ok(number) if number > *range.end() => Err(format!("must be at most {}", range.end())),
        Ok(number) => Ok(number),
        Err(_) => Err("is not a whole number".to_owned()),
    }
}

pub(crate) fn boolean(text: &str) -> Result<bool, String> {
    text.trim().parse().map_err(|_| "is not a boolean".to_owned())
}

/// Parses a path, which need not exist.
pub(crate) fn path(text: &str) -> Result<PathBuf, String> {
    if text.is_empty() { Err("is empty".to_owned()) } else { Ok(PathBuf::from(text)) }
}

pub(crate) fn host_glob(text: &str) -> Result<HostPattern, String> {
    text.parse().map_err(|_| "is not a host".to_owned())
}

/// Parses a host name: no address, no port, no pattern.
pub(crate) fn host_name(text: &str) -> Result<DnsName<'static>, String> {
    DnsName::try_from(text.trim()).map(|name| name.to_lowercase_owned()).map_err(|_| "is not a host name".to_owned())
}

/// Parses a network; a single address is a network of one.
pub(crate) fn network(text: &str) -> Result<IpNet, String> {
    let text = text.trim();
    let address = text.parse::<IpAddr>().map(IpNet::from);
    address.or_else(|_| text.parse().map(|net: IpNet| net.trunc())).map_err(|_| "is not a network".to_owned())
}

/// Parses a time mode, and the scope whose registry it is for, if one precedes it.
pub(crate) fn time_mode(text: &str) -> Result<(Option<String>, TimeMode), String> {
    let (scope, mode) = match text.split_once('=') {
        Some((scope, mode)) => (Some(scope.trim()), mode),
        None => (None, text),
    };
    let mode = match mode.trim() {
        "checked" => TimeMode::Checked,
        "first-seen" => TimeMode::FirstSeen,
        "trust" => TimeMode::Trust,
        _ => return Err("has an unknown value".to_owned()),
    };
    if scope.is_some_and(|scope| !scope.starts_with('@') || scope.len() < 2 || scope.contains('/')) {
        return Err("names no scope".to_owned());
    }
    Ok((scope.map(str::to_owned), mode))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn time_mode_may_be_limited_to_one_scope() {
        assert_eq!(time_mode("checked"), Ok((None, TimeMode::Checked)));
        assert_eq!(time_mode(" @acme = first-seen "), Ok((Some("@acme".to_owned()), TimeMode::FirstSeen)));
        assert_eq!(time_mode("@acme=trust"), Ok((Some("@acme".to_owned()), TimeMode::Trust)));
        for input in ["", "trusted", "acme=trust", "@=trust", "@acme/ui=trust", "@acme="] {
            assert!(time_mode(input).is_err(), "{input}");
        }
    }

    #[test]
    fn address_needs_ip_and_port() {
        assert_eq!(address("localhost:4873"), Ok(SocketAddr::from(([127, 0, 0, 1], 4873))));
        assert!(address("[::1]:0").is_ok() && address("0.0.0.0:80").is_ok());
        assert_eq!(address("127.0.0.1"), Err("lacks a port".to_owned()));
        for input in ["4873", ":4873", "npm.example:80", "127.0.0.1:99999", "http://127.0.0.1:1", ""] {
            assert_eq!(address(input), Err("is not an address".to_owned()), "{input}");
        }
    }

    #[test]
    fn url_is_http_and_gets_a_trailing_slash() {
        assert_eq!(url("https://registry.example/npm").unwrap().as_str(), "https://registry.example/npm/");
        for input in [
            "registry.example",
            "ftp://registry.example/",
            "https://",
            "https://registry.example/?a",
            "https://registry.example/#a",
            "",
        ] {
            assert!(url(input).is_err(), "{input}");
        }
        assert!(public_url("https://me@npm.example/").is_err());
    }

    #[test]
    fn single_address_is_a_network_of_one() {
        assert_eq!(network("10.0.0.7").unwrap().to_string(), "10.0.0.7/32");
        assert_eq!(network("10.1.2.3/8").unwrap().to_string(), "10.0.0.0/8");
        assert!(network("10.0.0.0/33").is_err());
    }
}
