//! The clocks of the agent: since the boot, sleep included, and which boot that was; and the wall clock.

use std::time::SystemTime;

use rustix::time::{ClockId, clock_gettime};

use super::journal::BootId;

const BOOT_ID: &str = "/proc/sys/kernel/random/boot_id";

/// Milliseconds since the boot, those asleep included (`CLOCK_BOOTTIME`).
pub(super) fn boot_ms() -> u64 {
    let time = clock_gettime(ClockId::Boottime);
    let seconds = u64::try_from(time.tv_sec).unwrap_or_default();
    seconds * 1000 + u64::try_from(time.tv_nsec).unwrap_or_default() / 1_000_000
}

/// The wall clock of the device, in Unix milliseconds: 0 before 1970. It may be wrong by decades and be set at
/// any time, so it only counts beside another clock.
pub(super) fn device_ms() -> u64 {
    let since_1970 = SystemTime::UNIX_EPOCH.elapsed().unwrap_or_default();
    u64::try_from(since_1970.as_millis()).unwrap_or(u64::MAX)
}

/// The kernel's name for this boot. Without one each start of the agent counts as a boot for the
/// time to live: then the hub's clock is waited for, which is never wrong. For `succeed` it counts as
/// none.
pub(super) fn boot_id() -> BootId {
    if let Some(id) = super::fault::boot_id() {
        return BootId::from(id.as_str());
    }
    match std::fs::read_to_string(BOOT_ID) {
        Ok(id) => id.trim().into(),
        Err(error) => {
            tracing::warn!(%error, "{BOOT_ID} cannot be read");
            BootId::unknown(getrandom::u64().unwrap_or_default())
        }
    }
}
