//! Connections that the hub opens itself: to an authority of ACME (`acme/exchange.rs`), and to the issuer of JWTs
//! (`jwt/fetch.rs`). HTTP/1.1, a connection for each request, because they are few: a pool would save nothing. No proxy.
//!
//! Neither times nor the length of a body are bounded here: that is the caller's.

use std::error::Error as StdError;
use std::path::Path;
use std::sync::Arc;

use bytes::Bytes;
use http::{HeaderValue, Request, Response, Uri, header};
use http_body::Body;
use hyper::body::Incoming;
use hyper::client::conn::http1;
use hyper::rt::{Read, Write};
use hyper_util::rt::TokioIo;
use rustls::{ClientConfig, RootCertStore};
use rustls_pki_types::ServerName;
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;

use super::pair;

/// Why a request failed.
pub(crate) type Cause = Box<dyn StdError + Send + Sync>;

/// Sends requests to servers that these roots vouch for.
#[derive(Clone)]
pub(crate) struct Outgoing {
    connector: TlsConnector,
}

impl Outgoing {
    /// By the authorities of a PEM file alone, or those of the system.
    pub(crate) fn new(authorities: Option<&Path>) -> Result<Self, String> {
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

    /// Sends a request with an absolute URL, over TLS unless that is `http://`, and gives its answer with a body that is
    /// still to be read.
    pub(crate) async fn send<B>(&self, mut request: Request<B>) -> Result<Response<Incoming>, Cause>
    where
        B: Body<Data = Bytes> + Send + Unpin + 'static,
        B::Error: Into<Cause>,
    {
        let uri = request.uri().clone();
        let authority = uri.authority().ok_or("a URL without a host")?.clone();
        let plain = uri.scheme_str() == Some("http");
        let host = authority.host().trim_matches(['[', ']']).to_owned();
        let port = authority.port_u16().unwrap_or(if plain { 80 } else { 443 });
        let socket = TcpStream::connect((host.as_str(), port)).await?;
        let path = uri.path_and_query().map_or("/", |path| path.as_str());
        *request.uri_mut() = path.parse::<Uri>()?;
        request.headers_mut().insert(header::HOST, HeaderValue::from_str(authority.as_str())?);
        if plain {
            return exchange(TokioIo::new(socket), request).await;
        }
        let stream = self.connector.connect(ServerName::try_from(host)?, socket).await?;
        exchange(TokioIo::new(stream), request).await
    }
}

async fn exchange<T, B>(stream: T, request: Request<B>) -> Result<Response<Incoming>, Cause>
where
    T: Read + Write + Send + Unpin + 'static,
    B: Body<Data = Bytes> + Send + Unpin + 'static,
    B::Error: Into<Cause>,
{
    let (mut sender, connection) = http1::handshake(stream).await?;
    // It ends with the answer, or with the sender.
    tokio::spawn(connection);
    Ok(sender.send_request(request).await?)
}

impl std::fmt::Debug for Outgoing {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Outgoing").finish_non_exhaustive()
    }
}
