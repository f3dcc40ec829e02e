//! ZooKeeper: mirrors subtrees of an ensemble.

mod bulk;
mod config;
mod delta;
mod level;
mod mirror;
mod pace;
mod scan;
mod skipped;
#[cfg(test)]
mod tests;
mod walk;

pub use self::config::{Config, Patterns};
pub use self::mirror::run;
