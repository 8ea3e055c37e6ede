//! Configuration files of clients: registry and minimum age, in each client's format. Units, names and versions were tested
//! with the real clients (`tests/clients`).

use std::time::Duration;

use clap::ValueEnum;
use serde_json::Value;
use url::Url;

use crate::net::is_loopback;
use crate::server::admin::ClientPolicy;
use crate::text::push_line;
use crate::units::timestamp;

const DAY: u64 = 24 * 3600;

const MAX_DEPENDABOT_DAYS: u64 = 90;

const WIDTH: usize = 118;

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum ConfigTarget {
    /// `.npmrc`
    Npm,
    /// `pnpm-workspace.yaml`, pnpm 10.16 and later
    Pnpm,
    /// `.yarnrc`, yarn 1
    Yarn,
    /// `.yarnrc.yml`, yarn 4
    YarnBerry,
    /// `bunfig.toml`
    Bun,
    /// `.npmrc`, as deno reads it
    Deno,
    /// `renovate.json5`
    Renovate,
    /// `.github/dependabot.yml`
    Dependabot,
}

pub(crate) struct ClientConfigInput {
    /// Where clients reach Coldframe.
    pub url: Url,
    /// The policy that clients must agree with.
    pub terms: ClientPolicy,
    /// Where the policy comes from, for comments.
    pub source: String,
    /// Which registries receive clients' credentials, if there are several; for comments.
    pub credentials: Option<String>,
}

/// Renders the configuration of a client, with comments. The result is a valid file.
pub(crate) fn render(client: ConfigTarget, input: &ClientConfigInput) -> String {
    let mut file = ConfigWriter { text: String::new(), mark: if client == ConfigTarget::Renovate { "//" } else { "#" } };
    match client {
        ConfigTarget::Npm => npm(&mut file, input),
        ConfigTarget::Pnpm => pnpm(&mut file, input),
        ConfigTarget::Yarn => yarn(&mut file, input),
        ConfigTarget::YarnBerry => yarn_berry(&mut file, input),
        ConfigTarget::Bun => bun(&mut file, input),
        ConfigTarget::Deno => deno(&mut file, input),
        ConfigTarget::Renovate => renovate(&mut file, input),
        ConfigTarget::Dependabot => dependabot(&mut file, input),
    }
    file.text
}

fn npm(file: &mut ConfigWriter, input: &ClientConfigInput) {
    file.comment("`.npmrc` of the project or of your home directory: npm through coldframe.");
    file.line(&format!("registry={}", input.url));
    let unit = "days. npm supports it since 11.10. npm 10 ignores it silently, and no version checks what a lockfile contains";
    file.age(input, unit, |file| {
        file.line(&format!("min-release-age={}", input.rounded_up(DAY)));
        for glob in input.exclusions() {
            file.line(&format!("min-release-age-exclude[]={glob}"));
        }
    });
    file.scopes("a line `@scope:registry=...` in any .npmrc");
    file.credentials(input, &format!("`{}:_authToken=${{NPM_TOKEN}}` in the .npmrc of your home", input.in_npmrc()));
    file.authority(input, "`cafile=/path/to/ca.pem`");
    file.comment(
        "npm 12 rejects a lockfile that names a third registry (EALLOWREMOTE). With `replace-registry-host=always` it \
            asks here for those packages too.",
    );
}

fn pnpm(file: &mut ConfigWriter, input: &ClientConfigInput) {
    file.comment(
        "`pnpm-workspace.yaml` at the root of the project: pnpm 10.16 and later through coldframe. \
        Older versions read `registry=` in .npmrc.",
    );
    file.line("registries:");
    file.line(&format!("  default: {}", quoted(input.url.as_str())));
    file.age(input, "minutes. pnpm 11 and later also apply it to lockfiles", |file| {
        file.line(&format!("minimumReleaseAge: {}", input.rounded_up(60)));
        file.list("minimumReleaseAgeExclude", &input.exclusions());
    });
    file.comment(
        "`pnpm add` of a new version adds it to `minimumReleaseAgeExclude` in this file; coldframe still holds that version.",
    );
    file.scopes("`\"@scope\": ...` under `registries`, or a line `@scope:registry=...` in any .npmrc,");
    file.credentials(input, &format!("`{}:_authToken=${{NPM_TOKEN}}` in the .npmrc of your home", input.in_npmrc()));
    file.authority(input, "`cafile=/path/to/ca.pem` in .npmrc (pnpm 12: `NODE_EXTRA_CA_CERTS`)");
}

fn yarn(file: &mut ConfigWriter, input: &ClientConfigInput) {
    file.comment("`.yarnrc` of the project or of your home directory: yarn 1 through coldframe.");
    file.line(&format!("registry {}", quoted(input.url.as_str())));
    file.comment(&format!("yarn 1 has no minimum age. Coldframe's is {} ({}).", input.age(), input.source));
    file.comment(
        "yarn 1 downloads from the hosts in yarn.lock, regardless of this line. `coldframe check` lists such entries. \
            Recreate the lockfile, or send yarn through the gateway.",
    );
    file.scopes("a line `\"@scope:registry\" ...`");
    file.credentials(input, &format!("`{}:_authToken=...` in the .npmrc of your home", input.in_npmrc()));
    file.authority(input, "`cafile \"/path/to/ca.pem\"`");
}

fn yarn_berry(file: &mut ConfigWriter, input: &ClientConfigInput) {
    file.comment(
        "`.yarnrc.yml` of the project or of your home directory: yarn 4 through coldframe. yarn 4 does not read .npmrc or \
        HTTPS_PROXY.",
    );
    file.line(&format!("npmRegistryServer: {}", quoted(input.url.as_str())));
    if input.url.scheme() == "http" {
        file.line("unsafeHttpWhitelist:");
        file.line(&format!("  - {}", quoted(input.url.host_str().unwrap_or_default())));
    }
    file.age(input, "minutes: yarn before 4.12 reads \"3d\" as 3 minutes. `--immutable` does not check it", |file| {
        file.line(&format!("npmMinimalAgeGate: {}", input.rounded_up(60)));
        file.list("npmPreapprovedPackages", &input.exclusions());
    });
    file.scopes("`npmScopes` with an `npmRegistryServer`");
    let credentials = format!("`npmRegistries: {{ {}: {{ npmAuthToken: \"${{NPM_TOKEN}}\" }} }}`", quoted(&input.in_npmrc()));
    file.credentials(input, &credentials);
    file.authority(input, "`httpsCaFilePath: \"/path/to/ca.pem\"`");
}

fn bun(file: &mut ConfigWriter, input: &ClientConfigInput) {
    file.comment("`bunfig.toml` of the project, or `.bunfig.toml` of your home directory: bun through coldframe.");
    file.line("[install]");
    file.line(&format!("registry = {}", quoted(input.url.as_str())));
    file.age(input, "seconds. bun supports it since 1.3", |file| {
        file.line(&format!("minimumReleaseAge = {}", input.rounded_up(1)));
        let (globs, names): (Vec<_>, Vec<_>) =
            input.exclusions().into_iter().partition(|glob| glob.contains(['*', '?', '[', '{', '!']));
        if !names.is_empty() {
            file.line(&format!("minimumReleaseAgeExcludes = {}", Value::from(names)));
        }
        if !globs.is_empty() {
            file.comment(&format!("bun accepts only names here, not globs. These packages wait too: {}", globs.join(", ")));
        }
    });
    file.scopes("a scope under `[install.scopes]`, or a line `@scope:registry=...` in any .npmrc,");
    file.credentials(input, &format!("`registry = {{ url = {}, token = \"$NPM_TOKEN\" }}`", quoted(input.url.as_str())));
    file.authority(input, "`cafile = \"/path/to/ca.pem\"`");
}

fn deno(file: &mut ConfigWriter, input: &ClientConfigInput) {
    file.comment("`.npmrc` of the project or of your home directory: npm packages of deno through coldframe.");
    file.line(&format!("registry={}", input.url));
    file.age(input, "days; `minimumDependencyAge` in deno.json counts minutes. `install --frozen` does not check it", |file| {
        file.line(&format!("min-release-age={}", input.rounded_up(DAY)));
        let exclusions = input.exclusions();
        if !exclusions.is_empty() {
            let exclude: Vec<_> = exclusions.iter().map(|glob| format!("npm:{glob}")).collect();
            let setting = serde_json::json!({ "age": input.rounded_up(60), "exclude": exclude });
            file.comment(&format!("Set exclusions in deno.json, with the age: \"minimumDependencyAge\": {setting}"));
        }
    });
    file.scopes("a line `@scope:registry=...` in any .npmrc");
    file.credentials(input, &format!("`{}:_authToken=${{NPM_TOKEN}}` in the .npmrc of your home", input.in_npmrc()));
    file.authority(input, "the environment: `DENO_CERT=/path/to/ca.pem`");
}

fn renovate(file: &mut ConfigWriter, input: &ClientConfigInput) {
    file.comment(
        "`renovate.json5`: renovate asks coldframe for versions. The client itself writes the lockfile and needs its own \
        configuration (`coldframe client-config npm`).",
    );
    file.reach(input);
    file.lines(&["{", "  \"packageRules\": [", "    {", "      \"matchDatasources\": [\"npm\"],"]);
    file.line(&format!("      \"registryUrls\": [{}],", quoted(input.url.as_str())));
    file.age(input, "days. Fixes of vulnerabilities are proposed at once, but coldframe still holds them", |file| {
        file.line(&format!("      \"minimumReleaseAge\": \"{} days\",", input.rounded_up(DAY)));
    });
    file.line("    },");
    let exclusions = input.exclusions();
    if !exclusions.is_empty() && !input.terms.age().is_zero() {
        file.lines(&["    {", "      \"matchDatasources\": [\"npm\"],"]);
        file.line(&format!("      \"matchPackageNames\": {},", Value::from(exclusions)));
        file.lines(&["      \"minimumReleaseAge\": \"0 days\",", "    },"]);
    }
    file.lines(&["  ],", "}"]);
    file.scopes("a rule for a scope with other `registryUrls`");
    file.credentials(input, &format!("`hostRules` for {}", input.url.host_str().unwrap_or_default()));
    file.authority(input, "the environment of a self-hosted renovate: `NODE_EXTRA_CA_CERTS=/path/to/ca.pem`");
}

fn dependabot(file: &mut ConfigWriter, input: &ClientConfigInput) {
    file.comment("`.github/dependabot.yml`: dependabot asks coldframe for versions.");
    file.reach(input);
    file.lines(&["version: 2", "registries:", "  coldframe:", "    type: npm-registry"]);
    file.line(&format!("    url: {}", quoted(input.url.as_str())));
    file.line("    replaces-base: true");
    file.comment("If the registry needs authentication: `token: ${{ secrets.NPM_TOKEN }}` next to `url`.");
    if let Some(credentials) = &input.credentials {
        file.comment(credentials);
    }
    file.lines(&["updates:", "  - package-ecosystem: npm", "    directory: \"/\""]);
    file.lines(&["    schedule:", "      interval: daily", "    registries:", "      - coldframe"]);
    let days = input.rounded_up(DAY);
    file.age(input, "days. Security updates are proposed at once, but coldframe still holds them", |file| {
        if days > MAX_DEPENDABOT_DAYS {
            file.comment(&format!(
                "Dependabot waits at most {MAX_DEPENDABOT_DAYS} days. After that only coldframe holds releases."
            ));
        }
        file.line("    cooldown:");
        file.line(&format!("      default-days: {}", days.min(MAX_DEPENDABOT_DAYS)));
        file.list("      exclude", &input.exclusions());
    });
    file.scopes("another registry with a `scope`");
}

impl ClientConfigInput {
    fn rounded_up(&self, unit: u64) -> u64 {
        let age = self.terms.age();
        (age.as_secs() + u64::from(age.subsec_nanos() > 0)).div_ceil(unit)
    }

    fn age(&self) -> String {
        timestamp::format_duration(self.terms.age())
    }

    /// Returns the globs without a minimum age that every format can represent.
    fn exclusions(&self) -> Vec<String> {
        let plain = |letter: char| letter.is_ascii_alphanumeric() || "@/-_.~*?!{},[]".contains(letter);
        self.terms.exclude.iter().filter(|glob| glob.chars().all(plain)).cloned().collect()
    }

    /// Returns the address as `.npmrc` writes it for credentials: `//127.0.0.1:4873/`.
    fn in_npmrc(&self) -> String {
        let text = self.url.as_str();
        text.split_once(':').map_or(text, |(_, rest)| rest).to_owned()
    }
}

struct ConfigWriter {
    text: String,
    /// The start of a comment line.
    mark: &'static str,
}

impl ConfigWriter {
    fn line(&mut self, line: &str) {
        push_line!(self.text, "{line}");
    }

    fn lines(&mut self, lines: &[&str]) {
        for line in lines {
            self.line(line);
        }
    }

    /// Appends a YAML list, indented below its key. Without values, appends nothing.
    fn list(&mut self, key: &str, values: &[String]) {
        if values.is_empty() {
            return;
        }
        let indent = " ".repeat(key.len() - key.trim_start().len());
        self.line(&format!("{key}:"));
        for value in values {
            self.line(&format!("{indent}  - {}", quoted(value)));
        }
    }

    /// Appends a comment, wrapped at [`WIDTH`].
    fn comment(&mut self, text: &str) {
        let mut line = self.mark.to_owned();
        for word in text.split_whitespace() {
            if line.len() + 1 + word.len() > WIDTH && line.len() > self.mark.len() {
                self.line(&line);
                self.mark.clone_into(&mut line);
            }
            line.push(' ');
            line.push_str(word);
        }
        self.line(&line);
    }

    /// Appends the age with its source, and the lines that set it. Without a minimum age, the client keeps its own setting.
    fn age(&mut self, input: &ClientConfigInput, unit: &str, set: impl FnOnce(&mut Self)) {
        if input.terms.age() == Duration::ZERO {
            return self.comment(&format!("Coldframe sets no minimum age ({}). The client keeps its own setting.", input.source));
        }
        self.comment(&format!("{} ({}), in {unit}.", input.age(), input.source));
        set(self);
    }

    fn scopes(&mut self, what: &str) {
        self.comment(&format!(
            "Scopes: {what} makes that scope bypass coldframe. Remove it: coldframe asks the scope's registry itself, \
                configured by the .npmrc of its own machine."
        ));
    }

    fn credentials(&mut self, input: &ClientConfigInput, how: &str) {
        self.comment(&format!(
            "Private packages: local clients use coldframe's credentials. Other clients send their own: {how}."
        ));
        if let Some(credentials) = &input.credentials {
            self.comment(credentials);
        }
    }

    fn authority(&mut self, input: &ClientConfigInput, how: &str) {
        if input.url.scheme() == "https" {
            self.comment(&format!("If {} uses a certificate of a private CA: {how}.", input.url.host_str().unwrap_or_default()));
        }
    }

    fn reach(&mut self, input: &ClientConfigInput) {
        if input.url.host().is_some_and(|host| is_loopback(&host)) {
            self.comment(&format!("{} is reachable from this machine only; set another address with `--url`.", input.url));
        }
    }
}

/// Quotes text. JSON strings are also valid in TOML and YAML.
fn quoted(text: &str) -> String {
    Value::from(text).to_string()
}

#[cfg(test)]
mod tests {
    use expect_test::expect;
    use granit_parser::{Event, Parser};

    use super::*;

    fn input(url: &str, seconds: u64, exclude: &[&str]) -> ClientConfigInput {
        let exclude = exclude.iter().map(|glob| (*glob).to_owned()).collect();
        ClientConfigInput {
            url: Url::parse(url).unwrap(),
            terms: ClientPolicy { minimum_release_age_seconds: seconds, exclude },
            source: "the policy at http://127.0.0.1:4873/".to_owned(),
            credentials: None,
        }
    }

    /// Parses the file, or checks its lines if the format is line-based.
    fn check(client: ConfigTarget, text: &str) {
        let plain = || text.lines().filter(|line| !line.starts_with('#'));
        match client {
            ConfigTarget::Npm | ConfigTarget::Deno => {
                assert!(
                    plain().all(|line| line.split_once('=').is_some_and(|(key, value)| !key.is_empty() && !value.is_empty()))
                );
            }
            ConfigTarget::Yarn => {
                for line in plain() {
                    let (_, value) = line.split_once(' ').unwrap();
                    assert!(serde_json::from_str::<String>(value).is_ok(), "{line}");
                }
            }
            ConfigTarget::Bun => {
                let table: toml::Table = toml::from_str(text).unwrap();
                assert!(table["install"]["registry"].as_str().is_some_and(|url| url.starts_with("http")), "{text}");
            }
            ConfigTarget::Pnpm | ConfigTarget::YarnBerry | ConfigTarget::Dependabot => {
                let events: Result<Vec<_>, _> = Parser::new_from_str(text).collect();
                let scalars = |(event, _): &(Event<'_>, _)| matches!(event, Event::Scalar(..));
                assert!(events.unwrap().iter().any(scalars), "{text}");
            }
            ConfigTarget::Renovate => {
                let read = jsonc_parser::parse_to_value(text, &jsonc_parser::ParseOptions::default()).unwrap();
                assert!(read.is_some(), "{text}");
            }
        }
    }

    #[test]
    fn every_file_is_valid_for_all_inputs() {
        let urls = ["http://127.0.0.1:4873/", "https://npm.example/registry/", "http://[::1]:4873/"];
        for client in ConfigTarget::value_variants() {
            for url in urls {
                for seconds in [0, 1, 72 * 3600, 72 * 3600 + 1, 400 * DAY] {
                    for exclude in [&[][..], &["@acme/*", "left-pad", "{a,b}-*", "bad\n\"glob"]] {
                        let text = render(*client, &input(url, seconds, exclude));
                        check(*client, &text);
                        assert!(text.contains(url.trim_end_matches('/')) && !text.contains("bad"), "{text}");
                        assert!(text.lines().all(|line| line.len() <= 200), "{text}");
                    }
                }
            }
        }
    }

    #[test]
    fn comments_name_registries_that_receive_credentials() {
        for client in ConfigTarget::value_variants() {
            let input = ClientConfigInput {
                credentials: Some("They go to https://npm.example/ alone.".to_owned()),
                ..input("http://a/", 60, &[])
            };
            let text = render(*client, &input);
            assert!(text.contains("They go to https://npm.example/ alone."), "{text}");
            check(*client, &text);
        }
    }

    #[test]
    fn client_ages_are_rounded_up() {
        let ages = |seconds| [DAY, 60, 1].map(|unit| input("http://a/", seconds, &[]).rounded_up(unit) * unit);
        for seconds in [1, 59, 61, 3599, 72 * 3600, 72 * 3600 + 1] {
            assert!(ages(seconds).iter().all(|age| *age >= seconds), "{seconds}");
        }
        assert_eq!(ages(72 * 3600), [72 * 3600; 3]);
    }

    #[test]
    fn files_of_all_clients() {
        let all: Vec<_> = ConfigTarget::value_variants()
            .iter()
            .map(|client| render(*client, &input("http://127.0.0.1:4873/", 72 * 3600, &["@acme/*"])))
            .collect();
        expect![[r#"
            # `.npmrc` of the project or of your home directory: npm through coldframe.
            registry=http://127.0.0.1:4873/
            # 72 h (the policy at http://127.0.0.1:4873/), in days. npm supports it since 11.10. npm 10 ignores it silently, and
            # no version checks what a lockfile contains.
            min-release-age=3
            min-release-age-exclude[]=@acme/*
            # Scopes: a line `@scope:registry=...` in any .npmrc makes that scope bypass coldframe. Remove it: coldframe asks the
            # scope's registry itself, configured by the .npmrc of its own machine.
            # Private packages: local clients use coldframe's credentials. Other clients send their own:
            # `//127.0.0.1:4873/:_authToken=${NPM_TOKEN}` in the .npmrc of your home.
            # npm 12 rejects a lockfile that names a third registry (EALLOWREMOTE). With `replace-registry-host=always` it asks
            # here for those packages too.

            # `pnpm-workspace.yaml` at the root of the project: pnpm 10.16 and later through coldframe. Older versions read
            # `registry=` in .npmrc.
            registries:
              default: "http://127.0.0.1:4873/"
            # 72 h (the policy at http://127.0.0.1:4873/), in minutes. pnpm 11 and later also apply it to lockfiles.
            minimumReleaseAge: 4320
            minimumReleaseAgeExclude:
              - "@acme/*"
            # `pnpm add` of a new version adds it to `minimumReleaseAgeExclude` in this file; coldframe still holds that version.
            # Scopes: `"@scope": ...` under `registries`, or a line `@scope:registry=...` in any .npmrc, makes that scope bypass
            # coldframe. Remove it: coldframe asks the scope's registry itself, configured by the .npmrc of its own machine.
            # Private packages: local clients use coldframe's credentials. Other clients send their own:
            # `//127.0.0.1:4873/:_authToken=${NPM_TOKEN}` in the .npmrc of your home.

            # `.yarnrc` of the project or of your home directory: yarn 1 through coldframe.
            registry "http://127.0.0.1:4873/"
            # yarn 1 has no minimum age. Coldframe's is 72 h (the policy at http://127.0.0.1:4873/).
            # yarn 1 downloads from the hosts in yarn.lock, regardless of this line. `coldframe check` lists such entries.
            # Recreate the lockfile, or send yarn through the gateway.
            # Scopes: a line `"@scope:registry" ...` makes that scope bypass coldframe. Remove it: coldframe asks the scope's
            # registry itself, configured by the .npmrc of its own machine.
            # Private packages: local clients use coldframe's credentials. Other clients send their own:
            # `//127.0.0.1:4873/:_authToken=...` in the .npmrc of your home.

            # `.yarnrc.yml` of the project or of your home directory: yarn 4 through coldframe. yarn 4 does not read .npmrc or
            # HTTPS_PROXY.
            npmRegistryServer: "http://127.0.0.1:4873/"
            unsafeHttpWhitelist:
              - "127.0.0.1"
            # 72 h (the policy at http://127.0.0.1:4873/), in minutes: yarn before 4.12 reads "3d" as 3 minutes. `--immutable`
            # does not check it.
            npmMinimalAgeGate: 4320
            npmPreapprovedPackages:
              - "@acme/*"
            # Scopes: `npmScopes` with an `npmRegistryServer` makes that scope bypass coldframe. Remove it: coldframe asks the
            # scope's registry itself, configured by the .npmrc of its own machine.
            # Private packages: local clients use coldframe's credentials. Other clients send their own: `npmRegistries: {
            # "//127.0.0.1:4873/": { npmAuthToken: "${NPM_TOKEN}" } }`.

            # `bunfig.toml` of the project, or `.bunfig.toml` of your home directory: bun through coldframe.
            [install]
            registry = "http://127.0.0.1:4873/"
            # 72 h (the policy at http://127.0.0.1:4873/), in seconds. bun supports it since 1.3.
            minimumReleaseAge = 259200
            # bun accepts only names here, not globs. These packages wait too: @acme/*
            # Scopes: a scope under `[install.scopes]`, or a line `@scope:registry=...` in any .npmrc, makes that scope bypass
            # coldframe. Remove it: coldframe asks the scope's registry itself, configured by the .npmrc of its own machine.
            # Private packages: local clients use coldframe's credentials. Other clients send their own: `registry = { url =
            # "http://127.0.0.1:4873/", token = "$NPM_TOKEN" }`.

            # `.npmrc` of the project or of your home directory: npm packages of deno through coldframe.
            registry=http://127.0.0.1:4873/
            # 72 h (the policy at http://127.0.0.1:4873/), in days; `minimumDependencyAge` in deno.json counts minutes. `install
            # --frozen` does not check it.
            min-release-age=3
            # Set exclusions in deno.json, with the age: "minimumDependencyAge": {"age":4320,"exclude":["npm:@acme/*"]}
            # Scopes: a line `@scope:registry=...` in any .npmrc makes that scope bypass coldframe. Remove it: coldframe asks the
            # scope's registry itself, configured by the .npmrc of its own machine.
            # Private packages: local clients use coldframe's credentials. Other clients send their own:
            # `//127.0.0.1:4873/:_authToken=${NPM_TOKEN}` in the .npmrc of your home.

            // `renovate.json5`: renovate asks coldframe for versions. The client itself writes the lockfile and needs its own
            // configuration (`coldframe client-config npm`).
            // http://127.0.0.1:4873/ is reachable from this machine only; set another address with `--url`.
            {
              "packageRules": [
                {
                  "matchDatasources": ["npm"],
                  "registryUrls": ["http://127.0.0.1:4873/"],
            // 72 h (the policy at http://127.0.0.1:4873/), in days. Fixes of vulnerabilities are proposed at once, but coldframe
            // still holds them.
                  "minimumReleaseAge": "3 days",
                },
                {
                  "matchDatasources": ["npm"],
                  "matchPackageNames": ["@acme/*"],
                  "minimumReleaseAge": "0 days",
                },
              ],
            }
            // Scopes: a rule for a scope with other `registryUrls` makes that scope bypass coldframe. Remove it: coldframe asks
            // the scope's registry itself, configured by the .npmrc of its own machine.
            // Private packages: local clients use coldframe's credentials. Other clients send their own: `hostRules` for
            // 127.0.0.1.

            # `.github/dependabot.yml`: dependabot asks coldframe for versions.
            # http://127.0.0.1:4873/ is reachable from this machine only; set another address with `--url`.
            version: 2
            registries:
              coldframe:
                type: npm-registry
                url: "http://127.0.0.1:4873/"
                replaces-base: true
            # If the registry needs authentication: `token: ${{ secrets.NPM_TOKEN }}` next to `url`.
            updates:
              - package-ecosystem: npm
                directory: "/"
                schedule:
                  interval: daily
                registries:
                  - coldframe
            # 72 h (the policy at http://127.0.0.1:4873/), in days. Security updates are proposed at once, but coldframe still
            # holds them.
                cooldown:
                  default-days: 3
                  exclude:
                    - "@acme/*"
            # Scopes: another registry with a `scope` makes that scope bypass coldframe. Remove it: coldframe asks the scope's
            # registry itself, configured by the .npmrc of its own machine.
        "#]]
        .assert_eq(&all.join("\n"));
    }
}
