//! Descriptors: no settings admit more connections than the process may have open.

use nix::sys::resource::{Resource, getrlimit, setrlimit};

use super::Config;
use crate::worker;

/// What the sidecar keeps for itself: its files, threads, listeners, sources and the registers it joins; its question
/// to itself for the watchdog; and what is accepted in one go before those have gone that must make room.
const OWN: usize = 384;

/// Lets this process have as many descriptors as it may; how many that are.
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
    /// The same, with bounds of connections that `limit` descriptors are enough for: those that are higher share what
    /// the lower ones leave.
    pub fn within(&self, limit: usize) -> Self {
        let own = OWN + self.worker.iter().map(worker::Config::descriptors).sum::<usize>();
        let mut config = self.clone();
        let (thrift, register, is_on) = (&mut config.thrift, &mut config.register, self.register.is_on());
        let mut bounds = vec![
            ("thrift.max_connections", &mut thrift.max_connections),
            ("thrift.max_watches", &mut thrift.max_watches),
        ];
        if is_on {
            bounds.push(("register.max_masters", &mut register.max_masters));
            bounds.push(("register.max_unauthenticated", &mut register.max_unauthenticated));
        }
        let wanted = bounds.iter().fold(own, |sum, (_, bound)| sum.saturating_add(**bound));
        if wanted <= limit {
            return config;
        }
        let settings = in_words(&bounds);
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

/// Makes all bounds together no more than `available`: the highest give up most.
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
    use crate::worker::{Accept, Count};

    fn bounds(config: &Config) -> [usize; 4] {
        let Config { thrift, register, .. } = config;
        [thrift.max_connections, thrift.max_watches, register.max_masters, register.max_unauthenticated]
    }

    #[test]
    fn bounds_for_which_there_are_descriptors_stay_as_they_are() {
        let config = Config::default();
        assert_eq!(bounds(&config.within(65_536)), bounds(&config), "as the unit in contrib/ has them");
        assert_eq!(bounds(&config.within(usize::MAX)), bounds(&config));
    }

    #[test]
    fn where_descriptors_are_few_all_bounds_fit_and_the_lowest_stay() {
        let config = Config::default();
        assert_eq!(bounds(&config.within(1_024)), [160; 4]);
        assert_eq!(bounds(&config.within(20_000)), [2_048, 6_736, 6_736, 4_096]);
        for limit in [4, 100, 1_000, 10_000, 42_000] {
            let sum = bounds(&config.within(limit)).iter().sum::<usize>();
            assert!(sum <= limit.max(4), "{sum} of {limit}");
        }
    }

    #[test]
    fn workers_have_descriptors_of_their_own() {
        let listen = vec!["tcp://127.0.0.1:1".to_owned(); 2];
        let worker = worker::Config { count: Count::Number(10), listen, ..Default::default() };
        let accepting = worker::Config { accept: Accept::Sidecar, ..worker.clone() };
        let few = Config { worker: vec![accepting], ..Config::default() };
        assert_eq!(bounds(&few.within(4_096))[0], (4_096 - OWN - 52 - 1_024) / 4);
        let config = Config { worker: vec![worker; 2], ..Config::default() };
        assert_eq!(bounds(&config.within(1_024)), [139; 4], "84 less");
        assert_eq!(bounds(&config.within(65_536)), bounds(&config));
    }

    #[test]
    fn where_there_is_no_register_masters_need_no_descriptors() {
        let mut config = Config::default();
        config.register.listen.clear();
        assert_eq!(bounds(&config.within(1_024)), [320, 320, 20_000, 4_096]);
    }
}
