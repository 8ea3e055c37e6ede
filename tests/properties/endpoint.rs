//! Untrusted method, path and query: each request parses to one endpoint or none, and all spellings of a name yield the same
//! package.
//!
//! An input is a path with an optional query.

use coldframe::npm::endpoint::EndpointError;
use coldframe::npm::tarball_url;
use coldframe::npm::{Endpoint, PackageName};

/// Panics if a path parses ambiguously or to an invalid endpoint.
pub fn holds(input: &[u8]) {
    let Ok(target) = std::str::from_utf8(input) else { return };
    let (path, query) = target.split_once('?').map_or((target, None), |(path, query)| (path, Some(query)));
    for method in ["GET", "HEAD", "PUT", "POST", "DELETE", "PATCH", "get", ""] {
        let parsed = Endpoint::parse(method, path, query);
        match &parsed {
            Ok(endpoint) => endpoint_is_valid(method, endpoint),
            Err(error) => assert!(!error.to_string().contains(char::is_control), "{error:?}"),
        }
        if method == "HEAD" && !matches!(parsed, Err(EndpointError::Method { .. })) {
            assert_eq!(parsed, Endpoint::parse("GET", path, query));
        }
    }
}

fn endpoint_is_valid(method: &str, endpoint: &Endpoint) {
    let again = |path: &str| Endpoint::parse("GET", path, None);
    match endpoint {
        Endpoint::Packument(name) => {
            name_is_valid(name);
            assert_eq!(again(&format!("/{name}")).as_ref(), Ok(endpoint));
            assert_eq!(again(&format!("/{}", name.to_segment())).as_ref(), Ok(endpoint));
        }
        Endpoint::Manifest { name, wanted } => {
            name_is_valid(name);
            assert!(!wanted.contains(['/', '\\', '%']) && !wanted.contains(char::is_control), "{wanted:?}");
        }
        Endpoint::Tarball { name, version } => {
            name_is_valid(name);
            assert_eq!(again(&tarball_url("", name, version)).as_ref(), Ok(endpoint));
        }
        Endpoint::Attestations { name, version } => {
            name_is_valid(name);
            assert!(!version.contains(['/', '@']), "{version:?}");
        }
        Endpoint::DistTags(name) | Endpoint::Account(Some(name)) => name_is_valid(name),
        Endpoint::Admin(path) => assert!(!path.split('/').any(|part| matches!(part, "." | ".."))),
        Endpoint::Write(name) => {
            // A packument requested for a write names the package that will be written.
            assert!(matches!(method, "PUT" | "POST" | "DELETE" | "PATCH") || name.is_some(), "{method}");
            name.iter().for_each(name_is_valid);
        }
        Endpoint::Audit { .. } => assert_eq!(method, "POST"),
        _ => assert!(matches!(method, "GET" | "HEAD"), "{method}: {endpoint:?}"),
    }
}

/// Checks that a name is safe in paths of Coldframe, of upstream and of a file system.
fn name_is_valid(name: &PackageName) {
    let parts: Vec<&str> = name.as_str().split('/').collect();
    assert!(name.as_str().len() <= 214 && matches!((parts.len(), name.scope()), (1, None) | (2, Some(_))), "{name:?}");
    for part in parts {
        let bare = part.strip_prefix('@').unwrap_or(part);
        assert!(!bare.is_empty() && !bare.starts_with(['.', '_', '@']), "{name:?}");
        assert!(bare.bytes().all(|byte| byte.is_ascii_graphic() && !br#"/\%?#:@"<>|&"#.contains(&byte)), "{name:?}");
    }
    assert_eq!(PackageName::parse(name.as_str()).as_ref(), Ok(name));
}
