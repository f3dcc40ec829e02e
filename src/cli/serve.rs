//! `roster serve`: the sidecar itself, until a signal or a failure ends it.

use std::env;

use anyhow::Context;
use clap::Args;
use roster::config::Config;
use roster::sidecar::Sidecar;
use tokio::signal::unix::{SignalKind, signal};

use super::log::Reports;
use super::sample::Samples;
use super::settings::{Loaded, NO_SOURCE, Origin, Settings};
use super::systemd::Systemd;
use super::{demo, exit, log};

/// Run the sidecar
///
/// Without a configuration it runs a demonstration, and says what to try. SIGTERM and an interrupt stop it in order,
/// SIGHUP has it read credentials, files and access rules again.
#[derive(Debug, Args)]
pub(crate) struct Serve {
    #[command(flatten)]
    settings: Settings,
    /// What to log: error, warn, info, debug, trace; after commas others for single modules
    #[arg(long, value_name = "LEVEL", env = "ROSTER_LOG", hide_env_values = true)]
    log: Option<String>,
}

impl Serve {
    pub(crate) fn run(self) -> anyhow::Result<()> {
        let level = self.log.map(|level| ("log.level".to_owned(), level));
        let load = || self.settings.clone().load(level.clone());
        let loaded = load()?;
        let is_demo = loaded.origin == Origin::Demo;
        if is_demo {
            demo::lay_out()?;
        }
        let reports = log::start(&loaded.config.log)?;
        if !loaded.config.has_source() {
            tracing::warn!("{NO_SOURCE}");
        }
        let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build();
        runtime.context("cannot start the runtime")?.block_on(serve(&loaded.config, is_demo, load, reports))
    }
}

async fn serve(
    config: &Config,
    is_demo: bool,
    load: impl Fn() -> anyhow::Result<Loaded>,
    mut reports: Reports,
) -> anyhow::Result<()> {
    let mut interrupt = signal(SignalKind::interrupt())?;
    let mut terminate = signal(SignalKind::terminate())?;
    let mut hangup = signal(SignalKind::hangup())?;
    let mut sidecar = Sidecar::start(config)?;
    let mut samples = if is_demo { Samples::start(config)? } else { Samples::default() };
    if is_demo {
        eprintln!("{}", demo::invitation(config, &env::current_exe()?, &samples.pids()));
    }
    let mut systemd = Systemd::ready(sidecar.addresses());
    let ended = loop {
        tokio::select! {
            failure = sidecar.failure() => break Err(failure.into()),
            _ = interrupt.recv() => break Err(exit::Interrupted.into()),
            _ = terminate.recv() => break Ok(()),
            _ = hangup.recv() => {
                sidecar.reload();
                reload_access(&sidecar, load());
            }
            () = systemd.watchdog() => {}
            () = samples.one_ends() => {}
            () = reports.next() => {}
        }
    };
    systemd.stopping();
    sidecar.freeze();
    samples.stop().await;
    // Who asks again does not want to wait.
    tokio::select! {
        () = sidecar.stop() => {}
        _ = interrupt.recv() => {}
        _ = terminate.recv() => {}
    }
    reports.report();
    ended
}

/// Whatever is wrong with the new rules, the old ones stay in force.
fn reload_access(sidecar: &Sidecar, loaded: anyhow::Result<Loaded>) {
    let replaced = loaded.and_then(|loaded| Ok(sidecar.replace_access(&loaded.config)?));
    match replaced {
        Ok(()) => tracing::info!("read the access rules again; any other change of the configuration needs a restart"),
        Err(error) => tracing::error!("cannot read the configuration again, the access rules stay: {error:#}"),
    }
}
