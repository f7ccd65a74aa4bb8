//! Owns how long the answers of an upstream take, and what they take at little load.
//!
//! Round trips are judged [`SAMPLES`] together by their mean without the shortest and the longest tenth: it stands both
//! answers that take no time and those that take very long. What they take at little load is the least of these means;
//! it is measured anew, with half the attempts, if it might have become longer. The first guess is that of the first
//! round. Promises constant memory. Pure: time is an argument.

use std::time::Duration;

/// Round trips that are judged together: with half as many, answers that take any time look now and then as if they
/// waited …
const SAMPLES: usize = 128;
/// … and at least so many while those at little load are measured.
const MEASURED: usize = 24;
/// Between two looks at whether the round trip at little load has become longer, and at least so many means.
const WINDOW: Duration = Duration::from_secs(5);
const WINDOW_MEANS: u32 = 8;
/// What timers and threads may add to a round trip without meaning anything, in microseconds.
const NOISE_US: u64 = 2_000;

/// The round trips of the last attempts, in microseconds.
#[derive(Debug)]
pub(super) struct Trip {
    samples: Box<[u32; SAMPLES]>,
    count: usize,
    /// So many come first that say too little: of those that began together the short ones end first.
    skip: usize,
    /// At little load.
    least: Option<u32>,
    /// Nothing but the first round is known of it.
    guessed: bool,
    /// The least mean of the window, the window's beginning and how many there were.
    window: Option<u32>,
    since: Duration,
    means: u32,
    /// The limit and the mean before the last cut by latency.
    before_cut: Option<(usize, u32)>,
}

/// What some round trips say.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Judged {
    /// Go on.
    Same,
    /// There is a queue: go on with so many percent.
    Fuller(usize),
    /// Fewer at once were answered no sooner: it has become slower, not fuller. Back to that many.
    Slower(usize),
    /// The round trip at little load may have become longer.
    Measure,
    /// It is known now.
    Measured,
}

impl Trip {
    pub(super) fn new(now: Duration) -> Self {
        Self {
            samples: Box::new([0; SAMPLES]),
            count: 0,
            skip: 0,
            least: None,
            guessed: true,
            window: None,
            since: now,
            means: 0,
            before_cut: None,
        }
    }

    /// Adds a round trip. Whether there are enough to judge; `measuring` at so many attempts at once, or not.
    pub(super) fn add(&mut self, latency: u32, measuring: Option<usize>) -> bool {
        if self.skip > 0 {
            self.skip -= 1;
            return false;
        }
        if let Some(sample) = self.samples.get_mut(self.count % SAMPLES) {
            *sample = latency;
        }
        self.count += 1;
        self.count >= measuring.map_or(SAMPLES, |limit| limit.max(MEASURED))
    }

    /// What came before says nothing any more; so many attempts at once begin now.
    pub(super) fn begin_anew(&mut self, limit: usize) {
        (self.count, self.skip) = (0, limit);
    }

    /// Takes the first round trips for those at little load, for want of better.
    pub(super) fn guess(&mut self) {
        if self.least.is_none() {
            self.least = self.mean();
        }
    }

    /// Whether an answer came so late that more attempts at once would only wait.
    pub(super) fn is_late(&self, latency: u32) -> bool {
        self.is_beyond(latency, if self.guessed { 6 } else { 3 })
    }

    /// Compares the last round trips, made at this limit, with those at little load.
    pub(super) fn judge(&mut self, limit: usize, may_shrink: bool, measuring: bool, now: Duration) -> Judged {
        let Some(mean) = self.mean() else { return Judged::Same };
        self.count = 0;
        if measuring {
            self.least = Some(mean);
            self.begin_window(now);
            return Judged::Measured;
        }
        if let Some((before, longer)) = self.before_cut.take()
            && u64::from(mean) * 100 > u64::from(longer) * 85
            && limit * 100 <= before * 70
        {
            self.least = Some(mean);
            self.begin_window(now);
            return Judged::Slower(before);
        }
        let known = self.least.filter(|_| !self.guessed);
        let least = known.map_or(mean, |least| least.min(mean));
        (self.least, self.guessed) = (Some(least), false);
        let window = self.window.map_or(mean, |window| window.min(mean));
        self.window = Some(window);
        self.means = self.means.saturating_add(1);
        if self.is_beyond(mean, 4) && may_shrink {
            self.before_cut = Some((limit, mean));
            let wanted = u64::from(least) * 3 / 2 + NOISE_US;
            let percent = (wanted * 100 / u64::from(mean.max(1))).clamp(50, 60);
            return Judged::Fuller(usize::try_from(percent).unwrap_or(50));
        }
        if now.saturating_sub(self.since) < WINDOW || self.means < WINDOW_MEANS {
            return Judged::Same;
        }
        self.begin_window(now);
        let may_be_longer = u64::from(window) * 4 > u64::from(least) * 5 + NOISE_US;
        if may_be_longer { Judged::Measure } else { Judged::Same }
    }

    /// The mean without the tenth that is shortest and the tenth that is longest.
    fn mean(&mut self) -> Option<u32> {
        let samples = self.samples.get_mut(..self.count.min(SAMPLES))?;
        samples.sort_unstable();
        let edge = samples.len() / 10;
        let middle = samples.get(edge..samples.len().saturating_sub(edge))?;
        let sum: u64 = middle.iter().map(|sample| u64::from(*sample)).sum();
        u32::try_from(sum.checked_div(middle.len() as u64)?).ok()
    }

    /// Whether a round trip is longer than so many halves of that at little load.
    fn is_beyond(&self, latency: u32, halves: u64) -> bool {
        self.least.is_some_and(|least| u64::from(latency) > u64::from(least) * halves / 2 + NOISE_US)
    }

    fn begin_window(&mut self, now: Duration) {
        (self.window, self.means, self.since) = (None, 0, now);
    }
}
