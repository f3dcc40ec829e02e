//! Log files of workers: what real processes print goes to a file of their own, and no file harms anybody.

use std::fs::{self, Permissions};
use std::os::unix::fs::{PermissionsExt, chown, symlink};
use std::path::Path;
use std::process::Command;

use crate::harness::{Ended, Roster, SOON, WWW_DATA, binary_path, ensure, eventually, is_skipped_without_root};
use crate::workers::{prepared, running, says, sh, started};

/// Prints a line on both streams, another one whenever it is asked to, and goes on.
const PRINTS: &str = "trap 'echo again' USR1; echo out; echo wrong >&2; while :; do sleep 0.05; done";

fn read(path: &Path) -> String {
    fs::read_to_string(path).unwrap_or_default()
}

/// Waits until its process has printed, and so heeds the signal.
fn has_printed(roster: &Roster, name: &str) {
    eventually(&format!("{name} has printed"), SOON, || {
        let printed = says(roster, ["worker", "logs", name], 0);
        ensure(printed.contains(" | out\n"), printed)
    });
}

/// Has it print until the file says so.
fn prints_again(roster: &Roster, name: &str, path: &Path) {
    has_printed(roster, name);
    eventually(&format!("{} says what it prints", path.display()), SOON, || {
        says(roster, ["worker", "signal", name, "USR1"], 0);
        ensure(read(path).contains(" again\n"), read(path))
    });
}

#[test]
fn a_worker_has_a_log_of_its_own_which_is_made_anew_when_it_is_moved_or_removed() {
    let json = r#"echo '{"level":400,"level_name":"ERROR","message":"full"}'; "#;
    let mut roster = started(&sh("web", &format!("{json}{PRINTS}"), "log = \"{folder}/web.log\""));
    let (log, pid) = (roster.folder().join("web.log"), running(&roster, "web/1"));
    let whole = eventually("all is written", SOON, || {
        let text = read(&log);
        if text.lines().count() == 3 && text.ends_with('\n') { Ok(text) } else { Err(text) }
    });
    for line in ["stdout web/1[PID] out", "stderr web/1[PID] wrong", "error web/1[PID] {\"level\":400,"] {
        let line = format!(" {}", line.replace("PID", &pid.to_string()));
        assert!(whole.lines().any(|found| found.contains(&line)), "{line} in {whole}");
    }
    assert_eq!(log.metadata().expect("a file").permissions().mode() & 0o777, 0o640);
    eventually("they are kept as well", SOON, || {
        let kept = says(&roster, ["worker", "logs", "web/1"], 0);
        ensure(kept.lines().count() == 3, kept)
    });
    assert!(!roster.log().contains("roster::worker::output"), "{}", roster.log());
    let moved = roster.folder().join("web.log.old");
    fs::rename(&log, &moved).expect("it is there");
    prints_again(&roster, "web/1", &log);
    assert!(read(&moved).starts_with(&whole));
    fs::remove_file(&log).expect("it is there");
    prints_again(&roster, "web/1", &log);
    // What a process prints last of all is in it too.
    fs::remove_file(&log).expect("it is there");
    says(&roster, ["worker", "signal", "web/1", "USR1"], 0);
    eventually("it has printed", SOON, || ensure(read(&log).contains("again"), "not yet"));
    assert!(roster.stop().success());
}

#[test]
fn a_worker_that_floods_is_slowed_its_log_is_rotated_and_no_other_waits() {
    const MOST_MORE: usize = 24 << 20;
    let floods = "log = \"{folder}/flood.log\"\nmax_log_size = \"64KiB\"\nmax_log_files = 3\ncount = 2";
    let groups = [
        sh("flood", "exec yes 0123456789012345678901234567890123456789", floods),
        sh("web", PRINTS, "log = \"{folder}/web.log\""),
    ];
    let roster = started(&groups.concat());
    running(&roster, "web/1");
    let memory = roster.own_memory();
    let file = |name: &str| roster.folder().join(name);
    eventually("it was rotated", 3 * SOON, || ensure(file("flood.log.3").exists(), "not yet"));
    prints_again(&roster, "web/1", &file("web.log"));
    for name in ["flood.log", "flood.log.1", "flood.log.2", "flood.log.3"] {
        let size = file(name).metadata().map_or(0, |found| found.len());
        assert!(size <= 64 << 10, "{name} has {size}");
    }
    assert!(!file("flood.log.4").exists());
    // While it is rotated there is none of this name.
    let last = eventually("it is there", SOON, || fs::read_to_string(file("flood.log.1")));
    assert!(last.ends_with('\n') && last.lines().all(|line| line.ends_with("0123456789")), "lines are whole");
    let more = roster.own_memory().saturating_sub(memory);
    assert!(more < MOST_MORE, "{more} bytes more");
}

#[test]
fn a_log_that_cannot_be_written_is_told_once_with_its_cure_and_harms_nobody() {
    let groups =
        [sh("lost", PRINTS, "log = \"{folder}/no/lost.log\""), sh("web", PRINTS, "log = \"{folder}/web.log\"")];
    let roster = started(&groups.concat());
    running(&roster, "lost/1");
    let is_kept = |what: &str| {
        eventually("it is kept", SOON, || {
            let kept = says(&roster, ["worker", "logs", "lost"], 0);
            ensure(kept.contains(what), kept)
        });
    };
    is_kept("out");
    prints_again(&roster, "web/1", &roster.folder().join("web.log"));
    eventually("it is told", SOON, || ensure(roster.log().contains("/no: make it, or choose another"), roster.log()));
    for _ in 0..5 {
        says(&roster, ["worker", "signal", "lost/1", "USR1"], 0);
    }
    is_kept("again");
    fs::create_dir(roster.folder().join("no")).expect("made");
    let log = roster.folder().join("no/lost.log");
    prints_again(&roster, "lost/1", &log);
    assert!(read(&log).contains(" left out before this one: they could not be written\n"), "{}", read(&log));
    assert_eq!(roster.log().matches("cannot write the log of a worker").count(), 1, "{}", roster.log());
    eventually("it is told", SOON, || ensure(roster.log().contains("is written again"), roster.log()));
}

#[test]
fn root_writes_no_log_where_the_workers_user_could_lead_it() {
    if is_skipped_without_root() {
        return;
    }
    let log = "user = \"www-data\"\nlog = \"{folder}/theirs/web.log\"";
    let mut roster = prepared(&sh("web", PRINTS, log));
    roster.open_to_all();
    let (folder, victim) = (roster.folder().join("theirs"), roster.folder().join("victim"));
    fs::create_dir(&folder).and_then(|()| fs::write(&victim, "kept")).expect("made");
    symlink(&victim, folder.join("web.log")).expect("a link");
    chown(&folder, Some(WWW_DATA), Some(WWW_DATA)).expect("root can");
    let check = Ended::of(roster.command(["config", "check"]).arg(roster.folder().join("roster.toml")));
    assert!(check.wrong.contains("worker.0.log: ") && check.wrong.contains("/theirs belongs to www-data"), "{check:?}");
    roster.run();
    running(&roster, "web/1");
    eventually("it is told", SOON, || ensure(roster.log().contains("/theirs belongs to www-data"), roster.log()));
    assert_eq!(read(&victim), "kept");
    // In a folder of root's, what another user may have left is not written either.
    std::os::unix::fs::lchown(folder.join("web.log"), Some(WWW_DATA), None).expect("root can");
    chown(&folder, Some(0), Some(0)).expect("root can");
    has_printed(&roster, "web/1");
    eventually("it is told", SOON, || {
        says(&roster, ["worker", "signal", "web/1", "USR1"], 0);
        ensure(roster.log().contains("is a link of www-data"), roster.log())
    });
    fs::remove_file(folder.join("web.log")).expect("it is there");
    prints_again(&roster, "web/1", &folder.join("web.log"));
    assert_eq!(read(&victim), "kept");
}

#[test]
fn a_log_on_a_disk_that_is_full_harms_nobody_and_goes_on_when_there_is_room() {
    if is_skipped_without_root() {
        return;
    }
    let mut roster = prepared(&sh("web", PRINTS, "log = \"{folder}/small/web.log\""));
    let small = roster.folder().join("small");
    fs::create_dir(&small).expect("made");
    fs::set_permissions(&small, Permissions::from_mode(0o755)).expect("it is ours");
    let mut command = Command::new("unshare");
    let mount =
        "mount -t tmpfs -o size=64k,mode=755 tmpfs \"$0\" && { head -c 65536 /dev/zero > \"$0/rest\"; exec \"$@\"; }";
    command.args(["--mount", "sh", "-c", mount]).arg(&small).arg(binary_path());
    let mut serve = roster.serve(command);
    roster.run_as(&mut serve);
    running(&roster, "web/1");
    eventually("it is told", SOON, || {
        let why = "make room, or lower `max_log_size` and `max_log_files`";
        ensure(roster.log().contains(why), roster.log())
    });
    let seen = format!("/proc/{}/root{}", roster.process().id(), small.display());
    fs::remove_file(format!("{seen}/rest")).expect("it is there");
    prints_again(&roster, "web/1", Path::new(&format!("{seen}/web.log")));
    assert!(read(Path::new(&format!("{seen}/web.log"))).contains(" left out before this one"));
}
