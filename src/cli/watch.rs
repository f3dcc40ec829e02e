//! `roster watch`: the present state, then every change, also across a restart of the sidecar.

use std::convert::Infallible;
use std::io::{self, Write};
use std::time::{Duration, SystemTime};

use clap::Args;
use roster::model::NodePath;
use roster::task::Backoff;
use roster::thrift::client::{Client, Error};
use roster::thrift::idl::{Node, SubtreeReply};
use serde_json::{Value, json};

use super::connection::Connection;
use super::{Output, json, text};

/// Print the present state, then every change, until interrupted
///
/// Where the sidecar no longer knows what changed, or breaks off while it tells the present state, a line RESET says
/// so, and the present state follows anew. JSON is one object a line. A sidecar that goes away is waited for.
#[derive(Debug, Args)]
pub(crate) struct Watch {
    /// What to watch, with all below it; nothing: everything
    #[arg(value_parser = NodePath::parse)]
    paths: Vec<NodePath>,
    #[arg(short, long, value_enum, default_value_t = Output::Table)]
    output: Output,
    #[command(flatten)]
    connection: Connection,
}

/// How long one call waits for changes.
const POLL: Duration = Duration::from_secs(25);

impl Watch {
    pub(crate) fn run(self) -> anyhow::Result<()> {
        let mut follower = Follower::new(self.connection.client(), self.paths, self.output, io::stdout().lock());
        match follower.follow()? {}
    }
}

struct Follower<Out> {
    client: Client,
    paths: Vec<NodePath>,
    output: Output,
    out: Out,
    /// The revision up to which everything is told; None: the present state comes next.
    since: Option<i64>,
    /// Whether nodes were told since the start or the last RESET.
    begun: bool,
    /// Whether a sidecar has ever answered: from then on it is waited for.
    met: bool,
    /// What was said since the last answer.
    told: Option<&'static str>,
}

impl<Out: Write> Follower<Out> {
    fn new(client: Client, paths: Vec<NodePath>, output: Output, out: Out) -> Self {
        Self { client, paths, output, out, since: None, begun: false, met: false, told: None }
    }

    fn follow(&mut self) -> anyhow::Result<Infallible> {
        let mut backoff = Backoff::new(Duration::from_millis(100), Duration::from_secs(2));
        loop {
            match self.step() {
                Ok(()) => {
                    if self.told.take().is_some() {
                        eprintln!("roster: following again");
                    }
                    backoff.reset();
                }
                Err(error) => {
                    self.wait(error)?;
                    std::thread::sleep(backoff.delay());
                }
            }
        }
    }

    fn step(&mut self) -> anyhow::Result<()> {
        match self.since {
            None => self.tell_present(),
            Some(since) => self.tell_changes(since),
        }?;
        Ok(self.out.flush()?)
    }

    /// What is told twice by this, since a later page may be newer than the first, is told in its order. Nothing is
    /// told before each of the paths can be.
    fn tell_present(&mut self) -> anyhow::Result<()> {
        let roots = if self.paths.is_empty() { vec![NodePath::root()] } else { self.paths.clone() };
        let mut pages = Vec::new();
        for root in &roots {
            pages.push(self.client.subtree(root.as_str(), String::new(), None)?);
            self.met = true;
        }
        let first = pages[0].freshness.revision;
        if self.begun {
            self.tell_reset(first)?;
        }
        for (root, mut page) in roots.iter().zip(pages) {
            self.tell_page(&page)?;
            while let Some(from) = page.cursor {
                page = self.client.subtree(root.as_str(), from, None)?;
                self.tell_page(&page)?;
            }
        }
        self.since = Some(first);
        Ok(())
    }

    fn tell_page(&mut self, page: &SubtreeReply) -> io::Result<()> {
        self.begun |= !page.nodes.is_empty();
        page.nodes.iter().try_for_each(|node| self.tell(page.freshness.revision, "PRESENT", &node.path, Some(node)))
    }

    fn tell_reset(&mut self, revision: i64) -> io::Result<()> {
        self.begun = false;
        self.tell(revision, "RESET", "", None)
    }

    fn tell_changes(&mut self, since: i64) -> anyhow::Result<()> {
        let paths = self.paths.iter().map(NodePath::to_string).collect();
        let reply = self.client.watch(since, paths, POLL)?;
        let revision = reply.freshness.revision;
        if reply.reset {
            self.since = None;
            return Ok(self.tell_reset(revision)?);
        }
        for change in &reply.changes {
            self.tell(revision, &json::change_kind(change.kind), &change.path, change.node.as_ref())?;
        }
        self.since = Some(revision);
        Ok(())
    }

    fn tell(&mut self, revision: i64, kind: &str, path: &str, node: Option<&Node>) -> io::Result<()> {
        match self.output {
            Output::Json => writeln!(self.out, "{}", object(revision, kind, path, node)),
            Output::Table => writeln!(self.out, "{}", line(SystemTime::now(), kind, path, node)),
        }
    }

    /// Says once what is waited for. An error that waiting cannot mend is handed back.
    fn wait(&mut self, error: anyhow::Error) -> anyhow::Result<()> {
        let Some(reason) = error.downcast_ref::<Error>() else {
            return Err(error);
        };
        let consequence = match reason {
            Error::NotReady(_) => "trying again",
            Error::Invalid(_) => return Err(error),
            _ if !self.met => return Err(error),
            _ => "waiting for the sidecar to return",
        };
        self.met = true;
        if self.told.replace(consequence) != Some(consequence) {
            eprintln!("roster: {reason}; {consequence}");
        }
        Ok(())
    }
}

fn object(revision: i64, kind: &str, path: &str, node: Option<&Node>) -> Value {
    let mut object = json!({ "revision": revision, "kind": kind });
    let fields = object.as_object_mut().expect("it was made one");
    match node {
        Some(node) => fields.extend(json::node(node)),
        None if path.is_empty() => {}
        None => _ = fields.insert("path".into(), path.into()),
    }
    object
}

fn line(now: SystemTime, kind: &str, path: &str, node: Option<&Node>) -> String {
    let data = node.map(|node| text::preview(&node.data)).unwrap_or_default();
    let path = text::printable(path.as_bytes());
    format!("{} {kind:<7} {path} {data}", humantime::format_rfc3339_millis(now)).trim_end().to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;
    use roster::net::Address;
    use roster::thrift::idl::*;
    use std::collections::VecDeque;
    use std::net::TcpListener;
    use std::sync::{Arc, Mutex};
    use thrift::protocol::{TBinaryInputProtocol, TBinaryOutputProtocol};
    use thrift::server::TProcessor;

    type Pages = VecDeque<thrift::Result<SubtreeReply>>;

    /// Its revisions are 5, 6 and 7; what was before 9 it has forgotten at 7. It lists these pages, then a whole one.
    #[derive(Clone)]
    struct Sidecar(Arc<Mutex<Pages>>);

    fn node(data: &str) -> Node {
        Node::new("/a".into(), data.into(), Stat::new(0, 0, 0, 0, 0, 0, 0, 0))
    }

    fn page(data: &str, cursor: Option<&str>) -> SubtreeReply {
        SubtreeReply::new(vec![node(data)], cursor.map(str::to_owned), at(5))
    }

    fn at(revision: i64) -> Freshness {
        Freshness::new(revision, 0, Origin::LIVE, true)
    }

    impl RosterSyncHandler for Sidecar {
        fn handle_subtree(&self, _: String, _: i32, _: String, _: ReadOptions) -> thrift::Result<SubtreeReply> {
            self.0.lock().expect("no panic").pop_front().unwrap_or_else(|| Ok(page("now", None)))
        }

        fn handle_watch(&self, since: i64, paths: Vec<String>, _: i32, _: i32) -> thrift::Result<WatchReply> {
            assert_eq!(paths[0], "/a");
            let change = match since {
                5 => Change::new("/a".into(), ChangeKind::CHANGED, node("newer")),
                6 => Change::new("/a".into(), ChangeKind::DELETED, None),
                _ => return Ok(WatchReply::new(vec![], true, at(9))),
            };
            Ok(WatchReply::new(vec![change], false, at(since + 1)))
        }

        fn handle_get(&self, _: String, _: ReadOptions) -> thrift::Result<NodeReply> {
            Err("not asked".into())
        }

        fn handle_get_many(&self, _: Vec<String>, _: ReadOptions) -> thrift::Result<NodesReply> {
            Err("not asked".into())
        }

        fn handle_children(&self, _: String, _: ReadOptions) -> thrift::Result<ChildrenReply> {
            Err("not asked".into())
        }

        fn handle_status(&self) -> thrift::Result<StatusReply> {
            Err("not asked".into())
        }
    }

    /// A sidecar that goes away after so many answers.
    fn fickle_sidecar(answers: usize, pages: Pages) -> Address {
        let sidecar = Sidecar(Arc::new(Mutex::new(pages)));
        let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
        let address = Address::Tcp(listener.local_addr().expect("an address").to_string());
        std::thread::spawn(move || {
            for stream in listener.incoming() {
                let stream = stream.expect("a connection");
                let mut input = TBinaryInputProtocol::new(stream.try_clone().expect("a handle"), true);
                let mut output = TBinaryOutputProtocol::new(stream, true);
                let processor = RosterSyncProcessor::new(sidecar.clone());
                let _ = (0..answers).try_for_each(|_| processor.process(&mut input, &mut output));
            }
        });
        address
    }

    /// The kinds and data of the first lines of a watch.
    fn told(paths: &[&str], sidecar: Address, lines: usize) -> Vec<String> {
        let client = Client::new(sidecar, Duration::from_secs(5));
        let paths = paths.iter().map(|path| NodePath::parse(path).expect("a path")).collect();
        let mut follower = Follower::new(client, paths, Output::Json, Reader(vec![String::new()], lines));
        follower.follow().expect_err("the reader left").downcast::<io::Error>().expect("an error of output");
        let told = |line: &String| {
            let line: Value = serde_json::from_str(line).expect("JSON");
            format!("{} {}", line["kind"].as_str().unwrap_or("?"), line["data"].as_str().unwrap_or("-"))
        };
        follower.out.0[..lines].iter().map(told).collect()
    }

    /// A reader that leaves after so many lines.
    struct Reader(Vec<String>, usize);

    impl Write for Reader {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            if self.0.len() > self.1 {
                return Err(io::ErrorKind::BrokenPipe.into());
            }
            for part in std::str::from_utf8(bytes).expect("text").split_inclusive('\n') {
                let last = self.0.last_mut().expect("a line");
                last.push_str(part.trim_end_matches('\n'));
                if part.ends_with('\n') {
                    self.0.push(String::new());
                }
            }
            Ok(bytes.len())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn a_watch_goes_on_where_it_was_after_each_break_and_starts_over_after_a_reset() {
        let client = Client::new(fickle_sidecar(1, Pages::new()), Duration::from_secs(5));
        let paths = vec![NodePath::parse("/a").expect("a path")];
        let mut follower = Follower::new(client, paths, Output::Json, Reader(vec![String::new()], 5));
        let ended = follower.follow().expect_err("the reader left");
        assert_eq!(ended.downcast::<io::Error>().expect("an error of output").kind(), io::ErrorKind::BrokenPipe);
        let stat = r#""stat":{"version":0,"czxid":0,"mzxid":0,"pzxid":0,"ctime":0,"mtime":0,"ephemeralOwner":0,"numChildren":0}"#;
        assert_eq!(
            follower.out.0[..5],
            [
                format!(r#"{{"revision":5,"kind":"PRESENT","path":"/a","data":"now",{stat}}}"#),
                format!(r#"{{"revision":6,"kind":"CHANGED","path":"/a","data":"newer",{stat}}}"#),
                r#"{"revision":7,"kind":"DELETED","path":"/a"}"#.into(),
                r#"{"revision":9,"kind":"RESET"}"#.into(),
                format!(r#"{{"revision":5,"kind":"PRESENT","path":"/a","data":"now",{stat}}}"#),
            ]
        );
    }

    #[test]
    fn a_listing_that_broke_off_begins_again_after_a_reset_also_the_very_first() {
        let pages = Pages::from([Ok(page("gone", Some("/a"))), Ok(page("present", None))]);
        assert_eq!(
            told(&["/a"], fickle_sidecar(1, pages), 4),
            ["PRESENT gone", "RESET -", "PRESENT present", "CHANGED newer"]
        );
    }

    #[test]
    fn nothing_is_told_before_all_paths_can_be() {
        let later = NotReady::new("other".into(), "connecting".into());
        let pages = Pages::from([Ok(page("one", None)), Err(later.into())]);
        assert_eq!(told(&["/a", "/z"], fickle_sidecar(9, pages), 3), ["PRESENT now", "PRESENT now", "CHANGED newer"]);
    }

    #[test]
    fn a_sidecar_that_was_never_there_is_not_waited_for() {
        let nowhere = Address::Unix("/nonexistent/socket".into());
        let client = Client::new(nowhere, Duration::from_secs(5));
        let error = Follower::new(client, vec![], Output::Table, io::sink()).follow().expect_err("nobody there");
        assert!(matches!(error.downcast_ref(), Some(Error::Unreachable { .. })));
    }
}
