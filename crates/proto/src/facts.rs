//! What a selector sees of a device's facts: the members of the object that are text, number or boolean, as text.
//!
//! Contract, section 6. What facts may be at all is checked in `device.rs`.

use std::collections::BTreeMap;

use serde_json::value::RawValue;

use crate::json::Json;
use crate::labels::is_label_value;
use crate::limits::FACT_NAME_CHARS_MAX;

/// Facts by name, as a selector compares them. `None` is a value that no selector can name, because it is longer than a
/// label's, or has other characters: it exists, and is equal to nothing.
pub type FactValues = BTreeMap<String, Option<String>>;

/// What a selector sees of these facts. Numbers are as they were written; objects, lists, null, and members whose name no
/// selector can write are left out.
///
/// ```
/// use bellwire_proto::{Json, facts::selectable};
/// let facts = selectable(&Json::parse(r#"{"os":"linux","ram_gb":1.50,"motd":"Hello, you","disks":["sda"]}"#)?);
/// assert_eq!(facts["os"].as_deref(), Some("linux"));
/// assert_eq!(facts["ram_gb"].as_deref(), Some("1.50"));
/// assert_eq!(facts["motd"], None);
/// assert!(!facts.contains_key("disks"));
/// # Ok::<(), bellwire_proto::json::InvalidJson>(())
/// ```
pub fn selectable(facts: &Json) -> FactValues {
    let members: BTreeMap<String, Box<RawValue>> = facts.read().unwrap_or_default();
    members
        .into_iter()
        .filter(|(name, _)| is_fact_name(name))
        .filter_map(|(name, value)| Some((name, scalar(value.get())?)))
        .collect()
}

/// Whether a selector can write this name after `facts.`.
pub fn is_fact_name(name: &str) -> bool {
    (1..=FACT_NAME_CHARS_MAX).contains(&name.len())
        && name.bytes().all(|b| b.is_ascii_alphanumeric() || b"-_./".contains(&b))
}

/// A value as a selector sees it, if it sees it at all.
fn scalar(json: &str) -> Option<Option<String>> {
    let text = match json.bytes().next()? {
        b'{' | b'[' | b'n' => return None,
        b'"' => serde_json::from_str(json).ok()?,
        _ => json.to_owned(),
    };
    Some(is_label_value(&text).then_some(text))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_fact_that_no_selector_can_name_exists_and_equals_nothing() {
        let long = "x".repeat(64);
        let facts = Json::parse(&format!(
            r#"{{"a":"","b":-1,"c":true,"d":null,"e":{{}},"f g":1,"h":"{long}","i":"\u006cinux","j":1e3,"":1}}"#
        ))
        .unwrap();
        let seen = selectable(&facts);
        let of = |name: &str| seen.get(name).map(|value| value.as_deref());
        assert_eq!(of("a"), Some(Some("")));
        assert_eq!(of("b"), Some(None), "a label value does not begin with a minus");
        assert_eq!(of("c"), Some(Some("true")));
        assert_eq!(of("h"), Some(None));
        assert_eq!(of("i"), Some(Some("linux")));
        assert_eq!(of("j"), Some(Some("1e3")));
        for absent in ["d", "e", "f g", ""] {
            assert_eq!(of(absent), None, "{absent:?}");
        }
    }
}
