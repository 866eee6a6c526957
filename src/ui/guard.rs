//! Who may look and steer: browsers on this machine, from the page itself.
//!
//! A page of another site can make a browser send requests here, and a name that is made to
//! resolve to this machine can make them look like its own. So every request must name this
//! address as its host, and one that changes something must come from a page of it: its
//! `Origin` says so, which no page can choose, and its body is JSON, which no form can send.

use axum::extract::{Request, State};
use axum::http::header::{CONTENT_TYPE, HOST, HeaderMap, HeaderName, ORIGIN};
use axum::http::{HeaderValue, Method, StatusCode};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use std::net::SocketAddr;
use std::sync::Arc;

/// Sent with every answer: no other page may frame or read it, and no type is guessed.
const HEADERS: [(&str, &str); 5] = [
    ("x-content-type-options", "nosniff"),
    ("x-frame-options", "DENY"),
    ("referrer-policy", "no-referrer"),
    ("cross-origin-resource-policy", "same-origin"),
    ("cache-control", "no-store"),
];

/// The names under which the page is reached at its port.
#[derive(Clone, Debug)]
pub(super) struct Guard(Arc<Vec<String>>);

impl Guard {
    pub(super) fn of(address: SocketAddr) -> Self {
        let port = address.port();
        Self(Arc::new(vec![address.to_string(), format!("localhost:{port}")]))
    }

    /// Why a request is turned away, if it is.
    fn refusal(&self, method: &Method, headers: &HeaderMap) -> Option<&'static str> {
        let text = |name: HeaderName| headers.get(name).map(|value| value.to_str().unwrap_or(""));
        let is_own = |host: &str| self.0.iter().any(|own| own.eq_ignore_ascii_case(host));
        if !text(HOST).is_some_and(is_own) {
            return Some("this host is not the page's address");
        }
        if *method == Method::GET || *method == Method::HEAD {
            return None;
        }
        let is_same = |origin: &str| origin.strip_prefix("http://").is_some_and(is_own);
        if text(ORIGIN).is_some_and(|origin| !is_same(origin)) {
            return Some("only the page itself may steer: this comes from another origin");
        }
        let site = text(HeaderName::from_static("sec-fetch-site"));
        if site.is_some_and(|site| site != "same-origin") {
            return Some("only the page itself may steer: this comes from another site");
        }
        let is_json = |kind: &str| kind.split(';').next() == Some("application/json");
        if !text(CONTENT_TYPE).is_some_and(is_json) {
            return Some("content-type must be application/json");
        }
        None
    }
}

/// Turns away what does not come from the page.
pub(super) async fn check(State(guard): State<Guard>, request: Request, next: Next) -> Response {
    let mut response = match guard.refusal(request.method(), request.headers()) {
        Some(why) => (StatusCode::FORBIDDEN, why).into_response(),
        None => next.run(request).await,
    };
    for (name, value) in HEADERS {
        let (name, value) = (HeaderName::from_static(name), HeaderValue::from_static(value));
        response.headers_mut().insert(name, value);
    }
    response
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_page_itself_may_steer() {
        let guard = Guard::of(([127, 0, 0, 1], 8700).into());
        let refusal = |method: Method, given: &[(&'static str, &'static str)]| {
            let pairs = given.iter().map(|(name, value)| {
                (HeaderName::from_static(name), HeaderValue::from_static(value))
            });
            guard.refusal(&method, &pairs.collect())
        };
        let own = ("host", "127.0.0.1:8700");
        let json = ("content-type", "application/json");
        let post = |more: &[(&'static str, &'static str)]| refusal(Method::POST, more);
        assert_eq!(refusal(Method::GET, &[own]), None);
        assert_eq!(refusal(Method::GET, &[("host", "localhost:8700")]), None);
        assert_eq!(post(&[own, json]), None, "a program");
        assert_eq!(post(&[own, json, ("origin", "http://127.0.0.1:8700")]), None);
        for wrong in [
            ("origin", "http://example.com"),
            ("origin", "http://127.0.0.1:8701"),
            ("origin", "https://127.0.0.1:8700"),
            ("origin", "null"),
            ("sec-fetch-site", "cross-site"),
            ("sec-fetch-site", "same-site"),
        ] {
            assert!(post(&[own, json, wrong]).is_some(), "{wrong:?}");
        }
        assert!(post(&[own]).is_some(), "a form");
        assert!(post(&[own, ("content-type", "text/plain")]).is_some());
        assert!(refusal(Method::GET, &[]).is_some());
        assert!(refusal(Method::GET, &[("host", "evil.example:8700")]).is_some());
    }
}
