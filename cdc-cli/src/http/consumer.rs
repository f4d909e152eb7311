//! Named consumers: emitters whose events are fetched and acknowledged.

use std::sync::Arc;

use cdc_core::envelope::Format;
use hyper::StatusCode;
use hyper::body::Bytes;
use serde_json::{Value, json};

use super::PullHandle;
use super::pull::PullStats;
use super::query::Begin;
use super::reply::{self, Answer, Refusal};
use super::route::{self, Live, Pulled, Surface};
use crate::assemble::start::Extent;
use crate::config::Style;

/// Why a consumer cannot be served.
#[derive(Debug)]
pub(crate) enum PullRefusal {
    /// There is none of this name.
    NoConsumer {
        /// What was asked for.
        name: String,
        /// What there is.
        known: Vec<String>,
    },
}

fn pulled<'a>(live: &'a Live, name: &str) -> Result<&'a Pulled, Refusal> {
    let found = live.pulls.iter().find(|pull| pull.name == name);
    found.ok_or_else(|| {
        let known = live.pulls.iter().map(|pull| pull.name.clone()).collect();
        let name = name.chars().take(64).collect();
        PullRefusal::NoConsumer { name, known }.into()
    })
}

/// The window of a consumer.
pub(crate) fn find<'a>(live: &'a Live, name: &str) -> Result<&'a PullHandle, Refusal> {
    Ok(&pulled(live, name)?.handle)
}

/// The wire form of a consumer.
pub(crate) fn format(live: &Live, name: &str) -> Result<(Format, Style), Refusal> {
    let pulled = pulled(live, name)?;
    Ok((pulled.format, pulled.style))
}

fn json(name: &str, extent: &Extent, stats: PullStats) -> Value {
    json!({
        "name": name,
        "acknowledged": route::token(extent, stats.acknowledged),
        "position": stats.acknowledged.to_string(),
        "waiting_events": stats.waiting_events,
        "waiting_bytes": stats.waiting_bytes,
    })
}

/// `GET /v1/consumers`
pub(crate) fn list(surface: &Arc<Surface>) -> Result<Answer, Refusal> {
    let live = surface.live()?;
    let extent = live.extent()?;
    let all: Vec<Value> = live
        .pulls
        .iter()
        .map(|pull| json(&pull.name, &extent, pull.handle.stats()))
        .collect();
    Ok(reply::json(StatusCode::OK, &json!({ "consumers": all })))
}

/// `GET /v1/consumers/NAME`
pub(crate) fn show(surface: &Arc<Surface>, name: &str) -> Result<Answer, Refusal> {
    let live = surface.live()?;
    let stats = find(live, name)?.stats();
    let extent = live.extent()?;
    Ok(reply::json(StatusCode::OK, &json(name, &extent, stats)))
}

/// `POST /v1/consumers/NAME/ack`: everything up to and including the token is safe with it.
///
/// The body is `{"token": "..."}`, or the token itself; an event's id will do.
pub(crate) fn acknowledge(
    surface: &Arc<Surface>,
    name: &str,
    body: &Bytes,
) -> Result<Answer, Refusal> {
    let live = surface.live()?;
    let handle = find(live, name)?;
    let text = std::str::from_utf8(body).unwrap_or_default().trim();
    let text = if text.starts_with('{') {
        let object = route::object(body)?;
        object["token"].as_str().unwrap_or_default().to_owned()
    } else {
        text.to_owned()
    };
    if text.is_empty() {
        return Err(Refusal::request(
            "acknowledge: the body names no token; send {\"token\":\"cdc1_...\"}",
        ));
    }
    let extent = live.extent()?;
    let position = Begin::after(&text)?.held(&extent)?;
    let stats = handle.acknowledge(position);
    Ok(reply::json(StatusCode::OK, &json(name, &extent, stats)))
}
