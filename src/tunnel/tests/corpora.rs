//! The corpora of the fuzz targets, replayed.

use std::path::Path;

use super::recorded;
use crate::tunnel;

#[path = "../../../fuzz/checks.rs"]
mod checks;

fn replay(corpus: &str, check: fn(&[u8])) {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz/corpus").join(corpus);
    let files: Vec<_> = std::fs::read_dir(folder).unwrap().map(|file| file.unwrap().path()).collect();
    assert!(!files.is_empty());
    for file in files {
        check(&std::fs::read(file).unwrap());
    }
}

#[test]
fn the_corpus_of_frames_holds() {
    replay("frames", checks::frames);
}

#[test]
fn the_corpus_of_php_values_holds() {
    replay("php_values", checks::php_values);
}

#[test]
fn what_was_recorded_and_changed_by_chance_holds() {
    let mut state = 0x2545_f491_4f6c_dd1du64;
    let mut random = move || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state as usize
    };
    for (_, message) in recorded::steps().into_iter().filter(|(_, message)| (1..500).contains(&message.len())) {
        for _ in 0..500 {
            let mut mutant = message.clone();
            for _ in 0..1 + random() % 4 {
                let at = random() % mutant.len();
                mutant[at] = random() as u8;
            }
            checks::frames(&mutant);
            checks::php_values(&mutant);
        }
    }
}
