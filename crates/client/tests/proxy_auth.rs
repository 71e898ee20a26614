//! Basic, Digest and NTLM through a real Squid, for plain requests and for CONNECT. Where Squid is not installed the tests say so,
//! and pass. The name `hub.test` exists at the proxy alone.
//!
//! Squid's helper for NTLM accepts every password: that an answer is right is tested by the examples of [MS-NLMP], beside the code.
#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "a panic is the failure message")]

mod support;

use std::net::SocketAddr;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::sync::Arc;

use axum::body::{Body, to_bytes};
use bellwire_client::EventSource;
use bellwire_client::event_source::Retry;
use bellwire_client::transport::{
    HttpTransport, Request, Transport as _, TransportError, TransportStage,
};
use bytes::Bytes;
use futures_util::{StreamExt as _, TryStreamExt as _};
use rustls::ServerConfig;
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use support::{Exchange, Tail, within};
use tokio::io::{AsyncBufReadExt as _, BufReader};
use tokio::net::TcpListener;
use tokio::process::{Child, Command};
use tokio_rustls::TlsAcceptor;

const SQUID: &str = "/usr/sbin/squid";
/// Where Debian has Squid's helpers.
const HELPERS: &str = "/usr/lib/squid";
const USER: &str = "device";
const PASSWORD: &str = "s3cret";
/// `openssl passwd -apr1 -salt bellwire s3cret`.
const BASIC: &str = "device:$apr1$bellwire$eV75uLApINnoRpFjlBN.S.\n";
/// MD5 of `device:lab:s3cret`, as the helper for Digest reads it.
const DIGEST: &str = "device:lab:49d8d53203c0035ef4e6fd98aed662cf\n";

/// A Squid with one scheme or several, and its files.
struct Squid {
    _child: Child,
    folder: tempfile::TempDir,
    address: SocketAddr,
}

impl Squid {
    /// Starts it; `None` where it is not installed, which is a failure in CI.
    async fn start(schemes: &[&str]) -> Option<Self> {
        let helpers = ["basic_ncsa_auth", "digest_file_auth", "ntlm_fake_auth"];
        let is_installed = Path::new(SQUID).exists()
            && helpers.iter().all(|helper| Path::new(HELPERS).join(helper).exists());
        if !is_installed {
            let absent = "Squid with its helpers is not installed (apt install squid-openssl)";
            assert!(std::env::var_os("CI").is_none(), "{absent}");
            eprintln!("{absent}: nothing was tested");
            return None;
        }
        // Squid cannot choose a port: another program may take this one before Squid does.
        for _ in 0..5 {
            let free = TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap();
            if let Some(squid) = Self::start_at(free, schemes).await {
                return Some(squid);
            }
        }
        panic!("Squid does not start");
    }

    async fn start_at(address: SocketAddr, schemes: &[&str]) -> Option<Self> {
        let folder = tempfile::tempdir().unwrap();
        let at = folder.path().display().to_string();
        // As root it continues as another user.
        std::fs::set_permissions(&at, std::fs::Permissions::from_mode(0o777)).unwrap();
        let write =
            |name: &str, text: &str| std::fs::write(folder.path().join(name), text).unwrap();
        write("basic", BASIC);
        write("digest", DIGEST);
        write("hosts", "127.0.0.1 hub.test\n");
        let scheme = |scheme: &&str| match *scheme {
            "basic" => format!(
                "auth_param basic program {HELPERS}/basic_ncsa_auth {at}/basic\n\
                 auth_param basic children 1\nauth_param basic realm lab\n"
            ),
            "digest" => format!(
                "auth_param digest program {HELPERS}/digest_file_auth -c {at}/digest\n\
                 auth_param digest children 1\nauth_param digest realm lab\n"
            ),
            _ => format!(
                "auth_param ntlm program {HELPERS}/ntlm_fake_auth\nauth_param ntlm children 1\n"
            ),
        };
        let schemes: String = schemes.iter().map(scheme).collect();
        write(
            "squid.conf",
            &format!(
                "http_port {address}\nhosts_file {at}/hosts\nvisible_hostname proxy.test\n\
                 pid_filename none\naccess_log stdio:{at}/access.log\ncache_log {at}/cache.log\n\
                 cache deny all\nmemory_cache_shared off\npinger_enable off\nnetdb_filename none\n\
                 coredump_dir none\nshutdown_lifetime 0 seconds\n{schemes}\
                 acl known proxy_auth REQUIRED\nhttp_access allow known\nhttp_access deny all\n"
            ),
        );
        let mut squid = Command::new(SQUID);
        squid.args(["-N", "-d", "1", "-f"]).arg(folder.path().join("squid.conf"));
        // Its services are named, and other tests start others.
        squid.arg("-n").arg(format!("bw{}", address.port()));
        squid.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped()).kill_on_drop(true);
        let mut child = squid.spawn().unwrap();
        let mut lines = BufReader::new(child.stderr.take().unwrap()).lines();
        within("Squid to listen", async {
            while let Some(line) = lines.next_line().await.unwrap() {
                if line.contains("Accepting HTTP Socket connections") {
                    // Read on, so that it never blocks.
                    tokio::spawn(async move { while let Ok(Some(_)) = lines.next_line().await {} });
                    return Some(Self { _child: child, folder, address });
                }
            }
            None
        })
        .await
    }

    fn transport(&self, password: Option<&str>) -> HttpTransport {
        let userinfo = password.map(|password| format!("{USER}:{password}@")).unwrap_or_default();
        let proxy = format!("http://{userinfo}{}", self.address);
        HttpTransport::builder().proxy(proxy).ca_file(fixture("ca.pem")).build().unwrap()
    }

    /// How many requests it refused with 407.
    fn challenges(&self) -> usize {
        let log = std::fs::read_to_string(self.folder.path().join("access.log")).unwrap();
        log.lines().filter(|line| line.contains("/407 ")).count()
    }
}

fn fixture(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures").join(name)
}

/// Answers each request with what it received; `/events` is a stream.
async fn start_origin() -> u16 {
    let echo = |request: axum::extract::Request| async move {
        let (head, body) = request.into_parts();
        assert!(!head.headers.contains_key("proxy-authorization"));
        if head.uri.path() == "/events" && head.method == "GET" {
            let first = futures_util::stream::iter([Ok::<_, String>("data: here I am\n\n")]);
            let body = Body::from_stream(first.chain(futures_util::stream::pending()));
            return ([("content-type", "text/event-stream")], body);
        }
        let body = to_bytes(body, 1024).await.unwrap();
        let said =
            format!("{} {} {}", head.method, head.uri.path(), String::from_utf8_lossy(&body));
        ([("content-type", "text/plain")], Body::from(said))
    };
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let app = axum::Router::new().fallback(echo);
    #[expect(clippy::disallowed_methods, reason = "a test's server, which needs no limits")]
    let served = axum::serve(listener, app);
    tokio::spawn(async move { served.await.unwrap() });
    port
}

/// Over TLS it answers one request per connection.
async fn start_tls_origin() -> u16 {
    let certificates = CertificateDer::pem_file_iter(fixture("hub.pem")).unwrap();
    let key = PrivateKeyDer::from_pem_file(fixture("hub.key")).unwrap();
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let config = ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(certificates.map(Result::unwrap).collect(), key)
        .unwrap();
    let acceptor = TlsAcceptor::from(Arc::new(config));
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    tokio::spawn(async move {
        loop {
            let (socket, _) = listener.accept().await.unwrap();
            let socket = acceptor.accept(socket).await.unwrap();
            let request = Exchange::read(socket).await;
            assert_eq!(request.header("proxy-authorization"), None);
            let said = format!("{} over TLS", request.method);
            request.answer("200 OK", &said).await;
        }
    });
    port
}

async fn send(
    transport: &HttpTransport,
    method: &str,
    url: String,
    body: &'static str,
) -> Result<String, TransportError> {
    let request = Request::new(Bytes::from_static(body.as_bytes()));
    let (mut head, body) = request.into_parts();
    (head.method, head.uri) = (method.parse().unwrap(), url.parse().unwrap());
    let response = within("a response", transport.send(Request::from_parts(head, body))).await?;
    assert_eq!(response.status(), 200, "{url}");
    let parts: Vec<Bytes> = within("its body", response.into_body().try_collect()).await?;
    Ok(String::from_utf8(parts.concat()).unwrap())
}

/// Each of them is challenged once, and the later requests are not.
async fn each_way(schemes: &[&str], plain_challenges: usize, connect_challenges: usize) {
    let Some(squid) = Squid::start(schemes).await else { return };
    let hub = format!("http://hub.test:{}", start_origin().await);
    let transport = squid.transport(Some(PASSWORD));
    for _ in 0..2 {
        let got = send(&transport, "GET", format!("{hub}/a?b=c"), "").await;
        assert_eq!(got.unwrap(), "GET /a ", "{schemes:?}");
        let posted = send(&transport, "POST", format!("{hub}/reports"), "the body").await;
        assert_eq!(posted.unwrap(), "POST /reports the body", "{schemes:?}");
    }
    assert_eq!(squid.challenges(), plain_challenges, "{schemes:?}");
    let events = EventSource::builder(format!("{hub}/events")).transport(transport.clone());
    let mut tail = Tail::start(events.retry(Retry::never()));
    assert_eq!(tail.data().await, "here I am", "{schemes:?}");
    let beside = send(&transport, "GET", format!("{hub}/beside"), "").await;
    assert_eq!(beside.unwrap(), "GET /beside ", "{schemes:?}");

    let before = squid.challenges();
    let hub = format!("https://hub.test:{}/", start_tls_origin().await);
    let transport = squid.transport(Some(PASSWORD));
    for _ in 0..2 {
        let got = send(&transport, "GET", hub.clone(), "").await;
        assert_eq!(got.unwrap(), "GET over TLS", "{schemes:?}");
    }
    assert_eq!(squid.challenges() - before, connect_challenges, "{schemes:?}");
}

#[tokio::test]
async fn basic_is_spoken_with_squid_both_ways() {
    each_way(&["basic"], 1, 1).await;
}

#[tokio::test]
async fn digest_is_spoken_with_squid_both_ways() {
    each_way(&["digest"], 1, 1).await;
}

/// It takes a challenge for the kind of authentication, and one for each connection.
#[tokio::test]
async fn ntlm_is_spoken_with_squid_both_ways() {
    each_way(&["ntlm"], 2, 3).await;
}

#[tokio::test]
async fn of_several_schemes_the_strongest_is_spoken() {
    each_way(&["basic", "ntlm", "digest"], 1, 1).await;
}

#[tokio::test]
async fn a_wrong_or_missing_password_is_an_error_with_the_offered_scheme_and_the_setting() {
    for (scheme, name) in [("basic", "Basic"), ("digest", "Digest")] {
        let Some(squid) = Squid::start(&[scheme]).await else { return };
        for (password, said, advised) in [
            (Some("wrong"), "to the user and password in its URL", "check user and password"),
            (None, "answered 407", "proxy = \"http://user:password@127.0.0.1:"),
        ] {
            let transport = squid.transport(password);
            for url in ["http://hub.test:1/", "https://hub.test:1/"] {
                let error = send(&transport, "GET", url.to_owned(), "").await.unwrap_err();
                assert_eq!(error.stage(), TransportStage::ProxyAuthentication, "{error}");
                assert_eq!(error.proxy_refusal().unwrap().schemes, [name], "{url}");
                let text = error.to_string();
                assert!(text.contains(said) && text.contains(name), "{url}: {text}");
                assert!(!text.contains("wrong"), "{text}");
                let advice = error.advice().unwrap();
                assert!(advice.contains(advised), "{url}: {advice}");
            }
        }
    }
}

/// What a proxy answers for a server that is down, or that it does not allow, is not about a password.
#[tokio::test]
async fn a_server_that_squid_does_not_reach_is_distinguished() {
    let Some(squid) = Squid::start(&["basic"]).await else { return };
    let transport = squid.transport(Some(PASSWORD));
    // Nothing listens on port 1.
    let error = send(&transport, "GET", "https://hub.test:1/".to_owned(), "").await.unwrap_err();
    assert_eq!(error.stage(), TransportStage::ProxyRefused, "{error}");
    let refusal = error.proxy_refusal().unwrap();
    assert!(refusal.is_unavailable(), "{refusal}");
    assert!(refusal.page.as_ref().is_some_and(|page| page.contains("ERROR")), "{refusal}");
    // Over plain HTTP its answer is passed on, also where the connection was to be authenticated first.
    for scheme in ["basic", "ntlm"] {
        let Some(squid) = Squid::start(&[scheme]).await else { return };
        let mut request = Request::new(Bytes::new());
        *request.uri_mut() = "http://hub.test:1/".parse().unwrap();
        let sent = squid.transport(Some(PASSWORD)).send(request);
        let response = within("a response", sent).await.unwrap();
        assert_eq!(response.status(), 503, "{scheme}");
    }
}
