//! Whose the files are that the sidecar finds at its start, and whose those that it makes: with other users.

use std::fs::{self, File};
use std::os::unix::fs::{MetadataExt, PermissionsExt, chown, symlink};
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::Command;

use nix::sys::signal::Signal;
use nix::sys::stat;
use nix::unistd::mkfifo;
use roster::store::shared::Reader;

use crate::harness::{
    Ended, Roster, SOON, WWW_DATA, as_www_data, binary, ensure, eventually, is_skipped_without_root, of_www_data,
    unconfigured,
};
use crate::idl::Origin;

/// A sidecar that is stopped, and has left a file and a copy of it.
fn stopped() -> Roster {
    let mut roster = Roster::prepare_file("roster.sock", "\"/a\" = \"one\"");
    fs::create_dir(roster.folder().join("disk")).expect("a folder");
    roster.run();
    roster.becomes("live");
    eventually("it is in the file", SOON, || Reader::open(&roster.shared_file()).map(drop));
    assert!(roster.stop().success());
    assert!(roster.state().join("shared.mdb").is_file());
    roster
}

/// Starts it while its source is away; what it knows of the node is what it took from a file.
fn restored(roster: &mut Roster) -> Option<Vec<u8>> {
    fs::remove_file(roster.folder().join("nodes.toml")).expect("it is there");
    roster.run();
    let reply = roster.get("/a").ok()?;
    assert_eq!(reply.freshness.origin, Origin::RESTORED);
    Some(reply.node.data)
}

/// The line with which the sidecar has set a file aside.
fn set_aside(roster: &Roster, file: &Path) -> String {
    let log = roster.log();
    let words = format!("path={} ", file.display());
    let lines: Vec<&str> = log.lines().filter(|line| line.contains("set a shared file aside")).collect();
    assert!(lines.len() == 1 && lines[0].contains(&words), "{lines:?}");
    lines[0].to_owned()
}

#[test]
fn a_file_that_another_user_has_put_there_is_set_aside_and_the_copy_serves() {
    if is_skipped_without_root() {
        return;
    }
    let mut roster = stopped();
    let file = roster.shared_file();
    chown(&file, Some(WWW_DATA), None).expect("root can");
    assert_eq!(restored(&mut roster), Some(b"one".to_vec()), "that of the copy");
    let line = set_aside(&roster, &file);
    assert!(line.contains("belongs to www-data, and this is a process of root: run it as www-data, or"), "{line}");
    let new = eventually("there is a new one", SOON, || file.metadata());
    assert_eq!(new.uid(), 0);
}

#[test]
fn a_copy_of_another_user_is_not_taken() {
    if is_skipped_without_root() {
        return;
    }
    let mut roster = stopped();
    let copy = roster.state().join("shared.mdb");
    fs::remove_file(roster.shared_file()).expect("it is there");
    chown(&copy, Some(WWW_DATA), None).expect("root can");
    assert_eq!(restored(&mut roster), None);
    assert!(set_aside(&roster, &copy).contains("belongs to www-data"));
}

#[test]
fn neither_a_link_nor_a_pipe_nor_a_file_that_others_write_is_taken() {
    type Harm = fn(&Path);
    let harms: [(&str, Harm); 3] = [
        ("it is a symbolic link, or no regular file", |file| {
            let away = file.with_extension("away");
            fs::rename(file, &away).and_then(|()| symlink(&away, file)).expect("a link");
        }),
        ("it is a symbolic link, or no regular file", |file| {
            fs::remove_file(file).expect("it is there");
            mkfifo(file, stat::Mode::S_IRWXU).expect("a pipe");
        }),
        ("others than its owner may write it (mode 0662)", |file| {
            fs::set_permissions(file, fs::Permissions::from_mode(0o662)).expect("it is ours");
        }),
    ];
    for (why, harm) in harms {
        let mut roster = stopped();
        let copy = roster.state().join("shared.mdb");
        fs::remove_file(&copy).expect("it is there");
        let kept = fs::read(roster.shared_file()).expect("a file");
        harm(&roster.shared_file());
        // What lies under the names that it makes is not written to.
        let target = roster.folder().join("target");
        fs::write(&target, "kept").expect("written");
        for fresh in [roster.state().join("shared.new"), roster.folder().join(".shared.mdb/fresh")] {
            let _ = fs::remove_file(&fresh);
            symlink(&target, fresh).expect("a link");
        }
        assert_eq!(restored(&mut roster), None, "{why}");
        let line = set_aside(&roster, &roster.shared_file());
        assert!(line.contains(why), "{line}");
        assert!(roster.stop().success());
        assert!(copy.is_file() && fs::read(&target).expect("a file") == b"kept");
        if let Ok(away) = fs::read(roster.shared_file().with_extension("away")) {
            assert!(away == kept, "what the link leads to is left alone");
        }
    }
}

#[test]
fn a_token_that_another_user_can_have_chosen_is_not_taken() {
    let mut roster = Roster::prepare_file("roster.sock", "\"/a\" = \"one\"");
    roster.configure("listen = \"\"", "listen = \"127.0.0.1:0\"");
    fs::create_dir_all(roster.state()).expect("a folder");
    let token = roster.state().join("register.token");
    symlink("/etc/debian_version", &token).expect("a link to what everybody knows");
    let told = roster.fails();
    assert!(told.contains("register.token holds no token of Roster's own: it is a symbolic link"), "{told}");
    fs::remove_file(&token).and_then(|()| fs::write(&token, "chosen by somebody else")).expect("written");
    fs::set_permissions(&token, fs::Permissions::from_mode(0o666)).expect("it is ours");
    let told = roster.fails();
    assert!(told.contains("others than its owner may write it (mode 0666)"), "{told}");
    if is_skipped_without_root() {
        return;
    }
    fs::set_permissions(&token, fs::Permissions::from_mode(0o600)).expect("it is ours");
    chown(&token, Some(WWW_DATA), None).expect("root can");
    let told = roster.fails();
    assert!(told.contains("belongs to www-data, and this is a process of root"), "{told}");
}

#[test]
fn a_folder_of_another_user_is_refused_before_anything_is_done_there() {
    if is_skipped_without_root() {
        return;
    }
    for (setting, foreign) in [("thrift.unix", "run"), ("shared.state", "disk/state"), ("shared.state", "disk")] {
        let mut roster = Roster::prepare_file("run/roster.sock", "\"/a\" = \"one\"");
        let (socket, foreign) = (roster.folder().join("run"), roster.folder().join(foreign));
        for folder in [&socket, &foreign] {
            fs::create_dir_all(folder).expect("a folder");
        }
        chown(&foreign, Some(WWW_DATA), None).expect("root can");
        let (told, path) = (roster.fails(), foreign.display());
        assert!(
            told.contains(&format!("{setting}: {path} belongs to www-data, and this is a process of root")),
            "{told}"
        );
        let touched = [&socket, &foreign].map(|folder| fs::read_dir(folder).expect("it is there").count());
        assert_eq!(touched, [0, 0]);
        chown(&foreign, Some(0), None).expect("root can");
        roster.run();
    }
}

#[test]
fn a_file_that_all_may_read_has_a_lock_file_that_not_all_may_write() {
    if is_skipped_without_root() {
        return;
    }
    let mut roster = Roster::prepare_file("roster.sock", "\"/a\" = \"one\"");
    roster.configure("[[file]]", "[shared]\nmode = \"0644\"\n[[file]]");
    roster.open_to_all();
    roster.run();
    roster.becomes("live");
    let (file, lock) = (roster.shared_file(), roster.folder().join("shared.mdb-lock"));
    eventually("it is in the file", SOON, || as_www_data(|| Reader::open(&file).map(drop)));
    for path in [&lock, &file] {
        assert!(as_www_data(|| File::options().write(true).open(path)).is_err(), "{path:?}");
    }
    // LMDB does without a lock only where it may write the lock file, but for the mount.
    let read = |group: u32| {
        let enter = format!(
            "mount --bind \"$0\" \"$0\" && mount -o remount,ro,bind \"$0\" && \
             exec setpriv --reuid={WWW_DATA} --regid={group} --clear-groups \"$@\""
        );
        let code = "$db = @dba_open($argv[1], 'r', 'lmdb'); echo $db ? dba_fetch('node/a', $db) : 'no file';";
        let mut php = unconfigured(Command::new("unshare"));
        php.args(["--mount", "sh", "-c", &enter]).arg(roster.folder()).args(["php", "-r", code]).arg(&file);
        Ended::of(&mut php).text()
    };
    assert_eq!([read(WWW_DATA), read(0)], ["no file", "one"]);
}

#[test]
fn nobody_else_may_write_the_shared_file() {
    let roster = Roster::prepare_file("roster.sock", "\"/a\" = \"one\"");
    roster.configure("[[file]]", "[shared]\nmode = \"0660\"\n[[file]]");
    let told = Ended::of(binary().args(["config", "check"]).arg(roster.config()));
    assert!(told.code == Some(2) && told.wrong.contains("nobody else may write it"), "{told:?}");
}

#[test]
fn an_export_is_for_its_group_alone() {
    if is_skipped_without_root() {
        return;
    }
    let roster = Roster::of_file("\"/a\" = \"one\"");
    roster.open_to_all();
    for (name, group) in [("by-name.php", "www-data"), ("by-number.php", "33")] {
        let file = roster.folder().join(name);
        roster.cli(["export", "--php", file.to_str().expect("text"), "--group", group, "/a"]).text();
        let found = file.metadata().expect("a file");
        assert_eq!((found.mode() & 0o7777, found.uid(), found.gid()), (0o640, 0, WWW_DATA));
        let code = format!("echo (@include '{}')['nodes']['/a'] ?? 'nothing';", file.display());
        let php = |mut php: Command| Ended::of(php.args(["-r", &code])).text();
        assert_eq!(php(of_www_data(Command::new("php"))), "one");
        let mut nobody = Command::new("php");
        nobody.uid(65_534).gid(65_534).current_dir("/");
        assert_eq!(php(nobody), "nothing");
    }
    let theirs = roster.folder().join("theirs");
    fs::create_dir(&theirs).and_then(|()| chown(&theirs, Some(WWW_DATA), None)).expect("root can");
    chown(roster.socket(), None, Some(WWW_DATA)).expect("root can");
    let file = theirs.join("a.php");
    let export = ["export", "--php", file.to_str().expect("text"), "--group", "root", "/a"];
    let told = Ended::of(&mut of_www_data(roster.command(export)));
    let cure = "cannot give it to the group `root`: you are not in it; name one of yours";
    assert!(told.code != Some(0) && told.wrong.contains(cure) && !told.wrong.contains("usermod"), "{told:?}");
}

#[test]
fn root_checks_a_configuration_as_the_user_of_the_sidecar() {
    if is_skipped_without_root() {
        return;
    }
    let roster = Roster::prepare_file("roster.sock", "\"/a\" = \"one\"");
    let (state, tokens) = (roster.folder().join("disk"), roster.folder().join("tokens"));
    fs::create_dir(&state).and_then(|()| chown(&state, Some(WWW_DATA), None)).expect("root can");
    roster.configure("[[file]]", &format!("[shared]\nstate = {state:?}\n[[file]]"));
    roster.configure("listen = \"\"", &format!("listen = \"127.0.0.1:1\"\ntokens = {tokens:?}"));
    roster.write("tokens", "a-token-of-some-length");
    roster.open_to_all();
    chown(roster.folder(), Some(WWW_DATA), None).expect("root can");
    let check = |more: &[&str]| Ended::of(binary().args(["config", "check"]).arg(roster.config()).args(more));
    fs::set_permissions(&tokens, fs::Permissions::from_mode(0o600)).expect("it is ours");
    for more in [&[][..], &["--user", "www-data"], &["--user", "33"]] {
        let told = check(more);
        assert!(told.code == Some(2) && told.wrong.contains("tokens: Permission denied"), "{told:?}");
    }
    let told = check(&["--user", "root"]);
    assert!(told.code == Some(2) && told.wrong.contains("disk belongs to www-data"), "{told:?}");
    chown(&tokens, Some(WWW_DATA), None).expect("root can");
    let told = check(&[]);
    assert!(told.code == Some(0) && told.wrong.contains("checked as www-data, as whom the sidecar runs"), "{told:?}");
    assert!(check(&["--user", "nobody-at-all"]).wrong.contains("there is no user \"nobody-at-all\""));
}

#[test]
fn a_start_and_a_reload_name_the_line_of_a_user_whom_nobody_knows() {
    let mut roster = Roster::prepare_file("roster.sock", "\"/a\" = \"one\"");
    roster.run();
    roster.configure("[[file]]", "[access]\nadmins = [\"user:nobody-at-all\"]\n[[file]]");
    let config = fs::read_to_string(roster.config()).expect("a configuration");
    let line = 1 + config.lines().position(|line| line.starts_with("admins")).expect("a line");
    let words = [format!("roster.toml:{line}: "), "there is no user \"nobody-at-all\" on this machine".into()];
    roster.process().signal(Signal::SIGHUP);
    eventually("it is in the log", SOON, || {
        let log = roster.log();
        ensure(words.iter().all(|words| log.contains(words)), log)
    });
    assert!(roster.stop().success());
    let told = roster.fails();
    assert!(words.iter().all(|words| told.contains(words)), "{told}");
}
