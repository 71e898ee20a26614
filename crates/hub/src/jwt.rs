//! Tokens of other issuers: signed JWTs (RFC 7519), with the care of RFC 8725.
//!
//! A key has one algorithm, which is the key's and never the token's to choose: `none` is no algorithm, and a public key
//! cannot be used as a secret. Of the header `alg` and `kid` are read; keys that a token brings or points to (`jwk`, `jku`,
//! `x5u`, `x5c`) are never looked at, and one that must be understood (`crit`) is not. A member given twice is refused.
//! `iss`, `aud` and `exp` are required; `exp` and `nbf` have 60 s of leeway, by the hub's clock.
//!
//! What claims give is in `Jwt::grant`; the keys are in `jwt/keys.rs`, and where they come from in `jwt/source.rs`. What was
//! opened with a JWT ends with its key (`jwt/uses.rs`). A refusal is a reason for the log at level debug
//! alone: the caller learns nothing but 401.

use std::collections::BTreeMap;

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use bellwire_proto::limits::{JWT_BYTES_MAX, JWT_LEEWAY_S, JWT_LIFE_S_MAX, JWT_SUBJECT_CHARS_MAX};
use bellwire_proto::{Action, DeviceId, Role, RoleName, Scope, Timestamp, TokenId};
use serde::de::{Deserialize, Deserializer, Error as _, MapAccess, Visitor};
use serde_json::Value;

use crate::config::JwtConfig;

mod fetch;
mod keys;
mod schedule;
mod source;
mod uses;

pub(crate) use keys::KeyTag;
pub use keys::KeysError;
pub(crate) use schedule::KeysState;
use source::Keys;
pub(crate) use source::KeysCounts;
use uses::Uses;

/// What a hub needs to read JWTs.
#[derive(Debug)]
pub(crate) struct Jwt {
    config: JwtConfig,
    keys: Keys,
    uses: Uses,
}

/// What a JWT gives its bearer.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct JwtGrant {
    /// `jwt:` and its subject: who it is, over all tokens of that subject.
    pub(crate) subject: String,
    pub(crate) role: Role,
    pub(crate) issued_at: Option<Timestamp>,
    /// With the leeway.
    pub(crate) expires_at: Timestamp,
    /// By which key it was verified.
    pub(crate) key: KeyTag,
}

/// Why a JWT is refused: the fault of its issuer or its bearer, unless the settings name other keys, another issuer or
/// another audience than they use.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum JwtError {
    /// It is not a signed JWT in the compact form, or longer than what is accepted; the bearer must send the token as issued.
    #[error("it is not a signed JWT of three parts, or too long")]
    Form,
    /// A part is not a JSON object, or has a member twice; only a broken issuer makes such a token.
    #[error("a part of it is not a JSON object, or has a member twice")]
    Json,
    /// Its `typ` is of another kind of token, or `crit` names an extension that is not supported; the issuer must change it.
    #[error("its header has a type or an extension that is not for this")]
    Header,
    /// No key of `jwt_keys` has its `kid`; the keys are fetched again, in case they have just been replaced.
    #[error("no key has its kid")]
    Kid,
    /// The key with its `kid` is for another algorithm; compare the issuer's keys with `jwt_keys`.
    #[error("no key has its kid and its algorithm")]
    Key,
    /// Its signature is not made with the key that it names: it was forged or damaged, or `jwt_keys` has other keys.
    #[error("its signature is wrong")]
    Signature,
    /// Its `iss` is not the setting `jwt_issuer`.
    #[error("its iss is not jwt_issuer")]
    Issuer,
    /// Its `aud` does not contain the setting `jwt_audience`: it was issued for another service.
    #[error("jwt_audience is not in its aud")]
    Audience,
    /// Its `exp` has passed or is missing; the bearer must fetch a new one.
    #[error("it has expired, or says not when it will")]
    Expired,
    /// Its `nbf` has not come: the clock of the hub or of the issuer is wrong.
    #[error("it is not valid yet")]
    NotYet,
    /// It has no `sub`, or one that is empty or too long; the issuer must set it.
    #[error("it has no sub, or an unusable one")]
    Subject,
    /// Its claims give no role, more than one, or one that lacks something (docs/security.md names them).
    #[error("its claims give no role, more than one, or one that lacks something")]
    Role,
}

impl Jwt {
    /// Reads the keys, or prepares to fetch them.
    ///
    /// # Errors
    /// When they cannot be read, or are of no use.
    pub(crate) fn load(config: JwtConfig) -> Result<Self, KeysError> {
        let keys = Keys::load(&config)?;
        Ok(Self { config, keys, uses: Uses::default() })
    }

    /// Reads or fetches the keys whenever that is due, for ever, and reports the JWTs in use whose key has gone.
    pub(crate) async fn follow(&self, ended: impl Fn(Vec<TokenId>)) {
        self.keys.follow(|gone| ended(self.uses.take(gone))).await;
    }

    /// Whether this key is in use still.
    pub(crate) fn has(&self, key: KeyTag) -> bool {
        self.keys.set().has(key)
    }

    /// Something begins that is to end with the key; false when there are too many to remember.
    pub(crate) fn is_used(
        &self,
        id: TokenId,
        key: KeyTag,
        expires_at: Timestamp,
        now: Timestamp,
    ) -> bool {
        self.uses.note(id, key, expires_at, now)
    }

    /// How the keys are.
    pub(crate) fn keys(&self) -> KeysCounts {
        self.keys.counts()
    }

    /// What a JWT gives at this time, after the keys were fetched if its own is not known and that is due.
    ///
    /// # Errors
    /// When it does not work.
    pub(crate) async fn grant_now(&self, text: &str, now: Timestamp) -> Result<JwtGrant, JwtError> {
        match self.grant(text, now) {
            Err(JwtError::Kid) if self.keys.refreshed().await => self.grant(text, now),
            judged => judged,
        }
    }

    /// What a JWT gives at this time.
    ///
    /// # Errors
    /// When it does not work.
    pub(crate) fn grant(&self, text: &str, now: Timestamp) -> Result<JwtGrant, JwtError> {
        if text.len() > JWT_BYTES_MAX {
            return Err(JwtError::Form);
        }
        let (message, signature) = text.rsplit_once('.').ok_or(JwtError::Form)?;
        let (header, claims) = message.split_once('.').ok_or(JwtError::Form)?;
        let header = part(header)?;
        let signature = URL_SAFE_NO_PAD.decode(signature).map_err(|_| JwtError::Form)?;
        let key = self.verify(&header, message.as_bytes(), &signature)?;
        // Nothing of the claims is looked at before the signature is.
        self.judge(&part(claims)?, key, now)
    }

    fn verify(
        &self,
        Members(header): &Members,
        message: &[u8],
        signature: &[u8],
    ) -> Result<KeyTag, JwtError> {
        if header.contains_key("crit") || header.contains_key("b64") {
            return Err(JwtError::Header);
        }
        match header.get("typ") {
            None => {}
            Some(Value::String(typ)) if is_type(typ) => {}
            Some(_) => return Err(JwtError::Header),
        }
        let text = |member: Option<&Value>| match member {
            None => Ok(None),
            Some(Value::String(text)) => Ok(Some(text.clone())),
            Some(_) => Err(JwtError::Header),
        };
        let (alg, kid) = (text(header.get("alg"))?, text(header.get("kid"))?);
        let alg = alg.ok_or(JwtError::Header)?;
        self.keys.set().verify(&alg, kid.as_deref(), message, signature)
    }

    fn judge(
        &self,
        Members(claims): &Members,
        key: KeyTag,
        now: Timestamp,
    ) -> Result<JwtGrant, JwtError> {
        let config = &self.config;
        if claims.get("iss").and_then(Value::as_str) != Some(config.issuer.as_str()) {
            return Err(JwtError::Issuer);
        }
        let audience = claims.get("aud").map(texts).unwrap_or_default();
        if !audience.contains(&config.audience.as_str()) {
            return Err(JwtError::Audience);
        }
        let now_s = now.unix_ms() / 1000;
        let exp = seconds(claims.get("exp")).ok_or(JwtError::Expired)?;
        if exp.saturating_add(JWT_LEEWAY_S) <= now_s || exp > now_s.saturating_add(JWT_LIFE_S_MAX) {
            return Err(JwtError::Expired);
        }
        if let Some(nbf) = claims.get("nbf")
            && seconds(Some(nbf)).is_none_or(|nbf| nbf > now_s.saturating_add(JWT_LEEWAY_S))
        {
            return Err(JwtError::NotYet);
        }
        let printable = |sub: &&str| {
            let count = sub.chars().count();
            (1..=JWT_SUBJECT_CHARS_MAX).contains(&count) && !sub.chars().any(char::is_control)
        };
        let subject = claims.get("sub").and_then(Value::as_str).filter(printable);
        Ok(JwtGrant {
            subject: format!("jwt:{}", subject.ok_or(JwtError::Subject)?),
            role: self.role(claims)?,
            issued_at: seconds(claims.get("iat")).map(|s| Timestamp::from_unix_ms(s * 1000)),
            expires_at: Timestamp::from_unix_ms((exp + JWT_LEEWAY_S).saturating_mul(1000)),
            key,
        })
    }

    /// The role that its claims give. What would widen it by being left out by mistake must be given in full: an operator
    /// with a claim of another type is refused and not without limits.
    fn role(&self, claims: &BTreeMap<String, Value>) -> Result<Role, JwtError> {
        let config = &self.config;
        let values = claims.get(&config.role_claim).map(texts).unwrap_or_default();
        let mut roles: Vec<RoleName> =
            values.iter().filter_map(|value| config.role(value)).collect();
        roles.sort_unstable_by_key(|role| role.as_str());
        roles.dedup();
        let [role] = roles.as_slice() else { return Err(JwtError::Role) };
        let claim = |name: &str| claims.get(name).filter(|value| !value.is_null());
        match role {
            RoleName::Admin => Ok(Role::Admin),
            RoleName::Metrics => Ok(Role::Metrics),
            RoleName::Device => {
                let device = claim(&config.device_claim).and_then(Value::as_str);
                let device: Option<DeviceId> = device.and_then(|name| name.parse().ok());
                device.map(Role::Device).ok_or(JwtError::Role)
            }
            RoleName::Operator => {
                let select = claim(&config.select_claim).map(|value| {
                    value
                        .as_str()
                        .and_then(|text| Scope::parse_select(text).ok())
                        .ok_or(JwtError::Role)
                });
                let actions = claim(&config.actions_claim).map(|value| {
                    let all = texts(value);
                    let entries = value.as_array().map_or(1, Vec::len);
                    let actions: Vec<Action> = all.iter().filter_map(|a| a.parse().ok()).collect();
                    (actions.len() == entries).then_some(actions).ok_or(JwtError::Role)
                });
                let scope = Scope { select: select.transpose()?, actions: actions.transpose()? };
                Ok(Role::Operator(Box::new(scope)))
            }
            RoleName::Join => Err(JwtError::Role),
        }
    }
}

/// `JWT` and `at+jwt` (RFC 9068), in any case, and as whole media types. A token that was made for another purpose has
/// another type.
fn is_type(typ: &str) -> bool {
    let typ = typ.to_ascii_lowercase();
    matches!(typ.strip_prefix("application/").unwrap_or(&typ), "jwt" | "at+jwt")
}

/// A text, or the texts of a list; what is neither gives none.
fn texts(value: &Value) -> Vec<&str> {
    match value {
        Value::String(text) => vec![text],
        Value::Array(values) => values.iter().filter_map(Value::as_str).collect(),
        _ => Vec::new(),
    }
}

/// A NumericDate (RFC 7519, section 2) in whole seconds.
fn seconds(value: Option<&Value>) -> Option<u64> {
    let value = value?;
    let of_float = || value.as_f64().filter(|s| (0.0..1e15).contains(s)).map(|s| s as u64);
    value.as_u64().or_else(of_float)
}

/// The members of a JSON object; one that is given twice is a fault.
#[derive(Debug)]
struct Members(BTreeMap<String, Value>);

fn part(encoded: &str) -> Result<Members, JwtError> {
    let json = URL_SAFE_NO_PAD.decode(encoded).map_err(|_| JwtError::Form)?;
    serde_json::from_slice(&json).map_err(|_| JwtError::Json)
}

impl<'de> Deserialize<'de> for Members {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Once;
        impl<'de> Visitor<'de> for Once {
            type Value = Members;

            fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str("an object")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Members, A::Error> {
                let mut members = BTreeMap::new();
                while let Some((name, value)) = map.next_entry::<String, Value>()? {
                    if members.insert(name, value).is_some() {
                        return Err(A::Error::custom("a member is given twice"));
                    }
                }
                Ok(Members(members))
            }
        }
        deserializer.deserialize_map(Once)
    }
}

/// For the fuzz target: whatever the text is, it is judged without a panic.
#[doc(hidden)]
pub fn judge_any(text: &str) -> Result<(), JwtError> {
    let (message, signature) = text.rsplit_once('.').ok_or(JwtError::Form)?;
    let (header, claims) = message.split_once('.').ok_or(JwtError::Form)?;
    let _signature = URL_SAFE_NO_PAD.decode(signature).map_err(|_| JwtError::Form)?;
    let keys = Keys::none();
    let jwt = Jwt { config: JwtConfig::of_tests(), keys, uses: Uses::default() };
    let verified = part(header).and_then(|header| jwt.verify(&header, message.as_bytes(), b""));
    let judged = part(claims)
        .and_then(|claims| jwt.judge(&claims, KeyTag::default(), Timestamp::from_unix_ms(0)));
    verified.and(judged.map(drop))
}

/// For the fuzz target: how many keys these bytes are, as a file and as the answer of a URL, if they are of use.
#[doc(hidden)]
pub fn count_keys(bytes: &[u8]) -> [Option<usize>; 2] {
    let read = [keys::KeySet::of_file(bytes), keys::KeySet::of_answer(bytes)];
    read.map(|keys| keys.ok().map(|keys| keys.len()))
}

/// For the fuzz target: how long an answer with this `Cache-Control` is good for.
#[doc(hidden)]
pub fn max_age(cache_control: http::HeaderValue) -> Option<std::time::Duration> {
    fetch::max_age(&http::HeaderMap::from_iter([(http::header::CACHE_CONTROL, cache_control)]))
}

#[cfg(test)]
mod tests;
