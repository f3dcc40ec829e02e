//! The sidecar under test: the real binary with a configuration of its own in a temporary directory.

use std::ffi::OsStr;
use std::fs::OpenOptions;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitStatus};

use nix::sys::signal::Signal;
use tempfile::TempDir;

use super::process::Process;
use super::watcher::read_all;
use super::{Client, Dialect, SOON, Tree, Watcher, binary, ensure, eventually, free_port};
use crate::idl::{Freshness, GetRequest, NodeReply, SourceStatus, StatusReply, StatusRequest, TRosterSyncClient};

/// A sidecar. It is killed on drop, and shows its log if the test failed.
#[derive(Debug)]
pub(crate) struct Roster {
    /// It ends before its folder is removed, in which it writes.
    process: Option<Process>,
    folder: TempDir,
    socket: PathBuf,
    port: u16,
}

impl Roster {
    /// One that runs with these settings, in TOML. `{folder}` stands for its folder.
    pub(crate) fn start(settings: &str) -> Self {
        let mut roster = Self::prepare(settings);
        roster.run();
        roster
    }

    /// One that runs with a static file of these nodes, in TOML.
    pub(crate) fn of_file(nodes: &str) -> Self {
        let mut roster = Self::prepare_file("roster.sock", nodes);
        roster.run();
        roster.becomes("live");
        roster
    }

    /// The same, with its socket there in its folder; it does not run yet.
    pub(crate) fn prepare_file(socket: &str, nodes: &str) -> Self {
        let roster = Self::prepare_at(socket, "[[file]]\npath = \"{folder}/nodes.toml\"\n");
        roster.write("nodes.toml", &format!("[nodes]\n{nodes}"));
        roster
    }

    /// One that does not run yet.
    pub(crate) fn prepare(settings: &str) -> Self {
        Self::prepare_at("roster.sock", settings)
    }

    fn prepare_at(socket: &str, settings: &str) -> Self {
        let (folder, port) = (tempfile::tempdir().expect("a folder"), free_port());
        let socket = folder.path().join(socket);
        let settings = settings.replace("{folder}", &folder.path().display().to_string());
        let settings =
            format!("[thrift]\nunix = {socket:?}\ntcp = \"127.0.0.1:{port}\"\n[register]\nlisten = \"\"\n{settings}");
        let roster = Self { folder, socket, port, process: None };
        roster.write("roster.toml", &settings);
        roster
    }

    /// Starts it and waits until it answers.
    pub(crate) fn run(&mut self) {
        let mut serve = self.serve(binary());
        self.run_as(&mut serve);
    }

    /// What makes a command of the binary start this sidecar.
    pub(crate) fn serve(&self, mut binary: Command) -> Command {
        let log = OpenOptions::new().create(true).append(true).open(self.folder().join("log")).expect("a log");
        binary.args(["serve", "--config"]).arg(self.config()).env("ROSTER_SHARED__STATE", self.state());
        binary.stdout(log.try_clone().expect("a log")).stderr(log);
        binary
    }

    /// The same by another command.
    pub(crate) fn run_as(&mut self, command: &mut Command) {
        self.process = Some(Process::start(command, self.folder.path()));
        eventually("the sidecar answers", SOON, || self.try_client(Dialect::ALL[0])?.status(StatusRequest::default()));
    }

    /// Starts it, which must fail; what it says.
    pub(crate) fn fails(&mut self) -> String {
        self.fails_with("ROSTER_SHARED__STATE", self.state())
    }

    /// The same with a variable of the environment.
    pub(crate) fn fails_with(&mut self, name: &str, value: impl AsRef<OsStr>) -> String {
        let mut serve = binary();
        serve.args(["serve", "--config"]).arg(self.config()).env(name, value);
        let output = serve.output().expect("the binary starts");
        assert!(!output.status.success(), "it started");
        String::from_utf8_lossy(&output.stderr).into_owned()
    }

    /// Waits until the shared file holds what it answers, and gives what `shared check` says of that.
    pub(crate) fn is_in_its_file(&self) -> serde_json::Value {
        eventually("both hold the same", SOON, || {
            let ended = self.cli(["shared", "check", "-o", "json"]);
            let told = String::from_utf8_lossy(&ended.told).into_owned();
            ensure(ended.code == Some(0) && told.contains("holds the same"), format!("{ended:?}"))?;
            serde_json::from_str(&told).map_err(|error| error.to_string())
        })
    }

    /// Asks it to stop, and answers how it ended.
    pub(crate) fn stop(&mut self) -> ExitStatus {
        self.process().signal(Signal::SIGTERM);
        self.ends()
    }

    /// Waits until it has ended, which was asked to, and answers how.
    pub(crate) fn ends(&mut self) -> ExitStatus {
        self.process.take().expect("it runs").ends_within(SOON)
    }

    pub(crate) fn kill(&mut self) {
        self.process = None;
    }

    pub(crate) fn process(&self) -> &Process {
        self.process.as_ref().expect("it runs")
    }

    pub(crate) fn write(&self, name: &str, text: &str) {
        std::fs::write(self.folder().join(name), text).expect("the file is written");
    }

    /// Changes its configuration.
    pub(crate) fn configure(&self, from: &str, to: &str) {
        let config = std::fs::read_to_string(self.config()).expect("a configuration");
        assert!(config.contains(from), "{config}");
        self.write("roster.toml", &config.replace(from, to));
    }

    pub(crate) fn folder(&self) -> &Path {
        self.folder.path()
    }

    pub(crate) fn config(&self) -> PathBuf {
        self.folder().join("roster.toml")
    }

    /// Where a copy of its shared file is kept, if a test makes the folder above.
    pub(crate) fn state(&self) -> PathBuf {
        self.folder().join("disk/state")
    }

    pub(crate) fn shared_file(&self) -> PathBuf {
        self.folder().join("shared.mdb")
    }

    pub(crate) fn socket(&self) -> &Path {
        &self.socket
    }

    pub(crate) fn port(&self) -> u16 {
        self.port
    }

    pub(crate) fn log(&self) -> String {
        std::fs::read_to_string(self.folder().join("log")).unwrap_or_default()
    }

    /// Waits until its log has this text: what it does is seen before it is logged.
    pub(crate) fn logs(&self, text: &str) {
        eventually("it is logged", SOON, || {
            let log = self.log();
            ensure(log.contains(text), format!("no {text:?} in the log:\n{log}"))
        });
    }

    /// How many bytes of memory it has.
    pub(crate) fn memory(&self) -> usize {
        self.resident("VmRSS:")
    }

    /// The same without what it has mapped of files, which the kernel can take back at any time.
    pub(crate) fn own_memory(&self) -> usize {
        self.resident("RssAnon:")
    }

    /// How many bytes of memory it has had at most.
    pub(crate) fn peak_memory(&self) -> usize {
        self.resident("VmHWM:")
    }

    fn resident(&self, kind: &str) -> usize {
        let id = self.process().id();
        let status = std::fs::read_to_string(format!("/proc/{id}/status")).expect("a status");
        let resident = status.lines().find_map(|line| line.strip_prefix(kind)).expect("a resident set");
        resident.trim().trim_end_matches(" kB").parse::<usize>().expect("a number") * 1024
    }

    /// A client over the Unix socket.
    pub(crate) fn client(&self) -> Client {
        self.try_client(Dialect::ALL[0]).expect("the sidecar accepts")
    }

    pub(crate) fn try_client(&self, dialect: Dialect) -> thrift::Result<Client> {
        dialect.unix(&self.socket)
    }

    pub(crate) fn watcher(&self, limit: i32) -> Watcher {
        Watcher::start(&self.socket, limit)
    }

    pub(crate) fn get(&self, path: &str) -> thrift::Result<NodeReply> {
        self.client().get(GetRequest::new(path.into(), None))
    }

    /// The data of a node that is there.
    pub(crate) fn data(&self, path: &str) -> Vec<u8> {
        self.get(path).unwrap_or_else(|error| panic!("{path}: {error:?}")).node.data
    }

    /// Everything it holds.
    pub(crate) fn tree(&self) -> thrift::Result<(Tree, Freshness)> {
        read_all(&mut self.client())
    }

    pub(crate) fn status(&self) -> StatusReply {
        self.client().status(StatusRequest::default()).expect("a status")
    }

    /// The status of its first source.
    pub(crate) fn source(&self) -> SourceStatus {
        self.status().sources.into_iter().next().expect("a source")
    }

    /// Waits until its first source is in this state.
    pub(crate) fn becomes(&self, state: &str) {
        eventually(&format!("the source is {state}"), SOON, || {
            let source = self.source();
            if source.state == state { Ok(()) } else { Err(format!("{source:?}")) }
        });
    }
}

impl Drop for Roster {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("The sidecar's log:\n{}", self.log());
        }
        self.process.take().into_iter().for_each(Process::kill_with_workers);
    }
}
