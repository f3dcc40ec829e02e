//! What must hold for any bytes in place of the shared file.

use super::image::{Half, Image};
use super::{Contents, Env};

/// A key and its value.
pub(super) type Pair = (Vec<u8>, Vec<u8>);

/// They are refused; or LMDB, which trusts its file, reads the same from it as we do.
pub fn files(bytes: &[u8]) {
    let folder = tempfile::tempdir().expect("a folder");
    let file = folder.path().join("shared.mdb");
    std::fs::write(&file, bytes).expect("written");
    let Ok(image) = Image::open(&file) else { return };
    let mut entries: Vec<Pair> = Vec::new();
    let whole = image.walk(&mut |key, value| {
        entries.push((key.to_vec(), value.to_vec()));
        Ok(())
    });
    let _ = Contents::read(&image);
    if whole.is_err() {
        return;
    }
    for (key, _) in entries.iter().step_by(7) {
        assert_eq!(in_halves(&image, key), entries);
    }
    for (key, value) in &entries {
        assert_eq!(image.get(key).expect("sound").as_ref(), Some(value));
    }
    let env = Env::reader(&file).expect("sound");
    assert_eq!(env.entries().expect("sound"), entries);
}

fn in_halves(image: &Image, at: &[u8]) -> Vec<Pair> {
    let all = |half: &mut Half<'_>| {
        let mut entries: Vec<Pair> = Vec::new();
        half.each(&mut |key, value| {
            entries.push((key.to_vec(), value.to_vec()));
            Ok(())
        })?;
        Ok(entries)
    };
    let (before, from) = image.halves(at, all, all).expect("sound");
    assert!(before.iter().all(|(key, _)| key.as_slice() < at) && from.iter().all(|(key, _)| key.as_slice() >= at));
    [before, from].concat()
}
