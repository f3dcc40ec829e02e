//! Roster: a process on each host of short-lived clients that keeps the long-lived connections they cannot.
//!
//! Sources push changes into the store; one writer publishes snapshots; readers take the newest without a lock, a wait
//! or a copy. Nothing a reader does reaches ZooKeeper. `ARCHITECTURE.md` says what each room is for.
//!
//! A room uses only rooms on lower floors, and `share`:
//!
//! | floor | rooms |
//! |---|---|
//! | 0 | [`model`], [`metrics`], [`permissions`], [`default_paths`], [`secret`], [`share`], [`task`], [`clock`], `rule`, … |
//! | 1 | [`access`], [`format`](mod@format), [`guard`], [`tunnel`], [`net`], [`zookeeper`] |
//! | 2 | [`store`] |
//! | 3 | [`resolve`], [`history`], [`source`], [`prober`], [`queue`], [`register`], [`master`], [`worker`], [`withhold`] |
//! | 4 | [`call`], [`perform`] |
//! | 5 | [`thrift`], [`admin`] |
//! | 6 | [`config`] |
//! | 7 | [`sidecar`] |
//!
//! Code that is useful without the rest is in separate crates: `roster-master`, `roster-client`, `roster-tunnel` and
//! `roster-net`.

pub mod access;
pub mod admin;
mod allocator;
pub mod call;
pub mod clock;
pub mod config;
#[cfg(test)]
mod corpora;
pub mod format;
pub mod guard;
pub mod history;
pub mod metrics;
pub mod model;
mod mutant;
pub mod net;
pub mod perform;
pub mod permissions;
mod places;
pub mod prober;
pub mod queue;
pub mod register;
pub mod resolve;
pub mod rule;
pub mod sidecar;
pub mod source;
pub mod store;
pub mod task;
pub mod thrift;
pub mod tunnel;
pub mod wildcard;
pub mod withhold;
pub mod worker;
pub mod zookeeper;

pub use roster_client::default_paths;
pub use roster_master as master;
pub use roster_net::secret;
pub use roster_tunnel::share;
use roster_tunnel::sync;
