//! Mutants: places where a sidecar can be made wrong on purpose, so that `make endurance-mutants` can show that this is
//! detected.

use std::sync::Once;

/// Whether this sidecar should be wrong in this way. Only builds with the feature `mutants` ever are, by
/// `ROSTER_MUTANT`; the first time, it is logged. So check it last, after all other conditions.
pub(crate) fn is(name: &str) -> bool {
    static LOGGED: Once = Once::new();
    let is_wrong = cfg!(feature = "mutants") && std::env::var_os("ROSTER_MUTANT").is_some_and(|wanted| wanted == name);
    if is_wrong {
        LOGGED.call_once(|| tracing::warn!(mutant = name, "wrong on purpose"));
    }
    is_wrong
}
