//! ZooKeeper: mirrors subtrees of an ensemble.

mod config;
pub(crate) mod credentials;
mod inquiry;
mod left_out;
mod mirror;
mod scan;
mod session;
mod update;

pub use self::config::{Config, Patterns};
pub use self::mirror::run;
