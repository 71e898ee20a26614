//! Listeners with rules of their own (`[[listener]]`), with the real program: one that is open beside others that are not, and
//! proxies that are believed what they say of their clients.

#![allow(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    reason = "a panic here is the failure message of a test"
)]

use std::fs;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::path::Path;
use std::process::{Command, Output};

use bellwire_testkit::{Http, Program, admin_token, command};

const BELLWIRE: &str = env!("CARGO_BIN_EXE_bellwire");

fn bellwire(args: &[&str]) -> Command {
    command(BELLWIRE, args)
}

fn check(folder: &Path, settings: &str) -> Output {
    let file = folder.join("checked.toml");
    fs::write(&file, settings).unwrap();
    bellwire(&["config", "check", "--config"]).arg(&file).current_dir(folder).output().unwrap()
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8(bytes.to_owned()).unwrap()
}

#[test]
fn an_open_loopback_listener_serves_beside_a_closed_public_one() {
    let folder = tempfile::tempdir().unwrap();
    let token = admin_token(BELLWIRE, &folder.path().join("hub"));
    let settings = "listen = '0.0.0.0:0'\n[[listener]]\naddress = '127.0.0.1:0'\nopen = true\n";
    let (_hub, addresses) = Program::serve_with(BELLWIRE, folder.path(), settings, 2);
    let public = Http(SocketAddr::from(([127, 0, 0, 1], addresses[0].port())));
    let open = Http(addresses[1]);
    let status = |http: Http, headers: &[(&str, &str)]| {
        http.request("GET", "/v1/devices", headers, b"").unwrap().status
    };
    assert_eq!(status(public, &[]), 401);
    assert_eq!(status(open, &[]), 200);
    let bearer = format!("Bearer {token}");
    assert_eq!(status(public, &[("Authorization", &bearer)]), 200);
    assert_eq!(status(open, &[("Authorization", &bearer)]), 200);
    assert_eq!(
        status(open, &[("Authorization", "Bearer bw_x")]),
        401,
        "one that is sent is checked"
    );

    // What the one stores arrives at a stream of the other, which stays open.
    let made = open.request("PUT", "/v1/devices/door", &[], b"{\"labels\":{}}").unwrap();
    assert_eq!(made.status, 201, "{made:?}");
    let mut stream = open.stream("/v1/devices/door/stream").unwrap();
    stream.expect("hello");
    let sent =
        public.request("POST", "/v1/send/door/ring", &[("Authorization", &bearer)], b"").unwrap();
    assert_eq!(sent.status, 202, "{sent:?}");
    assert_eq!(stream.expect("command")["action"], "ring");
    assert_eq!(public.request("POST", "/v1/send/door/ring", &[], b"").unwrap().status, 401);
    // As on an open hub, a foreign name that resolves to this machine is refused.
    assert_eq!(status(open, &[("Host", "evil.example")]), 403);
}

#[test]
fn a_public_listener_is_refused_unless_it_is_open_or_the_hub_has_a_token() {
    let folder = tempfile::tempdir().unwrap();
    let public = "[[listener]]\naddress = '0.0.0.0:0'\n";
    let checked = check(folder.path(), public);
    let message = text(&checked.stderr);
    assert_eq!(checked.status.code(), Some(2), "{checked:?}");
    assert!(
        message.contains("0.0.0.0:0 is not loopback") && message.contains("token create"),
        "{message}"
    );
    assert_eq!(check(folder.path(), &format!("{public}open = true\n")).status.code(), Some(0));
    // The other one is not excused by it.
    let both = format!("listen = 'http://0.0.0.0:1'\n{public}open = true\n");
    assert!(text(&check(folder.path(), &both).stderr).contains("http://0.0.0.0:1 is not loopback"));
}

#[test]
fn faults_of_a_listener_name_its_line_and_what_is_printed_means_the_same() {
    let folder = tempfile::tempdir().unwrap();
    let faulty = "[[listener]]\naddress = '127.0.0.1:1'\n[[listener]]\nadress = '127.0.0.1:2'\n\
        open = 'yes'\n[[listener]]\naddress = 'https://[::1]'\ntls = false\ntrusted_proxies = ['a']\n\
        [[listener]]\naddress = '127.0.0.1:4'\nproxy_protocol = true\n";
    let message = text(&check(folder.path(), faulty).stderr);
    for expected in [
        "line 4: listener 2: adress is not a setting of a listener; did you mean address?",
        "line 5: listener 2: open is \"yes\", but it is true or false",
        "line 8: listener 3: tls contradicts the address, which is https://",
        "line 9: listener 3: trusted_proxies is \"a\", but it is a list of addresses and networks",
        "line 12: listener 4: proxy_protocol is set without trusted_proxies",
    ] {
        assert!(message.contains(expected), "{expected}\nnot in {message}");
    }
    let good = "listen = ['127.0.0.1:1']\n[[listener]]\naddress = '127.0.0.1:2'\ntls = false\n\
        open = true\ntrusted_proxies = ['10.0.0.0/8', '::1']\nproxy_protocol = true\n\
        forwarded = 'Forwarded'\n[[listener]]\naddress = '127.0.0.1:3'\n";
    let printed = text(&check(folder.path(), good).stdout);
    for expected in [
        "listen = [\"127.0.0.1:1\", \"127.0.0.1:3\"]\n",
        "[[listener]]\naddress = \"http://127.0.0.1:2\"\nopen = true\n\
         trusted_proxies = [\"10.0.0.0/8\", \"::1\"]\nproxy_protocol = true\nforwarded = \"forwarded\"\n",
    ] {
        assert!(printed.contains(expected), "{expected}\nnot in {printed}");
    }
    assert_eq!(text(&check(folder.path(), &printed).stdout), printed);
    // As with every setting, what is given beside the file counts.
    let file = folder.path().join("checked.toml");
    let flag = bellwire(&["config", "check", "--listen", "127.0.0.1:9", "--config"]);
    let flag = { flag }.arg(&file).current_dir(&folder).output().unwrap();
    let shown = text(&flag.stdout);
    assert!(
        shown.contains("listen = [\"127.0.0.1:9\"]") && !shown.contains("[[listener]]"),
        "{shown}"
    );
}

/// Listens as a device after these bytes; gives what the hub says of its address.
fn address_of(http: SocketAddr, device: &str, before: &[u8], fields: &str) -> String {
    let mut stream = TcpStream::connect(http).unwrap();
    let request =
        format!("GET /v1/devices/{device}/stream HTTP/1.1\r\nHost: {http}\r\n{fields}\r\n");
    stream.write_all(&[before, request.as_bytes()].concat()).unwrap();
    let mut first = [0; 12];
    stream.read_exact(&mut first).unwrap();
    assert_eq!(&first, b"HTTP/1.1 200");
    let shown = Http(http).get(&format!("/v1/devices/{device}")).unwrap().json();
    shown["address"].as_str().unwrap().to_owned()
}

#[test]
fn the_address_of_a_device_is_what_a_trusted_proxy_says_and_no_other() {
    let folder = tempfile::tempdir().unwrap();
    let settings = "[[listener]]\naddress = '127.0.0.1:0'\ntrusted_proxies = ['127.0.0.1']\n\
        [[listener]]\naddress = '127.0.0.1:0'\ntrusted_proxies = ['192.0.2.0/24']\n";
    let (_hub, addresses) = Program::serve_with(BELLWIRE, folder.path(), settings, 2);
    let fields = "X-Forwarded-For: 203.0.113.9, 198.51.100.7\r\n";
    assert_eq!(address_of(addresses[0], "a", b"", fields), "198.51.100.7");
    assert_eq!(address_of(addresses[1], "b", b"", fields), "127.0.0.1");
    let fields = "Forwarded: for=\"[2001:db8::7]:80\"\r\n";
    assert_eq!(address_of(addresses[0], "c", b"", fields), "2001:db8::7");
}

#[test]
fn the_address_of_a_device_is_what_the_proxy_protocol_says_and_without_it_a_proxy_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let settings = "listen = '127.0.0.1:0'\n[[listener]]\naddress = '127.0.0.1:0'\n\
        trusted_proxies = ['127.0.0.1']\nproxy_protocol = true\n\
        [[listener]]\naddress = '127.0.0.1:0'\ntrusted_proxies = ['192.0.2.1']\nproxy_protocol = true\n";
    let (hub, addresses) = Program::serve_with(BELLWIRE, folder.path(), settings, 3);
    let (plain, proxied, others) = (addresses[0], addresses[1], addresses[2]);
    let v2 =
        [&b"\r\n\r\n\0\r\nQUIT\n\x21\x11\0\x0c"[..], &[198, 51, 100, 7, 127, 0, 0, 1, 1, 1, 0, 80]]
            .concat();
    let address = |device: &str, before: &[u8], fields: &str| {
        let mut stream = TcpStream::connect(proxied).unwrap();
        let request =
            format!("GET /v1/devices/{device}/stream HTTP/1.1\r\nHost: 127.0.0.1\r\n{fields}\r\n");
        stream.write_all(&[before, request.as_bytes()].concat()).unwrap();
        stream.read_exact(&mut [0; 12]).unwrap();
        let shown = Http(plain).get(&format!("/v1/devices/{device}")).unwrap().json();
        shown["address"].as_str().unwrap().to_owned()
    };
    assert_eq!(address("a", &v2, ""), "198.51.100.7");
    // The client behind it is no trusted proxy.
    assert_eq!(address("b", &v2, "X-Forwarded-For: 203.0.113.9\r\n"), "198.51.100.7");
    let v1 = b"PROXY TCP6 2001:db8::7 ::1 4711 80\r\n";
    assert_eq!(address("c", v1, ""), "2001:db8::7");

    let mut refused = TcpStream::connect(proxied).unwrap();
    refused.write_all(b"GET /readyz HTTP/1.1\r\nHost: x\r\n\r\n").unwrap();
    let _ = refused.read_to_end(&mut Vec::new());
    hub.wait_for("send-proxy-v2");
    // To others the header is no HTTP, and they need none.
    assert_eq!(Http(others).get("/readyz").unwrap().status, 200);
    let mut stranger = TcpStream::connect(others).unwrap();
    stranger.write_all(&[&v2[..], b"GET /readyz HTTP/1.1\r\nHost: x\r\n\r\n"].concat()).unwrap();
    let mut answer = Vec::new();
    let _ = stranger.read_to_end(&mut answer);
    assert!(!String::from_utf8_lossy(&answer).contains("200 OK"), "{answer:?}");
}

/// By the PROXY protocol a connection has one client, and through a proxy it had as many as it liked.
#[test]
fn a_client_that_the_proxy_protocol_names_has_its_part_of_connections_and_no_more() {
    const PART: usize = 3;
    let folder = tempfile::tempdir().unwrap();
    let listener = "[[listener]]\naddress = '127.0.0.1:0'\ntrusted_proxies = ['127.0.0.1']\n";
    let settings = format!(
        "limit_loopback = true\nconnections_per_address = {PART}\n{listener}proxy_protocol = true\n{listener}"
    );
    let (hub, addresses) = Program::serve_with(BELLWIRE, folder.path(), &settings, 2);
    let (proxied, by_http) = (addresses[0], addresses[1]);
    let served = |address: SocketAddr, before: &str| {
        let mut socket = TcpStream::connect(address).unwrap();
        let request = format!("{before}GET /readyz HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n");
        // One that is closed at once may be so before it was written.
        let answered =
            socket.write_all(request.as_bytes()).is_ok() && socket.read_exact(&mut [0; 12]).is_ok();
        answered.then_some(socket)
    };
    let (greedy, other) = (
        "PROXY TCP4 198.51.100.7 127.0.0.1 4711 80\r\n",
        "PROXY TCP4 198.51.100.8 127.0.0.1 1 80\r\n",
    );
    let mut open: Vec<_> = (0..3 * PART).filter_map(|_| served(proxied, greedy)).collect();
    assert_eq!(open.len(), PART, "of one client");
    hub.wait_for("198.51.100.7");
    let others: Vec<_> = (0..PART).filter_map(|_| served(proxied, other)).collect();
    assert_eq!(others.len(), PART, "of another");
    // What is given back can be taken again.
    drop(open.pop());
    bellwire_testkit::wait_until("the client to be served again", || {
        served(proxied, greedy).map(|socket| open.push(socket)).ok_or("it is refused")
    });
    // These name no client, or may carry requests of many.
    for (address, before) in [(proxied, "PROXY UNKNOWN\r\n"), (by_http, "")] {
        let of_proxy: Vec<_> = (0..3 * PART).filter_map(|_| served(address, before)).collect();
        assert_eq!(of_proxy.len(), 3 * PART, "{before:?}");
    }
}
