//! What is wrong with a configuration, where that stands, and what to do about it.

use std::fmt;
use std::path::Path;
use std::sync::Arc;

/// The way to a value: tables by name, entries of lists by number. Written with dots: `zookeeper.0.connect`.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Key(Vec<String>);

/// Where a value was written. In the order in which diagnostics are reported.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Location {
    /// The file as a whole, where nothing is written of it.
    File(Arc<Path>),
    Line {
        file: Arc<Path>,
        line: usize,
    },
    Variable(String),
    Flag(String),
}

#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Diagnostic {
    pub location: Location,
    /// Empty for what is no TOML at all.
    pub key: Key,
    /// What is wrong, and the cure.
    pub message: String,
}

/// All that is wrong with a configuration: a line each.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub struct Diagnostics(pub Vec<Diagnostic>);

impl Diagnostics {
    /// In the order of their places. TOML's parser may report one thing many times.
    pub(super) fn new(mut diagnostics: Vec<Diagnostic>) -> Self {
        diagnostics.sort();
        diagnostics.dedup();
        Self(diagnostics)
    }
}

impl Key {
    pub(super) fn new(parts: impl IntoIterator<Item = impl Into<String>>) -> Self {
        Self(parts.into_iter().map(Into::into).collect())
    }

    pub(super) fn parts(&self) -> &[String] {
        &self.0
    }

    pub(super) fn child(&self, part: impl ToString) -> Self {
        Self(self.0.iter().cloned().chain([part.to_string()]).collect())
    }

    /// This key as it is called one level further out.
    pub(super) fn within(mut self, part: impl ToString) -> Self {
        self.0.insert(0, part.to_string());
        self
    }

    /// Whether one of the two is the other, or holds it.
    pub(super) fn touches(&self, other: &Key) -> bool {
        self.0.iter().zip(&other.0).all(|(left, right)| left == right)
    }
}

/// From a key written with dots.
impl From<&str> for Key {
    fn from(dotted: &str) -> Self {
        Self::new(dotted.split('.'))
    }
}

impl fmt::Display for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (number, part) in self.0.iter().enumerate() {
            let dot = if number == 0 { "" } else { "." };
            let bare = !part.is_empty() && part.chars().all(|c| c.is_alphanumeric() || "-_".contains(c));
            if bare { write!(f, "{dot}{part}")? } else { write!(f, "{dot}{part:?}")? }
        }
        Ok(())
    }
}

impl Location {
    /// From where a relative path starts that is written there.
    pub(super) fn folder(&self) -> &Path {
        let file = if let Self::Line { file, .. } = self { file.parent() } else { None };
        file.unwrap_or(Path::new(""))
    }
}

impl fmt::Display for Location {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::File(file) => write!(f, "{}", file.display()),
            Self::Line { file, line } => write!(f, "{}:{line}", file.display()),
            Self::Variable(name) => f.write_str(name),
            Self::Flag(key) => write!(f, "--set {key}"),
        }
    }
}

impl fmt::Display for Diagnostic {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let is_told = matches!(&self.location, Location::Flag(flag) if *flag == self.key.to_string());
        let key = if is_told || self.key.0.is_empty() { String::new() } else { format!("{}: ", self.key) };
        // A message may quote what somebody wrote.
        write!(f, "{}: {key}{}", self.location, self.message.replace('\n', " "))
    }
}

impl fmt::Display for Diagnostics {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let lines: Vec<_> = self.0.iter().map(Diagnostic::to_string).collect();
        f.write_str(&lines.join("\n"))
    }
}
