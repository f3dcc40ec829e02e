//! SOFA-RPC: `/sofa-rpc/<interface>/providers/<encoded URL>`.

use super::url::{Url, form_decoded};
use super::{Located, Reading, Registered, Undecodable, dubbo};

pub(super) fn locate(parts: &[&str]) -> Option<Located> {
    match parts {
        [interface, "providers", _] => Located::instance(form_decoded(interface).ok()?, 1),
        _ => None,
    }
}

pub(super) fn decode(reading: &Reading<'_>) -> Result<Registered, Undecodable> {
    let text = form_decoded(reading.name)?;
    let url = Url::parse(&text)?;
    dubbo::registered(reading, &url, &url.parameters, &url.parameters)
}
