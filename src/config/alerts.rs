//! Owns the keys of `[alerts]`: what raises an alert, and where alerts go.
//!
//! A destination is an upstream with a route of its own from the topic of alerts, so that a notice is stored, retried and
//! shown like any event.

use std::{collections::HashSet, sync::Arc, time::Duration};

use super::{
    context::Context,
    patience::{breaker, retry},
    problem::Place,
    reader::{Section, quoted, suggestion},
    server::{Server, positive},
    settings::{AlertSettings, StoreSettings},
    source::check_name,
    topic::signed,
    upstream::{self, MachineRoots},
    verify::secrets,
};
use crate::{
    alert::{Aged, Counted, DiskRule, LatencyRule, Plain, Rule, Rules, Settings, Severity, Shared, SilenceRule, TOPIC},
    event::topic_source,
    expr::Expr,
    routing::{HostPolicy, Route, SignPolicy, Table, Target, TurnPolicy, Upstream, subscriber_name},
};

/// The most destinations.
const DESTINATIONS_MAX: usize = 64;

/// The shortest and the longest time in which a rule counts.
const WINDOW_MIN: Duration = Duration::from_secs(10);
const WINDOW_MAX: Duration = Duration::from_secs(7 * 86_400);

/// How often figures are looked at, at most and at least.
const EVERY_MIN: Duration = Duration::from_millis(100);
const EVERY_MAX: Duration = Duration::from_secs(60);

/// What Slack and those that resemble it take.
const SLACK: &str = "{text: .data.text}";

/// What was read.
pub(super) struct Alerts {
    pub(super) settings: AlertSettings,
    destinations: Vec<Destination>,
}

/// Where alerts go.
struct Destination {
    name: Box<str>,
    upstream: Upstream,
    when: Expr,
    transform: Option<Expr>,
    about: Vec<(&'static str, Box<str>)>,
    place: Place,
}

impl Alerts {
    /// Reads the section.
    pub(super) fn read(root: &Section<'_>, server: &Server, store: &StoreSettings, machine: &MachineRoots) -> Self {
        let section = root.section("alerts");
        let enabled = section.flag("enabled", true);
        let every = section.duration("every", "5s");
        if !(EVERY_MIN..=EVERY_MAX).contains(&every) {
            section.problem("every", "must lie between 100ms and 1m");
        }
        let repeat = positive(&section, "repeat", "4h");
        let settle = section.duration("settle", "2m");
        let max_per_hour = section.count("max_per_hour", 60, 1..=10_000);
        let rules = rules(section.section("rule"));
        let named = section.named_sections("to");
        if named.len() > DESTINATIONS_MAX {
            section.problem("to", format!("has {} destinations; there may be {DESTINATIONS_MAX}", named.len()));
        }
        let destinations =
            named.into_iter().filter_map(|(name, section)| destination(name, section, server, store, machine));
        let destinations: Vec<Destination> = destinations.collect();
        if !enabled && !destinations.is_empty() {
            section.problem("enabled", "is false although there are destinations: nothing would reach them");
        }
        section.finish();
        let rules = if enabled { rules } else { Rules::default() };
        let settings = AlertSettings { every, engine: Settings { repeat, settle, max_per_hour, rules } };
        Self { settings, destinations }
    }

    /// Whether alerts go anywhere.
    pub(super) const fn has_destinations(&self) -> bool {
        !self.destinations.is_empty()
    }

    /// Records destinations that are about what is not there. `sources` and `upstreams` are all that are declared.
    pub(super) fn check_names(&self, cx: &Context<'_>, sources: &HashSet<&str>, upstreams: &HashSet<&str>) {
        for destination in &self.destinations {
            for (key, name) in &destination.about {
                let known = if *key == "sources" { sources } else { upstreams };
                // Subscribers may come and go.
                if known.contains(&**name) || name.contains('/') {
                    continue;
                }
                let hint = suggestion(name, known.iter().copied());
                let key = format!("alerts.to.{}.{key}", destination.name);
                cx.problem(&destination.place, &key, format!("names \"{name}\", which is not there; {hint}"));
            }
        }
    }

    /// Records destinations that are also subscribers: both would be the same upstream.
    pub(super) fn check_subscribers<'s>(&self, cx: &Context<'_>, subscribers: impl Iterator<Item = &'s str>) {
        for name in subscribers {
            if let Some(twin) = self.destinations.iter().find(|destination| *destination.upstream.name == *name) {
                let message = format!("has the name of a subscriber of {TOPIC}; rename one of the two");
                cx.problem(&twin.place, &format!("alerts.to.{}", twin.name), message);
            }
        }
    }

    /// Adds the upstreams of the destinations, and the routes that lead to them.
    pub(super) fn lead(self, table: &mut Table) {
        for destination in self.destinations {
            let Destination { name, upstream, when, transform, .. } = destination;
            let key: Box<str> = (&*upstream.name).into();
            table.routes.push(Route {
                sources: Some(vec![topic_source(TOPIC).into()]),
                when: Some(when),
                transform,
                ..Route::new(&format!("alerts:{name}"), vec![key.clone()])
            });
            table.upstreams.insert(key, Arc::new(upstream));
        }
    }
}

fn severity(section: &Section<'_>, key: &'static str, default: &str) -> Severity {
    let known = Severity::ALL.map(|severity| (severity.as_str(), severity));
    section.choice(key, default, &known).unwrap_or(Severity::Warning)
}

fn rules(section: Section<'_>) -> Rules {
    let rules = Rules {
        failures: rule(&section, "failures", |rule| counted(rule, ("warning", 5, "10m"))),
        dead: rule(&section, "dead", |rule| counted(rule, ("warning", 1, "1d"))),
        errors: rule(&section, "errors", |rule| shared(rule, 0.2)),
        refusals: rule(&section, "refusals", |rule| shared(rule, 0.5)),
        backlog: rule(&section, "backlog", |rule| aged(rule, ("warning", "15m"))),
        latency: rule(&section, "latency", |rule| LatencyRule {
            severity: severity(rule, "severity", "warning"),
            factor: rule.number("factor", 3.0, 1.1..=1000.0),
            floor: rule.duration("floor", "250ms"),
            window: window(rule, "5m"),
            minimum: rule.count("minimum", 20, 1..=1_000_000),
        }),
        silence: rule(&section, "silence", |rule| SilenceRule {
            severity: severity(rule, "severity", "warning"),
            factor: rule.number("factor", 2.0, 1.0..=1000.0),
            floor: rule.duration("floor", "30m"),
            learn: rule.duration("learn", "2d"),
        }),
        duplicates: rule(&section, "duplicates", |rule| shared(rule, 0.5)),
        stale: rule(&section, "stale", |rule| counted(rule, ("warning", 5, "10m"))),
        hold: rule(&section, "hold", |rule| aged(rule, ("warning", "1d"))),
        disk: rule(&section, "disk", disk),
        breaker: rule(&section, "breaker", |rule| aged(rule, ("critical", "10m"))),
        reload: rule(&section, "reload", |rule| Plain { severity: severity(rule, "severity", "warning") }),
        unavailable: rule(&section, "unavailable", |rule| counted(rule, ("critical", 1, "10m"))),
    };
    section.finish();
    rules
}

/// One rule; None if it is switched off.
fn rule<R>(rules: &Section<'_>, name: &'static str, read: impl FnOnce(&Section<'_>) -> R) -> Option<R> {
    let section = rules.section(name);
    let enabled = section.flag("enabled", true);
    let rule = read(&section);
    section.finish();
    enabled.then_some(rule)
}

fn window(section: &Section<'_>, default: &str) -> Duration {
    let window = section.duration("window", default);
    if !(WINDOW_MIN..=WINDOW_MAX).contains(&window) {
        section.problem("window", "must lie between 10s and 7d");
    }
    window
}

fn counted(section: &Section<'_>, (bad, threshold, time): (&str, u64, &str)) -> Counted {
    Counted {
        severity: severity(section, "severity", bad),
        threshold: section.count("threshold", threshold, 1..=1_000_000_000),
        window: window(section, time),
    }
}

fn shared(section: &Section<'_>, share: f64) -> Shared {
    Shared {
        severity: severity(section, "severity", "warning"),
        share: section.number("share", share, 0.001..=1.0),
        minimum: section.count("minimum", 20, 1..=1_000_000_000),
        window: window(section, "10m"),
    }
}

fn aged(section: &Section<'_>, (bad, age): (&str, &str)) -> Aged {
    Aged { severity: severity(section, "severity", bad), age: positive(section, "age", age) }
}

fn disk(section: &Section<'_>) -> DiskRule {
    let share = |key, default| section.number(key, default, 0.05..=1.0);
    let rule = DiskRule {
        info: share("info", 0.7),
        warning: share("warning", 0.85),
        critical: share("critical", 0.95),
        full_soon: section.duration("full_soon", "6h"),
    };
    if !(rule.info <= rule.warning && rule.warning <= rule.critical) {
        section.problem("info", "must not be above warning, nor that above critical");
    }
    rule
}

fn destination(
    name: &str,
    section: Section<'_>,
    server: &Server,
    store: &StoreSettings,
    machine: &MachineRoots,
) -> Option<Destination> {
    check_name(&section, "", name);
    let kinds = [("webhook", Kind::Webhook), ("slack", Kind::Slack), ("command", Kind::Command)];
    let kind = section.choice("kind", "webhook", &kinds);
    let (filter, about) = filter(name, &section);
    let upstream = match kind {
        Some(Kind::Webhook) => webhook(name, &section, server, store, machine),
        Some(Kind::Slack) => slack(name, &section, store, machine),
        Some(Kind::Command) => command(name, &section, store),
        None => None,
    };
    let when = section.accept("", Expr::compile(&filter).map_err(|error| format!("its filter is no jq: {error}")));
    let transform = match kind {
        Some(Kind::Slack) => Some(section.accept("", Expr::compile(SLACK).map_err(|error| error.to_string()))?),
        _ => None,
    };
    let place = section.place.clone();
    section.finish();
    let upstream = Upstream { name: subscriber_name(TOPIC, name).into(), ..upstream? };
    Some(Destination { name: name.into(), upstream, when: when?, transform, about, place })
}

#[derive(Clone, Copy)]
enum Kind {
    Webhook,
    Slack,
    Command,
}

/// `rules`, `severity`, `upstreams` and `sources`, as jq over an alert. What is about the destination itself does not
/// go there.
fn filter(name: &str, section: &Section<'_>) -> (String, Vec<(&'static str, Box<str>)>) {
    let any = |field: &str, words: &[&str]| {
        let words: Vec<String> = words.iter().map(|word| format!(".data.{field} == {}", quoted(word))).collect();
        format!("({})", words.join(" or "))
    };
    // What says how many were withheld is about none of them alone.
    let or_withheld = |words: &str| format!("(.data.state == \"withheld\" or {words})");
    let mut all = vec![format!(".data.upstream != {}", quoted(&subscriber_name(TOPIC, name)))];
    if let Some(words) = section.words("rules") {
        let words: Vec<&str> = words.iter().map(|(word, _)| *word).collect();
        let known = Rule::ALL.map(Rule::as_str);
        for word in words.iter().filter(|word| !known.contains(word)) {
            let hint = suggestion(word, known.iter().copied());
            section.problem("rules", format!("names the unknown rule \"{word}\"; {hint}"));
        }
        if words.is_empty() {
            section.problem("rules", "is empty, so that nothing goes there; leave it out to get every rule");
        }
        section.print_words("rules", &words);
        all.push(or_withheld(&any("rule", &words)));
    }
    let least = severity(section, "severity", "info");
    let words: Vec<&str> =
        Severity::ALL.iter().filter(|severity| **severity >= least).map(|severity| severity.as_str()).collect();
    all.push(any("severity", &words));
    let mut about = Vec::new();
    let mut either = Vec::new();
    for (key, field) in [("upstreams", "upstream"), ("sources", "source")] {
        let Some(words) = section.words(key) else { continue };
        let words: Vec<&str> = words.iter().map(|(word, _)| *word).collect();
        section.print_words(key, &words);
        about.extend(words.iter().map(|word| (key, Box::from(*word))));
        match words.as_slice() {
            [] => section.problem(key, "is empty; leave it out"),
            words => either.push(any(field, words)),
        }
    }
    if !either.is_empty() {
        all.push(or_withheld(&either.join(" or ")));
    }
    let test = format!(".data.to == {}", quoted(name));
    (format!("{test} or (.data.to == null and {})", all.join(" and ")), about)
}

fn webhook(
    name: &str,
    section: &Section<'_>,
    server: &Server,
    store: &StoreSettings,
    machine: &MachineRoots,
) -> Option<Upstream> {
    let secrets = section.has("secrets").then(|| signed(section));
    let upstream = upstream::http(name, section, server, store, machine)?;
    match secrets {
        Some(policy) => Some(Upstream { sign: Some(policy?), ..upstream }),
        None => Some(upstream),
    }
}

/// The url is a credential: whoever has it can post.
fn slack(name: &str, section: &Section<'_>, store: &StoreSettings, machine: &MachineRoots) -> Option<Upstream> {
    let example = "write a reference such as \"env:SLACK_URL\"";
    if !section.has("url") {
        section.problem("url", format!("is missing; {example}"));
    }
    let found = if section.has("url") { secrets(section, "url") } else { None };
    let target = found.and_then(|found| {
        let [secret] = found.as_slice() else {
            section.problem("url", format!("takes one; {example}"));
            return None;
        };
        let text = std::str::from_utf8(secret.expose()).unwrap_or_default().trim();
        let parsed = upstream::target(section, text).map(|(_, target)| target);
        let parsed = parsed.and_then(|target| match &target {
            Target::Http(_) | Target::Https(_) => Ok(target),
            _ => Err("is no http:// or https:// url".to_owned()),
        });
        section.accept("url", parsed)
    });
    let is_https = matches!(target, Some(Target::Https(_)));
    if section.has("tls") && target.is_some() && !is_https {
        section.problem("tls", "has no effect without an https:// url; remove it");
    }
    let tls = is_https.then(|| upstream::client_tls(section.section("tls"), machine));
    let timeout = positive(section, "timeout", "10s");
    let (retry, retries) = retry(section.section("retry"), store.retention);
    let breaker = breaker(section.section("breaker"));
    Some(Upstream {
        tls: match tls {
            Some(loaded) => Some(Arc::new(loaded?)),
            None => None,
        },
        timeout,
        concurrency: 1,
        retry: retry?,
        breaker: breaker?,
        turns: TurnPolicy { retries: retries?, ..TurnPolicy::standard() },
        host: HostPolicy::Upstream,
        sign: Some(SignPolicy::Never),
        hides_url: true,
        ..Upstream::new(name, target?)
    })
}

fn command(name: &str, section: &Section<'_>, store: &StoreSettings) -> Option<Upstream> {
    let example = "write a list such as [\"/usr/local/bin/page\", \"--team\", \"ops\"]";
    let argv = section.words("argv");
    match &argv {
        None => section.problem("argv", format!("is missing; {example}")),
        Some(words) if words.is_empty() || !section.is_list("argv") => {
            section
                .problem("argv", format!("takes the program and its arguments, and no shell splits them; {example}"));
        }
        Some(words) => section.print_words("argv", words.iter().map(|(word, _)| word)),
    }
    let timeout = positive(section, "timeout", "30s");
    let concurrency = section.count("concurrency", 1, 1..=16);
    let (retry, retries) = retry(section.section("retry"), store.retention);
    let breaker = breaker(section.section("breaker"));
    let argv: Arc<[Box<str>]> = argv?.into_iter().map(|(word, _)| Box::from(word)).collect();
    Some(Upstream {
        timeout,
        concurrency: usize::try_from(concurrency).unwrap_or(1),
        retry: retry?,
        breaker: breaker?,
        turns: TurnPolicy { retries: retries?, ..TurnPolicy::standard() },
        sign: Some(SignPolicy::Never),
        ..Upstream::new(name, Target::Command(argv))
    })
}
