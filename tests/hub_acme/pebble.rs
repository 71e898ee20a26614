//! Pebble, the authority that Let's Encrypt has for tests, and a name server by which all names are this machine's.

use std::fs;
use std::net::{SocketAddr, TcpListener, UdpSocket};
use std::path::PathBuf;
use std::process::Command;
use std::time::Duration;

use bellwire_testkit::{Program, wait_until};
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject as _;

use crate::support::{Authority, Client};

/// The name of the hub.
pub(crate) const NAME: &str = "hub.example.com";

/// Ports that were free, of Pebble and of the hub that it checks.
#[derive(Clone)]
pub(crate) struct Ports {
    pub(crate) directory: u16,
    management: u16,
    pub(crate) http: u16,
    pub(crate) tls: u16,
}

/// Pebble's files and ports, without the program.
pub(crate) struct Prepared {
    pub(crate) ports: Ports,
    pub(crate) ca: PathBuf,
    authority: Authority,
    folder: tempfile::TempDir,
    names: SocketAddr,
}

/// A running Pebble.
pub(crate) struct Pebble {
    pub(crate) ports: Ports,
    pub(crate) ca: PathBuf,
    authority: Authority,
    folder: tempfile::TempDir,
    _program: Program,
}

impl Pebble {
    /// `None`, with a line of output, where it is not installed; in CI it is.
    pub(crate) fn prepare() -> Option<Prepared> {
        if Command::new("pebble").arg("--help").output().is_err() {
            assert!(
                std::env::var_os("CI").is_none(),
                "pebble is not installed (apt install pebble)"
            );
            println!("not run: pebble is not installed (apt install pebble)");
            return None;
        }
        let held: Vec<_> = (0..4).map(|_| TcpListener::bind("127.0.0.1:0").unwrap()).collect();
        let port = |n: usize| held[n].local_addr().unwrap().port();
        let ports = Ports { directory: port(0), management: port(1), http: port(2), tls: port(3) };
        let folder = tempfile::tempdir().unwrap();
        let authority = Authority::new("of pebble's own server");
        let ca = authority.write(folder.path(), "ca.pem");
        authority.server(&["localhost"]).write(folder.path(), "pebble");
        Some(Prepared { ports, ca, authority, folder, names: name_server() })
    }

    /// Prepared and started: its certificates are valid for so long.
    pub(crate) fn start(life: Duration) -> Option<Self> {
        Self::prepare().map(|prepared| prepared.run(life))
    }

    /// A client that trusts the root of what it issues.
    pub(crate) fn client(&self) -> Client {
        let management = SocketAddr::from(([127, 0, 0, 1], self.ports.management));
        let (status, root) = self.authority.client().ask(management, "GET", "/roots/0").unwrap();
        assert_eq!(status, 200, "{root}");
        Client::trusting(CertificateDer::from_pem_slice(root.as_bytes()).unwrap())
    }

    /// Ends it; its folder and ports.
    pub(crate) fn stop(self) -> (tempfile::TempDir, Ports) {
        (self.folder, self.ports)
    }
}

impl Prepared {
    pub(crate) fn run(self, life: Duration) -> Pebble {
        let Self { ports, ca, authority, folder, names } = self;
        let file = |name: &str| folder.path().join(name);
        let config = serde_json::json!({ "pebble": {
            "listenAddress": format!("127.0.0.1:{}", ports.directory),
            "managementListenAddress": format!("127.0.0.1:{}", ports.management),
            "certificate": file("pebble.pem"),
            "privateKey": file("pebble.key"),
            "httpPort": ports.http,
            "tlsPort": ports.tls,
            "certificateValidityPeriod": life.as_secs(),
        }});
        fs::write(file("pebble.json"), config.to_string()).unwrap();
        let mut command = Command::new("pebble");
        command.arg("-config").arg(file("pebble.json")).args(["-dnsserver", &names.to_string()]);
        let program = Program::start(command.env("PEBBLE_VA_NOSLEEP", "1"));
        let directory = SocketAddr::from(([127, 0, 0, 1], ports.directory));
        wait_until("pebble to listen", || {
            std::net::TcpStream::connect(directory)
                .map_err(|error| format!("{error}: {}", program.output()))
        });
        Pebble { ports, ca, authority, folder, _program: program }
    }
}

/// Answers every question for an IPv4 address with this machine's, and all others with nothing (RFC 1035, section 4).
fn name_server() -> SocketAddr {
    let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
    let address = socket.local_addr().unwrap();
    std::thread::spawn(move || {
        let mut buffer = [0; 512];
        while let Ok((length, from)) = socket.recv_from(&mut buffer) {
            let question = &buffer[12..length];
            // The name, its end, type and class; what follows (EDNS) is not repeated.
            let Some(end) = question.iter().position(|byte| *byte == 0) else { continue };
            let Some(question) = question.get(..end + 5) else { continue };
            let is_address = question[end + 1..end + 3] == [0, 1];
            let mut answer = buffer[..2].to_vec();
            answer.extend([0x81, 0x80, 0, 1, 0, u8::from(is_address), 0, 0, 0, 0]);
            answer.extend(question);
            if is_address {
                answer.extend([0xC0, 12, 0, 1, 0, 1, 0, 0, 0, 1, 0, 4, 127, 0, 0, 1]);
            }
            let _ = socket.send_to(&answer, from);
        }
    });
    address
}
