//! The report to a subscriber: the masters connected here, and every change.

use std::sync::Arc;
use std::time::Duration;

use rmpv::Value;
use tokio::select;
use tokio::sync::broadcast::error::RecvError;
use tokio::sync::watch;
use tokio::task::yield_now;
use tokio::time::timeout;

use super::RegisterState;
use super::reported::Reported;
use crate::model::{Master, Revision};
use crate::store::{ChangesSince, MasterEntry, PageLimit, Snapshot};
use crate::tunnel::upstream::{PIECE_BYTES, Report};
use crate::tunnel::{CloseReason, Handle, Message, PackedFrame, SendError};

/// The most values of one piece.
const PIECE_VALUES: usize = 512;

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
    /// How much memory it has for what it has not accepted.
    room: usize,
    reported: Arc<Reported>,
    /// The number of the last piece, and how much of the next one has been sent.
    piece: u64,
    values: usize,
    bytes: usize,
}

impl<'h> Reporter<'h> {
    pub(super) fn new(
        handle: &'h Handle,
        uuid: String,
        took: Option<watch::Receiver<u64>>,
        room: usize,
        reported: &Arc<Reported>,
    ) -> Self {
        Self { handle, uuid, took, room, reported: reported.clone(), piece: 0, values: 0, bytes: 0 }
    }

    async fn put(&mut self, master: &Arc<Master>, is_expected: bool) -> Result<(), CloseReason> {
        // There may be thousands, and no wait between them.
        yield_now().await;
        if self.send(&Report::Put { master: master.clone(), is_expected, unreadable: 0 }).await? {
            return Ok(());
        }
        tracing::warn!(
            master = master.id,
            "a master is too large or too deep for the sidecars that follow this one; left it out"
        );
        self.report(Report::LeftOut(master.id.clone())).await
    }

    /// Sends a small report.
    async fn report(&mut self, report: Report) -> Result<(), CloseReason> {
        self.send(&report).await.map(drop)
    }

    /// Sends a report, in the next piece if this one has no room for it. False: it is too large to be sent.
    async fn send(&mut self, report: &Report) -> Result<bool, CloseReason> {
        loop {
            let Some((frame, bytes)) = self.pack(report).await else { return Ok(false) };
            if self.values == 0 || (self.values < PIECE_VALUES && self.bytes + bytes <= PIECE_BYTES) {
                self.values += 1;
                self.bytes += bytes;
                return self.push(frame).await;
            }
            // Again afterwards: nothing is kept of it however long the subscriber takes.
            drop(frame);
            self.end_piece().await?;
        }
    }

    /// Ends a piece, and waits until the subscriber has accepted it.
    async fn end_piece(&mut self) -> Result<(), CloseReason> {
        self.piece += 1;
        (self.values, self.bytes) = (0, 0);
        if self.took.is_some()
            && let Some((piece, _)) = self.pack(&Report::Piece(self.piece)).await
        {
            self.push(piece).await?;
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

    /// A report, and how much memory it takes where it is received. None: it is too large to be sent.
    async fn pack(&self, report: &Report) -> Option<(PackedFrame, usize)> {
        let uuid = self.uuid.clone();
        let frame = match report {
            Report::Put { master, is_expected, .. } => {
                let (handle, put) = (self.handle.clone(), report.clone());
                let pack = move || handle.share_value(&put.encode()).ok();
                let put = self.reported.get(master, *is_expected, pack).await?;
                self.handle.pack_shared(uuid, &put)
            }
            report => self.handle.pack(Message::Data { uuid, data: report.encode() }),
        };
        let frame = frame.ok()?;
        let bytes = frame.memory_size();
        (bytes < self.room).then_some((frame, bytes))
    }

    async fn push(&self, frame: PackedFrame) -> Result<bool, CloseReason> {
        match self.handle.send_packed(frame).await {
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
    use tokio::io::AsyncReadExt;

    use super::*;
    use crate::model::Service;
    use crate::tunnel::upstream::{FOLLOWER_ROOM, MIN_ROOM};
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
        let mut reporter = Reporter::new(&handle, "all".into(), Some(took.subscribe()), MIN_ROOM, &Arc::default());
        assert_eq!(reporter.end_piece().await, Err(CloseReason::Closed));
        assert_eq!(conversation.await.expect("it ends"), CloseReason::Closed);
    }

    #[tokio::test]
    async fn each_subscriber_receives_the_bytes_of_its_own_report_of_a_master_that_is_packed_once() {
        let deep = (0..10).fold(Value::Nil, |inner, key| Value::Map(vec![(key.into(), Value::Array(vec![inner]))]));
        let map = |value: Value| Value::Map(vec![("x".into(), value)]);
        let odd = [
            Value::Nil,
            Value::Array(Vec::new()),
            Value::Map(Vec::new()),
            map(Value::Nil),
            map(deep),
            map(Value::Binary(vec![0xff, 0])),
            map(Value::Ext(-1, vec![0; 300])),
            map(Value::Array(vec![Value::Nil; 16_000])),
            map(Value::Array(vec![i64::MIN.into(), u64::MAX.into(), 1.5f32.into(), f64::NAN.into(), true.into()])),
            Value::Map(vec![("version".into(), 2.into()), (7.into(), "ü".repeat(70).into())]),
        ];
        let service = |(number, metadata): (usize, Value)| Service {
            name: if number == 0 { "s@1.2".into() } else { format!("s{number}") },
            metadata: metadata.into(),
        };
        let services = odd.into_iter().enumerate().map(service).collect();
        let master = Arc::new(Master { id: "m".into(), peer_address: "::1".into(), connected_at: 7, services });
        let reported = Arc::<Reported>::default();
        for is_expected in [false, true] {
            for uuid in ["u".to_owned(), "u".repeat(300)] {
                let (here, mut there) = tokio::io::duplex(1_000_000);
                let (handle, _incoming, conversation) =
                    Conversation::new(Wire::new(here, Bounds::DEFAULT), Settings::default());
                let _conversation = tokio::spawn(conversation.run());
                let mut reporter = Reporter::new(&handle, uuid.clone(), None, MIN_ROOM, &reported);
                assert_eq!(reporter.put(&master, is_expected).await, Ok(()));
                let data = Report::Put { master: master.clone(), is_expected, unreadable: 0 }.encode();
                let expected = Message::Data { uuid, data }.encode();
                let mut received = vec![0; expected.len()];
                let read = timeout(TAKE_TIMEOUT, there.read_exact(&mut received)).await;
                assert!(read.is_ok_and(|read| read.is_ok()) && received == expected);
            }
            let kept = reported.get(&master, is_expected, || panic!("it was packed"));
            assert!(kept.await.is_some());
        }
    }

    #[tokio::test(start_paused = true)]
    async fn the_largest_master_reaches_a_slow_subscriber_and_is_left_out_where_there_is_no_room_for_it() {
        let many = Value::Map(vec![("x".into(), Value::Array(vec![Value::Nil; 16_000]))]);
        let service = |number: usize| Service { name: format!("s{number}"), metadata: many.clone().into() };
        let services = (0..16).map(service).collect();
        let master = Arc::new(Master { id: "m".into(), peer_address: String::new(), connected_at: 0, services });
        let put = Report::Put { master: master.clone(), is_expected: false, unreadable: 0 };
        for (room, expected) in [(FOLLOWER_ROOM, put), (MIN_ROOM, Report::LeftOut("m".into()))] {
            let begin = |stream| {
                let mut settings = Settings::default();
                settings.stream_bytes = room;
                let (handle, incoming, conversation) = Conversation::new(Wire::new(stream, Bounds::DEFAULT), settings);
                tokio::spawn(conversation.run());
                (handle, incoming)
            };
            let (here, there) = tokio::io::duplex(4096);
            let ((handle, mut incoming), (subscriber, _incoming)) = (begin(here), begin(there));
            let mut stream = subscriber.open(None, |uuid| Message::List { uuid }).expect("room to ask");
            let Some(Message::List { uuid }) = incoming.recv().await.map(|asked| asked.into_message()) else {
                panic!("nothing asked")
            };
            let took = watch::Sender::new(0);
            let mut reporter = Reporter::new(&handle, uuid, Some(took.subscribe()), room, &Arc::default());
            let report = async {
                reporter.put(&master, false).await?;
                reporter.report(Report::Whole).await
            };
            let take = async {
                // All that is sent without a wait has arrived by then.
                tokio::time::sleep(Duration::from_secs(1)).await;
                let mut taken = Vec::new();
                loop {
                    match Report::decode(stream.next().await.expect("there is room").expect("a report")) {
                        Ok(Report::Piece(piece)) => drop(took.send_replace(piece)),
                        Ok(Report::Whole) => return taken,
                        report => taken.push(report),
                    }
                }
            };
            let (reported, taken) = tokio::join!(report, take);
            assert_eq!(reported, Ok(()));
            assert!(taken == [Ok(expected)], "with room for {room}");
        }
    }
}
