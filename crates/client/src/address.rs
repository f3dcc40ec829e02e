//! Addresses: where a sidecar listens.

use std::fmt;
use std::path::PathBuf;
use std::str::FromStr;

/// Where to listen, or where to connect: `unix:///path`, or `host:port`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Address {
    Unix(PathBuf),
    Tcp(String),
}

#[derive(Debug, thiserror::Error, PartialEq, Eq)]
#[error("not an address: expected `unix:///absolute/path` or `host:port`")]
pub struct AddressError;

impl FromStr for Address {
    type Err = AddressError;

    fn from_str(text: &str) -> Result<Self, AddressError> {
        if let Some(path) = text.strip_prefix("unix://") {
            return if path.starts_with('/') { Ok(Self::Unix(path.into())) } else { Err(AddressError) };
        }
        let (host, port) = text.rsplit_once(':').ok_or(AddressError)?;
        match port.parse::<u16>() {
            Ok(_) if !host.is_empty() => Ok(Self::Tcp(text.to_owned())),
            _ => Err(AddressError),
        }
    }
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unix(path) => write!(f, "unix://{}", path.display()),
            Self::Tcp(address) => f.write_str(address),
        }
    }
}
