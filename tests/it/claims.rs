//! What one sidecar has, no other may take: also where two are started at the same moment.

use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};

use crate::harness::{Dialect, Process, Roster, SOON, binary, binary_path, ensure, eventually, unconfigured};
use crate::idl::{StatusRequest, TRosterSyncClient};
use crate::readers::is_long;

/// Starts both; one ends, and the other one goes on.
fn one_lives(commands: [Command; 2], is_answered: impl Fn() -> bool) {
    let mut both = commands.map(|mut command| command.stderr(Stdio::null()).spawn().expect("the binary starts"));
    let has_ended = |child: &mut Child| child.try_wait().expect("a child can be waited for").is_some();
    eventually("one ends, and the other one answers", SOON, || {
        let ended = both.iter_mut().map(has_ended).filter(|ended| *ended).count();
        ensure(ended == 1 && is_answered(), format!("{ended} have ended"))
    });
    for child in &mut both {
        let _ = child.kill();
        let _ = child.wait();
    }
}

fn serve(roster: &Roster, settings: &[String]) -> Command {
    let mut serve = binary();
    serve.args(["serve", "--config"]).arg(roster.config()).env("ROSTER_SHARED__STATE", roster.state());
    serve.args(settings.iter().flat_map(|setting| ["--set", setting]));
    serve
}

fn rounds() -> usize {
    if is_long() { 100 } else { 25 }
}

#[test]
fn of_two_on_one_socket_one_lives() {
    let roster = Roster::prepare_file("roster.sock", "\"/a\" = \"one\"");
    roster.configure(&format!("tcp = \"127.0.0.1:{}\"", roster.port()), "tcp = \"\"");
    for round in 0..rounds() {
        // Each has a file of its own, which thus keeps neither from it.
        let file = |name| [format!("shared.path=\"{name}-{round}.mdb\"")];
        let commands = ["one", "other"].map(|name| serve(&roster, &file(name)));
        one_lives(commands, || {
            roster.try_client(Dialect::ALL[0]).is_ok_and(|mut client| client.status(StatusRequest::default()).is_ok())
        });
    }
}

#[test]
fn of_two_on_one_file_one_lives() {
    let roster = Roster::prepare_file("roster.sock", "\"/a\" = \"one\"");
    roster.configure(&format!("tcp = \"127.0.0.1:{}\"", roster.port()), "tcp = \"\"");
    let file = format!("shared.path={:?}", roster.shared_file());
    for round in 0..rounds() {
        let socket = |name| format!("thrift.unix={:?}", roster.folder().join(format!("{name}-{round}.sock")));
        let commands = ["one", "other"].map(|name| serve(&roster, &[socket(name), file.clone()]));
        one_lives(commands, || true);
    }
}

#[test]
fn of_two_on_one_state_one_lives() {
    let (roster, state) = prepare_state();
    for round in 0..rounds() {
        let commands = ["one", "other"].map(|name| serve(&roster, &[elsewhere(&roster, &format!("{name}-{round}"))]));
        one_lives(commands, || state.join(".state.claim").exists());
    }
}

/// A sidecar that keeps its state, and the directory of that.
fn prepare_state() -> (Roster, PathBuf) {
    let roster = Roster::prepare_file("roster.sock", "\"/a\" = \"one\"");
    roster.configure(&format!("tcp = \"127.0.0.1:{}\"", roster.port()), "tcp = \"\"");
    let state = roster.state();
    std::fs::create_dir_all(&state).expect("a folder");
    (roster, state)
}

/// Another socket, in a folder of its own for the shared file beside it.
fn elsewhere(roster: &Roster, name: &str) -> String {
    format!("thrift.unix={:?}", roster.folder().join(name).join("roster.sock"))
}

#[test]
fn a_second_sidecar_on_one_state_says_whose_it_is_and_leaves_nothing() {
    let (mut roster, state) = prepare_state();
    roster.run();
    let ended = serve(&roster, &[elsewhere(&roster, "other")]).output().expect("the binary starts");
    let told = String::from_utf8_lossy(&ended.stderr);
    let holder = format!("another sidecar (process {})", roster.process().id());
    for part in [&holder, &format!("keeps its state in {}", state.display()), "--set shared.state="] {
        assert!(told.contains(part), "{told}");
    }
    assert!(!ended.status.success());
    assert!(!roster.folder().join("other/roster.sock").exists());
    // Once the first one is gone, however it went, it starts.
    roster.kill();
    let other = roster.folder().join("other");
    let _other = Process::start(&mut serve(&roster, &[elsewhere(&roster, "other")]), &other);
    eventually("it listens", SOON, || ensure(other.join("roster.sock").exists(), "not yet"));
}

#[test]
fn nobody_but_the_sidecars_user_can_take_what_it_has() {
    let roster = Roster::of_file("\"/a\" = \"one\"");
    for (name, mode) in [(".shared.mdb", 0o700), (".roster.sock.claim", 0o600), ("shared.mdb-lock", 0o660)] {
        eventually(name, SOON, || {
            let metadata = roster.folder().join(name).metadata().map_err(|error| error.to_string())?;
            let found = metadata.permissions().mode() & 0o777;
            ensure(found == mode, format!("{found:o}"))
        });
    }
}

#[test]
fn the_folder_that_is_made_for_the_socket_is_open_whatever_the_mask() {
    let mut roster = Roster::prepare_file("made/roster.sock", "\"/a\" = \"one\"");
    let mut shell = unconfigured(Command::new("sh"));
    shell.args(["-c", "umask 077; exec \"$0\" \"$@\""]).arg(binary_path());
    let mut serve = roster.serve(shell);
    roster.run_as(&mut serve);
    let mode = |name: &str| roster.folder().join(name).metadata().expect("it is there").permissions().mode() & 0o777;
    assert_eq!((mode("made"), mode("made/roster.sock")), (0o755, 0o660));
}
