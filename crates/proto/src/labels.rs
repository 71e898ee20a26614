//! Labels of a device, in the syntax of Kubernetes (its documentation, "Labels and Selectors").
//!
//! What selects devices by them is in `selector.rs`.

use std::collections::BTreeMap;

use crate::members::Members;
use crate::problem::Problem;

/// Labels of a device: Kubernetes label syntax, keys in order.
pub type Labels = BTreeMap<String, String>;

/// Takes the member `labels` of a body: absent is none.
pub(crate) fn take_labels(members: &mut Members<'_>) -> Result<Labels, Problem> {
    let labels = members.take_members("labels")?;
    let labels: Labels = labels.map(Members::take_all).transpose()?.unwrap_or_default();
    labels.iter().try_for_each(|(key, value)| check(key, Some(value)))?;
    Ok(labels)
}

/// Changes of labels: a value to set, or `None` to remove the label.
pub type LabelsPatch = BTreeMap<String, Option<String>>;

/// The labels that a patch makes of these (RFC 7396).
///
/// ```
/// use bellwire_proto::labels::{Labels, LabelsPatch, merge};
/// let labels = Labels::from([("spare".into(), "".into())]);
/// let patch = LabelsPatch::from([("site".into(), Some("lyon".into())), ("spare".into(), None)]);
/// assert_eq!(merge(labels, patch), Labels::from([("site".into(), "lyon".into())]));
/// ```
pub fn merge(mut labels: Labels, patch: LabelsPatch) -> Labels {
    for (key, value) in patch {
        match value {
            Some(value) => drop(labels.insert(key, value)),
            None => drop(labels.remove(&key)),
        }
    }
    labels
}

/// Reads the body of `PATCH /v1/devices/{device}`: `{"labels":{"site":"lyon","spare":null}}`.
///
/// # Errors
/// `bad_request` when a key or value breaks the label syntax, or `labels` is null: that would remove all of them.
pub fn parse_labels_patch(body: &[u8]) -> Result<LabelsPatch, Problem> {
    let mut members = Members::parse(body)?;
    if members.is_null("labels") {
        let detail = "labels is an object; to remove all of them, PUT {\"labels\":{}}";
        return Err(Problem::bad_request(detail));
    }
    let labels = members.take_members("labels")?;
    let patch: LabelsPatch = labels.map(Members::take_all_or_null).transpose()?.unwrap_or_default();
    members.finish()?;
    patch.iter().try_for_each(|(key, value)| check(key, value.as_deref()))?;
    Ok(patch)
}

fn check(key: &str, value: Option<&str>) -> Result<(), Problem> {
    if !is_label_key(key) {
        return Err(Problem::bad_request(format!(
            "label key {key:?} is not [prefix/]name with a name of 1 to 63 of A-Z a-z 0-9 - _ . \
             that begins and ends with a letter or digit"
        )));
    }
    if !value.is_none_or(is_label_value) {
        return Err(Problem::bad_request(format!(
            "the value of label {key:?} is not at most 63 of A-Z a-z 0-9 - _ . that begin and \
             end with a letter or digit"
        )));
    }
    Ok(())
}

/// Whether `key` is `[prefix/]name` in Kubernetes' syntax: a DNS subdomain of at most 253
/// characters, and a name of 1 to 63.
pub fn is_label_key(key: &str) -> bool {
    let (prefix, name) = match key.split_once('/') {
        Some((prefix, name)) => (Some(prefix), name),
        None => (None, key),
    };
    !name.is_empty() && is_label_value(name) && prefix.is_none_or(is_dns_subdomain)
}

/// Whether `value` is empty or 1 to 63 of `[A-Za-z0-9._-]` with a letter or digit at both ends.
pub fn is_label_value(value: &str) -> bool {
    let ends = |b: Option<u8>| b.is_none_or(|b| b.is_ascii_alphanumeric());
    value.len() <= 63
        && value.bytes().all(|b| b.is_ascii_alphanumeric() || b"-_.".contains(&b))
        && ends(value.bytes().next())
        && ends(value.bytes().next_back())
}

fn is_dns_subdomain(prefix: &str) -> bool {
    let label = |part: &str| {
        let legal = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-';
        !part.is_empty()
            && part.bytes().all(legal)
            && !part.starts_with('-')
            && !part.ends_with('-')
    };
    prefix.len() <= 253 && prefix.split('.').all(label)
}
