//! What is wrong with a `[[worker]]`, or with one that is added to a running sidecar.

use std::os::unix::ffi::OsStrExt;

use super::{Check, Key};
use crate::net::Address;
use crate::{rule, worker};

/// How many sockets a worker may listen on: the descriptors a process inherits, without its channel and the one for
/// asking for others.
const MAX_LISTEN: usize = worker::MAX_DESCRIPTORS - 2;

impl Check<'_> {
    pub(super) fn worker(&mut self, worker: &worker::Config, number: usize, before: &[worker::Config]) {
        let at = self.tree.element(&"worker".into(), number);
        let (name, command) = (at.child("name"), at.child("command"));
        if self.require(&name) {
            let message = format!("{:?} is no name: expected letters, digits, `.`, `_` and `-`", worker.name);
            self.object_if(!worker::is_name(&worker.name), &name, &message);
            if let Some(first) = before.iter().position(|first| first.name == worker.name) {
                let first = self.tree.element(&"worker".into(), first).child("name");
                let message = format!("{:?} is the name of `{first}`: give each a name of its own", worker.name);
                self.object(&[&name, &first], message);
            }
        }
        if self.require(&command) {
            let is_empty = worker.command.first().is_none_or(|program| program.is_empty());
            self.object_if(is_empty, &command, "names no program: write `[\"php\", \"worker.php\"]`");
            let has_zero = worker.command.iter().any(|word| word.contains('\0'));
            self.object_if(has_zero, &command, "has a zero byte, which no program can be given");
        }
        let environment = at.child("environment");
        for (name, value) in &worker.environment {
            let is_wrong = !worker::is_variable(name, value);
            self.object_if(is_wrong, &environment, &format!("{name:?} cannot be set as a variable"));
            let is_ours = ["ROSTER_", "LISTEN_"].iter().any(|ours| name.starts_with(ours));
            self.object_if(is_ours, &environment, &format!("{name:?} is set by the sidecar"));
        }
        if worker.params.values().any(rule::has_no_json) {
            self.object(&[&at.child("params")], "has a number that JSON does not have: `nan` or `inf`");
        }
        if let (Some(most), Some(kill)) = (worker.max_memory, worker.kill_memory)
            && kill < most
        {
            let message = format!("is less than max_memory, {most}: a process is killed before it is replaced");
            self.object(&[&at.child("kill_memory"), &at.child("max_memory")], message);
        }
        let balances = worker.accept == worker::Accept::Worker && worker.balance != worker::Balance::RoundRobin;
        self.object_if(balances, &at.child("balance"), "is of no use without `accept = \"sidecar\"`");
        let log = at.child("log");
        match &worker.log {
            Some(path) => {
                let is_named = path.file_name().is_some() && !path.as_os_str().as_bytes().ends_with(b"/");
                self.object_if(
                    !is_named,
                    &log,
                    "names no file: write the path of one, such as \"/var/log/app/web.log\"",
                );
                if let Some(first) = before.iter().position(|first| first.log.as_ref() == Some(path)) {
                    let first = self.tree.element(&"worker".into(), first).child("log");
                    self.object(&[&log, &first], format!("is `{first}` too: give each a file of its own"));
                }
            }
            None => {
                let is_aged = worker.max_log_age.is_some();
                self.object_if(is_aged, &at.child("max_log_age"), "is of no use without `log`");
            }
        }
        if let Err(error) = worker::check_patterns(&worker.watch) {
            self.object(&[&at.child("watch")], error.to_string());
        }
        let accepts_nothing = worker.accept == worker::Accept::Sidecar && worker.listen.is_empty();
        self.object_if(accepts_nothing, &at.child("accept"), "is of no use without `listen`");
        if worker.listen.len() > MAX_LISTEN {
            let message = format!("has {} sockets, and a process inherits at most {MAX_LISTEN}", worker.listen.len());
            self.object(&[&at.child("listen")], message);
        }
        self.may_listen(&worker.may_listen, &at.child("may_listen"));
        for (nth, address) in worker.listen.iter().enumerate() {
            let key = self.tree.element(&at.child("listen"), nth);
            match worker::parse_listen(address) {
                Some(Address::Unix(path)) => self.socket(&path, &key),
                Some(Address::Tcp(_)) => {}
                None => {
                    let message =
                        format!("{address:?} is not an address: expected `tcp://host:port` or `unix:///path`");
                    self.object(&[&key], message);
                }
            }
        }
    }

    fn may_listen(&mut self, addresses: &[String], keys: &Key) {
        for (nth, address) in addresses.iter().enumerate() {
            if worker::Listening::parse(address).is_none() {
                let expected = "`tcp://host:port`, `tcp://host:first-last` or `unix:///path`";
                let message = format!("{address:?} is not an address: expected {expected}");
                self.object(&[&self.tree.element(keys, nth)], message);
            }
        }
    }
}
