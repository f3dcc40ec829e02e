//! ZooKeeper: mirrors subtrees of an ensemble.

mod bulk;
mod chroot;
mod config;
mod connection;
pub(crate) mod credentials;
mod driver;
mod ensemble;
#[cfg(test)]
mod fake;
#[cfg(any(test, feature = "fuzz"))]
pub mod fuzz;
#[cfg_attr(not(feature = "gssapi"), path = "gssapi/none.rs")]
mod gssapi;
mod handshake;
mod inbox;
mod jute;
pub(crate) mod kerberos;
mod left_out;
mod level;
mod mirror;
mod pace;
mod request;
mod sasl;
mod scan;
mod servers;
mod session;
#[cfg(test)]
mod tests;
mod update;
mod walk;
mod watching;

pub use self::config::{Config, Patterns};
pub(crate) use self::config::{address_of, is_secured, servers};
pub use self::kerberos::Kerberos;
pub use self::mirror::run;
