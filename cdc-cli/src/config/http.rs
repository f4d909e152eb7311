//! `[cdc.http]`: where the HTTP surface listens, and who may do what there.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};

use cdc_core::envelope::Format;
use hyper::Uri;

use super::build;
use super::document::Origin;
use super::model::{HttpConfig, Secret};
use super::problem::Problem;
use super::read::{Reading, Section};
use super::transforms;

/// Shortest bearer token: shorter ones can be guessed.
const TOKEN_LEN_MIN: usize = 16;
/// Most web origins.
const ORIGINS_MAX: usize = 64;

/// The surface, if `http.listen` is set.
pub(crate) fn read(
    reading: &mut Reading<'_>,
    cdc: Section<'_>,
    warnings: &mut Vec<String>,
) -> Option<HttpConfig> {
    let table = cdc.own.get("http")?;
    let Some((listen, at)) = reading.text(cdc, "http.listen") else {
        reading.refuse(
            Problem::new("[cdc.http] has no `listen`", &table.key_at)
                .help("add listen = \"127.0.0.1:7979\", or remove the table"),
        );
        reading.types_below(cdc, "http");
        return None;
    };
    let address = address(reading, &listen, &at);
    let token = token(reading, cdc);
    let loopback = address.is_none_or(|address| address.ip().is_loopback());
    let token_given = ["http.token", "http.token_file"]
        .into_iter()
        .any(|path| cdc.node(path).is_some());
    if !loopback && !token_given {
        reading.refuse(
            Problem::new(
                "`http.listen` is not a loopback address, and there is no token: anybody who reaches it could read every event",
                &at,
            )
            .help("add token_file = \"/run/secrets/cdc-http\" to [cdc.http], or listen on 127.0.0.1"),
        );
    }
    let reads_need_token = match reading.choice(cdc, "http.reads") {
        Some(("open", _)) => {
            if !loopback {
                warnings.push(
                    "http.reads = \"open\" on an address other hosts reach: anybody there can read every event".into(),
                );
            }
            false
        }
        Some((_, at)) => {
            if !token_given {
                reading.refuse(
                    Problem::new("`http.reads` = \"token\" needs a token", &at)
                        .help("add token_file = \"/run/secrets/cdc-http\" to [cdc.http]"),
                );
            }
            true
        }
        None => !loopback,
    };
    let origins = origins(reading, cdc);
    let connections = reading.count(cdc, "http.connections_max");
    let transforms = cdc
        .node("transforms")
        .map(|node| transforms::read(reading, node))
        .unwrap_or_default();
    let format = match build::format(reading, cdc) {
        // Streams are text; a pull consumer with this format is refused where it is chosen.
        Format::Bincode => Format::Json,
        text => text,
    };
    Some(HttpConfig {
        listen: address?,
        token,
        reads_need_token,
        origins,
        connections_max: connections.map_or(0, |(n, _)| usize::try_from(n).unwrap_or(usize::MAX)),
        write_timeout: reading
            .duration(cdc, "http.write_timeout")
            .map(|(timeout, _)| timeout)
            .unwrap_or_default(),
        filter: build::filter(reading, cdc),
        transforms,
        format,
        style: build::style(reading, cdc),
    })
}

fn address(reading: &mut Reading<'_>, text: &str, at: &Origin) -> Option<SocketAddr> {
    let named = text
        .strip_prefix("localhost:")
        .and_then(|port| port.parse().ok())
        .map(|port: u16| SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), port));
    let address = named.or_else(|| text.parse().ok());
    if address.is_none() {
        reading.refuse(
            Problem::new("`http.listen` is not an address with a port", at)
                .help("write \"127.0.0.1:7979\", \"[::1]:7979\" or \"localhost:7979\"; a name of a host is not enough"),
        );
    }
    address
}

fn token(reading: &mut Reading<'_>, cdc: Section<'_>) -> Option<Secret> {
    let (secret, path, at) = match (cdc.node("http.token"), cdc.node("http.token_file")) {
        (None, None) => return None,
        (Some(text), Some(file)) => {
            reading.refuse(
                Problem::new(
                    "`http.token` and `http.token_file` both give the token",
                    &file.key_at,
                )
                .note("the other one is here", &text.key_at)
                .help("keep one"),
            );
            return None;
        }
        (Some(node), None) => {
            let (text, at) = reading.node_text("http.token", node)?;
            let text = reading.interpolate("http.token", &text, &at)?;
            (Secret::new(text), "http.token", at)
        }
        (None, Some(_)) => {
            let (file, at) = reading.path(cdc, "http.token_file")?;
            let secret = reading.secret_file("http.token_file", &file, &at)?;
            (secret, "http.token_file", at)
        }
    };
    let text = secret.expose();
    if text.len() < TOKEN_LEN_MIN || !text.bytes().all(|byte| byte.is_ascii_graphic()) {
        reading.refuse(
            Problem::new(
                format!("`{path}` must be at least {TOKEN_LEN_MIN} visible ASCII characters"),
                &at,
            )
            .help("make one with `openssl rand -hex 32`"),
        );
    }
    Some(secret)
}

fn origins(reading: &mut Reading<'_>, cdc: Section<'_>) -> Vec<String> {
    let origins = reading.texts(cdc, "http.origins");
    if let Some((_, at)) = origins.get(ORIGINS_MAX) {
        reading.refuse(Problem::new(
            format!("`http.origins` lists more than {ORIGINS_MAX} origins"),
            at,
        ));
    }
    for (origin, at) in &origins {
        let plain = origin.parse::<Uri>().is_ok_and(|uri| {
            let scheme = uri.scheme_str().unwrap_or_default();
            let rest = origin.strip_prefix(scheme).unwrap_or_default();
            matches!(scheme, "http" | "https")
                && uri.host().is_some_and(|host| !host.is_empty())
                && rest.strip_prefix("://")
                    == uri.authority().map(hyper::http::uri::Authority::as_str)
        });
        if !plain {
            reading.refuse(
                Problem::new("`http.origins` holds what is not a web origin", at)
                    .help("write scheme, host and port as the browser does, without a path: \"https://shop.example.com\""),
            );
        }
    }
    origins.into_iter().map(|(origin, _)| origin).collect()
}
