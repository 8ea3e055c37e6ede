//! Text around an access token, separated by a zero byte: in a header the token is ours, whatever surrounds it, and only a header
//! that is exactly a bearer token or a password is accepted.

use base64::Engine as _;
use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};
use coldframe::policy::access::secret::TokenSecret;
use coldframe::server::auth::presented::{Presented, is_in_url};

/// Checks the law for one input.
///
/// # Panics
/// Panics if a token would be forwarded, or if another text is accepted as one.
pub fn holds(input: &[u8]) {
    let secret = TokenSecret::from_random([7; 32]);
    let split = input.iter().position(|byte| *byte == 0).unwrap_or(input.len());
    let (before, after) = (&input[..split], input.get(split + 1..).unwrap_or_default());
    let whole = [before, secret.reveal().as_bytes(), after].concat();
    let text = String::from_utf8_lossy(&whole).into_owned();
    for header in [text.clone(), format!("Bearer {text}"), format!("Basic {}", STANDARD.encode(&whole))] {
        check(&header, &secret);
    }
    check(&format!("Basic {}", URL_SAFE_NO_PAD.encode(&whole)), &secret);
    assert!(is_in_url(&text), "{text}");
    // Without the token, nothing is accepted.
    let without = [before, after].concat();
    for header in [String::from_utf8_lossy(&without).into_owned(), format!("Basic {}", STANDARD.encode(&without))] {
        assert!(!matches!(Presented::parse(&header), Presented::Token(Some(_))), "{header}");
    }
}

fn check(header: &str, secret: &TokenSecret) {
    match Presented::parse(header) {
        Presented::Token(Some(hash)) => assert_eq!(hash, secret.hash(), "{header}"),
        Presented::Token(None) => {}
        presented => panic!("{presented:?}: {header}"),
    }
}
