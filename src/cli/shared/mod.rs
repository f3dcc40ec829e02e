//! `roster shared`: checks whether a shared file is sound and agrees with its sidecar.

mod compare;

use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use clap::{Args, Subcommand};
use roster::model::Origin;
use roster::store::shared::{Checked, InvalidFile, ReadError, Reader};
use serde_json::json;

use self::compare::Comparison;
use super::connection::Connection;
use super::{Output, json, text};

/// Look at a shared file
#[derive(Debug, Args)]
pub(crate) struct Shared {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    #[command(after_help = super::exit::HELP)]
    Check(Check),
}

/// Check whether a file is intact, and whether it agrees with its sidecar
#[derive(Debug, Args)]
struct Check {
    /// The file [default: the one next to the sidecar's socket]. Another one is compared with a sidecar only if
    /// --address names it
    file: Option<PathBuf>,
    #[arg(short, long, value_enum, default_value_t = Output::Table)]
    output: Output,
    #[command(flatten)]
    connection: Connection,
}

impl Shared {
    pub(crate) fn run(self) -> anyhow::Result<()> {
        let Command::Check(check) = self.command;
        check.run()
    }
}

/// No file was named, and there is none at the default places.
#[derive(Debug, thiserror::Error)]
#[error("name the file: there is no Unix socket of a sidecar beside which it would lie")]
pub(crate) struct NoFile;

impl Check {
    fn run(self) -> anyhow::Result<()> {
        let is_named = self.file.is_some();
        let file = self.file.or_else(|| self.connection.shared_file()).ok_or(NoFile)?;
        let reader = Reader::open(&file).map_err(unsound)?;
        let mut checked = reader.check().map_err(unsound)?;
        let comparison = match is_named {
            _ if self.connection.is_told() => compare::compare(&reader, &mut checked, self.connection)?,
            false if Connection::is_found() => compare::compare(&reader, &mut checked, self.connection)?,
            false => Comparison::Unanswered("no Unix socket of a sidecar lies beside it".into()),
            true => Comparison::NotAsked,
        };
        let wrong: Vec<&String> = checked.contradictions.iter().chain(comparison.differences()).collect();
        match self.output {
            Output::Table => io::stdout().write_all(table(&file, &checked, &comparison).as_bytes())?,
            Output::Json => {
                let mut document = document(&file, &checked, &comparison);
                document["wrong"] = json!(wrong);
                json::print(&document)?;
            }
        }
        if comparison.is_wanting() {
            eprintln!("roster: {}", text::printable(comparison.to_string().as_bytes()));
        }
        wrong.iter().take(TOLD).for_each(|wrong| eprintln!("{}", text::line(wrong)));
        match wrong.len() {
            // What there is to say of the file is said.
            0 => match comparison {
                Comparison::Failed(why) => Err(why),
                _ => Ok(()),
            },
            1 => anyhow::bail!("{} is not sound: one thing is wrong with it", file.display()),
            many => anyhow::bail!("{} is not sound: {many} things are wrong with it", file.display()),
        }
    }
}

/// For a check, an unusable file is a finding rather than a failure to do its work.
fn unsound(error: ReadError) -> anyhow::Error {
    match error {
        ReadError::InvalidFile { source: InvalidFile::Unreadable(_), .. } => error.into(),
        unfit => anyhow::anyhow!("{unfit}"),
    }
}

/// The most findings to print.
const TOLD: usize = 20;

fn table(file: &Path, checked: &Checked, comparison: &Comparison) -> String {
    let status = &checked.contents.status;
    let fresh = status.freshness(status.sources.iter(), SystemTime::now());
    let restored = if fresh.origin == Origin::Restored { ", restored" } else { "" };
    let readers = match checked.readers {
        Some((used, all)) => format!("{used} of {all} places were taken"),
        None => "no lock file lies beside it".into(),
    };
    let (services, instances) = checked.contents.counts();
    let rows = [
        ("file", file.display().to_string()),
        ("revision", status.fresh.revision.to_string()),
        ("age", text::duration(fresh.age.as_millis() as i64) + restored),
        ("nodes", checked.contents.nodes.len().to_string()),
        ("masters", checked.contents.masters().count().to_string()),
        ("services", services.to_string()),
        ("instances", instances.to_string()),
        ("size", text::size(checked.size as i64)),
        ("readers", readers),
        ("sidecar", comparison.to_string()),
    ];
    rows.iter().map(|(name, value)| format!("{name:<10}{}\n", text::line(value))).collect()
}

fn document(file: &Path, checked: &Checked, comparison: &Comparison) -> serde_json::Value {
    let status = &checked.contents.status;
    let (services, instances) = checked.contents.counts();
    json!({
        "file": file,
        "freshness": json::freshness(&status.freshness(status.sources.iter(), SystemTime::now()).into()),
        "nodes": checked.contents.nodes.len(),
        "masters": checked.contents.masters().count(),
        "services": services,
        "instances": instances,
        "bytes": checked.size,
        "readers": checked.readers.map(|(used, _)| used),
        "maxReaders": checked.readers.map(|(_, all)| all),
        "sidecar": comparison.to_string(),
    })
}
