//! Owns the keys of a source that limit its senders: `rate`, `tenant` and `loop`.

use std::collections::HashMap;

use super::{
    reader::Section,
    server::positive,
    source::{expression, header_selector},
    tree::Value,
    units,
};
use crate::routing::{
    KeySelector, LoopRule, Over, PathPattern, Rate, SECRET_CAPTURE, TenantKey, TenantLimit, TenantRule,
};

/// Tenants that are told apart if nothing else is said: about 15 MB.
const TENANTS: u64 = 100_000;
/// And at most.
const TENANTS_MAX: u64 = 1_000_000;

/// The largest budget and burst.
const UNITS_MAX: u64 = 1_000_000_000_000;

/// What each tenant may send, and the way to its name.
pub(super) fn tenants(source: &Section<'_>, pattern: Option<&PathPattern>) -> Option<TenantRule> {
    let section = source.optional_section("tenant")?;
    let key = key(&section, pattern);
    let cost = expression(&section, "cost");
    let usual = limit(&section, None);
    if usual.rate.is_none() && usual.budget.is_none() && !section.has("limits") {
        section.problem("rate", "is missing, as are budget and limits, so that nothing is limited; write one of them");
    }
    let tenants_max = section.count("max_tenants", TENANTS, 1..=TENANTS_MAX);
    let mut named = HashMap::new();
    for (name, inner) in section.named_sections("limits") {
        named.insert(name.into(), limit(&inner, Some(&usual)));
        inner.finish();
    }
    section.finish();
    Some(TenantRule { key: key?, cost, usual, named, tenants_max: usize::try_from(tenants_max).unwrap_or(usize::MAX) })
}

fn key(section: &Section<'_>, pattern: Option<&PathPattern>) -> Option<TenantKey> {
    match (section.has("key"), section.has("header"), section.has("capture")) {
        (true, false, false) => expression(section, "key").map(KeySelector::Expr).map(TenantKey::Selected),
        (false, true, false) => header_selector(section).map(TenantKey::Selected),
        (false, false, true) => capture(section, pattern),
        (false, false, false) => {
            let message = "is missing; write key = \".account_id\" (jq), header = \"X-Tenant\" or capture = \"tenant\"";
            section.problem("key", message);
            None
        }
        _ => {
            section.problem("key", "is one of key, header and capture; keep one of them");
            None
        }
    }
}

fn capture(section: &Section<'_>, pattern: Option<&PathPattern>) -> Option<TenantKey> {
    let name = section.text("capture")?;
    if name == SECRET_CAPTURE || pattern.is_some_and(|pattern| pattern.segment_of(name).is_none()) {
        section.problem("capture", format!("\"{name}\" is not captured by path; write a segment {{{name}}} there"));
        return None;
    }
    Some(TenantKey::Capture(name.into()))
}

/// `rate`, `burst`, `budget` and `over`; what is not written is that of the others.
fn limit(section: &Section<'_>, usual: Option<&TenantLimit>) -> TenantLimit {
    let choices = [("reject", Over::Reject), ("hold", Over::Hold), ("tag", Over::Tag)];
    let default = match usual.map(|usual| usual.over) {
        None | Some(Over::Reject) => "reject",
        Some(Over::Hold) => "hold",
        Some(Over::Tag) => "tag",
    };
    TenantLimit {
        rate: rate(section, usual.and_then(|usual| usual.rate)),
        budget: section.optional_count("budget", 0..=UNITS_MAX).or(usual.and_then(|usual| usual.budget)),
        over: section.choice("over", default, &choices).unwrap_or(Over::Reject),
    }
}

/// `rate` and `burst`.
pub(super) fn rate(section: &Section<'_>, usual: Option<Rate>) -> Option<Rate> {
    let per_second = section.optional_rate("rate");
    let burst = section.optional_count("burst", 1..=UNITS_MAX);
    if burst.is_some() && !section.has("rate") && usual.is_none() {
        section.problem("burst", "has no effect without rate; add rate = \"100/s\" or remove it");
    }
    match (per_second, usual) {
        (Some(per_second), _) => Some(Rate::new(per_second, burst)),
        (None, Some(usual)) => Some(Rate { burst: burst.unwrap_or(usual.burst), ..usual }),
        (None, None) => None,
    }
}

/// When a request that met a relay before is a loop; None if `loop = false`.
pub(super) fn loops(source: &Section<'_>) -> Option<LoopRule> {
    let standard = LoopRule::standard();
    if source.value("loop").is_some_and(|value| !matches!(value, Value::Table(_))) {
        return source.flag("loop", true).then_some(standard);
    }
    let section = source.section("loop");
    let number = |key, usual: u32, most| u32::try_from(section.count(key, u64::from(usual), 1..=most)).unwrap_or(usual);
    let max_hops = number("max_hops", standard.max_hops, 1000);
    let bounces = number("bounces", standard.bounces, 1_000_000);
    let window = positive(&section, "window", &units::show_duration(standard.window));
    section.finish();
    Some(LoopRule { max_hops, bounces, window })
}
