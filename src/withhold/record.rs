//! The record: what is withheld, in a file that survives restarts.

use std::fs::{self, File};
use std::io::ErrorKind::NotFound;
use std::io::{self, Read};
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::clock::boot_id;
use crate::model::Withholding;
use crate::permissions::own::{self, NotOwn};

/// The file in the state folder.
const FILE: &str = "withheld.json";

/// The maximum size that is read and written.
const MAX_BYTES: usize = 64 << 20;

#[derive(Debug)]
pub(super) struct Record {
    /// None: there is no folder for it.
    path: Option<PathBuf>,
    /// The boot of the machine.
    pub(super) boot: String,
    /// Whether the file has unreadable content. It is set aside before it is replaced.
    has_unread: bool,
}

/// Everything that is withheld.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Recorded {
    pub(super) ejected: Vec<Entry>,
    pub(super) drained: Vec<Entry>,
}

/// The same in its written form.
#[derive(Debug, Default, Serialize, Deserialize)]
#[serde(default)]
struct Document {
    /// The boot of the machine in which it was written.
    boot: String,
    ejected: Vec<Value>,
    drained: Vec<Value>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Entry {
    pub(super) service: String,
    pub(super) target: String,
    #[serde(flatten)]
    pub(super) withholding: Withholding,
    /// How often it was ejected.
    #[serde(default)]
    pub(super) times: u32,
    /// When it ends, in ms since the boot of the machine. None: that was another boot, or it is not known yet.
    #[serde(rename = "endsAfterBoot", default, skip_serializing_if = "Option::is_none")]
    pub(super) ends_after_boot: Option<u64>,
}

impl Record {
    pub(super) fn new(folder: Option<PathBuf>) -> Self {
        Self { path: folder.map(|folder| folder.join(FILE)), boot: boot_id().to_owned(), has_unread: false }
    }

    pub(super) fn has_path(&self) -> bool {
        self.path.is_some()
    }

    /// What an earlier process left. Damaged parts are logged and ignored; an error says why nothing can be read.
    pub(super) fn left(&mut self) -> io::Result<Recorded> {
        let Some(path) = &self.path else { return Ok(Recorded::default()) };
        let read = match read(path) {
            Err(NotOwn::Io(error)) if error.kind() == NotFound => return Ok(Recorded::default()),
            Err(NotOwn::Io(error)) => return Err(error),
            Err(why) => Err(why.to_string()),
            Ok(bytes) => serde_json::from_slice(&bytes)
                .map(|document| entries(document, &self.boot))
                .map_err(|error| error.to_string()),
        };
        let (recorded, unread) = match read {
            Ok((recorded, 0)) => (recorded, None),
            Ok((recorded, count)) => (recorded, Some(format!("{count} entries are damaged"))),
            Err(error) => (Recorded::default(), Some(error)),
        };
        self.has_unread = unread.is_some();
        if let Some(error) = unread {
            let path = path.display();
            tracing::error!(
                %path, error, "cannot read all that was drained and ejected; drain anew what shall have no calls"
            );
        }
        Ok(recorded)
    }

    /// Why nothing is written after such an error.
    pub(super) fn why_unread(&self, error: &io::Error) -> String {
        let path = self.path.as_deref().unwrap_or(Path::new(FILE)).display();
        format!("cannot read {path}, which is tried again each second, and not written over before: {error}")
    }

    /// Replaces the record; an error says why it would be lost in a restart.
    pub(super) fn write(&mut self, recorded: &Recorded) -> Result<(), String> {
        let Some(path) = &self.path else { return Err("there is no `[shared] state` to keep it in".to_owned()) };
        let failed = |error: io::Error| format!("cannot write {}: {error}", path.display());
        let mut write = || {
            let fresh = own::write_beside(path, &serde_json::to_vec(&document(recorded, &self.boot, MAX_BYTES)?)?)?;
            if self.has_unread {
                if let Some(aside) = own::set_aside(path)? {
                    let (path, aside) = (path.display(), aside.display());
                    tracing::warn!(%path, %aside, "set a partly unreadable record aside");
                }
                self.has_unread = false;
            }
            fs::rename(fresh, path)?;
            path.parent().map_or(Ok(()), |folder| File::open(folder)?.sync_all())
        };
        write().map_err(failed)
    }
}

fn read(path: &Path) -> Result<Vec<u8>, NotOwn> {
    let mut written = Vec::new();
    own::open(path)?.take(MAX_BYTES as u64).read_to_end(&mut written).map_err(NotOwn::Io)?;
    Ok(written)
}

/// The valid entries, and the number of invalid ones.
fn entries(document: Document, boot: &str) -> (Recorded, usize) {
    let count = document.ejected.len() + document.drained.len();
    let is_same_boot = !boot.is_empty() && document.boot == boot;
    let entry = |value| {
        let entry: Entry = serde_json::from_value(value).ok()?;
        Some(Entry { ends_after_boot: entry.ends_after_boot.filter(|_| is_same_boot), ..entry })
    };
    let of = |values: Vec<Value>| values.into_iter().filter_map(entry).collect();
    let recorded = Recorded { ejected: of(document.ejected), drained: of(document.drained) };
    let unread = count - recorded.ejected.len() - recorded.drained.len();
    (recorded, unread)
}

/// All drains, and as many ejections as fit: those end soon, and will be repeated if calls fail.
fn document(recorded: &Recorded, boot: &str, max_bytes: usize) -> serde_json::Result<Document> {
    let values = |entries: &[Entry]| entries.iter().map(serde_json::to_value).collect::<serde_json::Result<Vec<_>>>();
    let bytes = |value: &Value| value.to_string().len() + 1;
    let (drained, mut ejected) = (values(&recorded.drained)?, values(&recorded.ejected)?);
    let mut room = max_bytes.saturating_sub(64 + boot.len() + drained.iter().map(bytes).sum::<usize>());
    ejected.retain(|value| {
        let left = room.checked_sub(bytes(value));
        room = left.unwrap_or(0);
        left.is_some()
    });
    Ok(Document { boot: boot.to_owned(), ejected, drained })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry(service: &str) -> Entry {
        let withholding = Withholding { since: 1, ends_at: 2, ..Withholding::default() };
        let (service, target) = (service.to_owned(), "a:1".to_owned());
        Entry { service, target, withholding, times: 0, ends_after_boot: Some(3) }
    }

    #[test]
    fn a_damaged_entry_costs_no_other_and_is_set_aside_before_the_next_is_written() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join(FILE);
        let mut record = Record::new(Some(folder.path().to_owned()));
        record.boot = "one".into();
        let both = Recorded { ejected: vec![entry("x")], drained: vec![entry("a"), entry("b")] };
        record.write(&both).expect("it is kept");
        assert_eq!(record.left().expect("read"), both);
        let damaged = fs::read_to_string(&path).expect("it is there").replace(r#""service":"a""#, r#""service":1"#);
        fs::write(&path, &damaged).expect("written");
        let left = Recorded { ejected: vec![entry("x")], drained: vec![entry("b")] };
        assert_eq!(record.left().expect("read"), left);
        assert_eq!(fs::read_to_string(&path).expect("it stands"), damaged);
        record.write(&left).expect("it is kept");
        let aside = folder.path().join("withheld.json.set-aside");
        assert_eq!(fs::read_to_string(&aside).expect("it is kept"), damaged);
        assert_eq!(record.left().expect("read"), left);
        // It is set aside once, and not the valid one that followed.
        record.write(&both).expect("it is kept");
        assert_eq!(fs::read_to_string(&aside).expect("it is kept"), damaged);
    }

    #[test]
    fn what_cannot_be_set_aside_is_not_written_over_and_nothing_is_before_another_can_be_written() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join(FILE);
        fs::write(&path, "{").expect("written");
        let names = ["", ".1", ".2", ".3"].map(|end| folder.path().join(format!("{FILE}.set-aside{end}")));
        names.iter().for_each(|name| fs::create_dir(name).expect("a folder in its way"));
        let mut record = Record::new(Some(folder.path().to_owned()));
        assert_eq!(record.left().expect("read"), Recorded::default());
        record.write(&Recorded::default()).expect_err("it would be lost");
        assert_eq!(fs::read_to_string(&path).expect("it stands"), "{");
        fs::remove_dir(&names[0]).expect("a free name");
        fs::remove_file(path.with_extension("new")).expect("what was to be written");
        fs::create_dir(path.with_extension("new")).expect("a folder in its way, too");
        record.write(&Recorded::default()).expect_err("it cannot be written");
        assert_eq!(fs::read_to_string(&path).expect("it stands"), "{");
    }

    #[test]
    fn where_not_all_fit_drains_are_kept() {
        let many = |count| vec![entry(&"x".repeat(1_000)); count];
        let found = document(&Recorded { ejected: many(100), drained: many(3) }, "", 10_000).expect("JSON");
        assert_eq!((found.drained.len(), found.ejected.len()), (3, 6));
        assert!(serde_json::to_vec(&found).expect("JSON").len() <= 10_000);
    }
}
