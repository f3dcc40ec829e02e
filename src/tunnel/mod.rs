//! The tunnel: one MessagePack conversation, the same at both ends.
//!
//! Registers, masters and upstream registers speak it over one long-lived connection. First a [`Wire`] carries single
//! messages, while the ends make themselves known; then a [`Conversation`] carries streams side by side. What a peer
//! sends can end its own conversation and nothing else, and nothing of it is ever executed or unserialized.

mod call;
mod charged;
mod conversation;
#[cfg(all(test, feature = "shuttle"))]
mod exploration;
mod feeder;
pub mod frame;
#[cfg(any(test, feature = "fuzz"))]
pub mod fuzz;
mod handle;
pub mod message;
mod outbox;
mod outlet;
pub mod php;
mod status;
mod stream;
#[cfg(test)]
mod tests;
mod trunk;
pub mod upstream;
pub mod value;
mod wire;

pub use call::{CallError, InFlight, InFlightGuard, answers};
pub use conversation::{Arrived, CloseReason, Conversation, Incoming, OnSilence, Settings};
pub use feeder::Feeder;
pub use frame::{Bounds, Wrong};
pub use handle::{Handle, SendError};
pub use message::{Message, PHP_REFUSAL, ParseRegisterError, RegisterAddr, RemoteError, Role, Token};
pub use outlet::Outlet;
pub use status::Status;
pub use stream::{Stream, StreamError};
pub use trunk::Request;
pub use value::Value;
pub use wire::{Wire, WireError};
