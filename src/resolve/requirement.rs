//! Requirements of versions, as Composer writes them.
//!
//! `^1.2` and `~1.2` below 2.0, `~1.2.3` below 1.3, `1.2.*`, `1.0 - 2.0`, `>=1.2 <2.0 || ^3.0`, `!=1.4.2`; and `1.2.3`,
//! which is that version and no other (`1.2` is 1.2.0). A pre-release meets only what names one of the same version.

use std::fmt;
use std::str::FromStr;

use semver::{Version, VersionReq};

/// What a version must meet.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Requirement {
    text: String,
    /// One of these.
    alternatives: Vec<Alternative>,
}

/// All of this.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Alternative {
    met: VersionReq,
    not: Vec<Version>,
}

/// Why a text is no requirement.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "`{0}` is no requirement of versions; write `^1.2`, `~1.2.3`, `1.2.*`, `1.0 - 2.0`, `>=1.2 <2.0 || ^3.0`, or `1.2.3`"
)]
pub struct NoRequirement(String);

impl Requirement {
    pub fn matches(&self, version: &Version) -> bool {
        self.alternatives.iter().any(|one| one.met.matches(version) && !one.not.contains(version))
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
        let wrong = || NoRequirement(text.escape_debug().to_string());
        let alternatives =
            text.replace("||", "|").split('|').map(alternative).collect::<Option<_>>().ok_or_else(wrong)?;
        Ok(Self { text: text.trim().to_owned(), alternatives })
    }
}

/// What stands between two `||`: comparators with spaces or commas between them.
fn alternative(text: &str) -> Option<Alternative> {
    let mut words: Vec<String> = Vec::new();
    for word in text.split([' ', ',']).filter(|word| !word.is_empty()) {
        match words.last_mut() {
            // An operator may stand apart from its version.
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
        // The last part that is given may grow, but for the first.
        "~" if parts(version) < 3 => {
            let least = whole(version)?;
            met.extend([format!(">={least}"), format!("<{}.0.0", least.major + 1)]);
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
    fn what_is_none_is_refused_with_what_it_could_be() {
        for text in
            ["", "||", "^1 ||", "one", "dev-master", "^", ">=", "1.2 -", "- 1.2", "1.2.3.4", "=>1", "!=", "1.0@dev"]
        {
            let refused = text.parse::<Requirement>().expect_err(text);
            assert!(refused.to_string().contains("^1.2"), "{refused}");
        }
    }
}
