//! The log: lines on standard error, none so frequent that it hides the others.

use std::collections::HashMap;
use std::env;
use std::io::{self, IsTerminal, Write};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use roster::config::{Log, LogFormat};
use roster::worker::OUTPUT_LOG;
use tokio::time::{Interval, MissedTickBehavior, interval};
use tracing::callsite::Identifier;
use tracing::field::{Field, Visit};
use tracing::{Event, Level, Metadata, Subscriber};
use tracing_subscriber::layer::{Context, SubscriberExt};
use tracing_subscriber::util::SubscriberInitExt;
use tracing_subscriber::{EnvFilter, Layer, fmt};

use super::text;

/// How many lines of a kind are written per second. Peers can cause many of them. `debug` and `trace` are not limited:
/// they are for those who want to see everything.
const MAX_LINES: u64 = 10;
const PERIOD: Duration = Duration::from_secs(1);

/// The limit for the output of workers, which is recorded nowhere else.
const MAX_OUTPUT_LINES: u64 = 500;
const MAX_OUTPUT_BYTES: usize = 2 * 1024 * 1024;

/// How many workers with omitted lines are named.
const MAX_NAMED: usize = 3;

/// The target of reports about omitted lines.
const TARGET: &str = "roster::log";

/// Counts lines by kind, that is by their place in the code.
#[derive(Clone, Debug, Default)]
struct Limit(Arc<Mutex<HashMap<Identifier, Kind>>>);

#[derive(Debug)]
struct Kind {
    written: u64,
    bytes: usize,
    left_out: u64,
    of: &'static Metadata<'static>,
    /// The message of the first of them.
    message: String,
    /// How many lines of each worker's output were omitted.
    by_worker: HashMap<String, u64>,
}

/// Reports, once a second, the lines that were omitted.
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
        // A line that cannot be written because the disk is full would be reported by a second one, and that by a
        // panic.
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

/// Standard error, on which no line looks like something else.
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

    /// Begins the next period; returns the kinds of which lines were omitted in the last one.
    fn next_period(&self) -> Vec<Kind> {
        let kinds = std::mem::take(&mut *self.kinds());
        kinds.into_values().filter(|kind| kind.left_out > 0).collect()
    }
}

impl Kind {
    fn new(event: &Event<'_>) -> Self {
        let message = Said::by(event).message;
        let of = event.metadata();
        Self { written: 0, bytes: 0, left_out: 0, of, message, by_worker: HashMap::new() }
    }

    /// Whether another line may be written.
    fn takes(&mut self, event: &Event<'_>) -> bool {
        if self.of.target() != OUTPUT_LOG {
            return self.count(self.written < MAX_LINES);
        }
        let said = Said::by(event);
        self.bytes += said.bytes;
        let takes = self.count(self.written < MAX_OUTPUT_LINES && self.bytes <= MAX_OUTPUT_BYTES);
        if !takes {
            *self.by_worker.entry(said.worker).or_default() += 1;
        }
        takes
    }

    fn count(&mut self, takes: bool) -> bool {
        *if takes { &mut self.written } else { &mut self.left_out } += 1;
        takes
    }

    /// The workers with the most omitted lines, each with their number.
    fn workers(&self) -> String {
        let mut workers: Vec<_> = self.by_worker.iter().map(|(worker, lines)| (*lines, worker)).collect();
        workers.sort_unstable_by(|one, other| other.cmp(one));
        let named: Vec<_> =
            workers.iter().take(MAX_NAMED).map(|(lines, worker)| format!("{worker}: {lines}")).collect();
        named.join(", ")
    }
}

impl<S: Subscriber> Layer<S> for Limit {
    fn event_enabled(&self, event: &Event<'_>, _: Context<'_, S>) -> bool {
        let of = event.metadata();
        if *of.level() > Level::INFO || of.target() == TARGET {
            return true;
        }
        self.kinds().entry(of.callsite()).or_insert_with(|| Kind::new(event)).takes(event)
    }
}

/// The message of a line.
#[derive(Debug, Default)]
struct Said {
    message: String,
    worker: String,
    bytes: usize,
}

impl Said {
    fn by(event: &Event<'_>) -> Self {
        let mut said = Self::default();
        event.record(&mut said);
        said
    }
}

impl Visit for Said {
    fn record_str(&mut self, field: &Field, value: &str) {
        self.bytes += value.len();
        if field.name() == "worker" {
            value.clone_into(&mut self.worker);
        }
    }

    fn record_debug(&mut self, field: &Field, value: &dyn std::fmt::Debug) {
        if field.name() == "message" {
            self.message = format!("{value:?}");
            self.bytes += self.message.len();
        }
    }
}

impl Reports {
    /// After a while, reports the lines omitted in it; to be called repeatedly.
    pub(super) async fn next(&mut self) {
        let ticks = self.ticks.get_or_insert_with(|| {
            let mut ticks = interval(PERIOD);
            ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
            ticks
        });
        ticks.tick().await;
        self.report();
    }

    /// Reports the lines omitted until now.
    pub(super) fn report(&self) {
        for kind in self.limit.next_period() {
            let left_out = kind.left_out;
            if !kind.by_worker.is_empty() {
                let workers = kind.workers();
                tracing::warn!(target: TARGET, left_out, workers, "left out lines that workers print too often");
                continue;
            }
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
            let told: Vec<_> = left_out.iter().map(|kind| (kind.message.as_str(), kind.left_out)).collect();
            assert_eq!(told, [("a master is there", 15)]);
            often(10);
            assert_eq!(written.load(Ordering::Relaxed), 10);
            assert!(limit.next_period().is_empty());
            let print = |worker: &str, line: &str| tracing::info!(target: OUTPUT_LOG, worker, "{line}");
            (0..580).for_each(|_| print("web/1", "line"));
            (0..20).for_each(|_| print("web/2", "line"));
            let left_out = limit.next_period();
            assert_eq!((written.swap(0, Ordering::Relaxed), left_out[0].left_out), (510, 100));
            assert_eq!(left_out[0].workers(), "web/1: 80, web/2: 20");
            (0..10).for_each(|_| print("web/3", &"x".repeat(500_000)));
            assert_eq!((written.swap(0, Ordering::Relaxed), limit.next_period()[0].left_out), (4, 6));
        });
    }

    #[test]
    fn no_line_of_the_log_is_forged_by_what_another_says() {
        let line = b"INFO \x1b[1mroster\x1b[0m: line\r1\nERROR roster: forged\0\t\xc2\x85!\n";
        let shown = "INFO \u{1b}[1mroster\u{1b}[0m: line\\r1\\nERROR roster: forged\\u0000\t\\u0085!\n";
        assert_eq!(text::visible(line), shown);
    }
}
