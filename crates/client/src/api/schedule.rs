//! Schedules. Contract, section 3.

use bellwire_proto::{Json, Page, Schedule, SchedulePlan};
use futures_core::Stream;
use http::Method;
use serde::Serialize;

use super::{Controller, Error, page};

/// Schedules: commands that the hub stores again and again, at the times of a cron expression. Each is named by its id or
/// its name.
impl Controller {
    /// Makes a schedule, paused or not.
    ///
    /// # Errors
    /// Refused as `bad_request` when it could not run, `conflict` when the name is taken, among others.
    pub async fn create_schedule(
        &self,
        plan: &SchedulePlan,
        paused: bool,
    ) -> Result<Schedule, Error> {
        #[derive(Serialize)]
        struct New<'a> {
            #[serde(flatten)]
            plan: &'a SchedulePlan,
            paused: bool,
        }
        let new = New { plan, paused };
        self.call(Method::POST, ["v1", "schedules"]).json(&new).fetch().await
    }

    /// All schedules by id, fetched page by page. An error is the last item.
    pub fn all_schedules(&self) -> impl Stream<Item = Result<Schedule, Error>> + Send + use<> {
        let hub = self.clone();
        page::items(None, move |after| {
            let hub = hub.clone();
            async move {
                let call = hub.call(Method::GET, ["v1", "schedules"]).query("after", after);
                call.fetch::<Page<Schedule>>().await
            }
        })
    }

    /// A schedule.
    ///
    /// # Errors
    /// Refused as `not_found`.
    pub async fn schedule(&self, id_or_name: &str) -> Result<Schedule, Error> {
        self.call(Method::GET, ["v1", "schedules", id_or_name]).fetch().await
    }

    /// Changes a schedule by a JSON merge patch (RFC 7396) of its plan.
    ///
    /// # Errors
    /// Refused as `not_found`; as `conflict` when another has changed it meanwhile.
    pub async fn change_schedule(&self, id_or_name: &str, patch: &Json) -> Result<Schedule, Error> {
        self.call(Method::PATCH, ["v1", "schedules", id_or_name]).json(patch).fetch().await
    }

    /// Pauses a schedule, or resumes it. The same twice is no error.
    ///
    /// # Errors
    /// Refused as `not_found`; as `conflict` when the token that it acts for is gone.
    pub async fn pause_schedule(&self, id_or_name: &str, paused: bool) -> Result<Schedule, Error> {
        let verb = if paused { "pause" } else { "resume" };
        self.call(Method::POST, ["v1", "schedules", id_or_name, verb]).fetch().await
    }

    /// Deletes a schedule. The commands that it has stored go on.
    ///
    /// # Errors
    /// Refused as `not_found`.
    pub async fn delete_schedule(&self, id_or_name: &str) -> Result<(), Error> {
        self.call(Method::DELETE, ["v1", "schedules", id_or_name]).send().await.map(drop)
    }
}
