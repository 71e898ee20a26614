//! Parses `params`: what the data of an action must be.

use std::collections::BTreeMap;

use toml::Value;

use super::super::policy::{Kind, Param, Params, Pattern};
use super::fault::{Fault, Section, boolean, text, written};

const ALLOWED: &str = "a pattern, or a table with type";

/// Takes `params`, if it is set.
pub(super) fn take(section: &mut Section<'_>) -> Option<Params> {
    let members = section.take("params", "a table", |v| v.as_table().cloned())?;
    let path = format!("{}params.", section.path());
    let mut params = BTreeMap::new();
    for (name, value) in members {
        let key = format!("{path}{}", written(&name));
        let param = match value {
            Value::String(pattern) => bare(&pattern, &key, section.faults()),
            Value::Table(table) => {
                let mut member = Section::new(&format!("{key}."), table, section.faults());
                let param = of_table(&mut member);
                member.finish();
                param
            }
            other => {
                let problem = format!("is {other}, but it is {ALLOWED}");
                section.faults().push(Fault { key, problem });
                None
            }
        };
        params.extend(param.map(|param| (name, param)));
    }
    Some(Params(params))
}

fn bare(pattern: &str, key: &str, faults: &mut Vec<Fault>) -> Option<Param> {
    match Pattern::new(pattern) {
        Ok(pattern) => Some(Param::of(Kind::String { pattern: Some(pattern) })),
        Err(error) => {
            faults.push(Fault { key: key.to_owned(), problem: no_pattern(&error) });
            None
        }
    }
}

fn of_table(member: &mut Section<'_>) -> Option<Param> {
    let optional = member.take("optional", "true or false", boolean).unwrap_or(false);
    // Only a string can have a pattern, with or without a table around it.
    let kind_name = if member.has("pattern") && !member.has("type") {
        Some("string")
    } else {
        member.require("type", "string, integer, number or boolean", |v| {
            let kind_name = text(v)?;
            ["string", "integer", "number", "boolean"].into_iter().find(|known| *known == kind_name)
        })
    };
    let Some(kind_name) = kind_name else {
        // Without a type only unknown keys can be found.
        ["pattern", "min", "max", "enum"].into_iter().for_each(|key| member.pass(key));
        return None;
    };
    let kind = match kind_name {
        "string" => Kind::String { pattern: pattern(member)? },
        "integer" => {
            let (min, max) = bounds(member, "a whole number", Value::as_integer);
            Kind::Integer { min, max }
        }
        "number" => {
            let (min, max) = bounds(member, "a number", |v| match v {
                Value::Integer(n) => super::json(&Value::Integer(*n))?.as_f64(),
                Value::Float(n) if n.is_finite() => Some(*n),
                _ => None,
            });
            Kind::Number { min, max }
        }
        _ => Kind::Boolean,
    };
    for (key, of) in [
        ("pattern", "for type string"),
        ("min", "for type integer or number"),
        ("max", "for type integer or number"),
    ] {
        if member.has(key) {
            member.take::<()>(key, &format!("only {of}"), |_| None);
        }
    }
    let one_of = member.take("enum", "a list of values that the type and its bounds admit", |v| {
        let values = v.as_array()?.iter().map(super::json).collect::<Option<Vec<_>>>()?;
        (!values.is_empty() && values.iter().all(|value| kind.admits(value))).then_some(values)
    });
    Some(Param { kind, one_of: one_of.unwrap_or_default(), optional })
}

/// `None` after a fault; `Some(None)` when no pattern is set.
#[expect(clippy::option_option, reason = "absent and wrong are different here")]
fn pattern(member: &mut Section<'_>) -> Option<Option<Pattern>> {
    if !member.has("pattern") {
        return Some(None);
    }
    let text = member.take("pattern", "a regular expression", text)?;
    match Pattern::new(&text) {
        Ok(pattern) => Some(Some(pattern)),
        Err(error) => {
            member.fault_of("pattern", no_pattern(&error));
            None
        }
    }
}

fn bounds<T: PartialOrd + Copy>(
    member: &mut Section<'_>,
    allowed: &str,
    read: impl Fn(&Value) -> Option<T>,
) -> (Option<T>, Option<T>) {
    let min = member.take("min", allowed, &read);
    let max = member.take("max", allowed, &read);
    if min.zip(max).is_some_and(|(min, max)| min > max) {
        member.fault("has a min that is greater than its max: no value is possible");
    }
    (min, max)
}

fn no_pattern(error: &regex_lite::Error) -> String {
    format!("is not a regular expression: {error}")
}
