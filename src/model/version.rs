//! Versions as names, metadata and registrations write them.

use std::fmt::Write as _;

use semver::{BuildMetadata, Version};

/// Parses a version with parts left out: `1` is `1.0.0`, `v2.3` is `2.3.0`.
pub(super) fn lenient_version(text: &str) -> Option<Version> {
    let text = text.trim().trim_start_matches('v');
    let parts = text.split(['-', '+']).next()?.matches('.').count();
    let whole = match parts {
        0 => text.parse::<u64>().is_ok().then(|| format!("{text}.0.0"))?,
        1 => format!("{text}.0"),
        _ => text.to_owned(),
    };
    Version::parse(&whole).ok()
}

/// The version of a registration that writes this text, also with leading zeros (`2024.01.05` is 2024.1.5). A text that
/// is none is a version of its own nevertheless, not above any that has numbers: `1.0.0.daily` is `0.0.0+1.0.0.daily`.
/// Without a text it is 0.0.0.
pub fn registered_version(text: &str) -> Version {
    let text = text.trim();
    let plain = without_leading_zeros(text.trim_start_matches(['v', 'V']));
    lenient_version(&plain).unwrap_or_else(|| Version { build: build(text), ..Version::new(0, 0, 0) })
}

/// Whether a version stands for a text that is none.
pub fn is_text_version(version: &Version) -> bool {
    let Version { major, minor, patch, pre, build } = version;
    (*major, *minor, *patch) == (0, 0, 0) && pre.is_empty() && !build.is_empty()
}

/// A version, or a part of a requirement, with its numbers as semver writes them.
pub fn without_leading_zeros(version: &str) -> String {
    let (numbers, rest) = version.split_at(version.find(['-', '+']).unwrap_or(version.len()));
    let numbers = numbers.split('.').map(|part| match part.trim_start_matches('0') {
        "" if !part.is_empty() => "0",
        number if number.bytes().all(|byte| byte.is_ascii_digit()) => number,
        _ => part,
    });
    numbers.collect::<Vec<_>>().join(".") + rest
}

/// A text as build metadata.
fn build(text: &str) -> BuildMetadata {
    if text.is_empty() {
        return BuildMetadata::EMPTY;
    }
    let identifiers: Vec<_> = text.split('.').map(identifier).collect();
    BuildMetadata::new(&identifiers.join(".")).unwrap_or_default()
}

/// A text between two dots, with what semver allows. Other characters than ASCII's keep their numbers: words of such are
/// not to be one.
fn identifier(text: &str) -> String {
    let mut identifier = String::with_capacity(text.len());
    for character in text.chars() {
        if character.is_ascii_alphanumeric() {
            identifier.push(character);
        } else if character.is_ascii() {
            identifier.push('-');
        } else {
            write!(identifier, "-{:x}", u32::from(character)).expect("a string takes all");
        }
    }
    if identifier.is_empty() { "-".into() } else { identifier }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_have_the_order_that_the_php_package_gives_them() {
        let versions: Vec<String> =
            serde_json::from_str(include_str!("../../tests/fixtures/versions.json")).expect("JSON");
        let versions: Vec<Version> = versions.iter().map(|version| lenient_version(version).expect(version)).collect();
        assert!(versions.is_sorted_by(|one, next| one < next), "{versions:?}");
    }

    #[test]
    fn a_registered_text_that_is_no_version_is_one_of_its_own() {
        for (text, version) in [
            ("", "0.0.0"),
            (" ", "0.0.0"),
            ("0.0.0", "0.0.0"),
            ("1", "1.0.0"),
            (" v1.2 ", "1.2.0"),
            ("V1.0", "1.0.0"),
            ("2.0.0-rc.1", "2.0.0-rc.1"),
            ("1.0.0+5", "1.0.0+5"),
            ("2024.01.05", "2024.1.5"),
            ("00.00", "0.0.0"),
            ("01.0.0-rc.01", "0.0.0+01.0.0-rc.01"),
            ("1.0.0.daily", "0.0.0+1.0.0.daily"),
            ("1.2.3.04", "0.0.0+1.2.3.04"),
            ("1.0-SNAPSHOT", "0.0.0+1.0-SNAPSHOT"),
            ("dev", "0.0.0+dev"),
            ("v", "0.0.0+v"),
            ("18446744073709551616", "0.0.0+18446744073709551616"),
            ("1.99999999999999999999.0", "0.0.0+1.99999999999999999999.0"),
            ("...", "0.0.0+-.-.-.-"),
            ("1.0_a b+c", "0.0.0+1.0-a-b-c"),
            ("+5", "0.0.0+-5"),
            ("-", "0.0.0+-"),
            ("测试", "0.0.0+-6d4b-8bd5"),
            ("\u{0}\u{1b}[0m", "0.0.0+---0m"),
        ] {
            let found = registered_version(text);
            assert_eq!(found.to_string(), version, "{text:?}");
            assert_eq!(Version::parse(version).expect(version), found, "it is read again");
            assert_eq!(is_text_version(&found), version.starts_with("0.0.0+"), "{text:?}");
        }
        for text in ["x".repeat(10_000), "é.".repeat(5_000), "0".repeat(10_000), ".".repeat(10_000), "9".repeat(10_000)]
        {
            let found = registered_version(&text);
            assert_eq!(Version::parse(&found.to_string()).expect("a version"), found);
        }
    }

    #[test]
    fn leading_zeros_are_left_out_of_numbers_alone() {
        for (text, plain) in [
            ("2024.01.05-rc.01+07", "2024.1.5-rc.01+07"),
            ("000.0x.00", "0.0x.0"),
            ("1.02.*", "1.2.*"),
            ("..", ".."),
            ("", ""),
            ("-01", "-01"),
        ] {
            assert_eq!(without_leading_zeros(text), plain, "{text}");
        }
    }
}
