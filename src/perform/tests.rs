//! A process that answers what the test wants, or nothing.

use tempfile::TempDir;
use tokio::time::Duration;

use super::*;
use crate::access::{Client, Policy, Rule};
use crate::queue::{Asker, Config, Holder, NewJob, Performed, State, Unique, Until};
use crate::tunnel::value::{get, text_in};
use crate::tunnel::worker::CallsUnderWay;
use crate::tunnel::{Bounds, Conversation, Handle, Incoming, Message, RemoteError, Settings, Wire};

const SOON: Duration = Duration::from_secs(60);
const ROOT: Asker = Asker { uid: Some(0), is_admin: true };

/// Queues, and a process that performs their jobs.
struct Scene {
    queues: Arc<Queues>,
    calls: Arc<CallsUnderWay>,
    /// None: its connection has ended.
    process: Option<(Handle, Incoming)>,
    life: watch::Sender<bool>,
    ready: watch::Sender<bool>,
    end: watch::Sender<Option<End>>,
    _performers: mpsc::UnboundedSender<Performer>,
    said: mpsc::UnboundedSender<OfJobs>,
    _folder: TempDir,
}

impl Scene {
    /// How many jobs of each queue it may be handed at once: it is handed as many as the least of them.
    fn new(performed: &[(&str, usize)], settings: &Settings) -> Self {
        Self::with_rules(&[], performed, settings)
    }

    /// Of a user of no account.
    fn with_rules(rules: &[Rule], performed: &[(&str, usize)], settings: &Settings) -> Self {
        Self::of(true, rules, performed, settings)
    }

    fn of(is_ready: bool, rules: &[Rule], performed: &[(&str, usize)], settings: &Settings) -> Self {
        let folder = tempfile::tempdir_in("/dev/shm").expect("a folder");
        let (tasks, _failed) = Tasks::new();
        let config = Config { path: Some(folder.path().join("queue")), ..Config::default() };
        let queues = Queues::start(&config, &Arc::default(), &tasks).expect("a thread");
        let (here, there) = tokio::io::duplex(1 << 20);
        let converse = |stream, settings| {
            let (handle, incoming, conversation) = Conversation::new(Wire::new(stream, Bounds::DEFAULT), settings);
            tokio::spawn(conversation.run());
            (handle, incoming)
        };
        let (handle, mut incoming) = converse(here, settings.clone());
        tokio::spawn(async move { while incoming.recv().await.is_some() {} });
        let (calls, (life, lives)) = (Arc::<CallsUnderWay>::default(), watch::channel(false));
        let ((end, ended), (readiness, ready)) = (watch::channel(None), watch::channel(is_ready));
        let (says, said) = mpsc::unbounded_channel();
        for (queue, at_once) in performed {
            let (queue, at_once) = ((*queue).to_owned(), *at_once);
            says.send(OfJobs::Performs { queue, at_once, weight: None }).expect("it is heard");
        }
        let (performers, performing) = mpsc::unbounded_channel();
        let addressee = Addressee::of_tests(handle, calls.clone());
        let (user, groups) = (Client::Unix { uid: 33_033, gid: 33_033 }, Vec::new());
        let performer = Performer { addressee, pid: 4711, user, groups, said, life: lives, ended, ready };
        performers.send(performer).expect("it is heard");
        let access = Access::new(Policy::new(&Default::default(), rules).expect("nobody is named"));
        tokio::spawn(run(performing, queues.clone(), access, Pool::new(1 << 30, 1), tasks));
        let process = Some(converse(there, Settings::default()));
        let (said, ready) = (says, readiness);
        Self { queues, calls, process, life, ready, end, _performers: performers, said, _folder: folder }
    }

    async fn enqueue(&self, queue: &str, name: &str, timeout: Duration) -> JobId {
        let timeout = Some(timeout);
        let job = NewJob { queue: queue.into(), name: name.into(), timeout, ..NewJob::default() };
        self.queues.enqueue(ROOT, vec![job]).await.expect("there is room")[0].id
    }

    /// What the process hears next.
    async fn hears(&mut self) -> Message {
        let (_, incoming) = self.process.as_mut().expect("it is connected");
        timeout(SOON, incoming.recv()).await.expect("in time").expect("a message").into_message()
    }

    /// The job that it is handed next, with what it is answered by.
    async fn is_handed(&mut self) -> (String, String) {
        match self.hears().await {
            Message::Other(map) => (text_in(get(&map, "data").expect("a job"), "name"), text_in(&map, "uuid")),
            other => panic!("{other:?}"),
        }
    }

    async fn is_handed_nothing_for(&mut self, time: Duration) {
        let (_, incoming) = self.process.as_mut().expect("it is connected");
        if let Ok(heard) = timeout(time, incoming.recv()).await {
            panic!("{heard:?}");
        }
    }

    fn says(&self, message: Message) {
        self.process.as_ref().expect("it is connected").0.send(message).expect("there is room");
    }

    fn reports(&self, id: JobId, attempt: u64, progress: Option<(u64, String)>) {
        self.said.send(OfJobs::Of(JobReport { id, attempt, progress })).expect("it is heard");
    }

    fn has_done(&self, (_, uuid): (String, String)) {
        self.says(Message::End { uuid });
    }

    /// Waits until so many perform a queue.
    async fn is_performed(&self, queue: &str, workers: usize, clients: usize) {
        let until = Instant::now() + SOON;
        loop {
            let all = self.queues.overviews(ROOT, String::new(), 9, |_| true).await.expect("they are there");
            let performed = all.iter().find(|it| it.name == queue).map(|it| it.performed);
            if performed == Some(Performed { workers, clients }) {
                return;
            }
            assert!(Instant::now() < until, "{performed:?}");
            sleep(Duration::from_millis(5)).await;
        }
    }

    /// Waits until a job is like this; none: it is done.
    async fn becomes(&self, id: JobId, is: impl Fn(Option<&Job>) -> bool) {
        let until = Instant::now() + SOON;
        loop {
            let job = self.queues.find(ROOT, id, |_, _| true).await.ok();
            if is(job.as_ref()) {
                return;
            }
            assert!(Instant::now() < until, "{job:?}");
            sleep(Duration::from_millis(5)).await;
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn where_there_are_rules_a_process_is_handed_jobs_of_those_queues_alone_that_its_user_may_perform() {
    let rules: Vec<Rule> = vec![toml::from_str("user = \"*\"\nperform = [\"img*\"]").expect("a rule")];
    for (rules, handed) in [(&rules[..], vec!["thumbs"]), (&[], vec!["secret", "thumbs"])] {
        let mut scene = Scene::with_rules(rules, &[("mail", 9), ("img1", 9)], &Settings::default());
        scene.enqueue("mail", "secret", SOON).await;
        scene.enqueue("img1", "thumbs", SOON).await;
        let mut all = Vec::new();
        for _ in &handed {
            let job = scene.is_handed().await;
            all.push(job.0.clone());
            scene.has_done(job);
        }
        all.sort();
        assert_eq!(all, handed);
        scene.is_handed_nothing_for(Duration::from_millis(200)).await;
    }
}

fn waits_after(failures: u32) -> impl Fn(Option<&Job>) -> bool {
    move |job| job.is_some_and(|job| job.state == State::Waiting && job.failures == failures)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_process_that_hangs_is_handed_nothing_until_it_answers_and_keeps_what_it_has_not_begun_from_nobody() {
    let mut scene = Scene::new(&[("mail", 3)], &Settings::default());
    let hang = scene.enqueue("mail", "hang", Duration::from_millis(400)).await;
    let hanging = scene.is_handed().await;
    let others = [scene.enqueue("mail", "a", SOON).await, scene.enqueue("mail", "b", SOON).await];
    let handed = [scene.is_handed().await.1, scene.is_handed().await.1];
    for _ in 0..2 {
        match scene.hears().await {
            Message::Close { uuid } => assert!(handed.contains(&uuid), "it is withdrawn"),
            other => panic!("{other:?}"),
        }
    }
    scene.becomes(hang, waits_after(1)).await;
    for id in others {
        scene.becomes(id, waits_after(0)).await;
    }
    assert!(scene.calls.late_for().is_some(), "its supervisor knows");
    scene.is_handed_nothing_for(Duration::from_millis(1_500)).await;
    scene.has_done(hanging);
    let again = scene.is_handed().await;
    assert_eq!(again.0, "hang");
    assert_eq!(scene.calls.late_for(), None);
    scene.has_done(again);
    scene.becomes(hang, |job| job.is_none()).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_job_that_waits_in_a_process_has_all_of_its_time_once_it_is_begun() {
    let mut scene = Scene::new(&[("mail", 2)], &Settings::default());
    let most = Duration::from_millis(5_000);
    let ids = [scene.enqueue("mail", "a", most).await, scene.enqueue("mail", "b", most).await];
    let handed = [scene.is_handed().await, scene.is_handed().await];
    for (id, handed) in ids.into_iter().zip(handed) {
        sleep(most * 7 / 10).await;
        scene.has_done(handed);
        scene.becomes(id, |job| job.is_none_or(|job| job.failures > 0)).await;
        scene.becomes(id, |job| job.is_none()).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_process_has_a_job_for_as_long_as_it_says_that_it_takes_longer() {
    let mut scene = Scene::new(&[("mail", 1)], &Settings::default());
    let most = Duration::from_millis(4_000);
    let id = scene.enqueue("mail", "a", most).await;
    let handed = scene.is_handed().await;
    // What is said of an earlier attempt, or of another job, is of no job that it has.
    scene.reports(id, 2, Some((1, String::new())));
    scene.reports(id + 1, 1, None);
    for _ in 0..6 {
        sleep(most / 2).await;
        scene.reports(id, 1, None);
    }
    scene.becomes(id, |job| job.is_some_and(|job| job.attempt == 1 && job.progress.is_none())).await;
    assert_eq!(scene.calls.late_for(), None);
    scene.becomes(id, waits_after(1)).await;
    scene.has_done(handed);
    let again = scene.is_handed().await;
    scene.has_done(again);
    scene.becomes(id, |job| job.is_none()).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn how_far_a_job_is_can_be_asked_while_it_is_performed_however_often_that_is_said() {
    let mut scene = Scene::new(&[("mail", 1)], &Settings::default());
    let id = scene.enqueue("mail", "a", SOON).await;
    let handed = scene.is_handed().await;
    for said in 0..10_000 {
        scene.reports(id, 1, Some((said, "é".repeat(200))));
    }
    scene.reports(id, 1, Some((40, "4 of 10".to_owned())));
    let is_so_far = |job: Option<&Job>| {
        job.and_then(|job| job.progress.clone())
            .is_some_and(|it| (it.percent(), it.note()) == (40, "4 of 10") && it.reported_at() > 0)
    };
    scene.becomes(id, is_so_far).await;
    let (_, uuid) = handed;
    scene.says(Message::Error { uuid, error: RemoteError::of(Status::Failed, "no route") });
    scene.becomes(id, |job| job.is_some_and(|job| job.failures == 1 && job.progress.is_none())).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn it_is_known_how_many_perform_a_queue_and_which_process_has_which_job_until_it_has_ended() {
    let mut scene = Scene::new(&[("mail", 2)], &Settings::default());
    let ids = [scene.enqueue("mail", "a", SOON).await, scene.enqueue("mail", "b", SOON).await];
    let other = scene.enqueue("other", "c", SOON).await;
    let first = scene.is_handed().await;
    scene.is_handed().await;
    scene.is_performed("mail", 1, 0).await;
    scene.is_performed("other", 0, 0).await;
    let holder = Holder { worker: "mail/1".to_owned(), pid: 4711 };
    for id in ids {
        let job = scene.queues.find(ROOT, id, |_, _| true).await.expect("it runs");
        assert_eq!(scene.queues.holder_of(&job), Some(holder.clone()));
        let again = Job { attempt: job.attempt + 1, ..job };
        assert_eq!(scene.queues.holder_of(&again), None, "another one has it by then");
    }
    let has_begun = |id| scene.queues.begun().get(&4711).is_some_and(|it| (it.id, it.queue.as_str()) == (id, "mail"));
    scene.becomes(ids[0], |_| has_begun(ids[0])).await;
    let has = |id| scene.calls.performed().is_some_and(|it| (it.id, it.queue.as_str()) == (id, "mail"));
    scene.becomes(ids[0], |_| has(ids[0])).await;
    scene.has_done(first);
    scene.becomes(ids[1], |_| has_begun(ids[1]) && has(ids[1])).await;

    let most = Most { jobs: 1, bytes: 1 };
    let queues = scene.queues.clone();
    let take = move |wait| {
        let queues = queues.clone();
        async move { queues.take(Some(ROOT), vec!["other".to_owned()], most, None, wait).await }
    };
    let (taken, handed) = take(Duration::ZERO).await.expect("there is one");
    handed.have_arrived();
    assert_eq!((taken[0].id, scene.queues.holder_of(&taken[0])), (other, None));
    let asks = tokio::spawn(take(SOON));
    scene.is_performed("other", 0, 1).await;
    asks.abort();
    scene.is_performed("other", 0, 0).await;

    (scene.process, scene.life) = (None, watch::channel(false).0);
    scene.is_performed("mail", 0, 0).await;
    scene.becomes(ids[1], |_| scene.queues.begun().is_empty()).await;
    assert_eq!(scene.calls.performed().map(|it| it.id), Some(ids[1]), "it ended with that one");
}

#[tokio::test(flavor = "multi_thread")]
async fn it_is_known_at_once_that_a_busy_process_performs_one_more_queue() {
    let mut scene = Scene::new(&[("mail", 1)], &Settings::default());
    scene.enqueue("mail", "a", SOON).await;
    scene.enqueue("other", "b", SOON).await;
    scene.is_handed().await;
    scene.is_performed("other", 0, 0).await;
    let performs = OfJobs::Performs { queue: "other".into(), at_once: 1, weight: None };
    scene.said.send(performs).expect("it is heard");
    scene.is_performed("other", 1, 0).await;
    scene.is_performed("mail", 1, 0).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_process_is_handed_the_keys_of_a_job_and_the_time_for_which_it_recurs() {
    let mut scene = Scene::new(&[("mail", 1)], &Settings::default());
    let unique = Some(Unique { key: "u".to_owned(), until: Until::Success });
    let (limit_key, due_at) = (Some("l".to_owned()), Some(1_700_000_000_000));
    let job = NewJob { queue: "mail".into(), name: "a".into(), unique, limit_key, due_at, ..NewJob::default() };
    scene.queues.enqueue(ROOT, vec![job]).await.expect("there is room");
    let Message::Other(map) = scene.hears().await else { panic!("it is handed a job") };
    let data = get(&map, "data").expect("a job");
    assert_eq!(["uniqueKey", "limitKey"].map(|key| text_in(data, key)), ["u", "l"]);
    assert_eq!(get(data, "dueAt").and_then(Value::as_u64), due_at);
}

#[tokio::test(flavor = "multi_thread")]
async fn of_all_queues_of_a_process_that_dies_one_job_is_lost() {
    let mut scene = Scene::new(&[("img", 3), ("mail", 4)], &Settings::default());
    let begun = scene.enqueue("mail", "poison", SOON).await;
    assert_eq!(scene.is_handed().await.0, "poison");
    let others = [scene.enqueue("img", "a", SOON).await, scene.enqueue("mail", "b", SOON).await];
    for _ in others {
        scene.is_handed().await;
    }
    scene.process = None;
    scene.becomes(begun, waits_after(1)).await;
    for id in others {
        scene.becomes(id, waits_after(0)).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_job_says_by_which_signal_its_process_was_ended_also_where_that_is_known_later_than_its_connection_has_ended()
{
    for (end, says) in [(End::Killed(9), "; it was ended by SIGKILL"), (End::Exited(3), "")] {
        let mut scene = Scene::new(&[("mail", 1)], &Settings::default());
        let id = scene.enqueue("mail", "poison", SOON).await;
        scene.is_handed().await;
        scene.process = None;
        sleep(Duration::from_millis(20)).await;
        scene.end.send_replace(Some(end));
        scene.becomes(id, waits_after(1)).await;
        let error = scene.queues.find(ROOT, id, |_, _| true).await.expect("it waits").error.expect("it failed");
        assert!(error.starts_with("its worker is gone: ") && error.ends_with(says), "{error}");
        assert_eq!(error.contains("it was ended"), !says.is_empty(), "{error}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_process_that_a_job_ends_is_handed_nothing_more_however_long_it_still_lives() {
    for is_late in [false, true] {
        let mut scene = Scene::new(&[("mail", 2)], &Settings::default());
        let most = if is_late { Duration::from_millis(400) } else { SOON };
        let begun = scene.enqueue("mail", "poison", most).await;
        let (_, uuid) = scene.is_handed().await;
        let behind = scene.enqueue("mail", "behind", SOON).await;
        scene.is_handed().await;
        if is_late {
            scene.becomes(begun, waits_after(1)).await;
        }
        let error = RemoteError::thrown("it called exit()", Some(DEATH.to_owned()), 0);
        scene.says(Message::Error { uuid, error });
        scene.becomes(begun, waits_after(1)).await;
        assert!(matches!(scene.hears().await, Message::Close { .. }), "what waits behind it is withdrawn");
        scene.becomes(behind, waits_after(0)).await;
        scene.is_handed_nothing_for(RETRY_DELAY * 3 / 2).await;
        assert!(scene.calls.late_for().is_some(), "it is killed if it does not end");
        (scene.process, scene.life) = (None, watch::channel(false).0);
        let until = Instant::now() + SOON;
        while scene.calls.late_for().is_some() {
            assert!(Instant::now() < until);
            sleep(Duration::from_millis(5)).await;
        }
        assert_eq!(*scene.calls.jobs().borrow(), 0);
        scene.becomes(behind, waits_after(0)).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_process_that_closes_a_job_without_an_answer_has_failed_it_and_is_handed_the_next() {
    let mut scene = Scene::new(&[("mail", 1)], &Settings::default());
    let id = scene.enqueue("mail", "closed", SOON).await;
    let (_, uuid) = scene.is_handed().await;
    scene.says(Message::Close { uuid });
    scene.becomes(id, |job| job.is_some_and(|job| job.failures == 1)).await;
    let failed = scene.queues.find(ROOT, id, |_, _| true).await.expect("it is tried again");
    assert!(matches!(failed.state, State::Delayed { .. }), "{failed:?}");
    assert_eq!(scene.calls.late_for(), None);
    let next = scene.enqueue("mail", "next", SOON).await;
    let handed = scene.is_handed().await;
    scene.has_done(handed);
    scene.becomes(next, |job| job.is_none()).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_process_is_handed_no_job_before_it_is_ready_and_loses_none_where_it_ends_before() {
    let begins = || Scene::of(false, &[], &[("mail", 2)], &Settings::default());
    for is_ready in [true, false] {
        let mut scene = begins();
        // It would not last until the process is ready.
        let id = scene.enqueue("mail", "a", Duration::from_millis(50)).await;
        scene.is_handed_nothing_for(Duration::from_millis(400)).await;
        if is_ready {
            scene.ready.send_replace(true);
            let handed = scene.is_handed().await;
            scene.has_done(handed);
            scene.becomes(id, |job| job.is_none()).await;
        } else {
            (scene.process, scene.ready, scene.life) = (None, watch::channel(false).0, watch::channel(false).0);
            scene.becomes(id, |job| job.is_some_and(|job| (job.attempt, job.failures) == (0, 0))).await;
            assert!(!scene.calls.had_job());
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_process_dies_of_the_job_that_it_names_whatever_it_has_not_answered_yet() {
    let mut scene = Scene::new(&[("mail", 2)], &Settings::default());
    let ids = [scene.enqueue("mail", "done", SOON).await, scene.enqueue("mail", "poison", SOON).await];
    let [done, (_, uuid)] = [scene.is_handed().await, scene.is_handed().await];
    scene.end.send_replace(Some(End::Killed(9)));
    scene.says(Message::Error { uuid, error: RemoteError::thrown("it called exit()", Some(DEATH.to_owned()), 0) });
    scene.becomes(ids[1], waits_after(1)).await;
    let error = scene.queues.find(ROOT, ids[1], |_, _| true).await.expect("it waits").error;
    assert_eq!(error.as_deref(), Some("it called exit()"), "it says at once what it was, and waits for no signal");
    scene.has_done(done);
    scene.becomes(ids[0], |job| job.is_none()).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_job_is_not_lost_with_a_process_that_was_to_stop() {
    let mut scene = Scene::new(&[("mail", 1)], &Settings::default());
    let id = scene.enqueue("mail", "long", SOON).await;
    scene.is_handed().await;
    scene.life.send_replace(true);
    scene.process = None;
    scene.becomes(id, waits_after(0)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_process_has_no_job_of_a_queue_that_waits_behind_one_of_another() {
    let mut scene = Scene::new(&[("img", 1), ("mail", 20)], &Settings::default());
    let long = scene.enqueue("img", "long", SOON).await;
    let handed = scene.is_handed().await;
    let quick = scene.enqueue("mail", "quick", SOON).await;
    scene.is_handed_nothing_for(Duration::from_millis(300)).await;
    let waits = scene.queues.find(ROOT, quick, |_, _| true).await.expect("it waits");
    assert_eq!((waits.state, waits.attempt), (State::Waiting, 0), "for whoever is idle");
    scene.has_done(handed);
    scene.becomes(long, |job| job.is_none()).await;
    assert_eq!(scene.is_handed().await.0, "quick");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_process_has_no_job_behind_another_however_soon_it_is_done() {
    let mut scene = Scene::new(&[("mail", 1)], &Settings::default());
    for _ in 0..300 {
        scene.enqueue("mail", "a", SOON).await;
        scene.enqueue("other", "a", SOON).await;
    }
    for _ in 0..300 {
        let handed = scene.is_handed().await;
        scene.is_handed_nothing_for(Duration::from_millis(2)).await;
        scene.has_done(handed);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_job_that_may_take_next_to_no_time_can_wait_in_its_process() {
    let mut scene = Scene::new(&[("mail", 2)], &Settings::default());
    scene.enqueue("mail", "long", SOON).await;
    let short = scene.enqueue("mail", "short", Duration::from_millis(2)).await;
    let handed = [scene.is_handed().await, scene.is_handed().await];
    scene.is_handed_nothing_for(Duration::from_millis(300)).await;
    let waits = scene.queues.find(ROOT, short, |_, _| true).await.expect("it has not begun");
    assert_eq!((waits.attempt, waits.failures), (1, 0));
    handed.into_iter().rev().for_each(|handed| scene.has_done(handed));
    scene.becomes(short, |job| job.is_none()).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn queues_with_weights_take_turns_also_one_that_is_performed_later() {
    let mut scene = Scene::new(&[], &Settings::default());
    for _ in 0..12 {
        scene.enqueue("mail", "mail", SOON).await;
        scene.enqueue("img", "img", SOON).await;
    }
    for (queue, weight) in [("img", 1), ("mail", 3)] {
        let performs = OfJobs::Performs { queue: queue.into(), at_once: 1, weight: Some(weight) };
        scene.said.send(performs).expect("it is heard");
    }
    let mut mail = 0;
    for _ in 0..12 {
        let handed = scene.is_handed().await;
        mail += usize::from(handed.0 == "mail");
        scene.has_done(handed);
    }
    assert!((8..=10).contains(&mail), "{mail} of 12");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_report_is_repeated_until_it_is_written() {
    let mut scene = Scene::new(&[("mail", 1)], &Settings::default());
    let id = scene.enqueue("mail", "a", SOON).await;
    let handed = scene.is_handed().await;
    scene.queues.fail().await;
    scene.has_done(handed);
    let until = Instant::now() + SOON;
    while scene.queues.find(ROOT, id, |_, _| true).await != Err(Refused::NoJob(id)) {
        assert!(Instant::now() < until);
        sleep(Duration::from_millis(20)).await;
    }
    scene.is_handed_nothing_for(Duration::from_millis(100)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_job_that_no_process_can_be_sent_is_dead_and_says_why() {
    let mut settings = Settings::default();
    settings.queue_bytes = 32 << 10;
    let scene = Scene::new(&[("mail", 1)], &settings);
    let job = NewJob { queue: "mail".into(), name: "a".into(), payload: vec![7; 60_000], ..NewJob::default() };
    let id = scene.queues.enqueue(ROOT, vec![job]).await.expect("there is room")[0].id;
    scene.becomes(id, |job| job.is_some_and(|job| matches!(job.state, State::Dead { .. }))).await;
    let dead = scene.queues.find(ROOT, id, |_, _| true).await.expect("it is kept");
    assert!(dead.error.as_deref().is_some_and(|why| why.contains("register.max_message")), "{dead:?}");
    assert_eq!(dead.attempt, 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_process_that_refuses_jobs_is_left_alone_for_a_while_and_one_that_is_to_stop_for_ever() {
    let mut scene = Scene::new(&[("mail", 2)], &Settings::default());
    let id = scene.enqueue("mail", "a", SOON).await;
    let (_, uuid) = scene.is_handed().await;
    scene.says(Message::Error { uuid, error: RemoteError::of(Status::Refused, "the worker is leaving") });
    scene.is_handed_nothing_for(RETRY_DELAY / 2).await;
    scene.becomes(id, waits_after(0)).await;
    let (_, uuid) = scene.is_handed().await;
    scene.life.send_replace(true);
    scene.says(Message::End { uuid });
    scene.becomes(id, |job| job.is_none()).await;
    scene.enqueue("mail", "b", SOON).await;
    scene.is_handed_nothing_for(Duration::from_millis(300)).await;
}
