//! Text for people: bytes, tables, sizes and times in a form that is safe on a terminal.

use std::fmt::Write;
use std::time::{Duration, UNIX_EPOCH};

use bytesize::ByteSize;
use roster::model::{lasted, shell_argument, shortened};

/// Bytes of unknown origin as text that shows everything and moves no cursor: invalid UTF-8, control characters and
/// invisible ones are escaped.
pub(crate) fn printable(bytes: &[u8]) -> String {
    escape(bytes, |character| matches!(character, '\n' | '\t'))
}

/// JSON text that is safe to show and has the same meaning.
pub(crate) fn printable_json(json: &str) -> String {
    escape_json(json, |character| is_shown(character) || matches!(character, '\n' | '\t'))
}

/// The sequences that the log itself writes where it has colours. What others say may have these too, which hides nothing.
const COLOURS: [&str; 10] = ["[0m", "[1m", "[2m", "[3m", "[31m", "[32m", "[33m", "[34m", "[35m", "[36m"];

/// A line of the log, colours included, without invisible characters or line breaks: they are escaped as in JSON, which
/// the line may be.
pub(crate) fn visible(line: &[u8]) -> String {
    let line = String::from_utf8_lossy(line);
    let (text, end) = line.strip_suffix('\n').map_or((&*line, ""), |text| (text, "\n"));
    let shown = |text: &str| escape_json(text, |character| character == '\t' || is_shown(character));
    let mut parts = text.split('\u{1b}');
    let mut visible = shown(parts.next().unwrap_or_default());
    for part in parts {
        match COLOURS.iter().find_map(|colour| Some((colour, part.strip_prefix(colour)?))) {
            Some((colour, rest)) => visible.extend(["\u{1b}", colour, &shown(rest)]),
            None => visible.extend(["\\u001b", &shown(part)]),
        }
    }
    visible + end
}

fn escape_json(json: &str, keep: impl Fn(char) -> bool) -> String {
    let mut text = String::with_capacity(json.len());
    for character in json.chars() {
        if keep(character) {
            text.push(character);
        } else if matches!(character, '\n' | '\r') {
            text.extend(character.escape_default());
        } else {
            let units = character.encode_utf16(&mut [0; 2]).to_vec();
            units.iter().for_each(|unit| write!(text, "\\u{unit:04x}").expect("a string takes all"));
        }
    }
    text
}

/// The same on one line, for a cell of a table.
pub(crate) fn line(text: &str) -> String {
    escape(text.as_bytes(), |_| false)
}

/// A name as one argument of a command that is to be pasted into a shell.
pub(crate) fn argument(name: &str) -> String {
    // What begins so would be an option.
    let end = if name.starts_with('-') { "-- " } else { "" };
    format!("{end}{}", shell_argument(&line(name)))
}

/// A line, cut if long.
pub(crate) fn preview(bytes: &[u8]) -> String {
    const MOST: usize = 80;
    // A character has at most four bytes: what lies beyond these is not shown anyway.
    let line = escape(&bytes[..bytes.len().min(4 * MOST + 4)], |_| false);
    shortened(&line, MOST).into_owned()
}

fn escape(bytes: &[u8], keep: impl Fn(char) -> bool) -> String {
    let mut text = String::with_capacity(bytes.len());
    for chunk in bytes.utf8_chunks() {
        for character in chunk.valid().chars() {
            match character {
                _ if keep(character) || is_shown(character) => text.push(character),
                _ => text.extend(character.escape_default()),
            }
        }
        for byte in chunk.invalid() {
            write!(text, "\\x{byte:02x}").expect("a string takes all");
        }
    }
    text
}

/// Whether a character is visible and keeps the order of the others. Two names, or a line and what it seems to say, may
/// differ only in characters that are not: Unicode's `Default_Ignorable_Code_Point` (among them everything that changes
/// text direction, joiners, variation selectors and tags), line ends, annotations, and the empty Braille pattern.
/// Spaces are visible, if not distinguishable from one another.
fn is_shown(character: char) -> bool {
    !character.is_control()
        && !matches!(
            character,
            '\u{ad}'
                | '\u{34f}'
                | '\u{61c}'
                | '\u{115f}'..='\u{1160}'
                | '\u{17b4}'..='\u{17b5}'
                | '\u{180b}'..='\u{180f}'
                | '\u{200b}'..='\u{200f}'
                | '\u{2028}'..='\u{202e}'
                | '\u{2060}'..='\u{206f}'
                | '\u{2800}'
                | '\u{3164}'
                | '\u{fe00}'..='\u{fe0f}'
                | '\u{feff}'
                | '\u{ffa0}'
                | '\u{fff0}'..='\u{fffb}'
                | '\u{1bca0}'..='\u{1bca3}'
                | '\u{1d173}'..='\u{1d17a}'
                | '\u{e0000}'..='\u{e0fff}'
        )
}

/// Rows under a heading, in columns, each on one line; columns named in `right` are right-aligned.
pub(crate) fn table<const N: usize>(heading: [&str; N], right: &[&str], rows: &[[String; N]]) -> String {
    columns(heading, right, rows, [true; N])
}

/// The same without the columns in which no row has anything but `-`.
pub(crate) fn table_of_filled<const N: usize>(heading: [&str; N], right: &[&str], rows: &[[String; N]]) -> String {
    let is_filled = |column: usize| rows.is_empty() || rows.iter().any(|row| row[column] != "-");
    columns(heading, right, rows, std::array::from_fn(is_filled))
}

fn columns<const N: usize>(heading: [&str; N], right: &[&str], rows: &[[String; N]], shown: [bool; N]) -> String {
    let rows: Vec<_> = rows.iter().map(|row| row.each_ref().map(|cell| line(cell))).collect();
    let mut widths = heading.map(|title| title.chars().count());
    for row in &rows {
        for (width, cell) in widths.iter_mut().zip(row) {
            *width = cell.chars().count().max(*width);
        }
    }
    let mut text = String::new();
    for row in std::iter::once(&heading.map(str::to_owned)).chain(&rows) {
        let mut line = String::new();
        for (((cell, title), width), _) in row.iter().zip(heading).zip(widths).zip(shown).filter(|(_, shown)| *shown) {
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
    lasted(millis.unsigned_abs())
}

/// A time in milliseconds since 1970, in UTC; 0 is unknown, and times beyond the year 9999 are not shown.
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
    fn whatever_a_name_is_it_is_one_argument_of_a_shell() {
        assert_eq!(["mail", "a:b@1.0", "größe", "-x"].map(argument), ["mail", "a:b@1.0", "größe", "-- -x"]);
        assert_eq!(
            ["x;curl evil|sh", "$(a)", "it's", "a b", ""].map(argument),
            ["'x;curl evil|sh'", "'$(a)'", r"'it'\''s'", "'a b'", "''"]
        );
    }

    #[test]
    fn what_cannot_be_seen_or_turns_the_text_is_escaped_and_in_json_stays_the_same() {
        let hostile = "user\u{202e}nimda\u{2066}\u{200b}\u{feff}\u{ad}\u{e0041}\u{fe0f}\u{3164}\u{61c}\u{9b}2J\u{7f}";
        let shown =
            "user\\u{202e}nimda\\u{2066}\\u{200b}\\u{feff}\\u{ad}\\u{e0041}\\u{fe0f}\\u{3164}\\u{61c}\\u{9b}2J\\u{7f}";
        assert_eq!([printable(hostile.as_bytes()), line(hostile)], [shown, shown]);
        assert_eq!(preview(hostile.as_bytes()), format!("{}…", shown.chars().take(80).collect::<String>()));
        assert_eq!(line("a\u{2028}b"), "a\\u{2028}b");
        let document = serde_json::json!({ hostile: [hostile, "grüß 日本\u{3000}\n", "👍🏽"] });
        for json in [document.to_string(), format!("{document:#}")] {
            let shown = printable_json(&json);
            assert_eq!(serde_json::from_str::<serde_json::Value>(&shown).expect("JSON"), document);
            assert!(shown.chars().all(|character| character == '\n' || is_shown(character)));
            assert!(shown.contains("grüß 日本\u{3000}") && shown.contains("\\udb40\\udc41"), "{shown}");
        }
        assert_eq!(visible("\u{1b}[2m\u{202e}ü\n".as_bytes()), "\u{1b}[2m\\u202eü\n");
        let hostile = "\u{1b}]0;title\u{7}\u{1b}[2J\u{1b}[8m\u{1b}".as_bytes();
        assert_eq!(visible(hostile), "\\u001b]0;title\\u0007\\u001b[2J\\u001b[8m\\u001b");
        let plain = "e\u{301} und שלום";
        assert_eq!(printable(plain.as_bytes()), plain);
    }

    #[test]
    fn a_cell_breaks_no_table() {
        assert_eq!(
            table(["A", "B"], &[], &[["a\nb".to_owned(), "\u{202e}".to_owned()]]),
            "A     B\na\\nb  \\u{202e}\n"
        );
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
