//! The rules that a simulation does not single out.
