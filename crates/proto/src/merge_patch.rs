//! JSON merge patch (RFC 7396) over text: what a patch does not name stays to the digit.

use std::borrow::Cow;
use std::collections::BTreeMap;

use serde_json::value::RawValue;

use crate::limits::JSON_DEPTH_MAX;
use crate::problem::Problem;

/// The name of a member and its value, as text.
type Member<'a> = (Cow<'a, str>, Cow<'a, str>);

/// Applies a patch to a value. Both are JSON that was checked, and so is the outcome.
///
/// # Errors
/// `bad_request` when one of them is not JSON, or nested too deep.
///
/// ```
/// use bellwire_proto::merge_patch::merge;
/// let merged = merge(r#"{"a":1.50,"b":{"c":1,"d":2}}"#, r#"{"b":{"c":null,"e":3},"f":[1]}"#)?;
/// assert_eq!(merged, r#"{"a":1.50,"b":{"d":2,"e":3},"f":[1]}"#);
/// # Ok::<(), bellwire_proto::Problem>(())
/// ```
pub fn merge(value: &str, patch: &str) -> Result<String, Problem> {
    merge_within(value, patch, JSON_DEPTH_MAX + 1)
}

fn merge_within(value: &str, patch: &str, levels: usize) -> Result<String, Problem> {
    let Some(patch) = members(patch) else { return Ok(patch.to_owned()) };
    let levels = levels.checked_sub(1).ok_or_else(|| {
        Problem::bad_request(format!("a patch is nested at most {JSON_DEPTH_MAX} deep"))
    })?;
    let old = members(value).unwrap_or_default();
    // Where each name is, the first of its positions last: a value that is passed on may have a name twice.
    let mut positions: BTreeMap<Cow<'_, str>, Vec<usize>> = BTreeMap::new();
    for (at, (name, _)) in old.iter().enumerate().rev() {
        positions.entry(name.clone()).or_default().push(at);
    }
    // In their order; what the patch removes is `None`.
    let mut merged: Vec<Option<Member<'_>>> =
        old.into_iter().map(|(name, value)| Some((name, value.get().into()))).collect();
    for (name, patch) in patch {
        let known = positions.entry(name.clone()).or_default();
        let old = known.last().and_then(|at| merged.get_mut(*at));
        if patch.get() == "null" {
            if let Some(old) = old {
                *old = None;
                known.pop();
            }
            continue;
        }
        let value = old.as_deref().and_then(Option::as_ref).map_or("null", |(_, value)| value);
        let new = Some((name, merge_within(value, patch.get(), levels)?.into()));
        match old {
            Some(old) => *old = new,
            None => {
                known.push(merged.len());
                merged.push(new);
            }
        }
    }
    write(merged.into_iter().flatten())
}

/// An object of these members.
fn write<'a>(members: impl Iterator<Item = Member<'a>>) -> Result<String, Problem> {
    let mut text = String::from("{");
    for (name, value) in members {
        let name = serde_json::to_string(&name).map_err(|e| Problem::bad_request(e.to_string()))?;
        let comma = if text.len() > 1 { "," } else { "" };
        text.push_str(&format!("{comma}{name}:{value}"));
    }
    text.push('}');
    Ok(text)
}

/// The members of an object; `None` when it is another value.
fn members(text: &str) -> Option<Vec<(Cow<'_, str>, &RawValue)>> {
    let mut deserializer = serde_json::Deserializer::from_str(text);
    serde::Deserializer::deserialize_map(&mut deserializer, crate::members::ObjectVisitor).ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// An object whose members are numbers; 0 is written as `null`.
    fn object(members: &[(u8, u8)]) -> String {
        let written = |(name, value): &(u8, u8)| match value {
            0 => format!("\"{name}\":null"),
            _ => format!("\"{name}\":{value}"),
        };
        format!("{{{}}}", members.iter().map(written).collect::<Vec<_>>().join(","))
    }

    /// Each member was once looked for among all of them, so that a patch of a schedule took the square of their number.
    #[test]
    fn a_patch_of_many_members_is_merged_in_their_order() {
        let of = |range: std::ops::Range<u32>, value: &str| {
            let members: Vec<String> = range.map(|n| format!("\"m{n}\":{value}")).collect();
            members.join(",")
        };
        let value = format!("{{{}}}", of(0..50_000, "1"));
        let patch = format!("{{{},{}}}", of(0..25_000, "null"), of(49_999..75_000, "2"));
        let merged = format!("{{{},{}}}", of(25_000..49_999, "1"), of(49_999..75_000, "2"));
        assert!(merge(&value, &patch).unwrap() == merged);
    }

    /// RFC 7396, appendix A.
    #[test]
    fn the_examples_of_the_rfc_hold() {
        for (value, patch, merged) in [
            (r#"{"a":"b"}"#, r#"{"a":"c"}"#, r#"{"a":"c"}"#),
            (r#"{"a":"b"}"#, r#"{"b":"c"}"#, r#"{"a":"b","b":"c"}"#),
            (r#"{"a":"b"}"#, r#"{"a":null}"#, "{}"),
            (r#"{"a":"b","b":"c"}"#, r#"{"a":null}"#, r#"{"b":"c"}"#),
            (r#"{"a":["b"]}"#, r#"{"a":"c"}"#, r#"{"a":"c"}"#),
            (r#"{"a":"c"}"#, r#"{"a":["b"]}"#, r#"{"a":["b"]}"#),
            (r#"{"a":{"b":"c"}}"#, r#"{"a":{"b":"d","c":null}}"#, r#"{"a":{"b":"d"}}"#),
            (r#"{"a":[{"b":"c"}]}"#, r#"{"a":[1]}"#, r#"{"a":[1]}"#),
            (r#"["a","b"]"#, r#"["c","d"]"#, r#"["c","d"]"#),
            (r#"{"a":"b"}"#, r#"["c"]"#, r#"["c"]"#),
            (r#"{"a":"foo"}"#, "null", "null"),
            (r#"{"e":null}"#, r#"{"a":1}"#, r#"{"e":null,"a":1}"#),
            ("[1,2]", r#"{"a":"b","c":null}"#, r#"{"a":"b"}"#),
            ("{}", r#"{"a":{"bb":{"ccc":null}}}"#, r#"{"a":{"bb":{}}}"#),
        ] {
            assert_eq!(merge(value, patch).unwrap(), merged, "{value} {patch}");
        }
    }
    proptest! {
        /// Also of names that are given twice, which the RFC does not know: the first is meant.
        #[test]
        fn merging_is_what_a_search_for_each_member_makes(
            value in prop::collection::vec((0..9_u8, 1..9_u8), 0..9),
            patch in prop::collection::vec((0..9_u8, 0..9_u8), 0..9),
        ) {
            let mut expected = value.clone();
            for &(name, new) in &patch {
                match (expected.iter().position(|(known, _)| *known == name), new) {
                    (Some(at), 0) => _ = expected.remove(at),
                    (None, 0) => {}
                    (Some(at), _) => expected[at].1 = new,
                    (None, _) => expected.push((name, new)),
                }
            }
            let merged = merge(&object(&value), &object(&patch)).unwrap();
            prop_assert_eq!(merged, object(&expected));
        }
    }
}
