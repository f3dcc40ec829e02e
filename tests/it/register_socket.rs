//! The register's Unix socket: who may open it, what it costs whom, and what stands in its way.

use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use nix::unistd::{Uid, setfsuid};
use roster::master::{Config, RegisterAddr};
use serde_json::json;

use crate::harness::master::{Scripted, field, map, text};
use crate::harness::{Process, SOON, WWW_DATA, ensure, eventually, is_skipped_without_root};
use crate::masters::gives;
use crate::register::{Scene, TOKEN};
use crate::tls::Rust;

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
    eventually("the others are refused", SOON, || {
        let counters = scene.roster.status().counters;
        let are_few = counters["mastersUnauthenticated"] <= 20 && counters["mastersRefused"] >= 40;
        ensure(are_few, format!("{counters:?}"))
    });
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

/// The settings of a master whose register must be a process of this user.
fn wary_of_others_than(user: u32) -> Config {
    let mut config = Config::new(TOKEN);
    config.register_user = Some(user);
    config
}

fn own_user() -> String {
    format!("unix:uid={}", Uid::current())
}

#[test]
fn a_master_of_rust_connects_to_the_socket_is_called_and_comes_back() {
    let (mut scene, socket) = scene("settle = \"1s\"");
    let _rust = Rust::to(RegisterAddr::unix(&socket), wary_of_others_than(Uid::current().as_raw()));
    assert_eq!(scene.has(1)[0].peer_address, own_user());
    let is_called = |scene: &Scene| {
        eventually("it is called", SOON, || {
            let result = scene.call("rust", "echo", "[1]").map_err(|error| error.to_string())?;
            ensure(result.values == [b"[1]"], format!("{result:?}"))
        });
    };
    is_called(&scene);
    scene.roster.kill();
    scene.roster.run();
    is_called(&scene);
}

#[test]
fn an_upstream_register_is_followed_over_its_socket() {
    let (hub, socket) = scene("");
    let mut master = Scripted::join(hub.port, TOKEN, &[("mail", map([]))]);
    let id = hub.has(1)[0].id.clone();
    let token = hub.roster.folder().join("example-token");
    let follows = |user: u32| {
        format!("[[upstream]]\nconnect = \"unix://{}\"\nregister_user = {user}\ntoken = {token:?}\n", socket.display())
    };
    let beside = Scene::with(&follows(Uid::current().as_raw()));
    assert_eq!(beside.has(1)[0].id, id);
    std::thread::scope(|scope| {
        let call = scope.spawn(|| beside.call("mail", "send", "[]"));
        let asked = master.asked("call");
        master.answers(asked.id, [42.into()]);
        assert_eq!(call.join().expect("the caller").expect("a result").values, [b"42".to_vec()]);
    });
    let wary = Scene::with(&follows(NOBODY));
    tells(&wary, "listens there, and none of nobody; it was shown nothing");
}

/// That the status of what it follows says why it does not.
fn tells(scene: &Scene, why: &str) {
    eventually("the status says why", SOON, || {
        let details: Vec<_> = scene.roster.status().sources.into_iter().map(|source| source.detail).collect();
        ensure(details.iter().any(|detail| detail.contains(why)), details.join("\n"))
    });
}

#[test]
fn who_cannot_connect_to_the_socket_is_told_which_and_what_to_do() {
    let (mut scene, socket) = scene("mode = \"0600\"");
    let address = RegisterAddr::unix(&socket);
    let lost = |address: &RegisterAddr| Rust::to(address.clone(), Config::new(TOKEN)).lost().to_string();
    let missing = socket.with_file_name("none.sock");
    let told = lost(&RegisterAddr::unix(&missing));
    let cure = format!("there is no such socket: does the sidecar run, with `[register] unix = {missing:?}`?");
    assert_eq!(told, format!("the register is not reached: {cure}"));
    let token = scene.roster.folder().join("example-token");
    let follows = format!("[[upstream]]\nconnect = \"unix://{}\"\ntoken = {token:?}\n", missing.display());
    let beside = Scene::with(&follows);
    tells(&beside, &format!("cannot reach unix://{}: {cure}", missing.display()));
    let other = Rust::to(address.clone(), wary_of_others_than(NOBODY)).lost();
    assert!(other.to_string().contains("and none of nobody; it was shown nothing"), "{other}");
    if !is_skipped_without_root() {
        // Of this thread alone, and of those that it starts.
        let as_nobody = || {
            std::thread::spawn({
                let address = address.clone();
                move || {
                    setfsuid(Uid::from_raw(NOBODY));
                    Rust::to(address, Config::new(TOKEN)).lost().to_string()
                }
            })
        };
        let told = as_nobody().join().expect("it does not panic");
        let (socket, cure) = (socket.display(), "join its group, which `[register] group` names");
        assert!(told.contains(&format!("the permissions of {socket}, or of its folder, do not let")), "{told}");
        assert!(told.ends_with(cure), "{told}");
    }
    scene.roster.kill();
    let told = lost(&address);
    assert!(told.ends_with(&format!("nobody listens at {}: does the sidecar run?", socket.display())), "{told}");
}

#[test]
fn masters_and_followers_are_told_of_a_socket_to_join_and_to_leave() {
    let (hub, (other, socket)) = (Scene::new(), scene(""));
    let join = format!("join = [\"unix://{}/*\"]\n", other.roster.folder().display());
    let beside = crate::joining::following(hub.port, &join);
    let mut php = Scripted::join(hub.port, TOKEN, &[("mail", map([]))]);
    let _rust = Rust::to(("127.0.0.1", hub.port), Config::new(TOKEN));
    beside.has(2);
    let address = format!("unix://{}", socket.display());
    let tell = |command: &str| hub.roster.cli(["registers", command, &address]).text();
    assert_eq!(tell("add"), "told 3 masters or sidecars\n");
    assert_eq!(other.has(1)[0].peer_address, own_user());
    let told = php.hears_command("register");
    let register = &field(&told, "registers").as_array().expect("a list")[0];
    assert_eq!(
        (text(register, "host"), field(register, "port").as_u64()),
        (address.clone(), Some(1)),
        "as PHP wants it"
    );
    let learned = || beside.roster.status().sources.into_iter().filter(|source| source.kind == "learned").count();
    eventually("it is followed", SOON, || ensure(learned() == 1, learned()));
    tell("remove");
    other.has(0);
    eventually("it is left", SOON, || ensure(learned() == 0, learned()));
}
