//! The binary: parse the command line, run the command, end with its exit code.

mod cli;

use std::process::ExitCode;

use clap::Parser;

fn main() -> ExitCode {
    cli::exit::code(cli::Cli::parse().run())
}
