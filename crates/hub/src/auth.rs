//! Who is calling: the token of a request, and what is remembered of tokens. Contract, section 6.
//!
//! A token is looked up by its public id, and the SHA-256 of its secret compared in constant time; the secret itself is
//! kept nowhere. What was looked up is remembered in a bounded cache. The core reports each change of a token when it is
//! on disk and before it is answered ([`Auth::changed`]): from the answer on a revoked token works nowhere. Which role may
//! call which route is in `http/rules.rs`; streams that are open when their token ends are closed by the core and the feed.

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use bellwire_core::{AccessChange, TokenUse};
use bellwire_proto::limits::TOKENS_REMEMBERED_MAX;
use bellwire_proto::{
    Action, Code, Credential, DeviceId, Problem, Role, RoleName, Timestamp, Token, TokenId,
};
use http::HeaderMap;
use http::header::AUTHORIZATION;
use ring::digest::{SHA256, digest};
use subtle::ConstantTimeEq;

use crate::driver::Driver;
use crate::store::{StoredDevice, StoredToken, Visible};

/// What is remembered of tokens, and whether the hub is open.
#[derive(Debug)]
pub(crate) struct Auth {
    closed: AtomicBool,
    /// Rises with each change, so that what was read before one is not remembered after it.
    changes: AtomicU64,
    remembered: Mutex<Remembered>,
}

/// Two generations: what is used in a generation is kept for the next, what is not is forgotten with it.
#[derive(Debug, Default)]
struct Remembered {
    young: HashMap<TokenId, Arc<Grant>>,
    old: HashMap<TokenId, Arc<Grant>>,
}

/// A token that works, as far as a request needs it.
#[derive(Debug)]
pub(crate) struct Grant {
    id: TokenId,
    digest: [u8; 32],
    token: Token,
    visible: Visible,
    pending: bool,
    /// The minute since the epoch in which its use was last noted.
    used_minute: AtomicU64,
}

/// The caller of a request.
#[derive(Debug, Clone)]
pub(crate) enum Caller {
    /// Nobody in particular, on an open hub: everything is allowed.
    Anonymous,
    /// The holder of a token.
    Holder(Arc<Grant>),
}

impl Auth {
    pub(crate) fn new(closed: bool) -> Self {
        Self {
            closed: AtomicBool::new(closed),
            changes: AtomicU64::new(0),
            remembered: Mutex::default(),
        }
    }

    /// Whether a caller needs no token.
    pub(crate) fn is_open(&self) -> bool {
        !self.closed.load(Ordering::Acquire)
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
    }

    async fn grant(&self, driver: &Driver, id: TokenId) -> Result<Option<Arc<Grant>>, Problem> {
        if let Some(grant) = self.remembered().find(id) {
            return Ok(Some(grant));
        }
        let changes = self.changes.load(Ordering::Acquire);
        let Some(stored) = driver.store().token(id).await? else { return Ok(None) };
        let grant = Arc::new(Grant::new(stored));
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
        let of_others = |_: &TokenId, grant: &mut Arc<Grant>| {
            grant.token.role.device() != Some(device)
        };
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
        }
    }

    fn has(&self, secret_digest: &[u8; 32]) -> bool {
        self.digest.ct_eq(secret_digest).into()
    }

    fn works(&self, now: Timestamp) -> bool {
        let used_up = self.token.role.join().is_some_and(|join| join.uses_left == Some(0));
        !used_up && self.token.expires_at.is_none_or(|at| at > now)
    }
}

impl Caller {
    /// Who sent a request with these headers.
    ///
    /// # Errors
    /// `unauthenticated`, the same whatever the reason is; `pending`; `store_unavailable`.
    pub(crate) async fn of(driver: &Driver, headers: &HeaderMap) -> Result<Self, Problem> {
        let auth = driver.auth();
        if !headers.contains_key(AUTHORIZATION) {
            return if auth.is_open() { Ok(Self::Anonymous) } else { Err(unauthenticated()) };
        }
        let credential = credential(headers).ok_or_else(unauthenticated)?;
        let found = auth.grant(driver, credential.id()).await?;
        // As much work for a token that is not there.
        let given = secret_digest(&credential);
        let grant = found.filter(|grant| grant.has(&given)).ok_or_else(unauthenticated)?;
        let now = driver.now();
        if !grant.works(now) {
            return Err(unauthenticated());
        }
        if grant.pending {
            let detail = "this device has enrolled, and an operator has yet to approve it";
            return Err(Problem::new(Code::Pending, detail));
        }
        if grant.used_minute.swap(minute(now), Ordering::Relaxed) != minute(now) {
            driver.token_used(grant.id, Timestamp::from_unix_ms(minute(now) * 60_000));
        }
        Ok(Self::Holder(grant))
    }

    /// Checks that the caller is still allowed what it was when its request came: for a stream, after it was opened and
    /// would end with its token.
    ///
    /// # Errors
    /// `unauthenticated`, `store_unavailable`.
    pub(crate) async fn still(&self, driver: &Driver) -> Result<(), Problem> {
        let allowed = match self {
            Self::Anonymous => driver.auth().is_open(),
            Self::Holder(grant) => {
                let now = driver.auth().grant(driver, grant.id).await?;
                now.is_some_and(|now| now.digest == grant.digest && now.works(driver.now()))
            }
        };
        if allowed { Ok(()) } else { Err(unauthenticated()) }
    }

    /// The id of its token: the value of `created_by`, and the owner of an `Idempotency-Key`.
    pub(crate) fn name(&self) -> Option<String> {
        self.id().map(|id| id.to_string())
    }

    /// The id of its token.
    pub(crate) fn id(&self) -> Option<TokenId> {
        match self {
            Self::Anonymous => None,
            Self::Holder(grant) => Some(grant.id),
        }
    }

    /// What a stream of its ends with.
    pub(crate) fn token_use(&self) -> Option<TokenUse> {
        match self {
            Self::Anonymous => None,
            Self::Holder(grant) => {
                Some(TokenUse { id: grant.id, expires_at: grant.token.expires_at })
            }
        }
    }

    /// The token object; on an open hub that of an admin without a name.
    pub(crate) fn token(&self) -> Token {
        match self {
            Self::Holder(grant) => grant.token.clone(),
            Self::Anonymous => Token {
                id: None,
                role: Role::Admin,
                expires_at: None,
                note: None,
                created_at: None,
                created_by: None,
                last_used_at: None,
            },
        }
    }

    /// What it may do.
    pub(crate) fn role(&self) -> &Role {
        match self {
            Self::Anonymous => &Role::Admin,
            Self::Holder(grant) => &grant.token.role,
        }
    }

    /// The name of its role.
    pub(crate) fn role_name(&self) -> RoleName {
        self.role().name()
    }

    /// The devices that exist for it.
    pub(crate) fn visible(&self) -> Visible {
        match self {
            Self::Anonymous => Visible::all(),
            Self::Holder(grant) => grant.visible.clone(),
        }
    }

    /// Checks that devices are there for it, where that depends on their labels.
    ///
    /// # Errors
    /// `unknown_device` for the first that is not, as if it did not exist; `store_unavailable`.
    pub(crate) async fn sees(&self, driver: &Driver, devices: &[DeviceId]) -> Result<(), Problem> {
        let visible = self.visible();
        if visible.is_all() {
            return Ok(());
        }
        let rows = driver.store().devices_named(devices.to_vec()).await?;
        let seen = |row: &Option<StoredDevice>| {
            row.as_ref().is_some_and(|row| visible.sees(&row.record.labels))
        };
        let hidden = devices.iter().zip(&rows).find(|(_, row)| !seen(row));
        hidden.map_or(Ok(()), |(device, _)| Err(bellwire_core::unknown_device(device)))
    }

    /// Checks that it may send this action.
    ///
    /// # Errors
    /// `forbidden`.
    pub(crate) fn may_send(&self, action: &Action) -> Result<(), Problem> {
        match self.role() {
            Role::Operator(scope) if !scope.allows(action) => {
                let detail = format!("this token does not allow the action {action}");
                Err(Problem::new(Code::Forbidden, detail))
            }
            _ => Ok(()),
        }
    }
}

/// SHA-256 of a token's secret: what a store keeps of it.
pub(crate) fn secret_digest(credential: &Credential) -> [u8; 32] {
    let mut bytes = [0; 32];
    bytes.copy_from_slice(digest(&SHA256, credential.secret()).as_ref());
    bytes
}

fn minute(at: Timestamp) -> u64 {
    at.unix_ms() / 60_000
}

/// The refusal of whoever has no token that works.
pub(crate) fn unauthenticated() -> Problem {
    Problem::new(Code::Unauthenticated, "this needs a token that is valid")
}

/// The one token of a request: `Authorization: Bearer`, or Basic with any user and the token as password (RFC 6750,
/// section 2.1; RFC 7617).
fn credential(headers: &HeaderMap) -> Option<Credential> {
    let mut values = headers.get_all(AUTHORIZATION).iter();
    let (Some(value), None) = (values.next(), values.next()) else { return None };
    let (scheme, rest) = value.to_str().ok()?.split_once(' ')?;
    let rest = rest.trim_matches(' ');
    if scheme.eq_ignore_ascii_case("bearer") {
        rest.parse().ok()
    } else if scheme.eq_ignore_ascii_case("basic") {
        let pair = String::from_utf8(STANDARD.decode(rest).ok()?).ok()?;
        pair.split_once(':')?.1.parse().ok()
    } else {
        None
    }
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
        credential(&headers)
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
