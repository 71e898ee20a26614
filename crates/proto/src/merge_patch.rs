//! JSON merge patch (RFC 7396) over text: what a patch does not name stays to the digit.

use serde_json::value::RawValue;
use std::borrow::Cow;

use crate::limits::JSON_DEPTH_MAX;
use crate::problem::Problem;

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
    let mut merged: Vec<(String, String)> = members(value)
        .unwrap_or_default()
        .into_iter()
        .map(|(name, value)| (name.into_owned(), value.get().to_owned()))
        .collect();
    for (name, patch) in patch {
        let at = merged.iter().position(|(known, _)| *known == name);
        if patch.get() == "null" {
            at.map(|at| merged.remove(at));
            continue;
        }
        let old = at.and_then(|at| merged.get_mut(at));
        let new = merge_within(old.as_ref().map_or("null", |(_, v)| v), patch.get(), levels)?;
        match old {
            Some((_, value)) => *value = new,
            None => merged.push((name.into_owned(), new)),
        }
    }
    let mut text = String::from("{");
    for (name, value) in merged {
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
}
