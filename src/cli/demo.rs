//! The demonstration: what `roster serve` does if nothing is configured.

use std::fs::File;
use std::io::{self, Write};
use std::net::{SocketAddr, TcpListener};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use anyhow::Context;
use futures::future::join;
use roster::config::Config;
use roster::default_paths;
use roster::net::Address;
use roster::thrift::client::{Client, Error};
use roster::thrift::idl::{ServiceQuery, Worker, WorkerState, WorkersQuery};
use tokio::io::AsyncReadExt;
use tokio::process::Command;
use tokio::task::spawn_blocking;
use tokio::time::{sleep, timeout};

use super::sample::SERVICE;

const TREE: &str = include_str!("../../examples/tree.toml");
/// The same as [`roster::register::EXAMPLE_TOKEN`].
const TOKENS: &str = "register-center-token-2024\n";
/// Only in the source tree it was built from: a working directory may hold somebody else's files.
const PHP_EXAMPLE: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/examples/php/get.php");
const WORKERS: &str = include_str!("../../examples/workers/roster.toml");
const WORKERS_FOLDER: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/examples/workers");

/// How long the masters may take to connect; for the first seconds the register shows none.
const READY_TIMEOUT: Duration = Duration::from_secs(20);
const POLL_INTERVAL: Duration = Duration::from_millis(50);

/// Its configuration, as if it were a file.
pub(crate) fn file() -> (PathBuf, String) {
    let quoted = |path: PathBuf| toml::Value::from(path.to_string_lossy().as_ref()).to_string();
    let text = format!(
        "[thrift]\nunix = {}\n\n[register]\ntokens = {}\n\n[[file]]\npath = {}\n\n[queue]\npath = {}\n\n\
         [shared]\nstate = \"\"\n\n{}",
        quoted(default_paths::user_socket()),
        quoted(token_path()),
        quoted(tree_path()),
        quoted(default_paths::user_folder().join("queue")),
        if can_have_workers() { workers() } else { String::new() }
    );
    (PathBuf::from("the built-in configuration"), text)
}

/// The workers of the examples.
fn workers() -> String {
    WORKERS.replace("directory = \".\"", &format!("directory = {WORKERS_FOLDER:?}"))
}

/// Whether their sources and PHP are installed.
fn can_have_workers() -> bool {
    let path = std::env::var_os("PATH").unwrap_or_default();
    Path::new(WORKERS_FOLDER).is_dir() && std::env::split_paths(&path).any(|folder| folder.join("php").is_file())
}

/// Writes the tree of nodes for the user to edit, and the public token, unless they exist already.
pub(crate) fn lay_out() -> anyhow::Result<()> {
    default_paths::make_user_folder().with_context(|| {
        let folder = default_paths::user_folder();
        format!("cannot use {} (XDG_RUNTIME_DIR names another folder above it)", folder.display())
    })?;
    for (path, text) in [(tree_path(), TREE), (token_path(), TOKENS)] {
        write_new(&path, text).with_context(|| format!("cannot write {}", path.display()))?;
    }
    Ok(())
}

/// Replaces addresses of the configuration that other processes use by free ones; returns the replacements.
pub(crate) fn avoid_taken(config: &mut Config) -> io::Result<Vec<String>> {
    let mut moved = Vec::new();
    // They are held until all are found: none is found twice.
    let mut held = Vec::new();
    let mut free = || -> io::Result<SocketAddr> {
        let listener = TcpListener::bind("127.0.0.1:0")?;
        let address = listener.local_addr()?;
        held.push(listener);
        Ok(address)
    };
    for (what, address) in [("clients", &mut config.thrift.tcp), ("masters", &mut config.register.listen)] {
        if is_taken(address) {
            let free = free()?.to_string();
            moved.push(format!("{address} is taken by another process, so it listens for {what} on {free}."));
            *address = free;
        }
    }
    for at in config.worker.iter_mut().flat_map(|worker| &mut worker.listen) {
        let address = at.strip_prefix("tcp://").unwrap_or_default();
        if is_taken(address) {
            let free = free()?;
            moved.push(format!("{address} is taken by another process, so its web server listens on {free}."));
            *at = format!("tcp://{free}");
        }
    }
    let socket = &mut config.thrift.unix;
    if default_paths::is_live(socket) {
        let free = socket.with_file_name(format!("roster-{}.sock", std::process::id()));
        moved.push(format!("Another sidecar has {}, so it uses {}.", socket.display(), free.display()));
        *socket = free;
        // Then the shared file next to it is not free either.
        config.shared.path = PathBuf::new();
    }
    Ok(moved)
}

fn is_taken(address: &str) -> bool {
    !address.is_empty() && TcpListener::bind(address).is_err_and(|error| error.kind() == io::ErrorKind::AddrInUse)
}

/// The tokens of the demonstration.
pub(crate) fn token_path() -> PathBuf {
    default_paths::user_folder().join("register.token")
}

fn tree_path() -> PathBuf {
    default_paths::user_folder().join("tree.toml")
}

fn write_new(path: &Path, text: &str) -> io::Result<()> {
    match File::options().write(true).create_new(true).mode(0o600).open(path) {
        Ok(mut file) => file.write_all(text.as_bytes()),
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Ok(()),
        Err(error) => Err(error),
    }
}

/// What to try in a second terminal.
#[derive(Debug, Default)]
pub(crate) struct Invitation {
    /// The variable to set for a client; empty if it finds the sidecar by itself.
    address: String,
    binary: PathBuf,
    /// The processes of the sample masters.
    masters: Vec<u32>,
    /// Whether the node of the article exists: the tree may have been edited.
    has_zk_test: bool,
    /// The example in PHP, if it runs.
    php: Option<PathBuf>,
    /// Where its workers answer, if all of them run.
    web: Option<String>,
}

impl Invitation {
    /// Waits until everything it offers works.
    pub(crate) async fn when_ready(config: &Config, address: Address, binary: PathBuf, masters: Vec<u32>) -> Self {
        let offered = masters.len();
        let come = until(|| is_ready(address.clone(), offered));
        let run = async {
            if !config.worker.is_empty() {
                until(|| all_run(address.clone())).await;
            }
        };
        let (come, run) = join(timeout(READY_TIMEOUT, come), timeout(READY_TIMEOUT, run)).await;
        let masters = if come.is_ok() { masters } else { Vec::new() };
        let listen = config.worker.iter().find_map(|worker| worker.listen.first());
        let web = listen.filter(|_| run.is_ok()).map(|at| at.replace("tcp://", "http://"));
        let has_zk_test = ask(address.clone(), |client| client.get("/zk_test", None)).await.is_some();
        let php = runnable_example(&address).await;
        Self { address: variable(config), binary, masters, has_zk_test, php, web }
    }

    pub(crate) fn text(&self) -> String {
        let Self { address, binary, masters, .. } = self;
        let roster = quoted(binary);
        let mut text = format!(
            "No configuration was found: this is a demonstration. Its nodes are in {}; edit them as you like.\n\
             Try in a second terminal:\n\n  {address}{roster} {}\n  {address}{roster} watch /services\n",
            tree_path().display(),
            if self.has_zk_test { "get /zk_test" } else { "ls -R /" },
        );
        if let Some(example) = &self.php {
            text += &format!("  {address}php {}\n", quoted(example));
        }
        if let Some(first) = masters.first() {
            let pids: Vec<String> = masters.iter().map(u32::to_string).collect();
            text += &format!(
                "\nAnd {} processes ({}) have connected as masters; call them, and see how one dies:\n\n  \
                 {address}{roster} masters\n  {address}{roster} call {SERVICE}.hello name=Ada\n  \
                 {address}{roster} call {SERVICE}.count to=20\n  {address}{roster} watch --masters\n  kill -9 {first}\n",
                masters.len(),
                pids.join(" and ")
            );
        }
        if let Some(web) = &self.web {
            text += &format!(
                "\nAnd it keeps workers alive, of which four answer {web}/; see them, call one, and replace them all while \
                 they answer:\n\n  {address}{roster} worker list\n  \
                 {address}{roster} call letters.send to=ada@example.com text=Hello\n  {address}{roster} worker restart web\n"
            );
        }
        text
    }
}

/// Waits until a condition holds.
async fn until<F: Future<Output = bool>>(is_so: impl Fn() -> F) {
    while !is_so().await {
        sleep(POLL_INTERVAL).await;
    }
}

/// Whether nodes are known, and this number of sample masters.
async fn is_ready(address: Address, masters: usize) -> bool {
    let nodes = ask(address.clone(), |client| client.children("/", None)).await;
    let query = ServiceQuery { service_name: Some(SERVICE.into()), ..ServiceQuery::default() };
    let found = ask(address, |client| client.masters(query)).await;
    nodes.is_some() && found.is_some_and(|reply| reply.masters.len() >= masters)
}

/// Whether there are workers and all of them are ready.
async fn all_run(address: Address) -> bool {
    let told = ask(address, |client| client.workers(WorkersQuery::default())).await;
    let runs = |worker: &Worker| worker.state == WorkerState::RUNNING;
    told.is_some_and(|reply| !reply.workers.is_empty() && reply.workers.iter().all(runs))
}

async fn ask<Reply: Send + 'static>(
    address: Address,
    question: impl FnOnce(&mut Client) -> Result<Reply, Error> + Send + 'static,
) -> Option<Reply> {
    let answer = spawn_blocking(move || question(&mut Client::new(address, Duration::from_secs(1))));
    answer.await.ok()?.ok()
}

/// The example in PHP, if it exists and prints what it should: PHP or its Thrift library may be missing. Its exit
/// status is unknown here, since the supervisor of workers reaps all children.
async fn runnable_example(address: &Address) -> Option<PathBuf> {
    let example = PathBuf::from(PHP_EXAMPLE);
    let mut php = Command::new("php");
    php.args(["-d", "display_errors=stderr"])
        .arg(&example)
        .arg("/")
        .env("ROSTER_ADDRESS", address.to_string())
        .kill_on_drop(true);
    let mut php = php.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::null()).spawn().ok()?;
    let mut printed = Vec::new();
    let read = php.stdout.as_mut()?.read_to_end(&mut printed);
    timeout(Duration::from_secs(5), read).await.ok()?.ok().filter(|read| *read > 0).map(|_| example)
}

fn variable(config: &Config) -> String {
    let unix = &config.thrift.unix;
    if unix.as_os_str().is_empty() {
        format!("ROSTER_ADDRESS={} ", config.thrift.tcp)
    } else if default_paths::sockets().iter().find(|socket| socket.exists()) == Some(unix) {
        String::new()
    } else {
        format!("ROSTER_ADDRESS={} ", quoted(Path::new(&format!("unix://{}", unix.display()))))
    }
}

/// A word that needs no quoting in a shell.
fn quoted(path: &Path) -> String {
    let text = path.to_string_lossy();
    let is_plain = |character: char| character.is_alphanumeric() || "/._-+:".contains(character);
    if text.chars().all(is_plain) { text.into_owned() } else { format!("'{}'", text.replace('\'', r"'\''")) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use roster::config::Layers;

    #[test]
    fn the_demonstration_is_a_configuration() {
        let config = Config::load(&Layers { file: Some(file()), ..Layers::default() }).expect("no mistakes");
        assert_eq!(config.thrift.unix, default_paths::user_socket());
        assert_eq!(config.zk_data.path.as_str(), "/zk_test");
        assert_eq!(config.file[0].path, tree_path());
        assert_eq!(config.register.tokens, Some(token_path()));
        assert_eq!(TOKENS.trim(), roster::register::EXAMPLE_TOKEN);
        let (path, text) = (PathBuf::from("built-in"), workers());
        let config = Config::load(&Layers { file: Some((path, text)), ..Layers::default() }).expect("no mistakes");
        let folders: Vec<_> = config.worker.iter().map(|worker| worker.directory.as_deref()).collect();
        assert_eq!(folders, [Some(Path::new(WORKERS_FOLDER)); 2]);
    }

    #[test]
    fn a_tree_that_the_user_has_edited_stays() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("tree.toml");
        write_new(&path, TREE).expect("written");
        assert_eq!(std::fs::read_to_string(&path).expect("a tree"), TREE);
        std::fs::write(&path, "edited").expect("written");
        write_new(&path, TREE).expect("left alone");
        assert_eq!(std::fs::read_to_string(&path).expect("a tree"), "edited");
    }

    #[test]
    fn the_address_is_told_where_a_client_would_not_find_it() {
        let mut config = Config::default();
        config.thrift.unix = "/tmp/a b.sock".into();
        assert_eq!(variable(&config), "ROSTER_ADDRESS='unix:///tmp/a b.sock' ");
        config.thrift.unix = PathBuf::new();
        assert_eq!(variable(&config), "ROSTER_ADDRESS=127.0.0.1:9090 ");
    }

    #[test]
    fn what_is_taken_is_put_elsewhere_and_told() {
        let folder = tempfile::tempdir().expect("a folder");
        let other = TcpListener::bind("127.0.0.1:0").expect("a port");
        let taken = other.local_addr().expect("an address").to_string();
        let socket = folder.path().join("roster.sock");
        let _sidecar = std::os::unix::net::UnixListener::bind(&socket).expect("a socket");
        let mut config = Config::default();
        (config.thrift.tcp, config.thrift.unix) = (taken.clone(), socket.clone());
        config.register.listen = String::new();
        config.worker = vec![roster::worker::Config { listen: vec![format!("tcp://{taken}")], ..Default::default() }];
        let moved = avoid_taken(&mut config).expect("free places");
        assert!(config.thrift.tcp != taken && moved[0].contains(&config.thrift.tcp), "{moved:?}");
        assert!(config.thrift.unix != socket && config.register.listen.is_empty(), "{moved:?}");
        let [web] = config.worker[0].listen.as_slice() else { panic!("one socket") };
        assert!(web.strip_prefix("tcp://").is_some_and(|web| web != taken && moved[1].contains(web)), "{moved:?}");
        assert_eq!(moved.len(), 3);
        (config.thrift.tcp, config.thrift.unix) = ("127.0.0.1:0".into(), folder.path().join("free.sock"));
        assert!(avoid_taken(&mut config).expect("free places").is_empty());
    }
}
