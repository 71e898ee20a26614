//! What the programs share: how a command line is read and how standard output is written (all four), what to do about a
//! status of the network, and what the three classic ones need besides. The rest of `bellwire` is `main.rs` and its modules.
#![forbid(unsafe_code)]
#![deny(clippy::print_stdout, clippy::print_stderr)]

pub mod advice;
pub mod argv;
pub mod classic;
pub mod output;
