//! Who keeps a process alive: Roster, supervisord, and a loop that forks and waits.

use std::convert::Infallible;
use std::env;
use std::fs;
use std::os::unix::net::UnixDatagram;
use std::path::{Path, PathBuf};
use std::process::Command;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use tempfile::TempDir;

use super::{own, sidecar};
use crate::harness::{Process, Roster, SOON, eventually};

/// The roles in which this program is kept alive, and in which it keeps it.
pub(super) const REPORTER: &str = "worker-that-reports";
pub(super) const FORK_LOOP: &str = "worker-fork-loop";

/// A process of this program that reports to the socket that it begins, and does nothing more.
pub(super) fn report_and_wait(arguments: &[String]) {
    let [socket] = arguments else { panic!("expected a socket") };
    let begun = UnixDatagram::unbound().and_then(|own| own.send_to(&std::process::id().to_ne_bytes(), socket));
    begun.expect("somebody who listens");
    loop {
        std::thread::park();
    }
}

pub(super) fn fork_again_and_again(arguments: &[String]) {
    let [program, rest @ ..] = arguments else { panic!("expected a program") };
    let failed: std::io::Result<Infallible> = (|| {
        loop {
            Command::new(program).args(rest).spawn()?.wait()?;
        }
    })();
    panic!("{failed:?}");
}

/// Where processes report that they begin.
#[derive(Debug)]
pub(super) struct Reports {
    socket: UnixDatagram,
    folder: TempDir,
}

impl Reports {
    pub(super) fn new() -> Self {
        let folder = tempfile::tempdir().expect("a folder");
        let socket = UnixDatagram::bind(folder.path().join("reports")).expect("a socket");
        socket.set_read_timeout(Some(SOON)).expect("an option");
        Self { socket, folder }
    }

    pub(super) fn path(&self) -> String {
        self.folder.path().join("reports").display().to_string()
    }

    /// Waits for the next process; its number.
    pub(super) fn next(&self) -> Pid {
        let mut number = [0; 4];
        self.socket.recv(&mut number).expect("a process begins");
        Pid::from_raw(i32::from_ne_bytes(number))
    }
}

/// Somebody who keeps one process alive.
#[derive(Debug)]
pub(super) struct Keeper {
    pub(super) name: &'static str,
    pub(super) what: What,
    pub(super) reports: Reports,
    pub(super) kept: Pid,
}

#[derive(Debug)]
pub(super) enum What {
    Roster(Roster),
    Supervisord(Supervisord),
    ForkLoop(Process),
}

impl Keeper {
    pub(super) fn all() -> [Self; 3] {
        let new = |name, start: fn(&str) -> What| {
            let reports = Reports::new();
            let what = start(&reports.path());
            let kept = reports.next();
            Self { name, what, reports, kept }
        };
        [
            new("Roster", |reports| {
                What::Roster(sidecar(&format!(
                    "[[worker]]\nname = \"web\"\ncommand = {}\nready_after = \"0s\"\nrestart_delay = \"1ms\"\n\
                     max_restart_delay = \"1ms\"\nstart_retries = 1000000\n",
                    own(REPORTER, &[reports])
                )))
            }),
            new("supervisord", |reports| {
                let program = env::current_exe().expect("this program");
                let command = format!("{} {REPORTER} {reports}", program.display());
                What::Supervisord(Supervisord::start(&format!(
                    "[program:web]\ncommand={command}\nautorestart=true\nstartsecs=0\nstartretries=1000000\n"
                )))
            }),
            new("a loop that forks", |reports| {
                let program = env::current_exe().expect("this program");
                let mut command = Command::new(&program);
                command.arg(FORK_LOOP).arg(&program).args([REPORTER, reports]);
                What::ForkLoop(Process::start(&mut command, Path::new("/nonexistent")))
            }),
        ]
    }

    pub(super) fn id(&self) -> u32 {
        match &self.what {
            What::Roster(roster) => roster.process().id(),
            What::Supervisord(supervisord) => supervisord.process.id(),
            What::ForkLoop(process) => process.id(),
        }
    }

    /// Kills the process, and waits for the next one.
    pub(super) fn kill_one(&mut self) {
        kill(self.kept, Signal::SIGKILL).expect("it is there");
        self.kept = self.reports.next();
    }

    /// What a user types to have something done with the process.
    pub(super) fn command(&self, act: &str) -> Option<Command> {
        match &self.what {
            What::Roster(roster) if act == "restart" => Some(roster.command(["worker", "restart", "--now", "web"])),
            What::Roster(roster) => Some(roster.command(["worker", act, "web"])),
            What::Supervisord(supervisord) => Some(supervisord.command(&[act, "web"])),
            What::ForkLoop(_) => None,
        }
    }
}

/// supervisord with a configuration of its own.
#[derive(Debug)]
pub(super) struct Supervisord {
    pub(super) process: Process,
    configuration: PathBuf,
    _folder: TempDir,
}

impl Supervisord {
    pub(super) fn start(programs: &str) -> Self {
        let folder = tempfile::tempdir().expect("a folder");
        let (configuration, at) = (folder.path().join("supervisord.conf"), folder.path().display());
        let text = format!(
            "[supervisord]\nnodaemon=true\nlogfile=/dev/null\nlogfile_maxbytes=0\npidfile={at}/pid\nchildlogdir={at}\n\
             [unix_http_server]\nfile={at}/socket\n\
             [rpcinterface:supervisor]\nsupervisor.rpcinterface_factory = supervisor.rpcinterface:make_main_rpcinterface\n\
             [supervisorctl]\nserverurl=unix://{at}/socket\n{programs}"
        );
        fs::write(&configuration, text).expect("it is written");
        let mut command = Command::new("supervisord");
        command.arg("-c").arg(&configuration).stdout(std::process::Stdio::null()).stderr(std::process::Stdio::null());
        let process = Process::start(&mut command, folder.path());
        let started = Self { process, configuration, _folder: folder };
        let answers = || if started.command(&["pid"]).output()?.status.success() { Ok(()) } else { Err(no_answer()) };
        eventually("supervisord answers", SOON, answers);
        started
    }

    pub(super) fn command(&self, words: &[&str]) -> Command {
        let mut command = Command::new("supervisorctl");
        command.arg("-c").arg(&self.configuration).args(words);
        command
    }
}

fn no_answer() -> std::io::Error {
    std::io::Error::other("it does not")
}
