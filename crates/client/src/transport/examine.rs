//! The way to a server step by step, for a person who looks for what is in the way. [`Examination`] connects as the pool does,
//! with the same parts, and shows each step by itself; nothing of it is used for requests.

use std::fmt;
use std::future::Future;
use std::net::SocketAddr;

use http::Uri;
use tokio::time::timeout;

use super::connector::{Connector, Dialer, Phase, Stream};
use super::proxy::{Proxy, error_of_way, is_tls, port};
use super::settings::Cause;
use super::{TransportError, TransportStage, dial, trust, tunnel};

/// A step of an [`Examination`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum ExaminedStep {
    /// The name of the server, or of the proxy, is looked up.
    Name,
    /// The server, or the proxy, accepts a connection.
    Tcp,
    /// The proxy opens a tunnel to the server, after it has authenticated this machine if it requires that.
    Tunnel,
    /// The server's certificate is trusted.
    Tls,
}

/// Connects to a server, one step after the other. See [`HttpTransport::examine`](super::HttpTransport::examine).
pub struct Examination {
    connector: Connector,
    uri: Uri,
    next: Option<ExaminedStep>,
    addresses: Vec<SocketAddr>,
    stream: Option<Stream>,
}

impl Examination {
    pub(super) fn new(connector: Connector, uri: Uri) -> Self {
        Self { connector, uri, next: Some(ExaminedStep::Name), addresses: Vec::new(), stream: None }
    }

    /// The step that comes next; `None` after the last one, and after one that failed.
    pub fn upcoming(&self) -> Option<ExaminedStep> {
        self.next
    }

    /// Takes the next step, and returns what it found, for people.
    ///
    /// # Errors
    /// Why it failed, as for a request. It is then the last step.
    pub async fn advance(&mut self) -> Result<String, TransportError> {
        let Some(step) = self.next.take() else {
            return Err(TransportError::new(TransportStage::Connect, "there is no further step"));
        };
        let connector = self.connector.clone();
        let proxy = connector.proxy(&self.uri);
        let within = connector.connect_timeout();
        let dialer = connector.dialer();
        let found = match step {
            ExaminedStep::Name => self.name(&connector, proxy).await,
            ExaminedStep::Tcp => self.tcp(&connector, proxy).await,
            ExaminedStep::Tunnel => {
                within_time(within, self.tunnel(proxy, &dialer), &dialer, proxy).await
            }
            ExaminedStep::Tls => {
                dialer.set(Phase::Tls);
                within_time(within, self.tls(&connector, proxy), &dialer, proxy).await
            }
        }?;
        let is_tls = is_tls(&self.uri);
        self.next = match step {
            ExaminedStep::Name => Some(ExaminedStep::Tcp),
            ExaminedStep::Tcp if is_tls && proxy.is_some() => Some(ExaminedStep::Tunnel),
            ExaminedStep::Tcp | ExaminedStep::Tunnel if is_tls => Some(ExaminedStep::Tls),
            ExaminedStep::Tcp | ExaminedStep::Tunnel | ExaminedStep::Tls => None,
        };
        Ok(found)
    }

    /// Host and port of the first hop.
    fn peer<'a>(&'a self, proxy: Option<&'a Proxy>) -> (&'a str, u16) {
        match proxy {
            Some(proxy) => (&proxy.host, proxy.port),
            None => (self.uri.host().unwrap_or_default(), port(&self.uri)),
        }
    }

    async fn name(
        &mut self,
        connector: &Connector,
        proxy: Option<&Proxy>,
    ) -> Result<String, TransportError> {
        let (host, port) = self.peer(proxy);
        let addresses = dial::addresses(connector.resolver(), host, port).await;
        self.addresses = addresses.map_err(|error| unreachable(proxy, error))?;
        let shown: Vec<_> = self.addresses.iter().map(|at| at.ip().to_string()).collect();
        Ok(shown.join(", "))
    }

    async fn tcp(
        &mut self,
        connector: &Connector,
        proxy: Option<&Proxy>,
    ) -> Result<String, TransportError> {
        let addresses = std::mem::take(&mut self.addresses);
        let socket = timeout(connector.connect_timeout(), dial::connect(addresses)).await;
        let socket = socket.unwrap_or_else(|_| Err("no answer".into()));
        let socket = socket.map_err(|error| unreachable(proxy, error))?;
        let shown = socket.peer_addr().map(|at| at.to_string()).unwrap_or_default();
        self.stream = Some(Box::new(socket));
        Ok(shown)
    }

    async fn tunnel(
        &mut self,
        proxy: Option<&Proxy>,
        dialer: &Dialer<'_>,
    ) -> Result<String, TransportError> {
        let Some(proxy) = proxy else { return Ok(String::new()) };
        // A connection of its own: an exchange may need several.
        self.stream = None;
        let authority = format!("{}:{}", self.uri.host().unwrap_or_default(), port(&self.uri));
        let stream = tunnel::open(dialer, proxy, &authority).await?;
        self.stream = Some(stream);
        let by = proxy
            .auth
            .scheme()
            .map(|scheme| format!(", after it accepted user and password by {scheme}"));
        Ok(format!("the proxy connects to {authority}{}", by.unwrap_or_default()))
    }

    async fn tls(
        &mut self,
        connector: &Connector,
        proxy: Option<&Proxy>,
    ) -> Result<String, TransportError> {
        let Some(stream) = self.stream.take() else { return Ok(String::new()) };
        let host = self.uri.host().unwrap_or_default();
        let certificate = connector.examined_tls(stream, host, proxy).await?;
        let issuer = certificate.as_ref().and_then(trust::issuer);
        Ok(match issuer {
            Some(issuer) => format!("the certificate is trusted; issued by {issuer:?}"),
            None => "the certificate is trusted; its issuer has no name".to_owned(),
        })
    }
}

impl fmt::Debug for Examination {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Examination").field("next", &self.next).finish_non_exhaustive()
    }
}

async fn within_time(
    within: std::time::Duration,
    step: impl Future<Output = Result<String, TransportError>>,
    dialer: &Dialer<'_>,
    proxy: Option<&Proxy>,
) -> Result<String, TransportError> {
    timeout(within, step).await.unwrap_or_else(|_| Err(dialer.too_slow(proxy, within)))
}

fn unreachable(proxy: Option<&Proxy>, error: Cause) -> TransportError {
    error_of_way(proxy, TransportStage::Connect, true, error)
}
