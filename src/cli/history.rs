//! `roster history`: what happened to instances, when, and why.

use std::io::{self, IsTerminal, Write};
use std::thread::sleep;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use clap::Args;
use roster::history::{Entry, Event};
use roster::thrift::client::{Client, Error};
use roster::thrift::idl::{HistoryQuery, ServiceQuery};
use serde_json::json;

use super::connection::{Connection, with_unit};
use super::explain::never_had;
use super::{Output, json, text};

/// Print what happened to instances, when, and why, oldest first
///
/// The newest entries are kept across restarts. Times are in UTC.
#[derive(Debug, Args)]
pub(crate) struct History {
    /// The name of a service, without a version [default: all]
    service: Option<String>,
    /// Only of this instance: `host:port`, or the id of a master
    #[arg(long, value_name = "INSTANCE")]
    instance: Option<String>,
    /// Only since this time: a time ago (`90m`), or a date (`2026-11-27T03:00:00Z`)
    #[arg(long, value_name = "WHEN", value_parser = since)]
    since: Option<SystemTime>,
    /// Continue with new entries until interrupted; JSON is then one object per line
    #[arg(short, long)]
    follow: bool,
    #[arg(short, long, value_enum, default_value_t = Output::Table)]
    output: Output,
    #[command(flatten)]
    connection: Connection,
}

/// How often to poll for more.
const POLL: Duration = Duration::from_secs(1);

impl History {
    pub(crate) fn run(self) -> anyhow::Result<()> {
        let mut client = self.connection.client();
        let since = self.since.and_then(|since| since.duration_since(UNIX_EPOCH).ok());
        let query = HistoryQuery {
            service_name: self.service,
            instance: self.instance,
            since_ms: since.map(|since| since.as_millis() as i64),
            ..HistoryQuery::default()
        };
        let (mut entries, mut last, not_written) = read(&mut client, &query)?;
        if let Some(why) = &not_written {
            eprintln!("roster: it will not survive a restart: {}", text::preview(why.as_bytes()));
        }
        if query.service_name.is_some() && entries.iter().all(|entry| entry.service.is_empty()) && !self.follow {
            // One that is misspelt is told to be unknown, unless something of it may not be kept any more.
            let query = ServiceQuery { service_name: query.service_name.clone(), ..ServiceQuery::default() };
            let known = client.instances(query);
            known.inspect_err(|_| entries.iter().for_each(|entry| eprintln!("roster: {}", line(entry))))?;
        }
        if let (Some(service), Some(instance), true, false) =
            (&query.service_name, &query.instance, entries.is_empty(), self.follow)
            && let Some(absence) = never_had(&mut client, service, instance)?
        {
            return Err(absence.into());
        }
        if self.output == Output::Json && !self.follow {
            json::print(&json!({ "entries": entries, "notWritten": not_written }))?;
            return Ok(());
        }
        loop {
            print(&entries, self.output)?;
            if !self.follow {
                return Ok(());
            }
            (entries, last) = next(&mut client, HistoryQuery { after: Some(last), ..query.clone() })?;
        }
    }
}

/// New entries, also of the next sidecar, and the number of the last one.
fn next(client: &mut Client, query: HistoryQuery) -> anyhow::Result<(Vec<Entry>, i64)> {
    let mut is_told = false;
    loop {
        sleep(POLL);
        let error = match read(client, &query) {
            Ok((entries, last, _)) => return Ok((entries, last)),
            Err(error) => error,
        };
        let is_away = |error: &Error| !matches!(error, Error::NotFound(_) | Error::Denied(_) | Error::Invalid(_));
        if !error.downcast_ref().is_some_and(is_away) {
            return Err(error);
        }
        if !std::mem::replace(&mut is_told, true) {
            eprintln!("roster: {}; waiting for the sidecar to return", text::printable(error.to_string().as_bytes()));
        }
    }
}

/// All pages; the number of the last entry, and why the history is not being written.
pub(crate) fn read(client: &mut Client, query: &HistoryQuery) -> anyhow::Result<(Vec<Entry>, i64, Option<String>)> {
    let (mut query, mut entries) = (query.clone(), Vec::new());
    loop {
        let page = client.history(query.clone())?;
        entries.extend(page.entries.into_iter().map(Entry::from));
        if !page.has_more {
            return Ok((entries, page.cursor, page.not_written));
        }
        query.after = Some(page.cursor);
    }
}

fn print(entries: &[Entry], output: Output) -> io::Result<()> {
    let mut out = io::stdout().lock();
    for entry in entries {
        match output {
            Output::Table => writeln!(out, "{}", line(entry))?,
            Output::Json => writeln!(out, "{}", text::printable_json(&json!(entry).to_string()))?,
        }
    }
    // The reader of a pipe should see it immediately.
    if out.is_terminal() { Ok(()) } else { out.flush() }
}

/// An entry for people.
pub(crate) fn line(entry: &Entry) -> String {
    let what = match entry.event {
        Event::Unknown => "?".into(),
        event => json!(event).as_str().unwrap_or_default().to_owned(),
    };
    let what = if entry.count > 0 { format!("{what} {}", entry.count) } else { what };
    let path = entry.path.as_ref().map(|path| path.to_string()).unwrap_or_default();
    // Undecodable nodes are known only by their path; otherwise it may be long, and JSON has it.
    let place = if entry.event == Event::Undecodable { &path } else { &entry.instance };
    let version = if entry.version == "0.0.0" { "" } else { &entry.version };
    let words = [entry.service.as_str(), version, place, if entry.service.is_empty() { &entry.source } else { "" }];
    let words: Vec<_> = words.into_iter().filter(|word| !word.is_empty()).map(text::line).collect();
    let why = text::line(&entry.why);
    let words = words.join(" ");
    let told =
        [words.as_str(), why.as_str()].into_iter().filter(|part| !part.is_empty()).collect::<Vec<_>>().join(": ");
    format!("{}  {what:<11}  {told}", text::time(entry.time)).trim_end().to_owned()
}

/// A time ago, or a date.
fn since(told: &str) -> Result<SystemTime, String> {
    if let Ok(time) = humantime::parse_rfc3339_weak(told) {
        return Ok(time);
    }
    let ago = with_unit(told, "write how long ago, such as \"90m\", or a time: \"2026-11-27T03:00:00Z\"")?;
    Ok(SystemTime::now().checked_sub(ago).unwrap_or(UNIX_EPOCH))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_entry_is_one_line_that_moves_no_cursor() {
        let entry = Entry {
            time: 1_700_000_000_000,
            event: Event::Vanished,
            service: "web\u{1b}".into(),
            version: "1.2.0".into(),
            instance: "10.0.0.5:80".into(),
            why: "its node\nwas deleted".into(),
            ..Entry::default()
        };
        let told = "2023-11-14T22:13:20Z  VANISHED     web\\u{1b} 1.2.0 10.0.0.5:80: its node\\nwas deleted";
        assert_eq!(line(&entry), told);
        let read = Entry { event: Event::Read, source: "zk".into(), count: 3, ..Entry::default() };
        assert_eq!(line(&read), "-  READ 3       zk");
        assert_eq!(line(&Entry { event: Event::Started, ..Entry::default() }), "-  STARTED");
    }

    #[test]
    fn when_is_a_time_or_so_long_ago() {
        let at = |told| since(told).expect(told).duration_since(UNIX_EPOCH).expect("later").as_secs();
        assert_eq!(at("2026-11-27T03:12:00Z"), at("2026-11-27 03:12:00"));
        assert!(at("1h") < at("1m") && since("yesterday").is_err());
        assert_eq!(since("12"), Err("12 of what? Write \"12h\" or \"12m\"".to_owned()));
    }
}
