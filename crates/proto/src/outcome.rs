//! What a device reports of a run, and the only list of its members. Contract, sections 2 and 5.
//!
//! A [`Report`](crate::Report) and a [`Delivery`](crate::Delivery) hold an [`Outcome`] and write its members among
//! their own, each in its form and order. Which reports count is decided in `bellwire-core`.

use serde::de::value::CowStrDeserializer;
use serde::de::{DeserializeSeed, Error, MapAccess};
use serde::ser::SerializeStruct;
use serde::{Deserialize, Serialize, Serializer};

use crate::json::{Json, Name};

/// What a device reports of a run. A member that is `None` was not reported.
///
/// It has no form of its own in JSON: a report writes the members that are present, a delivery all of them.
///
/// ```
/// use bellwire_proto::{Json, Outcome};
/// let mut known = Outcome { stdout: Some("half".into()), ..Outcome::default() };
/// known.update(Outcome { stdout: Some("whole".into()), exit_code: Some(0), ..Outcome::default() });
/// known.update(Outcome { result: Some(Json::null()), ..Outcome::default() });
/// assert_eq!((known.stdout.as_deref(), known.exit_code), (Some("whole"), Some(0)));
/// assert!(known.result.is_some_and(|result| result.is_null()), "null is a result");
/// ```
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Outcome {
    /// How far the run is.
    pub progress: Option<Progress>,
    /// The handler's exit code; 128+n when signal n ended it. `None` when no program ran.
    pub exit_code: Option<i64>,
    /// The result: any JSON value of up to 64 KiB. In a report, `null` is a value and not an absent member.
    pub result: Option<Json>,
    /// The end of standard output, up to 64 KiB.
    pub stdout: Option<String>,
    /// The end of standard error, up to 64 KiB.
    pub stderr: Option<String>,
    /// Whether output was cut. In a report `None` leaves what is known and `Some(false)` withdraws it. A delivery has
    /// no third value to show: what is known of it is `Some(true)` or `None`, never `Some(false)`, so that an outcome
    /// without reports is the default, and equal outcomes are equal values. [`is_truncated`](Self::is_truncated)
    /// reads both.
    pub truncated: Option<bool>,
    /// Why the run did not succeed, or a fault beside its state.
    pub error: Option<ErrorInfo>,
}

impl Outcome {
    /// Takes what a newer report has; members that it does not have are unchanged.
    pub fn update(&mut self, newer: Self) {
        fn set<T>(known: &mut Option<T>, reported: Option<T>) {
            if reported.is_some() {
                *known = reported;
            }
        }
        let Self { progress, exit_code, result, stdout, stderr, truncated, error } = newer;
        set(&mut self.progress, progress);
        set(&mut self.exit_code, exit_code);
        set(&mut self.result, result);
        set(&mut self.stdout, stdout);
        set(&mut self.stderr, stderr);
        if let Some(truncated) = truncated {
            self.truncated = truncated.then_some(true);
        }
        set(&mut self.error, error);
    }

    /// Whether output was cut, as far as is known.
    pub fn is_truncated(&self) -> bool {
        self.truncated == Some(true)
    }

    /// Drops the outputs, which then count as cut.
    pub fn drop_output(&mut self) {
        if self.stdout.take().is_some() | self.stderr.take().is_some() {
            self.truncated = Some(true);
        }
    }

    /// Bytes of what may be long: the outputs, the result and the error's message.
    pub fn text_bytes(&self) -> usize {
        let message = self.error.as_ref().and_then(|error| error.message.as_deref());
        let result = self.result.as_ref().map(Json::as_str);
        let texts = [self.stdout.as_deref(), self.stderr.as_deref(), result, message];
        texts.into_iter().flatten().map(str::len).sum()
    }

    /// Writes all members, as a delivery has them. For `serde(flatten)`.
    pub(crate) fn serialize_all<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        let Self { progress, exit_code, result, stdout, stderr, truncated: _, error } = self;
        let mut members = to.serialize_struct("Outcome", 7)?;
        members.serialize_field("progress", progress)?;
        members.serialize_field("exit_code", exit_code)?;
        members.serialize_field("result", result)?;
        members.serialize_field("stdout", stdout)?;
        members.serialize_field("stderr", stderr)?;
        members.serialize_field("truncated", &self.is_truncated())?;
        members.serialize_field("error", error)?;
        members.end()
    }

    /// Writes the members that are present, in the order of a report. For `serde(flatten)`.
    pub(crate) fn serialize_present<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        fn put<M: SerializeStruct, T: Serialize>(
            members: &mut M,
            name: &'static str,
            value: Option<&T>,
        ) -> Result<(), M::Error> {
            value.map_or(Ok(()), |value| members.serialize_field(name, value))
        }
        let Self { progress, exit_code, result, stdout, stderr, truncated, error } = self;
        let mut members = to.serialize_struct("Outcome", 7)?;
        put(&mut members, "progress", progress.as_ref())?;
        put(&mut members, "result", result.as_ref())?;
        put(&mut members, "exit_code", exit_code.as_ref())?;
        put(&mut members, "stdout", stdout.as_ref())?;
        put(&mut members, "stderr", stderr.as_ref())?;
        put(&mut members, "truncated", truncated.as_ref())?;
        put(&mut members, "error", error.as_ref())?;
        members.end()
    }

    /// Reads the value of a member if it is one of an outcome; returns whether it is.
    fn read_member<'de, A: MapAccess<'de>>(
        &mut self,
        name: &str,
        object: &mut A,
    ) -> Result<bool, A::Error> {
        fn once<'de, T: Deserialize<'de>, A: MapAccess<'de>>(
            member: &mut Option<T>,
            name: &str,
            object: &mut A,
        ) -> Result<bool, A::Error> {
            if member.is_some() {
                return Err(A::Error::custom(format_args!("duplicate field `{name}`")));
            }
            *member = object.next_value()?;
            Ok(true)
        }
        match name {
            "progress" => once(&mut self.progress, name, object),
            "exit_code" => once(&mut self.exit_code, name, object),
            "result" => once(&mut self.result, name, object),
            "stdout" => once(&mut self.stdout, name, object),
            "stderr" => once(&mut self.stderr, name, object),
            "truncated" => once(&mut self.truncated, name, object),
            "error" => once(&mut self.error, name, object),
            _ => Ok(false),
        }
    }
}

/// Reads the outcome out of the members of a delivery, and passes the others on to another visitor.
///
/// `serde(flatten)` would do the same over a buffer, and from a buffer no [`Json`] can be read.
pub(crate) struct OutcomeReader<A> {
    object: A,
    outcome: Outcome,
}

impl<A> OutcomeReader<A> {
    pub(crate) fn new(object: A) -> Self {
        Self { object, outcome: Outcome::default() }
    }

    /// What was read.
    ///
    /// # Errors
    /// When the object has no `truncated`, which a delivery always has.
    pub(crate) fn finish<E: Error>(self) -> Result<Outcome, E> {
        if self.outcome.truncated.is_none() {
            return Err(E::missing_field("truncated"));
        }
        let mut known = Outcome::default();
        known.update(self.outcome);
        Ok(known)
    }
}

impl<'de, A: MapAccess<'de>> MapAccess<'de> for &mut OutcomeReader<A> {
    type Error = A::Error;

    fn next_key_seed<K: DeserializeSeed<'de>>(
        &mut self,
        seed: K,
    ) -> Result<Option<K::Value>, A::Error> {
        while let Some(Name(name)) = self.object.next_key()? {
            if !self.outcome.read_member(&name, &mut self.object)? {
                return seed.deserialize(CowStrDeserializer::new(name)).map(Some);
            }
        }
        Ok(None)
    }

    fn next_value_seed<V: DeserializeSeed<'de>>(&mut self, seed: V) -> Result<V::Value, A::Error> {
        self.object.next_value_seed(seed)
    }
}

/// The progress of a run in percent, from 0 to 100. A whole number is written without a fraction.
#[derive(Debug, Clone, Copy, PartialEq, PartialOrd, Deserialize)]
#[serde(try_from = "f64")]
pub struct Progress(f64);

/// A progress outside 0 to 100.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("progress is a number from 0 to 100")]
pub struct InvalidProgress;

impl Progress {
    /// In percent.
    pub const fn get(self) -> f64 {
        self.0
    }
}

impl TryFrom<f64> for Progress {
    type Error = InvalidProgress;

    fn try_from(percent: f64) -> Result<Self, InvalidProgress> {
        if (0.0..=100.0).contains(&percent) { Ok(Self(percent)) } else { Err(InvalidProgress) }
    }
}

impl Serialize for Progress {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        // From 0 to 100, so the cast is exact for whole numbers.
        #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "0 to 100")]
        if self.0.fract() == 0.0 {
            serializer.serialize_u8(self.0 as u8)
        } else {
            serializer.serialize_f64(self.0)
        }
    }
}

/// Why a delivery did not succeed, or a fault beside its state.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ErrorInfo {
    /// A stable code: the device's own, or the name of the state when the hub set it.
    pub code: String,
    /// For a person.
    #[serde(default)]
    pub message: Option<String>,
}

impl ErrorInfo {
    /// An error with a code and no message.
    pub fn of(code: impl Into<String>) -> Self {
        Self { code: code.into(), message: None }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_whole_progress_is_written_without_a_point() {
        let shown = |p: f64| serde_json::to_string(&Progress::try_from(p).unwrap()).unwrap();
        assert_eq!(
            (shown(40.0), shown(33.5), shown(100.0)),
            ("40".into(), "33.5".into(), "100".into())
        );
        for bad in [-0.1, 100.1, f64::NAN, f64::INFINITY] {
            assert_eq!(Progress::try_from(bad), Err(InvalidProgress));
        }
    }

    fn full() -> Outcome {
        Outcome {
            progress: Progress::try_from(40.0).ok(),
            exit_code: Some(-1),
            result: Some(Json::null()),
            stdout: Some("out".into()),
            stderr: Some(String::new()),
            truncated: Some(true),
            error: Some(ErrorInfo::of("exit_status")),
        }
    }

    #[test]
    fn an_update_takes_what_was_reported_and_leaves_the_rest() {
        let mut known = Outcome::default();
        known.update(full());
        assert_eq!(known, full());
        known.update(Outcome::default());
        assert_eq!(known, full(), "an empty report changes nothing");
        known.update(Outcome { exit_code: Some(0), ..Outcome::default() });
        assert_eq!(known, Outcome { exit_code: Some(0), ..full() });
    }

    #[test]
    fn what_is_known_of_truncated_has_two_values() {
        let reported = |truncated| Outcome { truncated, ..Outcome::default() };
        let mut known = Outcome::default();
        for (newer, truncated) in
            [(Some(false), None), (Some(true), Some(true)), (None, Some(true)), (Some(false), None)]
        {
            known.update(reported(newer));
            assert_eq!(known, reported(truncated), "after {newer:?}");
            assert_eq!(known.is_truncated(), truncated.is_some());
        }
    }
}
