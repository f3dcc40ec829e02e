//! The tunnel, of the crate `roster-tunnel`; and what a register and a sidecar that follows it say over one (`upstream`).

#[cfg(any(test, feature = "fuzz"))]
pub mod fuzz;
#[cfg(test)]
mod tests;
pub mod upstream;
pub mod worker;

pub use roster_tunnel::*;
