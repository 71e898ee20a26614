//! The devices that are online, in parts, for lists of them.

use std::collections::BTreeSet;
use std::iter;
use std::ops::Bound;

use bellwire_proto::DeviceId;
use bellwire_proto::limits::DEVICE_CHARS_MAX;

/// Those whose names begin so, by name after this one; descending, before it.
pub(super) fn part<'a>(
    online: &'a BTreeSet<DeviceId>,
    after: Option<&DeviceId>,
    prefix: &str,
    descending: bool,
) -> Box<dyn Iterator<Item = &'a DeviceId> + 'a> {
    let Some((first, last)) = bounds(prefix) else { return Box::new(iter::empty()) };
    let (mut from, mut to) =
        (first.as_ref().map_or(Bound::Unbounded, Bound::Included), Bound::Included(&last));
    match after {
        // A range that ends before it begins is a panic.
        Some(after) if descending && first.as_ref().is_some_and(|first| after <= first) => {
            return Box::new(iter::empty());
        }
        Some(after) if !descending && *after >= last => return Box::new(iter::empty()),
        Some(after) if descending && *after <= last => to = Bound::Excluded(after),
        Some(after) if !descending && first.as_ref().is_none_or(|first| after >= first) => {
            from = Bound::Excluded(after);
        }
        _ => {}
    }
    let range = online.range((from, to));
    if descending { Box::new(range.rev()) } else { Box::new(range) }
}

/// The least name that begins so, save where that is any, and the greatest. `None` for what begins no name.
fn bounds(prefix: &str) -> Option<(Option<DeviceId>, DeviceId)> {
    // A dot or two are no name; after them, a minus is the least character of one, and a tilde the greatest.
    let first = match prefix {
        "" => None,
        "." | ".." => Some(format!("{prefix}-").parse().ok()?),
        name => Some(name.parse().ok()?),
    };
    let last = format!("{prefix:~<DEVICE_CHARS_MAX$}").parse().ok()?;
    Some((first, last))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_part_is_what_a_filter_over_all_names_gives() {
        let names = ["a", "a.b", "a1", "b", "b~", "~"];
        let online: BTreeSet<DeviceId> = names.iter().map(|name| name.parse().unwrap()).collect();
        for prefix in ["", ".", "a", "a.", "b", "c", "~"] {
            for after in [None, Some("a"), Some("a1"), Some("b"), Some("c"), Some("~"), Some("0")] {
                for descending in [false, true] {
                    let id = after.map(|name| name.parse::<DeviceId>().unwrap());
                    let beyond = |name: &&str| {
                        after.is_none_or(
                            |after| if descending { **name < *after } else { **name > *after },
                        )
                    };
                    let mut expected: Vec<_> = names
                        .into_iter()
                        .filter(|n| n.starts_with(prefix))
                        .filter(beyond)
                        .collect();
                    if descending {
                        expected.reverse();
                    }
                    let found: Vec<_> = part(&online, id.as_ref(), prefix, descending)
                        .map(DeviceId::as_str)
                        .collect();
                    assert_eq!(
                        found, expected,
                        "{prefix:?} after {after:?}, descending: {descending}"
                    );
                }
            }
        }
    }
}
