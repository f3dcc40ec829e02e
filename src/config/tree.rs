//! The merged layers: a tree of what they set, which knows where each part was set.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::{Arc, LazyLock};

use serde::Deserialize;
use toml::Spanned;
use toml::de::{DeTable, DeValue};

use super::diagnostic::{Diagnostic, Diagnostics, Key, Location};
use super::read::UNKNOWN;
use super::{Config, Layers};

const PREFIX: &str = "ROSTER_";
const LEVELS: &str = "__";

/// What TOML's parser says about a repeated key.
const REPEATED: &str = "duplicate key";

/// The tables that may appear several times.
const LISTS: [&str; 6] = ["zookeeper", "file", "services", "upstream", "allow", "worker"];

/// The tables that appear once, and exist by default.
static TABLES: LazyLock<Vec<String>> = LazyLock::new(|| {
    toml::Table::try_from(Config::default()).map_or_else(|_| Vec::new(), |all| all.keys().cloned().collect())
});

#[derive(Debug)]
pub(super) struct ConfigTree {
    root: Entry,
    diagnostics: Vec<Diagnostic>,
}

#[derive(Debug)]
pub(super) struct Entry {
    pub(super) location: Location,
    pub(super) value: Value,
    /// The text of a variable or a flag that TOML would read as a number, a date or a boolean, but that may be a name.
    pub(super) raw: Option<String>,
}

#[derive(Debug)]
pub(super) enum Value {
    /// Not set yet; or refused, and ignored from then on.
    Nothing,
    Text(String),
    Integer(i64),
    Float(f64),
    Boolean(bool),
    List(Vec<Entry>),
    Table(BTreeMap<String, Entry>),
}

impl ConfigTree {
    /// If a file is not TOML, it has only these diagnostics: the rest of it cannot be known, unless it only repeats
    /// keys.
    pub(super) fn new(layers: &Layers) -> Result<Self, Diagnostics> {
        let (path, text) = layers.file.as_ref().map_or((Path::new("the defaults"), ""), |(path, text)| (path, text));
        let (root, repeated) = parse(path, text)?;
        let mut tree = Self { root, diagnostics: misspelt(&layers.environment) };
        tree.diagnostics.extend(repeated);
        for (key, location, raw) in variables(&layers.environment).into_iter().chain(flags(&layers.flags)) {
            tree.set(key, location, raw);
        }
        Ok(tree)
    }

    /// A tree with only the settings of one worker, a JSON object.
    pub(super) fn of_worker(settings: &serde_json::Value) -> Self {
        let location = Location::File(Path::new("the settings").into());
        let worker = Entry::new(&location, Value::List(vec![Entry::from_json(settings, &location)]));
        let root = Entry::new(&location, Value::Table(BTreeMap::from([("worker".to_owned(), worker)])));
        Self { root, diagnostics: Vec::new() }
    }

    fn set(&mut self, key: Key, location: Location, raw: &str) {
        let entry = key.parts().iter().try_fold(&mut self.root, |entry, part| entry.part_or_new(part, &location));
        match entry {
            Ok(entry) => *entry = Entry::from_raw(raw, &location),
            Err(message) => self.diagnostics.push(Diagnostic { location, key, message }),
        }
    }

    /// Reads the layers over the defaults. What is refused is remembered as a diagnostic and ignored.
    pub(super) fn read(&mut self) -> Config {
        loop {
            let refusal = match Config::deserialize(&self.root) {
                Ok(config) => return config,
                Err(refusal) => refusal,
            };
            // This terminates: each round ignores one more entry, and if nothing is left, everything is default.
            let key = &refusal.key;
            let hint = if refusal.list { self.as_list(key) } else { self.hint(key, refusal.message == UNKNOWN) };
            self.diagnostics.push(self.diagnostic(key.clone(), refusal.message + &hint));
            self.leave_out(key.parts());
        }
    }

    /// How to write the given value as the list that is expected.
    fn as_list(&self, key: &Key) -> String {
        let Some(entry) = key.parts().iter().try_fold(&self.root, |entry, part| entry.part(part)) else {
            return String::new();
        };
        let variable = |key: &Key| format!("{PREFIX}{}", key.parts().join(LEVELS).to_uppercase());
        let first = key.child(0);
        match (&entry.value, &entry.location) {
            (Value::Table(entries), location) => {
                let first = entries.keys().next().map_or(first.clone(), |name| first.child(name));
                match location {
                    Location::Flag(_) => format!("; write `--set {first}=…`"),
                    Location::Variable(_) => format!("; write `{}=…`", variable(&first)),
                    _ => format!("; write `[[{key}]]`, on the command line `{first}`"),
                }
            }
            (Value::Text(text), Location::Flag(_)) => format!("; write `{key}='[{text:?}]'`, or `{first}={text}`"),
            (Value::Text(text), Location::Variable(_)) => {
                format!("; write `{}='[{text:?}]'`, or `{}={text}`", variable(key), variable(&first))
            }
            (Value::Text(text), _) if key.parts().last().is_some_and(|name| name == "command") => {
                format!("; write `{:?}`: no shell reads it", text.split_whitespace().collect::<Vec<_>>())
            }
            (Value::Text(text), _) => format!("; write `[{text:?}]`"),
            _ => String::new(),
        }
    }

    /// What may have been meant by an unknown key, or by one with a value of the wrong kind.
    fn hint(&self, key: &Key, is_unknown: bool) -> String {
        let Some(name) = key.parts().last() else { return String::new() };
        if is_unknown {
            let lists = LISTS.iter().filter(|list| is_known(&Key::new([list, "0", name.as_str()])));
            let tables = TABLES.iter().filter(|table| is_known(&Key::new([table.as_str(), name])));
            let homes: Vec<_> =
                lists.map(|list| format!("`[[{list}]]`")).chain(tables.map(|table| format!("`[{table}]`"))).collect();
            return if homes.is_empty() { String::new() } else { format!("; it belongs under {}", homes.join(" or ")) };
        }
        let entry = key.parts().iter().try_fold(&self.root, |entry, part| entry.part(part));
        match (name.as_str(), entry.map(|entry| &entry.value)) {
            ("mode", Some(Value::Integer(_))) => "; write octal digits in quotes: \"0660\"".to_owned(),
            ("connect", Some(Value::List(items))) => {
                let servers = items
                    .iter()
                    .filter_map(|item| if let Value::Text(text) = &item.value { Some(&**text) } else { None });
                format!("; write {:?}", servers.collect::<Vec<_>>().join(","))
            }
            _ => String::new(),
        }
    }

    fn leave_out(&mut self, key: &[String]) {
        if let Some(entry) = self.find_mut(key) {
            entry.value = Value::Nothing;
        }
    }

    /// A diagnostic at the place where the key, or else its container, is set.
    pub(super) fn diagnostic(&self, key: Key, message: impl Into<String>) -> Diagnostic {
        Diagnostic { location: self.location(&key).clone(), key, message: message.into() }
    }

    pub(super) fn location(&self, key: &Key) -> &Location {
        let mut entry = &self.root;
        for part in key.parts() {
            let Some(next) = entry.part(part) else { break };
            entry = next;
        }
        &entry.location
    }

    /// Whether a layer sets the key.
    pub(super) fn is_set(&self, key: &Key) -> bool {
        let entry = key.parts().iter().try_fold(&self.root, |entry, part| entry.part(part));
        entry.is_some_and(Entry::is_set)
    }

    /// Whether the key, its container or anything in it was refused: then what was read is not what was meant.
    pub(super) fn is_refused(&self, key: &Key) -> bool {
        self.diagnostics.iter().any(|diagnostic| diagnostic.key.touches(key))
    }

    /// Whether an unknown key next to it was refused with this one as a suggestion.
    pub(super) fn is_misspelt(&self, key: &Key) -> bool {
        let Some((name, table)) = key.parts().split_last() else { return false };
        let proposal = format!("did you mean `{name}`?");
        let is_beside = |parts: &[String]| parts.split_last().is_some_and(|(_, other)| other == table);
        self.diagnostics.iter().any(|it| is_beside(it.key.parts()) && it.message.ends_with(&proposal))
    }

    /// The key of the entry that was read as the list's `nth`; that of the list itself if it is a default.
    pub(super) fn element(&self, list: &Key, nth: usize) -> Key {
        let entry = list.parts().iter().try_fold(&self.root, |entry, part| entry.part(part));
        let Some(Entry { value: Value::List(items), .. }) = entry else { return list.clone() };
        let mut kept = items.iter().enumerate().filter(|(_, item)| item.is_set());
        kept.nth(nth).map_or_else(|| list.clone(), |(number, _)| list.child(number))
    }

    pub(super) fn into_diagnostics(self) -> Vec<Diagnostic> {
        self.diagnostics
    }

    fn find_mut(&mut self, key: &[String]) -> Option<&mut Entry> {
        key.iter().try_fold(&mut self.root, |entry, part| entry.part_mut(part))
    }
}

impl Entry {
    fn new(location: &Location, value: Value) -> Self {
        Self { location: location.clone(), value, raw: None }
    }

    /// Reads a variable or a flag: a TOML value if valid, otherwise a string.
    fn from_raw(raw: &str, location: &Location) -> Self {
        let value = DeValue::parse(raw).map_or_else(|_| DeValue::String(raw.into()), Spanned::into_inner);
        let is_word = !matches!(value, DeValue::String(_) | DeValue::Array(_) | DeValue::Table(_));
        Self { raw: is_word.then(|| raw.to_owned()), ..Self::from_toml(value, 0, &|_| location.clone()) }
    }

    fn from_toml(value: DeValue<'_>, at: usize, location: &dyn Fn(usize) -> Location) -> Self {
        let value = match value {
            DeValue::String(text) => Value::Text(text.into_owned()),
            // No key takes a date, or such a large number: as strings they are refused when they are read.
            DeValue::Integer(number) => match i64::from_str_radix(number.as_str(), number.radix()) {
                Ok(number) => Value::Integer(number),
                Err(_) => Value::Text(number.to_string()),
            },
            DeValue::Datetime(date) => Value::Text(date.to_string()),
            DeValue::Float(number) => Value::Float(number.as_str().parse().unwrap_or(f64::NAN)),
            DeValue::Boolean(value) => Value::Boolean(value),
            DeValue::Array(items) => Value::List(items.into_iter().map(|item| from_item(item, location)).collect()),
            DeValue::Table(entries) => Value::Table(from_entries(entries, location)),
        };
        Self::new(&location(at), value)
    }

    /// Null means not set, and a number may be a string, as in a variable.
    fn from_json(value: &serde_json::Value, location: &Location) -> Self {
        let written = match value {
            serde_json::Value::Null => Value::Nothing,
            serde_json::Value::Bool(value) => Value::Boolean(*value),
            serde_json::Value::String(text) => Value::Text(text.clone()),
            serde_json::Value::Number(number) => match number.as_i64() {
                Some(number) => Value::Integer(number),
                None => Value::Float(number.as_f64().unwrap_or(f64::NAN)),
            },
            serde_json::Value::Array(items) => {
                Value::List(items.iter().map(|item| Self::from_json(item, location)).collect())
            }
            serde_json::Value::Object(entries) => {
                let entry = |(name, value): (&String, _)| (name.clone(), Self::from_json(value, location));
                Value::Table(entries.iter().map(entry).collect())
            }
        };
        let raw = (value.is_number() || value.is_boolean()).then(|| value.to_string());
        Self { raw, ..Self::new(location, written) }
    }

    pub(super) fn is_set(&self) -> bool {
        !matches!(self.value, Value::Nothing)
    }

    fn part(&self, name: &str) -> Option<&Entry> {
        match &self.value {
            Value::Table(entries) => entries.get(name),
            Value::List(items) => items.get(name.parse::<usize>().ok()?),
            _ => None,
        }
    }

    fn part_mut(&mut self, name: &str) -> Option<&mut Entry> {
        match &mut self.value {
            Value::Table(entries) => entries.get_mut(name),
            Value::List(items) => items.get_mut(name.parse::<usize>().ok()?),
            _ => None,
        }
    }

    /// A part to set: a table's key, or a list's index, which may be the next one.
    fn part_or_new(&mut self, name: &str, location: &Location) -> Result<&mut Entry, String> {
        let number = name.parse::<usize>();
        if !self.is_set() {
            self.value = if number.is_ok() { Value::List(Vec::new()) } else { Value::Table(BTreeMap::new()) };
        }
        let new = || Entry::new(location, Value::Nothing);
        match &mut self.value {
            Value::Table(entries) => Ok(entries.entry(name.to_owned()).or_insert_with(new)),
            Value::List(items) => {
                let count = items.len();
                if number == Ok(count) {
                    items.push(new());
                }
                let item = number.ok().and_then(|number| items.get_mut(number));
                item.ok_or_else(|| match name.parse::<usize>() {
                    Ok(_) => format!("`{name}` is no entry of this list; the next new one is {count}"),
                    Err(_) => format!("a list has entries by number: write `0.{name}`, or {count} for a new one"),
                })
            }
            _ => Err(format!("`{name}` cannot be set in what is neither a table nor a list")),
        }
    }
}

fn from_item(item: Spanned<DeValue<'_>>, location: &dyn Fn(usize) -> Location) -> Entry {
    let at = item.span().start;
    Entry::from_toml(item.into_inner(), at, location)
}

fn from_entries(entries: DeTable<'_>, location: &dyn Fn(usize) -> Location) -> BTreeMap<String, Entry> {
    let entry = |(name, value): (Spanned<_>, Spanned<_>)| {
        let at = name.span().start;
        (String::from(name.into_inner()), Entry::from_toml(value.into_inner(), at, location))
    };
    entries.into_iter().map(entry).collect()
}

/// The content of a text, and its repeated keys.
fn parse(path: &Path, text: &str) -> Result<(Entry, Vec<Diagnostic>), Diagnostics> {
    let file: Arc<Path> = path.into();
    let ends: Vec<usize> = text.match_indices('\n').map(|(at, _)| at).collect();
    let location = |at| Location::Line { file: file.clone(), line: ends.partition_point(|end| *end < at) + 1 };
    let (table, errors) = DeTable::parse_recoverable(text);
    let diagnostic = |error: &toml::de::Error| {
        let span = error.span().unwrap_or(text.len()..text.len());
        let line = text.lines().nth(ends.partition_point(|end| *end < span.start)).unwrap_or_default();
        let (key, message) = match (error.message(), text.get(span.clone())) {
            (REPEATED, Some(key)) => (Key::new([key]), "is set twice".to_owned()),
            (other, _) => (Key::default(), format!("{other}{}", stray(line))),
        };
        Diagnostic { location: location(span.start), key, message }
    };
    let diagnostics = errors.iter().map(diagnostic).collect();
    if errors.iter().any(|error| error.message() != REPEATED) {
        return Err(Diagnostics::new(diagnostics));
    }
    let root = Entry::from_toml(DeValue::Table(table.into_inner()), 0, &location);
    Ok((Entry { location: Location::File(file.clone()), ..root }, diagnostics))
}

/// The first character that TOML cannot read but that looks like one of TOML's own.
fn stray(line: &str) -> String {
    let meant = |c: char| match c {
        '\u{2018}'..='\u{201f}' | '\u{ab}' | '\u{bb}' => Some("a plain quotation mark"),
        '\u{200b}'..='\u{200f}' | '\u{2060}' | '\u{feff}' => Some("nothing there"),
        c if c.is_whitespace() && !c.is_ascii() => Some("a plain space"),
        _ => None,
    };
    let found = line.chars().find_map(|c| Some((u32::from(c), meant(c)?)));
    found.map_or_else(String::new, |(number, meant)| format!("; there is a character U+{number:04X}: write {meant}"))
}

/// `ROSTER_THRIFT__TCP` is `thrift.tcp`. A name without a double underscore is not a setting; see `misspelt`.
fn variables(environment: &[(String, String)]) -> Vec<(Key, Location, &str)> {
    let mut found: Vec<_> = environment
        .iter()
        .filter_map(|(name, value)| {
            let path = name.strip_prefix(PREFIX)?.to_lowercase();
            let key = path.contains(LEVELS).then(|| Key::new(path.split(LEVELS)))?;
            Some((key, Location::Variable(name.clone()), value.as_str()))
        })
        .collect();
    // The environment is unordered: containers come before their contents, and list entry 2 before entry 10.
    found.sort_by_cached_key(|(key, ..)| key.parts().iter().map(|part| (part.len(), part.clone())).collect::<Vec<_>>());
    found
}

/// Names that would be a known key if they had double underscores between levels.
fn misspelt(environment: &[(String, String)]) -> Vec<Diagnostic> {
    let diagnostic = |(name, _): &(String, String)| {
        let path = name.strip_prefix(PREFIX)?.to_lowercase();
        let parts = meant(&path).filter(|_| !path.contains(LEVELS))?;
        let message = format!("{UNKNOWN}; did you mean `{PREFIX}{}`?", parts.join(LEVELS).to_uppercase());
        Some(Diagnostic { location: Location::Variable(name.clone()), key: Key::new([path]), message })
    };
    environment.iter().filter_map(diagnostic).collect()
}

fn meant(path: &str) -> Option<Vec<&str>> {
    path.match_indices('_').find_map(|(at, _)| {
        let (table, rest) = (&path[..at], &path[at + 1..]);
        match rest.split_once('_') {
            Some((number, name)) if number.parse::<usize>().is_ok() => {
                is_known(&Key::new([table, "0", name])).then(|| vec![table, number, name])
            }
            _ => is_known(&Key::new([table, rest])).then(|| vec![table, rest]),
        }
    })
}

/// Whether a room reads this key, valid or not.
fn is_known(key: &Key) -> bool {
    let location = Location::Variable(String::new());
    let mut tree = ConfigTree { root: Entry::new(&location, Value::Nothing), diagnostics: Vec::new() };
    tree.set(key.clone(), location, "");
    match Config::deserialize(&tree.root) {
        Ok(_) => true,
        Err(refusal) => refusal.key == *key && !refusal.unknown,
    }
}

fn flags(flags: &[(String, String)]) -> impl Iterator<Item = (Key, Location, &str)> {
    flags.iter().map(|(key, value)| (Key::from(key.as_str()), Location::Flag(key.clone()), value.as_str()))
}
