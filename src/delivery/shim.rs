//! temp
use crate::{
    jitter::Jitter,
    routing::{PathEdit, RetryPolicy, Route, Schedule, Table},
};
use std::time::Duration;
pub(crate) fn delay_after(policy: &RetryPolicy, made: u32, _jitter: &Jitter) -> Option<Duration> {
    match &policy.schedule {
        Schedule::Steps(steps) => {
            steps.get(made.saturating_sub(1) as usize).or(policy.give_up_after.and(steps.last())).copied()
        }
        Schedule::Exponential { first, .. } => Some(*first),
    }
}
pub(crate) enum Changes<'a> {
    None,
    Same(&'a Route),
    Choose(Vec<&'a Route>),
}
pub(crate) fn changes<'a>(table: &'a Table, source: &str, upstream: &str) -> Changes<'a> {
    let all: Vec<&Route> = table
        .routes
        .iter()
        .filter(|r| {
            r.to.iter().any(|t| &**t == upstream) && r.sources.as_ref().is_none_or(|s| s.iter().any(|s| &**s == source))
        })
        .collect();
    match all.as_slice() {
        [] => Changes::None,
        [one] => Changes::Same(one),
        _ => Changes::Choose(all),
    }
}
pub(crate) fn apply(edit: &PathEdit, base: &str, path: &str) -> String {
    format!("{}{}", base.trim_end_matches('/'), edit.path.as_deref().unwrap_or(path))
}
