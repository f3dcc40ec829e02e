//! `roster diff`: how two shared files differ, or a shared file and the sidecar.

use std::collections::BTreeMap;
use std::io::{self, Write};
use std::path::PathBuf;

use clap::Args;
use roster::model::{NodePath, view};
use roster::thrift::idl::{Freshness, Instance, ServiceQuery};
use serde_json::{Map, Value, json};

use super::connection::Connection;
use super::file::SharedFile;
use super::known::Known;
use super::{Output, json, resolve, text};

/// Compare two shared files, or one with what the sidecar knows
///
/// One line each: `+` is only in the second, `-` only in the first, and `~` differs.
#[derive(Debug, Args)]
pub(crate) struct Diff {
    /// A shared file, for example an earlier copy or one from another host
    #[arg(value_name = "FILE")]
    first: PathBuf,
    /// The file to compare it with [default: what the sidecar knows]
    #[arg(value_name = "FILE")]
    second: Option<PathBuf>,
    /// Compare the nodes at and below this path instead of the instances of services
    #[arg(long, value_name = "PATH", value_parser = NodePath::parse)]
    nodes: Option<NodePath>,
    #[arg(short, long, value_enum, default_value_t = Output::Table)]
    output: Output,
    #[command(flatten)]
    connection: Connection,
}

/// What is compared, by name.
type State = BTreeMap<String, Map<String, Value>>;

impl Diff {
    pub(crate) fn run(self) -> anyhow::Result<()> {
        let first = Known::File(SharedFile::open(&self.first, None)?);
        let second = match &self.second {
            Some(path) => Known::File(SharedFile::open(path, None)?),
            None => Known::Sidecar { client: self.connection.client(), max_age: None },
        };
        let read = |known: Known| match &self.nodes {
            Some(root) => nodes(known, root),
            None => instances(known),
        };
        let ((old, first), (new, second)) = (read(first)?, read(second)?);
        match self.output {
            Output::Table => io::stdout().write_all(shown(&old, &new).as_bytes())?,
            Output::Json => json::print(&json!({
                "first": json::freshness(&first),
                "second": json::freshness(&second),
                "added": of(&new, |name| !old.contains_key(name)),
                "removed": of(&old, |name| !new.contains_key(name)),
                "changed": changed(&old, &new).map(|(name, old, new)| json!({ "name": name, "old": old, "new": new })).collect::<Vec<_>>(),
            }))?,
        }
        Ok(())
    }
}

/// The instances of all services, by service, version, address and group.
fn instances(mut known: Known) -> anyhow::Result<(State, Freshness)> {
    let listed = known.services(Vec::new())?;
    let mut state = State::new();
    for service in listed.services.iter().filter(|service| !service.masters.is_empty()) {
        for instance in known.instances(&service.name, ServiceQuery::default())?.instances {
            let address = resolve::address(&instance);
            let words = [&*service.name, &*instance.version, &*address, &*instance.group];
            let name: Vec<_> = words.into_iter().filter(|word| !word.is_empty()).collect();
            state.insert(name.join(" "), compared(instance));
        }
    }
    Ok((state, listed.freshness))
}

/// The fields that stay the same as long as the registration does.
fn compared(instance: Instance) -> Map<String, Value> {
    let Value::Object(mut fields) = json!(view::Instance::from(instance)) else { return Map::new() };
    fields.retain(|name, _| !matches!(name.as_str(), "outstanding" | "provenance"));
    fields
}

fn nodes(mut known: Known, root: &NodePath) -> anyhow::Result<(State, Freshness)> {
    let (tree, freshness) = known.subtree(root)?;
    let compared = |node| {
        let mut fields = json::node(node);
        // Some of these change with each child, and another host's shared file may lack them.
        if let Some(stat) = fields.get_mut("stat").and_then(Value::as_object_mut) {
            stat.retain(|name, _| matches!(name.as_str(), "version" | "czxid" | "mzxid" | "ephemeralOwner"));
        }
        fields
    };
    Ok((tree.iter().map(|(path, node)| (path.to_string(), compared(node))).collect(), freshness))
}

fn of(state: &State, is_one: impl Fn(&str) -> bool) -> Vec<Value> {
    let those = state.iter().filter(|(name, _)| is_one(name));
    those.map(|(name, fields)| json!({ "name": name, "is": fields })).collect()
}

fn changed<'s>(
    old: &'s State,
    new: &'s State,
) -> impl Iterator<Item = (&'s String, &'s Map<String, Value>, &'s Map<String, Value>)> {
    let both = old.iter().filter_map(|(name, old)| Some((name, old, new.get(name)?)));
    both.filter(|(_, old, new)| old != new)
}

fn shown(old: &State, new: &State) -> String {
    let mut lines: Vec<(&String, String)> = Vec::new();
    let alone = |of: &'_ State, other: &State, mark: char| -> Vec<(String, String)> {
        let names = of.keys().filter(|name| !other.contains_key(*name));
        names.map(|name| (name.clone(), format!("{mark} {}", text::line(name)))).collect()
    };
    let (removed, added) = (alone(old, new, '-'), alone(new, old, '+'));
    lines.extend(removed.iter().chain(&added).map(|(name, line)| (name, line.clone())));
    lines.extend(changed(old, new).map(|(name, old, new)| {
        let words = words(old, new).join(", ");
        (name, format!("~ {}: {}", text::line(name), text::line(&words)))
    }));
    lines.sort();
    lines.into_iter().map(|(_, line)| line + "\n").collect()
}

/// The fields that differ: short ones with their values.
fn words(old: &Map<String, Value>, new: &Map<String, Value>) -> Vec<String> {
    let names = old.keys().chain(new.keys().filter(|name| !old.contains_key(*name)));
    let other = names.filter(|name| old.get(*name) != new.get(*name));
    let value = |fields: &Map<String, Value>, name: &str| match fields.get(name) {
        None => Some("none".to_owned()),
        Some(Value::String(text)) if text.len() <= 40 => Some(text.clone()),
        Some(Value::Number(number)) => Some(number.to_string()),
        _ => None,
    };
    other
        .map(|name| match (value(old, name), value(new, name)) {
            (Some(old), Some(new)) => format!("{name} {old} → {new}"),
            _ => name.clone(),
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_in_one_alone_and_what_is_another_is_told_in_the_order_of_the_names() {
        let of = |fields: Value| fields.as_object().expect("fields").clone();
        let state = |all: &[(&str, Value)]| all.iter().map(|(name, it)| ((*name).to_owned(), of(it.clone()))).collect();
        let old: State = state(&[("a", json!({})), ("b", json!({ "weight": 1, "metadata": {} })), ("d", json!({}))]);
        let new: State = state(&[
            ("b", json!({ "weight": 2, "metadata": { "x": 1 }, "zone": "z" })),
            ("c\u{1b}", json!({})),
            ("d", json!({})),
        ]);
        let told = "- a\n~ b: weight 1 → 2, metadata, zone none → z\n+ c\\u{1b}\n";
        assert_eq!(shown(&old, &new), told);
        assert_eq!(shown(&new, &new), "");
    }
}
