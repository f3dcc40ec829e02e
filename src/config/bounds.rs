//! Upper bounds of what nobody can mean: a slip of a unit is told, and no clock or stack runs past its end.

use std::fmt::Display;
use std::time::Duration;

use super::Config;
use super::draft::Draft;
use super::mistake::{Key, Mistake};

const MOST_THREADS: usize = 256;
const DEEPEST: usize = 1024;
const HOUR: Duration = Duration::from_secs(60 * 60);
const DAY: Duration = Duration::from_secs(24 * 60 * 60);

/// All values that are beyond their bound.
pub(super) fn check(config: &Config, draft: &Draft) -> Vec<Mistake> {
    let thrift = Key::from("thrift");
    let mut bounds = Bounds { draft, mistakes: Vec::new() };
    bounds.number(thrift.child("threads"), config.thrift.threads, MOST_THREADS);
    bounds.number(thrift.child("max_depth"), config.thrift.max_depth, DEEPEST);
    for (name, duration) in [
        ("max_watch", config.thrift.max_watch),
        ("first_byte_timeout", config.thrift.first_byte_timeout),
        ("request_timeout", config.thrift.request_timeout),
        ("reply_timeout", config.thrift.reply_timeout),
        ("idle_timeout", config.thrift.idle_timeout),
    ] {
        bounds.duration(thrift.child(name), duration, DAY);
    }
    for (number, ensemble) in config.zookeeper.iter().enumerate() {
        let key = draft.element(&"zookeeper".into(), number);
        bounds.number(key.child("max_depth"), ensemble.max_depth, DEEPEST);
        bounds.duration(key.child("session_timeout"), ensemble.session_timeout, HOUR);
        bounds.duration(key.child("hold"), ensemble.hold, DAY);
        bounds.duration(key.child("audit_interval"), ensemble.audit_interval, DAY);
    }
    bounds.duration("sidecar.stop_timeout".into(), config.sidecar.stop_timeout, DAY);
    bounds.mistakes
}

struct Bounds<'a> {
    draft: &'a Draft,
    mistakes: Vec<Mistake>,
}

impl Bounds<'_> {
    fn number(&mut self, key: Key, value: usize, most: usize) {
        self.object_if(value > most, key, most);
    }

    fn duration(&mut self, key: Key, value: Duration, most: Duration) {
        self.object_if(value > most, key, humantime::format_duration(most));
    }

    fn object_if(&mut self, beyond: bool, key: Key, most: impl Display) {
        if beyond {
            self.mistakes.push(self.draft.mistake(key, format!("is more than anybody can need: at most {most}")));
        }
    }
}
