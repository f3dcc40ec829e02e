//! Version requirements, in Composer's syntax.
//!
//! `^1.2` and `~1.2` are below 2.0, `~1.2.3` is below 1.3, `1.2.*`, `1.0 - 2.0`, `>=1.2 <2.0 || ^3.0`, `!=1.4.2`; and
//! `1.2.3` is that version and no other (`1.2` is 1.2.0). A pre-release only meets requirements that name one of the
//! same version. What is no requirement is the text of a registered version that is none by semver (`1.0.0.daily`), and
//! such a version meets nothing else.

use std::fmt;
use std::str::FromStr;

use semver::{Comparator, Op, Version, VersionReq};

use crate::model::{is_text_version, registered_version, without_leading_zeros};

/// The longest requirement, in bytes, and the most alternatives: each is checked against each version on offer.
const MAX_LENGTH: usize = 256;
const MAX_ALTERNATIVES: usize = 32;

/// Characters of requirements: what has one, and cannot be read, is a mistake rather than the text of a version.
const SYNTAX: [char; 10] = ['<', '>', '=', '^', '~', '!', '*', '|', ',', '@'];

/// What a version must meet.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Requirement {
    text: String,
    /// Any of these.
    alternatives: Vec<Alternative>,
}

/// One way to meet it.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Alternative {
    /// All of these, whatever the build.
    Numbers { met: VersionReq, not: Vec<Version> },
    /// This very version, with its build.
    Exactly(Version),
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
        Self { text: format!("={version}"), alternatives: vec![Alternative::of(version)] }
    }

    /// The same, but only this version.
    pub fn and_exactly(mut self, version: &Version) -> Self {
        let exact = Alternative::of(version);
        self.alternatives.retain_mut(|alternative| match alternative {
            Alternative::Numbers { met, .. } => {
                met.comparators.push(equal_to(version));
                !is_text_version(version)
            }
            Alternative::Exactly(of) => exact.matches(of),
        });
        self.text = format!("={version} and {}", self.text);
        self
    }

    pub fn matches(&self, version: &Version) -> bool {
        self.alternatives.iter().any(|one| one.matches(version))
    }

    /// About what it costs to check a version, in the unit of [`Query::cost`](super::Query::cost).
    pub(super) fn cost(&self) -> usize {
        1 + self.text.len() / 8
    }

    /// About how much memory it takes.
    pub fn memory_size(&self) -> usize {
        let of_one = |one: &Alternative| {
            let more = match one {
                Alternative::Numbers { met, not } => {
                    met.comparators.len() * size_of::<Comparator>() + not.len() * size_of::<Version>()
                }
                Alternative::Exactly(version) => version.build.len(),
            };
            size_of::<Alternative>() + more
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

impl Alternative {
    /// This version; one with numbers in any build, as in the name of a master's service.
    fn of(version: &Version) -> Self {
        match is_text_version(version) {
            true => Self::Exactly(version.clone()),
            false => Self::Numbers { met: VersionReq { comparators: vec![equal_to(version)] }, not: Vec::new() },
        }
    }

    fn matches(&self, version: &Version) -> bool {
        match self {
            Self::Numbers { met, not } => !is_text_version(version) && met.matches(version) && !not.contains(version),
            Self::Exactly(of) => of == version,
        }
    }
}

fn equal_to(version: &Version) -> Comparator {
    let Version { major, minor, patch, pre, .. } = version.clone();
    Comparator { op: Op::Exact, major, minor: Some(minor), patch: Some(patch), pre }
}

/// The text between two `||`.
fn alternative(text: &str) -> Option<Alternative> {
    let exact = text.trim().trim_start_matches('=').trim_start();
    match Version::parse(exact) {
        // As answers show it.
        Ok(version) if is_text_version(&version) => Some(Alternative::Exactly(version)),
        _ => numbers(text).or_else(|| is_text(exact).then(|| Alternative::of(&registered_version(exact)))),
    }
}

/// Whether what is no requirement can be the text of a version.
fn is_text(text: &str) -> bool {
    let is_other = |character: char| character.is_whitespace() || character.is_control() || SYNTAX.contains(&character);
    !text.is_empty() && !text.contains(is_other)
}

/// Comparators separated by spaces or commas.
fn numbers(text: &str) -> Option<Alternative> {
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
            met.push(format!("<={}", if parts(to) < 3 { bare(to) } else { whole(to)?.to_string() }));
        } else if let Some(version) = word.strip_prefix("!=").or_else(|| word.strip_prefix("<>")) {
            not.push(whole(version)?);
        } else {
            comparator(word, &mut met)?;
        }
    }
    let met = if met.is_empty() { VersionReq::STAR } else { VersionReq::parse(&met.join(", ")).ok()? };
    Some(Alternative::Numbers { met, not })
}

fn comparator(word: &str, met: &mut Vec<String>) -> Option<()> {
    let operator = word.len() - word.trim_start_matches(['<', '>', '=', '^', '~']).len();
    let (operator, version) = word.split_at(operator);
    let is_wildcard = version.ends_with(['*', 'x', 'X']);
    match operator {
        "" | "=" | "==" if is_wildcard => met.push(bare(version)),
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
    let zeros = match parts(&version) {
        1 => ".0.0",
        2 => ".0",
        _ => "",
    };
    Version::parse(&format!("{version}{zeros}")).ok()
}

fn bare(version: &str) -> String {
    without_leading_zeros(version.trim_start_matches(['v', 'V']))
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
        assert_eq!(met(">=01.02 <02"), from_1_2);
        assert_eq!(met("01.02.*"), ["1.2.0", "1.2.3", "1.2.9"]);
    }

    #[test]
    fn a_version_that_is_none_by_semver_is_wanted_by_its_text_alone() {
        let met = |requirement: &str| {
            let requirement: Requirement = requirement.parse().expect(requirement);
            let texts = ["", "0.0.1", "1.0.0", "1.0.0+5", "1.0.0.daily", "2024.01.05", "1.2.x", "dev", "测试", "正式"];
            texts.into_iter().filter(|text| requirement.matches(&registered_version(text))).collect::<Vec<_>>()
        };
        for text in ["1.0.0.daily", "2024.01.05", "dev", "测试"] {
            assert_eq!(met(text), [text]);
            assert_eq!(met(&format!(" = {text} ")), [text]);
            let shown = registered_version(text);
            assert_eq!(met(&shown.to_string()), [text], "as it is shown");
        }
        assert_eq!(met("0.0.0+1.2.x"), ["1.2.x"]);
        assert_eq!(met("1.2.x"), Vec::<&str>::new());
        assert_eq!(met("dev || ^1"), ["1.0.0", "1.0.0+5", "dev"]);
        assert_eq!(met("^0"), ["", "0.0.1"]);
        assert_eq!(met("0.0.0"), [""], "those without a version");
        assert_eq!(met("*"), ["", "0.0.1", "1.0.0", "1.0.0+5", "2024.01.05"]);
        assert_eq!(met("!=0.0.1"), ["", "1.0.0", "1.0.0+5", "2024.01.05"]);
        assert_eq!(met(">=2024.01"), ["2024.01.05"]);
        assert_eq!(met("1.0.0"), ["1.0.0", "1.0.0+5"]);
        assert_eq!(met("1.0.0+5"), ["1.0.0", "1.0.0+5"], "in any build");
        assert_eq!(met("DEV"), Vec::<&str>::new());
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
        assert!(!matches("dev", "1.0.0") && !matches("dev", "0.0.0+dev"));
        let dev = || "0.0.0+dev".parse().expect("a version");
        let named = |requirement: &str| requirement.parse::<Requirement>().expect(requirement).and_exactly(&dev());
        assert!(named("dev").matches(&dev()) && named("^1 || dev").matches(&dev()));
        assert!(!named("*").matches(&dev()) && !named("one").matches(&dev()));
        assert!(!named("*").matches(&Version::new(1, 0, 0)) && !named("*").matches(&Version::new(0, 0, 0)));
        assert!(
            Requirement::exactly(&dev()).matches(&dev())
                && !Requirement::exactly(&dev()).matches(&Version::new(0, 0, 0))
        );
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
        for text in [
            "",
            "||",
            "^1 ||",
            "=",
            "the newest",
            "^dev",
            "^",
            ">=",
            ">=1.2.3.4",
            "1.2 -",
            "- 1.2",
            "=>1",
            "!=",
            "1.0@dev",
            "dev*",
            "dev\u{1b}",
            "one\ntwo",
        ] {
            let refused = text.parse::<Requirement>().expect_err(text);
            assert!(refused.to_string().contains("^1.2"), "{refused}");
        }
    }
}
