//! Owns what the tenants of one source have used up: today's spending against the budget, and a bucket for the rate.
//!
//! Promises at most `tenants_max` tenants (about 150 bytes each), besides those that the configuration names, and that
//! nobody escapes by flooding it with fresh names: a newcomer who finds it full takes the place of whoever has spent
//! least, *with all that one had spent and owed* (the space-saving algorithm of Metwally, Agrawal and El Abbadi,
//! "Efficient computation of frequent and top-k elements in data streams", 2005). So whoever spends much is never
//! displaced by those who spend little, nobody is counted for less than it spent since it came, and what a newcomer is
//! charged for others is at most the day's total divided by `tenants_max`.
//!
//! A day is a UTC day of the wall clock. Stepping back over midnight stays in the later day.

use std::{
    cmp::Reverse,
    collections::{BinaryHeap, HashMap, hash_map::Entry},
    sync::{Mutex, PoisonError},
    time::Duration,
};

use super::{
    UNIT, Units,
    bucket::{nanos, take, time_of},
    save::Saved,
};
use crate::{
    clock::Timestamp,
    routing::{Over, TenantLimit},
};

const DAY_MS: u64 = 86_400_000;

/// Lines of diagnostics about the tenants of one source in a minute; further warnings are only counted.
const LINES_A_MINUTE: u32 = 30;

/// Percent of the budget at which a warning is given.
pub const LEVELS: [u64; 3] = [75, 90, 100];

/// What all tenants of one source have used up. One short lock; an event costs it a look-up.
#[derive(Debug, Default)]
pub struct Ledger(Mutex<Books>);

#[derive(Debug, Default)]
struct Books {
    /// Days since the epoch.
    day: u64,
    accounts: HashMap<u128, Account>,
    /// Of these, tenants that the configuration names.
    named: usize,
    /// All others, by what they had spent when they were put here: never more than they have spent now, but for what
    /// was given back since.
    lightest: BinaryHeap<Reverse<(u64, u128)>>,
    changed: bool,
    minute: u64,
    lines: u32,
}

/// What one tenant has used up.
#[derive(Clone, Copy, Debug, Default)]
struct Account {
    /// Nanoseconds since the process began at which its bucket is full.
    full_at: u64,
    /// Thousandths of a unit, today.
    spent: u64,
    named: bool,
    /// How many of [`LEVELS`] were warned about today; None if it was read from a file or taken over.
    warned: Option<u8>,
}

/// One event of a tenant.
#[derive(Clone, Copy, Debug)]
pub struct Charge<'a> {
    /// The keyed fingerprint of the tenant's name.
    pub tenant: u128,
    /// Whether the configuration names it.
    pub named: bool,
    /// What it may send.
    pub limit: &'a TenantLimit,
    /// What the event costs.
    pub cost: Units,
    /// How many tenants that are not named are told apart.
    pub tenants_max: usize,
    /// Since the process began.
    pub elapsed: Duration,
    /// Wall time.
    pub now: Timestamp,
}

/// Which limit was hit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Exceeded {
    /// The token bucket.
    Rate,
    /// The day's budget.
    Budget,
}

impl Exceeded {
    /// The tag of a stored event, the reason of a held delivery, and the word in `stagepost refused`.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Rate => "over_rate",
            Self::Budget => "over_budget",
        }
    }
}

/// What a charge came to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Charged {
    /// The limit that was hit, and how long it will be.
    pub exceeded: Option<(Exceeded, Duration)>,
    /// Indexes of [`LEVELS`] that were passed for the first time today: from, to (exclusive).
    pub warnings: (usize, usize),
    /// Whether diagnostics are to speak of them: not more often than is readable.
    pub tells: bool,
    /// Another tenant was displaced.
    pub displaced: bool,
    /// Tenants that are told apart now.
    pub tenants: usize,
    /// To be given back if the event is not stored after all.
    pub receipt: Receipt,
}

/// What was taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Receipt {
    tenant: u128,
    day: u64,
    spent: u64,
    owed: u64,
}

impl Ledger {
    /// What another process left behind.
    #[must_use]
    pub(super) fn restored(saved: &Saved) -> Self {
        let mut books = Books { day: saved.day, ..Books::default() };
        for (tenant, spent) in &saved.spent {
            books.accounts.insert(*tenant, Account { spent: *spent, ..Account::default() });
        }
        books.sort();
        Self(Mutex::new(books))
    }

    /// Charges an event. One that is over and rejected costs nothing; one that is held or tagged counts in full
    /// towards the budget, and towards the rate unless it is the rate that it exceeds.
    pub fn charge(&self, charge: &Charge<'_>) -> Charged {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).charge(charge)
    }

    /// Gives back what an event was charged that was not stored.
    pub fn give_back(&self, receipt: Receipt) {
        let mut books = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let today = books.day == receipt.day;
        if let Some(account) = books.accounts.get_mut(&receipt.tenant) {
            account.full_at = account.full_at.saturating_sub(receipt.owed);
            if today {
                account.spent = account.spent.saturating_sub(receipt.spent);
            }
            books.changed = true;
        }
    }

    /// How many tenants are told apart now.
    #[must_use]
    pub fn tenants(&self) -> usize {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).accounts.len()
    }

    /// Whether spending changed since this was asked last.
    pub(super) fn changes(&self) -> bool {
        std::mem::take(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner).changed)
    }

    /// Today's spending.
    pub(super) fn saved(&self) -> Saved {
        let books = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let spent = books.accounts.iter().filter(|(_, account)| account.spent > 0);
        Saved { day: books.day, spent: spent.map(|(tenant, account)| (*tenant, account.spent)).collect() }
    }
}

impl Books {
    fn charge(&mut self, charge: &Charge<'_>) -> Charged {
        let now = nanos(charge.elapsed);
        self.begin_day(charge.now.as_millis() / DAY_MS, now);
        let displaced = self.open_account(charge);
        let tenants = self.accounts.len();
        let readable = self.lines_left(charge.now);
        let mut receipt = Receipt { tenant: charge.tenant, day: self.day, spent: 0, owed: 0 };
        let Some(account) = self.accounts.get_mut(&charge.tenant) else {
            return Charged { exceeded: None, warnings: (0, 0), tells: false, displaced, tenants, receipt };
        };
        let (limit, cost) = (charge.limit, charge.cost.0);
        let warned = account.warned.unwrap_or_else(|| level(account.spent, limit.budget));
        let bucket = limit.rate.map(|rate| (rate, take(account.full_at, rate, cost, now)));
        let too_fast = bucket.and_then(|(_, taken)| taken.err());
        let too_much = limit
            .budget
            .filter(|budget| account.spent.saturating_add(cost) > budget.saturating_mul(UNIT))
            .map(|_| Duration::from_millis(DAY_MS - charge.now.as_millis() % DAY_MS));
        let exceeded = match (too_much, too_fast) {
            (Some(wait), _) => Some((Exceeded::Budget, wait)),
            (None, Some(wait)) => Some((Exceeded::Rate, wait)),
            (None, None) => None,
        };
        if exceeded.is_none() || limit.over != Over::Reject {
            account.spent = account.spent.saturating_add(cost);
            receipt.spent = cost;
            if let Some((rate, Ok(full_at))) = bucket {
                account.full_at = full_at;
                receipt.owed = time_of(cost, rate);
            }
            self.changed = true;
        }
        let all = u8::try_from(LEVELS.len()).unwrap_or(u8::MAX);
        let reached = if too_much.is_some() { all } else { level(account.spent, limit.budget) }.max(warned);
        account.warned = Some(reached);
        let tells = warned < reached && readable;
        self.lines += u32::from(tells);
        let warnings = (usize::from(warned), usize::from(reached));
        Charged { exceeded, warnings, tells, displaced, tenants, receipt }
    }

    /// Makes sure that the tenant has an account; whether another one was displaced.
    fn open_account(&mut self, charge: &Charge<'_>) -> bool {
        if let Entry::Occupied(mut known) = self.accounts.entry(charge.tenant) {
            let account = known.get_mut();
            // Only a reload of the configuration, or a restart, changes it.
            if account.named != charge.named {
                account.named = charge.named;
                if charge.named {
                    self.named += 1;
                } else {
                    self.named -= 1;
                    self.lightest.push(Reverse((account.spent, charge.tenant)));
                }
            }
            return false;
        }
        let fresh = Account { named: charge.named, warned: Some(0), ..Account::default() };
        if charge.named {
            self.named += 1;
            self.accounts.insert(charge.tenant, fresh);
            return false;
        }
        let displaced = self.make_room(charge.tenants_max.max(1));
        let account = displaced.unwrap_or(fresh);
        self.lightest.push(Reverse((account.spent, charge.tenant)));
        self.accounts.insert(charge.tenant, account);
        displaced.is_some()
    }

    /// Displaces whoever has spent least until one more has room; gives what the last of them had used up.
    fn make_room(&mut self, tenants_max: usize) -> Option<Account> {
        let mut last = None;
        while self.accounts.len() - self.named >= tenants_max {
            let Some(Reverse((known, tenant))) = self.lightest.pop() else { break };
            match self.accounts.get(&tenant) {
                None => {}
                Some(account) if account.named => {}
                // It has spent more since it was put there.
                Some(account) if account.spent > known => self.lightest.push(Reverse((account.spent, tenant))),
                // The warnings were for another name.
                Some(account) => {
                    last = Some(Account { warned: None, ..*account });
                    self.accounts.remove(&tenant);
                }
            }
        }
        last
    }

    /// A new day: nothing is spent, and who owes its bucket nothing is forgotten.
    fn begin_day(&mut self, today: u64, now: u64) {
        if today == self.day || today + 1 == self.day {
            return;
        }
        self.day = today;
        self.changed = true;
        self.accounts.retain(|_, account| account.full_at > now);
        for account in self.accounts.values_mut() {
            (account.spent, account.warned) = (0, Some(0));
        }
        self.sort();
    }

    /// Makes the order anew: takes time in proportion to the tenants, once a day.
    fn sort(&mut self) {
        let others = self.accounts.iter().filter(|(_, account)| !account.named);
        self.lightest = others.map(|(tenant, account)| Reverse((account.spent, *tenant))).collect();
        self.named = self.accounts.len() - self.lightest.len();
    }

    fn lines_left(&mut self, now: Timestamp) -> bool {
        let minute = now.as_millis() / 60_000;
        if minute != self.minute {
            (self.minute, self.lines) = (minute, 0);
        }
        self.lines < LINES_A_MINUTE
    }
}

/// How many of [`LEVELS`] are reached.
fn level(spent: u64, budget: Option<u64>) -> u8 {
    let Some(budget) = budget else { return 0 };
    let at = |percent: u64| u128::from(budget) * u128::from(UNIT * percent);
    let reached = LEVELS.iter().filter(|percent| u128::from(spent) * 100 >= at(**percent));
    u8::try_from(reached.count()).unwrap_or(u8::MAX)
}

#[cfg(test)]
#[path = "ledger_tests.rs"]
mod tests;
