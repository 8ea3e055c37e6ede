//! Parsers for client settings, as far as `doctor` needs them: keys with values and lines, and npm's name for each key.

/// A key with its path, the value, and the line number.
pub(crate) type ConfigLine = (String, String, usize);

/// Reads the format of yarn 1: key, space, value, each optionally in quotes.
pub(crate) fn read_yarnrc(text: &str) -> Vec<ConfigLine> {
    let lines = text.lines().enumerate().filter(|(_, line)| !line.trim_start().starts_with('#'));
    let pair = |(at, line): (usize, &str)| {
        let line = line.trim().trim_start_matches("--");
        let (key, value) = match line.strip_prefix('"') {
            Some(rest) => rest.split_once('"')?,
            None => line.split_once(char::is_whitespace)?,
        };
        Some((key.to_owned(), bare(value), at + 1))
    };
    lines.filter_map(pair).collect()
}

/// Reads YAML as far as settings use it: nested maps by indentation, and scalars. List elements get the key of the list.
pub(crate) fn read_yaml(text: &str) -> Vec<ConfigLine> {
    let mut path: Vec<(usize, String)> = Vec::new();
    let mut found = Vec::new();
    for (at, line) in text.lines().enumerate() {
        let content = line.trim_start();
        if content.is_empty() || content.starts_with('#') || content.starts_with("---") {
            continue;
        }
        let indent = line.len() - content.len();
        path.retain(|(depth, _)| *depth < indent || (*depth == indent && content.starts_with("- ")));
        let value = if let Some(element) = content.strip_prefix("- ") {
            element
        } else {
            let split = content.split_once(": ").or_else(|| content.strip_suffix(':').map(|key| (key, "")));
            let Some((key, value)) = split else { continue };
            path.push((indent, bare(key)));
            value
        };
        let key = path.iter().map(|(_, key)| key.as_str()).collect::<Vec<_>>().join(".");
        found.push((key, bare(value), at + 1));
    }
    found
}

/// Reads the scalar values of TOML, by path.
pub(crate) fn read_toml(text: &str) -> Vec<ConfigLine> {
    fn walk(path: &str, value: &toml::Value, found: &mut Vec<ConfigLine>) {
        match value {
            toml::Value::Table(table) => {
                for (key, value) in table {
                    walk(&if path.is_empty() { key.clone() } else { format!("{path}.{key}") }, value, found);
                }
            }
            toml::Value::String(text) => found.push((path.to_owned(), text.clone(), 1)),
            other => found.push((path.to_owned(), other.to_string(), 1)),
        }
    }
    let mut found = Vec::new();
    if let Ok(table) = text.parse::<toml::Table>() {
        walk("", &toml::Value::Table(table), &mut found);
    }
    found
}

/// Removes quotes, or a trailing comment of an unquoted value.
fn bare(text: &str) -> String {
    let text = text.trim();
    for quote in ['"', '\''] {
        if let Some((inside, _)) = text.strip_prefix(quote).and_then(|rest| rest.split_once(quote)) {
            return inside.to_owned();
        }
    }
    text.split(" #").next().unwrap_or_default().trim().to_owned()
}

/// Checks for npm's key of a scope's registry, such as `@acme:registry`.
pub(crate) fn is_scoped_registry(key: &str) -> bool {
    key.starts_with('@') && key.ends_with(":registry")
}

pub(crate) fn npm_key_from_yarn(key: &str) -> Option<String> {
    let known = matches!(key, "registry" | "https-proxy" | "proxy" | "cafile" | "strict-ssl");
    (known || is_scoped_registry(key)).then(|| key.to_owned())
}

pub(crate) fn key_of_berry(key: &str) -> Option<String> {
    if let Some(scope) = key.strip_prefix("npmScopes.").and_then(|rest| rest.strip_suffix(".npmRegistryServer")) {
        return Some(format!("@{}:registry", scope.trim_start_matches('@')));
    }
    let key = match key {
        "npmRegistryServer" => "registry",
        "httpsProxy" => "https-proxy",
        "httpProxy" => "proxy",
        "httpsCaFilePath" => "cafile",
        "enableStrictSsl" => "strict-ssl",
        "npmMinimalAgeGate" => "age",
        _ => return None,
    };
    Some(key.to_owned())
}

pub(crate) fn key_of_bun(key: &str) -> Option<String> {
    if let Some(scope) = key.strip_prefix("install.scopes.") {
        let (scope, rest) = scope.split_once('.').unwrap_or((scope, "url"));
        return (rest == "url").then(|| format!("@{}:registry", scope.trim_start_matches('@')));
    }
    let key = match key {
        "install.registry" | "install.registry.url" => "registry",
        "install.cafile" => "cafile",
        "install.minimumReleaseAge" => "age",
        _ => return None,
    };
    Some(key.to_owned())
}

pub(crate) fn key_of_pnpm(key: &str) -> Option<String> {
    match key.strip_prefix("registries.") {
        Some("default") => Some("registry".to_owned()),
        Some(scope) if scope.starts_with('@') => Some(format!("{scope}:registry")),
        Some(_) => None,
        None => (key == "minimumReleaseAge").then(|| "age".to_owned()),
    }
}

/// Maps a key of `config.yaml`, which uses the workspace names and npm's names in camel case.
pub(crate) fn key_of_pnpm_config(key: &str) -> Option<String> {
    let of_npm = match key {
        "registry" | "cafile" | "proxy" => key,
        "httpProxy" => "proxy",
        "httpsProxy" => "https-proxy",
        "noProxy" => "noproxy",
        "strictSsl" => "strict-ssl",
        _ => return key_of_pnpm(key),
    };
    Some(of_npm.to_owned())
}

/// Reads npm's format: key, `=`, value.
pub(crate) fn read_ini(text: &str) -> Vec<ConfigLine> {
    let lines = text.lines().enumerate().filter(|(_, line)| !line.trim_start().starts_with(['#', ';', '[']));
    lines.filter_map(|(at, line)| line.split_once('=').map(|(key, value)| (bare(key), bare(value), at + 1))).collect()
}

pub(crate) fn key_of_ini(key: &str) -> Option<String> {
    match key {
        "minimum-release-age" => Some("age".to_owned()),
        "noproxy" | "no-proxy" => Some(key.to_owned()),
        _ => npm_key_from_yarn(key),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn keys(lines: Vec<ConfigLine>, key: fn(&str) -> Option<String>) -> Vec<String> {
        lines.into_iter().filter_map(|(name, value, line)| Some(format!("{line}: {} = {value}", key(&name)?))).collect()
    }

    #[test]
    fn each_format_yields_keys_and_lines() {
        let yarnrc = "# mine\nregistry \"https://a.example/\"\n\"@acme:registry\" https://b.example\nlastUpdateCheck 1\n";
        assert_eq!(
            keys(read_yarnrc(yarnrc), npm_key_from_yarn),
            ["2: registry = https://a.example/", "3: @acme:registry = https://b.example"]
        );
        let berry = "nodeLinker: node-modules\nnpmRegistryServer: 'https://a.example' # ours\nnpmScopes:\n  acme:\n    npmRegistryServer: \"https://b.example\"\n    npmAuthToken: s3cret\nnpmMinimalAgeGate: 0\n";
        assert_eq!(
            keys(read_yaml(berry), key_of_berry),
            ["2: registry = https://a.example", "5: @acme:registry = https://b.example", "7: age = 0"]
        );
        let pnpm = "packages:\n  - 'a/*'\nregistries:\n  default: https://a.example/\n  '@acme': https://b.example/\nminimumReleaseAge: 1440\n";
        assert_eq!(
            keys(read_yaml(pnpm), key_of_pnpm),
            ["4: registry = https://a.example/", "5: @acme:registry = https://b.example/", "6: age = 1440"]
        );
        let bun = "[install]\nregistry = { url = \"https://a.example\", token = \"s3cret\" }\n[install.scopes]\nacme = \"https://b.example\"\n";
        assert_eq!(
            keys(read_toml(bun), key_of_bun),
            ["1: registry = https://a.example", "1: @acme:registry = https://b.example"]
        );
    }
}
