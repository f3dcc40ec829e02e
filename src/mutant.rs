//! Mutants: places where a sidecar can be made wrong on purpose, so that `make endurance-mutants` shows that it is
//! found.

use std::sync::Once;

/// Whether this sidecar is to be wrong in this way. Only one that was built with the feature `mutants` ever is, by
/// `ROSTER_MUTANT`, and it logs that it is where it is for the first time. So ask last, where all else is so.
pub(crate) fn is(name: &str) -> bool {
    static LOGGED: Once = Once::new();
    let is_wrong = cfg!(feature = "mutants") && std::env::var_os("ROSTER_MUTANT").is_some_and(|wanted| wanted == name);
    if is_wrong {
        LOGGED.call_once(|| tracing::warn!(mutant = name, "wrong on purpose"));
    }
    is_wrong
}
