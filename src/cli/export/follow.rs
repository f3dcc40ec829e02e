//! Keeps an exported file up to date, across changes and restarts of the sidecar.

use std::convert::Infallible;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::mpsc::{Receiver, SyncSender, TrySendError, sync_channel};
use std::thread;
use std::time::Duration;

use roster::model::NodePath;
use roster::task::Backoff;
use roster::thrift::MAX_PATHS;
use roster::thrift::client::{Client, Error};

use super::Subject;
use crate::cli::known::Source;
use crate::cli::{services, text};

/// Changes in quick succession are written once.
const GATHER: Duration = Duration::from_millis(100);

/// How long one call waits for changes.
const POLL: Duration = Duration::from_secs(25);

/// What one thread watches.
enum Watched {
    Nodes(Vec<String>),
    Services,
}

/// Something may have changed; or changes are no longer watched.
type News = Result<(), Ended>;

/// One of the watching threads is gone.
#[derive(Debug, thiserror::Error)]
#[error("a thread that waits for changes has ended; start this again")]
struct Ended;

pub(super) fn follow(subject: &Subject, source: &Source) -> anyhow::Result<Infallible> {
    let (sender, changes) = sync_channel(1);
    let nodes =
        subject.paths.chunks(MAX_PATHS).map(|paths| Watched::Nodes(paths.iter().map(NodePath::to_string).collect()));
    for what in nodes.chain(subject.services.then_some(Watched::Services)) {
        let client = source.client();
        start(sender.clone(), move |sender| what.tell(client, sender));
    }
    drop(sender);
    let mut known = source.clone().open()?;
    let mut backoff = backoff();
    let (mut met, mut told) = (false, false);
    loop {
        match subject.write(&mut known) {
            Ok(()) => {
                met = true;
                if std::mem::take(&mut told) {
                    eprintln!("roster: following again");
                }
                backoff.reset();
                next(&changes)?;
            }
            Err(error) => {
                let (reason, until) = waits_for(error, met)?;
                if !std::mem::replace(&mut told, true) {
                    let reason = text::printable(reason.as_bytes());
                    eprintln!("roster: {reason}; the file stays as it is until {until}");
                }
                thread::sleep(backoff.delay());
            }
        }
    }
}

/// Starts a thread that watches, and that also reports its own end.
fn start(sender: SyncSender<News>, watch: impl FnOnce(&SyncSender<News>) + Send + 'static) {
    thread::spawn(move || {
        // The panic has already been printed on stderr.
        let _ = catch_unwind(AssertUnwindSafe(|| watch(&sender)));
        let _ = sender.send(Err(Ended));
    });
}

/// Waits for changes, and for those that follow immediately.
fn next(changes: &Receiver<News>) -> News {
    changes.recv().unwrap_or(Err(Ended))?;
    thread::sleep(GATHER);
    changes.try_iter().collect()
}

/// What to wait for and the message once it is over; any error that waiting cannot mend is returned. A sidecar that
/// never answered may be a wrong address.
fn waits_for(error: anyhow::Error, met: bool) -> anyhow::Result<(String, &'static str)> {
    match error.downcast_ref::<Error>() {
        Some(Error::NotReady(_)) => Ok((error.to_string(), "something is")),
        Some(Error::TooStale(_)) => Ok((error.to_string(), "it is in sync again")),
        Some(Error::Invalid(_) | Error::Denied(_)) | None => Err(error),
        Some(_) if met => Ok((error.to_string(), "the sidecar is back")),
        Some(_) => Err(error),
    }
}

fn backoff() -> Backoff {
    Backoff::new(Duration::from_millis(100), Duration::from_secs(2))
}

impl Watched {
    /// Signals every possible change until the receiver is gone.
    fn tell(&self, mut client: Client, sender: &SyncSender<News>) {
        let (mut since, mut backoff) = (0, backoff());
        loop {
            let is_news = match self.wait(&mut client, since) {
                Ok((revision, is_news)) => {
                    since = revision;
                    backoff.reset();
                    is_news
                }
                Err(_) => {
                    thread::sleep(backoff.delay());
                    true
                }
            };
            if is_news && matches!(sender.try_send(Ok(())), Err(TrySendError::Disconnected(_))) {
                return;
            }
        }
    }

    /// The revision up to which everything is reported, and whether anything changed.
    fn wait(&self, client: &mut Client, since: i64) -> Result<(i64, bool), Error> {
        Ok(match self {
            Watched::Nodes(paths) => {
                let reply = client.watch(since, paths.clone(), POLL)?;
                (reply.freshness.revision, reply.reset || !reply.changes.is_empty())
            }
            Watched::Services => {
                let reply = client.watch_masters(since, services::REREAD)?;
                // Nodes may register other instances meanwhile. If the content is the same, the file is not touched.
                (reply.freshness.revision, true)
            }
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_watch_that_panics_ends_the_export_while_another_goes_on() {
        let (sender, changes) = sync_channel(1);
        let (_goes_on, until) = sync_channel::<()>(0);
        start(sender.clone(), move |sender| {
            sender.send(Ok(())).expect("it is heard");
            let _ = until.recv();
        });
        next(&changes).expect("something changed");
        start(sender, |_| panic!("as the test wants"));
        next(&changes).expect_err("a watch has ended");
    }

    #[test]
    fn what_is_waited_for_is_told_and_a_sidecar_that_was_never_met_is_not() {
        let gone = || anyhow::Error::from(Error::Closed { address: roster::net::Address::Tcp("there:1".into()) });
        let (reason, until) = waits_for(gone(), true).expect("it is waited for");
        assert_eq!(reason, "the sidecar at there:1 closed the connection without an answer");
        assert_eq!(until, "the sidecar is back");
        waits_for(gone(), false).expect_err("it may be a wrong address");
    }

    #[test]
    fn where_nobody_watches_any_more_nothing_is_waited_for() {
        let (sender, changes) = sync_channel(1);
        drop(sender);
        next(&changes).expect_err("nobody tells of changes");
    }
}
