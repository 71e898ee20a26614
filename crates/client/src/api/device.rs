//! Devices: the calls of their operators, and their own. Contract, sections 4 to 6.

use bellwire_proto::device::DeviceOrder;
use bellwire_proto::limits::POLL_WAIT_S;
use bellwire_proto::stream::PollAnswer;
use bellwire_proto::{
    CommandId, Delivery, Device, DeviceId, DeviceStatus, Json, Labels, Page, Problem, Report,
    Seconds, Selector, Seq,
};
use futures_core::Stream;
use http::Method;
use serde::{Deserialize, Serialize};
use tokio::time::Instant;

use super::{Controller, Error, nonce, page};

/// A filter of devices.
#[derive(Debug, Clone, Default)]
pub struct DeviceQuery {
    /// Their labels match.
    pub select: Option<Selector>,
    /// They are online, or are not.
    pub online: Option<bool>,
    /// Their names begin so.
    pub prefix: Option<String>,
    /// They are offline, and were last seen longer ago than this.
    pub unseen: Option<Seconds>,
    /// Their status.
    pub status: Option<DeviceStatus>,
    /// In which order; the hub's default is by name.
    pub order: Option<DeviceOrder>,
    /// Items per page: 1 to 1,000, the hub's default is 100.
    pub limit: Option<u32>,
    /// From this cursor on.
    pub after: Option<String>,
}

/// How a device polls.
#[derive(Debug, Clone, Copy, Default)]
pub struct PollOptions {
    /// How long the hub holds the request while there is no command: at most 60 s, its default is 25 s.
    pub wait: Option<Seconds>,
    /// The last command that arrived: the hub sends again at once what it sent after that.
    pub last_event_id: Option<Seq>,
}

/// The answer to a ping.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
pub struct Pong {
    /// Program and version of the hub.
    pub hub: String,
    /// The nonce of the request.
    pub nonce: Option<String>,
    /// The hub's clock in Unix milliseconds.
    pub time_ms: u64,
}

/// The result of one report of a batch.
#[derive(Debug, Clone)]
pub struct BatchAnswer {
    /// The command.
    pub command: CommandId,
    /// The status that the hub would have answered to the report alone.
    pub status: u16,
    /// The delivery after it, or why the report was refused.
    pub outcome: Result<Delivery, Problem>,
}

/// Devices, for their operators.
impl Controller {
    /// A page of devices, in the order of the query.
    ///
    /// # Errors
    /// Refused as `bad_request` when the limit or the cursor is invalid.
    pub async fn devices(&self, query: &DeviceQuery) -> Result<Page<Device>, Error> {
        self.call(Method::GET, ["v1", "devices"])
            .query("select", query.select.as_ref())
            .query("online", query.online)
            .query("prefix", query.prefix.as_ref())
            .query("unseen", query.unseen)
            .query("status", query.status.map(DeviceStatus::as_str))
            .query("sort", query.order)
            .query("limit", query.limit)
            .query("after", query.after.as_ref())
            .fetch()
            .await
    }

    /// All matching devices, in the order of the query, fetched page by page. An error is the last item.
    pub fn all_devices(
        &self,
        query: DeviceQuery,
    ) -> impl Stream<Item = Result<Device, Error>> + Send + use<> {
        let hub = self.clone();
        page::items(query.after.clone(), move |after| {
            let (hub, query) = (hub.clone(), DeviceQuery { after, ..query.clone() });
            async move { hub.devices(&query).await }
        })
    }

    /// The current state of a device.
    ///
    /// # Errors
    /// Refused as `unknown_device`, among others.
    pub async fn device(&self, device: &DeviceId) -> Result<Device, Error> {
        self.call(Method::GET, ["v1", "devices", device.as_str()]).fetch().await
    }

    /// Registers a device, or replaces the labels of one.
    ///
    /// # Errors
    /// Refused as `bad_request` when a label breaks the syntax.
    pub async fn put_labels(&self, device: &DeviceId, labels: &Labels) -> Result<Device, Error> {
        #[derive(Serialize)]
        struct Body<'a> {
            labels: &'a Labels,
        }
        self.call(Method::PUT, ["v1", "devices", device.as_str()])
            .json(&Body { labels })
            .fetch()
            .await
    }

    /// Removes a device: its streams end, and its queued commands are cancelled.
    ///
    /// # Errors
    /// Refused as `unknown_device`, among others.
    pub async fn delete_device(&self, device: &DeviceId) -> Result<(), Error> {
        self.call(Method::DELETE, ["v1", "devices", device.as_str()]).send().await.map(drop)
    }

    /// Checks that the hub itself responds, and not a cache; returns its time.
    ///
    /// # Errors
    /// [`Error::Foreign`] when the response belongs to another request.
    pub async fn ping(&self) -> Result<Pong, Error> {
        Ok(self.ping_and_sent().await?.0)
    }

    /// As [`Self::ping`], and when the request was sent, if the transport knows that.
    pub(super) async fn ping_and_sent(&self) -> Result<(Pong, Option<Instant>), Error> {
        let nonce = nonce();
        let call = self.call(Method::GET, ["v1", "ping"]).query("nonce", Some(&nonce));
        let success = call.send().await?;
        let sent = success.sent;
        let pong: Pong = success.read()?;
        self.expect_nonce(pong.nonce.as_deref(), &nonce)?;
        Ok((pong, sent))
    }

    pub(super) fn expect_nonce(&self, got: Option<&str>, nonce: &str) -> Result<(), Error> {
        if got == Some(nonce) {
            Ok(())
        } else {
            Err(self.foreign("its response belongs to another request, as from a cache"))
        }
    }
}

/// The calls of a device. Its stream is [`Controller::listen`].
impl Controller {
    /// Requests commands and waits for them (long poll): for networks that buffer streams.
    ///
    /// # Errors
    /// Refused as `draining` or, on a closed hub, `unknown_device`, among others;
    /// [`Error::Foreign`] when the response is not for this request and device.
    pub async fn poll(&self, device: &DeviceId, options: PollOptions) -> Result<PollAnswer, Error> {
        let nonce = nonce();
        let wait = options.wait.unwrap_or(Seconds::new(POLL_WAIT_S.default));
        let answer: PollAnswer = self
            .call(Method::GET, ["v1", "devices", device.as_str(), "commands"])
            .query("wait", options.wait)
            .query("nonce", Some(&nonce))
            .query("last_event_id", options.last_event_id)
            .wait(wait.duration())
            .fetch()
            .await?;
        self.expect_nonce(answer.hello.nonce.as_deref(), &nonce)?;
        if answer.hello.device != *device {
            return Err(self.foreign("its response is for another device"));
        }
        Ok(answer)
    }

    /// Confirms that a stream with [`ListenOptions::confirm`](super::ListenOptions::confirm) has arrived. The session is in its
    /// hello.
    ///
    /// # Errors
    /// Refused as `gone` when that stream has ended.
    pub async fn confirm(&self, device: &DeviceId, session: &str) -> Result<(), Error> {
        #[derive(Serialize)]
        struct Body<'a> {
            session: &'a str,
        }
        self.call(Method::POST, ["v1", "devices", device.as_str(), "confirm"])
            .json(&Body { session })
            .send()
            .await
            .map(drop)
    }

    /// Reports the state of a command. A report with a `rev` can be repeated until it is answered: repeating it changes
    /// nothing.
    ///
    /// # Errors
    /// Refused as `illegal_transition`, with the current delivery, or as `unknown_command`,
    /// among others.
    pub async fn report(
        &self,
        device: &DeviceId,
        command: CommandId,
        report: &Report,
    ) -> Result<Delivery, Error> {
        let command = command.to_string();
        let path = ["v1", "devices", device.as_str(), "commands", &command, "status"];
        self.call(Method::POST, path).json(report).fetch().await
    }

    /// Sends up to 1,000 reports at once, 4 MiB together. Each is handled by itself; the results are in the same order.
    ///
    /// # Errors
    /// When the batch as a whole is refused.
    pub async fn report_batch(
        &self,
        device: &DeviceId,
        reports: &[(CommandId, Report)],
    ) -> Result<Vec<BatchAnswer>, Error> {
        #[derive(Serialize)]
        struct Item<'a> {
            command: CommandId,
            #[serde(flatten)]
            report: &'a Report,
        }
        #[derive(Deserialize)]
        struct Wire {
            command: CommandId,
            status: u16,
            delivery: Option<Delivery>,
            problem: Option<Problem>,
        }
        let items: Vec<_> =
            reports.iter().map(|(command, report)| Item { command: *command, report }).collect();
        let answers: Vec<Wire> = self
            .call(Method::POST, ["v1", "devices", device.as_str(), "status"])
            .json(&items)
            .fetch()
            .await?;
        if answers.len() != reports.len() {
            return Err(self.foreign("it did not answer each report of the batch"));
        }
        let answer = |wire: Wire| {
            let outcome = match (wire.delivery, wire.problem) {
                (Some(delivery), None) => Ok(delivery),
                (_, Some(problem)) => Err(problem),
                (None, None) => {
                    return Err(self.foreign("a report of the batch has no result"));
                }
            };
            Ok(BatchAnswer { command: wire.command, status: wire.status, outcome })
        };
        answers.into_iter().map(answer).collect()
    }

    /// Reports the device's facts: a JSON object of at most 100 members and 16 KiB.
    ///
    /// # Errors
    /// Refused as `unknown_device`: facts do not register a device.
    pub async fn put_facts(&self, device: &DeviceId, facts: &Json) -> Result<Device, Error> {
        self.call(Method::PUT, ["v1", "devices", device.as_str(), "facts"])
            .json(facts)
            .fetch()
            .await
    }
}
