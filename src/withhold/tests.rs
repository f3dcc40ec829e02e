//! What is reported and drained is withheld, within the limits, and no longer than intended.

use std::collections::BTreeMap;
use std::time::UNIX_EPOCH;

use super::*;
use crate::format;
use crate::model::{Change, Format, Instance, Node, NodePath, Stat};
use crate::store::{Feed, Publisher};

const ROOT: &str = "/s";

struct House {
    store: Arc<Store>,
    publisher: Publisher,
    work: Work,
    withholder: Arc<Withholder>,
    commands: mpsc::Receiver<Command>,
    keeper: Keeper,
    folder: tempfile::TempDir,
}

fn path(text: &str) -> NodePath {
    NodePath::parse(text).expect("a path")
}

fn house(config: Config) -> House {
    house_in(tempfile::tempdir().expect("a folder"), config)
}

/// As after a start.
fn house_in(folder: tempfile::TempDir, config: Config) -> House {
    let services = format::Config { root: path(ROOT), format: Format::Raw, guard: false, ..format::Config::default() };
    let feed = Feed::of_nodes("zk", "zookeeper", vec![NodePath::root()]).with_services(vec![services]);
    let store = Store::new(&Default::default(), vec![feed], Arc::default());
    let publisher = store.publisher(0);
    let kept = Some(folder.path().to_owned());
    let (withholder, work, commands, keeper) = Withholder::new(&config, kept, &store, &Arc::default());
    House { store, publisher, work, withholder, commands, keeper, folder }
}

impl House {
    fn with(self, instances: usize) -> Self {
        let put = |number| {
            let node = Node { data: address(number).into_bytes().into(), stat: Stat::default() };
            Change::Put(path(&format!("{ROOT}/db/i-{number}")), Arc::new(node))
        };
        let gone = (instances..30).map(|number| Change::Delete(path(&format!("{ROOT}/db/i-{number}"))));
        self.publisher.publish_whole((0..instances).map(put).chain(gone).collect());
        self
    }

    fn fail(&mut self, by: Reporter, number: usize, times: usize) {
        let place = Place { service: "db".into(), address: address(number).into() };
        let report = Report { place, is_ok: false, duration: Duration::from_millis(7) };
        self.withholder.report(by, std::iter::repeat_n(report, times));
        self.work.eject_suspects();
    }

    fn withheld(&self, is_it: impl Fn(&Instance) -> bool) -> Vec<String> {
        let snapshot = self.store.snapshot();
        let instances = snapshot.directory().instances("db").filter(|(_, it)| is_it(it));
        let mut found: Vec<_> = instances.map(|(_, it)| it.address()).collect();
        found.sort();
        found
    }

    fn ejected(&self) -> Vec<String> {
        self.withheld(|it| it.withheld.ejected.is_some())
    }

    fn drained(&self) -> Vec<String> {
        self.withheld(|it| it.withheld.drained.is_some())
    }

    fn drain(&mut self, target: &str, seconds: u64) -> Result<Drained, NotDrained> {
        let time = Duration::from_secs(seconds);
        let drain = Drain { service: "db".into(), target: target.into(), time, reason: "new kernel".into() };
        let Done { withholding, number } = self.work.drain(drain)?;
        let kept = self.keep();
        assert!(kept.number >= number);
        Ok(Drained { withholding, unkept: kept.why_not })
    }

    /// Has the file hold what is withheld.
    fn keep(&mut self) -> Kept {
        if self.work.is_unrecorded {
            self.work.record();
        }
        self.keeper.write();
        self.withholder.kept.borrow().clone()
    }
}

fn address(number: usize) -> String {
    format!("10.0.0.{}:{}", number / 10, number + 1)
}

fn addresses(numbers: impl IntoIterator<Item = usize>) -> Vec<String> {
    numbers.into_iter().map(address).collect()
}

fn after(seconds: u64) -> Moment {
    Moment::now() + Duration::from_secs(seconds)
}

#[test]
fn an_instance_that_fails_is_ejected_and_comes_back_by_itself() {
    let mut house = house(Config::default()).with(10);
    house.fail(33, 3, 4);
    assert_eq!(house.ejected(), [""; 0]);
    house.fail(33, 3, 1);
    assert_eq!(house.ejected(), addresses([3]));
    let snapshot = house.store.snapshot();
    let (_, instance) = snapshot.directory().instances("db").find(|(_, it)| it.withheld.is_withheld()).expect("it");
    let why = instance.withheld.ejected.as_deref().expect("why");
    assert_eq!(why.reason, "5 failures one after the other, reported by uid 33");
    assert_eq!(why.ends_at - why.since, 30_000);
    house.work.end(after(29));
    assert_eq!(house.ejected(), addresses([3]));
    house.work.end(after(31));
    assert_eq!(house.ejected(), [""; 0]);
}

#[test]
fn a_flood_of_reports_keeps_no_instance_of_another_service_from_being_ejected() {
    let mut house = house(Config::default()).with(10);
    let failed = |service: String, number| {
        let place = Place { service: service.into(), address: address(number).into() };
        std::iter::repeat_n(Report { place, is_ok: false, duration: Duration::from_millis(7) }, 5)
    };
    (0..2 * MAX_REPORTS).for_each(|number| house.withholder.report(66, failed(format!("of-66-{number}"), 0)));
    house.withholder.report(33, failed("db".into(), 3));
    house.work.eject_suspects();
    assert_eq!(house.ejected(), addresses([3]));
}

#[test]
fn however_much_is_reported_a_fifth_is_ejected_and_never_the_last() {
    for (instances, most) in [(1, 0), (4, 0), (5, 1), (9, 1), (10, 2), (24, 4)] {
        let mut house = house(Config::default()).with(instances);
        for uid in 1..4 {
            (0..instances).for_each(|number| house.fail(uid, number, 100));
        }
        assert_eq!(house.ejected().len(), most, "of {instances}");
    }
    // Reports of configured reporters also count for few instances.
    for (instances, most) in [(1, 0), (2, 1), (4, 1), (5, 1)] {
        let mut house = house(Config { reporters: vec!["33".into()], ..Config::default() }).with(instances);
        (0..instances).for_each(|number| house.fail(34, number, 100));
        assert_eq!(house.ejected().len(), 0, "another user's reports say nothing");
        (0..instances).for_each(|number| house.fail(33, number, 100));
        assert_eq!(house.ejected().len(), most, "of {instances}");
    }
    let mut house = house(Config { max_percent: 100, ..Config::default() }).with(4);
    house.drain(&address(0), 60).expect("it is there");
    (0..4).for_each(|number| house.fail(33, number, 100));
    assert_eq!(house.ejected(), addresses([0, 1, 2]), "of those that are not drained, one is left");
    let mut house = self::house(Config { max_percent: 0, reporters: vec!["33".into()], ..Config::default() }).with(10);
    house.fail(33, 3, 100);
    assert_eq!(house.ejected(), [""; 0], "it is turned off");
}

#[test]
fn however_many_are_suspected_a_service_is_looked_through_once() {
    let house = house(Config::default()).with(30);
    for number in 0..200 {
        let place = Place { service: "db".into(), address: address(number).into() };
        let report = Report { place, is_ok: false, duration: Duration::from_millis(7) };
        house.withholder.report(33, std::iter::repeat_n(report, 5));
    }
    let (before, mut house) = (survey::LOOKS.get(), house);
    house.work.eject_suspects();
    assert_eq!((house.ejected().len(), survey::LOOKS.get() - before), (6, 30));
    house.work.end(after(1));
    assert_eq!((house.ejected().len(), survey::LOOKS.get() - before), (6, 60));
}

#[test]
fn where_most_others_go_no_more_than_a_fifth_stays_ejected() {
    let mut house = house(Config::default()).with(20);
    (0..4).for_each(|number| house.fail(33, number, 5));
    assert_eq!(house.ejected(), addresses([0, 1, 2, 3]));
    house = house.with(15);
    house.work.end(after(1));
    assert_eq!(house.ejected().len(), 3);
    house = house.with(4);
    house.work.end(after(2));
    assert_eq!(house.ejected(), [""; 0]);
    house.fail(33, 1, 5);
    house = house.with(20);
    house.fail(33, 1, 5);
    assert_eq!(house.ejected(), addresses([1]), "it may be ejected again");
}

#[test]
fn reports_of_what_is_not_there_or_of_odd_names_come_to_nothing() {
    let mut house = house(Config::default()).with(10);
    let revision = house.store.snapshot().revision();
    for address in ["", "10.0.0.9:9", "10.0.0.0", "\u{1}10.0.0.0:1", "\0", &"x".repeat(100_000)] {
        for service in ["db", "nothing", "\u{1}db", ""] {
            let place = Place { service: service.into(), address: address.into() };
            let report = Report { place, is_ok: false, duration: Duration::MAX };
            house.withholder.report(33, std::iter::repeat_n(report, 50));
        }
    }
    house.work.eject_suspects();
    assert_eq!((house.ejected().len(), house.store.snapshot().revision()), (0, revision));
}

#[test]
fn reports_of_a_service_with_a_very_long_name_come_to_nothing() {
    let mut house = house(Config::default());
    for (length, count) in [(500, 1), (600, 0)] {
        let service = "x".repeat(length);
        let put = |number| {
            let node = Node { data: address(number).into_bytes().into(), stat: Stat::default() };
            Change::Put(path(&format!("{ROOT}/{service}/i-{number}")), Arc::new(node))
        };
        house.publisher.publish((0..10).map(put).collect::<Vec<_>>());
        let place = Place { service: service.as_str().into(), address: address(1).into() };
        let report = Report { place, is_ok: false, duration: Duration::from_millis(7) };
        house.withholder.report(33, std::iter::repeat_n(report, 50));
        house.work.eject_suspects();
        let snapshot = house.store.snapshot();
        let ejected = snapshot.directory().instances(&service).filter(|(_, it)| it.withheld.ejected.is_some());
        assert_eq!(ejected.count(), count, "{length}");
    }
}

#[test]
fn a_host_is_drained_with_what_comes_there_later_until_its_time_is_over() {
    let mut house = house(Config::default()).with(12);
    let drained = house.drain("10.0.0.1", 60).expect("it is there");
    assert_eq!((&*drained.withholding.reason, drained.unkept), ("new kernel", None));
    assert_eq!(house.drained(), addresses([10, 11]));
    house = house.with(13);
    assert_eq!(house.drained(), addresses([10, 11, 12]));
    house.drain(&address(3), 120).expect("it is there");
    house.work.end(after(61));
    assert_eq!(house.drained(), addresses([3]));
    house.work.undrain("db", &address(3)).expect("it is drained");
    assert_eq!(house.drained(), [""; 0]);
    let not = NotDrained::IsNot("db".into(), address(3));
    assert_eq!(house.work.undrain("db", &address(3)).expect_err("it no longer is"), not);
}

#[test]
fn what_cannot_be_drained_is_told() {
    let mut house = house(Config::default()).with(2);
    let mut refused = |target: &str, seconds, reason: &str| {
        let time = Duration::from_secs(seconds);
        let drain = Drain { service: "db".into(), target: target.into(), time, reason: reason.into() };
        house.work.drain(drain).expect_err("a refusal")
    };
    assert_eq!(refused("10.0.0.0", 0, ""), NotDrained::Time);
    assert_eq!(refused("10.0.0.0", 30 * 24 * 3_600 + 1, ""), NotDrained::Time);
    assert_eq!(refused("10.0.0.0", 60, "a\nb"), NotDrained::Reason);
    assert_eq!(refused("10.0.0.0", 60, &"x".repeat(257)), NotDrained::Reason);
    assert_eq!(refused("", 60, ""), NotDrained::Target);
    assert_eq!(refused(&"x".repeat(513), 60, ""), NotDrained::Target);
    assert_eq!(refused("10.0.0.7", 60, ""), NotDrained::NoInstance("db".into(), "10.0.0.7".into()));
    let time = Duration::from_secs(60);
    let drain = Drain { service: "bd".into(), target: "10.0.0.0".into(), time, reason: String::new() };
    assert_eq!(house.work.drain(drain).err(), Some(NotDrained::NoService("bd".into())));
}

#[test]
fn a_restart_goes_on_with_what_is_withheld_as_long_as_it_was_to_be() {
    let mut before = house(Config::default()).with(10);
    before.fail(33, 3, 5);
    before.drain(&address(1), 60).expect("it is there");
    assert_eq!(before.keep().why_not, None);
    let folder = before.folder;
    let after_start = house_in(folder, Config::default()).with(10);
    assert_eq!((after_start.ejected(), after_start.drained()), (addresses([3]), addresses([1])));
    // That is before any source has reported, and it ends as it would have.
    let mut house = after_start;
    house.work.end(after(31));
    assert_eq!((house.ejected(), house.drained()), (vec![], addresses([1])));
    house.work.end(after(61));
    assert_eq!(house.drained(), [""; 0]);
    let wall = |seconds: i64| {
        let now = SystemTime::now();
        let by = Duration::from_secs(seconds.unsigned_abs());
        if seconds < 0 { now - by } else { now + by }
    };
    // Later it is over; and if the clock was set back, it lasts no longer than originally intended.
    for (seconds, expected) in [(50, 1), (100, 0), (-3_600, 1)] {
        let mut other = self::house(Config::default()).with(10);
        other.work.restore(Recorded { ejected: vec![], drained: vec![entry(0, 60)] }, Moment::now(), wall(seconds));
        assert_eq!(other.drained().len(), expected, "{seconds} s later");
        if seconds < 0 {
            let snapshot = other.store.snapshot();
            let (_, _, drained) = snapshot.directory().withholdings().drained().next().expect("it is drained");
            assert!(
                millis_since_1970(wall(seconds)).abs_diff(drained.since) < 10_000
                    && drained.ends_at - drained.since == 60_000
            );
        }
        other.work.end(after(61));
        assert_eq!(other.drained(), [""; 0], "{seconds} s later");
    }
}

#[test]
fn a_step_of_the_clock_moves_the_end_that_is_written_and_not_what_is_withheld() {
    let mut house = house(Config::default()).with(10);
    house.fail(33, 3, 5);
    house.drain(&address(1), 60).expect("it is there");
    assert_eq!(house.keep().why_not, None);
    let ends = |house: &House| {
        let snapshot = house.store.snapshot();
        let withholdings = snapshot.directory().withholdings();
        let all: Vec<_> =
            withholdings.drained().chain(withholdings.ejected()).map(|it| (it.2.since, it.2.ends_at)).collect();
        all
    };
    let before = ends(&house);
    let (now, wall) = (Moment::now(), SystemTime::now());
    house.work.follow_clock(now, wall);
    assert_eq!((ends(&house), house.work.is_unrecorded), (before.clone(), false), "nothing was set");
    for hours in [5, 0, -7] {
        let step = hours * 3_600_000_i64;
        house
            .work
            .follow_clock(now, UNIX_EPOCH + Duration::from_millis(millis_since_1970(wall).saturating_add_signed(step)));
        for ((since, ends_at), (was_since, was_end)) in ends(&house).into_iter().zip(&before) {
            assert!(was_end.saturating_add_signed(step).abs_diff(ends_at) < 10_000, "{hours}");
            assert_eq!(ends_at - since, was_end - was_since);
        }
        assert!(house.work.is_unrecorded);
    }
    assert_eq!((house.ejected(), house.drained()), (addresses([3]), addresses([1])));
}

#[test]
fn a_clock_that_is_ahead_at_a_start_ends_no_drain() {
    let mut before = house(Config::default()).with(10);
    before.drain(&address(1), 3_600).expect("it is there");
    assert_eq!(before.keep().why_not, None);
    let record = |of: &House| Record::new(Some(of.folder.path().to_owned()));
    let in_hours = |hours: u64| SystemTime::now() + Duration::from_secs(hours * 3_600);
    // In the same start of the machine, by the clock that nobody sets.
    let mut house = self::house(Config::default()).with(10);
    house.work.restore(record(&before).left().expect("read"), Moment::now(), in_hours(2));
    let snapshot = house.store.snapshot();
    let (_, _, drained) = snapshot.directory().withholdings().drained().next().expect("it is drained");
    assert!(drained.ends_at.abs_diff(millis_since_1970(in_hours(3))) < 60_000);
    house.work.end(after(3_000));
    assert_eq!(house.drained(), addresses([1]));
    house.work.end(after(3_601));
    assert_eq!(house.drained(), [""; 0]);
    // In another one, by the time of day, once that is settled.
    let left = || {
        let mut record = record(&before);
        record.boot = "another".into();
        record.left().expect("read")
    };
    let since_boot = |seconds| Moment::default() + Duration::from_secs(seconds);
    for (hours, expected) in [(0, 1), (2, 0)] {
        let mut house = self::house(Config::default()).with(10);
        house.work.restore(left(), since_boot(20), in_hours(2));
        for seconds in [20, 299] {
            house.work.end(since_boot(seconds));
            house.work.follow_clock(since_boot(seconds), in_hours(2));
        }
        assert_eq!(house.drained(), addresses([1]));
        house.work.record();
        assert_eq!(house.keep().why_not, None);
        assert_eq!(record(&house).left().expect("read"), left(), "a restart finds it as it was");
        house.work.end(since_boot(301));
        house.work.follow_clock(since_boot(301), in_hours(hours));
        house.work.end(since_boot(302));
        assert_eq!(house.drained().len(), expected, "{hours} h later");
    }
    let mut house = self::house(Config::default()).with(10);
    house.work.restore(left(), since_boot(300), in_hours(2));
    assert_eq!(house.drained(), [""; 0]);
}

fn entry(number: usize, seconds: u64) -> Entry {
    let since = millis_since_1970(SystemTime::now());
    let withholding = Withholding { since, ends_at: since + seconds * 1_000, ..Withholding::default() };
    Entry { service: "db".into(), target: address(number), withholding, times: 0, ends_after_boot: None }
}

#[test]
fn a_record_that_cannot_be_read_keeps_nobody_from_a_start_and_one_that_cannot_be_written_is_told() {
    for damage in ["", "{", "[]", r#"{"drained":[{"service":1}]}"#, "\u{0}"] {
        let folder = tempfile::tempdir().expect("a folder");
        std::fs::write(folder.path().join("withheld.json"), damage).expect("written");
        let mut house = house_in(folder, Config::default()).with(2);
        assert_eq!(house.drained(), [""; 0], "{damage:?}");
        assert_eq!(house.drain("10.0.0.0", 60).expect("it is there").unkept, None);
    }
    let mut house = house(Config::default()).with(2);
    let (folder, nowhere) = (house.folder.path().to_owned(), "/nothing/is/here");
    house.keeper.record = Record::new(Some(nowhere.into()));
    let drained = house.drain("10.0.0.0", 60).expect("it is drained all the same");
    assert!(drained.unkept.is_some_and(|why| why.contains("/nothing/is/here/withheld.json")));
    assert!(house.keeper.is_to_be_tried_again());
    house.keeper.record = Record::new(Some(folder));
    assert_eq!(house.keep().why_not, None);
    assert!(!house.keeper.is_to_be_tried_again() && house.keeper.record.left().expect("read").drained.len() == 1);
    house.keeper.record = Record::new(None);
    assert!(house.drain("10.0.0.0", 60).expect("it is").unkept.is_some_and(|why| why.contains("[shared] state")));
}

#[tokio::test]
async fn a_record_that_cannot_be_read_for_a_while_is_read_later_and_not_written_over_before() {
    let mut before = house(Config::default()).with(20);
    before.drain("10.0.0.1", 600).expect("it is there");
    before.drain(&address(1), 60).expect("it is there");
    let (record, elsewhere) = (before.folder.path().join("withheld.json"), before.folder.path().join("elsewhere"));
    // A folder cannot be read, and no more says what was there than any other error of the system.
    std::fs::rename(&record, &elsewhere).expect("moved");
    std::fs::create_dir(&record).expect("a folder");
    let House { store, publisher: _publisher, work, withholder, commands, keeper, folder } =
        house_in(before.folder, Config::default()).with(20);
    let drained = || {
        let snapshot = store.snapshot();
        let all = snapshot.directory().withholdings().drained().map(|it| (it.1.to_string(), it.2.ends_at - it.2.since));
        all.collect::<BTreeMap<_, _>>()
    };
    let (tasks, _failures) = Tasks::new();
    let stop = tasks.stop_signal();
    tasks.thread("withholding", move |_| work.until_stop(commands, stop)).expect("a thread");
    tasks.thread("the record", move |_| keeper.run()).expect("a thread");
    let anew = || Drain { target: address(1), time: Duration::from_secs(70), ..drain_host() };
    let unkept = withholder.drain(anew()).await.expect("it is drained all the same").unkept.expect("it is told");
    assert!(unkept.contains("cannot read") && record.is_dir(), "{unkept}");
    assert_eq!(drained(), BTreeMap::from([(address(1), 70_000)]));
    std::fs::remove_dir(&record).expect("empty");
    std::fs::rename(&elsewhere, &record).expect("moved");
    while drained().len() < 2 {
        std::thread::sleep(Duration::from_millis(5));
    }
    let both = BTreeMap::from([(address(1), 70_000), ("10.0.0.1".into(), 600_000)]);
    assert_eq!(drained(), both, "what was said since holds");
    assert_eq!(withholder.drain(anew()).await.expect("it is there").unkept, None);
    assert!(tasks.stop(Duration::from_secs(5)).await.is_empty());
    let kept = Record::new(Some(folder.path().to_owned())).left().expect("read");
    assert_eq!(kept.drained.len(), 2);
}

#[tokio::test]
async fn commands_are_carried_out_on_the_thread_and_one_that_is_gone_is_told() {
    let House { store: _store, publisher: _publisher, work, withholder, commands, keeper, folder } =
        house(Config::default()).with(2);
    let (tasks, _failures) = Tasks::new();
    let stop = tasks.stop_signal();
    tasks.thread("withholding", move |_| work.until_stop(commands, stop)).expect("a thread");
    tasks.thread("the record", move |_| keeper.run()).expect("a thread");
    assert_eq!(withholder.drain(drain_host()).await.expect("it is drained").unkept, None);
    assert_eq!(Record::new(Some(folder.path().to_owned())).left().expect("read").drained.len(), 1);
    assert_eq!(withholder.undrain("db".into(), "10.0.0.0".into()).await.expect("it was").unkept, None);
    assert!(tasks.stop(Duration::from_secs(5)).await.is_empty());
    assert_eq!(withholder.drain(drain_host()).await.expect_err("it has stopped"), NotDrained::Busy);
}

#[tokio::test(start_paused = true)]
async fn a_disk_that_hangs_holds_up_neither_a_drain_nor_the_end_of_an_ejection() {
    let mut house = house(Config::default()).with(10);
    house.fail(33, 3, 5);
    let place = Place { service: "db".into(), address: address(3).into() };
    house.withholder.reported().outliers.restore(Moment::now(), &place, Duration::ZERO, 1);
    // As where its thread waits for the disk.
    let House { store, publisher: _publisher, work, withholder, commands, keeper: _keeper, .. } = house;
    let (tasks, _failures) = Tasks::new();
    let stop = tasks.stop_signal();
    tasks.thread("withholding", move |_| work.until_stop(commands, stop)).expect("a thread");
    let drained = withholder.drain(drain_host()).await.expect("it is drained all the same");
    assert!(drained.unkept.is_some_and(|why| why.contains("not written")));
    withholder.undrain("db".into(), "10.0.0.0".into()).await.expect("it was");
    while store.snapshot().directory().withholdings().ejected().next().is_some() {
        std::thread::sleep(Duration::from_millis(5));
    }
    tasks.stop(Duration::from_secs(5)).await;
}

fn drain_host() -> Drain {
    let time = Duration::from_secs(60);
    Drain { service: "db".into(), target: "10.0.0.0".into(), time, reason: String::new() }
}
