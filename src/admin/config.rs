//! `[admin]`: where health and metrics are served over HTTP.

use serde::{Deserialize, Serialize};

#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Config {
    /// The loopback address and port; empty: none.
    pub listen: String,
}
