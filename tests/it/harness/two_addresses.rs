//! A name with two addresses of this machine, for processes that are told so; at the first one there is nobody, or one
//! who says nothing.

use std::net::{Ipv4Addr, TcpListener};
use std::path::{Path, PathBuf};
use std::process::Command;

use super::library::{library, preload};

const FIRST: Ipv4Addr = Ipv4Addr::new(127, 0, 0, 2);

/// The name.
#[derive(Debug)]
pub(crate) struct TwoAddresses(PathBuf);

impl TwoAddresses {
    pub(crate) const NAME: &str = "two-addresses.test";

    pub(crate) fn new(folder: &Path) -> Self {
        Self(library("two_addresses", folder))
    }

    /// Has a command know the name.
    pub(crate) fn rules(&self, command: &mut Command) {
        preload(command, &self.0);
    }
}

/// Accepts connections at the first address, and nothing comes of them.
#[derive(Debug)]
pub(crate) struct DeadAddress(Vec<TcpListener>);

impl DeadAddress {
    pub(crate) fn at(ports: impl Iterator<Item = u16>) -> Self {
        let listeners: Vec<TcpListener> = ports.map(|port| TcpListener::bind((FIRST, port)).expect("a port")).collect();
        listeners.iter().for_each(|listener| listener.set_nonblocking(true).expect("it can be asked at once"));
        Self(listeners)
    }

    /// Whether anybody has tried it.
    pub(crate) fn was_tried(&self) -> bool {
        self.0.iter().any(|listener| listener.accept().is_ok())
    }
}
