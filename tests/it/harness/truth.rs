//! The truth: everything read afresh from ZooKeeper, and how a copy differs from it.

use std::collections::BTreeMap;

use zookeeper_client::{Client, Error, MultiReadResult};

use super::{SOON, Zk, eventually};
use crate::idl::{Node, Stat};

/// Nodes by their paths.
pub(crate) type Tree = BTreeMap<String, Node>;

impl Zk {
    /// Everything at and below `root` that may be read.
    pub(crate) fn read_all(&self, root: &str) -> Tree {
        // On a busy machine a session may break.
        eventually("everything is read", SOON, || self.attempt(async |client| read_all(client, root).await))
    }
}

async fn read_all(client: &Client, root: &str) -> Result<Tree, Error> {
    /// Its figures change without an event, so that it is not mirrored.
    const QUOTAS: &str = "/zookeeper/quota";
    let mut tree = Tree::new();
    let mut level = vec![root.to_owned()];
    while !level.is_empty() {
        let mut below = Vec::new();
        for paths in level.chunks(500) {
            let mut reader = client.new_multi_reader();
            for path in paths {
                reader.add_get_data(path)?;
                reader.add_get_children(path)?;
            }
            for (path, found) in paths.iter().zip(reader.commit().await?.chunks(2)) {
                if let [MultiReadResult::Data { data, stat }, MultiReadResult::Children { children }] = found {
                    tree.insert(path.clone(), Node::new(path.clone(), data.clone(), told(stat)));
                    let base = if path == "/" { "" } else { path };
                    below.extend(children.iter().map(|name| format!("{base}/{name}")).filter(|path| path != QUOTAS));
                }
            }
        }
        level = below;
    }
    Ok(tree)
}

fn told(stat: &zookeeper_client::Stat) -> Stat {
    Stat {
        version: stat.version,
        czxid: stat.czxid,
        mzxid: stat.mzxid,
        pzxid: stat.pzxid,
        ctime: stat.ctime,
        mtime: stat.mtime,
        ephemeral_owner: stat.ephemeral_owner,
        num_children: stat.num_children,
    }
}

/// `Err` with the first difference.
pub(crate) fn difference(who: &str, copy: &Tree, truth: &Tree) -> Result<(), String> {
    let of = format!("{who} has {} nodes of {}", copy.len(), truth.len());
    for (path, node) in truth {
        match copy.get(path) {
            None => return Err(format!("{of}; {path} is missing")),
            Some(other) if other.data != node.data => return Err(format!("{of}; {path} has other data")),
            Some(other) if other != node => return Err(format!("{of}; {path}: {:?}, not {:?}", other.stat, node.stat)),
            Some(_) => {}
        }
    }
    match copy.keys().find(|path| !truth.contains_key(*path)) {
        Some(ghost) => Err(format!("{of}; {ghost} should be gone")),
        None => Ok(()),
    }
}
