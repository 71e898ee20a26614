//! Requests to the authority. There are some fifteen every other month.

use std::future::Future;
use std::path::Path;
use std::pin::Pin;

use bellwire_proto::limits::{ACME_ANSWER_BYTES_MAX, ACME_REQUEST_TIMEOUT};
use bytes::Bytes;
use http::Request;
use http_body_util::Limited;
use instant_acme::{BodyWrapper, BytesResponse, Error, HttpClient};

use super::super::outgoing::{Cause, Outgoing};

/// Sends requests to authorities that these roots vouch for.
pub(super) struct Exchange(Outgoing);

impl Exchange {
    /// By the authorities of a PEM file alone, or those of the system.
    pub(super) fn new(authorities: Option<&Path>) -> Result<Self, String> {
        Outgoing::new(authorities).map(Self)
    }
}

impl HttpClient for Exchange {
    fn request(
        &self,
        request: Request<BodyWrapper<Bytes>>,
    ) -> Pin<Box<dyn Future<Output = Result<BytesResponse, Error>> + Send>> {
        let outgoing = self.0.clone();
        Box::pin(async move {
            let host = request.uri().host().unwrap_or_default().to_owned();
            let answer = tokio::time::timeout(ACME_REQUEST_TIMEOUT, send(outgoing, request)).await;
            let answer = answer.unwrap_or_else(|_| Err("no answer in time".into()));
            answer.map_err(|cause| Error::Other(format!("{host} cannot be asked: {cause}").into()))
        })
    }
}

async fn send(
    outgoing: Outgoing,
    request: Request<BodyWrapper<Bytes>>,
) -> Result<BytesResponse, Cause> {
    if request.uri().scheme_str() != Some("https") {
        return Err("ACME is spoken over https alone (RFC 8555, section 6.1)".into());
    }
    let response = outgoing.send(request).await?;
    Ok(response.map(|body| Limited::new(body, ACME_ANSWER_BYTES_MAX)).into())
}
