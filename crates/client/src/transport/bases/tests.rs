//! Promise: every request goes through the best base that answers, and no password to another hub than its own.

use std::collections::HashSet;

use bytes::Bytes;
use http::header::LOCATION;
use http::{HeaderValue, StatusCode};
use tokio::time::Instant;

use super::*;
use crate::transport::ByteStream;

/// A network in which some hosts answer pings, and the others refuse connections; it records every request.
#[derive(Default)]
struct Hosts {
    up: Mutex<HashSet<&'static str>>,
    portals: Mutex<HashSet<&'static str>>,
    /// They redirect to a sign-in page.
    redirect: Mutex<HashSet<&'static str>>,
    /// Nothing comes back.
    silent: Mutex<HashSet<&'static str>>,
    changes: Mutex<u32>,
    asked: Mutex<Vec<(String, Option<String>)>>,
}

impl Transport for Hosts {
    fn send(&self, request: Request) -> ResponseFuture {
        let host = request.uri().host().unwrap_or_default().to_owned();
        let authorization = request.headers().get(AUTHORIZATION);
        let authorization = authorization.map(|value| value.to_str().unwrap().to_owned());
        self.asked.lock().unwrap().push((request.uri().to_string(), authorization));
        if self.portals.lock().unwrap().contains(host.as_str()) {
            return Box::pin(async { Ok(answer("<html>".to_owned())) });
        }
        if self.redirect.lock().unwrap().contains(host.as_str()) {
            let mut page = answer(String::new());
            *page.status_mut() = StatusCode::FOUND;
            let to = HeaderValue::from_static("http://login.hotel.test/?from=hub");
            page.headers_mut().insert(LOCATION, to);
            return Box::pin(async { Ok(page) });
        }
        if self.silent.lock().unwrap().contains(host.as_str()) {
            return Box::pin(std::future::pending());
        }
        if !self.up.lock().unwrap().contains(host.as_str()) {
            let refused = TransportError::new(TransportStage::Connect, "refused");
            return Box::pin(async { Err(refused) });
        }
        let query = request.uri().query().unwrap_or_default();
        let nonce = query.strip_prefix("nonce=").unwrap_or_default();
        let body = format!("{{\"hub\":\"h\",\"nonce\":\"{nonce}\",\"time_ms\":1}}");
        Box::pin(async { Ok(answer(body)) })
    }

    fn network_changed(&self) {
        *self.changes.lock().unwrap() += 1;
    }
}

fn answer(body: String) -> Response {
    let body: ByteStream = Box::pin(futures_util::stream::iter([Ok(Bytes::from(body))]));
    http::Response::new(body)
}

fn bases(hosts: &Arc<Hosts>, hubs: &[&str], hint: Option<usize>) -> BaseTransport {
    let base = |hub: &&str| Base {
        hub: hub.parse().unwrap(),
        proxy: "none".to_owned(),
        transport: hosts.clone(),
    };
    let mut bases: Vec<Base> = hubs.iter().map(base).collect();
    let preferred = bases.remove(0);
    BaseTransport::new(preferred, bases, hint)
}

async fn get(transport: &BaseTransport, url: &str) -> Result<(), TransportError> {
    let request = http::Request::get(url).header(AUTHORIZATION, "Bearer t").body(Bytes::new());
    transport.send(request.unwrap()).await.map(drop)
}

fn asked(hosts: &Hosts) -> Vec<String> {
    let asked = std::mem::take(&mut *hosts.asked.lock().unwrap());
    let without_nonce = |url: String| url.split('?').next().unwrap_or_default().to_owned();
    asked.into_iter().map(|(url, _)| without_nonce(url)).collect()
}

const HUBS: [&str; 3] = ["https://a.test", "https://b.test/sub/", "http://c.test"];

#[tokio::test(start_paused = true)]
async fn the_first_base_that_answers_a_ping_gets_every_request() {
    let hosts = Arc::new(Hosts::default());
    hosts.up.lock().unwrap().extend(["b.test", "c.test"]);
    hosts.portals.lock().unwrap().insert("a.test");
    let transport = bases(&hosts, &HUBS, None);
    get(&transport, "https://a.test/v1/x?q=1").await.unwrap();
    get(&transport, "https://a.test/v1/y").await.unwrap();
    let seen = asked(&hosts);
    assert_eq!(
        seen,
        [
            "https://a.test/v1/ping",
            "https://b.test/sub/v1/ping",
            "https://b.test/sub/v1/x",
            "https://b.test/sub/v1/y"
        ]
    );
    let base = transport.base().unwrap();
    assert_eq!((base.index, base.hub.as_str()), (1, "https://b.test/sub/"));
    assert!(base.why.unwrap().contains("not the hub"), "the portal is named");
}

#[tokio::test(start_paused = true)]
async fn a_base_that_cannot_be_reached_any_more_is_left_within_the_request() {
    let hosts = Arc::new(Hosts::default());
    hosts.up.lock().unwrap().extend(["a.test", "c.test"]);
    let transport = bases(&hosts, &HUBS, Some(0));
    get(&transport, "https://a.test/v1/x").await.unwrap();
    assert_eq!(asked(&hosts), ["https://a.test/v1/x"], "a hint saves the ping");
    hosts.up.lock().unwrap().remove("a.test");
    get(&transport, "https://a.test/v1/x").await.unwrap();
    assert_eq!(asked(&hosts).last().unwrap(), "http://c.test/v1/x");
    let generation = transport.base().unwrap().generation;
    // The better one is back, and is found after a pause.
    hosts.up.lock().unwrap().insert("a.test");
    sleep(2 * RETRY_PAUSE).await;
    let base = transport.base().unwrap();
    assert_eq!((base.index, base.why), (0, None));
    assert!(base.generation > generation);
}

/// A device that had fallen back to http once stayed there over each restart.
#[tokio::test(start_paused = true)]
async fn a_worse_base_that_worked_last_is_left_when_a_better_one_answers() {
    let hosts = Arc::new(Hosts::default());
    hosts.up.lock().unwrap().extend(["a.test", "c.test"]);
    let transport = bases(&hosts, &HUBS, Some(2));
    get(&transport, "https://a.test/v1/x").await.unwrap();
    assert_eq!(asked(&hosts), ["http://c.test/v1/x"], "a hint saves the ping");
    sleep(2 * RETRY_PAUSE).await;
    assert_eq!(transport.base().unwrap().index, 0, "the better base was not tried");
}

/// After a day at one base, a device that went on to the next one stayed there for another day.
#[tokio::test(start_paused = true)]
async fn the_pauses_begin_anew_with_another_base_and_another_network() {
    let hosts = Arc::new(Hosts::default());
    hosts.up.lock().unwrap().insert("b.test");
    let transport = bases(&hosts, &HUBS, None);
    get(&transport, "https://a.test/v1/x").await.unwrap();
    sleep(RETRY_PAUSE_MAX).await;
    hosts.up.lock().unwrap().clear();
    hosts.up.lock().unwrap().insert("c.test");
    get(&transport, "https://a.test/v1/x").await.unwrap();
    assert_eq!(transport.base().unwrap().index, 2);
    hosts.up.lock().unwrap().insert("b.test");
    sleep(2 * RETRY_PAUSE).await;
    assert_eq!(transport.base().unwrap().index, 1, "the pauses were those of the base before");
    get(&transport, "https://a.test/v1/x").await.unwrap();
    sleep(RETRY_PAUSE_MAX).await;
    transport.network_changed();
    get(&transport, "https://a.test/v1/x").await.unwrap();
    assert_eq!(transport.base().unwrap().index, 1, "the same base, in another network");
    hosts.up.lock().unwrap().insert("a.test");
    sleep(2 * RETRY_PAUSE).await;
    assert_eq!(transport.base().unwrap().index, 0, "the pauses were those of the network before");
}

#[tokio::test(start_paused = true)]
async fn where_no_base_works_the_reason_is_that_of_the_preferred_one() {
    let hosts = Arc::new(Hosts::default());
    let transport = bases(&hosts, &HUBS, None);
    let error = get(&transport, "https://a.test/v1/x").await.unwrap_err();
    assert_eq!(error.stage(), TransportStage::Connect);
    assert_eq!(asked(&hosts).len(), 3, "each once");
    assert_eq!(transport.base(), None);
}

#[tokio::test(start_paused = true)]
async fn one_base_needs_no_proof() {
    let hosts = Arc::new(Hosts::default());
    let transport = bases(&hosts, &HUBS[..1], None);
    get(&transport, "https://a.test/v1/x").await.unwrap_err();
    transport.reconsider();
    assert_eq!(asked(&hosts), ["https://a.test/v1/x"]);
}

#[tokio::test(start_paused = true)]
async fn the_password_of_one_hub_is_not_sent_to_another() {
    let hosts = Arc::new(Hosts::default());
    hosts.up.lock().unwrap().insert("b.test");
    let transport = bases(&hosts, &["https://u:s3cret@a.test", "https://b.test"], None);
    let authorization = transport.0.hub.authorization.clone().unwrap();
    let mut request = http::Request::get("https://a.test/v1/x").body(Bytes::new()).unwrap();
    request.headers_mut().insert(AUTHORIZATION, authorization);
    transport.send(request).await.unwrap();
    get(&transport, "https://a.test/v1/x").await.unwrap();
    let asked = hosts.asked.lock().unwrap();
    let sent: Vec<_> = asked.iter().rev().take(2).map(|(_, sent)| sent.as_deref()).collect();
    assert_eq!(sent, [Some("Bearer t"), None]);
}

/// The first command over plain HTTP waited until a silent https had had ten seconds, and its poll was given up before.
#[tokio::test(start_paused = true)]
async fn a_silent_base_delays_the_next_one_by_less_than_a_poll_waits() {
    let hosts = Arc::new(Hosts::default());
    hosts.silent.lock().unwrap().insert("a.test");
    hosts.up.lock().unwrap().insert("b.test");
    let transport = bases(&hosts, &HUBS[..2], None);
    let began = Instant::now();
    get(&transport, "https://a.test/v1/x").await.unwrap();
    assert!(began.elapsed() < Duration::from_secs(5), "{:?}", began.elapsed());
    let base = transport.base().unwrap();
    assert_eq!(base.index, 1);
    assert!(base.why.unwrap().contains("no answer to a ping"));
}

#[tokio::test(start_paused = true)]
async fn a_better_base_that_answers_later_within_its_time_is_preferred() {
    /// Answers after three seconds, when the other base has answered.
    struct Late(Arc<Hosts>);
    impl Transport for Late {
        fn send(&self, request: Request) -> ResponseFuture {
            let hosts = Arc::clone(&self.0);
            Box::pin(async move {
                sleep(Duration::from_secs(3)).await;
                hosts.send(request).await
            })
        }
    }
    let hosts = Arc::new(Hosts::default());
    hosts.up.lock().unwrap().extend(["a.test", "b.test"]);
    let base = |hub: &str, transport: Arc<dyn Transport>| Base {
        hub: hub.parse().unwrap(),
        proxy: "none".to_owned(),
        transport,
    };
    let late = base(HUBS[0], Arc::new(Late(Arc::clone(&hosts))));
    let transport = BaseTransport::new(late, vec![base(HUBS[1], hosts.clone())], None);
    get(&transport, "https://a.test/v1/x").await.unwrap();
    assert_eq!(transport.base().unwrap().index, 0);
}

/// With a list of hubs the warning had the error of https alone.
#[tokio::test(start_paused = true)]
async fn a_captive_portal_at_a_worse_base_is_the_reason_with_its_sign_in_page_once() {
    let hosts = Arc::new(Hosts::default());
    hosts.redirect.lock().unwrap().insert("c.test");
    let transport = bases(&hosts, &HUBS, None);
    let error = get(&transport, "https://a.test/v1/x").await.unwrap_err();
    assert_eq!(error.stage(), TransportStage::Untrusted);
    let text = format!("{error}; {}", error.advice().unwrap());
    assert!(
        text.contains("captive portal")
            && text.contains("https://a.test/: cannot connect: refused"),
        "{text}"
    );
    assert_eq!(text.matches("sign-in page http://login.hotel.test/?from=hub").count(), 1, "{text}");
    assert_eq!(text.matches("captive portal").count(), 1, "{text}");
}

/// A proxy that answers every request and every `CONNECT` with 503, as it does while the hub is down; returns its URL.
fn proxy_without_hub() -> String {
    use std::io::{Read as _, Write as _};
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    std::thread::spawn(move || {
        for mut socket in listener.incoming().map_while(Result::ok) {
            let mut head = [0; 4096];
            // The whole head: a socket that is closed with some of it unread is reset.
            let Ok(1..) = socket.read(&mut head) else { continue };
            let page = "<title>ERROR</title>";
            let length = page.len();
            let answer = format!(
                "HTTP/1.1 503 Service Unavailable\r\nContent-Type: text/html\r\nContent-Length: {length}\r\nConnection: \
                 close\r\n\r\n{page}"
            );
            socket.write_all(answer.as_bytes()).ok();
        }
    });
    url
}

/// An agent waited as long as before a captive portal, and its log said to sign in.
#[tokio::test]
async fn a_hub_that_a_proxy_does_not_reach_is_down_and_no_captive_portal() {
    use crate::transport::HttpTransport;
    let proxy = proxy_without_hub();
    let refusing = {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        format!("http://{}", listener.local_addr().unwrap())
    };
    let through: Arc<dyn Transport> =
        Arc::new(HttpTransport::builder().proxy(&proxy).build().unwrap());
    let direct: Arc<dyn Transport> = Arc::new(HttpTransport::builder().no_proxy().build().unwrap());
    let base = |hub: &str, proxy: &str, transport: &Arc<dyn Transport>| Base {
        hub: hub.parse().unwrap(),
        proxy: proxy.to_owned(),
        transport: Arc::clone(transport),
    };
    let https = base("https://hub.test", &proxy, &through);
    let plain = base("http://hub.test", &proxy, &through);
    for (first, second) in [(&https, &plain), (&plain, &https)] {
        let transport = BaseTransport::new(first.clone(), vec![second.clone()], None);
        let error = get(&transport, &format!("{}v1/x", first.hub)).await.unwrap_err();
        assert_ne!(error.stage(), TransportStage::Untrusted, "{error}");
        assert_eq!(error.gateway_status(), Some(StatusCode::SERVICE_UNAVAILABLE), "{error}");
        let text = format!("{error}; {}", error.advice().unwrap());
        assert!(text.contains("the proxy does not reach the ") && text.contains(&proxy), "{text}");
        assert!(text.contains("running?") && !text.contains("portal"), "{text}");
    }
    let own = base(&refusing, "none", &direct);
    let transport = BaseTransport::new(https.clone(), vec![plain, own], None);
    let error = get(&transport, "https://hub.test/v1/x").await.unwrap_err();
    assert!(error.is_refused_by_server(), "the hub's own machine refuses: {error}");
}

#[tokio::test(start_paused = true)]
async fn after_a_change_of_the_network_a_proof_from_before_counts_no_more() {
    let hosts = Arc::new(Hosts::default());
    hosts.silent.lock().unwrap().insert("a.test");
    hosts.up.lock().unwrap().insert("b.test");
    let transport = bases(&hosts, &HUBS[..2], None);
    let before = tokio::spawn({
        let transport = transport.clone();
        async move { get(&transport, "https://a.test/v1/x").await }
    });
    sleep(Duration::from_secs(1)).await;
    hosts.silent.lock().unwrap().clear();
    hosts.up.lock().unwrap().insert("a.test");
    transport.network_changed();
    get(&transport, "https://a.test/v1/x").await.unwrap();
    assert_eq!(transport.base().unwrap().index, 0);
    before.await.unwrap().unwrap();
    assert_eq!(transport.base().unwrap().index, 0, "the proof from before has found the other");
    assert_eq!(*hosts.changes.lock().unwrap(), 2, "each transport drops its idle connections");
}

/// A list that is made anew for each proof, as that of a PAC file.
#[tokio::test(start_paused = true)]
async fn a_source_lists_at_the_start_after_a_change_of_the_network_and_after_a_base_failed() {
    struct Source(Arc<Hosts>, Arc<Mutex<Vec<&'static str>>>, Arc<Mutex<u32>>);
    impl BaseSource for Source {
        fn bases(&self) -> BoxFuture<'static, Result<Vec<Base>, TransportError>> {
            *self.2.lock().unwrap() += 1;
            let base = |hub: &&str| Base {
                hub: hub.parse().unwrap(),
                proxy: "none".to_owned(),
                transport: self.0.clone(),
            };
            let bases: Vec<Base> = self.1.lock().unwrap().iter().map(base).collect();
            Box::pin(async move {
                match bases.is_empty() {
                    true => Err(TransportError::new(TransportStage::Connect, "no PAC file")),
                    false => Ok(bases),
                }
            })
        }
    }
    let hosts = Arc::new(Hosts::default());
    hosts.up.lock().unwrap().extend(["a.test", "c.test"]);
    let (listed, asks) = (Arc::new(Mutex::new(vec![HUBS[0]])), Arc::new(Mutex::new(0)));
    let source = Source(hosts.clone(), Arc::clone(&listed), Arc::clone(&asks));
    let transport = BaseTransport::of_source(HUBS[0].parse().unwrap(), source);
    get(&transport, "https://a.test/v1/x").await.unwrap();
    get(&transport, "https://a.test/v1/x").await.unwrap();
    assert_eq!(*asks.lock().unwrap(), 1);
    *listed.lock().unwrap() = vec![HUBS[2]];
    transport.network_changed();
    get(&transport, "https://a.test/v1/x").await.unwrap();
    assert_eq!(asked(&hosts).last().unwrap(), "http://c.test/v1/x");
    hosts.up.lock().unwrap().remove("c.test");
    *listed.lock().unwrap() = vec![HUBS[0]];
    get(&transport, "https://a.test/v1/x").await.unwrap();
    assert_eq!(
        (*asks.lock().unwrap(), asked(&hosts).last().unwrap().as_str()),
        (3, "https://a.test/v1/x")
    );
    listed.lock().unwrap().clear();
    transport.reconsider();
    let error = get(&transport, "https://a.test/v1/x").await.unwrap_err();
    assert!(error.to_string().contains("no PAC file"), "{error}");
}
