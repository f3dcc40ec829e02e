//! `[guard]`: when vanished instances are held, for how long, and how their addresses are probed.

use std::time::Duration;

use serde::{Deserialize, Serialize};

/// `[guard]`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Config {
    /// Whether anything is held; nothing is for a `[[services]]` with `guard = false`.
    pub enabled: bool,
    /// Services that had fewer instances below a root are not protected there, unless most of the root is lost; which is
    /// believed of one with fewer instances only where it happened while the sidecar was not watching.
    #[serde(deserialize_with = "crate::rule::positive")]
    pub min_instances: usize,
    /// Instances of a service that vanish within this time, below one root, are counted together.
    #[serde(with = "crate::rule::SomeWithinAnHour")]
    pub window: Duration,
    /// The longest time an instance is held, whatever answers at its address.
    #[serde(with = "crate::rule::SomeWithinADay")]
    pub max_hold: Duration,
    /// How many instances may be held; as many more are remembered for a while. Any beyond vanish at once. Each root
    /// has a part of its own.
    #[serde(deserialize_with = "crate::rule::at_most::<_, 1_000_000>")]
    pub max_held: usize,
    /// How many probe connections are opened per second, in all and for one service. 0: none.
    #[serde(deserialize_with = "crate::rule::no_more_than::<_, 10_000>")]
    pub probes: usize,
    #[serde(deserialize_with = "crate::rule::at_most::<_, 10_000>")]
    pub probes_per_service: usize,
    /// The minimum time between two probes of an address, and the timeout of one.
    #[serde(with = "crate::rule::SomeWithinAnHour")]
    pub probe_interval: Duration,
    #[serde(with = "crate::rule::SomeWithinAnHour")]
    pub probe_timeout: Duration,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            enabled: true,
            min_instances: 5,
            window: Duration::from_secs(60),
            max_hold: Duration::from_secs(600),
            max_held: 65_536,
            probes: 200,
            probes_per_service: 50,
            probe_interval: Duration::from_secs(10),
            probe_timeout: Duration::from_secs(1),
        }
    }
}
