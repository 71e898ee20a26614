//! Requests to the authority: HTTP/1.1 over TLS, a connection for each. There are some fifteen every other month, so a pool
//! would save nothing.

use std::error::Error as StdError;
use std::future::Future;
use std::path::Path;
use std::pin::Pin;
use std::sync::Arc;

use bellwire_proto::limits::{ACME_ANSWER_BYTES_MAX, ACME_REQUEST_TIMEOUT};
use bytes::Bytes;
use http::{HeaderValue, Request, Uri, header};
use http_body_util::Limited;
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use instant_acme::{BodyWrapper, BytesResponse, Error, HttpClient};
use rustls::{ClientConfig, RootCertStore};
use rustls_pki_types::ServerName;
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;

use super::super::pair;

type Cause = Box<dyn StdError + Send + Sync>;

/// Sends requests to authorities that these roots vouch for.
pub(super) struct Exchange {
    connector: TlsConnector,
}

impl Exchange {
    /// By the authorities of a PEM file alone, or those of the system.
    pub(super) fn new(authorities: Option<&Path>) -> Result<Self, String> {
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let builder = ClientConfig::builder_with_provider(provider.clone())
            .with_safe_default_protocol_versions()
            .map_err(|error| error.to_string())?;
        let config = match authorities {
            Some(path) => {
                let mut roots = RootCertStore::empty();
                for authority in pair::chain(path).map_err(|error| error.to_string())? {
                    roots.add(authority).map_err(|error| format!("{}: {error}", path.display()))?;
                }
                builder.with_root_certificates(roots).with_no_client_auth()
            }
            None => {
                let verifier = rustls_platform_verifier::Verifier::new(provider)
                    .map_err(|error| format!("the system's authorities cannot be read: {error}"))?;
                builder
                    .dangerous()
                    .with_custom_certificate_verifier(Arc::new(verifier))
                    .with_no_client_auth()
            }
        };
        Ok(Self { connector: TlsConnector::from(Arc::new(config)) })
    }
}

impl HttpClient for Exchange {
    fn request(
        &self,
        request: Request<BodyWrapper<Bytes>>,
    ) -> Pin<Box<dyn Future<Output = Result<BytesResponse, Error>> + Send>> {
        let connector = self.connector.clone();
        Box::pin(async move {
            let host = request.uri().host().unwrap_or_default().to_owned();
            let answer = tokio::time::timeout(ACME_REQUEST_TIMEOUT, send(connector, request)).await;
            let answer = answer.unwrap_or_else(|_| Err("no answer in time".into()));
            answer.map_err(|cause| Error::Other(format!("{host} cannot be asked: {cause}").into()))
        })
    }
}

async fn send(
    connector: TlsConnector,
    mut request: Request<BodyWrapper<Bytes>>,
) -> Result<BytesResponse, Cause> {
    let uri = request.uri().clone();
    let authority = uri.authority().ok_or("a URL without a host")?.clone();
    if uri.scheme_str() != Some("https") {
        return Err("ACME is spoken over https alone (RFC 8555, section 6.1)".into());
    }
    let host = authority.host().trim_matches(['[', ']']).to_owned();
    let socket = TcpStream::connect((host.as_str(), authority.port_u16().unwrap_or(443))).await?;
    let stream = connector.connect(ServerName::try_from(host)?, socket).await?;
    let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await?;
    // It ends with the answer, or with the sender.
    tokio::spawn(connection);
    let path = uri.path_and_query().map_or("/", |path| path.as_str());
    *request.uri_mut() = path.parse::<Uri>()?;
    request.headers_mut().insert(header::HOST, HeaderValue::from_str(authority.as_str())?);
    let response = sender.send_request(request).await?;
    Ok(response.map(|body| Limited::new(body, ACME_ANSWER_BYTES_MAX)).into())
}
