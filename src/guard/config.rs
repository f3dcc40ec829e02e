//! `[guard]`: when instances that vanish are held, how long, and how their addresses are probed.

use std::time::Duration;

use serde::{Deserialize, Serialize};

/// `[guard]`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Config {
    /// Whether anything is held; of a `[[services]]` with `guard = false` nothing is.
    pub enabled: bool,
    /// Of a service that had fewer instances, none are held; unless the whole root was lost while nobody looked.
    #[serde(deserialize_with = "crate::rule::positive")]
    pub min_instances: usize,
    /// Instances of a service that vanish within so long are counted together.
    #[serde(with = "crate::rule::SomeWithinAnHour")]
    pub window: Duration,
    /// So long an instance is held at most, whatever answers at its address.
    #[serde(with = "crate::rule::SomeWithinADay")]
    pub max_hold: Duration,
    /// How many instances may be held, and as many more be remembered for a while. Those beyond vanish at once.
    #[serde(deserialize_with = "crate::rule::at_most::<_, 1_000_000>")]
    pub max_held: usize,
    /// How many connections are begun in a second, to find out which addresses still take them, and how many of them for one
    /// service. 0: none are.
    #[serde(deserialize_with = "crate::rule::no_more_than::<_, 10_000>")]
    pub probes: usize,
    #[serde(deserialize_with = "crate::rule::at_most::<_, 10_000>")]
    pub probes_per_service: usize,
    /// How often an address is probed at most, and how long a connection may take.
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
