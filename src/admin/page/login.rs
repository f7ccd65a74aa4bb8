//! Owns logging in and out of the web page, with a token of the configuration.
//!
//! Promises that wrong tokens are counted for their client together with those of the API, and that the way on leads to a
//! page of this site only.

use http::{HeaderValue, Uri, header};
use maud::{Markup, html};
use sha2::{Digest as _, Sha256};

use super::{
    Page, Pairs,
    ask::{Ask, local},
    frame::{Reply, framed, see, shown},
    session::cookie_name,
};
use crate::admin::{
    access::{Caller, Role},
    api::{Answer, Refusal},
};

/// Where one logs in.
pub(super) const PATH: &str = "/login";

pub(super) const PAGES: &[Page] = &[
    Page::get(PATH, asked).role(Role::Nobody),
    Page::post(PATH, shown_token).role(Role::Nobody),
    Page::post("/logout", logout).role(Role::View),
];

/// Leads somebody without a session to where one begins.
pub(super) fn redirect(uri: &Uri) -> Answer {
    let place = uri.path_and_query().map_or("/", |place| place.as_str());
    let next = Some(place).filter(|place| *place != "/");
    see(&Pairs::default().with("next", next).address(PATH))
}

fn asked(ask: &Ask) -> Result<Reply, Refusal> {
    let next = local(ask.query.get("next")).unwrap_or("/");
    if ask.held.is_some() {
        return Ok(Reply::See(next.to_owned()));
    }
    Ok(Reply::page("Log in", "", form(ask, next, None)))
}

fn shown_token(ask: &Ask) -> Result<Reply, Refusal> {
    let next = local(ask.form.get("next")).unwrap_or("/");
    let token = ask.form.get("token").unwrap_or_default().as_bytes();
    let caller = match ask.guest.admit(Some(token), &ask.instance) {
        Ok(caller) => caller,
        Err(refusal) => {
            let (status, title, _) = refusal.parts();
            let page = shown(status, &framed(None, "Log in", "", &form(ask, next, Some(title))));
            return Ok(Reply::Other(Box::new(page)));
        }
    };
    let (timeout, now) = (ask.instance.tokens().session_timeout(), ask.instance.steady());
    let digest = Sha256::digest(token).into();
    let secret = ask.instance.secret_bytes();
    let secret =
        secret.ok_or_else(|| Refusal::unavailable("no session can begin: the system has no random numbers"))?;
    let cookie = ask.guest.site.sessions.begin(&secret, digest, timeout, now);
    record(ask, &caller);
    with_cookie(ask, see(next), &cookie, "")
}

fn logout(ask: &Ask) -> Result<Reply, Refusal> {
    if let Some(held) = &ask.held {
        ask.guest.site.sessions.end(held);
    }
    with_cookie(ask, see(PATH), "", "; Max-Age=0")
}

/// A log that takes no more is no reason against a login: it may be what helps.
fn record(ask: &Ask, caller: &Caller) {
    if let Err(error) = ask.instance.command(caller.noted("login", Vec::new(), 1)) {
        tracing::warn!(error, "a login is not recorded in the audit trail");
    }
}

fn with_cookie(ask: &Ask, mut answer: Answer, value: &str, more: &str) -> Result<Reply, Refusal> {
    let cookie = cookie(ask.guest.site.is_secure, value, more);
    let cookie = HeaderValue::from_str(&cookie).map_err(|_| Refusal::unavailable("no session can begin"))?;
    answer.headers_mut().insert(header::SET_COOKIE, cookie);
    Ok(Reply::Other(Box::new(answer)))
}

/// `Set-Cookie`. With TLS as `__Host-` demands it (RFC 6265bis, section 4.1.3.2): `Secure`, for `/`, without a domain.
fn cookie(is_secure: bool, value: &str, more: &str) -> String {
    let secure = if is_secure { "; Secure" } else { "" };
    format!("{}={value}; Path=/; HttpOnly; SameSite=Strict{secure}{more}", cookie_name(is_secure))
}

fn form(ask: &Ask, next: &str, wrong: Option<&str>) -> Markup {
    html! {
        div.login {
            h1 { "Log in" }
            @if ask.instance.tokens().is_empty() {
                p.note.bad role="alert" {
                    "No token is configured. Add one to the configuration, for example "
                    code { "[admin] token.ops = { role = \"operate\", secret = \"file:admin.token\" }" }
                    ", then reload it."
                }
            }
            @if let Some(wrong) = wrong { p.note.bad role="alert" { "That did not work: " (wrong) "." } }
            form method="post" action=(PATH) {
                input type="hidden" name="next" value=(next);
                label for="token" { "Token" }
                input id="token" name="token" type="password" autocomplete="current-password" required autofocus;
                button.main type="submit" { "Log in" }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::cookie;

    #[test]
    fn a_cookie_over_tls_is_bound_to_its_host_and_to_tls() {
        assert_eq!(cookie(false, "x", ""), "stagepost=x; Path=/; HttpOnly; SameSite=Strict");
        assert_eq!(
            cookie(true, "", "; Max-Age=0"),
            "__Host-stagepost=; Path=/; HttpOnly; SameSite=Strict; Secure; Max-Age=0"
        );
    }
}
