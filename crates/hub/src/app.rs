//! A hub from its settings to its end: open, bind, serve, drain.
//!
//! Nothing serves until everything is bound and recovered. [`Hub`] is the hub without a server, to
//! be mounted in another program's; [`Bound`] and [`Running`] are a whole server of its own. Signals
//! are the program's business: it calls [`Running::shutdown`].

use std::io;
use std::path::PathBuf;
use std::sync::Arc;

use axum::Router;
use axum::extract::{Path, Request};
use axum::http::StatusCode;
use axum::routing::get;
use bellwire_proto::limits::{SHUTDOWN_IN_FLIGHT, SHUTDOWN_STREAMS_MS, SHUTDOWN_TIMEOUT};
use tokio::sync::oneshot;
use tokio::task::AbortHandle;
use tokio::time::{Instant, sleep, timeout_at};

use crate::config::{Config, ListenerConfig, Scheme};
use crate::driver::Driver;
use crate::http;
use crate::http::browsers::Browsers;
use crate::http::classic::{Classic, ClassicConfig, ClassicError};
use crate::jwt::{Jwt, KeysError};
use crate::listen::{Endpoint, ListenConfig, Listener, ListenerAddr, Server};
use crate::store::{self, OpenError, Options, SqliteStore, Store};
use crate::tls::{self, AcmeCounts, Reloaded, TlsError};

/// A hub that is open and recovered, to be mounted in an axum server.
///
/// ```
/// # tokio::runtime::Runtime::new()?.block_on(async {
/// use bellwire_hub::app::Hub;
/// use bellwire_hub::config::Config;
///
/// # let folder = tempfile::tempdir()?;
/// let mut config = Config::default();
/// config.data_dir = folder.path().join("hub");
/// let hub = Hub::open(config).await?;
///
/// // Beside your own routes; the hub answers below /v1/, and at /metrics, /healthz and /readyz.
/// let app = axum::Router::new()
///     .route("/", axum::routing::get(async || "my own page"))
///     .merge(hub.router());
/// # drop(app);
/// // … serve `app`, and in the end:
/// hub.close().await;
/// # Ok::<(), Box<dyn std::error::Error>>(()) })?;
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Debug)]
pub struct Hub {
    driver: Driver,
    store: Arc<SqliteStore>,
    /// Follows the keys of JWTs.
    _following: Renewing,
}

/// A server that is bound and recovered, and does not serve yet.
///
/// ```
/// # tokio::runtime::Runtime::new()?.block_on(async {
/// use bellwire_hub::app::Bound;
/// use bellwire_hub::config::Config;
///
/// # let folder = tempfile::tempdir()?;
/// let mut config = Config::default();
/// config.listen = vec!["127.0.0.1:0".parse()?];
/// config.data_dir = folder.path().join("hub");
/// # config.drain = std::time::Duration::ZERO;
/// let server = Bound::bind(config).await?.serve();
/// println!("{}", server.listeners()[0]);
/// // … until a signal comes:
/// server.shutdown().await;
/// # Ok::<(), Box<dyn std::error::Error>>(()) })?;
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Debug)]
pub struct Bound {
    hub: Hub,
    classic: Option<Classic>,
    listener: Listener,
    tls: Arc<tls::Serving>,
}

/// A running server. Dropped, it stops at once, and streams end without a `bye`.
#[derive(Debug)]
pub struct Running {
    hub: Hub,
    classic: Option<Classic>,
    server: Server,
    tls: Arc<tls::Serving>,
    renewing: Renewing,
}

/// The tasks that renew certificates, when files change and by ACME, and keys. Dropped, they end.
#[derive(Debug)]
struct Renewing(Vec<AbortHandle>);

impl Drop for Renewing {
    fn drop(&mut self) {
        self.0.iter().for_each(AbortHandle::abort);
    }
}

/// Why a hub does not start. Each message names what to do.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum StartError {
    /// The operator's: without credentials any client that reaches the hub commands every device.
    #[error(
        "this hub has no admin token, and {listener} is not loopback: any client that reaches it could command every \
         device. Make a token first (bellwire token create --role admin --data-dir {}), or set `open` (--open) if that is \
         intended", .data_dir.display()
    )]
    Exposed {
        /// Where it was to listen.
        listener: ListenerConfig,
        /// Its data folder.
        data_dir: PathBuf,
    },
    /// The operator's: the classic format knows no tokens.
    #[error(
        "the classic format asks nobody for a token, and {listener} is not loopback: any client that reaches it could send \
         to every classic listener. Leave out `classic` (--classic), or set `open` (--open) if that is intended"
    )]
    ClassicExposed {
        /// Where it was to listen.
        listener: ListenerConfig,
    },
    /// The operator's: TLS is to be spoken where there is no certificate.
    #[error(
        "listen has {listener}, and there is no certificate: set tls_cert and tls_key to PEM files, or listen on \
         http://{address} for plain HTTP",
        address = listener.address
    )]
    NoCertificate {
        /// Where it was to listen.
        listener: ListenerConfig,
    },
    /// The operator's: two listeners have one address.
    #[error(
        "listen has {listener} twice: an address has one listener, plain or TLS; remove one of them"
    )]
    Twice {
        /// The second one.
        listener: ListenerConfig,
    },
    /// The machine's or the operator's: an address cannot be bound.
    #[error("cannot listen on {0}")]
    Bind(#[source] io::Error),
    /// The machine's or the operator's: the data folder cannot be opened.
    #[error(transparent)]
    Store(#[from] OpenError),
    /// The operator's: the keys of JWTs are of no use.
    #[error(transparent)]
    Jwt(#[from] KeysError),
    /// The operator's: the certificate or its key is of no use.
    #[error(transparent)]
    Tls(#[from] TlsError),
    /// The machine's: the classic streams do not start.
    #[error("the classic format cannot be served: {0}")]
    Classic(#[from] ClassicError),
    /// The machine's: the system has no thread, event queue or entropy to give.
    #[error("the system refuses what a hub needs: {0}")]
    System(#[source] io::Error),
}

impl StartError {
    /// Whether it is a mistake in the settings, and not a state of the machine: the
    /// difference between exit code 2 and 1.
    pub fn is_usage(&self) -> bool {
        match self {
            Self::Exposed { .. }
            | Self::ClassicExposed { .. }
            | Self::NoCertificate { .. }
            | Self::Twice { .. }
            | Self::Jwt(_)
            | Self::Tls(_) => true,
            Self::Bind(_) | Self::Store(_) | Self::Classic(_) | Self::System(_) => false,
        }
    }

    /// Whether the only obstacle is that a hub is running with this data folder: no fault of the settings, which that hub
    /// may have been started with.
    pub fn is_in_use(&self) -> bool {
        matches!(self, Self::Store(OpenError::InUse { .. }))
    }
}

impl Hub {
    /// Opens the data folder and recovers what is in it. To be called inside a tokio runtime.
    ///
    /// # Errors
    /// When the folder is in use or cannot be read, or the system refuses threads.
    pub async fn open(config: Config) -> Result<Self, StartError> {
        let options = Options::default()
            .history_retention(config.history)
            .audit_retention(config.audit_keep, config.audit_bytes_max)
            .space(config.quotas.store_bytes_max, config.quotas.store_free_min)
            .count_senders(config.quotas.store_bytes_per_token > 0);
        let data_dir = config.data_dir.clone();
        let opened = in_thread(move || SqliteStore::open(&data_dir, options));
        let (store, recovered) = opened.await.map_err(StartError::System)??;
        let jwt = config.jwt.clone().map(Jwt::load).transpose()?;
        let clock = store.clock();
        let store = Arc::new(store);
        let driver = Driver::start(Arc::new(config), clock, store.clone(), recovered);
        let driver = driver.map_err(StartError::System)?.reading(jwt);
        store.start(driver.store_events())?;
        let following = driver.jwt().cloned().map(|jwt| {
            let (spawner, driver) = (driver.clone(), driver.clone());
            let ended = move |ended| driver.credentials_ended(ended);
            spawner.spawn(async move { jwt.follow(ended).await })
        });
        Ok(Self { driver, store, _following: Renewing(following.into_iter().collect()) })
    }

    /// The API: everything below `/v1/`, `/metrics`, `/healthz` and `/readyz`. Other paths are left to the
    /// router that it is merged into.
    ///
    /// Behind a server that is not Bellwire's own, streams are ordinary response bodies: everything
    /// works, at more memory for each stream.
    ///
    /// The rule for web pages (contract, section 6, "Browsers") holds there too. It needs to know where that server listens, and by
    /// which names it is reached: set `Config::listen` and `Config::allowed_hosts` accordingly. By default `listen` is a
    /// loopback address, where only `localhost` and IP addresses are accepted as `Host`.
    pub fn router(&self) -> Router {
        http::router(self.driver.clone())
    }

    /// What the handlers speak to; for handlers of your own.
    pub fn driver(&self) -> &Driver {
        &self.driver
    }

    /// Begins the end, see [`Driver::drain`]. The router still answers reports and reads.
    pub fn drain(&self) {
        self.driver.drain();
    }

    /// Ends: drains if that was not done, writes out what streams have yet to send, and puts
    /// on disk what was taken. Within 10 s.
    pub async fn close(self) {
        self.close_until(Instant::now() + SHUTDOWN_TIMEOUT).await;
    }

    async fn close_until(self, until: Instant) {
        self.drain();
        let (plane, store) = (self.driver.plane().clone(), self.store.clone());
        let closed = in_thread(move || {
            plane.shutdown(SHUTDOWN_STREAMS_MS);
            store.close();
        });
        if !matches!(timeout_at(until, closed).await, Ok(Ok(()))) {
            tracing::error!("the hub ends without being closed: the disk does not answer");
        }
    }
}

impl Bound {
    /// Binds every address, opens the hub and recovers it; it does not serve yet. To be called
    /// inside a tokio runtime.
    ///
    /// # Errors
    /// When the hub would be open to strangers although `open` is not set, an address is taken, the certificate is missing
    /// or of no use, or [`Hub::open`] fails.
    pub async fn bind(config: Config) -> Result<Self, StartError> {
        if let Some(fault) = faults(&config).into_iter().next() {
            return Err(fault);
        }
        let tls = Arc::new(tls::Serving::load(&config)?);
        let bounds = ListenConfig {
            header_read_ms: u64::try_from(config.header_timeout.as_millis()).unwrap_or(u64::MAX),
            connections_max: config.connections_max,
            ..ListenConfig::default()
        };
        let endpoints = config.listeners().enumerate().map(|(n, (listener, _))| Endpoint {
            address: listener.address,
            tls: tls.of_listener(n),
            rules: listener.into(),
        });
        let listener = Listener::bind_endpoints(endpoints, bounds).map_err(StartError::Bind)?;
        // In text mode, without ids and without keepalives (contract, section 10).
        let classic = ClassicConfig {
            shards: config.shards,
            actions: config.classic_actions.clone(),
            ..ClassicConfig::default()
        };
        let classic = config.classic.then(|| Classic::start(classic)).transpose()?;
        let hub = Hub::open(config).await?;
        // Nothing of theirs is open yet.
        let _ = hub.driver.auth().revoke_certificates(tls.revoked());
        Ok(Self { hub, classic, listener, tls })
    }

    /// What is bound, in the order of the settings.
    pub fn listeners(&self) -> &[ListenerAddr] {
        self.listener.listeners()
    }

    /// Serves the hub.
    pub fn serve(self) -> Running {
        self.serve_with(Router::new())
    }

    /// Serves the hub and, beside it, routes of others; where both would answer is a panic of
    /// axum's at the start. What neither answers is for the classic format, if that is set, or 404.
    pub fn serve_with(self, others: Router) -> Running {
        let Self { hub, classic, listener, tls } = self;
        let router = hub.router().merge(others);
        let router = match tls.acme().cloned() {
            Some(acme) => router.route(
                "/.well-known/acme-challenge/{token}",
                get(async move |Path(token): Path<String>| {
                    acme.text(&token).ok_or(StatusCode::NOT_FOUND)
                }),
            ),
            None => router,
        };
        let browsers = Browsers::new(hub.driver.config());
        let behind = classic.clone().map(|classic| classic.for_browsers(browsers));
        let router = router.fallback(async |request: Request| {
            match behind.filter(|_| Classic::serves(request.uri().path())) {
                Some(classic) => classic.answer(request).await,
                None => http::not_found().await,
            }
        });
        let driver = hub.driver.clone();
        let spawn = move |task| drop(driver.spawn(task));
        let listener = listener.limited_by(hub.driver.quota().clone()).spawned_by(spawn);
        hub.driver.metrics().show(tls.clone());
        let mut renewing = Vec::new();
        if tls.has_files() {
            let driver = hub.driver.clone();
            let ended = move |revoked| driver.certificates_revoked(revoked);
            renewing.push(hub.driver.spawn(tls.clone().follow_files(ended)));
        }
        if let Some(acme) = tls.acme() {
            renewing.push(hub.driver.spawn(acme.clone().run()));
        }
        let renewing = Renewing(renewing);
        Running { server: listener.serve(router), hub, classic, tls, renewing }
    }
}

/// Everything for which [`Bound::bind`] refuses these settings before it binds: it reads the files that they name and
/// looks at the data folder, and changes nothing. Mistakes in the settings are first.
pub fn faults(config: &Config) -> Vec<StartError> {
    let listen = &config.listen;
    let exposed =
        listen.iter().filter(|listener| !config.open && !listener.open && !listener.is_loopback());
    // What cannot be read is a fault of its own, below.
    let closed = store::has_admin_token(&config.data_dir).unwrap_or_default();
    let exposed = exposed.filter_map(|listener| match (closed, config.classic) {
        (false, _) => Some(StartError::Exposed {
            listener: listener.clone(),
            data_dir: config.data_dir.clone(),
        }),
        (true, true) => Some(StartError::ClassicExposed { listener: listener.clone() }),
        (true, false) => None,
    });
    // Nor may a listener that is to check certificates of clients be a plain one for want of its own.
    let without = config.listeners().filter(|(listener, scheme)| match scheme {
        Scheme::Https => !config.has_certificate(),
        Scheme::Http => listener.client_certificates.is_some(),
    });
    let without =
        without.map(|(listener, _)| StartError::NoCertificate { listener: listener.clone() });
    let twice = listen.iter().enumerate().filter(|(n, listener)| {
        let mut before = listen.iter().take(*n).map(|listener| listener.address);
        listener.address.port() != 0 && before.any(|address| address == listener.address)
    });
    let twice = twice.map(|(_, listener)| StartError::Twice { listener: listener.clone() });
    let jwt = config.jwt.clone().map(Jwt::load).and_then(Result::err).map(StartError::Jwt);
    let tls = tls::faults(config).into_iter().map(StartError::Tls);
    let folder = store::check_folder(&config.data_dir).err().map(StartError::Store);
    exposed.chain(without).chain(twice).chain(tls).chain(jwt).chain(folder).collect()
}

/// What [`Bound::bind`] accepts in these settings, and their operator should look at: lists of revoked certificates that should have
/// been renewed, and listeners where tokens are sent in the clear. It reads the files that they name.
pub fn warnings(config: &Config) -> Vec<String> {
    tls::warnings(config).into_iter().chain(tokens_in_the_clear(config)).collect()
}

/// Of a hub that asks for tokens: where they are sent by plain HTTP beyond this machine.
pub fn tokens_in_the_clear(config: &Config) -> Option<String> {
    let plain = config.listeners().filter(|(listener, scheme)| {
        *scheme == Scheme::Http && !listener.open && !listener.is_loopback()
    });
    let plain: Vec<String> = plain.map(|(listener, _)| listener.to_string()).collect();
    (!config.open && !plain.is_empty()).then(|| {
        format!(
            "{} is plain HTTP: a token that is sent there can be read on the way. Use https wherever the network lets it through, or \
             a reverse proxy that ends TLS",
            plain.join(", ")
        )
    })
}

impl Running {
    /// What is served, in the order of the settings.
    pub fn listeners(&self) -> &[ListenerAddr] {
        self.server.listeners()
    }

    /// Whether there is a certificate, which [`Self::reload_tls`] reads again.
    pub fn has_certificate(&self) -> bool {
        self.tls.has_files()
    }

    /// How the certificate by ACME stands, if there is to be one.
    pub fn acme(&self) -> Option<AcmeCounts> {
        self.tls.acme().map(|acme| acme.counts())
    }

    /// The hub behind the server.
    pub fn hub(&self) -> &Hub {
        &self.hub
    }

    /// Reads the certificates, their keys and the lists of revoked ones again, for connections that come from now on. Without
    /// TLS it does nothing. Files that change are read again by themselves.
    ///
    /// # Errors
    /// One for each file that is of no use: what it held before stays. The others are used.
    pub fn reload_tls(&self) -> Result<(), Vec<TlsError>> {
        let Reloaded { revoked, faults } = self.tls.reload();
        self.hub.driver.certificates_revoked(revoked);
        if faults.is_empty() { Ok(()) } else { Err(faults) }
    }

    /// Ends in order: new work is refused and every stream notified at once; reports and reads are
    /// served for the time set as `drain`; then requests in flight end, and the store is closed.
    /// Within 10 s.
    pub async fn shutdown(self) {
        let until = Instant::now() + SHUTDOWN_TIMEOUT;
        drop(self.renewing);
        self.hub.drain();
        sleep(self.hub.driver.config().drain).await;
        self.server.shutdown(SHUTDOWN_IN_FLIGHT).await;
        if let Some(classic) = self.classic {
            // These end without notice: their format has no event for it.
            let ended = in_thread(move || classic.shutdown(SHUTDOWN_STREAMS_MS));
            let _ = timeout_at(until, ended).await;
        }
        self.hub.close_until(until).await;
    }
}

/// Runs what blocks on a thread of its own, which the end of the runtime does not wait for.
async fn in_thread<T: Send + 'static>(run: impl FnOnce() -> T + Send + 'static) -> io::Result<T> {
    let (sender, result) = oneshot::channel();
    std::thread::Builder::new()
        .name(String::from("hub-life"))
        .spawn(move || sender.send(run()).ok())?;
    result.await.map_err(io::Error::other)
}
