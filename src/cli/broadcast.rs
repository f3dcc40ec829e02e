//! `roster broadcast`: sends a command of the application's own to all masters.

use std::io::{self, Write};

use clap::Args;

use super::connection::Connection;

/// Send a command to all masters
#[derive(Debug, Args)]
pub(crate) struct Broadcast {
    /// The command: a JSON object with the key `cmd`
    #[arg(value_name = "JSON")]
    message: String,
    #[command(flatten)]
    connection: Connection,
}

impl Broadcast {
    pub(crate) fn run(self) -> anyhow::Result<()> {
        let masters = self.connection.client().broadcast(self.message.into_bytes())?;
        Ok(writeln!(io::stdout(), "sent to {masters} masters")?)
    }
}
