//! Changes that are lost and that a person has accepted as lost: recorded in the stream itself.

use std::sync::Arc;

use crate::{
    ChangeEvent, Column, EngineKind, EventBatch, Image, Op, Position, Relation, RowImage,
    SourceInfo, Transaction, Value,
};

/// The prefix of the message that stands in the stream where changes are missing.
pub const GAP_PREFIX: &str = "weftkit.cdc.gap";

/// A batch with one message: what was committed behind `lost_after` and before `resumes_at` is
/// missing, and was accepted as missing.
///
/// The message is an [`Op::Message`] with prefix [`GAP_PREFIX`]; its `content` is JSON with
/// `lost_after`, `resumes_at` (positions) and `accepted_at` (microseconds since 1970). It stands at
/// the last commit LSN before `resumes_at`, in a transaction of its own with id 0, so what follows
/// has a higher position, and `end` of the batch is `resumes_at`.
///
/// `resumes_at` must be the end of a commit, behind `lost_after`.
pub fn accepted_gap(
    source: Arc<SourceInfo>,
    lost_after: Position,
    resumes_at: Position,
    accepted_micros: i64,
) -> EventBatch {
    let content = format!(
        "{{\"lost_after\":\"{lost_after}\",\"resumes_at\":\"{resumes_at}\",\"accepted_at\":{accepted_micros}}}"
    );
    let columns = vec![Column::new("content", "json")];
    let relation = Relation::new(EngineKind::Relational, "", GAP_PREFIX, columns, Vec::new());
    let transaction = Transaction {
        id: 0,
        commit_micros: accepted_micros,
    };
    let position = Position::new(resumes_at.commit, 0);
    let mut event = ChangeEvent::new(position, Arc::new(relation), transaction, Op::Message);
    event.last = true;
    event.after = Image::Full(RowImage::from_values(&[Value::Json(content)]));
    EventBatch::new(source, vec![event], resumes_at)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::envelope::{Encoder, Format};
    use crate::{Lsn, testing};

    #[test]
    fn every_format_can_say_what_is_missing_and_the_stream_goes_on_behind_it() {
        let lost_after = Position::end_of(Lsn(100));
        let resumes_at = Position::before(Lsn(200));
        let batch = accepted_gap(testing::source(), lost_after, resumes_at, 7);
        assert_eq!(batch.end(), resumes_at);
        let [event] = batch.events() else {
            panic!("one event")
        };
        assert!(event.last && lost_after < event.position && event.position < resumes_at);
        for format in Format::ALL {
            let mut out = Vec::new();
            let encoder = Encoder::new(format);
            encoder
                .encode(batch.source(), event, &mut out)
                .expect("said");
            if format == Format::Json {
                let line = String::from_utf8(out).expect("text");
                let content = format!(
                    "\"table\":\"weftkit.cdc.gap\",\"tx\":{{\"id\":\"0\",\"ordinal\":0,\"last\":true}},\"ts\":\"1970-01-01T00:00:00.000007Z\",\"key\":null,\"before\":null,\
                     \"after\":{{\"content\":{{\"lost_after\":\"{lost_after}\",\"resumes_at\":\"{resumes_at}\",\"accepted_at\":7}}}}}}"
                );
                assert!(line.ends_with(&content), "{line}");
            }
        }
    }
}
