//! All devices in an order that is not that of names, by the indexes that have it.
//!
//! An order has parts, each of an index of its own, and each of a range of values: one statement for each part. Rows
//! that an index holds and that are of another part do not fit, and are counted as looked at.

use bellwire_proto::device::SortKey;

use super::DeviceQuery;
use super::sql::Sql;
use crate::store::DevicePosition;

/// A part of an order.
struct IndexRange {
    /// The values that are in it.
    first: i64,
    last: i64,
    /// The rows, `x`, and their value where they have several.
    from: &'static str,
    value: &'static str,
    /// What makes a row one of another part.
    fits: &'static str,
}

const BY_LAST_SEEN: [IndexRange; 2] = [
    IndexRange {
        first: -1,
        last: -1,
        from: "devices x INDEXED BY devices_seen WHERE x.seen_at IS NULL",
        value: "-1",
        fits: "",
    },
    IndexRange {
        first: 0,
        // Above it are those that are online, which the store does not know.
        last: DevicePosition::ONLINE - 1,
        from: "devices x INDEXED BY devices_seen WHERE x.seen_at IS NOT NULL",
        value: "x.seen_at",
        fits: "",
    },
];

const BY_QUEUED: [IndexRange; 3] = [
    IndexRange {
        first: 0,
        last: 0,
        from: "devices x WHERE TRUE",
        value: "0",
        fits: " AND NOT EXISTS (SELECT 1 FROM queues q WHERE q.device = x.device)",
    },
    // There is one for nearly each device, or for few.
    IndexRange {
        first: 1,
        last: 1,
        from: "queues x WHERE TRUE",
        value: "1",
        fits: " AND x.queued = 1 AND EXISTS (SELECT 1 FROM devices d WHERE d.device = x.device)",
    },
    IndexRange {
        first: 2,
        last: i64::MAX,
        from: "queues x INDEXED BY queues_long WHERE x.queued > 1",
        value: "x.queued",
        fits: " AND EXISTS (SELECT 1 FROM devices d WHERE d.device = x.device)",
    },
];

/// The statements that give what is after `after`, one after the other.
pub(super) fn walks(wanted: &DeviceQuery<'_>, after: Option<&DevicePosition>) -> Vec<Sql> {
    let parts: &[IndexRange] = match wanted.filter.order.by {
        SortKey::Id => &[],
        SortKey::LastSeen => &BY_LAST_SEEN,
        SortKey::Queued => &BY_QUEUED,
    };
    let walk = |part: &IndexRange| part.walk(wanted, after);
    if wanted.filter.order.descending {
        parts.iter().rev().filter_map(walk).collect()
    } else {
        parts.iter().filter_map(walk).collect()
    }
}

impl IndexRange {
    /// What remains of it after `after`, if anything can.
    fn walk(&self, wanted: &DeviceQuery<'_>, after: Option<&DevicePosition>) -> Option<Sql> {
        let descending = wanted.filter.order.descending;
        // Only the range that contains the cursor starts at it; the others start at their beginning.
        let after = match after {
            Some(after) if (self.first..=self.last).contains(&after.value) => Some(after),
            Some(after) if (after.value > self.last) != descending => return None,
            _ => None,
        };
        let has_one_value = self.first == self.last;
        let mut sql = Sql::new("SELECT x.device, ");
        sql.text(self.value).text(", ");
        wanted.fits(None, &mut sql);
        sql.text(self.fits).text(" FROM ").text(self.from);
        if let Some(after) = after {
            let beyond = wanted.beyond();
            if has_one_value {
                sql.text(" AND x.device").text(beyond).value(after.device.as_str());
            } else {
                sql.text(" AND (").text(self.value).text(", x.device)").text(beyond).text("(");
                sql.number(after.value).text(",").value(after.device.as_str()).text(")");
            }
        }
        let direction = wanted.direction();
        sql.text(" ORDER BY ");
        if !has_one_value {
            sql.text(self.value).text(direction).text(", ");
        }
        sql.text("x.device").text(direction);
        Some(sql)
    }
}
