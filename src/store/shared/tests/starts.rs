//! What the next start does with what an earlier process left in the shared file.

use super::*;

/// Asserts that the file at `at` was set aside, and that the sidecar began without it.
fn assert_set_aside(fixture: &SharedFileFixture, open: &Open) {
    assert!(open.shared.left().is_none());
    assert!(fixture.aside().exists());
    assert_eq!(fixture.file().metadata().expect("a new file").mode() & 0o777, 0o640);
}

#[test]
fn the_next_start_answers_from_it_and_says_so() {
    let fixture = SharedFileFixture::new();
    let mut open = fixture.open();
    open.sync();
    let last = open.publish(vec![put("/a", "1")]);
    drop(open);
    std::thread::sleep(Duration::from_millis(20));
    let open = fixture.open();
    let (snapshot, freshness) = (open.store.snapshot(), open.freshness());
    assert_eq!(data(&snapshot, "/a").as_deref(), Some("1"));
    assert_eq!((freshness.origin, freshness.complete), (Origin::Restored, true));
    assert!(freshness.age >= Duration::from_millis(20) && freshness.age < Duration::from_secs(600), "{freshness:?}");
    assert!(freshness.revision > last);

    let room = PageLimit { changes: 9, bytes: 999 };
    let since = |revision| open.store.snapshot().changes_since(revision, &[NodePath::root()], room);
    assert!(matches!(since(last), ChangesSince::Known { changes, .. } if changes.is_empty()), "it is the same state");
    assert_eq!(since(last - 1), ChangesSince::Unknown);
    assert_eq!(since(last + 1), ChangesSince::Unknown, "this may have been given out and not written");
    open.publisher.feed().enter(FeedState::Live, "");
    open.publisher.feed().prove(Moment::now());
    open.publisher.publish_whole(vec![put("/b", "1")]);
    assert_eq!((open.freshness().origin, open.freshness().age), (Origin::Live, Duration::ZERO));
    assert!(matches!(since(last), ChangesSince::Known { changes, .. } if changes.len() == 1));
    assert_eq!(since(last + 1), ChangesSince::Unknown);
}

#[test]
fn an_age_counts_from_the_last_sync_whatever_the_clock_does() {
    let contents = SharedFileFixture::with([vec![put("/a", "1")]]).read();
    let age = |now: SystemTime| {
        let mut feeds = feeds("cluster");
        contents.restore(&mut feeds, now);
        feeds[0].age().expect("it was in sync once").as_secs()
    };
    let written = SystemTime::UNIX_EPOCH + Duration::from_millis(contents.status.written_at);
    assert_eq!(age(written + Duration::from_secs(3_600)), 3_600);
    assert_eq!(age(written - Duration::from_secs(3_600)), 3_600, "nobody knows by how much it was set back");
    let away = |now| contents.status.freshness(contents.status.behind(&NodePath::root()), now).age.as_secs();
    assert_eq!(away(written + Duration::from_secs(1)), 0, "the writer lives");
    assert_eq!(away(written - Duration::from_secs(1)), 0, "the writer lives");
    assert_eq!(away(written + Duration::from_secs(3_600)), 3_600, "the writer is away");
    assert_eq!(away(written - Duration::from_secs(3_600)), 3_600, "it does not live in the future");
}

#[test]
fn only_what_is_mirrored_now_is_restored() {
    let fixture = SharedFileFixture::with([vec![put("/a/x", "1"), put("/b", "1"), put("/c", "1")]]);
    let roots = |of: &[&str]| of.iter().map(|root| path(root)).collect::<Vec<_>>();
    let narrow = || {
        vec![
            Feed::of_nodes("test", "file", roots(&["/a"])).of(Identity::new("cluster")),
            Feed::of_nodes("other", "file", roots(&["/b"])).of(Identity::new("cluster")),
        ]
    };
    let mut open = fixture.open_as(narrow());
    let snapshot = open.store.snapshot();
    let progress: Vec<_> = snapshot.progress().iter().map(|progress| (progress.whole, progress.nodes)).collect();
    assert_eq!(progress, [(true, 1), (true, 1)], "/c is of none");
    open.write();
    drop(open);
    assert_eq!(fixture.read().nodes.len(), 2, "what is not restored is taken out of the file");
}

#[test]
fn a_root_that_is_added_takes_no_answer_from_the_others() {
    let fixture = SharedFileFixture::with([vec![put("/a/x", "1")]]);
    let of = |roots: &[&str]| {
        let roots = roots.iter().map(|root| path(root)).collect();
        vec![Feed::of_nodes("test", "file", roots).of(Identity::new("cluster"))]
    };
    let wider = || of(&["/a", "/d"]);
    fixture.open_as(of(&["/a"])).write();
    let is_whole = |open: &Open| {
        let snapshot = open.store.snapshot();
        ["/a/x", "/a", "/a/none", "/d", "/d/x", "/"]
            .map(|at| snapshot.behind(&[path(at)]).map(|(_, progress)| progress.whole).eq([true]))
    };
    let unread = [true, true, true, false, false, false];
    let mut open = fixture.open_as(wider());
    assert_eq!(is_whole(&open), unread, "nothing is known of /d, nor of all below /");
    open.write();
    drop(open);
    let status = fixture.read().status;
    let told: Vec<_> = status.sources.iter().map(|source| (source.roots.clone(), source.whole)).collect();
    assert_eq!(told, [(vec![path("/a")], true), (vec![path("/d")], false)], "readers of the file learn as much");
    assert!(!status.fresh.complete);
    let mut open = fixture.open_as(wider());
    assert_eq!(is_whole(&open), unread, "also after another restart");
    open.publish(vec![put("/a/y", "2")]);
    assert_eq!(is_whole(&open), unread, "a change is not all");
    open.sync();
    assert_eq!(is_whole(&open), [true; 6]);
    open.write();
    assert_eq!(fixture.read().status.sources.len(), 1);
}

#[test]
fn nodes_are_restored_however_their_roots_are_named_and_shared() {
    let fixture = SharedFileFixture::with([vec![put("/a/x", "1"), put("/b", "1")]]);
    let restored = |tables: &[(&str, &str, &[&str])]| -> Vec<_> {
        let feed = |(name, identity, roots): &(&str, &str, &[&str])| {
            let roots = roots.iter().map(|root| path(root)).collect();
            Feed::of_nodes(*name, "file", roots).of(Identity::new(*identity))
        };
        let mut open = fixture.open_as(tables.iter().map(feed).collect());
        open.write();
        open.store.snapshot().progress().iter().map(|progress| (progress.whole, progress.nodes)).collect()
    };
    let of = "cluster";
    assert_eq!(restored(&[("test", of, &["/a"]), ("new", of, &["/b"])]), [(true, 1), (true, 1)], "split");
    assert_eq!(restored(&[("new", of, &["/a"]), ("test", of, &["/b"])]), [(true, 1), (true, 1)], "swapped");
    assert_eq!(restored(&[("test", of, &["/a", "/b"])]), [(true, 2)], "joined");
    let another = ("test", "another", ["/other"].as_slice());
    assert_eq!(restored(&[("app", of, &["/a", "/b"]), another]), [(true, 2), (false, 0)], "its name went to another");
}

#[test]
fn the_file_of_another_cluster_is_set_aside_and_comes_back() {
    let fixture = SharedFileFixture::with([vec![put("/a", "1")]]);
    let aside = with_end(&fixture.file(), ".other-cluster");
    let nodes = |open: &Open| open.store.snapshot().nodes().keys().map(NodePath::to_string).collect::<Vec<_>>();
    let open = fixture.open_as(feeds("another"));
    assert!(aside.exists() && nodes(&open).is_empty());
    drop(open);
    let open = fixture.open();
    assert_eq!(nodes(&open), ["/a"]);
    assert!(!aside.exists(), "what held nothing is not kept");
    drop(open);
    let mut other = fixture.open_as(feeds("another"));
    other.sync();
    other.publish(vec![put("/b", "2")]);
    drop(other);
    assert_eq!(nodes(&fixture.open()), ["/a"]);
    assert_eq!(nodes(&fixture.open_as(feeds("another"))), ["/b"]);
    assert_eq!(nodes(&fixture.open()), ["/a"], "as often as it takes");
    fs::rename(fixture.file(), with_end(&fixture.file(), ".back")).expect("an exchange that was interrupted");
    assert_eq!(nodes(&fixture.open()), ["/a"]);
}

#[test]
fn a_file_of_another_format_is_set_aside() {
    let fixture = SharedFileFixture::with([vec![put("/a", "1")]]);
    let open = fixture.open();
    let env = open.env();
    let mut transaction = env.write().expect("a transaction");
    transaction.put(env.db, &entry::FORMAT, b"3", lmdb::WriteFlags::empty()).expect("put");
    lmdb::Transaction::commit(transaction).expect("committed");
    drop(env);
    drop(open);
    assert!(matches!(Contents::load(&fixture.file()), Err(InvalidFile::Format(version)) if version == "3"));
    assert_set_aside(&fixture, &fixture.open());
}

#[test]
fn no_damage_is_served_or_ends_the_process() {
    let changes = |round: usize| (0..40).map(|n| put(&format!("/n{n}"), &"x".repeat(round * n * 7))).collect();
    let fixture = SharedFileFixture::with((0..30).map(changes));
    // Without the free pages, which nothing reads.
    copy::copy(&fixture.open().env(), &fixture.file()).expect("copied");
    let whole = fixture.read();
    let bytes = fs::read(fixture.file()).expect("the file");
    let file = File::options().write(true).open(fixture.file()).expect("the file");
    let mut refused = 0;
    let (heads, rest) = ((0..400).step_by(3), (400..bytes.len()).step_by(bytes.len() / 400 + 1));
    for at in heads.chain(rest) {
        file.write_all_at(&[bytes[at] ^ 0x55], at as u64).expect("damaged");
        match Contents::load(&fixture.file()) {
            Ok(contents) => assert!(contents.nodes == whole.nodes && contents.status == whole.status, "at {at}"),
            Err(_) => refused += 1,
        }
        file.write_all_at(&bytes[at..=at], at as u64).expect("repaired");
    }
    assert!(refused > 50, "{refused}");
    for length in (1..bytes.len()).step_by(bytes.len() / 50) {
        fs::write(fixture.file(), &bytes[..length]).expect("cut off");
        if let Ok(contents) = Contents::load(&fixture.file()) {
            assert_eq!(contents.nodes, whole.nodes, "{length} of {}", bytes.len());
        }
    }
    for junk in [&b"{}"[..], &[0; 4096], &[0xff; 100_000], &bytes[..bytes.len() / 2]] {
        fs::write(fixture.file(), junk).expect("junk");
        let mut open = fixture.open();
        assert_set_aside(&fixture, &open);
        open.publish(vec![put("/a", "1")]);
    }
    assert_eq!(data(&fixture.open().store.snapshot(), "/a").as_deref(), Some("1"));
}

#[test]
fn a_file_to_which_nothing_was_written_yet_is_no_damage() {
    let fixture = SharedFileFixture::new();
    drop(fixture.open());
    assert!(fixture.file().metadata().expect("a file").len() > 0);
    let mut open = fixture.open();
    assert!(open.shared.left().is_none() && !fixture.aside().exists());
    open.publish(vec![put("/a", "1")]);
    drop(open);
    assert_eq!(data(&fixture.open().store.snapshot(), "/a").as_deref(), Some("1"));
}

#[test]
fn the_newer_whole_one_of_file_and_copy_wins() {
    let fixture = SharedFileFixture::with([vec![put("/a", "old")]]);
    let old = fs::read(fixture.file()).expect("the file");
    let mut open = fixture.open();
    open.publish(vec![put("/a", "new")]);
    let copy = |open: &Open| copy::copy(&open.env(), &fixture.copy()).expect("copied");
    copy(&open);
    drop(open);
    let starts_with = || data(&fixture.open().store.snapshot(), "/a");
    assert_eq!(starts_with().as_deref(), Some("new"));
    fs::remove_file(fixture.file()).expect("a reboot");
    assert_eq!(starts_with().as_deref(), Some("new"), "a tmpfs is empty after a reboot");
    fs::write(fixture.file(), &old).expect("an older one");
    assert_eq!(starts_with().as_deref(), Some("new"));
    fs::write(fixture.file(), b"junk").expect("a damaged one");
    assert_eq!(starts_with().as_deref(), Some("new"));
    fs::write(fixture.file(), &old).expect("an older one");
    fs::write(fixture.copy(), b"junk").expect("a damaged copy");
    assert_eq!(starts_with().as_deref(), Some("old"));
    fs::remove_file(fixture.file()).expect("a reboot");
    assert_eq!(starts_with(), None, "nothing whole is left");
    assert!(with_end(&fixture.copy(), ".set-aside").exists());
}

#[test]
fn a_source_that_is_back_vouches_for_nothing_from_before() {
    let fixture = SharedFileFixture::new();
    let mut open = fixture.open();
    open.sync();
    open.publisher.feed().enter(FeedState::Down, "");
    std::thread::sleep(Duration::from_millis(2));
    let due = open.shared.writer.due(&open.store);
    // Before that is written, the source returns.
    open.publisher.publish(vec![put("/a", "new")]);
    open.publisher.feed().enter(FeedState::Live, "");
    open.publisher.feed().prove(Moment::now());
    open.shared.writer.write(&due).expect("written");
    let written = fixture.read().status;
    assert!(written.fresh.age_ms > 0 && written.fresh.revision == due.snapshot.revision(), "{written:?}");
}
