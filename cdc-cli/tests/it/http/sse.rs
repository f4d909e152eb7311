//! Server-sent events read to the letter of the HTML standard ("interpreting an event stream"):
//! what a browser's EventSource would dispatch, and the last event id it would send when it
//! connects again.

/// A dispatched event.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Dispatched {
    pub(crate) kind: String,
    pub(crate) data: String,
    pub(crate) last_event_id: String,
}

/// A reader of a stream.
#[derive(Debug, Default)]
pub(crate) struct EventSource {
    pub(crate) events: Vec<Dispatched>,
    /// What would be sent as `Last-Event-ID`.
    pub(crate) last_event_id: String,
    pub(crate) retry_millis: Option<u64>,
    id: String,
    data: String,
    kind: String,
}

impl EventSource {
    /// Reads a whole stream; an unfinished event at its end is discarded, as the standard says.
    pub(crate) fn read(text: &str) -> Self {
        let mut source = Self::default();
        let text = text.strip_prefix('\u{feff}').unwrap_or(text);
        let text = text.replace("\r\n", "\n").replace('\r', "\n");
        for line in text.split_inclusive('\n') {
            if let Some(line) = line.strip_suffix('\n') {
                source.line(line);
            }
        }
        source
    }

    fn line(&mut self, line: &str) {
        if line.is_empty() {
            return self.dispatch();
        }
        let (field, value) = match line.split_once(':') {
            Some(("", _)) => return,
            Some((field, value)) => (field, value.strip_prefix(' ').unwrap_or(value)),
            None => (line, ""),
        };
        match field {
            "event" => value.clone_into(&mut self.kind),
            "data" => {
                self.data.push_str(value);
                self.data.push('\n');
            }
            "id" if !value.contains('\0') => value.clone_into(&mut self.id),
            "retry" if !value.is_empty() && value.bytes().all(|b| b.is_ascii_digit()) => {
                self.retry_millis = value.parse().ok();
            }
            _ => {}
        }
    }

    fn dispatch(&mut self) {
        self.last_event_id = self.id.clone();
        let (data, kind) = (
            std::mem::take(&mut self.data),
            std::mem::take(&mut self.kind),
        );
        let Some(data) = data.strip_suffix('\n') else {
            return;
        };
        self.events.push(Dispatched {
            kind: if kind.is_empty() {
                "message".into()
            } else {
                kind
            },
            data: data.to_owned(),
            last_event_id: self.last_event_id.clone(),
        });
    }

    /// The documents that `onmessage` would get.
    pub(crate) fn messages(&self) -> Vec<serde_json::Value> {
        let messages = self.events.iter().filter(|event| event.kind == "message");
        messages
            .map(|event| serde_json::from_str(&event.data).unwrap())
            .collect()
    }
}

#[test]
fn the_reader_follows_the_standard() {
    let read = EventSource::read(
        "\u{feff}: comment\nretry: 5\nid: 1\ndata: a\ndata:b\n\nid: 2\n\nevent: x\rdata\r\r\ndata: unfinished",
    );
    let event = |kind: &str, data: &str, id: &str| Dispatched {
        kind: kind.into(),
        data: data.into(),
        last_event_id: id.into(),
    };
    assert_eq!(
        read.events,
        [event("message", "a\nb", "1"), event("x", "", "2")]
    );
    assert_eq!(
        (read.last_event_id.as_str(), read.retry_millis),
        ("2", Some(5))
    );
}
