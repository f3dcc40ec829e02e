//! `roster explain`: why instances are served or not, and why the sidecar would allow or refuse something.

mod access;
mod service;

use clap::{Args, Subcommand};

use self::access::ExplainAccess;
pub(crate) use self::access::Refused;
use self::service::ExplainService;
pub(crate) use self::service::never_had;

/// Explain why the instances of a service are served or not
///
/// Also shows which registration nodes cannot be read, and why. To ask about a service named `access`, put it after
/// `--`.
#[derive(Debug, Args)]
#[command(args_conflicts_with_subcommands = true)]
pub(crate) struct Explain {
    #[command(subcommand)]
    topic: Option<Topic>,
    #[command(flatten)]
    service: ExplainService,
}

#[derive(Debug, Subcommand)]
enum Topic {
    #[command(after_help = super::exit::HELP)]
    Access(ExplainAccess),
}

impl Explain {
    pub(crate) fn run(self) -> anyhow::Result<()> {
        match self.topic {
            Some(Topic::Access(access)) => access.run(),
            None => self.service.run(),
        }
    }
}
