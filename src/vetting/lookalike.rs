//! Names that resemble a popular package's name, as typosquats do.

use std::sync::LazyLock;

/// Shorter names have many honest neighbours (`preact` and `react`).
const MIN_NORMALIZED_CHARS: usize = 6;

/// npm allows 214 characters. Popular names are far shorter.
const MAX_NAME_BYTES: usize = 64;

/// Popular packages. Sources: packages that at least five of the 747 packages of a captured application depend on (November 2026),
/// packages of `policies/incidents.json`, honest packages with a similar name, and packages that typosquats with OSV records imitate (cross-env, discord.js, ethers,
/// web3, electron, puppeteer and others).
const POPULAR: &[&str] = &[
    "@actions/artifact",
    "@actions/core",
    "@angular/core",
    "@babel/cli",
    "@babel/core",
    "@babel/parser",
    "@babel/traverse",
    "@babel/types",
    "@ctrl/tinycolor",
    "@solana/web3.js",
    "@types/node",
    "@types/react",
    "@typescript-eslint/parser",
    "ansi-styles",
    "ansistyles",
    "argparse",
    "axios",
    "babel-cli",
    "babel-core",
    "babel-traverse",
    "babel-types",
    "bcrypt",
    "bluebird",
    "body-parser",
    "browserslist",
    "chalk",
    "cheerio",
    "chokidar",
    "chokidar2",
    "classnames",
    "color-convert",
    "commander",
    "content-type",
    "cookie-parser",
    "core-js",
    "cross-env",
    "cross-spawn",
    "crypto-js",
    "debug",
    "discord.js",
    "dotenv",
    "electron",
    "enquirer",
    "esbuild",
    "escalade",
    "escape-html",
    "escape-string-regexp",
    "eslint",
    "eslint-config-prettier",
    "eslint-plugin-import",
    "eslint-scope",
    "ethers",
    "event-stream",
    "express",
    "fast-deep-equal",
    "find-up",
    "follow-redirects",
    "form-data",
    "fs-extra",
    "glob",
    "graceful-fs",
    "handlebars",
    "hardhat",
    "http-errors",
    "http-proxy",
    "inquirer",
    "is-glob",
    "jest",
    "jquery",
    "js-yaml",
    "jsonwebtoken",
    "left-pad",
    "lodash",
    "micromatch",
    "mime-types",
    "minimatch",
    "minimist",
    "mocha",
    "moment",
    "mongodb",
    "mongoose",
    "mquery",
    "mysql",
    "next",
    "node-fetch",
    "node-ipc",
    "nodemailer",
    "nodemon",
    "object-inspect",
    "parseurl",
    "path-to-regexp",
    "picocolors",
    "picomatch",
    "postcss",
    "prettier",
    "pretty-format",
    "prop-types",
    "puppeteer",
    "react",
    "react-dom",
    "react-router",
    "react-router-dom",
    "request",
    "resolve",
    "rimraf",
    "rollup",
    "rxjs",
    "safe-buffer",
    "safer-buffer",
    "semver",
    "shelljs",
    "signal-exit",
    "socket.io",
    "source-map",
    "sqlite3",
    "statuses",
    "string-width",
    "strip-ansi",
    "styled-components",
    "supports-color",
    "tailwindcss",
    "tslib",
    "type-fest",
    "typescript",
    "ua-parser-js",
    "underscore",
    "undici",
    "uuid",
    "validator",
    "vite",
    "vue",
    "web3",
    "webpack",
    "webpack-cli",
    "which",
    "winston",
    "yargs",
    "yargs-parser",
    "zustand",
];

/// The popular names without separators, each with its usual spelling.
static NORMALIZED: LazyLock<Vec<(Vec<u8>, &'static str)>> =
    LazyLock::new(|| POPULAR.iter().map(|name| (normalized(name), *name)).collect());

/// Returns the popular package whose name `name` resembles: other separators or scope marks, or one letter more, less, changed or
/// swapped with the next. Popular names themselves resemble none.
pub fn imitated(name: &str) -> Option<&'static str> {
    if name.len() > MAX_NAME_BYTES || POPULAR.contains(&name) {
        return None;
    }
    let own = normalized(name);
    if own.len() < MIN_NORMALIZED_CHARS {
        return None;
    }
    let is_close = |popular: &[u8]| popular.len() >= MIN_NORMALIZED_CHARS && is_one_edit(&own, popular);
    NORMALIZED.iter().find(|(popular, _)| own == *popular || is_close(popular)).map(|(_, spelling)| *spelling)
}

fn normalized(name: &str) -> Vec<u8> {
    name.bytes().filter(|byte| !b"@/-_.".contains(byte)).map(|byte| byte.to_ascii_lowercase()).collect()
}

/// Checks whether one insertion, deletion, substitution or swap of neighbours makes `left` equal to `right`.
fn is_one_edit(left: &[u8], right: &[u8]) -> bool {
    let (short, long) = if left.len() <= right.len() { (left, right) } else { (right, left) };
    let same = short.iter().zip(long).take_while(|(a, b)| a == b).count();
    let (short, long) = (&short[same..], &long[same..]);
    match long.len() - short.len() {
        0 => match (short, long) {
            ([a, b, rest @ ..], [c, d, others @ ..]) if a == d && b == c => rest == others,
            ([_, rest @ ..], [_, others @ ..]) => rest == others,
            _ => false,
        },
        1 => short == &long[1..],
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn typosquats_of_past_incidents_are_recognized() {
        for (name, popular) in [
            ("crossenv", "cross-env"),
            ("cross-env.js", ""),
            ("expres", "express"),
            ("lodahs", "lodash"),
            ("@acitons/artifact", "@actions/artifact"),
            ("types-node", "@types/node"),
            ("node_fetch", "node-fetch"),
            ("typescirpt", "typescript"),
            ("discordjs", "discord.js"),
            ("plain-crypto-js", ""),
            ("preact", ""),
            ("lodash", ""),
            ("lodash-es", ""),
            ("es", ""),
            ("", ""),
        ] {
            assert_eq!(imitated(name).unwrap_or_default(), popular, "{name}");
        }
        assert_eq!(imitated(&"x".repeat(1 << 20)), None);
    }

    proptest! {
        #[test]
        fn one_edit_is_symmetric_and_never_panics(left in "[ab]{0,8}", right in "[ab]{0,8}") {
            let found = is_one_edit(left.as_bytes(), right.as_bytes());
            prop_assert_eq!(found, is_one_edit(right.as_bytes(), left.as_bytes()));
            prop_assert!(!found || left != right);
            let mut longer = left.clone();
            longer.insert(left.len() / 2, 'c');
            prop_assert!(is_one_edit(left.as_bytes(), longer.as_bytes()));
        }
    }
}
