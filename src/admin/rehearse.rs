//! Owns the command rehearse: what it may ask for, its entry in the log, and what the engine is told.
//!
//! Promises that it is recorded before it begins. Deliberately absent: a rehearsal of success, which would count as
//! delivered what was never sent.

use std::time::Duration;

use super::{
    access::Caller,
    act::ActError,
    ports::Ports,
    wire::{Rehearse, Rehearsed},
};
use crate::log::entry::{Action, Fault};

/// The longest rehearsal.
const LONGEST: Duration = Duration::from_secs(3600);

/// Begins or ends a rehearsal. `caller` is recorded with it.
///
/// # Errors
/// [`ActError::Usage`], [`ActError::Refused`].
pub fn rehearse(ports: &dyn Ports, asked: &Rehearse, caller: &Caller) -> Result<Rehearsed, ActError> {
    let usage = |text: String| Err(ActError::Usage(text));
    let upstream = &*asked.upstream;
    if caller.scope.limits_sources() {
        return Err(ActError::NotAllowed("a rehearsal is for all sources: this token is limited to some".to_owned()));
    }
    if !ports.upstreams().iter().any(|known| **known == *upstream) {
        return usage(format!("no upstream is named {upstream:?}"));
    }
    let how = match (asked.fault, asked.for_ms) {
        (None, _) => None,
        (Some(Fault::Status(status)), _) if !(400..=599).contains(&status) => {
            return usage(format!("--status {status}: a rehearsal fails: take one between 400 and 599"));
        }
        (Some(fault), Some(for_ms)) if (1..=LONGEST.as_millis()).contains(&u128::from(for_ms)) => Some((fault, for_ms)),
        (Some(_), _) => return usage("--for takes a duration of at most 1h".to_owned()),
    };
    let action = match how {
        Some((fault, for_ms)) => Action::Rehearse { upstream: upstream.into(), fault, for_ms },
        None => Action::EndRehearsal { upstream: upstream.into() },
    };
    ports.command(caller.command(action)).map_err(ActError::Refused)?;
    let did = ports.rehearse(upstream, how.map(|(fault, for_ms)| (fault, Duration::from_millis(for_ms))));
    if how.is_some() && !did {
        return Err(ActError::Refused(format!("{upstream} is not served any more")));
    }
    Ok(Rehearsed {
        upstream: upstream.to_owned(),
        until: how.map(|(_, for_ms)| ports.now().after(Duration::from_millis(for_ms))),
        ended: how.is_none() && did,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::admin::fake::Fake;

    #[test]
    fn only_failures_of_known_upstreams_are_rehearsed_for_at_most_an_hour() {
        let fake = Fake::default();
        let name = fake.upstreams().first().unwrap().to_string();
        let ask = |upstream: &str, fault, for_ms| {
            rehearse(&fake, &Rehearse { upstream: upstream.into(), fault, for_ms }, &Caller::local("me")).is_ok()
        };
        assert!(!ask("nobody", Some(Fault::Hang), Some(1000)));
        assert!(!ask(&name, Some(Fault::Status(200)), Some(1000)));
        assert!(!ask(&name, Some(Fault::Hang), Some(3_600_001)));
        assert!(!ask(&name, Some(Fault::Hang), None));
        assert!(fake.commands().is_empty());
        assert!(ask(&name, Some(Fault::Status(503)), Some(1000)) && ask(&name, None, None));
        assert_eq!(fake.commands().len(), 2);
    }
}
