//! The keys that sign JWTs: a JWK Set (RFC 7517), or one public key as PEM. The file is read again when it has changed,
//! which is looked at no more often than once in some seconds; what cannot be read leaves the keys as they are.
//!
//! Each key is bound to one algorithm: its `alg`, or without one the usual algorithm of its type. Parsing is
//! `jsonwebtoken`'s, the cryptography is ring's.

use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Instant, SystemTime};

use bellwire_proto::limits::{
    JWT_KEYS_BYTES_MAX, JWT_KEYS_LOOK_EVERY, JWT_KEYS_MAX, JWT_SECRET_BYTES_MIN,
};
use jsonwebtoken::jwk::{AlgorithmParameters, EllipticCurve, Jwk, JwkSet, PublicKeyUse};
use jsonwebtoken::{Algorithm, AlgorithmFamily, DecodingKey, DecodingKeyKind};
use ring::hmac;
use ring::signature::{
    self, RsaParameters, RsaPublicKeyComponents, UnparsedPublicKey, VerificationAlgorithm,
};

use super::Refused;

/// Why keys are of no use. Each message names what to do.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum KeysError {
    /// The file cannot be read.
    #[error("jwt_keys: {path} cannot be read", path = .path.display())]
    Unreadable {
        /// The file.
        path: PathBuf,
        /// Why.
        #[source]
        source: std::io::Error,
    },
    /// It is neither form.
    #[error(
        "jwt_keys: {path} is neither a JWK Set ({{\"keys\":[…]}}) nor a public key as PEM, or longer than {JWT_KEYS_BYTES_MAX} bytes",
        path = .path.display()
    )]
    Form {
        /// The file.
        path: PathBuf,
    },
    /// None of its keys can be used.
    #[error(
        "jwt_keys: {path} has no key that signs with HS, RS, PS, ES (256, 384; not ES512) or EdDSA; a secret has at least its \
         hash's length, and of two keys each needs a kid",
        path = .path.display()
    )]
    NoKey {
        /// The file.
        path: PathBuf,
    },
}

#[derive(Debug)]
pub(super) struct Keys {
    path: PathBuf,
    state: Mutex<State>,
}

#[derive(Debug)]
struct State {
    keys: Arc<[Key]>,
    generation: u64,
    looked_at: Instant,
    mark: Option<Mark>,
}

/// What tells that a file has changed.
type Mark = (Option<SystemTime>, u64);

#[derive(Debug)]
struct Key {
    id: Option<String>,
    algorithm: Algorithm,
    key: DecodingKey,
}

impl Keys {
    pub(super) fn load(path: &Path) -> Result<Self, KeysError> {
        let mark = mark(path);
        let keys = read(path)?;
        let state = State { keys, generation: 0, looked_at: Instant::now(), mark };
        Ok(Self { path: path.to_owned(), state: Mutex::new(state) })
    }

    pub(super) fn none() -> Self {
        let state =
            State { keys: Arc::new([]), generation: 0, looked_at: Instant::now(), mark: None };
        Self { path: PathBuf::new(), state: Mutex::new(state) }
    }

    pub(super) fn generation(&self) -> u64 {
        self.current().1
    }

    /// Whether the signature is that of the key with this id for this algorithm. Without an id: of the only key.
    pub(super) fn verify(
        &self,
        alg: &str,
        kid: Option<&str>,
        message: &[u8],
        signature: &[u8],
    ) -> Result<bool, Refused> {
        let keys = self.current().0;
        let key = match (kid, &*keys) {
            (Some(kid), _) => keys.iter().find(|key| key.id.as_deref() == Some(kid)),
            (None, [only]) => Some(only),
            (None, _) => None,
        };
        // A single key without an id of its own is whatever the issuer calls it.
        let key = key.or(match &*keys {
            [only] if only.id.is_none() => Some(only),
            _ => None,
        });
        let key = key.ok_or(Refused::Key)?;
        if name(key.algorithm) != Some(alg) {
            return Err(Refused::Key);
        }
        Ok(key.verify(message, signature))
    }

    /// The keys, after a look at the file if the last one was some time ago.
    fn current(&self) -> (Arc<[Key]>, u64) {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        if state.looked_at.elapsed() >= JWT_KEYS_LOOK_EVERY && !self.path.as_os_str().is_empty() {
            state.looked_at = Instant::now();
            let mark = mark(&self.path);
            if mark != state.mark {
                state.mark = mark;
                match read(&self.path) {
                    Ok(keys) => {
                        tracing::info!(keys = keys.len(), "the keys of JWTs were read again");
                        (state.keys, state.generation) = (keys, state.generation + 1);
                    }
                    Err(error) => {
                        let error: &dyn std::error::Error = &error;
                        tracing::error!(error, "the keys of JWTs stay as they are");
                    }
                }
            }
        }
        (state.keys.clone(), state.generation)
    }
}

fn mark(path: &Path) -> Option<Mark> {
    let metadata = std::fs::metadata(path).ok()?;
    Some((metadata.modified().ok(), metadata.len()))
}

fn read(path: &Path) -> Result<Arc<[Key]>, KeysError> {
    use std::io::Read;
    let unreadable = |source| KeysError::Unreadable { path: path.to_owned(), source };
    let mut bytes = Vec::new();
    let file = std::fs::File::open(path).map_err(unreadable)?;
    file.take(JWT_KEYS_BYTES_MAX + 1).read_to_end(&mut bytes).map_err(unreadable)?;
    if bytes.len() as u64 > JWT_KEYS_BYTES_MAX {
        return Err(KeysError::Form { path: path.to_owned() });
    }
    let keys = parse(&bytes).ok_or_else(|| KeysError::Form { path: path.to_owned() })?;
    let twice =
        keys.iter().enumerate().any(|(n, key)| keys.iter().take(n).any(|other| other.id == key.id));
    if keys.is_empty() || keys.len() > JWT_KEYS_MAX || twice {
        return Err(KeysError::NoKey { path: path.to_owned() });
    }
    Ok(keys.into())
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
        Some(vec![Key { id: None, algorithm, key }])
    })
}

impl Key {
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
        fits.then(|| Self { id: jwk.common.key_id.clone(), algorithm, key })
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
