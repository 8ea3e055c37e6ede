//! Method, path and query of a stranger: one question or none, and the same package however its name was spelled.
//!
//! An input is a path with an optional query.

use coldframe::npm::endpoint::EndpointError;
use coldframe::npm::tarball_url;
use coldframe::npm::{Endpoint, PackageName};

/// Panics when a path is read in two ways, or as something that cannot be asked for.
pub fn holds(input: &[u8]) {
    let Ok(target) = std::str::from_utf8(input) else { return };
    let (path, query) = target.split_once('?').map_or((target, None), |(path, query)| (path, Some(query)));
    for method in ["GET", "HEAD", "PUT", "POST", "DELETE", "PATCH", "get", ""] {
        let told = Endpoint::parse(method, path, query);
        match &told {
            Ok(endpoint) => is_one_question(method, endpoint),
            Err(wrong) => assert!(!wrong.to_string().contains(char::is_control), "{wrong:?}"),
        }
        if method == "HEAD" && !matches!(told, Err(EndpointError::Method { .. })) {
            assert_eq!(told, Endpoint::parse("GET", path, query));
        }
    }
}

fn is_one_question(method: &str, endpoint: &Endpoint) {
    let again = |path: &str| Endpoint::parse("GET", path, None);
    match endpoint {
        Endpoint::Packument(name) => {
            is_a_name(name);
            assert_eq!(again(&format!("/{name}")).as_ref(), Ok(endpoint));
            assert_eq!(again(&format!("/{}", name.to_segment())).as_ref(), Ok(endpoint));
        }
        Endpoint::Manifest { name, wanted } => {
            is_a_name(name);
            assert!(!wanted.contains(['/', '\\', '%']) && !wanted.contains(char::is_control), "{wanted:?}");
        }
        Endpoint::Tarball { name, version } => {
            is_a_name(name);
            assert_eq!(again(&tarball_url("", name, version)).as_ref(), Ok(endpoint));
        }
        Endpoint::Attestations { name, version } => {
            is_a_name(name);
            assert!(!version.contains(['/', '@']), "{version:?}");
        }
        Endpoint::DistTags(name) | Endpoint::Account(Some(name)) => is_a_name(name),
        Endpoint::Own(path) => assert!(!path.split('/').any(|part| matches!(part, "." | ".."))),
        Endpoint::Write(name) => {
            // A read that announces a write names the package that will be written.
            assert!(matches!(method, "PUT" | "POST" | "DELETE" | "PATCH") || name.is_some(), "{method}");
            name.iter().for_each(is_a_name);
        }
        Endpoint::Audit { .. } => assert_eq!(method, "POST"),
        _ => assert!(matches!(method, "GET" | "HEAD"), "{method}: {endpoint:?}"),
    }
}

/// It can stand in a path of ours, of upstream's and of a file system, and means the same there.
fn is_a_name(name: &PackageName) {
    let parts: Vec<&str> = name.as_str().split('/').collect();
    assert!(name.as_str().len() <= 214 && matches!((parts.len(), name.scope()), (1, None) | (2, Some(_))), "{name:?}");
    for part in parts {
        let bare = part.strip_prefix('@').unwrap_or(part);
        assert!(!bare.is_empty() && !bare.starts_with(['.', '_', '@']), "{name:?}");
        assert!(bare.bytes().all(|byte| byte.is_ascii_graphic() && !br#"/\%?#:@"<>|&"#.contains(&byte)), "{name:?}");
    }
    assert_eq!(PackageName::parse(name.as_str()).as_ref(), Ok(name));
}
