//! The files of clients, each in its own format: which registry, and from which age on. Units, names and versions are
//! those that were seen with the real clients (`tests/clients`). Refuses to know where the age comes from.

use std::time::Duration;

use serde_json::Value;
use url::{Host, Url};

use crate::cli::client_config::ConfigTarget;
use crate::server::admin::ClientPolicy;
use crate::text::push_line;
use crate::units::timestamp;

const DAY: u64 = 24 * 3600;

/// The most days that dependabot waits.
const MOST_DAYS: u64 = 90;

/// Columns of a comment.
const WIDTH: usize = 118;

/// What a file is made of.
pub(crate) struct ClientConfigInput {
    /// Where clients reach Coldframe.
    pub url: Url,
    /// What clients are to agree with.
    pub terms: ClientPolicy,
    /// Whose terms they are, for people.
    pub source: String,
    /// Which registries clients' own credentials are sent to, where there are several; for people.
    pub credentials: Option<String>,
}

/// The lines for a client, comments included: as they stand, a valid file.
pub(crate) fn written(client: ConfigTarget, means: &ClientConfigInput) -> String {
    let mut file = ConfigWriter { text: String::new(), mark: if client == ConfigTarget::Renovate { "//" } else { "#" } };
    match client {
        ConfigTarget::Npm => npm(&mut file, means),
        ConfigTarget::Pnpm => pnpm(&mut file, means),
        ConfigTarget::Yarn => yarn(&mut file, means),
        ConfigTarget::YarnBerry => yarn_berry(&mut file, means),
        ConfigTarget::Bun => bun(&mut file, means),
        ConfigTarget::Deno => deno(&mut file, means),
        ConfigTarget::Renovate => renovate(&mut file, means),
        ConfigTarget::Dependabot => dependabot(&mut file, means),
    }
    file.text
}

fn npm(file: &mut ConfigWriter, means: &ClientConfigInput) {
    file.comment("`.npmrc` of the project, or of your home: npm through coldframe.");
    file.line(&format!("registry={}", means.url));
    file.age(
        means,
        "days. npm knows it from 11.10 on; npm 10 passes over it in silence, and none looks at what \
        a lockfile holds",
        |file| {
            file.line(&format!("min-release-age={}", means.rounded_up(DAY)));
            for glob in means.exclusions() {
                file.line(&format!("min-release-age-exclude[]={glob}"));
            }
        },
    );
    file.scopes("a line `@scope:registry=...` in any .npmrc");
    file.credentials(means, &format!("`{}:_authToken=${{NPM_TOKEN}}` in the .npmrc of your home", means.in_npmrc()));
    file.authority(means, "`cafile=/path/to/ca.pem`");
    file.comment(
        "npm 12 refuses a lockfile that names a third registry (EALLOWREMOTE): `replace-registry-host=always` \
            has it ask here for those too.",
    );
}

fn pnpm(file: &mut ConfigWriter, means: &ClientConfigInput) {
    file.comment(
        "`pnpm-workspace.yaml` at the root of the project: pnpm 10.16 and later through coldframe. \
        Older ones read `registry=` in .npmrc.",
    );
    file.line("registries:");
    file.line(&format!("  default: {}", quoted(means.url.as_str())));
    file.age(means, "minutes. pnpm 11 and later hold lockfiles to it as well", |file| {
        file.line(&format!("minimumReleaseAge: {}", means.rounded_up(60)));
        file.list("minimumReleaseAgeExclude", &means.exclusions());
    });
    file.comment(
        "`pnpm add` of a young version writes `minimumReleaseAgeExclude` into this file: coldframe \
        holds that version all the same.",
    );
    file.scopes("`\"@scope\": ...` under `registries`, or a line `@scope:registry=...` in any .npmrc,");
    file.credentials(means, &format!("`{}:_authToken=${{NPM_TOKEN}}` in the .npmrc of your home", means.in_npmrc()));
    file.authority(means, "`cafile=/path/to/ca.pem` in .npmrc (pnpm 12: `NODE_EXTRA_CA_CERTS`)");
}

fn yarn(file: &mut ConfigWriter, means: &ClientConfigInput) {
    file.comment("`.yarnrc` of the project, or of your home: yarn 1 through coldframe.");
    file.line(&format!("registry {}", quoted(means.url.as_str())));
    file.comment(&format!("yarn 1 knows no age. Coldframe's is {} ({}).", means.age(), means.source));
    file.comment(
        "A yarn.lock names the host that it was written with, and yarn 1 goes there whatever this line says: \
            `coldframe check` names such entries. Have it written anew, or send yarn through the gateway.",
    );
    file.scopes("a line `\"@scope:registry\" ...`");
    file.credentials(means, &format!("`{}:_authToken=...` in the .npmrc of your home", means.in_npmrc()));
    file.authority(means, "`cafile \"/path/to/ca.pem\"`");
}

fn yarn_berry(file: &mut ConfigWriter, means: &ClientConfigInput) {
    file.comment(
        "`.yarnrc.yml` of the project, or of your home: yarn 4 through coldframe. It reads neither \
        .npmrc nor HTTPS_PROXY.",
    );
    file.line(&format!("npmRegistryServer: {}", quoted(means.url.as_str())));
    if means.url.scheme() == "http" {
        file.line("unsafeHttpWhitelist:");
        file.line(&format!("  - {}", quoted(means.url.host_str().unwrap_or_default())));
    }
    file.age(means, "minutes: before 4.12 yarn took \"3d\" for three of them. `--immutable` does not look at it", |file| {
        file.line(&format!("npmMinimalAgeGate: {}", means.rounded_up(60)));
        file.list("npmPreapprovedPackages", &means.exclusions());
    });
    file.scopes("`npmScopes` with an `npmRegistryServer`");
    file.credentials(
        means,
        &format!("`npmRegistries: {{ {}: {{ npmAuthToken: \"${{NPM_TOKEN}}\" }} }}`", quoted(&means.in_npmrc())),
    );
    file.authority(means, "`httpsCaFilePath: \"/path/to/ca.pem\"`");
}

fn bun(file: &mut ConfigWriter, means: &ClientConfigInput) {
    file.comment("`bunfig.toml` of the project, or `.bunfig.toml` of your home: bun through coldframe.");
    file.line("[install]");
    file.line(&format!("registry = {}", quoted(means.url.as_str())));
    file.age(means, "seconds. bun knows it from 1.3 on", |file| {
        file.line(&format!("minimumReleaseAge = {}", means.rounded_up(1)));
        let (globs, names): (Vec<_>, Vec<_>) =
            means.exclusions().into_iter().partition(|glob| glob.contains(['*', '?', '[', '{', '!']));
        if !names.is_empty() {
            file.line(&format!("minimumReleaseAgeExcludes = {}", Value::from(names)));
        }
        if !globs.is_empty() {
            file.comment(&format!("Here bun wants names, not globs, so that these wait too: {}", globs.join(", ")));
        }
    });
    file.scopes("a scope under `[install.scopes]`, or a line `@scope:registry=...` in any .npmrc,");
    file.credentials(means, &format!("`registry = {{ url = {}, token = \"$NPM_TOKEN\" }}`", quoted(means.url.as_str())));
    file.authority(means, "`cafile = \"/path/to/ca.pem\"`");
}

fn deno(file: &mut ConfigWriter, means: &ClientConfigInput) {
    file.comment("`.npmrc` of the project, or of your home: deno's packages of npm through coldframe.");
    file.line(&format!("registry={}", means.url));
    file.age(
        means,
        "days; `minimumDependencyAge` in deno.json counts minutes. `install --frozen` does not look \
        at it",
        |file| {
            file.line(&format!("min-release-age={}", means.rounded_up(DAY)));
            let exclusions = means.exclusions();
            if !exclusions.is_empty() {
                let exclude: Vec<_> = exclusions.iter().map(|glob| format!("npm:{glob}")).collect();
                let told = serde_json::json!({ "age": means.rounded_up(60), "exclude": exclude });
                file.comment(&format!("Exclusions stand in deno.json, with the age: \"minimumDependencyAge\": {told}"));
            }
        },
    );
    file.scopes("a line `@scope:registry=...` in any .npmrc");
    file.credentials(means, &format!("`{}:_authToken=${{NPM_TOKEN}}` in the .npmrc of your home", means.in_npmrc()));
    file.authority(means, "the environment: `DENO_CERT=/path/to/ca.pem`");
}

fn renovate(file: &mut ConfigWriter, means: &ClientConfigInput) {
    file.comment(
        "`renovate.json5`: renovate asks coldframe which versions there are. The lockfile is written \
        by the client itself, which needs lines of its own (`coldframe client-config npm`).",
    );
    file.reach(means);
    file.line("{");
    file.line("  \"packageRules\": [");
    file.line("    {");
    file.line("      \"matchDatasources\": [\"npm\"],");
    file.line(&format!("      \"registryUrls\": [{}],", quoted(means.url.as_str())));
    file.age(means, "days. Fixes of vulnerabilities are proposed at once, and wait at coldframe", |file| {
        file.line(&format!("      \"minimumReleaseAge\": \"{} days\",", means.rounded_up(DAY)));
    });
    file.line("    },");
    let exclusions = means.exclusions();
    if !exclusions.is_empty() && !means.terms.age().is_zero() {
        file.line("    {");
        file.line("      \"matchDatasources\": [\"npm\"],");
        file.line(&format!("      \"matchPackageNames\": {},", Value::from(exclusions)));
        file.line("      \"minimumReleaseAge\": \"0 days\",");
        file.line("    },");
    }
    file.line("  ],");
    file.line("}");
    file.scopes("a rule for a scope with other `registryUrls`");
    file.credentials(means, &format!("`hostRules` for {}", means.url.host_str().unwrap_or_default()));
    file.authority(means, "the environment of a renovate of your own: `NODE_EXTRA_CA_CERTS=/path/to/ca.pem`");
}

fn dependabot(file: &mut ConfigWriter, means: &ClientConfigInput) {
    file.comment("`.github/dependabot.yml`: dependabot asks coldframe which versions there are.");
    file.reach(means);
    file.line("version: 2");
    file.line("registries:");
    file.line("  coldframe:");
    file.line("    type: npm-registry");
    file.line(&format!("    url: {}", quoted(means.url.as_str())));
    file.line("    replaces-base: true");
    file.comment("Where coldframe's registry asks who you are: `token: ${{ secrets.NPM_TOKEN }}` beside `url`.");
    if let Some(credentials) = &means.credentials {
        file.comment(credentials);
    }
    file.line("updates:");
    file.line("  - package-ecosystem: npm");
    file.line("    directory: \"/\"");
    file.line("    schedule:");
    file.line("      interval: daily");
    file.line("    registries:");
    file.line("      - coldframe");
    let days = means.rounded_up(DAY);
    file.age(means, "days. Security updates are proposed at once, and wait at coldframe", |file| {
        if days > MOST_DAYS {
            file.comment(&format!(
                "Dependabot waits {MOST_DAYS} days at most; the rest of the time coldframe \
                alone holds releases."
            ));
        }
        file.line("    cooldown:");
        file.line(&format!("      default-days: {}", days.min(MOST_DAYS)));
        let exclusions = means.exclusions();
        if !exclusions.is_empty() {
            file.line("      exclude:");
        }
        for glob in exclusions {
            file.line(&format!("        - {}", quoted(&glob)));
        }
    });
    file.scopes("another registry with a `scope`");
}

impl ClientConfigInput {
    /// The age in so many seconds, never less than it is.
    fn rounded_up(&self, unit: u64) -> u64 {
        let age = self.terms.age();
        (age.as_secs() + u64::from(age.subsec_nanos() > 0)).div_ceil(unit)
    }

    fn age(&self) -> String {
        timestamp::format_duration(self.terms.age())
    }

    /// The packages whose ages are waived, as every format can hold them.
    fn exclusions(&self) -> Vec<String> {
        let plain = |letter: char| letter.is_ascii_alphanumeric() || "@/-_.~*?!{},[]".contains(letter);
        self.terms.exclude.iter().filter(|glob| glob.chars().all(plain)).cloned().collect()
    }

    /// The address as credentials name it in an `.npmrc`: `//127.0.0.1:4873/`.
    fn in_npmrc(&self) -> String {
        let text = self.url.as_str();
        text.split_once(':').map_or(text, |(_, rest)| rest).to_owned()
    }

    /// Whether only this machine gets there.
    fn is_loopback(&self) -> bool {
        match self.url.host() {
            Some(Host::Domain(name)) => name == "localhost" || name.ends_with(".localhost"),
            Some(Host::Ipv4(address)) => address.is_loopback(),
            Some(Host::Ipv6(address)) => address.is_loopback(),
            None => false,
        }
    }
}

/// A file that is being written.
struct ConfigWriter {
    text: String,
    /// What begins a comment.
    mark: &'static str,
}

impl ConfigWriter {
    fn line(&mut self, line: &str) {
        push_line!(self.text, "{line}");
    }

    fn list(&mut self, key: &str, values: &[String]) {
        if values.is_empty() {
            return;
        }
        self.line(&format!("{key}:"));
        for value in values {
            self.line(&format!("  - {}", quoted(value)));
        }
    }

    /// A comment, broken into lines.
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

    /// The age and where it comes from, and the lines that set it; none where there is no age to agree with: then the
    /// client's own stays.
    fn age(&mut self, means: &ClientConfigInput, unit: &str, set: impl FnOnce(&mut Self)) {
        if means.terms.age() == Duration::ZERO {
            return self.comment(&format!(
                "Coldframe holds nothing for its age ({}): the client's own setting \
                stays as it is.",
                means.source
            ));
        }
        self.comment(&format!("{} ({}), in {unit}.", means.age(), means.source));
        set(self);
    }

    fn scopes(&mut self, what: &str) {
        self.comment(&format!(
            "Scopes: {what} leads that scope around coldframe. Take it out: coldframe asks the scope's registry \
                itself, by the .npmrc of the machine where it runs."
        ));
    }

    fn credentials(&mut self, means: &ClientConfigInput, how: &str) {
        self.comment(&format!(
            "Private packages: on its own machine coldframe lends its credentials; from \
            elsewhere clients bring theirs, {how}."
        ));
        if let Some(credentials) = &means.credentials {
            self.comment(credentials);
        }
    }

    /// Whom to trust where the address is one of TLS.
    fn authority(&mut self, means: &ClientConfigInput, how: &str) {
        if means.url.scheme() == "https" {
            self.comment(&format!(
                "If an authority of your own vouches for {}: {how}.",
                means.url.host_str().unwrap_or_default()
            ));
        }
    }

    fn reach(&mut self, means: &ClientConfigInput) {
        if means.is_loopback() {
            self.comment(&format!("{} is reached from this machine alone: name another address with `--url`.", means.url));
        }
    }
}

/// Text in double quotes: JSON, TOML and YAML agree on them.
fn quoted(text: &str) -> String {
    Value::from(text).to_string()
}

#[cfg(test)]
mod tests {
    use clap::ValueEnum as _;
    use expect_test::expect;
    use granit_parser::{Event, Parser};

    use super::*;

    fn means(url: &str, seconds: u64, exclude: &[&str]) -> ClientConfigInput {
        let exclude = exclude.iter().map(|glob| (*glob).to_owned()).collect();
        ClientConfigInput {
            url: Url::parse(url).unwrap(),
            terms: ClientPolicy { minimum_release_age_seconds: seconds, exclude },
            source: "the policy in force at http://127.0.0.1:4873/".to_owned(),
            credentials: None,
        }
    }

    /// Every format, read by a parser of it, or held against its grammar where that is a line's.
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
    fn every_file_is_valid_whatever_is_asked_for() {
        let urls = ["http://127.0.0.1:4873/", "https://npm.example/registry/", "http://[::1]:4873/"];
        for client in ConfigTarget::value_variants() {
            for url in urls {
                for seconds in [0, 1, 72 * 3600, 72 * 3600 + 1, 400 * DAY] {
                    for exclude in [&[][..], &["@acme/*", "left-pad", "{a,b}-*", "bad\n\"glob"]] {
                        let text = written(*client, &means(url, seconds, exclude));
                        check(*client, &text);
                        assert!(text.contains(url.trim_end_matches('/')) && !text.contains("bad"), "{text}");
                        assert!(text.lines().all(|line| line.len() <= 200), "{text}");
                    }
                }
            }
        }
    }

    #[test]
    fn a_client_learns_where_its_token_goes_if_there_are_several_registries() {
        for client in ConfigTarget::value_variants() {
            let told = ClientConfigInput {
                credentials: Some("They go to https://npm.example/ alone.".to_owned()),
                ..means("http://a/", 60, &[])
            };
            let text = written(*client, &told);
            assert!(text.contains("They go to https://npm.example/ alone."), "{text}");
            check(*client, &text);
        }
    }

    #[test]
    fn no_client_waits_less_than_coldframe_does() {
        let ages = |seconds| [DAY, 60, 1].map(|unit| means("http://a/", seconds, &[]).rounded_up(unit) * unit);
        for seconds in [1, 59, 61, 3599, 72 * 3600, 72 * 3600 + 1] {
            assert!(ages(seconds).iter().all(|age| *age >= seconds), "{seconds}");
        }
        assert_eq!(ages(72 * 3600), [72 * 3600; 3]);
    }

    #[test]
    fn the_lines_of_each_client() {
        let all: Vec<_> = ConfigTarget::value_variants()
            .iter()
            .map(|client| written(*client, &means("http://127.0.0.1:4873/", 72 * 3600, &["@acme/*"])))
            .collect();
        expect![[r#"
            # `.npmrc` of the project, or of your home: npm through coldframe.
            registry=http://127.0.0.1:4873/
            # 72 h (the policy in force at http://127.0.0.1:4873/), in days. npm knows it from 11.10 on; npm 10 passes over it in
            # silence, and none looks at what a lockfile holds.
            min-release-age=3
            min-release-age-exclude[]=@acme/*
            # Scopes: a line `@scope:registry=...` in any .npmrc leads that scope around coldframe. Take it out: coldframe asks
            # the scope's registry itself, by the .npmrc of the machine where it runs.
            # Private packages: on its own machine coldframe lends its credentials; from elsewhere clients bring theirs,
            # `//127.0.0.1:4873/:_authToken=${NPM_TOKEN}` in the .npmrc of your home.
            # npm 12 refuses a lockfile that names a third registry (EALLOWREMOTE): `replace-registry-host=always` has it ask here
            # for those too.

            # `pnpm-workspace.yaml` at the root of the project: pnpm 10.16 and later through coldframe. Older ones read
            # `registry=` in .npmrc.
            registries:
              default: "http://127.0.0.1:4873/"
            # 72 h (the policy in force at http://127.0.0.1:4873/), in minutes. pnpm 11 and later hold lockfiles to it as well.
            minimumReleaseAge: 4320
            minimumReleaseAgeExclude:
              - "@acme/*"
            # `pnpm add` of a young version writes `minimumReleaseAgeExclude` into this file: coldframe holds that version all the
            # same.
            # Scopes: `"@scope": ...` under `registries`, or a line `@scope:registry=...` in any .npmrc, leads that scope around
            # coldframe. Take it out: coldframe asks the scope's registry itself, by the .npmrc of the machine where it runs.
            # Private packages: on its own machine coldframe lends its credentials; from elsewhere clients bring theirs,
            # `//127.0.0.1:4873/:_authToken=${NPM_TOKEN}` in the .npmrc of your home.

            # `.yarnrc` of the project, or of your home: yarn 1 through coldframe.
            registry "http://127.0.0.1:4873/"
            # yarn 1 knows no age. Coldframe's is 72 h (the policy in force at http://127.0.0.1:4873/).
            # A yarn.lock names the host that it was written with, and yarn 1 goes there whatever this line says: `coldframe
            # check` names such entries. Have it written anew, or send yarn through the gateway.
            # Scopes: a line `"@scope:registry" ...` leads that scope around coldframe. Take it out: coldframe asks the scope's
            # registry itself, by the .npmrc of the machine where it runs.
            # Private packages: on its own machine coldframe lends its credentials; from elsewhere clients bring theirs,
            # `//127.0.0.1:4873/:_authToken=...` in the .npmrc of your home.

            # `.yarnrc.yml` of the project, or of your home: yarn 4 through coldframe. It reads neither .npmrc nor HTTPS_PROXY.
            npmRegistryServer: "http://127.0.0.1:4873/"
            unsafeHttpWhitelist:
              - "127.0.0.1"
            # 72 h (the policy in force at http://127.0.0.1:4873/), in minutes: before 4.12 yarn took "3d" for three of them.
            # `--immutable` does not look at it.
            npmMinimalAgeGate: 4320
            npmPreapprovedPackages:
              - "@acme/*"
            # Scopes: `npmScopes` with an `npmRegistryServer` leads that scope around coldframe. Take it out: coldframe asks the
            # scope's registry itself, by the .npmrc of the machine where it runs.
            # Private packages: on its own machine coldframe lends its credentials; from elsewhere clients bring theirs,
            # `npmRegistries: { "//127.0.0.1:4873/": { npmAuthToken: "${NPM_TOKEN}" } }`.

            # `bunfig.toml` of the project, or `.bunfig.toml` of your home: bun through coldframe.
            [install]
            registry = "http://127.0.0.1:4873/"
            # 72 h (the policy in force at http://127.0.0.1:4873/), in seconds. bun knows it from 1.3 on.
            minimumReleaseAge = 259200
            # Here bun wants names, not globs, so that these wait too: @acme/*
            # Scopes: a scope under `[install.scopes]`, or a line `@scope:registry=...` in any .npmrc, leads that scope around
            # coldframe. Take it out: coldframe asks the scope's registry itself, by the .npmrc of the machine where it runs.
            # Private packages: on its own machine coldframe lends its credentials; from elsewhere clients bring theirs, `registry
            # = { url = "http://127.0.0.1:4873/", token = "$NPM_TOKEN" }`.

            # `.npmrc` of the project, or of your home: deno's packages of npm through coldframe.
            registry=http://127.0.0.1:4873/
            # 72 h (the policy in force at http://127.0.0.1:4873/), in days; `minimumDependencyAge` in deno.json counts minutes.
            # `install --frozen` does not look at it.
            min-release-age=3
            # Exclusions stand in deno.json, with the age: "minimumDependencyAge": {"age":4320,"exclude":["npm:@acme/*"]}
            # Scopes: a line `@scope:registry=...` in any .npmrc leads that scope around coldframe. Take it out: coldframe asks
            # the scope's registry itself, by the .npmrc of the machine where it runs.
            # Private packages: on its own machine coldframe lends its credentials; from elsewhere clients bring theirs,
            # `//127.0.0.1:4873/:_authToken=${NPM_TOKEN}` in the .npmrc of your home.

            // `renovate.json5`: renovate asks coldframe which versions there are. The lockfile is written by the client itself,
            // which needs lines of its own (`coldframe client-config npm`).
            // http://127.0.0.1:4873/ is reached from this machine alone: name another address with `--url`.
            {
              "packageRules": [
                {
                  "matchDatasources": ["npm"],
                  "registryUrls": ["http://127.0.0.1:4873/"],
            // 72 h (the policy in force at http://127.0.0.1:4873/), in days. Fixes of vulnerabilities are proposed at once, and
            // wait at coldframe.
                  "minimumReleaseAge": "3 days",
                },
                {
                  "matchDatasources": ["npm"],
                  "matchPackageNames": ["@acme/*"],
                  "minimumReleaseAge": "0 days",
                },
              ],
            }
            // Scopes: a rule for a scope with other `registryUrls` leads that scope around coldframe. Take it out: coldframe asks
            // the scope's registry itself, by the .npmrc of the machine where it runs.
            // Private packages: on its own machine coldframe lends its credentials; from elsewhere clients bring theirs,
            // `hostRules` for 127.0.0.1.

            # `.github/dependabot.yml`: dependabot asks coldframe which versions there are.
            # http://127.0.0.1:4873/ is reached from this machine alone: name another address with `--url`.
            version: 2
            registries:
              coldframe:
                type: npm-registry
                url: "http://127.0.0.1:4873/"
                replaces-base: true
            # Where coldframe's registry asks who you are: `token: ${{ secrets.NPM_TOKEN }}` beside `url`.
            updates:
              - package-ecosystem: npm
                directory: "/"
                schedule:
                  interval: daily
                registries:
                  - coldframe
            # 72 h (the policy in force at http://127.0.0.1:4873/), in days. Security updates are proposed at once, and wait at
            # coldframe.
                cooldown:
                  default-days: 3
                  exclude:
                    - "@acme/*"
            # Scopes: another registry with a `scope` leads that scope around coldframe. Take it out: coldframe asks the scope's
            # registry itself, by the .npmrc of the machine where it runs.
        "#]]
        .assert_eq(&all.join("\n"));
    }
}
