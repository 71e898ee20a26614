//! Labels of devices: merging them, and which there are. Contract, section 6.

use bellwire_proto::device::LabelCounts;
use bellwire_proto::labels::LabelsPatch;
use bellwire_proto::{Device, DeviceId, Page};
use futures_core::Stream;
use http::Method;
use serde::Serialize;

use super::{Controller, Error, page};

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
        #[derive(Serialize)]
        struct Body<'a> {
            labels: &'a LabelsPatch,
        }
        self.call(Method::PATCH, ["v1", "devices", device.as_str()])
            .json(&Body { labels })
            .fetch()
            .await
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
