//! Changes of files, for development: a worker whose sources were edited is restarted.

use std::collections::hash_map::DefaultHasher;
use std::fs;
use std::hash::{Hash, Hasher};
use std::path::{Path, PathBuf};
use std::time::Duration;

use globset::{GlobBuilder, GlobSet, GlobSetBuilder};
use tokio::time::sleep;

/// How often the files are looked at. (The kernel's notices differ by file system, and none come from a bind mount of
/// another machine's folder.)
const LOOK_INTERVAL: Duration = Duration::from_millis(500);

/// How many files are looked at, at most.
const MAX_FILES: usize = 20_000;

/// The files that some patterns are of.
#[derive(Clone, Debug)]
pub(super) struct Watched {
    folders: Vec<PathBuf>,
    patterns: GlobSet,
    /// What they were like when a change was last told of.
    known: Option<u64>,
}

impl Watched {
    /// The files of these patterns; a relative one begins in `folder`.
    pub(super) fn new(patterns: &[String], folder: &Path) -> Result<Self, globset::Error> {
        let mut set = GlobSetBuilder::new();
        let mut folders = Vec::new();
        for pattern in patterns {
            let whole = folder.join(pattern).display().to_string();
            set.add(GlobBuilder::new(&whole).literal_separator(true).build()?);
            let is_plain = |part: &&str| !part.contains(['*', '?', '[', '{']);
            let plain: Vec<&str> = whole.split('/').take_while(is_plain).collect();
            folders.push(PathBuf::from(if plain == [""] { "/".to_owned() } else { plain.join("/") }));
        }
        Ok(Self { folders, patterns: set.build()?, known: None })
    }

    /// Waits until files were changed since the last time, and are not being changed any more.
    pub(super) async fn changed(&mut self) {
        let known = match self.known {
            Some(known) => known,
            None => self.look().await,
        };
        let mut last = known;
        loop {
            sleep(LOOK_INTERVAL).await;
            let now = self.look().await;
            if now != known && now == last {
                self.known = Some(now);
                return;
            }
            last = now;
        }
    }

    /// What the files are like now.
    async fn look(&self) -> u64 {
        let watched = self.clone();
        tokio::task::spawn_blocking(move || watched.digest()).await.unwrap_or_default()
    }

    fn digest(&self) -> u64 {
        let mut digest = DefaultHasher::new();
        let mut left = MAX_FILES;
        for folder in &self.folders {
            self.take_in(folder, &mut digest, &mut left);
        }
        digest.finish()
    }

    fn take_in(&self, path: &Path, digest: &mut DefaultHasher, left: &mut usize) {
        let Ok(file) = fs::symlink_metadata(path) else { return };
        if *left == 0 {
            return;
        }
        *left -= 1;
        if file.is_dir() {
            let mut entries: Vec<PathBuf> =
                fs::read_dir(path).into_iter().flatten().flatten().map(|entry| entry.path()).collect();
            entries.sort();
            entries.iter().for_each(|entry| self.take_in(entry, digest, left));
        } else if self.patterns.is_match(path) {
            // Of what a link leads to.
            let modified = fs::metadata(path).and_then(|file| file.modified()).ok();
            (path, modified, file.len()).hash(digest);
        }
    }
}

/// What is wrong with patterns, if something is.
pub(crate) fn check_patterns(patterns: &[String]) -> Result<(), globset::Error> {
    Watched::new(patterns, Path::new("/")).map(drop)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_files_of_the_patterns_count() {
        let folder = tempfile::tempdir().expect("a folder");
        let write = |name: &str, text: &str| {
            let path = folder.path().join(name);
            fs::create_dir_all(path.parent().expect("a folder")).expect("a folder");
            fs::write(path, text).expect("written");
        };
        write("src/a/mail.php", "1");
        let watched = Watched::new(&["src/**/*.php".into()], folder.path()).expect("patterns");
        let before = watched.digest();
        write("src/notes.txt", "2");
        write("other/mail.php", "2");
        assert_eq!(watched.digest(), before);
        write("src/a/mail.php", "22");
        let after = watched.digest();
        assert_ne!(after, before);
        write("src/new.php", "3");
        assert_ne!(watched.digest(), after);
    }

    #[tokio::test]
    async fn what_is_edited_while_a_change_is_followed_is_another_change() {
        let folder = tempfile::tempdir().expect("a folder");
        let file = folder.path().join("mail.php");
        fs::write(&file, "1").expect("written");
        let mut watched = Watched::new(&["*.php".into()], folder.path()).expect("patterns");
        let edit = async {
            sleep(LOOK_INTERVAL / 2).await;
            fs::write(&file, "22").expect("written");
        };
        tokio::join!(watched.changed(), edit);
        fs::write(&file, "333").expect("written");
        tokio::time::timeout(Duration::from_secs(60), watched.changed()).await.expect("it is told");
    }
}
