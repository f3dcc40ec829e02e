//! `[eject]`: when an instance is ejected because its callers report failures.

use std::time::Duration;

use serde::{Deserialize, Deserializer, Serialize};

/// `[eject]`.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Config {
    /// After this many consecutive failures reported by one user, that user wants the instance ejected.
    #[serde(deserialize_with = "crate::rule::positive")]
    pub consecutive_failures: u32,
    /// How often success rates are compared, and healthy instances are forgiven an ejection.
    #[serde(with = "crate::rule::SomeWithinADay")]
    pub interval: Duration,
    /// How long an ejection lasts: this, times the number of ejections,
    #[serde(with = "crate::rule::SomeWithinADay")]
    pub base_time: Duration,
    /// and no longer than this.
    #[serde(with = "crate::rule::SomeWithinADay")]
    pub max_time: Duration,
    /// The maximum percentage of a service's instances (of one version and group) that are ejected; 0: none.
    #[serde(deserialize_with = "percent")]
    pub max_percent: usize,
    /// The users, by name or number, whose reports count, and who may have one of two to four instances ejected. Empty:
    /// all that may call the service.
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
