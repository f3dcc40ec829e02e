//! Launching: a worker's process, from its start until it executes its program.
//!
//! The sidecar has many threads, and between `fork` and `exec` such a process may do next to nothing. So a process with
//! one thread (`fork_server`) forks it, and the sidecar tells it over a socket what to become: a [`Spec`] as JSON, with the
//! descriptors. It answers with one byte when it is ready to execute the program, and the socket closes when that has
//! happened; an error is written to it before.

use std::env::split_paths;
use std::ffi::OsStr;
use std::fs;
use std::io::{self, IoSlice, IoSliceMut, Read, Write};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, RawFd};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::os::unix::net::UnixStream;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use nix::cmsg_space;
use nix::errno::Errno;
use nix::libc;
use nix::sys::resource::{Resource, setrlimit};
use nix::sys::signal::SigSet;
use nix::sys::socket::{ControlMessage, ControlMessageOwned, MsgFlags, recvmsg, send, sendmsg};
use nix::sys::stat::{Mode, umask};
use nix::unistd::{Gid, Uid, fchown, geteuid, setgid, setgroups, setsid, setuid};
use serde::{Deserialize, Serialize};

use super::precedence::Beginning;
use crate::permissions::own::name_of;

/// The first of the descriptors that a program inherits, as with systemd.
pub(super) const FIRST_DESCRIPTOR: RawFd = 3;

/// How many descriptors one process may inherit: as many as the kernel passes in one message.
pub(crate) const MAX_DESCRIPTORS: usize = 253;

/// The longest spec that is read.
const MAX_SPEC_BYTES: usize = 1024 * 1024;

/// How much of a script is read to find its interpreter: as much as the kernel reads.
const MAX_INTERPRETER_BYTES: u64 = 256;

/// What "try again" means where a process is started.
const TOO_MANY_PROCESSES: &str = "there are as many processes as may be: of the user (`max_processes`, `ulimit -u`), of the \
                                  unit (`TasksMax=`), or of the machine";

/// The answer of a process that is about to execute its program. Without it, the process has ended before.
const READY: &[u8] = b"+";

/// What a process should become.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct Spec {
    pub(super) command: Vec<String>,
    /// All variables except `LISTEN_PID`, which depends on the process.
    pub(super) environment: Vec<(String, String)>,
    /// The user it runs as; none: unchanged.
    pub(super) identity: Option<Identity>,
    pub(super) directory: PathBuf,
    pub(super) umask: u32,
    /// The limits on its descriptors, and on its user's processes; none: unchanged.
    pub(super) max_files: Option<u64>,
    pub(super) max_processes: Option<u64>,
    pub(super) beginning: Beginning,
    /// Whether to set `LISTEN_PID`.
    pub(super) listens: bool,
    /// How many descriptors come with it.
    pub(super) descriptors: usize,
}

/// A user, as the kernel identifies it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Identity {
    pub(super) uid: u32,
    pub(super) gid: u32,
    pub(super) groups: Vec<u32>,
}

/// What a process reported to the sidecar before it closed its socket.
#[derive(Debug)]
pub(super) enum Said {
    /// It executes its program.
    Begun,
    Refused(Refusal),
    /// It has ended without being able to report why.
    Nothing,
}

/// Why a process cannot execute its program, as it reports it to the sidecar.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct Refusal {
    pub(super) why: String,
    /// Whether the machine is just short of a resource, so that it may work later.
    pub(super) is_short: bool,
}

impl Refusal {
    fn new(what: &str, error: Errno) -> Self {
        let why = match error {
            Errno::EAGAIN => TOO_MANY_PROCESSES,
            _ => error.desc(),
        };
        Self { why: format!("{what}: {why}"), is_short: is_shortage(Some(error as i32)) }
    }

    /// Derives it from an error: a shortage on the machine is not the worker's fault.
    pub(super) fn of(what: &str, error: &io::Error) -> Self {
        match error.raw_os_error() {
            Some(number) => Self::new(what, Errno::from_raw(number)),
            None => Self { why: format!("{what}: {error}"), is_short: false },
        }
    }

    fn send(&self, to: impl AsFd) {
        let text = serde_json::to_vec(self).expect("it is text");
        // There is no sidecar if an operator has started this by hand.
        let _ = send(to.as_fd().as_raw_fd(), &text, MsgFlags::MSG_NOSIGNAL);
    }
}

impl Said {
    pub(super) fn read(said: &[u8]) -> io::Result<Self> {
        Ok(match said.strip_prefix(READY).unwrap_or(said) {
            [] if said.is_empty() => Self::Nothing,
            [] => Self::Begun,
            refusal => Self::Refused(serde_json::from_slice(refusal)?),
        })
    }
}

/// Gives descriptors to a user, unless it is the sidecar's own: the kernel treats a socket as its owner's, also when
/// another process connects it again.
pub(super) fn give_to<'a>(
    identity: Option<&Identity>,
    descriptors: impl IntoIterator<Item = BorrowedFd<'a>>,
) -> io::Result<()> {
    let Some(Identity { uid, gid, .. }) = identity else { return Ok(()) };
    for descriptor in descriptors {
        fchown(descriptor, Some(Uid::from_raw(*uid)), Some(Gid::from_raw(*gid)))
            .map_err(|error| io::Error::other(format!("cannot give its descriptors to uid {uid}: {error}")))?;
    }
    Ok(())
}

/// Whether an error means that the machine is short of a resource.
pub(super) fn is_shortage(error: Option<i32>) -> bool {
    let error = error.map(Errno::from_raw);
    matches!(
        error,
        Some(Errno::EAGAIN | Errno::ENOMEM | Errno::EMFILE | Errno::ENFILE | Errno::ENOBUFS | Errno::ETOOMANYREFS)
    )
}

impl Spec {
    /// Sends the descriptors, and the length of what follows, to a process being launched.
    pub(super) fn announce(&self, to: &UnixStream, descriptors: &[BorrowedFd<'_>]) -> io::Result<Vec<u8>> {
        let text = serde_json::to_vec(self)?;
        let length = (text.len() as u32).to_be_bytes();
        let raw: Vec<RawFd> = descriptors.iter().map(AsRawFd::as_raw_fd).collect();
        let rights = [ControlMessage::ScmRights(&raw)];
        let rights = if raw.is_empty() { &rights[..0] } else { &rights[..] };
        // The buffer of a new socket is empty and takes all of it.
        match sendmsg::<()>(to.as_raw_fd(), &[IoSlice::new(&length)], rights, MsgFlags::MSG_NOSIGNAL, None) {
            // What it reported before it ended is read together with its answer.
            Ok(_) | Err(Errno::EPIPE | Errno::ECONNRESET) => Ok(text),
            Err(error) => Err(error.into()),
        }
    }

    /// Reads it, and has the descriptors be those that the program expects.
    fn receive(from: &UnixStream) -> io::Result<Self> {
        let mut length = [0; 4];
        let mut space = cmsg_space!([RawFd; MAX_DESCRIPTORS]);
        let mut parts = [IoSliceMut::new(&mut length)];
        let message = recvmsg::<()>(from.as_raw_fd(), &mut parts, Some(&mut space), MsgFlags::MSG_WAITALL)?;
        let received = message.bytes;
        let descriptors: Vec<RawFd> = message
            .cmsgs()?
            .filter_map(|part| if let ControlMessageOwned::ScmRights(raw) = part { Some(raw) } else { None })
            .flatten()
            .collect();
        let bytes = u32::from_be_bytes(length) as usize;
        if received != 4 || bytes > MAX_SPEC_BYTES {
            return Err(io::Error::other("no sidecar launches this process"));
        }
        let mut text = vec![0; bytes];
        (&mut &*from).read_exact(&mut text)?;
        let spec: Self = serde_json::from_slice(&text)?;
        let expected = FIRST_DESCRIPTOR..FIRST_DESCRIPTOR + spec.descriptors as RawFd;
        if !descriptors.iter().copied().eq(expected) {
            return Err(io::Error::other(format!("descriptors came as {descriptors:?}: some were open before")));
        }
        Ok(spec)
    }

    /// Executes it, after telling `sidecar`; or returns why not.
    fn become_it(&self, sidecar: &UnixStream) -> Refusal {
        let prepared = self.prepare();
        let Some((program, arguments)) = self.command.split_first() else {
            return Refusal { why: "there is no command".to_owned(), is_short: false };
        };
        if let Err(refusal) = prepared {
            return refusal;
        }
        let mut command = Command::new(program);
        command.args(arguments).env_clear().envs(self.environment.iter().map(|(name, value)| (name, value)));
        if self.listens {
            command.env("LISTEN_PID", std::process::id().to_string());
        }
        let path = self.environment.iter().find(|(name, _)| name == "PATH").map_or("", |(_, path)| path);
        // If nobody receives it, this process is about to be killed.
        let _ = (&mut &*sidecar).write_all(READY);
        let error = Errno::from_raw(command.exec().raw_os_error().unwrap_or(0));
        let why = explain(program, Path::new("."), path, geteuid(), error);
        Refusal { why, is_short: is_shortage(Some(error as i32)) }
    }

    fn prepare(&self) -> Result<(), Refusal> {
        let step = |what: &str, done: Result<(), Errno>| done.map_err(|error| Refusal::new(what, error));
        step("cannot leave the sidecar's session", setsid().map(drop))?;
        self.beginning.begin();
        heed_all_signals();
        umask(Mode::from_bits_truncate(self.umask));
        let limits = [
            ("max_files", Resource::RLIMIT_NOFILE, self.max_files),
            ("max_processes", Resource::RLIMIT_NPROC, self.max_processes),
        ];
        for (key, limit, most) in limits {
            let Some(most) = most else { continue };
            step(&format!("cannot set {key} to {most}, as {limit:?}"), setrlimit(limit, most, most))?;
        }
        if let Some(Identity { uid, gid, groups }) = &self.identity {
            // In this order: without root, nothing more can be changed.
            let groups: Vec<Gid> = groups.iter().copied().map(Gid::from_raw).collect();
            step("cannot take on the user's groups", setgroups(&groups))?;
            step("cannot take on the group", setgid(Gid::from_raw(*gid)))?;
            step("cannot take on the user", setuid(Uid::from_raw(*uid)))?;
        }
        let directory = &self.directory;
        std::env::set_current_dir(directory).map_err(|error| {
            let (directory, user) = (directory.display(), name_of(geteuid().as_raw()));
            let error = Errno::from_raw(error.raw_os_error().unwrap_or(0));
            Refusal::new(&format!("cannot start in {directory} as {user}"), error)
        })
    }
}

/// Becomes what the sidecar on the other end of a socket says, or says why not.
pub(super) fn launch(sidecar: &UnixStream) -> ! {
    match Spec::receive(sidecar) {
        Ok(spec) => spec.become_it(sidecar),
        Err(error) => Refusal::of("cannot launch it", &error),
    }
    .send(sidecar);
    std::process::exit(127)
}

/// Resets signals that the sidecar ignores, as it may if a script has started it in the background; and heeds those that
/// have come since this process was forked.
#[allow(unsafe_code)]
fn heed_all_signals() {
    for signal in 1..=libc::SIGRTMAX() {
        // Safety: this process has one thread and no handlers. The kernel refuses this for signals that cannot be
        // ignored.
        unsafe { libc::signal(signal, libc::SIG_DFL) };
    }
    // There is such a set.
    let _ = SigSet::all().thread_unblock();
}

/// Why a program cannot be started by this user in a directory.
pub(super) fn explain(program: &str, directory: &Path, path: &str, user: Uid, error: Errno) -> String {
    let (user, is_path) = (name_of(user.as_raw()), program.contains('/'));
    let found = places(program, directory, path).find_map(|place| Some((fs::metadata(&place).ok()?, place)));
    let why = match (error, found) {
        (Errno::ENOENT, None) if is_path => "there is no such file".to_owned(),
        (Errno::ENOENT, None) => format!("it is in no folder of PATH, {path}"),
        (Errno::ENOENT, Some((_, file))) => {
            no_interpreter(&file).unwrap_or_else(|| "what loads it is not there".to_owned())
        }
        (Errno::EACCES, None) if is_path => format!("{user} may not look into its folder"),
        (Errno::EACCES, None) => format!("it is in no folder of PATH that {user} may look into, {path}"),
        (Errno::EACCES, Some((found, _))) if found.is_dir() => "it is a directory".to_owned(),
        (Errno::EACCES, Some((found, _))) if found.mode() & 0o111 == 0 => {
            "it is not executable: `chmod +x`, or name its interpreter before it".to_owned()
        }
        (Errno::EACCES, Some(_)) => format!("{user} may not execute it"),
        (Errno::ENOEXEC, _) => "it is no program: a script begins with `#!` and its interpreter".to_owned(),
        _ => error.desc().to_owned(),
    };
    let words: Vec<&str> = program.split_whitespace().collect();
    let no_shell = match error {
        Errno::ENOENT if words.len() > 1 => format!("; no shell reads it: write `command = {words:?}`"),
        _ => String::new(),
    };
    format!("cannot start {program:?}: {why}{no_shell}")
}

/// The places to look for a program.
pub(super) fn places(program: &str, directory: &Path, path: &str) -> impl Iterator<Item = PathBuf> {
    let folders = match program.contains('/') {
        true => vec![PathBuf::new()],
        false => split_paths(path).collect(),
    };
    folders.into_iter().map(move |folder| directory.join(folder).join(program))
}

/// The error if the interpreter of a script does not exist; none if it does, or this is not a script.
pub(super) fn no_interpreter(script: &Path) -> Option<String> {
    let mut start = Vec::new();
    // Its owner may have put a pipe there meanwhile, which nobody writes.
    let file = fs::File::options().read(true).custom_flags(libc::O_NONBLOCK).open(script).ok()?;
    if !file.metadata().ok()?.is_file() {
        return None;
    }
    file.take(MAX_INTERPRETER_BYTES).read_to_end(&mut start).ok()?;
    let line = start.strip_prefix(b"#!")?.split(|byte| *byte == b'\n').next()?.trim_ascii_start();
    let interpreter = line.split(|byte| matches!(byte, b' ' | b'\t')).next()?;
    let path = Path::new(OsStr::from_bytes(interpreter));
    if path.exists() {
        return None;
    }
    let end = if line.ends_with(b"\r") { ", which ends in a carriage return" } else { "" };
    Some(format!("the interpreter in its first line is not there, {path:?}{end}"))
}

#[cfg(test)]
mod tests {
    use std::fs::Permissions;
    use std::net::{TcpListener, TcpStream};
    use std::os::unix::fs::PermissionsExt;

    use nix::unistd::User;

    use super::*;
    use crate::net::{Accepted, Peers, User as Owner};

    #[test]
    fn what_keeps_a_program_from_its_start_is_told_with_its_cure() {
        let folder = tempfile::tempdir().expect("a folder");
        let at = folder.path();
        fs::create_dir(at.join("folder")).expect("made");
        for (name, text, mode) in [
            ("plain", "", 0o644),
            ("windows", "#!/bin/sh\r\nexit\r\n", 0o755),
            ("lost", "#! /nowhere/php -q\n", 0o755),
            ("elf", "\x7fELF", 0o755),
        ] {
            fs::write(at.join(name), text).expect("written");
            fs::set_permissions(at.join(name), Permissions::from_mode(mode)).expect("it is ours");
        }
        let told = |program: &str, error| explain(program, at, "/bin", geteuid(), error);
        for (program, error, why) in [
            ("./none", Errno::ENOENT, "there is no such file"),
            ("none", Errno::ENOENT, "it is in no folder of PATH, /bin"),
            ("./lost", Errno::ENOENT, "the interpreter in its first line is not there, \"/nowhere/php\""),
            ("./windows", Errno::ENOENT, "not there, \"/bin/sh\\r\", which ends in a carriage return"),
            ("./elf", Errno::ENOENT, "what loads it is not there"),
            ("./folder", Errno::EACCES, "it is a directory"),
            ("./plain", Errno::EACCES, "it is not executable: `chmod +x`, or name its interpreter before it"),
            ("./lost", Errno::EACCES, " may not execute it"),
            ("none", Errno::EACCES, " may look into, /bin"),
            ("php a.php", Errno::ENOENT, "; no shell reads it: write `command = [\"php\", \"a.php\"]`"),
        ] {
            let told = told(program, error);
            assert!(told.ends_with(why), "{program}: {told}");
        }
    }

    #[test]
    fn nobody_waits_for_a_pipe_in_the_place_of_a_script() {
        let folder = tempfile::tempdir().expect("a folder");
        let pipe = folder.path().join("pipe");
        nix::unistd::mkfifo(&pipe, Mode::S_IRWXU).expect("a pipe");
        let (tell, told) = std::sync::mpsc::channel();
        std::thread::spawn(move || tell.send(no_interpreter(&pipe)));
        assert_eq!(told.recv_timeout(std::time::Duration::from_secs(60)), Ok(None));
    }

    #[test]
    #[allow(unsafe_code)]
    fn a_socket_that_was_given_to_a_user_speaks_as_that_user_wherever_it_connects_anew() {
        let Some(nobody) = User::from_name("nobody").ok().flatten().filter(|_| geteuid().is_root()) else {
            eprintln!("skipped: it takes root, and a user nobody");
            return;
        };
        let (uid, gid) = (nobody.uid.as_raw(), nobody.gid.as_raw());
        let inherited = TcpListener::bind("127.0.0.1:0").expect("a port");
        let target = TcpListener::bind("127.0.0.1:0").expect("a port");
        let identity = Identity { uid, gid, groups: Vec::new() };
        give_to(Some(&identity), [inherited.as_fd()]).expect("root may");
        // What a process may do with it: stop listening, and connect from its port.
        let nowhere = libc::sockaddr { sa_family: libc::AF_UNSPEC as u16, sa_data: [0; 14] };
        let length = size_of::<libc::sockaddr>() as u32;
        // Safety: an address of this length.
        let done = unsafe { libc::connect(inherited.as_raw_fd(), &raw const nowhere, length) };
        assert_eq!(done, 0, "{}", io::Error::last_os_error());
        let again = socket2::SockRef::from(&inherited);
        again.connect(&target.local_addr().expect("an address").into()).expect("it connects");
        let (stream, peer): (TcpStream, _) = target.accept().expect("it came");
        assert_eq!(Peers::new().user_of(&Accepted::Tcp(stream, peer)), Some(Owner::Uid(uid)));
    }

    #[test]
    fn what_is_short_is_told_from_what_is_wrong() {
        for (error, is_short) in
            [(Errno::EAGAIN, true), (Errno::EMFILE, true), (Errno::ENOENT, false), (Errno::EACCES, false)]
        {
            assert_eq!(is_shortage(Some(error as i32)), is_short, "{error}");
            assert_eq!(Refusal::new("cannot start in /tmp", error).is_short, is_short, "{error}");
        }
        assert!(!is_shortage(None));
    }

    #[test]
    fn a_program_has_begun_only_if_its_process_has_said_so() {
        let read = |said: &str| Said::read(said.as_bytes()).expect("that makes sense");
        assert!(matches!(read("+"), Said::Begun));
        assert!(matches!(read(""), Said::Nothing));
        for said in [r#"{"why": "gone", "is_short": false}"#, r#"+{"why": "gone", "is_short": false}"#] {
            let said = read(said);
            assert!(matches!(&said, Said::Refused(Refusal { why, is_short: false }) if why == "gone"), "{said:?}");
        }
        assert!(Said::read(b"nonsense").is_err());
    }

    #[test]
    fn what_a_process_says_that_ends_before_it_is_told_what_to_become_is_its_reason() {
        let spec = Spec {
            command: vec!["true".into()],
            environment: Vec::new(),
            identity: None,
            directory: "/".into(),
            umask: 0,
            max_files: None,
            max_processes: None,
            beginning: Beginning::of_a_process(true),
            listens: false,
            descriptors: 1,
        };
        let (ours, theirs) = UnixStream::pair().expect("sockets");
        Refusal::of("cannot launch it", &Errno::ENOSYS.into()).send(&theirs);
        drop(theirs);
        spec.announce(&ours, &[io::stderr().as_fd()]).expect("it is no fault of the sidecar's");
        let mut said = Vec::new();
        (&mut &ours).read_to_end(&mut said).expect("it is read");
        let said = Said::read(&said).expect("that makes sense");
        assert!(matches!(&said, Said::Refused(Refusal { is_short: false, .. })), "{said:?}");
    }
}
