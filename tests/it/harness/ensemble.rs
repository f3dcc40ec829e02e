//! An ensemble of real ZooKeepers, which servers join and leave, and of which each can be killed.

use std::fmt::Write as _;
use std::fs::File;
use std::net::Ipv4Addr;
use std::process::Command;

use tempfile::TempDir;
use zookeeper_client::EnsembleUpdate;

use super::server::{JVM, Place, START, four_letters};
use super::{ExtraAddress, Process, Zk, chosen, class_path, eventually, free_port};

/// As what a server serves that has lost its quorum.
const READ_ONLY: &str = "read-only";

/// Servers, by their numbers from 1 on. Dropped from above: the processes go before their place does.
#[derive(Debug)]
pub(crate) struct Ensemble {
    members: Vec<Member>,
    /// Where all listen.
    host: Ipv4Addr,
    properties: Vec<String>,
    /// More lines of their configuration.
    more: &'static str,
    _place: Place,
}

#[derive(Debug)]
struct Member {
    process: Option<Process>,
    folder: TempDir,
    /// As the ensemble's configuration has it.
    line: String,
    port: u16,
}

impl Ensemble {
    /// With a server for each of these roles.
    pub(crate) fn start(roles: &[&str]) -> Self {
        Self::at(Ipv4Addr::LOCALHOST, roles, &[], "")
    }

    /// The same at another address of this machine.
    pub(crate) fn elsewhere(address: &ExtraAddress, roles: &[&str]) -> Self {
        Self::at(address.ip, roles, &[], "")
    }

    /// The same, with system properties for each server, and more lines of its configuration.
    pub(crate) fn with(roles: &[&str], properties: &[&str], more: &'static str) -> Self {
        Self::at(Ipv4Addr::LOCALHOST, roles, properties, more)
    }

    fn at(host: Ipv4Addr, roles: &[&str], properties: &[&str], more: &'static str) -> Self {
        let properties = properties.iter().map(|property| property.to_string()).collect();
        let mut ensemble = Self { members: Vec::new(), host, properties, more, _place: Place::take() };
        roles.iter().for_each(|role| ensemble.prepare(role));
        (1..=roles.len()).for_each(|number| ensemble.run(number));
        (1..=roles.len()).for_each(|number| drop(ensemble.serves(number)));
        ensemble
    }

    /// One more server, which is no member yet and does not run.
    fn prepare(&mut self, role: &str) {
        let (number, folder, port) = (self.members.len() + 1, tempfile::tempdir().expect("a folder"), free_port());
        let data = folder.path().join("data");
        std::fs::create_dir(&data).expect("a folder");
        std::fs::write(data.join("myid"), number.to_string()).expect("its number is written");
        let [quorum, election] = [free_port(), free_port()];
        let line = format!("server.{number}={host}:{quorum}:{election}:{role};{host}:{port}", host = self.host);
        self.members.push(Member { folder, line, port, process: None });
    }

    /// Starts a server, as one that knows of all before it and of itself if it has never run.
    pub(crate) fn run(&mut self, number: usize) {
        let lines = self.members.iter().fold(String::new(), |mut lines, member| {
            let _ = writeln!(lines, "{}", member.line);
            lines
        });
        let member = &mut self.members[number - 1];
        let path = |name| member.folder.path().join(name);
        if !path("zoo.cfg").exists() {
            std::fs::write(path("zoo.dynamic"), lines).expect("written");
            let config = format!(
                "tickTime=500\ninitLimit=40\nsyncLimit=6\nminSessionTimeout=400\nmaxSessionTimeout=60000\n\
                 maxClientCnxns=0\ndataDir={}\ndynamicConfigFile={}\nreconfigEnabled=true\nstandaloneEnabled=false\n\
                 skipACL=yes\nadmin.enableServer=false\n4lw.commands.whitelist=srvr\n{}{}",
                path("data").display(),
                path("zoo.dynamic").display(),
                if member.line.contains(":observer;") { "peerType=observer\n" } else { "" },
                self.more,
            );
            std::fs::write(path("zoo.cfg"), config).expect("written");
        }
        let log = File::options().create(true).append(true).open(path("log")).expect("a log");
        let mut java = Command::new("java");
        java.arg("-Xmx128m").args(JVM).args(&self.properties).args([
            "-cp",
            &class_path(chosen().as_deref()),
            "org.apache.zookeeper.server.quorum.QuorumPeerMain",
        ]);
        java.arg(path("zoo.cfg")).stdout(log.try_clone().expect("a log")).stderr(log);
        member.process = Some(Process::start(&mut java, member.folder.path()));
    }

    /// Waits until a server serves, and not only to read; as what.
    pub(crate) fn serves(&self, number: usize) -> String {
        self.is_in_mode(number, |mode| mode != READ_ONLY)
    }

    /// Waits until one that lost its quorum serves to read only.
    pub(crate) fn serves_to_read(&self, number: usize) {
        self.is_in_mode(number, |mode| mode == READ_ONLY);
    }

    fn is_in_mode(&self, number: usize, is_wanted: fn(&str) -> bool) -> String {
        let member = &self.members[number - 1];
        eventually("a server serves", START, || {
            let answer = four_letters((self.host, member.port), "srvr");
            let mode = answer.lines().find_map(|line| line.strip_prefix("Mode: ")).filter(|mode| is_wanted(mode));
            let log = || std::fs::read_to_string(member.folder.path().join("log")).unwrap_or_default();
            mode.map(str::to_owned).ok_or_else(|| answer.clone() + &log())
        })
    }

    /// Has one more server join. Its number.
    pub(crate) fn join(&mut self, role: &str) -> usize {
        self.prepare(role);
        let number = self.members.len();
        self.run(number);
        let line = self.members[number - 1].line.clone();
        self.reconfigure(&[&line], &[]);
        self.serves(number);
        number
    }

    /// Has servers leave. They go on running.
    pub(crate) fn leave(&self, numbers: &[usize]) {
        let numbers: Vec<String> = numbers.iter().map(usize::to_string).collect();
        self.reconfigure(&[], &numbers.iter().map(String::as_str).collect::<Vec<_>>());
    }

    /// Changes who is a member: lines of those that come, numbers of those that go. A leader first follows the ensemble
    /// for a while before it may be done.
    pub(crate) fn reconfigure(&self, joining: &[&str], leaving: &[&str]) {
        let zk = self.zk();
        eventually("it is reconfigured", START, || {
            zk.attempt(async |client| {
                let (joinings, leavings) = (joining.iter().copied(), leaving.iter().copied());
                client.update_ensemble(EnsembleUpdate::Incremental { joinings, leavings }, None).await.map(drop)
            })
        });
    }

    pub(crate) fn kill(&mut self, number: usize) {
        self.members[number - 1].process = None;
    }

    pub(crate) fn address(&self, number: usize) -> String {
        format!("{}:{}", self.host, self.members[number - 1].port)
    }

    /// All that run.
    pub(crate) fn zk(&self) -> Zk {
        let running = (1..=self.members.len()).filter(|number| self.members[number - 1].process.is_some());
        Zk::new(running.map(|number| self.address(number)).collect::<Vec<_>>().join(","))
    }
}
