//! Attacks upon JWTs (RFC 8725, section 2), and what works.

use ring::rand::SystemRandom;
use ring::signature::{
    ECDSA_P256_SHA256_FIXED_SIGNING, ECDSA_P384_SHA384_FIXED_SIGNING, EcdsaKeyPair,
    EcdsaSigningAlgorithm, Ed25519KeyPair, KeyPair, RSA_PKCS1_SHA256, RSA_PKCS1_SHA512,
    RSA_PSS_SHA256, RSA_PSS_SHA384, RsaEncoding, RsaKeyPair, RsaPublicKeyComponents,
};
use rustls_pki_types::PrivateKeyDer;
use rustls_pki_types::pem::PemObject;
use serde_json::json;

use super::*;

const NOW_S: u64 = 1_800_000_000;
const SECRET: &[u8] = b"a secret of thirty-two bytes !!!";
const RSA_PUBLIC: &str = include_str!("../../tests/fixtures/jwt/rsa.pem");
const RSA_KEY: &str = include_str!("../../tests/fixtures/jwt/rsa-key.pem");

fn now() -> Timestamp {
    Timestamp::from_unix_ms(NOW_S * 1000)
}

fn encode(bytes: impl AsRef<[u8]>) -> String {
    URL_SAFE_NO_PAD.encode(bytes)
}

fn claims() -> Value {
    json!({"iss": "https://id.example", "aud": "bellwire", "sub": "ada", "exp": NOW_S + 300, "role": "admin"})
}

/// The same with members changed; `null` takes one away.
fn with(changes: Value) -> Value {
    let mut all = claims();
    for (name, value) in changes.as_object().unwrap() {
        match value {
            Value::Null => drop(all.as_object_mut().unwrap().remove(name)),
            value => all[name] = value.clone(),
        }
    }
    all
}

fn signed(header: &str, claims: &str, sign: impl Fn(&[u8]) -> Vec<u8>) -> String {
    let message = format!("{}.{}", encode(header), encode(claims));
    let signature = encode(sign(message.as_bytes()));
    format!("{message}.{signature}")
}

fn hs256(secret: &[u8]) -> impl Fn(&[u8]) -> Vec<u8> {
    let key = ring::hmac::Key::new(ring::hmac::HMAC_SHA256, secret);
    move |message| ring::hmac::sign(&key, message).as_ref().to_vec()
}

fn rsa_key() -> RsaKeyPair {
    let PrivateKeyDer::Pkcs8(der) = PrivateKeyDer::from_pem_slice(RSA_KEY.as_bytes()).unwrap()
    else {
        panic!("the fixture is PKCS #8");
    };
    RsaKeyPair::from_pkcs8(der.secret_pkcs8_der()).unwrap()
}

fn rsa(encoding: &'static dyn RsaEncoding) -> impl Fn(&[u8]) -> Vec<u8> {
    let key = rsa_key();
    move |message| {
        let mut signature = vec![0; key.public().modulus_len()];
        key.sign(encoding, &SystemRandom::new(), message, &mut signature).unwrap();
        signature
    }
}

/// A hub's reader with this text as the file of keys.
fn reader_of(keys: impl AsRef<[u8]>) -> Result<Jwt, KeysError> {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("keys");
    std::fs::write(&path, keys).unwrap();
    Jwt::load(JwtConfig { keys: path, ..JwtConfig::of_tests() })
}

fn secret_reader() -> Jwt {
    reader_of(json!({"keys": [{"kty": "oct", "kid": "a", "k": encode(SECRET)}]}).to_string())
        .unwrap()
}

fn judged(header: &str, claims: &Value) -> Result<JwtGrant, JwtError> {
    secret_reader().grant(&signed(header, &claims.to_string(), hs256(SECRET)), now())
}

const HS: &str = r#"{"alg":"HS256","kid":"a","typ":"JWT"}"#;

#[test]
fn every_algorithm_works_with_its_own_key_and_no_other() {
    let random = SystemRandom::new();
    let ec = |algorithm: &'static EcdsaSigningAlgorithm| {
        let document = EcdsaKeyPair::generate_pkcs8(algorithm, &SystemRandom::new()).unwrap();
        EcdsaKeyPair::from_pkcs8(algorithm, document.as_ref(), &SystemRandom::new()).unwrap()
    };
    let (p256, p384) = (ec(&ECDSA_P256_SHA256_FIXED_SIGNING), ec(&ECDSA_P384_SHA384_FIXED_SIGNING));
    let ed = Ed25519KeyPair::from_pkcs8(Ed25519KeyPair::generate_pkcs8(&random).unwrap().as_ref())
        .unwrap();
    let point = |key: &EcdsaKeyPair, crv: &str, kid: &str| {
        let (x, y) = key.public_key().as_ref()[1..].split_at(key.public_key().as_ref().len() / 2);
        json!({"kty": "EC", "crv": crv, "kid": kid, "x": encode(x), "y": encode(y)})
    };
    let RsaPublicKeyComponents { n, e } =
        RsaPublicKeyComponents::<Vec<u8>>::from(rsa_key().public());
    let rsa_jwk = |alg: &str| json!({"kty": "RSA", "alg": alg, "kid": alg, "n": encode(&n), "e": encode(&e), "use": "sig"});
    let hs = |alg: &str, bytes: usize| json!({"kty": "oct", "alg": alg, "kid": alg, "k": encode(vec![7; bytes])});
    let keys = json!({"keys": [
        rsa_jwk("RS256"), rsa_jwk("RS512"), rsa_jwk("PS256"), rsa_jwk("PS384"),
        point(&p256, "P-256", "ES256"), point(&p384, "P-384", "ES384"),
        {"kty": "OKP", "crv": "Ed25519", "kid": "EdDSA", "x": encode(ed.public_key().as_ref())},
        hs("HS256", 32), hs("HS384", 48),
    ]});
    let reader = reader_of(keys.to_string()).unwrap();
    let ecdsa = |key: EcdsaKeyPair| {
        move |message: &[u8]| key.sign(&SystemRandom::new(), message).unwrap().as_ref().to_vec()
    };
    type Sign = Box<dyn Fn(&[u8]) -> Vec<u8>>;
    let signers: Vec<(&str, Sign)> = vec![
        ("RS256", Box::new(rsa(&RSA_PKCS1_SHA256))),
        ("RS512", Box::new(rsa(&RSA_PKCS1_SHA512))),
        ("PS256", Box::new(rsa(&RSA_PSS_SHA256))),
        ("PS384", Box::new(rsa(&RSA_PSS_SHA384))),
        ("ES256", Box::new(ecdsa(p256))),
        ("ES384", Box::new(ecdsa(p384))),
        ("EdDSA", Box::new(move |message| ed.sign(message).as_ref().to_vec())),
        ("HS256", Box::new(hs256(&[7; 32]))),
        (
            "HS384",
            Box::new(|message| {
                ring::hmac::sign(&ring::hmac::Key::new(ring::hmac::HMAC_SHA384, &[7; 48]), message)
                    .as_ref()
                    .to_vec()
            }),
        ),
    ];
    for (signs, sign) in &signers {
        for (named, _) in &signers {
            for (kid, _) in &signers {
                let header = json!({"alg": named, "kid": kid}).to_string();
                let judged = reader.grant(&signed(&header, &claims().to_string(), sign), now());
                let fits = signs == named && named == kid;
                assert_eq!(
                    judged.is_ok(),
                    fits,
                    "{signs} as {named} with the key {kid}: {judged:?}"
                );
            }
        }
    }
    let pem = reader_of(RSA_PUBLIC).unwrap();
    let header = r#"{"alg":"RS256","kid":"whatever its issuer calls it"}"#;
    assert!(
        pem.grant(&signed(header, &claims().to_string(), rsa(&RSA_PKCS1_SHA256)), now()).is_ok()
    );
}

#[test]
fn none_and_a_public_key_as_a_secret_are_refused() {
    let claims = claims().to_string();
    for alg in ["none", "None", "NONE", "nOnE", "", "HS256 ", "hs256", "HS384"] {
        let header = json!({"alg": alg, "kid": "a"}).to_string();
        for signature in [Vec::new(), hs256(SECRET)(b"")] {
            let text = signed(&header, &claims, |_| signature.clone());
            assert!(secret_reader().grant(&text, now()).is_err(), "{alg:?}");
        }
        let text = signed(&header, &claims, hs256(SECRET));
        assert_eq!(secret_reader().grant(&text, now()), Err(JwtError::Key), "{alg:?}");
    }
    // The public key is known to everyone: signed with it as a secret.
    let pem = reader_of(RSA_PUBLIC).unwrap();
    for key in [RSA_PUBLIC.as_bytes(), RSA_PUBLIC.trim().as_bytes()] {
        let text = signed(r#"{"alg":"HS256"}"#, &claims, hs256(key));
        assert_eq!(pem.grant(&text, now()), Err(JwtError::Key));
    }
}

#[test]
fn a_signature_of_another_text_or_key_is_refused_and_so_is_what_is_no_jwt() {
    let good = signed(HS, &claims().to_string(), hs256(SECRET));
    assert!(secret_reader().grant(&good, now()).is_ok());
    let (message, signature) = good.rsplit_once('.').unwrap();
    let (header, payload) = message.split_once('.').unwrap();
    let other = encode(with(json!({"sub": "eve"})).to_string());
    for text in [
        format!("{header}.{other}.{signature}"),
        format!("{message}."),
        message.to_owned(),
        format!("{good}="),
        format!("{good}.x"),
        format!("..{signature}"),
        format!("{header}.{payload}.{}", &signature[1..]),
        signed(HS, &claims().to_string(), hs256(b"another secret of 32 bytes !!!!!")),
        signed(HS, &claims().to_string(), hs256(b"")),
        signed(HS, "[]", hs256(SECRET)),
        signed("null", &claims().to_string(), hs256(SECRET)),
        "x".repeat(JWT_BYTES_MAX + 1),
        signed(HS, &with(json!({"big": "x".repeat(JWT_BYTES_MAX)})).to_string(), hs256(SECRET)),
        String::new(),
        ".".repeat(100),
    ] {
        assert!(secret_reader().grant(&text, now()).is_err(), "{}", &text[..text.len().min(200)]);
    }
}

#[test]
fn what_a_header_brings_or_points_to_is_not_looked_at_and_a_kid_is_only_a_name() {
    let jwk = json!({"kty": "oct", "kid": "mine", "k": encode([1; 32])});
    let mine = hs256(&[1; 32]);
    for header in [
        json!({"alg": "HS256", "kid": "mine", "jwk": jwk}),
        json!({"alg": "HS256", "kid": "a", "jwk": jwk, "jku": "https://evil.example/keys", "x5u": "https://evil.example"}),
        json!({"alg": "HS256", "kid": "../../../../dev/null"}),
        json!({"alg": "HS256", "kid": "/dev/null"}),
        json!({"alg": "HS256", "kid": "a' OR '1'='1"}),
        json!({"alg": "HS256", "kid": ""}),
        json!({"alg": "HS256", "kid": "a\u{0}"}),
    ] {
        let text = signed(&header.to_string(), &claims().to_string(), &mine);
        assert!(secret_reader().grant(&text, now()).is_err(), "{header}");
    }
    for (header, refused) in [
        (r#"{"alg":"HS256","kid":["a"]}"#, JwtError::Header),
        (r#"{"alg":"HS256","kid":"a","crit":["exp"],"exp":1}"#, JwtError::Header),
        (r#"{"alg":"HS256","kid":"a","b64":false}"#, JwtError::Header),
        (r#"{"alg":"HS256","kid":"a","typ":"secevent+jwt"}"#, JwtError::Header),
        (r#"{"kid":"a"}"#, JwtError::Header),
        (r#"{"alg":"none","alg":"HS256","kid":"a"}"#, JwtError::Json),
        (r#"{"alg":"HS256","kid":"b","kid":"a"}"#, JwtError::Json),
    ] {
        assert_eq!(judged(header, &claims()), Err(refused), "{header}");
    }
    assert!(judged(r#"{"alg":"HS256","kid":"a","typ":"application/AT+JWT"}"#, &claims()).is_ok());
    assert!(judged(r#"{"alg":"HS256"}"#, &claims()).is_ok(), "the only key");
}

#[test]
fn issuer_audience_and_times_are_required_and_judged_with_a_minute_of_leeway() {
    for (changes, outcome) in [
        (json!({}), None),
        (json!({"iss": "https://other.example"}), Some(JwtError::Issuer)),
        (json!({"iss": null}), Some(JwtError::Issuer)),
        (json!({"iss": ["https://id.example"]}), Some(JwtError::Issuer)),
        (json!({"aud": ["x", "bellwire"]}), None),
        (json!({"aud": "bellwire "}), Some(JwtError::Audience)),
        (json!({"aud": []}), Some(JwtError::Audience)),
        (json!({"aud": null}), Some(JwtError::Audience)),
        (json!({"exp": null}), Some(JwtError::Expired)),
        (json!({"exp": "soon"}), Some(JwtError::Expired)),
        (json!({"exp": -1}), Some(JwtError::Expired)),
        (json!({"exp": NOW_S - 59}), None),
        (json!({"exp": NOW_S - 60}), Some(JwtError::Expired)),
        (json!({"exp": u64::MAX}), Some(JwtError::Expired)),
        (json!({"exp": 1e300}), Some(JwtError::Expired)),
        (json!({"exp": NOW_S as f64 + 0.5}), None),
        (json!({"nbf": NOW_S + 60}), None),
        (json!({"nbf": NOW_S + 61}), Some(JwtError::NotYet)),
        (json!({"nbf": "now"}), Some(JwtError::NotYet)),
        (json!({"sub": null}), Some(JwtError::Subject)),
        (json!({"sub": ""}), Some(JwtError::Subject)),
        (json!({"sub": "a\nb"}), Some(JwtError::Subject)),
        (json!({"sub": "x".repeat(201)}), Some(JwtError::Subject)),
    ] {
        assert_eq!(judged(HS, &with(changes.clone())).err(), outcome, "{changes}");
    }
    let twice = claims().to_string().replacen('{', r#"{"aud":"other","#, 1);
    let text = signed(HS, &twice, hs256(SECRET));
    assert_eq!(secret_reader().grant(&text, now()), Err(JwtError::Json), "a claim given twice");
    let given = judged(HS, &claims()).unwrap();
    assert_eq!(given.expires_at, Timestamp::from_unix_ms((NOW_S + 360) * 1000));
    assert_eq!(given.subject, "jwt:ada");
}

#[test]
fn claims_give_exactly_one_role_and_a_malformed_limit_is_no_limit_lifted() {
    let role = |changes: Value| judged(HS, &with(changes)).map(|given| given.role);
    let scope = |select: Option<&str>, actions: Option<&[&str]>| {
        Role::Operator(Box::new(Scope {
            select: select.map(|text| text.parse().unwrap()),
            actions: actions.map(|all| all.iter().map(|a| a.parse().unwrap()).collect()),
        }))
    };
    let operator = |more: Value| {
        let mut all = json!({"role": "operator"});
        all.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        role(all)
    };
    assert_eq!(operator(json!({})), Ok(scope(None, None)));
    let both = json!({"select": "site=lyon", "actions": ["ping", "reboot"]});
    assert_eq!(operator(both), Ok(scope(Some("site=lyon"), Some(&["ping", "reboot"]))));
    assert_eq!(operator(json!({"actions": []})), Ok(scope(None, Some(&[]))), "none at all");
    for malformed in [
        json!({"select": 7}),
        json!({"select": "site in"}),
        json!({"select": ["site=lyon"]}),
        json!({"select": ""}),
        // A device states its facts itself, and would put itself into the scope.
        json!({"select": "facts.os=linux"}),
        json!({"select": "site=lyon,facts.os"}),
        json!({"actions": 7}),
        json!({"actions": ["ping", 7]}),
        json!({"actions": "a b"}),
    ] {
        assert_eq!(operator(malformed.clone()), Err(JwtError::Role), "{malformed}");
    }
    assert_eq!(
        role(json!({"role": "device", "device": "d"})),
        Ok(Role::Device("d".parse().unwrap()))
    );
    for none in [
        json!({"role": null}),
        json!({"role": "root"}),
        json!({"role": "join"}),
        json!({"role": ["admin", "operator"]}),
        json!({"role": "device"}),
        json!({"role": "device", "device": "a/b"}),
        json!({"role": {"admin": true}}),
    ] {
        assert_eq!(role(none.clone()), Err(JwtError::Role), "{none}");
    }
    let mut mapped = secret_reader();
    mapped.config.roles = vec![("fleet-admins".into(), RoleName::Admin)];
    let of = |value: Value| {
        let claims = with(json!({"role": value})).to_string();
        mapped.grant(&signed(HS, &claims, hs256(SECRET)), now()).map(|given| given.role)
    };
    assert_eq!(of(json!(["everyone", "fleet-admins"])), Ok(Role::Admin));
    assert_eq!(of(json!("admin")), Err(JwtError::Role), "what is listed, and nothing else");
}

#[test]
fn keys_that_are_too_weak_or_bound_to_the_wrong_algorithm_are_not_used() {
    let RsaPublicKeyComponents { n, e } =
        RsaPublicKeyComponents::<Vec<u8>>::from(rsa_key().public());
    let (n, e) = (encode(n), encode(e));
    for key in [
        json!({"kty": "oct", "k": encode([1; 31])}),
        json!({"kty": "oct", "alg": "HS512", "k": encode([1; 63])}),
        json!({"kty": "oct", "alg": "RS256", "k": encode([1; 64])}),
        json!({"kty": "RSA", "alg": "HS256", "n": n, "e": e}),
        json!({"kty": "RSA", "alg": "ES256", "n": n, "e": e}),
        json!({"kty": "RSA", "alg": "RSA-OAEP", "n": n, "e": e}),
        json!({"kty": "RSA", "use": "enc", "n": n, "e": e}),
    ] {
        let keys = json!({"keys": [key]}).to_string();
        assert!(matches!(reader_of(&keys), Err(KeysError::NoKey { .. })), "{keys}");
    }
    let key = json!({"kty": "RSA", "n": n, "e": e});
    let twice = json!({"keys": [key, key]}).to_string();
    assert!(matches!(reader_of(twice), Err(KeysError::NoKey { .. })), "which of two is not known");
    for form in ["", "{}", "-----BEGIN PUBLIC KEY-----\nx\n-----END PUBLIC KEY-----\n", RSA_KEY] {
        let read = reader_of(form);
        assert!(read.is_err(), "{form}: {read:?}");
    }
    let long = " ".repeat(300_000);
    assert!(matches!(reader_of(long), Err(KeysError::Form { .. })));
}
