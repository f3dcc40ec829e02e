//! ZooKeeper: one session with an ensemble: watches, reads, writes, credentials, TLS, SASL and old servers.

mod chroot;
mod connection;
pub(crate) mod credentials;
mod driver;
mod ensemble;
#[cfg(test)]
pub(crate) mod fake;
#[cfg(any(test, feature = "fuzz"))]
pub mod fuzz;
#[cfg_attr(not(feature = "gssapi"), path = "gssapi/none.rs")]
mod gssapi;
mod handshake;
mod inbox;
mod jute;
pub(crate) mod kerberos;
mod request;
mod sasl;
mod servers;
mod session;
mod settings;
mod watching;

pub(crate) use self::chroot::Chroot;
pub use self::driver::Driver;
pub(crate) use self::jute::{Listing, Names, ReadResult};
pub use self::kerberos::Kerberos;
pub use self::servers::Servers;
pub(crate) use self::servers::address;
pub use self::session::{Acl, Lifetime, Session, SessionError, WriteError};
pub(crate) use self::session::{Answers, Asked, Event, is_same};
pub use self::settings::Settings;
pub(crate) use self::settings::{address_of, chroot_of, is_secured, servers};
pub(crate) use self::watching::{Fired, Watching};
