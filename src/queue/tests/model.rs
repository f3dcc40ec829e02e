//! Whatever is done with jobs: none is lost, none is in two places, and none has two owners.

use std::collections::{BTreeMap, HashMap};

use super::*;

/// What must be known of a job.
struct Known {
    queue: &'static str,
    key: Option<String>,
    attempts: u32,
    /// Until when somebody has it.
    held_until: u64,
}

#[test]
fn whatever_is_done_with_jobs_each_is_in_one_place_and_has_one_owner() {
    let seed = fastrand::u64(..);
    let mut random = fastrand::Rng::with_seed(seed);
    let mut queue = Fixture::new(Config::default());
    let (mut jobs, mut held) = (HashMap::<JobId, Known>::new(), Vec::<Job>::new());
    let mut reported = 0;
    let is_dead = |queue: &mut Fixture, id: JobId| matches!(queue.state(id), Some(State::Dead { .. }));
    for step in 0..1_500 {
        let at = format!("{seed}: {step}");
        let name = ["a", "b"][random.usize(..2)];
        match random.u8(..16) {
            0..4 => {
                let delay = Duration::from_millis(random.u64(..3) * 20_000);
                let key = (random.u8(..4) == 0).then(|| random.u8(..3).to_string());
                let unique = key.clone().map(|key| Unique { key, until: Until::Success });
                let priority = Some(random.u8(..10));
                let new = NewJob { delay, priority, unique, retries: Some(2), ..job(name, "x") };
                let enqueued = queue.change(|change| change.enqueue(&[new], WEB)).expect("there is room")[0];
                let mut others: Vec<_> = jobs
                    .iter()
                    .filter(|(_, it)| key.is_some() && it.queue == name && it.key == key)
                    .map(|it| *it.0)
                    .collect();
                others.retain(|id| !matches!(queue.state(*id), Some(State::Dead { .. })));
                others.retain(|id| *id != enqueued.id || !enqueued.is_new);
                match enqueued.is_new {
                    true => assert_eq!(others, Vec::<JobId>::new(), "{at}: another one has the key"),
                    false => assert_eq!(others, [enqueued.id], "{at}"),
                }
                if enqueued.is_new {
                    jobs.insert(enqueued.id, Known { queue: name, key, attempts: 0, held_until: 0 });
                }
            }
            4..7 => {
                let lease = (random.u8(..3) == 0).then(|| Duration::from_secs(random.u64(1..600)));
                if let Some(taken) = queue.take_for(name, lease) {
                    let known = jobs.get_mut(&taken.id).expect("it was enqueued");
                    let is_free = known.held_until <= queue.now;
                    assert!(is_free && taken.attempt == known.attempts + 1, "{at}: {taken:?}");
                    known.attempts = taken.attempt;
                    known.held_until = queue.now + lease.map_or(60_000, |lease| lease.as_millis() as u64);
                    held.retain(|other| other.id != taken.id);
                    held.push(taken);
                }
            }
            7..11 if !held.is_empty() => {
                let nth = random.usize(..held.len());
                let taken = held[nth].clone();
                let lease = Duration::from_secs(random.u64(1..600));
                let update = match random.u8(..10) {
                    0 => Update::Release { delay: Duration::from_millis(random.u64(..2) * 5_000) },
                    1 => fail("x"),
                    2 => Update::Bury { error: "x".into() },
                    3 => Update::Lose { error: "x".into() },
                    4..6 => Update::Touch { lease: Some(lease) },
                    6 => Update::Progress(Progress::new(step, "x")),
                    _ => Update::Done,
                };
                let outcome = queue.update(&taken, update.clone());
                let known = jobs.get_mut(&taken.id).expect("it was not done");
                if known.held_until > queue.now {
                    assert!(outcome.is_ok(), "{at}: {update:?} within the lease: {outcome:?}");
                }
                if outcome.is_err() {
                    held.swap_remove(nth);
                    continue;
                }
                reported += 1;
                if let Update::Progress(_) = update {
                    let told = queue.change(|change| change.find(taken.id)).ok().and_then(|job| job.progress);
                    assert_eq!(told.is_some(), known.held_until > queue.now, "{at}");
                    continue;
                }
                known.held_until = 0;
                if let Update::Touch { .. } = update {
                    known.held_until = queue.now + lease.as_millis() as u64;
                    assert_eq!(outcome, Ok(Some(known.held_until)), "{at}");
                    continue;
                }
                held.swap_remove(nth);
                if update == Update::Done {
                    jobs.remove(&taken.id);
                }
            }
            11 if !jobs.is_empty() => {
                let id = *jobs.keys().nth(random.usize(..jobs.len())).expect("there are so many");
                let is_held = jobs[&id].held_until > queue.now;
                let cancelled = queue.change(|change| change.cancel(id));
                assert_eq!(cancelled, if is_held { Err(Refused::Running(id)) } else { Ok(()) }, "{at}");
                if !is_held {
                    jobs.remove(&id);
                    held.retain(|job| job.id != id);
                }
            }
            12 => queue.now += random.u64(..30_000),
            13 => {
                let to = if name == "a" { "b" } else { "a" };
                match queue.change(|change| change.move_to(name, to, ROOT)) {
                    Err(Refused::NoQueue(_)) => continue,
                    moved => assert!(matches!(moved, Ok((_, false))), "{at}: {moved:?}"),
                }
                let keys: Vec<_> = (jobs.iter())
                    .filter(|(id, it)| it.queue == to && !is_dead(&mut queue, **id))
                    .filter_map(|(_, it)| it.key.clone())
                    .collect();
                let now = queue.now;
                for (id, known) in jobs.iter_mut().filter(|(_, it)| it.queue == name && it.held_until <= now) {
                    known.queue = to;
                    // One that is dead may have its key again there.
                    if !is_dead(&mut queue, *id) {
                        known.key.take_if(|key| keys.contains(key));
                    }
                }
            }
            14 => {
                let dead = jobs.keys().copied().find(|id| is_dead(&mut queue, *id));
                let Some(id) = dead else { continue };
                let (name, key) = (jobs[&id].queue, jobs[&id].key.clone());
                let mut others = jobs.iter().filter(|(other, it)| **other != id && it.queue == name && it.key == key);
                let is_held = key.is_some() && others.any(|(other, _)| !is_dead(&mut queue, *other));
                assert_eq!(queue.change(|change| change.retry(name, id)), Ok(()), "{at}");
                jobs.get_mut(&id).expect("it is dead").key.take_if(|_| is_held);
            }
            _ if random.u8(..3) == 0 => queue.reopen(),
            _ => {}
        }
    }
    assert!(reported > 50, "{seed}: {reported}");
    for (id, known) in &jobs {
        let state = queue.state(*id).unwrap_or_else(|| panic!("{seed}: job {id} is lost"));
        let is_held = matches!(state, State::Running { until } if until == known.held_until);
        assert_eq!(is_held, known.held_until > queue.now, "{seed}: {id} {state:?}");
    }
    let mut places = BTreeMap::<JobId, usize>::new();
    for name in ["a", "b"] {
        let overview = queue.overview(name);
        for (order, count) in [
            (Order::Waiting, overview.waiting),
            (Order::Delayed, overview.delayed),
            (Order::Running, overview.running),
            (Order::Dead, overview.dead),
        ] {
            let found = queue.change(|change| change.peek(name, order, &[], MANY)).expect("a queue").jobs;
            assert_eq!(found.len() as u64, count, "{seed}: {name} {order:?}");
            found.iter().for_each(|job| *places.entry(job.id).or_default() += 1);
        }
    }
    assert!(places.len() == jobs.len() && places.values().all(|count| *count == 1), "{seed}");
    let (_, book) = queue.opened.as_ref().expect("it is open");
    assert_eq!(book.total.jobs, jobs.len() as u64, "{seed}");
    let is_known = |id: &JobId| book.leases.end_of(*id).is_some();
    assert!(book.progress.keys().all(is_known), "{seed}: {:?}", book.progress);
}
