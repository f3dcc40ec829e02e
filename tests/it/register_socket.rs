//! The register's Unix socket: who may open it, what it costs whom, and what stands in its way.

use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use nix::unistd::{Uid, setfsuid};
use serde_json::json;

use crate::harness::master::{Scripted, map, text};
use crate::harness::{Process, SOON, WWW_DATA, ensure, eventually, is_skipped_without_root};
use crate::masters::gives;
use crate::register::{Scene, TOKEN};

const NOBODY: u32 = 65_534;

/// A sidecar whose register listens on a socket in a folder that anybody may pass, with more settings.
fn scene(settings: &str) -> (Scene, PathBuf) {
    let scene = Scene::with(&format!("unix = \"{{folder}}/register.sock\"\n{settings}"));
    std::fs::set_permissions(scene.roster.folder(), PermissionsExt::from_mode(0o711)).expect("a mode");
    let socket = scene.roster.folder().join("register.sock");
    (scene, socket)
}

/// Connects as this user, which only root can be.
fn connect_as(user: u32, socket: &Path) -> std::io::Result<UnixStream> {
    let socket = socket.to_owned();
    let connect = move || {
        // Of this thread alone.
        setfsuid(Uid::from_raw(user));
        UnixStream::connect(socket)
    };
    std::thread::spawn(connect).join().expect("it does not panic")
}

fn joins(socket: &Path, token: &str) -> (Scripted, String) {
    let mut master = Scripted::connect_unix(socket);
    master.say(map([("cmd", "auth".into()), ("token", token.into())]));
    let answer = text(&master.hears().expect("an answer"), "cmd");
    (master, answer)
}

#[test]
fn who_may_not_open_the_socket_is_kept_out_and_who_may_shows_a_token_all_the_same() {
    let (scene, socket) = scene("mode = \"0600\"");
    let mode = |socket: &Path| std::fs::symlink_metadata(socket).expect("a socket").mode() & 0o777;
    assert_eq!(mode(&socket), 0o600);
    assert_eq!(joins(&socket, "wrong").1, "auth-failed", "also to its own user");
    let (mut master, answer) = joins(&socket, TOKEN);
    assert_eq!(answer, "auth-success");
    master.tells(&[]);
    assert_eq!(scene.has(1)[0].peer_address, format!("unix:uid={}", Uid::current()));
    if is_skipped_without_root() {
        return;
    }
    let refused = connect_as(NOBODY, &socket).expect_err("it may not");
    assert_eq!(refused.kind(), std::io::ErrorKind::PermissionDenied);
    let (_scene, socket) = self::scene("mode = \"0660\"\ngroup = \"www-data\"");
    let file = std::fs::symlink_metadata(&socket).expect("a socket");
    assert_eq!((file.mode() & 0o777, file.gid()), (0o660, WWW_DATA));
    let of_group = |group: u32| {
        let script = "exit(@stream_socket_client('unix://' . $argv[1]) ? 0 : 1);";
        let mut php = Command::new("setpriv");
        php.args(["--reuid", &NOBODY.to_string(), "--regid", &group.to_string(), "--clear-groups"]);
        php.args(["php", "-r", script]).arg(&socket).current_dir("/");
        php.status().expect("setpriv").success()
    };
    assert_eq!([WWW_DATA, NOBODY].map(of_group), [true, false]);
}

#[test]
fn a_user_who_fills_the_places_over_the_socket_keeps_out_no_other() {
    if is_skipped_without_root() {
        return;
    }
    let (scene, socket) = scene("mode = \"0666\"\nmax_unauthenticated = 20\nmax_masters = 8");
    let _silent: Vec<_> = (0..60).map(|_| connect_as(NOBODY, &socket).expect("it may")).collect();
    let mut masters = Vec::new();
    for number in 0..4 {
        let (mut master, answer) = joins(&socket, TOKEN);
        assert_eq!(answer, "auth-success", "{number}");
        master.tells(&[]);
        masters.push(master);
    }
    scene.has(4);
    let counters = scene.roster.status().counters;
    assert!(counters["mastersUnauthenticated"] <= 20 && counters["mastersRefused"] >= 40, "{counters:?}");
    // The same user has its share of max_masters over both listeners together.
    let more: Vec<_> = (0..8).map(|_| Scripted::connect(scene.port)).collect();
    for mut master in more {
        master.say(map([("cmd", "auth".into()), ("token", TOKEN.into())]));
        assert_eq!(text(&master.hears().expect("an answer"), "cmd"), "auth-success");
        masters.push(master);
    }
    eventually("it has seven eighths", SOON, || {
        let refused = scene.roster.status().counters["mastersRefused"];
        ensure(refused >= 40 + 5, refused)
    });
}

#[test]
fn a_socket_that_was_left_is_replaced_and_what_is_no_socket_stands_in_its_way() {
    let (mut scene, socket) = scene("settle = \"1s\"");
    let inode = |socket: &Path| std::fs::symlink_metadata(socket).expect("a socket").ino();
    let before = inode(&socket);
    scene.roster.kill();
    assert_eq!(inode(&socket), before, "it was left");
    scene.roster.run();
    assert_ne!(inode(&socket), before);
    let (mut master, answer) = joins(&socket, TOKEN);
    assert_eq!(answer, "auth-success");
    master.tells(&[]);
    scene.has(1);
    assert!(scene.roster.stop().success() && !socket.exists(), "it is taken away");
    std::fs::write(&socket, "precious").expect("written");
    let told = scene.roster.fails();
    assert!(told.contains("register.unix: cannot listen on ") && told.contains("is there and is no socket"), "{told}");
    assert_eq!(std::fs::read_to_string(&socket).expect("it is there"), "precious");
    std::fs::remove_file(&socket).expect("it goes");
    let _other = std::os::unix::net::UnixListener::bind(&socket).expect("a socket");
    let told = scene.roster.fails();
    assert!(told.contains("register.unix: ") && told.contains("another process"), "{told}");
}

#[test]
fn a_master_of_php_connects_to_the_socket_and_is_called() {
    let (scene, socket) = scene("");
    let folder = tempfile::tempdir().expect("a folder");
    let mut php = Command::new("php");
    php.arg(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/it/php/master.php")).args(["1", TOKEN]);
    php.env("REGISTER_HOST", format!("unix://{}", socket.display()));
    let _php = Process::start(php.stdout(Stdio::null()), folder.path());
    let masters = scene.has(1);
    assert_eq!(masters[0].peer_address, format!("unix:uid={}", Uid::current()));
    eventually("it tells its services", SOON, || {
        let services = scene.masters()?[0].services.len();
        ensure(services == 2, services)
    });
    assert_eq!(gives(&scene, "demo", "echo", json!(["over", "unix"])).len(), 1);
}
