//! Owns the web page for operators: its table of pages, who may see them, and how a request for one is answered.
//!
//! Promises that a page is reached only with a session whose token has the role and the reach that the table asks for, and
//! that a form is taken only with the session's own mark in it; that everything works without scripts; that whatever came
//! from outside is text when it is shown. Everything is drawn from the ports, as the API answers from them. Deliberately
//! absent: any file, font or script of another host; the operators' socket, which browsers don't speak to.

mod act;
mod ask;
mod assets;
mod audit;
mod body;
mod chart;
mod event;
mod events;
mod frame;
mod instance;
mod jobs;
mod letters;
mod login;
mod overview;
mod parts;
mod quarantine;
mod samples;
mod session;
mod subscribers;
mod targets;
#[cfg(test)]
mod tests;
mod upstreams;
mod visible;

use std::{sync::Arc, time::Duration};

use bytes::Bytes;
use http::{HeaderMap, HeaderValue, Method, Request, StatusCode, header};
use http_body_util::{BodyExt as _, Limited};
use hyper::body::Incoming;
use tokio::task::spawn_blocking;

use self::{
    ask::{Ask, Pairs},
    frame::Reply,
    samples::Samples,
    session::{Held, Sessions},
};
use super::{
    access::{Caller, Role},
    api::{Answer, Reach, Refusal, variables},
    ports::Ports,
    quiet::quietly,
    scoped::Scoped,
    server::Guest,
};
use crate::telemetry::AdminRefusal;

/// Between two samples of the figures that are drawn.
pub(super) const SAMPLE_EVERY: Duration = Duration::from_secs(5);

/// Room for all ids of a page with many of them.
const FORM_BYTES_MAX: usize = 256 * 1024;

/// All pages, in groups.
const GROUPS: &[&[Page]] = &[
    assets::PAGES,
    login::PAGES,
    overview::PAGES,
    events::PAGES,
    event::PAGES,
    letters::PAGES,
    act::PAGES,
    upstreams::PAGES,
    targets::PAGES,
    instance::PAGES,
    audit::PAGES,
    quarantine::PAGES,
    subscribers::PAGES,
    jobs::PAGES,
];

/// What the page remembers between requests.
pub(super) struct Site {
    sessions: Sessions,
    samples: Samples,
    /// The address speaks TLS.
    is_secure: bool,
}

impl Site {
    /// Nobody is logged in.
    pub(super) fn new(is_secure: bool) -> Self {
        Self { sessions: Sessions::default(), samples: Samples::default(), is_secure }
    }

    /// Takes a sample of the figures. Blocks.
    pub(super) fn sample(&self, ports: &dyn Ports) {
        self.samples.take(ports);
        let open = self.sessions.count(ports.tokens().session_timeout(), ports.steady());
        ports.metered().page_sessions.set(i64::try_from(open).unwrap_or(i64::MAX));
    }
}

/// How a page is asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Way {
    Get,
    Post,
}

/// What draws a page, or does what its form asks for.
type Draw = fn(&Ask) -> Result<Reply, Refusal>;

/// A row of the table.
#[derive(Clone, Copy)]
pub(super) struct Page {
    way: Way,
    /// With variables in braces.
    path: &'static str,
    /// The least that its visitor must have.
    role: Role,
    reach: Reach,
    draw: Draw,
}

impl Page {
    /// Shows something, to everybody with a session.
    const fn get(path: &'static str, draw: Draw) -> Self {
        Self { way: Way::Get, path, role: Role::View, reach: Reach::Parts, draw }
    }

    /// Changes something, or is about to: for operators.
    const fn post(path: &'static str, draw: Draw) -> Self {
        Self { way: Way::Post, role: Role::Operate, ..Self::get(path, draw) }
    }

    /// For visitors of this role.
    const fn role(self, role: Role) -> Self {
        Self { role, ..self }
    }

    /// For visitors without limits.
    const fn whole(self) -> Self {
        Self { reach: Reach::Whole, ..self }
    }
}

/// A page with what its path says.
pub(super) struct Lookup {
    page: &'static Page,
    variables: Vec<String>,
}

/// All pages.
fn pages() -> impl Iterator<Item = &'static Page> {
    GROUPS.iter().copied().flatten()
}

/// Looks a page up.
pub(super) fn find(method: &Method, path: &str) -> Option<Lookup> {
    let way = match *method {
        Method::GET | Method::HEAD => Way::Get,
        Method::POST => Way::Post,
        _ => return None,
    };
    let taken = |page: &'static Page| Some(Lookup { page, variables: variables(page.path, path)? });
    pages().filter(|page| page.way == way).find_map(taken)
}

/// The answer to a request for a page that there is not.
pub(super) fn missing() -> Answer {
    frame::refused(&Refusal::new(StatusCode::NOT_FOUND, "there is no such page"))
}

/// Answers a request for a page.
pub(super) async fn answer(found: Lookup, ports: Arc<dyn Ports>, guest: Guest, request: Request<Incoming>) -> Answer {
    let (head, body) = request.into_parts();
    let form = match found.page.way {
        Way::Get => Pairs::default(),
        Way::Post => match Limited::new(body, FORM_BYTES_MAX).collect().await {
            Ok(body) => Pairs::parse(&body.to_bytes()),
            Err(_) => return frame::refused(&Refusal::new(StatusCode::PAYLOAD_TOO_LARGE, "the form is too large")),
        },
    };
    let asked = Asked { query: Pairs::parse(head.uri.query().unwrap_or_default().as_bytes()), uri: head.uri, form };
    let headers = head.headers;
    let way = found.page.way;
    let asked_of = ports.clone();
    let draw = move || respond(&found, ports, &guest, &headers, asked);
    let drawn = match way {
        Way::Get => quietly(&asked_of, draw).await,
        Way::Post => spawn_blocking(draw).await.ok(),
    };
    drawn.unwrap_or_else(|| {
        frame::refused(&Refusal::new(StatusCode::INTERNAL_SERVER_ERROR, "the page could not be drawn"))
    })
}

/// What a request says besides its headers.
struct Asked {
    uri: http::Uri,
    query: Pairs,
    form: Pairs,
}

/// Decides who asks and whether that is allowed, then lets the page be drawn.
fn respond(found: &Lookup, ports: Arc<dyn Ports>, guest: &Guest, headers: &HeaderMap, asked: Asked) -> Answer {
    let page = found.page;
    // A form of another site is nobody's. Browsers say where it comes from; what says nothing is no browser.
    if page.way == Way::Post && is_foreign(headers) {
        return frame::refused(&Refusal::forbidden("the form comes from another site"));
    }
    let session = session(guest, headers, &ports, page);
    let caller = match &session {
        Some((_, caller)) => caller.clone(),
        None => Caller::nobody(guest.origin()),
    };
    if caller.role < page.role {
        let metrics = ports.metered();
        return match (&session, page.way) {
            (Some(_), _) => {
                metrics.admin_refused(AdminRefusal::Role).inc();
                frame::refused(&Refusal::forbidden("this takes a token with role = \"operate\""))
            }
            // A link from elsewhere brings no cookie along, because it is SameSite=Strict; the same page asked for by
            // ourselves does.
            (None, Way::Get) if site_of(headers) == Some("cross-site") => frame::once_more(&asked.uri),
            (None, Way::Get) => login::redirect(&asked.uri),
            (None, Way::Post) => {
                metrics.admin_refused(AdminRefusal::NoToken).inc();
                frame::refused(&Refusal::new(StatusCode::UNAUTHORIZED, "the session has ended: log in again"))
            }
        };
    }
    if page.reach == Reach::Whole && !caller.scope.is_whole() {
        ports.metered().admin_refused(AdminRefusal::Scope).inc();
        let title = "this is about the whole instance: it takes a token without sources and upstreams";
        return frame::refused(&Refusal::forbidden(title));
    }
    let held = session.map(|(held, _)| held);
    if page.way == Way::Post
        && let Some(held) = &held
        && !held.marks(asked.form.get("mark").unwrap_or_default())
    {
        return frame::refused(&Refusal::forbidden("the form belongs to another session: go back and load it again"));
    }
    let ask = Ask {
        instance: ports.clone(),
        ports: Scoped::for_caller(ports, &caller),
        guest: guest.clone(),
        caller,
        held,
        is_refresh: is_refresh(headers),
        variables: found.variables.clone(),
        query: asked.query,
        form: asked.form,
    };
    match (page.draw)(&ask) {
        Ok(reply) => reply.answer(&ask),
        Err(refusal) => frame::problem(&ask, &refusal),
    }
}

/// The session of a request, and the caller whose token it was begun with, if that is still valid.
fn session(guest: &Guest, headers: &HeaderMap, ports: &Arc<dyn Ports>, page: &Page) -> Option<(Held, Caller)> {
    if page.role == Role::Nobody && page.way == Way::Get && page.path != login::PATH {
        return None;
    }
    let (tokens, now) = (ports.tokens(), ports.steady());
    let name = session::cookie_name(guest.site.is_secure);
    let cookies = headers.get_all(header::COOKIE).iter().filter_map(|cookies| cookies.to_str().ok());
    let pairs = cookies.flat_map(|cookies| cookies.split(';')).filter_map(|pair| pair.trim().split_once('='));
    let mut shown = pairs.filter(|(given, _)| *given == name).map(|(_, value)| value);
    let keeps = !is_refresh(headers);
    let held = shown.find_map(|value| guest.site.sessions.find(value, tokens.session_timeout(), now, keeps))?;
    let Some(token) = tokens.by_digest(&held.token) else {
        guest.site.sessions.end(&held);
        return None;
    };
    guest.is_known();
    Some((held, token.caller(guest.origin())))
}

/// Whether a script asks by itself: that keeps no session alive.
fn is_refresh(headers: &HeaderMap) -> bool {
    headers.contains_key("stagepost-refresh")
}

/// What the browser says about where a request comes from.
fn site_of(headers: &HeaderMap) -> Option<&str> {
    headers.get("sec-fetch-site")?.to_str().ok()
}

/// Whether a form comes from another site, by what browsers say of it. Older ones name only its origin: `null` if they
/// were asked to keep quiet, as our pages do.
fn is_foreign(headers: &HeaderMap) -> bool {
    if let Some(site) = site_of(headers) {
        return !matches!(site, "same-origin" | "none");
    }
    let text = |name| headers.get(name).and_then(|value: &HeaderValue| value.to_str().ok());
    let Some(origin) = text(header::ORIGIN).filter(|origin| *origin != "null") else { return false };
    let authority = origin.split_once("://").map(|(_, authority)| authority);
    !authority.zip(text(header::HOST)).is_some_and(|(origin, host)| origin.eq_ignore_ascii_case(host))
}

/// Bytes of a text.
fn bytes(text: String) -> Bytes {
    Bytes::from(text)
}
