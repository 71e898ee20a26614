//! A token that works, as far as requests need it.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};

use bellwire_core::record::TokenRecord;
use bellwire_proto::{Actor, DeviceId, Role, Timestamp, Token, TokenId};
use subtle::ConstantTimeEq;

use crate::jwt::{JwtGrant, KeyTag};
use crate::store::{StoredToken, Visible};

/// A token, as far as a request needs it. What only the API shows of it is in the store.
#[derive(Debug)]
pub(crate) struct Grant {
    /// Its public name.
    pub(crate) id: TokenId,
    pub(super) digest: [u8; 32],
    /// What it allows.
    pub(crate) role: Role,
    /// The devices that exist for it.
    pub(crate) visible: Visible,
    pub(crate) expires_at: Option<Timestamp>,
    /// Its device has yet to be approved.
    pub(crate) pending: bool,
    /// The minute since the epoch in which its use was last noted.
    pub(super) used_minute: AtomicU64,
    /// Of a JWT, which the store does not have.
    jwt: Option<Box<OfJwt>>,
    /// As the audit log names it, once that was asked for.
    actor: OnceLock<Arc<Actor>>,
}

/// What a JWT has instead of a row in the store.
#[derive(Debug)]
struct OfJwt {
    /// Who it is, over all tokens of that subject.
    subject: String,
    issued_at: Option<Timestamp>,
    /// The key by which it was verified.
    key: KeyTag,
}

impl Grant {
    pub(super) fn new(stored: StoredToken) -> Self {
        let StoredToken { record, pending } = stored;
        let TokenRecord { id, digest, role, expires_at, last_used_at, .. } = record;
        let used_minute = AtomicU64::new(last_used_at.map_or(0, minute));
        let visible = visible(&role, id.as_str());
        let actor = OnceLock::new();
        Self { id, digest, role, visible, expires_at, pending, used_minute, jwt: None, actor }
    }

    /// That of a device's token which is remembered.
    pub(super) fn of_device(
        id: TokenId,
        digest: [u8; 32],
        device: DeviceId,
        expires_at: Option<Timestamp>,
        used_minute: u64,
    ) -> Self {
        Self {
            id,
            digest,
            role: Role::Device(device),
            visible: Visible::all(),
            expires_at,
            pending: false,
            used_minute: AtomicU64::new(used_minute),
            jwt: None,
            actor: OnceLock::new(),
        }
    }

    /// That of a JWT. Its id is made of its digest, for its streams and for what is remembered; it is never shown.
    pub(super) fn of_jwt(digest: [u8; 32], given: JwtGrant, pending: bool) -> Self {
        let JwtGrant { subject, role, issued_at, expires_at, key } = given;
        Self {
            id: jwt_id(&digest),
            digest,
            visible: visible(&role, &subject),
            role,
            expires_at: Some(expires_at),
            pending,
            used_minute: AtomicU64::new(0),
            jwt: Some(Box::new(OfJwt { subject, issued_at, key })),
            actor: OnceLock::new(),
        }
    }

    /// Who holds it: the id of a token, or the subject of a JWT.
    pub(crate) fn name(&self) -> &str {
        self.jwt.as_ref().map_or_else(|| self.id.as_str(), |jwt| jwt.subject.as_str())
    }

    /// Who that is, for the audit log.
    pub(crate) fn actor(&self) -> Arc<Actor> {
        let actor = || Actor { token: Some(self.name().to_owned()), role: Some(self.role.name()) };
        self.actor.get_or_init(|| Arc::new(actor())).clone()
    }

    /// Of a JWT: by which key it was verified.
    pub(crate) fn key(&self) -> Option<KeyTag> {
        self.jwt.as_ref().map(|jwt| jwt.key)
    }

    /// Of a JWT: the object that the API shows of it.
    pub(crate) fn jwt_token(&self) -> Option<Token> {
        let jwt = self.jwt.as_ref()?;
        Some(Token {
            id: None,
            role: self.role.clone(),
            expires_at: self.expires_at,
            note: Some(jwt.subject.clone()),
            created_at: jwt.issued_at,
            created_by: None,
            last_used_at: None,
        })
    }

    /// Whether its secret has this digest. Takes the same time whatever the answer is.
    pub(crate) fn has(&self, secret_digest: &[u8; 32]) -> bool {
        self.digest.ct_eq(secret_digest).into()
    }

    /// Whether it is the same token still.
    pub(crate) fn is(&self, other: &Self) -> bool {
        self.id == other.id && self.has(&other.digest)
    }

    /// It is used in this minute; whether that is news.
    pub(super) fn used_in(&self, minute: u64) -> bool {
        self.used_minute.swap(minute, Ordering::Relaxed) != minute
    }

    /// Whether it has neither expired nor been used up.
    pub(crate) fn works(&self, now: Timestamp) -> bool {
        let used_up = self.role.join().is_some_and(|join| join.uses_left == Some(0));
        !used_up && self.expires_at.is_none_or(|at| at > now)
    }
}

fn visible(role: &Role, name: &str) -> Visible {
    match role {
        Role::Operator(scope) => Visible::by(scope.select.clone()).read_by(name),
        _ => Visible::all(),
    }
}

/// What a JWT is remembered by.
pub(super) fn jwt_id(digest: &[u8; 32]) -> TokenId {
    let mut random = [0; 10];
    random.iter_mut().zip(digest).for_each(|(to, from)| *to = *from);
    TokenId::from_random(random)
}

/// The minute of a time, since the epoch.
pub(crate) fn minute(at: Timestamp) -> u64 {
    at.unix_ms() / 60_000
}
