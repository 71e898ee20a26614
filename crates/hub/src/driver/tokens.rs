//! Requests about tokens, enrolment and the certificates of clients, and who calls. Contract, section 6, "Tokens".

use std::collections::HashSet;
use std::sync::Arc;
use std::time::Duration;

use bellwire_core::record::TokenRecord;
use bellwire_core::{Answer, Enrolment};
use bellwire_proto::{
    AuditObject, CreatedToken, Credential, DeviceId, NewToken, Problem, SecretText, TokenId,
};

use super::{Driver, entropy, unexpected};
use crate::audit::verb;
use crate::auth::{Auth, Grant, minute, secret_digest};
use crate::internal;
use crate::jwt::Jwt;
use crate::metrics::Metrics;
use crate::quota::Quota;

impl Driver {
    /// Makes a token; its text is in what this gives, and nowhere else.
    ///
    /// # Errors
    /// `store_unavailable`, `internal` when the system gives no entropy.
    pub async fn make_token(
        &self,
        new: NewToken,
        created_by: Option<String>,
    ) -> Result<CreatedToken, Problem> {
        let credential = self.new_credential()?;
        let (now, from) = (self.now(), self.expiry_time());
        let record = TokenRecord {
            id: credential.id(),
            digest: secret_digest(&credential),
            role: new.role,
            expires_at: new.expires_in_s.map(|s| from.after(Duration::from_secs(s))),
            note: new.note,
            created_at: now,
            created_by,
            last_used_at: None,
        };
        let info = record.to_token();
        self.create_token(record).await?;
        Ok(CreatedToken { info, token: SecretText(credential) })
    }

    /// Stores a new token.
    ///
    /// # Errors
    /// `store_unavailable`.
    async fn create_token(&self, record: TokenRecord) -> Result<(), Problem> {
        let device = record.role.device().cloned();
        let object = AuditObject { device, ..AuditObject::token(record.id) };
        let entry = self.record(verb::TOKEN_CREATE, object, 201);
        let reply = self.request_recorded(entry, |hub, request, now| {
            hub.handle_create_token(request, record, now)
        });
        self.done(reply.await?)
    }

    /// Revokes a token: its streams end.
    ///
    /// # Errors
    /// `not_found`, `conflict` for the last `admin` token, `store_unavailable`.
    pub async fn revoke_token(&self, token: TokenId) -> Result<(), Problem> {
        let record = self.record(verb::TOKEN_REVOKE, AuditObject::token(token), 204);
        let reply = self.request_recorded(record, |hub, request, now| {
            hub.handle_revoke_token(request, token, now)
        });
        self.done(reply.await?)
    }

    /// A device enrols; whether an operator must approve it first.
    ///
    /// # Errors
    /// `unauthenticated` when the join token does not work, `conflict` when the name is taken, `store_unavailable`.
    pub async fn enroll(&self, enrolment: Enrolment) -> Result<bool, Problem> {
        let (device, token) = (Some(enrolment.device.clone()), Some(enrolment.token));
        let object = AuditObject { device, token, ..AuditObject::default() };
        // It may replace the device's labels.
        self.hold_labels_for(enrolment.device.clone(), |driver| async move {
            let record = driver.record(verb::DEVICE_ENROLL, object, 201);
            let reply = driver.request_recorded(record, |hub, request, now| {
                hub.handle_enroll(request, enrolment, now)
            });
            match reply.await? {
                Answer::Enrolled { pending } => Ok(pending),
                answer => Err(unexpected(&answer)),
            }
        })
        .await
    }

    /// A device that waits for it may work from now on.
    ///
    /// # Errors
    /// `unknown_device`, `store_unavailable`.
    pub async fn approve(&self, device: DeviceId) -> Result<(), Problem> {
        let record = self.record(verb::DEVICE_APPROVE, AuditObject::device(&device), 200);
        let reply = self
            .request_recorded(record, |hub, request, now| hub.handle_approve(request, device, now));
        match reply.await? {
            Answer::Device { .. } => Ok(()),
            answer => Err(unexpected(&answer)),
        }
    }

    /// These certificates of clients are revoked: none of them opens anything any more, and what is open of them ends.
    pub(crate) fn certificates_revoked(&self, revoked: HashSet<TokenId>) {
        self.credentials_ended(self.runtime.auth.revoke_certificates(revoked));
    }

    /// These certificates or JWTs do not work any more, and what is open of them ends.
    pub(crate) fn credentials_ended(&self, ended: Vec<TokenId>) {
        for id in ended {
            self.runtime.with_core(|core, now| core.hub.handle_credential_ended(id, now));
        }
    }

    /// Whether a caller needs no token.
    pub fn is_open(&self) -> bool {
        self.runtime.auth.is_open()
    }

    /// A new token, which is not stored yet.
    ///
    /// # Errors
    /// `internal` when the system gives no entropy.
    pub(crate) fn new_credential(&self) -> Result<Credential, Problem> {
        let id = entropy().map_err(internal::failed)?;
        let secret = entropy().map_err(internal::failed)?;
        Ok(Credential::from_random(id, secret))
    }

    pub(crate) fn auth(&self) -> &Auth {
        &self.runtime.auth
    }

    /// The same, and tokens of another issuer work.
    pub(crate) fn reading(self, jwt: Option<Jwt>) -> Self {
        Self { jwt: jwt.map(Arc::new), ..self }
    }

    pub(crate) fn jwt(&self) -> Option<&Arc<Jwt>> {
        self.jwt.as_ref()
    }

    /// What is counted.
    pub(crate) fn metrics(&self) -> &Metrics {
        &self.runtime.metrics
    }

    /// What callers may ask for.
    pub(crate) fn quota(&self) -> &Arc<Quota> {
        &self.runtime.quota
    }

    /// A token is used. When that was is stored to the minute, and nothing is promised of it.
    pub(crate) fn token_used(&self, grant: &Grant) {
        self.runtime.put_uses(self.runtime.auth.used(grant, minute(self.now())));
    }

    /// Waits until all uses of tokens so far are in the store, as far as it still writes.
    pub(crate) async fn settle_uses(&self) {
        self.runtime.write_uses();
        // What is stored is shown after a failure too.
        let _failed = self.settle().await;
    }
}
