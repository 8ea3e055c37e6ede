//! Parses a client's User-Agent. Untrusted: used for wording and the ledger only.

use std::fmt;
use std::sync::Arc;

use crate::text::words;

const MAX_VERSION_BYTES: usize = 48;

/// Clients that get different responses or are named in the ledger.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Tool {
    /// `npm/11.21.2 node/v24.21.0 linux x64 …`
    Npm,
    /// `pnpm/12.21.0 npm/? node/? linux x64`
    Pnpm,
    /// `yarn/1.22.22 npm/? node/…`; yarn 4 sends `got (…)`.
    Yarn,
    /// `Bun/1.4.5`
    Bun,
    /// `Deno/2.9.6`
    Deno,
    Other,
}

words! { Tool { Npm = "npm", Pnpm = "pnpm", Yarn = "yarn", Bun = "bun", Deno = "deno", Other = "other", } }

/// A tool and its claimed version, bounded in length and free of control characters.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct UserAgent {
    pub tool: Tool,
    /// The version, or for [`Tool::Other`] the first product of the header. Empty if there is no header.
    pub version: Arc<str>,
}

impl UserAgent {
    /// Parses a User-Agent header. Never fails: unknown clients are [`Tool::Other`].
    pub(crate) fn parse(header: &str) -> Self {
        let first = header.split_ascii_whitespace().next().unwrap_or_default();
        let (product, version) = first.split_once('/').unwrap_or((first, ""));
        let tool = match product {
            "npm" => Tool::Npm,
            "pnpm" => Tool::Pnpm,
            "yarn" | "got" => Tool::Yarn,
            "Bun" | "bun" => Tool::Bun,
            "Deno" | "deno" => Tool::Deno,
            _ => Tool::Other,
        };
        let text = match tool {
            Tool::Other => first,
            Tool::Yarn if product == "got" => "berry",
            _ => version,
        };
        let plain = text.len() <= MAX_VERSION_BYTES && text.bytes().all(|byte| byte.is_ascii_graphic());
        let cleaned = || text.chars().filter(char::is_ascii_graphic).take(MAX_VERSION_BYTES).collect::<String>().into();
        Self { tool, version: if plain { text.into() } else { cleaned() } }
    }

    /// Checks whether this client prints a packument's `policyRestrictions` and resolves correctly with them: npm 10.8.2 or
    /// later. Older npm selects the restricted version and fails where it could have fallen back.
    pub(crate) fn reads_policy_restrictions(&self) -> bool {
        let oldest = semver::Version::new(10, 8, 2);
        self.tool == Tool::Npm
            && semver::Version::parse(&self.version).is_ok_and(|version| version.cmp_precedence(&oldest).is_ge())
    }
}

impl fmt::Display for UserAgent {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (self.tool, &*self.version) {
            (Tool::Other, "") => out.write_str("unknown"),
            (Tool::Other, product) => out.write_str(product),
            (tool, "") => out.write_str(tool.as_str()),
            (tool, version) => write!(out, "{}/{version}", tool.as_str()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn known_clients_are_recognised() {
        let parsed = |header| UserAgent::parse(header).to_string();
        assert_eq!(parsed("npm/11.21.2 node/v24.21.0 linux x64 workspaces/false"), "npm/11.21.2");
        assert_eq!(parsed("pnpm/12.21.0 npm/? node/? linux x64"), "pnpm/12.21.0");
        assert_eq!(parsed("got (https://example.test)"), "yarn/berry");
        assert_eq!(parsed("Bun/1.4.5"), "bun/1.4.5");
        assert_eq!(parsed("curl/7.88.1"), "curl/7.88.1");
        assert_eq!(parsed(""), "unknown");
    }

    #[test]
    fn only_npm_from_10_8_2_reads_policy_restrictions() {
        let reads = |header| UserAgent::parse(header).reads_policy_restrictions();
        assert!(reads("npm/10.8.2 node/v22") && reads("npm/12.0.0 node/v24"));
        assert!(!reads("npm/10.8.1 node/v22") && !reads("npm/9.9.4") && !reads("pnpm/12.21.0 npm/? node/?") && !reads("npm/?"));
    }
}
