//! ZooKeeper: mirrors subtrees of an ensemble.

mod bulk;
mod chroot;
mod config;
mod connection;
pub(crate) mod credentials;
mod driver;
#[cfg(any(test, feature = "fuzz"))]
pub mod fuzz;
mod handshake;
mod inbox;
mod jute;
mod left_out;
mod level;
mod mirror;
mod pace;
mod request;
mod sasl;
mod scan;
mod servers;
mod session;
mod update;

pub use self::config::{Config, Patterns};
pub(crate) use self::config::{address_of, is_secured, servers};
pub use self::mirror::run;
