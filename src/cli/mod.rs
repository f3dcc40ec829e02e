//! The command line: one struct per command.

mod broadcast;
mod call;
mod completions;
mod config;
mod connection;
mod demo;
mod diff;
mod drain;
pub(crate) mod exit;
mod explain;
mod export;
mod file;
mod get;
mod guard;
mod history;
mod json;
mod known;
mod log;
mod ls;
mod man_pages;
mod masters;
mod queue;
mod registers;
mod resolve;
mod sample;
mod serve;
mod services;
mod settings;
mod shared;
mod stats;
mod status;
mod systemd;
mod text;
mod tree;
mod version;
mod watch;
mod worker;

use clap::{Parser, Subcommand, ValueEnum};

/// Keeps ZooKeeper's data beside short-lived local clients, and answers them over Thrift.
#[derive(Debug, Parser)]
#[command(name = "roster", version, after_help = exit::HELP, max_term_width = 100)]
pub(crate) struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    #[command(after_help = exit::HELP)]
    Get(get::Get),
    #[command(after_help = exit::HELP)]
    Ls(ls::Ls),
    #[command(after_help = exit::HELP)]
    Watch(watch::Watch),
    #[command(after_help = exit::HELP)]
    Masters(masters::Masters),
    #[command(after_help = exit::HELP)]
    Services(services::Services),
    #[command(after_help = exit::HELP)]
    Resolve(resolve::Resolve),
    #[command(after_help = exit::HELP)]
    Drain(drain::Drain),
    #[command(after_help = exit::HELP)]
    Undrain(drain::Undrain),
    #[command(after_help = exit::HELP)]
    Call(call::Call),
    #[command(after_help = exit::HELP)]
    Broadcast(broadcast::Broadcast),
    #[command(after_help = exit::HELP)]
    Registers(registers::Registers),
    Guard(guard::Guard),
    #[command(after_help = exit::HELP)]
    Enqueue(queue::Enqueue),
    Queue(queue::Queue),
    #[command(after_help = exit::HELP)]
    Worker(worker::Worker),
    #[command(after_help = exit::HELP)]
    Status(status::Status),
    #[command(after_help = exit::HELP)]
    Serve(serve::Serve),
    #[command(after_help = exit::HELP)]
    Explain(explain::Explain),
    #[command(after_help = exit::HELP)]
    History(history::History),
    #[command(after_help = exit::HELP)]
    Diff(diff::Diff),
    #[command(after_help = exit::HELP)]
    Export(export::Export),
    #[command(after_help = exit::HELP)]
    Shared(shared::Shared),
    #[command(after_help = exit::HELP)]
    Config(config::Configure),
    Completions(completions::Completions),
    #[command(hide = true)]
    ManPages(man_pages::ManPages),
    #[command(hide = true)]
    ForkServer,
    #[command(hide = true)]
    SampleMaster(sample::Sample),
    Version(version::Version),
}

/// How to print.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Output {
    /// For people
    Table,
    /// For programs, with the names of the Thrift interface
    Json,
}

impl Cli {
    pub(crate) fn run(self) -> anyhow::Result<()> {
        match self.command {
            Command::Get(get) => get.run(),
            Command::Ls(ls) => ls.run(),
            Command::Watch(watch) => watch.run(),
            Command::Masters(masters) => masters.run(),
            Command::Services(services) => services.run(),
            Command::Resolve(resolve) => resolve.run(),
            Command::Drain(drain) => drain.run(),
            Command::Undrain(undrain) => undrain.run(),
            Command::Call(call) => call.run(),
            Command::Broadcast(broadcast) => broadcast.run(),
            Command::Registers(registers) => registers.run(),
            Command::Guard(guard) => guard.run(),
            Command::Enqueue(enqueue) => enqueue.run(),
            Command::Queue(queue) => queue.run(),
            Command::Worker(worker) => worker.run(),
            Command::Status(status) => status.run(),
            Command::Serve(serve) => serve.run(),
            Command::Explain(explain) => explain.run(),
            Command::History(history) => history.run(),
            Command::Diff(diff) => diff.run(),
            Command::Export(export) => export.run(),
            Command::Shared(shared) => shared.run(),
            Command::Config(config) => config.run(),
            Command::Completions(completions) => completions.run(),
            Command::ManPages(pages) => pages.run(),
            Command::ForkServer => match roster::worker::serve_forks()? {},
            Command::SampleMaster(sample) => sample.run(),
            Command::Version(version) => version.run(),
        }
    }
}
