//! Owns the keys of an upstream with several targets: a list as `url`, `balance`, `health`, `eject`.

use std::sync::Arc;

use super::{
    reader::{Section, quoted},
    server::positive,
    upstream,
};
use crate::routing::{Balance, EjectPolicy, HealthCheck, Member, Target, Targets, TargetsError, Upstream};

/// What has no meaning with a single target.
const SEVERAL: [&str; 3] = ["balance", "health", "eject"];

/// What was read of the keys, to become a policy together with the rest of the upstream.
pub(super) struct Read {
    targets: Vec<(String, Target)>,
    rules: Option<(Balance, Option<HealthCheck>, EjectPolicy)>,
}

impl Read {
    /// The first or only target.
    pub(super) fn first(&self) -> Option<&Target> {
        self.targets.first().map(|(_, target)| target)
    }

    /// The policy, if there are several targets: each is the whole upstream with a target of its own.
    pub(super) fn finish(self, upstream: &Upstream) -> Option<Arc<Targets>> {
        let (balance, health, eject) = self.rules?;
        let member = |(url, target): (String, Target)| Member {
            url: url.into(),
            upstream: Arc::new(Upstream { target, targets: None, ..upstream.clone() }),
        };
        let members = self.targets.into_iter().map(member).collect();
        Targets::new(members, balance, health, eject).ok().map(Arc::new)
    }
}

/// Reads the keys of `[upstream.NAME]`. None: there was a problem.
pub(super) fn read(section: &Section<'_>) -> Option<Read> {
    if !section.is_list("url") {
        for key in SEVERAL {
            if section.has(key) {
                let message = "has no effect with one url; write a list of urls or remove it";
                section.problem(key, message);
            }
        }
        let url = section.expanded("url")?;
        let (shown, target) = section.accept("url", upstream::target(section, &url))?;
        section.print("url", &quoted(&shown));
        return Some(Read { targets: vec![(shown, target)], rules: None });
    }
    let urls = section.expanded_words("url")?;
    if urls.is_empty() {
        section.accept("url", Err::<(), _>(TargetsError::Number(0)));
    }
    let mut targets = Vec::with_capacity(urls.len());
    for url in &urls {
        targets.push(section.accept("url", upstream::target(section, url))?);
    }
    section.print_words("url", targets.iter().map(|(shown, _)| shown));
    let is_https = |(_, target): &(String, Target)| matches!(target, Target::Https(_));
    if targets.iter().any(is_https) && !targets.iter().all(is_https) {
        section.problem("url", "mixes https:// with others; all targets of an upstream have the same settings of TLS");
        return None;
    }
    let options = [("round_robin", Balance::RoundRobin), ("least_in_flight", Balance::LeastInFlight)];
    let balance = section.choice("balance", "round_robin", &options);
    let health = match section.optional_section("health") {
        Some(health) => Some(check(health)?),
        None => None,
    };
    let eject = eject(section.section("eject"));
    let read = Read { targets, rules: Some((balance?, health, eject?)) };
    let bare = read.first().map(|target| Upstream::new("", target.clone()))?;
    let (balance, health, eject) = read.rules.clone()?;
    let members = read.targets.iter().map(|(url, target)| Member {
        url: url.as_str().into(),
        upstream: Arc::new(Upstream { target: target.clone(), ..bare.clone() }),
    });
    section.accept("url", Targets::new(members.collect(), balance, health, eject))?;
    Some(read)
}

fn check(section: Section<'_>) -> Option<HealthCheck> {
    if !section.has("path") {
        section.problem("path", "is missing; write the path that is asked for, such as \"/healthz\"");
    }
    let path = section.expanded("path").filter(|path| {
        let fits = path.starts_with('/') && !path.contains('#') && path.parse::<http::uri::PathAndQuery>().is_ok();
        if fits {
            section.print("path", &quoted(path));
        } else {
            section.problem("path", format!("\"{path}\" is no path; it begins with / and has no fragment"));
        }
        fits
    });
    let every = positive(&section, "every", "10s");
    let timeout = positive(&section, "timeout", "2s");
    let count = |key, default| u32::try_from(section.count(key, default, 1..=1000)).unwrap_or(u32::MAX);
    let (healthy, unhealthy) = (count("healthy", 2), count("unhealthy", 3));
    let words: Vec<&str> =
        section.words("status").map_or_else(|| vec!["2xx"], |words| words.into_iter().map(|(word, _)| word).collect());
    let status: Option<Vec<(u16, u16)>> = words.iter().map(|word| status(&section, word)).collect();
    section.print_words("status", &words);
    section.finish();
    Some(HealthCheck { path: path?.into(), every, timeout, healthy, unhealthy, status: status? })
}

/// `2xx` or `204`.
fn status(section: &Section<'_>, word: &str) -> Option<(u16, u16)> {
    let class = word.strip_suffix("xx").and_then(|digit| digit.parse::<u16>().ok()).filter(|digit| *digit < 6);
    let range = match class {
        Some(class) => Some((class * 100, class * 100 + 99)),
        None => word.parse::<u16>().ok().map(|one| (one, one)),
    };
    let range = range.filter(|(first, _)| (200..600).contains(first));
    let message = format!("\"{word}\" is no status of an answer; write \"2xx\", \"204\" or a list of such");
    section.accept("status", range.ok_or(message))
}

fn eject(section: Section<'_>) -> Option<EjectPolicy> {
    let failures = u32::try_from(section.count("failures", 5, 1..=1_000_000)).unwrap_or(u32::MAX);
    let time = section.duration("for", "30s");
    let max = section.number("max", 0.5, 0.0..=1.0);
    let policy = section.accept("", EjectPolicy::new(failures, time, max));
    section.finish();
    policy
}
