//! Owns the manifest: the one small file that says which runs belong to the state, and everything that is no record.
//!
//! Format: the 8 bytes `SPSTATE3`, the body (integers as LEB128 varints, bitmaps in the portable roaring format with
//! a length before them), then the CRC32C of all before it, little-endian. A reader that finds anything else throws
//! the state away: it is derived.

use std::{collections::VecDeque, sync::Arc};

use bytes::Bytes;
use roaring::RoaringTreemap;

use super::{Closed, Drained, Hold, Layers, Pauses, State, Subscriber, Timeline, Upstream};
use crate::{
    clock::Timestamp,
    event::Version,
    log::entry::{Reader, Registration, Streak, Writer},
};

const MAGIC: &[u8; 8] = b"SPSTATE3";

/// Encodes all of the state but its records. The names of the runs come last, see [`finish`].
#[must_use]
pub(super) fn encode(state: &State) -> Vec<u8> {
    let mut out = Writer(Vec::with_capacity(4096));
    out.0.extend_from_slice(MAGIC);
    out.0.extend_from_slice(&state.log_id.to_le_bytes());
    out.number(state.next);
    for set in [&state.unplanned, &state.early, &state.deleted, &state.carried] {
        put_set(&mut out, set);
    }
    let samples = state.timeline.samples();
    out.number(samples.len() as u64);
    for (seq, time) in samples {
        out.number(*seq);
        out.number(time.as_millis());
    }
    let audited = state.audit.iter();
    out.number(audited.len() as u64);
    for (own, at) in audited {
        out.number(own);
        out.number(at);
    }
    out.number(state.upstreams.len() as u64);
    for upstream in &state.upstreams {
        put_upstream(&mut out, upstream);
    }
    out.number(state.subscribers.len() as u64);
    for subscriber in state.subscribers.values() {
        out.number(subscriber.seq);
        out.bytes(&serde_json::to_vec(&subscriber.registration).unwrap_or_default());
    }
    // Numbers and texts under fixed names always make JSON.
    out.bytes(&serde_json::to_vec(&state.jobs).unwrap_or_default());
    out.0
}

/// Adds the runs, newest first, and the checksum.
#[must_use]
pub(super) fn finish(body: Vec<u8>, runs: &[u64]) -> Vec<u8> {
    let mut out = Writer(body);
    out.number(runs.len() as u64);
    for run in runs {
        out.number(*run);
    }
    let sum = crc32c::crc32c(&out.0);
    out.0.extend_from_slice(&sum.to_le_bytes());
    out.0
}

/// The state without its records, and the numbers of its runs, newest first. None if a single bit is wrong.
#[must_use]
pub(super) fn decode(file: Vec<u8>) -> Option<(State, Vec<u64>)> {
    let (body, sum) = file.split_last_chunk::<4>()?;
    if crc32c::crc32c(body) != u32::from_le_bytes(*sum) {
        return None;
    }
    let mut from = Reader(Bytes::copy_from_slice(body));
    if &from.take(8)?[..] != MAGIC {
        return None;
    }
    let mut state = State::new(u128::from_le_bytes(from.take(16)?.as_ref().try_into().ok()?));
    state.next = from.number()?;
    state.commanded = state.next;
    state.unplanned = take_set(&mut from)?;
    state.early = take_set(&mut from)?;
    state.deleted = take_set(&mut from)?;
    state.carried = take_set(&mut from)?;
    let samples = (0..from.count()?).map(|_| Some((from.number()?, from.time()?))).collect::<Option<_>>()?;
    state.timeline = Timeline::from_samples(samples)?;
    for _ in 0..from.count()? {
        let (own, at) = (from.number()?, from.number()?);
        state.audit.put(own, at);
    }
    for _ in 0..from.count()? {
        let upstream = take_upstream(&mut from)?;
        let id = state.intern(&upstream.name);
        *state.upstream_mut(id)? = upstream;
    }
    let subscribers = (0..from.count()?).map(|_| {
        let seq = from.number()?;
        let registration: Registration = serde_json::from_slice(&from.slice()?).ok()?;
        let subscriber = Subscriber { registration, seq };
        Some((subscriber.registration.upstream(), subscriber))
    });
    state.subscribers = Arc::new(subscribers.collect::<Option<_>>()?);
    state.jobs = serde_json::from_slice(&from.slice()?).ok()?;
    let runs = (0..from.count()?).map(|_| from.number()).collect::<Option<_>>()?;
    state.layers = Layers::default();
    from.0.is_empty().then_some((state, runs))
}

fn put_upstream(out: &mut Writer, upstream: &Upstream) {
    out.text(&upstream.name);
    for set in [&upstream.waiting, &upstream.pending, &upstream.held, &upstream.dead, &upstream.high, &upstream.low] {
        put_set(out, set);
    }
    out.number(upstream.dead_by_reason.len() as u64);
    for count in upstream.dead_by_reason {
        out.number(count);
    }
    out.option(upstream.hold.as_ref(), |out, hold| {
        out.number(hold.seq);
        out.number(hold.since.as_millis());
        out.option(hold.until, |out, until| out.number(until.as_millis()));
        out.option(hold.reason.as_deref(), |out, reason| out.text(reason));
        out.text(&hold.actor);
    });
    out.number(upstream.drained.len() as u64);
    for drained in &upstream.drained {
        out.text(&drained.target);
        out.number(drained.seq);
        out.number(drained.since.as_millis());
        out.option(drained.reason.as_deref(), |out, reason| out.text(reason));
        out.text(&drained.actor);
    }
    out.number(u64::from(upstream.pauses.causes));
    out.number(upstream.pauses.since.as_millis());
    out.number(upstream.pauses.past.len() as u64);
    for (begin, end) in &upstream.pauses.past {
        out.number(begin.as_millis());
        out.number(end.as_millis());
    }
    out.number(upstream.newest.len() as u64);
    for (entry, key, version) in upstream.newest.iter() {
        out.number(entry);
        out.number(key);
        out.number(u64::from(matches!(version, Version::Text(_))));
        out.text(version.as_str());
    }
    out.option(upstream.closed.as_ref(), |out, closed| {
        out.number(closed.seq);
        out.number(closed.since.as_millis());
        out.option(closed.disabled.as_deref(), |out, why| out.text(why));
        out.text(&closed.actor);
    });
    out.option(upstream.streak, |out, streak| {
        out.number(streak.since_ms);
        out.number(streak.attempts);
    });
}

fn take_upstream(from: &mut Reader) -> Option<Upstream> {
    let mut upstream = Upstream::new((&*from.text()?).into());
    upstream.waiting = take_set(from)?;
    upstream.pending = take_set(from)?;
    upstream.held = take_set(from)?;
    upstream.dead = take_set(from)?;
    upstream.high = take_set(from)?;
    upstream.low = take_set(from)?;
    if from.count()? != upstream.dead_by_reason.len() {
        return None;
    }
    for count in &mut upstream.dead_by_reason {
        *count = from.number()?;
    }
    upstream.hold = from.option(|from| {
        Some(Hold {
            seq: from.number()?,
            since: from.time()?,
            until: from.option(Reader::time)?,
            reason: from.option(Reader::text)?.map(String::from),
            actor: from.text()?.into(),
        })
    })?;
    for _ in 0..from.count()? {
        upstream.drained.push(Drained {
            target: from.text()?,
            seq: from.number()?,
            since: from.time()?,
            reason: from.option(Reader::text)?.map(String::from),
            actor: from.text()?.into(),
        });
    }
    upstream.pauses = Pauses {
        causes: u8::try_from(from.number()?).ok()?,
        since: Timestamp::from_millis(from.number()?),
        past: (0..from.count()?).map(|_| Some((from.time()?, from.time()?))).collect::<Option<VecDeque<_>>>()?,
    };
    for _ in 0..from.count()? {
        let (entry, key, kind, text) = (from.number()?, from.number()?, from.number()?, from.text()?);
        let version = if kind == 0 { Version::Number(text) } else { Version::Text(text) };
        upstream.newest.note(key, &version, entry);
    }
    upstream.closed = from.option(|from| {
        Some(Closed {
            seq: from.number()?,
            since: from.time()?,
            disabled: from.option(Reader::text)?.map(String::from),
            actor: from.text()?.into(),
        })
    })?;
    upstream.streak = from.option(|from| Some(Streak { since_ms: from.number()?, attempts: from.number()? }))?;
    Some(upstream)
}

fn put_set(out: &mut Writer, set: &RoaringTreemap) {
    out.number(set.serialized_size() as u64);
    let written = set.serialize_into(&mut out.0);
    debug_assert!(written.is_ok(), "writing to memory does not fail");
}

fn take_set(from: &mut Reader) -> Option<RoaringTreemap> {
    RoaringTreemap::deserialize_from(&from.slice()?[..]).ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::state::Cause;

    fn sample() -> State {
        let mut state = State::new(77);
        state.next = 4242;
        state.unplanned.insert_range(10..20);
        state.deleted.insert(5);
        state.timeline.note(1, Timestamp::from_millis(9));
        state.audit.put(3, 3);
        state.audit.put(4, 4241);
        let id = state.intern("billing");
        let upstream = state.upstream_mut(id).unwrap();
        upstream.waiting.insert_range(1 << 33..(1 << 33) + 1000);
        upstream.dead_by_reason[2] = 7;
        upstream.high.insert(1 << 33);
        upstream.newest.note(u64::MAX, &Version::Number("12".into()), 4000);
        upstream.newest.note(1, &Version::Text("b".into()), 4001);
        upstream.hold = Some(Hold {
            seq: 3,
            since: Timestamp::from_millis(4),
            until: Some(Timestamp::from_millis(99)),
            reason: None,
            actor: "uid 0 (root)".into(),
        });
        let reason = Some("new kernel".to_owned());
        let (target, since, actor) = ("http://a:1".into(), Timestamp::from_millis(5), "uid 0 (root)".into());
        upstream.drain("http://a:1", Some(Drained { target, seq: 9, since, reason, actor }));
        upstream.pauses.set(Cause::Held, true, Timestamp::from_millis(4));
        upstream.streak = Some(Streak { since_ms: 8, attempts: 9 });
        upstream.closed = Some(Closed {
            seq: 7,
            since: Timestamp::from_millis(9),
            disabled: Some("it failed".into()),
            actor: "relay".into(),
        });
        let subscriber = Subscriber { registration: crate::state::testing::registration("crm"), seq: 12 };
        Arc::make_mut(&mut state.subscribers).insert("orders/crm".into(), subscriber);
        state
    }

    #[test]
    fn a_manifest_gives_the_same_state_back() {
        let body = encode(&sample());
        let (state, runs) = decode(finish(body.clone(), &[3, 1])).unwrap();
        assert_eq!(runs, [3, 1]);
        assert_eq!(encode(&state), body);
        assert_eq!(state.upstream(0).unwrap().hold, sample().upstream(0).unwrap().hold);
        assert_eq!(state.upstream(0).unwrap().drained, sample().upstream(0).unwrap().drained);
    }

    #[test]
    fn a_flipped_bit_anywhere_and_any_shorter_file_is_no_manifest() {
        let file = finish(encode(&sample()), &[1]);
        for at in 0..file.len() {
            let mut damaged = file.clone();
            damaged[at] ^= 1 << (at % 8);
            assert!(decode(damaged).is_none(), "bit in byte {at}");
            assert!(decode(file[..at].to_vec()).is_none(), "cut at {at}");
        }
    }
}
