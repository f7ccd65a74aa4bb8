//! Owns the way from an event to its first answer: sought after the event, where its sender waited for it.

use super::{
    Kind, Log, ReadError,
    entry::{self, Answer},
};
use crate::event::Seq;

/// Read after the event at most: whoever waits is answered within `reply_timeout`, and an answer is kept when its body
/// ends.
const SOUGHT_BYTES_MAX: usize = 64 << 20;
/// Read at a time.
const CHUNK_BYTES: usize = 1 << 20;

/// The answer that the sender of an event got from an upstream, and where it stands, if that is within 64 MiB after the
/// event. May read the disk for long: not for async threads, and not for many at once.
///
/// # Errors
/// A [`ReadError`] that is no damage: what is damaged is stepped over.
pub fn find_answer(log: &dyn Log, event: Seq) -> Result<Option<(Seq, Answer)>, ReadError> {
    let (mut next, mut left) = (event, SOUGHT_BYTES_MAX);
    while left > 0 {
        let entries = match log.scan(next, CHUNK_BYTES.min(left)) {
            Err(ReadError::Damaged { last, .. }) if last >= next => {
                next = last.saturating_add(1);
                continue;
            }
            scanned => scanned?,
        };
        let Some(last) = entries.last() else { break };
        next = last.pos.seq.saturating_add(1);
        for entry in &entries {
            left = left.saturating_sub(entry.payload.len().max(1));
            if entry.kind == Kind::Answer
                && let Some(answer) = entry::decode_answer(&entry.payload, &entry.refs)
                && answer.event == event
            {
                return Ok(Some((entry.pos.seq, answer)));
            }
        }
    }
    Ok(None)
}

/// Reads an answer whose place is known.
///
/// # Errors
/// See [`ReadError`]; an entry that is no answer is [`ReadError::Missing`].
pub fn read_answer(log: &dyn Log, seq: Seq) -> Result<Answer, ReadError> {
    let entry = log.read(seq)?;
    match entry.kind {
        Kind::Answer => entry::decode_answer(&entry.payload, &entry.refs).ok_or(ReadError::Format(seq)),
        _ => Err(ReadError::Missing(seq)),
    }
}
