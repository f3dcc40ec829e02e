//! What the master must hold, against registers that say what the test says, byte by byte.
#![allow(clippy::unwrap_used, reason = "what cannot be unwrapped fails the test, and says where")]

mod calls;
mod links;
mod registers;
mod script;
