//! Limits the memory of request bodies, and decompresses them.

use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::header::{CONTENT_ENCODING, HeaderMap, TRANSFER_ENCODING};

use crate::firewall;
use crate::net::headers::list;
use crate::net::{FairLimit, FairPermit, MemoryBudget, body};
use crate::server::error::RequestError;

/// Memory for request bodies until they are forwarded. Above it, bodies wait, except that the oldest body of each client may grow
/// up to the second limit. Thus a client with slow bodies does not prevent others from publishing.
const BODY_MEMORY: u64 = 64 << 20;
const MAX_BODY_MEMORY: u64 = 512 << 20;

/// Bodies up to this size never wait for memory. npm audits are smaller, and a connection may buffer more anyway.
const SMALL_BODY: u64 = 256 << 10;

/// How long a body waits for memory. Shorter than clients wait for a response.
const MEMORY_TIMEOUT: Duration = Duration::from_secs(20);

/// The limits that all request bodies share.
pub(crate) struct RequestBodies {
    pub(crate) memory: Arc<MemoryBudget>,
    /// Limits bodies being decompressed and parsed.
    readers: Arc<FairLimit>,
}

/// A decompressed body with its permit. The permits limit how many exist at once.
struct Permitted {
    bytes: Bytes,
    _permit: FairPermit,
}

impl AsRef<[u8]> for Permitted {
    fn as_ref(&self) -> &[u8] {
        &self.bytes
    }
}

impl RequestBodies {
    pub(crate) fn new() -> Self {
        let cores = std::thread::available_parallelism().map_or(2, std::num::NonZero::get);
        let memory = MemoryBudget::for_clients(BODY_MEMORY, MAX_BODY_MEMORY, SMALL_BODY, MEMORY_TIMEOUT);
        Self { memory, readers: FairLimit::new(firewall::heavy(cores)) }
    }

    /// Decompresses a body to at most `limit` bytes. Limits how many exist at once, each until its last reader drops it.
    pub(crate) async fn decompress(
        &self,
        bytes: Bytes,
        headers: &HeaderMap,
        limit: u64,
        client: IpAddr,
    ) -> Result<Bytes, RequestError> {
        let coding = list(headers, &CONTENT_ENCODING).map(|coding| coding.trim().to_ascii_lowercase());
        let is_packed = match coding.as_deref() {
            None | Some("" | "identity") => false,
            Some("gzip" | "x-gzip") => true,
            Some(_) => return Err(RequestError::Coding),
        };
        let permit = self.readers.acquire(client).await;
        let reading = tokio::task::spawn_blocking(move || {
            let bytes = if is_packed { body::gunzip(&bytes, limit)? } else { bytes };
            Ok(Bytes::from_owner(Permitted { bytes, _permit: permit }))
        });
        reading.await.map_err(|error| {
            tracing::error!(error = %error, "decompression task failed");
            RequestError::TaskFailed
        })?
    }
}

/// Rejects transfer encodings other than `chunked`, whose payload would be misread.
pub(crate) fn check_transfer_coding(headers: &HeaderMap) -> Result<(), RequestError> {
    match list(headers, &TRANSFER_ENCODING) {
        Some(coding) if !coding.trim().eq_ignore_ascii_case("chunked") => Err(RequestError::Transfer),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write as _;

    use http::HeaderValue;

    use super::*;

    const CLIENT: IpAddr = IpAddr::V4(std::net::Ipv4Addr::LOCALHOST);

    fn coded(name: http::HeaderName, coding: &'static str) -> HeaderMap {
        HeaderMap::from_iter([(name, HeaderValue::from_static(coding))])
    }

    #[tokio::test]
    async fn body_is_decompressed_within_its_limit() {
        let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::default());
        encoder.write_all(&[b' '; 64]).unwrap();
        let packed = Bytes::from(encoder.finish().unwrap());
        let bodies = RequestBodies::new();
        let (gzip, brotli, none) = (coded(CONTENT_ENCODING, "GZIP"), coded(CONTENT_ENCODING, "br"), HeaderMap::new());
        let read = async |bytes: &Bytes, headers, limit| bodies.decompress(bytes.clone(), headers, limit, CLIENT).await;
        assert_eq!(*read(&packed, &gzip, 64).await.unwrap(), [b' '; 64]);
        assert!(matches!(read(&packed, &gzip, 63).await, Err(RequestError::Body(_))));
        assert_eq!(read(&packed, &none, 64).await.unwrap(), packed);
        assert!(matches!(read(&packed, &brotli, 64).await, Err(RequestError::Coding)));
    }

    #[test]
    fn only_chunked_transfer_coding_is_accepted() {
        assert!(check_transfer_coding(&HeaderMap::new()).is_ok());
        assert!(check_transfer_coding(&coded(TRANSFER_ENCODING, "Chunked")).is_ok());
        assert!(matches!(check_transfer_coding(&coded(TRANSFER_ENCODING, "gzip, chunked")), Err(RequestError::Transfer)));
    }
}
