//! Patterns of paths, services and methods, as rules write them.

use std::path::Path;

use globset::{GlobBuilder, GlobSet, GlobSetBuilder};
use serde::{Deserialize, Serialize};

use crate::model::NodePath;
use crate::wildcard::Wildcard;

/// What may be read: patterns that begin with `/` match paths, all others match services.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(try_from = "Vec<String>", into = "Vec<String>")]
pub struct ReadPatterns {
    texts: Vec<String>,
    pub(super) paths: PathPatterns,
    pub(super) services: Vec<Wildcard>,
    pub(super) all_services: bool,
}

/// `SERVICE.METHOD`, where `*` matches any text; `*` alone: every method of every service.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(try_from = "Vec<String>", into = "Vec<String>")]
pub struct CallPatterns {
    texts: Vec<String>,
    pub(super) methods: Vec<(Wildcard, Wildcard)>,
}

/// Path patterns: `*` matches within a part, `**` across parts. Each covers what it matches and everything below.
#[derive(Clone, Debug, Default)]
pub(super) struct PathPatterns {
    /// Patterns without a wildcard: the most common and the cheapest.
    plain: Vec<NodePath>,
    /// The others, including everything below their matches,
    matching: GlobSet,
    /// and the paths that lead to their matches.
    leading: GlobSet,
    /// Every match of a pattern with a wildcard lies at or below one of these.
    stems: Vec<NodePath>,
}

/// The characters with a special meaning in a path pattern.
const SPECIAL: [char; 5] = ['*', '?', '[', '{', '\\'];

impl PathPatterns {
    fn new(patterns: &[&String]) -> Result<Self, String> {
        let (mut plain, mut stems) = (Vec::new(), Vec::new());
        let (mut matching, mut leading) = (GlobSetBuilder::new(), GlobSetBuilder::new());
        for pattern in patterns {
            if !pattern.contains(SPECIAL) {
                plain.push(NodePath::parse(pattern).map_err(|why| format!("{pattern:?}: {why}"))?);
                continue;
            }
            let glob = |text: &str| {
                let built = GlobBuilder::new(text).literal_separator(true).build();
                built.map_err(|error| error.to_string())
            };
            matching.add(glob(pattern)?);
            matching.add(glob(&format!("{}/**", pattern.trim_end_matches("/**")))?);
            let parts = pattern.match_indices('/').map(|(at, _)| &pattern[..at]).filter(|part| !part.is_empty());
            for part in parts {
                leading.add(glob(part)?);
            }
            stems.push(stem(pattern)?);
        }
        let build = |globs: GlobSetBuilder| globs.build().map_err(|error| error.to_string());
        Ok(Self { plain, matching: build(matching)?, leading: build(leading)?, stems })
    }

    pub(super) fn covers(&self, path: &NodePath) -> bool {
        self.plain.iter().any(|plain| path.is_under(plain)) || self.matching.is_match(Path::new(path.as_str()))
    }

    /// Whether the path leads to something covered.
    pub(super) fn leads(&self, path: &NodePath) -> bool {
        self.plain.iter().any(|plain| plain.is_under(path))
            || self.stems.iter().any(|stem| stem.is_under(path))
            || self.leading.is_match(Path::new(path.as_str()))
    }

    pub(super) fn has_wildcards(&self) -> bool {
        !self.stems.is_empty()
    }

    /// The subtrees at or below `path` that contain all that is covered, in path order, none inside another.
    pub(super) fn roots(&self, path: &NodePath) -> Vec<NodePath> {
        let all = self.plain.iter().chain(&self.stems);
        let mut roots: Vec<NodePath> = all
            .filter_map(|root| match root.is_under(path) {
                true => Some(root.clone()),
                false => path.is_under(root).then(|| path.clone()),
            })
            .collect();
        roots.sort();
        roots.dedup_by(|later, earlier| later.is_under(earlier));
        roots
    }
}

/// The parts of a pattern before the first one with a wildcard.
fn stem(pattern: &str) -> Result<NodePath, String> {
    let special = pattern.find(SPECIAL).unwrap_or(pattern.len());
    let stem = &pattern[..pattern[..special].rfind('/').unwrap_or(0)];
    if stem.is_empty() {
        return Ok(NodePath::root());
    }
    NodePath::parse(stem).map_err(|why| format!("{pattern:?}: {why}"))
}

impl CallPatterns {
    pub(super) fn everything() -> Self {
        Self::try_from(vec!["*".to_owned()]).expect("a pattern")
    }
}

impl ReadPatterns {
    pub(super) fn everything() -> Self {
        Self::try_from(vec!["/".to_owned(), "*".to_owned()]).expect("patterns")
    }
}

impl ReadPatterns {
    /// The service patterns.
    pub fn services(&self) -> impl Iterator<Item = &str> {
        self.texts.iter().map(String::as_str).filter(|text| !text.starts_with('/'))
    }
}

impl TryFrom<Vec<String>> for ReadPatterns {
    type Error = String;

    fn try_from(texts: Vec<String>) -> Result<Self, String> {
        let (paths, services): (Vec<_>, Vec<_>) = texts.iter().partition(|text| text.starts_with('/'));
        if let Some(text) = services.iter().find(|text| text.contains('/')) {
            return Err(format!("{text:?} is neither a path, which begins with '/', nor a service, which has none"));
        }
        let paths = PathPatterns::new(&paths)?;
        let all_services = services.iter().any(|text| *text == "*");
        let services = services.into_iter().map(|text| Wildcard::new(text)).collect::<Result<_, _>>()?;
        Ok(Self { paths, services, all_services, texts })
    }
}

impl TryFrom<Vec<String>> for CallPatterns {
    type Error = String;

    fn try_from(texts: Vec<String>) -> Result<Self, String> {
        let method = |text: &String| match text.rsplit_once('.') {
            Some((service, method)) => Ok((Wildcard::new(service)?, Wildcard::new(method)?)),
            None if text == "*" => Ok((Wildcard::new("*")?, Wildcard::new("*")?)),
            None => Err(format!("expected \"SERVICE.METHOD\", such as {:?}, found {text:?}", format!("{text}.*"))),
        };
        Ok(Self { methods: texts.iter().map(method).collect::<Result<_, _>>()?, texts })
    }
}

impl From<ReadPatterns> for Vec<String> {
    fn from(patterns: ReadPatterns) -> Vec<String> {
        patterns.texts
    }
}

impl From<CallPatterns> for Vec<String> {
    fn from(patterns: CallPatterns) -> Vec<String> {
        patterns.texts
    }
}

impl std::fmt::Display for ReadPatterns {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.texts.join(", "))
    }
}

impl std::fmt::Display for CallPatterns {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.texts.join(", "))
    }
}
