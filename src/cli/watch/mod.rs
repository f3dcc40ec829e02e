//! `roster watch`: the current state, then every change, also across a restart of the sidecar.

mod masters;
mod messages;
mod nodes;
mod queues;
mod services;
mod workers;

use std::convert::Infallible;
use std::io::{self, Write};
use std::time::{Duration, SystemTime};

use clap::Args;
use roster::model::NodePath;
use roster::task::Backoff;
use roster::thrift::client::{Client, Error};
use serde_json::{Map, Value, json};

use self::masters::Masters;
use self::messages::Messages;
use self::nodes::Nodes;
use self::queues::Queues;
use self::services::Services;
use self::workers::Workers;
use super::connection::Connection;
use super::{Output, text};

/// Print the current state, then every change, until interrupted
///
/// If the sidecar no longer knows what changed, a line RESET says so, and the current state follows again. JSON is one
/// object per line. A sidecar that goes away is waited for.
#[derive(Debug, Args)]
pub(crate) struct Watch {
    /// What to watch, including everything below [default: everything]
    #[arg(value_parser = NodePath::parse)]
    paths: Vec<NodePath>,
    /// Watch the masters instead of coordination nodes
    #[arg(long, conflicts_with_all = ["paths", "services", "messages"])]
    masters: bool,
    /// Watch the services, and how many masters offer each
    #[arg(long, conflicts_with_all = ["paths", "messages"])]
    services: bool,
    /// Watch the commands that masters send unprompted: those that are kept, then every new one
    #[arg(long, conflicts_with = "paths")]
    messages: bool,
    /// Watch the workers and their state changes
    #[arg(long, conflicts_with_all = ["paths", "masters", "services", "messages"])]
    workers: bool,
    /// Watch the queues and how many jobs of each are in which state, which is looked at every second
    #[arg(long, conflicts_with_all = ["paths", "masters", "services", "messages", "workers"])]
    queues: bool,
    #[arg(short, long, value_enum, default_value_t = Output::Table)]
    output: Output,
    #[command(flatten)]
    connection: Connection,
}

/// The kind of news after which everything reported before is to be forgotten.
const RESET: &str = "RESET";

/// How long one call waits for changes.
const POLL: Duration = Duration::from_secs(25);

impl Watch {
    pub(crate) fn run(self) -> anyhow::Result<()> {
        let subject: Box<dyn Subject> = match self.paths {
            _ if self.masters => Box::new(Masters),
            _ if self.services => Box::new(Services::default()),
            _ if self.messages => Box::new(Messages),
            _ if self.workers => Box::new(Workers),
            _ if self.queues => Box::new(Queues::default()),
            paths => Box::new(Nodes::new(paths)),
        };
        let mut follower = Follower::new(self.connection.client(), subject, self.output, io::stdout().lock());
        match follower.follow()? {}
    }
}

/// What can be followed.
trait Subject {
    /// Prints the current state. Returns the revision up to which everything is then reported.
    fn present(&mut self, client: &mut Client, tell: Tell<'_>) -> anyhow::Result<i64>;

    /// Waits for changes since a revision and prints them. Returns the same; None: the current state must be read
    /// again.
    fn changes(&mut self, client: &mut Client, since: i64, tell: Tell<'_>) -> anyhow::Result<Option<i64>>;
}

type Tell<'a> = &'a mut dyn FnMut(News) -> io::Result<()>;

/// One line to print.
struct News {
    revision: i64,
    kind: String,
    /// What it is about; empty: nothing in particular.
    name: String,
    preview: String,
    /// The JSON fields besides revision and kind.
    fields: Map<String, Value>,
}

impl News {
    fn reset(revision: i64) -> Self {
        Self { revision, kind: RESET.into(), name: String::new(), preview: String::new(), fields: Map::new() }
    }

    fn object(self) -> Value {
        let mut object = json!({ "revision": self.revision, "kind": self.kind });
        object.as_object_mut().expect("it was made one").extend(self.fields);
        object
    }

    fn line(&self, now: SystemTime) -> String {
        let Self { kind, preview, .. } = self;
        let name = text::line(&self.name);
        format!("{} {kind:<7} {name} {preview}", humantime::format_rfc3339_millis(now)).trim_end().to_owned()
    }
}

struct Follower<Out> {
    client: Client,
    subject: Box<dyn Subject>,
    output: Output,
    out: Out,
    /// The revision up to which everything is reported; None: the current state comes next.
    since: Option<i64>,
    /// Whether something was printed since the start or the last RESET.
    begun: bool,
    /// Whether a sidecar has ever answered: from then on it is waited for.
    met: bool,
    /// The message printed since the last answer.
    told: Option<&'static str>,
}

impl<Out: Write> Follower<Out> {
    fn new(client: Client, subject: Box<dyn Subject>, output: Output, out: Out) -> Self {
        Self { client, subject, output, out, since: None, begun: false, met: false, told: None }
    }

    fn follow(&mut self) -> anyhow::Result<Infallible> {
        let mut backoff = Backoff::new(Duration::from_millis(100), Duration::from_secs(2));
        loop {
            match self.step() {
                Ok(()) => {
                    self.met = true;
                    if self.told.take().is_some() {
                        eprintln!("roster: following again");
                    }
                    backoff.reset();
                }
                Err(error) => {
                    self.wait(error)?;
                    std::thread::sleep(backoff.delay());
                }
            }
        }
    }

    fn step(&mut self) -> anyhow::Result<()> {
        let Self { client, subject, output, out, begun, met, .. } = self;
        let mut write = |news: News| match output {
            Output::Json => writeln!(out, "{}", text::printable_json(&news.object().to_string())),
            Output::Table => writeln!(out, "{}", news.line(SystemTime::now())),
        };
        // A listing that starts over after it was cut off says so first.
        let mut begins_again = self.since.is_none() && *begun;
        let mut tell = |news: News| {
            *met = true;
            if std::mem::take(&mut begins_again) {
                write(News::reset(news.revision))?;
            }
            *begun = news.kind != RESET;
            write(news)
        };
        self.since = match self.since {
            None => Some(subject.present(client, &mut tell)?),
            Some(since) => subject.changes(client, since, &mut tell)?,
        };
        Ok(self.out.flush()?)
    }

    /// Says once what it waits for. An error that waiting cannot mend is returned.
    fn wait(&mut self, error: anyhow::Error) -> anyhow::Result<()> {
        let Some(reason) = error.downcast_ref::<Error>() else {
            return Err(error);
        };
        let consequence = match reason {
            Error::NotReady(_) => "trying again",
            Error::Invalid(_) | Error::Denied(_) => return Err(error),
            _ if !self.met => return Err(error),
            _ => "waiting for the sidecar to return",
        };
        self.met = true;
        if self.told.replace(consequence) != Some(consequence) {
            let reason = text::printable(reason.to_string().as_bytes());
            eprintln!("roster: {reason}; {consequence}");
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests;
