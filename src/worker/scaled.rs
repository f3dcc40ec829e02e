//! Scaling for good: the number of processes that groups also have after a restart of the sidecar.

use std::collections::BTreeMap;
use std::io;
use std::path::PathBuf;
use std::sync::{Mutex, MutexGuard, PoisonError};

use super::config::{Config, Count, MAX_COUNT};
use crate::permissions::own;

/// The file in the state folder.
const FILE: &str = "workers-scaled.json";

/// The number of processes by group, where it differs from the configuration.
#[derive(Debug)]
pub(super) struct Scaled {
    /// None: there is no folder for it.
    path: Option<PathBuf>,
    counts: Mutex<BTreeMap<String, u32>>,
}

impl Scaled {
    /// Reads what an earlier sidecar saved. A file that others may have written is ignored.
    pub(super) fn read(folder: Option<PathBuf>) -> Self {
        let path = folder.map(|folder| folder.join(FILE));
        let counts = path.as_ref().map_or_else(BTreeMap::new, |path| {
            let read = own::open(path).map_err(|why| why.at(path)).and_then(io::read_to_string);
            let counts = read.and_then(|text| Ok(serde_json::from_str(&text)?));
            counts.unwrap_or_else(|error| {
                if error.kind() != io::ErrorKind::NotFound {
                    tracing::error!(path = %path.display(), %error, "cannot read to how many workers were scaled");
                }
                BTreeMap::new()
            })
        });
        Self { path, counts: Mutex::new(counts) }
    }

    /// The settings of a group, with the number saved for it.
    pub(super) fn applied(&self, config: &Config) -> Config {
        match self.counts().get(&config.name).copied() {
            None => config.clone(),
            Some(count @ 1..=MAX_COUNT) => {
                let configured = config.count.number();
                if count != configured {
                    let cure =
                        format!("`roster worker scale {} {configured} --save` follows its settings", config.name);
                    tracing::warn!(
                        worker = config.name,
                        count,
                        configured,
                        "as many processes as it was scaled to; {cure}"
                    );
                }
                Config { count: Count::Number(count), ..config.clone() }
            }
            Some(count) => {
                tracing::error!(worker = config.name, count, "no number of processes to scale to; {FILE} says it");
                config.clone()
            }
        }
    }

    /// Warns of numbers that are saved for groups that do not exist.
    pub(super) fn warn_of_absent(&self, exists: impl Fn(&str) -> bool) {
        for (worker, count) in self.counts().iter().filter(|(worker, _)| !exists(worker)) {
            let cure = format!("`roster worker remove {worker} --saved` forgets it");
            tracing::warn!(worker, count, "there is no such worker, and it was scaled for good; {cure}");
        }
    }

    /// Saves a number; none: returns to that of the configuration.
    pub(super) fn keep(&self, group: &str, count: Option<u32>) -> io::Result<()> {
        let no_folder = || io::Error::other("there is no folder to keep it in: set `[shared] state`");
        let path = self.path.as_ref().ok_or_else(no_folder)?;
        let mut counts = self.counts();
        let mut kept = counts.clone();
        match count {
            Some(count) => kept.insert(group.to_owned(), count),
            None => kept.remove(group),
        };
        own::replace(path, &serde_json::to_vec(&kept)?)?;
        *counts = kept;
        Ok(())
    }

    pub(super) fn has(&self, group: &str) -> bool {
        self.counts().contains_key(group)
    }

    fn counts(&self) -> MutexGuard<'_, BTreeMap<String, u32>> {
        self.counts.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::io::Write;
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    #[test]
    fn what_is_kept_is_read_again_and_by_no_other_hand() {
        let folder = tempfile::tempdir().expect("a folder");
        let read = || Scaled::read(Some(folder.path().to_owned()));
        let count = |scaled: &Scaled, name: &str| {
            scaled.applied(&Config { name: name.to_owned(), ..Config::default() }).count.number()
        };
        let scaled = read();
        scaled.keep("web", Some(4)).expect("kept");
        scaled.keep("mail", Some(2)).expect("kept");
        assert_eq!((count(&scaled, "web"), count(&scaled, "other")), (4, 1));
        let again = read();
        assert_eq!((count(&again, "web"), count(&again, "mail")), (4, 2));
        again.keep("web", None).expect("forgotten");
        assert_eq!((count(&read(), "web"), count(&read(), "mail")), (1, 2));
        let file = folder.path().join(FILE);
        assert_eq!(fs::metadata(&file).expect("a file").permissions().mode() & 0o777, 0o600);
        fs::set_permissions(&file, PermissionsExt::from_mode(0o622)).expect("it is ours");
        assert_eq!(count(&read(), "mail"), 1, "anybody may have written it");
        for wrong in ["", "[]", r#"{"mail": -1}"#, r#"{"mail": 0}"#, r#"{"mail": 1001}"#] {
            own::create(&file, 0o600).and_then(|mut file| file.write_all(wrong.as_bytes())).expect("written");
            assert_eq!(count(&read(), "mail"), 1, "{wrong}");
        }
        assert!(Scaled::read(None).keep("web", Some(2)).expect_err("no folder").to_string().contains("[shared] state"));
    }
}
