//! Owns reloading: a new configuration becomes the running one as a whole, or nothing changes.

use std::{
    path::{Path, PathBuf},
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use arc_swap::ArcSwap;

use super::{
    hashes::Hashes,
    probation::{Probation, Tallies, Verdict, tallies},
    subscribers::Subscribers,
    watch::{Changed, Watched},
};
use crate::{
    admin::{
        LoginLimit, Role, Scope, Token, Tokens,
        wire::{ReloadRefused, Reloaded},
    },
    agenda::Agenda,
    clock::{Clock, Timestamp},
    config::{self, AdminSettings, Config, Loaded, Problems, TokenRole},
    delivery::Engine,
    event::RELAY,
    keys::Keys,
    log::{
        Append, Class, Done, Kind, Log, NewEntry,
        entry::{Action, Command, ConfigActivated, encode_json},
    },
    routing::{Live, Table},
    telemetry::{Metrics, RequestResult},
};

/// Where the configuration came from, and so where a reload reads it again.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Origin {
    /// A file.
    File(PathBuf),
    /// `run --listen ADDR --to URL --data DIR`.
    CommandLine {
        /// `--listen`.
        listen: String,
        /// `--to`.
        to: String,
        /// `--data`.
        data: PathBuf,
    },
}

impl Origin {
    /// Loads the configuration.
    ///
    /// # Errors
    /// Every problem.
    pub fn load(&self) -> Result<Loaded, Problems> {
        match self {
            Self::File(path) => config::load(path),
            Self::CommandLine { listen, to, data } => config::quick(listen, to, data),
        }
    }
}

/// The configuration that is running, and what a change of it concerns.
pub(super) struct Running {
    pub(super) origin: Origin,
    pub(super) live: Live,
    pub(super) log: Arc<dyn Log>,
    pub(super) agenda: Agenda,
    pub(super) engine: Engine,
    pub(super) keys: Keys,
    pub(super) subscribers: Arc<Subscribers>,
    pub(super) clock: Clock,
    pub(super) metrics: Arc<Metrics>,
    pub(super) current: Mutex<Current>,
    /// Who may do what at the operators' address.
    pub(super) tokens: ArcSwap<Tokens>,
}

impl OnProbation {
    /// Steady time at which it has passed.
    pub(super) const fn until(&self) -> Timestamp {
        self.probation.until
    }
}

/// The names of a table's sources and upstreams.
fn names_of(table: &Table) -> (Vec<Box<str>>, Vec<Box<str>>) {
    let sources = table.sources.iter().map(|source| (&*source.name).into()).collect();
    (sources, table.upstreams.keys().cloned().collect())
}

/// The tokens of a configuration.
pub(super) fn tokens(settings: &AdminSettings) -> Tokens {
    let (count, per) = settings.failed_logins;
    let tokens = settings.tokens.iter().map(|token| {
        let role = match token.role {
            TokenRole::View => Role::View,
            TokenRole::Operate => Role::Operate,
        };
        let scope = Scope::new(token.sources.clone(), token.upstreams.clone());
        Token::new(&token.name, role, scope, token.secret.expose())
    });
    Tokens::new(tokens.collect(), LoginLimit { count, per }).with_session_timeout(settings.session_timeout)
}

/// What is running now.
pub(super) struct Current {
    pub(super) config: Config,
    pub(super) watched: Watched,
    pub(super) loaded_at: Timestamp,
    pub(super) generation: u64,
    /// The hashes of this one and of those before.
    pub(super) hashes: Hashes,
    /// It has yet to prove itself.
    pub(super) probation: Option<OnProbation>,
    /// What stands on disk has failed its probation: it is not read again because some certificate or secret changed.
    pub(super) went_back: bool,
}

/// What is gone back to, and when.
pub(super) struct OnProbation {
    probation: Probation,
    config: Config,
    table: Table,
}

impl Running {
    /// Makes a loaded configuration the running one, for the first time: writes its entry.
    pub(super) fn activated(&self, table: &Table) {
        let mut upstreams: Vec<Box<str>> = table.upstreams.keys().cloned().collect();
        upstreams.sort();
        let entry = ConfigActivated { generation: table.generation, hash: table.hash.clone(), upstreams };
        self.log.append(Append {
            parts: Vec::new(),
            entry: NewEntry { kind: Kind::Config, payload: encode_json(&entry) },
            dedupe: None,
            class: Class::Upkeep,
            time: self.clock.now(),
            done: Done::nobody(),
        });
        self.metrics.last_reload_success.set(1);
        self.metrics.config_hash.lock().unwrap_or_else(PoisonError::into_inner).clone_from(&table.hash);
    }

    /// Reads the configuration again and makes it the running one; for a time on probation, if one is given: see
    /// [`Self::look_after_probation`]. Blocks on the file system.
    pub(super) fn reload(&self, probation: Option<Duration>) -> Result<Reloaded, ReloadRefused> {
        let mut current = self.current.lock().unwrap_or_else(PoisonError::into_inner);
        let loaded = match self.origin.load() {
            Ok(loaded) => loaded,
            Err(Problems(problems)) => {
                self.metrics.last_reload_success.set(0);
                let problems: Vec<String> = problems.iter().map(ToString::to_string).collect();
                tracing::error!(
                    problems = problems.join("; "),
                    "the reload is refused; the old configuration stays active"
                );
                current.watched = current.watched.again();
                return Err(ReloadRefused { problems });
            }
        };
        let Loaded { config, table, warnings, files, patterns } = loaded;
        let report = config::diff(&current.config, &config);
        let mut messages: Vec<String> = Vec::new();
        messages.extend(report.needs_restart.iter().map(|what| format!("needs a restart to take effect: {what}")));
        messages.extend(report.removed_paths.iter().map(|path| self.removed(path)));
        let held = |name| format!("upstream {name} is gone: its deliveries are held until it returns");
        messages.extend(report.removed_upstreams.iter().map(held));

        let hash = table.hash.clone();
        let names = names_of(&table);
        let before = self.subscribers.base();
        let (replaced, more) = self.install(&mut current, config, table);
        messages.extend(more);
        current.watched = Watched::new(&files, &patterns);
        current.went_back = false;
        // One that is itself on probation is nothing to go back to.
        let earlier = current.probation.take().map(|earlier| (earlier.config, earlier.table));
        current.probation = probation.map(|time| {
            let (config, table) = earlier.unwrap_or((replaced, before));
            let until = self.clock.steady().after(time);
            OnProbation { probation: Probation { until, before: self.tallies(&names) }, config, table }
        });
        let probation_until = probation.map(|time| self.clock.now().after(time));
        tracing::info!(hash, notes = messages.join("; "), "the configuration was reloaded");
        for warning in &warnings {
            tracing::warn!(%warning, "configuration");
        }
        messages.splice(0..0, warnings.iter().map(|warning| format!("warning: {warning}")));
        Ok(Reloaded { hash, changed: !report.is_empty(), messages, probation_until })
    }

    /// Makes a configuration the running one. Gives the one before, and what the change means for subscribers.
    fn install(&self, current: &mut Current, mut config: Config, mut table: Table) -> (Config, Vec<String>) {
        config.take_over(&current.config);
        current.generation += 1;
        table.generation = current.generation;
        current.hashes.note(table.generation, &table.hash);
        self.activated(&table);
        // Before the table: a new source finds how its keys are got.
        self.keys.configure(config.keys.clone());
        self.tokens.store(Arc::new(tokens(&config.admin)));
        let messages = self.subscribers.reconfigure(table, config.subscribers.clone());
        self.agenda.configured();
        current.loaded_at = self.clock.now();
        (std::mem::replace(&mut current.config, config), messages)
    }

    fn tallies(&self, (sources, upstreams): &(Vec<Box<str>>, Vec<Box<str>>)) -> Tallies {
        tallies(&self.metrics, sources, upstreams)
    }

    /// Judges a configuration that is on probation. One that has failed is replaced by the one before; the files on disk
    /// are left alone, and are read again at the next reload that somebody asks for.
    pub(super) fn look_after_probation(&self) {
        let mut current = self.current.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(on_probation) = &current.probation else { return };
        let now = self.tallies(&names_of(&self.subscribers.base()));
        let why = match on_probation.probation.judge(self.clock.steady(), &now) {
            Verdict::Wait => return,
            Verdict::Passed => {
                current.probation = None;
                tracing::info!(hash = current.config.hash, "the configuration has passed its probation");
                return;
            }
            Verdict::Failed(why) => why,
        };
        let Some(OnProbation { config, table, .. }) = current.probation.take() else { return };
        let hash = table.hash.clone();
        let (failed, messages) = self.install(&mut current, config, table);
        current.went_back = true;
        drop(current);
        // What stands on disk is not what is running.
        self.metrics.last_reload_success.set(0);
        self.metrics.reloads_rolled_back.inc();
        tracing::error!(
            failed = failed.hash,
            hash,
            why,
            notes = messages.join("; "),
            "the configuration has failed its probation: the one before is active again"
        );
        let noted = Action::Noted { what: "reload_rolled_back".into(), targets: vec![failed.hash.into()], count: 1 };
        let command = Command { origin: Some("probation".into()), reason: Some(why), ..Command::new(RELAY, noted) };
        if let Err(error) = self.agenda.command(&command) {
            tracing::warn!(%error, "a failed probation is not recorded in the audit trail");
        }
    }

    /// The active table, and a configuration that is only to be looked at: the one of this file, or the one that a reload
    /// would read. Blocks on the file system.
    pub(super) fn candidate(&self, file: Option<&Path>) -> Result<(Arc<Table>, Loaded), Vec<String>> {
        let loaded = match file {
            Some(file) => config::load(file),
            None => self.origin.load(),
        };
        let problems = |Problems(problems): Problems| problems.iter().map(ToString::to_string).collect::<Vec<_>>();
        Ok((Arc::new(self.subscribers.base()), loaded.map_err(problems)?))
    }

    /// Tells that a path is gone, and what it had today.
    fn removed(&self, path: &str) -> String {
        let table = self.live.snapshot();
        let shown = |source: &crate::routing::Source| {
            format!("{}{}", source.host.as_deref().unwrap_or(""), source.pattern.text)
        };
        let accepted = table.sources.iter().find(|source| shown(source) == path).map_or(0, |source| {
            let counters = &self.metrics.source(&source.name).requests;
            counters.get(RequestResult::Accepted as usize).map_or(0, crate::telemetry::Counter::get)
        });
        match accepted {
            0 => format!("path {path} is gone: its senders get 404 from now on"),
            some => format!(
                "path {path} is gone although it took {some} requests since the start: its senders get 404 from now on"
            ),
        }
    }

    /// Looks whether files have changed and reloads if that is wanted: certificates, keys and secrets always, the
    /// configuration's text only with `watch_text`.
    pub(super) fn reload_if_changed(&self, watch_text: bool) {
        let (changed, went_back, left) = {
            let current = self.current.lock().unwrap_or_else(PoisonError::into_inner);
            let until = current.probation.as_ref().map(|on_probation| on_probation.probation.until);
            let left = until.map(|until| until.since(self.clock.steady()));
            (current.watched.changed(), current.went_back, left)
        };
        match changed {
            Changed::Material if went_back => tracing::warn!(
                "a certificate or secret has changed and is not read: the configuration on disk has failed its probation; \
                 mend it, then reload"
            ),
            Changed::Material => drop(self.reload(left)),
            Changed::Text if watch_text => drop(self.reload(left)),
            Changed::Text | Changed::Nothing => {}
        }
    }
}
