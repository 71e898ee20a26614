//! Benchmarks of Bellwire beside its peers.
