//! What is wrong with a configuration, where, and how to fix it.

use std::fmt;
use std::path::Path;
use std::sync::Arc;

/// The path to a value: tables by name, list entries by number. Written with dots: `zookeeper.0.connect`.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Key(Vec<String>);

/// Where a value was set. Ordered as diagnostics are reported.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Location {
    /// The file as a whole, for what is missing in it.
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
    /// Empty if the file is not TOML at all.
    pub key: Key,
    /// What is wrong, and how to fix it.
    pub message: String,
}

/// All that is wrong with a configuration, one line each.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub struct Diagnostics(pub Vec<Diagnostic>);

impl Diagnostics {
    /// Sorts them by location. TOML's parser may report the same thing many times.
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

    /// The same key seen from one level further out.
    pub(super) fn within(mut self, part: impl ToString) -> Self {
        self.0.insert(0, part.to_string());
        self
    }

    /// Whether the two are equal, or one contains the other.
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
    /// The folder that relative paths set there start from.
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
        // A message may quote arbitrary input.
        write!(f, "{}: {key}{}", self.location, self.message.replace('\n', " "))
    }
}

impl fmt::Display for Diagnostics {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let lines: Vec<_> = self.0.iter().map(Diagnostic::to_string).collect();
        f.write_str(&lines.join("\n"))
    }
}
