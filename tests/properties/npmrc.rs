//! The `.npmrc` of a stranger's project: what it names are addresses, and nothing that is told of it holds a secret.
//!
//! An input is the text of a file. A token is written behind it, which must stay unseen whatever stands before.

use std::error::Error;
use std::fmt::Write as _;
use std::path::Path;

use coldframe::upstream::npmrc::discover_in;
use coldframe::upstream::{Credentials, NpmConfig, NpmEnvironment, NpmrcError, SettingOrigin};
use url::Url;

const SECRET: &str = "s3cr3tC4nary";

/// Panics when an address is none, or the token is told or lent to another host.
pub fn holds(input: &[u8]) {
    let text = format!("{}\n//registry.example/:_authToken={SECRET}\n", String::from_utf8_lossy(input));
    let told = told(&text);
    assert!(!told.contains(SECRET), "the token is told: {told}");
    assert_eq!(told, self::told(&text));
    let Ok(found) = read(&text) else { return };
    let registries = found.scoped.iter().map(|(_, url, origin)| (url, origin)).chain([(&found.default.0, &found.default.1)]);
    for (url, origin) in registries {
        assert!(matches!(url.scheme(), "http" | "https") && url.host_str().is_some() && url.path().ends_with('/'), "{url}");
        assert!(!is_self(url) && *origin != SettingOrigin::Setting(String::new()), "{url}");
    }
    assert!(found.scoped.iter().all(|(scope, ..)| scope.starts_with('@')), "{:?}", found.scoped);
    let secret = Credentials::bearer(SECRET).ok();
    let lent = |to: &str| found.credentials(&Url::parse(to).expect("a URL")).ok().flatten().map(|(credentials, _)| credentials);
    for other in ["https://other.example/", "https://registry.example:8443/", "https://registry.example.other.example/"] {
        assert!(lent(other).is_none() || lent(other) != secret, "the token goes to {other}");
    }
    let rules = found.credential_rules();
    // Below everything that the file has credentials for, what is looked up is what npm's own walk up the path finds.
    let named = text.lines().filter_map(|line| line.split_once("//")?.1.rsplit_once(':').map(|(level, _)| level));
    for level in named.chain(["registry.example", "registry.example/deep/er"]) {
        let Ok(url) = Url::parse(&format!("https://{level}/x/")) else { continue };
        let is_plain = !url.path().contains(['%', ';', '\\']);
        if let (true, Ok(walked)) = (is_plain && url.username().is_empty() && url.password().is_none(), found.credentials(&url)) {
            assert_eq!(rules.for_url(&url).cloned(), walked.map(|(credentials, _)| credentials), "{url}");
        }
    }
    if !text.contains(['[', '"', '\'']) && text.matches("registry.example").count() == 1 {
        assert_eq!(lent("https://registry.example/deep/er"), secret);
    }
}

/// Everything that people get to read of it.
fn told(text: &str) -> String {
    let mut told = String::new();
    let found = match read(text) {
        Ok(found) => found,
        Err(wrong) => return chain(&wrong),
    };
    // Writing to a `String` cannot fail.
    let _ = write!(told, "{found:?}");
    told.push_str(&found.default_registry().map_or_else(|wrong| chain(&wrong), |registry| format!("{registry:?}")));
    told.push_str(&found.scoped_registries().map_or_else(|wrong| chain(&wrong), |registries| format!("{registries:?}")));
    told.push_str(&found.proxies(&environment()).map_or_else(|wrong| chain(&wrong), |proxies| format!("{proxies:?}")));
    told
}

fn chain(wrong: &dyn Error) -> String {
    let source = wrong.source().map(chain).unwrap_or_default();
    format!("{wrong} {wrong:?} {source}")
}

fn read(text: &str) -> Result<NpmConfig, NpmrcError> {
    discover_in(text, Path::new("/project/.npmrc"), &environment(), &is_self)
}

fn is_self(url: &Url) -> bool {
    url.host_str() == Some("self.example")
}

fn environment() -> NpmEnvironment {
    let vars = [("NPM_TOKEN", "harmless"), ("EMPTY", ""), ("npm_config_fetch_retries", "2")];
    let vars = vars.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
    NpmEnvironment { vars, home: Some("/home/me".into()), cwd: "/project".into() }
}
