//! The report to a subscriber: the masters connected here, and every change.

use std::sync::Arc;
use std::time::Duration;

use rmpv::Value;
use tokio::select;
use tokio::sync::broadcast::error::RecvError;
use tokio::sync::watch;
use tokio::time::timeout;

use super::RegisterState;
use crate::model::{Master, Revision};
use crate::store::{ChangesSince, MasterEntry, PageLimit, Snapshot};
use crate::tunnel::upstream::Report;
use crate::tunnel::value::memory_size;
use crate::tunnel::{CloseReason, Handle, Message, SendError};

/// The size of one piece: values, and their approximate memory. A subscriber has room for twice as much.
const PIECE_VALUES: usize = 512;
const PIECE_BYTES: usize = 4 * 1024 * 1024;

/// How many changes are sent before newer ones are read.
const PAGE_LIMIT: PageLimit = PageLimit { changes: 1_024, bytes: usize::MAX };

/// How long a subscriber may take to accept a piece. A healthy one accepts it at once.
const TAKE_TIMEOUT: Duration = Duration::from_secs(60);

/// Reports masters to a subscriber, at its own pace if it requests that.
pub(super) struct Reporter<'h> {
    handle: &'h Handle,
    uuid: String,
    /// The last piece that the subscriber accepted; none: it accepts everything as it comes.
    took: Option<watch::Receiver<u64>>,
    /// The number of the last piece, and how much of the next one has been sent.
    piece: u64,
    values: usize,
    bytes: usize,
}

impl<'h> Reporter<'h> {
    pub(super) fn new(handle: &'h Handle, uuid: String, took: Option<watch::Receiver<u64>>) -> Self {
        Self { handle, uuid, took, piece: 0, values: 0, bytes: 0 }
    }

    async fn put(&mut self, master: &Arc<Master>, is_expected: bool) -> Result<(), CloseReason> {
        let data = Report::Put { master: master.clone(), is_expected, unreadable: 0 }.encode();
        // What it takes where it is received, until it is taken in.
        let bytes = memory_size(&data);
        if self.values >= PIECE_VALUES || self.bytes + bytes > PIECE_BYTES {
            self.end_piece().await?;
        }
        self.bytes += bytes;
        if self.send(data).await? {
            return Ok(());
        }
        tracing::warn!(
            master = master.id,
            "a master is too large or too deep for the sidecars that follow this one; left it out"
        );
        self.send(Report::LeftOut(master.id.clone()).encode()).await.map(drop)
    }

    /// Sends a small report.
    async fn report(&mut self, report: Report) -> Result<(), CloseReason> {
        if self.values >= PIECE_VALUES {
            self.end_piece().await?;
        }
        self.send(report.encode()).await.map(drop)
    }

    /// Ends a piece, and waits until the subscriber has accepted it.
    async fn end_piece(&mut self) -> Result<(), CloseReason> {
        self.piece += 1;
        (self.values, self.bytes) = (0, 0);
        if self.took.is_some() {
            self.send(Report::Piece(self.piece).encode()).await?;
        }
        let Some(took) = &mut self.took else { return Ok(()) };
        match timeout(TAKE_TIMEOUT, took.wait_for(|took| *took >= self.piece)).await {
            Ok(taken) => taken.map(drop).map_err(|_| CloseReason::Closed),
            Err(_) => {
                tracing::warn!("closed a sidecar that follows this one: it took no piece within {TAKE_TIMEOUT:?}");
                self.handle.close();
                Err(CloseReason::Closed)
            }
        }
    }

    /// False: it is too large to be sent.
    async fn send(&mut self, data: Value) -> Result<bool, CloseReason> {
        self.values += 1;
        let message = Message::Data { uuid: self.uuid.clone(), data };
        match self.handle.send_when_room(message).await {
            Err(SendError::Ended(ended)) => Err(ended),
            sent => Ok(sent.is_ok()),
        }
    }
}

/// A master known to the register itself, and whether it was there before a restart and is not back yet.
type Known = (Arc<Master>, bool);

fn known(entry: &MasterEntry, own: usize) -> Option<Known> {
    Some((entry.told_by(own)?.clone(), entry.is_expected_by(own)))
}

/// What to report next: the only data kept while it is sent, however long the subscriber takes.
struct News {
    /// Whether it replaces everything reported before.
    is_whole: bool,
    /// By id; none: it is gone.
    masters: Vec<(Arc<str>, Option<Known>)>,
    upto: Revision,
    /// Whether there is no more.
    is_all: bool,
}

impl News {
    fn since(since: Revision, snapshot: &Snapshot, own: usize) -> Self {
        let revision = snapshot.revision();
        match snapshot.masters_since(since, PAGE_LIMIT) {
            ChangesSince::Unknown => {
                let all = snapshot.directory().masters("");
                let masters = all.filter_map(|(id, entry)| Some((id.clone(), Some(known(entry, own)?))));
                Self { is_whole: true, masters: masters.collect(), upto: revision, is_all: true }
            }
            ChangesSince::Known { changes, upto } => {
                let masters = changes.into_iter().map(|(id, _, entry)| (id, entry.and_then(|it| known(&it, own))));
                Self { is_whole: false, masters: masters.collect(), upto, is_all: upto == revision }
            }
        }
    }
}

/// Reports the masters connected here, and then every change.
pub(super) async fn follow(
    state: &RegisterState,
    reporter: &mut Reporter<'_>,
    mut asked: watch::Receiver<Option<Duration>>,
) -> Result<(), CloseReason> {
    let own = state.publisher.number();
    let subscription = state.publisher.subscribe_to_masters();
    let mut commands = state.publisher.commands();
    let (mut since, mut proven, mut was_settling) = (0, None, false);
    loop {
        // Before the snapshot, which then is no older than the question.
        let question = *asked.borrow_and_update();
        let snapshot = state.publisher.snapshot();
        let is_settling = snapshot.progress()[own].settling;
        let news = News::since(since, &snapshot, own);
        if news.is_whole {
            reporter.report(Report::Reset).await?;
            was_settling = false;
        }
        if is_settling && !was_settling {
            reporter.report(Report::Settling(true)).await?;
            was_settling = true;
        }
        for (id, master) in news.masters {
            match master {
                Some((master, is_expected)) => reporter.put(&master, is_expected).await?,
                None => reporter.report(Report::Drop(id.as_ref().into())).await?,
            }
        }
        if news.is_whole {
            reporter.report(Report::Whole).await?;
        }
        since = news.upto;
        if !news.is_all {
            continue;
        }
        if was_settling && !is_settling {
            reporter.report(Report::Settling(false)).await?;
            was_settling = false;
        }
        if let Some(at) = question.filter(|_| question != proven) {
            reporter.report(Report::Proven(at)).await?;
            proven = question;
        }
        select! {
            Ok(()) = asked.changed() => {}
            () = subscription.changed() => {}
            command = commands.recv() => pass_on(command, reporter.handle),
        }
    }
}

/// Passes on a command that is sent to masters.
fn pass_on(command: Result<Value, RecvError>, handle: &Handle) {
    let sent = command
        .map_err(|error| error.to_string())
        .and_then(|command| handle.send(Message::Other(command)).map_err(|error| error.to_string()));
    if let Err(why) = sent {
        tracing::warn!(why, "cannot pass a command about registers on to a sidecar that follows this one");
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tunnel::{Bounds, Conversation, Settings, Wire};

    #[tokio::test(start_paused = true)]
    async fn who_does_not_take_a_piece_is_closed() {
        let (here, _there) = tokio::io::duplex(4096);
        let wire = Wire::new(here, Bounds::DEFAULT);
        let mut settings = Settings::default();
        settings.ping_interval = 2 * TAKE_TIMEOUT;
        let (handle, _incoming, conversation) = Conversation::new(wire, settings);
        let conversation = tokio::spawn(conversation.run());
        let took = watch::Sender::new(0);
        let mut reporter = Reporter::new(&handle, "all".into(), Some(took.subscribe()));
        assert_eq!(reporter.end_piece().await, Err(CloseReason::Closed));
        assert_eq!(conversation.await.expect("it ends"), CloseReason::Closed);
    }
}
