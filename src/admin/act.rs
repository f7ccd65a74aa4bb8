//! Owns the commands replay, hold, release, requeue, resolve, expire and delete: which deliveries are meant, and the log
//! entries that say so.
//!
//! Promises that nothing is changed without an id, a filter or `--all`; that a dry run selects exactly as the
//! command does; and that memory is bounded: one command takes at most [`SELECTED_MAX`] deliveries and says when
//! there was more. Deliberately absent: asking the operator, which is the CLI's.

use std::{collections::BTreeMap, ops::ControlFlow, time::Duration};

use super::{
    access::Caller,
    filter::{Compiled, FilterError, recorded},
    find::{FindError, Found, find, history},
    forward::Forward,
    jobs,
    list::{Item, last_status, newest},
    ports::{DeliveryView, EventView, PlannedFor, Ports, QueryError, Reads, VIEWS_MAX},
    wire::{Act, Acted, Filters, Upstream, Verb},
};
use crate::{
    event::{DeliveryState, EventId, Seq},
    log::{
        Log, ReadError,
        entry::{Action, Command, ReplayStep, Target},
        read_body, read_event,
    },
};

/// The most deliveries that one command takes.
pub const SELECTED_MAX: usize = 1_000_000;

/// A replay by filter of more deliveries than this is a job.
pub const JOB_ABOVE: usize = 1_000;

/// Bytes of JSON that one command entry may have, below the log's limit for an entry.
const COMMAND_BYTES: usize = 400 * 1024;

/// Records asked for at once.
const PAGE: usize = 1_000;

/// Events that a batch of a walk stands for, at the most.
const LOOKS_A_BATCH: u64 = 200;

/// Named in an answer.
const SAMPLE: usize = 20;

/// Ids and skipped deliveries named in an answer.
const NAMED_MAX: usize = 100;

/// What was asked for is recorded up to so many bytes.
const ASKED_BYTES_MAX: usize = 1_024;

/// The longest hold or pause with an end, and the longest overlap of two secrets: ten years.
const LONGEST: Duration = Duration::from_secs(3650 * 86_400);

/// A reason may have so many bytes: it is shown in tables and told in alerts.
const REASON_BYTES_MAX: usize = 1_024;

/// Why a command was not done, or not wholly.
#[derive(Debug, thiserror::Error)]
pub enum ActError {
    /// It says nothing, or too much.
    #[error("{0}")]
    Usage(String),
    /// A filter means nothing.
    #[error(transparent)]
    Filter(#[from] FilterError),
    /// The caller is limited to a part that is smaller than this.
    #[error("{0}")]
    NotAllowed(String),
    /// The log or the state of deliveries can't be read.
    #[error(transparent)]
    Query(#[from] QueryError),
    /// The command was not appended.
    #[error("{0}")]
    Refused(String),
}

/// Does what an operator asks for. `caller` is recorded with it.
///
/// # Errors
/// See [`ActError`]. Of a command of many entries, those before the refused one stand.
pub fn act(ports: &dyn Ports, asked: &Act, caller: &Caller) -> Result<Acted, ActError> {
    check(ports, asked)?;
    within("for_ms (--for)", asked.for_ms).and_then(|()| short(asked.reason.as_deref())).map_err(ActError::Usage)?;
    allowed(asked, caller)?;
    let whole = asked.filters.only_upstream().filter(|_| asked.ids.is_empty() && !asked.all);
    if let (Verb::Hold | Verb::Release, Some(upstream)) = (asked.verb, whole) {
        return act_on_upstream(ports, asked, caller, upstream);
    }
    let may_be_job = asked.verb == Verb::Replay && asked.ids.is_empty() && !asked.dry_run;
    if may_be_job && asked.job {
        return jobs::start(ports, asked, caller);
    }
    let mut selection = Selection::new(ports, asked);
    if may_be_job {
        selection.most = JOB_ABOVE;
    }
    if asked.ids.is_empty() {
        selection.by_filter()?
    } else {
        selection.by_id()?
    }
    if may_be_job && selection.acted.truncated {
        return jobs::start(ports, asked, caller);
    }
    let Selection { targets, created, mut acted, .. } = selection;
    if asked.verb == Verb::Replay {
        acted.estimate_s = estimate_s(ports, asked, targets.iter().chain(&created));
    }
    if !asked.dry_run {
        // Each takes what it makes sense for.
        let by_id = asked.verb == Verb::Release && !asked.ids.is_empty();
        let let_go = targets.chunks(PAGE).filter(|_| by_id).map(|some| Action::LetGo { targets: some.to_vec() });
        let let_go: Vec<Action> = let_go.collect();
        let all = actions(asked, ports, targets, false).into_iter().chain(actions(asked, ports, created, true));
        let all = all.chain(let_go);
        let words = asked_for(asked);
        for (piece, action) in (0..).zip(all) {
            let total = acted.count;
            let command = Command { piece, total, asked: words.clone(), ..spoken(asked, caller, action) };
            ports.command(command).map_err(ActError::Refused)?;
        }
    }
    acted.dry_run = asked.dry_run;
    Ok(acted)
}

fn check(ports: &dyn Ports, asked: &Act) -> Result<(), ActError> {
    let usage = |text: String| Err(ActError::Usage(text));
    let verb = asked.verb.as_str();
    if asked.ids.is_empty() && asked.filters.is_empty() && !asked.all {
        return usage(format!("{verb} needs an id or a filter; --all says everything on purpose"));
    }
    let is_configured = |name: &String| ports.upstreams().iter().any(|upstream| **upstream == **name);
    // What is gone from the configuration may still be held.
    let is_told_of = |name: &String| ports.status().upstreams.iter().any(|upstream| upstream.name == *name);
    let unknown_to = asked.to.as_ref().filter(|name| !is_configured(name));
    let unknown = asked.filters.upstream.as_ref().filter(|name| match asked.verb {
        Verb::Hold => !is_configured(name),
        Verb::Release => !is_configured(name) && !is_told_of(name),
        _ => false,
    });
    if let Some(name) = unknown_to.or(unknown) {
        return usage(format!("no upstream is named {name:?}"));
    }
    let fits = |state: &str| match asked.verb {
        Verb::Hold | Verb::Requeue => state == "pending",
        Verb::Expire => matches!(state, "pending" | "held"),
        Verb::Release => state == "held",
        Verb::Resolve => state == "review",
        Verb::Replay | Verb::Delete => true,
    };
    match asked.filters.state.as_deref() {
        Some(state) if !fits(state) => usage(format!("{verb} can't change what is {state}")),
        _ => Ok(()),
    }
}

/// Whether a time that was asked for has a length that is meant. `field` is what it is called.
pub(super) fn within(field: &str, ms: Option<u64>) -> Result<(), String> {
    match ms {
        Some(ms) if Duration::from_millis(ms) > LONGEST => {
            let days = LONGEST.as_secs() / 86_400;
            Err(format!("{field}: at most {days}d; what is to last until somebody ends it needs no time"))
        }
        _ => Ok(()),
    }
}

/// Whether a reason is short enough.
pub(super) fn short(reason: Option<&str>) -> Result<(), String> {
    match reason.map_or(0, str::len) {
        bytes if bytes > REASON_BYTES_MAX => {
            Err(format!("reason has {bytes} bytes: it may have at most {REASON_BYTES_MAX}"))
        }
        _ => Ok(()),
    }
}

/// A caller with limits does nothing that reaches beyond them.
fn allowed(asked: &Act, caller: &Caller) -> Result<(), ActError> {
    let whole = asked.filters.only_upstream().is_some() && asked.ids.is_empty() && !asked.all;
    let refused = |text: &str| Err(ActError::NotAllowed(text.to_owned()));
    match asked.verb {
        Verb::Hold | Verb::Release if whole && caller.scope.limits_sources() => refused(
            "an upstream is held or released for all sources: this token is limited to some; name a source, too",
        ),
        Verb::Delete if caller.scope.limits_upstreams() => {
            refused("an event is deleted for all upstreams: this token is limited to some")
        }
        _ => Ok(()),
    }
}

/// The command of a caller, with what was said about it.
fn spoken(asked: &Act, caller: &Caller, action: Action) -> Command {
    Command { reason: asked.reason.clone(), ..caller.command(action) }
}

/// What a command asked for, for the record, with how a replay is to be made.
pub(super) fn asked_for(asked: &Act) -> Option<String> {
    let which = in_words(&asked.ids, &asked.filters, asked.all, asked.to.as_deref());
    let rate = asked.interval_us.map(|interval| format!("--rate {}", rate(interval)));
    let new_key = asked.new_key.then(|| "--new-key".to_owned());
    let original = asked.original.then(|| "--transform original".to_owned());
    let words: Vec<String> = which.into_iter().chain(rate).chain(new_key).chain(original).collect();
    (!words.is_empty()).then(|| words.join(" "))
}

/// A rate in the words in which it is asked for: `300/s`, `30/m`, `1/h`.
#[must_use]
pub fn rate(interval_us: u64) -> String {
    let units = [(1_000_000_u64, "s"), (60_000_000, "m"), (3_600_000_000, "h")];
    let fits = units.into_iter().find(|(unit, _)| *unit >= interval_us);
    let (unit, name) = fits.unwrap_or((3_600_000_000, "h"));
    format!("{}/{name}", (unit + interval_us / 2) / interval_us.max(1))
}

/// What was asked for, for the record: the first ids, the filters.
pub(super) fn in_words(ids: &[String], filters: &Filters, all: bool, to: Option<&str>) -> Option<String> {
    let filters = serde_json::to_value(filters).ok()?;
    let given = filters.as_object()?.iter().filter(|(_, value)| !value.is_null());
    let given = given.map(|(name, value)| match value.as_str() {
        Some(text) => format!("--{name} {text:?}"),
        None => format!("--{name} {value}"),
    });
    let mut words: Vec<String> = ids.iter().take(SAMPLE).cloned().chain(given).collect();
    words.extend(all.then(|| "--all".to_owned()));
    words.extend(to.map(|to| format!("--to {to}")));
    let mut text: String = words.join(" ");
    if text.len() > ASKED_BYTES_MAX {
        let end = (0..=ASKED_BYTES_MAX).rev().find(|end| text.is_char_boundary(*end)).unwrap_or(0);
        text.truncate(end);
        text.push('…');
    }
    Some(text).filter(|text| !text.is_empty())
}

/// How long a replay takes: by its own rate, by what the slowest of its upstreams may take, or by how long an attempt there
/// takes.
fn estimate_s<'a>(ports: &dyn Ports, asked: &Act, targets: impl Iterator<Item = &'a Target>) -> Option<u64> {
    let mut counts: BTreeMap<&str, u64> = BTreeMap::new();
    for target in targets {
        *counts.entry(&target.upstream).or_default() += 1;
    }
    if let Some(interval) = asked.interval_us {
        return Some(counts.values().sum::<u64>().saturating_mul(interval) / 1_000_000);
    }
    let upstreams = ports.status().upstreams;
    let mut longest = 0;
    for (name, count) in counts {
        let upstream = upstreams.iter().find(|upstream| upstream.name == name)?;
        let rate = upstream.rate_limit.or_else(|| capacity(ports, upstream)).filter(|rate| *rate > 0.0)?;
        longest = longest.max((count as f64 / rate).ceil() as u64);
    }
    Some(longest)
}

/// Attempts a second of an upstream that is kept busy: what it took lately says little if it had nothing to do. None if it
/// was never tried.
fn capacity(ports: &dyn Ports, upstream: &Upstream) -> Option<f64> {
    let (counts, sum_us) = ports.metered().known_upstream(&upstream.name)?.attempt.read();
    let count: u64 = counts.iter().sum();
    let at_once = upstream.concurrency_limit.max(1);
    let rate = (at_once * count) as f64 * 1e6 / sum_us.max(1) as f64;
    (count > 0).then_some(rate.max(upstream.rate))
}

fn act_on_upstream(ports: &dyn Ports, asked: &Act, caller: &Caller, upstream: &str) -> Result<Acted, ActError> {
    if !asked.dry_run {
        let action = match asked.verb {
            Verb::Hold => Action::HoldUpstream {
                upstream: upstream.into(),
                until_ms: until_ms(ports, asked),
                reason: asked.reason.clone(),
            },
            _ => Action::ReleaseUpstream { upstream: upstream.into() },
        };
        ports.command(spoken(asked, caller, action)).map_err(ActError::Refused)?;
    }
    let figures = ports.status().upstreams.into_iter().find(|found| found.name == upstream).unwrap_or_default();
    Ok(Acted {
        upstream: Some(upstream.to_owned()),
        count: figures.pending.max(figures.held),
        before: ports.log().end(),
        dry_run: asked.dry_run,
        ..Acted::default()
    })
}

fn until_ms(ports: &dyn Ports, asked: &Act) -> Option<u64> {
    asked.for_ms.map(|ms| ports.now().as_millis().saturating_add(ms))
}

/// The log entries of a command, each small enough for the log. Throttled replays are dealt out to all entries like
/// cards, each with the interval of all together, so that the rate holds and the order of the log is kept.
fn actions(asked: &Act, ports: &dyn Ports, targets: Vec<Target>, created: bool) -> Vec<Action> {
    let bytes: usize = targets.iter().map(|target| target.upstream.len() * 2 + 48).sum();
    let piles = (bytes / COMMAND_BYTES + usize::from(!targets.is_empty())).max(1);
    if targets.is_empty() {
        return Vec::new();
    }
    let mut dealt: Vec<Vec<Target>> = vec![Vec::with_capacity(targets.len() / piles + 1); piles];
    for (index, target) in targets.into_iter().enumerate() {
        if let Some(pile) = dealt.get_mut(index % piles) {
            pile.push(target);
        }
    }
    let until_ms = until_ms(ports, asked);
    let action = |targets: Vec<Target>| match asked.verb {
        Verb::Replay if asked.original => {
            let interval_us = asked.interval_us.map(|interval| interval.saturating_mul(piles as u64));
            let (targets, created) = if created { (Vec::new(), targets) } else { (targets, Vec::new()) };
            let (new_key, original) = (asked.new_key, true);
            Action::ReplayStep(ReplayStep { job: None, from: None, targets, created, new_key, original, interval_us })
        }
        Verb::Expire => Action::Expire { targets, reason: asked.reason.clone() },
        Verb::Requeue => Action::Requeue { targets },
        Verb::Replay => Action::Replay {
            targets,
            new_key: asked.new_key,
            interval_us: asked.interval_us.map(|interval| interval.saturating_mul(piles as u64)),
            created,
        },
        Verb::Hold => Action::Hold { targets, until_ms, reason: asked.reason.clone() },
        Verb::Release => Action::Release { targets },
        Verb::Resolve => Action::Resolve { targets, reason: asked.reason.clone() },
        Verb::Delete => Action::Delete { events: targets.into_iter().map(|target| target.event).collect() },
    };
    dealt.into_iter().map(action).collect()
}

/// The deliveries that are meant, collected event by event.
pub(super) struct Selection<'a> {
    reads: &'a dyn Reads,
    asked: &'a Act,
    pub(super) targets: Vec<Target>,
    /// Deliveries that do not exist yet: replays to an upstream that the event was not planned for.
    pub(super) created: Vec<Target>,
    pub(super) acted: Acted,
    /// About so many are taken: an event is never cut in two.
    pub(super) most: usize,
    /// Only what stands there or later.
    pub(super) from: Seq,
    /// Where to go on, if there is more.
    pub(super) reached: Seq,
    /// So many events are looked at.
    pub(super) looks: u64,
}

impl<'a> Selection<'a> {
    pub(super) fn new(reads: &'a dyn Reads, asked: &'a Act) -> Self {
        let acted = Acted { before: asked.before.unwrap_or_else(|| reads.log().end()), ..Acted::default() };
        let (targets, created, most, looks) = (Vec::new(), Vec::new(), SELECTED_MAX, u64::MAX);
        Self { reads, asked, targets, created, acted, most, from: 0, reached: 0, looks }
    }

    /// By id; filters narrow what is meant.
    fn by_id(&mut self) -> Result<(), ActError> {
        let wanted = Compiled::new(self.asked.filters.clone(), self.reads)?;
        for text in &self.asked.ids {
            let found = text.parse::<EventId>().map_err(FindError::from).and_then(|id| find(self.reads, id));
            match found {
                Ok(found) if !self.is_meant(&found, &wanted) => {
                    self.skip(format!("{}: the filters do not take it", found.event.id));
                }
                Ok(found) => {
                    if self.take(&found, &wanted, self.asked.filters.state.as_deref())?.is_break() {
                        break;
                    }
                }
                Err(FindError::Read(error)) => {
                    if !self.take_lost_id(text, &error)? {
                        return Err(QueryError::Read(error).into());
                    }
                }
                Err(FindError::State(error)) => return Err(QueryError::State(error).into()),
                Err(FindError::Id(error)) => return Err(ActError::Usage(error.to_string())),
                Err(FindError::NoSuch(_)) => {
                    self.acted.missing_count += 1;
                    if self.acted.missing.len() < NAMED_MAX {
                        self.acted.missing.push(text.clone());
                    }
                }
            }
        }
        Ok(())
    }

    /// By filter: through the records if the state keeps them, else through the log.
    fn by_filter(&mut self) -> Result<(), ActError> {
        let mut filters = self.asked.filters.clone();
        let default_state = match self.asked.verb {
            Verb::Replay => Some("dead"),
            Verb::Hold => Some("pending"),
            Verb::Release => Some("held"),
            Verb::Resolve => Some("review"),
            Verb::Requeue => Some("pending"),
            Verb::Delete | Verb::Expire => None,
        };
        filters.state = filters.state.or_else(|| default_state.map(str::to_owned));
        let wanted = Compiled::new(filters.clone(), self.reads)?;
        match filters.state.as_deref().and_then(recorded) {
            Some(state) => self.through_records(state, &wanted),
            None => self.through_log(&wanted),
        }
    }

    /// By filter, in the order of the log and from a place in it on: a step of a job. Deliveries that existed before `first`
    /// was the beginning of the log are met where they were carried to.
    pub(super) fn onward(&mut self, first: Seq) -> Result<(), ActError> {
        let mut filters = self.asked.filters.clone();
        filters.state = filters.state.or_else(|| Some("dead".to_owned()));
        let wanted = Compiled::new(filters.clone(), self.reads)?;
        if let Some(state) = filters.state.as_deref().and_then(recorded) {
            return self.through_records(state, &wanted);
        }
        let mut walk = Forward::new(self.reads, &wanted, self.from, self.acted.before, false);
        while let Some(batch) = walk.batch()? {
            for note in batch.notes {
                self.skip(note);
            }
            for met in batch.met {
                let event = met.found.event.id.pos.seq;
                // It was met at its own place before it was carried.
                if met.found.stored_at != event && (first..self.from).contains(&event) {
                    continue;
                }
                self.reached = met.found.stored_at;
                if self.take(&met.found, &wanted, filters.state.as_deref())?.is_break() {
                    return Ok(());
                }
            }
            self.looks = self.looks.saturating_sub(LOOKS_A_BATCH);
            if self.looks == 0 {
                (self.reached, self.acted.truncated) = (batch.reached, true);
                return Ok(());
            }
        }
        Ok(())
    }

    fn through_log(&mut self, wanted: &Compiled) -> Result<(), ActError> {
        let (reads, before) = (self.reads, self.acted.before);
        let mut failed = None;
        newest(reads, wanted, before, &mut |item| match item {
            Item::Note(note) => {
                self.skip(note);
                ControlFlow::Continue(())
            }
            Item::Event(found) => {
                let state = wanted.filters().state.as_deref();
                self.take(&found, wanted, state).unwrap_or_else(|error| {
                    failed = Some(error);
                    ControlFlow::Break(())
                })
            }
        })?;
        // Newest first is the order of the log read backwards; commands work in the order of the log.
        self.targets.sort_by_key(|target| target.event);
        failed.map_or(Ok(()), Err)
    }

    fn through_records(&mut self, state: DeliveryState, wanted: &Compiled) -> Result<(), ActError> {
        let mut after = self.from.checked_sub(1);
        loop {
            let upstream = wanted.filters().upstream.as_deref();
            let page = self.reads.records(state, upstream, after, PAGE).map_err(QueryError::State)?;
            let Some(last) = page.last() else { return Ok(()) };
            after = Some(last.event);
            let mut planned: Vec<PlannedFor> = Vec::new();
            for target in page.into_iter().filter(|target| target.event < self.acted.before) {
                match planned.last_mut() {
                    Some(same) if same.event == target.event => same.upstreams.push(target.upstream),
                    _ => planned.push(PlannedFor { event: target.event, upstreams: vec![target.upstream] }),
                }
            }
            for some in planned.chunks(VIEWS_MAX) {
                let views = self.reads.views(some).map_err(QueryError::State)?;
                for (event, view) in some.iter().zip(views) {
                    self.reached = event.event;
                    if self.looks == 0 {
                        self.acted.truncated = true;
                        return Ok(());
                    }
                    self.looks -= 1;
                    if self.take_recorded(event, view, wanted, state)?.is_break() {
                        return Ok(());
                    }
                }
            }
        }
    }

    fn take_recorded(
        &mut self,
        planned: &PlannedFor,
        mut view: EventView,
        wanted: &Compiled,
        state: DeliveryState,
    ) -> Result<ControlFlow<()>, ActError> {
        // Other deliveries of the event are in other states, or of other upstreams.
        view.deliveries.retain(|delivery| planned.upstreams.contains(&delivery.upstream));
        let log = self.reads.log();
        let stored_at = self.reads.stored_at(planned.event).map_err(QueryError::State)?.unwrap_or(planned.event);
        let event = match read_event(&*log, stored_at) {
            Ok(event) => event,
            Err(error) => {
                if !self.take_lost(format!("sequence {}", planned.event), planned.event, &view, &error) {
                    self.skip(error.to_string());
                }
                return Ok(ControlFlow::Continue(()));
            }
        };
        let deleted = view.deleted;
        let found = Found::bare(event, view, stored_at);
        if deleted || !self.is_meant(&found, wanted) {
            return Ok(ControlFlow::Continue(()));
        }
        self.take(&found, wanted, Some(state.as_str()))
    }

    /// The same as [`Self::take_lost`], of an event that is named.
    fn take_lost_id(&mut self, text: &str, error: &ReadError) -> Result<bool, ActError> {
        let Ok(id) = text.parse::<EventId>() else { return Ok(false) };
        let asked = PlannedFor { event: id.pos.seq, upstreams: Vec::new() };
        let view = self.reads.views(&[asked]).map_err(QueryError::State)?.pop().unwrap_or_default();
        Ok(self.take_lost(text.to_owned(), id.pos.seq, &view, error))
    }

    /// Takes what is known of an event whose stored bytes are damaged, for a command that needs no more than that. Whether
    /// it did.
    fn take_lost(&mut self, name: String, event: Seq, view: &EventView, error: &ReadError) -> bool {
        let (verb, filters) = (self.asked.verb, &self.asked.filters);
        let needs_more = !Filters { upstream: None, state: None, ..filters.clone() }.is_empty();
        let may_pass = matches!(error, ReadError::Io { .. });
        // Whose it is can't be told.
        let is_limited = self.reads.scope().limits_sources();
        if needs_more || may_pass || is_limited || view.deleted || !matches!(verb, Verb::Delete | Verb::Expire) {
            return false;
        }
        let is_meant = |delivery: &&DeliveryView| {
            changes(verb, delivery, true)
                && filters.upstream.as_deref().is_none_or(|name| name == &*delivery.upstream)
                && filters.state.as_deref().is_none_or(|state| state == delivery.status.state().as_str())
        };
        let mut upstreams: Vec<Box<str>> =
            view.deliveries.iter().filter(is_meant).map(|delivery| delivery.upstream.clone()).collect();
        if verb == Verb::Delete && !upstreams.is_empty() {
            upstreams = vec![Box::default()];
        }
        self.acted.events += u64::from(!upstreams.is_empty());
        self.acted.count += upstreams.len() as u64;
        let taken = !upstreams.is_empty();
        for upstream in upstreams {
            if self.acted.sample.len() < SAMPLE {
                let named = Some(upstream.to_string()).filter(|upstream| !upstream.is_empty());
                self.acted.sample.push((name.clone(), named));
            }
            self.targets.push(Target { event, upstream });
        }
        taken
    }

    /// Whether the filters take the event itself; an expression that fails takes nothing and is named.
    fn is_meant(&mut self, found: &Found, wanted: &Compiled) -> bool {
        let log = self.reads.log();
        let body = || read_body(&*log, &found.event).map_err(|error| error.to_string());
        let taken = wanted.takes_event(&found.event)
            && wanted.takes_content(&found.event, &body, self.reads).unwrap_or_else(|error| {
                self.skip(format!("{}: {error}", found.event.id));
                false
            });
        if !taken || self.asked.verb != Verb::Delete {
            return taken;
        }
        wanted.takes_deliveries(&found.view, found.state(), &mut |delivery| last_answer(&*log, found, delivery))
    }

    /// Takes what is meant of one event.
    fn take(&mut self, found: &Found, wanted: &Compiled, state: Option<&str>) -> Result<ControlFlow<()>, ActError> {
        if self.targets.len() + self.created.len() >= self.most {
            self.acted.truncated = true;
            return Ok(ControlFlow::Break(()));
        }
        let seq = found.event.id.pos.seq;
        let log = self.reads.log();
        let upstreams: Vec<Option<Box<str>>> = if self.asked.verb == Verb::Delete {
            vec![None]
        } else {
            let mut status = |delivery: &DeliveryView| last_answer(&*log, found, delivery);
            let meant = found.view.deliveries.iter().filter(|delivery| wanted.takes_delivery(delivery, &mut status));
            let meant: Vec<&DeliveryView> = meant.collect();
            let planned_nowhere = found.plan.is_some() && found.view.deliveries.is_empty();
            let goes_nowhere = planned_nowhere && state.is_none_or(|state| state == found.state().as_str());
            match (&self.asked.to, self.asked.verb) {
                (Some(to), Verb::Replay) if !meant.is_empty() || goes_nowhere => vec![Some(to.as_str().into())],
                (_, Verb::Replay) if goes_nowhere => self.routed_now(found)?,
                (_, verb) => {
                    let by_id = !self.asked.ids.is_empty();
                    meant.into_iter().filter(|d| changes(verb, d, by_id)).map(|d| Some(d.upstream.clone())).collect()
                }
            }
        };
        if upstreams.is_empty() {
            if !self.asked.ids.is_empty() {
                self.skip(format!(
                    "{}: it has no delivery that {} could change",
                    found.event.id,
                    self.asked.verb.as_str()
                ));
            }
            return Ok(ControlFlow::Continue(()));
        }
        let last = |targets: &[Target]| targets.last().is_some_and(|last| last.event == seq);
        if !last(&self.targets) && !last(&self.created) {
            self.acted.events += 1;
        }
        for upstream in upstreams {
            let name = upstream.clone().unwrap_or_default();
            // The same id twice, or a replay to one upstream of an event whose deliveries lie on two pages.
            let exists = self.asked.verb == Verb::Delete
                || found.view.deliveries.iter().any(|delivery| delivery.upstream == name);
            let targets = if exists { &mut self.targets } else { &mut self.created };
            if targets.last().is_some_and(|last| last.event == seq && last.upstream == name) {
                continue;
            }
            self.acted.count += 1;
            self.acted.bytes += if self.asked.verb == Verb::Replay { found.event.body.length() } else { 0 };
            if self.acted.sample.len() < SAMPLE {
                self.acted.sample.push((found.event.id.to_string(), upstream.map(Into::into)));
            }
            targets.push(Target { event: seq, upstream: name });
        }
        Ok(ControlFlow::Continue(()))
    }

    /// An event that goes nowhere is replayed to where today's routes send it.
    fn routed_now(&mut self, found: &Found) -> Result<Vec<Option<Box<str>>>, ActError> {
        if found.event.method.is_safe() {
            return Ok(Vec::new());
        }
        let body = read_body(&*self.reads.log(), &found.event).map_err(QueryError::Read)?;
        match self.reads.routed(&found.event, &body) {
            Ok(upstreams) => Ok(upstreams.into_iter().map(Some).collect()),
            Err(error) => {
                self.skip(format!("{}: {error}", found.event.id));
                Ok(Vec::new())
            }
        }
    }

    fn skip(&mut self, text: String) {
        if self.acted.skipped.len() < NAMED_MAX {
            self.acted.skipped.push(text);
        }
    }
}

/// The status of the last answer, also of a first attempt that left no record.
fn last_answer(log: &dyn Log, found: &Found, delivery: &DeliveryView) -> Option<u16> {
    if delivery.last.is_some() {
        return last_status(log, delivery);
    }
    let history = history(log, found.event.id.pos.seq, found.stored_at, delivery).ok()?.attempts;
    history.last()?.attempt.as_ref()?.status
}

/// A dead delivery that is named is released in another sense: those that wait behind it, since they have its key, go.
const fn changes(verb: Verb, delivery: &DeliveryView, by_id: bool) -> bool {
    match verb {
        Verb::Hold => matches!(delivery.status.state(), DeliveryState::Pending),
        Verb::Release => match delivery.status.state() {
            DeliveryState::Held => true,
            DeliveryState::Dead => by_id,
            _ => false,
        },
        Verb::Resolve => matches!(delivery.status.state(), DeliveryState::Review),
        Verb::Expire => matches!(delivery.status.state(), DeliveryState::Pending | DeliveryState::Held),
        // What was never attempted is due as it is.
        Verb::Requeue => matches!(delivery.status.state(), DeliveryState::Pending) && delivery.attempts > 0,
        Verb::Replay | Verb::Delete => true,
    }
}

#[cfg(test)]
#[path = "act_tests.rs"]
mod tests;
