//! Owns what a source allows its senders, as validated values: its rate, the rates and budgets of its tenants, and when
//! a request counts as a loop. What has been used up is not here.

use std::{collections::HashMap, time::Duration};

use super::KeySelector;
use crate::expr::Expr;

/// A token bucket: so many units a second on average, so many at once.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rate {
    /// Units a second, at least 1.
    pub per_second: u64,
    /// Units at once, at least 1.
    pub burst: u64,
}

impl Rate {
    /// A rate from its settings; without a burst, what comes in one second may come at once. Zero is taken for 1.
    #[must_use]
    pub fn new(per_second: u64, burst: Option<u64>) -> Self {
        let per_second = per_second.max(1);
        Self { per_second, burst: burst.unwrap_or(per_second).max(1) }
    }
}

/// What happens with an event of a tenant who is over the rate or the budget.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Over {
    /// Answered 429, not stored, not counted.
    Reject,
    /// Stored; its deliveries are held until an operator releases them.
    Hold,
    /// Stored and delivered with a tag.
    Tag,
}

/// What one tenant may send.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TenantLimit {
    /// None: any rate.
    pub rate: Option<Rate>,
    /// Units a day (UTC); None: no budget.
    pub budget: Option<u64>,
    /// What happens beyond.
    pub over: Over,
}

/// Where the tenant's name stands.
#[derive(Clone, Debug)]
pub enum TenantKey {
    /// In the segment of the path that is captured under this name.
    Capture(Box<str>),
    /// In a header, or found by jq.
    Selected(KeySelector),
}

/// The tenants of a source.
#[derive(Clone, Debug)]
pub struct TenantRule {
    /// Where the name stands.
    pub key: TenantKey,
    /// What an event costs; None: 1.
    pub cost: Option<Expr>,
    /// For tenants that are not named.
    pub usual: TenantLimit,
    /// For these.
    pub named: HashMap<Box<str>, TenantLimit>,
    /// How many tenants that are not named are told apart, at least 1.
    pub tenants_max: usize,
}

impl TenantRule {
    /// What a tenant may send, and whether the configuration names it. Requests without a tenant are one tenant.
    #[must_use]
    pub fn limit(&self, tenant: Option<&str>) -> (&TenantLimit, bool) {
        let named = tenant.and_then(|tenant| self.named.get(tenant));
        (named.unwrap_or(&self.usual), named.is_some())
    }
}

/// When a request that has come through a relay before is a loop.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LoopRule {
    /// So many relays before this one.
    pub max_hops: u32,
    /// More than so many requests with the same body within the window, all of them from a relay.
    pub bounces: u32,
    /// The window.
    pub window: Duration,
}

impl LoopRule {
    /// 10 hops; 20 bounces a minute.
    #[must_use]
    pub const fn standard() -> Self {
        Self { max_hops: 10, bounces: 20, window: Duration::from_secs(60) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::expr::Expr;

    #[test]
    fn a_named_tenant_has_its_own_limit_and_the_others_the_usual_one() {
        let limit = |budget| TenantLimit { rate: None, budget: Some(budget), over: Over::Reject };
        let rule = TenantRule {
            key: TenantKey::Selected(KeySelector::Expr(Expr::compile(".t").unwrap())),
            cost: None,
            usual: limit(5),
            named: HashMap::from([("acme".into(), limit(9))]),
            tenants_max: 10,
        };
        assert_eq!(rule.limit(Some("acme")), (&limit(9), true));
        assert_eq!(rule.limit(Some("other")), (&limit(5), false));
        assert_eq!(rule.limit(None), (&limit(5), false));
    }

    #[test]
    fn a_burst_is_a_second_of_the_rate_unless_it_is_given() {
        assert_eq!(Rate::new(5, None), Rate { per_second: 5, burst: 5 });
        assert_eq!(Rate::new(5, Some(50)), Rate { per_second: 5, burst: 50 });
        assert_eq!(Rate::new(0, Some(0)), Rate { per_second: 1, burst: 1 });
    }
}
