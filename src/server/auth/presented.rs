//! Reads access tokens from `Authorization` and `Proxy-Authorization`. A credential that bears our prefix is ours: it is verified
//! here and forwarded nowhere, valid or not.

use base64::Engine as _;
use base64::alphabet;
use base64::engine::{DecodePaddingMode, GeneralPurpose, GeneralPurposeConfig};
use http::header::{HeaderMap, HeaderName};
use percent_encoding::percent_decode_str;

use crate::net::headers::single;
use crate::policy::access::secret::{self, TokenHash};

/// Decoders that accept what any server may accept, so that no encoding of a token counts as another credential.
const LENIENT: GeneralPurposeConfig =
    GeneralPurposeConfig::new().with_decode_padding_mode(DecodePaddingMode::Indifferent).with_decode_allow_trailing_bits(true);
const DECODERS: [GeneralPurpose; 2] =
    [GeneralPurpose::new(&alphabet::STANDARD, LENIENT), GeneralPurpose::new(&alphabet::URL_SAFE, LENIENT)];

/// The credential of a request, as far as it is ours.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Presented {
    Nothing,
    /// The client's own credential, for upstream.
    Foreign,
    /// The hash of a token; `None` if it is malformed.
    Token(Option<TokenHash>),
}

impl Presented {
    /// Reads a header, and removes it if it is ours, so that nothing can forward it.
    /// Returns a text for the client if the header is duplicate or not ASCII.
    pub(crate) fn take(headers: &mut HeaderMap, name: &HeaderName) -> Result<Self, String> {
        let presented = single(headers, name)?.map_or(Self::Nothing, Self::parse);
        if matches!(presented, Self::Token(_)) {
            headers.remove(name);
        }
        Ok(presented)
    }

    /// Reads the value of a header. A bearer token is accepted, and a password of any user: npm sends `_authToken` as the first,
    /// `_auth` and `_password` as the second.
    pub fn parse(header: &str) -> Self {
        let (scheme, credential) = header.trim().split_once(' ').unwrap_or(("", header.trim()));
        let credential = credential.trim().as_bytes();
        if secret::bears_prefix(credential) {
            let is_bearer = scheme.eq_ignore_ascii_case("bearer");
            return Self::Token(secret::hash_of(credential).filter(|_| is_bearer));
        }
        let decoded = DECODERS.iter().find_map(|decoder| decoder.decode(credential).ok());
        if let Some(decoded) = &decoded {
            let colon = decoded.iter().position(|byte| *byte == b':');
            let password = colon.and_then(|at| decoded.get(at + 1..)).unwrap_or_default();
            if secret::bears_prefix(password) {
                let is_basic = scheme.eq_ignore_ascii_case("basic");
                return Self::Token(secret::hash_of(password).filter(|_| is_basic));
            }
            if secret::bears_prefix(decoded) || secret::is_in(decoded) {
                return Self::Token(None);
            }
        }
        if secret::is_in(header.as_bytes()) { Self::Token(None) } else { Self::Foreign }
    }
}

/// Returns what a header may authenticate with: the credential as written, and the password of a `Basic` one.
pub(crate) fn credentials_in(header: &str) -> Vec<String> {
    let (_, credential) = header.trim().split_once(' ').unwrap_or(("", header.trim()));
    let credential = credential.trim();
    let decoded = DECODERS.iter().find_map(|decoder| decoder.decode(credential).ok());
    let decoded = decoded.and_then(|decoded| String::from_utf8(decoded).ok());
    let password = decoded.and_then(|pair| pair.split_once(':').map(|(_, password)| password.to_owned()));
    [Some(credential.to_owned()), password].into_iter().flatten().collect()
}

/// Checks whether a URL contains a token, escaped or not. URLs are logged and forwarded, so tokens do not belong there.
pub fn is_in_url(url: &str) -> bool {
    let has_escapes = url.contains('%');
    secret::is_in(url.as_bytes()) || (has_escapes && secret::is_in(&percent_decode_str(url).collect::<Vec<u8>>()))
}

#[cfg(test)]
mod tests {
    use base64::engine::general_purpose::{STANDARD, STANDARD_NO_PAD, URL_SAFE};
    use http::HeaderValue;
    use http::header::AUTHORIZATION;

    use super::*;
    use crate::policy::access::secret::TokenSecret;

    fn token() -> TokenSecret {
        TokenSecret::from_random([7; 32])
    }

    fn basic(pair: impl AsRef<[u8]>) -> String {
        format!("Basic {}", STANDARD.encode(pair))
    }

    #[test]
    fn token_is_accepted_as_bearer_and_as_password_of_any_user() {
        let (token, hash) = (token(), token().hash());
        let text = token.reveal();
        for header in [
            format!("Bearer {text}"),
            format!("bearer   {text} "),
            basic(format!("ada:{text}")),
            basic(format!(":{text}")),
            basic([b"\0\xff:", text.as_bytes()].concat()),
            format!("BASIC {}", STANDARD_NO_PAD.encode(format!("ada:{text}"))),
            format!("Basic {}", URL_SAFE.encode(format!("??>:{text}"))),
        ] {
            assert_eq!(Presented::parse(&header), Presented::Token(Some(hash)), "{header}");
        }
    }

    #[test]
    fn what_bears_the_prefix_is_ours_though_malformed() {
        let token = token();
        let text = token.reveal();
        for header in [
            "Bearer cfr_".to_owned(),
            "Bearer CFR_abc".to_owned(),
            format!("Bearer {}", &text[..40]),
            format!("Bearer {text}x"),
            format!("Bearer x{text}"),
            format!("Bearer \"{text}\""),
            format!("Digest {text}"),
            text.to_owned(),
            format!("token={text}"),
            basic(text),
            basic("ada:cfr_"),
            basic(format!("{text}:")),
            basic(format!("a:b:{text}")),
            basic(format!("a:{text}\n")),
            format!("Bearer {}", STANDARD.encode(format!("ada:{text}"))),
        ] {
            assert_eq!(Presented::parse(&header), Presented::Token(None), "{header}");
        }
    }

    #[test]
    fn other_credentials_are_the_clients_own() {
        for header in ["Bearer npm_cfr_x", "Bearer", "", "Basic", "Basic %%%", "Negotiate abc", "Bearer a.b_cfr_c.d"] {
            assert_eq!(Presented::parse(header), Presented::Foreign, "{header}");
        }
        assert_eq!(Presented::parse(&basic("ada:secret")), Presented::Foreign);
        assert_eq!(Presented::parse(&format!("Bearer {}", "x".repeat(60_000))), Presented::Foreign);
    }

    #[test]
    fn our_header_is_removed_and_others_stay() {
        let with = |value: &str| HeaderMap::from_iter([(AUTHORIZATION, HeaderValue::from_str(value).unwrap())]);
        let mut ours = with("Bearer cfr_x");
        assert_eq!(Presented::take(&mut ours, &AUTHORIZATION), Ok(Presented::Token(None)));
        assert!(ours.is_empty());
        let mut own = with("Bearer npm_x");
        assert_eq!(Presented::take(&mut own, &AUTHORIZATION), Ok(Presented::Foreign));
        assert_eq!(own.len(), 1);
        own.append(AUTHORIZATION, HeaderValue::from_static("Bearer cfr_x"));
        assert!(Presented::take(&mut own, &AUTHORIZATION).is_err());
        assert_eq!(Presented::take(&mut HeaderMap::new(), &AUTHORIZATION), Ok(Presented::Nothing));
    }

    #[test]
    fn token_in_a_url_is_found_though_escaped() {
        let token = token();
        let text = token.reveal();
        assert!(is_in_url(&format!("/-/npm/v1/tokens/token/{text}")) && is_in_url(&format!("/a?x={}", text.replace('_', "%5F"))));
        assert!(!is_in_url("/@acme%2fui?write=true") && !is_in_url("/cfr_x"));
    }
}
