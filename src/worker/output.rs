//! The output of workers: line by line into the sidecar's log or a file of the group, with the last lines kept for
//! `roster worker logs`.

use std::collections::VecDeque;
use std::os::fd::OwnedFd;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime};

use bytes::BufMut;
use serde::Deserialize;
use tokio::io::AsyncReadExt;
use tokio::net::unix::pipe::Receiver;
use tokio::time::{Instant, sleep_until, timeout};

use super::config::Config;
use super::log_file::LogFile;
use crate::task::Tasks;

/// Its target in the log.
pub const OUTPUT_LOG: &str = "roster::worker::output";

/// Longer lines are logged in pieces; a longer message or context of a record is cut.
const MAX_LINE_BYTES: usize = 8 * 1024;

/// Longer keys are not looked up in a context.
const MAX_KEY_BYTES: usize = 256;

/// An incomplete line is logged when nothing more arrives for this long: progress, or a prompt.
const PART_TIMEOUT: Duration = Duration::from_secs(3);

/// The levels of PSR-3.
const LEVELS: [&str; 8] = ["emergency", "alert", "critical", "error", "warning", "notice", "info", "debug"];

/// How much is read at a time.
const READ_BYTES: usize = 4 * 1024;

/// How many bytes of a process's output are read in this time. A process that prints more is blocked by its pipe.
const MAX_BYTES_PER_PERIOD: usize = 256 * 1024;
const PERIOD: Duration = Duration::from_millis(250);

/// How much of a group's output is kept, and the overhead of a line: an empty one takes room and time as well.
const MAX_KEPT_BYTES: usize = 256 * 1024;
const LINE_OVERHEAD: usize = 128;

/// The last lines of a group, and the file with all of them.
#[derive(Debug, Default)]
pub(super) struct Output {
    kept: Mutex<Kept>,
    /// None: they are in the sidecar's log.
    file: Option<LogFile>,
}

#[derive(Debug, Default)]
struct Kept {
    lines: VecDeque<Line>,
    bytes: usize,
    /// The number of the last line.
    number: u64,
}

/// A printed line.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Line {
    /// One more than that of the line before.
    pub number: u64,
    pub at: SystemTime,
    pub worker: String,
    pub is_error: bool,
    pub text: String,
}

/// What a group's processes printed after some line.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Printed {
    pub lines: Vec<Line>,
    /// The number of the group's last line.
    pub last: u64,
    /// How many of the group's lines after the given one are no longer kept.
    pub missed: u64,
}

impl Output {
    /// The output of a group; starts its file, if it has one.
    pub(super) fn start(config: &Config, tasks: &Tasks) -> Self {
        Self { file: LogFile::start(config, tasks), ..Self::default() }
    }

    /// How many lines are missing in the file, if there is one.
    pub(super) fn left_out(&self) -> Option<u64> {
        self.file.as_ref().map(LogFile::left_out)
    }

    fn keep(&self, worker: &str, is_error: bool, text: &str) {
        let mut kept = self.kept();
        kept.number += 1;
        kept.bytes += text.len() + LINE_OVERHEAD;
        let line = Line {
            number: kept.number,
            at: SystemTime::now(),
            worker: worker.to_owned(),
            is_error,
            text: text.to_owned(),
        };
        kept.lines.push_back(line);
        while kept.bytes > MAX_KEPT_BYTES {
            let Some(oldest) = kept.lines.pop_front() else { return };
            kept.bytes -= oldest.text.len() + LINE_OVERHEAD;
        }
    }

    /// The lines after this number, of one worker or of all.
    pub(super) fn after(&self, number: u64, worker: Option<&str>) -> Printed {
        let kept = self.kept();
        let wanted = |line: &&Line| line.number > number && worker.is_none_or(|worker| line.worker == worker);
        let lines = kept.lines.iter().filter(wanted).cloned().collect();
        let oldest = kept.lines.front().map_or(kept.number + 1, |line| line.number);
        Printed { lines, last: kept.number, missed: (oldest - 1).saturating_sub(number) }
    }

    fn kept(&self) -> MutexGuard<'_, Kept> {
        self.kept.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Logs the output of a pipe until nobody can write to it any more.
    pub(super) async fn read(&self, pipe: OwnedFd, worker: &str, pid: i32, is_error: bool) {
        let Ok(mut pipe) = Receiver::from_owned_fd(pipe) else { return };
        let (mut begun, mut read, mut line) = (Instant::now(), 0, Vec::new());
        loop {
            if begun.elapsed() >= PERIOD {
                (begun, read) = (Instant::now(), 0);
            } else if read >= MAX_BYTES_PER_PERIOD {
                sleep_until(begun + PERIOD).await;
                continue;
            }
            if let Some(file) = &self.file {
                file.has_room().await;
            }
            let held = line.len();
            line.reserve(READ_BYTES);
            let patience = if held == 0 { Duration::MAX } else { PART_TIMEOUT };
            match timeout(patience, pipe.read_buf(&mut (&mut line).limit(READ_BYTES))).await {
                Ok(Ok(0) | Err(_)) => break,
                Ok(Ok(bytes)) => read += bytes,
                Err(_) => {
                    self.log(&line, worker, pid, is_error);
                    line.clear();
                    continue;
                }
            }
            let mut start = 0;
            while let Some(end) = line[held.max(start)..].iter().position(|byte| *byte == b'\n') {
                let end = held.max(start) + end;
                self.log(&line[start..end], worker, pid, is_error);
                start = end + 1;
                read += LINE_OVERHEAD;
            }
            line.drain(..start);
            if line.len() >= MAX_LINE_BYTES {
                self.log(&line, worker, pid, is_error);
                line.clear();
            }
        }
        if !line.is_empty() {
            self.log(&line, worker, pid, is_error);
        }
    }

    /// Logs a record that a process sent over its channel, at a level of PSR-3.
    pub(super) fn log_record(&self, worker: &str, pid: i32, level: &str, message: &str, context: &str) {
        let level = LEVELS.into_iter().find(|known| *known == level).unwrap_or("info");
        let (message, context) = (filled_in(message, context), cut(context, MAX_LINE_BYTES));
        match &self.file {
            Some(file) if matches!(context, "" | "null" | "[]" | "{}") => file.write(level, worker, pid, &message),
            Some(file) => file.write(level, worker, pid, &format!("{message} {context}")),
            None => tell(level, worker, pid, Detail { context: Some(context), stream: None }, &message),
        }
        self.keep(worker, is_error(level), &format!("{level}: {message} {context}"));
    }

    fn log(&self, line: &[u8], worker: &str, pid: i32, is_error: bool) {
        let text = String::from_utf8_lossy(line);
        let text = text.trim_end_matches('\r');
        let (level, stream) = (level_in(text), if is_error { "stderr" } else { "stdout" });
        match &self.file {
            Some(file) => file.write(level.unwrap_or(stream), worker, pid, text),
            None => tell(level.unwrap_or("info"), worker, pid, Detail { context: None, stream: Some(stream) }, text),
        }
        self.keep(worker, is_error, text);
    }
}

/// The fields of a line in the sidecar's log.
struct Detail<'a> {
    context: Option<&'a str>,
    stream: Option<&'a str>,
}

/// Writes to the sidecar's log, at a level of PSR-3.
fn tell(level: &str, worker: &str, pid: i32, Detail { context, stream }: Detail<'_>, text: &str) {
    match level {
        _ if is_error(level) => {
            tracing::error!(target: OUTPUT_LOG, worker, pid, level, context, stream, "{text}");
        }
        "warning" => tracing::warn!(target: OUTPUT_LOG, worker, pid, context, stream, "{text}"),
        "debug" => tracing::debug!(target: OUTPUT_LOG, worker, pid, context, stream, "{text}"),
        _ => tracing::info!(target: OUTPUT_LOG, worker, pid, context, stream, "{text}"),
    }
}

fn is_error(level: &str) -> bool {
    matches!(level, "emergency" | "alert" | "critical" | "error")
}

/// The level inside a line that is a JSON object, as Monolog and Pino write them.
fn level_in(text: &str) -> Option<&'static str> {
    #[derive(Deserialize)]
    struct Record {
        level_name: Option<String>,
        level: Option<Level>,
        severity: Option<String>,
    }

    #[derive(Deserialize)]
    #[serde(untagged)]
    enum Level {
        Name(String),
        Number(u32),
    }

    let record: Record = text.starts_with('{').then(|| serde_json::from_str(text).ok())??;
    let name = match (record.level_name.or(record.severity), record.level) {
        (Some(name), _) | (None, Some(Level::Name(name))) => name,
        (None, Some(Level::Number(number))) => return level_of(number),
        (None, None) => return None,
    };
    let name = name.to_ascii_lowercase();
    match &*name {
        "trace" => Some("debug"),
        "warn" => Some("warning"),
        "err" => Some("error"),
        "crit" | "fatal" => Some("critical"),
        "emerg" => Some("emergency"),
        name => LEVELS.into_iter().find(|level| *level == name),
    }
}

/// Pino counts in tens, Monolog in hundreds.
fn level_of(number: u32) -> Option<&'static str> {
    match number {
        10 | 20 | 100 => Some("debug"),
        30 | 200 => Some("info"),
        250 => Some("notice"),
        40 | 300 => Some("warning"),
        50 | 400 => Some("error"),
        60 | 500 => Some("critical"),
        550 => Some("alert"),
        600 => Some("emergency"),
        _ => None,
    }
}

/// The message with each `{key}` replaced by its value in the context, a JSON object; up to the length of a line.
fn filled_in(message: &str, context: &str) -> String {
    let context: serde_json::Map<String, serde_json::Value> = serde_json::from_str(context).unwrap_or_default();
    // The rest of a long one is not even looked at.
    let (mut filled, mut rest) = (String::new(), cut(message, MAX_LINE_BYTES));
    while filled.len() < MAX_LINE_BYTES
        && let Some((before, after)) = rest.split_once('{')
    {
        filled.push_str(before);
        let known =
            cut(after, MAX_KEY_BYTES).find('}').and_then(|end| Some((context.get(&after[..end])?, &after[end + 1..])));
        rest = match known {
            Some((value, after)) => {
                filled.push_str(&value.as_str().map_or_else(|| value.to_string(), str::to_owned));
                after
            }
            None => {
                filled.push('{');
                after
            }
        };
    }
    filled.push_str(rest);
    filled.truncate(cut(&filled, MAX_LINE_BYTES).len());
    filled
}

/// At most this many bytes of a text, cut between characters.
fn cut(text: &str, most: usize) -> &str {
    let end = (0..=most.min(text.len())).rev().find(|end| text.is_char_boundary(*end));
    &text[..end.unwrap_or(0)]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn placeholders_of_a_message_are_filled_in() {
        let context = r#"{"to":"ada","bytes":7,"list":[1]}"#;
        assert_eq!(filled_in("sent {bytes} bytes to {to}: {list}", context), "sent 7 bytes to ada: [1]");
        assert_eq!(filled_in("{nobody} {to {to}}", context), "{nobody} {to ada}");
        assert_eq!(filled_in("{to}", "null"), "{to}");
    }

    #[test]
    fn a_message_of_any_length_costs_a_line() {
        assert_eq!(filled_in(&"{".repeat(16 << 20), "{}"), "{".repeat(MAX_LINE_BYTES));
        let context = serde_json::json!({ "a": "ä".repeat(1 << 20) }).to_string();
        assert_eq!(filled_in("1{a}{a}", &context), format!("1{}", "ä".repeat(MAX_LINE_BYTES / 2 - 1)));
        let output = Output::default();
        output.log_record("web/1", 1, "info", &"x".repeat(1 << 20), &context);
        let kept = output.after(0, None).lines;
        assert!(kept[0].text.len() < 3 * MAX_LINE_BYTES, "{}", kept[0].text.len());
    }

    #[test]
    fn a_level_that_is_none_is_that_of_information() {
        let output = Output::default();
        (0..9).for_each(|_| output.log_record("web/1", 1, &"x".repeat(100_000), "text", "{}"));
        assert!(output.after(0, None).lines.iter().all(|line| line.text == "info: text {}" && !line.is_error));
    }

    #[test]
    fn the_level_of_a_line_is_what_it_says_itself_where_it_is_json() {
        for (line, level) in [
            (r#"{"message":"full","context":{},"level":400,"level_name":"ERROR","channel":"app"}"#, Some("error")),
            (r#"{"level":40,"msg":"low"}"#, Some("warning")),
            (r#"{"severity":"Notice"}"#, Some("notice")),
            (r#"{"level":"fatal"}"#, Some("critical")),
            (r#"{"level":"loud"}"#, None),
            (r#"{"level":[]}"#, None),
            (r#"{"level":41}"#, None),
            (r#"{"message":"level"}"#, None),
            (r#"["error"]"#, None),
            ("error: no JSON", None),
            ("{", None),
        ] {
            assert_eq!(level_in(line), level, "{line}");
        }
    }

    #[tokio::test]
    async fn what_no_newline_ends_is_told_when_nothing_more_comes() {
        let output = std::sync::Arc::new(Output::default());
        let (read, mut write) = std::io::pipe().expect("a pipe");
        let reader = output.clone();
        let reading = tokio::spawn(async move { reader.read(read.into(), "web/1", 1, false).await });
        std::io::Write::write_all(&mut write, b"line\n50 % ...").expect("written");
        let told = async {
            loop {
                let lines = output.after(0, None).lines;
                if lines.len() == 2 {
                    return lines[1].text.clone();
                }
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        };
        assert_eq!(timeout(Duration::from_secs(60), told).await.as_deref(), Ok("50 % ..."));
        drop(write);
        reading.await.expect("it ends");
        assert_eq!(output.after(0, None).lines.len(), 2);
    }

    #[test]
    fn what_is_kept_is_bounded_also_of_empty_lines() {
        let output = Output::default();
        (0..100_000).for_each(|_| output.keep("web/1", false, ""));
        let printed = output.after(0, None);
        assert!(printed.lines.len() <= MAX_KEPT_BYTES / LINE_OVERHEAD, "{}", printed.lines.len());
        assert_eq!((printed.last, printed.missed), (100_000, 100_000 - printed.lines.len() as u64));
        output.keep("web/2", true, "late");
        let printed = output.after(100_000, Some("web/1"));
        assert_eq!((printed.lines, printed.last, printed.missed), (vec![], 100_001, 0));
        assert_eq!(output.after(100_000, Some("web/2")).lines[0].text, "late");
    }
}
