//! Owns the last step: sections read one by one become one routing table, checked as a whole.

use std::{
    collections::{BTreeMap, HashMap, HashSet},
    sync::Arc,
};

use super::{
    alerts::Alerts,
    chain,
    context::Context,
    failure,
    listen::is_public,
    order,
    problem::Place,
    reader::suggestion,
    server::QUEUE_BESIDE_BODY,
    settings::{ListenSettings, StoreSettings},
    sink,
    source::{ReadSource, shown_path},
    topic::Topics,
    units::show_size,
    wait,
};
use crate::{
    event::{topic_of_source, topic_source},
    expr::CompileError,
    routing::{AnswerPolicy, Limits, Route, SignPolicy, Source, Table, TableParts, Upstream},
    verify::Resigning,
};

/// What was read.
pub(super) struct Parts {
    pub(super) sources: Vec<ReadSource>,
    pub(super) upstreams: Vec<(Upstream, Place)>,
    pub(super) routes: Vec<(Route, Place)>,
    pub(super) topics: Topics,
    pub(super) alerts: Alerts,
    pub(super) limits: Limits,
    /// Made of `upstreams` by [`Parts::part_shadows`].
    pub(super) shadows: HashMap<Box<str>, Vec<Arc<Upstream>>>,
}

impl Parts {
    /// Takes shadows out of the upstreams: all that follows is about those that get deliveries.
    pub(super) fn part_shadows(&mut self, cx: &Context<'_>) {
        let short = self.sources.iter_mut().filter_map(|read| read.route.as_mut());
        let routes = short.chain(self.routes.iter_mut().map(|(route, _)| route));
        self.shadows = chain::part_shadows(cx, &mut self.upstreams, routes);
    }

    /// Records what is wrong or doubtful between sections. To be called when the sections themselves are right, since a
    /// section that could not be read would be missing everywhere.
    pub(super) fn check(&self, cx: &Context<'_>, listeners: &[ListenSettings], store: &StoreSettings) {
        self.check_paths(cx);
        self.check_sizes(cx, store);
        let upstreams = self.upstreams.iter().map(|(upstream, place)| (&*upstream.name, &upstream.target, place));
        for (place, key, message) in sink::check_paths(upstreams) {
            cx.problem(&place, &key, message);
        }
        self.check_use(cx);
        let topics: Vec<String> = self.topics.names().map(topic_source).collect();
        let sources = self.sources.iter().map(|read| &*read.source.name);
        let sources: Vec<&str> = sources.chain(topics.iter().map(String::as_str)).collect();
        order::check(cx, &sources, self.all_routes());
        for ReadSource { source, place, .. } in &self.sources {
            wait::check(cx, source, place, self.all_routes().map(|(route, _, _)| route), &self.upstreams);
        }
        self.check_guards(cx, listeners);
        self.check_certificates(cx, listeners);
        self.check_signing(cx);
        self.alerts.check_subscribers(cx, self.topics.subscribers());
        self.topics.check(cx, &self.routes, &self.upstreams);
    }

    /// The table; its hash and generation come later.
    ///
    /// # Errors
    /// The conditions of a route and of a subscriber are too much for one expression.
    pub(super) fn into_table(self) -> Result<Table, CompileError> {
        let mut routes: Vec<Route> = Vec::with_capacity(self.sources.len() + self.routes.len());
        let mut sources = Vec::with_capacity(self.sources.len());
        let mut read_sources = Vec::with_capacity(self.sources.len());
        for read in self.sources {
            routes.extend(read.route);
            read_sources.push(read.source);
        }
        routes.extend(self.routes.into_iter().map(|(route, _)| route));
        for mut source in read_sources {
            let known = source.wait.as_ref().map(|policy| wait::reply_from(policy, &source, routes.iter()));
            if let (Some(policy), Some(Ok(name))) = (&mut source.wait, known) {
                policy.reply_from = name;
            }
            sources.push(Arc::new(source));
        }
        let upstreams: HashMap<_, _> =
            self.upstreams.into_iter().map(|(upstream, _)| (Box::from(&*upstream.name), Arc::new(upstream))).collect();
        let mut table = Table::new(TableParts {
            generation: 0,
            hash: String::new(),
            sources,
            routes,
            upstreams,
            limits: self.limits,
        });
        let (topics, subscribers) = self.topics.into_parts();
        self.alerts.lead(&mut table);
        table.declare(topics);
        table.shadows = self.shadows;
        table.subscribe(&subscribers)?;
        Ok(table)
    }

    /// Where each route stands, and its key.
    pub(super) fn route_places(&self) -> HashMap<Arc<str>, (Place, String)> {
        self.all_routes().map(|(route, place, key)| (route.name.clone(), (place.clone(), key))).collect()
    }

    fn all_routes(&self) -> impl Iterator<Item = (&Route, &Place, String)> {
        let short = self.sources.iter().filter_map(|read| {
            let key = format!("source.{}.to", read.source.name);
            read.route.as_ref().map(|route| (route, &read.to_place, key))
        });
        let long = self.routes.iter().map(|(route, place)| (route, place, format!("route.{}", route.name)));
        short.chain(long)
    }

    /// Records names that lead nowhere. `sources` and `upstreams` are all that are declared, also those that could not
    /// be read.
    pub(super) fn check_names(
        &self,
        cx: &Context<'_>,
        sources: &HashSet<&str>,
        upstreams: &HashSet<&str>,
        whole: &Place,
    ) {
        self.topics.check_names(cx, &self.routes, &self.upstreams, whole);
        self.alerts.check_names(cx, sources, upstreams);
        failure::check_others(cx, &self.upstreams, upstreams);
        let mut named: BTreeMap<&str, &Place> = BTreeMap::new();
        for (route, place, key) in self.all_routes() {
            if let Some(first) = named.insert(&route.name, place) {
                let message = format!(
                    "the route at {first} has the same name; every route has its own (a source's to \
                                       makes a route named after the source)"
                );
                cx.problem(place, &key, message);
            }
            for name in route.to.iter().filter(|name| !upstreams.contains(&***name)) {
                let hint = suggestion(name, upstreams.iter().copied());
                cx.problem(place, &key, format!("names the unknown upstream \"{name}\"; {hint}"));
            }
            for name in route.sources.iter().flatten().filter(|name| !sources.contains(&***name)) {
                if let Some(topic) = topic_of_source(name) {
                    if let Some(problem) = self.topics.unknown(topic) {
                        cx.problem(place, &key, problem);
                    }
                    continue;
                }
                let hint = suggestion(name, sources.iter().copied());
                cx.problem(place, &key, format!("names the unknown source \"{name}\"; {hint}"));
            }
        }
    }

    /// Two sources that would take the same requests stand side by side in the order of precedence.
    fn check_paths(&self, cx: &Context<'_>) {
        let mut sorted: Vec<&ReadSource> = self.sources.iter().collect();
        sorted.sort_by(|one, other| {
            let hosts = one.source.host.cmp(&other.source.host);
            hosts.then_with(|| one.source.pattern.precedence(&other.source.pattern))
        });
        for pair in sorted.windows(2) {
            let [one, other] = pair else { continue };
            if one.source.host == other.source.host && one.source.pattern.conflicts(&other.source.pattern) {
                let message = format!(
                    "\"{}\" takes the same requests as \"{}\" of source.{} at {}; give them different paths or hosts",
                    shown_path(&other.source),
                    shown_path(&one.source),
                    one.source.name,
                    one.place
                );
                cx.problem(&other.place, &format!("source.{}.path", other.source.name), message);
            }
        }
    }

    /// A body that the log's queue can't hold would be answered 503 for ever.
    fn check_sizes(&self, cx: &Context<'_>, store: &StoreSettings) {
        let most = store.queue_bytes.saturating_sub(QUEUE_BESIDE_BODY);
        for ReadSource { source, place, .. } in self.sources.iter().filter(|read| read.source.max_body > most) {
            let message = format!(
                "{} (its own or that of [server]) does not fit into store.queue_size, {} with 512KiB to spare, so that \
                 such a body could never be stored; raise store.queue_size",
                show_size(source.max_body),
                show_size(store.queue_bytes),
            );
            cx.problem(place, &format!("source.{}.max_body", source.name), message);
        }
    }

    fn check_use(&self, cx: &Context<'_>) {
        let routes: Vec<&Route> = self.all_routes().map(|(route, _, _)| route).collect();
        for ReadSource { source, place, .. } in &self.sources {
            if !routes.iter().any(|route| route.takes(&source.name)) {
                let message = "no route takes its events: they are stored and go nowhere; add to = [\"…\"]";
                cx.warn(place, &format!("source.{}", source.name), message);
            }
        }
        failure::warn_of_both(cx, &self.upstreams, routes.iter().copied());
        let others: HashSet<&str> = self
            .upstreams
            .iter()
            .flat_map(|(upstream, _)| upstream.answers.iter().flat_map(AnswerPolicy::others))
            .collect();
        for (upstream, place) in &self.upstreams {
            if !routes.iter().any(|route| route.leads_to(&upstream.name)) && !others.contains(&*upstream.name) {
                cx.warn(place, &format!("upstream.{}", upstream.name), "no route leads to it");
            }
        }
        for (route, place) in &self.routes {
            if route.sources.is_none() && self.sources.is_empty() {
                cx.warn(place, &format!("route.{}", route.name), "there is no source: the route is dead");
            }
        }
    }

    /// A certificate can only be asked for where clients are asked to show one.
    fn check_certificates(&self, cx: &Context<'_>, listeners: &[ListenSettings]) {
        if listeners.iter().any(|listen| listen.client_ca) {
            return;
        }
        for ReadSource { source, place, .. } in &self.sources {
            if source.guard.as_ref().is_some_and(|guard| guard.certificate.is_some()) {
                let message = "asks for a certificate, but no listener has tls.client_ca: nobody could send; add client_ca to a listener";
                cx.problem(place, &format!("source.{}.client_certificate", source.name), message);
            }
        }
    }

    /// What an upstream wants signed in its sources' own schemes must be signable here.
    fn check_signing(&self, cx: &Context<'_>) {
        let routes: Vec<&Route> = self.all_routes().map(|(route, _, _)| route).collect();
        let asked = self.upstreams.iter().filter(|(upstream, _)| matches!(upstream.sign, Some(SignPolicy::Source)));
        for (upstream, place) in asked {
            let key = format!("upstream.{}.sign", upstream.name);
            let leads = |source: &Source| {
                routes.iter().any(|route| route.takes(&source.name) && route.leads_to(&upstream.name))
            };
            for ReadSource { source, .. } in self.sources.iter().filter(|read| leads(&read.source)) {
                let (name, scheme) = (&source.name, source.verifier.scheme());
                match source.verifier.resigning() {
                    Resigning::Impossible => cx.problem(place, &key, format!(
                        "is \"source\", but only the provider can sign for source.{name} ({scheme}); remove it, or send \
                         that source's events to an upstream of their own"
                    )),
                    Resigning::Nothing => {
                        let message = format!(
                            "has no effect on the events of source.{name}, whose scheme {scheme} signs nothing"
                        );
                        cx.warn(place, &key, message);
                    }
                    Resigning::Dated | Resigning::Undated => {}
                }
            }
        }
    }

    fn check_guards(&self, cx: &Context<'_>, listeners: &[ListenSettings]) {
        // A listener that only this machine reaches is often behind a proxy that everybody reaches.
        let public = listeners.iter().find(|listen| is_public(&listen.listener));
        let Some(open) = public.or(listeners.first()) else { return };
        for ReadSource { source, place, .. } in &self.sources {
            if source.verifier.is_open() {
                let message = format!("no check at all: whoever reaches {} can post here", open.address);
                cx.warn(place, &format!("source.{}.verify", source.name), message);
            }
        }
    }
}

/// Records why there is no table, if there is none.
pub(super) fn accept(cx: &Context<'_>, table: Result<Table, CompileError>, whole: &Place) -> Option<Table> {
    let refused = |error| {
        let message =
            format!("a route's when and that of a subscriber are no expression together; shorten one: {error}");
        cx.problem(whole, "subscriber", message);
    };
    table.map_err(refused).ok()
}

/// Warns about routes that surely conflict. `places` are those of the routes, with their keys.
pub(super) fn warn_of_conflicts(cx: &Context<'_>, table: &Table, places: &HashMap<Arc<str>, (Place, String)>) {
    for conflict in table.statically_conflicting() {
        let (Some((first, _)), Some((place, key))) = (places.get(&conflict.first), places.get(&conflict.second)) else {
            continue;
        };
        let message = format!(
            "routes {} and {} change the same events differently for upstream {}: such deliveries die; join the routes or \
             add conditions (the first stands at {first})",
            conflict.first, conflict.second, conflict.upstream
        );
        cx.warn(place, key, message);
    }
}
