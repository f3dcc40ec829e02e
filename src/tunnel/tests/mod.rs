//! What the tunnel must hold, by the ways in which it is shown.
#![allow(clippy::unwrap_used, reason = "what cannot be unwrapped fails the test, and says where")]

mod closures;
mod conversation;
mod mutants;
mod recorded;
mod words;
