//! An untrusted project's `.npmrc`: all registries are valid addresses, and no output contains a secret.
//!
//! An input is the text of a file. A token is appended, which must never be printed.

use std::error::Error;
use std::fmt::Write as _;
use std::path::Path;

use coldframe::upstream::npmrc::discover_in;
use coldframe::upstream::{Credentials, NpmConfig, NpmEnvironment, NpmrcError, SettingOrigin};
use url::Url;

const SECRET: &str = "s3cr3tC4nary";

/// Panics if an address is invalid, or if the token is printed or sent to another host.
pub fn holds(input: &[u8]) {
    let text = format!("{}\n//registry.example/:_authToken={SECRET}\n", String::from_utf8_lossy(input));
    let output = output(&text);
    assert!(!output.contains(SECRET), "the output contains the token: {output}");
    assert_eq!(output, self::output(&text));
    let Ok(found) = read(&text) else { return };
    let registries = found.scoped.iter().map(|(_, url, origin)| (url, origin)).chain([(&found.default.0, &found.default.1)]);
    for (url, origin) in registries {
        assert!(matches!(url.scheme(), "http" | "https") && url.host_str().is_some() && url.path().ends_with('/'), "{url}");
        assert!(!is_self(url) && *origin != SettingOrigin::Setting(String::new()), "{url}");
    }
    assert!(found.scoped.iter().all(|(scope, ..)| scope.starts_with('@')), "{:?}", found.scoped);
    let secret = Credentials::bearer(SECRET).ok();
    let credentials_for =
        |to: &str| found.credentials(&Url::parse(to).expect("a URL")).ok().flatten().map(|(credentials, _)| credentials);
    for other in ["https://other.example/", "https://registry.example:8443/", "https://registry.example.other.example/"] {
        assert!(credentials_for(other).is_none() || credentials_for(other) != secret, "the token goes to {other}");
    }
    let rules = found.credential_rules();
    // For URLs below entries with credentials, the rules agree with npm's walk up the path.
    let named = text.lines().filter_map(|line| line.split_once("//")?.1.rsplit_once(':').map(|(level, _)| level));
    for level in named.chain(["registry.example", "registry.example/deep/er"]) {
        let Ok(url) = Url::parse(&format!("https://{level}/x/")) else { continue };
        let is_plain = !url.path().contains(['%', ';', '\\']);
        if let (true, Ok(walked)) = (is_plain && url.username().is_empty() && url.password().is_none(), found.credentials(&url)) {
            assert_eq!(rules.for_url(&url).cloned(), walked.map(|(credentials, _)| credentials), "{url}");
        }
    }
    if !text.contains(['[', '"', '\'']) && text.matches("registry.example").count() == 1 {
        assert_eq!(credentials_for("https://registry.example/deep/er"), secret);
    }
}

/// Returns everything that is printed about a file.
fn output(text: &str) -> String {
    let mut out = String::new();
    let found = match read(text) {
        Ok(found) => found,
        Err(error) => return chain(&error),
    };
    // Writing to a `String` cannot fail.
    let _ = write!(out, "{found:?}");
    out.push_str(&found.default_registry().map_or_else(|error| chain(&error), |registry| format!("{registry:?}")));
    out.push_str(&found.routes().map_or_else(|error| chain(&error), |registries| format!("{registries:?}")));
    out.push_str(&found.proxies(&environment()).map_or_else(|error| chain(&error), |proxies| format!("{proxies:?}")));
    out
}

fn chain(error: &dyn Error) -> String {
    let source = error.source().map(chain).unwrap_or_default();
    format!("{error} {error:?} {source}")
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
