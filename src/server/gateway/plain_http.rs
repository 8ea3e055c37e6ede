//! Forwards plain HTTP requests to other hosts, without hop-by-hop headers. Nothing is stored or parsed.

use http::header::{self, HeaderName, HeaderValue};
use http::request::Parts;
use http::{HeaderMap, Request, Uri};
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use tokio::time::timeout;

use crate::net::{Body, ClientError, Deadlines, RequestBody, via};
use crate::server::error::RequestError;
use crate::server::gateway::destination::Destination;
use crate::server::gateway::egress::HttpUpstreamRoute;
use crate::server::passthrough;
use crate::server::response::{self, Reply};

const OF_ONE_HOP: [HeaderName; 8] = [
    header::CONNECTION,
    header::PROXY_AUTHORIZATION,
    header::TE,
    header::TRAILER,
    header::TRANSFER_ENCODING,
    header::UPGRADE,
    HeaderName::from_static("keep-alive"),
    HeaderName::from_static("proxy-connection"),
];

/// Sends a request to `destination` over `way` and returns the response.
pub(crate) async fn forward(
    way: HttpUpstreamRoute,
    destination: &Destination,
    head: Parts,
    body: RequestBody,
) -> Result<Reply, RequestError> {
    match way {
        HttpUpstreamRoute::Direct(stream) => {
            send(TokioIo::new(stream), destination, request(destination, head, body, TargetForm::Origin)?).await
        }
        HttpUpstreamRoute::Relayed(mut relayed) => {
            let mut request = request(destination, head, body, TargetForm::Absolute)?;
            request.headers_mut().extend(relayed.authorization.take().map(|value| (header::PROXY_AUTHORIZATION, value)));
            send(relayed.into_io(), destination, request).await
        }
    }
}

async fn send<S>(stream: S, destination: &Destination, request: Request<RequestBody>) -> Result<Reply, RequestError>
where
    S: hyper::rt::Read + hyper::rt::Write + Send + Unpin + 'static,
{
    let deadlines = Deadlines::default();
    let unreached = |cause| RequestError::Unreachable { place: destination.to_string(), cause };
    let broken = |error: hyper::Error| {
        unreached(ClientError::Broken { detail: error.to_string().into(), lost: error.is_incomplete_message() })
    };
    let (mut sender, connection) = http1::handshake(stream).await.map_err(broken)?;
    // Ends with the response body, whose silence is bounded.
    tokio::spawn(connection);
    let sent = timeout(deadlines.headers, sender.send_request(request)).await;
    let answer = sent.map_err(|_| unreached(ClientError::TimedOut { after: deadlines.headers }))?.map_err(broken)?;
    let (mut head, body) = answer.into_parts();
    head.headers = passthrough::end_to_end_headers(head.headers, &OF_ONE_HOP);
    head.headers.append(header::VIA, via());
    Ok(response::forwarded(http::Response::from_parts(head, Body::forwarded(body, deadlines.idle))))
}

/// The form of a request target: for a server, or for a proxy.
#[derive(Clone, Copy)]
enum TargetForm {
    Origin,
    Absolute,
}

/// Builds the request with exactly one `Host` header.
fn request(
    destination: &Destination,
    head: Parts,
    body: RequestBody,
    form: TargetForm,
) -> Result<Request<RequestBody>, RequestError> {
    let path = head.uri.path_and_query().map_or("/", |path| path.as_str());
    let host = if destination.port == 80 { destination.host.to_string() } else { destination.to_string() };
    let target = if matches!(form, TargetForm::Absolute) { format!("http://{host}{path}") } else { path.to_owned() };
    let uri: Uri = target.parse().map_err(|_| RequestError::Headers("invalid target path".to_owned()))?;
    let host = HeaderValue::from_str(&host).map_err(|_| RequestError::Headers("invalid target host".to_owned()))?;
    let mut headers: HeaderMap = passthrough::end_to_end_headers(head.headers, &OF_ONE_HOP);
    headers.insert(header::HOST, host);
    headers.append(header::VIA, via());
    let mut request = Request::new(body);
    *request.method_mut() = head.method;
    *request.uri_mut() = uri;
    *request.headers_mut() = headers;
    Ok(request)
}
