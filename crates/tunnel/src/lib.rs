#![doc = include_str!("../README.md")]
#![forbid(unsafe_code)]

mod answer;
mod arguments;
mod call;
mod charged;
mod command;
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
#[cfg(feature = "php")]
pub mod php;
pub mod share;
mod status;
mod stream;
#[doc(hidden)]
pub mod sync;
#[cfg(test)]
mod tests;
mod trunk;
pub mod value;
mod wire;

pub use answer::{Answer, Answers, Packed, Refused};
pub use arguments::{Arguments, NotPhp, php_value};
pub use call::{CallError, InFlight, InFlightGuard, answers};
pub use command::Command;
pub use conversation::{Arrived, CloseReason, Conversation, Incoming, OnSilence, Settings};
pub use feeder::Feeder;
pub use frame::{Bounds, Wrong};
pub use handle::{Handle, PackedFrame, SendError, SharedFrame, SharedValue, Silence};
pub use message::{Message, PHP_REFUSAL, ParseRegisterError, RegisterAddr, RemoteError, Role, Token};
pub use outlet::Outlet;
pub use status::Status;
pub use stream::{Stream, StreamError};
pub use trunk::Request;
pub use value::Value;
pub use wire::{Wire, WireError};
