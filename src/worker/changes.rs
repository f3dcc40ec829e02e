//! File changes, for development: a worker whose sources were edited is restarted.

use std::collections::hash_map::DefaultHasher;
use std::fs;
use std::hash::{Hash, Hasher};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use globset::{GlobBuilder, GlobSet, GlobSetBuilder};
use tokio::time::sleep;

/// How often to check the files. (The kernel's notifications differ by file system, and a bind mount of another
/// machine's folder has none.)
const LOOK_INTERVAL: Duration = Duration::from_millis(500);

/// The maximum number of files to check,
const MAX_FILES: usize = 20_000;

/// and the maximum depth of folders.
const MAX_DEPTH: usize = 64;

/// The files that match some patterns.
#[derive(Clone, Debug)]
pub(super) struct Watched {
    /// Each with the depth down to which it can have files that match.
    folders: Vec<(PathBuf, usize)>,
    patterns: GlobSet,
    /// Their state when a change was last reported.
    known: Option<u64>,
    /// Whether it was logged that some of them are not checked.
    is_reported: Arc<AtomicBool>,
}

/// The result of a check.
#[derive(Debug, Default, PartialEq, Eq)]
struct Look {
    digest: u64,
    /// The number of files.
    count: usize,
    /// The first folder of which something was omitted, if any.
    left_out: Option<PathBuf>,
}

impl Watched {
    /// The files that match these patterns; relative ones start in `folder`.
    pub(super) fn new(patterns: &[String], folder: &Path) -> Result<Self, globset::Error> {
        let mut set = GlobSetBuilder::new();
        let mut folders = Vec::new();
        for pattern in patterns {
            let whole = folder.join(pattern).display().to_string();
            set.add(GlobBuilder::new(&whole).literal_separator(true).build()?);
            let is_plain = |part: &&str| !part.contains(['*', '?', '[', '{']);
            let plain: Vec<&str> = whole.split('/').take_while(is_plain).collect();
            // `*` does not match a separator.
            let depth =
                if whole.contains("**") { MAX_DEPTH } else { whole.matches('/').count().saturating_sub(plain.len()) };
            folders.push((PathBuf::from(if plain == [""] { "/".to_owned() } else { plain.join("/") }), depth));
        }
        Ok(Self { folders, patterns: set.build()?, known: None, is_reported: Arc::default() })
    }

    /// Waits until files have changed since the last time, and are no longer changing.
    pub(super) async fn changed(&mut self) {
        let known = match self.known {
            Some(known) => known,
            None => {
                let Look { digest, count, .. } = self.look().await;
                if count == 0 {
                    let folders: Vec<_> = self.folders.iter().map(|(folder, _)| folder).collect();
                    tracing::warn!(?folders, "no file is there that `watch` means");
                }
                *self.known.insert(digest)
            }
        };
        let mut last = known;
        loop {
            sleep(LOOK_INTERVAL).await;
            let now = self.look().await.digest;
            if now != known && now == last {
                self.known = Some(now);
                return;
            }
            last = now;
        }
    }

    /// The current state of the files.
    async fn look(&self) -> Look {
        let watched = self.clone();
        let look = tokio::task::spawn_blocking(move || watched.look_at_all()).await.unwrap_or_default();
        if let Some(folder) = &look.left_out
            && !self.is_reported.swap(true, Ordering::Relaxed)
        {
            let bounds = format!("{MAX_FILES} files, and {MAX_DEPTH} folders in each other");
            tracing::warn!(folder = %folder.display(), "not all files of `watch` are looked at, but {bounds}");
        }
        look
    }

    fn look_at_all(&self) -> Look {
        let (mut digest, mut count, mut left, mut left_out) = (DefaultHasher::new(), 0, MAX_FILES, None);
        let mut folders: Vec<(PathBuf, usize, usize)> = Vec::new();
        for (root, deepest) in self.folders.iter().rev() {
            // It may be a link, such as to the latest of several releases, which then leads to another folder.
            match fs::metadata(root) {
                Ok(file) if file.is_dir() => {
                    fs::canonicalize(root).ok().hash(&mut digest);
                    folders.push((root.clone(), 0, *deepest));
                }
                Ok(file) => count += usize::from(self.take_in(root, &file, &mut digest)),
                Err(_) => {}
            }
        }
        // A list instead of recursion, since folders may be nested arbitrarily deep.
        while let Some((folder, depth, deepest)) = folders.pop() {
            let Ok(entries) = fs::read_dir(&folder) else { continue };
            let mut entries: Vec<_> = entries.flatten().take(left + 1).map(|entry| entry.path()).collect();
            if entries.len() > left || depth >= MAX_DEPTH {
                left_out.get_or_insert(folder);
                entries.truncate(if depth >= MAX_DEPTH { 0 } else { left });
            }
            left -= entries.len();
            entries.sort();
            for entry in entries {
                match fs::symlink_metadata(&entry) {
                    Ok(file) if file.is_dir() && depth < deepest => folders.push((entry, depth + 1, deepest)),
                    Ok(file) if file.is_dir() => {}
                    Ok(file) => count += usize::from(self.take_in(&entry, &file, &mut digest)),
                    Err(_) => {}
                }
            }
        }
        Look { digest: digest.finish(), count, left_out }
    }

    /// Whether the file matches.
    fn take_in(&self, path: &Path, file: &fs::Metadata, digest: &mut DefaultHasher) -> bool {
        let is_meant = self.patterns.is_match(path);
        if is_meant {
            // The link's target counts.
            let modified = fs::metadata(path).and_then(|file| file.modified()).ok();
            (path, modified, file.len()).hash(digest);
        }
        is_meant
    }
}

/// Checks patterns.
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
        let before = watched.look_at_all();
        write("src/notes.txt", "2");
        write("other/mail.php", "2");
        assert_eq!(watched.look_at_all(), before);
        write("src/a/mail.php", "22");
        let after = watched.look_at_all();
        assert_ne!(after.digest, before.digest);
        write("src/new.php", "3");
        assert_ne!(watched.look_at_all().digest, after.digest);
    }

    #[test]
    fn no_folder_is_looked_into_that_no_pattern_reaches() {
        let folder = tempfile::tempdir().expect("a folder");
        for name in ["a.php", "b/b.php", "b/c/c.php"] {
            let path = folder.path().join(name);
            fs::create_dir_all(path.parent().expect("a folder")).expect("a folder");
            fs::write(path, "1").expect("written");
        }
        for file in 0..=MAX_FILES {
            fs::File::create(folder.path().join(format!("b/c/{file}.txt"))).expect("written");
        }
        for (pattern, count, is_whole) in [
            ("*.php", 1, true),
            ("*/*.php", 1, true),
            ("{a,b/b}.php", 2, true),
            ("b/c/*.php", 1, false),
            ("**/*.php", 3, false),
        ] {
            let look = Watched::new(&[pattern.into()], folder.path()).expect("patterns").look_at_all();
            // Of a folder with more files than the bound, nobody knows which are looked at.
            assert!((look.count == count || !is_whole) && look.left_out.is_none() == is_whole, "{pattern}: {look:?}");
        }
    }

    #[test]
    fn a_folder_may_be_a_link_that_is_set_to_another_one() {
        let folder = tempfile::tempdir().expect("a folder");
        let at = |name: &str| folder.path().join(name);
        let link = |target: &str| {
            std::os::unix::fs::symlink(target, at("next")).expect("a link");
            fs::rename(at("next"), at("current")).expect("it is set");
        };
        for release in ["one", "two"] {
            fs::create_dir(at(release)).expect("a folder");
            let file = fs::File::create(at(release).join("mail.php")).expect("written");
            file.set_modified(std::time::SystemTime::UNIX_EPOCH).expect("it is ours");
        }
        link("one");
        let watched = Watched::new(&["**/*.php".into()], &at("current")).expect("patterns");
        let before = watched.look_at_all();
        assert_eq!(before.count, 1);
        link("two");
        let after = watched.look_at_all();
        assert!(after.count == 1 && after.digest != before.digest, "{after:?}");
        fs::write(at("two/mail.php"), "22").expect("written");
        assert_ne!(watched.look_at_all().digest, after.digest);
    }

    #[test]
    fn folders_as_deep_or_full_as_somebody_likes_cost_no_more_than_the_bounds() {
        let folder = tempfile::tempdir().expect("a folder");
        let watched = Watched::new(&["**/*.php".into()], folder.path()).expect("patterns");
        let at = |depth: usize| folder.path().join("a/".repeat(depth));
        fs::create_dir_all(at(200)).expect("a folder");
        fs::write(at(MAX_DEPTH - 1).join("near.php"), "1").expect("written");
        let Look { digest: before, left_out, .. } = watched.look_at_all();
        assert_eq!(left_out.map(|path| path.components().count()), Some(at(MAX_DEPTH).components().count()));
        fs::write(at(100).join("far.php"), "1").expect("written");
        assert_eq!(watched.look_at_all().digest, before);
        fs::write(at(MAX_DEPTH - 1).join("near.php"), "22").expect("written");
        assert_ne!(watched.look_at_all().digest, before);
        for file in 0..=MAX_FILES {
            fs::File::create(folder.path().join(format!("{file}.txt"))).expect("written");
        }
        assert_eq!(watched.look_at_all().left_out, Some(folder.path().to_owned()));
    }

    #[tokio::test]
    async fn what_is_edited_while_a_change_is_followed_is_another_change() {
        let folder = tempfile::tempdir().expect("a folder");
        let file = folder.path().join("mail.php");
        fs::write(&file, "1").expect("written");
        let mut watched = Watched::new(&["*.php".into()], folder.path()).expect("patterns");
        watched.known = Some(watched.look_at_all().digest);
        for text in ["22", "333"] {
            fs::write(&file, text).expect("written");
            tokio::time::timeout(Duration::from_secs(60), watched.changed()).await.expect("it is told");
        }
    }
}
