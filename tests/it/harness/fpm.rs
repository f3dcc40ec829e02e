//! A real php-fpm, and pages asked of it without a web server between.

use std::fs;
use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::process::Command;

use tempfile::TempDir;

use super::{Process, SOON, ensure, eventually};

/// Killed with its workers on drop.
#[derive(Debug)]
pub(crate) struct Fpm {
    process: Process,
    folder: TempDir,
}

impl Fpm {
    /// One with so many workers, all the time.
    pub(crate) fn start(workers: usize) -> Self {
        let folder = tempfile::tempdir().expect("a folder");
        let path = |name: &str| folder.path().join(name).display().to_string();
        let (log, socket) = (path("log"), path("fpm.sock"));
        let settings = format!(
            "[global]\nerror_log = {log}\ndaemonize = no\n[www]\nuser = {}\nlisten = {socket}\npm = static\n\
             pm.max_children = {workers}\nlisten.backlog = 1024\n",
            nix::unistd::User::from_uid(nix::unistd::getuid()).expect("a user").expect("a user").name
        );
        fs::write(folder.path().join("fpm.conf"), settings).expect("written");
        let mut command = Command::new(program());
        // Only root must say that the workers may be root as well, as it must be to reach the folders of the tests.
        command.args(["--nodaemonize", "--allow-to-run-as-root", "--fpm-config", &path("fpm.conf")]);
        let process = Process::start(&mut command, folder.path());
        let fpm = Self { process, folder };
        eventually("php-fpm listens", SOON, || UnixStream::connect(fpm.socket()));
        fpm
    }

    fn socket(&self) -> PathBuf {
        self.folder.path().join("fpm.sock")
    }

    /// What a script prints, with these variables of the server. None: its worker died.
    pub(crate) fn page(&self, script: &str, variables: &[(&str, &str)]) -> Option<String> {
        let mut stream = UnixStream::connect(self.socket()).expect("php-fpm accepts");
        stream.set_read_timeout(Some(SOON)).expect("a timeout");
        let mut parameters = Vec::new();
        for (name, value) in [("SCRIPT_FILENAME", script), ("REQUEST_METHOD", "GET")].iter().chain(variables) {
            parameters.extend((name.len() as u32 | 1 << 31).to_be_bytes());
            parameters.extend((value.len() as u32 | 1 << 31).to_be_bytes());
            parameters.extend(name.bytes().chain(value.bytes()));
        }
        let begin = [0, 1, 0, 0, 0, 0, 0, 0];
        let request = [record(1, &begin), record(4, &parameters), record(4, &[]), record(5, &[])].concat();
        stream.write_all(&request).ok()?;
        let mut reply = Vec::new();
        stream.read_to_end(&mut reply).ok()?;
        printed(&reply)
    }
}

/// A record of FastCGI 1, of the only request.
fn record(kind: u8, content: &[u8]) -> Vec<u8> {
    let [high, low] = (content.len() as u16).to_be_bytes();
    [&[1, kind, 0, 1, high, low, 0, 0], content].concat()
}

/// The text that the records of a whole reply bring, behind its headers.
fn printed(mut reply: &[u8]) -> Option<String> {
    let (mut text, mut is_whole) = (Vec::new(), false);
    while let [_, kind, _, _, high, low, padding, _, rest @ ..] = reply {
        let size = usize::from(u16::from_be_bytes([*high, *low]));
        if *kind == 6 {
            text.extend(rest.get(..size)?);
        }
        is_whole |= *kind == 3;
        reply = rest.get(size + usize::from(*padding)..)?;
    }
    let text = String::from_utf8(text).ok().filter(|_| is_whole)?;
    text.split_once("\r\n\r\n").map(|(_, body)| body.to_owned())
}

/// Debian names it by PHP's version.
fn program() -> PathBuf {
    let programs = fs::read_dir("/usr/sbin").into_iter().flatten().flatten().map(|entry| entry.path());
    let found = programs.filter(|path| path.display().to_string().contains("/php-fpm")).min();
    found.expect("php-fpm is there, if `make deps` has been run")
}
