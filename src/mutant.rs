//! Mutants: places where a sidecar can be made wrong on purpose, so that `make endurance-mutants` shows that it is
//! found.

/// Whether this sidecar is to be wrong in this way. Only one that was built with the feature `mutants` ever is, by
/// `ROSTER_MUTANT`.
pub(crate) fn is(name: &str) -> bool {
    cfg!(feature = "mutants") && std::env::var_os("ROSTER_MUTANT").is_some_and(|wanted| wanted == name)
}
