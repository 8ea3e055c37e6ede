//! Settings that are valid and less safe than they could be, for `config check`.

use url::Url;

use crate::config::parse;
use crate::config::raw::RawConfig;
use crate::config::settings::SettingKey;
use crate::net::is_loopback;
use crate::text::excerpt;

/// The longest value that a warning repeats, in characters.
const MAX_VALUE_CHARS: usize = 100;

/// Returns one line per weakness, in no more than a few dozen lines.
pub(crate) fn weaknesses(raw: &RawConfig) -> Vec<String> {
    let values = Values(raw);
    let mut found = Vec::new();
    let exposed = values.texts(SettingKey::Listen).find(|text| is_exposed(text));
    if let Some(address) = exposed.map(|text| excerpt(&text, MAX_VALUE_CHARS)) {
        if !values.is_true(SettingKey::RequireAuth) {
            found.push(format!("`listen`: all machines that reach {address} can use it; set `require-auth`"));
        }
        let is_public_https = values.texts(SettingKey::PublicUrl).any(|url| url.starts_with("https:"));
        if !values.has(SettingKey::TlsCert) && !is_public_https {
            found.push(format!("`listen`: tokens and packages pass {address} unencrypted; set `tls-cert` and `tls-key`"));
        }
    }
    let gateway = [SettingKey::Gateway, SettingKey::Transparent].into_iter().flat_map(|key| values.texts(key));
    if let Some(address) = gateway.into_iter().find(|text| is_exposed(text)).map(|text| excerpt(&text, MAX_VALUE_CHARS))
        && !values.is_true(SettingKey::RequireAuth)
        && !values.has(SettingKey::GatewayUsers)
    {
        found.push(format!("`gateway`: all machines that reach {address} can use it; set `gateway-users` or `require-auth`"));
    }
    for key in [SettingKey::Upstream, SettingKey::Feed] {
        for url in values.texts(key).filter(|text| is_plain_http(text)) {
            let name = key.setting().name;
            found.push(format!("`{name}`: {} can be read and changed on the way; use `https`", shown_url(&url)));
        }
    }
    if !values.has(SettingKey::Feed) {
        found.push("`feed`: none, so malware that others know is not refused by name".to_owned());
    }
    if values.is_true(SettingKey::UnsafeServeWithoutFeed) {
        found.push("`unsafe-serve-without-feed`: malware is served until the feeds have been read".to_owned());
    }
    if values.texts(SettingKey::MinReleaseAge).any(|text| parse::duration(&text).is_ok_and(|age| age.is_zero())) {
        found.push("`min-release-age`: new releases are served at once".to_owned());
    }
    if values.texts(SettingKey::Policy).any(|text| text == "observe") {
        found.push(
            "`policy`: `observe` records what it would refuse, and refuses only versions that feeds or people deny".to_owned(),
        );
    }
    for network in values.texts(SettingKey::TrustedProxy).filter(|text| text.ends_with("/0")) {
        let network = excerpt(&network, MAX_VALUE_CHARS);
        found.push(format!("`trusted-proxy`: with {network}, every client can state any address as its own"));
    }
    found
}

struct Values<'a>(&'a RawConfig);

impl Values<'_> {
    fn texts(&self, key: SettingKey) -> impl Iterator<Item = String> {
        self.0.values(key).into_iter().map(|value| value.text)
    }

    fn is_true(&self, key: SettingKey) -> bool {
        self.texts(key).any(|text| text == "true")
    }

    fn has(&self, key: SettingKey) -> bool {
        self.texts(key).next().is_some()
    }
}

/// Checks whether a listener (`0.0.0.0:4873`, `http://0.0.0.0:4873=strict`) accepts connections of other machines.
fn is_exposed(listener: &str) -> bool {
    parse::listener(listener).is_ok_and(|listener| !listener.socket.ip().is_loopback())
}

fn is_plain_http(text: &str) -> bool {
    let url = Url::parse(text).ok().filter(|url| url.scheme() == "http");
    url.is_some_and(|url| url.host().is_some_and(|host| !is_loopback(&host)))
}

/// Returns a URL without what may be secret in it.
fn shown_url(text: &str) -> String {
    let host = Url::parse(text).ok().and_then(|url| url.host_str().map(str::to_owned));
    excerpt(&host.unwrap_or_default(), MAX_VALUE_CHARS)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn found(pairs: &[(SettingKey, &str)]) -> String {
        weaknesses(&RawConfig::from_flags(pairs)).join("\n")
    }

    #[test]
    fn safe_settings_have_no_weakness() {
        let safe = [
            (SettingKey::Listen, "127.0.0.1:4873"),
            (SettingKey::Listen, "[::1]:4873=strict"),
            (SettingKey::Upstream, "https://registry.example/"),
            (SettingKey::Feed, "http://127.0.0.1:8080/all.zip"),
            (SettingKey::MinReleaseAge, "10h"),
        ];
        assert_eq!(found(&safe), "");
    }

    #[test]
    fn each_weakness_is_named() {
        let all = found(&[
            (SettingKey::Listen, "0.0.0.0:4873=strict"),
            (SettingKey::Gateway, "[::]:8080"),
            (SettingKey::Upstream, "http://me:secret@registry.example/"),
            (SettingKey::MinReleaseAge, "0s"),
            (SettingKey::Policy, "observe"),
            (SettingKey::TrustedProxy, "0.0.0.0/0"),
            (SettingKey::UnsafeServeWithoutFeed, "true"),
        ]);
        for name in [
            "require-auth",
            "unencrypted",
            "gateway-users",
            "`upstream`",
            "`feed`",
            "unsafe",
            "at once",
            "observe",
            "any address",
        ] {
            assert!(all.contains(name), "{name}: {all}");
        }
        assert!(!all.contains("secret"), "{all}");
        let guarded = [(SettingKey::Listen, "10.0.0.7:4873"), (SettingKey::RequireAuth, "true")];
        let public = (SettingKey::PublicUrl, "https://npm.example/");
        assert!(found(&guarded).contains("unencrypted") && !found(&[&guarded[..], &[public]].concat()).contains("`listen`"));
    }
}
