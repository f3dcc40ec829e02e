//! Version requirements, in Composer's syntax.
//!
//! `^1.2` and `~1.2` are below 2.0, `~1.2.3` is below 1.3, `1.2.*`, `1.0 - 2.0`, `>=1.2 <2.0 || ^3.0`, `!=1.4.2`; and
//! `1.2.3` is that version and no other (`1.2` is 1.2.0). A pre-release only meets requirements that name one of the
//! same version.

use std::fmt;
use std::str::FromStr;

use semver::{Comparator, Op, Version, VersionReq};

/// The longest requirement, in bytes, and the most alternatives: each is checked against each version on offer.
const MAX_LENGTH: usize = 256;
const MAX_ALTERNATIVES: usize = 32;

/// What a version must meet.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Requirement {
    text: String,
    /// Any of these.
    alternatives: Vec<Alternative>,
}

/// All of these.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Alternative {
    met: VersionReq,
    not: Vec<Version>,
}

/// Why a text is not a requirement.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NoRequirement {
    #[error(
        "`{0}` is no requirement of versions; write `^1.2`, `~1.2.3`, `1.2.*`, `1.0 - 2.0`, `>=1.2 <2.0 || ^3.0`, or \
         `1.2.3`"
    )]
    Text(String),
    #[error("a requirement of versions has at most {MAX_LENGTH} bytes and {MAX_ALTERNATIVES} alternatives")]
    Length,
}

impl Requirement {
    /// Only this version.
    pub fn exactly(version: &Version) -> Self {
        let alternative = Alternative { met: VersionReq { comparators: vec![equal_to(version)] }, not: Vec::new() };
        Self { text: format!("={version}"), alternatives: vec![alternative] }
    }

    /// The same, but only this version.
    pub fn and_exactly(mut self, version: &Version) -> Self {
        for alternative in &mut self.alternatives {
            alternative.met.comparators.push(equal_to(version));
        }
        self.text = format!("={version} and {}", self.text);
        self
    }

    pub fn matches(&self, version: &Version) -> bool {
        self.alternatives.iter().any(|one| one.met.matches(version) && !one.not.contains(version))
    }

    /// About what it costs to check a version, in the unit of [`Query::cost`](super::Query::cost).
    pub(super) fn cost(&self) -> usize {
        1 + self.text.len() / 8
    }

    /// About how much memory it takes.
    pub fn memory_size(&self) -> usize {
        let of_one = |one: &Alternative| {
            size_of::<Alternative>()
                + one.met.comparators.len() * size_of::<Comparator>()
                + one.not.len() * size_of::<Version>()
        };
        // Names of pre-releases are also in the text.
        2 * self.text.len() + self.alternatives.iter().map(of_one).sum::<usize>()
    }
}

impl fmt::Display for Requirement {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

impl FromStr for Requirement {
    type Err = NoRequirement;

    fn from_str(text: &str) -> Result<Self, NoRequirement> {
        if text.len() > MAX_LENGTH {
            return Err(NoRequirement::Length);
        }
        let bars = text.replace("||", "|");
        if bars.split('|').count() > MAX_ALTERNATIVES {
            return Err(NoRequirement::Length);
        }
        let alternatives = bars.split('|').map(alternative).collect::<Option<_>>();
        let alternatives = alternatives.ok_or_else(|| NoRequirement::Text(text.escape_debug().to_string()))?;
        Ok(Self { text: text.trim().to_owned(), alternatives })
    }
}

fn equal_to(version: &Version) -> Comparator {
    let Version { major, minor, patch, pre, .. } = version.clone();
    Comparator { op: Op::Exact, major, minor: Some(minor), patch: Some(patch), pre }
}

/// The text between two `||`: comparators separated by spaces or commas.
fn alternative(text: &str) -> Option<Alternative> {
    let mut words: Vec<String> = Vec::new();
    for word in text.split([' ', ',']).filter(|word| !word.is_empty()) {
        match words.last_mut() {
            // There may be a space between an operator and its version.
            Some(before) if before.ends_with(['<', '>', '=', '^', '~', '!']) => before.push_str(word),
            _ => words.push(word.to_owned()),
        }
    }
    if words.is_empty() {
        return None;
    }
    let (mut met, mut not) = (Vec::new(), Vec::new());
    let mut words = words.iter().map(String::as_str).peekable();
    while let Some(word) = words.next() {
        if words.peek() == Some(&"-") {
            words.next();
            let to = words.next()?;
            met.push(format!(">={}", whole(word)?));
            // `1.0 - 2.0` is below 2.1, `1.0 - 2.0.0` is up to 2.0.0.
            met.push(format!("<={}", if parts(to) < 3 { bare(to).to_owned() } else { whole(to)?.to_string() }));
        } else if let Some(version) = word.strip_prefix("!=").or_else(|| word.strip_prefix("<>")) {
            not.push(whole(version)?);
        } else {
            comparator(word, &mut met)?;
        }
    }
    let met = if met.is_empty() { VersionReq::STAR } else { VersionReq::parse(&met.join(", ")).ok()? };
    Some(Alternative { met, not })
}

fn comparator(word: &str, met: &mut Vec<String>) -> Option<()> {
    let operator = word.len() - word.trim_start_matches(['<', '>', '=', '^', '~']).len();
    let (operator, version) = word.split_at(operator);
    let is_wildcard = version.ends_with(['*', 'x', 'X']);
    match operator {
        "" | "=" | "==" if is_wildcard => met.push(bare(version).to_owned()),
        "" | "=" | "==" => met.push(format!("={}", whole(version)?)),
        "<" | "<=" | ">" | ">=" => met.push(format!("{operator}{}", whole(version)?)),
        "^" => met.push(format!("^{}", bare(version))),
        // The last given part may grow, unless it is the first.
        "~" if parts(version) < 3 => {
            let least = whole(version)?;
            met.extend([format!(">={least}"), format!("<{}.0.0", least.major.checked_add(1)?)]);
        }
        "~" => met.push(format!("~{}", bare(version))),
        _ => return None,
    }
    Some(())
}

/// The version with all of its parts.
fn whole(version: &str) -> Option<Version> {
    let version = bare(version);
    let zeros = match parts(version) {
        1 => ".0.0",
        2 => ".0",
        _ => "",
    };
    Version::parse(&format!("{version}{zeros}")).ok()
}

fn bare(version: &str) -> &str {
    version.trim_start_matches(['v', 'V'])
}

fn parts(version: &str) -> usize {
    version.split(['-', '+']).next().unwrap_or_default().split('.').count()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn met(requirement: &str) -> Vec<&'static str> {
        let requirement: Requirement = requirement.parse().expect(requirement);
        let all = ["0.3.1", "1.0.0", "1.2.0", "1.2.3", "1.2.9", "1.3.0", "1.9.9", "2.0.0", "2.0.5", "2.1.0", "3.4.0"];
        all.into_iter().filter(|version| requirement.matches(&version.parse().expect("a version"))).collect()
    }

    #[test]
    fn requirements_mean_what_they_mean_to_composer() {
        let from_1_2 = ["1.2.0", "1.2.3", "1.2.9", "1.3.0", "1.9.9"];
        assert_eq!(met("^1.2"), from_1_2);
        assert_eq!(met("~1.2"), from_1_2, "unlike Cargo's");
        assert_eq!(met("~1.2.3"), ["1.2.3", "1.2.9"]);
        assert_eq!(met("~1"), [&["1.0.0"][..], &from_1_2].concat());
        assert_eq!(met("1.2.3"), ["1.2.3"], "unlike Cargo's");
        assert_eq!(met("1.2"), ["1.2.0"]);
        assert_eq!(met("v2"), ["2.0.0"]);
        assert_eq!(met("=1.2.3"), met("1.2.3"));
        assert_eq!(met("1.2.*"), ["1.2.0", "1.2.3", "1.2.9"]);
        assert_eq!(met("*").len(), 11);
        assert_eq!(met(">=1.2 <2.0"), from_1_2);
        assert_eq!(met(">= 1.2, < 2.0"), from_1_2);
        assert_eq!(met(">1.2 <=1.3"), ["1.2.3", "1.2.9", "1.3.0"]);
        assert_eq!(met("^0.3 || 1.2.3 | >=3"), ["0.3.1", "1.2.3", "3.4.0"]);
        assert_eq!(met("1.2 - 2.0"), [&from_1_2[..], &["2.0.0", "2.0.5"]].concat());
        assert_eq!(met("1.2.3 - 2.0.0"), ["1.2.3", "1.2.9", "1.3.0", "1.9.9", "2.0.0"]);
        assert_eq!(met("^1.2 !=1.2.3"), ["1.2.0", "1.2.9", "1.3.0", "1.9.9"]);
        assert_eq!(met("!=1.2.3").len(), 10);
    }

    #[test]
    fn a_pre_release_is_wanted_by_name_alone() {
        let matches = |requirement: &str, version: &str| {
            requirement.parse::<Requirement>().expect(requirement).matches(&version.parse().expect("a version"))
        };
        assert!(matches("2.0.0-rc.1", "2.0.0-rc.1") && matches(">=2.0.0-rc.1", "2.0.0-rc.2"));
        assert!(!matches("^1.2", "1.3.0-rc.1") && !matches("*", "1.0.0-rc.1"));
    }

    #[test]
    fn an_exact_version_is_demanded_of_every_alternative() {
        let matches = |requirement: &str, version: &str| {
            let exact = "1.0.0".parse().expect("a version");
            let requirement = requirement.parse::<Requirement>().expect(requirement).and_exactly(&exact);
            requirement.matches(&version.parse().expect("a version"))
        };
        assert!(matches("^1 || ^2", "1.0.0") && matches("^2 || ^1", "1.0.0") && matches("*", "1.0.0"));
        assert!(!matches("^1 || ^2", "2.0.0") && !matches("^2 || ^1", "2.0.0") && !matches("^2", "1.0.0"));
        assert!(!matches("*", "1.0.1") && !matches("!=1.0.0", "1.0.0"));
    }

    #[test]
    fn what_takes_long_to_read_or_to_match_is_refused() {
        let parse = |text: &str| text.parse::<Requirement>();
        assert!(parse(&["1"; MAX_ALTERNATIVES].join("|")).is_ok());
        assert_eq!(parse(&["1"; MAX_ALTERNATIVES + 1].join("|")), Err(NoRequirement::Length));
        assert!(parse(&format!("1{}", " ".repeat(MAX_LENGTH - 1))).is_ok());
        assert_eq!(parse(&format!("1{}", " ".repeat(MAX_LENGTH))), Err(NoRequirement::Length));
        for text in
            ["~18446744073709551615", "~18446744073709551615.1", "~18446744073709551616", "^18446744073709551616"]
        {
            assert!(matches!(parse(text), Err(NoRequirement::Text(_))), "{text}");
        }
        let greatest: Version = format!("{0}.{0}.{0}", u64::MAX).parse().expect("a version");
        for text in ["^{}", "~{}.{}.{}", "<={}", "{}.*", "{}.{} - {}.{}", ">{}", "<{}.{}"] {
            let text = text.replace("{}", "18446744073709551615");
            parse(&text).expect(&text).matches(&greatest);
        }
        let size = |text: &str| parse(text).expect(text).memory_size();
        assert!(size("1|1|!=1") > size("1|1") + 80 && size("1|1") > size("1") + 80);
    }

    #[test]
    fn what_is_none_is_refused_with_what_it_could_be() {
        for text in
            ["", "||", "^1 ||", "one", "dev-master", "^", ">=", "1.2 -", "- 1.2", "1.2.3.4", "=>1", "!=", "1.0@dev"]
        {
            let refused = text.parse::<Requirement>().expect_err(text);
            assert!(refused.to_string().contains("^1.2"), "{refused}");
        }
    }
}
