//! Workers that were added for good: they are in no configuration, but return after a restart of the sidecar.

use std::collections::BTreeMap;
use std::io;
use std::path::PathBuf;
use std::sync::{Mutex, MutexGuard, PoisonError};

use serde_json::Value;

use super::adding::ReadSettings;
use super::config::Config;
use crate::permissions::own;

/// The file in the state folder.
const FILE: &str = "workers-added.json";

/// The settings of workers that were added for good, by name, as they were given.
#[derive(Debug)]
pub struct Added {
    /// None: there is no folder for it.
    path: Option<PathBuf>,
    /// Or why what an earlier sidecar saved is unknown: then it is not overwritten.
    settings: Mutex<Result<BTreeMap<String, Value>, String>>,
}

impl Added {
    /// Reads what an earlier sidecar saved. A file that others may have written is ignored.
    pub fn read(folder: Option<PathBuf>) -> Self {
        let path = folder.map(|folder| folder.join(FILE));
        let settings = path.as_ref().map_or_else(|| Ok(BTreeMap::new()), |path| {
            let read = own::open(path).map_err(|why| why.at(path)).and_then(io::read_to_string);
            match read.and_then(|text| Ok(serde_json::from_str(&text)?)) {
                Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(BTreeMap::new()),
                Err(error) => {
                    let cure = "mend it, or move it away, and restart the sidecar";
                    tracing::error!(path = %path.display(), %error, "cannot read which workers were added for good; {cure}");
                    Err(format!("{} cannot be read ({error}); {cure}", path.display()))
                }
                Ok(settings) => Ok(settings),
            }
        });
        Self { path, settings: Mutex::new(settings) }
    }

    pub fn is_empty(&self) -> bool {
        self.settings().as_ref().map_or(true, BTreeMap::is_empty)
    }

    /// Those that are possible besides the configured ones. An invalid one does not affect the others.
    pub(super) fn read_by(&self, read: &ReadSettings, configured: &[Config]) -> Vec<Config> {
        let (settings, path) = (self.settings(), self.path.clone().unwrap_or_default());
        let path = path.display();
        let wanted = settings.iter().flatten().filter_map(|(name, settings)| {
            if configured.iter().any(|it| it.name == *name) {
                let cure = format!("`roster worker remove {name} --saved` forgets what was saved");
                tracing::warn!(worker = name, %path, "the configuration has a worker of a saved one's name, and counts; {cure}");
                return None;
            }
            match read.read(settings) {
                Ok(config) if config.name == *name => Some(config),
                Ok(config) => {
                    tracing::error!(worker = name, name = config.name, %path, "left out a saved worker: it has two names");
                    None
                }
                Err(mistakes) => {
                    let why = mistakes.join("; ");
                    let cure = format!("`roster worker remove {name} --saved`, then add it anew");
                    tracing::error!(worker = name, %path, why, "left out a saved worker; {cure}");
                    None
                }
            }
        });
        wanted.collect()
    }

    /// Saves the settings of one.
    pub(super) fn keep(&self, name: &str, kept: Value) -> io::Result<()> {
        self.change(|settings| {
            settings.insert(name.to_owned(), kept);
        })
    }

    /// Removes them.
    pub(super) fn forget(&self, name: &str) -> io::Result<()> {
        self.change(|settings| {
            settings.remove(name);
        })
    }

    pub(super) fn has(&self, name: &str) -> bool {
        self.settings().as_ref().is_ok_and(|settings| settings.contains_key(name))
    }

    fn change(&self, change: impl FnOnce(&mut BTreeMap<String, Value>)) -> io::Result<()> {
        let no_folder = || io::Error::other("there is no folder to save it in: set `[shared] state`");
        let path = self.path.as_ref().ok_or_else(no_folder)?;
        let mut settings = self.settings();
        let mut changed = settings.as_ref().map_err(|why| io::Error::other(why.clone()))?.clone();
        change(&mut changed);
        own::replace(path, &serde_json::to_vec(&changed)?)?;
        *settings = Ok(changed);
        Ok(())
    }

    fn settings(&self) -> MutexGuard<'_, Result<BTreeMap<String, Value>, String>> {
        self.settings.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::io::Write;
    use std::os::unix::fs::PermissionsExt;

    use serde_json::json;

    use super::*;

    /// Accepts a name and a program.
    fn reader() -> ReadSettings {
        ReadSettings::new(|settings| {
            let text = |key: &str| settings[key].as_str().map(str::to_owned);
            let name = text("name").ok_or_else(|| vec!["name: is required".to_owned()])?;
            Ok(Config { name, ..Config::default() })
        })
    }

    #[test]
    fn what_is_kept_is_read_again_and_what_is_wrong_with_one_harms_no_other() {
        let folder = tempfile::tempdir().expect("a folder");
        let read = || Added::read(Some(folder.path().to_owned()));
        let names = |added: &Added, configured: &[&str]| {
            let of = |name: &&str| Config { name: (*name).to_owned(), ..Config::default() };
            let configured: Vec<_> = configured.iter().map(of).collect();
            added.read_by(&reader(), &configured).into_iter().map(|it| it.name).collect::<Vec<_>>()
        };
        let added = read();
        assert!(added.is_empty());
        for name in ["web", "mail"] {
            added.keep(name, json!({ "name": name })).expect("kept");
        }
        added.keep("nameless", json!({})).expect("kept");
        added.keep("other", json!({ "name": "web" })).expect("kept");
        assert_eq!(names(&read(), &[]), ["mail", "web"]);
        assert_eq!(names(&read(), &["web"]), ["mail"], "the configuration counts");
        added.forget("mail").expect("forgotten");
        assert_eq!((names(&read(), &[]), read().has("nameless")), (vec!["web".to_owned()], true));
        let file = folder.path().join(FILE);
        assert_eq!(fs::metadata(&file).expect("a file").permissions().mode() & 0o777, 0o600);
    }

    #[test]
    fn a_damaged_file_or_one_of_other_hands_adds_nothing_and_is_not_written_over() {
        let folder = tempfile::tempdir().expect("a folder");
        let file = folder.path().join(FILE);
        for (text, mode) in [("", 0o600), ("[1]", 0o600), ("{\"web\": {\"na", 0o600), ("{\"web\": {}}", 0o622)] {
            own::create(&file, 0o600).and_then(|mut file| file.write_all(text.as_bytes())).expect("written");
            fs::set_permissions(&file, PermissionsExt::from_mode(mode)).expect("it is ours");
            let added = Added::read(Some(folder.path().to_owned()));
            assert!(added.read_by(&reader(), &[]).is_empty(), "{text}");
            let why = added.keep("mail", json!({})).expect_err("it is not known").to_string();
            assert!(why.contains("cannot be read") && why.contains("move it away"), "{why}");
            assert_eq!(fs::read_to_string(&file).expect("it is there"), text);
        }
        let why = Added::read(None).keep("web", json!({})).expect_err("no folder").to_string();
        assert!(why.contains("[shared] state"), "{why}");
    }
}
