//! Calls to masters: carried out before their deadline, retried on another master if that is safe; their values are
//! kept for the caller.

mod attempt;
mod caller;
mod encoding;
mod failure;
mod request;
mod rights;
mod values;

pub use self::caller::{Bounds, Caller, Completion};
pub use self::encoding::Encoding;
pub use self::failure::Failure;
pub use self::request::{Arguments, Request, Unreadable};
pub use self::rights::Rights;
pub use self::values::{Budget, OVERLOADED, Values, size};
