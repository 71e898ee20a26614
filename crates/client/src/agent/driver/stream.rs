//! Handles the signals of the listener.

use std::time::Duration;

use bellwire_proto::stream::Hello;
use tokio::time::Instant;

use super::Driver;
use crate::agent::fault::{self, Point};
use crate::agent::network_finding::NetworkFinding;
use crate::agent::status::ConnectionStatus;
use crate::agent::{Credential, clock, link};
use crate::api::{self, Listener, Signal};
use crate::event_source::{Error, Loss};
use crate::path::Carrier;
use crate::path::status::BEING_PROVEN;
use crate::path::wake::WakeReason;

impl Driver {
    pub(super) fn on_signal(&mut self, now_ms: u64, signal: Signal) {
        match signal {
            Signal::Hello(hello) => self.connected(now_ms, &hello),
            Signal::Command(event) => {
                fault::at(Point::Received);
                self.engine.handle_command(now_ms, event);
            }
            Signal::Cancel(cancel) => self.engine.handle_cancel(now_ms, cancel),
            Signal::Bye(bye) => {
                tracing::info!(reason = ?bye.reason, "the hub ends the stream");
                if let (Some(pause), Some(listener)) =
                    (link::pause_after_bye(&bye), &mut self.listener)
                {
                    tracing::warn!(
                        device = %self.agent.device, ?pause,
                        "another agent with this device's name took over its stream"
                    );
                    listener.set_next_delay(pause);
                }
            }
            Signal::Heartbeat { .. } => {}
            Signal::Carrier { carrier, why } => self.on_carrier(carrier, why),
            Signal::Lost { loss, retry_in } => {
                let fault = self.credential.as_ref().and_then(|file| file.fault());
                let meaning = match (&loss, fault) {
                    (Loss::Failed(Error::Refused(refusal)), Some(fault))
                        if refusal.status == http::StatusCode::UNAUTHORIZED =>
                    {
                        format!("the hub requires a credential, and credential_file {fault}")
                    }
                    (Loss::Failed(Error::Refused(refusal)), None)
                        if self.has_no_token()
                            && refusal.status == http::StatusCode::UNAUTHORIZED
                            && api::Error::is_hubs(refusal) =>
                    {
                        link::NO_TOKEN.to_owned()
                    }
                    _ => {
                        let hub = self.hub.url().parse().unwrap_or_default();
                        link::explain(&loss, self.agent.transport.proxy(&hub).as_deref())
                    }
                };
                let retry_in_s = retry_in.as_secs_f64();
                tracing::warn!(
                    retry_in = format_args!("{retry_in_s:.1}s"),
                    "no connection to the hub: {meaning}"
                );
                self.disconnected(meaning, retry_in);
            }
        }
    }

    /// Whether it shows the hub no credential at all: not in a file, nor from the builder, nor in the URL.
    fn has_no_token(&self) -> bool {
        let in_url = self.agent.hub.authorization().is_some();
        matches!(self.agent.credential, Credential::None) && !in_url
    }

    pub(super) fn connected(&mut self, now_ms: u64, hello: &Hello) {
        // The hub may be another one than before, without a loss in between.
        if !std::mem::replace(&mut self.connection.connected, true) {
            let base = self.agent.transport.base();
            let hub = base.as_ref().map_or(&self.connection.hub, |base| &base.hub);
            tracing::info!(hub, version = hello.hub, "connected");
            self.connection_since = Instant::now();
        }
        self.connection.hub_version = Some(hello.hub.clone());
        self.retry_at = None;
        let clocks = (hello.time_ms, clock::device_ms());
        self.engine.handle_hello(now_ms, clocks, hello.max_in_flight);
        self.report_facts(true);
    }

    pub(super) fn disconnected(&mut self, meaning: String, retry_in: Duration) {
        if std::mem::replace(&mut self.connection.connected, false) {
            self.connection_since = Instant::now();
        }
        self.connection.last_loss = Some(meaning);
        self.retry_at = Some(Instant::now() + retry_in);
    }

    /// What was known of the network is void, and everything is tried at once.
    pub(super) fn on_network_changed(&mut self, reason: WakeReason) {
        if self.engine.is_stopping() {
            return;
        }
        tracing::info!("trying everything again: {}", reason.as_str());
        self.batches_refused = false;
        if let Some(listener) = &mut self.listener {
            listener.network_changed();
        }
    }

    /// Another way carries: for the log, and for the next run.
    fn on_carrier(&mut self, carrier: Option<Carrier>, why: Option<String>) {
        let ConnectionStatus { carrier: logged, carrier_why, .. } = &mut self.connection;
        let is_logged = (*logged, &*carrier_why) == (carrier, &why);
        (*logged, *carrier_why) = (carrier, why.clone());
        let Some(carrier) = carrier else { return };
        let by = carrier.as_str();
        let way = self.listener.as_ref().and_then(Listener::way);
        if let Some(silent) = way.and_then(|way| way.silent_for) {
            let silent_s = silent.as_secs();
            let why = why.unwrap_or_default();
            tracing::info!(why, "nothing received for {silent_s} s: asking for commands by {by}");
            return;
        }
        match why {
            // What is known is known once that has ended.
            Some(why) if why == BEING_PROVEN => {
                return tracing::debug!(by, why, "commands arrive");
            }
            _ if is_logged => {}
            Some(why) => tracing::info!(by, why, "commands arrive"),
            None => tracing::info!(by, "commands arrive"),
        }
        let Some(listener) = &self.listener else { return };
        if let Some(suspended_for) = listener.way().and_then(|way| way.suspended_for) {
            tracing::info!("no stream is tried for {} s", suspended_for.as_secs());
        }
        let Some(hint) = listener.path_hint() else { return };
        let (hub, proxy) = match self.agent.transport.base() {
            Some(base) => (base.hub, base.proxy),
            None => (self.hub.url().to_owned(), String::new()),
        };
        self.findings.write(NetworkFinding { hub, proxy, hint });
    }
}
