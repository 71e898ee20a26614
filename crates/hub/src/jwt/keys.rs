//! Keys that sign JWTs: a JWK Set (RFC 7517), or one public key as PEM. Where they come from is in `source.rs`.
//!
//! Each key is bound to one algorithm: its `alg`, or without one the usual algorithm of its type. Parsing is
//! `jsonwebtoken`'s, the cryptography is ring's.

use std::path::PathBuf;
use std::sync::Arc;

use bellwire_proto::limits::{JWT_KEYS_BYTES_MAX, JWT_KEYS_MAX, JWT_SECRET_BYTES_MIN};
use jsonwebtoken::jwk::{AlgorithmParameters, EllipticCurve, Jwk, JwkSet, PublicKeyUse};
use jsonwebtoken::{Algorithm, AlgorithmFamily, DecodingKey, DecodingKeyKind};
use ring::digest::{Context, SHA256};
use ring::hmac;
use ring::signature::{
    self, RsaParameters, RsaPublicKeyComponents, UnparsedPublicKey, VerificationAlgorithm,
};

use super::JwtError;

/// Why keys are of no use. Each message names what to do.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum KeysError {
    /// The file cannot be read.
    #[error("jwt_keys: {path} cannot be read", path = .path.display())]
    Unreadable {
        /// The file of `jwt_keys`.
        path: PathBuf,
        /// What the system says of it.
        #[source]
        source: std::io::Error,
    },
    /// It is neither form.
    #[error(
        "jwt_keys: {path} is neither a JWK Set ({{\"keys\":[…]}}) nor a public key as PEM, or longer than {JWT_KEYS_BYTES_MAX} bytes",
        path = .path.display()
    )]
    Form {
        /// The file of `jwt_keys`.
        path: PathBuf,
    },
    /// What vouches for the server of their URL cannot be used.
    #[error("jwt_keys_ca: {0}")]
    Authorities(String),
    /// Settings that do not go together.
    #[error("{0}")]
    Contradiction(String),
    /// None of its keys can be used.
    #[error(
        "jwt_keys: {path} has no key that signs with HS, RS, PS, ES (256, 384; not ES512) or EdDSA; a secret has at least its \
         hash's length, and of two keys each needs a kid",
        path = .path.display()
    )]
    NoKey {
        /// The file of `jwt_keys`.
        path: PathBuf,
    },
}

/// Keys that a token can name, each by another id.
#[derive(Debug, Clone)]
pub(super) struct KeySet(Arc<[Key]>);

#[derive(Debug)]
struct Key {
    id: Option<String>,
    algorithm: Algorithm,
    key: DecodingKey,
    tag: KeyTag,
}

/// What a key is recognized by after its set was read again: its id, its algorithm and what it consists of.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub(crate) struct KeyTag([u8; 8]);

/// Why bytes are no keys.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum KeySetError {
    /// They have neither form.
    Form,
    /// None can be used, there are too many, or a token cannot tell two of them apart.
    Unusable,
}

impl KeySet {
    pub(super) fn empty() -> Self {
        Self(Arc::new([]))
    }

    /// The keys of a file.
    pub(super) fn of_file(bytes: &[u8]) -> Result<Self, KeySetError> {
        Self::usable(parse(bytes).ok_or(KeySetError::Form)?)
    }

    /// The keys of an answer: a JWK Set. What others can read is no secret, so that none of it is taken for one.
    pub(super) fn of_answer(bytes: &[u8]) -> Result<Self, KeySetError> {
        let set: JwkSet = serde_json::from_slice(bytes).map_err(|_| KeySetError::Form)?;
        let public = |key: &Key| key.algorithm.family() != AlgorithmFamily::Hmac;
        Self::usable(set.keys.iter().filter_map(Key::of).filter(public).collect())
    }

    fn usable(keys: Vec<Key>) -> Result<Self, KeySetError> {
        let twice = keys
            .iter()
            .enumerate()
            .any(|(n, key)| keys.iter().take(n).any(|other| other.id == key.id));
        let usable = !keys.is_empty() && keys.len() <= JWT_KEYS_MAX && !twice;
        usable.then(|| Self(keys.into())).ok_or(KeySetError::Unusable)
    }

    pub(super) fn len(&self) -> usize {
        self.0.len()
    }

    pub(super) fn has(&self, tag: KeyTag) -> bool {
        self.0.iter().any(|key| key.tag == tag)
    }

    /// Those that another set has not.
    pub(super) fn missing_in(&self, other: &Self) -> Vec<KeyTag> {
        self.0.iter().map(|key| key.tag).filter(|tag| !other.has(*tag)).collect()
    }

    /// The key with this id for this algorithm, if the signature is its own. Without an id: the only key.
    pub(super) fn verify(
        &self,
        alg: &str,
        kid: Option<&str>,
        message: &[u8],
        signature: &[u8],
    ) -> Result<KeyTag, JwtError> {
        let keys = &*self.0;
        let key = match (kid, keys) {
            (Some(kid), _) => keys.iter().find(|key| key.id.as_deref() == Some(kid)),
            (None, [only]) => Some(only),
            (None, _) => None,
        };
        // A single key without an id of its own is whatever the issuer calls it.
        let key = key.or(match keys {
            [only] if only.id.is_none() => Some(only),
            _ => None,
        });
        let unknown = if kid.is_some() || keys.is_empty() { JwtError::Kid } else { JwtError::Key };
        let key = key.ok_or(unknown)?;
        if name(key.algorithm) != Some(alg) {
            return Err(JwtError::Key);
        }
        key.verify(message, signature).then_some(key.tag).ok_or(JwtError::Signature)
    }
}

/// The keys of a file that can be used; `None` when it has neither form.
fn parse(bytes: &[u8]) -> Option<Vec<Key>> {
    if let Ok(set) = serde_json::from_slice::<JwkSet>(bytes) {
        return Some(set.keys.iter().filter_map(Key::of).collect());
    }
    // It would be taken for a public one, and nothing would ever fit it. Nor has it a place on a hub.
    if bytes.windows(11).any(|text| text == b"PRIVATE KEY") {
        return None;
    }
    // The type of a PEM key is in the key; of the three readers one takes it.
    type Reader = fn(&[u8]) -> jsonwebtoken::errors::Result<DecodingKey>;
    let readers: [(Reader, Algorithm); 3] = [
        (DecodingKey::from_rsa_pem, Algorithm::RS256),
        (DecodingKey::from_ec_pem, Algorithm::ES256),
        (DecodingKey::from_ed_pem, Algorithm::EdDSA),
    ];
    readers.into_iter().find_map(|(reader, algorithm)| {
        let key = reader(bytes).ok()?;
        let algorithm = match (algorithm, key.try_get_as_bytes().map(<[u8]>::len)) {
            (Algorithm::ES256, Ok(97)) => Algorithm::ES384,
            (algorithm, _) => algorithm,
        };
        Some(vec![Key::new(None, algorithm, key)])
    })
}

impl Key {
    fn new(id: Option<String>, algorithm: Algorithm, key: DecodingKey) -> Self {
        let mut context = Context::new(&SHA256);
        let mut part = |bytes: &[u8]| {
            context.update(&(bytes.len() as u64).to_le_bytes());
            context.update(bytes);
        };
        part(&[u8::from(id.is_some())]);
        part(id.as_deref().unwrap_or_default().as_bytes());
        part(name(algorithm).unwrap_or_default().as_bytes());
        match key.kind() {
            DecodingKeyKind::RsaModulusExponent { n, e } => {
                part(n);
                part(e);
            }
            DecodingKeyKind::SecretOrDer(der) => part(der),
        }
        let mut tag = [0; 8];
        tag.iter_mut().zip(context.finish().as_ref()).for_each(|(to, from)| *to = *from);
        Self { id, algorithm, key, tag: KeyTag(tag) }
    }

    /// A key of a set, if it signs with something that is known here.
    fn of(jwk: &Jwk) -> Option<Self> {
        if !matches!(jwk.common.public_key_use, None | Some(PublicKeyUse::Signature)) {
            return None;
        }
        let usual = match &jwk.algorithm {
            AlgorithmParameters::RSA(_) => Algorithm::RS256,
            AlgorithmParameters::EllipticCurve(ec) => match ec.curve {
                EllipticCurve::P256 => Algorithm::ES256,
                EllipticCurve::P384 => Algorithm::ES384,
                _ => return None,
            },
            AlgorithmParameters::OctetKeyPair(okp) if okp.curve == EllipticCurve::Ed25519 => {
                Algorithm::EdDSA
            }
            AlgorithmParameters::OctetKey(_) => Algorithm::HS256,
            _ => return None,
        };
        let algorithm = match jwk.common.key_algorithm {
            None => usual,
            Some(named) => named.to_string().parse().ok()?,
        };
        let key = DecodingKey::from_jwk(jwk).ok()?;
        // An `alg` of another type of key would make one kind of key serve as another.
        let curve_fits = usual.family() != AlgorithmFamily::Ec || algorithm == usual;
        let long_enough = algorithm.family() != AlgorithmFamily::Hmac
            || key
                .try_get_as_bytes()
                .is_ok_and(|secret| secret.len() >= secret_bytes_min(algorithm));
        let fits = algorithm.family() == usual.family() && curve_fits && long_enough;
        fits.then(|| Self::new(jwk.common.key_id.clone(), algorithm, key))
    }

    fn verify(&self, message: &[u8], signed: &[u8]) -> bool {
        let rsa = |parameters: &'static RsaParameters| match self.key.kind() {
            DecodingKeyKind::RsaModulusExponent { n, e } => {
                RsaPublicKeyComponents { n, e }.verify(parameters, message, signed).is_ok()
            }
            DecodingKeyKind::SecretOrDer(der) => {
                UnparsedPublicKey::new(parameters, der).verify(message, signed).is_ok()
            }
        };
        let public = |algorithm: &'static dyn VerificationAlgorithm| {
            let key = self.key.try_get_as_bytes();
            key.is_ok_and(|key| {
                UnparsedPublicKey::new(algorithm, key).verify(message, signed).is_ok()
            })
        };
        let secret = |algorithm: hmac::Algorithm| {
            let key = self.key.try_get_as_bytes();
            key.is_ok_and(|key| {
                hmac::verify(&hmac::Key::new(algorithm, key), message, signed).is_ok()
            })
        };
        match self.algorithm {
            Algorithm::HS256 => secret(hmac::HMAC_SHA256),
            Algorithm::HS384 => secret(hmac::HMAC_SHA384),
            Algorithm::HS512 => secret(hmac::HMAC_SHA512),
            Algorithm::RS256 => rsa(&signature::RSA_PKCS1_2048_8192_SHA256),
            Algorithm::RS384 => rsa(&signature::RSA_PKCS1_2048_8192_SHA384),
            Algorithm::RS512 => rsa(&signature::RSA_PKCS1_2048_8192_SHA512),
            Algorithm::PS256 => rsa(&signature::RSA_PSS_2048_8192_SHA256),
            Algorithm::PS384 => rsa(&signature::RSA_PSS_2048_8192_SHA384),
            Algorithm::PS512 => rsa(&signature::RSA_PSS_2048_8192_SHA512),
            Algorithm::ES256 => public(&signature::ECDSA_P256_SHA256_FIXED),
            Algorithm::ES384 => public(&signature::ECDSA_P384_SHA384_FIXED),
            Algorithm::EdDSA => public(&signature::ED25519),
            _ => false,
        }
    }
}

#[cfg(test)]
impl KeyTag {
    pub(super) fn of_test(n: u8) -> Self {
        Self([n; 8])
    }
}

/// A secret is as long as the hash at least (RFC 7518, section 3.2).
fn secret_bytes_min(algorithm: Algorithm) -> usize {
    match algorithm {
        Algorithm::HS384 => 48,
        Algorithm::HS512 => 64,
        _ => JWT_SECRET_BYTES_MIN,
    }
}

/// As `alg` has it (RFC 7518, section 3.1; RFC 8037).
fn name(algorithm: Algorithm) -> Option<&'static str> {
    Some(match algorithm {
        Algorithm::HS256 => "HS256",
        Algorithm::HS384 => "HS384",
        Algorithm::HS512 => "HS512",
        Algorithm::ES256 => "ES256",
        Algorithm::ES384 => "ES384",
        Algorithm::RS256 => "RS256",
        Algorithm::RS384 => "RS384",
        Algorithm::RS512 => "RS512",
        Algorithm::PS256 => "PS256",
        Algorithm::PS384 => "PS384",
        Algorithm::PS512 => "PS512",
        Algorithm::EdDSA => "EdDSA",
        _ => return None,
    })
}
