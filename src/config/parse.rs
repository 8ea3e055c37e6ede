//! From text to values: each setting is parsed once, here, and every mistake is noted. Refuses to know what the values
//! are used for.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::time::Duration;

use ipnet::IpNet;
use rustls_pki_types::DnsName;
use url::Url;

use crate::config::mistake::{Diagnostic, Origin};
use crate::config::raw::{RawConfig, RawValue};
use crate::config::settings::SettingKey;
use crate::config::{DefaultsFrom, platform_dirs};
use crate::diagnostics::blot_credentials;
use crate::net::HostPattern;
use crate::policy::PackageGlob;
use crate::units::quantity;
use crate::upstream::TimeMode;

/// Reads settings and gathers what is wrong with them.
pub(crate) struct SettingsReader<'a> {
    written: &'a RawConfig,
    mistakes: &'a mut Vec<Diagnostic>,
}

impl<'a> SettingsReader<'a> {
    /// A reader of `written` that notes mistakes in `mistakes`.
    pub(crate) fn of(written: &'a RawConfig, mistakes: &'a mut Vec<Diagnostic>) -> Self {
        Self { written, mistakes }
    }

    /// The value of a setting; `None` when there is none, or a wrong one, which is noted.
    pub(crate) fn one<T>(&mut self, key: SettingKey, parse: impl Fn(&str) -> Result<T, String>) -> Option<T> {
        let values = self.written.values(key);
        if let [_, again, ..] = &*values {
            self.mistakes.push(Diagnostic::new(
                again.origin.clone(),
                format!("given twice: `{}`", key.setting().name),
                "it once",
            ));
        }
        values.first().and_then(|value| self.parse(key, value, &parse))
    }

    /// The values of a setting that may be given several times, without the wrong ones, which are noted.
    pub(crate) fn several<T>(&mut self, key: SettingKey, parse: impl Fn(&str) -> Result<T, String>) -> Vec<T> {
        let values = self.written.values(key);
        values.iter().filter_map(|value| self.parse(key, value, &parse)).collect()
    }

    /// The values of a setting as they are written.
    pub(crate) fn values(&self, key: SettingKey) -> Vec<RawValue> {
        self.written.values(key)
    }

    /// Notes that the values of `key`, each right by itself, are not right together or in this place.
    pub(crate) fn object(&mut self, key: SettingKey, problem: impl Into<String>, allowed: impl Into<String>) {
        self.mistakes.push(Diagnostic::new(self.origin(key), problem, allowed));
    }

    /// Notes a mistake that was found elsewhere.
    pub(crate) fn note(&mut self, mistake: Diagnostic) {
        self.mistakes.push(mistake);
    }

    /// Who wrote a setting.
    pub(crate) fn origin(&self, key: SettingKey) -> Origin {
        self.written.values(key).pop().map_or(Origin::Default, |value| value.origin)
    }

    /// Whether a setting has no value at all.
    pub(crate) fn is_absent(&self, key: SettingKey) -> bool {
        self.written.values(key).is_empty()
    }

    /// The data directory: what is written, else the platform's.
    pub(super) fn data_dir(&mut self, machine: &DefaultsFrom<'_>) -> Option<PathBuf> {
        let platform = match machine {
            DefaultsFrom::Here(surroundings) => platform_dirs::data_directory(|name| surroundings.variable(name)),
            DefaultsFrom::Apart | DefaultsFrom::Unknown => None,
        };
        let known = platform.is_some() || matches!(machine, DefaultsFrom::Unknown);
        if self.is_absent(SettingKey::DataDir) && !known {
            self.object(SettingKey::DataDir, "no place for data is known here", "`data-dir` with a path");
        }
        self.one(SettingKey::DataDir, path).or(platform)
    }

    fn parse<T>(&mut self, key: SettingKey, value: &RawValue, parse: impl Fn(&str) -> Result<T, String>) -> Option<T> {
        let setting = key.setting();
        let parsed = parse(&value.text).map_err(|flaw| {
            let text = blot_credentials(&value.text).escape_debug().to_string();
            let problem = format!("`{}` {flaw}: `{text}`", setting.name);
            self.mistakes.push(Diagnostic::new(value.origin.clone(), problem, setting.kind.allowed()));
        });
        parsed.ok()
    }
}

/// An address to listen on. `localhost` is 127.0.0.1, as most would expect.
pub(crate) fn address(text: &str) -> Result<SocketAddr, String> {
    let text = text.trim();
    if let Some(port) = text.strip_prefix("localhost:") {
        let port = port.parse().map_err(|_| "is no address".to_owned())?;
        return Ok(SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), port));
    }
    match text.parse::<IpAddr>() {
        Ok(_) => Err("lacks a port".to_owned()),
        Err(_) => text.parse().map_err(|_| "is no address".to_owned()),
    }
}

/// An address to listen on, and the policy of whoever comes there: `127.0.0.1:4874=strict`.
pub(crate) fn listener(text: &str) -> Result<(SocketAddr, Option<String>), String> {
    match text.split_once('=') {
        None => Ok((address(text)?, None)),
        Some((_, "")) => Err("names no policy".to_owned()),
        Some((bare, policy)) => Ok((address(bare)?, Some(policy.trim().to_owned()))),
    }
}

/// An `http` or `https` URL with a host and without query or fragment; its path ends in a slash.
pub(crate) fn url(text: &str) -> Result<Url, String> {
    let mut url = Url::parse(text.trim()).map_err(|_| "is no URL".to_owned())?;
    if !matches!(url.scheme(), "http" | "https") || url.host_str().is_none_or(str::is_empty) {
        return Err("is no `http` or `https` URL".to_owned());
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

/// A URL that clients are told, which must carry no credentials.
pub(crate) fn public_url(text: &str) -> Result<Url, String> {
    let url = url(text)?;
    let bare = url.username().is_empty() && url.password().is_none();
    if bare { Ok(url) } else { Err("carries credentials".to_owned()) }
}

/// A glob over package names.
pub(crate) fn package_glob(text: &str) -> Result<PackageGlob, String> {
    PackageGlob::parse(text).map_err(|wrong| format!("is no glob ({wrong})"))
}

/// A span of time.
pub(crate) fn duration(text: &str) -> Result<Duration, String> {
    quantity::duration(text).map_err(|flaw| flaw.to_string())
}

/// A span of time that is not nothing.
pub(crate) fn some_duration(text: &str) -> Result<Duration, String> {
    duration(text).and_then(|duration| if duration.is_zero() { Err("cannot be nothing".to_owned()) } else { Ok(duration) })
}

/// A number of bytes of at least `least`.
pub(crate) fn size_from(least: u64) -> impl Fn(&str) -> Result<u64, String> {
    move |text| {
        let bytes = quantity::size(text).map_err(|flaw| flaw.to_string())?;
        if bytes < least { Err(format!("must be at least {least} bytes")) } else { Ok(bytes) }
    }
}

/// A number of bytes of at least `least` and at most `most`.
pub(crate) fn size_within(least: u64, most: u64) -> impl Fn(&str) -> Result<usize, String> {
    move |text| {
        let bytes = size_from(least)(text)?;
        usize::try_from(bytes).ok().filter(|_| bytes <= most).ok_or_else(|| format!("must be at most {most} bytes"))
    }
}

/// A whole number of at least one and at most `most`.
pub(crate) fn count_to(most: usize) -> impl Fn(&str) -> Result<usize, String> {
    move |text| at_most(count(text)?, most)
}

/// A whole number up to this one.
pub(crate) fn number_to(most: usize) -> impl Fn(&str) -> Result<usize, String> {
    move |text| at_most(number(text)?, most)
}

/// A whole number of at least one.
pub(crate) fn count(text: &str) -> Result<usize, String> {
    match number(text)? {
        0 => Err("cannot be nothing".to_owned()),
        count => Ok(count),
    }
}

fn number(text: &str) -> Result<usize, String> {
    text.trim().parse().map_err(|_| "is no whole number".to_owned())
}

fn at_most(number: usize, most: usize) -> Result<usize, String> {
    if number > most { Err(format!("must be at most {most}")) } else { Ok(number) }
}

/// `true` or `false`.
pub(crate) fn truth(text: &str) -> Result<bool, String> {
    text.trim().parse().map_err(|_| "is neither".to_owned())
}

/// A path; it need not exist.
pub(crate) fn path(text: &str) -> Result<PathBuf, String> {
    if text.is_empty() { Err("is empty".to_owned()) } else { Ok(PathBuf::from(text)) }
}

/// A host or a pattern of hosts.
pub(crate) fn host_glob(text: &str) -> Result<HostPattern, String> {
    text.parse().map_err(|_| "is no host".to_owned())
}

/// A host name: no address, no port, no pattern.
pub(crate) fn host_name(text: &str) -> Result<DnsName<'static>, String> {
    let name = DnsName::try_from(text.trim()).map_err(|_| "is no host name".to_owned())?;
    Ok(name.to_lowercase_owned())
}

/// A network, or one address.
pub(crate) fn network(text: &str) -> Result<IpNet, String> {
    let text = text.trim();
    let address = text.parse::<IpAddr>().map(IpNet::from);
    address.or_else(|_| text.parse().map(|net: IpNet| net.trunc())).map_err(|_| "is no network".to_owned())
}

/// How publish times count, and the scope whose registry it is for, if one is named.
pub(crate) fn time_mode(text: &str) -> Result<(Option<String>, TimeMode), String> {
    let (scope, mode) = match text.split_once('=') {
        Some((scope, mode)) => (Some(scope.trim()), mode),
        None => (None, text),
    };
    let mode = match mode.trim() {
        "checked" => TimeMode::Checked,
        "first-seen" => TimeMode::FirstSeen,
        "trust" => TimeMode::Trust,
        _ => return Err("is not known".to_owned()),
    };
    if scope.is_some_and(|scope| !scope.starts_with('@') || scope.len() < 2 || scope.contains('/')) {
        return Err("names no scope".to_owned());
    }
    Ok((scope.map(str::to_owned), mode))
}

/// One of a few words.
pub(crate) fn word(words: &'static [&'static str]) -> impl Fn(&str) -> Result<&'static str, String> {
    move |text| words.iter().find(|word| **word == text.trim()).copied().ok_or_else(|| "is not known".to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_time_mode_may_be_for_one_scope() {
        assert_eq!(time_mode("checked"), Ok((None, TimeMode::Checked)));
        assert_eq!(time_mode(" @acme = first-seen "), Ok((Some("@acme".to_owned()), TimeMode::FirstSeen)));
        assert_eq!(time_mode("@acme=trust"), Ok((Some("@acme".to_owned()), TimeMode::Trust)));
        for wrong in ["", "trusted", "acme=trust", "@=trust", "@acme/ui=trust", "@acme="] {
            assert!(time_mode(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn an_address_has_an_ip_and_a_port() {
        assert_eq!(address("localhost:4873"), Ok(SocketAddr::from(([127, 0, 0, 1], 4873))));
        assert!(address("[::1]:0").is_ok() && address("0.0.0.0:80").is_ok());
        assert_eq!(address("127.0.0.1"), Err("lacks a port".to_owned()));
        for wrong in ["4873", ":4873", "npm.example:80", "127.0.0.1:99999", "http://127.0.0.1:1", ""] {
            assert_eq!(address(wrong), Err("is no address".to_owned()), "{wrong}");
        }
    }

    #[test]
    fn a_url_is_http_and_ends_in_a_slash() {
        assert_eq!(url("https://registry.example/npm").unwrap().as_str(), "https://registry.example/npm/");
        for wrong in [
            "registry.example",
            "ftp://registry.example/",
            "https://",
            "https://registry.example/?a",
            "https://registry.example/#a",
            "",
        ] {
            assert!(url(wrong).is_err(), "{wrong}");
        }
        assert!(public_url("https://me@npm.example/").is_err());
    }

    #[test]
    fn one_address_is_a_network_of_one() {
        assert_eq!(network("10.0.0.7").unwrap().to_string(), "10.0.0.7/32");
        assert_eq!(network("10.1.2.3/8").unwrap().to_string(), "10.0.0.0/8");
        assert!(network("10.0.0.0/33").is_err());
    }
}
