//! Which times are decided, on a calendar of whole minutes.

use super::*;
