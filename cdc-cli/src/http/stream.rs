//! Events for whoever asks: as a stream (SSE or NDJSON), or as one document (long poll).
//!
//! Without a consumer's name a reader sees the log through what `[cdc]` keeps and changes, and holds
//! nothing back. With one it sees the emitter's window of events that wait for an acknowledgement.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use cdc_core::envelope::Encoder;
use cdc_core::pipeline::Shutdown;
use cdc_core::{
    BatchLimit, ChangeEvent, Filter as _, Position, ResumeToken, SourceInfo, WalSource as _,
};
use cdc_filter::EventFilter;
use cdc_wal::{StartAt, WalTail};
use hyper::StatusCode;
use hyper::body::Bytes;
use hyper::header::HeaderMap;
use tokio::sync::{mpsc, watch};
use tokio::time::Instant;

use super::consumer;
use super::lines::{Form, Item, Lines, document};
use super::pull::{Cursor, PullHandle};
use super::query::{Begin, Query};
use super::reply::{self, Answer, Refusal};
use super::route::{Live, Surface};
use crate::assemble::start::{Extent, Start};

/// Bytes made ahead of a client, twice: one piece under way, one waiting. A larger event goes alone.
const PIECE_BYTES: usize = 64 * 1024;
/// Events taken at once for a stream.
const STREAM_EVENTS: usize = 256;
/// Bytes of rows of one long poll.
const POLL_BYTES: usize = 1 << 20;
/// Most events of one long poll.
const POLL_EVENTS_MAX: usize = 10_000;
/// How long nothing is said on an idle stream.
const HEARTBEAT: Duration = Duration::from_secs(15);
/// How soon an idle stream says how far the log has moved without events for it.
const PROGRESS: Duration = Duration::from_secs(1);

/// Parameters that choose events of the log.
const FILTERS: [&str; 4] = ["schema", "table", "operation", "where"];

/// What one look gave.
struct Fed {
    items: Vec<Item>,
    /// Where events come from; `None` only without any.
    source: Option<Arc<SourceInfo>>,
    /// Everything up to this is covered.
    end: Option<Position>,
    /// There will never be more.
    finished: bool,
}

/// Where a reader's events come from.
enum Reader {
    Log {
        surface: Arc<Surface>,
        tail: Box<WalTail>,
        filter: EventFilter,
    },
    Consumer {
        handle: PullHandle,
        /// What the reader said it has.
        after: Option<Position>,
        cursor: Cursor,
        changes: watch::Receiver<u64>,
    },
}

impl Reader {
    fn open(
        surface: &Arc<Surface>,
        query: &Query,
        begin: Option<Begin>,
        without: Start,
    ) -> Result<(Self, Extent), Refusal> {
        let live = surface.live()?;
        // Looking for a time may read much of the log.
        tokio::task::block_in_place(|| {
            let extent = live.extent()?;
            let reader = match query.one("consumer")? {
                Some(name) => Self::consumer(live, query, name, begin, &extent)?,
                None => Self::log(
                    surface,
                    live,
                    query,
                    &begin.map_or(Ok(without), |begin| begin.start(&extent))?,
                    &extent,
                )?,
            };
            Ok((reader, extent))
        })
    }

    fn log(
        surface: &Arc<Surface>,
        live: &Live,
        query: &Query,
        start: &Start,
        extent: &Extent,
    ) -> Result<Self, Refusal> {
        let filter = query.filter()?;
        let refused = |error| Refusal::of_start(error, extent);
        let after = live.log.locate(start).map_err(refused)?;
        let tail = live.log.tail(StartAt::After(after));
        Ok(Self::Log {
            surface: surface.clone(),
            tail: Box::new(tail.map_err(|error| refused(error.into()))?),
            filter,
        })
    }

    fn consumer(
        live: &Live,
        query: &Query,
        name: &str,
        begin: Option<Begin>,
        extent: &Extent,
    ) -> Result<Self, Refusal> {
        for name in FILTERS {
            // Given twice is given.
            if !matches!(query.one(name), Ok(None)) {
                return Err(Refusal::request(format!(
                    "read the query: {name} is not for consumers; the emitter's own configuration says what it gets"
                )));
            }
        }
        let handle = consumer::find(live, name)?.clone();
        let changes = handle.changes();
        let after = match begin {
            // A name begins with what it has not acknowledged, wherever it was before.
            None | Some(Begin::At(Start::Earliest)) => None,
            Some(begin) => Some(consumer::position(&handle, begin, extent)?),
        };
        Ok(Self::Consumer {
            cursor: handle.begin(after),
            handle,
            after,
            changes,
        })
    }

    /// What the reader has before it is given anything.
    fn has(&self) -> Position {
        match self {
            Self::Log { tail, .. } => tail.end(),
            // It may be further than what it has acknowledged, and is not given that again.
            Self::Consumer { handle, after, .. } => {
                after.unwrap_or_else(|| handle.stats().acknowledged)
            }
        }
    }

    /// Waits for events, at most so long.
    async fn next(
        &mut self,
        wait: Duration,
        events_max: usize,
        bytes_max: usize,
    ) -> Result<Fed, Refusal> {
        match self {
            Self::Log {
                surface,
                tail,
                filter,
            } => {
                let limit = BatchLimit {
                    events_max,
                    bytes_max,
                    linger: wait,
                };
                let batch = tail.next_batch(limit).await;
                let batch = batch.map_err(|error| match error.kind {
                    cdc_core::SourceErrorKind::Gap => {
                        Refusal::new(StatusCode::GONE, "token_expired", error.to_string())
                    }
                    _ => Refusal::failed(error.to_string()),
                })?;
                let Some(batch) = batch else {
                    return Ok(Fed {
                        items: Vec::new(),
                        source: None,
                        end: None,
                        finished: true,
                    });
                };
                let (source, end) = (batch.source().clone(), batch.end());
                let events = batch.into_events().into_iter();
                let kept = events.filter(|event| surface.filter().keep(event));
                let items = kept
                    .filter_map(|event| changed(surface, filter, event))
                    .collect();
                Ok(Fed {
                    items,
                    source: Some(source),
                    end: Some(end),
                    finished: false,
                })
            }
            Self::Consumer {
                handle,
                cursor,
                changes,
                ..
            } => {
                let deadline = Instant::now() + wait;
                loop {
                    changes.mark_unchanged();
                    let look = handle.look(*cursor, events_max, bytes_max);
                    *cursor = look.cursor;
                    if let Some(last) = look.events.last() {
                        *cursor = cursor.seen(last.position);
                        let end = Some(last.position);
                        return Ok(Fed {
                            items: look.events.into_iter().map(Item::Event).collect(),
                            source: look.source,
                            end,
                            finished: false,
                        });
                    }
                    let changed = tokio::time::timeout_at(deadline, changes.changed()).await;
                    let finished = matches!(changed, Ok(Err(_)));
                    if changed.is_err() || finished {
                        return Ok(Fed {
                            items: Vec::new(),
                            source: look.source,
                            end: None,
                            finished,
                        });
                    }
                }
            }
        }
    }
}

/// The event as `[cdc]` changes it, if the reader asks for it.
///
/// What is asked is asked of the event as it is shown: a condition on a value that is hidden would tell the
/// value, one answer after the other.
fn changed(surface: &Surface, filter: &EventFilter, event: ChangeEvent) -> Option<Item> {
    let position = event.position;
    // One that cannot be changed has no other names, and its row is not to be asked for.
    let named = surface.renames() || filter.tables().keep(&event);
    let changed = match surface.transforms() {
        None => Ok(Some(event)),
        Some(transforms) => transforms.apply(event),
    };
    match changed {
        Ok(shown) => shown.filter(|event| filter.keep(event)).map(Item::Event),
        Err(error) => named.then(|| Item::Failed {
            position,
            message: error.to_string(),
        }),
    }
}

/// Counts an open stream or poll while it lives.
struct Counted(Arc<Surface>);

impl Counted {
    fn new(surface: &Arc<Surface>) -> Self {
        surface.readers.fetch_add(1, Ordering::Relaxed);
        Self(surface.clone())
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        self.0.readers.fetch_sub(1, Ordering::Relaxed);
    }
}

/// `GET /v1/stream`
pub(crate) fn stream(
    surface: &Arc<Surface>,
    query: &Query,
    headers: &HeaderMap,
) -> Result<Answer, Refusal> {
    query.only(&[
        "from",
        "after",
        "consumer",
        "schema",
        "table",
        "operation",
        "where",
        "format",
        "limit",
    ])?;
    let form = Form::of(headers)?;
    let limit = query.count("limit", usize::MAX, usize::MAX)?;
    let last_event_id = headers
        .get("last-event-id")
        .map(|id| id.to_str().unwrap_or("?"));
    let begin = query.start(last_event_id)?;
    let encoder = encoder(surface, query)?;
    let (reader, _) = Reader::open(surface, query, begin, Start::Latest)?;
    let (pieces, body) = mpsc::channel(1);
    let counted = Counted::new(surface);
    let stop = surface.stop();
    tokio::spawn(async move {
        feed(reader, Lines::new(form, encoder), limit, pieces, stop).await;
        drop(counted);
    });
    Ok(reply::pieces(form.content_type(), body))
}

fn encoder(surface: &Surface, query: &Query) -> Result<Encoder, Refusal> {
    // A consumer's format is its emitter's.
    let (configured, style) = match query.one("consumer")? {
        Some(name) => consumer::format(surface.live()?, name)?,
        None => (surface.config().format, surface.config().style),
    };
    Ok(style.encoder(query.format(configured)?))
}

/// Makes the pieces of a stream until the client leaves, the limit, or the end.
async fn feed(
    mut reader: Reader,
    mut lines: Lines,
    limit: usize,
    pieces: mpsc::Sender<Bytes>,
    mut stop: Shutdown,
) {
    let mut left = limit;
    // What the client knows to be covered, and when it was told anything.
    let (mut told, mut spoke) = (None, Instant::now());
    loop {
        if !lines.buffer.is_empty() {
            let piece = Bytes::from(std::mem::take(&mut lines.buffer));
            let sent = tokio::select! {
                biased;
                () = stop.asked() => return,
                sent = pieces.send(piece) => sent,
            };
            if sent.is_err() {
                return;
            }
            spoke = Instant::now();
        }
        if left == 0 {
            return;
        }
        let fed = tokio::select! {
            biased;
            () = stop.asked() => return,
            () = pieces.closed() => return,
            fed = reader.next(PROGRESS, STREAM_EVENTS.min(left), PIECE_BYTES) => fed,
        };
        let fed = match fed {
            Ok(fed) => fed,
            Err(refusal) => {
                lines.refusal(&refusal);
                left = 0;
                continue;
            }
        };
        if let Some(source) = &fed.source {
            for item in fed.items.iter().take(left) {
                lines.item(source, item);
                if lines.buffer.len() >= PIECE_BYTES {
                    let piece = Bytes::from(std::mem::take(&mut lines.buffer));
                    let sent = tokio::select! {
                        biased;
                        () = stop.asked() => return,
                        sent = pieces.send(piece) => sent,
                    };
                    if sent.is_err() {
                        return;
                    }
                    spoke = Instant::now();
                }
            }
        }
        left -= fed.items.len().min(left);
        let quiet = spoke.elapsed();
        let moved = fed.end.is_some() && fed.end != told;
        if !fed.items.is_empty() {
            told = fed.end;
        } else if (moved && quiet >= PROGRESS) || quiet >= HEARTBEAT {
            lines.heartbeat(fed.source.as_deref().zip(fed.end));
            told = fed.end;
        }
        if fed.finished {
            left = 0;
        }
    }
}

/// `GET /v1/events`: what there is behind a token, waiting for the first event if asked to.
pub(crate) async fn events(surface: &Arc<Surface>, query: &Query) -> Result<Answer, Refusal> {
    query.only(&[
        "from",
        "after",
        "consumer",
        "schema",
        "table",
        "operation",
        "where",
        "format",
        "limit",
        "wait",
    ])?;
    let limit = query.count("limit", 100, POLL_EVENTS_MAX)?;
    let wait = query.wait()?;
    let encoder = encoder(surface, query)?;
    let begin = query.start(None)?;
    let (mut reader, extent) = Reader::open(surface, query, begin, Start::Earliest)?;
    let _counted = Counted::new(surface);
    let deadline = Instant::now() + wait;
    let mut stop = surface.stop();
    let mut next = reader.has();
    let (mut events, mut errors, mut count) = (Vec::new(), Vec::new(), 0usize);
    loop {
        let left = deadline.saturating_duration_since(Instant::now());
        let fed = tokio::select! {
            biased;
            () = stop.asked() => break,
            fed = reader.next(left.min(PROGRESS), limit, POLL_BYTES) => fed?,
        };
        if let Some(source) = &fed.source {
            for item in &fed.items {
                document(&encoder, source, item, &mut events, &mut errors);
            }
        }
        count += fed.items.len();
        next = fed.end.unwrap_or(next);
        // The log may have events that the filter drops: go on to those it keeps.
        let reached = next >= extent.end || matches!(reader, Reader::Consumer { .. });
        if count > 0 || fed.finished || (left.is_zero() && reached) {
            break;
        }
        if left.is_zero() && Instant::now() > deadline + HEARTBEAT {
            break;
        }
    }
    let mut body = b"{\"events\":[".to_vec();
    body.append(&mut events);
    body.extend_from_slice(b"],\"errors\":[");
    body.append(&mut errors);
    let token = ResumeToken::new(*extent.lineage(), next);
    body.extend_from_slice(format!("],\"next\":\"{token}\"}}\n").as_bytes());
    Ok(reply::whole(StatusCode::OK, "application/json", body))
}

#[cfg(test)]
mod tests {
    use super::super::{PullEmitter, Pulled};
    use super::*;
    use crate::assemble::start::LogView;
    use crate::config::{HttpConfig, Style};
    use cdc_core::envelope::Format;
    use cdc_core::{Emitter as _, Journal as _, Lsn, testing};
    use cdc_dlq::{DlqOptions, FileDlq};
    use cdc_filter::{Action, FilterConfig, Mask, TransformConfig};
    use cdc_wal::{FileJournal, JournalConfig};
    use std::sync::Mutex;

    /// A pipeline whose only emitter is fetched.
    fn live(handle: PullHandle) -> Live {
        Live {
            log: LogView::Directory("nowhere".into()),
            lanes: Vec::new(),
            pulls: vec![Pulled {
                name: "app".to_owned(),
                format: Format::Json,
                style: Style::default(),
                handle,
            }],
            capture: None,
            status: Box::new(|| panic!("nobody asks")),
        }
    }

    fn extent() -> Extent {
        Extent {
            source: testing::source(),
            oldest: Position::ZERO,
            end: Position::end_of(Lsn(100)),
        }
    }

    fn consumer(live: &Live, query: &str) -> Result<Reader, Refusal> {
        let query = Query::parse(query)?;
        Reader::consumer(live, &query, "app", query.start(None)?, &extent())
    }

    /// A consumer that has not acknowledged yet what it has is not sent back by a poll without events.
    #[tokio::test]
    async fn a_quiet_poll_goes_on_where_its_reader_was() {
        let mut emitter = PullEmitter::new(1 << 20, 10);
        let live = live(emitter.handle());
        emitter.resume(None).await.unwrap();
        for commit in [3, 5] {
            let batch = testing::transaction(commit, 1, 1);
            emitter.emit(&batch).await.unwrap();
        }
        let at = |commit| Position::new(Lsn(commit), 0);
        live.pulls[0].handle.acknowledge(at(3));
        let token = ResumeToken::new(*extent().lineage(), at(5));
        let mut reader = consumer(&live, &format!("after={token}")).ok().unwrap();
        let fed = reader.next(Duration::ZERO, 10, 100).await.ok().unwrap();
        assert!(fed.items.is_empty() && fed.end.is_none());
        assert_eq!(reader.has(), at(5));
        // One that says nothing begins with what is not acknowledged.
        let reader = consumer(&live, "").ok().unwrap();
        assert_eq!(reader.has(), at(3));
    }

    /// Whether a filter is given once or twice: a consumer that believes in it would be wrong.
    #[test]
    fn a_consumer_takes_no_filter() {
        let live = live(PullEmitter::new(1 << 20, 10).handle());
        assert!(consumer(&live, "limit=1").is_ok());
        for query in [
            "table=a",
            "table=a&table=b",
            "where=x&where=y",
            "operation=",
        ] {
            let refusal = consumer(&live, query).err().unwrap();
            assert_eq!(refusal.status, StatusCode::BAD_REQUEST, "{query}");
            assert!(refusal.message.contains("not for consumers"), "{query}");
        }
    }

    /// A log with one row (`id` 1, `name` "name"), and a surface that changes what it shows.
    async fn shown(actions: Vec<Action>, query: &str) -> Vec<Item> {
        let dir = tempfile::tempdir().unwrap();
        let journal = JournalConfig {
            background: false,
            ..JournalConfig::new(dir.path().join("journal"))
        };
        let mut journal = FileJournal::open(journal, &testing::source()).unwrap();
        journal.append(&testing::transaction(5, 1, 1)).unwrap();
        journal.flush().unwrap();
        let live = Live {
            log: LogView::Open(journal.log().clone()),
            ..live(PullEmitter::new(1 << 20, 10).handle())
        };
        let transform = |action| TransformConfig {
            tables: Vec::new(),
            operations: Vec::new(),
            action,
        };
        let config = HttpConfig {
            listen: ([127, 0, 0, 1], 0).into(),
            token: None,
            reads_need_token: false,
            origins: Vec::new(),
            connections_max: 1,
            write_timeout: Duration::ZERO,
            filter: FilterConfig::default(),
            transforms: actions.into_iter().map(transform).collect(),
            format: Format::Json,
            style: Style::default(),
        };
        let letters = dir.path().join("dlq");
        let storage = cdc_core::storage::StdStorage::shared();
        let letters = FileDlq::open(storage, &letters, DlqOptions::default()).unwrap();
        let surface = Surface::new(config, Arc::new(Mutex::new(letters)), Shutdown::new().1);
        let (surface, query) = (Arc::new(surface.unwrap()), Query::parse(query).unwrap());
        let extent = live.extent().ok().unwrap();
        let reader = Reader::log(&surface, &live, &query, &Start::Earliest, &extent);
        let mut reader = reader.ok().unwrap();
        let fed = reader.next(Duration::ZERO, 10, 1 << 20).await;
        fed.ok().unwrap().items
    }

    /// Who may not see a value may not ask for it either, answer by answer.
    #[tokio::test]
    async fn a_condition_is_asked_of_what_is_shown() {
        let mask = || Action::Mask {
            columns: vec!["name".into()],
            with: Mask::Stars,
        };
        for (query, found) in [
            ("", 1),
            ("where=after.name.startsWith('n')", 0),
            ("where=after.name+==+'name'", 0),
            ("where=after.name+==+'****'", 1),
            ("where=after.id+==+1", 1),
            ("where=after.id+==+2", 0),
        ] {
            let items = shown(vec![mask()], query).await;
            assert_eq!(items.len(), found, "{query}");
        }
        assert_eq!(
            shown(Vec::new(), "where=after.name+==+'name'").await.len(),
            1
        );
    }

    /// A table is asked for by the name it is shown under; one that cannot be changed is named whatever was
    /// asked of its row, and to everybody if its name might have been another one.
    #[tokio::test]
    async fn names_are_those_that_are_shown() {
        let rename = || Action::RenameTable {
            schema: None,
            table: Some("clients".into()),
        };
        // A key column cannot be masked.
        let fails = || Action::Mask {
            columns: vec!["id".into()],
            with: Mask::Stars,
        };
        let table = &testing::relation().table;
        for (actions, query, found) in [
            (vec![rename()], "table=clients".to_owned(), 1),
            (vec![rename()], format!("table={table}"), 0),
            (vec![fails()], format!("table={table}"), 1),
            (
                vec![fails()],
                format!("table={table}&where=after.name+==+'x'"),
                1,
            ),
            (vec![fails()], "table=other".to_owned(), 0),
            (vec![fails(), rename()], "table=clients".to_owned(), 1),
        ] {
            let failing = matches!(actions[0], Action::Mask { .. });
            let items = shown(actions, &query).await;
            assert_eq!(items.len(), found, "{query}");
            let failed = |item: &Item| matches!(item, Item::Failed { .. });
            assert!(items.iter().all(|item| failed(item) == failing), "{query}");
        }
    }
}
