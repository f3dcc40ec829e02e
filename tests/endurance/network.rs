//! A network of its own for a sidecar, a namespace in which the kernel swallows or refuses what goes to the ensemble.

use std::fs::File;
use std::net::{Ipv4Addr, TcpListener, TcpStream};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use nix::sched::{CloneFlags, setns};

/// All namespaces of ours begin so; the id of the process that made one follows.
const PREFIX: &str = "roster-endurance-";

/// A namespace, and a pair of interfaces between it and the machine. Both go when this is dropped. A guardian sees to
/// that, also when the run is gone without having dropped it; and what nobody has seen to, the next run takes away.
#[derive(Debug)]
pub(crate) struct Network {
    name: String,
    host: Ipv4Addr,
    guardian: Child,
}

/// Reads until the run closes the pipe, be it by its own death. An interrupt is meant for the run.
const GUARD: &str = r#"trap "" INT TERM; cat > /dev/null; ip netns delete "$0""#;

impl Network {
    /// `Err` with the reason why it is not to be had here: only root may make one, and not in every container.
    pub(crate) fn make() -> Result<Self, String> {
        remove_stale();
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let (id, number) = (std::process::id(), NEXT.fetch_add(1, Ordering::Relaxed));
        let name = format!("{PREFIX}{id}-{number}");
        ip(&["netns", "add", &name])?;
        let guardian = Command::new("sh").args(["-c", GUARD, &name]).stdin(Stdio::piped()).spawn().expect("sh starts");
        // Of the range that is kept for tests; four addresses for each.
        let base = u32::from(Ipv4Addr::new(198, 18, 0, 0)) + ((id * 4 + number) % 0x8000) * 4;
        let network = Self { name, host: Ipv4Addr::from(base + 1), guardian };
        network.connect(&format!("rstr{id}n{number}"), Ipv4Addr::from(base + 2))?;
        network.is_of_use().map(|()| network)
    }

    fn connect(&self, outside: &str, within: Ipv4Addr) -> Result<(), String> {
        let name = self.name.as_str();
        ip(&["link", "add", outside, "type", "veth", "peer", "name", "veth", "netns", name])?;
        ip(&["address", "add", &format!("{}/30", self.host), "dev", outside])?;
        ip(&["link", "set", outside, "up"])?;
        ip(&["-netns", name, "address", "add", &format!("{within}/30"), "dev", "veth"])?;
        ip(&["-netns", name, "link", "set", "veth", "up"])?;
        ip(&["-netns", name, "link", "set", "lo", "up"])
    }

    /// Whether the way out is open, and can be closed.
    fn is_of_use(&self) -> Result<(), String> {
        let listener = TcpListener::bind((self.host, 0)).map_err(|error| error.to_string())?;
        let address = listener.local_addr().map_err(|error| error.to_string())?;
        let reaches = || self.within(|| TcpStream::connect_timeout(&address, Duration::from_secs(2)));
        reaches().map_err(|error| format!("the machine is not reached from within: {error}"))?;
        self.filter(&["-A", "OUTPUT", "-p", "tcp", "--dport", &address.port().to_string()], REFUSE)?;
        let refused = reaches().is_err();
        self.pass();
        if refused { Ok(()) } else { Err("nothing is refused".into()) }
    }

    /// Where something must listen to be reached from within.
    pub(crate) fn host(&self) -> Ipv4Addr {
        self.host
    }

    /// A command that runs a program within.
    pub(crate) fn command(&self, program: &Path) -> Command {
        let mut command = Command::new("ip");
        command.args(["netns", "exec", &self.name]).arg(program);
        command
    }

    /// Does something as if it were there. A connection that is made so stays there.
    pub(crate) fn within<T: Send>(&self, doing: impl FnOnce() -> T + Send) -> T {
        let namespace = File::open(Path::new("/run/netns").join(&self.name)).expect("a namespace");
        // It is the thread that enters.
        let inside = || {
            setns(namespace, CloneFlags::CLONE_NEWNET).expect("root enters it");
            doing()
        };
        std::thread::scope(|scope| scope.spawn(inside).join().expect("no panic"))
    }

    /// From now on what goes to these ports of the machine, and what comes from them, is lost.
    pub(crate) fn swallow(&self, ports: impl IntoIterator<Item = u16>) {
        for port in ports.into_iter().map(|port| port.to_string()) {
            self.close(&["-A", "OUTPUT", "-p", "tcp", "--dport", &port], &["DROP"]);
            self.close(&["-A", "INPUT", "-p", "tcp", "--sport", &port], &["DROP"]);
        }
    }

    /// From now on whatever is sent to these ports of the machine ends its connection.
    pub(crate) fn refuse(&self, ports: impl IntoIterator<Item = u16>) {
        for port in ports {
            self.close(&["-A", "OUTPUT", "-p", "tcp", "--dport", &port.to_string()], REFUSE);
        }
    }

    fn close(&self, rule: &[&str], end: &[&str]) {
        self.filter(rule, end).expect("it could be closed before");
    }

    /// From now on everything goes through.
    pub(crate) fn pass(&self) {
        self.filter(&["-F"], &[]).expect("it can be opened");
    }

    fn filter(&self, rule: &[&str], end: &[&str]) -> Result<(), String> {
        let end = end.split_first().map(|(target, options)| [&["-j", *target], options].concat());
        let mut command = self.command(Path::new("iptables"));
        told(command.args(["-w"]).args(rule).args(end.unwrap_or_default()))
    }
}

const REFUSE: &[&str] = &["REJECT", "--reject-with", "tcp-reset"];

impl Drop for Network {
    fn drop(&mut self) {
        // It closes the pipe. With the namespace goes the interface within, and with that its other half.
        let _ = self.guardian.wait();
    }
}

/// Takes away what is left of runs that were killed.
fn remove_stale() {
    let names = std::fs::read_dir("/run/netns").into_iter().flatten().flatten();
    for name in names.filter_map(|file| file.file_name().into_string().ok()) {
        let id = name.strip_prefix(PREFIX).and_then(|rest| rest.split('-').next());
        if id.is_some_and(|id| !Path::new("/proc").join(id).exists()) {
            let _ = ip(&["netns", "delete", &name]);
        }
    }
}

fn ip(arguments: &[&str]) -> Result<(), String> {
    told(Command::new("ip").args(arguments))
}

/// `Err` with what a command complains of.
fn told(command: &mut Command) -> Result<(), String> {
    let output = command.output().map_err(|error| format!("{command:?}: {error}"))?;
    if output.status.success() {
        return Ok(());
    }
    Err(format!("{command:?}: {}", String::from_utf8_lossy(&output.stderr).trim()))
}
