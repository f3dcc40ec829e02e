//! `[eject]`: when an instance is ejected whose callers report failures.

use std::time::Duration;

use serde::{Deserialize, Deserializer, Serialize};

/// `[eject]`.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Config {
    /// After so many failures that one user reports one after the other, it wants the instance ejected.
    #[serde(deserialize_with = "crate::rule::positive")]
    pub consecutive_failures: u32,
    /// How often the rates of success are compared, and instances that are well forgiven an ejection.
    #[serde(with = "crate::rule::SomeWithinADay")]
    pub interval: Duration,
    /// How long an ejection lasts: this, times how often it was ejected,
    #[serde(with = "crate::rule::SomeWithinADay")]
    pub base_time: Duration,
    /// and no longer than this.
    #[serde(with = "crate::rule::SomeWithinADay")]
    pub max_time: Duration,
    /// The most of the instances of a service (of one version and group) that are ejected; 0: none ever is.
    #[serde(deserialize_with = "percent")]
    pub max_percent: usize,
    /// The users, by name or number, whose reports count, and who may have one of two to four ejected. Empty: all who may
    /// call the service.
    pub reporters: Vec<String>,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            consecutive_failures: 5,
            interval: Duration::from_secs(10),
            base_time: Duration::from_secs(30),
            max_time: Duration::from_secs(300),
            max_percent: 20,
            reporters: Vec::new(),
        }
    }
}

fn percent<'de, D: Deserializer<'de>>(value: D) -> Result<usize, D::Error> {
    let percent = usize::deserialize(value)?;
    match percent <= 100 {
        true => Ok(percent),
        false => Err(serde::de::Error::custom("is more than all: at most 100")),
    }
}
