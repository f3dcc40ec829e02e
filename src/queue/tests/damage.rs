//! Damage: one entry harms no others, and a file of which nothing can be read begins anew.

use std::fs::{self, OpenOptions};
use std::os::unix::fs::{FileExt, PermissionsExt};

use super::super::engine::{file_in, log_in};
use super::super::keys;
use super::live::start;
use super::*;

#[test]
fn a_damaged_job_keeps_no_other_from_being_performed() {
    let mut queue = Fixture::new(Config::default());
    let ids = ["a", "b", "c"].map(|name| queue.enqueue(job("mail", name)));
    queue.damage(&keys::job(ids[0]));
    queue.damage(&keys::body(ids[1]));
    assert_eq!(queue.take("mail").map(|job| job.id), Some(ids[2]));
    assert_eq!(queue.take("mail"), None);
    let overview = queue.overview("mail");
    assert_eq!((overview.waiting, overview.running, overview.dead), (0, 1, 1));
    let dead = queue.change(|change| change.find(ids[1])).expect("it is dead");
    assert_eq!(dead.error.as_deref(), Some("its name and its payload were damaged"));
    // Retried, it is not performed either.
    queue.change(|change| change.retry("mail", ids[1])).expect("it is dead");
    assert_eq!(queue.take("mail"), None);
    assert_eq!(queue.change(|change| change.control("mail", Control::Purge(Order::Dead))), Ok((1, false)));
    assert_eq!(queue.overview("mail").dead, 0);
}

#[test]
fn a_sound_job_is_handed_out_though_a_damaged_one_was_cancelled_beside_it() {
    let mut queue = Fixture::new(Config::default());
    let ids = ["a", "b"].map(|name| queue.enqueue(job("mail", name)));
    queue.damage(&keys::body(ids[0]));
    let paid = queue.take("mail").expect("the sound one");
    queue.update(&paid, Update::Release { delay: Duration::ZERO }).expect("it has the lease");
    queue.change(|change| change.cancel(ids[0])).expect("nobody performs it");
    assert_eq!(queue.overview("mail").waiting, 1);
    assert_eq!(queue.take("mail").map(|job| job.id), Some(ids[1]));
}

#[test]
fn no_folder_is_taken_from_others_who_have_files_in_it() {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("shared");
    let mode = || fs::metadata(&path).expect("a folder").permissions().mode() & 0o7777;
    let open = || Engine::open(&path, &Config::default()).map(drop).map_err(|why| why.to_string());
    let share = || fs::set_permissions(&path, fs::Permissions::from_mode(0o1777)).expect("a mode");
    fs::create_dir(&path).expect("a folder");
    share();
    open().expect("nobody has anything in it");
    assert_eq!(mode(), 0o700);
    share();
    open().expect("it has the files of the queues");
    fs::write(path.join("other"), "").expect("written");
    open().expect("nobody else may enter it");
    share();
    let why = open().expect_err("it is another's");
    assert!(why.contains("has \"other\"") && why.contains("`queue.path`"), "{why}");
    assert_eq!(mode(), 0o1777);
    let file = path.join("other");
    let why = Engine::open(&file, &Config::default()).map(drop).expect_err("it is a file").to_string();
    assert!(why.contains("it is a file; name a folder"), "{why}");
}

#[test]
fn what_is_told_of_damaged_queues_names_none_as_everybody_is_told() {
    let mut queue = Fixture::new(Config::default());
    for name in ["secret", "mail"] {
        queue.enqueue(job(name, "a"));
        queue.damage(&keys::queue(name));
    }
    queue.reopen();
    let told = queue.opened.as_ref().and_then(|(_, book)| book.damage.clone()).expect("it is told");
    assert_eq!(told, "what it said of 2 of the queues was damaged: their jobs are there, and they are not paused");
}

#[test]
fn the_key_of_a_damaged_job_is_free() {
    let mut queue = Fixture::new(Config::default());
    let first = queue.enqueue(unique("mail", "user 7"));
    queue.damage(&keys::job(first));
    for take in [false, true] {
        if take {
            assert_eq!(queue.take("mail").map(|job| job.name), Some("a".to_owned()));
        }
        let enqueued = queue.change(|change| change.enqueue(&[unique("mail", "user 7")], WEB)).expect("room")[0];
        assert_ne!(enqueued.id, first);
    }
}

#[test]
fn a_damaged_entry_of_a_unique_key_stops_no_queue_and_no_request() {
    let config = Config { keep_dead: Duration::from_secs(60), ..Config::default() };
    let mut queue = Fixture::new(config);
    let ids = ["lost", "old"].map(|key| queue.enqueue(unique("mail", key)));
    let number = queue.change(|change| Ok(change.number_of("mail")?)).expect("a queue");
    for key in ["lost", "old"] {
        queue.damage(&keys::unique(number, key));
    }
    let old = queue
        .change(|change| change.take(None, &vec!["mail".to_owned()].into(), MANY, None))
        .expect("jobs")
        .pop()
        .expect("two");
    queue.update(&old, Update::Bury { error: String::new() }).expect("it has the lease");
    // The other one is lost three times, and both are forgotten later.
    for _ in 0..3 {
        queue.now += 60_000;
        queue.take("mail");
    }
    queue.now += 60_000;
    assert_eq!(ids.map(|id| queue.state(id)), [None, None]);
    queue.enqueue(unique("mail", "new"));
    queue.damage(&keys::unique(number, "new"));
    let both = [job("mail", "x"), unique("mail", "new")];
    let enqueued = queue.change(|change| change.enqueue(&both, WEB)).expect("all of them");
    assert!(enqueued.iter().all(|it| it.is_new));
}

#[test]
fn what_is_damaged_of_queues_and_users_is_counted_again() {
    for of_user in [false, true] {
        let mut queue = Fixture::new(Config::default());
        let ids = ["a", "b", "c", "d"].map(|name| queue.enqueue(job("mail", name)));
        queue.enqueue(job("other", "x"));
        let first = queue.take("mail").expect("a job");
        queue.update(&first, Update::Bury { error: String::new() }).expect("it has the lease");
        let running = queue.take("mail").expect("a job");
        // How many came lately is not in the file.
        let overview = Overview { enqueued_recently: Some(0), ..queue.overview("mail") };
        let before = (overview, queue.opened.as_ref().expect("it is open").1.total);
        queue.damage(&if of_user { keys::user(WEB.uid) } else { keys::queue("mail") });
        queue.reopen();
        let after = (queue.overview("mail"), queue.opened.as_ref().expect("it is open").1.total);
        assert_eq!(after, before);
        assert_eq!(queue.update(&running, Update::Done), Ok(None));
        assert_eq!(queue.take("mail").map(|job| job.id), Some(ids[2]));
        queue.reopen();
        assert_eq!(queue.opened.as_ref().expect("it is open").1.damage, None, "it was mended");
        assert_eq!(queue.enqueue(job("new", "x")), ids[3] + 2, "the numbers go on");
    }
}

#[test]
fn jobs_of_queues_whose_numbers_are_lost_are_found_in_others() {
    let mut queue = Fixture::new(Config::default());
    let ids = ["mail", "img"].map(|name| queue.enqueue(job(name, "a")));
    for key in [keys::queue("mail"), keys::queue("img"), keys::META.to_vec()] {
        queue.damage(&key);
    }
    queue.reopen();
    let names = ["recovered-1", "recovered-2"];
    assert_eq!(names.map(|name| queue.take(name).map(|job| job.id)), ids.map(Some));
    assert_eq!(["mail", "img"].map(|name| queue.overview(name).waiting), [0, 0]);
    assert!(queue.enqueue(job("mail", "b")) > ids[1], "no number is used again");
    queue.reopen();
    assert_eq!(queue.take("mail").map(|job| job.name), Some("b".to_owned()));
}

#[test]
fn jobs_of_a_queue_that_is_not_there_stop_no_other_and_are_found_at_the_next_start() {
    let mut queue = Fixture::new(Config::default());
    let ids = ["a", "b"].map(|name| queue.enqueue(job("mail", name)));
    let other = queue.enqueue(job("img", "x"));
    assert_eq!(queue.take("mail").map(|job| job.id), Some(ids[0]));
    // As it is where a bit of the key is another one.
    queue.change(|change| Ok(change.txn.delete(&keys::queue("mail"))?)).expect("written");
    let book = &mut queue.opened.as_mut().expect("it is open").1;
    let number = book.names.remove("mail").expect("a queue");
    book.queues.remove(&number);
    queue.now += DAY;
    assert_eq!(queue.take("img").map(|job| job.id), Some(other), "a lease of the lost one has ended");
    queue.reopen();
    let name = format!("recovered-{number}");
    let found = [queue.take(&name), queue.take(&name)].map(|job| job.map(|job| job.id));
    assert_eq!(found.into_iter().collect::<Option<BTreeSet<_>>>(), Some(ids.into()));
}

#[test]
fn what_a_vanished_job_was_charged_is_free_after_the_next_start() {
    let mut queue = Fixture::new(Config::default());
    let ids = ["a", "b"].map(|name| queue.enqueue(job("mail", name)));
    let one = queue.overview("mail").bytes / 2;
    queue.damage(&keys::job(ids[0]));
    queue.take("mail").expect("the sound one");
    queue.reopen();
    assert_eq!(queue.overview("mail").bytes, one);
    assert_eq!(queue.opened.as_ref().expect("it is open").1.total.jobs, 1);
}

#[test]
fn whatever_single_entry_is_damaged_all_other_jobs_are_handed_out() {
    let prepare = || {
        let mut queue = Fixture::new(Config::default());
        let ids: Vec<JobId> = (0..3).map(|nth| queue.enqueue(unique("mail", &nth.to_string()))).collect();
        let delayed = queue.enqueue(NewJob { delay: Duration::from_secs(1), ..job("mail", "later") });
        queue.take("mail").expect("a job");
        (queue, ids, delayed)
    };
    let keys_of = |queue: &mut Fixture| {
        let all = queue.change(|change| {
            let of = |kind: u8| change.txn.keys(&[kind]).collect::<Result<Vec<_>, EngineError>>();
            Ok(b"mqujpwlrdk".iter().map(|kind| of(*kind)).collect::<Result<Vec<_>, _>>()?.concat())
        });
        all.expect("it is sound")
    };
    let keys = keys_of(&mut prepare().0);
    assert!(keys.len() > 14, "{}", keys.len());
    for key in keys {
        for is_reopened in [false, true] {
            let (mut queue, ids, delayed) = prepare();
            assert!(keys_of(&mut queue).contains(&key));
            queue.damage(&key);
            if is_reopened {
                queue.reopen();
            }
            let mut found = BTreeSet::new();
            for _ in 0..3 {
                queue.now += 60_000;
                found.extend(std::iter::from_fn(|| queue.take("mail")).map(|job| job.id));
            }
            let of_job = ids.iter().chain([&delayed]).filter(|id| !found.contains(id)).count();
            let is_own = [keys::JOBS, b"p"].iter().any(|kind| key.starts_with(kind));
            assert_eq!(of_job, usize::from(is_own), "{:?}, {is_reopened}", String::from_utf8_lossy(&key));
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_damaged_file_is_set_aside_and_told_and_the_queues_begin_anew() {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("queue");
    let write = |at: u64, bytes: &[u8]| {
        OpenOptions::new().write(true).open(file_in(&path)).expect("a file").write_all_at(bytes, at).expect("written");
    };
    let length = || fs::metadata(file_in(&path)).expect("a file").len();
    let damages: [&dyn Fn(); 3] = [
        &|| drop(OpenOptions::new().write(true).open(file_in(&path)).map(|file| file.set_len(length() / 2))),
        &|| (0..length() / 4_096).for_each(|page| write(page * 4_096 + 10, &[255; 6])),
        &|| write(0, &[7; 8_192]),
    ];
    for (nth, damage) in damages.iter().enumerate() {
        let (tasks, _failed) = Tasks::new();
        let queues = start(&path, &tasks);
        let jobs = vec![job("mail", "a"); 300];
        let first = queues.enqueue(WEB, jobs.clone()).await.expect("there is room");
        assert!(tasks.stop(Duration::from_secs(30)).await.is_empty());
        damage();
        let log = fs::read(log_in(&path)).expect("a log");
        let (tasks, _failed) = Tasks::new();
        let queues = start(&path, &tasks);
        let second = queues.enqueue(WEB, jobs).await.expect("it begins anew");
        assert!(second[0].id > first[299].id, "no number is used again");
        assert_eq!(queues.totals().waiting, 300, "{nth}");
        let told = queues.trouble(|_| true).expect("it is told");
        assert!(told.contains("set aside") && told.contains("jobs.mdb.set-aside-"), "{told}");
        let (_, number) = told.split_once("jobs.mdb.set-aside-").expect("just seen");
        let number = &number[..number.find(',').expect("a sentence")];
        let aside = path.join(format!("jobs.log.set-aside-{number}"));
        assert!(fs::read(aside).expect("its log") == log, "what was acknowledged last is in it");
        assert!(tasks.stop(Duration::from_secs(30)).await.is_empty());
    }
    let aside = fs::read_dir(&path)
        .expect("a folder")
        .filter(|entry| entry.as_ref().is_ok_and(|entry| entry.file_name().to_string_lossy().contains("set-aside")));
    assert_eq!(aside.count(), 6);
    for (file, mode) in [(path.clone(), 0o700), (file_in(&path), 0o600), (log_in(&path), 0o600)] {
        let found = fs::metadata(&file).expect("it is there").permissions().mode() & 0o777;
        assert_eq!(found, mode, "payloads may be secret: {}", file.display());
    }
}

#[test]
fn no_damage_of_a_page_ends_the_process_and_where_the_file_opens_few_jobs_are_lost() {
    let mut random = fastrand::Rng::with_seed(19);
    let mut queue = Fixture::new(Config::default());
    for number in 0..100 {
        queue.enqueue(NewJob { payload: vec![7; number * 60], ..job("mail", "a") });
    }
    queue.take("mail").expect("a job");
    let (now, later) =
        (queue.time(), Now { wall: queue.now + DAY, since_boot: queue.now + DAY, uptime: queue.now + DAY });
    queue.opened = None;
    let folder = queue.folder.path().join("queue");
    let (file, config) = (file_in(&folder), Config::default());
    let whole = fs::read(&file).expect("a file");
    let (mut refused, mut opened) = (0, 0);
    for _ in 0..80 {
        let mut damaged = whole.clone();
        for _ in 0..=random.usize(..4) {
            let at = random.usize(..damaged.len());
            damaged[at] ^= 1 << random.u8(..8);
        }
        fs::write(&file, &damaged).expect("written");
        let Ok(mut engine) = Engine::open(&folder, &config) else {
            refused += 1;
            continue;
        };
        opened += 1;
        let mut txn = engine.begin().expect("a transaction");
        let mut book = Book::load(&txn, now, &HashMap::new()).expect("no entry keeps it from being opened");
        let mut tally = Tally::default();
        let mut change = Change {
            txn: &mut txn,
            book: &mut book,
            config: &config,
            now: later,
            has_room: true,
            tally: &mut tally,
            looks: Looks::default(),
        };
        change.tick(later.uptime).expect("no entry stops the rest");
        let taken = change.take(None, &vec!["mail".to_owned()].into(), MANY, None).expect("no entry stops the rest");
        assert!(taken.len() >= 95, "{} of 100", taken.len());
        let purged = change.control("mail", Control::Purge(Order::Running)).expect("no entry stops the rest");
        assert_eq!(purged, (taken.len(), false));
    }
    assert!(refused > 0 && opened > 20, "{refused} and {opened}");
}
