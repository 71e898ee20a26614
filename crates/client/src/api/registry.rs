//! Labels of devices: merging them, and which there are. Contract, section 6.

use bellwire_proto::device::LabelCounts;
use bellwire_proto::labels::LabelsPatch;
use bellwire_proto::{Code, Device, DeviceId, Labels, Page, Problem};
use futures_core::Stream;
use http::header::IF_MATCH;
use http::{HeaderValue, Method, StatusCode};
use serde::Serialize;

use super::{Call, Controller, Error, Success, page};

/// Which labels a device had when it was read: a change that rests on them is refused once they are others.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LabelsTag(HeaderValue);

#[derive(Serialize)]
struct Body<T> {
    labels: T,
}

impl Controller {
    /// Changes some labels of a device: a value sets one, `None` removes it, all others stay. Of merges at the same time
    /// none is lost.
    ///
    /// # Errors
    /// Refused as `unknown_device`, or as `bad_request` when a label breaks the syntax, among others.
    pub async fn merge_labels(
        &self,
        device: &DeviceId,
        labels: &LabelsPatch,
    ) -> Result<Device, Error> {
        self.call(Method::PATCH, ["v1", "devices", device.as_str()])
            .json(&Body { labels })
            .fetch()
            .await
    }

    /// A device, and the tag of its labels for a change that rests on them.
    ///
    /// # Errors
    /// Refused as `unknown_device`, among others; [`Error::Foreign`] when the response has no tag.
    pub async fn device_and_tag(&self, device: &DeviceId) -> Result<(Device, LabelsTag), Error> {
        self.call(Method::GET, ["v1", "devices", device.as_str()]).send().await?.tagged()
    }

    /// As [`put_labels`](Self::put_labels), if the labels are still those of the tag; `None` when they are not, and then
    /// nothing was changed. (If the network lost the response and the request was sent again, its own change is found.)
    ///
    /// # Errors
    /// Refused as `bad_request` when a label breaks the syntax, among others.
    pub async fn put_labels_if(
        &self,
        device: &DeviceId,
        labels: &Labels,
        expected: &LabelsTag,
    ) -> Result<Option<(Device, LabelsTag)>, Error> {
        let call = self.call(Method::PUT, ["v1", "devices", device.as_str()]);
        call.json(&Body { labels }).changing(expected).await
    }

    /// As [`merge_labels`](Self::merge_labels), if the labels are still those of the tag; `None` when they are not, and then
    /// nothing was changed.
    ///
    /// # Errors
    /// Refused as `unknown_device`, or as `bad_request` when a label breaks the syntax, among others.
    pub async fn merge_labels_if(
        &self,
        device: &DeviceId,
        labels: &LabelsPatch,
        expected: &LabelsTag,
    ) -> Result<Option<(Device, LabelsTag)>, Error> {
        let call = self.call(Method::PATCH, ["v1", "devices", device.as_str()]);
        call.json(&Body { labels }).changing(expected).await
    }

    /// A page of the keys of labels, with their most frequent values and how many devices have them: from a cursor on, or
    /// from the beginning.
    ///
    /// # Errors
    /// Refused as `bad_request` when the cursor is invalid.
    pub async fn labels(&self, after: Option<&str>) -> Result<Page<LabelCounts>, Error> {
        self.call(Method::GET, ["v1", "labels"]).query("after", after).fetch().await
    }

    /// All keys of labels, fetched page by page. An error is the last item.
    pub fn all_labels(&self) -> impl Stream<Item = Result<LabelCounts, Error>> + Send + use<> {
        let hub = self.clone();
        page::items(None, move |after| {
            let hub = hub.clone();
            async move { hub.labels(after.as_deref()).await }
        })
    }
}

impl Call<'_> {
    async fn changing(
        mut self,
        expected: &LabelsTag,
    ) -> Result<Option<(Device, LabelsTag)>, Error> {
        let hub = self.hub;
        self.headers.insert(IF_MATCH, expected.0.clone());
        let (head, body) = self.exchange().await?;
        let is_hubs = || {
            let problem = serde_json::from_slice(&body);
            problem.is_ok_and(|problem: Problem| problem.code == Code::Conflict)
        };
        if head.status == StatusCode::PRECONDITION_FAILED && is_hubs() {
            return Ok(None);
        }
        Success::of(hub, &head, body)?.tagged().map(Some)
    }
}

impl Success<'_> {
    fn tagged(mut self) -> Result<(Device, LabelsTag), Error> {
        let tag = self.tag.take().ok_or_else(|| self.hub.foreign("its response has no ETag"))?;
        Ok((self.read()?, LabelsTag(tag)))
    }
}
