//! Outliers: which instances should be ejected, by their callers' reports; modelled on Envoy's outlier detection.
//!
//! Each user's reports are counted separately, so that a user that makes them up only affects its own view. An instance
//! should be ejected when more than half of the users who recently reported on it want that. No clock is read here.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use super::Config;
use crate::clock::Moment;

/// A reporting user, by the kernel's number.
pub type Reporter = u32;

/// An instance: an address of a service.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Place {
    pub service: Arc<str>,
    pub address: Arc<str>,
}

/// How many instances are tracked in all, counting each for each user. A user may have as many as it leaves free for
/// others.
const MAX_TALLIES: usize = 16_384;

/// After this long without a report about an instance, a user has no vote on it.
const STALE: Duration = Duration::from_secs(60);

/// The minimum number of instances, each with this many calls reported by a user, to compare success rates.
const MIN_INSTANCES: usize = 5;
const MIN_CALLS: u32 = 100;
/// An instance is an outlier if its rate is this many standard deviations below the mean.
const DEVIATIONS: f64 = 1.9;

#[derive(Debug)]
pub(super) struct Outliers {
    config: Config,
    watched: HashMap<Place, Watched>,
    /// By service, the time of each user's last report. These have a vote on instances that were just ejected: nobody
    /// could report on those, and a user who fails one as soon as it is back would be the only voter.
    voters: HashMap<Arc<str>, HashMap<Reporter, Moment>>,
    /// How many tallies each user has, and in total.
    tallies: HashMap<Reporter, usize>,
    count: usize,
}

#[derive(Debug, Default)]
struct Watched {
    tallies: HashMap<Reporter, Tally>,
    /// How often it was ejected, minus one for each interval in which it was healthy.
    ejections: u32,
    ejected_until: Option<Moment>,
    /// Until when all who report on the service have a vote: for an interval after the ejection, so that those who call
    /// the instance get to report on it. No longer, or those who do not call it would keep it from being ejected again.
    open_until: Option<Moment>,
}

/// One user's reports about an instance.
#[derive(Debug)]
struct Tally {
    failures_in_line: u32,
    /// Since the last comparison.
    calls: u32,
    failures: u32,
    /// Whether it was an outlier in the last comparison.
    is_outlier: bool,
    last: Moment,
}

/// An instance that should be ejected, and why.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Suspect {
    pub place: Place,
    pub reason: String,
}

impl Outliers {
    pub(super) fn new(config: Config) -> Self {
        Self { config, watched: HashMap::new(), voters: HashMap::new(), tallies: HashMap::new(), count: 0 }
    }

    /// Counts one report. Returns the instance, if it should now be ejected.
    pub(super) fn report(&mut self, now: Moment, by: Reporter, place: &Place, is_ok: bool) -> Option<Suspect> {
        let known = self.watched.get(place);
        // Late reports of calls before the ejection are not news.
        if known.is_some_and(|it| it.ejected_until.is_some()) {
            self.hear(now, by, &place.service);
            return None;
        }
        if !known.is_some_and(|it| it.tallies.contains_key(&by)) {
            let own = self.tallies.entry(by).or_default();
            if *own >= MAX_TALLIES - self.count {
                return None;
            }
            (*own, self.count) = (*own + 1, self.count + 1);
        }
        let watched = self.watched.entry(place.clone()).or_default();
        let tally = watched.tallies.entry(by).or_insert(Tally::new(now));
        tally.count(now, is_ok);
        self.hear(now, by, &place.service);
        if is_ok { None } else { self.suspect(now, place) }
    }

    fn hear(&mut self, now: Moment, by: Reporter, service: &Arc<str>) {
        self.voters.entry(service.clone()).or_default().insert(by, now);
    }

    /// Compares the rates, forgets what nobody reports on any more, and forgives healthy instances. Call it once per
    /// interval. Returns those that should be ejected.
    pub(super) fn compare(&mut self, now: Moment) -> Vec<Suspect> {
        let mut rates: HashMap<(Reporter, Arc<str>), Vec<f64>> = HashMap::new();
        for (place, watched) in &self.watched {
            for (by, rate) in watched.tallies.iter().filter_map(|(by, tally)| Some((*by, tally.rate()?))) {
                rates.entry((by, place.service.clone())).or_default().push(rate);
            }
        }
        let thresholds: HashMap<_, f64> =
            rates.into_iter().filter_map(|(of, rates)| Some((of, threshold(&rates)?))).collect();
        let (tallies, count) = (&mut self.tallies, &mut self.count);
        for (place, watched) in &mut self.watched {
            watched.tallies.retain(|by, tally| {
                let threshold = |rate| Some((rate, thresholds.get(&(*by, place.service.clone()))?));
                tally.is_outlier = tally.rate().and_then(threshold).is_some_and(|(rate, least)| rate < *least);
                (tally.calls, tally.failures) = (0, 0);
                let is_heard = now.since(tally.last) < STALE;
                if !is_heard {
                    *count -= 1;
                    tallies.entry(*by).and_modify(|own| *own -= 1);
                }
                is_heard
            });
            if watched.ejected_until.is_none() && !watched.is_open(now) {
                watched.ejections = watched.ejections.saturating_sub(1);
            }
        }
        self.watched.retain(|_, it| !it.tallies.is_empty() || it.ejections > 0 || it.ejected_until.is_some());
        self.tallies.retain(|_, own| *own > 0);
        self.voters.retain(|_, voters| {
            voters.retain(|_, last| now.since(*last) < STALE);
            !voters.is_empty()
        });
        let outliers = self.watched.iter().filter(|(_, it)| it.tallies.values().any(|tally| tally.is_outlier));
        let outliers: Vec<Place> = outliers.map(|(place, _)| place.clone()).collect();
        outliers.iter().filter_map(|place| self.suspect(now, place)).collect()
    }

    /// Notes that an instance is ejected; returns for how long.
    pub(super) fn eject(&mut self, now: Moment, place: &Place) -> Duration {
        let watched = self.watched.entry(place.clone()).or_default();
        watched.ejections = watched.ejections.saturating_add(1);
        let time = self.config.base_time.saturating_mul(watched.ejections).min(self.config.max_time);
        watched.eject(now + time, self.config.interval);
        watched.begin_anew();
        time
    }

    /// The same for one that an earlier process ejected, with its number of ejections and the remaining time.
    pub(super) fn restore(&mut self, now: Moment, place: &Place, left: Duration, ejections: u32) {
        let watched = self.watched.entry(place.clone()).or_default();
        watched.ejections = ejections;
        watched.eject(now + left, self.config.interval);
    }

    /// Notes that an instance is not ejected in spite of its reports: it takes as many again.
    pub(super) fn spare(&mut self, place: &Place) {
        self.watched.entry(place.clone()).and_modify(Watched::begin_anew);
    }

    /// Ends an ejection early.
    pub(super) fn end(&mut self, place: &Place) {
        self.watched.entry(place.clone()).and_modify(|it| it.ejected_until = None);
    }

    /// Those whose ejection is over.
    pub(super) fn take_ended(&mut self, now: Moment) -> Vec<Place> {
        let mut ended = Vec::new();
        for (place, watched) in &mut self.watched {
            if watched.ejected_until.is_some_and(|until| until <= now) {
                watched.ejected_until = None;
                ended.push(place.clone());
            }
        }
        ended
    }

    pub(super) fn ejected_until(&self, place: &Place) -> Option<Moment> {
        self.watched.get(place)?.ejected_until
    }

    /// The ejection count of an instance.
    pub(super) fn ejections(&self, place: &Place) -> u32 {
        self.watched.get(place).map_or(0, |it| it.ejections)
    }

    /// The instance, if more than half of the users with a vote want it ejected.
    fn suspect(&self, now: Moment, place: &Place) -> Option<Suspect> {
        let watched = self.watched.get(place)?;
        let tallies = &watched.tallies;
        let voters = match watched.is_open(now) {
            true => self.voters.get(&place.service).map_or(0, HashMap::len),
            false => tallies.len(),
        };
        let limit = self.config.consecutive_failures;
        let wanting = tallies.iter().filter(|(_, tally)| tally.is_outlier || tally.failures_in_line >= limit);
        let wanting: Vec<_> = wanting.collect();
        if wanting.len() * 2 <= voters {
            return None;
        }
        let (by, tally) = wanting.first()?;
        let what = match tally.failures_in_line {
            in_line if in_line >= limit => format!("{in_line} failures one after the other"),
            _ => "fewer calls succeed than of the others".to_owned(),
        };
        let more = match wanting.len() - 1 {
            0 => String::new(),
            more => format!(" and {more} more"),
        };
        Some(Suspect { place: place.clone(), reason: format!("{what}, reported by uid {by}{more}") })
    }
}

impl Watched {
    fn eject(&mut self, until: Moment, interval: Duration) {
        (self.ejected_until, self.open_until) = (Some(until), Some(until + interval.min(STALE)));
    }

    fn is_open(&self, now: Moment) -> bool {
        self.open_until.is_some_and(|until| now < until)
    }

    fn begin_anew(&mut self) {
        for tally in self.tallies.values_mut() {
            *tally = Tally::new(tally.last);
        }
    }
}

impl Tally {
    fn new(now: Moment) -> Self {
        Self { failures_in_line: 0, calls: 0, failures: 0, is_outlier: false, last: now }
    }

    fn count(&mut self, now: Moment, is_ok: bool) {
        self.last = now;
        self.calls = self.calls.saturating_add(1);
        if is_ok {
            (self.failures_in_line, self.is_outlier) = (0, false);
        } else {
            self.failures = self.failures.saturating_add(1);
            self.failures_in_line = self.failures_in_line.saturating_add(1);
        }
    }

    /// Its success rate, if there are enough calls.
    fn rate(&self) -> Option<f64> {
        (self.calls >= MIN_CALLS).then(|| 1.0 - f64::from(self.failures) / f64::from(self.calls))
    }
}

/// The rate below which one of these is an outlier; None: there are too few.
fn threshold(rates: &[f64]) -> Option<f64> {
    if rates.len() < MIN_INSTANCES {
        return None;
    }
    let count = rates.len() as f64;
    let mean = rates.iter().sum::<f64>() / count;
    let variance = rates.iter().map(|rate| (rate - mean).powi(2)).sum::<f64>() / count;
    Some(mean - DEVIATIONS * variance.sqrt())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn place(number: usize) -> Place {
        Place { service: "db".into(), address: format!("10.0.0.{number}:80").into() }
    }

    fn outliers() -> (Outliers, Moment) {
        (Outliers::new(Config::default()), Moment::now())
    }

    fn after(seconds: u64, moment: Moment) -> Moment {
        moment + Duration::from_secs(seconds)
    }

    /// Whether the last of this many failures has it ejected.
    fn fail(outliers: &mut Outliers, now: Moment, by: u32, times: usize) -> bool {
        (0..times).map(|_| outliers.report(now, by, &place(1), false)).last().flatten().is_some()
    }

    #[test]
    fn the_fifth_failure_in_line_has_an_instance_ejected_and_a_success_begins_anew() {
        let (mut outliers, now) = outliers();
        assert!(!fail(&mut outliers, now, 33, 4));
        assert_eq!(outliers.report(now, 33, &place(1), true), None);
        assert!(!fail(&mut outliers, now, 33, 4));
        let suspect = outliers.report(now, 33, &place(1), false).expect("it is");
        assert_eq!((suspect.place, &*suspect.reason), {
            (place(1), "5 failures one after the other, reported by uid 33")
        });
    }

    #[test]
    fn each_ejection_lasts_longer_up_to_a_bound_and_health_is_forgiven() {
        let (mut outliers, mut now) = outliers();
        let mut times = Vec::new();
        for _ in 0..12 {
            assert!(fail(&mut outliers, now, 33, 5));
            let time = outliers.eject(now, &place(1));
            times.push(time.as_secs());
            assert!(!fail(&mut outliers, now, 33, 50), "what is told late counts for nothing");
            assert_eq!(outliers.take_ended(after(time.as_secs() - 1, now)), []);
            now = after(time.as_secs(), now);
            assert_eq!(outliers.take_ended(now), [place(1)]);
            assert_eq!(outliers.take_ended(now), [], "it is told once");
        }
        assert_eq!(times, [30, 60, 90, 120, 150, 180, 210, 240, 270, 300, 300, 300]);
        for well in 1..=12 {
            now = after(10, now);
            assert_eq!(outliers.compare(now), []);
            assert_eq!(outliers.ejections(&place(1)), 12 - well);
        }
        assert!(outliers.watched.is_empty() && outliers.tallies.is_empty() && outliers.count == 0, "all is forgotten");
    }

    #[test]
    fn what_one_user_makes_up_ejects_nothing_that_another_reaches() {
        let (mut outliers, now) = outliers();
        outliers.report(now, 33, &place(1), true);
        assert!(!fail(&mut outliers, now, 66, 1_000), "one of two is no more than half");
        assert!(fail(&mut outliers, now, 34, 5), "two of three are");
        outliers.spare(&place(1));
        assert!(!fail(&mut outliers, now, 34, 4), "it takes as many again");
        // After a minute of silence a user has no vote.
        let later = after(61, now);
        outliers.report(later, 66, &place(1), false);
        outliers.compare(later);
        assert!(fail(&mut outliers, later, 66, 4));
    }

    #[test]
    fn one_user_ejects_nothing_again_that_another_calls() {
        let (mut outliers, now) = outliers();
        assert!(fail(&mut outliers, now, 66, 5), "nobody else has a say");
        let time = outliers.eject(now, &place(1));
        for second in 0..300 {
            let now = after(second, now);
            // User 33 can report nothing about the ejected one, and takes a few seconds to call it afterwards.
            outliers.report(now, 33, &place(2), true);
            if second >= time.as_secs() {
                outliers.take_ended(now);
                assert!(!fail(&mut outliers, now, 66, 50), "{second} s later");
            }
            if second % 10 == 0 {
                assert_eq!(outliers.compare(now), []);
            }
            if second >= time.as_secs() && second % 50 == 39 {
                outliers.report(now, 33, &place(1), true);
            }
        }
        let late = after(360, now);
        outliers.compare(late);
        assert!(outliers.voters.is_empty(), "all is forgotten");
        assert!(fail(&mut outliers, late, 66, 5), "user 33 has been silent for a minute");
    }

    #[test]
    fn who_calls_little_or_reports_of_what_is_not_there_keeps_nothing_that_is_dead_from_being_ejected() {
        let (mut outliers, now) = outliers();
        let mut ejected = 0;
        for second in 0..1_200 {
            let now = after(second, now);
            outliers.take_ended(now);
            outliers.report(now, 33, &place(2), true);
            outliers.report(now, 66, &place(99), true);
            if second % 5 == 0 {
                outliers.report(now, 34, &place(2 + second as usize % 19), true);
            }
            match outliers.ejected_until(&place(1)) {
                Some(_) => ejected += 1,
                // It is dead; and user 34 meets it every 100 s.
                None => {
                    if second % 100 == 50 {
                        outliers.report(now, 34, &place(1), false);
                    }
                    if fail(&mut outliers, now, 33, 50) {
                        outliers.eject(now, &place(1));
                    }
                }
            }
            if second % 10 == 0 {
                assert_eq!(outliers.compare(now), []);
            }
        }
        assert!(ejected > 1_000, "{ejected} s of 1,200");
    }

    #[test]
    fn one_that_fails_more_often_than_the_others_is_an_outlier_where_there_are_enough_to_tell() {
        let mut random = fastrand::Rng::with_seed(7);
        let mut simulated = |instances: usize, calls: usize, bad: f64| {
            let (mut outliers, now) = outliers();
            for _ in 0..calls {
                for number in 0..instances {
                    let failing = if number == 3 { bad } else { 0.02 };
                    // There are never five in a row here, so that only the rates matter.
                    let is_ok = random.f64() >= failing || outliers.failures_in_line(number) == 4;
                    assert_eq!(outliers.report(now, 33, &place(number), is_ok), None);
                }
            }
            let found: Vec<_> = outliers.compare(now).into_iter().map(|it| it.place).collect();
            assert_eq!(outliers.compare(now), [], "each interval counts anew");
            found
        };
        assert_eq!(simulated(10, 200, 0.4), [place(3)]);
        assert_eq!(simulated(5, 200, 0.4), [place(3)]);
        assert_eq!(simulated(4, 200, 0.4), [], "too few instances");
        assert_eq!(simulated(10, 99, 0.4), [], "too few calls");
        assert_eq!(simulated(10, 400, 0.02).len(), 0, "all are alike");
    }

    impl Outliers {
        fn failures_in_line(&self, number: usize) -> u32 {
            let tally = self.watched.get(&place(number)).and_then(|it| it.tallies.get(&33));
            tally.map_or(0, |tally| tally.failures_in_line)
        }
    }

    #[test]
    fn a_flood_of_reports_leaves_room_for_other_users_and_is_forgotten() {
        let (mut outliers, now) = outliers();
        for number in 0..3 * MAX_TALLIES {
            outliers.report(now, 66, &place(number), false);
        }
        assert_eq!(outliers.count, MAX_TALLIES / 2);
        for number in 0..100 {
            outliers.report(now, 34, &place(MAX_TALLIES + number), false);
        }
        assert_eq!((outliers.count, outliers.tallies[&34]), (MAX_TALLIES / 2 + 100, 100));
        assert_eq!(outliers.compare(after(60, now)), []);
        assert!(outliers.watched.is_empty() && outliers.tallies.is_empty() && outliers.count == 0);
    }

    #[test]
    fn an_ejection_of_before_a_restart_goes_on() {
        let (mut outliers, now) = outliers();
        outliers.restore(now, &place(1), Duration::from_secs(7), 3);
        assert!(!fail(&mut outliers, now, 33, 50));
        assert_eq!(outliers.take_ended(after(7, now)), [place(1)]);
        assert!(fail(&mut outliers, now, 33, 5));
        assert_eq!(outliers.eject(now, &place(1)), Duration::from_secs(120));
    }
}
