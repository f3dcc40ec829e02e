//! The log: lines on standard error, of which none can be so frequent that it hides the others.

use std::collections::HashMap;
use std::env;
use std::io::{self, IsTerminal, Write};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use roster::config::{Log, LogFormat};
use roster::worker::OUTPUT_LOG;
use tokio::time::{Interval, MissedTickBehavior, interval};
use tracing::callsite::Identifier;
use tracing::{Event, Level, Metadata, Subscriber};
use tracing_subscriber::layer::{Context, SubscriberExt};
use tracing_subscriber::util::SubscriberInitExt;
use tracing_subscriber::{EnvFilter, Layer, fmt};

use super::text;

/// How many lines of a kind are written in a second. Peers cause many of them. Those of `debug` and `trace` are for who
/// wants to see all.
const MAX_LINES: u64 = 10;
const PERIOD: Duration = Duration::from_secs(1);

/// Of what workers print, which is for nobody else to tell.
const MAX_OUTPUT_LINES: u64 = 500;

/// What tells how many lines were left out.
const TARGET: &str = "roster::log";

/// Counts lines by their kind, which is their place in the code.
#[derive(Clone, Debug, Default)]
struct Limit(Arc<Mutex<HashMap<Identifier, Kind>>>);

#[derive(Debug)]
struct Kind {
    lines: u64,
    of: &'static Metadata<'static>,
    /// What the first of them says.
    message: String,
}

/// Tells, once a second, of the lines that were left out.
#[derive(Debug)]
pub(super) struct Reports {
    limit: Limit,
    ticks: Option<Interval>,
}

/// Starts to log.
pub(super) fn start(log: &Log) -> anyhow::Result<Reports> {
    let is_plain = env::var_os("NO_COLOR").is_some_and(|value| !value.is_empty());
    let lines = fmt::layer()
        .with_ansi(io::stderr().is_terminal() && !is_plain)
        // A line that cannot be written, on a disk that is full, would be told by a second one, and that by a panic.
        .log_internal_errors(false)
        .with_writer(|| Lines);
    let levels = EnvFilter::try_new(&log.level)?;
    let limit = Limit::default();
    let subscriber = tracing_subscriber::registry().with(levels).with(limit.clone());
    match log.format {
        LogFormat::Human => subscriber.with(lines).init(),
        LogFormat::Json => subscriber.with(lines.json()).init(),
    }
    Ok(Reports { limit, ticks: None })
}

/// Standard error, on which no line shows other than it reads. (The layer itself escapes what moves the cursor.)
#[derive(Clone, Copy, Debug)]
struct Lines;

impl Write for Lines {
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        io::stderr().write_all(text::visible(line).as_bytes()).map(|()| line.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        io::stderr().flush()
    }
}

impl Limit {
    fn kinds(&self) -> MutexGuard<'_, HashMap<Identifier, Kind>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Begins the next period; what was left out in the last one.
    fn next_period(&self) -> Vec<(Kind, u64)> {
        let kinds = std::mem::take(&mut *self.kinds());
        let left_out = |kind: Kind| kind.lines.checked_sub(max_lines(kind.of) + 1).map(|beyond| (kind, beyond + 1));
        kinds.into_values().filter_map(left_out).collect()
    }
}

impl<S: Subscriber> Layer<S> for Limit {
    fn event_enabled(&self, event: &Event<'_>, _: Context<'_, S>) -> bool {
        let of = event.metadata();
        if *of.level() > Level::INFO || of.target() == TARGET {
            return true;
        }
        let mut kinds = self.kinds();
        let kind = kinds.entry(of.callsite()).or_insert_with(|| Kind { lines: 0, of, message: message(event) });
        kind.lines += 1;
        kind.lines <= max_lines(of)
    }
}

fn max_lines(of: &Metadata<'_>) -> u64 {
    if of.target() == OUTPUT_LOG { MAX_OUTPUT_LINES } else { MAX_LINES }
}

/// What a line says, without its fields.
fn message(event: &Event<'_>) -> String {
    struct Message(String);
    impl tracing::field::Visit for Message {
        fn record_debug(&mut self, field: &tracing::field::Field, value: &dyn std::fmt::Debug) {
            if field.name() == "message" {
                self.0 = format!("{value:?}");
            }
        }
    }
    let mut message = Message(String::new());
    event.record(&mut message);
    message.0
}

impl Reports {
    /// Tells, after a while, of the lines that were left out in it; to be called again and again.
    pub(super) async fn next(&mut self) {
        let ticks = self.ticks.get_or_insert_with(|| {
            let mut ticks = interval(PERIOD);
            ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
            ticks
        });
        ticks.tick().await;
        self.report();
    }

    /// Tells of the lines that were left out until now.
    pub(super) fn report(&self) {
        for (kind, left_out) in self.limit.next_period() {
            let (line, module) = (kind.message, kind.of.target());
            tracing::warn!(target: TARGET, left_out, line, module, "left out lines of the log that came too often");
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use super::*;

    struct Count(Arc<AtomicUsize>);

    impl<S: Subscriber> Layer<S> for Count {
        fn on_event(&self, _: &Event<'_>, _: Context<'_, S>) {
            self.0.fetch_add(1, Ordering::Relaxed);
        }
    }

    #[test]
    fn of_a_kind_of_line_few_are_written_and_the_others_counted() {
        let (limit, written) = (Limit::default(), Arc::new(AtomicUsize::new(0)));
        let subscriber = tracing_subscriber::registry().with(limit.clone()).with(Count(written.clone()));
        tracing::subscriber::with_default(subscriber, || {
            let often = |times| (0..times).for_each(|number| tracing::info!(number, "a master is there"));
            often(25);
            tracing::warn!("something else");
            assert_eq!(written.swap(0, Ordering::Relaxed), 11);
            let left_out = limit.next_period();
            let told: Vec<_> = left_out.iter().map(|(kind, lines)| (kind.message.as_str(), *lines)).collect();
            assert_eq!(told, [("a master is there", 15)]);
            often(10);
            assert_eq!(written.load(Ordering::Relaxed), 10);
            assert!(limit.next_period().is_empty());
            (0..600).for_each(|line| tracing::info!(target: OUTPUT_LOG, "{line}"));
            assert_eq!((written.load(Ordering::Relaxed), limit.next_period()[0].1), (510, 100));
        });
    }
}
