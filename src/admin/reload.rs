//! Owns reloads as operators ask for them: each is on record, whether it took effect or not.

use std::time::Duration;

use super::{
    access::Caller,
    ports::Ports,
    wire::{ReloadRefused, Reloaded},
};

/// Applies the configuration as it stands on disk, and says so in the log. A log that takes no more is no reason against
/// a reload: it may be what helps.
///
/// # Errors
/// As for [`Ports::reload`].
pub(super) fn reload_noted(
    ports: &dyn Ports,
    caller: &Caller,
    probation: Option<Duration>,
) -> Result<Reloaded, ReloadRefused> {
    let done = ports.reload(probation);
    let command = match &done {
        Ok(reloaded) => caller.noted("reload", vec![reloaded.hash.as_str().into()], 1),
        Err(refused) => caller.noted("reload_refused", Vec::new(), refused.problems.len() as u64),
    };
    if let Err(error) = ports.command(command) {
        tracing::warn!(error, "a reload is not recorded in the audit trail");
    }
    done
}

/// The same, asked for by SIGHUP.
pub fn reload_by_signal(ports: &dyn Ports) {
    let caller = Caller { origin: "signal".into(), ..Caller::local("SIGHUP") };
    // The diagnostics and the metrics have the outcome.
    let _told = reload_noted(ports, &caller, None);
}
