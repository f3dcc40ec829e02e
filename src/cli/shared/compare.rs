//! Compares a shared file with its sidecar at one revision.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::slice;
use std::time::{Duration, Instant};

use roster::model::{NodePath, counted, view};
use roster::store::shared::{Checked, Contents, Reader};
use roster::thrift::client::{Client, Error};
use roster::thrift::idl::{Master, Node, ServiceQuery};

use crate::cli::connection::Connection;
use crate::cli::tree::{self, Tree};

/// How long to wait before the next attempt to find both at one revision.
const PAUSE: Duration = Duration::from_millis(20);

/// The result of a comparison.
#[derive(Debug)]
pub(super) enum Comparison {
    NotAsked,
    /// The sidecar does not answer, or does not know anything yet.
    Unanswered(String),
    /// One that was named does not answer.
    Failed(anyhow::Error),
    /// The two were never at the same revision.
    Apart,
    /// The file stayed at a revision that is not the sidecar's all the time.
    Stuck(String),
    At {
        revision: i64,
        differences: Vec<String>,
    },
}

impl Comparison {
    /// Whether a comparison was requested and failed.
    pub(super) fn is_wanting(&self) -> bool {
        matches!(self, Comparison::Unanswered(_) | Comparison::Apart)
    }

    pub(super) fn differences(&self) -> &[String] {
        match self {
            Comparison::At { differences, .. } => differences,
            Comparison::Stuck(why) => slice::from_ref(why),
            _ => &[],
        }
    }
}

impl fmt::Display for Comparison {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Comparison::NotAsked => f.write_str("not asked; --address names the one that writes this file"),
            Comparison::Unanswered(why) => write!(f, "not compared: {why}"),
            Comparison::Failed(why) => write!(f, "not compared: {why}"),
            Comparison::Stuck(_) => f.write_str("is at another revision"),
            Comparison::Apart => f.write_str("not compared: changes come faster than both can be read"),
            Comparison::At { revision, differences } if differences.is_empty() => {
                write!(f, "holds the same at revision {revision}")
            }
            Comparison::At { revision, differences } => {
                write!(f, "differs in {} at revision {revision}", counted(differences.len() as u64, "thing"))
            }
        }
    }
}

/// What a sidecar holds at one revision.
struct Live {
    revision: i64,
    nodes: Tree,
    masters: Vec<Master>,
}

/// Reads both until they have the same revision, for as long as the sidecar may take to answer. Finally, `checked` is
/// what was compared.
pub(super) fn compare(reader: &Reader, checked: &mut Checked, connection: Connection) -> anyhow::Result<Comparison> {
    let patience = Instant::now() + connection.timeout();
    let is_told = connection.is_told();
    let mut client = connection.client();
    let sees_all = match sees_all_masters(&mut client) {
        Ok(sees_all) => sees_all,
        Err(error) => return unanswered(error.into(), is_told),
    };
    let first = checked.contents.status.fresh.revision;
    loop {
        let live = match read(&mut client) {
            Ok(live) => live,
            Err(error) => return unanswered(error, is_told),
        };
        if let Some(live) = live {
            let is_of_live = |checked: &Checked| checked.contents.status.fresh.revision as i64 == live.revision;
            if !is_of_live(checked) {
                *checked = reader.check().map_err(super::unsound)?;
            }
            if is_of_live(checked) {
                let differences = differences(&checked.contents, &live, sees_all);
                if !differences.is_empty()
                    && let Err(error) = ask_for_hidden(&mut client, &checked.contents, &live)
                {
                    return unanswered(error.into(), is_told);
                }
                return Ok(Comparison::At { revision: live.revision, differences });
            }
        }
        if Instant::now() > patience {
            let last = reader.status().map_err(super::unsound)?.fresh.revision;
            if last != first {
                return Ok(Comparison::Apart);
            }
            let stuck = format!("the file stays at revision {last}: the sidecar's log says why it is not written");
            return Ok(Comparison::Stuck(stuck));
        }
        std::thread::sleep(PAUSE);
    }
}

/// The result if the sidecar does not answer, or not to this user.
fn unanswered(error: anyhow::Error, is_told: bool) -> anyhow::Result<Comparison> {
    match error.downcast_ref::<Error>() {
        Some(Error::NotReady(_) | Error::Denied(_)) => Ok(Comparison::Unanswered(error.to_string())),
        Some(_) if !is_told => Ok(Comparison::Unanswered(error.to_string())),
        _ => Ok(Comparison::Failed(error)),
    }
}

/// Whether the sidecar shows this user masters without services too: only then does it report how many there are.
fn sees_all_masters(client: &mut Client) -> Result<bool, Error> {
    Ok(client.status()?.counters.contains_key("masters"))
}

/// Asks by name for what the sidecar may have omitted from its lists: it refuses what this user may not see.
fn ask_for_hidden(client: &mut Client, contents: &Contents, live: &Live) -> Result<(), Error> {
    let or_missing = |error| if matches!(error, Error::NotFound(_)) { Ok(()) } else { Err(error) };
    for path in contents.nodes.keys().filter(|path| !live.nodes.contains_key(*path)) {
        client.get(path.as_str(), None).map(drop).or_else(or_missing)?;
    }
    for service in contents.services().filter_map(|(name, _)| name) {
        let query = ServiceQuery { service_name: Some(service.into()), limit: Some(1), ..ServiceQuery::default() };
        client.instances(query).map(drop).or_else(or_missing)?;
    }
    Ok(())
}

/// None: it changed meanwhile.
fn read(client: &mut Client) -> anyhow::Result<Option<Live>> {
    let (nodes, freshness) = tree::read(client, &NodePath::root(), None)?;
    let (mut masters, mut query) = (Vec::new(), ServiceQuery::default());
    loop {
        let page = client.masters(query.clone())?;
        if page.freshness.revision != freshness.revision {
            return Ok(None);
        }
        masters.extend(page.masters);
        match page.cursor {
            Some(cursor) => query.cursor = Some(cursor),
            None => return Ok(Some(Live { revision: freshness.revision, nodes, masters })),
        }
    }
}

fn differences(contents: &Contents, live: &Live, sees_all: bool) -> Vec<String> {
    let paths: BTreeSet<&NodePath> = contents.nodes.keys().chain(live.nodes.keys()).collect();
    let node = |path: &NodePath| {
        let filed = contents.nodes.get(path);
        let filed = filed.map(|node| Node::new(path.to_string(), node.data.to_vec(), node.stat.into()));
        differs(&format!("node {path}"), filed.as_ref(), live.nodes.get(path))
    };
    let mut found: Vec<String> = paths.into_iter().filter_map(node).collect();
    // The check reports those that cannot be read.
    let filed = contents.masters().filter_map(|json| serde_json::from_slice::<view::Master>(json).ok());
    let (mut filed, live) = (by_id(filed), by_id(live.masters.iter().cloned().map(Into::into)));
    filed.retain(|id, master| sees_all || !master.services.is_empty() || live.contains_key(id));
    let ids: BTreeSet<&String> = filed.keys().chain(live.keys()).collect();
    let master = |id: &String| differs(&format!("master {id:?}"), filed.get(id), live.get(id));
    found.extend(ids.into_iter().filter_map(master));
    found
}

/// Without the fields that only one of the two has.
fn by_id(masters: impl IntoIterator<Item = view::Master>) -> BTreeMap<String, view::Master> {
    let masters = masters.into_iter().map(|it| view::Master { outstanding: None, sources: Vec::new(), ..it });
    masters.map(|master| (master.id.clone(), master)).collect()
}

fn differs<T: PartialEq>(what: &str, filed: Option<&T>, live: Option<&T>) -> Option<String> {
    match (filed, live) {
        (Some(_), None) => Some(format!("{what} is in the file, and not in the sidecar")),
        (None, Some(_)) => Some(format!("{what} is in the sidecar, and not in the file")),
        (filed, live) if filed != live => Some(format!("{what} is another in the file than in the sidecar")),
        _ => None,
    }
}
