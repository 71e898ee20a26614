//! Promise: every request goes through the best base that answers, and no password to another hub than its own.

use std::collections::HashSet;

use super::*;
use crate::transport::ByteStream;

/// A network in which some hosts answer pings, and the others refuse connections; it records every request.
#[derive(Default)]
struct Hosts {
    up: Mutex<HashSet<&'static str>>,
    portals: Mutex<HashSet<&'static str>>,
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
        if !self.up.lock().unwrap().contains(host.as_str()) {
            let refused = TransportError::new(TransportStage::Connect, "refused");
            return Box::pin(async { Err(refused) });
        }
        let query = request.uri().query().unwrap_or_default();
        let nonce = query.strip_prefix("nonce=").unwrap_or_default();
        let body = format!("{{\"hub\":\"h\",\"nonce\":\"{nonce}\",\"time_ms\":1}}");
        Box::pin(async { Ok(answer(body)) })
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
    // The better one is back, and is found at a rest.
    hosts.up.lock().unwrap().insert("a.test");
    sleep(2 * REST).await;
    let base = transport.base().unwrap();
    assert_eq!((base.index, base.why), (0, None));
    assert!(base.generation > generation);
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
async fn one_base_is_never_asked_for_a_proof() {
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
    let authorization = transport.0.preferred.hub.authorization.clone().unwrap();
    let mut request = http::Request::get("https://a.test/v1/x").body(Bytes::new()).unwrap();
    request.headers_mut().insert(AUTHORIZATION, authorization);
    transport.send(request).await.unwrap();
    get(&transport, "https://a.test/v1/x").await.unwrap();
    let asked = hosts.asked.lock().unwrap();
    let sent: Vec<_> = asked.iter().rev().take(2).map(|(_, sent)| sent.as_deref()).collect();
    assert_eq!(sent, [Some("Bearer t"), None]);
}
