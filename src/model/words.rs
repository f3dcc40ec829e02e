//! Words: how counts and long texts are written for people.

use std::borrow::Cow;
use std::time::{Duration, UNIX_EPOCH};

/// A count with its noun: `1 master`, `2 masters`.
pub fn counted(count: u64, noun: &str) -> String {
    if count == 1 { format!("1 {noun}") } else { format!("{count} {noun}s") }
}

/// A time in ms since 1970, in UTC; times beyond the year 9999 become its end.
pub fn utc(ms: u64) -> String {
    const END: u64 = 253_402_300_799_999;
    humantime::format_rfc3339_seconds(UNIX_EPOCH + Duration::from_millis(ms.min(END))).to_string()
}

/// Milliseconds as a duration of at most two units.
pub fn lasted(millis: u64) -> String {
    let whole = Duration::from_millis(millis);
    let rounded = match whole.as_secs() {
        0 => whole,
        secs @ 1..3_600 => Duration::from_secs(secs),
        secs @ 3_600..86_400 => Duration::from_secs(secs / 60 * 60),
        secs => Duration::from_secs(secs / 3_600 * 3_600),
    };
    humantime::format_duration(rounded).to_string()
}

/// A text as one argument of a command that is to be pasted into a shell.
pub fn shell_argument(text: &str) -> Cow<'_, str> {
    let is_plain = |character: char| character.is_alphanumeric() || "/._-+@:,=%".contains(character);
    match !text.is_empty() && text.chars().all(is_plain) {
        true => text.into(),
        false => format!("'{}'", text.replace('\'', r"'\''")).into(),
    }
}

/// A text, cut if it has more characters than `most`.
pub fn shortened(text: &str, most: usize) -> Cow<'_, str> {
    match text.char_indices().nth(most) {
        Some((end, _)) => format!("{}…", &text[..end]).into(),
        None => text.into(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_is_singular_and_what_fits_is_whole() {
        assert_eq!([0, 1, 2].map(|count| counted(count, "call")), ["0 calls", "1 call", "2 calls"]);
        assert_eq!([1, 2, 3].map(|most| shortened("öäü", most)), ["ö…", "öä…", "öäü"]);
    }
}
