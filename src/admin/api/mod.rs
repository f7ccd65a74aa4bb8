//! Owns the table of routes of the admin interfaces: what may be asked, who may ask it, what it takes and gives, and who
//! answers. Dispatch, authorisation and the OpenAPI document all come from it; each group of routes stands with its
//! handlers.
//!
//! Promises that a request reaches a handler only if its caller has the role and the reach of the route, its query is the
//! declared one, and its body is at most [`BODY_BYTES_MAX`]. Handlers run on a blocking thread. Deliberately absent:
//! sockets and tokens, which are `server`'s.

mod alerts;
mod answer;
mod call;
mod commands;
mod events;
mod instance;
mod openapi;
mod param;
mod parts;
mod quarantine;
mod subscribers;
#[cfg(test)]
mod tests;
mod transfer;

use std::sync::Arc;

use http::{HeaderValue, Method, StatusCode, header};
use http_body_util::{BodyExt as _, Limited};
use hyper::body::Incoming;
use schemars::{JsonSchema, Schema, SchemaGenerator};
use tokio::task::spawn_blocking;

pub(super) use self::{
    answer::{Answer, LINES_MAX, Refusal, bytes, channel, json, lines, send, streamed, text, typed},
    call::{Call, variables},
    param::{
        DEAD, DELIVER, DELIVERIES, FILTERS, KEPT, NUMBERS, PAGE, PAGES, PROBATION, Param, QUEUE, REVEAL, TRAIL,
        UPSTREAM,
    },
};
use super::{
    access::{Caller, Role},
    ports::Ports,
    quiet::quietly,
    scoped::Scoped,
};

/// Room for 100,000 ids.
const BODY_BYTES_MAX: usize = 4 * 1024 * 1024;

/// All routes, in groups. Of two that take the same path the first counts.
const GROUPS: &[&[Route]] = &[
    instance::ROUTES,
    alerts::ROUTES,
    events::ROUTES,
    commands::ROUTES,
    parts::ROUTES,
    quarantine::ROUTES,
    subscribers::ROUTES,
    transfer::ROUTES,
];

/// All routes.
pub(super) fn routes() -> impl Iterator<Item = &'static Route> {
    GROUPS.iter().copied().flatten()
}

/// What answers a request.
pub(super) type Handler = fn(&Call) -> Result<Answer, Refusal>;

/// What describes a type.
pub(super) type Describe = fn(&mut SchemaGenerator) -> Schema;

/// The description of a type.
pub(super) fn of<T: JsonSchema>(generator: &mut SchemaGenerator) -> Schema {
    generator.subschema_for::<T>()
}

/// How a route is asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Way {
    Get,
    Post,
}

impl Way {
    fn takes(self, method: &Method) -> bool {
        match self {
            Self::Get => method == Method::GET || method == Method::HEAD,
            Self::Post => method == Method::POST,
        }
    }

    const fn allow(self) -> &'static str {
        match self {
            Self::Get => "GET, HEAD",
            Self::Post => "POST",
        }
    }
}

/// How much of the instance a route is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Reach {
    /// Sources and upstreams: a caller with limits sees and touches its own.
    Parts,
    /// The instance as a whole: for callers without limits.
    Whole,
}

/// What a route gives.
#[derive(Clone, Copy)]
pub(super) enum Content {
    /// One value.
    Json(Describe),
    /// Values, one a line.
    Lines(Describe),
    /// What was received.
    Bytes,
    /// For people and scrapers.
    Text,
    /// The OpenAPI document.
    Document,
}

/// What may be asked.
#[derive(Clone, Copy)]
pub(super) struct Route {
    pub(super) way: Way,
    /// With variables in braces.
    pub(super) path: &'static str,
    /// The least that its caller must have.
    pub(super) role: Role,
    pub(super) reach: Reach,
    /// Its name in the OpenAPI document.
    pub(super) id: &'static str,
    pub(super) about: &'static str,
    pub(super) query: &'static [&'static [Param]],
    pub(super) body: Option<Describe>,
    /// Bytes of it, at the most.
    pub(super) body_max: usize,
    pub(super) content: Content,
    /// Answered on the time that is left over.
    at_leisure: bool,
    handler: Handler,
}

impl Route {
    /// A route that shows something, to whoever may see it.
    pub(super) const fn get(path: &'static str, id: &'static str, about: &'static str, handler: Handler) -> Self {
        let (role, reach, content) = (Role::View, Reach::Parts, Content::Text);
        let (body, body_max, at_leisure) = (None, BODY_BYTES_MAX, true);
        Self { way: Way::Get, path, role, reach, id, about, query: &[], body, body_max, content, at_leisure, handler }
    }

    /// A route that changes something, for operators. An overloaded relay needs it most: it waits for nobody.
    pub(super) const fn post(path: &'static str, id: &'static str, about: &'static str, handler: Handler) -> Self {
        Self { way: Way::Post, role: Role::Operate, at_leisure: false, ..Self::get(path, id, about, handler) }
    }

    /// A probe: for everybody, without a wait.
    pub(super) const fn probe(self) -> Self {
        Self { role: Role::Nobody, at_leisure: false, ..self }
    }

    /// For callers of this role.
    pub(super) const fn role(self, role: Role) -> Self {
        Self { role, ..self }
    }

    /// For callers without limits.
    pub(super) const fn whole(self) -> Self {
        Self { reach: Reach::Whole, ..self }
    }

    /// With these parameters.
    pub(super) const fn query(self, query: &'static [&'static [Param]]) -> Self {
        Self { query, ..self }
    }

    /// With a body of JSON.
    pub(super) const fn takes(self, body: Describe) -> Self {
        Self { body: Some(body), ..self }
    }

    /// With a body of at most so many bytes.
    pub(super) const fn at_most(self, body_max: usize) -> Self {
        Self { body_max, ..self }
    }

    /// Gives this.
    pub(super) const fn gives(self, content: Content) -> Self {
        Self { content, ..self }
    }

    /// Its parameters.
    pub(super) fn params(&self) -> impl Iterator<Item = &'static Param> {
        self.query.iter().copied().flatten()
    }
}

/// What there is for a method and a path.
pub(super) enum Lookup {
    Route(&'static Route, Vec<String>),
    /// The path takes these methods, the least of them for this role.
    Methods(String, Role),
    Nothing,
}

/// Looks a route up.
pub(super) fn find(method: &Method, path: &str) -> Lookup {
    let (mut allowed, mut role): (Vec<&'static str>, Role) = (Vec::new(), Role::Operate);
    // A path that is written as it is stands for itself, whatever method it is asked with.
    let is_written = routes().any(|route| route.path == path);
    for route in routes().filter(|route| !is_written || route.path == path) {
        let Some(variables) = variables(route.path, path) else { continue };
        if route.way.takes(method) {
            return Lookup::Route(route, variables);
        }
        role = role.min(route.role);
        if !allowed.contains(&route.way.allow()) {
            allowed.push(route.way.allow());
        }
    }
    if allowed.is_empty() { Lookup::Nothing } else { Lookup::Methods(allowed.join(", "), role) }
}

/// Whether a caller may use a route.
pub(super) enum Verdict {
    Allowed,
    /// A credential is needed.
    Unknown,
    /// The role is too small.
    Role,
    /// The scope is too small.
    Scope,
}

/// Decides about a caller. What does not exist is seen by those alone who may see anything.
pub(super) fn allowed(caller: &Caller, lookup: &Lookup) -> Verdict {
    let (role, reach) = match lookup {
        Lookup::Route(route, _) => (route.role, route.reach),
        Lookup::Methods(_, role) => ((*role).min(Role::View), Reach::Parts),
        Lookup::Nothing => (Role::View, Reach::Parts),
    };
    match caller.role {
        Role::Nobody if role > Role::Nobody => Verdict::Unknown,
        given if given < role => Verdict::Role,
        _ if reach == Reach::Whole && !caller.scope.is_whole() => Verdict::Scope,
        _ => Verdict::Allowed,
    }
}

/// Answers a request of a caller who may ask it.
pub(super) async fn answer(
    ports: Arc<dyn Ports>,
    caller: Caller,
    lookup: Lookup,
    request: http::Request<Incoming>,
) -> Answer {
    let (route, variables) = match lookup {
        Lookup::Route(route, variables) => (route, variables),
        Lookup::Nothing => return Refusal::new(StatusCode::NOT_FOUND, "there is nothing here").answer(),
        Lookup::Methods(allow, _) => {
            let refusal = Refusal::new(StatusCode::METHOD_NOT_ALLOWED, format!("use {allow}"));
            let allow = HeaderValue::from_str(&allow).unwrap_or(HeaderValue::from_static("GET"));
            return refusal.with_header(header::ALLOW, allow).answer();
        }
    };
    let ports = Scoped::for_caller(ports, &caller);
    let query = request.uri().query().unwrap_or_default();
    let mut call = match Call::new(route, ports, caller, variables, query) {
        Ok(call) => call,
        Err(refusal) => return refusal.answer(),
    };
    let (head, body) = request.into_parts();
    call.headers = head.headers;
    if route.body.is_some() {
        match Limited::new(body, route.body_max).collect().await {
            Ok(body) => call.body = body.to_bytes(),
            Err(_) => {
                let title = "the request is too large: use filters in place of so many ids";
                return Refusal::new(StatusCode::PAYLOAD_TOO_LARGE, title).answer();
            }
        }
    }
    let failed = || Refusal::new(StatusCode::INTERNAL_SERVER_ERROR, "the request could not be finished");
    let ports = call.ports.clone();
    let work = move || (route.handler)(&call);
    let answered = if route.at_leisure { quietly(&ports, work).await } else { spawn_blocking(work).await.ok() };
    answered.unwrap_or_else(|| Err(failed())).unwrap_or_else(Refusal::answer)
}
