//! Codis proxies: `/jodis/<product>/proxy-<token>`, or `/zk/codis/db_<product>/proxy/<token>`.

use super::registered::{Draft, endpoint};
use super::{Located, Reading, Registered, Undecodable, address, json};

pub(super) fn locate(parts: &[&str]) -> Option<Located> {
    match parts {
        [product, name] if name.starts_with("proxy-") => Located::instance(*product, 1),
        [product, "proxy", _] => Located::instance(product.strip_prefix("db_").unwrap_or(product), 1),
        _ => None,
    }
}

pub(super) fn decode(reading: &Reading<'_>) -> Result<Registered, Undecodable> {
    let mut object = json::object(&reading.node.data)?;
    let at = address::host_and_port(object.text("addr"))?;
    let mut draft = Draft::at(endpoint("redis", at)).up_if(object.text("state") == "online");
    object.remove("addr");
    object.add_to(&mut draft.metadata)?;
    Ok(draft.finish(reading))
}
