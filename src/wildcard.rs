//! Wildcards: names in which `*` matches any text.

use std::fmt;
use std::path::Path;

use globset::{GlobBuilder, GlobMatcher};
use serde::{Deserialize, Serialize};

/// A text in which `*` matches any text, and everything else itself.
#[derive(Clone, Debug)]
pub(crate) enum Wildcard {
    Anything,
    Plain(String),
    Pattern(GlobMatcher),
}

/// Several of them, any of which may match.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(try_from = "Vec<String>", into = "Vec<String>")]
pub struct Wildcards {
    texts: Vec<String>,
    all: Vec<Wildcard>,
}

impl Wildcard {
    pub(crate) fn new(text: &str) -> Result<Self, String> {
        if text == "*" {
            return Ok(Self::Anything);
        }
        if !text.contains('*') {
            return Ok(Self::Plain(text.to_owned()));
        }
        let escaped: Vec<_> = text.split('*').map(globset::escape).collect();
        let glob = GlobBuilder::new(&escaped.join("*")).literal_separator(false).backslash_escape(false).build();
        Ok(Self::Pattern(glob.map_err(|error| error.to_string())?.compile_matcher()))
    }

    pub(crate) fn is_match(&self, text: &str) -> bool {
        match self {
            Self::Anything => true,
            Self::Plain(plain) => plain == text,
            Self::Pattern(glob) => glob.is_match(Path::new(text)),
        }
    }
}

impl Wildcards {
    pub(crate) fn everything() -> Self {
        Self::try_from(vec!["*".to_owned()]).expect("a pattern")
    }

    pub fn texts(&self) -> impl Iterator<Item = &str> {
        self.texts.iter().map(String::as_str)
    }

    pub fn is_match(&self, text: &str) -> bool {
        self.all.iter().any(|wildcard| wildcard.is_match(text))
    }
}

impl PartialEq for Wildcards {
    fn eq(&self, other: &Self) -> bool {
        self.texts == other.texts
    }
}

impl Eq for Wildcards {}

impl fmt::Display for Wildcards {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.texts.join(", "))
    }
}

impl TryFrom<Vec<String>> for Wildcards {
    type Error = String;

    fn try_from(texts: Vec<String>) -> Result<Self, String> {
        if texts.iter().any(String::is_empty) {
            return Err("has an empty name, which matches nothing: leave it out, or write `*` for any".to_owned());
        }
        Ok(Self { all: texts.iter().map(|text| Wildcard::new(text)).collect::<Result<_, _>>()?, texts })
    }
}

impl From<Wildcards> for Vec<String> {
    fn from(wildcards: Wildcards) -> Vec<String> {
        wildcards.texts
    }
}
