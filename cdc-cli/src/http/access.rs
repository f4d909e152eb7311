//! Who may do what: bearer token, host names, web origins.

use hyper::header::{
    ACCESS_CONTROL_ALLOW_HEADERS, ACCESS_CONTROL_ALLOW_METHODS, ACCESS_CONTROL_ALLOW_ORIGIN,
    ACCESS_CONTROL_MAX_AGE, AUTHORIZATION, HOST, HeaderMap, HeaderValue, ORIGIN, VARY,
};
use hyper::{HeaderMap as Headers, StatusCode};

use super::reply::{Answer, Refusal};
use crate::config::HttpConfig;

/// What a request wants to do. Health and metrics need no leave: they show nothing of anybody's.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Access {
    /// Look at events, letters, status.
    Read,
    /// Change something.
    Change,
}

/// Lets a request pass, or says why not.
pub(crate) fn check(config: &HttpConfig, access: Access, headers: &Headers) -> Result<(), Refusal> {
    let needs_token = match access {
        Access::Read => config.reads_need_token,
        Access::Change => true,
    };
    if !needs_token {
        return check_host(config, headers);
    }
    let Some(token) = &config.token else {
        return Err(Refusal::new(
            StatusCode::FORBIDDEN,
            "no_token_configured",
            "change state over HTTP: no token is configured; set http.token_file",
        ));
    };
    let shown = headers
        .get(AUTHORIZATION)
        .and_then(|value| value.to_str().ok())
        .and_then(|value| value.split_once(' '))
        .filter(|(scheme, _)| scheme.eq_ignore_ascii_case("bearer"))
        .map(|(_, token)| token.trim());
    match shown {
        Some(shown) if same(shown.as_bytes(), token.expose().as_bytes()) => Ok(()),
        Some(_) => Err(unauthorized("the bearer token is not the configured one")),
        None => Err(unauthorized("this needs `Authorization: Bearer TOKEN`")),
    }
}

fn unauthorized(message: &str) -> Refusal {
    Refusal::new(StatusCode::UNAUTHORIZED, "unauthorized", message)
}

/// Compares in a time that depends on the lengths only.
fn same(a: &[u8], b: &[u8]) -> bool {
    a.len() == b.len() && a.iter().zip(b).fold(0, |seen, (a, b)| seen | (a ^ b)) == 0
}

/// Without a token, loopback is the only protection, and a web page can reach loopback under a
/// name of its own (DNS rebinding). So the host must be loopback by name or number.
fn check_host(config: &HttpConfig, headers: &Headers) -> Result<(), Refusal> {
    if !config.listen.ip().is_loopback() {
        return Ok(());
    }
    let Some(host) = headers.get(HOST) else {
        return Ok(());
    };
    let host = host.to_str().unwrap_or_default();
    let name = match host.strip_prefix('[') {
        Some(rest) => rest.split(']').next().unwrap_or_default(),
        None => host.split(':').next().unwrap_or_default(),
    };
    let loopback = name.eq_ignore_ascii_case("localhost")
        || name
            .parse::<std::net::IpAddr>()
            .is_ok_and(|address| address.is_loopback());
    if loopback {
        return Ok(());
    }
    Err(Refusal::new(
        StatusCode::FORBIDDEN,
        "host_refused",
        "the Host header names another host than loopback; ask for 127.0.0.1 or localhost, or set http.reads = \"token\"",
    ))
}

/// The origin of a request, if pages from there may read.
pub(crate) fn allowed_origin(config: &HttpConfig, headers: &HeaderMap) -> Option<HeaderValue> {
    let origin = headers.get(ORIGIN)?;
    let known = |allowed: &String| allowed.as_bytes() == origin.as_bytes();
    config.origins.iter().any(known).then(|| origin.clone())
}

/// Tells the browser that the page may read the answer.
pub(crate) fn allow(answer: &mut Answer, origin: Option<HeaderValue>) {
    let headers = answer.headers_mut();
    headers.insert(VARY, HeaderValue::from_static("origin"));
    if let Some(origin) = origin {
        headers.insert(ACCESS_CONTROL_ALLOW_ORIGIN, origin);
    }
}

/// The answer to a browser that asks beforehand.
pub(crate) fn preflight(answer: &mut Answer) {
    let headers = answer.headers_mut();
    for (name, value) in [
        (ACCESS_CONTROL_ALLOW_METHODS, "GET, POST"),
        (
            ACCESS_CONTROL_ALLOW_HEADERS,
            "authorization, content-type, last-event-id",
        ),
        (ACCESS_CONTROL_MAX_AGE, "600"),
    ] {
        headers.insert(name, HeaderValue::from_static(value));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Secret;
    use cdc_core::envelope::Format;
    use cdc_filter::FilterConfig;
    use std::time::Duration;

    fn config(listen: &str, token: Option<&str>, reads_need_token: bool) -> HttpConfig {
        HttpConfig {
            listen: listen.parse().unwrap(),
            token: token.map(|token| Secret::new(token.into())),
            reads_need_token,
            origins: vec!["https://shop.example".into()],
            connections_max: 1,
            write_timeout: Duration::ZERO,
            filter: FilterConfig::default(),
            transforms: Vec::new(),
            format: Format::Json,
            style: crate::config::Style::default(),
        }
    }

    fn status(config: &HttpConfig, access: Access, headers: &[(&str, &str)]) -> u16 {
        let mut map = HeaderMap::new();
        for (name, value) in headers {
            let name: hyper::header::HeaderName = name.parse().unwrap();
            map.insert(name, HeaderValue::from_str(value).unwrap());
        }
        check(config, access, &map).map_or_else(|refusal| refusal.status.as_u16(), |()| 200)
    }

    #[test]
    fn who_may_do_what() {
        const TOKEN: &str = "0123456789abcdef";
        let loopback = config("127.0.0.1:1", None, false);
        let guarded = config("127.0.0.1:1", Some(TOKEN), false);
        let outside = config("192.0.2.1:1", Some(TOKEN), true);
        let shown = ("authorization", "Bearer 0123456789abcdef");
        let host = ("host", "127.0.0.1:1");
        use Access::{Change, Read};
        for (config, access, headers, expected) in [
            (&loopback, Read, vec![host], 200),
            (&loopback, Read, vec![("host", "[::1]:1")], 200),
            (&loopback, Read, vec![("host", "LocalHost:1")], 200),
            (&loopback, Read, vec![], 200),
            // A page that made its own name point to loopback.
            (&loopback, Read, vec![("host", "evil.example:1")], 403),
            (
                &loopback,
                Read,
                vec![("host", "127.0.0.1.evil.example")],
                403,
            ),
            // Nothing is changed without a token, whoever asks.
            (&loopback, Change, vec![host, shown], 403),
            (&guarded, Read, vec![host], 200),
            (&guarded, Change, vec![host], 401),
            (&guarded, Change, vec![host, shown], 200),
            (
                &guarded,
                Change,
                vec![("authorization", "bearer  0123456789abcdef")],
                200,
            ),
            (
                &guarded,
                Change,
                vec![("authorization", "Basic 0123456789abcdef")],
                401,
            ),
            (
                &guarded,
                Change,
                vec![("authorization", "Bearer 0123456789abcdeg")],
                401,
            ),
            (
                &guarded,
                Change,
                vec![("authorization", "Bearer 0123456789abcde")],
                401,
            ),
            (&guarded, Change, vec![("authorization", "Bearer ")], 401),
            (&outside, Read, vec![("host", "cdc.example")], 401),
            (&outside, Read, vec![("host", "cdc.example"), shown], 200),
        ] {
            assert_eq!(
                status(config, access, &headers),
                expected,
                "{access:?} {headers:?}"
            );
        }
    }

    #[test]
    fn only_listed_origins_may_read() {
        let config = config("127.0.0.1:1", None, false);
        let allowed = |origin: &'static str| {
            let mut map = HeaderMap::new();
            map.insert(ORIGIN, HeaderValue::from_static(origin));
            allowed_origin(&config, &map).is_some()
        };
        assert!(allowed("https://shop.example"));
        assert!(!allowed("https://shop.example.evil"));
        assert!(!allowed("null"));
    }
}
