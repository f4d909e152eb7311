//! Named consumers: emitters whose events are fetched and acknowledged.

use std::sync::Arc;

use cdc_core::Position;
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

/// The position that a reader or an acknowledgement of a consumer means.
///
/// An event's id leaves out the timeline: after a failover, that of an event which was lost with the old
/// one would cover events of the new one that nobody was given. So it counts only for what the window knows.
pub(crate) fn position(
    handle: &PullHandle,
    begin: Begin,
    extent: &Extent,
) -> Result<Position, Refusal> {
    let is_id = matches!(begin, Begin::Event(_));
    let position = begin.held(extent)?;
    if is_id && !handle.knows(position) {
        return Err(Refusal::new(
            StatusCode::CONFLICT,
            "event_unknown",
            "find the event of this id: it neither waits here nor was acknowledged; send the token that came with it, which says of which timeline it is",
        ));
    }
    Ok(position)
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
    let position = position(handle, Begin::after(&text)?, &extent)?;
    let stats = handle.acknowledge(position);
    Ok(reply::json(StatusCode::OK, &json(name, &extent, stats)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::http::PullEmitter;
    use cdc_core::{Emitter as _, EventId, Lsn, ResumeToken, testing};

    /// An id leaves out the timeline: one that the window does not know may be of another.
    #[tokio::test]
    async fn an_id_counts_only_for_what_the_window_knows() {
        let mut emitter = PullEmitter::new(1 << 20, 10);
        let handle = emitter.handle();
        emitter.resume(None).await.unwrap();
        for commit in [3, 5, 7] {
            let batch = testing::transaction(commit, 1, 1);
            emitter.emit(&batch).await.unwrap();
        }
        let at = |commit| Position::new(Lsn(commit), 0);
        handle.acknowledge(at(3));
        let extent = Extent {
            source: testing::source(),
            oldest: Position::ZERO,
            end: at(100),
        };
        let lineage = *extent.lineage();
        let position = |text: String| position(&handle, Begin::after(&text)?, &extent);
        // Acknowledged, waiting, in between, not given yet.
        for (commit, known) in [
            (2, true),
            (3, true),
            (5, true),
            (7, true),
            (6, false),
            (8, false),
        ] {
            let id = position(EventId::new(&lineage, at(commit)).to_string());
            match id {
                Ok(found) => assert!(known && found == at(commit), "{commit}"),
                Err(refusal) => {
                    assert!(!known, "{commit}");
                    assert_eq!(refusal.status, StatusCode::CONFLICT);
                    assert!(refusal.message.contains("send the token"));
                }
            }
            // A token says of which timeline it is.
            let token = position(ResumeToken::new(lineage, at(commit)).to_string());
            assert_eq!(token.unwrap(), at(commit));
        }
    }
}
