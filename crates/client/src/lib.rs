#![doc = include_str!("../README.md")]
#![forbid(unsafe_code)]

mod address;
mod client;
pub mod default_paths;

/// The code generated from `idl/roster.thrift` and `idl/zk_data.thrift`.
#[allow(missing_debug_implementations, unused, unreachable_pub, clippy::all, clippy::unwrap_used)]
#[path = "../gen/roster.rs"]
pub mod idl;
#[allow(missing_debug_implementations, unused, unreachable_pub, clippy::all, clippy::unwrap_used)]
#[path = "../gen/zk_data.rs"]
pub mod zk_data;

pub use address::{Address, AddressError};
pub use client::{Client, Error, age};
