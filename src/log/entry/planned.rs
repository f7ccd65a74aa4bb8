//! Owns the `planned` entry: which upstreams events go to, as routing decided.

use bytes::Bytes;

use super::{Reader, VERSION, Writer};
use crate::event::Seq;

/// Which upstreams a batch of events goes to: what routing decided once and for all.
#[derive(Clone, Debug, PartialEq, Eq, Default)]
pub struct Planned {
    /// Generation of the routing table that decided.
    pub generation: u64,
    /// The names that `events` speak of by index.
    pub upstreams: Vec<Box<str>>,
    /// Event and indexes into `upstreams`; none means unrouted or ignored.
    pub events: Vec<PlannedEvent>,
    /// Deliveries that are not of normal priority: event, index into `upstreams`, priority. In the order of `events`.
    pub priorities: Vec<(Seq, u32, u8)>,
}

/// What routing decided about one event.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PlannedEvent {
    /// The event's own sequence number.
    pub event: Seq,
    /// Indexes into [`Planned::upstreams`].
    pub targets: Vec<u32>,
    /// A route took it and discarded it on purpose (`to = []`).
    pub ignored: bool,
}

/// Encodes the payload of a `planned` entry.
#[must_use]
pub fn encode_planned(planned: &Planned) -> Bytes {
    let mut out = Writer(Vec::with_capacity(16 + planned.events.len() * 4));
    out.number(VERSION);
    out.number(planned.generation);
    out.number(planned.upstreams.len() as u64);
    for name in &planned.upstreams {
        out.text(name);
    }
    out.number(planned.events.len() as u64);
    let mut last = 0;
    for event in &planned.events {
        out.number(event.event.wrapping_sub(last));
        last = event.event;
        out.number((event.targets.len() as u64) << 1 | u64::from(event.ignored));
        for target in &event.targets {
            out.number(u64::from(*target));
        }
    }
    // The first releases knew no priorities; without any an entry looks as it did then.
    if !planned.priorities.is_empty() {
        out.number(planned.priorities.len() as u64);
        let mut last = 0;
        for (event, target, priority) in &planned.priorities {
            out.number(event.wrapping_sub(last));
            last = *event;
            out.number(u64::from(*target));
            out.number(u64::from(*priority));
        }
    }
    out.0.into()
}

/// Decodes the payload of a `planned` entry.
#[must_use]
pub fn decode_planned(payload: &Bytes) -> Option<Planned> {
    let mut from = Reader(payload.clone());
    from.version()?;
    let generation = from.number()?;
    let upstreams: Vec<Box<str>> = (0..from.count()?).map(|_| from.text()).collect::<Option<_>>()?;
    let mut last: Seq = 0;
    let mut events = Vec::new();
    for _ in 0..from.count()? {
        last = last.wrapping_add(from.number()?);
        let head = from.number()?;
        let mut targets = Vec::new();
        for _ in 0..head >> 1 {
            let target = u32::try_from(from.number()?).ok()?;
            upstreams.get(target as usize)?;
            targets.push(target);
        }
        events.push(PlannedEvent { event: last, targets, ignored: head & 1 == 1 });
    }
    let mut priorities = Vec::new();
    if !from.0.is_empty() {
        let mut last: Seq = 0;
        for _ in 0..from.count()? {
            last = last.wrapping_add(from.number()?);
            let target = u32::try_from(from.number()?).ok()?;
            upstreams.get(target as usize)?;
            priorities.push((last, target, u8::try_from(from.number()?).ok()?));
        }
    }
    Some(Planned { generation, upstreams, events, priorities })
}
