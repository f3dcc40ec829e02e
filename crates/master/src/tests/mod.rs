//! The master against registers that the test scripts, byte by byte.
#![allow(clippy::unwrap_used, reason = "what cannot be unwrapped fails the test, and says where")]

mod calls;
mod links;
mod registers;
mod script;
