//! Explaining: why an instance is chosen, or not.

use std::time::SystemTime;

use semver::Version;

use super::{candidates, is_callable};
use crate::clock::millis_since_1970;
use crate::model::{Held, Instance, InstanceState, Withheld, Withholding, utc};
use crate::store::Directory;

/// Whether an instance is among the candidates if nothing more is asked for, and why.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Explanation {
    pub is_served: bool,
    /// What keeps it from being chosen; otherwise how it is chosen.
    pub reasons: Vec<String>,
}

/// The newest version of a service with a callable instance: it gets all calls that do not ask for a version.
pub fn newest_callable<'a>(directory: &'a Directory, service: &str) -> Option<&'a Version> {
    let of = candidates(directory.instances_of(service)?, None);
    let mut callable = of.filter(|(_, set)| set.has_callable()).filter(|(_, set)| {
        set.unordered().flat_map(|provider| provider.instances.iter()).any(|it| is_callable(directory, it))
    });
    callable.next().map(|(version, _)| version)
}

/// Explains an instance of a service whose newest callable version is `newest`.
pub fn explain(directory: &Directory, instance: &Instance, newest: Option<&Version>) -> Explanation {
    let is_callable = is_callable(directory, instance);
    let mut reasons: Vec<String> = Vec::new();
    let mut say = |is_so: bool, what: &str| {
        if is_so {
            reasons.push(what.to_owned());
        }
    };
    let master = instance.master().map(|id| directory.master(id));
    let is_connected = master.is_none_or(|master| master.is_some_and(|master| master.is_connected()));
    say(instance.weight == 0, "its weight is 0");
    say(instance.state == InstanceState::Down, "its registration says that it takes no calls");
    say(instance.state == InstanceState::Returning, "it was there before a restart, and is expected back");
    say(!is_connected && instance.state != InstanceState::Returning, "its master is not connected");
    say(master.is_none() && instance.endpoints.is_empty(), "it has no endpoint");
    let Withheld { ejected, drained } = &instance.withheld;
    for (what, withholding) in [("drained", drained), ("ejected", ejected)] {
        if let Some(Withholding { since, ends_at, reason, .. }) = withholding.as_deref() {
            let reason = if reason.is_empty() { String::new() } else { format!(": {reason}") };
            reasons.push(format!("it is {what} from {} to {}{reason}", utc(*since), utc(*ends_at)));
        }
    }
    if let Some(Held { since, ends_at, probe, passed_over, .. }) = instance.held.as_deref() {
        let chosen = match passed_over {
            true => ", and it is not chosen",
            false if is_callable => ", and it is chosen all the same",
            // Something else keeps it from that.
            false => "",
        };
        let (since, until) = (utc(*since), utc(*ends_at));
        reasons.push(format!(
            "no node below its root registers it since {since}; it is held until {until}, {probe}{chosen}"
        ));
    }
    let is_newest = newest.is_none_or(|newest| *newest == instance.version);
    if let (true, false, Some(newest)) = (is_callable, is_newest, newest) {
        let when = format!("where it is asked for, or none of {newest} can be called");
        reasons.push(format!("its version is chosen only {when}"));
    }
    let is_silent = master.flatten().is_some_and(|master| !master.is_answering());
    if is_callable && is_silent {
        reasons.push("its master is silent: it is chosen where no other can be had".into());
    }
    if reasons.is_empty() {
        let now = millis_since_1970(SystemTime::now());
        let warm_up = instance.warm_up().map(|it| (it.weight(instance.weight, now), it.ends_at()));
        let part = warm_up.filter(|(weight, _)| *weight < instance.weight);
        let part =
            part.map(|(weight, until)| format!(", of which {weight} counts now: it warms up until {}", utc(until)));
        reasons.push(format!("it can be called, and has the weight {}{}", instance.weight, part.unwrap_or_default()));
    }
    Explanation { is_served: is_callable && is_newest, reasons }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::Probe;

    #[test]
    fn an_instance_that_is_held_and_drained_is_not_said_to_be_chosen() {
        let held = Held { ends_at: 1, probe: Probe::Answering, ..Held::default() };
        let mut instance = Instance { held: Some(held.into()), ..Instance::at("web", "10.0.0.1:80") };
        let reasons = |instance: &Instance| explain(&Directory::default(), instance, None).reasons.join("; ");
        assert!(reasons(&instance).ends_with("and it is chosen all the same"), "{}", reasons(&instance));
        let drained = Withholding { since: 0, ends_at: 1, reason: String::new(), decided: Default::default() };
        instance.withheld.drained = Some(drained.into());
        assert!(!reasons(&instance).contains("chosen"), "{}", reasons(&instance));
    }
}
