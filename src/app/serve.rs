//! Owns the life of a serving process: start in order, serve, reload, stop in order.

use std::{
    io,
    net::SocketAddr,
    sync::{Arc, Mutex, OnceLock, PoisonError},
    time::Duration,
};

use arc_swap::ArcSwap;
use tokio::signal::unix::{Signal, SignalKind, signal};

use super::{
    alerts::{self, Alerts},
    backup::log_settings,
    hashes::Hashes,
    janitor,
    jobs::{self, Waits},
    links::{ThroughEngine, ToAgenda, ToEngine},
    ports::Instance,
    probe::Probe,
    reload::{self, Current, Origin, Running},
    rounds::Rounds,
    status::Samples,
    subscribers::Subscribers,
    watch::{self, Watched},
};
use crate::{
    admin::{self, SocketError},
    agenda::{self, Agenda},
    clock::Clock,
    config::{Config, ListenSettings, Loaded, StoreSettings},
    delivery::{self, Engine},
    expr::Evaluator,
    ingress::{Caller, Gate, Ingress, Setup},
    jitter::Jitter,
    keys::{Keys, Resolver},
    listen::{self, BindError, Broken, ConnectionInfo, Endpoint, Server, Shards, Socket},
    log::{
        AckLane, Log,
        sled::{OpenError, SledLog},
    },
    quarantine::Quarantine,
    routing::{Limits, Listener, Live},
    state::{Keep, StoreError},
    telemetry::{Metrics, systemd},
    tenant,
};

/// How often the watchdog and the poison are looked at.
const TICK: Duration = Duration::from_millis(500);
/// A committer that shows no life for so long has lost sled's I/O thread: the process ends and recovers.
const STUCK: Duration = Duration::from_secs(10);

/// What a start needs besides the configuration.
pub struct RunOptions {
    /// Reload when the configuration's text changes.
    pub watch: bool,
}

/// Why the process does not serve.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// The log.
    #[error(transparent)]
    Log(#[from] OpenError),
    /// The state of deliveries.
    #[error(transparent)]
    State(#[from] StoreError),
    /// A listener.
    #[error(transparent)]
    Bind(#[from] BindError),
    /// The operators' socket.
    #[error(transparent)]
    Socket(#[from] SocketError),
    /// The operators' address.
    #[error("admin.address {address}: {source}")]
    Admin {
        /// The address.
        address: SocketAddr,
        /// What the system said.
        #[source]
        source: io::Error,
    },
    /// Threads, directories, signals.
    #[error("{0}")]
    Io(#[from] io::Error),
}

/// How the process ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ended {
    /// As asked, with everything begun finished.
    Cleanly,
    /// Because nothing could be made durable any more.
    Poisoned,
}

/// A serving process.
pub struct App {
    running: Arc<Running>,
    log: Arc<SledLog>,
    instance: Arc<Instance>,
    server: Server,
    shards: Shards,
    delivery_shards: Shards,
    janitor: Rounds,
    jobs: Rounds,
    admin: Vec<tokio::task::JoinHandle<()>>,
    options: RunOptions,
    addresses: Vec<SocketAddr>,
    hang_up: Signal,
}

impl App {
    /// Recovers the log, then the deliveries, then opens the doors. Call it inside a tokio runtime.
    ///
    /// # Errors
    /// [`StartError`]; nothing listens then.
    pub fn start(loaded: Loaded, origin: Origin, options: RunOptions) -> Result<Self, StartError> {
        let Loaded { config, mut table, warnings: _, files, patterns } = loaded;
        let (clock, jitter, metrics) = (Clock::system(), Jitter::system(), Arc::new(Metrics::default()));
        // First of all: a SIGHUP that comes while the log is recovered means a reload afterwards, not the end.
        let hang_up = signal(SignalKind::hangup())?;
        raise_file_limit();
        let log = open_log(&config, &metrics, &clock)?;
        let seam: Arc<dyn Log> = log.clone();
        let evaluator = Evaluator::start(crate::expr::Settings::standard());
        table.generation = clock.now().as_millis();
        let (limits, generation, hash) = (table.limits.clone(), table.generation, table.hash.clone());
        let base = table.clone();
        let live = Live::new(table);
        let settings = config.subscribers.clone();
        let subscribers = Arc::new(Subscribers::new(
            live.clone(),
            base,
            settings,
            clock.clone(),
            metrics.clone(),
            seam.clone(),
            Arc::new(delivery::System),
        ));
        let shards = Shards::start(Shards::default_count())?;
        let delivery_shards = Shards::start(Shards::default_count().div_ceil(2))?;
        let node: Arc<str> = node_name().into();
        if let Some(traces) = &config.traces
            && let Some(queue) = metrics.traces.open(traces.queue, traces.sample)
        {
            let sending =
                delivery::export(queue, traces.collector.clone(), node.clone(), metrics.clone(), clock.clone());
            delivery_shards.any().spawn(sending);
        }

        let to_engine = Arc::new(ToEngine(OnceLock::new(), Some(subscribers.clone())));
        let agenda = Agenda::start(
            agenda_settings(&config.store),
            agenda::Deps {
                log: seam.clone(),
                live: live.clone(),
                evaluator: evaluator.clone(),
                clock: clock.clone(),
                metrics: metrics.clone(),
                dispatch: to_engine.clone(),
                runtime: delivery_shards.any(),
            },
        )?;
        let signals = Arc::new(ToAgenda(agenda.clone()));
        let engine = Engine::start(
            delivery::Deps {
                clock: clock.clone(),
                jitter: jitter.clone(),
                log: seam.clone(),
                live: live.clone(),
                evaluator: evaluator.clone(),
                resolver: Arc::new(delivery::System),
                metrics: metrics.clone(),
                signals: signals.clone(),
                node: node.clone(),
            },
            &delivery_shards.handles(),
        );
        let _first = to_engine.0.set(engine.clone());
        subscribers.attach(engine.clone());

        let sockets = Socket::bind_all(config.listen.iter().map(endpoint))?;
        let addresses: Vec<SocketAddr> = sockets.iter().filter_map(Socket::local_address).collect();
        let quarantine = Arc::new(Quarantine::open(&config.store.path.join("quarantine"), metrics.clone())?);
        let keys = Keys::new(Arc::new(Resolver), clock.clone(), metrics.clone(), config.keys.clone());
        let ingress = Ingress::open(Setup {
            live: live.clone(),
            log: seam.clone(),
            clock: clock.clone(),
            jitter,
            evaluator: evaluator.clone(),
            keys: keys.clone(),
            metrics: metrics.clone(),
            proxy: Arc::new(ThroughEngine::new(engine.clone(), seam.clone())),
            duplicates: signals,
            quarantine: quarantine.clone(),
            spool_dir: config.store.path.join("spool"),
            sequence_file: config.store.path.join("sequences.json"),
            tenant_file: config.store.path.join("tenants.json"),
        })?;
        let probe = Arc::new(Probe::new(seam.clone(), clock.clone(), config.store.path.join("ready")));
        let admin_socket = admin::bind(&config.admin.socket, config.admin.socket_group.as_deref())?;
        let (admin_address, admin_tls) = (config.admin.address, config.admin.tls.clone());
        let tokens = ArcSwap::from_pointee(reload::tokens(&config.admin));
        let mut hashes = Hashes::open(&config.store.path);
        hashes.note(generation, &hash);
        let current = Current {
            watched: Watched::new(&files, &patterns),
            loaded_at: clock.now(),
            generation,
            hashes,
            config,
            probation: None,
            went_back: false,
        };
        let running = Arc::new(Running {
            origin,
            live: live.clone(),
            log: seam,
            agenda: agenda.clone(),
            engine,
            keys,
            subscribers: subscribers.clone(),
            clock: clock.clone(),
            metrics: metrics.clone(),
            current: Mutex::new(current),
            tokens,
        });
        running.activated(&live.snapshot());
        let (directory, settings) = {
            let current = running.current.lock().unwrap_or_else(PoisonError::into_inner);
            (current.config.store.path.clone(), current.config.alerts.clone())
        };
        let alerts = Alerts::open(directory.join("alerts.json"), settings, running.clock.steady());
        let instance = Arc::new(Instance {
            running: running.clone(),
            evaluator,
            ingress: ingress.clone(),
            operators_gate: gate(&ingress, &shards.any()),
            quarantine,
            probe,
            samples: Arc::new(Samples::default()),
            sled: log.clone(),
            node,
            waits: Waits::default(),
            alerts,
            questions: admin::Questions::default(),
        });
        let mut admin = vec![tokio::spawn(admin::server::serve_socket(admin_socket, instance.clone()))];
        if let Some(address) = admin_address {
            let wrong = |source| StartError::Admin { address, source };
            let listener = std::net::TcpListener::bind(address).map_err(wrong)?;
            listener.set_nonblocking(true).map_err(wrong)?;
            let listener = tokio::net::TcpListener::from_std(listener).map_err(wrong)?;
            admin.push(tokio::spawn(admin::server::serve_tcp(listener, admin_tls, instance.clone())));
        }
        let lag = running.current.lock().unwrap_or_else(PoisonError::into_inner).config.admin.job_lag;
        let jobs = jobs::start(instance.clone(), lag, delivery_shards.any())?;
        admin.push(tokio::spawn(alerts::watch(instance.clone())));
        let store = running.current.lock().unwrap_or_else(PoisonError::into_inner).config.store.clone();
        let janitor = janitor::start(log.clone(), agenda, subscribers, clock, store)?;
        let server = open_doors(&shards, sockets, &limits, metrics, ingress)?;
        Ok(Self {
            running,
            log,
            instance,
            server,
            shards,
            delivery_shards,
            janitor,
            jobs,
            admin,
            options,
            addresses,
            hang_up,
        })
    }

    /// The TCP addresses that are listened on, in the order of the configuration.
    #[must_use]
    pub fn addresses(&self) -> &[SocketAddr] {
        &self.addresses
    }

    /// Serves until a signal or a poisoned log ends it, then stops in order.
    ///
    /// # Errors
    /// When signals can't be had.
    pub async fn serve(mut self) -> io::Result<Ended> {
        let (mut terminate, mut interrupt) = (signal(SignalKind::terminate())?, signal(SignalKind::interrupt())?);
        let mut tick = tokio::time::interval(TICK);
        // After a pause of the whole process the committer gets its time too.
        tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        let mut look = tokio::time::interval(watch::EVERY);
        let mut save = tokio::time::interval(tenant::SAVE_EVERY);
        save.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        let (mut beats, mut looks) = (self.log.beats(), 0);
        // It waits until the state of deliveries knows of it, which may be after a rebuild: nothing else waits for that.
        let mut reloading: Option<tokio::task::JoinHandle<()>> = None;
        systemd::ready();
        let ended = loop {
            tokio::select! {
                _ = terminate.recv() => break Ended::Cleanly,
                _ = interrupt.recv() => break Ended::Cleanly,
                _ = self.hang_up.recv(), if reloading.is_none() => {
                    systemd::reloading();
                    let instance = self.instance.clone();
                    reloading = Some(tokio::task::spawn_blocking(move || admin::reload_by_signal(&*instance)));
                }
                () = over(&mut reloading) => {
                    reloading = None;
                    systemd::ready();
                }
                _ = look.tick() => {
                    let (running, watch) = (self.running.clone(), self.options.watch);
                    let work = move || {
                        running.reload_if_changed(watch);
                        running.look_after_probation();
                        running.subscribers.tick();
                    };
                    let _done = tokio::task::spawn_blocking(work).await;
                }
                _ = save.tick() => {
                    let instance = self.instance.clone();
                    let _done = tokio::task::spawn_blocking(move || save_tenants(&instance)).await;
                }
                _ = tick.tick() => {
                    let beat = self.log.beats();
                    looks += 1;
                    if beat != beats {
                        (beats, looks) = (beat, 0);
                        systemd::watchdog();
                    } else if TICK * looks > STUCK {
                        tracing::error!("the committer has been stuck for 10 s: ending the process so that it recovers");
                        std::process::abort();
                    }
                    if self.log.is_poisoned() {
                        break Ended::Poisoned;
                    }
                    self.sample();
                }
            }
        };
        self.stop(ended).await;
        Ok(ended)
    }

    fn sample(&self) {
        let stopped = &self.running.metrics.expressions_killed;
        stopped.add(self.instance.evaluator.stopped().saturating_sub(stopped.get()));
        let names = admin::Ports::upstreams(&*self.instance);
        let written = self.log.stats().written;
        self.instance.samples.take(self.running.clock.steady(), written, &names, &self.running.metrics);
    }

    async fn stop(self, ended: Ended) {
        systemd::stopping();
        self.instance.probe.stop();
        let shutdown = self.running.current.lock().unwrap_or_else(PoisonError::into_inner).config.shutdown;
        let delay = if ended == Ended::Cleanly { shutdown.delay } else { Duration::ZERO };
        tracing::info!("stopping: listeners close, requests under way are answered");
        let drained = self.server.drain(delay, shutdown.timeout).await;
        if drained.cut_off > 0 {
            tracing::warn!(connections = drained.cut_off, "connections were cut off at the end of shutdown_timeout");
        }
        self.running.engine.drain(shutdown.timeout).await;
        self.instance.questions.close().await;
        let (agenda, log, janitor, jobs) = (self.running.agenda.clone(), self.log.clone(), self.janitor, self.jobs);
        let instance = self.instance.clone();
        let _done = tokio::task::spawn_blocking(move || {
            instance.quarantine.close();
            instance.alerts.close(instance.running.clock.steady());
            if let Err(error) = instance.ingress.sequences().close() {
                tracing::warn!(%error, "numbers that are missing are not known after the next start");
            }
            save_tenants(&instance);
            agenda.ending();
            drop((jobs, janitor));
            agenda.stop();
            log.close();
        })
        .await;
        for task in &self.admin {
            task.abort();
        }
        let socket = self.running.current.lock().unwrap_or_else(PoisonError::into_inner).config.admin.socket.clone();
        let _gone = std::fs::remove_file(socket);
        let (shards, delivery) = (self.shards, self.delivery_shards);
        let _done = tokio::task::spawn_blocking(move || drop((shards, delivery))).await;
        tracing::info!("stopped");
    }
}

/// Waits for the end of what is under way; for ever, if nothing is. Cancel-safe.
async fn over(under_way: &mut Option<tokio::task::JoinHandle<()>>) {
    match under_way {
        Some(task) => drop(task.await),
        None => std::future::pending().await,
    }
}

fn save_tenants(instance: &Instance) {
    if let Err(error) = instance.ingress.tenants().save() {
        tracing::warn!(%error, "what tenants have spent today can't be written: a restart would forget it");
    }
}

/// A checkpoint for each segment's worth of log, or more often: what is replayed at a start follows what is sealed.
fn agenda_settings(store: &StoreSettings) -> agenda::Settings {
    let keep = Keep { settled: store.retention, dead: store.dead_retention };
    let standard = agenda::Settings::standard(store.path.join("state"), keep);
    agenda::Settings { checkpoint_bytes: store.segment_bytes.min(standard.checkpoint_bytes), ..standard }
}

fn open_log(config: &Config, metrics: &Arc<Metrics>, clock: &Clock) -> Result<Arc<SledLog>, OpenError> {
    let settings = log_settings(&config.store);
    let log = SledLog::open(settings, metrics.clone(), clock.clone())?;
    let recovered = &log.recovered;
    for file in &recovered.salvaged {
        tracing::error!(file, "the index of a sealed segment was damaged; it was rebuilt from what is intact");
    }
    tracing::info!(
        incomplete_frames = recovered.incomplete_frames,
        interrupted_seals = recovered.interrupted_seals,
        "the log is recovered"
    );
    Ok(Arc::new(log))
}

fn open_doors(
    shards: &Shards,
    sockets: Vec<Socket>,
    limits: &Limits,
    metrics: Arc<Metrics>,
    ingress: Arc<Ingress>,
) -> io::Result<Server> {
    let gates: Vec<Arc<Gate>> = shards.handles().iter().map(|shard| gate(&ingress, shard)).collect();
    let on_broken = Arc::new(move |info: &ConnectionInfo, broken: Broken| {
        let caller = Caller::new(info.peer, info.tls);
        let (word, status) = match broken {
            Broken::Malformed => ("malformed", 400),
            Broken::HeadTooLarge => ("header_too_large", 431),
            Broken::HeadTooSlow => ("header_too_slow", 408),
            Broken::NotProxied => ("not_proxied", 400),
            Broken::TooManyConnections => ("too_many_connections", 503),
        };
        ingress.record_broken(&caller, word, status);
    });
    let limits = listen::Limits {
        max_connections: limits.max_connections,
        handshake_timeout: limits.handshake_timeout,
        header_timeout: limits.header_timeout,
        max_header_bytes: limits.max_header_bytes,
        idle_timeout: limits.idle_timeout,
    };
    let factory = move |shard: usize, info: &ConnectionInfo| {
        let gate = gates.get(shard).or_else(|| gates.first()).cloned();
        let caller = Arc::new(Caller::new(info.peer, info.tls).with_certificate(info.certificate.as_deref()));
        #[expect(clippy::expect_used, reason = "there is a gate for each shard, and at least one shard")]
        gate.expect("at least one shard").service(caller)
    };
    Server::start(shards, sockets, limits, metrics, on_broken, factory)
}

/// A gate whose answers come through a runtime.
fn gate(ingress: &Arc<Ingress>, runtime: &tokio::runtime::Handle) -> Arc<Gate> {
    let lane = AckLane::new();
    runtime.spawn(lane.clone().run());
    Gate::new(ingress.clone(), lane)
}

fn endpoint(listen: &ListenSettings) -> Endpoint {
    let (address, tls) = match &listen.listener {
        Listener::Tcp { address, tls } => (listen::Address::Tcp(*address), tls.as_ref()),
        Listener::Unix(path) => (listen::Address::Unix(path.clone()), None),
        Listener::Systemd { name, tls } => (listen::Address::Systemd(name.clone()), tls.as_ref()),
    };
    Endpoint { address, tls: tls.map(|tls| tls.config.clone()), proxy_protocol: listen.proxy_protocol }
}

/// The host's name, for `status`.
fn node_name() -> String {
    let name = rustix::system::uname();
    name.nodename().to_string_lossy().into_owned()
}

/// Takes as many file descriptors as the system allows: each connection needs one.
fn raise_file_limit() {
    use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
    let limit = getrlimit(Resource::Nofile);
    let _refused = setrlimit(Resource::Nofile, Rlimit { current: limit.maximum, maximum: limit.maximum });
}
