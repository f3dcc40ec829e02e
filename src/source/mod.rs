//! What fills the store, and what happens while one is away.

pub mod file;
pub mod zookeeper;
