//! Keys from a URL, beside an issuer that rotates, fails and lies: a real server on loopback. The clock is moved by hand.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use bellwire_proto::{Timestamp, TokenId};
use rcgen::{BasicConstraints, CertificateParams, IsCa, Issuer as Signer, KeyPair};
use ring::rand::SystemRandom;
use ring::signature::{Ed25519KeyPair, KeyPair as _};
use rustls::{ServerConfig, ServerConnection, StreamOwned};
use rustls_pki_types::PrivateKeyDer;
use serde_json::json;
use tokio::sync::mpsc::{Receiver, channel};

use super::*;
use crate::jwt::{Jwt, JwtError};

const NOW_S: u64 = 1_800_000_000;

/// A server that answers every request with the same bytes, until it is given others.
struct Server {
    addr: SocketAddr,
    answer: Arc<Mutex<Vec<u8>>>,
    /// To requests for `/other`.
    other: Arc<Mutex<Vec<u8>>>,
    /// The heads of requests.
    asked: Arc<Mutex<Vec<String>>>,
}

impl Server {
    fn start(tls: Option<Arc<ServerConfig>>) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let server = Self {
            addr: listener.local_addr().unwrap(),
            answer: Arc::default(),
            other: Arc::default(),
            asked: Arc::default(),
        };
        let answers = [server.answer.clone(), server.other.clone()];
        let asked = server.asked.clone();
        std::thread::spawn(move || {
            for socket in listener.incoming().flatten() {
                let (answers, asked, tls) = (answers.clone(), asked.clone(), tls.clone());
                std::thread::spawn(move || match tls {
                    None => serve(socket, &answers, &asked),
                    Some(tls) => {
                        let connection = ServerConnection::new(tls).unwrap();
                        serve(StreamOwned::new(connection, socket), &answers, &asked);
                    }
                });
            }
        });
        server
    }

    fn answers(&self, head: &str, body: &str) {
        *lock(&self.answer) = answer(head, body);
    }

    fn asked(&self) -> Vec<String> {
        lock(&self.asked).clone()
    }

    fn url(&self) -> String {
        format!("http://{}/jwks", self.addr)
    }
}

fn answer(head: &str, body: &str) -> Vec<u8> {
    let length = body.len();
    let fields = format!("Content-Length: {length}\r\nConnection: close");
    format!("HTTP/1.1 {head}\r\n{fields}\r\n\r\n{body}").into_bytes()
}

/// Answers one request. An empty answer is none: the connection stays open until the client closes it.
fn serve(
    mut stream: impl Read + Write,
    answers: &[Arc<Mutex<Vec<u8>>>; 2],
    asked: &Mutex<Vec<String>>,
) {
    let mut head = Vec::new();
    let mut byte = [0];
    while !head.ends_with(b"\r\n\r\n") {
        match stream.read(&mut byte) {
            Ok(1) => head.push(byte[0]),
            _ => return,
        }
    }
    let other = usize::from(head.starts_with(b"GET /other "));
    let answer = lock(&answers[other]).clone();
    lock(asked).push(String::from_utf8(head).unwrap());
    if answer.is_empty() {
        let _ = stream.read(&mut byte);
    }
    let _ = stream.write_all(&answer);
    let _ = stream.flush();
}

/// A key of an issuer.
struct SigningKey {
    kid: &'static str,
    pair: Ed25519KeyPair,
}

impl SigningKey {
    fn new(kid: &'static str) -> Self {
        let pkcs8 = Ed25519KeyPair::generate_pkcs8(&SystemRandom::new()).unwrap();
        Self { kid, pair: Ed25519KeyPair::from_pkcs8(pkcs8.as_ref()).unwrap() }
    }

    fn jwk(&self) -> serde_json::Value {
        let x = URL_SAFE_NO_PAD.encode(self.pair.public_key());
        json!({"kty": "OKP", "crv": "Ed25519", "kid": self.kid, "use": "sig", "x": x})
    }

    fn token(&self) -> String {
        let claims = json!({
            "iss": "https://id.example", "aud": "bellwire", "sub": "ada", "exp": NOW_S + 300, "role": "admin"
        });
        let header = json!({"alg": "EdDSA", "kid": self.kid});
        let encode = |part: serde_json::Value| URL_SAFE_NO_PAD.encode(part.to_string());
        let message = format!("{}.{}", encode(header), encode(claims));
        let signature = URL_SAFE_NO_PAD.encode(self.pair.sign(message.as_bytes()));
        format!("{message}.{signature}")
    }
}

fn set(keys: &[&SigningKey]) -> String {
    let keys: Vec<_> = keys.iter().map(|key| key.jwk()).collect();
    json!({"keys": keys}).to_string()
}

/// A hub's reader of this URL that is followed, and the JWTs that it ended.
fn following(url: &str) -> (Arc<Jwt>, Receiver<Vec<TokenId>>) {
    let keys_url = Some(url.parse().unwrap());
    let jwt = Arc::new(Jwt::load(JwtConfig { keys_url, ..JwtConfig::of_tests() }).unwrap());
    let (ended, ends) = channel(16);
    let follows = jwt.clone();
    tokio::spawn(async move { follows.follow(|ids| ended.try_send(ids).unwrap()).await });
    (jwt, ends)
}

async fn judged(jwt: &Jwt, key: &SigningKey) -> Result<(), JwtError> {
    jwt.grant_now(&key.token(), now()).await.map(drop)
}

fn now() -> Timestamp {
    Timestamp::from_unix_ms(NOW_S * 1000)
}

/// Lets so much time pass, and no more: sockets take real time.
async fn pass(seconds: u64) {
    tokio::time::pause();
    tokio::time::advance(Duration::from_secs(seconds)).await;
    tokio::time::resume();
}

/// Waits until it is so.
async fn until(so: impl Fn() -> bool) {
    let waited = tokio::time::timeout(Duration::from_secs(20), async {
        while !so() {
            tokio::task::yield_now().await;
        }
    });
    waited.await.expect("it never was so");
}

/// The next JWTs that are ended.
async fn ended(ends: &mut Receiver<Vec<TokenId>>) -> Option<Vec<TokenId>> {
    let waited = tokio::time::timeout(Duration::from_secs(20), ends.recv());
    waited.await.expect("nothing was ended")
}

fn fetches(jwt: &Jwt) -> (u64, u64) {
    (jwt.keys().fetched, jwt.keys().failed)
}

#[tokio::test]
async fn a_token_that_comes_before_the_keys_waits_for_them() {
    let (server, key) = (Server::start(None), SigningKey::new("a"));
    server.answers("200 OK\r\nContent-Type: application/json", &set(&[&key]));
    let (jwt, _ends) = following(&server.url());
    assert_eq!(jwt.keys().state, KeysState::Missing);
    assert_eq!(judged(&jwt, &key).await, Ok(()));
    assert_eq!((jwt.keys().state, fetches(&jwt)), (KeysState::Ready, (1, 0)));
    let asked = server.asked();
    assert!(asked[0].starts_with("GET /jwks HTTP/1.1\r\n"), "{asked:?}");
    assert!(asked[0].to_ascii_lowercase().contains(&format!("host: {}\r\n", server.addr)));
}

#[tokio::test]
async fn a_new_key_is_found_by_its_first_token_once_a_minute_and_what_the_old_one_opened_ends() {
    let (old, new) = (SigningKey::new("a"), SigningKey::new("b"));
    let server = Server::start(None);
    server.answers("200 OK", &set(&[&old]));
    let (jwt, mut ends) = following(&server.url());
    let given = jwt.grant_now(&old.token(), now()).await.unwrap();
    let id = TokenId::from_random([7; 10]);
    assert!(jwt.is_used(id, given.key, given.expires_at, now()));

    server.answers("200 OK", &set(&[&new]));
    assert_eq!(judged(&jwt, &new).await, Err(JwtError::Kid), "it was fetched a moment ago");
    pass(60).await;
    let twenty = (0..20).map(|_| judged(&jwt, &new));
    assert_eq!(futures_util::future::join_all(twenty).await, vec![Ok(()); 20]);
    assert_eq!(server.asked().len(), 2, "one fetch for all of them");
    assert_eq!(ended(&mut ends).await, Some(vec![id]));
    assert!(!jwt.has(given.key));
    assert_eq!(judged(&jwt, &old).await, Err(JwtError::Kid));

    // A flood of unknown names costs the issuer one request a minute.
    pass(60).await;
    let stranger = SigningKey::new("nobody");
    for _ in 0..20 {
        assert_eq!(judged(&jwt, &stranger).await, Err(JwtError::Kid));
    }
    assert_eq!(server.asked().len(), 3);
    assert_eq!(judged(&jwt, &new).await, Ok(()), "what did not change goes on");
}

#[tokio::test]
async fn keys_are_fetched_when_their_time_is_over_and_a_key_that_stays_ends_nothing() {
    let (a, b) = (SigningKey::new("a"), SigningKey::new("b"));
    let server = Server::start(None);
    server.answers("200 OK\r\nCache-Control: max-age=600", &set(&[&a]));
    let (jwt, mut ends) = following(&server.url());
    let given = jwt.grant_now(&a.token(), now()).await.unwrap();
    assert!(jwt.is_used(TokenId::from_random([7; 10]), given.key, given.expires_at, now()));
    server.answers("200 OK\r\nCache-Control: max-age=600", &set(&[&b, &a]));
    pass(600).await;
    until(|| fetches(&jwt) == (2, 0)).await;
    assert_eq!((judged(&jwt, &a).await, judged(&jwt, &b).await), (Ok(()), Ok(())));
    assert!(jwt.has(given.key) && ends.try_recv().is_err());
}

#[tokio::test]
async fn while_the_issuer_fails_the_old_keys_are_used_for_a_day_and_then_all_ends() {
    let (server, key) = (Server::start(None), SigningKey::new("a"));
    server.answers("200 OK\r\nCache-Control: max-age=300", &set(&[&key]));
    let (jwt, mut ends) = following(&server.url());
    let given = jwt.grant_now(&key.token(), now()).await.unwrap();
    let id = TokenId::from_random([7; 10]);
    assert!(jwt.is_used(id, given.key, given.expires_at, now()));
    server.answers("500 Internal Server Error", "");
    pass(300).await;
    until(|| fetches(&jwt) == (1, 1)).await;
    assert_eq!((jwt.keys().state, judged(&jwt, &key).await), (KeysState::Stale, Ok(())));
    pass(10).await;
    until(|| fetches(&jwt) == (1, 2)).await;
    assert_eq!((jwt.keys().state, judged(&jwt, &key).await), (KeysState::Stale, Ok(())));
    pass(86_400).await;
    assert_eq!(ended(&mut ends).await, Some(vec![id]));
    assert_eq!(jwt.keys().state, KeysState::Missing);
    server.answers("200 OK", &set(&[&key]));
    pass(300).await;
    until(|| jwt.keys().state == KeysState::Ready).await;
    assert_eq!(judged(&jwt, &key).await, Ok(()));
}

#[tokio::test]
async fn an_answer_that_is_of_no_use_leaves_the_keys_as_they_are() {
    let (server, key) = (Server::start(None), SigningKey::new("a"));
    let secret = URL_SAFE_NO_PAD.encode([7; 32]);
    let long = " ".repeat(JWT_KEYS_BYTES_MAX as usize);
    let public = set(&[&key]);
    let answers = [
        ("404 Not Found", public.clone()),
        ("200 OK", "<html>".to_owned()),
        ("200 OK", r#"{"keys":[]}"#.to_owned()),
        // Who can read it could sign with it.
        ("200 OK", json!({"keys": [{"kty": "oct", "kid": "x", "k": secret}]}).to_string()),
        ("200 OK", set(&[&key, &key])),
        ("200 OK", format!("{long}{public}")),
        ("200 OK\r\nContent-Encoding: gzip", public.clone()),
        ("302 Found\r\nLocation: http://127.0.0.1:1/jwks", String::new()),
        ("302 Found", String::new()),
        // To itself, for ever.
        ("302 Found\r\nLocation: /jwks", String::new()),
    ];
    server.answers("200 OK\r\nCache-Control: no-store", &public);
    let (jwt, mut ends) = following(&server.url());
    assert_eq!(judged(&jwt, &key).await, Ok(()));
    for (n, (head, body)) in (1..).zip(&answers) {
        server.answers(head, body);
        pass(300).await;
        until(|| jwt.keys().failed == n).await;
        assert_eq!(judged(&jwt, &key).await, Ok(()), "{head} {body}");
    }
    assert_eq!((jwt.keys().state, fetches(&jwt).0), (KeysState::Stale, 1));
    assert!(ends.try_recv().is_err());
    assert_eq!(server.asked().len(), 1 + answers.len() + JWT_FETCH_REDIRECTS);
}

/// Requests more that the redirect to itself causes.
const JWT_FETCH_REDIRECTS: usize = bellwire_proto::limits::JWT_FETCH_REDIRECTS_MAX;

#[tokio::test]
async fn an_issuer_that_never_answers_holds_nobody_for_longer_than_the_fetch_may_take() {
    let (server, key) = (Server::start(None), SigningKey::new("a"));
    let (jwt, _ends) = following(&server.url());
    let token = key.token();
    let waiting = tokio::spawn({
        let jwt = jwt.clone();
        async move { jwt.grant_now(&token, now()).await.map(drop) }
    });
    until(|| server.asked().len() == 1).await;
    pass(11).await;
    assert_eq!(waiting.await.unwrap(), Err(JwtError::Kid));
    until(|| fetches(&jwt) == (0, 1)).await;
    assert_eq!(judged(&jwt, &key).await, Err(JwtError::Kid), "at once");
}

#[tokio::test]
async fn a_redirect_on_the_same_host_is_followed() {
    let (server, key) = (Server::start(None), SigningKey::new("a"));
    server.answers("307 Temporary Redirect\r\nLocation: /other", "");
    *lock(&server.other) = answer("200 OK\r\nCache-Control: max-age=7", &set(&[&key]));
    let fetch = Fetch::of(&server.url().parse().unwrap(), None).unwrap();
    let fetched = fetch.fetch().await.unwrap();
    assert_eq!(fetched.body, set(&[&key]));
    assert_eq!(fetched.max_age, Some(Duration::from_secs(7)));
}

/// An authority, as PEM, and a server with a certificate of its for this name.
fn authority(name: &str) -> (String, Arc<ServerConfig>) {
    let mut params = CertificateParams::new(Vec::new()).unwrap();
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    let key = KeyPair::generate().unwrap();
    let pem = params.self_signed(&key).unwrap().pem();
    let signer = Signer::new(params, key);
    let leaf_key = KeyPair::generate().unwrap();
    let leaf = CertificateParams::new(vec![name.to_owned()]).unwrap();
    let leaf = leaf.signed_by(&leaf_key, &signer).unwrap();
    let secret = PrivateKeyDer::try_from(leaf_key.serialize_der()).unwrap();
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let config = ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(vec![leaf.der().clone()], secret)
        .unwrap();
    (pem, Arc::new(config))
}

#[tokio::test]
async fn over_tls_the_server_must_be_vouched_for_by_the_authorities_that_are_set() {
    let key = SigningKey::new("a");
    let folder = tempfile::tempdir().unwrap();
    let (pem, config) = authority("127.0.0.1");
    let (other_pem, other_name) = authority("id.example");
    let (good, bad) = (folder.path().join("good.pem"), folder.path().join("bad.pem"));
    std::fs::write(&good, pem).unwrap();
    std::fs::write(&bad, other_pem).unwrap();
    let server = Server::start(Some(config));
    let misnamed = Server::start(Some(other_name));
    for server in [&server, &misnamed] {
        server.answers("200 OK", &set(&[&key]));
    }
    let fetch = async |server: &Server, ca: Option<&Path>| {
        let url = format!("https://{}/jwks", server.addr).parse().unwrap();
        Fetch::of(&url, ca).unwrap().fetch().await
    };
    assert_eq!(fetch(&server, Some(&good)).await.unwrap().body, set(&[&key]));
    for (server, ca) in
        [(&server, Some(&*bad)), (&server, None), (&misnamed, Some(&*bad)), (&misnamed, None)]
    {
        let refused = fetch(server, ca).await.unwrap_err();
        assert!(refused.contains("certificate"), "{refused}");
    }
    let missing = Fetch::of(&"https://127.0.0.1/".parse().unwrap(), Some(&folder.path().join("x")));
    assert!(missing.unwrap_err().contains("cannot use"));
}

/// Only what was read from a file, variables or flags was checked: keys came over `http`, or beside a file that was not read.
#[test]
fn settings_of_keys_that_do_not_go_together_are_refused_to_a_program_that_sets_them_too() {
    let load = |url: &str, set: fn(&mut JwtConfig)| {
        let mut config =
            JwtConfig { keys_url: Some(url.parse().unwrap()), ..JwtConfig::of_tests() };
        set(&mut config);
        Keys::load(&config).map(drop).map_err(|refused| refused.to_string())
    };
    let plain = load("http://id.example/jwks", |_| {}).unwrap_err();
    assert!(plain.contains("jwt_keys_plain = true"), "{plain}");
    assert_eq!(load("http://id.example/jwks", |config| config.keys_plain = true), Ok(()));
    let both = load("https://id.example/jwks", |config| config.keys = "k.json".into()).unwrap_err();
    assert!(both.contains("remove one of them"), "{both}");
}
