//! Comparing: what happened to instances between two snapshots, and why, as far as the snapshots show.

use std::cell::LazyCell;
use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::Arc;
use std::time::SystemTime;

use rmpv::ValueRef;

use super::entry::{Entry, Event};
use super::owners::{Lost, Owners};
use crate::clock::millis_since_1970;
use crate::model::{Held, Instance, InstanceState, NodePath, Record, Withholding, counted, utc};
use crate::store::{Feed, FeedProgress, Provider, ProviderChange, Snapshot};

/// How many names of changed metadata an entry lists.
const MAX_NAMES: usize = 8;

/// The longest value of changed metadata that an entry shows.
const MAX_VALUE_CHARS: usize = 40;

/// Of what vanished when a source was read anew.
const OLDER: &str = "its newest change is older than before: the ensemble may have lost its data";
const NOTHING_LEFT: &str = "nothing is left below its roots: they were deleted, or the ensemble may have lost its data";

/// Two snapshots, and the sessions whose nodes disappeared from one to the other.
pub(super) struct Comparison<'a> {
    pub(super) old: &'a Snapshot,
    pub(super) new: &'a Snapshot,
    pub(super) owners: &'a Owners,
    pub(super) lost: &'a Lost,
}

/// Takes an event and its reason, which is only computed if it is recorded.
type Tell<'t> = &'t mut dyn FnMut(Event, &dyn Fn() -> String);

impl Comparison<'_> {
    /// What happened to instances, without the time. What a source held when first known as a whole is only counted.
    /// Before anything is made of an entry, it is asked whether there may be one more of its root and service.
    pub(super) fn entries(&self, mut allows: impl FnMut(&str, &str) -> bool) -> Vec<Entry> {
        let newcomers = self.sources(|old, new| new.whole && !old.whole);
        let reread = self.sources(|old, new| old.whole && new.generation != old.generation);
        let older = LazyCell::new(|| self.older_than_before(&reread));
        let mut read: BTreeMap<&str, (u64, HashSet<Arc<str>>)> = BTreeMap::new();
        newcomers.iter().for_each(|source| drop(read.insert(source, Default::default())));
        let undecodable = self.old.directory().newly_undecodable(self.new.directory());
        let (mut undecodable, mut entries): (BTreeMap<_, _>, _) = (undecodable.collect(), Vec::new());
        self.old.directory().changed_providers(
            self.new.directory(),
            |ProviderChange { service, version, old, new }| {
                let (before, after) = (old.and_then(first), new.and_then(first));
                let id = old.map_or("", |provider| &*provider.id);
                let Some(instance) = after.or(before) else { return };
                let (source, path) = origin(instance);
                let root = path.and_then(|path| root_of(self.new, path)).unwrap_or_default();
                if before.is_none()
                    && let Some((count, services)) = read.get_mut(source)
                {
                    *count += 1;
                    services.insert(service.clone());
                    return;
                }
                let mut tell = |event: Event, why: &dyn Fn() -> String| {
                    let is_of_source =
                        matches!(event, Event::Appeared | Event::Changed | Event::Vanished | Event::Held);
                    if matches!(event, Event::Vanished | Event::Held)
                        && let Some(path) = path
                    {
                        undecodable.remove(path);
                    }
                    if !allows(root, service) {
                        return;
                    }
                    let mut why = why();
                    if is_of_source && reread.contains(source) {
                        why += &format!("; found when {source} was read anew");
                        if matches!(event, Event::Vanished | Event::Held)
                            && let Some(older) = older.get(source)
                        {
                            why += &format!("; {older}");
                        }
                    }
                    let (service, version, instance) = (service.to_string(), version.to_string(), instance.address());
                    let (source, path, root) = (source.to_owned(), path.cloned(), root.to_owned());
                    entries.push(Entry {
                        event,
                        service,
                        version,
                        instance,
                        source,
                        path,
                        root,
                        why,
                        ..Entry::default()
                    });
                };
                match (before, after) {
                    (None, Some(Instance { held: Some(held), .. })) => tell(Event::Held, &|| {
                        let why = "it vanished before, and too much of the service since";
                        format!("{why}; held until {}", utc(held.ends_at))
                    }),
                    (None, Some(new)) => tell(Event::Appeared, &|| self.why_new(new)),
                    (Some(old), Some(new)) => self.tell_differences([old, new], id, &mut tell),
                    (Some(Instance { held: Some(held), .. }), None) => {
                        tell(Event::Vanished, &|| self.why_let_go(held, service, id));
                    }
                    (Some(it), None) => tell(Event::Vanished, &|| {
                        let not_held = self.new.directory().guard().why_not_held(service, id);
                        self.why_gone(it) + &not_held.map_or_else(String::new, |why| format!("; {why}"))
                    }),
                    (None, None) => {}
                }
            },
        );
        for (path, why) in undecodable {
            let Some((feed, _, located)) = self.new.registrar(path) else { continue };
            let (service, root) = (located.service, root_of(self.new, path).unwrap_or_default().to_owned());
            if read.contains_key(feed.name()) || !allows(&root, &service) {
                continue;
            }
            let (source, path, why) = (feed.name().to_owned(), Some(path.clone()), why.to_string());
            entries.push(Entry { event: Event::Undecodable, service, source, path, root, why, ..Entry::default() });
        }
        let read = read.into_iter().filter(|_| allows("", "")).map(|(source, (count, services))| {
            let why = format!("{} in {}", counted(count, "instance"), counted(services.len() as u64, "service"));
            Entry { event: Event::Read, source: source.to_owned(), why, count, ..Entry::default() }
        });
        entries.extend(read);
        entries
    }

    /// The names of the sources whose progress changed in this way.
    fn sources(&self, is_one: impl Fn(FeedProgress, FeedProgress) -> bool) -> HashSet<&str> {
        let before = self.old.progress().iter().copied().chain(std::iter::repeat(Default::default()));
        let both = self.new.feeds().iter().zip(before.zip(self.new.progress()));
        both.filter(|(_, (old, new))| is_one(*old, **new)).map(|(feed, _)| feed.name()).collect()
    }

    /// Those of these sources whose newest change is older than the newest was, with what that may mean. A root that is gone
    /// counts only if all are: it may have been deleted, and no node below the others shows when.
    fn older_than_before(&self, sources: &HashSet<&str>) -> HashMap<&str, &'static str> {
        let newest = |snapshot: &Snapshot, roots: &[&NodePath]| {
            let all = roots.iter().flat_map(|root| snapshot.subtree(root, NodePath::clone(root)));
            all.map(|(_, node)| node.stat.mzxid.max(node.stat.pzxid)).max().unwrap_or(0)
        };
        let is_left = |root: &NodePath| self.new.subtree(root, root.clone()).next().is_some();
        let meaning = |feed: &Feed| {
            let all: Vec<&NodePath> = feed.roots().iter().collect();
            let left: Vec<&NodePath> = all.iter().copied().filter(|root| is_left(root)).collect();
            let (roots, meaning) = if left.is_empty() { (all, NOTHING_LEFT) } else { (left, OLDER) };
            (newest(self.new, &roots) < newest(self.old, &roots)).then_some(meaning)
        };
        let feeds = self.new.feeds().iter().filter(|feed| sources.contains(feed.name()));
        feeds.filter_map(|feed| Some((feed.name(), meaning(feed)?))).collect()
    }

    fn why_new(&self, new: &Instance) -> String {
        match &new.provenance.first().map(|it| &it.record) {
            Some(Record::Master(id)) if self.old.directory().master(id).is_some() => "the master offers it now".into(),
            Some(Record::Master(_)) => "the master connected".into(),
            Some(Record::Node(path)) => match (self.old.node(path), self.new.node(path)) {
                (None, Some(node)) if node.stat.ephemeral_owner != 0 => {
                    format!("its node was created by session {:#x}", node.stat.ephemeral_owner)
                }
                (None, _) => "its node was created, which is of no session".into(),
                (Some(_), _) if self.old.directory().why_undecodable(path).is_some() => {
                    "its node can be read again".into()
                }
                (Some(_), _) => "its node, or a rule, has it now".into(),
            },
            None => String::new(),
        }
    }

    /// What happened to an instance with this id that still exists.
    fn tell_differences(&self, [old, new]: [&Instance; 2], id: &str, tell: Tell<'_>) {
        match (&old.held, &new.held) {
            (None, Some(held)) => {
                tell(Event::Held, &|| format!("{}; held until {}", self.why_gone(old), utc(held.ends_at)));
            }
            (Some(held), None) => tell(Event::Returned, &|| match self.rank(new) > self.rank(old) {
                true => {
                    let why = self.why_let_go(held, &old.service, id);
                    format!("{why}; what is registered below a later root is listed now")
                }
                false => "it is registered again".into(),
            }),
            (Some(old), Some(held)) if (old.probe, old.passed_over) != (held.probe, held.passed_over) => {
                tell(Event::Changed, &|| format!("held: {}", probed(held)));
            }
            _ => {}
        }
        let (before, after) = (&old.withheld, &new.withheld);
        tell_withheld(&before.ejected, &after.ejected, [Event::Ejected, Event::Admitted], tell);
        tell_withheld(&before.drained, &after.drained, [Event::Drained, Event::Undrained], tell);
        if is_other(old, new) {
            tell(Event::Changed, &|| difference(old, new));
        }
    }

    /// The rank of the root whose node decides what an instance is.
    fn rank(&self, instance: &Instance) -> Option<usize> {
        let Some(Record::Node(path)) = instance.provenance.first().map(|it| &it.record) else { return None };
        let mut services = self.new.feeds().iter().flat_map(|feed| feed.services());
        services.find(|services| path.is_under(&services.root)).map(|services| services.rank)
    }

    /// Why an instance is no longer held.
    fn why_let_go(&self, held: &Held, service: &str, id: &str) -> String {
        let is_over = held.ends_at <= millis_since_1970(SystemTime::now());
        match self.new.directory().guard().why_let_go(service, id) {
            Some(why) => format!("it was held, until {why}"),
            None if is_over => "it was held, and its time is over".into(),
            None => "it was held, until it was registered otherwise".into(),
        }
    }

    fn why_gone(&self, old: &Instance) -> String {
        match &old.provenance.first().map(|it| &it.record) {
            Some(Record::Master(id)) => match self.new.directory().master(id) {
                Some(_) => "the master offers it no more".into(),
                None if old.state == InstanceState::Returning => "the master has not come back".into(),
                None => "the master's connection ended".into(),
            },
            Some(Record::Node(path)) => match (self.new.node(path), self.new.directory().why_undecodable(path)) {
                (None, _) => {
                    let owner = self.old.node(path).map_or(0, |node| node.stat.ephemeral_owner);
                    self.owners.why_gone(owner, self.lost)
                }
                (Some(_), Some(why)) => format!("its node cannot be read any more: {why}"),
                (Some(_), None) => "its node, or a rule, has it no more".into(),
            },
            None => String::new(),
        }
    }
}

/// Whose a node is that registers something: the root below which it lies, the first of those with the same writers.
pub(super) fn root_of<'s>(snapshot: &'s Snapshot, path: &NodePath) -> Option<&'s str> {
    let all = || snapshot.feeds().iter().flat_map(|feed| feed.services());
    let rank = all().find(|services| path.is_under(&services.root))?.rank;
    all().find(|services| services.rank == rank).map(|services| services.root.as_str())
}

fn first(provider: &Provider) -> Option<&Instance> {
    provider.instances.first()
}

/// The source of an instance, and the node that registers it.
fn origin(instance: &Instance) -> (&str, Option<&NodePath>) {
    let Some(first) = instance.provenance.first() else { return ("", None) };
    let path = match &first.record {
        Record::Node(path) => Some(path),
        Record::Master(_) => None,
    };
    (&first.source, path)
}

/// An instance is withheld from now on, or for another reason or time, or no longer.
fn tell_withheld(
    old: &Option<Arc<Withholding>>,
    new: &Option<Arc<Withholding>>,
    [begin, end]: [Event; 2],
    tell: Tell<'_>,
) {
    match (old, new) {
        (Some(old), Some(new)) if is_same(old, new) => {}
        (_, Some(new)) => {
            let until = || format!("until {}", utc(new.ends_at));
            tell(begin, &|| if new.reason.is_empty() { until() } else { format!("{}: {}", until(), new.reason) });
        }
        (Some(old), None) => {
            let is_over = old.ends_at <= millis_since_1970(SystemTime::now());
            tell(end, &|| if is_over { "its time is over" } else { "before its time was over" }.into());
        }
        _ => {}
    }
}

/// Whether at most the wall clock was set, which the times follow.
fn is_same(old: &Withholding, new: &Withholding) -> bool {
    let time = |it: &Withholding| it.ends_at.saturating_sub(it.since);
    (old.decided, time(old), &old.reason) == (new.decided, time(new), &new.reason)
}

/// What is known of a held instance.
fn probed(held: &Held) -> String {
    format!("{}{}", held.probe, if held.passed_over { ", and it is not chosen" } else { "" })
}

/// Whether anything of an instance is another that anybody chooses by.
fn is_other(old: &Instance, new: &Instance) -> bool {
    has_other_state(old, new)
        || old.weight != new.weight
        || old.group != new.group
        || old.zone != new.zone
        || old.endpoints != new.endpoints
        || !old.metadata.changed_keys(&new.metadata).is_empty()
}

/// What that is, in words.
fn difference(old: &Instance, new: &Instance) -> String {
    let mut words = Vec::new();
    if has_other_state(old, new) {
        words.push(format!("{} → {}", name(old.state), name(new.state)));
    }
    if old.weight != new.weight {
        words.push(format!("weight {} → {}", old.weight, new.weight));
    }
    let of = |what: &str, is_other: bool| is_other.then(|| what.to_owned());
    words.extend(of("another group", old.group != new.group));
    words.extend(of("another zone", old.zone != new.zone));
    words.extend(of("other endpoints", old.endpoints != new.endpoints));
    let all = old.metadata.changed_keys(&new.metadata);
    if !all.is_empty() {
        let more = all.len().saturating_sub(MAX_NAMES);
        let told =
            all.into_iter().take(MAX_NAMES).map(|name| match [old, new].map(|it| short(it.metadata.get(&name))) {
                [Some(before), Some(after)] => format!("{name} {before} → {after}"),
                _ => name.into_owned(),
            });
        let told: Vec<_> = told.chain((more > 0).then(|| format!("{more} more"))).collect();
        words.push(format!("metadata: {}", told.join(", ")));
    }
    words.join(", ")
}

/// An instance that is expected back and one that is back are in the same state.
fn has_other_state(old: &Instance, new: &Instance) -> bool {
    let is_back = |state| matches!(state, InstanceState::Up | InstanceState::Returning);
    old.state != new.state && !(is_back(old.state) && is_back(new.state))
}

/// A value as an entry shows it, unless it is long or compound.
fn short(value: Option<ValueRef<'_>>) -> Option<String> {
    let text = match value {
        None => "none".to_owned(),
        Some(ValueRef::Array(_) | ValueRef::Map(_) | ValueRef::Binary(_) | ValueRef::Ext(..)) => return None,
        Some(ValueRef::String(text)) => text.into_string()?,
        Some(value) => value.to_string(),
    };
    (text.chars().count() <= MAX_VALUE_CHARS).then_some(text)
}

fn name(state: InstanceState) -> &'static str {
    match state {
        InstanceState::Up => "UP",
        InstanceState::Returning => "RETURNING",
        InstanceState::Down => "DOWN",
        InstanceState::Unknown => "unknown",
    }
}
