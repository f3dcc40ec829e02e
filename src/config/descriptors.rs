//! Descriptors: keeps connection limits within the descriptors that the process may have open.

use nix::sys::resource::{Resource, getrlimit, setrlimit};

use super::Config;
use crate::worker::{self, Accept};

/// What the sidecar reserves for itself: its files, threads, listeners, sources and the registers it joins; its own
/// watchdog check; and connections accepted before those that make room for them are gone.
const OWN: usize = 384;

/// One descriptor in this many is for processes of workers that are added or scaled later, or replaced and not gone
/// yet.
const LATER_PART: usize = 16;
const MAX_LATER: usize = 2_048;

/// Raises this process's limit as far as allowed; returns the limit.
pub fn raise_limit() -> usize {
    let Ok((soft, hard)) = getrlimit(Resource::RLIMIT_NOFILE) else { return usize::MAX };
    let limit = match setrlimit(Resource::RLIMIT_NOFILE, hard, hard) {
        Ok(()) => hard,
        Err(error) => {
            tracing::warn!(%error, soft, hard, "cannot raise the limit of open files");
            soft
        }
    };
    usize::try_from(limit).unwrap_or(usize::MAX)
}

impl Config {
    /// The same, with connection limits that `limit` descriptors are enough for: first fewer connections wait for
    /// workers, then the higher ones of the other limits share what the lower ones leave.
    pub fn within(&self, limit: usize) -> Self {
        let mut config = self.clone();
        let kept = own(self) + (limit / LATER_PART).min(MAX_LATER);
        let wanted = bounds(&mut config).iter().fold(kept, |sum, (_, bound)| sum.saturating_add(**bound));
        if wanted <= limit {
            return config;
        }
        let settings = in_words(&bounds(&mut config));
        let mut accepting: Vec<_> = config.worker.iter_mut().filter(|it| it.accept == Accept::Sidecar).collect();
        let each = limit / accepting.len().max(1);
        accepting.iter_mut().for_each(|worker| worker.leave_room(each));
        let own = own(&config) + (limit / LATER_PART).min(MAX_LATER);
        let mut bounds = bounds(&mut config);
        share(&mut bounds, limit - own.min(limit / 2));
        tracing::warn!(
            settings,
            limit,
            in_force = in_words(&bounds),
            "the settings admit more connections than this process may have open files; raise the limit to {wanted} \
             (`LimitNOFILE=` of the unit, `ulimit -Hn`), or lower the settings"
        );
        config
    }
}

impl Config {
    /// How many of this many descriptors all workers together may take.
    pub(crate) fn left_for_workers(&self, limit: usize) -> usize {
        let admitted = bounds(&mut self.clone()).iter().fold(OWN, |sum, (_, bound)| sum.saturating_add(**bound));
        limit.saturating_sub(admitted)
    }
}

/// What does not depend on these limits.
fn own(config: &Config) -> usize {
    OWN + config.worker.iter().map(worker::Config::descriptors).sum::<usize>()
}

fn bounds(config: &mut Config) -> Vec<(&'static str, &mut usize)> {
    let is_on = config.register.is_on();
    let (thrift, register) = (&mut config.thrift, &mut config.register);
    let mut bounds =
        vec![("thrift.max_connections", &mut thrift.max_connections), ("thrift.max_watches", &mut thrift.max_watches)];
    if is_on {
        bounds.push(("register.max_masters", &mut register.max_masters));
        bounds.push(("register.max_unauthenticated", &mut register.max_unauthenticated));
    }
    bounds
}

/// Lowers the limits to a total of at most `available`: the highest are lowered most.
fn share(bounds: &mut [(&'static str, &mut usize)], available: usize) {
    bounds.sort_by_key(|(_, bound)| **bound);
    let (mut left, count) = (available, bounds.len());
    for (number, (_, bound)) in bounds.iter_mut().enumerate() {
        **bound = (**bound).min(left / (count - number)).max(1);
        left = left.saturating_sub(**bound);
    }
}

fn in_words(bounds: &[(&str, &mut usize)]) -> String {
    bounds.iter().map(|(name, bound)| format!("{name} = {bound}")).collect::<Vec<_>>().join(", ")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::worker::Count;

    fn four(config: &Config) -> [usize; 4] {
        let Config { thrift, register, .. } = config;
        [thrift.max_connections, thrift.max_watches, register.max_masters, register.max_unauthenticated]
    }

    #[test]
    fn bounds_for_which_there_are_descriptors_stay_as_they_are() {
        let config = Config::default();
        assert_eq!(four(&config.within(65_536)), four(&config), "as the unit in contrib/ has them");
        assert_eq!(four(&config.within(usize::MAX)), four(&config));
    }

    #[test]
    fn where_descriptors_are_few_all_bounds_fit_and_the_lowest_stay() {
        let config = Config::default();
        assert_eq!(four(&config.within(1_024)), [144; 4]);
        assert_eq!(four(&config.within(20_000)), [2_048, 6_111, 6_111, 4_096]);
        for limit in [4, 100, 1_000, 10_000, 42_000] {
            let sum = four(&config.within(limit)).iter().sum::<usize>();
            assert!(sum <= limit.max(4), "{sum} of {limit}");
        }
    }

    #[test]
    fn workers_have_descriptors_of_their_own() {
        let listen = vec!["tcp://127.0.0.1:1".to_owned(); 2];
        let worker = worker::Config { count: Count::Number(10), listen, ..Default::default() };
        let accepting = worker::Config { accept: Accept::Sidecar, ..worker.clone() };
        let few = Config { worker: vec![accepting; 2], ..Config::default() };
        let waiting = |limit| few.within(limit).worker.iter().map(|it| it.max_waiting).collect::<Vec<_>>();
        assert_eq!(waiting(65_536), [1_024; 2]);
        assert_eq!((waiting(4_096), waiting(1_024), waiting(4)), (vec![256; 2], vec![64; 2], vec![1; 2]));
        assert_eq!(four(&few.within(4_096))[0], (4_096 - OWN - 256 - 2 * (58 + 256)) / 4);
        assert_eq!(four(&few.within(1_024))[0], 512 / 4, "what waits makes room before them");
        let config = Config { worker: vec![worker; 2], ..Config::default() };
        assert_eq!(four(&config.within(1_024)), [128; 4], "a half is theirs");
        assert_eq!(four(&config.within(65_536)), four(&config));
        for limit in [2_048, 65_536] {
            let within = config.within(limit);
            let wanted = within.worker.iter().map(worker::Config::descriptors).sum::<usize>();
            assert!(within.left_for_workers(limit) >= wanted + (limit / LATER_PART).min(MAX_LATER), "{limit}");
        }
    }

    #[test]
    fn where_there_is_no_register_masters_need_no_descriptors() {
        let mut config = Config::default();
        config.register.listen.clear();
        assert_eq!(four(&config.within(1_024)), [288, 288, 20_000, 4_096]);
    }
}
