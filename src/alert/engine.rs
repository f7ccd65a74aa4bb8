//! Owns the alerts that stand: [`Engine::step`] takes figures and a time, and gives what is to be told.

use std::{collections::BTreeMap, time::Duration};

use super::{
    baseline::Counts,
    notice::{Alert, News, Notice},
    outbox::{Outbox, Taken, Told},
    rules::{Rule, Settings, Severity},
    watch::{Level, PartWatch, SourceWatch, SpaceWatch, UpstreamWatch, counted},
};
use crate::clock::Timestamp;

/// What the rules look at. Counters begin with the process.
#[derive(Clone, Debug, Default)]
pub struct Figures {
    /// Each configured upstream.
    pub upstreams: Vec<UpstreamFigures>,
    /// Each configured source.
    pub sources: Vec<SourceFigures>,
    /// The store, and the disk it stands on.
    pub spaces: Vec<Space>,
    /// The last reload was refused.
    pub reload_failed: bool,
    /// Requests that were answered 503.
    pub unavailable: u64,
}

/// An upstream's figures.
#[derive(Clone, Debug, Default)]
pub struct UpstreamFigures {
    /// Its name.
    pub name: Box<str>,
    /// Attempts.
    pub attempted: u64,
    /// Those that did not deliver.
    pub failed: u64,
    /// Attempts by how long they took.
    pub latency: Counts,
    /// Dead deliveries now.
    pub dead: u64,
    /// The age of the oldest delivery that is due or will be; None if there is none.
    pub oldest: Option<Duration>,
    /// It is held, or some of its deliveries are.
    pub is_held: bool,
    /// Its breaker is not closed.
    pub is_cut_off: bool,
}

/// A source's figures.
#[derive(Clone, Debug, Default)]
pub struct SourceFigures {
    /// Its name.
    pub name: Box<str>,
    /// Requests that were taken, new or known.
    pub heard: u64,
    /// The known ones among them.
    pub duplicates: u64,
    /// Requests that were refused for what they are: unsigned, unreadable, not allowed.
    pub refused: u64,
    /// Those whose signature was right and whose timestamp was not.
    pub stale: u64,
}

/// A space that fills.
#[derive(Clone, Copy, Debug, Default)]
pub struct Space {
    /// `store` or `disk`.
    pub name: &'static str,
    /// Bytes that are used and can't be had back.
    pub used: u64,
    /// Bytes.
    pub limit: u64,
}

/// An alert that stands.
#[derive(Clone, Debug, serde::Serialize, serde::Deserialize)]
struct Standing {
    alert: Alert,
    /// When it was told last.
    told: Timestamp,
    /// Since when all is well again.
    #[serde(skip)]
    calm_since: Option<Timestamp>,
    /// When its subject was looked at last.
    #[serde(skip)]
    seen: Timestamp,
}

/// What survives a restart.
#[derive(Debug, Default, serde::Serialize, serde::Deserialize)]
#[serde(default)]
pub struct Saved {
    at: Timestamp,
    standing: Vec<Standing>,
    upstreams: BTreeMap<Box<str>, UpstreamWatch>,
    sources: BTreeMap<Box<str>, SourceWatch>,
    outbox: Outbox,
}

/// The rules, what they have learned, what stands, and what is to be told of it.
pub struct Engine {
    settings: Settings,
    outbox: Outbox,
    /// By index of [`Rule`].
    standing: [BTreeMap<Box<str>, Standing>; Rule::ALL.len()],
    upstreams: BTreeMap<Box<str>, UpstreamWatch>,
    sources: BTreeMap<Box<str>, SourceWatch>,
    spaces: BTreeMap<&'static str, SpaceWatch>,
    unavailable: PartWatch,
}

impl Engine {
    /// Begins with what an earlier process left. Times are steady ones.
    #[must_use]
    pub fn new(settings: Settings, saved: Saved, now: Timestamp) -> Self {
        let Saved { at, standing, upstreams, mut sources, outbox } = saved;
        let stopped = at.min(now);
        sources.values_mut().for_each(|source| source.resume(stopped, now));
        let mut by_rule: [BTreeMap<_, _>; Rule::ALL.len()] = Default::default();
        for one in standing {
            if let Some(standing) = by_rule.get_mut(one.alert.rule as usize) {
                standing.insert(one.alert.subject.clone(), one);
            }
        }
        Self {
            settings,
            outbox,
            standing: by_rule,
            upstreams,
            sources,
            spaces: BTreeMap::new(),
            unavailable: PartWatch::default(),
        }
    }

    /// Other settings hold from the next step on.
    pub fn configure(&mut self, settings: Settings) {
        self.settings = settings;
    }

    /// Looks at the figures of a moment.
    pub fn step(&mut self, now: Timestamp, figures: &Figures) -> Vec<Notice> {
        let Settings { repeat, settle, rules, .. } = &self.settings;
        let mut desk = Desk { now, repeat: *repeat, settle: *settle, standing: &mut self.standing, told: Vec::new() };
        for upstream in &figures.upstreams {
            let name = &*upstream.name;
            let watch = entry(&mut self.upstreams, name);
            watch.judge(now, upstream, rules, &mut |rule, level| desk.hear(rule, name, level));
        }
        for source in &figures.sources {
            let name = &*source.name;
            let watch = entry(&mut self.sources, name);
            watch.judge(now, source, rules, &mut |rule, level| desk.hear(rule, name, level));
        }
        if let Some(rule) = &rules.disk {
            for space in &figures.spaces {
                let level = self.spaces.entry(space.name).or_default().judge(now, space, rule);
                desk.hear(Rule::Disk, space.name, level);
            }
        }
        if let Some(rule) = &rules.reload {
            let text = || "the last reload was refused: an older configuration is running".to_owned();
            let level = if figures.reload_failed { Level::Over(rule.severity, text()) } else { Level::Under };
            desk.hear(Rule::Reload, "configuration", level);
        }
        if let Some(rule) = &rules.unavailable {
            let what = "requests were turned away with 503";
            let level = counted(&mut self.unavailable.counted, now, figures.unavailable, rule, what);
            desk.hear(Rule::Unavailable, "relay", level);
        }
        desk.sweep();
        let told = desk.told;
        let configured = |name: &str| figures.upstreams.iter().any(|upstream| *upstream.name == *name);
        if self.upstreams.len() > figures.upstreams.len() {
            self.upstreams.retain(|name, _| configured(name));
        }
        if self.sources.len() > figures.sources.len() {
            self.sources.retain(|name, _| figures.sources.iter().any(|source| source.name == *name));
        }
        told
    }

    /// Takes what is to be told, as far as the limit goes.
    pub fn tell(&mut self, now: Timestamp, notices: Vec<Notice>) -> Taken {
        self.outbox.take(now, self.settings.max_per_hour, notices)
    }

    /// What is told and not published yet, oldest first.
    #[must_use]
    pub fn untold(&self) -> Vec<Told> {
        self.outbox.waiting()
    }

    /// The oldest so many of it are published.
    pub fn published(&mut self, count: usize) {
        self.outbox.published(count);
    }

    /// There is nobody to be told.
    pub fn tell_nobody(&mut self) {
        self.outbox = Outbox::default();
    }

    /// What stands, the worst first.
    #[must_use]
    pub fn standing(&self) -> Vec<Alert> {
        let mut all: Vec<Alert> =
            self.standing.iter().flat_map(BTreeMap::values).map(|standing| standing.alert.clone()).collect();
        all.sort_by_key(|alert| (std::cmp::Reverse(alert.severity), alert.since));
        all
    }

    /// How many stand, by index of [`Rule`].
    #[must_use]
    pub fn counts(&self) -> [usize; Rule::ALL.len()] {
        self.standing.each_ref().map(BTreeMap::len)
    }

    /// What a later process begins with, as JSON; None if it can't be written.
    #[must_use]
    pub fn save(&self, now: Timestamp) -> Option<Vec<u8>> {
        #[derive(serde::Serialize)]
        struct Saving<'a> {
            at: Timestamp,
            standing: Vec<&'a Standing>,
            upstreams: &'a BTreeMap<Box<str>, UpstreamWatch>,
            sources: &'a BTreeMap<Box<str>, SourceWatch>,
            outbox: &'a Outbox,
        }
        let standing = self.standing.iter().flat_map(BTreeMap::values).collect();
        let (upstreams, sources, outbox) = (&self.upstreams, &self.sources, &self.outbox);
        let saving = Saving { at: now, standing, upstreams, sources, outbox };
        serde_json::to_vec(&saving).ok()
    }
}

fn entry<'m, W: Default>(map: &'m mut BTreeMap<Box<str>, W>, name: &str) -> &'m mut W {
    if !map.contains_key(name) {
        map.insert(name.into(), W::default());
    }
    map.entry(name.into()).or_default()
}

/// Where the rules report, for one step.
struct Desk<'a> {
    now: Timestamp,
    repeat: Duration,
    settle: Duration,
    standing: &'a mut [BTreeMap<Box<str>, Standing>; Rule::ALL.len()],
    told: Vec<Notice>,
}

impl Desk<'_> {
    fn hear(&mut self, rule: Rule, subject: &str, level: Level) {
        let now = self.now;
        let Some(all) = self.standing.get_mut(rule as usize) else { return };
        let Some(one) = all.get_mut(subject) else {
            if let Level::Over(severity, text) = level {
                let alert =
                    Alert { rule, subject: subject.into(), severity, since: now, text: named(rule, subject, &text) };
                let one = Standing { alert: alert.clone(), told: now, calm_since: None, seen: now };
                all.insert(subject.into(), one);
                self.told.push(Notice { news: News::Raised, alert, at: now });
            }
            return;
        };
        one.seen = now;
        match level {
            Level::Under => {
                let calm = now.since(*one.calm_since.get_or_insert(now));
                if calm >= self.settle {
                    let alert = one.alert.clone();
                    all.remove(subject);
                    self.told.push(Notice { news: News::Resolved, alert, at: now });
                    return;
                }
            }
            Level::Between => one.calm_since = None,
            Level::Over(severity, text) => {
                one.calm_since = None;
                one.alert.text = named(rule, subject, &text);
                if severity > one.alert.severity {
                    return self.tell_worse(rule, subject, severity);
                }
            }
        }
        if now.since(one.told) >= self.repeat {
            one.told = now;
            self.told.push(Notice { news: News::Repeated, alert: one.alert.clone(), at: now });
        }
    }

    fn tell_worse(&mut self, rule: Rule, subject: &str, severity: Severity) {
        let one = self.standing.get_mut(rule as usize).and_then(|all| all.get_mut(subject));
        if let Some(one) = one {
            one.alert.severity = severity;
            one.told = self.now;
            self.told.push(Notice { news: News::Worsened, alert: one.alert.clone(), at: self.now });
        }
    }

    /// Ends what nobody spoke of: its subject is gone, or its rule is switched off.
    fn sweep(&mut self) {
        for all in self.standing.iter_mut() {
            all.retain(|_, one| {
                if one.seen == self.now {
                    return true;
                }
                // One that has just been raised has been seen; one that was not is not configured any more.
                self.told.push(Notice { news: News::Resolved, alert: one.alert.clone(), at: self.now });
                false
            });
        }
    }
}

/// The sentence with its subject.
fn named(rule: Rule, subject: &str, text: &str) -> String {
    use super::rules::Subjects;
    match rule.subjects() {
        Subjects::Upstreams => format!("upstream {subject}: {text}"),
        Subjects::Sources => format!("source {subject}: {text}"),
        Subjects::Parts => format!("{subject}: {text}"),
    }
}
