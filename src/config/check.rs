//! Checks across values: contradictions, and values that no room can work with.

mod worker;

use std::net::SocketAddr;
use std::path::Path;
use std::time::Duration;

use tracing_subscriber::EnvFilter;
use tracing_subscriber::filter::LevelFilter;

use super::diagnostic::{Diagnostic, Key};
use super::tree::ConfigTree;
use super::{Config, connect};
use crate::access::Subject;
use crate::format::Fields;
use crate::model::{Format, NodePath};
use crate::net::{Address, Remote, is_one_place, max_path_len};
use crate::queue::{self, Limit, Server};
use crate::worker::parse_listen;
use crate::{access, register, rule, secret, source, store, thrift};

/// Below this, a pause of either process costs the session.
const LEAST_SESSION_TIMEOUT: Duration = Duration::from_secs(1);

/// All diagnostics about what was read from the tree.
pub(super) fn check(config: &Config, tree: &ConfigTree) -> Vec<Diagnostic> {
    let mut check = Check { tree, diagnostics: Vec::new() };
    check.thrift(&config.thrift);
    check.access(config);
    check.eject(config);
    check.loopback(&config.admin.listen, &"admin.listen".into(), "the admin server");
    check.register(&config.register);
    check.listeners(config);
    check.shared(&config.shared);
    check.queue(config);
    check.level(&config.log.level);
    for (number, ensemble) in config.zookeeper.iter().enumerate() {
        check.zookeeper(ensemble, &check.tree.element(&"zookeeper".into(), number), config);
    }
    for (number, file) in config.file.iter().enumerate() {
        check.plain_path(&file.path, &check.tree.element(&"file".into(), number).child("path"));
    }
    for (number, upstream) in config.upstream.iter().enumerate() {
        check.upstream(upstream, &check.tree.element(&"upstream".into(), number));
    }
    for (number, worker) in config.worker.iter().enumerate() {
        check.worker(worker, number, &config.worker[..number]);
    }
    let sources = check.sources(config);
    check.names(&sources);
    check.roots(&sources);
    check.services(config, &sources);
    check.diagnostics
}

/// The diagnostics about the one worker in the tree, given the rest of the configuration.
pub(super) fn check_worker(config: &Config, tree: &ConfigTree) -> Vec<Diagnostic> {
    let mut check = Check { tree, diagnostics: Vec::new() };
    check.listeners(config);
    config.worker.iter().for_each(|worker| check.worker(worker, 0, &[]));
    check.diagnostics
}

struct Check<'a> {
    tree: &'a ConfigTree,
    diagnostics: Vec<Diagnostic>,
}

/// The parts of a source that may conflict with another.
struct Source<'a> {
    key: Key,
    name: &'a str,
    roots: Vec<(Key, &'a NodePath)>,
}

impl Check<'_> {
    /// Reports that the first key is wrong, given the others; unless one of them was refused already.
    fn object(&mut self, keys: &[&Key], message: impl Into<String>) {
        if !keys.iter().any(|key| self.tree.is_refused(key)) {
            self.diagnostics.push(self.tree.diagnostic(keys[0].clone(), message));
        }
    }

    /// Reports a missing key without a default; returns whether it is set.
    fn require(&mut self, key: &Key) -> bool {
        let is_set = self.tree.is_set(key);
        self.object_if(!is_set && !self.tree.is_misspelt(key), key, "is required, there is no default");
        is_set
    }

    fn object_if(&mut self, wrong: bool, key: &Key, message: &str) {
        if wrong {
            self.object(&[key], message);
        }
    }

    fn thrift(&mut self, thrift: &thrift::Config) {
        let key = |name: &str| Key::new(["thrift", name]);
        let (unix, tcp) = (key("unix"), key("tcp"));
        if thrift.unix.as_os_str().is_empty() && thrift.tcp.is_empty() {
            self.object(&[&unix, &tcp], "there is nothing to listen on: set this or `thrift.tcp`");
        }
        self.socket(&thrift.unix, &unix);
        self.loopback(&thrift.tcp, &tcp, "the endpoint");
        // One user may have half of it.
        if thrift.max_memory.0 < thrift.max_reply.0.saturating_mul(4) {
            let message = format!("is less than four replies: `thrift.max_reply` is {}", thrift.max_reply);
            self.object(&[&key("max_memory"), &key("max_reply")], message);
        }
    }

    fn eject(&mut self, config: &Config) {
        let (base, max) = (config.eject.base_time, config.eject.max_time);
        self.object_if(base > max, &"eject.base_time".into(), "is longer than `max_time`");
    }

    fn access(&mut self, config: &Config) {
        let tcp_calls: Key = "access.tcp_calls".into();
        self.object_if(
            config.access.tcp_calls && !config.allow.is_empty(),
            &tcp_calls,
            "is without effect beside `[[allow]]`: write a rule with `tcp = true`",
        );
        for (number, rule) in config.allow.iter().enumerate() {
            let key = self.tree.element(&"allow".into(), number);
            let subject = rule.subject();
            self.object_if(
                subject.is_none(),
                &key,
                "is for nobody or for several: give it one of `user`, `group` and `tcp = true`",
            );
            let is_for_all = |first: &Subject| match (first, &subject) {
                (Subject::Everyone, Some(Subject::User(_) | Subject::Group(_))) => true,
                (first, subject) => Some(first) == subject.as_ref(),
            };
            let mut firsts = config.allow[..number].iter().filter_map(access::Rule::subject);
            if let Some(first) = firsts.position(|first| is_for_all(&first)) {
                self.object(&[&key], format!("is never reached: `allow.{first}` decides before it"));
            }
            self.object_if(
                rule.admin && subject == Some(Subject::Tcp),
                &key.child("admin"),
                "cannot be given over TCP, where nobody is known",
            );
        }
    }

    /// What is wrong with a listen address; nothing if it is empty.
    fn loopback(&mut self, address: &str, key: &Key, who: &str) {
        if address.is_empty() {
            return;
        }
        if !matches!(address.parse(), Ok(Address::Tcp(_))) {
            let message = format!("{address:?} is not an address: expected `host:port`, such as \"127.0.0.1:9090\"");
            return self.object(&[key], message);
        }
        let is_loopback = match address.parse::<SocketAddr>() {
            Ok(address) => address.ip().is_loopback(),
            Err(_) => address.rsplit_once(':').is_some_and(|(host, _)| host == "localhost"),
        };
        let message =
            format!("{address:?} is no loopback address, and {who} has no authentication: use \"127.0.0.1:PORT\"");
        self.object_if(!is_loopback, key, &message);
    }

    fn socket(&mut self, path: &Path, key: &Key) {
        let relative = path.is_relative() && !path.as_os_str().is_empty();
        self.object_if(relative, key, "is relative: write an absolute path, which clients can know");
        let (bytes, most) = (path.as_os_str().len(), max_path_len(path));
        self.object_if(
            bytes > most,
            key,
            &format!("{bytes} bytes, at most {most}: the kernel takes no more, with `:1` for PHP"),
        );
    }

    fn register(&mut self, register: &register::Config) {
        let key = |name: &str| Key::new(["register", name]);
        if !register.listen.is_empty() && !matches!(register.listen.parse(), Ok(Address::Tcp(_))) {
            let message = format!("{:?} is not an address: expected `host:port`, or nothing", register.listen);
            self.object(&[&key("listen")], message);
        }
        self.socket(&register.unix, &key("unix"));
        if let Some(tls) = &register.tls {
            self.plain_path(&tls.certificate, &"register.tls.certificate".into());
            self.plain_path(&tls.key, &"register.tls.key".into());
        }
        if register.max_queue < register.max_message {
            let message = format!("is less than one message: `register.max_message` is {}", register.max_message);
            self.object(&[&key("max_queue"), &key("max_message")], message);
        }
    }

    /// Two of our own listeners at one address.
    fn listeners(&mut self, config: &Config) {
        let own = [
            ("thrift.tcp", Address::Tcp(config.thrift.tcp.clone())),
            ("register.listen", Address::Tcp(config.register.listen.clone())),
            ("admin.listen", Address::Tcp(config.admin.listen.clone())),
            ("thrift.unix", Address::Unix(config.thrift.unix.clone())),
            ("register.unix", Address::Unix(config.register.unix.clone())),
        ];
        let own = own.into_iter().map(|(key, address)| (Key::from(key), address));
        let tree = self.tree;
        let of_workers = config.worker.iter().enumerate().flat_map(|(number, worker)| {
            let listen = tree.element(&"worker".into(), number).child("listen");
            let addresses = worker.listen.iter().enumerate();
            addresses.filter_map(move |(nth, address)| Some((tree.element(&listen, nth), parse_listen(address)?)))
        });
        let all: Vec<(Key, Address)> = own.chain(of_workers).collect();
        for (number, (key, address)) in all.iter().enumerate() {
            for (other, first) in &all[..number] {
                if is_one_place(first, address) {
                    let message = match address {
                        Address::Tcp(port) => {
                            format!("is {port:?}, where `{other}` listens too: give each a port of its own")
                        }
                        Address::Unix(_) => format!("is the socket of `{other}` too: give each one of its own"),
                    };
                    self.object(&[key, other], message);
                }
            }
        }
    }

    fn shared(&mut self, shared: &store::shared::Config) {
        let others_write = "the sidecar trusts the file at its next start, so nobody else may write it: \"0640\"";
        self.object_if(shared.mode.0 & 0o022 != 0, &"shared.mode".into(), others_write);
        let owner_writes = "the sidecar opens the file more than once, so its owner has to read and write it: \"0640\"";
        self.object_if(shared.mode.0 & 0o600 != 0o600, &"shared.mode".into(), owner_writes);
    }

    fn queue(&mut self, config: &Config) {
        let queue = &config.queue;
        let path: Key = "queue.path".into();
        self.recurring(queue);
        self.backend(queue);
        if queue.path.is_none() && queue.backend.is_none() {
            self.without_queues(queue);
        }
        let is_tls = queue.backend.as_ref().is_some_and(Server::is_tls);
        for (key, file) in
            [("queue.ca", &queue.ca), ("queue.certificate", &queue.certificate), ("queue.key", &queue.key)]
        {
            let Some(file) = file else { continue };
            self.plain_path(file, &key.into());
            self.object_if(!is_tls, &key.into(), "is of no use without `queue.backend = \"rediss://…\"`");
        }
        let (certificate, private) = (queue.certificate.is_some(), queue.key.is_some());
        self.object_if(certificate && !private, &"queue.certificate".into(), "needs its `queue.key`");
        self.object_if(private && !certificate, &"queue.key".into(), "needs its `queue.certificate`");
        let is_buffer = !queue.buffer || queue.backend.is_some() && queue.path.is_some();
        let for_buffer = "needs `queue.backend`, and `queue.path` for the folder in which jobs wait while that is away";
        self.object_if(!is_buffer, &"queue.buffer".into(), for_buffer);
        let is_prefix = queue.prefix.len() <= 128 && !queue.prefix.chars().any(char::is_control);
        self.object_if(!is_prefix, &"queue.prefix".into(), "has control characters, or more than 128 bytes");
        if let Some(file) = &queue.password_file {
            self.path(file, &"queue.password_file".into());
        }
        for (number, limit) in queue.limit.iter().enumerate() {
            self.limit(limit, number, queue);
        }
        for (number, default) in queue.default.iter().enumerate() {
            self.default_of_queue(default, number, queue);
        }
        let Some(folder) = &config.queue.path else { return };
        self.plain_path(folder, &path);
        let is_state = config.state().is_some_and(|state| state == *folder);
        self.object_if(is_state, &path, "is `shared.state` too, which has other files: choose a folder in it");
        let (most, max_call) = (config.queue.max_job_bytes, config.thrift.max_call);
        if most > max_call {
            let message = format!("such a job fits no request: `thrift.max_call` is {max_call}");
            self.object(&[&"queue.max_job_bytes".into(), &"thrift.max_call".into()], message);
        }
    }

    /// Reports what is set of queues that there are not.
    fn without_queues(&mut self, queue: &queue::Config) {
        let default = queue::Config::default();
        for (key, is_set) in [
            ("queue.max_jobs", queue.max_jobs != default.max_jobs),
            ("queue.max_bytes", queue.max_bytes != default.max_bytes),
            ("queue.max_job_bytes", queue.max_job_bytes != default.max_job_bytes),
            ("queue.max_queues", queue.max_queues != default.max_queues),
            ("queue.retries", queue.retries != default.retries),
            ("queue.timeout", queue.timeout != default.timeout),
            ("queue.keep_dead", queue.keep_dead != default.keep_dead),
            ("queue.keep_results", queue.keep_results != default.keep_results),
            ("queue.durability", queue.durability != default.durability),
            ("queue.sync_interval", queue.sync_interval != default.sync_interval),
            ("queue.limit", !queue.limit.is_empty()),
            ("queue.default", !queue.default.is_empty()),
        ] {
            self.object_if(is_set, &key.into(), "is of no use without queues: set `queue.path` or `queue.backend`");
        }
    }

    /// Reports what holds for jobs on the disk alone, or in Redis alone.
    fn backend(&mut self, queue: &queue::Config) {
        let (backend, default) = (Key::from("queue.backend"), queue::Config::default());
        let in_redis = queue.backend.is_some();
        let no_file = in_redis && !queue.buffer;
        let (size, sync) = ("set `maxmemory` of Redis", "set `appendfsync` of Redis");
        for (key, in_vain, cure) in [
            ("queue.path", no_file && queue.path.is_some(), "or `backend` for a folder, or set `buffer`"),
            ("queue.max_bytes", no_file && queue.max_bytes != default.max_bytes, size),
            ("queue.durability", no_file && queue.durability != default.durability, sync),
            ("queue.sync_interval", no_file && queue.sync_interval != default.sync_interval, sync),
        ] {
            if in_vain {
                let message = format!("is not for jobs in Redis, where `queue.backend` has them: leave it out, {cure}");
                self.object(&[&key.into(), &backend], message);
            }
        }
        for (key, is_set) in
            [("queue.prefix", queue.prefix != default.prefix), ("queue.password_file", queue.password_file.is_some())]
        {
            if !in_redis && is_set {
                self.object(&[&key.into(), &backend], "is of no use without `queue.backend`");
            }
        }
    }

    fn recurring(&mut self, queue: &queue::Config) {
        let tables: Key = "queue.recurring".into();
        let in_vain = queue.path.is_none() && queue.backend.is_none() && !queue.recurring.is_empty();
        self.object_if(in_vain, &tables, "is of no use without queues: set `queue.path` or `queue.backend`");
        for (number, recurring) in queue.recurring.iter().enumerate() {
            let key = self.tree.element(&tables, number);
            let required = ["name", "queue", "job", "schedule"].map(|name| self.require(&key.child(name)));
            if required.contains(&false) {
                continue;
            }
            let has_no_json = recurring.payload.as_ref().is_some_and(rule::has_no_json);
            self.object_if(has_no_json, &key.child("payload"), "has a number that JSON does not have: `nan` or `inf`");
            for (name, message) in recurring.flaws(queue.max_job_bytes) {
                self.object(&[&key.child(name)], message);
            }
            if let Some(first) = queue.recurring[..number].iter().position(|first| first.name == recurring.name) {
                let first = self.tree.element(&tables, first).child("name");
                let message = format!("{:?} is the name of another one: give each a `name` of its own", recurring.name);
                self.object(&[&key.child("name"), &first], message);
            }
        }
    }

    fn limit(&mut self, limit: &Limit, number: usize, queue: &queue::Config) {
        let key = self.tree.element(&"queue.limit".into(), number);
        let of_queue = key.child("queue");
        let is_limited = ["concurrency", "rate"].iter().any(|name| {
            let key = key.child(name);
            self.tree.is_set(&key) || self.tree.is_refused(&key)
        });
        if self.require(&of_queue) {
            self.object_if(!is_limited, &of_queue, "has no limit: set `concurrency`, `rate`, or both");
        }
        if limit.key && queue.backend.is_some() {
            let message = "is not for jobs in Redis, where `queue.backend` has them: they are taken from the front of \
                           a queue, whatever their keys; leave it out to limit the whole queue, or use one per key";
            self.object(&[&key.child("key"), &"queue.backend".into()], message);
        }
        let is_second = queue.limit[..number].iter().any(|it| it.queue == limit.queue && it.key == limit.key);
        self.object_if(is_second, &of_queue, "has such a limit already: make them one");
    }

    fn default_of_queue(&mut self, default: &queue::Defaults, number: usize, queue: &queue::Config) {
        let of_queue = self.tree.element(&"queue.default".into(), number).child("queue");
        let is_second = queue.default[..number].iter().any(|it| it.queue == default.queue);
        if self.require(&of_queue) {
            self.object_if(is_second, &of_queue, "has such a table already: make them one");
        }
    }

    fn zookeeper(&mut self, ensemble: &source::zookeeper::Config, key: &Key, config: &Config) {
        let at = key.child("connect");
        if self.require(&at)
            && let Err(message) = connect::check(&ensemble.connect)
        {
            self.object(&[&at], message);
        }
        if let Some(path) = &ensemble.credentials {
            self.path(path, &key.child("credentials"));
        }
        let files = [("ca", &ensemble.ca), ("certificate", &ensemble.certificate), ("key", &ensemble.key)];
        for (name, path) in files.into_iter().filter_map(|(name, path)| Some((name, path.as_ref()?))) {
            self.plain_path(path, &key.child(name));
            let in_vain = !ensemble.session().has_tls();
            self.object_if(in_vain, &key.child(name), "is of no use without TLS: servers begin with `tls://` for it");
        }
        let (certificate, private) = (ensemble.certificate.is_some(), ensemble.key.is_some());
        self.object_if(certificate && !private, &key.child("certificate"), "needs its `key`");
        self.object_if(private && !certificate, &key.child("key"), "needs its `certificate`");
        if let Some(kerberos) = &ensemble.kerberos {
            let key = key.child("kerberos");
            kerberos.keytab.iter().for_each(|path| self.plain_path(path, &key.child("keytab")));
            for (name, text) in [("principal", kerberos.principal.as_ref()), ("service", Some(&kerberos.service))] {
                let is_empty = text.is_some_and(|text| text.trim().is_empty());
                self.object_if(is_empty, &key.child(name), "is empty: leave the key out for the default");
            }
        }
        self.object_if(ensemble.roots.is_empty(), &key.child("roots"), "is empty: leave the key out to mirror all");
        let short = ensemble.session_timeout < LEAST_SESSION_TIMEOUT;
        self.object_if(short, &key.child("session_timeout"), "a session needs at least 1s to live through a pause");
        let max_reply = config.thrift.max_reply;
        if ensemble.max_node_bytes > max_reply {
            let message = format!("such a node fits no reply: `thrift.max_reply` is {max_reply}");
            self.object(&[&key.child("max_node_bytes"), &"thrift.max_reply".into()], message);
        }
    }

    fn upstream(&mut self, upstream: &source::upstream::Config, key: &Key) {
        let remote = upstream.connect.parse::<Remote>();
        let at = key.child("connect");
        if self.require(&at)
            && let Err(why) = &remote
        {
            self.object(&[&at], format!("{:?} is not an address: {why}", upstream.connect));
        }
        self.path(&upstream.token, &key.child("token"));
        // A pattern that ends with `*` may match any port.
        if let Some(text) = upstream.join.texts().find(|text| !text.contains(':') && !text.ends_with('*')) {
            let message = format!("{text:?} matches no register, each of which has a port: write \"{text}:8010\"");
            self.object(&[&key.child("join")], message);
        }
        if let Some(path) = &upstream.ca {
            self.plain_path(path, &key.child("ca"));
            let in_vain = remote.is_ok_and(|remote| !remote.is_tls());
            self.object_if(
                in_vain,
                &key.child("ca"),
                "is of no use without TLS: `connect` begins with `tls://` for it",
            );
        }
    }

    fn path(&mut self, path: &Path, key: &Key) {
        if !self.require(key) {
            return;
        }
        self.object_if(path.as_os_str().is_empty(), key, "is empty: write the path of a file");
    }

    /// A path that is never the name of a variable.
    fn plain_path(&mut self, path: &Path, key: &Key) {
        self.path(path, key);
        let is_variable = secret::variable(path).is_some();
        self.object_if(is_variable, key, "is a variable, which only tokens, credentials and `signing_key` may be");
    }

    fn level(&mut self, level: &str) {
        if let Some(flaw) = log_filter_flaw(level) {
            self.object(&[&"log.level".into()], flaw);
        }
    }

    fn sources<'c>(&self, config: &'c Config) -> Vec<Source<'c>> {
        let ensembles = config.zookeeper.iter().enumerate().map(|(number, ensemble)| {
            let key = self.tree.element(&"zookeeper".into(), number);
            let root = |(nth, root)| (self.tree.element(&key.child("roots"), nth), root);
            Source { roots: ensemble.roots.iter().enumerate().map(root).collect(), name: &ensemble.name, key }
        });
        let files = config.file.iter().enumerate().map(|(number, file)| {
            let key = self.tree.element(&"file".into(), number);
            Source { roots: vec![(key.child("root"), &file.root)], name: &file.name, key }
        });
        let upstreams = config.upstream.iter().enumerate().map(|(number, upstream)| {
            let key = self.tree.element(&"upstream".into(), number);
            Source { roots: Vec::new(), name: &upstream.name, key }
        });
        ensembles.chain(files).chain(upstreams).collect()
    }

    /// Services must be registered below the roots of sources, and no node in two formats.
    fn services(&mut self, config: &Config, sources: &[Source<'_>]) {
        let keys = |number| self.tree.element(&"services".into(), number);
        let keys: Vec<Key> = (0..config.services.len()).map(keys).collect();
        for (number, services) in config.services.iter().enumerate() {
            let (at, root) = (keys[number].child("root"), &services.root);
            self.require(&keys[number].child("format"));
            let is_raw = services.format == Format::Raw || services.fields == Fields::default();
            self.object_if(!is_raw, &keys[number].child("fields"), "is of use for the format \"raw\" alone");
            if !self.require(&at) {
                continue;
            }
            let mut roots = sources.iter().flat_map(|source| &source.roots);
            if !roots.any(|(_, of_source)| root.is_under(of_source)) {
                let message = format!("`{root}` lies below no root of a source: add it to those of a `[[zookeeper]]`");
                self.object(&[&at], message);
            }
            let covers = |ensemble: &source::zookeeper::Config| ensemble.roots.iter().any(|it| root.is_under(it));
            for (nth, ensemble) in config.zookeeper.iter().enumerate().filter(|(_, ensemble)| covers(ensemble)) {
                if ensemble.excludes_all_below(root) {
                    let exclude = self.tree.element(&"zookeeper".into(), nth).child("exclude");
                    let message = format!(
                        "`{exclude}` leaves out all that lies below `{root}`: nothing there could be registered"
                    );
                    self.object(&[&at, &exclude], message);
                }
            }
            let overlaps = |first: &usize| {
                let other = &config.services[*first].root;
                self.tree.is_set(&keys[*first].child("root")) && (root.is_under(other) || other.is_under(root))
            };
            if let Some(first) = (0..number).find(overlaps) {
                let (first, other) = (keys[first].child("root"), &config.services[first].root);
                let message = format!("`{root}` overlaps `{other}` of `{first}`: nodes are registered in one way only");
                self.object(&[&at, &first], message);
            }
        }
    }

    fn names(&mut self, sources: &[Source<'_>]) {
        for (number, source) in sources.iter().enumerate() {
            let key = source.key.child("name");
            self.object_if(source.name.is_empty(), &key, "is empty: status and logs need a name");
            if let Some(first) = sources[..number].iter().find(|first| first.name == source.name) {
                let message =
                    format!("{:?} is the name of `{}`: give each a `name` of its own", source.name, first.key);
                self.object(&[&key, &first.key.child("name")], message);
            }
        }
    }

    fn roots(&mut self, sources: &[Source<'_>]) {
        let roots: Vec<_> = sources.iter().flat_map(|source| &source.roots).collect();
        for (number, (key, root)) in roots.iter().enumerate() {
            let overlaps = |other: &NodePath| root.is_under(other) || other.is_under(root);
            if let Some((first, other)) = roots[..number].iter().find(|(_, other)| overlaps(other)) {
                let (it, cure) = match self.tree.is_set(key) {
                    true => (format!("`{root}`"), "take one away".to_owned()),
                    false => (format!("`{root}`, the default,"), format!("set `{key}` to other paths")),
                };
                let message = format!("{it} overlaps `{other}` of `{first}`: a path is of one root only, {cure}");
                self.object(&[key, first], message);
            }
        }
    }
}

/// What is wrong with a log filter. A bare word is a level: it could also be a module name, but then a misspelt level
/// would silence everything else.
pub fn log_filter_flaw(filter: &str) -> Option<String> {
    let is_stray = |part: &str| part.chars().all(char::is_alphanumeric) && part.parse::<LevelFilter>().is_err();
    let is_wrong = filter.split(',').any(is_stray) || EnvFilter::try_new(filter).is_err();
    is_wrong.then(|| {
        format!(
            "{filter:?} is no filter: expected one of error, warn, info, debug and trace, and after commas others for \
             single modules: \"info,roster=debug\""
        )
    })
}
