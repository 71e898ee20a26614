//! An EventSource client for any stream, and the typed API of a Bellwire hub.
