//! SASL with GSSAPI in a build without the feature `gssapi`: not available.

use std::time::Duration;

use super::Settings;

#[derive(Clone, Debug)]
pub(super) enum Gssapi {}

#[derive(Debug)]
pub(super) enum Exchange {}

impl Gssapi {
    pub(super) fn of(_: &Settings) -> Option<Self> {
        None
    }

    pub(super) async fn begin(&self, _: &str, _: Duration) -> Result<Exchange, String> {
        match *self {}
    }
}

impl Exchange {
    pub(super) fn first(&self) -> &[u8] {
        match *self {}
    }

    pub(super) fn answer(&mut self, _: &[u8]) -> Result<Option<Vec<u8>>, String> {
        match *self {}
    }

    pub(super) fn service(&self) -> &str {
        match *self {}
    }
}
