//! The keys of another issuer's tokens: they rotate, come from a URL, and end what was opened with them. The fetches
//! themselves are tested beside their code (`hub/src/jwt/source/tests.rs`). Contract, section 6, "Tokens of another issuer".

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener};
use std::time::{SystemTime, UNIX_EPOCH};

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use bellwire_hub::app::{StartError, faults};
use bellwire_hub::config::{Config, JwtConfig};
use ring::rand::SystemRandom;
use ring::signature::{Ed25519KeyPair, KeyPair};
use serde_json::{Value, json};

use crate::support::{Hub, Stream};
use crate::tokens::Made;

/// A key of the issuer.
struct SigningKey(&'static str, Ed25519KeyPair);

impl SigningKey {
    fn new(kid: &'static str) -> Self {
        let pkcs8 = Ed25519KeyPair::generate_pkcs8(&SystemRandom::new()).unwrap();
        Self(kid, Ed25519KeyPair::from_pkcs8(pkcs8.as_ref()).unwrap())
    }

    fn jwk(&self) -> Value {
        let x = URL_SAFE_NO_PAD.encode(self.1.public_key());
        json!({"kty": "OKP", "crv": "Ed25519", "kid": self.0, "x": x})
    }

    fn token(&self, more: &Value) -> Made {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs();
        let mut claims =
            json!({"iss": "https://id.example", "aud": "bellwire", "sub": "ada", "exp": now + 600});
        claims.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        let encode = |part: &Value| URL_SAFE_NO_PAD.encode(part.to_string());
        let header = json!({"alg": "EdDSA", "kid": self.0});
        let message = format!("{}.{}", encode(&header), encode(&claims));
        let signature = URL_SAFE_NO_PAD.encode(self.1.sign(message.as_bytes()));
        Made { id: "jwt:ada".into(), secret: format!("{message}.{signature}") }
    }
}

fn set(keys: &[&SigningKey]) -> String {
    let keys: Vec<_> = keys.iter().map(|key| key.jwk()).collect();
    json!({"keys": keys}).to_string()
}

/// The settings of JWTs, but for their keys.
fn settings(config: &mut Config, set: impl FnOnce(&mut JwtConfig)) {
    let mut jwt = JwtConfig::default();
    (jwt.issuer, jwt.audience) = ("https://id.example".into(), "bellwire".into());
    set(&mut jwt);
    config.jwt = Some(jwt);
}

fn bye(stream: &mut Stream) -> Value {
    loop {
        let event = stream.event();
        if event.field("event") == Some("bye") {
            return event.data()["reason"].clone();
        }
    }
}

#[test]
fn what_was_opened_with_a_key_ends_when_it_is_taken_out_of_its_file_and_nothing_else_does() {
    let (old, new) = (SigningKey::new("a"), SigningKey::new("b"));
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("keys.json");
    std::fs::write(&file, set(&[&old, &new])).unwrap();
    let hub = Hub::with(|config| settings(config, |jwt| jwt.keys = file.clone()));
    let admin = hub.token(&json!({"role": "admin"}));
    hub.with_token(&admin, "PUT /v1/devices/d", "{}");
    hub.with_token(&admin, "PUT /v1/devices/e", "{}");
    let device =
        |key: &SigningKey, name: &str| key.token(&json!({"role": "device", "device": name}));
    let (of_old, of_new) = (device(&old, "d"), device(&new, "e"));
    let operator = old.token(&json!({"role": "operator"}));
    let mut streams = [
        hub.stream_of(&of_old, "/v1/devices/d/stream"),
        hub.stream_of(&operator, "/v1/events"),
        hub.stream_of(&of_new, "/v1/devices/e/stream"),
    ];
    for (stream, first) in streams.iter_mut().zip(["hello", "hub", "hello"]) {
        stream.expect(first);
    }
    // It waits for an appliance that does not report.
    let mut waits = hub.connect();
    waits.request("POST /v1/send/d/ping?wait=300", &operator.header(), b"");
    streams[0].expect("command");

    std::fs::write(&file, set(&[&new])).unwrap();
    assert_eq!(bye(&mut streams[0]), "revoked");
    assert_eq!(bye(&mut streams[1]), "revoked");
    assert_eq!(waits.answer_to("POST /").code(), "unauthenticated");
    assert_eq!(hub.with_token(&of_old, "GET /v1/devices/d", "").code(), "unauthenticated");
    let sent = hub.with_token(&admin, "POST /v1/send/e/ping", "");
    assert_eq!(sent.status, 202, "{sent:?}");
    assert_eq!(streams[2].expect("command")["action"], "ping", "the other key's goes on");
}

/// A server that answers every request with this body, over and over.
fn issuer(body: String) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let addr = listener.local_addr().unwrap();
    std::thread::spawn(move || {
        for mut socket in listener.incoming().flatten() {
            let mut head = Vec::new();
            let mut bytes = [0; 1024];
            while !head.windows(4).any(|end| end == b"\r\n\r\n") {
                match socket.read(&mut bytes) {
                    Ok(n) if n > 0 => head.extend_from_slice(&bytes[..n]),
                    _ => break,
                }
            }
            let length = body.len();
            let _ = write!(socket, "HTTP/1.1 200 OK\r\nContent-Length: {length}\r\n\r\n{body}");
        }
    });
    addr
}

#[test]
fn keys_come_from_a_url_and_readyz_says_when_there_are_none() {
    let key = SigningKey::new("a");
    let token = key.token(&json!({"role": "operator"}));
    let url = |addr: SocketAddr| Some(format!("http://{addr}/jwks").parse().unwrap());
    let good = issuer(set(&[&key]));
    let hub = Hub::with(|config| settings(config, |jwt| jwt.keys_url = url(good)));
    let admin = hub.token(&json!({"role": "admin"}));
    let own = hub.with_token(&token, "GET /v1/tokens/self", "");
    assert_eq!((own.status, &own.json()["note"]), (200, &json!("jwt:ada")), "{own:?}");
    assert_eq!(hub.get("/readyz").json(), json!({"status": "ready"}));
    assert_eq!(hub.with_token(&admin, "GET /v1/devices", "").status, 200);

    // Nothing listens there any more.
    let closed = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let hub = Hub::with(|config| settings(config, |jwt| jwt.keys_url = url(closed)));
    let admin = hub.token(&json!({"role": "admin"}));
    assert_eq!(hub.with_token(&token, "GET /v1/tokens/self", "").code(), "unauthenticated");
    let ready = hub.get("/readyz");
    assert_eq!(
        (ready.status, ready.json()),
        (200, json!({"status": "ready", "jwt_keys": "missing"})),
        "the hub works, and whoever has its own tokens does"
    );
    assert_eq!(hub.with_token(&admin, "GET /v1/devices", "").status, 200);
}

#[test]
fn authorities_that_cannot_be_read_are_a_fault_before_the_start() {
    let folder = tempfile::tempdir().unwrap();
    let mut config = Config::default();
    config.data_dir = folder.path().join("hub");
    settings(&mut config, |jwt| {
        jwt.keys_url = Some("https://id.example/jwks".parse().unwrap());
        jwt.keys_ca = Some(folder.path().join("missing.pem"));
    });
    let found = faults(&config);
    assert!(matches!(found.as_slice(), [StartError::Jwt(_)]), "{found:?}");
    let message = found[0].to_string();
    assert!(message.contains("jwt_keys_ca") && message.contains("missing.pem"), "{message}");
    assert!(found[0].is_usage());
}
