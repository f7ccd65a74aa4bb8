//! Owns reading a body: its limits are applied while it is read, and it is hashed as it comes.
//!
//! Up to [`PART_BYTES`] a body stays in memory, beyond that it goes to the spool. A body that is complete when it is
//! first asked for (almost all) costs no timer and no copy.

use std::{error::Error, future::poll_fn, io, pin::Pin, task::Poll, time::Duration};

use bytes::{Bytes, BytesMut};
use http::{HeaderMap, header};
use http_body::{Body, Frame};
use tokio::time::{Instant, Sleep};

use super::{
    budget::{Budget, Charge},
    head::declared_length,
    reply::Refusal,
    spool::{Spool, Spooled},
};
use crate::{log::PART_BYTES, routing::Limits, telemetry::Metrics, verify::Check};

/// The rest of a refused request that is read and thrown away, at most.
const REST_BYTES_MAX: u64 = 16 * 1024;

/// How long the answer to a refused request waits for that rest: longer than a round trip, since some senders write head
/// and body apart and have the second wait until the first is acknowledged.
const REST_WAIT: Duration = Duration::from_secs(1);

/// Where bodies go while they are read, and by which rules.
pub(super) struct Room<'a> {
    pub(super) memory: &'a Budget,
    pub(super) spool_budget: &'a Budget,
    pub(super) spool: &'a Spool,
    pub(super) limits: &'a Limits,
    pub(super) metrics: &'a Metrics,
    /// Bytes that this body may have.
    pub(super) max_body: u64,
    /// Bytes that it said it would have.
    pub(super) declared: Option<u64>,
}

/// A body that was read to its end. Its charges last as long as it does.
pub(super) struct Received<'a> {
    pub(super) content: Content,
    pub(super) length: u64,
    memory: Charge<'a>,
    _spool: Charge<'a>,
}

/// Where the bytes are.
pub(super) enum Content {
    /// In memory, in one piece.
    Whole(Bytes),
    /// In the spool.
    Spooled(Spooled),
    /// In memory, in pieces of [`PART_BYTES`].
    Parts(Vec<Bytes>),
}

impl Received<'_> {
    /// Brings a spooled body back to memory, for the log. Only what was verified gets here.
    pub(super) async fn into_memory(mut self) -> Result<Self, Refusal> {
        if let Content::Spooled(spooled) = self.content {
            self.memory.grow_to(self.length).map_err(|_no_room| Refusal::NoMemory)?;
            self.content = Content::Parts(spooled.read().await.map_err(Refusal::Spool)?);
        }
        Ok(self)
    }

    /// Charges what is made of the body.
    pub(super) fn charge(&mut self, bytes: u64) -> Result<(), Refusal> {
        self.memory.grow(bytes).map_err(|_no_room| Refusal::NoMemory)
    }

    /// The body in one piece, for expressions and upstreams; a body in parts is copied, and the copy is charged.
    pub(super) fn whole(&mut self) -> Result<Bytes, Refusal> {
        match &self.content {
            Content::Whole(bytes) => Ok(bytes.clone()),
            Content::Parts(parts) => {
                self.memory.grow(self.length).map_err(|_no_room| Refusal::NoMemory)?;
                Ok(parts.concat().into())
            }
            Content::Spooled(_) => Ok(Bytes::new()),
        }
    }
}

/// Reads a body to its end, feeding the check. `read` counts the bytes, for the record of refusals.
pub(super) async fn read<'a, B>(
    body: &mut B,
    room: &Room<'a>,
    check: &mut Check,
    read: &mut u64,
) -> Result<Received<'a>, Refusal>
where
    B: Body<Data = Bytes> + Unpin,
    B::Error: Into<Box<dyn Error + Send + Sync>>,
{
    let mut memory = room.memory.charge(room.limits.body_memory, room.metrics);
    let mut spool = room.spool_budget.charge(room.limits.spool_size, room.metrics);
    let mut pace = Pace::new(room.limits);
    let mut gathered = Gathered::Nothing;
    let mut spooled: Option<Spooled> = None;
    while !body.is_end_stream() {
        let Some(frame) = pace.next(body, *read).await? else { break };
        let Ok(piece) = frame.into_data() else {
            room.metrics.trailers_dropped.inc();
            continue;
        };
        *read += piece.len() as u64;
        if *read > room.max_body {
            return Err(Refusal::TooLarge);
        }
        check.update(&piece);
        if *read <= PART_BYTES as u64 {
            memory.grow_to(*read).map_err(|_no_room| Refusal::NoMemory)?;
            gathered.push(piece, room.declared);
            continue;
        }
        spool.grow_to(*read).map_err(|_no_room| Refusal::NoSpool)?;
        let mut buffer = gathered.into_buffer();
        buffer.extend_from_slice(&piece);
        if buffer.len() >= PART_BYTES {
            let (file, empty) = match spooled {
                Some(file) => file.write(buffer).await,
                None => room.spool.begin(buffer).await,
            }
            .map_err(Refusal::Spool)?;
            spooled = Some(file);
            buffer = empty;
        }
        gathered = Gathered::Buffer(buffer);
    }
    let content = match spooled {
        None if *read <= PART_BYTES as u64 => Content::Whole(gathered.into_bytes()),
        begun => {
            let rest = gathered.into_buffer();
            let (file, _) = match begun {
                Some(file) => file.write(rest).await,
                None => room.spool.begin(rest).await,
            }
            .map_err(Refusal::Spool)?;
            Content::Spooled(file)
        }
    };
    Ok(Received { content, length: *read, memory, _spool: spool })
}

/// Reads the rest of a refused request and throws it away, if it is small and comes at once: a connection that goes on can
/// only begin with the next request. True: nothing is left. False: the connection has to end with the answer, because
/// closing it without a word, as what is left would make hyper do, takes a sender's next request away with it.
pub(super) async fn discard<B>(headers: &HeaderMap, body: &mut B) -> bool
where
    B: Body<Data = Bytes> + Unpin,
{
    if body.is_end_stream() {
        return true;
    }
    // Who waits for a `100 Continue` would be told to send what nobody wants.
    if headers.contains_key(header::EXPECT) || declared_length(headers, REST_BYTES_MAX).is_err() {
        return false;
    }
    let reading = async {
        let mut read = 0;
        while let Some(frame) = poll_fn(|cx| Pin::new(&mut *body).poll_frame(cx)).await {
            let Ok(frame) = frame else { return false };
            read += frame.data_ref().map_or(0, Bytes::len) as u64;
            if read > REST_BYTES_MAX {
                return false;
            }
        }
        true
    };
    tokio::time::timeout(REST_WAIT, reading).await.unwrap_or(false)
}

/// What has come so far: a single piece is kept as it is, several are copied together, so that many tiny pieces cost
/// no more than twice the memory they are charged for. What a sender only declares costs nothing: else a few hundred
/// of them that send no body would use up the budget of all.
enum Gathered {
    Nothing,
    One(Bytes),
    Many(BytesMut),
    Buffer(Vec<u8>),
}

impl Gathered {
    fn push(&mut self, piece: Bytes, declared: Option<u64>) {
        *self = match std::mem::replace(self, Self::Nothing) {
            Self::Nothing => Self::One(piece),
            Self::One(first) => {
                let have = first.len() + piece.len();
                let expected = usize::try_from(declared.unwrap_or(0)).unwrap_or(usize::MAX).min(2 * have);
                let mut many = BytesMut::with_capacity(expected.max(have));
                many.extend_from_slice(&first);
                many.extend_from_slice(&piece);
                Self::Many(many)
            }
            Self::Many(mut many) => {
                many.extend_from_slice(&piece);
                Self::Many(many)
            }
            Self::Buffer(mut buffer) => {
                buffer.extend_from_slice(&piece);
                Self::Buffer(buffer)
            }
        };
    }

    fn into_bytes(self) -> Bytes {
        match self {
            Self::Nothing => Bytes::new(),
            Self::One(bytes) => bytes,
            Self::Many(many) => many.freeze(),
            Self::Buffer(buffer) => buffer.into(),
        }
    }

    fn into_buffer(self) -> Vec<u8> {
        match self {
            Self::Buffer(buffer) => buffer,
            other => other.into_bytes().into(),
        }
    }
}

/// Ends a body that comes too slowly: no silence longer than `body_idle_timeout`, and after that much time an average
/// of at least `body_min_rate`. The timer is made when the body first keeps us waiting.
struct Pace {
    idle: Duration,
    rate: u64,
    waiting: Option<Waiting>,
}

struct Waiting {
    since: Instant,
    timer: Pin<Box<Sleep>>,
}

impl Pace {
    fn new(limits: &Limits) -> Self {
        Self { idle: limits.body_idle_timeout, rate: limits.body_min_rate, waiting: None }
    }

    /// The next frame; None at the end.
    async fn next<B>(&mut self, body: &mut B, read: u64) -> Result<Option<Frame<Bytes>>, Refusal>
    where
        B: Body<Data = Bytes> + Unpin,
        B::Error: Into<Box<dyn Error + Send + Sync>>,
    {
        let mut asked = false;
        poll_fn(|cx| {
            if let Poll::Ready(frame) = Pin::new(&mut *body).poll_frame(cx) {
                return Poll::Ready(frame.transpose().map_err(|error| broken(error.into())));
            }
            if !asked {
                asked = true;
                self.arm(read);
            }
            match &mut self.waiting {
                Some(waiting) => waiting.timer.as_mut().poll(cx).map(|()| Err(Refusal::TooSlow)),
                None => Poll::Pending,
            }
        })
        .await
    }

    fn arm(&mut self, read: u64) {
        let now = Instant::now();
        let idle = self.idle;
        let waiting = self
            .waiting
            .get_or_insert_with(|| Waiting { since: now, timer: Box::pin(tokio::time::sleep_until(now + idle)) });
        let earned = Duration::from_secs(read.checked_div(self.rate).unwrap_or(u64::from(u32::MAX)).min(1 << 31));
        waiting.timer.as_mut().reset((now + idle).min(waiting.since + idle.max(earned)));
    }
}

/// Tells a body that is no HTTP from a sender that went away.
fn broken(error: Box<dyn Error + Send + Sync>) -> Refusal {
    let mut cause: Option<&(dyn Error + 'static)> = Some(&*error);
    while let Some(current) = cause {
        if let Some(io) = current.downcast_ref::<io::Error>()
            && matches!(io.kind(), io::ErrorKind::InvalidInput | io::ErrorKind::InvalidData)
        {
            return Refusal::MalformedBody;
        }
        cause = current.source();
    }
    Refusal::Disconnected
}
