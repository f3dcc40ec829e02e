//! ZooKeeper: mirrors subtrees of an ensemble.

mod bulk;
mod config;
mod left_out;
mod level;
mod mirror;
mod pace;
mod scan;
#[cfg(test)]
mod tests;
mod update;
mod walk;

pub use self::config::{Config, Patterns};
pub use self::mirror::run;
