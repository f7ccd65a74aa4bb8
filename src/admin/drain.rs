//! Owns the commands drain and undrain: which target is meant, whether it may go, the entry in the log.
//!
//! Promises that the last target which works is taken out only if that is said on purpose.

use super::{
    access::Caller,
    act::{ActError, short},
    ports::Ports,
    wire::{Drain, Draining, UpstreamTarget},
};
use crate::log::entry::Action;

/// Takes a target out, or in again. `caller` is recorded with it.
///
/// # Errors
/// [`ActError::Usage`], [`ActError::NotAllowed`], [`ActError::Refused`].
pub fn drain(ports: &dyn Ports, asked: &Drain, caller: &Caller) -> Result<Draining, ActError> {
    let meant = would_drain(ports, asked, caller)?;
    if meant.changed {
        let (upstream, target) = (meant.upstream.as_str().into(), meant.target.as_str().into());
        let action = match asked.undo {
            true => Action::UndrainTarget { upstream, target },
            false => Action::DrainTarget { upstream, target, reason: asked.reason.clone() },
        };
        ports.command(caller.command(action)).map_err(ActError::Refused)?;
    }
    Ok(meant)
}

/// What that would mean now; nothing is done.
///
/// # Errors
/// As for [`drain`].
pub(super) fn would_drain(ports: &dyn Ports, asked: &Drain, caller: &Caller) -> Result<Draining, ActError> {
    let usage = |text: String| Err(ActError::Usage(text));
    if caller.scope.limits_sources() {
        return Err(ActError::NotAllowed("a target is for all sources: this token is limited to some".to_owned()));
    }
    short(asked.reason.as_deref()).map_err(ActError::Usage)?;
    let name = &asked.upstream;
    let Some(upstream) = ports.status().upstreams.into_iter().find(|found| found.name == *name) else {
        return usage(format!("no upstream is named {name:?}"));
    };
    if upstream.targets.is_empty() {
        return usage(format!("{name} has one url: `stagepost hold --upstream {name}` holds what is for it"));
    }
    let target = match meant(&upstream.targets, &asked.target)[..] {
        [one] => one,
        [] => {
            let known: Vec<&str> = upstream.targets.iter().map(|target| &*target.url).collect();
            return usage(format!("{name} has no target {:?}; it has {}", asked.target, known.join(", ")));
        }
        _ => return usage(format!("{:?} may be several targets of {name}; write the whole url", asked.target)),
    };
    let others = || upstream.targets.iter().filter(|other| other.url != target.url);
    let left = others().filter(|other| other.state == "up").count();
    if !asked.undo && left == 0 && !asked.force {
        return usage(format!(
            "no other target of {name} works: {}; --force takes it out all the same",
            others().map(|other| format!("{} is {}", other.url, other.state)).collect::<Vec<_>>().join(", ")
        ));
    }
    Ok(Draining {
        upstream: name.clone(),
        target: target.url.clone(),
        drained: !asked.undo,
        changed: (target.state == "drained") == asked.undo,
        in_flight: target.in_flight,
        left: left as u64,
    })
}

/// The targets that an operator may mean: the one with this url, else those with this host and port.
fn meant<'a>(targets: &'a [UpstreamTarget], text: &str) -> Vec<&'a UpstreamTarget> {
    if let Some(exact) = targets.iter().find(|target| target.url == text) {
        return vec![exact];
    }
    let authority =
        |url: &str| url.split_once("://").map(|(_, rest)| rest.split('/').next().unwrap_or(rest).to_owned());
    targets.iter().filter(|target| authority(&target.url).as_deref() == Some(text)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::admin::fake::Fake;

    fn asked(target: &str) -> Drain {
        Drain { upstream: "crm".into(), target: target.into(), ..Drain::default() }
    }

    fn error(asked: &Drain) -> String {
        drain(&Fake::default(), asked, &Caller::local("me")).unwrap_err().to_string()
    }

    #[test]
    fn a_target_is_meant_by_its_url_or_by_host_and_port() {
        let fake = Fake::default();
        let url = "http://a:1/base";
        assert_eq!(drain(&fake, &asked(url), &Caller::local("me")).unwrap().target, url);
        let done =
            drain(&fake, &Drain { reason: Some("kernel".into()), ..asked("a:1") }, &Caller::local("me")).unwrap();
        assert_eq!((&*done.target, done.drained, done.changed, done.left), (url, true, true, 1));
        let expected =
            Action::DrainTarget { upstream: "crm".into(), target: url.into(), reason: Some("kernel".into()) };
        assert_eq!(fake.commands()[1].action, expected);
        let long = Drain { reason: Some("x".repeat(70_000)), ..asked("a:1") };
        assert!(error(&long).starts_with("reason has 70000 bytes"));
        assert!(error(&asked("a")).contains("http://b:1, http://c:1"), "{}", error(&asked("a")));
    }

    #[test]
    fn what_is_done_already_is_no_command() {
        let fake = Fake::default();
        assert!(!drain(&fake, &asked("c:1"), &Caller::local("me")).unwrap().changed);
        assert!(!drain(&fake, &Drain { undo: true, ..asked("b:1") }, &Caller::local("me")).unwrap().changed);
        assert!(fake.commands().is_empty());
        let back = drain(&fake, &Drain { undo: true, ..asked("c:1") }, &Caller::local("me")).unwrap();
        assert!(back.changed && !back.drained && fake.commands().len() == 1);
    }

    #[test]
    fn the_last_that_works_stays_unless_it_is_forced_and_an_upstream_with_one_url_is_held() {
        assert!(error(&asked("b:1")).contains("--force"), "{}", error(&asked("b:1")));
        assert!(error(&asked("b:1")).contains("http://a:1/base is unhealthy"));
        assert!(drain(&Fake::default(), &Drain { force: true, ..asked("b:1") }, &Caller::local("me")).unwrap().changed);
        assert!(error(&Drain { upstream: "billing".into(), ..asked("a:1") }).contains("hold --upstream billing"));
        assert!(error(&Drain { upstream: "nobody".into(), ..asked("a:1") }).contains("no upstream"));
    }
}
