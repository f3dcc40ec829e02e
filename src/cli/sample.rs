//! Sample masters: processes of this binary that the demonstration starts, so that there is something to call and kill.

use std::env;
use std::process::Stdio;
use std::time::Duration;

use anyhow::Context;
use clap::Args;
use futures::future::select_all;
use roster::config::Config;
use roster::master::{self, Event, Master, RegisterAddr, Service};
use roster::register::EXAMPLE_TOKEN;
use serde::Deserialize;
use serde_json::json;
use tokio::process::{Child, Command};

use super::demo;

/// The first service that they offer.
pub(crate) const SERVICE: &str = "greeter";

/// How many there are.
const COUNT: usize = 2;

/// Be one of the demonstration's masters until the connection to its own register is lost
#[derive(Debug, Args)]
pub(crate) struct Sample {
    port: u16,
}

impl Sample {
    pub(crate) fn run(self) -> anyhow::Result<()> {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
        runtime.context("cannot start the runtime")?.block_on(self.serve());
        Ok(())
    }

    /// It never outlives the sidecar: without a connection it exits.
    async fn serve(self) {
        let mut config = master::Config::new(EXAMPLE_TOKEN);
        config.reconnect_on_close = false;
        config.retry_attempts = Some(2);
        config.connect_timeout = Duration::from_secs(2);
        let master = Master::start(config);
        let mut events = master.events();
        master.offer(greeter());
        master.offer(mail());
        let own = RegisterAddr::from(("127.0.0.1", self.port));
        master.connect(own.clone());
        while let Some(event) = events.next().await {
            if let Event::Closed { retry_in: None, register, .. } = event
                && register == own
            {
                return;
            }
        }
    }
}

#[derive(Deserialize)]
struct Hello {
    name: String,
}

#[derive(Deserialize)]
struct Count {
    to: u64,
}

fn greeter() -> Service {
    let pid = std::process::id();
    Service::new(SERVICE)
        .metadata("version", "1.0.0")
        .metadata("pid", pid)
        .method("hello", move |Hello { name }| async move { Ok(format!("Hello, {name}, from process {pid}")) })
        .stream("count", |Count { to }, values| async move {
            for number in 1..=to {
                values.send(number).await?;
                tokio::time::sleep(Duration::from_millis(100)).await;
            }
            Ok(())
        })
}

#[derive(Deserialize)]
struct Letter {
    to: String,
    #[serde(default = "one")]
    n: u32,
}

fn one() -> u32 {
    1
}

/// The service that the documentation's examples call. It sends nothing.
fn mail() -> Service {
    Service::new("mail").metadata("version", "1.2.0").stream("send", |Letter { to, n }, values| async move {
        for number in 1..=n {
            values.send(json!({ "to": to, "number": number })).await?;
        }
        Ok(())
    })
}

/// The running sample masters. Killed when dropped.
#[derive(Debug, Default)]
pub(crate) struct Samples(Vec<Child>);

impl Samples {
    /// Starts them, if the register accepts the demonstration's tokens.
    pub(crate) fn start(config: &Config) -> anyhow::Result<Self> {
        let port = config.register.listen.rsplit_once(':').and_then(|(_, port)| port.parse::<u16>().ok());
        let Some(port) = port.filter(|_| config.register.tokens == Some(demo::token_path())) else {
            return Ok(Self::default());
        };
        let binary = env::current_exe()?;
        let start = |_| {
            let mut command = Command::new(&binary);
            command.arg("sample-master").arg(port.to_string()).stdin(Stdio::null()).stdout(Stdio::null());
            // An interrupt from the terminal goes to the sidecar, which then ends them.
            command.process_group(0).kill_on_drop(true).spawn().context("cannot start a sample master")
        };
        Ok(Self((0..COUNT).map(start).collect::<anyhow::Result<_>>()?))
    }

    pub(crate) fn pids(&self) -> Vec<u32> {
        self.0.iter().filter_map(Child::id).collect()
    }

    /// Waits for the end of one and reports it; waits forever if none is left.
    pub(crate) async fn one_ends(&mut self) {
        if self.0.is_empty() {
            return std::future::pending().await;
        }
        let waits = self.0.iter_mut().map(|child| {
            let pid = child.id();
            Box::pin(async move {
                // Its exit status may be unknown here: the supervisor of workers reaps all children.
                let _ = child.wait().await;
                pid
            })
        });
        let (pid, index, _) = select_all(waits).await;
        tracing::info!(pid, "a sample master ended");
        self.0.remove(index);
    }

    /// Kills all of them, and waits until they have ended.
    pub(crate) async fn stop(mut self) {
        for child in &mut self.0 {
            // It may have ended already.
            let _ = child.kill().await;
        }
    }
}
