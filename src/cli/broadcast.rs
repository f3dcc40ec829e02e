//! `roster broadcast`: sends a command of the application's own to all masters.

use std::io::{self, Write};

use clap::Args;
use roster::model::counted;
use serde_json::{Map, Value};

use super::connection::Connection;

/// Send a command to all masters
#[derive(Debug, Args)]
pub(crate) struct Broadcast {
    /// The command: a JSON object with the key `cmd`
    #[arg(value_name = "JSON", value_parser = object)]
    message: String,
    #[command(flatten)]
    connection: Connection,
}

impl Broadcast {
    pub(crate) fn run(self) -> anyhow::Result<()> {
        let masters = self.connection.client().broadcast(self.message.into_bytes())?.masters;
        Ok(writeln!(io::stdout(), "sent to {}", counted(masters.unsigned_abs().into(), "master"))?)
    }
}

fn object(text: &str) -> Result<String, String> {
    match serde_json::from_str::<Map<String, Value>>(text) {
        Ok(_) => Ok(text.to_owned()),
        Err(error) => Err(format!("a command is a JSON object: {error}")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_command_is_a_json_object() {
        assert!(object(r#"{"cmd": "reload"}"#).is_ok());
        for text in ["[]", "reload", ""] {
            assert!(object(text).expect_err(text).starts_with("a command is a JSON object"));
        }
    }
}
