//! The checks of the fuzz targets on recorded data.

use super::{random, recorded};
use crate::fuzz;

#[test]
fn what_was_recorded_and_changed_by_chance_holds() {
    let mut random = random();
    for (_, message) in recorded::steps().into_iter().filter(|(_, message)| (1..500).contains(&message.len())) {
        for _ in 0..500 {
            let mut mutant = message.clone();
            for _ in 0..1 + random() % 4 {
                let at = random() % mutant.len();
                mutant[at] = random() as u8;
            }
            fuzz::frames(&mutant);
            fuzz::php_values(&mutant);
        }
    }
}
