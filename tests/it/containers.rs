//! The sidecar and PHP, each process 1 of a container of its own, with one folder: in every order of start and restart.

use std::io::{BufRead, BufReader};
use std::process::{Child, ChildStdout, Command, Stdio};
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::harness::{Roster, SOON, binary_path, ensure, eventually, is_skipped_without_root, unconfigured};

/// What is process 1 of a container.
fn contained() -> Command {
    let mut command = unconfigured(Command::new("unshare"));
    command.args(["--pid", "--fork", "--mount-proc", "--kill-child"]);
    command
}

fn start(roster: &mut Roster) {
    let mut serve = contained();
    serve.arg(binary_path());
    let mut serve = roster.serve(serve);
    roster.run_as(&mut serve);
}

/// The process in the container that this command has made.
fn inner(outer: u32) -> Pid {
    let children = std::fs::read_to_string(format!("/proc/{outer}/task/{outer}/children")).expect("it is there");
    Pid::from_raw(children.trim().parse().expect("one child"))
}

fn end(roster: &mut Roster, signal: Signal) {
    let inner = inner(roster.process().id());
    kill(inner, signal).expect("it is there");
    eventually("it ends", SOON, || ensure(!std::path::Path::new(&format!("/proc/{inner}")).exists(), "it has not"));
    roster.kill();
}

fn change(roster: &Roster, to: &str) {
    roster.write("nodes.toml", &format!("[nodes]\n\"/a\" = \"{to}\""));
    roster.becomes("live");
    eventually("the endpoint has it", SOON, || ensure(roster.data("/a") == to.as_bytes(), "not yet"));
}

/// PHP as process 1 of a container, that prints what it reads whenever that changes.
struct Php(Child, BufReader<ChildStdout>);

impl Php {
    fn start(roster: &Roster) -> Self {
        Self::run(contained(), roster)
    }

    /// In a container that has the folder mounted read-only.
    fn read_only(roster: &Roster) -> Self {
        let mut command = contained();
        let mount = "mount --bind \"$0\" \"$0\" && mount -o remount,ro,bind \"$0\" && exec \"$@\"";
        command.args(["--mount", "sh", "-c", mount]).arg(roster.folder());
        Self::run(command, roster)
    }

    fn run(mut container: Command, roster: &Roster) -> Self {
        let code = format!(
            "for ($last = '';; usleep(1000)) {{ $db ??= @dba_open('{}', 'r', 'lmdb') ?: null; $now = $db ? \
             (string) dba_fetch('node/a', $db) : error_get_last()['message']; \
             if ($now !== $last) {{ $last = $now; echo getmypid(), \" $now\\n\"; }} }}",
            roster.shared_file().display()
        );
        let mut php = container.args(["php", "-r", &code]).stdout(Stdio::piped()).spawn().expect("unshare starts");
        let output = BufReader::new(php.stdout.take().expect("its output"));
        Self(php, output)
    }

    fn line(&mut self) -> String {
        let mut line = String::new();
        self.1.read_line(&mut line).expect("a line");
        line.trim_end().to_owned()
    }

    /// Waits until it has read this.
    fn reads(&mut self, what: &str) {
        let (began, wanted) = (Instant::now(), format!("1 {what}"));
        let mut line = self.line();
        while line != wanted {
            assert!(began.elapsed() < SOON, "{line} instead of {wanted}");
            line = self.line();
        }
    }
}

impl Drop for Php {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[test]
fn the_sidecar_and_php_share_the_file_in_every_order() {
    if is_skipped_without_root() {
        return;
    }
    let mut roster = Roster::prepare_file("roster.sock", "\"/a\" = \"one\"");
    start(&mut roster);
    let mut php = Php::start(&roster);
    php.reads("one");
    for (round, signal) in [Signal::SIGTERM, Signal::SIGKILL].into_iter().enumerate() {
        end(&mut roster, signal);
        // One starts while the sidecar is away.
        drop(php);
        php = Php::start(&roster);
        php.reads(if round == 0 { "one" } else { "three 0" });
        start(&mut roster);
        change(&roster, &format!("two {round}"));
        php.reads(&format!("two {round}"));
        // One starts while the sidecar runs.
        drop(php);
        php = Php::start(&roster);
        php.reads(&format!("two {round}"));
        change(&roster, &format!("three {round}"));
        php.reads(&format!("three {round}"));
        assert_eq!(roster.status().shared_file_error, None);
    }
    assert!(!roster.log().contains("replaced the shared file"), "who has it open goes on with it");
}

#[test]
fn more_php_containers_read_it_where_the_folder_is_mounted_read_only() {
    if is_skipped_without_root() {
        return;
    }
    let mut roster = Roster::prepare_file("roster.sock", "\"/a\" = \"one\"");
    start(&mut roster);
    let mut first = Php::start(&roster);
    first.reads("one");
    let mut others = [Php::read_only(&roster), Php::read_only(&roster)];
    others.iter_mut().for_each(|php| php.reads("one"));
    let sidecar = inner(roster.process().id());
    for round in 0..200 {
        let data = format!("{round} ").repeat(3_000);
        roster.write("nodes.new", &format!("[nodes]\n\"/a\" = \"{data}\""));
        std::fs::rename(roster.folder().join("nodes.new"), roster.folder().join("nodes.toml")).expect("replaced");
        kill(sidecar, Signal::SIGHUP).expect("it is there");
        std::thread::sleep(Duration::from_millis(5));
    }
    change(&roster, "end");
    for php in &mut others {
        loop {
            let line = php.line();
            let data = line.strip_prefix("1 ").expect("it is process 1");
            if data == "end" {
                break;
            }
            let round = data.split(' ').next().unwrap_or_default();
            assert_eq!(data, format!("{round} ").repeat(3_000).trim_end(), "torn");
        }
    }
}
