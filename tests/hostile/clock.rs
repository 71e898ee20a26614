//! Promise: a wall clock that is set back, by a day or by years, makes nothing valid again that has expired, and no certificate late.
//!
//! The clock of the program under test is set, and no other: a library in C (`clock.c`) is preloaded into it, which adds the
//! seconds in a file to what the wall clock shows.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use bellwire_testkit::{Program, wait_until};
use ring::hmac;
use serde_json::{Value, json};

use crate::pebble::{NAME, Pebble};
use crate::support::{Closed, text};

const DAY_S: i64 = 86_400;

/// A wall clock of a program's own.
struct WallClock {
    folder: tempfile::TempDir,
}

impl WallClock {
    /// Compiles the library, by the C compiler that the build needs too.
    fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/hostile/clock.c");
        let mut compile = Command::new("cc");
        compile.args(["-shared", "-fPIC", "-o"]).arg(folder.path().join("clock.so"));
        let compiled = compile.arg(source).arg("-ldl").output().unwrap();
        assert!(compiled.status.success(), "{}", String::from_utf8_lossy(&compiled.stderr));
        Self { folder }
    }

    fn path(&self, name: &str) -> String {
        self.folder.path().join(name).to_str().unwrap().to_owned()
    }

    /// The variables by which a program gets this clock.
    fn environment(&self) -> [(&'static str, String); 2] {
        [("LD_PRELOAD", self.path("clock.so")), ("CLOCK_OFFSET_FILE", self.path("offset"))]
    }

    /// It shows so many seconds more than the machine's, from now on.
    fn set(&self, seconds: i64) {
        // In one step: the program may read it at any time.
        std::fs::write(self.path("new"), seconds.to_string()).unwrap();
        std::fs::rename(self.path("new"), self.path("offset")).unwrap();
    }

    fn hub(&self, settings: &str) -> Closed {
        let environment = self.environment();
        let environment: Vec<_> = environment.iter().map(|(k, v)| (*k, v.as_str())).collect();
        Closed::in_environment(settings, &environment)
    }
}

fn status(closed: &Closed, token: &str) -> u16 {
    closed.ask(token, "GET /v1/tokens/self", "").status
}

/// What the hub's own clock shows, in Unix milliseconds.
fn time_ms(closed: &Closed) -> i64 {
    closed.hub.http().get("/v1/ping").unwrap().json()["time_ms"].as_i64().unwrap()
}

fn until_expired(closed: &Closed, token: &str) {
    wait_until("the token to expire", || match status(closed, token) {
        401 => Ok(()),
        other => Err(other.to_string()),
    });
}

#[test]
fn a_clock_that_is_set_back_revives_no_token_that_has_expired() {
    let clock = WallClock::new();
    let closed = clock.hub("");
    let token = closed.token(&json!({"role": "operator", "expires_in_s": 2}));
    let join = closed.token(&json!({"role": "join", "uses": 9, "expires_in_s": 2}));
    let lasting = closed.token(&json!({"role": "operator", "expires_in_s": 3600}));
    until_expired(&closed, &token);
    until_expired(&closed, &join);
    let before = time_ms(&closed);
    for seconds in [-DAY_S, -400 * DAY_S] {
        clock.set(seconds);
        let shown = time_ms(&closed);
        assert!(shown < before + (seconds + 60) * 1000, "the hub's clock was not set: {shown}");
        assert_eq!(status(&closed, &token), 401, "it works again");
        assert_eq!(closed.ask(&join, "POST /v1/enroll", "{}").status, 401, "it enrols again");
        // What has not expired works, and so does what is made now, which counts from what the clock shows.
        assert_eq!(status(&closed, &lasting), 200);
        assert_eq!(closed.admin("GET /v1/tokens/self", "")["role"], "admin");
    }
    // The remaining life passes meanwhile, though the clock shows the same day twice.
    clock.set(0);
    assert_eq!((status(&closed, &lasting), status(&closed, &token)), (200, 401));
}

#[test]
fn a_token_that_is_in_use_expires_in_its_time_though_the_clock_is_set_back() {
    let clock = WallClock::new();
    // No heartbeat comes meanwhile: a stream that does not end is one without a byte.
    let closed = clock.hub("heartbeat = '10m'\n");
    closed.register("door", &json!({}));
    let token = closed.token(&json!({"role": "device", "device": "door", "expires_in_s": 5}));
    let watcher = closed.token(&json!({"role": "operator", "expires_in_s": 5}));
    let mut stream = closed.stream(&token, "/v1/devices/door/stream");
    stream.expect("hello");
    let mut events = closed.stream(&watcher, "/v1/events");
    events.expect("hub");
    clock.set(-DAY_S);
    // Both wait, with a bound of a minute where a day would have to pass.
    assert_eq!(stream.expect("bye")["reason"], "revoked");
    assert_eq!(events.expect("bye")["reason"], "revoked");
    assert_eq!((status(&closed, &token), status(&closed, &watcher)), (401, 401));
}

/// As a machine without a battery for its clock comes up, and one whose time server lies.
#[test]
fn a_start_with_a_clock_that_is_behind_revives_no_token_that_had_expired() {
    let clock = WallClock::new();
    let closed = clock.hub("");
    let token = closed.token(&json!({"role": "operator", "expires_in_s": 2}));
    until_expired(&closed, &token);
    let Closed { hub, admin } = closed;
    let (folder, program) = (hub.folder, hub.program);
    assert!(program.terminate().success());
    clock.set(-DAY_S);
    let environment = clock.environment();
    let environment: Vec<_> = environment.iter().map(|(k, v)| (*k, v.as_str())).collect();
    let closed = Closed { hub: crate::support::Hub::in_folder(folder, "", &environment), admin };
    assert_eq!(status(&closed, &token), 401, "it works again");
    assert_eq!(closed.admin("GET /v1/tokens/self", "")["role"], "admin");
}

const SECRET: [u8; 32] = [7; 32];

fn jwt(claims: &Value) -> String {
    let encode = |bytes: &[u8]| URL_SAFE_NO_PAD.encode(bytes);
    let header = encode(br#"{"alg":"HS256","typ":"JWT"}"#);
    let message = format!("{header}.{}", encode(claims.to_string().as_bytes()));
    let key = hmac::Key::new(hmac::HMAC_SHA256, &SECRET);
    format!("{message}.{}", encode(hmac::sign(&key, message.as_bytes()).as_ref()))
}

#[test]
fn a_clock_that_is_set_back_revives_no_jwt_that_has_expired() {
    let clock = WallClock::new();
    let keys = clock.path("keys.json");
    let set =
        json!({"keys": [{"kty": "oct", "alg": "HS256", "k": URL_SAFE_NO_PAD.encode(SECRET)}]});
    std::fs::write(&keys, set.to_string()).unwrap();
    let closed = clock.hub(&format!("[jwt]\nkeys = {keys:?}\nissuer = 'i'\naudience = 'a'\n"));
    let now_s = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs() as i64;
    let of = |exp: i64| {
        jwt(
            &json!({"iss": "i", "aud": "a", "sub": "s", "role": "operator", "iat": now_s, "exp": exp}),
        )
    };
    // 60 s of leeway are allowed: two remain.
    let (token, lasting) = (of(now_s - 58), of(now_s + 3600));
    assert_eq!(status(&closed, &lasting), 200);
    until_expired(&closed, &token);
    clock.set(-DAY_S);
    assert_eq!(status(&closed, &token), 401, "it works again");
    assert_eq!(status(&closed, &of(now_s - 3600)), 401, "one that was never seen works");
    assert_eq!(status(&closed, &lasting), 200);
    assert!(text(&closed.admin("GET /v1/tokens/self", "")["role"]) == "admin");
}

/// The certificate of an authority that has the right time expires in 15 s, while the hub's clock is a day behind.
#[test]
fn a_certificate_by_acme_is_renewed_in_time_though_the_clock_is_set_back() {
    let Some(pebble) = Pebble::start(Duration::from_secs(15)) else { return };
    let clock = WallClock::new();
    let ports = &pebble.ports;
    let settings = format!(
        "listen = ['http://127.0.0.1:{}', 'https://127.0.0.1:{}']\n[acme]\ndomains = ['{NAME}']\n\
         email = 'ops@example.com'\ndirectory = 'https://localhost:{}/dir'\ndirectory_ca = {:?}\n",
        ports.http, ports.tls, ports.directory, pebble.ca
    );
    let file = PathBuf::from(clock.path("hub.toml"));
    std::fs::write(&file, settings).unwrap();
    let mut serve = bellwire_testkit::command(crate::support::BELLWIRE, &["serve", "--config"]);
    serve.arg(&file).arg("--data-dir").arg(clock.path("hub")).envs(clock.environment());
    let hub = Program::start(&mut serve);
    hub.wait_for("obtained a certificate by ACME");
    let (tls, client) = (std::net::SocketAddr::from(([127, 0, 0, 1], ports.tls)), pebble.client());
    let first = client.shown(tls, NAME);
    clock.set(-DAY_S);
    wait_until("another certificate", || {
        // The test's clock is right, and its client verifies what it is shown.
        let shown = client.connect(tls, NAME).map_err(|e| format!("{e}: {}", hub.output()))?;
        let shown = shown.conn.peer_certificates().unwrap()[0].clone();
        if shown == first { Err("still the first".to_owned()) } else { Ok(()) }
    });
}
