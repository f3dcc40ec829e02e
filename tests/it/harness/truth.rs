//! The truth: everything read afresh from ZooKeeper, and how a copy differs from it.

use std::collections::BTreeMap;

use zookeeper_client::{Client, Error, MultiReadResult};

use super::release::{MULTI_READS, release};
use super::{SOON, Zk, eventually};
use crate::idl::{Node, Stat};

/// How many nodes are read in one request: with names of 300 bytes still fewer than 64 KiB, the least that a server
/// takes.
const AT_ONCE: usize = 90;

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
        for paths in level.chunks(AT_ONCE) {
            let read =
                if release() < MULTI_READS { read_singly(client, paths).await? } else { read(client, paths).await? };
            for (path, data, stat, children) in read {
                let base = if path == "/" { "" } else { &path };
                below.extend(children.iter().map(|name| format!("{base}/{name}")).filter(|path| path != QUOTAS));
                tree.insert(path.clone(), Node::new(path, data, told(&stat)));
            }
        }
        level = below;
    }
    Ok(tree)
}

/// A node: its path, data, stat and the names of its children.
type Read = (String, Vec<u8>, zookeeper_client::Stat, Vec<String>);

async fn read(client: &Client, paths: &[String]) -> Result<Vec<Read>, Error> {
    let mut reader = client.new_multi_reader();
    for path in paths {
        reader.add_get_data(path)?;
        reader.add_get_children(path)?;
    }
    let found = reader.commit().await?;
    let read = paths.iter().zip(found.chunks(2)).filter_map(|(path, found)| match found {
        [MultiReadResult::Data { data, stat }, MultiReadResult::Children { children }] => {
            Some((path.clone(), data.clone(), *stat, children.clone()))
        }
        _ => None,
    });
    Ok(read.collect())
}

async fn read_singly(client: &Client, paths: &[String]) -> Result<Vec<Read>, Error> {
    let both = |path: &String| {
        let (data, children) = (client.get_data(path), client.list_children(path));
        let path = path.clone();
        async move {
            match futures::future::join(data, children).await {
                (Ok((data, stat)), Ok(children)) => Ok(Some((path, data, stat, children))),
                (Err(Error::NoNode | Error::NoAuth), _) | (_, Err(Error::NoNode | Error::NoAuth)) => Ok(None),
                (Err(error), _) | (_, Err(error)) => Err(error),
            }
        }
    };
    let read = futures::future::try_join_all(paths.iter().map(both)).await?;
    Ok(read.into_iter().flatten().collect())
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
