//! Text for people: bytes, tables, sizes and times as a terminal can show them.

use std::fmt::Write;
use std::time::{Duration, UNIX_EPOCH};

use bytesize::ByteSize;

/// Bytes of unknown origin as text that moves no cursor: control characters and what is not UTF-8 are escaped.
pub(crate) fn printable(bytes: &[u8]) -> String {
    escape(bytes, |character| matches!(character, '\n' | '\t'))
}

/// The same on one line, as a cell of a table needs it.
pub(crate) fn line(text: &str) -> String {
    escape(text.as_bytes(), |_| false)
}

/// The same, cut where it becomes long.
pub(crate) fn preview(bytes: &[u8]) -> String {
    const MOST: usize = 80;
    // A character has at most four bytes: what lies behind these is not shown anyway.
    let line = escape(&bytes[..bytes.len().min(4 * MOST + 4)], |_| false);
    match line.char_indices().nth(MOST) {
        Some((end, _)) => format!("{}…", &line[..end]),
        None => line,
    }
}

fn escape(bytes: &[u8], keep: impl Fn(char) -> bool) -> String {
    let mut text = String::with_capacity(bytes.len());
    for chunk in bytes.utf8_chunks() {
        for character in chunk.valid().chars() {
            match character {
                _ if keep(character) || !character.is_control() => text.push(character),
                _ => text.extend(character.escape_default()),
            }
        }
        for byte in chunk.invalid() {
            write!(text, "\\x{byte:02x}").expect("a string takes all");
        }
    }
    text
}

/// Rows under a heading, in columns; those whose heading is in `right` are aligned there.
pub(crate) fn table<const N: usize>(heading: [&str; N], right: &[&str], rows: &[[String; N]]) -> String {
    let mut widths = heading.map(|title| title.chars().count());
    for row in rows {
        for (width, cell) in widths.iter_mut().zip(row) {
            *width = cell.chars().count().max(*width);
        }
    }
    let mut text = String::new();
    for row in std::iter::once(&heading.map(str::to_owned)).chain(rows) {
        let mut line = String::new();
        for ((cell, title), width) in row.iter().zip(heading).zip(widths) {
            let padded = if right.contains(&title) { format!("{cell:>width$}") } else { format!("{cell:<width$}") };
            line += &padded;
            line += "  ";
        }
        text += line.trim_end();
        text.push('\n');
    }
    text
}

pub(crate) fn size(bytes: i64) -> String {
    ByteSize(bytes.unsigned_abs()).to_string()
}

/// Milliseconds as a duration of at most two units.
pub(crate) fn duration(millis: i64) -> String {
    let whole = Duration::from_millis(millis.unsigned_abs());
    let rounded = match whole.as_secs() {
        0 => whole,
        1..60 => Duration::from_secs(whole.as_secs()),
        secs @ 60..3_600 => Duration::from_secs(secs),
        secs @ 3_600..86_400 => Duration::from_secs(secs / 60 * 60),
        secs => Duration::from_secs(secs / 3_600 * 3_600),
    };
    humantime::format_duration(rounded).to_string()
}

/// A time in milliseconds since 1970, in UTC; 0 is unknown, and what lies beyond the year 9999 no time.
pub(crate) fn time(millis: i64) -> String {
    const END: u64 = 253_402_300_800_000;
    match u64::try_from(millis) {
        Ok(millis @ 1..END) => {
            humantime::format_rfc3339_seconds(UNIX_EPOCH + Duration::from_millis(millis)).to_string()
        }
        _ => "-".into(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_data_moves_the_cursor_of_a_terminal() {
        assert_eq!(printable(b"a\n\tb\x1b[2J\xff\r"), "a\n\tb\\u{1b}[2J\\xff\\r");
        assert_eq!(printable("grüß 日本".as_bytes()), "grüß 日本");
    }

    #[test]
    fn a_preview_is_one_short_line_and_a_cell_one_line() {
        assert_eq!((preview(b"a\nb"), line("a\nb")), ("a\\nb".into(), "a\\nb".into()));
        assert_eq!(preview("ü".repeat(80).as_bytes()), "ü".repeat(80));
        assert_eq!(preview("日".repeat(10_000).as_bytes()), format!("{}…", "日".repeat(80)));
    }

    #[test]
    fn columns_are_as_wide_as_what_is_in_them() {
        let rows = [["a".to_owned(), "1".to_owned()], ["grün".to_owned(), "1000".to_owned()]];
        assert_eq!(table(["NAME", "N"], &["N"], &rows), "NAME     N\na        1\ngrün  1000\n");
    }

    #[test]
    fn figures_at_their_extremes_are_shown() {
        let times = [i64::MIN, 0, 1, 253_402_300_799_999, 253_402_300_800_000, i64::MAX].map(time);
        assert_eq!(times, ["-", "-", "1970-01-01T00:00:00Z", "9999-12-31T23:59:59Z", "-", "-"]);
        for extreme in [i64::MIN, i64::MAX] {
            assert!(!duration(extreme).is_empty() && !size(extreme).is_empty());
        }
    }

    #[test]
    fn a_duration_is_as_exact_as_it_is_useful() {
        let cases = [(0, "0s"), (450, "450ms"), (61_300, "1m 1s"), (3_661_000, "1h 1m"), (93_784_000, "1day 2h")];
        for (millis, text) in cases {
            assert_eq!(duration(millis), text);
        }
    }
}
