//! Upper bounds of what nobody can mean: a slip of a unit is told, and no clock or stack runs past its end.

use std::fmt::Display;
use std::time::Duration;

use super::Config;
use super::draft::Draft;
use super::mistake::{Key, Mistake};
use crate::store;
use crate::tunnel;

const MOST_THREADS: usize = 256;
const DEEPEST: usize = 1024;
const HOUR: Duration = Duration::from_secs(60 * 60);
const DAY: Duration = Duration::from_secs(24 * 60 * 60);

/// All values that are beyond their bound.
pub(super) fn check(config: &Config, draft: &Draft) -> Vec<Mistake> {
    let Config { thrift, register, shared, sidecar, .. } = config;
    let mut bounds = Bounds { draft, mistakes: Vec::new() };
    bounds.most("thrift.threads".into(), thrift.threads, MOST_THREADS);
    bounds.most("thrift.max_depth".into(), thrift.max_depth, DEEPEST);
    bounds.json_depth("register.max_depth".into(), register.max_depth);
    bounds.most("shared.max_size".into(), shared.max_size, store::shared::Config::LARGEST);
    for (key, duration) in [
        ("thrift.max_watch", thrift.max_watch),
        ("thrift.max_call_time", thrift.max_call_time),
        ("thrift.first_byte_timeout", thrift.first_byte_timeout),
        ("thrift.request_timeout", thrift.request_timeout),
        ("thrift.reply_timeout", thrift.reply_timeout),
        ("thrift.idle_timeout", thrift.idle_timeout),
        ("register.auth_timeout", register.auth_timeout),
        ("register.ping_interval", register.ping_interval),
        ("register.pong_timeout", register.pong_timeout),
        ("register.settle", register.settle),
        ("shared.copy_interval", shared.copy_interval),
        ("sidecar.stop_timeout", sidecar.stop_timeout),
    ] {
        bounds.duration(key.into(), duration, DAY);
    }
    for (number, ensemble) in config.zookeeper.iter().enumerate() {
        let key = draft.element(&"zookeeper".into(), number);
        bounds.most(key.child("max_depth"), ensemble.max_depth, DEEPEST);
        bounds.duration(key.child("session_timeout"), ensemble.session_timeout, HOUR);
        bounds.duration(key.child("hold"), ensemble.hold, DAY);
        bounds.duration(key.child("audit_interval"), ensemble.audit_interval, DAY);
    }
    for (number, upstream) in config.upstream.iter().enumerate() {
        bounds.duration(draft.element(&"upstream".into(), number).child("settle"), upstream.settle, DAY);
    }
    bounds.mistakes
}

struct Bounds<'a> {
    draft: &'a Draft,
    mistakes: Vec<Mistake>,
}

impl Bounds<'_> {
    fn most<T: PartialOrd + Display>(&mut self, key: Key, value: T, most: T) {
        self.object_if(value > most, key, most);
    }

    /// What masters offer is written as JSON, whose readers go only so deep.
    fn json_depth(&mut self, key: Key, depth: usize) {
        if depth > tunnel::Bounds::DEEPEST {
            let why = format!("is more than readers of JSON take: at most {}", tunnel::Bounds::DEEPEST);
            self.mistakes.push(self.draft.mistake(key, why));
        }
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
