//! TLS: a client that opens connections, one after the other on some threads, and the floor, a server that does rustls's part
//! of a connection and nothing more. Sessions are not resumed: each handshake is a whole one.

use std::fs;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use anyhow::{Context, ensure};
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use rustls::{
    ClientConfig, ClientConnection, RootCertStore, ServerConfig, ServerConnection, StreamOwned,
};

/// Threads that open connections at once: enough to keep a server of two cores busy.
const OPENERS: usize = 8;
/// Within which a connection must be answered.
const ANSWERED_WITHIN: Duration = Duration::from_secs(30);
const REQUEST_MAX: usize = 4096;
const ANSWER: &[u8] = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nConnection: close\r\n\r\nok";
const STREAM: &[u8] =
    b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\n\r\nevent: hello\ndata: {}\n\n";

/// Connections that are held open.
pub(crate) type Held = Vec<StreamOwned<ClientConnection, TcpStream>>;

/// Makes a certificate of P-256 for `localhost`; gives its file and that of its key.
pub(crate) fn write_certificate(folder: &Path) -> anyhow::Result<(PathBuf, PathBuf)> {
    let made = rcgen::generate_simple_self_signed(vec!["localhost".to_owned()])?;
    let (cert, key) = (folder.join("cert.pem"), folder.join("key.pem"));
    fs::write(&cert, made.cert.pem())?;
    fs::write(&key, made.signing_key.serialize_pem())?;
    Ok((cert, key))
}

/// Opens connections over TLS.
pub(crate) struct Client {
    address: SocketAddr,
    config: Arc<ClientConfig>,
    name: ServerName<'static>,
}

impl Client {
    /// One that trusts the certificate in a server's folder.
    pub(crate) fn new(address: SocketAddr, folder: &Path) -> anyhow::Result<Self> {
        let mut roots = RootCertStore::empty();
        roots.add(CertificateDer::from_pem_file(folder.join("cert.pem"))?)?;
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let mut config = ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()?
            .with_root_certificates(roots)
            .with_no_client_auth();
        config.resumption = rustls::client::Resumption::disabled();
        Ok(Self { address, config: Arc::new(config), name: ServerName::try_from("localhost")? })
    }

    /// Opens connections for so long, each with one small request; how many were answered.
    pub(crate) fn handshakes(&self, duration: Duration) -> anyhow::Result<usize> {
        let until = Instant::now() + duration;
        let done = self.on_threads(|_| {
            let mut done = 0;
            while Instant::now() < until {
                let request =
                    "GET /v1/ping HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n";
                let mut stream = self.open(request, b"HTTP/1.1 200")?;
                // To its end, with or without close_notify.
                let _ = stream.read_to_end(&mut Vec::new());
                done += 1;
            }
            Ok(vec![done])
        })?;
        Ok(done.into_iter().sum())
    }

    /// Opens streams of so many devices, from this number on, and holds them.
    pub(crate) fn hold(&self, first: usize, count: usize) -> anyhow::Result<Held> {
        self.on_threads(|thread| {
            let mut held = Vec::new();
            for n in (first + thread..first + count).step_by(OPENERS) {
                let request = format!(
                    "GET /v1/devices/d{n}/stream?ack=none&heartbeat=10m HTTP/1.1\r\nHost: localhost\r\n\r\n"
                );
                held.push(self.open(&request, b"hello")?);
            }
            Ok(held)
        })
    }

    /// A connection whose answer has come as far as this.
    fn open(
        &self,
        request: &str,
        until: &[u8],
    ) -> anyhow::Result<StreamOwned<ClientConnection, TcpStream>> {
        let socket = TcpStream::connect(self.address)?;
        socket.set_nodelay(true)?;
        socket.set_read_timeout(Some(ANSWERED_WITHIN))?;
        // Closed with a reset: thousands of ports in TIME_WAIT would be missing in the next round.
        socket2::SockRef::from(&socket).set_linger(Some(Duration::ZERO))?;
        let session = ClientConnection::new(self.config.clone(), self.name.clone())?;
        let mut stream = StreamOwned::new(session, socket);
        stream.write_all(request.as_bytes())?;
        read_until(&mut stream, until)?;
        Ok(stream)
    }

    fn on_threads<T: Send>(
        &self,
        act: impl Fn(usize) -> anyhow::Result<Vec<T>> + Sync,
    ) -> anyhow::Result<Vec<T>> {
        let given: anyhow::Result<Vec<Vec<T>>> = std::thread::scope(|scope| {
            let act = &act;
            let threads: Vec<_> = (0..OPENERS).map(|n| scope.spawn(move || act(n))).collect();
            let done = threads.into_iter().map(|thread| match thread.join() {
                Ok(given) => given,
                Err(_) => anyhow::bail!("a thread panicked"),
            });
            done.collect()
        });
        Ok(given?.into_iter().flatten().collect())
    }
}

fn read_until(stream: &mut impl Read, text: &[u8]) -> anyhow::Result<()> {
    let (mut got, mut bytes) = (Vec::new(), [0; REQUEST_MAX]);
    while memchr::memmem::find(&got, text).is_none() {
        let read = stream.read(&mut bytes)?;
        ensure!(read > 0, "the connection ended with {:?}", String::from_utf8_lossy(&got));
        got.extend_from_slice(bytes.get(..read).unwrap_or_default());
        ensure!(got.len() < 16 * REQUEST_MAX, "no end of {:?}", String::from_utf8_lossy(&got));
    }
    Ok(())
}

/// The floor: as many threads as cores, each with one connection at a time. With `hold` a connection that was answered stays open,
/// and with it what rustls holds of it.
pub(crate) fn run_floor(folder: &Path, hold: bool) -> anyhow::Result<()> {
    let chain = vec![CertificateDer::from_pem_file(folder.join("cert.pem"))?];
    let key = PrivateKeyDer::from_pem_file(folder.join("key.pem"))?;
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let config = ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()?
        .with_no_client_auth()
        .with_single_cert(chain, key)?;
    let config = Arc::new(config);
    let listener = TcpListener::bind("127.0.0.1:0")?;
    println!("listening on https://{}", listener.local_addr()?);
    let held = Mutex::new(Vec::new());
    let cores = std::thread::available_parallelism().map_or(2, usize::from);
    std::thread::scope(|scope| {
        for _ in 0..cores {
            scope.spawn(|| {
                // Until the process is killed. A connection that breaks off is its client's matter.
                while let Ok((socket, _)) = listener.accept() {
                    if let Ok(stream) = answer(socket, config.clone(), hold)
                        && hold
                    {
                        held.lock().unwrap_or_else(PoisonError::into_inner).push(stream);
                    }
                }
            });
        }
    });
    Ok(())
}

/// Handshake, a request, and its answer.
fn answer(
    socket: TcpStream,
    config: Arc<ServerConfig>,
    hold: bool,
) -> anyhow::Result<StreamOwned<ServerConnection, TcpStream>> {
    socket.set_nodelay(true)?;
    socket.set_read_timeout(Some(ANSWERED_WITHIN))?;
    let mut stream = StreamOwned::new(ServerConnection::new(config)?, socket);
    read_until(&mut stream, b"\r\n\r\n").context("no request")?;
    stream.write_all(if hold { STREAM } else { ANSWER })?;
    stream.flush()?;
    Ok(stream)
}
