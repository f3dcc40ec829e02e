//! What another user puts into a folder in which Roster makes files.

use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt, chown, symlink};
use std::path::{Path, PathBuf};
use std::time::Instant;

use nix::sys::stat;
use nix::unistd::mkfifo;
use tempfile::TempDir;

use crate::harness::{
    Ended, Roster, SOON, WWW_DATA, as_www_data, ensure, eventually, is_skipped_without_root, of_www_data, unconfigured,
};

/// Root's file that nobody else may read, in a folder that everybody may enter.
struct Secret(TempDir);

impl Secret {
    fn new() -> Self {
        let folder = tempfile::tempdir().expect("a folder");
        fs::set_permissions(&folder, fs::Permissions::from_mode(0o711)).expect("it is ours");
        fs::write(folder.path().join("tokens"), "a-token-of-the-register").expect("written");
        fs::set_permissions(folder.path().join("tokens"), fs::Permissions::from_mode(0o600)).expect("it is ours");
        Self(folder)
    }

    fn path(&self) -> PathBuf {
        self.0.path().join("tokens")
    }

    fn is_untouched(&self) {
        let found = self.path().metadata().expect("it is there");
        assert_eq!((found.uid(), found.gid(), found.mode() & 0o7777), (0, 0, 0o600));
        assert_eq!(fs::read(self.path()).expect("a file"), b"a-token-of-the-register");
    }
}

/// A sidecar with one node, and a folder with this mode, of www-data.
fn beside_www_data(mode: u32) -> (Roster, PathBuf) {
    let roster = Roster::of_file("\"/a\" = \"one\"");
    roster.open_to_all();
    let folder = roster.folder().join("app");
    make(&folder, WWW_DATA, mode);
    (roster, folder)
}

fn make(folder: &Path, owner: u32, mode: u32) {
    fs::create_dir(folder).expect("a folder");
    fs::set_permissions(folder, fs::Permissions::from_mode(mode)).expect("it is ours");
    chown(folder, Some(owner), Some(owner)).expect("root can");
}

fn export(roster: &Roster, file: &Path) -> Ended {
    roster.cli(["export", "--php", file.to_str().expect("text"), "--group", "www-data", "/a"])
}

#[test]
fn an_export_follows_no_link_of_another_user() {
    if is_skipped_without_root() {
        return;
    }
    let (secret, (roster, folder)) = (Secret::new(), beside_www_data(0o755));
    as_www_data(|| {
        symlink(secret.path(), folder.join("roster.php")).expect("a link");
        symlink(secret.0.path(), folder.join("sub")).expect("a link");
    });
    for (name, link) in [("roster.php", "roster.php"), ("sub/tokens", "sub"), ("sub/new.php", "sub")] {
        let ended = export(&roster, &folder.join(name));
        let why = format!("\"{link}\" on the way is a link of www-data, and this is a process of root; name the place");
        assert!(ended.code != Some(0) && ended.wrong.contains(&why), "{ended:?}");
    }
    secret.is_untouched();
    assert_eq!(fs::read_dir(secret.0.path()).expect("a folder").count(), 1);
    // A link of root's may lie anywhere, but must not lead to where others may put one.
    let (link, sub) = (roster.folder().join("link.php"), roster.folder().join("sub.php"));
    symlink(folder.join("there.php"), &link).expect("a link");
    symlink(roster.folder().join("there.php"), &sub).expect("a link");
    let ended = export(&roster, &link);
    assert!(ended.code != Some(0) && ended.wrong.contains("it is a link into a folder of www-data"), "{ended:?}");
    assert_eq!(export(&roster, &sub).text(), "");
    assert!(sub.is_symlink() && roster.folder().join("there.php").is_file());
}

#[test]
fn an_export_waits_for_no_pipe_and_gives_nothing_to_who_planted_a_file() {
    if is_skipped_without_root() {
        return;
    }
    let (roster, folder) = beside_www_data(0o755);
    let (pipe, shared) = (folder.join("pipe.php"), roster.folder().join("shared"));
    mkfifo(&pipe, stat::Mode::S_IRWXU).expect("a pipe");
    let began = Instant::now();
    let ended = export(&roster, &pipe);
    assert!(ended.code != Some(0) && ended.wrong.contains("it is a symbolic link, or no regular file"), "{ended:?}");
    assert!(began.elapsed() < SOON);
    make(&shared, 0, 0o1777);
    let file = shared.join("roster.php");
    as_www_data(|| fs::write(&file, "planted")).expect("all may write there");
    let ended = export(&roster, &file);
    assert!(ended.code != Some(0) && ended.wrong.contains("it belongs to www-data"), "{ended:?}");
    assert_eq!(fs::read(&file).expect("a file"), b"planted");
    fs::remove_file(&file).expect("root can");
    assert_eq!(export(&roster, &file).text(), "");
}

#[test]
fn an_export_into_the_folder_of_the_web_server_is_for_its_group() {
    if is_skipped_without_root() {
        return;
    }
    let (roster, folder) = beside_www_data(0o755);
    let file = folder.join("roster.php");
    assert_eq!(export(&roster, &file).text(), "");
    let code = format!("echo (include '{}')['nodes']['/a'];", file.display());
    let include = || Ended::of(of_www_data(unconfigured(std::process::Command::new("php"))).args(["-r", &code])).text();
    assert_eq!(include(), "one");
    // What the folder's owner has made its own stays so, but for bits by which a program would run as somebody else.
    chown(&file, Some(WWW_DATA), None).expect("root can");
    fs::set_permissions(&file, fs::Permissions::from_mode(0o6600)).expect("root can");
    roster.write("nodes.toml", "[nodes]\n\"/a\" = \"two\"");
    eventually("it is exported", SOON, || {
        export(&roster, &file).text();
        let told = include();
        ensure(told == "two", told)
    });
    let found = file.metadata().expect("a file");
    assert_eq!((found.uid(), found.mode() & 0o7777), (WWW_DATA, 0o600));
    assert_eq!(fs::read_dir(&folder).expect("a folder").count(), 1, "nothing else is left");
}
