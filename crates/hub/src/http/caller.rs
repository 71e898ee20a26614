//! Who sent a request, and what exists for them. Contract, section 6, "Tokens".
//!
//! Here the credential of a request becomes a caller; which route a role may call is in `rules.rs`, what is remembered of
//! tokens in `auth.rs`.

use std::borrow::Cow;
use std::pin::pin;
use std::sync::Arc;

use bellwire_core::{AccessChange, TokenUse};
use bellwire_proto::{
    Action, Code, DeviceId, Problem, Role, RoleName, Seconds, Timestamp, Token, TokenId,
};
use http::header::AUTHORIZATION;
use http::request::Parts;

use crate::auth::{Presented, TokenLookup, credential, is_for_another_server, secret_digest};
use crate::driver::Driver;
use crate::listen::RequestOrigin;
use crate::store::{StoredDevice, Visible};
use crate::tls::ClientIdentity;

/// The caller of a request.
#[derive(Debug, Clone)]
pub(in crate::http) enum Caller {
    /// Any caller of an open hub: everything is allowed.
    Anonymous,
    /// The same, by a listener that is open whatever the hub is.
    OfOpenListener,
    /// The holder of a client's certificate, and the devices that exist for it.
    Certified(Arc<ClientIdentity>, Visible),
    /// The holder of a token.
    Holder(TokenLookup),
}

impl Caller {
    /// Who sent a request with this head. Where no credential is needed, a user and password that are no token are none: they are
    /// for a reverse proxy before the hub, which passes them on.
    ///
    /// # Errors
    /// `unauthenticated`, the same whatever the reason is; `pending`; `store_unavailable`.
    pub(in crate::http) async fn of(driver: &Driver, head: &Parts) -> Result<Self, Problem> {
        let (auth, headers) = (driver.auth(), &head.headers);
        let from = head.extensions.get::<RequestOrigin>();
        let open_listener = from.is_some_and(|from| from.open);
        let open_here = auth.is_open() || open_listener;
        let knows_jwts = driver.jwt().is_some();
        if !headers.contains_key(AUTHORIZATION)
            || open_here && is_for_another_server(headers, knows_jwts)
        {
            if let Some(identity) = from.and_then(|from| from.identity.as_ref()) {
                if !auth.accepts(identity, driver.expiry_time()) {
                    return Err(unauthenticated());
                }
                let select = match &identity.role {
                    Role::Operator(scope) => scope.select.clone(),
                    _ => None,
                };
                let visible = Visible::by(select).read_by(&certificate_name(identity));
                return Ok(Self::Certified(identity.clone(), visible));
            }
            if open_listener {
                return Ok(Self::OfOpenListener);
            }
            return if auth.is_open() { Ok(Self::Anonymous) } else { Err(unauthenticated()) };
        }
        let now = driver.expiry_time();
        let found = match credential(headers).ok_or_else(unauthenticated)? {
            Presented::Token(credential) => {
                let found = auth.grant(driver.store(), credential.id()).await?;
                // As much work for a token that is not there.
                let given = secret_digest(&credential);
                found.filter(|found| found.grant.has(&given))
            }
            Presented::Jwt(text) => match driver.jwt() {
                Some(jwt) => auth.jwt(driver.store(), jwt, &text, now).await?,
                None => None,
            },
        };
        let found = found.ok_or_else(unauthenticated)?;
        let grant = &*found.grant;
        if !grant.works(now) {
            return Err(unauthenticated());
        }
        if grant.pending {
            let detail = "this device has enrolled, and an operator has yet to approve it";
            return Err(Problem::new(Code::Pending, detail));
        }
        driver.token_used(grant);
        Ok(Self::Holder(found))
    }

    /// Checks that the caller is still allowed what it was when its request came: for a stream, after it was opened and
    /// would end with its token.
    ///
    /// # Errors
    /// `unauthenticated`, `store_unavailable`.
    pub(in crate::http) async fn still(&self, driver: &Driver) -> Result<(), Problem> {
        let allowed = match self {
            Self::Anonymous => driver.auth().is_open(),
            Self::OfOpenListener => true,
            Self::Certified(identity, _) => driver.auth().accepts(identity, driver.expiry_time()),
            Self::Holder(TokenLookup { grant, as_of }) => match grant.key() {
                Some(key) => {
                    let known = driver.jwt().is_some_and(|jwt| jwt.has(key));
                    known && grant.works(driver.expiry_time())
                }
                // No token has changed since.
                None if driver.auth().is_latest(*as_of) => grant.works(driver.expiry_time()),
                None => {
                    let now = driver.auth().grant(driver.store(), grant.id).await?;
                    now.is_some_and(|TokenLookup { grant: now, .. }| {
                        now.is(grant) && now.works(driver.expiry_time())
                    })
                }
            },
        };
        if allowed { Ok(()) } else { Err(unauthenticated()) }
    }

    /// The same for what lasts, which from now on ends with the key of a JWT too.
    ///
    /// # Errors
    /// Those of [`Caller::still`]; `rate_limited` when there are too many to remember.
    pub(in crate::http) async fn stays(&self, driver: &Driver) -> Result<(), Problem> {
        // Before the look at the key: one that goes in between is noticed by either.
        if let Self::Holder(TokenLookup { grant, .. }) = self
            && let (Some(key), Some(jwt)) = (grant.key(), driver.jwt())
        {
            let expires_at = grant.expires_at.unwrap_or_default();
            if !jwt.is_used(grant.id, key, expires_at, driver.expiry_time()) {
                let detail = "too many JWTs are in use at once; try again later";
                return Err(Problem::new(Code::RateLimited, detail));
            }
        }
        self.still(driver).await
    }

    /// Waits for an answer about a device, for as long as the caller is allowed to have it: until its token ends, or a label
    /// change moves the device out of its scope.
    ///
    /// # Errors
    /// `unauthenticated`, `unknown_device`, `store_unavailable`; those of the answer.
    pub(in crate::http) async fn waits<T>(
        &self,
        driver: &Driver,
        device: &DeviceId,
        answer: impl Future<Output = Result<T, Problem>>,
    ) -> Result<T, Problem> {
        let mut changes = driver.auth().changes();
        let mut answer = pin!(answer);
        loop {
            self.stays(driver).await?;
            self.sees(driver, std::slice::from_ref(device)).await?;
            loop {
                let change = tokio::select! {
                    biased;
                    change = changes.recv() => change,
                    answer = &mut answer => return answer,
                };
                // One that fell behind may have missed any.
                if change.map_or(true, |change| self.depends_on(&change, device)) {
                    break;
                }
            }
        }
    }

    /// Whether this change may end what the caller waits for.
    fn depends_on(&self, change: &AccessChange, waited_for: &DeviceId) -> bool {
        let credential = self.token_use().map(|used| used.id);
        match change {
            AccessChange::Closed => credential.is_none(),
            AccessChange::Token(ended) => credential == Some(*ended),
            AccessChange::Device(device) => {
                self.role().device() == Some(device)
                    || (!self.visible().is_all() && device == waited_for)
            }
        }
    }

    /// The id of its token, or role and name of its certificate: the value of `created_by`.
    pub(in crate::http) fn name(&self) -> Option<Cow<'_, str>> {
        match self {
            Self::Anonymous | Self::OfOpenListener => None,
            Self::Certified(identity, _) => Some(certificate_name(identity).into()),
            Self::Holder(TokenLookup { grant, .. }) => Some(grant.name().into()),
        }
    }

    /// The owner of an `Idempotency-Key`: two authorities may give one name to different people, who must not be answered for each
    /// other.
    pub(in crate::http) fn key_owner(&self) -> Option<String> {
        match self {
            Self::Certified(identity, _) => {
                Some(format!("{} by {}", certificate_name(identity), identity.authority))
            }
            _ => self.name().map(Cow::into_owned),
        }
    }

    /// The id of its token.
    pub(in crate::http) fn id(&self) -> Option<TokenId> {
        match self {
            Self::Anonymous | Self::OfOpenListener | Self::Certified(..) => None,
            Self::Holder(TokenLookup { grant, .. }) => Some(grant.id),
        }
    }

    /// What a stream of its ends with.
    pub(in crate::http) fn token_use(&self) -> Option<TokenUse> {
        match self {
            Self::Anonymous | Self::OfOpenListener => None,
            Self::Certified(identity, _) => Some(TokenUse {
                id: identity.id,
                expires_at: Some(identity.expires_at),
                own: false,
            }),
            Self::Holder(TokenLookup { grant, .. }) => {
                let own = grant.role.device().is_some() && grant.key().is_none();
                Some(TokenUse { id: grant.id, expires_at: grant.expires_at, own })
            }
        }
    }

    /// How long a poll or a sender of its may wait: until its token expires at most, in whole seconds.
    pub(in crate::http) fn within(&self, wait: Seconds, now: Timestamp) -> Seconds {
        let expires_at = self.token_use().and_then(|used| used.expires_at);
        let remains =
            expires_at.map(|at| at.unix_ms().saturating_sub(now.unix_ms()).div_ceil(1000));
        remains.map_or(wait, |remains| Seconds::new(wait.get().min(remains)))
    }

    /// The token object; on an open hub that of an admin without a name.
    ///
    /// # Errors
    /// `unauthenticated` when it was revoked meanwhile, `store_unavailable`.
    pub(in crate::http) async fn token(&self, driver: &Driver) -> Result<Token, Problem> {
        let (role, expires_at, note) = match self {
            Self::Holder(TokenLookup { grant, .. }) => {
                if let Some(token) = grant.jwt_token() {
                    return Ok(token);
                }
                let stored = driver.store().token(grant.id).await?.ok_or_else(unauthenticated)?;
                return Ok(stored.record.to_token());
            }
            Self::Certified(identity, _) => {
                let note = format!("certificate of {}", identity.name);
                (identity.role.clone(), Some(identity.expires_at), Some(note))
            }
            Self::Anonymous | Self::OfOpenListener => (Role::Admin, None, None),
        };
        Ok(Token {
            id: None,
            role,
            expires_at,
            note,
            created_at: None,
            created_by: None,
            last_used_at: None,
        })
    }

    /// What it may do.
    pub(in crate::http) fn role(&self) -> &Role {
        match self {
            Self::Anonymous | Self::OfOpenListener => &Role::Admin,
            Self::Certified(identity, _) => &identity.role,
            Self::Holder(TokenLookup { grant, .. }) => &grant.role,
        }
    }

    /// The name of its role.
    pub(in crate::http) fn role_name(&self) -> RoleName {
        self.role().name()
    }

    /// The devices that exist for it.
    pub(in crate::http) fn visible(&self) -> Visible {
        match self {
            Self::Anonymous | Self::OfOpenListener => Visible::all(),
            Self::Certified(_, visible) => visible.clone(),
            Self::Holder(TokenLookup { grant, .. }) => grant.visible.clone(),
        }
    }

    /// Checks that devices are there for it, where that depends on their labels.
    ///
    /// # Errors
    /// `unknown_device` for the first that is not, as if it did not exist; `store_unavailable`.
    pub(in crate::http) async fn sees(
        &self,
        driver: &Driver,
        devices: &[DeviceId],
    ) -> Result<(), Problem> {
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
    pub(in crate::http) fn may_send(&self, action: &Action) -> Result<(), Problem> {
        match self.role() {
            Role::Operator(scope) if !scope.allows(action) => {
                let detail = format!("this token does not allow the action {action}");
                Err(Problem::new(Code::Forbidden, detail))
            }
            _ => Ok(()),
        }
    }
}

/// A device and an operator may have one name.
fn certificate_name(identity: &ClientIdentity) -> String {
    format!("certificate:{}:{}", identity.role.name().as_str(), identity.name)
}

/// The refusal of a caller without a token that works.
pub(in crate::http) fn unauthenticated() -> Problem {
    Problem::new(Code::Unauthenticated, "this needs a token that is valid")
}
