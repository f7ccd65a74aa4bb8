//! Owns what every page has in common: its frame, its headers, and the form of what can't be shown.
//!
//! Promises that a page may load nothing and talk to nobody but this site, runs no script that stands in it, can be framed
//! nowhere, and is kept by no cache.

use bytes::Bytes;
use http::{HeaderName, HeaderValue, StatusCode, Uri, header};
use maud::{DOCTYPE, Markup, html};

use super::{
    ask::Ask,
    assets::{ICON, SCRIPT, STYLE},
    bytes,
    parts::mark,
    visible::visible,
};
use crate::admin::api::{Answer, Refusal, typed};

/// What a page may do.
const POLICY: &str = "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; \
                      form-action 'self'; frame-ancestors 'none'; base-uri 'none'";

/// The places that every page leads to.
const PLACES: &[(&str, &str)] = &[
    ("/", "Overview"),
    ("/events", "Events"),
    ("/letters", "Dead letters"),
    ("/upstreams", "Upstreams"),
    ("/sources", "Sources"),
    ("/quarantine", "Quarantine"),
    ("/refused", "Refused"),
    ("/keys", "Keys"),
    ("/subscribers", "Subscribers"),
    ("/jobs", "Jobs"),
    ("/audit", "Audit"),
    ("/configuration", "Configuration"),
];

/// What is drawn.
pub(super) enum Reply {
    /// A page.
    Page {
        /// What it is about, for the title.
        title: String,
        /// The place that it belongs to.
        place: &'static str,
        /// Between the frame.
        main: Markup,
    },
    /// Data for our script.
    Json(serde_json::Value),
    /// What was received, to be saved as a file.
    File {
        /// Its name: letters and digits.
        name: String,
        /// As it is.
        bytes: Bytes,
    },
    /// Go there.
    See(String),
    /// Anything else.
    Other(Box<Answer>),
}

impl Reply {
    /// A page.
    pub(super) fn page(title: impl Into<String>, place: &'static str, main: Markup) -> Self {
        Self::Page { title: title.into(), place, main }
    }

    /// As an answer.
    pub(super) fn answer(self, ask: &Ask) -> Answer {
        match self {
            Self::Page { title, place, main } => shown(StatusCode::OK, &framed(Some(ask), &title, place, &main)),
            Self::Json(value) => typed(StatusCode::OK, "application/json", bytes(value.to_string())),
            Self::File { name, bytes } => {
                let mut answer = typed(StatusCode::OK, "application/octet-stream", bytes);
                let name = HeaderValue::from_str(&format!("attachment; filename=\"{name}\""));
                let name = name.unwrap_or(HeaderValue::from_static("attachment"));
                answer.headers_mut().insert(header::CONTENT_DISPOSITION, name);
                guarded(answer)
            }
            Self::See(place) => see(&place),
            Self::Other(answer) => guarded(*answer),
        }
    }
}

/// Leads to another page.
pub(super) fn see(place: &str) -> Answer {
    let mut answer = typed(StatusCode::SEE_OTHER, "text/plain; charset=utf-8", Bytes::new());
    let place = HeaderValue::from_str(place).unwrap_or(HeaderValue::from_static("/"));
    answer.headers_mut().insert(header::LOCATION, place);
    guarded(answer)
}

/// A page that leads to itself, asked for by this site and not by the one that the visitor comes from.
pub(super) fn once_more(uri: &Uri) -> Answer {
    let place = uri.path_and_query().map_or("/", |place| place.as_str());
    let page = html! {
        (DOCTYPE)
        html lang="en" {
            head {
                meta charset="utf-8";
                meta http-equiv="refresh" content=(format!("0; url={place}"));
                title { "Stagepost" }
            }
            body { p { a href=(place) { "Go on" } } }
        }
    };
    shown(StatusCode::OK, &page)
}

/// Why somebody can't be shown anything.
pub(super) fn refused(refusal: &Refusal) -> Answer {
    let (status, title, details) = refusal.parts();
    shown(status, &framed(None, title, "", &wrong(title, details, "/")))
}

/// Why a visitor is not shown this.
pub(super) fn problem(ask: &Ask, refusal: &Refusal) -> Answer {
    let (status, title, details) = refusal.parts();
    shown(status, &framed(Some(ask), title, "", &wrong(title, details, &ask.back())))
}

fn wrong(title: &str, details: &[String], back: &str) -> Markup {
    html! {
        h1 { "That did not work" }
        div.note.bad role="alert" {
            p { (title) }
            @if !details.is_empty() { ul { @for detail in details { li { (detail) } } } }
        }
        p { a href=(back) { "Back" } }
    }
}

/// A whole page as an answer.
pub(super) fn shown(status: StatusCode, page: &Markup) -> Answer {
    guarded(typed(status, "text/html; charset=utf-8", bytes(visible(page.0.clone()))))
}

/// With the headers that keep a page what it is.
fn guarded(mut answer: Answer) -> Answer {
    let headers = answer.headers_mut();
    for (name, value) in [
        (header::CONTENT_SECURITY_POLICY, POLICY),
        (header::REFERRER_POLICY, "no-referrer"),
        (header::X_FRAME_OPTIONS, "DENY"),
        (HeaderName::from_static("cross-origin-opener-policy"), "same-origin"),
        (HeaderName::from_static("cross-origin-resource-policy"), "same-origin"),
    ] {
        headers.insert(name, HeaderValue::from_static(value));
    }
    answer
}

/// A page in its frame; without a visitor it leads nowhere.
pub(super) fn framed(ask: Option<&Ask>, title: &str, place: &str, main: &Markup) -> Markup {
    let session = ask.and_then(|ask| Some((ask, ask.held.as_ref()?)));
    // What is to be told waits for a page that shows it.
    let told = session.filter(|(ask, _)| !ask.is_refresh);
    let told = told.map(|(ask, held)| ask.guest.site.sessions.told(held)).unwrap_or_default();
    html! {
        (DOCTYPE)
        html lang="en" {
            head {
                meta charset="utf-8";
                meta name="viewport" content="width=device-width, initial-scale=1";
                meta name="color-scheme" content="light dark";
                title { (title) " · Stagepost" }
                link rel="icon" type="image/svg+xml" href=(ICON.address());
                link rel="stylesheet" href=(STYLE.address());
                script src=(SCRIPT.address()) defer {}
            }
            body {
                a.skip href="#main" { "Skip to the content" }
                header.top {
                    a.brand href="/" { "Stagepost" }
                    @if let Some((ask, held)) = session {
                        nav aria-label="Pages" {
                            ul {
                                @for (path, name) in PLACES {
                                    li { a href=(path) aria-current=[(*path == place).then_some("page")] { (name) } }
                                }
                            }
                        }
                        form.who method="post" action="/logout" {
                            span.name { (ask.caller.name) " (" (ask.caller.role.as_str()) ")" }
                            (mark(held))
                            button type="submit" { "Log out" }
                        }
                    }
                }
                main id="main" tabindex="-1" {
                    @if !told.is_empty() {
                        div.note.good role="status" { @for line in &told { p { (line) } } }
                    }
                    (main)
                }
                footer { "Stagepost " (env!("CARGO_PKG_VERSION")) ". All times are UTC." }
            }
        }
    }
}
