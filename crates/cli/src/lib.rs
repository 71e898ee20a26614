//! What the three classic programs share. The program `bellwire` is `main.rs` and its modules, and
//! has no part in this.
#![forbid(unsafe_code)]

pub mod classic;
