//! `bellwire`: the program.

fn main() {}
