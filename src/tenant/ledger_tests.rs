//! Rates, budgets, warnings and displacement, with times that the tests choose.

use super::*;
use crate::routing::Rate;

/// The beginning of a UTC day.
const DAY: u64 = 20_000 * DAY_MS;

/// A source's tenants, and the time.
struct Bench {
    ledger: Ledger,
    limit: TenantLimit,
    tenants_max: usize,
    ms: u64,
}

impl Bench {
    fn new(rate: Option<Rate>, budget: Option<u64>, over: Over) -> Self {
        Self { ledger: Ledger::default(), limit: TenantLimit { rate, budget, over }, tenants_max: 100, ms: 0 }
    }

    fn spend(&self, tenant: u128, cost: u64) -> Charged {
        self.spend_as(tenant, cost, false)
    }

    fn spend_as(&self, tenant: u128, cost: u64, named: bool) -> Charged {
        self.ledger.charge(&Charge {
            tenant,
            named,
            limit: &self.limit,
            cost: Units(cost * UNIT),
            tenants_max: self.tenants_max,
            elapsed: Duration::from_millis(1_000_000 + self.ms),
            now: Timestamp::from_millis(DAY + self.ms),
        })
    }

    fn exceeded(&self, tenant: u128) -> Option<Exceeded> {
        self.spend(tenant, 1).exceeded.map(|(exceeded, _)| exceeded)
    }

    fn spent(&self, tenant: u128) -> Option<u64> {
        self.ledger.0.lock().unwrap().accounts.get(&tenant).map(|account| account.spent / UNIT)
    }
}

#[test]
fn a_budget_ends_at_its_last_unit_and_begins_anew_at_midnight() {
    let mut bench = Bench::new(None, Some(3), Over::Reject);
    bench.ms = DAY_MS - 90_000;
    assert_eq!([1, 1, 1].map(|tenant| bench.exceeded(tenant)), [None; 3]);
    assert_eq!(bench.spend(1, 1).exceeded, Some((Exceeded::Budget, Duration::from_secs(90))));
    assert_eq!(bench.exceeded(2), None, "another tenant");
    bench.ms = DAY_MS;
    assert_eq!(bench.exceeded(1), None);
    assert_eq!(bench.spent(1), Some(1));
}

#[test]
fn what_is_rejected_costs_nothing_and_a_smaller_event_may_still_fit() {
    let bench = Bench::new(None, Some(10), Over::Reject);
    assert_eq!(bench.spend(1, 8).exceeded, None);
    assert!(bench.spend(1, 3).exceeded.is_some());
    assert_eq!(bench.spend(1, 2).exceeded, None);
    assert_eq!(bench.spent(1), Some(10));
}

#[test]
fn a_tenant_has_a_bucket_of_its_own() {
    let mut bench = Bench::new(Some(Rate { per_second: 2, burst: 2 }), None, Over::Reject);
    assert_eq!([1, 1, 2, 2].map(|tenant| bench.exceeded(tenant)), [None; 4]);
    assert_eq!(bench.spend(1, 1).exceeded, Some((Exceeded::Rate, Duration::from_millis(500))));
    bench.ms = 500;
    assert_eq!(bench.exceeded(1), None);
    assert_eq!(bench.exceeded(1), Some(Exceeded::Rate));
}

#[test]
fn what_is_held_or_tagged_counts_towards_the_budget_and_leaves_the_bucket_alone() {
    for over in [Over::Hold, Over::Tag] {
        let mut bench = Bench::new(Some(Rate { per_second: 1, burst: 1 }), Some(3), over);
        assert_eq!(bench.exceeded(1), None);
        assert_eq!([1, 1].map(|tenant| bench.exceeded(tenant)), [Some(Exceeded::Rate); 2]);
        bench.ms = 1_000;
        assert_eq!(bench.exceeded(1), Some(Exceeded::Budget), "what was over the rate is spent");
        assert_eq!(bench.spent(1), Some(4));
    }
}

#[test]
fn each_level_is_warned_about_once_a_day() {
    let mut bench = Bench::new(None, Some(100), Over::Reject);
    assert_eq!(bench.spend(1, 74).warnings, (0, 0));
    assert_eq!(bench.spend(1, 1).warnings, (0, 1));
    assert_eq!(bench.spend(1, 14).warnings, (1, 1));
    assert_eq!(bench.spend(1, 11).warnings, (1, 3), "two levels at once");
    assert_eq!(bench.spend(1, 1).warnings, (3, 3));
    bench.ms = DAY_MS;
    assert_eq!(bench.spend(1, 80).warnings, (0, 1));
    assert_eq!(bench.spend(1, 50).warnings, (1, 3), "over, although nothing was spent");
    let none = Bench::new(None, Some(0), Over::Reject);
    assert_eq!(none.spend(1, 1).warnings, (0, 3));
}

#[test]
fn diagnostics_are_not_flooded_by_warnings() {
    let mut bench = Bench::new(None, Some(1), Over::Reject);
    bench.tenants_max = 10_000;
    let told = (0..1000).filter(|tenant| bench.spend(*tenant, 1).tells).count();
    assert_eq!(told, LINES_A_MINUTE as usize);
    bench.ms = 60_000;
    assert!(bench.spend(5_000, 1).tells);
}

#[test]
fn what_was_not_stored_is_given_back() {
    let bench = Bench::new(Some(Rate { per_second: 1, burst: 1 }), Some(1), Over::Reject);
    let receipt = bench.spend(1, 1).receipt;
    assert!(bench.exceeded(1).is_some());
    bench.ledger.give_back(receipt);
    assert_eq!(bench.exceeded(1), None);
    let refused = bench.spend(1, 1).receipt;
    bench.ledger.give_back(refused);
    assert!(bench.exceeded(1).is_some(), "a rejected event has nothing to give back");
}

#[test]
fn a_flood_of_fresh_names_frees_no_heavy_tenant_and_takes_no_more_room() {
    const HEAVY: u128 = 1 << 100;
    let mut bench = Bench::new(None, Some(1_000), Over::Reject);
    bench.tenants_max = 50;
    assert_eq!(bench.spend(HEAVY, 1_000).exceeded, None);
    for name in 0..20_000 {
        bench.spend(name, 1);
        assert!(bench.ledger.tenants() <= 50);
    }
    assert_eq!(bench.exceeded(HEAVY), Some(Exceeded::Budget));
    assert_eq!(bench.spent(HEAVY), Some(1_000));
    let books = bench.ledger.0.lock().unwrap();
    let others = books.accounts.iter().filter(|(name, _)| **name != HEAVY);
    assert!(others.map(|(_, account)| account.spent / UNIT).max().unwrap() <= 21_000 / 49, "a newcomer pays for few");
    assert!(books.lightest.len() <= 50, "{}", books.lightest.len());
}

#[test]
fn nobody_who_spends_between_the_names_is_counted_for_less_than_it_spent() {
    let mut bench = Bench::new(None, None, Over::Reject);
    bench.tenants_max = 10;
    let mut fresh = 1_000;
    for _round in 0..200 {
        bench.spend(7, 5);
        for _ in 0..20 {
            fresh += 1;
            bench.spend(fresh, 1);
        }
    }
    assert!(bench.spent(7).is_some_and(|spent| spent >= 1_000), "{:?}", bench.spent(7));
}

#[test]
fn a_newcomer_takes_over_the_debt_of_whom_it_displaces() {
    let mut bench = Bench::new(Some(Rate { per_second: 1, burst: 1 }), None, Over::Reject);
    bench.tenants_max = 1;
    assert_eq!(bench.exceeded(1), None);
    let second = bench.spend(2, 1);
    assert!(second.displaced && second.exceeded.is_some());
    assert_eq!(bench.exceeded(1), Some(Exceeded::Rate), "taking turns gains nothing");
}

#[test]
fn named_tenants_are_never_displaced_and_take_no_place() {
    let mut bench = Bench::new(None, Some(5), Over::Reject);
    bench.tenants_max = 2;
    bench.spend_as(1, 1, true);
    for name in 10..100 {
        bench.spend(name, 1);
    }
    assert_eq!((bench.ledger.tenants(), bench.spent(1)), (3, Some(1)));
    // A reload takes its name out of the configuration: it is one of the others now.
    bench.spend(1, 1);
    bench.spend(200, 1);
    assert_eq!(bench.ledger.tenants(), 2);
    bench.spend_as(300, 1, true);
    assert_eq!(bench.ledger.tenants(), 3);
}

#[test]
fn a_new_day_forgets_all_but_those_whose_bucket_is_not_full() {
    let mut bench = Bench::new(Some(Rate { per_second: 1, burst: 100 }), None, Over::Reject);
    bench.ms = DAY_MS - 10_000;
    bench.spend(1, 5);
    bench.spend(2, 60);
    bench.ms = DAY_MS;
    bench.spend(3, 1);
    assert_eq!(bench.ledger.tenants(), 2, "1 is forgotten");
    assert_eq!(bench.spent(2), Some(0));
    assert!(bench.spend(2, 60).exceeded.is_some(), "it still owes for 50");
}

#[test]
fn a_clock_that_steps_back_over_midnight_grants_no_second_budget_and_a_wrong_year_is_left() {
    let mut bench = Bench::new(None, Some(1), Over::Reject);
    bench.ms = DAY_MS;
    assert_eq!(bench.exceeded(1), None);
    bench.ms = DAY_MS - 1;
    assert_eq!(bench.exceeded(1), Some(Exceeded::Budget));
    bench.ms = 400 * DAY_MS;
    assert_eq!(bench.exceeded(1), None);
    bench.ms = 2 * DAY_MS;
    assert_eq!(bench.exceeded(1), None);
}

#[test]
fn what_is_restored_counts_and_is_not_warned_about_again() {
    let bench = Bench::new(None, Some(100), Over::Reject);
    bench.spend(1, 80);
    let saved = bench.ledger.saved();
    let restored = Bench { ledger: Ledger::restored(&saved), ..bench };
    assert_eq!(restored.spend(1, 1).warnings, (1, 1));
    assert_eq!(restored.spend(1, 9).warnings, (1, 2));
    assert!(restored.spend(1, 11).exceeded.is_some());
    assert_eq!(restored.ledger.saved().spent, [(1, 90 * UNIT)]);
    assert!(restored.ledger.changes() && !restored.ledger.changes());
}
