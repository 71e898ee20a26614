//! Tokens and enrolment. Contract, section 6, "Tokens".

use bellwire_proto::{
    CreatedToken, Device, DeviceId, Enroll, Enrolled, NewToken, Page, Token, TokenId,
};
use futures_core::Stream;
use http::Method;

use super::{Controller, Error, page};

/// Tokens, for admins; and enrolment, for the holder of a join token.
impl Controller {
    /// Makes a token. Its text is in this answer and nowhere else.
    ///
    /// # Errors
    /// Refused as `bad_request` when the role has no such member, `forbidden` to all but admins.
    pub async fn create_token(&self, new: &NewToken) -> Result<CreatedToken, Error> {
        self.call(Method::POST, ["v1", "tokens"]).json(new).fetch().await
    }

    /// All tokens by id, fetched page by page, without their secrets. An error is the last item.
    pub fn all_tokens(&self) -> impl Stream<Item = Result<Token, Error>> + Send + use<> {
        let hub = self.clone();
        page::items(None, move |after| {
            let hub = hub.clone();
            async move {
                let call = hub.call(Method::GET, ["v1", "tokens"]).query("after", after);
                call.fetch::<Page<Token>>().await
            }
        })
    }

    /// The token that this client sends; on an open hub, and without one, that of an admin without an id.
    ///
    /// # Errors
    /// Refused as `unauthenticated` when it does not work.
    pub async fn own_token(&self) -> Result<Token, Error> {
        self.call(Method::GET, ["v1", "tokens", "self"]).fetch().await
    }

    /// Revokes a token: its streams end.
    ///
    /// # Errors
    /// Refused as `not_found`, or as `conflict` for the last `admin` token.
    pub async fn revoke_token(&self, token: TokenId) -> Result<(), Error> {
        self.call(Method::DELETE, ["v1", "tokens", token.as_str()]).send().await.map(drop)
    }

    /// Enrols a device; to be called with a join token.
    ///
    /// # Errors
    /// Refused as `conflict` when the name is taken, `unauthenticated` when the join token does not work.
    pub async fn enroll(&self, enroll: &Enroll) -> Result<Enrolled, Error> {
        self.call(Method::POST, ["v1", "enroll"]).json(enroll).fetch().await
    }

    /// Approves a device that enrolled and waits for it.
    ///
    /// # Errors
    /// Refused as `unknown_device`, among others.
    pub async fn approve(&self, device: &DeviceId) -> Result<Device, Error> {
        let segments = ["v1", "devices", device.as_str(), "approve"];
        self.call(Method::POST, segments).fetch().await
    }
}
