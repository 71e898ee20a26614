//! Several listeners of one hub, plain and TLS, with the real program: they serve the same hub, each is named with its
//! scheme, and each fault is reported with what to do about it.

#![allow(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    reason = "a panic here is the failure message of a test"
)]

use std::fs;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use bellwire_testkit::{Http, Program, command, wait_until};
use rustix::process::{Pid, Signal, kill_process};

const BELLWIRE: &str = env!("CARGO_BIN_EXE_bellwire");

fn bellwire(args: &[&str]) -> Command {
    command(BELLWIRE, args)
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8(bytes.to_owned()).unwrap()
}

fn tls(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../hub/tests/fixtures/tls").join(name)
}

fn with_certificate(command: &mut Command) -> &mut Command {
    command.env("BELLWIRE_TLS_CERT", tls("cert.pem")).env("BELLWIRE_TLS_KEY", tls("key.pem"))
}

/// Starts a hub; gives it and the URLs of its listeners, so many, in order.
fn serve(command: &mut Command, listeners: usize) -> (Program, Vec<String>) {
    let hub = Program::start(command.arg("serve"));
    let urls = wait_until(&format!("{listeners} listeners to be named"), || {
        let output = hub.output();
        let url = |line: &str| line.split_once("listening on ").map(|(_, url)| url.to_owned());
        let urls: Vec<_> = output.lines().filter_map(url).collect();
        if urls.len() == listeners { Ok(urls) } else { Err(output) }
    });
    (hub, urls)
}

fn address(url: &str) -> SocketAddr {
    url.split_once("://").unwrap().1.parse().unwrap()
}

fn check(settings: &[&str]) -> Output {
    let mut command = bellwire(&["config", "check"]);
    command.args(settings).current_dir(std::env::temp_dir()).output().unwrap()
}

#[test]
fn plain_and_tls_listeners_serve_the_same_hub_at_once() {
    let folder = tempfile::tempdir().unwrap();
    let mut command = bellwire(&[]);
    with_certificate(&mut command)
        .env("BELLWIRE_LISTEN", "http://127.0.0.1:0, https://127.0.0.1:0,127.0.0.1:0")
        .env("BELLWIRE_DATA_DIR", folder.path().join("hub"));
    let (hub, urls) = serve(&mut command, 3);
    let schemes: Vec<_> = urls.iter().map(|url| url.split("://").next().unwrap()).collect();
    assert_eq!(schemes, ["http", "https", "https"], "without a scheme the certificate decides");
    let plain = Http(address(&urls[0]));

    // A command that came by each of them arrives at a stream of each other one.
    let ca = tls("ca.pem");
    for stream in &urls {
        for sender in &urls {
            let device = format!("d{}-{}", address(stream).port(), address(sender).port());
            let with = |args: &[&str], url: &str| {
                let mut command = bellwire(args);
                command.args(["--hub", url]).arg("--ca-file").arg(&ca);
                command
            };
            let listener = Program::start(&mut with(&["listen", &device, "--json"], stream));
            wait_until(&format!("{device} to be online"), || {
                let shown =
                    plain.get(&format!("/v1/devices/{device}")).map_err(|e| e.to_string())?;
                if shown.json()["online"] == true { Ok(()) } else { Err(shown.head) }
            });
            let sent = with(&["send", &device, "ping", "--wait", "30s"], sender).output().unwrap();
            assert!(sent.status.success(), "from {sender} to {stream}: {sent:?}");
            listener.wait_for("\"ping\"");
        }
    }

    // SIGHUP reads the certificate again, and plain listeners go on.
    hub.wait_for("ready;");
    let pid = Pid::from_raw(i32::try_from(hub.id()).unwrap()).unwrap();
    kill_process(pid, Signal::HUP).unwrap();
    hub.wait_for("certificate and key read again");
    assert_eq!(plain.get("/readyz").unwrap().status, 200);
}

/// The hub had one scheme, and refused its own pages on listeners of the other.
#[test]
fn a_page_is_the_hubs_own_by_the_scheme_of_the_listener_that_it_came_by() {
    let folder = tempfile::tempdir().unwrap();
    let mut command = bellwire(&[]);
    with_certificate(&mut command).env("BELLWIRE_DATA_DIR", folder.path().join("hub"));
    let listen = ["--listen", "http://127.0.0.1:0", "--listen", "https://127.0.0.1:0"];
    let hub = Program::start(command.arg("serve").args(listen));
    let address = hub.address();
    for (origin, status) in [("http", 202), ("https", 403)] {
        let origin = format!("{origin}://{address}");
        let headers = [("Origin", origin.as_str())];
        let sent = Http(address).request("POST", "/v1/send/door/open", &headers, b"").unwrap();
        assert_eq!(sent.status, status, "{origin}: {sent:?}");
    }
}

#[test]
fn a_fault_of_a_listener_is_reported_with_the_listener_and_the_next_step() {
    let listen = |texts: &[&'static str]| -> Vec<&'static str> {
        texts.iter().flat_map(|text| ["--listen", text]).collect()
    };
    for (listeners, reasons) in [
        (
            listen(&["http://127.0.0.1:0", "https://127.0.0.1:8443"]),
            &[
                "listen has https://127.0.0.1:8443, and there is no certificate",
                "tls_cert and tls_key",
                "http://127.0.0.1:8443 for plain HTTP",
            ][..],
        ),
        (
            listen(&["127.0.0.1:8888", "http://0.0.0.0", "http://[::]:8080"]),
            &["http://0.0.0.0:80 is not loopback", "http://[::]:8080 is not loopback", "`open`"],
        ),
        (
            listen(&["http://127.0.0.1:8888", "127.0.0.1:8888"]),
            &["listen has 127.0.0.1:8888 twice", "remove one"],
        ),
        (
            listen(&["ftp://127.0.0.1:21"]),
            &["ftp://127.0.0.1:21", "[http://|https://]address:port"],
        ),
        (listen(&["127.0.0.1"]), &["--listen is \"127.0.0.1\""]),
        (listen(&["http://localhost:80"]), &["--listen is \"http://localhost:80\""]),
        (listen(&["http://::1:80"]), &["--listen is \"http://::1:80\""]),
    ] {
        let checked = check(&listeners);
        let message = text(&checked.stderr);
        assert_eq!(checked.status.code(), Some(2), "{listeners:?}: {checked:?}");
        for reason in reasons {
            assert!(message.contains(reason), "{listeners:?} without {reason:?}: {message}");
        }
        let folder = tempfile::tempdir().unwrap();
        let mut served = bellwire(&["serve"]);
        let served = served.args(&listeners).current_dir(&folder).output().unwrap();
        assert_eq!(served.status.code(), Some(2), "{listeners:?}: {served:?}");
        // Several faults are a list.
        let first = message.lines().find(|line| line.contains(reasons[0])).unwrap().trim_start();
        assert!(
            text(&served.stderr).contains(first),
            "{first}\nis not what serve says: {served:?}"
        );
        assert_eq!(fs::read_dir(&folder).unwrap().count(), 0, "nothing was made of a refused hub");
    }
}

#[test]
fn config_check_prints_listeners_as_a_list_that_serve_accepts() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("hub.toml");
    let pair = format!("tls_cert = {:?}\ntls_key = {:?}\n", tls("cert.pem"), tls("key.pem"));
    let listen = "listen = ['HTTP://127.0.0.1/', 'https://[::1]', '127.0.0.1:0']\n";
    fs::write(&file, format!("{listen}{pair}")).unwrap();
    let first = check(&["--config", file.to_str().unwrap()]);
    let shown = text(&first.stdout);
    let expected = "listen = [\"http://127.0.0.1:80\", \"https://[::1]:443\", \"127.0.0.1:0\"]";
    assert!(shown.contains(expected), "{first:?}");
    fs::write(&file, &shown).unwrap();
    assert_eq!(text(&check(&["--config", file.to_str().unwrap()]).stdout), shown);
}

/// `[::]` takes the port of IPv4 too, and where both were listed with one port the second was "in use".
#[test]
fn all_addresses_of_ipv6_leave_those_of_ipv4_to_the_listener_that_has_them() {
    if let Err(e) = std::net::TcpListener::bind("[::1]:0") {
        return println!("not run: this machine has no IPv6 ({e})");
    }
    let start = |listen: &str| {
        let folder = tempfile::tempdir().unwrap();
        let mut command = bellwire(&[]);
        command.env("BELLWIRE_LISTEN", listen).env("BELLWIRE_OPEN", "true");
        command.env("BELLWIRE_DATA_DIR", folder.path().join("hub"));
        let (hub, urls) = serve(&mut command, listen.split(',').count());
        (hub, address(urls.last().unwrap()).port(), folder)
    };
    let answers = |host: &str, port: u16| {
        let answer = Http(format!("{host}:{port}").parse().unwrap()).get("/readyz");
        answer.is_ok_and(|answer| answer.status == 200)
    };
    let (_hub, port, _folder) = start("http://[::]:0");
    assert!(answers("[::1]", port) && answers("127.0.0.1", port), "alone it has both");
    let (_hub, port, _folder) = start("http://0.0.0.0:0, http://[::]:0");
    assert!(answers("[::1]", port) && !answers("127.0.0.1", port));
}

#[test]
fn an_address_that_cannot_be_bound_is_named_with_what_to_do() {
    let folder = tempfile::tempdir().unwrap();
    let held = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let taken = format!("http://{}", held.local_addr().unwrap());
    for (listen, step) in [(taken, "ss -ltnp"), ("http://192.0.2.1:0".to_owned(), "ip address")] {
        let mut command = bellwire(&["serve", "--open", "--listen", &listen]);
        let refused = command.current_dir(&folder).output().unwrap();
        let message = text(&refused.stderr);
        assert_eq!(refused.status.code(), Some(1), "{listen}: {refused:?}");
        assert!(
            message.contains(&format!("cannot listen on {listen}")) && message.contains(step),
            "{message}"
        );
        assert!(!message.contains("panicked") && !folder.path().join("bellwire-data").exists());
    }
}

#[test]
fn a_certificate_that_no_listener_uses_is_mentioned() {
    let folder = tempfile::tempdir().unwrap();
    let mut command = bellwire(&[]);
    with_certificate(&mut command).env("BELLWIRE_LISTEN", "http://127.0.0.1:0");
    let (hub, _) = serve(command.env("BELLWIRE_DATA_DIR", folder.path().join("hub")), 1);
    hub.wait_for("tls_cert is set, and no listener uses it");
}

#[test]
fn a_closed_hub_warns_of_tokens_over_plain_http_beyond_loopback() {
    let folder = tempfile::tempdir().unwrap();
    let data = folder.path().join("hub");
    let token = ["token", "create", "--role", "admin", "--quiet", "--data-dir"];
    let made = bellwire(&token).arg(&data).output().unwrap();
    assert!(made.status.success(), "{made:?}");
    let mut command = bellwire(&[]);
    command.env("BELLWIRE_LISTEN", "http://0.0.0.0:0").env("BELLWIRE_DATA_DIR", &data);
    let (hub, _) = serve(&mut command, 1);
    hub.wait_for("a token that is sent there can be read on the way");
}
