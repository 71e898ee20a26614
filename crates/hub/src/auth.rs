//! Who is calling: the token of a request, and what is remembered of tokens. Contract, section 6, "Tokens".
//!
//! A token is looked up by its public id, and the SHA-256 of its secret compared in constant time; the secret itself is
//! kept nowhere. What was looked up is remembered ([`remembered`]), so that a request looks once. The core reports each change of a
//! token when it is on disk and before it is answered ([`Auth::changed`]): from the answer on a revoked token works nowhere. What a
//! request comes with is read by [`presented`], when tokens were used is noted in [`uses`]. Who a caller is and which role may
//! call which route is in `http/caller.rs` and `http/rules.rs`; streams that are open when their token ends are closed by the core and the feed.

use std::collections::HashSet;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, PoisonError, RwLock};

use bellwire_core::AccessChange;
use bellwire_proto::{Credential, Timestamp, TokenId};
use ring::digest::{SHA256, digest};
use tokio::sync::broadcast;

use crate::jwt::Jwt;
use crate::store::{Store, StoreError};
use crate::tls::ClientIdentity;
use grant::jwt_id;
use remembered::Remembered;
use uses::{Uses, Written};

mod grant;
mod presented;
mod remembered;
mod uses;

pub(crate) use grant::{Grant, minute};
pub(crate) use presented::{Presented, credential, is_for_another_server};
pub(crate) use remembered::AsOf;
pub(crate) use uses::USES_WRITTEN_AFTER;

/// What is remembered of tokens, and whether the hub is open.
#[derive(Debug)]
pub(crate) struct Auth {
    closed: AtomicBool,
    remembered: Remembered,
    uses: Uses,
    /// For requests that wait. One that falls behind looks at everything again.
    announced: broadcast::Sender<AccessChange>,
    /// The certificates of clients that are revoked.
    revoked: RwLock<HashSet<TokenId>>,
}

/// Changes that a waiting request may be behind.
const ANNOUNCED_MAX: usize = 64;

/// A token that was looked up, and when: as long as no token has changed since, it need not be looked up again.
#[derive(Debug, Clone)]
pub(crate) struct TokenLookup {
    pub(crate) grant: Arc<Grant>,
    pub(crate) as_of: AsOf,
}

impl Auth {
    pub(crate) fn new(closed: bool) -> Self {
        Self {
            closed: AtomicBool::new(closed),
            remembered: Remembered::default(),
            uses: Uses::default(),
            announced: broadcast::Sender::new(ANNOUNCED_MAX),
            revoked: RwLock::default(),
        }
    }

    /// Whether a caller needs no token.
    pub(crate) fn is_open(&self) -> bool {
        !self.closed.load(Ordering::Acquire)
    }

    /// These certificates of clients are revoked, and no others; gives those that were not before.
    pub(crate) fn revoke_certificates(&self, revoked: HashSet<TokenId>) -> Vec<TokenId> {
        let mut present = self.revoked.write().unwrap_or_else(PoisonError::into_inner);
        let new = revoked.difference(&present).copied().collect();
        *present = revoked;
        new
    }

    /// Whether a certificate of a client is good still.
    pub(crate) fn accepts(&self, identity: &ClientIdentity, now: Timestamp) -> bool {
        let revoked = self.revoked.read().unwrap_or_else(PoisonError::into_inner);
        identity.expires_at > now && !revoked.contains(&identity.id)
    }

    /// Forgets what has changed.
    pub(crate) fn changed(&self, change: &AccessChange) {
        self.remembered.change(|remembered| match change {
            AccessChange::Closed => self.closed.store(true, Ordering::Release),
            AccessChange::Token(token) => remembered.forget(*token),
            AccessChange::Device(device) => remembered.forget_device(device),
        });
        // Maybe no request waits.
        drop(self.announced.send(change.clone()));
    }

    /// The changes from now on.
    pub(crate) fn changes(&self) -> broadcast::Receiver<AccessChange> {
        self.announced.subscribe()
    }

    /// Whether no token has changed since.
    pub(crate) fn is_latest(&self, as_of: AsOf) -> bool {
        self.remembered.latest() == as_of
    }

    /// A token by its id, whether it works or not.
    ///
    /// # Errors
    /// When the store cannot be read.
    pub(crate) async fn grant(
        &self,
        store: &dyn Store,
        id: TokenId,
    ) -> Result<Option<TokenLookup>, StoreError> {
        let as_of = self.remembered.latest();
        if let Some(grant) = self.remembered.find(id) {
            return Ok(Some(TokenLookup { grant, as_of }));
        }
        let Some(stored) = store.token(id).await? else { return Ok(None) };
        let grant = Arc::new(Grant::new(stored));
        self.remembered.add(&grant, as_of);
        Ok(Some(TokenLookup { grant, as_of }))
    }

    /// A JWT, verified now or before by a key that is in use still; `None` when it does not work.
    ///
    /// # Errors
    /// When the store cannot be read.
    pub(crate) async fn jwt(
        &self,
        store: &dyn Store,
        jwt: &Jwt,
        text: &str,
        now: Timestamp,
    ) -> Result<Option<TokenLookup>, StoreError> {
        let mut digested = [0; 32];
        digested.copy_from_slice(digest(&SHA256, text.as_bytes()).as_ref());
        let as_of = self.remembered.latest();
        if let Some(grant) = self.remembered.find(jwt_id(&digested))
            && grant.has(&digested)
            && grant.key().is_some_and(|key| jwt.has(key))
        {
            return Ok(Some(TokenLookup { grant, as_of }));
        }
        let given = match jwt.grant_now(text, now).await {
            Ok(given) => given,
            Err(why) => {
                tracing::debug!(%why, "a JWT was refused");
                return Ok(None);
            }
        };
        let as_of = self.remembered.latest();
        let pending = match given.role.device() {
            Some(device) => {
                store.device(device.clone()).await?.is_some_and(|row| row.record.pending)
            }
            None => false,
        };
        let grant = Arc::new(Grant::of_jwt(digested, given, pending));
        self.remembered.add(&grant, as_of);
        Ok(Some(TokenLookup { grant, as_of }))
    }

    /// A token is used in this minute since the epoch. Gives the uses that are to be written now.
    pub(crate) fn used(&self, grant: &Grant, minute: u64) -> Written {
        // A JWT is no row of the store.
        if grant.key().is_some() || !grant.used_in(minute) {
            return Vec::new();
        }
        self.remembered.used(grant.id, minute);
        self.uses.note(grant.id, minute)
    }

    /// What has yet to be written of when tokens were used.
    pub(crate) fn uses(&self) -> &Uses {
        &self.uses
    }
}

/// SHA-256 of a token's secret: what a store keeps of it.
pub(crate) fn secret_digest(credential: &Credential) -> [u8; 32] {
    let mut bytes = [0; 32];
    bytes.copy_from_slice(digest(&SHA256, credential.secret()).as_ref());
    bytes
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::StoredToken;
    use bellwire_core::record::TokenRecord;
    use bellwire_proto::{DeviceId, Role};

    pub(super) fn grant(n: u32, role: Role) -> Arc<Grant> {
        let mut random = [0; 10];
        random[..4].copy_from_slice(&n.to_be_bytes());
        let record = TokenRecord {
            id: TokenId::from_random(random),
            digest: [7; 32],
            role,
            expires_at: Some(Timestamp::from_unix_ms(1_000_000)),
            note: None,
            created_at: Timestamp::from_unix_ms(0),
            created_by: None,
            last_used_at: None,
        };
        Arc::new(Grant::new(StoredToken { record, pending: false }))
    }

    #[test]
    fn a_change_forgets_the_token_or_all_of_a_device() {
        let auth = Auth::new(false);
        let device: DeviceId = "d".parse().unwrap();
        let grants = [
            grant(1, Role::Metrics),
            grant(2, Role::Device(device.clone())),
            grant(3, Role::Device(device.clone())),
            grant(4, Role::Metrics),
            grant(5, Role::Device("e".parse().unwrap())),
        ];
        let remembered = &auth.remembered;
        grants.iter().for_each(|grant| remembered.add(grant, remembered.latest()));
        auth.changed(&AccessChange::Token(grants[0].id));
        auth.changed(&AccessChange::Device(device));
        let left = grants.map(|grant| remembered.find(grant.id).is_some());
        assert_eq!(left, [false, false, false, true, true]);
        assert!(auth.is_open());
        auth.changed(&AccessChange::Closed);
        assert!(!auth.is_open());
    }
}
