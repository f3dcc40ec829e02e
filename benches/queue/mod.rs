//! Part `queue`: durable jobs, beside beanstalkd, Redis and a table of SQLite, each of which syncs what it acknowledges.

mod costs;
mod enqueue;
mod perform;
mod rivals;

use crate::report::Report;

pub(crate) fn run(report: &mut Report) {
    report.part(
        "Queue",
        "Each of them acknowledges a job when it is synced: beanstalkd with `-b -f0`, Redis with `appendfsync always`, SQLite in \
         WAL mode with `synchronous = FULL`, by one process of PHP for each producer. All but SQLite over a Unix socket.",
    );
    enqueue::run(report);
    perform::run(report);
    costs::run(report);
}
