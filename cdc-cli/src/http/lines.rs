//! Events as readers get them: server-sent events, lines of JSON, members of one document.

use cdc_core::envelope::{Encoder, json_string};
use cdc_core::{ChangeEvent, EventId, Position, ResumeToken, SourceInfo};
use hyper::StatusCode;
use hyper::header::{ACCEPT, HeaderMap};

use super::reply::Refusal;

/// What a browser waits before it connects again, in milliseconds.
const RECONNECT_MILLIS: u32 = 1000;

/// One thing a reader is given.
pub(super) enum Item {
    Event(ChangeEvent),
    /// An event that could not be changed as configured. Named, never skipped in silence.
    Failed {
        position: Position,
        message: String,
    },
}

/// A position behind everything that comes before this one.
fn just_before(position: Position) -> Position {
    match position.ordinal.checked_sub(1) {
        Some(ordinal) => Position::new(position.commit, ordinal),
        None => Position::before(position.commit),
    }
}

/// How events stand in a stream.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Form {
    Sse,
    Ndjson,
}

impl Form {
    /// What the client takes.
    pub(super) fn of(headers: &HeaderMap) -> Result<Self, Refusal> {
        let mut any = false;
        for value in headers.get_all(ACCEPT) {
            for part in value.to_str().unwrap_or_default().split(',') {
                let kind = part.split(';').next().unwrap_or_default().trim();
                match kind.to_ascii_lowercase().as_str() {
                    "text/event-stream" | "text/*" | "*/*" => return Ok(Self::Sse),
                    "application/x-ndjson"
                    | "application/ndjson"
                    | "application/jsonl"
                    | "application/*" => return Ok(Self::Ndjson),
                    _ => any = true,
                }
            }
        }
        if !any {
            return Ok(Self::Sse);
        }
        Err(Refusal::new(
            StatusCode::NOT_ACCEPTABLE,
            "not_acceptable",
            "stream events: there are text/event-stream and application/x-ndjson",
        ))
    }

    pub(super) const fn content_type(self) -> &'static str {
        match self {
            Self::Sse => "text/event-stream",
            Self::Ndjson => "application/x-ndjson",
        }
    }
}

/// Writes items as a stream has them.
pub(super) struct Lines {
    form: Form,
    encoder: Encoder,
    pub(super) buffer: Vec<u8>,
}

impl Lines {
    pub(super) fn new(form: Form, encoder: Encoder) -> Self {
        let mut buffer = Vec::new();
        if form == Form::Sse {
            buffer.extend_from_slice(format!("retry: {RECONNECT_MILLIS}\n\n").as_bytes());
        }
        Self {
            form,
            encoder,
            buffer,
        }
    }

    fn id(&mut self, source: &SourceInfo, position: Position) {
        let token = ResumeToken::new(source.lineage, position);
        self.buffer
            .extend_from_slice(format!("id: {token}\n").as_bytes());
    }

    pub(super) fn item(&mut self, source: &SourceInfo, item: &Item) {
        let event = match item {
            Item::Event(event) => event,
            Item::Failed { position, message } => {
                return self.failed(source, *position, "transform", message);
            }
        };
        let start = self.buffer.len();
        if self.form == Form::Sse {
            self.id(source, event.position);
            self.buffer.extend_from_slice(b"data: ");
        }
        let first = self.buffer.len();
        let line = &mut |out: &mut Vec<u8>| out.push(b'\n');
        let count = match self
            .encoder
            .encode_each(source, event, &mut self.buffer, line)
        {
            Ok(count) => count,
            Err(error) => {
                self.buffer.truncate(start);
                return self.failed(source, event.position, "encode", &error.to_string());
            }
        };
        if self.form == Form::Ndjson {
            return;
        }
        if count == 1 {
            return self.buffer.push(b'\n');
        }
        // Each document is an event of its own to the client; only with the last it has all of this one.
        let documents = self.buffer.split_off(first);
        self.buffer.truncate(start);
        let mut lines = documents.split_inclusive(|&byte| byte == b'\n').peekable();
        while let Some(line) = lines.next() {
            let at = match lines.peek() {
                Some(_) => just_before(event.position),
                None => event.position,
            };
            self.id(source, at);
            self.buffer.extend_from_slice(b"data: ");
            self.buffer.extend_from_slice(line);
            self.buffer.push(b'\n');
        }
    }

    /// An event that cannot be given: named, in the stream.
    fn failed(&mut self, source: &SourceInfo, position: Position, stage: &str, message: &str) {
        let mut error = Vec::new();
        failed_json(&mut error, source, position, stage, message);
        match self.form {
            Form::Sse => {
                self.id(source, position);
                self.named("cdc-error", &error);
            }
            Form::Ndjson => {
                self.buffer.extend_from_slice(&error);
                self.buffer.push(b'\n');
            }
        }
    }

    fn named(&mut self, event: &str, data: &[u8]) {
        self.buffer
            .extend_from_slice(format!("event: {event}\ndata: ").as_bytes());
        self.buffer.extend_from_slice(data);
        self.buffer.extend_from_slice(b"\n\n");
    }

    /// Says how far the stream reaches without an event: the client's last event id moves.
    pub(super) fn heartbeat(&mut self, at: Option<(&SourceInfo, Position)>) {
        match (self.form, at) {
            (Form::Sse, Some((source, position))) => {
                self.id(source, position);
                self.buffer.push(b'\n');
            }
            (Form::Sse, None) => self.buffer.extend_from_slice(b":\n\n"),
            (Form::Ndjson, Some((source, position))) => {
                let token = ResumeToken::new(source.lineage, position);
                let line = format!("{{\"heartbeat\":\"{token}\"}}\n");
                self.buffer.extend_from_slice(line.as_bytes());
            }
            (Form::Ndjson, None) => self.buffer.extend_from_slice(b"{\"heartbeat\":null}\n"),
        }
    }

    /// The stream ends for a reason.
    pub(super) fn refusal(&mut self, refusal: &Refusal) {
        let json = refusal.json().to_string();
        match self.form {
            Form::Sse => self.named("cdc-error", json.as_bytes()),
            Form::Ndjson => {
                self.buffer.extend_from_slice(json.as_bytes());
                self.buffer.push(b'\n');
            }
        }
    }
}

fn failed_json(
    out: &mut Vec<u8>,
    source: &SourceInfo,
    position: Position,
    stage: &str,
    message: &str,
) {
    let id = EventId::new(&source.lineage, position);
    out.extend_from_slice(
        format!("{{\"error\":{{\"kind\":\"event_failed\",\"stage\":\"{stage}\",\"event_id\":\"{id}\",\"message\":").as_bytes(),
    );
    json_string(out, message);
    out.extend_from_slice(b"}}");
}

/// Adds an item to the members of the document.
pub(super) fn document(
    encoder: &Encoder,
    source: &SourceInfo,
    item: &Item,
    events: &mut Vec<u8>,
    errors: &mut Vec<u8>,
) {
    let start = events.len();
    let failed = match item {
        Item::Failed { position, message } => (*position, "transform", message.clone()),
        Item::Event(event) => {
            if start > 0 {
                events.push(b',');
            }
            let separate = &mut |out: &mut Vec<u8>| out.push(b',');
            match encoder.encode_each(source, event, events, separate) {
                Ok(_) => {
                    // The separator behind the last document.
                    events.pop();
                    return;
                }
                Err(error) => (event.position, "encode", error.to_string()),
            }
        }
    };
    events.truncate(start);
    if !errors.is_empty() {
        errors.push(b',');
    }
    let (position, stage, message) = failed;
    failed_json(errors, source, position, stage, &message);
}

#[cfg(test)]
mod tests {
    use super::*;
    use cdc_core::envelope::Format;
    use cdc_core::{Image, Op, testing};

    fn lines(form: Form) -> Lines {
        Lines::new(form, Encoder::new(Format::Json))
    }

    fn text(lines: &Lines) -> &str {
        std::str::from_utf8(&lines.buffer).unwrap()
    }

    #[test]
    fn the_form_is_what_the_client_takes() {
        for (accept, form) in [
            (None, Some(Form::Sse)),
            (Some("*/*"), Some(Form::Sse)),
            (Some("text/event-stream"), Some(Form::Sse)),
            (
                Some("application/x-ndjson; q=1, text/html"),
                Some(Form::Ndjson),
            ),
            (Some("application/jsonl"), Some(Form::Ndjson)),
            (Some("text/html, application/x-ndjson"), Some(Form::Ndjson)),
            (Some("text/html"), None),
        ] {
            let mut headers = HeaderMap::new();
            if let Some(accept) = accept {
                headers.insert(ACCEPT, accept.parse().unwrap());
            }
            assert_eq!(Form::of(&headers).ok(), form, "{accept:?}");
        }
    }

    #[test]
    fn an_event_that_cannot_be_given_is_named() {
        let source = testing::source();
        let item = Item::Failed {
            position: testing::insert(7, 0, 1).position,
            message: "mask column card: it is no text".into(),
        };
        let mut sse = lines(Form::Sse);
        sse.buffer.clear();
        sse.item(&source, &item);
        assert!(text(&sse).starts_with("id: cdc1_"), "{}", text(&sse));
        assert!(text(&sse).contains("\nevent: cdc-error\ndata: {\"error\":"));
        let mut ndjson = lines(Form::Ndjson);
        ndjson.item(&source, &item);
        let line: serde_json::Value = serde_json::from_str(text(&ndjson)).unwrap();
        assert_eq!(line["error"]["stage"], "transform");
        assert_eq!(line["error"]["message"], "mask column card: it is no text");
    }

    #[test]
    fn heartbeats_move_the_last_event_id_and_dispatch_nothing() {
        let source = testing::source();
        let mut sse = lines(Form::Sse);
        sse.buffer.clear();
        sse.heartbeat(Some((&source, Position::ZERO)));
        let text = text(&sse);
        assert!(text.starts_with("id: cdc1_") && text.ends_with("\n\n") && !text.contains("data"));
    }

    /// An update that changes the key: two documents in `debezium`.
    fn key_changed(commit: u64, ordinal: u32) -> ChangeEvent {
        let mut event = testing::insert(commit, ordinal, 2);
        event.op = Op::Update;
        event.before = Image::Full(testing::row(1, "name", "1.50"));
        event
    }

    /// A line of a server-sent event that is neither its id nor its data would be dropped, and with it the row.
    #[test]
    fn a_changed_key_is_two_events_of_a_stream() {
        let source = testing::source();
        for (commit, ordinal) in [(7, 0), (7, 3)] {
            let event = key_changed(commit, ordinal);
            let here = event.position;
            let mut sse = Lines::new(Form::Sse, Encoder::new(Format::Debezium));
            sse.buffer.clear();
            sse.item(&source, &Item::Event(event));
            let mut ops = Vec::new();
            let mut ids = Vec::new();
            for dispatched in text(&sse).split_terminator("\n\n") {
                let (id, data) = dispatched.split_once('\n').unwrap();
                let id: ResumeToken = id.strip_prefix("id: ").unwrap().parse().unwrap();
                let data = data.strip_prefix("data: ").unwrap();
                let data: serde_json::Value = serde_json::from_str(data).unwrap();
                ops.push(data["op"].as_str().unwrap().to_owned());
                ids.push(id.position());
            }
            assert_eq!(ops, ["d", "c"]);
            // Who leaves between the two is given both again, and nothing from before.
            assert!(ids[0] < here && ids[1] == here, "{ids:?}");
            let previous = match ordinal {
                0 => Position::end_of(cdc_core::Lsn(commit - 1)),
                _ => Position::new(here.commit, ordinal - 1),
            };
            assert!(ids[0] >= previous, "{ids:?}");
        }
    }

    #[test]
    fn a_changed_key_is_two_members_of_a_document() {
        let source = testing::source();
        let encoder = Encoder::new(Format::Debezium);
        let (mut events, mut errors) = (Vec::new(), Vec::new());
        for item in [testing::insert(6, 0, 1), key_changed(7, 0)] {
            document(
                &encoder,
                &source,
                &Item::Event(item),
                &mut events,
                &mut errors,
            );
        }
        let array = [b"[", events.as_slice(), b"]"].concat();
        let array: Vec<serde_json::Value> = serde_json::from_slice(&array).unwrap();
        let ops: Vec<_> = array.iter().map(|event| event["op"].as_str()).collect();
        assert_eq!(ops, [Some("c"), Some("d"), Some("c")]);
        assert!(errors.is_empty());
    }
}
