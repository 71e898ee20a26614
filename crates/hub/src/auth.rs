//! Who is calling: the token of a request, and what is remembered of tokens. Contract, section 6.
//!
//! A token is looked up by its public id, and the SHA-256 of its secret compared in constant time; the secret itself is
//! kept nowhere. What was looked up is remembered in a bounded cache. The core reports each change of a token when it is
//! on disk and before it is answered ([`Auth::changed`]): from the answer on a revoked token works nowhere. Who a caller is and which role may
//! call which route is in `http/caller.rs` and `http/rules.rs`; streams that are open when their token ends are closed by the core and the feed.

use std::collections::{HashMap, HashSet};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock};

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use bellwire_core::AccessChange;
use bellwire_proto::limits::TOKENS_REMEMBERED_MAX;
use bellwire_proto::{Credential, DeviceId, Role, Timestamp, Token, TokenId};
use http::HeaderMap;
use http::header::AUTHORIZATION;
use ring::digest::{SHA256, digest};
use subtle::ConstantTimeEq;
use tokio::sync::broadcast;

use crate::jwt::{Jwt, JwtGrant, KeyTag};
use crate::store::{Store, StoreError, StoredToken, Visible};
use crate::tls::ClientIdentity;

/// What is remembered of tokens, and whether the hub is open.
#[derive(Debug)]
pub(crate) struct Auth {
    closed: AtomicBool,
    /// Rises with each change, so that what was read before one is not remembered after it.
    changes: AtomicU64,
    remembered: Mutex<Remembered>,
    /// For requests that wait. One that falls behind looks at everything again.
    announced: broadcast::Sender<AccessChange>,
    /// The certificates of clients that are revoked.
    revoked: RwLock<HashSet<TokenId>>,
}

/// Changes that a waiting request may be behind.
const ANNOUNCED_MAX: usize = 64;

/// Two generations: what is used in a generation is kept for the next, what is not is forgotten with it.
#[derive(Debug, Default)]
struct Remembered {
    young: HashMap<TokenId, Arc<Grant>>,
    old: HashMap<TokenId, Arc<Grant>>,
}

/// A token that works, as far as a request needs it.
#[derive(Debug)]
pub(crate) struct Grant {
    /// Its public name.
    pub(crate) id: TokenId,
    digest: [u8; 32],
    /// The object that the API shows of it.
    pub(crate) token: Token,
    /// The devices that exist for it.
    pub(crate) visible: Visible,
    /// Its device has yet to be approved.
    pub(crate) pending: bool,
    /// The minute since the epoch in which its use was last noted.
    used_minute: AtomicU64,
    /// Of a JWT, which the store does not have.
    jwt: Option<OfJwt>,
}

/// What a JWT has instead of a row in the store.
#[derive(Debug)]
struct OfJwt {
    /// Who it is, over all tokens of that subject.
    subject: String,
    /// The key by which it was verified.
    key: KeyTag,
}

/// What a request came with. Without `Debug`: either is a secret.
pub(crate) enum Presented {
    /// A token of this hub.
    Token(Credential),
    /// Maybe one of another issuer.
    Jwt(String),
}

impl Auth {
    pub(crate) fn new(closed: bool) -> Self {
        Self {
            closed: AtomicBool::new(closed),
            changes: AtomicU64::new(0),
            remembered: Mutex::default(),
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
        let mut remembered = self.remembered();
        // Under the lock: what is read now is remembered only if nothing changed meanwhile.
        self.changes.fetch_add(1, Ordering::AcqRel);
        match change {
            AccessChange::Closed => self.closed.store(true, Ordering::Release),
            AccessChange::Token(token) => remembered.forget(token),
            AccessChange::Device(device) => remembered.forget_device(device),
        }
        drop(remembered);
        // Nobody may be waiting.
        drop(self.announced.send(change.clone()));
    }

    /// The changes from now on.
    pub(crate) fn changes(&self) -> broadcast::Receiver<AccessChange> {
        self.announced.subscribe()
    }

    /// A token by its id, whether it works or not.
    ///
    /// # Errors
    /// When the store cannot be read.
    pub(crate) async fn grant(
        &self,
        store: &dyn Store,
        id: TokenId,
    ) -> Result<Option<Arc<Grant>>, StoreError> {
        if let Some(grant) = self.remembered().find(id) {
            return Ok(Some(grant));
        }
        let changes = self.changes.load(Ordering::Acquire);
        let Some(stored) = store.token(id).await? else { return Ok(None) };
        let grant = Arc::new(Grant::new(stored));
        let mut remembered = self.remembered();
        if self.changes.load(Ordering::Acquire) == changes {
            remembered.add(grant.clone());
        }
        Ok(Some(grant))
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
    ) -> Result<Option<Arc<Grant>>, StoreError> {
        let mut digested = [0; 32];
        digested.copy_from_slice(digest(&SHA256, text.as_bytes()).as_ref());
        let found = self.remembered().find(jwt_id(&digested));
        if let Some(grant) = found
            && grant.has(&digested)
            && grant.key().is_some_and(|key| jwt.has(key))
        {
            return Ok(Some(grant));
        }
        let given = match jwt.grant_now(text, now).await {
            Ok(given) => given,
            Err(why) => {
                tracing::debug!(%why, "a JWT was refused");
                return Ok(None);
            }
        };
        let changes = self.changes.load(Ordering::Acquire);
        let pending = match given.role.device() {
            Some(device) => {
                store.device(device.clone()).await?.is_some_and(|row| row.record.pending)
            }
            None => false,
        };
        let grant = Arc::new(Grant::of_jwt(digested, given, pending));
        let mut remembered = self.remembered();
        if self.changes.load(Ordering::Acquire) == changes {
            remembered.add(grant.clone());
        }
        Ok(Some(grant))
    }

    fn remembered(&self) -> MutexGuard<'_, Remembered> {
        // Nothing panics while it is held.
        self.remembered.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Remembered {
    fn find(&mut self, id: TokenId) -> Option<Arc<Grant>> {
        if let Some(grant) = self.young.get(&id) {
            return Some(grant.clone());
        }
        let grant = self.old.remove(&id)?;
        self.add(grant.clone());
        Some(grant)
    }

    fn add(&mut self, grant: Arc<Grant>) {
        if self.young.len() >= TOKENS_REMEMBERED_MAX / 2 {
            self.old = std::mem::take(&mut self.young);
        }
        self.young.insert(grant.id, grant);
    }

    fn forget(&mut self, token: &TokenId) {
        self.young.remove(token);
        self.old.remove(token);
    }

    fn forget_device(&mut self, device: &DeviceId) {
        let of_others =
            |_: &TokenId, grant: &mut Arc<Grant>| grant.token.role.device() != Some(device);
        self.young.retain(of_others);
        self.old.retain(of_others);
    }
}

impl Grant {
    fn new(stored: StoredToken) -> Self {
        let record = stored.record;
        let select = match &record.role {
            Role::Operator(scope) => scope.select.clone(),
            _ => None,
        };
        let used = record.last_used_at.map_or(0, minute);
        Self {
            id: record.id,
            digest: record.digest,
            token: record.to_token(),
            visible: Visible::by(select),
            pending: stored.pending,
            used_minute: AtomicU64::new(used),
            jwt: None,
        }
    }

    /// That of a JWT. Its id is made of its digest, for its streams and for what is remembered; nobody is shown it.
    fn of_jwt(digest: [u8; 32], given: JwtGrant, pending: bool) -> Self {
        let id = jwt_id(&digest);
        let select = match &given.role {
            Role::Operator(scope) => scope.select.clone(),
            _ => None,
        };
        let token = Token {
            id: None,
            role: given.role,
            expires_at: Some(given.expires_at),
            note: Some(given.subject.clone()),
            created_at: given.issued_at,
            created_by: None,
            last_used_at: None,
        };
        Self {
            id,
            digest,
            token,
            visible: Visible::by(select),
            pending,
            used_minute: AtomicU64::new(0),
            jwt: Some(OfJwt { subject: given.subject, key: given.key }),
        }
    }

    /// Who holds it: the id of a token, or the subject of a JWT.
    pub(crate) fn name(&self) -> &str {
        self.jwt.as_ref().map_or_else(|| self.id.as_str(), |jwt| jwt.subject.as_str())
    }

    /// Of a JWT: by which key it was verified.
    pub(crate) fn key(&self) -> Option<KeyTag> {
        self.jwt.as_ref().map(|jwt| jwt.key)
    }

    /// Whether its secret has this digest. Takes the same time whatever the answer is.
    pub(crate) fn has(&self, secret_digest: &[u8; 32]) -> bool {
        self.digest.ct_eq(secret_digest).into()
    }

    /// Whether it is the same token still.
    pub(crate) fn is(&self, other: &Self) -> bool {
        self.id == other.id && self.digest == other.digest
    }

    /// It is used in this minute; whether that is news.
    pub(crate) fn used_in(&self, minute: u64) -> bool {
        self.used_minute.swap(minute, Ordering::Relaxed) != minute
    }

    /// Whether it has neither expired nor been used up.
    pub(crate) fn works(&self, now: Timestamp) -> bool {
        let used_up = self.token.role.join().is_some_and(|join| join.uses_left == Some(0));
        !used_up && self.token.expires_at.is_none_or(|at| at > now)
    }
}

/// SHA-256 of a token's secret: what a store keeps of it.
pub(crate) fn secret_digest(credential: &Credential) -> [u8; 32] {
    let mut bytes = [0; 32];
    bytes.copy_from_slice(digest(&SHA256, credential.secret()).as_ref());
    bytes
}

/// What a JWT is remembered by.
fn jwt_id(digest: &[u8; 32]) -> TokenId {
    let mut random = [0; 10];
    random.iter_mut().zip(digest).for_each(|(to, from)| *to = *from);
    TokenId::from_random(random)
}

/// The minute of a time, since the epoch.
pub(crate) fn minute(at: Timestamp) -> u64 {
    at.unix_ms() / 60_000
}

/// The one token of a request: `Authorization: Bearer`, or Basic with any user and the token as password (RFC 6750,
/// section 2.1; RFC 7617).
pub(crate) fn credential(headers: &HeaderMap) -> Option<Presented> {
    let mut values = headers.get_all(AUTHORIZATION).iter();
    let (Some(value), None) = (values.next(), values.next()) else { return None };
    let (scheme, rest) = value.to_str().ok()?.split_once(' ')?;
    let rest = rest.trim_matches(' ');
    if scheme.eq_ignore_ascii_case("bearer") {
        Some(presented(rest))
    } else if scheme.eq_ignore_ascii_case("basic") {
        let pair = String::from_utf8(STANDARD.decode(rest).ok()?).ok()?;
        Some(presented(pair.split_once(':')?.1))
    } else {
        None
    }
}

/// Whether a request has a user and password, and the password is no token.
pub(crate) fn is_for_another_server(headers: &HeaderMap) -> bool {
    let is_basic =
        headers.get(AUTHORIZATION).and_then(|value| value.to_str().ok()).is_some_and(|text| {
            text.split_once(' ').is_some_and(|(scheme, _)| scheme.eq_ignore_ascii_case("basic"))
        });
    is_basic && !matches!(credential(headers), Some(Presented::Token(_)))
}

fn presented(text: &str) -> Presented {
    text.parse().map_or_else(|_| Presented::Jwt(text.to_owned()), Presented::Token)
}

#[cfg(test)]
mod tests {
    use super::*;
    use bellwire_core::record::TokenRecord;
    use http::HeaderValue;

    fn parsed(values: &[&str]) -> Option<Credential> {
        let mut headers = HeaderMap::new();
        for value in values {
            headers.append(AUTHORIZATION, HeaderValue::from_str(value).unwrap());
        }
        match credential(&headers)? {
            Presented::Token(token) => Some(token),
            Presented::Jwt(_) => None,
        }
    }

    #[test]
    fn a_token_comes_as_bearer_or_as_the_password_of_any_user_and_in_no_other_way() {
        let token = Credential::from_random([1; 10], [2; 32]);
        let text = token.expose();
        let basic = |pair: &str| format!("Basic {}", STANDARD.encode(pair));
        for good in [
            format!("Bearer {text}"),
            format!("bearer  {text} "),
            basic(&format!("anyone:{text}")),
            basic(&format!(":{text}")).replace("Basic", "BASIC"),
        ] {
            assert_eq!(parsed(&[&good]), Some(token.clone()), "{good}");
        }
        for bad in [
            text.clone(),
            format!("Token {text}"),
            format!("Bearer {text}x"),
            "Bearer".to_owned(),
            "Basic !".to_owned(),
            basic(&text),
            basic(&format!("a:b:{text}")),
        ] {
            assert_eq!(parsed(&[&bad]), None, "{bad}");
        }
        let bearer = format!("Bearer {text}");
        assert_eq!(parsed(&[&bearer, &bearer]), None, "twice is none");
    }

    fn grant(n: u32, role: Role) -> Arc<Grant> {
        let mut random = [0; 10];
        random[..4].copy_from_slice(&n.to_be_bytes());
        let record = TokenRecord {
            id: TokenId::from_random(random),
            digest: [0; 32],
            role,
            expires_at: None,
            note: None,
            created_at: Timestamp::from_unix_ms(0),
            created_by: None,
            last_used_at: None,
        };
        Arc::new(Grant::new(StoredToken { record, pending: false }))
    }

    #[test]
    fn what_is_remembered_of_tokens_is_bounded_and_what_is_used_stays() {
        let mut remembered = Remembered::default();
        let used = grant(0, Role::Metrics);
        remembered.add(used.clone());
        for n in 1..5 * TOKENS_REMEMBERED_MAX as u32 {
            remembered.add(grant(n, Role::Metrics));
            assert!(remembered.find(used.id).is_some(), "after {n}");
            assert!(remembered.young.len() + remembered.old.len() <= TOKENS_REMEMBERED_MAX);
        }
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
        ];
        grants.iter().for_each(|grant| auth.remembered().add(grant.clone()));
        auth.changed(&AccessChange::Token(grants[0].id));
        auth.changed(&AccessChange::Device(device));
        let left = grants.map(|grant| auth.remembered().find(grant.id).is_some());
        assert_eq!(left, [false, false, false, true]);
        assert!(auth.is_open());
        auth.changed(&AccessChange::Closed);
        assert!(!auth.is_open());
    }
}
