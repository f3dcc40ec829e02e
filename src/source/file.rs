//! A static file of coordination nodes, read again when it is edited.

use std::collections::BTreeMap;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::slice;
use std::sync::Arc;
use std::time::Duration;

use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use serde::{Deserialize, Serialize};

use super::{Generation, difference};
use crate::clock::Moment;
use crate::model::{Node, NodePath, PathError, Stat};
use crate::secret;
use crate::store::{Batch, Feed, FeedState, Identity, Proof, Publisher};
use crate::task::{Reload, Stop};

/// How often to check the file. (Watching its folder would be possible, but what an edit looks like differs by editor,
/// file system and symbolic link, while `stat` always works.)
const LOOK: Duration = Duration::from_millis(500);

/// `[[file]]`.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Config {
    /// Its name in status and logs.
    pub name: String,
    /// Required: the file, a table `[nodes]` from paths to their data.
    #[serde(deserialize_with = "crate::rule::path")]
    pub path: PathBuf,
    /// The subtree that belongs to the file; all its nodes must lie in it.
    pub root: NodePath,
}

impl Default for Config {
    fn default() -> Self {
        Self { name: "file".into(), path: PathBuf::new(), root: NodePath::root() }
    }
}

impl Config {
    pub(crate) fn feed(&self) -> Feed {
        let identity = Identity::new(self.path.display().to_string());
        Feed::of_nodes(&self.name, "file", vec![self.root.clone()]).of(identity)
    }

    /// Why a start would get no nodes from the file.
    pub(crate) fn check(&self) -> Result<(), FileError> {
        load(self).map(drop)
    }
}

/// Why a file is refused. What was read from it before is kept.
#[derive(Debug, thiserror::Error)]
pub(crate) enum FileError {
    #[error("cannot read {path}: {source}")]
    Read { path: PathBuf, source: io::Error },
    #[error("{path}:{line}: this is no tree of nodes: {message}")]
    Toml { path: PathBuf, line: usize, message: String },
    #[error("{file}: `{node}`: {source}")]
    Path { file: PathBuf, node: String, source: PathError },
    #[error("{file}: `{node}` lies outside the file's root {root}")]
    Outside { file: PathBuf, node: NodePath, root: NodePath },
    #[error("{file}: the base64 of `{node}`: {source}")]
    Base64 { file: PathBuf, node: String, source: base64::DecodeError },
}

/// The format of the file.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Tree {
    nodes: BTreeMap<String, Data>,
}

#[derive(Deserialize)]
#[serde(untagged, expecting = "the data of a node is a text in quotes, or { base64 = \"…\" }")]
enum Data {
    Text(String),
    Bytes { base64: String },
}

/// Identifies a version of the file: device and inode, length, and time of change.
type Mark = (u64, u64, i64, i64);

/// Keeps the store in sync with the file, until the stop.
pub async fn run(config: Config, publisher: Publisher, mut reload: Reload, stop: Stop) {
    let mut read = None;
    loop {
        let looked = Moment::now();
        let mark = mark(&config.path);
        match (&mark, &read) {
            (Ok(mark), Some(read)) if mark == read => {
                if publisher.feed().state() == FeedState::Live {
                    publisher.feed().prove(looked);
                }
            }
            _ => {
                take(&config, &publisher, looked);
                read = mark.ok();
            }
        }
        tokio::select! {
            () = tokio::time::sleep(LOOK) => {}
            () = reload.requested() => read = None,
            () = stop.requested() => return,
        }
    }
}

/// Publishes the current content of the file, or reports why not.
fn take(config: &Config, publisher: &Publisher, looked: Moment) {
    let feed = publisher.feed();
    match load(config) {
        Ok(fresh) => {
            let nodes = fresh.len();
            let changes = difference(&publisher.snapshot(), slice::from_ref(&config.root), fresh);
            tracing::info!(source = feed.name(), nodes, changes = changes.len(), "read the file");
            publisher.publish(Batch { proof: Some(Proof::Seen(looked)), ..Batch::whole(changes) });
            feed.enter(FeedState::Live, "");
        }
        Err(error) => {
            if feed.enter(FeedState::Down, error.to_string()) {
                tracing::warn!(source = feed.name(), %error, "cannot take the file; what it said before stands");
            }
        }
    }
}

fn mark(path: &Path) -> io::Result<Mark> {
    let file = std::fs::metadata(path)?;
    Ok((file.ino(), file.len(), file.mtime(), file.mtime_nsec()))
}

fn load(config: &Config) -> Result<Generation, FileError> {
    let file = || config.path.clone();
    let text = secret::open(&config.path)
        .and_then(io::read_to_string)
        .map_err(|source| FileError::Read { path: file(), source })?;
    let tree: Tree = toml::from_str(&text).map_err(|error| {
        let line = text[..error.span().map_or(text.len(), |span| span.start)].matches('\n').count() + 1;
        FileError::Toml { path: file(), line, message: error.message().to_owned() }
    })?;
    let mut generation = Generation::new();
    for (node, data) in tree.nodes {
        let path = match NodePath::parse(&node) {
            Ok(path) => path,
            Err(source) => return Err(FileError::Path { file: file(), node, source }),
        };
        if !path.is_under(&config.root) {
            return Err(FileError::Outside { file: file(), node: path, root: config.root.clone() });
        }
        let data = match data {
            Data::Text(text) => text.into_bytes(),
            Data::Bytes { base64 } => match BASE64_STANDARD.decode(base64) {
                Ok(bytes) => bytes,
                Err(source) => return Err(FileError::Base64 { file: file(), node, source }),
            },
        };
        generation.insert(path, Arc::new(Node { data: data.into(), stat: Stat::default() }));
    }
    Ok(with_parents(generation, &config.root))
}

/// Adds missing parents, as in ZooKeeper, and counts the children of each.
fn with_parents(mut generation: Generation, root: &NodePath) -> Generation {
    let named: Vec<NodePath> = generation.keys().cloned().collect();
    for path in named {
        let mut above = path.parent().filter(|parent| parent.is_under(root));
        while let Some(parent) = above {
            above = parent.parent().filter(|parent| parent.is_under(root));
            generation.entry(parent).or_default();
        }
    }
    let mut children: BTreeMap<NodePath, i32> = BTreeMap::new();
    for parent in generation.keys().filter_map(NodePath::parent) {
        *children.entry(parent).or_default() += 1;
    }
    for (path, node) in &mut generation {
        Arc::make_mut(node).stat.num_children = children.get(path).copied().unwrap_or(0);
    }
    generation
}

#[cfg(test)]
mod tests {
    use super::*;

    fn loaded(text: &str) -> Result<Generation, String> {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("tree.toml");
        std::fs::write(&path, text).expect("written");
        let root = NodePath::parse("/app").expect("a path");
        load(&Config { name: "file".into(), path, root })
            .map_err(|error| error.to_string().replace(&format!("{}/", folder.path().display()), ""))
    }

    #[test]
    fn a_file_is_a_tree_with_the_parents_it_does_not_name() {
        let tree = loaded("[nodes]\n'/app/a/b' = 'text'\n'/app/a/c' = { base64 = '/wA=' }").expect("a tree");
        let nodes: Vec<_> =
            tree.iter().map(|(path, node)| (path.as_str(), &node.data[..], node.stat.num_children)).collect();
        assert_eq!(
            nodes,
            [("/app", &b""[..], 1), ("/app/a", b"", 2), ("/app/a/b", b"text", 0), ("/app/a/c", b"\xff\0", 0)]
        );
    }

    #[test]
    fn a_pipe_in_place_of_the_file_is_not_waited_for() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("tree.toml");
        nix::unistd::mkfifo(&path, nix::sys::stat::Mode::S_IRWXU).expect("a pipe");
        let why = load(&Config { name: "file".into(), path, root: NodePath::root() }).expect_err("it is no file");
        assert!(why.to_string().contains("it is no regular file, but a pipe"), "{why}");
    }

    #[test]
    fn what_is_wrong_is_named() {
        for (text, why) in [
            ("[nodes]\n'/app/' = ''", "tree.toml: `/app/`: a path does not end with '/'"),
            ("[nodes]\n'/other' = ''", "tree.toml: `/other` lies outside the file's root /app"),
            ("[nodes]\n'/app' = { base64 = '!' }", "tree.toml: the base64 of `/app`: Invalid symbol 33, offset 0."),
            (
                "[nodes]\n'/app' = x",
                "tree.toml:2: this is no tree of nodes: string values must be quoted, expected literal string",
            ),
            ("\nnodes = 1", "tree.toml:2: this is no tree of nodes: invalid type: integer `1`, expected a map"),
        ] {
            assert_eq!(loaded(text), Err(why.to_owned()));
        }
    }
}
