//! `roster broadcast`: sends an application-defined command to all masters.

use std::io::{self, Write};

use clap::Args;
use roster::model::counted;
use roster::thrift::idl::CommandReply;
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
        let sent = self.connection.client().broadcast(self.message.into_bytes())?;
        let masters = counted(sent.masters.unsigned_abs().into(), "master");
        Ok(writeln!(io::stdout(), "sent to {masters}{}", passed(&sent))?)
    }
}

/// How many masters a command was passed on for, besides those that got it.
pub(super) fn passed(sent: &CommandReply) -> String {
    let Some(masters) = sent.passed else { return String::new() };
    let masters = counted(masters.unsigned_abs().into(), "other master");
    format!("; passed for {masters} to the registers that know them, which may refuse: see the log of each")
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
    fn what_was_passed_on_is_not_said_to_be_told() {
        assert_eq!(passed(&CommandReply { masters: 1, passed: None }), "");
        let told = passed(&CommandReply { masters: 0, passed: Some(2) });
        assert!(told.starts_with("; passed for 2 other masters to the registers that know them, which may refuse"));
    }

    #[test]
    fn a_command_is_a_json_object() {
        assert!(object(r#"{"cmd": "reload"}"#).is_ok());
        for text in ["[]", "reload", ""] {
            assert!(object(text).expect_err(text).starts_with("a command is a JSON object"));
        }
    }
}
