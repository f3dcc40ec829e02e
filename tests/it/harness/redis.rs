//! A real Redis, and somebody who speaks to it as a client of Resque does: in its own keys and texts.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::path::PathBuf;
use std::process::{Command, Stdio};

use tempfile::TempDir;

use super::{Process, SOON, eventually, free_port};

#[derive(Debug)]
pub(crate) struct Redis {
    port: u16,
    options: Vec<String>,
    folder: TempDir,
    process: Option<Process>,
}

impl Redis {
    pub(crate) fn start(options: &[&str]) -> Self {
        let folder = tempfile::tempdir().expect("a folder");
        let options = options.iter().map(ToString::to_string).collect();
        let mut redis = Self { port: free_port(), options, folder, process: None };
        redis.run();
        redis
    }

    /// Starts it, without what it had, unless it was to be kept.
    pub(crate) fn run(&mut self) {
        let mut command = Command::new("redis-server");
        command.args(["--port", &self.port.to_string(), "--bind", "127.0.0.1", "--save", ""]);
        // What a test fills it with may take long where much else runs.
        command.args(["--lua-time-limit", "0"]);
        command.arg("--dir").arg(self.folder.path()).arg("--unixsocket").arg(self.socket()).args(&self.options);
        self.process = Some(Process::start(command.stdout(Stdio::null()), self.folder.path()));
        eventually("Redis answers", SOON, || TcpStream::connect(("127.0.0.1", self.port)).map(drop));
    }

    pub(crate) fn kill(&mut self) {
        self.process = None;
    }

    pub(crate) fn process(&self) -> &Process {
        self.process.as_ref().expect("it runs")
    }

    pub(crate) fn url(&self) -> String {
        format!("redis://127.0.0.1:{}/0", self.port)
    }

    pub(crate) fn port(&self) -> u16 {
        self.port
    }

    pub(crate) fn socket(&self) -> PathBuf {
        self.folder.path().join("redis.sock")
    }

    /// Roster's own keys, beside who made which queue.
    pub(crate) fn keys_of_roster(&self) -> String {
        let keys = self.ask(&["KEYS", "resque:roster:*"]);
        keys.lines().filter(|key| !key.ends_with(":queue_creators")).collect::<Vec<_>>().join(" ")
    }

    /// What it answers; lists one value a line, and errors with their `-`.
    pub(crate) fn ask<A: AsRef<[u8]>>(&self, command: &[A]) -> String {
        let mut stream = TcpStream::connect(("127.0.0.1", self.port)).expect("it answers");
        let mut request = format!("*{}\r\n", command.len()).into_bytes();
        for part in command.iter().map(AsRef::as_ref) {
            request.extend(format!("${}\r\n", part.len()).bytes().chain(part.iter().copied()).chain(*b"\r\n"));
        }
        stream.write_all(&request).expect("it reads");
        reply(&mut BufReader::new(stream))
    }
}

fn reply(from: &mut impl BufRead) -> String {
    let mut line = String::new();
    from.read_line(&mut line).expect("an answer");
    let line = line.trim_end();
    let length = || line[1..].parse::<i64>().expect("a length");
    match line.as_bytes().first() {
        Some(b'$') if length() >= 0 => {
            let mut value = vec![0; length() as usize + 2];
            from.read_exact(&mut value).expect("a value");
            String::from_utf8_lossy(&value[..value.len() - 2]).into_owned()
        }
        Some(b'*') => (0..length()).map(|_| reply(from)).collect::<Vec<_>>().join("\n"),
        Some(b'$') => String::new(),
        Some(b'-') => line.to_owned(),
        _ => line.get(1..).unwrap_or_default().to_owned(),
    }
}
