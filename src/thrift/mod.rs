//! The Thrift endpoint: tells the dialect, cuts out one message, answers it.

mod config;

pub use self::config::{Config, ZkData};
