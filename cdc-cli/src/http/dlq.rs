//! Dead letters over HTTP: listed, shown, sent again, given up.

use std::sync::Arc;

use cdc_core::pipeline::RedriveRequest;
use cdc_core::{EventId, LetterState};
use cdc_dlq::LetterFilter;
use hyper::StatusCode;
use hyper::body::Bytes;
use serde_json::{Value, json};

use super::query::Query;
use super::reply::{self, Answer, Refusal};
use super::route::{self, Surface};
use crate::assemble::control::Redriven;
use crate::assemble::dead_letters;
use crate::pretty;

/// Most letters of one answer.
const LETTERS_MAX: usize = 1000;
/// Letters looked at while the queue is kept from its lanes.
const LOOKS: usize = 64;

impl From<cdc_core::DlqError> for Refusal {
    fn from(error: cdc_core::DlqError) -> Self {
        Self::failed(error.to_string())
    }
}

fn parse_id(text: &str) -> Result<EventId, Refusal> {
    text.parse().map_err(|_| {
        Refusal::request("read the id of a letter: it is the id of an event, as the list has it")
    })
}

/// `GET /v1/dlq`: letters without their rows.
pub(crate) fn list(surface: &Arc<Surface>, query: &Query) -> Result<Answer, Refusal> {
    query.only(&["emitter", "table", "class", "state", "limit", "after"])?;
    let text = |name| Ok::<_, Refusal>(query.one(name)?.map(str::to_owned));
    let state = match query.one("state")? {
        None => None,
        Some("pending") => Some(LetterState::Pending),
        Some("parked") => Some(LetterState::Parked),
        Some("redriving") => Some(LetterState::Redriving),
        Some(_) => {
            return Err(Refusal::request(
                "read state: there are pending, parked and redriving",
            ));
        }
    };
    let filter = LetterFilter {
        emitter: text("emitter")?,
        table: text("table")?,
        class: text("class")?,
        state,
        ..LetterFilter::default()
    };
    let limit = query.count("limit", 100, LETTERS_MAX)?;
    let mut behind = match query.one("after")?.map(|after| after.split_once('/')) {
        None => None,
        Some(Some((emitter, id))) => Some((emitter.to_owned(), parse_id(id)?)),
        Some(None) => {
            return Err(Refusal::request(
                "read after: it is `next` of the answer before",
            ));
        }
    };
    let mut letters = Vec::new();
    loop {
        let left = limit - letters.len();
        let page = tokio::task::block_in_place(|| {
            let queue = surface.dead_letters();
            queue.reader().page(&filter, behind.as_ref(), left, LOOKS)
        })?;
        letters.extend(
            page.letters
                .iter()
                .map(|letter| pretty::letter(letter, false)),
        );
        behind = page.next;
        if behind.is_none() || letters.len() >= limit {
            break;
        }
    }
    let next = behind.map(|(emitter, id)| format!("{emitter}/{id}"));
    let body = json!({ "letters": letters, "next": next });
    Ok(reply::json(StatusCode::OK, &body))
}

/// `GET /v1/dlq/stats`
pub(crate) fn stats(surface: &Arc<Surface>) -> Result<Answer, Refusal> {
    let (counts, bytes, options) = {
        let queue = surface.dead_letters();
        let reader = queue.reader();
        (reader.counts(), reader.bytes(), *queue.options())
    };
    let groups: Vec<Value> = counts
        .iter()
        .filter(|count| count.letters > 0)
        .map(|count| {
            json!({
                "emitter": count.emitter,
                "state": count.state.name(),
                "letters": count.letters,
            })
        })
        .collect();
    let letters: u64 = counts.iter().map(|count| count.letters).sum();
    let body = json!({
        "letters": letters,
        "letters_max": options.letters_max,
        "bytes": bytes,
        "bytes_max": options.bytes_max,
        "groups": groups,
    });
    Ok(reply::json(StatusCode::OK, &body))
}

/// `GET /v1/dlq/ID`: letters of an event, with their rows.
pub(crate) fn show(surface: &Arc<Surface>, id: &str, query: &Query) -> Result<Answer, Refusal> {
    query.only(&["emitter"])?;
    let id = parse_id(id)?;
    let mut letters = Vec::new();
    {
        let queue = surface.dead_letters();
        let reader = queue.reader();
        let emitters: Vec<String> = match query.one("emitter")? {
            Some(name) => vec![name.to_owned()],
            None => {
                let mut names: Vec<_> = reader.counts().into_iter().map(|c| c.emitter).collect();
                names.dedup();
                names
            }
        };
        for emitter in emitters {
            letters.extend(reader.get(&emitter, id)?);
        }
    }
    if letters.is_empty() {
        return Err(Refusal::new(
            StatusCode::NOT_FOUND,
            "no_such_letter",
            format!("find dead letter {id}: there is none that is open"),
        ));
    }
    let letters: Vec<_> = letters
        .iter()
        .map(|letter| pretty::letter(letter, true))
        .collect();
    Ok(reply::json(StatusCode::OK, &json!({ "letters": letters })))
}

/// What a request to change letters says.
struct Order {
    emitter: String,
    ids: Vec<EventId>,
    all: bool,
    as_was: bool,
}

impl Order {
    fn read(body: &Bytes) -> Result<Self, Refusal> {
        let object = route::object(body)?;
        for name in object.as_object().into_iter().flat_map(|o| o.keys()) {
            if !["emitter", "ids", "all", "as_was"].contains(&name.as_str()) {
                let name: String = name.chars().take(64).collect();
                return Err(Refusal::request(format!(
                    "read the body: there is no member {name:?}; there are emitter, ids, all and as_was"
                )));
            }
        }
        let flag = |name: &str| match &object[name] {
            Value::Null => Ok(false),
            Value::Bool(flag) => Ok(*flag),
            _ => Err(Refusal::request(format!(
                "read {name}: it is true or false"
            ))),
        };
        let Some(emitter) = object["emitter"].as_str() else {
            return Err(Refusal::request(
                "read the body: `emitter` names the emitter",
            ));
        };
        let ids = match &object["ids"] {
            Value::Null => Vec::new(),
            Value::Array(ids) => ids
                .iter()
                .map(|id| parse_id(id.as_str().unwrap_or_default()))
                .collect::<Result<_, _>>()?,
            _ => return Err(Refusal::request("read ids: it is a list of event ids")),
        };
        let order = Self {
            emitter: emitter.to_owned(),
            ids,
            all: flag("all")?,
            as_was: flag("as_was")?,
        };
        // An empty list is a mistake more often than it means everything.
        if order.all == order.ids.is_empty() {
            return Ok(order);
        }
        Err(Refusal::request(
            "read the body: name letters in `ids`, or all of the emitter's with \"all\": true",
        ))
    }
}

fn ended(emitter: &str) -> Refusal {
    Refusal::new(
        StatusCode::CONFLICT,
        "emitter_stopped",
        format!("order the lane of emitter {emitter}: it has stopped; /v1/status says why"),
    )
}

/// `POST /v1/dlq/redrive`: answers when it is done.
pub(crate) async fn redrive(surface: &Arc<Surface>, body: &Bytes) -> Result<Answer, Refusal> {
    let order = Order::read(body)?;
    let control = surface.live()?.lane(&order.emitter)?.control.clone();
    let request = RedriveRequest {
        ids: order.ids,
        as_was: order.as_was,
    };
    let report = control.redrive(request).await;
    let report: Redriven = report.ok_or_else(|| ended(&order.emitter))?.into();
    Ok(reply::json(StatusCode::OK, &json!(report)))
}

/// `POST /v1/dlq/discard`
pub(crate) async fn discard(surface: &Arc<Surface>, body: &Bytes) -> Result<Answer, Refusal> {
    let mut order = Order::read(body)?;
    let lane = surface.live()?.lane(&order.emitter);
    if order.all {
        let filter = LetterFilter::emitter(&order.emitter);
        let ids = surface.dead_letters().reader().ids(&filter)?;
        order.ids = ids.into_iter().map(|(_, id)| id).collect();
    }
    let count = match lane {
        Ok(lane) => {
            let count = lane.control.clone().discard(order.ids).await;
            count.ok_or_else(|| ended(&order.emitter))?
        }
        // Letters of an emitter that is no longer configured; without one, most likely misspelt.
        Err(unknown) => {
            let count = tokio::task::block_in_place(|| {
                dead_letters::discard(&mut surface.dead_letters(), &order.emitter, &order.ids)
            })?;
            if count == 0 {
                return Err(unknown);
            }
            count
        }
    };
    Ok(reply::json(StatusCode::OK, &json!({ "discarded": count })))
}
