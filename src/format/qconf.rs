//! QConf: `<service>/<host:port>`, whose data is 0 (up), 1 (offline) or 2 (down).

use super::registered::{Draft, endpoint};
use super::{Config, Located, Reading, Registered, Undecodable, address};

pub(super) fn locate(config: &Config, parts: &[&str]) -> Option<Located> {
    let (name, above) = parts.split_last()?;
    // Hosts register themselves next to the services, and nodes above instances are not instances.
    let is_instance = name.contains(':') && !above.contains(&"__qconf_register_hosts");
    if is_instance { Located::instance(config.by_path(above), 1) } else { None }
}

pub(super) fn decode(reading: &Reading<'_>) -> Result<Registered, Undecodable> {
    let is_up = match reading.text()?.trim() {
        "0" => true,
        "1" | "2" => false,
        _ => return Err(Undecodable::Malformed),
    };
    Ok(Draft::at(endpoint("", address::host_and_port(reading.name)?)).up_if(is_up).finish(reading))
}
