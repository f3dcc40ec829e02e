//! The tunnel, from the crate `roster-tunnel`; and the protocol between a register and a sidecar that follows it
//! (`upstream`).

#[cfg(any(test, feature = "fuzz"))]
pub mod fuzz;
#[cfg(test)]
mod tests;
pub mod upstream;
pub mod worker;

pub use roster_tunnel::*;
