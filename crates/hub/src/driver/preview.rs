//! What a command would be sent to, were it stored now: a dry run.

use bellwire_core::record::TargetPage;
use bellwire_core::{Target, TargetQuery};
use bellwire_proto::limits::PREVIEW_DEVICES_MAX;
use bellwire_proto::{DeviceId, Preview, Problem};

use super::Driver;

/// Devices looked at with one read.
const PAGE_ROWS: usize = 1024;

impl Driver {
    /// Counts the devices of a target, page by page, whatever their number; stores nothing.
    ///
    /// # Errors
    /// `store_unavailable`, `internal` when the hub has failed.
    pub async fn preview(&self, target: &Target) -> Result<Preview, Problem> {
        let mut preview = Preview::default();
        match target {
            Target::Device(device) => self.count_named(&mut preview, vec![device.clone()]).await?,
            Target::Devices(devices) => {
                for devices in devices.chunks(PAGE_ROWS) {
                    self.count_named(&mut preview, devices.to_vec()).await?;
                }
            }
            Target::Found(query) => self.count_found(&mut preview, query).await?,
        }
        Ok(preview)
    }

    async fn count_found(&self, preview: &mut Preview, query: &TargetQuery) -> Result<(), Problem> {
        let mut after = None;
        loop {
            let TargetPage { devices, last, .. } =
                self.store().found(query.clone(), after, PAGE_ROWS).await?;
            self.count_named(preview, devices).await?;
            if last.is_none() {
                return Ok(());
            }
            after = last;
        }
    }

    async fn count_named(
        &self,
        preview: &mut Preview,
        devices: Vec<DeviceId>,
    ) -> Result<(), Problem> {
        let rows = self.store().devices_named(devices.clone()).await?;
        let queued = rows.into_iter().map(|row| row.map_or(0, |row| row.queued));
        self.count(preview, devices.into_iter().zip(queued).collect())
    }

    fn count(&self, preview: &mut Preview, devices: Vec<(DeviceId, u64)>) -> Result<(), Problem> {
        let presences = self.presences(devices.iter().map(|(device, _)| device))?;
        preview.total += devices.len() as u64;
        preview.online += presences.iter().filter(|presence| presence.online()).count() as u64;
        let queue_max = self.config().queue_max as u64;
        preview.queue_full +=
            devices.iter().filter(|(_, queued)| *queued >= queue_max).count() as u64;
        let remaining = PREVIEW_DEVICES_MAX.saturating_sub(preview.devices.len());
        preview.devices.extend(devices.into_iter().map(|(device, _)| device).take(remaining));
        Ok(())
    }
}
