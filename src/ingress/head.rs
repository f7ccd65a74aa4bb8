//! Owns what is decided by a request's head alone, before its body is read.

use http::{HeaderMap, HeaderValue, Method, Version, header, request::Parts};
use ipnet::IpNet;

use super::{
    client::Caller,
    reply::{self, ALL_METHODS, Refusal},
};
use crate::routing::{Guard, Source};

/// What is said where there is no source. CONNECT names a host and no path: there is nothing that it could find.
pub(super) fn not_found(head: &Parts) -> Refusal {
    if head.method == Method::CONNECT && head.uri.path().is_empty() {
        return Refusal::Method { allow: ALL_METHODS.into() };
    }
    Refusal::NotFound
}

/// Gives a request that names its host in its target a `Host` that says the same (RFC 9113, section 8.3.1, for HTTP/2,
/// which has no other; RFC 9112, section 3.2.2, for an absolute target), so that upstreams see what routing saw. A
/// request that is wrong about its `Host` stays so.
pub(super) fn name_host(head: &mut Parts) {
    let Some(authority) = head.uri.authority().map(|authority| without_user(authority.as_str())) else { return };
    let named = head.headers.get_all(header::HOST).iter().count();
    if named > 1 || (named == 0 && head.version == Version::HTTP_11) {
        return;
    }
    if let Ok(host) = HeaderValue::from_str(authority) {
        head.headers.insert(header::HOST, host);
    }
}

fn without_user(authority: &str) -> &str {
    authority.rsplit('@').next().unwrap_or(authority)
}

/// The host that was asked for, without port. RFC 9112, section 3.2: exactly one `Host` in HTTP/1.1, and one that
/// names a host; HTTP/1.0 may leave it out.
pub(super) fn host(head: &Parts) -> Result<&str, Refusal> {
    let mut hosts = head.headers.get_all(header::HOST).iter();
    let (first, second) = (hosts.next(), hosts.next());
    if second.is_some() || (first.is_none() && head.version == Version::HTTP_11) {
        return Err(Refusal::Host);
    }
    let authority = head.uri.authority().map(http::uri::Authority::as_str);
    let named = match (authority, first) {
        (Some(authority), _) => without_user(authority),
        (None, Some(value)) => value.to_str().map_err(|_odd| Refusal::Host)?,
        (None, None) => return Ok(""),
    };
    let (host, port) = match named.rsplit_once(':') {
        Some((host, port)) if !port.contains(']') => (host, port),
        _ => (named, ""),
    };
    if is_host(host) && port.bytes().all(|byte| byte.is_ascii_digit()) { Ok(host) } else { Err(Refusal::Host) }
}

/// Whether the text is a name, an IPv4 address or an IPv6 address in brackets (RFC 3986, section 3.2.2). Not empty:
/// RFC 9110, section 4.2.1.
fn is_host(text: &str) -> bool {
    if let Some(inside) = text.strip_prefix('[') {
        return inside.strip_suffix(']').is_some_and(|address| address.parse::<std::net::Ipv6Addr>().is_ok());
    }
    !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-._~%!$&'()*+,;=".contains(&byte))
}

/// Whether the source takes the method. None takes TRACE and CONNECT.
pub(super) fn takes_method(source: &Source, method: &Method) -> Result<(), Refusal> {
    let listed = source.methods.as_deref();
    let is_possible = !matches!(*method, Method::TRACE | Method::CONNECT);
    if is_possible && listed.is_none_or(|listed| listed.contains(method)) {
        return Ok(());
    }
    Err(Refusal::Method { allow: reply::allow(listed) })
}

/// Whether the conditions hold that a source sets besides its verifier.
pub(super) fn may_speak(guard: &Guard, caller: &Caller, headers: &HeaderMap, trusted: &[IpNet]) -> Result<(), Refusal> {
    if !guard.takes_address(caller.client_address(headers, trusted)) {
        return Err(Refusal::Address);
    }
    if guard.takes_certificate(caller.certificate()) { Ok(()) } else { Err(Refusal::Certificate) }
}

/// The length that the sender declared, refused before a byte of the body is read (or a `100 Continue` is sent).
pub(super) fn declared_length(headers: &HeaderMap, max_body: u64) -> Result<Option<u64>, Refusal> {
    let Some(value) = headers.get(header::CONTENT_LENGTH) else { return Ok(None) };
    let length = value.to_str().ok().and_then(|text| text.parse::<u64>().ok()).ok_or(Refusal::Length)?;
    if length > max_body { Err(Refusal::TooLarge) } else { Ok(Some(length)) }
}

/// gRPC speaks in trailers, which are not kept. gRPC-Web does not.
pub(super) fn is_not_grpc(headers: &HeaderMap) -> Result<(), Refusal> {
    const GRPC: &[u8] = b"application/grpc";
    let Some(kind) = headers.get(header::CONTENT_TYPE) else { return Ok(()) };
    let Some((start, rest)) = kind.as_bytes().split_at_checked(GRPC.len()) else { return Ok(()) };
    let ends = matches!(rest.first(), None | Some(b'+' | b';' | b' '));
    if ends && start.eq_ignore_ascii_case(GRPC) { Err(Refusal::Grpc) } else { Ok(()) }
}

/// Methods that are answered by an upstream in any mode.
pub(super) fn is_safe(method: &Method) -> bool {
    matches!(*method, Method::GET | Method::HEAD | Method::OPTIONS)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn head(target: &str, hosts: &[&str]) -> Parts {
        let mut request = http::Request::builder().uri(target);
        for host in hosts {
            request = request.header("host", *host);
        }
        request.body(()).unwrap().into_parts().0
    }

    #[test]
    fn the_host_is_the_one_asked_for_without_its_port() {
        let cases: [(&str, &[&str], Option<&str>); 21] = [
            ("/a", &["example.com"], Some("example.com")),
            ("/a", &["example.com:8443"], Some("example.com")),
            ("/a", &["[2001:db8::1]:80"], Some("[2001:db8::1]")),
            ("/a", &["[2001:db8::1]"], Some("[2001:db8::1]")),
            ("http://other.example:80/a", &["example.com"], Some("other.example")),
            ("/a", &["a_b.c-d.example:"], Some("a_b.c-d.example")),
            ("/a", &["192.0.2.1:80"], Some("192.0.2.1")),
            ("/a", &[""], None),
            ("/a", &[":80"], None),
            ("/a", &["a b"], None),
            ("/a", &["a/b"], None),
            ("/a", &["a@b"], None),
            ("/a", &["a:b"], None),
            ("/a", &["a:1:2"], None),
            ("/a", &["2001:db8::1"], None),
            ("/a", &["[2001:db8::1"], None),
            ("/a", &["[x]"], None),
            ("/a", &["a?b"], None),
            ("/a", &[], None),
            ("/a", &["one", "two"], None),
            ("http://user@other.example/a", &["x"], Some("other.example")),
        ];
        for (target, hosts, expected) in cases {
            assert_eq!(host(&head(target, hosts)).ok(), expected, "{target} {hosts:?}");
        }
    }

    #[test]
    fn grpc_is_told_apart_from_its_relatives() {
        let grpc =
            |kind: &str| is_not_grpc(&HeaderMap::from_iter([(header::CONTENT_TYPE, kind.parse().unwrap())])).is_err();
        assert!(grpc("application/grpc") && grpc("application/grpc+proto") && grpc("Application/gRPC; x=y"));
        assert!(!grpc("application/grpc-web") && !grpc("application/json") && !grpc("application/grpcx"));
    }
}
