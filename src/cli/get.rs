//! `roster get`: one coordination node.

use std::io::{self, IsTerminal, Write};

use clap::{Args, ValueEnum};
use roster::model::NodePath;
use serde_json::Value;

use super::known::Source;
use super::{json, text};

/// Print the data of a coordination node
#[derive(Debug, Args)]
pub(crate) struct Get {
    /// The path of the node
    #[arg(value_parser = NodePath::parse)]
    path: NodePath,
    #[arg(short, long, value_enum, default_value_t = Output::Table)]
    output: Output,
    #[command(flatten)]
    source: Source,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum Output {
    /// The data; on a terminal with a trailing newline and without control characters
    Table,
    /// Data, stat and freshness, with the names of the Thrift interface
    Json,
    /// The bare bytes of the data
    Raw,
}

impl Get {
    pub(crate) fn run(self) -> anyhow::Result<()> {
        let reply = self.source.open()?.get(&self.path)?;
        let mut out = io::stdout().lock();
        match self.output {
            Output::Table if out.is_terminal() => writeln!(out, "{}", text::printable(&reply.node.data).trim_end())?,
            Output::Table | Output::Raw => out.write_all(&reply.node.data)?,
            Output::Json => {
                let mut document = json::node(&reply.node);
                document.insert("freshness".into(), json::freshness(&reply.freshness));
                json::print(&Value::Object(document))?;
            }
        }
        Ok(out.flush()?)
    }
}
