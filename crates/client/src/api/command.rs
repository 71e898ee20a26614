//! Sending commands, and their deliveries. Contract, sections 3 and 7.

use bellwire_proto::{
    Action, Command, CommandId, CommandIdPrefix, Delivery, DeliveryState, DeviceId, Json, Page,
    Preview, Seconds, Selector, Timestamp, Wait, Window,
};
use futures_core::Stream;
use http::{HeaderName, HeaderValue, Method};
use serde::ser::{Serialize, SerializeMap as _, Serializer};

use super::{Call, Controller, Error, page};

const IDEMPOTENCY_KEY: HeaderName = HeaderName::from_static("idempotency-key");

/// The options of a command to one device.
///
/// ```
/// use bellwire_client::SendOptions;
/// use bellwire_proto::{Json, Seconds};
///
/// let options = SendOptions::default()
///     .json(Json::parse(r#"{"after_s": 5}"#)?)
///     .ttl(Seconds::new(600))
///     .wait(Seconds::new(30))
///     .idempotency_key("reboot-2026-11-22");
/// # drop(options);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Debug, Clone, Default)]
#[must_use]
pub struct SendOptions {
    data: Data,
    ttl: Option<Seconds>,
    wait: Option<Seconds>,
    run_timeout: Option<Seconds>,
    not_before: Option<Timestamp>,
    window: Option<Window>,
    idempotency_key: Option<String>,
}

#[derive(Debug, Clone, Default)]
enum Data {
    #[default]
    None,
    Json(Json),
    Text(String),
}

impl SendOptions {
    /// This JSON as data. Default: none, which the device receives as `null`.
    pub fn json(mut self, data: Json) -> Self {
        self.data = Data::Json(data);
        self
    }

    /// This text as data; the device receives a JSON string.
    pub fn text(mut self, data: impl Into<String>) -> Self {
        self.data = Data::Text(data.into());
        self
    }

    /// How long the command may wait to be accepted: 1 s to 7 d, default 1 h; 0 sends it only to a
    /// device that is online.
    pub fn ttl(mut self, ttl: Seconds) -> Self {
        self.ttl = Some(ttl);
        self
    }

    /// How long the hub waits for a terminal state before it responds: at most 300 s, default 0. With
    /// [`SendOptions::not_before`] or [`SendOptions::window`] it does not wait.
    pub fn wait(mut self, wait: Seconds) -> Self {
        self.wait = Some(wait);
        self
    }

    /// How long the device may report nothing once it has accepted: 1 s to 24 h, default 5 min.
    pub fn run_timeout(mut self, run_timeout: Seconds) -> Self {
        self.run_timeout = Some(run_timeout);
        self
    }

    /// Not sent before this time, from which the ttl counts. The hub then does not wait: see [`SendOptions::wait`].
    pub fn not_before(mut self, not_before: Timestamp) -> Self {
        self.not_before = Some(not_before);
        self
    }

    /// Sent only while this is open; the ttl goes on meanwhile. The hub then does not wait: see [`SendOptions::wait`].
    pub fn window(mut self, window: Window) -> Self {
        self.window = Some(window);
        self
    }

    /// 1 to 255 visible ASCII characters: a request sent again with the same key is the same
    /// command, for 24 h.
    pub fn idempotency_key(mut self, key: impl Into<String>) -> Self {
        self.idempotency_key = Some(key.into());
        self
    }
}

/// A command to one device or many, as the envelope of `POST /v1/commands`.
///
/// ```
/// use bellwire_client::api::{NewCommand, Target};
/// use bellwire_proto::Seconds;
///
/// let target = Target::Select("site=lyon,!spare".parse()?);
/// let command = NewCommand::new("reboot".parse()?, target).ttl(Seconds::new(600));
/// assert_eq!(
///     serde_json::to_string(&command)?,
///     r#"{"action":"reboot","target":{"select":"site=lyon,!spare"},"ttl_s":600}"#
/// );
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Debug, Clone, serde::Serialize)]
#[must_use]
pub struct NewCommand {
    action: Action,
    #[serde(skip_serializing_if = "Option::is_none")]
    data: Option<Json>,
    target: Target,
    #[serde(skip_serializing_if = "Option::is_none")]
    ttl_s: Option<Seconds>,
    #[serde(skip_serializing_if = "Option::is_none")]
    run_timeout_s: Option<Seconds>,
    #[serde(skip_serializing_if = "Option::is_none")]
    not_before: Option<Timestamp>,
    #[serde(skip_serializing_if = "Option::is_none")]
    window: Option<Window>,
    #[serde(skip_serializing_if = "Option::is_none")]
    rollout: Option<Json>,
    #[serde(skip)]
    idempotency_key: Option<String>,
}

/// The devices that a command is sent to.
#[derive(Debug, Clone)]
pub enum Target {
    /// One device.
    Device(DeviceId),
    /// The listed ones; one that is listed twice receives it once.
    Devices(Vec<DeviceId>),
    /// Those whose labels match.
    Select(Selector),
    /// All that are registered.
    All,
}

impl NewCommand {
    /// A command without data and with the hub's defaults.
    pub fn new(action: Action, target: Target) -> Self {
        Self {
            action,
            data: None,
            target,
            ttl_s: None,
            run_timeout_s: None,
            not_before: None,
            window: None,
            rollout: None,
            idempotency_key: None,
        }
    }

    /// With this data.
    pub fn data(mut self, data: Json) -> Self {
        self.data = Some(data);
        self
    }

    /// As [`SendOptions::ttl`]; it counts from [`NewCommand::not_before`].
    pub fn ttl(mut self, ttl: Seconds) -> Self {
        self.ttl_s = Some(ttl);
        self
    }

    /// As [`SendOptions::run_timeout`].
    pub fn run_timeout(mut self, run_timeout: Seconds) -> Self {
        self.run_timeout_s = Some(run_timeout);
        self
    }

    /// Not sent before this time.
    pub fn not_before(mut self, not_before: Timestamp) -> Self {
        self.not_before = Some(not_before);
        self
    }

    /// As [`SendOptions::window`].
    pub fn window(mut self, window: Window) -> Self {
        self.window = Some(window);
        self
    }

    /// Rolled out batch by batch: the member `rollout` of the envelope, `{"batch":"10%"}` for example.
    pub fn rollout(mut self, rollout: Json) -> Self {
        self.rollout = Some(rollout);
        self
    }

    /// As [`SendOptions::idempotency_key`].
    pub fn idempotency_key(mut self, key: impl Into<String>) -> Self {
        self.idempotency_key = Some(key.into());
        self
    }
}

impl Serialize for Target {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut map = serializer.serialize_map(Some(1))?;
        match self {
            Self::Device(device) => map.serialize_entry("device", device)?,
            Self::Devices(devices) => map.serialize_entry("devices", devices)?,
            Self::Select(selector) => map.serialize_entry("select", &selector.to_string())?,
            Self::All => map.serialize_entry("all", &true)?,
        }
        map.end()
    }
}

/// A filter of commands. A command matches when one of its deliveries matches both `device` and `state`.
#[derive(Debug, Clone, Default)]
pub struct CommandQuery {
    /// To this device.
    pub device: Option<DeviceId>,
    /// With a delivery in this state.
    pub state: Option<DeliveryState>,
    /// Of this action.
    pub action: Option<Action>,
    /// Items per page: 1 to 1,000, the hub's default is 100.
    pub limit: Option<u32>,
    /// From this cursor on.
    pub after: Option<String>,
}

/// A filter of deliveries.
#[derive(Debug, Clone, Default)]
pub struct DeliveryQuery {
    /// In this state.
    pub state: Option<DeliveryState>,
    /// Items per page: 1 to 1,000, the hub's default is 100.
    pub limit: Option<u32>,
    /// From this cursor on.
    pub after: Option<String>,
}

/// Sending commands.
impl Controller {
    /// Sends a command to a device: `POST /v1/send/{device}/{action}`.
    ///
    /// The delivery is on the hub's disk. Without [`SendOptions::wait`] it is usually `queued`; with it, it is terminal unless
    /// the wait has elapsed.
    ///
    /// # Errors
    /// Refused as `queue_full`, `device_offline` (with a ttl of 0), `idempotency_mismatch`,
    /// `payload_too_large`, `draining` or `store_unavailable`, among others.
    pub async fn send(
        &self,
        device: &DeviceId,
        action: &Action,
        options: &SendOptions,
    ) -> Result<Delivery, Error> {
        if options.not_before.is_some() || options.window.is_some() {
            return self.send_later(device, action, options).await;
        }
        let path = ["v1", "send", device.as_str(), action.as_str()];
        let call = self
            .call(Method::POST, path)
            .query("ttl", options.ttl)
            .query("wait", options.wait)
            .query("run_timeout", options.run_timeout)
            .wait(options.wait.map(Seconds::duration).unwrap_or_default())
            .idempotency_key(options.idempotency_key.as_deref())?;
        let call = match &options.data {
            Data::None => call,
            Data::Json(data) => call.json(data),
            // An empty body would be null.
            Data::Text(text) if text.is_empty() => call.json(text),
            Data::Text(text) => call.body("text/plain; charset=utf-8", text.clone()),
        };
        call.fetch().await
    }

    /// Sends a command as an envelope, which alone has a `not_before` and a `window`, and reads its delivery.
    async fn send_later(
        &self,
        device: &DeviceId,
        action: &Action,
        options: &SendOptions,
    ) -> Result<Delivery, Error> {
        let data = match &options.data {
            Data::None => None,
            Data::Json(data) => Some(data.clone()),
            Data::Text(text) => Some(Json::text(text)),
        };
        let command = NewCommand {
            data,
            ttl_s: options.ttl,
            run_timeout_s: options.run_timeout,
            not_before: options.not_before,
            window: options.window.clone(),
            idempotency_key: options.idempotency_key.clone(),
            ..NewCommand::new(action.clone(), Target::Device(device.clone()))
        };
        let command = self.send_command(&command).await?;
        let page = self.deliveries(command.id, &DeliveryQuery::default()).await?;
        let delivery = page.items.into_iter().next();
        delivery.ok_or_else(|| self.foreign("it stored a command without its delivery"))
    }

    /// Sends a command to one device or many: `POST /v1/commands`.
    ///
    /// # Errors
    /// As [`Controller::send`]; a full queue shows in that device's delivery instead.
    pub async fn send_command(&self, command: &NewCommand) -> Result<Command, Error> {
        self.call(Method::POST, ["v1", "commands"])
            .idempotency_key(command.idempotency_key.as_deref())?
            .json(command)
            .fetch()
            .await
    }

    /// Checks a command as [`send_command`](Self::send_command) would send it, and stores nothing: how many devices it is for.
    ///
    /// # Errors
    /// As [`Controller::send_command`].
    pub async fn preview(&self, command: &NewCommand) -> Result<Preview, Error> {
        self.call(Method::POST, ["v1", "commands"])
            .query("dry_run", Some(true))
            .json(command)
            .fetch()
            .await
    }

    /// The current state of a command.
    ///
    /// # Errors
    /// Refused as `unknown_command`, among others.
    pub async fn command(&self, id: CommandId) -> Result<Command, Error> {
        self.call(Method::GET, ["v1", "commands", &id.to_string()]).fetch().await
    }

    /// A page of commands, newest first.
    ///
    /// # Errors
    /// Refused as `bad_request` when the limit or the cursor is invalid.
    pub async fn commands(&self, query: &CommandQuery) -> Result<Page<Command>, Error> {
        self.call(Method::GET, ["v1", "commands"])
            .query("device", query.device.as_ref())
            .query("state", query.state)
            .query("action", query.action.as_ref())
            .query("limit", query.limit)
            .query("after", query.after.as_ref())
            .fetch()
            .await
    }

    /// All matching commands, newest first, fetched page by page. An error is the last item.
    pub fn all_commands(
        &self,
        query: CommandQuery,
    ) -> impl Stream<Item = Result<Command, Error>> + Send + use<> {
        let hub = self.clone();
        page::items(query.after.clone(), move |after| {
            let (hub, query) = (hub.clone(), CommandQuery { after, ..query.clone() });
            async move { hub.commands(&query).await }
        })
    }

    /// The commands whose ids begin so, the last ids first, `limit` (1 to 1,000) at most.
    ///
    /// # Errors
    /// Refused as `bad_request` when the limit is out of bounds.
    pub async fn commands_by_id(
        &self,
        prefix: &CommandIdPrefix,
        limit: u32,
    ) -> Result<Vec<Command>, Error> {
        let page: Page<Command> = self
            .call(Method::GET, ["v1", "commands"])
            .query("id", Some(prefix))
            .query("limit", Some(limit))
            .fetch()
            .await?;
        Ok(page.items)
    }

    /// A page of a command's deliveries, by device name.
    ///
    /// # Errors
    /// Refused as `unknown_command`, among others.
    pub async fn deliveries(
        &self,
        id: CommandId,
        query: &DeliveryQuery,
    ) -> Result<Page<Delivery>, Error> {
        self.call(Method::GET, ["v1", "commands", &id.to_string(), "deliveries"])
            .query("state", query.state)
            .query("limit", query.limit)
            .query("after", query.after.as_ref())
            .fetch()
            .await
    }

    /// All matching deliveries of a command, by device name, fetched page by page. An error is the last item.
    pub fn all_deliveries(
        &self,
        id: CommandId,
        query: DeliveryQuery,
    ) -> impl Stream<Item = Result<Delivery, Error>> + Send + use<> {
        let hub = self.clone();
        page::items(query.after.clone(), move |after| {
            let (hub, query) = (hub.clone(), DeliveryQuery { after, ..query.clone() });
            async move { hub.deliveries(id, &query).await }
        })
    }

    /// What the queued deliveries of a command wait for, by device name, fetched page by page. An error is the last item.
    pub fn all_waits(
        &self,
        id: CommandId,
    ) -> impl Stream<Item = Result<Wait, Error>> + Send + use<> {
        let hub = self.clone();
        page::items(None, move |after: Option<String>| {
            let hub = hub.clone();
            async move {
                let path = ["v1", "commands", &id.to_string(), "waits"];
                hub.call(Method::GET, path).query("after", after).fetch().await
            }
        })
    }

    /// Cancels the deliveries of a command that are not terminal. With `force` they end at once at the hub, whatever the
    /// devices do.
    ///
    /// # Errors
    /// Refused as `illegal_transition`, with a delivery, when all were terminal before.
    pub async fn cancel(&self, id: CommandId, force: bool) -> Result<Command, Error> {
        self.call(Method::DELETE, ["v1", "commands", &id.to_string()])
            .query("force", force.then_some(true))
            .fetch()
            .await
    }
}

impl Call<'_> {
    fn idempotency_key(mut self, key: Option<&str>) -> Result<Self, Error> {
        if let Some(key) = key {
            let value = HeaderValue::from_str(key).map_err(|_| Error::Refused {
                problem: Box::new(bellwire_proto::Problem::bad_request(
                    "an idempotency key is 1 to 255 visible ASCII characters",
                )),
                retry_after: None,
            })?;
            self.headers.insert(IDEMPOTENCY_KEY, value);
        }
        Ok(self)
    }
}
