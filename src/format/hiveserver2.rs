//! HiveServer2: `/<namespace>/serverUri=<host:port>;version=…;sequence=<n>`. Everything is in the name.

use super::registered::{Draft, endpoint};
use super::{Config, Located, Reading, Registered, Undecodable, address};

pub(super) fn locate(config: &Config, parts: &[&str]) -> Option<Located> {
    let (name, above) = parts.split_last()?;
    if name.contains("serverUri=") { Located::instance(config.by_path(above), 1) } else { None }
}

pub(super) fn decode(reading: &Reading<'_>) -> Result<Registered, Undecodable> {
    let pairs = || reading.name.split(';').filter_map(|pair| pair.split_once('='));
    let uri = pairs().find(|(key, _)| *key == "serverUri").map_or("", |(_, uri)| uri);
    let mut draft = Draft::at(endpoint("hive2", address::host_and_port(uri)?));
    for (key, value) in pairs().filter(|(key, _)| !matches!(*key, "serverUri" | "sequence")) {
        // Also the `version`: it is not the instance's, as clients of Hive choose by none.
        draft.metadata.add(key, value);
    }
    Ok(draft.finish(reading))
}
