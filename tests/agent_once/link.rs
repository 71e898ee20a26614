//! A bad link: a TCP relay that loses requests and answers, breaks streams, and repeats requests.
//!
//! Its seed decides, chunk by chunk. A report fits into one chunk, so a chunk that begins with `POST` is a request: it
//! may be dropped with its connection, forwarded with the answer lost, or repeated over another connection, at once
//! or after the next one.

use std::io::{Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::{Arc, Mutex};

use bellwire_testkit::Random;

pub(crate) struct Link {
    address: SocketAddr,
}

/// What all connections of a link share.
struct Shared {
    hub: SocketAddr,
    random: Mutex<Random>,
    /// How many of a hundred chunks meet a fault; 0 is a good link.
    badness: u64,
    /// The last request, to be repeated late.
    last: Mutex<Option<Vec<u8>>>,
}

impl Link {
    /// A link to `hub`, as bad as its seed decides; seed 0 is a good one. It lives as long as the process: its waiting
    /// threads do no harm.
    pub(crate) fn start(hub: SocketAddr, seed: u64) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let mut random = Random::new(seed ^ 0x11_4B);
        let badness = if seed == 0 { 0 } else { random.pick(&[0, 4, 12]) };
        let shared = Shared { hub, random: Mutex::new(random), badness, last: Mutex::new(None) };
        let shared = Arc::new(shared);
        std::thread::spawn(move || {
            for client in listener.incoming().map_while(Result::ok) {
                let shared = Arc::clone(&shared);
                std::thread::spawn(move || shared.carry(client));
            }
        });
        Self { address }
    }

    pub(crate) fn address(&self) -> SocketAddr {
        self.address
    }
}

impl Shared {
    /// One connection, until either end closes it or the link breaks it.
    fn carry(self: &Arc<Self>, client: TcpStream) {
        // A dead hub ends the connection at once, as a refusal would.
        let Ok(hub) = TcpStream::connect(self.hub) else { return };
        let (Ok(from_hub), Ok(to_client)) = (hub.try_clone(), client.try_clone()) else { return };
        let back = Arc::clone(self);
        let answers = std::thread::spawn(move || back.carry_answers(from_hub, to_client));
        self.carry_requests(&client, &hub);
        hub.shutdown(Shutdown::Both).ok();
        client.shutdown(Shutdown::Both).ok();
        answers.join().ok();
    }

    fn carry_requests(&self, mut client: &TcpStream, mut hub: &TcpStream) {
        let mut chunk = vec![0; 256 * 1024];
        while let Ok(length @ 1..) = client.read(&mut chunk) {
            let chunk = &chunk[..length];
            let is_report = chunk.starts_with(b"POST ");
            match self.roll() {
                Some(0) if is_report => return,
                Some(1) if is_report => {
                    // The hub has the request, and the answer is lost.
                    self.repeat(chunk);
                    return;
                }
                Some(2..=4) if is_report => {
                    self.repeat(chunk);
                    self.last.lock().unwrap().replace(chunk.to_vec());
                }
                Some(_) => {
                    let late = self.last.lock().unwrap().take();
                    late.iter().for_each(|late| self.repeat(late));
                }
                None => {}
            }
            if hub.write_all(chunk).is_err() {
                return;
            }
        }
    }

    fn carry_answers(&self, mut hub: TcpStream, mut client: TcpStream) {
        let mut chunk = vec![0; 64 * 1024];
        while let Ok(length @ 1..) = hub.read(&mut chunk) {
            // The half-open kind of break is left to the watchdog's test; it would take half a minute here.
            if self.roll() == Some(0) || client.write_all(&chunk[..length]).is_err() {
                break;
            }
        }
        client.shutdown(Shutdown::Both).ok();
        hub.shutdown(Shutdown::Both).ok();
    }

    /// Repeats a request over a connection of its own.
    fn repeat(&self, request: &[u8]) {
        let Ok(mut hub) = TcpStream::connect(self.hub) else { return };
        let mut begun = [0; 1];
        if hub.write_all(request).is_ok() {
            // When the answer has begun, the hub has accepted the report.
            hub.read_exact(&mut begun).ok();
        }
    }

    /// The fault that a chunk meets, if any.
    fn roll(&self) -> Option<u64> {
        let mut random = self.random.lock().unwrap();
        random.percent(self.badness).then(|| random.from(0, 5))
    }
}
