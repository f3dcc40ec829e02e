//! `roster registers`: makes all masters, and the sidecars that follow this one, connect to registers or leave them.

use std::io::{self, Write};

use clap::{Args, Subcommand};
use roster::thrift::idl::RegisterAddress;
use roster::tunnel::{ParseRegisterError, RegisterAddr};

use super::connection::Connection;

/// Make all masters connect to registers, or leave them
#[derive(Debug, Args)]
pub(crate) struct Registers {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    #[command(after_help = super::exit::HELP)]
    /// Make all masters connect to these registers as well
    Add(Addresses),
    #[command(after_help = super::exit::HELP)]
    /// Make all masters leave these registers
    Remove(Addresses),
}

#[derive(Debug, Args)]
struct Addresses {
    /// Registers; with TLS as tls://HOST:PORT, at a Unix socket as unix:///PATH
    #[arg(required = true, value_name = "HOST:PORT", value_parser = address)]
    registers: Vec<RegisterAddress>,
    #[command(flatten)]
    connection: Connection,
}

impl Registers {
    pub(crate) fn run(self) -> anyhow::Result<()> {
        let sent = match self.command {
            Command::Add(Addresses { registers, connection }) => connection.client().add_registers(registers)?,
            Command::Remove(Addresses { registers, connection }) => connection.client().remove_registers(registers)?,
        };
        let passed = super::broadcast::passed(&sent);
        Ok(writeln!(io::stdout(), "told {}{passed}", told(sent.masters.unsigned_abs().into()))?)
    }
}

/// How many masters and following sidecars were reached.
fn told(count: u64) -> String {
    let kinds = if count == 1 { "master or sidecar" } else { "masters or sidecars" };
    format!("{count} {kinds}")
}

fn address(text: &str) -> Result<RegisterAddress, ParseRegisterError> {
    let RegisterAddr { host, port, .. } = text.parse()?;
    Ok(RegisterAddress::new(host, port.into()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn those_who_were_told_are_counted() {
        assert_eq!([0, 1, 2].map(told), ["0 masters or sidecars", "1 master or sidecar", "2 masters or sidecars"]);
    }

    #[test]
    fn a_register_is_a_host_and_a_port_or_a_socket() {
        assert_eq!(address("hub.example:8010"), Ok(RegisterAddress::new("hub.example".into(), 8010)));
        assert_eq!(address("[::1]:8010"), Ok(RegisterAddress::new("[::1]".into(), 8010)));
        assert_eq!(address("tls://hub:8010"), Ok(RegisterAddress::new("tls://hub".into(), 8010)));
        let socket = RegisterAddress::new("unix:///run/roster/register.sock".into(), 1);
        assert_eq!(address("unix:///run/roster/register.sock"), Ok(socket));
        for wrong in ["hub", ":8010", "hub:", "hub:0", "hub:65536", "hub:x", "tls://unix:///run/roster/register.sock"] {
            assert!(address(wrong).is_err(), "{wrong}");
        }
    }
}
