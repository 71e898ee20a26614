//! A statement as it is put together.

use bellwire_proto::selector::{Key, Op, Requirement};
use rusqlite::types::Value;

/// A statement, and the values of its parameters in their order. No value is ever part of the text.
pub(super) struct Sql {
    pub(super) text: String,
    pub(super) values: Vec<Value>,
}

impl Sql {
    pub(super) fn new(text: &str) -> Self {
        Self { text: text.to_owned(), values: Vec::new() }
    }

    pub(super) fn text(&mut self, text: &str) -> &mut Self {
        self.text.push_str(text);
        self
    }

    pub(super) fn value(&mut self, value: &str) -> &mut Self {
        self.values.push(Value::Text(value.to_owned()));
        self.text("?")
    }

    pub(super) fn number(&mut self, number: i64) -> &mut Self {
        self.values.push(Value::Integer(number));
        self.text("?")
    }

    /// Equal to one of these.
    pub(super) fn values(&mut self, values: &[String]) {
        let [value] = values else {
            self.text(" IN (");
            for (n, value) in values.iter().enumerate() {
                self.text(if n > 0 { "," } else { "" }).value(value);
            }
            self.text(")");
            return;
        };
        self.text(" = ").value(value);
    }
}

/// Whether a device must have something for it.
pub(super) fn is_positive(requirement: &Requirement) -> bool {
    matches!(requirement.op, Op::In(_) | Op::Exists)
}

/// The table of a key, and the key there.
pub(super) fn table(key: &Key) -> (&'static str, &str) {
    match key {
        Key::Label(key) => ("labels", key),
        Key::Fact(name) => ("facts", name),
    }
}
