//! The ZooKeeper mirror.

mod config;

pub use self::config::{Config, Patterns};
