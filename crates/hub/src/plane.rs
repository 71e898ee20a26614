//! A stand-in with the signatures of the plane, until the plane itself lands.

/// A stream.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct StreamId(pub u64);

/// How a stream is to be kept.
#[derive(Debug, Clone, Default)]
pub struct StreamOptions {}

/// Bytes, encoded once.
#[derive(Debug, Clone)]
pub struct Frame {}

/// Every stream.
#[derive(Debug)]
pub struct Plane {}
