//! `roster serve`: the sidecar itself, until a signal or a failure ends it.

use std::env;
use std::io;
use std::path::Path;
use std::pin::pin;

use anyhow::{Context, anyhow};
use clap::Args;
use futures::future::OptionFuture;
use nix::unistd::{User, geteuid};
use roster::config::{Config, Diagnostics};
use roster::default_paths::{self, DefaultPaths};
use roster::net::{Address, TakenPorts};
use roster::permissions::own::cannot_write;
use roster::sidecar::Sidecar;
use roster::task::stuck;
use tokio::runtime::{Builder, Runtime};
use tokio::signal::unix::{Signal, SignalKind, signal};

use super::demo::Invitation;
use super::log::Reports;
use super::sample::Samples;
use super::settings::{Loaded, NO_SOURCE, Settings};
use super::systemd::Systemd;
use super::{demo, exit, log};

/// How often a demonstration looks for free addresses.
const START_ATTEMPTS: usize = 3;

/// Run the sidecar
///
/// Without a configuration it runs a demonstration and prints what to try. SIGTERM and an interrupt stop it in order,
/// SIGHUP makes it read credentials, files and access rules again, SIGUSR2 replaces the processes of all workers.
#[derive(Debug, Args)]
pub(crate) struct Serve {
    #[command(flatten)]
    settings: Settings,
    /// What to log: error, warn, info, debug, trace; after commas, levels of single modules
    #[arg(long, value_name = "LEVEL", env = "ROSTER_LOG", hide_env_values = true, value_parser = level)]
    log: Option<String>,
}

impl Serve {
    pub(crate) fn run(self) -> anyhow::Result<()> {
        let level = self.log.map(|level| ("log.level".to_owned(), level));
        let load = || self.settings.clone().load_to_start(level.clone());
        let loaded = load()?;
        let origin = loaded.origin.clone();
        let started = start(loaded);
        let (runtime, started, reports) = started.map_err(|error| error.context(origin))?;
        let ended = runtime.block_on(serve(started, load, reports));
        // Everything that had to end has; nothing else is waited for.
        runtime.shutdown_background();
        ended
    }
}

fn level(text: &str) -> Result<String, String> {
    match roster::config::log_filter_flaw(text) {
        None => Ok(text.to_owned()),
        Some(flaw) => Err(format!("{flaw}, from `--log` or ROSTER_LOG")),
    }
}

/// A sidecar that has started.
struct Started {
    sidecar: Sidecar,
    config: Config,
    /// None: not a demonstration.
    samples: Option<Samples>,
    /// SIGINT, SIGTERM, SIGHUP and SIGUSR2: caught before anybody can know that there is a sidecar.
    signals: [Signal; 4],
}

fn start(loaded: Loaded) -> anyhow::Result<(Runtime, Started, Reports)> {
    let Loaded { mut config, origin } = loaded;
    make_default_folders(&config)?;
    if origin.is_demo {
        demo::lay_out()?;
    }
    let reports = log::start(&config.log)?;
    warn_if_unreachable(&config);
    if !config.has_source() && config.worker.is_empty() && !config.has_queues() {
        tracing::warn!("{NO_SOURCE}");
    }
    let mut runtime = Builder::new_multi_thread();
    let runtime = stuck::watch(runtime.enable_all()).and_then(Builder::build).context("cannot start the runtime")?;
    let guard = runtime.enter();
    let kinds = [SignalKind::interrupt(), SignalKind::terminate(), SignalKind::hangup(), SignalKind::user_defined2()];
    let [interrupt, terminate, hangup, roll] = kinds.map(signal);
    let signals = [interrupt?, terminate?, hangup?, roll?];
    // Others reopen their log or restart workers when they are sent this; it would end a process that does not handle it.
    drop(signal(SignalKind::user_defined1())?);
    let sidecar = if origin.is_demo { start_demo(&mut config)? } else { Sidecar::start(&config, TakenPorts::Wait)? };
    let samples = origin.is_demo.then(|| Samples::start(&config)).transpose()?;
    drop(guard);
    Ok((runtime, Started { sidecar, config, samples, signals }, reports))
}

/// Creates the user's own folders if they are the defaults; all others are up to an administrator.
fn make_default_folders(config: &Config) -> anyhow::Result<()> {
    if config.thrift.unix == default_paths::user_socket() {
        let folder = default_paths::user_folder();
        default_paths::make_user_folder().with_context(|| format!("cannot use {}", folder.display()))?;
    }
    let state = &config.shared.state;
    if default_paths::is_users_state(state) {
        default_paths::make(state).map_err(|error| no_state(state, &error))?;
    }
    Ok(())
}

/// The error if there is no folder for the state: neither the system's nor the user's own.
fn no_state(own: &Path, error: &io::Error) -> anyhow::Error {
    let (system, user) = (DefaultPaths::default().state, user());
    let why = cannot_write(&system).unwrap_or_default();
    anyhow!(
        "shared.state: {why}; nor can {} be made: {error}; `sudo install -d -o {user} -m 0750 {}`, or choose another with \
         `--set shared.state=…`",
        own.display(),
        system.display()
    )
}

/// The current user in a form that a command line accepts.
fn user() -> String {
    let user = User::from_uid(geteuid()).ok().flatten();
    user.map_or(geteuid().to_string(), |user| user.name)
}

/// Warns if the socket belongs to a group that cannot enter its folder: the user's own, instead of the system's.
fn warn_if_unreachable(config: &Config) {
    let groups = [&config.thrift.group, &config.shared.group];
    let Some(group) = groups.into_iter().find(|group| !group.is_empty()) else { return };
    let system = DefaultPaths::default().socket;
    let system = system.parent().unwrap_or(&system);
    let (own, user) = (default_paths::user_folder(), user());
    if config.thrift.unix == default_paths::user_socket()
        && let Some(why) = cannot_write(system)
    {
        tracing::warn!(
            "{why}; the socket is in {} instead, which the group {group} cannot enter, and PHP finds nothing: \
             `RuntimeDirectory=roster` in the unit or `sudo install -d -o {user} {}`, and a restart",
            own.display(),
            system.display()
        );
    }
}

async fn serve(
    started: Started,
    load: impl Fn() -> anyhow::Result<Loaded>,
    mut reports: Reports,
) -> anyhow::Result<()> {
    let Started { mut sidecar, config, samples, signals: [mut interrupt, mut terminate, mut hangup, mut roll] } =
        started;
    let invited = samples.as_ref().map(Samples::pids).zip(sidecar.addresses().first().cloned());
    let expected = invited.as_ref().map(|(masters, _)| sidecar.expect_masters(masters.len()));
    let mut invitation = pin!(async {
        OptionFuture::from(expected).await;
        invite(config, invited).await;
    });
    let mut samples = samples.unwrap_or_default();
    let mut is_invited = false;
    let systemd = Systemd::ready(sidecar.addresses());
    let mut feeding = pin!(systemd.feed_watchdog());
    let ended = loop {
        tokio::select! {
            failure = sidecar.failure() => break Err(failure.into()),
            _ = interrupt.recv() => break Err(exit::Interrupted.into()),
            _ = terminate.recv() => break Ok(()),
            _ = hangup.recv() => {
                sidecar.reload();
                reload_access(&sidecar, load());
            }
            _ = roll.recv() => sidecar.roll_workers(),
            never = &mut feeding => match never {},
            () = samples.one_ends() => {}
            () = reports.next() => {}
            () = &mut invitation, if !is_invited => is_invited = true,
        }
    };
    systemd.stopping();
    sidecar.freeze();
    samples.stop().await;
    // A second request means not to wait.
    tokio::select! {
        () = sidecar.stop() => {}
        _ = interrupt.recv() => {}
        _ = terminate.recv() => {}
    }
    reports.report();
    ended
}

/// Prints what to try with a demonstration with these masters, once everything works.
async fn invite(config: Config, invited: Option<(Vec<u32>, Address)>) {
    let (Some((masters, address)), Ok(binary)) = (invited, env::current_exe()) else { return };
    eprintln!("{}", Invitation::when_ready(&config, address, binary, masters).await.text());
}

/// Starts a demonstration. Between finding a free port and using it, another process may take it.
fn start_demo(config: &mut Config) -> anyhow::Result<Sidecar> {
    let mut attempts = 0..START_ATTEMPTS;
    loop {
        demo::avoid_taken(config)?.iter().for_each(|moved| eprintln!("{moved}"));
        match Sidecar::start(config, TakenPorts::Fail) {
            Err(error) if error.is_taken() && attempts.next().is_some() => {}
            result => return Ok(result?),
        }
    }
}

/// If anything is wrong with the new rules, the old ones stay in force.
fn reload_access(sidecar: &Sidecar, loaded: anyhow::Result<Loaded>) {
    let replaced = loaded.and_then(|loaded| Ok(sidecar.replace_access(&loaded.config)?));
    match replaced {
        Ok(()) => tracing::info!(
            "read the access rules again, as the files of tokens, credentials and nodes; any other change needs a restart"
        ),
        Err(error) => {
            // Each diagnostic names its file itself.
            let why = error.downcast_ref::<Diagnostics>().map_or_else(|| format!("{error:#}"), Diagnostics::to_string);
            tracing::error!(
                "the sidecar does not take over the configuration as it is now, `[[allow]]` and `[access]` stay as they were: {why}"
            );
        }
    }
}
