//! The command line: the real binary, run as a user would.

use std::ffi::OsStr;
use std::io::{BufRead, BufReader, Read};
use std::path::PathBuf;
use std::process::{Child, ChildStdout, Command, Stdio};
use std::sync::mpsc::{Receiver, channel};

use super::{Roster, SOON, eventually};

/// The binary under test, or another one that `ROSTER_BIN` names.
pub(crate) fn binary_path() -> PathBuf {
    std::env::var_os("ROSTER_BIN").unwrap_or_else(|| env!("CARGO_BIN_EXE_roster").into()).into()
}

/// It, with nothing configured by the environment of the tests.
pub(crate) fn binary() -> Command {
    unconfigured(Command::new(binary_path()))
}

/// A command without what the environment of the tests says of Roster.
pub(crate) fn unconfigured(mut command: Command) -> Command {
    for (name, _) in std::env::vars_os() {
        if name.to_string_lossy().starts_with("ROSTER_") {
            command.env_remove(name);
        }
    }
    command
}

/// How a command ended, and what it printed.
#[derive(Clone, Debug)]
pub(crate) struct Ended {
    pub(crate) code: Option<i32>,
    pub(crate) told: Vec<u8>,
    pub(crate) wrong: String,
}

impl Ended {
    pub(crate) fn of(command: &mut Command) -> Self {
        let output = command.stdin(Stdio::null()).output().expect("the binary starts");
        let wrong = String::from_utf8_lossy(&output.stderr).into_owned();
        Self { code: output.status.code(), told: output.stdout, wrong }
    }

    /// What a command printed that must have succeeded.
    pub(crate) fn text(self) -> String {
        assert_eq!(self.code, Some(0), "{self:?}");
        String::from_utf8(self.told).expect("text")
    }

    /// The same, as JSON.
    pub(crate) fn json(self) -> serde_json::Value {
        serde_json::from_str(&self.text()).expect("JSON")
    }
}

/// A command that goes on printing.
#[derive(Debug)]
pub(crate) struct Printing {
    child: Child,
    lines: Receiver<String>,
}

impl Roster {
    /// A command that asks this sidecar.
    pub(crate) fn command<A: AsRef<OsStr>>(&self, arguments: impl IntoIterator<Item = A>) -> Command {
        let mut command = binary();
        command.args(arguments).env("ROSTER_ADDRESS", format!("unix://{}", self.socket().display()));
        command
    }

    pub(crate) fn cli<A: AsRef<OsStr>>(&self, arguments: impl IntoIterator<Item = A>) -> Ended {
        Ended::of(&mut self.command(arguments))
    }
}

impl Printing {
    pub(crate) fn start(command: &mut Command) -> Self {
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command.spawn().expect("the binary starts");
        let (sender, lines) = channel();
        let printed: BufReader<ChildStdout> = BufReader::new(child.stdout.take().expect("it is piped"));
        std::thread::spawn(move || {
            // Ends with the command, or when nobody wants to know more; the pipe is closed then.
            let _ = printed.lines().map_while(Result::ok).try_for_each(|line| sender.send(line));
        });
        Self { child, lines }
    }

    pub(crate) fn line(&self) -> String {
        self.lines.recv_timeout(SOON).expect("a line")
    }

    /// The next line, if it has come; it does not wait.
    pub(crate) fn line_by_now(&self) -> Result<String, String> {
        self.lines.try_recv().map_err(|error| error.to_string())
    }

    /// Reads no more, and answers how the command ended then.
    pub(crate) fn hang_up(mut self, mut meanwhile: impl FnMut()) -> Ended {
        self.lines = channel().1;
        let status = eventually("the command ends", SOON, || {
            meanwhile();
            self.child.try_wait().expect("a child can be waited for").ok_or("it runs")
        });
        let mut wrong = String::new();
        self.child.stderr.take().expect("it is piped").read_to_string(&mut wrong).expect("text");
        Ended { code: status.code(), told: Vec::new(), wrong }
    }
}

impl Drop for Printing {
    fn drop(&mut self) {
        // It may have ended already.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
