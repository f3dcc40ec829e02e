//! What the history promises: what happened to which instance, and why; within its limits; whatever happens to its
//! file.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::*;
use crate::format;
use crate::guard::{self, Found, Now, Which};
use crate::model::{Change, Format, Node, NodePath, Stat, Withholding};
use crate::store::{Feed, Publisher, Withhold, WithholdKind};

const SESSION: i64 = 0x1000;

fn path(text: &str) -> NodePath {
    NodePath::parse(text).expect(text)
}

fn house() -> (Arc<Store>, Publisher) {
    house_of(false)
}

fn house_of(guard: bool) -> (Arc<Store>, Publisher) {
    let services = format::Config { root: path("/s"), format: Format::Serverset, guard, ..format::Config::default() };
    let feed = Feed::of_nodes("zk", "zookeeper", vec![NodePath::root()]).with_services(vec![services]);
    let store = Store::new(&Default::default(), vec![feed], Arc::default());
    let publisher = store.publisher(0);
    (store, publisher)
}

fn put(name: &str, data: &str, ephemeral_owner: i64) -> Change {
    let stat = Stat { ephemeral_owner, ..Stat::default() };
    Change::Put(path(&format!("/s/{name}")), Arc::new(Node { data: data.as_bytes().into(), stat }))
}

fn delete(name: &str) -> Change {
    Change::Delete(path(&format!("/s/{name}")))
}

fn member(port: usize, status: &str, metadata: &str) -> String {
    format!(r#"{{"serviceEndpoint":{{"host":"a","port":{port}}},"status":"{status}","metadata":{metadata}}}"#)
}

fn alive(port: usize) -> String {
    member(port, "ALIVE", "{}")
}

/// A recorder that has seen everything there is.
fn recorder(store: &Store, max_bytes: usize) -> Recorder {
    let history = Arc::new(History::default());
    let (known, kept) = (store.snapshot(), Kept::new(max_bytes));
    let (owners, allowances) = (Owners::of(&known), Allowances::default());
    Recorder { history, known, owners, allowances, kept, next: 1 }
}

/// The entries after a number: event, instance or node, and reason.
fn told(recorder: &Recorder, after: u64) -> Vec<String> {
    let line = |entry: &Arc<Entry>| {
        let path = || entry.path.as_ref().map(NodePath::to_string).unwrap_or_default();
        let what = if entry.instance.is_empty() { path() } else { entry.instance.clone() };
        format!("{:?} {what}: {}", entry.event, entry.why)
    };
    recorder.kept.after(None, after).map(line).collect()
}

#[test]
fn who_came_changed_and_vanished_is_told_with_the_reason_as_far_as_it_is_known() {
    let (store, publisher) = house();
    let mut recorder = recorder(&store, 1 << 20);
    publisher.publish_whole(vec![
        put("web/member_1", &alive(81), SESSION),
        put("web/member_2", &alive(82), SESSION),
        put("db/member_1", &alive(83), SESSION + 1),
    ]);
    let mut step = |changes: Vec<Change>, is_whole: bool| {
        let last = recorder.kept.last();
        if is_whole {
            publisher.publish_whole(changes)
        } else {
            publisher.publish(changes)
        };
        recorder.look(&store.snapshot());
        told(&recorder, last)
    };
    assert_eq!(step(vec![], false), ["Read : 3 instances in 2 services"], "not one by one");
    let came = step(vec![put("web/member_3", &alive(84), SESSION + 2), put("web/member_4", &alive(85), 0)], false);
    assert_eq!(
        came,
        [
            "Appeared a:84: its node was created by session 0x1002",
            "Appeared a:85: its node was created, which is of no session",
        ]
    );
    let changed = step(vec![put("web/member_4", &member(85, "DEAD", r#"{"x":1}"#), 0)], false);
    assert_eq!(changed, ["Changed a:85: UP → DOWN, metadata: x none → 1"]);
    assert_eq!(
        step(vec![put("web/member_3", &(alive(84) + " "), SESSION + 2)], false),
        [""; 0],
        "that says nothing new"
    );
    assert_eq!(
        step(vec![delete("web/member_1")], false),
        ["Vanished a:81: its node went: session 0x1000 had 1 more then"]
    );
    let first = put("web/member_1", &alive(81), SESSION);
    assert_eq!(
        step(vec![first], true),
        ["Appeared a:81: its node was created by session 0x1000; found when zk was read anew"]
    );
    assert_eq!(
        step(vec![delete("web/member_1"), delete("web/member_2")], false),
        ["Vanished a:81", "Vanished a:82"]
            .map(|who| format!("{who}: all 2 nodes of session 0x1000 went at once: it ended, or they were deleted"))
    );
    assert_eq!(
        step(vec![delete("db/member_1")], false),
        ["Vanished a:83: its node went, the only one of session 0x1001: it ended, or the node was deleted"]
    );
    assert_eq!(
        step(vec![delete("web/member_4")], false),
        ["Vanished a:85: its node was deleted, which was of no session"]
    );
    let why = "its data are no JSON object";
    assert_eq!(
        step(vec![put("web/member_3", "{", SESSION + 2), put("web/member_5", "{", 0)], false),
        [
            format!("Vanished a:84: its node cannot be read any more: {why}"),
            format!("Undecodable /s/web/member_5: {why}"),
        ]
    );
    assert_eq!(
        step(vec![put("web/member_3", &alive(84), SESSION + 2)], false),
        ["Appeared a:84: its node can be read again"]
    );
    assert_eq!(
        step(vec![put("web/member_3", &alive(86), SESSION + 2)], false),
        ["Vanished a:84: its node, or a rule, has it no more", "Appeared a:86: its node, or a rule, has it now",]
    );
}

#[test]
fn nothing_is_made_of_what_is_not_told() {
    let (store, publisher) = house();
    let all = (0..300).map(|number| put(&format!("web/member_{number}"), &alive(number + 1), SESSION));
    publisher.publish_whole(all.collect());
    let old = store.snapshot();
    let mut owners = Owners::of(&old);
    let gone = (0..200).map(|number| delete(&format!("web/member_{number}")));
    let bad = (200..300).map(|number| put(&format!("web/member_{number}"), "{", SESSION));
    publisher.publish(gone.chain(bad).chain([put("db/member_1", "{", SESSION)]).collect::<Vec<_>>());
    let new = store.snapshot();
    let lost = owners.follow(&old, &new);
    let (comparison, mut asked) = (Comparison { old: &old, new: &new, owners: &owners, lost: &lost }, 0);
    let entries = comparison.entries(|_, service| {
        asked += usize::from(service == "web");
        service == "db" || asked <= 10
    });
    let events: Vec<_> = entries.iter().map(|entry| entry.event).collect();
    assert_eq!(events, [vec![Event::Vanished; 10], vec![Event::Undecodable]].concat());
    assert!(asked == 300 && entries.capacity() < 50, "{asked}");
}

#[test]
fn what_flaps_pushes_out_its_own_past_alone_and_how_much_is_told() {
    let mut kept = Kept::new(20_000);
    let entry = |number, service: &str| {
        let (service, instance) = (service.to_owned(), "10.0.0.5:80".to_owned());
        Entry { number, time: number as i64, event: Event::Vanished, service, instance, ..Entry::default() }
    };
    (1..=20).for_each(|number| kept.push(entry(number, "quiet")));
    (21..5_000).for_each(|number| kept.push(entry(number, "flapping")));
    let of = |service| kept.after(Some(service), 0).cloned().collect::<Vec<_>>();
    assert_eq!(of("quiet").len(), 20);
    let flapping = of("flapping");
    let mark = &flapping[0];
    assert_eq!((mark.event, mark.why.as_str()), (Event::Omitted, kept::TOO_OLD));
    assert_eq!(mark.count as usize + flapping.len() - 1, 4_979);
    assert!(flapping[1].number > mark.number && flapping.last().expect("one").number == 4_999);
    let all: usize = kept.after(None, 0).map(|entry| entry.line().len()).sum();
    assert!((15_000..=20_000).contains(&all), "{all}");
    let rest: Vec<_> = kept.after(Some("flapping"), 4_997).map(|entry| entry.number).collect();
    assert_eq!(rest, [4_998, 4_999]);
    // If there is only one entry of each service left, the largest goes as well; at last also what says so.
    let mut tiny = Kept::new(1);
    (1..100).for_each(|number| tiny.push(entry(number, &number.to_string())));
    assert_eq!(tiny.after(None, 0).count(), 0);
}

/// An entry of a service below a root; empty: of a master.
fn entry_below(root: &str, number: u64, service: &str) -> Entry {
    let (instance, source) = ("10.0.0.5:80".to_owned(), "zk".to_owned());
    let path = (!root.is_empty()).then(|| path(&format!("{root}/{service}/1")));
    let why = "its node was created by session 0x1000".to_owned();
    Entry { instance, source, path, root: root.into(), why, ..entry(number, service) }
}

#[test]
fn however_many_services_there_are_below_a_root_they_push_out_nothing_of_another_and_of_each_it_is_said() {
    let mut kept = Kept::new(200_000);
    let names = ["orders", "mail"];
    for number in 1..=40 {
        kept.push(entry_below("/s", number, "orders"));
        kept.push(entry_below("", number + 40, "mail"));
    }
    let started = Entry { number: 90, event: Event::Started, ..Entry::default() };
    kept.push(started);
    let of = |kept: &Kept, service: &str| kept.after(Some(service), 0).map(|it| (**it).clone()).collect::<Vec<_>>();
    let before = names.map(|name| of(&kept, name));
    (0..20_000_u64).for_each(|number| kept.push(entry_below("/x", 100 + number, &format!("x{number}"))));
    assert_eq!(names.map(|name| of(&kept, name)), before);
    assert_eq!(kept.after(None, 0).filter(|it| it.event == Event::Started).count(), 1);
    let bytes: usize = kept.after(None, 0).map(|it| it.line().len()).sum();
    assert!((150_000..=200_000).contains(&bytes), "{bytes}");
    // Each service has its entry, or what says that nothing is left of some.
    let is_lost = |number: &usize| {
        let all = of(&kept, &format!("x{number}"));
        assert_eq!(all.len(), 1, "{all:?}");
        all[0].why == kept::NOTHING_LEFT
    };
    let lost = (0..20_000).filter(is_lost).count();
    assert!((15_000..20_000).contains(&lost), "{lost}");
    let marks: Vec<_> = kept.after(None, 0).filter(|it| it.why == kept::NOTHING_LEFT).collect();
    assert_eq!((marks.len(), marks[0].count as usize), (1, lost));

    // What is read from its lines goes on so.
    let mut again = Kept::new(200_000);
    let lines: Vec<String> = kept.after(None, 0).map(|it| it.line()).collect();
    lines.iter().for_each(|line| again.push(serde_json::from_str(line).expect("an entry")));
    assert!(again.after(None, 0).eq(kept.after(None, 0)));
    (0..2_000).for_each(|number| again.push(entry_below("/x", 30_000 + number, "x")));
    assert_eq!(names.map(|name| of(&again, name)), before);
    let more: Vec<_> = again.after(None, 0).filter(|it| it.why == kept::NOTHING_LEFT).collect();
    assert!(more.len() == 1 && more[0].count > marks[0].count, "{more:?}");
    assert!(!of(&again, "x").is_empty());
}

#[test]
fn an_entry_is_of_the_first_root_with_the_same_writers_also_one_that_an_earlier_version_wrote() {
    let services = [("/a", 0), ("/s", 1), ("/t", 1)].map(|(root, rank)| format::Config {
        root: path(root),
        rank,
        format: Format::Raw,
        guard: false,
        ..format::Config::default()
    });
    let feed = Feed::of_nodes("zk", "zookeeper", vec![NodePath::root()]).with_services(services.to_vec());
    let store = Store::new(&Default::default(), vec![feed], Arc::default());
    let publisher = store.publisher(0);
    let mut recorder = recorder(&store, 1 << 20);
    let old = Entry { root: String::new(), ..entry_below("/t", 1, "web") };
    recorder.take_up(Loaded { entries: vec![old], ..Loaded::default() });
    publisher.publish_whole(vec![]);
    recorder.look(&store.snapshot());
    let node = |name: &str, data: &str| {
        Change::Put(path(name), Arc::new(Node { data: data.as_bytes().into(), stat: Stat::default() }))
    };
    publisher.publish(vec![node("/a/web/1", "10.0.0.1:80"), node("/t/web/1", "10.0.0.2:80"), node("/t/web/2", "-")]);
    recorder.look(&store.snapshot());
    let of_web = recorder.kept.after(Some("web"), 0).map(|it| (it.event, &*it.root)).collect::<Vec<_>>();
    let expected =
        [(Event::Appeared, "/s"), (Event::Appeared, "/a"), (Event::Appeared, "/s"), (Event::Undecodable, "/s")];
    assert_eq!(of_web, expected);
}

#[test]
fn of_what_flaps_no_more_is_told_than_a_number() {
    let (store, publisher) = house();
    let mut recorder = recorder(&store, 64 << 20);
    publisher.publish_whole(vec![]);
    recorder.look(&store.snapshot());
    let members = 0..2_500;
    for round in 0..6 {
        let change = |n: usize| {
            let name = format!("web/member_{n}");
            if round % 2 == 0 { put(&name, &alive(n + 1), SESSION) } else { delete(&name) }
        };
        publisher.publish(
            members.clone().map(change).chain([put(&format!("db/member_{round}"), &alive(1), 0)]).collect::<Vec<_>>(),
        );
        recorder.look(&store.snapshot());
    }
    recorder.tell_omitted(true);
    let count = |service: &str, event| {
        let of = recorder.kept.after(Some(service), 0).filter(|entry| entry.event == event);
        of.map(|entry| entry.count.max(1)).sum::<u64>()
    };
    let told = count("web", Event::Appeared) + count("web", Event::Vanished);
    assert!((10_000..14_000).contains(&told), "{told}");
    assert_eq!(told + count("web", Event::Omitted), 15_000);
    assert_eq!(count("db", Event::Appeared), 1, "another service is told of");
}

#[test]
fn how_many_are_made_is_bounded_also_over_many_services_and_grows_with_time() {
    let began = Instant::now();
    let mut allowances = Allowances::default();
    let made = (0..200_000).filter(|number| allowances.allows("/x", &(number / 2).to_string(), began)).count();
    assert_eq!(made, 50_000);
    assert!(allowances.allows("/s", "0", began) && allowances.allows("", "0", began), "other roots have their own");
    assert!(allowances.have_omitted());
    assert_eq!(allowances.take_omitted(began, false), [], "not yet");
    let later = began + Duration::from_secs(60);
    assert_eq!(allowances.take_omitted(later, false), [("/x".to_owned(), String::new(), 150_000)]);
    assert!(!allowances.have_omitted() && allowances.allows("/x", "0", later));
    assert!(allowances.take_omitted(later + Duration::from_secs(60), false).is_empty());
}

fn entry(number: u64, service: &str) -> Entry {
    Entry { number, time: 7, event: Event::Appeared, service: service.into(), ..Entry::default() }
}

#[test]
fn what_is_written_is_read_again_and_a_torn_or_damaged_line_harms_no_other() {
    let folder = tempfile::tempdir().expect("a folder");
    let place = folder.path().join(FILE);
    let mut file = HistoryFile::new(place.clone(), 1 << 20);
    let mut kept = Kept::new(1 << 19);
    let odd = "odd\n\u{202e}\"\u{1b}[2J";
    for (number, service) in [(1, "a"), (5, odd), (6, "c")] {
        kept.push(entry(number, service));
        file.write(&kept).expect("written");
    }
    let names = |loaded: &Loaded| loaded.entries.iter().map(|entry| entry.service.clone()).collect::<Vec<_>>();
    let loaded = file.load().expect("read");
    assert_eq!((names(&loaded), loaded.unreadable_bytes), (vec!["a".into(), odd.into(), "c".into()], 0));
    assert_eq!(fs::read_to_string(&place).expect("a file").lines().count(), 3, "a line each");

    let whole = fs::read(&place).expect("a file");
    for cut in 1..whole.len() {
        fs::write(&place, &whole[..cut]).expect("written");
        let loaded = HistoryFile::new(place.clone(), 1 << 20).load().expect("read");
        let lines = whole[..cut].iter().filter(|byte| **byte == b'\n').count();
        assert_eq!(loaded.entries.len(), lines, "{cut}");
        assert_eq!((loaded.torn_bytes > 0, loaded.unreadable_bytes), (whole[cut - 1] != b'\n', 0), "{cut}");
    }
    let junk = [&whole[..], &[0; 4_000], b"\n{}\n{\"number\":6}\n\xff\n", entry(9, "d").line().as_bytes()].concat();
    fs::write(&place, &junk).expect("written");
    let mut file = HistoryFile::new(place.clone(), 1 << 20);
    let loaded = super::load(&mut file);
    assert_eq!(names(&loaded)[3..], ["d", ""]);
    let last = loaded.entries.last().expect("one");
    assert_eq!((last.number, last.event), (10, Event::Omitted));
    assert!(last.why.contains("could not be read"), "{}", last.why);
    let mut kept = Kept::new(1 << 19);
    loaded.entries.into_iter().for_each(|entry| kept.push(entry));
    // It stays until what could be read of it stands in another.
    fs::create_dir(place.with_extension("new")).expect("a folder");
    file.write(&kept).expect_err("a folder lies there");
    assert_eq!(fs::read(&place).expect("a file"), junk);
    fs::remove_dir(place.with_extension("new")).expect("a folder");
    file.write(&kept).expect("written");
    assert_eq!(fs::read(aside(&folder)).expect("a file"), junk);
    assert_eq!(names(&file.load().expect("read")).len(), 5);
}

fn aside(folder: &tempfile::TempDir) -> PathBuf {
    folder.path().join("history.jsonl.set-aside")
}

#[test]
fn a_crash_puts_nothing_in_the_place_of_a_history_that_was_set_aside() {
    let folder = tempfile::tempdir().expect("a folder");
    let place = folder.path().join(FILE);
    let incident = entry(3, "web").line();
    fs::write(&place, &incident).expect("written");
    fs::set_permissions(&place, fs::Permissions::from_mode(0o660)).expect("a mode");
    for (number, torn) in ["{", "{\"number\":7", "\u{0}\u{0}", "{", "{", "{"].into_iter().enumerate() {
        let mut file = HistoryFile::new(place.clone(), 1 << 20);
        let mut kept = Kept::new(1 << 19);
        super::load(&mut file).entries.into_iter().for_each(|entry| kept.push(entry));
        assert_eq!(kept.after(None, 0).filter(|entry| entry.event == Event::Omitted).count(), number + 1);
        kept.push(entry(kept.last() + 1, "db"));
        file.write(&kept).expect("written");
        let whole = fs::read_to_string(&place).expect("a file");
        fs::write(&place, whole + torn).expect("written");
    }
    assert_eq!(fs::read_to_string(aside(&folder)).expect("a file"), incident);
    assert_eq!(fs::read_dir(&folder).expect("a folder").count(), 2, "nothing else is set aside");
}

#[test]
fn a_file_that_cannot_be_read_is_set_aside_before_another_takes_its_place() {
    let folder = tempfile::tempdir().expect("a folder");
    let place = folder.path().join(FILE);
    let old = entry(3, "web").line();
    fs::write(&place, &old).expect("written");
    fs::set_permissions(&place, fs::Permissions::from_mode(0o660)).expect("a mode");
    let mut file = HistoryFile::new(place.clone(), 1 << 20);
    let loaded = super::load(&mut file);
    assert!(loaded.entries.len() == 1 && loaded.entries[0].why.contains("could not be read"), "{loaded:?}");
    assert_eq!(fs::read_to_string(&place).expect("a file"), old);
    let mut kept = Kept::new(1 << 19);
    // As long as it cannot be set aside, it stays.
    let names = ["", ".1", ".2", ".3"].map(|end| folder.path().join(format!("{FILE}.set-aside{end}")));
    names.iter().for_each(|name| fs::create_dir(name).expect("a folder"));
    for number in 1..4 {
        kept.push(entry(number, "db"));
        file.write(&kept).expect_err("a folder lies there");
        assert_eq!(fs::read_to_string(&place).expect("a file"), old);
    }
    fs::remove_dir(&names[1]).expect("a folder");
    file.write(&kept).expect("written");
    assert_eq!(fs::read_to_string(&names[1]).expect("a file"), old);
    assert_eq!(file.load().expect("read").entries.len(), 3);
}

#[test]
fn the_file_stays_within_its_bound_and_is_made_anew_where_it_is_gone() {
    let folder = tempfile::tempdir().expect("a folder");
    let place = folder.path().join(FILE);
    let mut file = HistoryFile::new(place.clone(), 20_000);
    let mut kept = Kept::new(10_000);
    let mut largest = 0;
    for number in 1..2_000 {
        kept.push(entry(number, "web"));
        file.write(&kept).expect("written");
        largest = largest.max(fs::metadata(&place).expect("a file").len());
        if number % 500 == 0 {
            fs::remove_file(&place).expect("a file");
        }
    }
    assert!((19_000..20_200).contains(&largest), "{largest}");
    let loaded = file.load().expect("read").entries;
    assert!(kept.after(None, 0).all(|entry| loaded.contains(entry) || entry.event == Event::Omitted));
    // A lowered limit keeps the newest.
    let loaded = HistoryFile::new(place, 1_000).load().expect("read");
    assert!((5..40).contains(&loaded.entries.len()) && loaded.unreadable_bytes == 0, "{}", loaded.entries.len());
    assert_eq!(loaded.entries.last().map(|last| last.number), Some(1_999));
}

#[test]
fn what_cannot_be_written_for_a_while_is_written_when_it_can() {
    let folder = tempfile::tempdir().expect("a folder");
    let place = folder.path().join("sub").join(FILE);
    let mut file = HistoryFile::new(place.clone(), 1 << 20);
    let mut kept = Kept::new(1 << 19);
    for number in 1..4 {
        kept.push(entry(number, "web"));
        file.write(&kept).expect_err("there is no such folder");
    }
    fs::create_dir(folder.path().join("sub")).expect("a folder");
    file.write(&kept).expect("written");
    kept.push(entry(4, "web"));
    file.write(&kept).expect("written");
    assert_eq!(file.load().expect("read").entries.len(), 4);
    assert!(!place.with_extension("new").exists());
}

#[tokio::test(flavor = "multi_thread")]
async fn it_goes_on_over_a_restart_and_tells_that() {
    let folder = tempfile::tempdir().expect("a folder");
    let mut last = 0;
    for round in 0..2 {
        let (store, publisher) = house();
        let (tasks, _failures) = Tasks::new();
        let history =
            History::start(&Config::default(), Some(folder.path()), &store, &Arc::default(), &tasks).expect("started");
        while history.kept().is_none() {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        publisher.publish_whole(vec![put("web/member_1", &alive(81), 0)]);
        let seen = |event| history.kept().is_some_and(|kept| kept.after(None, last).any(|entry| entry.event == event));
        while !seen(Event::Read) {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        publisher.publish(vec![delete("web/member_1")]);
        assert!(tasks.stop(Duration::from_secs(10)).await.is_empty());
        let events: Vec<_> = history.kept().expect("kept").after(None, last).map(|entry| entry.event).collect();
        assert_eq!(events, [Event::Started, Event::Read, Event::Vanished, Event::Stopped], "{round}");
        assert_eq!(history.kept().expect("kept").after(None, 0).count(), 4 * (round + 1));
        last = history.kept().expect("kept").last();
    }
}

#[test]
fn what_is_withheld_or_held_is_told_with_its_end_and_its_reason() {
    let (store, publisher) = house();
    let mut recorder = recorder(&store, 1 << 20);
    publisher.publish_whole(vec![put("web/member_1", &alive(81), SESSION)]);
    recorder.look(&store.snapshot());
    let withhold = |kind, span: Option<(u64, u64)>| {
        let reason = "for a test".to_owned();
        let withholding = |(since, ends_at)| Withholding { since, ends_at, reason, ..Withholding::default() }.into();
        let (service, target) = ("web".into(), "a:81".into());
        store.withhold(&[Withhold { service, target, kind, withholding: span.map(withholding) }]);
    };
    let mut step = |kind, span| {
        let last = recorder.kept.last();
        withhold(kind, span);
        recorder.look(&store.snapshot());
        told(&recorder, last)
    };
    let never = 4_000_000_000_000;
    assert_eq!(step(WithholdKind::Drained, Some((1, never))), ["Drained a:81: until 2096-10-02T07:06:40Z: for a test"]);
    assert_eq!(step(WithholdKind::Ejected, Some((1, 1_000))), ["Ejected a:81: until 1970-01-01T00:00:01Z: for a test"]);
    assert_eq!(step(WithholdKind::Drained, Some((2_001, never + 2_000))), [""; 0], "the clock was set");
    let longer = step(WithholdKind::Drained, Some((2_001, never + 9_000)));
    assert_eq!(longer, ["Drained a:81: until 2096-10-02T07:06:49Z: for a test"]);
    assert_eq!(step(WithholdKind::Drained, None), ["Undrained a:81: before its time was over"]);
    assert_eq!(step(WithholdKind::Ejected, None), ["Admitted a:81: its time is over"]);
    let last = recorder.kept.last();
    let unexplained = Withholding { since: 1, ends_at: never, ..Withholding::default() }.into();
    let (service, target) = ("web".into(), "a:81".into());
    store.withhold(&[Withhold { service, target, kind: WithholdKind::Drained, withholding: Some(unexplained) }]);
    recorder.look(&store.snapshot());
    assert_eq!(told(&recorder, last), ["Drained a:81: until 2096-10-02T07:06:40Z"]);
}

#[test]
fn of_what_is_gone_where_all_is_older_than_before_it_is_told_that_the_data_may_be_lost() {
    let (store, publisher) = house();
    let mut recorder = recorder(&store, 1 << 20);
    let at = |name: &str, data: &str, zxid: i64| {
        let stat = Stat { mzxid: zxid, pzxid: zxid, ..Stat::default() };
        Change::Put(path(name), Arc::new(Node { data: data.as_bytes().into(), stat }))
    };
    let mut reread = |changes: Vec<Change>| {
        let last = recorder.kept.last();
        publisher.publish_whole(changes);
        recorder.look(&store.snapshot());
        told(&recorder, last)
    };
    reread(vec![at("/s", "", 9), at("/s/web/member_1", &alive(81), 7), at("/s/web/member_2", &alive(82), 7)]);
    let gone = "its node was deleted, which was of no session; found when zk was read anew";
    let later = vec![at("/s", "", 10), delete("web/member_1")];
    assert_eq!(reread(later), [format!("Vanished a:81: {gone}")]);
    let lost = "its newest change is older than before: the ensemble may have lost its data";
    let older = vec![at("/s", "", 2), delete("web/member_2")];
    assert_eq!(reread(older), [format!("Vanished a:82: {gone}; {lost}")]);
    reread(vec![at("/s/web/member_3", &alive(83), 7)]);
    let nothing = "nothing is left below its roots: they were deleted, or the ensemble may have lost its data";
    let all = vec![Change::Delete(path("/s")), delete("web/member_3")];
    assert_eq!(reread(all), [format!("Vanished a:83: {gone}; {nothing}")]);
}

#[test]
fn that_one_of_several_roots_is_gone_does_not_make_the_others_older_than_before() {
    let services = format::Config { root: path("/s"), format: Format::Serverset, guard: false, ..Default::default() };
    let roots = vec![path("/s"), path("/t")];
    let feed = Feed::of_nodes("zk", "zookeeper", roots).with_services(vec![services]);
    let store = Store::new(&Default::default(), vec![feed], Arc::default());
    let publisher = store.publisher(0);
    let mut recorder = recorder(&store, 1 << 20);
    let at = |name: &str, data: &str, zxid: i64| {
        let stat = Stat { mzxid: zxid, pzxid: zxid, ..Stat::default() };
        Change::Put(path(name), Arc::new(Node { data: data.as_bytes().into(), stat }))
    };
    publisher.publish_whole(vec![at("/s", "", 9), at("/s/web/member_1", &alive(81), 7), at("/t", "", 3)]);
    recorder.look(&store.snapshot());
    let last = recorder.kept.last();
    publisher.publish_whole(vec![Change::Delete(path("/s")), delete("web/member_1")]);
    recorder.look(&store.snapshot());
    let gone = "its node was deleted, which was of no session; found when zk was read anew";
    assert_eq!(told(&recorder, last), [format!("Vanished a:81: {gone}")]);
}

#[test]
fn of_what_was_not_held_for_lack_of_room_that_is_told() {
    let services = format::Config { root: path("/s"), format: Format::Serverset, ..format::Config::default() };
    let feed = Feed::of_nodes("zk", "zookeeper", vec![NodePath::root()]).with_services(vec![services]);
    let guard = guard::Config { max_held: 3, ..guard::Config::default() };
    let store = Store::new(&crate::store::Config { guard, ..Default::default() }, vec![feed], Arc::default());
    let publisher = store.publisher(0);
    let mut recorder = recorder(&store, 1 << 20);
    let member = |port: usize| format!("web/member_{port}");
    publisher.publish_whole((80..85).map(|port| put(&member(port), &alive(port), 0)).collect());
    recorder.look(&store.snapshot());
    let last = recorder.kept.last();
    publisher.publish((80..85).map(|port| delete(&member(port))).collect::<Vec<_>>());
    recorder.look(&store.snapshot());
    let vanished: Vec<_> = told(&recorder, last).into_iter().filter(|line| line.starts_with("Vanished")).collect();
    let why = "its node was deleted, which was of no session; it was not held: no room; raise guard.max_held";
    assert_eq!(vanished, [83, 84].map(|port| format!("Vanished a:{port}: {why}")));
}

#[test]
fn of_what_an_operator_accepts_it_is_told_who_did_so_until_that_is_over() {
    let (store, publisher) = house_of(true);
    let mut recorder = recorder(&store, 1 << 20);
    let member = |port: usize| format!("web/member_{port}");
    publisher.publish_whole((80..90).map(|port| put(&member(port), &alive(port), 0)).collect());
    recorder.look(&store.snapshot());
    let mut look = || {
        let last = recorder.kept.last();
        recorder.look(&store.snapshot());
        told(&recorder, last)
    };
    store.guard(|guard, now| guard.accept(now, "web", Duration::from_secs(60), "uid 9"));
    publisher.publish((80..90).map(|port| delete(&member(port))).collect::<Vec<_>>());
    let why = "its node was deleted, which was of no session; it was not held: uid 9 had accepted that (guard accept)";
    assert_eq!(look(), (80..90).map(|port| format!("Vanished a:{port}: {why}")).collect::<Vec<_>>());
    publisher.publish((80..90).map(|port| put(&member(port), &alive(port), 0)).collect::<Vec<_>>());
    store.guard(|guard, now| guard.accept(now, "web", Duration::ZERO, "uid 9"));
    look();
    publisher.publish(vec![delete(&member(80))]);
    assert_eq!(look(), ["Vanished a:80: its node was deleted, which was of no session"]);
}

#[test]
fn of_what_is_held_no_more_and_registered_below_a_later_root_it_is_told_what_ended_the_hold() {
    let services = |(rank, root)| {
        let format = Format::Serverset;
        format::Config { root: path(root), format, rank, ..format::Config::default() }
    };
    let services = [(0, "/s"), (1, "/x")].map(services).into();
    let feed = Feed::of_nodes("zk", "zookeeper", vec![NodePath::root()]).with_services(services);
    let store = Store::new(&Default::default(), vec![feed], Arc::default());
    let publisher = store.publisher(0);
    let mut recorder = recorder(&store, 1 << 20);
    let member = |port: usize| format!("web/member_{port}");
    publisher.publish_whole((80..90).map(|port| put(&member(port), &alive(port), 0)).collect());
    publisher.publish((80..90).map(|port| delete(&member(port))).collect::<Vec<_>>());
    let node = Node { data: alive(80).as_bytes().into(), stat: Stat::default() };
    publisher.publish(vec![Change::Put(path("/x/web/member_80"), node.into())]);
    recorder.look(&store.snapshot());
    let mut look = || {
        let last = recorder.kept.last();
        recorder.look(&store.snapshot());
        told(&recorder, last)
    };
    store.guard(|guard, _| guard.probed(&[("a:80".into(), Found::Refused)]));
    let why = "it was held, until its address refused connections; what is registered below a later root is listed now";
    assert_eq!(look(), [format!("Returned a:80: {why}")]);
    publisher.publish(vec![put(&member(81), &alive(81), 0)]);
    assert_eq!(look(), ["Returned a:81: it is registered again"]);
}

#[test]
fn what_is_held_is_told_with_its_reason_and_with_what_ended_it() {
    let (store, publisher) = house_of(true);
    let mut recorder = recorder(&store, 1 << 20);
    let member = |port: usize| format!("web/member_{port}");
    publisher.publish_whole((80..90).map(|port| put(&member(port), &alive(port), 0)).collect());
    recorder.look(&store.snapshot());
    let mut look = || {
        let last = recorder.kept.last();
        recorder.look(&store.snapshot());
        told(&recorder, last).into_iter().map(|line| line.split("; held until").next().expect("one").to_owned())
    };
    publisher.publish(vec![delete(&member(80))]);
    assert_eq!(look().collect::<Vec<_>>(), ["Vanished a:80: its node was deleted, which was of no session"]);
    publisher.publish((81..86).map(|port| delete(&member(port))).collect::<Vec<_>>());
    let others = (81..86).map(|port| format!("Held a:{port}: its node was deleted, which was of no session"));
    let first = "Held a:80: it vanished before, and too much of the service since".to_owned();
    assert_eq!(look().collect::<Vec<_>>(), [first].into_iter().chain(others).collect::<Vec<_>>());
    store.guard(|guard, _| guard.probed(&[("a:80".into(), Found::Refused)]));
    assert_eq!(look().collect::<Vec<_>>(), ["Vanished a:80: it was held, until its address refused connections"]);
    store.guard(|guard, _| {
        let effects = guard.release("web", Which::At(&["a:81".to_owned()]));
        guard.note(&effects, "an operator let it go: uid 0");
        effects
    });
    assert_eq!(look().collect::<Vec<_>>(), ["Vanished a:81: it was held, until an operator let it go: uid 0"]);
    let later = Now { wall: 0, moment: Now::read().moment + Duration::from_secs(3_600) };
    store.guard(|guard, _| guard.pass(later));
    assert!(look().all(|line| line.ends_with("it was held, until it was registered otherwise")), "before its end");
}
