//! A newcomer's first hour: the demonstration, everything it prints, the examples of the documentation, and a sidecar
//! of one's own without root.

use std::fs;
use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::os::unix::fs::{PermissionsExt, chown};
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::{PoisonError, RwLock, RwLockReadGuard};
use std::thread::sleep;
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::{Pid, geteuid};
use serde_json::Value;

use crate::harness::{
    Ended, Printing, Process, SOON, binary_path, ensure, eventually, free_port, is_skipped_unless,
    is_skipped_without_root, unconfigured,
};

const COMMANDS: &str = include_str!("../../docs/cli.md");

/// A user who has nothing to do with Roster.
const USER: u32 = 64_321;

/// A demonstration takes the usual ports, if they are free. Who writes has none beside it that would give one back.
static PORTS: RwLock<()> = RwLock::new(());

/// How long a demonstration may take to offer all that it has: it waits itself for its masters and its workers.
const READY: Duration = Duration::from_secs(60);

/// Takes a port, unless somebody has it and keeps it.
fn take(port: u16) -> Option<TcpListener> {
    let start = Instant::now();
    while start.elapsed() < SOON {
        if let Ok(listener) = TcpListener::bind(("127.0.0.1", port)) {
            return Some(listener);
        }
        sleep(Duration::from_millis(20));
    }
    None
}

/// A home in which nothing of Roster is installed: folders of its own, and for root a `/run` of its own too.
struct Home {
    folder: tempfile::TempDir,
    /// Who lives there.
    user: u32,
}

impl Home {
    /// None: only root can have one where Roster is installed.
    fn new() -> Option<Self> {
        let is_installed = ["/etc/roster/roster.toml", "/run/roster"].iter().any(|path| Path::new(path).exists());
        if is_skipped_unless(
            geteuid().is_root() || !is_installed,
            "Roster is installed here, and only root can hide it",
        ) {
            return None;
        }
        let user = if geteuid().is_root() { USER } else { geteuid().as_raw() };
        let home = Self { folder: tempfile::tempdir().expect("a folder"), user };
        fs::set_permissions(home.path(), fs::Permissions::from_mode(0o755)).expect("it is ours");
        for name in ["run/roster", "etc/roster", "home/.config/roster", "runtime"] {
            fs::create_dir_all(home.file(name)).expect("a folder");
        }
        home.take(&["home", "home/.config", "home/.config/roster", "runtime"], user);
        fs::set_permissions(home.file("runtime"), fs::Permissions::from_mode(0o700)).expect("it is ours");
        Some(home)
    }

    fn path(&self) -> &Path {
        self.folder.path()
    }

    fn file(&self, name: &str) -> PathBuf {
        self.path().join(name)
    }

    /// Gives files to a user.
    fn take(&self, names: &[&str], user: u32) {
        for name in names {
            chown(self.file(name), Some(user), Some(user)).expect("root can do that, and it is ours already");
        }
    }

    /// The binary as somebody runs it there; without root, as the one who runs the tests.
    fn roster_as(&self, user: u32) -> Command {
        self.run_as(user, &binary_path())
    }

    fn run_as(&self, user: u32, program: &Path) -> Command {
        self.run_with(user, user, program)
    }

    fn run_with(&self, user: u32, group: u32, program: &Path) -> Command {
        let mut command = if geteuid().is_root() {
            let mut command = unconfigured(Command::new("unshare"));
            let enter = format!(
                "mount --bind $0/run /run && mkdir -p /etc/roster && mount --bind $0/etc/roster /etc/roster && \
                 exec setpriv --reuid={user} --regid={group} --clear-groups \"$@\""
            );
            command.args(["--mount", "sh", "-c", &enter]).arg(self.path()).arg(program);
            command
        } else {
            unconfigured(Command::new(program))
        };
        command.env("HOME", self.file("home")).env("XDG_RUNTIME_DIR", self.file("runtime"));
        command.env_remove("XDG_CONFIG_HOME").env_remove("XDG_STATE_HOME").current_dir(env!("CARGO_MANIFEST_DIR"));
        command
    }

    fn cli<const N: usize>(&self, arguments: [&str; N]) -> Ended {
        Ended::of(self.roster_as(self.user).args(arguments))
    }

    /// Starts a sidecar, which writes all that it prints to a file.
    fn serve(&self, serve: &mut Command) -> Sidecar {
        let said = self.file("said");
        let file = fs::File::create(&said).expect("a file");
        serve.stdout(file.try_clone().expect("a file")).stderr(file);
        Sidecar { process: Process::start(serve, self.path()), said }
    }
}

/// A sidecar that a newcomer started.
struct Sidecar {
    process: Process,
    said: PathBuf,
}

impl Sidecar {
    fn said(&self) -> String {
        fs::read_to_string(&self.said).expect("what it said")
    }

    fn says(&self, words: &str) -> String {
        eventually(words, SOON, || ensure(self.said().contains(words), self.said()));
        self.said()
    }

    /// Waits until it says what to try, to the last line.
    fn invites(&self) -> String {
        let invites =
            |said: &str| said.split_once("in a second terminal").is_some_and(|(_, rest)| rest.ends_with('\n'));
        eventually("an invitation", READY, || ensure(invites(&self.said()), self.said()));
        self.said()
    }
}

/// A demonstration; it ends when this is dropped.
struct Demonstration {
    sidecar: Sidecar,
    home: Home,
    /// Given back last.
    _ports: Option<RwLockReadGuard<'static, ()>>,
}

impl Demonstration {
    /// One that may run beside any other.
    fn start() -> Option<Self> {
        Self::start_with(Some(PORTS.read().unwrap_or_else(PoisonError::into_inner)))
    }

    fn start_with(ports: Option<RwLockReadGuard<'static, ()>>) -> Option<Self> {
        let home = Home::new()?;
        let sidecar = home.serve(home.roster_as(home.user).arg("serve"));
        sidecar.invites();
        Some(Self { sidecar, home, _ports: ports })
    }

    /// The commands that it prints.
    fn printed(&self) -> Vec<String> {
        let said = self.sidecar.said();
        let (_, invitation) = said.split_once("in a second terminal").expect("an invitation");
        invitation.lines().filter_map(|line| line.strip_prefix("  ")).map(str::to_owned).collect()
    }

    /// The ids of the processes of so many masters.
    fn masters(&self, count: usize) -> Vec<i32> {
        eventually(&format!("there are {count} masters"), SOON, || {
            let ended = self.home.cli(["masters", "--service", "greeter", "-o", "json"]);
            let told: Value = serde_json::from_slice(&ended.told).map_err(|_| format!("{ended:?}"))?;
            let masters = told["masters"].as_array().expect("a list").iter();
            let pid = |master: &Value| master["services"][0]["metadata"]["pid"].as_i64().expect("a pid") as i32;
            let pids: Vec<i32> = masters.map(pid).collect();
            ensure(pids.len() == count, format!("{told}\n{}", self.sidecar.said())).map(|()| pids)
        })
    }

    /// The ids of the processes of its workers, once all run.
    fn workers(&self) -> Vec<i32> {
        eventually("its workers run", SOON, || {
            let ended = self.home.cli(["worker", "list", "-o", "json"]);
            let told: Value = serde_json::from_slice(&ended.told).map_err(|_| format!("{ended:?}"))?;
            let workers = told["workers"].as_array().expect("a list");
            let pids = workers.iter().filter(|worker| worker["state"] == "RUNNING");
            let pids: Vec<i32> = pids.filter_map(|worker| worker["pid"].as_i64()).map(|pid| pid as i32).collect();
            ensure(pids.len() == 5, format!("{told}\n{}", self.sidecar.said())).map(|()| pids)
        })
    }

    /// Runs a line of a shell at once, as it would be typed. What goes on for ever has to print something.
    fn type_in(&self, line: &str) {
        let mut shell = self.home.run_as(self.home.user, Path::new("bash"));
        let folder = binary_path().parent().expect("a folder").display().to_string();
        shell.env("PATH", format!("{folder}:{}", std::env::var("PATH").expect("a path")));
        shell.env("FILE", self.home.file("home/export.php")).args(["-c", line]);
        if line.contains(" watch ") || line.contains("--watch") {
            Printing::start(&mut shell).line();
            return;
        }
        let ended = Ended::of(&mut shell);
        assert_eq!(ended.code, Some(0), "{line}: {ended:?}\n{}", self.sidecar.said());
    }
}

/// Waits until no process is left, not even unburied.
fn are_gone(pids: &[i32]) {
    eventually("they are gone", SOON, || {
        let left = pids.iter().find(|pid| Path::new(&format!("/proc/{pid}")).exists());
        left.map_or(Ok(()), |pid| Err(format!("{pid} is there")))
    });
}

#[test]
fn all_that_the_demonstration_prints_works_when_it_is_typed_at_once() {
    let Some(demonstration) = Demonstration::start() else { return };
    let printed = demonstration.printed();
    for part in [" call greeter", " worker restart"] {
        assert!(printed.len() >= 10 && printed.iter().any(|line| line.contains(part)), "{part}: {printed:?}");
    }
    assert!(printed.iter().any(|line| line.contains("php ")), "PHP is there when tests run: {printed:?}");
    printed.iter().for_each(|line| demonstration.type_in(line));
}

#[test]
fn every_example_of_the_command_line_works_with_the_demonstration() {
    let Some(demonstration) = Demonstration::start() else { return };
    let block = COMMANDS.split("```").nth(1).expect("a block").strip_prefix("sh\n").expect("commands");
    let commands: Vec<&str> = block.lines().map(|line| line.split("  # ").next().unwrap_or(line).trim_end()).collect();
    assert!(commands.len() > 10 && commands.iter().all(|line| line.starts_with("roster ")), "{commands:?}");
    let runtime = demonstration.home.file("runtime/roster").display().to_string();
    for command in commands {
        // The examples are of a sidecar that is installed; FILE is the reader's.
        demonstration.type_in(&command.replace("/run/roster", &runtime).replace(" FILE", " \"$FILE\""));
    }
    demonstration.type_in("roster explain access call mail.send");
}

#[test]
fn a_demonstration_starts_though_its_ports_and_its_socket_are_taken() {
    let _alone = PORTS.write().unwrap_or_else(PoisonError::into_inner);
    let _taken = [9_090, 8_010, 8_080].map(take);
    let Some(first) = Demonstration::start_with(None) else { return };
    let said = first.sidecar.said();
    for address in ["127.0.0.1:9090", "127.0.0.1:8010", "127.0.0.1:8080"] {
        assert!(said.contains(&format!("{address} is taken by another process")), "{said}");
    }
    let second = first.home.serve(first.home.roster_as(first.home.user).arg("serve"));
    let said = second.invites();
    assert!(said.contains("Another sidecar has ") && said.contains("ROSTER_ADDRESS=unix://"), "{said}");
    let second = Demonstration { sidecar: second, home: first.home, _ports: None };
    second.printed().iter().for_each(|line| second.type_in(line));
}

#[test]
fn the_demonstration_has_masters_that_can_be_called_and_killed_and_no_process_outlives_it() {
    let Some(mut demonstration) = Demonstration::start() else { return };
    let workers = demonstration.workers();
    let pids = demonstration.masters(2);
    let told = demonstration.sidecar.said();
    assert!(pids.iter().all(|pid| told.contains(&pid.to_string())), "{told}");
    let both = demonstration.home.cli(["call", "greeter.hello", "name=Ada", "--all"]).text();
    assert!(pids.iter().all(|pid| both.contains(&format!("Hello, Ada, from process {pid}"))), "{both}");
    kill(Pid::from_raw(pids[0]), Signal::SIGKILL).expect("it is there");
    assert_eq!(demonstration.masters(1), pids[1..]);
    are_gone(&pids[..1]);
    demonstration.sidecar.process.signal(Signal::SIGTERM);
    assert!(demonstration.sidecar.process.ends_within(SOON).success());
    are_gone(&[pids, workers].concat());
}

#[test]
fn a_demonstration_waits_for_no_masters_but_its_own() {
    let Some(demonstration) = Demonstration::start() else { return };
    let told = demonstration.home.cli(["masters", "--service", "greeter", "-o", "json"]).json();
    assert_eq!(told["masters"].as_array().map(Vec::len), Some(2), "{told}");
    assert_eq!((&told["freshness"]["origin"], &told["freshness"]["complete"]), (&"LIVE".into(), &true.into()));
}

#[test]
fn the_processes_of_a_demonstration_that_is_killed_end_too() {
    let Some(mut demonstration) = Demonstration::start() else { return };
    let pids = [demonstration.masters(2), demonstration.workers()].concat();
    demonstration.sidecar.process.signal(Signal::SIGKILL);
    demonstration.sidecar.process.ends_within(SOON);
    eventually("nothing of them runs", SOON, || {
        // Whoever inherits them may be slow to bury them.
        let stat = |pid: &i32| fs::read_to_string(format!("/proc/{pid}/stat")).ok();
        let runs = |stat: String| !stat.rsplit_once(')').is_some_and(|(_, rest)| rest.trim().starts_with('Z'));
        ensure(!pids.iter().filter_map(stat).any(runs), "some do")
    });
}

/// The ways to name one's own ZooKeeper.
#[test]
fn a_sidecar_of_ones_own_zookeeper_needs_no_root_and_is_found() {
    let Some(home) = Home::new() else { return };
    let free = ["--set", "thrift.tcp=", "--set", "register.listen="];
    let by_flag = |serve: &mut Command| {
        serve.args(["--set", "zookeeper.0.connect=127.0.0.1:1"]);
    };
    let by_variable = |serve: &mut Command| {
        serve.env("ROSTER_ZOOKEEPER__0__CONNECT", "127.0.0.1:1");
    };
    let by_file = |_: &mut Command| {
        let file = "home/.config/roster/roster.toml";
        fs::write(home.file(file), "[[zookeeper]]\nconnect = \"127.0.0.1:1\"\n").expect("written");
        home.take(&[file], home.user);
    };
    for name in [&by_flag as &dyn Fn(&mut Command), &by_variable, &by_file] {
        let mut serve = home.roster_as(home.user);
        serve.arg("serve").args(free);
        name(&mut serve);
        let mut sidecar = home.serve(&mut serve);
        eventually("it is found", SOON, || {
            let ended = home.cli(["status", "-o", "json"]);
            ensure(String::from_utf8_lossy(&ended.told).contains("zookeeper"), format!("{ended:?}{}", sidecar.said()))
        });
        let is_there =
            || home.file("runtime/roster/shared.mdb").exists() && home.file("home/.local/state/roster").is_dir();
        eventually("its files are there", SOON, || ensure(is_there(), sidecar.said()));
        sidecar.process.signal(Signal::SIGTERM);
        assert!(sidecar.process.ends_within(SOON).success(), "{}", sidecar.said());
    }
    let checked = home.cli(["config", "check"]);
    let file = home.file("home/.config/roster/roster.toml").display().to_string();
    assert!(String::from_utf8_lossy(&checked.told).contains(&file), "{checked:?}");
    fs::write(home.file("home/.config/roster/roster.toml"), "[[zookeeper]]\n").expect("written");
    for command in [["config", "check"].as_slice(), &["serve"]] {
        let wrong = Ended::of(home.roster_as(home.user).args(command));
        assert!(wrong.code == Some(2) && wrong.wrong.contains(&format!("The configuration: {file}")), "{wrong:?}");
    }
}

#[test]
fn a_check_before_the_first_start_agrees_with_it() {
    let Some(home) = Home::new() else { return };
    let nothing = home.cli(["config", "check"]);
    let told = "no configuration; `roster serve` would run the demonstration";
    assert!(nothing.code == Some(0) && String::from_utf8_lossy(&nothing.told).contains(told), "{nothing:?}");
    let file = home.file("home/.config/roster/roster.toml").display().to_string();
    fs::write(&file, "[[zookeeper]]\nconnect = \"127.0.0.1:1\"\n").expect("written");
    for arguments in [&[][..], &["--config", file.as_str()], &[file.as_str()], &["--set", "store.history=1"]] {
        let checked = Ended::of(home.roster_as(home.user).args(["config", "check"]).args(arguments));
        assert_eq!((checked.code, checked.wrong.as_str()), (Some(0), ""), "{arguments:?}: {checked:?}");
    }
    assert!(!home.file("home/.local").exists(), "a check makes nothing");
}

#[test]
fn a_start_that_fails_names_all_that_was_read() {
    let Some(home) = Home::new() else { return };
    let mut serve = home.roster_as(home.user);
    serve.args(["serve", "--set", "thrift.unix=/proc/roster/roster.sock"]).env("ROSTER_REGISTER__LISTEN", "");
    let ended = Ended::of(serve.env("ROSTER_ZOOKEEPER__0__CONNECT", "127.0.0.1:1"));
    let file = home.file("home/.config/roster/roster.toml").display().to_string();
    let told = format!(
        "The configuration: no file, ROSTER_REGISTER__LISTEN, ROSTER_ZOOKEEPER__0__CONNECT, --set thrift.unix; there is no \
         /etc/roster/roster.toml and no {file}\n"
    );
    assert!(ended.code == Some(1) && ended.wrong.ends_with(&told), "{ended:?}");
}

#[test]
fn a_client_looks_everywhere_but_where_another_user_could_have_put_a_socket() {
    if is_skipped_without_root() {
        return;
    }
    let Some(home) = Home::new() else { return };
    let nowhere = home.cli(["status"]);
    for place in ["/run/roster/roster.sock", "runtime/roster/roster.sock", &format!("/tmp/roster-{USER}/roster.sock")] {
        assert!(nowhere.code == Some(3) && nowhere.wrong.contains(place), "{nowhere:?}");
    }

    // The system's is dead, the user's lives.
    drop(UnixListener::bind(home.file("run/roster/roster.sock")).expect("a socket"));
    let serve =
        ["serve", "--set", "zookeeper.0.connect=127.0.0.1:1", "--set", "thrift.tcp=", "--set", "register.listen="];
    let live = home.serve(home.roster_as(USER).args(serve));
    eventually("it is found", SOON, || {
        let ended = home.cli(["status"]);
        ensure(ended.code == Some(0), format!("{ended:?}{}", live.said()))
    });
    let found_by_php = || {
        let mut php = home.run_as(USER, Path::new("php"));
        Ended::of(php.args(["-r", "require 'php/autoload.php'; echo Roster\\DefaultPaths::sockets()[0];"])).text()
    };
    assert_eq!(found_by_php(), home.file("runtime/roster/roster.sock").display().to_string());
    drop(live);

    // Another user's socket, in a folder under the user's name.
    let foreign = home.file("runtime/roster");
    fs::remove_dir_all(&foreign).expect("it is there");
    fs::create_dir(&foreign).expect("a folder");
    home.take(&["runtime/roster"], USER + 1);
    let planted = UnixListener::bind(foreign.join("roster.sock")).expect("a socket");
    fs::set_permissions(foreign.join("roster.sock"), fs::Permissions::from_mode(0o666)).expect("it is ours");
    let refused = home.cli(["status", "--timeout", "1"]);
    let told =
        format!("{} was made by uid {}, not by you: nothing in it is used; remove it", foreign.display(), USER + 1);
    assert!(
        refused.code == Some(3) && refused.wrong.contains(&told) && !refused.wrong.contains("join it"),
        "{refused:?}"
    );
    planted.set_nonblocking(true).expect("a socket");
    planted.accept().expect_err("nobody came");
    assert_eq!(found_by_php(), "/run/roster/roster.sock");
}

#[test]
fn php_reads_what_the_users_own_sidecar_left_though_the_systems_file_is_closed_to_it() {
    if !geteuid().is_root() {
        return eprintln!("only root can be other users");
    }
    let Some(home) = Home::new() else { return };
    let php = || {
        let mut php = home.run_as(USER, Path::new("php"));
        let code = "require 'php/autoload.php'; echo Roster\\Client::local()->get('/zk_test')?->data;";
        Ended::of(php.args(["-d", "display_errors=stderr", "-r", code]))
    };
    let nowhere = format!("{:?}", php());
    for place in ["/run/roster/roster.sock", "runtime/roster/roster.sock", &format!("/tmp/roster-{USER}/roster.sock")] {
        assert!(nowhere.contains(place), "{nowhere}");
    }

    let _ports = PORTS.read().unwrap_or_else(PoisonError::into_inner);
    let mut own = home.serve(home.roster_as(USER).arg("serve"));
    own.invites();
    own.process.signal(Signal::SIGTERM);
    assert!(own.process.ends_within(SOON).success(), "{}", own.said());
    drop(UnixListener::bind(home.file("run/roster/roster.sock")).expect("a socket"));
    let closed = home.file("run/roster/shared.mdb");
    fs::copy(home.file("runtime/roster/shared.mdb"), &closed).expect("what it left");
    fs::set_permissions(&closed, fs::Permissions::from_mode(0o600)).expect("it is ours");
    let read = php();
    assert!(read.code == Some(0) && read.told == b"Hello from Roster", "{read:?}");
    let checked = home.cli(["shared", "check"]);
    assert!(checked.code == Some(0), "{checked:?}");
}

#[test]
fn a_socket_that_this_user_may_not_open_names_its_group() {
    if is_skipped_without_root() {
        return;
    }
    let Some(home) = Home::new() else { return };
    let www_data = nix::unistd::Group::from_name("www-data").expect("groups").expect("Debian has it").gid;
    let serve = |group: u32, settings: &[&str]| {
        let mut command = home.run_with(0, group, &binary_path());
        command.args(["serve", "--set", "zookeeper.0.connect=127.0.0.1:1", "--set", "thrift.tcp="]);
        command.args(["--set", "register.listen=", "--set", "shared.state="]).args(settings);
        home.serve(&mut command)
    };
    let to_www_data = ["--set", "thrift.group=www-data", "--set", "shared.group=www-data"];
    let sidecar = serve(0, &to_www_data);
    let is_told = |arguments: [&str; 3], told: &str| {
        eventually(told, SOON, || {
            let ended = home.cli(arguments);
            ensure(ended.code == Some(3) && ended.wrong.contains(told), format!("{ended:?}"))
        });
    };
    let (status, read) = (["status", "--timeout", "1"], ["get", "--shared=/run/roster/shared.mdb", "/a"]);
    let told = "/run/roster/roster.sock is for the group www-data: join it";
    is_told(status, told);
    is_told(read, "/run/roster/shared.mdb is for the group www-data: join it");
    let told_by_php = || {
        let mut php = home.run_as(USER, Path::new("php"));
        let code = "require 'php/autoload.php'; Roster\\Client::local()->get('/a');";
        format!("{:?}", Ended::of(php.args(["-r", code])))
    };
    let php = told_by_php();
    assert!(php.contains("they are for the group www-data: set `group` under `[thrift]` and `[shared]`"), "{php}");
    let file = home.file("run/roster/shared.mdb");
    fs::set_permissions(&file, fs::Permissions::from_mode(0o600)).expect("root can");
    let to_nobody = "they, or a folder above, are for their owner alone";
    let php = told_by_php();
    assert!(php.contains(to_nobody) && !php.contains("the group www-data"), "{php}");
    fs::set_permissions(&file, fs::Permissions::from_mode(0o640)).expect("root can");
    // Nor may it look into the folder.
    let folder = home.file("run/roster");
    chown(&folder, None, Some(www_data.as_raw())).expect("root can");
    fs::set_permissions(&folder, fs::Permissions::from_mode(0o750)).expect("root can");
    is_told(status, told);
    fs::set_permissions(&folder, fs::Permissions::from_mode(0o700)).expect("root can");
    is_told(status, "The folder /run/roster is closed to you, whatever the mode of /run/roster/roster.sock");
    is_told(read, "The folder /run/roster is closed to you, whatever the mode of /run/roster/shared.mdb");
    for mode in [0o700, 0o755] {
        // Closed by its folder, then by the one above that.
        fs::set_permissions(&folder, fs::Permissions::from_mode(mode)).expect("root can");
        let php = told_by_php();
        assert!(php.contains(to_nobody) && !php.contains("the group www-data"), "{php}");
        fs::set_permissions(home.file("run"), fs::Permissions::from_mode(0o700)).expect("root can");
    }
    fs::set_permissions(home.file("run"), fs::Permissions::from_mode(0o755)).expect("root can");
    drop(sidecar);

    // The group of its token, which nobody should join; it need not be that of its user.
    for (group, name) in [(0, "root"), (www_data.as_raw(), "www-data")] {
        fs::remove_dir_all(&folder).and_then(|()| fs::create_dir(&folder)).expect("root can");
        let _sidecar = serve(group, &[]);
        let is_own = format!("for the sidecar's own group {name}, which may read the register's token: do not join it");
        is_told(status, &format!("/run/roster/roster.sock is {is_own}"));
        is_told(read, &format!("/run/roster/shared.mdb is {is_own}"));
        is_told(status, "`Group=roster` and `SupplementaryGroups=www-data` in its unit");
    }
}

#[test]
fn a_sidecar_that_may_not_use_the_systems_places_names_them_and_the_cure() {
    if is_skipped_without_root() {
        return;
    }
    let Some(home) = Home::new() else { return };
    let set = |keys: &[&str]| {
        let mut serve = home.roster_as(USER);
        serve.args(["serve", "--set", "zookeeper.0.connect=127.0.0.1:1", "--set", "thrift.tcp="]);
        serve.args(["--set", "register.listen="]).args(keys.iter().flat_map(|key| ["--set", key]));
        serve
    };
    let whose = format!("uid {USER} cannot write /run/roster: Permission denied (it is of root, mode 0755)");

    let warned = home.serve(&mut set(&[&format!("thrift.group={USER}"), "shared.state="]));
    warned.says(&format!("{whose}; the socket is in "));
    let cure = format!("`sudo install -d -o {USER} /run/roster`");
    assert!(warned.says(&format!("which the group {USER} cannot enter")).contains(&cure), "{}", warned.said());
    drop(warned);
    let told = Ended::of(&mut set(&["thrift.unix=/run/roster/roster.sock", "shared.state="])).wrong;
    assert!(told.contains(&format!("cannot listen on unix:///run/roster/roster.sock: {whose}; have")), "{told}");
    let told = Ended::of(set(&[]).env("HOME", "/nonexistent")).wrong;
    let first = format!("shared.state: uid {USER} cannot write /var/lib/roster: ");
    assert!(told.contains(&first) && told.contains("nor can /nonexistent/.local/state/roster be made: "), "{told}");

    let checked =
        home.cli(["config", "check", "--set", "thrift.group=www-data", "--set", "zookeeper.0.connect=127.0.0.1:1"]);
    assert!(checked.wrong.contains("unless its unit has `SupplementaryGroups=www-data`: "), "{checked:?}");
    fs::write(home.file("etc/roster/roster.toml"), "").expect("a file");
    fs::set_permissions(home.file("etc/roster/roster.toml"), fs::Permissions::from_mode(0o600)).expect("it is ours");
    let told = Ended::of(&mut set(&[])).wrong;
    assert!(told.contains(&format!("`sudo chgrp {USER} /etc/roster/roster.toml && sudo chmod 640 ")), "{told}");
    let told = home.cli(["config", "check"]).wrong;
    assert!(told.contains("asks; use sudo"), "{told}");
}

#[test]
fn five_commands_lead_from_a_clean_clone_to_a_page_that_reads_a_znode() {
    let Some(home) = Home::new() else { return };
    let clone = home.file("home/roster");
    // What is not committed is not in it.
    let cloned = Command::new("git")
        .args(["-c", "safe.directory=*", "clone", "--quiet", "--depth=1"])
        .arg(format!("file://{}", env!("CARGO_MANIFEST_DIR")))
        .arg(&clone)
        .status();
    assert!(cloned.expect("git starts").success());
    let text = fs::read_to_string(clone.join("docs/first-page.md")).expect("the page");
    let blocks: Vec<Vec<&str>> =
        text.split("```").skip(1).step_by(2).map(|block| block.trim_start_matches("sh\n").lines().collect()).collect();
    let [five, change] = &blocks[..] else { panic!("two blocks of commands: {blocks:?}") };
    assert_eq!((five.len(), change.len()), (5, 1), "{blocks:?}");

    // The machine's own services may have these ports, and the binary is built.
    let [zookeeper, page] = [(); 2].map(|()| free_port());
    let shell = |line: &str| {
        let line = line.trim_end_matches(" &").replace("2181", &zookeeper.to_string());
        let line = line.replace(":8000", &format!(":{page}")).replace("cargo run --release --", "\"$ROSTER\"");
        let mut shell = home.run_as(home.user, Path::new("bash"));
        shell.args(["-c", &format!("exec {line}")]).current_dir(&clone).env("TMPDIR", home.file("runtime"));
        shell.env("ROSTER", binary_path()).env("ROSTER_THRIFT__TCP", "").env("ROSTER_REGISTER__LISTEN", "");
        shell
    };
    let installed = five[0].strip_prefix("sudo apt install ").expect("packages first");
    let makefile = fs::read_to_string(clone.join("Makefile")).expect("a Makefile");
    let needed = installed.split(' ').filter(|name| name.starts_with("php") || *name == "zookeeper");
    needed.for_each(|name| assert!(makefile.contains(&format!(" {name} ")), "`make deps` has no {name}"));
    let mut running = Vec::new();
    for line in &five[1..] {
        if line.ends_with(" &") {
            running.push(Process::start(shell(line).stdout(Stdio::null()).stderr(Stdio::null()), home.path()));
        } else {
            eventually(line, SOON * 4, || {
                let ended = Ended::of(&mut shell(line));
                ensure(ended.code == Some(0), format!("{ended:?}"))
            });
        }
    }
    let shows = |words: &str| {
        eventually(words, SOON * 4, || {
            let mut stream = TcpStream::connect(("127.0.0.1", page)).map_err(|error| error.to_string())?;
            stream.write_all(b"GET / HTTP/1.0\r\n\r\n").map_err(|error| error.to_string())?;
            let mut shown = String::new();
            stream.read_to_string(&mut shown).map_err(|error| error.to_string())?;
            ensure(shown.contains(words), shown)
        });
    };
    shows("Hello from my own ZooKeeper, as it was 0 ms ago");
    eventually(change[0], SOON * 4, || {
        let ended = Ended::of(&mut shell(change[0]));
        ensure(ended.code == Some(0), format!("{ended:?}"))
    });
    shows("Hello again, as it was 0 ms ago");
}
