//! The EventSource (Server-Sent Events) codec and reconnection state, without I/O.
