//! What must hold for any bytes that lie in the place of the shared file.

use std::io::Write;

use super::{Contents, Env, Image};

/// A key and its value.
pub(super) type Pair = (Vec<u8>, Vec<u8>);

/// They are refused; or LMDB, which trusts its file, reads of it what we have read.
pub fn files(bytes: &[u8]) {
    let mut file = tempfile::NamedTempFile::new().expect("a file");
    file.write_all(bytes).expect("written");
    let Ok(image) = Image::open(file.path()) else { return };
    let (mut lower, mut upper) = (Vec::new(), Vec::new());
    let keep = |key: &[u8], value: &[u8], to: &mut Vec<Pair>| {
        to.push((key.to_vec(), value.to_vec()));
        Ok(())
    };
    let whole =
        image.walk(&mut |key, value| keep(key, value, &mut lower), &mut |key, value| keep(key, value, &mut upper));
    let _ = Contents::read(&image);
    if whole.is_err() {
        return;
    }
    for (key, value) in &lower {
        assert_eq!(image.get(key).expect("sound").as_ref(), Some(value));
    }
    lower.append(&mut upper);
    let env = Env::reader(file.path()).expect("sound");
    assert_eq!(env.entries().expect("sound"), lower);
}
