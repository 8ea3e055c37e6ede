//! Fetches tarballs by the URL that their manifest states. The body is bounded; the store checks its integrity.

use std::sync::Arc;

use bytes::Bytes;
use http::header::{ACCEPT, ACCEPT_ENCODING, CONTENT_RANGE, CONTENT_TYPE, RANGE};
use http::{HeaderMap, HeaderValue, StatusCode};

use crate::net::BodyStream;
use crate::npm::{PackageName, tarball_url};
use crate::upstream::authorization::Authorization;
use crate::upstream::error::UpstreamError;
use crate::upstream::registry::Registry;
use crate::upstream::response::{header, refusal};

#[derive(Debug)]
pub struct TarballBody {
    pub(crate) stream: BodyStream,
    host: Arc<str>,
    limit: u64,
    received: u64,
    /// Whether credentials were sent for it at any hop.
    pub(crate) with_credentials: bool,
}

/// The result of a check whether a URL serves a tarball.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Offer {
    Bytes(u64),
    /// An HTML page, usually a login form.
    Page,
    /// Unknown without a download.
    Unclear,
}

impl TarballBody {
    /// Returns the next bytes; `None` at the end. Fails if the connection stalls or the body exceeds its limit or stated length.
    pub(crate) async fn next(&mut self) -> Result<Option<Bytes>, UpstreamError> {
        let bytes = self.stream.next().await.map_err(|error| UpstreamError::from_client(&self.host, &error))?;
        self.received += bytes.as_ref().map_or(0, |bytes| bytes.len() as u64);
        if self.received > self.limit {
            return Err(UpstreamError::TooLarge { host: Arc::clone(&self.host), limit: self.limit });
        }
        Ok(bytes)
    }
}

impl Registry {
    /// Returns the conventional tarball URL of `version`, below the package's own URL. Most registries use it.
    pub(crate) fn conventional_tarball_url(&self, name: &PackageName, version: &str) -> String {
        tarball_url(self.url.as_str().trim_end_matches('/'), name, version)
    }

    /// Checks whether `stated` leads to the conventional tarball URL.
    pub(crate) fn is_conventional(&self, name: &PackageName, version: &str, stated: &str) -> bool {
        let target = |url: &str| self.tarball_target(url).ok();
        target(stated).is_some_and(|stated| Some(stated) == target(&self.conventional_tarball_url(name, version)))
    }

    /// Fetches a tarball by the URL in its manifest. Another host must be allowed by `--tarball-host`, else nothing is requested.
    ///
    /// The body is not decoded even if declared as encoded: none is requested, and file servers often label a `.tgz` as `gzip`.
    pub(crate) async fn tarball(&self, url: &str, authorization: &Authorization) -> Result<TarballBody, UpstreamError> {
        let target = self.tarball_target(url)?;
        let (target, response) = self.get(target, tarball_headers(), authorization).await?;
        if response.status != StatusCode::OK {
            return Err(refusal(&target, response).await);
        }
        let (host, limit) = (target.host(), self.shared.tarball_limit);
        if response.body.length.is_some_and(|length| length > limit) {
            return Err(UpstreamError::TooLarge { host, limit });
        }
        Ok(TarballBody { stream: response.body, host, limit, received: 0, with_credentials: target.with_credentials })
    }

    /// Checks whether a URL serves a tarball to these credentials. Sends the GET of [`Registry::tarball`] for one byte and stops
    /// after the headers. A HEAD proves nothing, because servers treat it differently.
    pub(crate) async fn offers_tarball(&self, url: &str, authorization: &Authorization) -> Result<Offer, UpstreamError> {
        let target = self.tarball_target(url)?;
        let mut headers = tarball_headers();
        headers.insert(RANGE, HeaderValue::from_static("bytes=0-0"));
        let (target, response) = self.get(target, headers, authorization).await?;
        let is_page =
            header(&response.headers, &CONTENT_TYPE).is_some_and(|value| value.to_ascii_lowercase().starts_with("text/html"));
        let whole = || header(&response.headers, &CONTENT_RANGE).and_then(|range| range.rsplit_once('/')?.1.parse().ok());
        match response.status {
            StatusCode::OK | StatusCode::PARTIAL_CONTENT if is_page => Ok(Offer::Page),
            StatusCode::OK => Ok(response.body.length.map_or(Offer::Unclear, Offer::Bytes)),
            StatusCode::PARTIAL_CONTENT => Ok(whole().map_or(Offer::Unclear, Offer::Bytes)),
            StatusCode::NOT_MODIFIED | StatusCode::RANGE_NOT_SATISFIABLE => Ok(Offer::Unclear),
            _ => Err(refusal(&target, response).await),
        }
    }
}

fn tarball_headers() -> HeaderMap {
    HeaderMap::from_iter(
        [(ACCEPT, "*/*"), (ACCEPT_ENCODING, "identity")].map(|(name, value)| (name, HeaderValue::from_static(value))),
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::net::testing::{ScriptedServer, ServerAction, answer};
    use crate::upstream::testing;

    async fn read_all(mut body: TarballBody) -> Result<Vec<u8>, UpstreamError> {
        let mut whole = Vec::new();
        while let Some(bytes) = body.next().await? {
            whole.extend_from_slice(&bytes);
        }
        Ok(whole)
    }

    /// A server that redirects `/registry/…` to the URL that `to` returns and serves a tarball otherwise.
    async fn redirecting(to: impl Fn(&str) -> String + Send + Sync + 'static) -> ScriptedServer {
        ScriptedServer::plain(move |heard, _| match heard.line().split(' ').nth(1) {
            Some(path) if path.starts_with("/registry/") => {
                ServerAction::Say(answer("302 Found", &[&format!("location: {}", to(path))], b"moved"))
            }
            _ => ServerAction::Say(answer("200 OK", &["content-encoding: gzip"], b"\x1f\x8btgz")),
        })
        .await
    }

    #[tokio::test]
    async fn body_is_not_decoded_despite_content_encoding() {
        let server = redirecting(str::to_owned).await;
        let registry = testing::registry(&server.url());
        let body = registry.tarball(&format!("{}ui/-/ui-1.0.0.tgz", server.url()), &Authorization::Lent).await.unwrap();
        assert_eq!(body.stream.length, Some(5));
        assert_eq!(read_all(body).await.unwrap(), b"\x1f\x8btgz");
        let heard = &server.heard()[0];
        assert_eq!(heard.line(), "GET /ui/-/ui-1.0.0.tgz HTTP/1.1");
        assert_eq!((heard.header("accept-encoding"), heard.header("authorization")), (Some("identity"), Some("Bearer lent")));
    }

    #[tokio::test]
    async fn registry_may_state_another_scheme_for_itself() {
        let server = redirecting(str::to_owned).await;
        let registry = testing::registry(&server.url());
        let stated = "https://127.0.0.1:8443/@acme/ui/-/ui-1.0.0.tgz";
        assert!(read_all(registry.tarball(stated, &Authorization::Lent).await.unwrap()).await.is_ok());
        assert_eq!(server.heard()[0].header("host"), Some(server.address.to_string().as_str()));
    }

    #[tokio::test]
    async fn artifactory_redirect_to_storage_sends_no_credentials() {
        let storage = redirecting(str::to_owned).await;
        let bucket = format!("{}bucket/sha1?X-Amz-Signature=abc", storage.url());
        let server = redirecting(move |_| bucket.clone()).await;
        let mut config = testing::config(&format!("{}registry/api/npm/main/", server.url()));
        let stated = format!("{}registry/api/npm/main/ui/-/ui-1.0.0.tgz", server.url());
        let refused = testing::open(&config).tarball(&stated, &Authorization::Lent).await.unwrap_err();
        let expected = format!(
            "upstream `{}` redirects to `{}`, which is not allowed: allow the host with `--redirect-host`",
            server.address, storage.address
        );
        assert_eq!(refused.to_string(), expected);
        assert!(storage.heard().is_empty());

        config.redirect_hosts = vec![storage.address.to_string().parse().unwrap()];
        for who in [Authorization::Lent, Authorization::Own("Bearer own".into())] {
            assert!(read_all(testing::open(&config).tarball(&stated, &who).await.unwrap()).await.is_ok());
        }
        assert_eq!(server.heard()[1].header("authorization"), Some("Bearer lent"));
        for heard in storage.heard() {
            assert_eq!((heard.line(), heard.header("authorization")), ("GET /bucket/sha1?X-Amz-Signature=abc HTTP/1.1", None));
        }
    }

    #[tokio::test]
    async fn host_pattern_permits_public_addresses_only() {
        let storage = redirecting(str::to_owned).await;
        let to = storage.url();
        let server = redirecting(move |_| to.clone()).await;
        let mut config = testing::config(&format!("{}registry/", server.url()));
        config.redirect_hosts = vec!["127.*".parse().unwrap()];
        config.tarball_hosts = vec!["localhos*".parse().unwrap()];
        let registry = testing::open(&config);
        let elsewhere = format!("http://localhost:{}/a.tgz", storage.address.port());
        for (stated, host) in
            [("ui/-/ui-1.0.0.tgz", storage.address.to_string()), (&elsewhere, format!("localhost:{}", storage.address.port()))]
        {
            let refused = registry.tarball(stated, &Authorization::Lent).await.unwrap_err().to_string();
            assert!(refused.starts_with(&format!("cannot reach upstream `{host}`: address: ")), "{refused}");
            assert!(
                refused.ends_with("is not a public address; name the host without `*` to allow a private address"),
                "{refused}"
            );
        }
        assert!(storage.heard().is_empty());
    }

    #[tokio::test]
    async fn github_download_redirects_to_storage() {
        let storage = redirecting(str::to_owned).await;
        let to = format!("{}npmregistryv2prod/blobs/1.tgz?sig=x", storage.url());
        let server = ScriptedServer::plain(move |heard, _| match heard.line() {
            "GET /download/@acme/ui/1.0.0/0123abcd HTTP/1.1" => {
                ServerAction::Say(answer("302 Found", &[&format!("location: {to}")], b""))
            }
            _ => ServerAction::Say(answer("404 Not Found", &[], b"{}")),
        })
        .await;
        let mut config = testing::config(&server.url());
        config.redirect_hosts = vec!["127.0.0.1".parse().unwrap()];
        let stated = format!("{}download/@acme/ui/1.0.0/0123abcd", server.url());
        assert!(read_all(testing::open(&config).tarball(&stated, &Authorization::Lent).await.unwrap()).await.is_ok());
        assert_eq!(storage.heard()[0].header("authorization"), None);
        let missing = format!("{}download/@acme/ui/2.0.0/0123abcd", server.url());
        assert!(matches!(
            testing::open(&config).tarball(&missing, &Authorization::Lent).await.unwrap_err(),
            UpstreamError::NotFound
        ));
    }

    #[tokio::test]
    async fn codeartifact_redirect_on_its_own_host_keeps_credentials() {
        let server = redirecting(|path| path.replacen("/registry/", "/npm/repo/", 1)).await;
        let config = testing::config(&format!("{}registry/repo/", server.url()));
        let stated = "@acme/ui/-/@acme/ui-1.0.0.tgz";
        assert!(
            read_all(testing::open(&config).tarball(stated, &Authorization::Own("Bearer own".into())).await.unwrap())
                .await
                .is_ok()
        );
        let heard = server.heard();
        assert_eq!(heard[1].line(), "GET /npm/repo/repo/@acme/ui/-/@acme/ui-1.0.0.tgz HTTP/1.1");
        assert_eq!(heard[1].header("authorization"), Some("Bearer own"));
    }

    #[tokio::test]
    async fn redirects_are_limited() {
        let server = redirecting(str::to_owned).await;
        let registry = testing::registry(&format!("{}registry/", server.url()));
        let endless = registry.tarball("ui.tgz", &Authorization::None).await.unwrap_err();
        assert!(endless.to_string().ends_with("which is not allowed: more than 5 redirects in a row"), "{endless}");
        assert_eq!(server.heard().len(), 6);
        let nowhere = ScriptedServer::plain(|_, _| ServerAction::Say(answer("302 Found", &[], b""))).await;
        let no_location = testing::registry(&nowhere.url()).tarball("ui.tgz", &Authorization::None).await.unwrap_err();
        assert!(matches!(no_location, UpstreamError::Broken { .. }), "{no_location}");
    }

    #[tokio::test]
    async fn another_host_must_be_allowed_and_gets_no_credentials() {
        let other = redirecting(str::to_owned).await;
        let server = redirecting(str::to_owned).await;
        let mut config = testing::config(&server.url());
        let stated = format!("{}ui-1.0.0.tgz", other.url());
        let refused = testing::open(&config).tarball(&stated, &Authorization::Lent).await.unwrap_err();
        assert!(matches!(&refused, UpstreamError::TarballHost { to } if **to == other.address.to_string()), "{refused}");
        assert!(other.heard().is_empty() && server.heard().is_empty());
        config.tarball_hosts = vec![other.address.to_string().parse().unwrap()];
        assert!(read_all(testing::open(&config).tarball(&stated, &Authorization::Lent).await.unwrap()).await.is_ok());
        assert_eq!(other.heard()[0].header("authorization"), None);
    }

    #[tokio::test]
    async fn too_long_too_short_or_too_slow_tarball_is_an_error() {
        let head = |length: &str| format!("HTTP/1.1 200 OK\r\n{length}\r\n").into_bytes();
        let server = ScriptedServer::plain(move |heard, _| match heard.line().split(' ').nth(1) {
            Some("/said") => ServerAction::Hang([head("content-length: 1001\r\n"), b"x".to_vec()].concat()),
            Some("/unsaid") => ServerAction::Hang([head(""), vec![b'x'; 1_001]].concat()),
            Some("/short") => ServerAction::Close([head("content-length: 10\r\n"), b"x".to_vec()].concat()),
            _ => ServerAction::Hang([head("content-length: 10\r\n"), b"x".to_vec()].concat()),
        })
        .await;
        let registry = testing::registry(&server.url());
        let too_large = registry.tarball("said", &Authorization::None).await.unwrap_err();
        assert!(matches!(too_large, UpstreamError::TooLarge { limit: 1_000, .. }), "{too_large}");
        let error_of =
            async |path: &str| read_all(registry.tarball(path, &Authorization::None).await.unwrap()).await.unwrap_err();
        assert!(matches!(error_of("unsaid").await, UpstreamError::TooLarge { limit: 1_000, .. }));
        assert!(matches!(error_of("short").await, UpstreamError::Broken { .. }));
        let mut silent = testing::impatient_registry(&server.url()).tarball("silent", &Authorization::None).await.unwrap();
        assert_eq!(silent.next().await.unwrap().unwrap(), "x");
        assert!(matches!(silent.next().await.unwrap_err(), UpstreamError::TimedOut { .. }));
    }
}
