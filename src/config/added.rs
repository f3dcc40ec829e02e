//! The settings of a worker that is added to a running sidecar: read and checked like a `[[worker]]`.

use std::path::Path;

use serde_json::Value;

use super::diagnostic::{Diagnostic, Key};
use super::tree::ConfigTree;
use super::{Config, check};
use crate::worker;

impl Config {
    /// The settings of a worker in addition to this configuration; or all that is wrong with them, each with its key.
    pub(crate) fn worker_of(&self, settings: &Value) -> Result<worker::Config, Vec<String>> {
        if !settings.is_object() {
            return Err(vec!["expected an object of JSON with the keys of a [[worker]]".to_owned()]);
        }
        let mut tree = ConfigTree::of_worker(settings);
        let read = tree.read();
        let config = Self { worker: read.worker, ..self.clone() };
        let mut diagnostics = check::check_worker(&config, &tree);
        // There is no file to which it could be relative.
        for key in ["directory", "log"] {
            let path = settings.get(key).and_then(Value::as_str).filter(|path| !Path::new(path).is_absolute());
            if let Some(path) = path.filter(|path| !path.is_empty()) {
                let message = format!("{path:?} is relative: write an absolute path");
                diagnostics.push(tree.diagnostic(Key::new(["worker", "0", key]), message));
            }
        }
        diagnostics.extend(tree.into_diagnostics());
        diagnostics.sort();
        match config.worker.into_iter().next() {
            Some(worker) if diagnostics.is_empty() => Ok(worker),
            _ => Err(diagnostics.iter().map(in_words).collect()),
        }
    }
}

/// A diagnostic with the key as the worker itself has it.
fn in_words(Diagnostic { key, message, .. }: &Diagnostic) -> String {
    let own = Key::new(key.parts().iter().skip(2).cloned());
    let message = message.replace("worker.0.", "");
    if own.parts().is_empty() { message } else { format!("{own}: {message}") }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn diagnostics(settings: &Value) -> Vec<String> {
        Config::default().worker_of(settings).expect_err("it is wrong")
    }

    #[test]
    fn settings_are_read_as_those_of_the_file() {
        let settings = json!({
            "name": "mail", "command": ["php", "mail.php"], "count": 3, "stop_timeout": "1m", "max_memory": "64MiB",
            "params": { "queue": "mail", "deep": [1, 2.5, { "x": true }] }, "user": null,
            "environment": { "PORT": 8080, "DEBUG": true },
        });
        let worker = Config::default().worker_of(&settings).expect("it is right");
        let read = (worker.name.as_str(), worker.count.number(), worker.stop_timeout.as_secs());
        assert_eq!(read, ("mail", 3, 60));
        assert_eq!(worker.params["deep"][2]["x"].as_bool(), Some(true));
        assert_eq!((&*worker.user, &*worker.environment["PORT"], &*worker.environment["DEBUG"]), ("", "8080", "true"));
    }

    #[test]
    fn all_that_is_wrong_is_told_with_its_key() {
        assert_eq!(diagnostics(&json!([])), ["expected an object of JSON with the keys of a [[worker]]"]);
        let required = "is required, there is no default";
        assert_eq!(diagnostics(&json!({})), [format!("command: {required}"), format!("name: {required}")]);
        let wrong = diagnostics(&json!({
            "name": "a b", "command": "php x.php", "coutn": 2, "count": 0, "directory": "srv", "listen": ["8080"],
            "surge": 0, "max_memory": "2MiB", "kill_memory": "1MiB", "environment": { "ROSTER_X": "1" },
        }));
        for (told, whole) in wrong.iter().zip([
            "command: expected a list, found \"php x.php\"; write `[\"php\", \"x.php\"]`: no shell reads it",
            "count: 0 is no number of processes: 1 to 1000",
            "coutn: this version of Roster has no such key; did you mean `count`?",
            "directory: \"srv\" is relative: write an absolute path",
            "environment: \"ROSTER_X\" is set by the sidecar",
            "kill_memory: is less than max_memory, 2.0 MiB: a process is killed before it is replaced",
            "listen.0: \"8080\" is not an address: expected `tcp://host:port` or `unix:///path`",
            "name: \"a b\" is no name: expected letters, digits, `.`, `_` and `-`",
            "surge: 0 leaves nothing to work with; leave the key out for its default",
        ]) {
            assert_eq!(told, whole, "{wrong:?}");
        }
        assert_eq!(wrong.len(), 9, "{wrong:?}");
    }

    #[test]
    fn where_the_sidecar_itself_listens_no_worker_can() {
        let config = Config::load(&crate::config::Layers::default()).expect("the defaults");
        let port = config.register.listen.clone();
        let listen = format!("tcp://{port}");
        let wrong = config.worker_of(&json!({ "name": "web", "command": ["php"], "listen": [listen] }));
        let told = format!("listen.0: is {port:?}, where `register.listen` listens too: give each a port of its own");
        assert_eq!(wrong.expect_err("it is taken"), [told]);
    }
}
