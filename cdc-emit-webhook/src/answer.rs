//! What the body of a success says: perhaps that some events failed.

use cdc_core::{EventBatch, EventId, Rejection};

/// The member that lists refused events, as AWS Lambda's event sources have it:
/// `{"batchItemFailures":[{"itemIdentifier":"<event id>"}]}`.
const FAILURES: &str = "batchItemFailures";
/// Why an answer that is too long to read and may list failures tells nothing.
pub(crate) const TOO_LONG: &str = "its answer may list failed events and is too long to read";

/// Looks for the list of failures in what is too long to be kept, piece by piece.
#[derive(Debug)]
pub(crate) struct Search {
    /// The end of what came so far, in which the word may have begun.
    tail: Vec<u8>,
}

impl Search {
    /// Begins behind bytes that were looked at: only a word that reaches beyond their end counts.
    pub(crate) fn behind(bytes: &[u8]) -> Self {
        let tail = &bytes[bytes.len().saturating_sub(FAILURES.len() - 1)..];
        let tail = tail.to_vec();
        Self { tail }
    }

    /// True if the word ends in this piece.
    pub(crate) fn finds(&mut self, piece: &[u8]) -> bool {
        self.tail.extend_from_slice(piece);
        let found = mentions(&self.tail);
        let rest = self.tail.len().saturating_sub(FAILURES.len() - 1);
        self.tail.drain(..rest);
        found
    }
}

fn mentions(bytes: &[u8]) -> bool {
    bytes
        .windows(FAILURES.len())
        .any(|window| window == FAILURES.as_bytes())
}

/// Reads the failures out of the body of a 2xx answer. Any body that does not list failures is a
/// plain success. `whole` is false if the body was longer than what is kept; the rest does not hold
/// the word.
///
/// # Errors
/// The answer lists failures in a way that leaves open which events failed.
pub(crate) fn rejections(
    batch: &EventBatch,
    body: &[u8],
    whole: bool,
    status: u16,
) -> Result<Vec<Rejection>, &'static str> {
    if !mentions(body) {
        return Ok(Vec::new());
    }
    if !whole {
        return Err(TOO_LONG);
    }
    let Ok(answer) = serde_json::from_slice::<serde_json::Value>(body) else {
        return Err("its answer lists failed events and is not JSON");
    };
    let Some(failures) = answer.get(FAILURES) else {
        // The words stand somewhere else, in an echo of the request for example.
        return Ok(Vec::new());
    };
    let items = match failures {
        serde_json::Value::Null => return Ok(Vec::new()),
        serde_json::Value::Array(items) => items,
        _ => return Err("its batchItemFailures is not a list"),
    };
    let lineage = &batch.source().lineage;
    let ids: Vec<_> = batch
        .events()
        .iter()
        .map(|event| EventId::new(lineage, event.position).to_bytes())
        .collect();
    let mut indices = Vec::with_capacity(items.len());
    for item in items {
        let Some(id) = item
            .get("itemIdentifier")
            .and_then(serde_json::Value::as_str)
        else {
            return Err("its batchItemFailures has an item without itemIdentifier");
        };
        // Ids of one source sort by position, and positions ascend in a batch.
        let found = ids.binary_search_by(|known| known.as_slice().cmp(id.as_bytes()));
        indices.push(found.map_err(|_| "its batchItemFailures names an event that was not sent")?);
    }
    indices.sort_unstable();
    indices.dedup();
    let reject = |index| Rejection {
        index,
        message: "the receiver listed the event in batchItemFailures".to_owned(),
        status: Some(status),
    };
    Ok(indices.into_iter().map(reject).collect())
}

/// An excerpt of a body for people: text, at most 1 KiB, without control characters.
pub(crate) fn excerpt(body: &[u8]) -> String {
    let head = &body[..body.len().min(cdc_core::EmitError::RESPONSE_MAX)];
    let text = String::from_utf8_lossy(head);
    text.trim()
        .chars()
        .map(|c| if c.is_control() { ' ' } else { c })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use cdc_core::testing;
    use proptest::prelude::*;

    #[test]
    fn answers_of_all_kinds() {
        let batch = testing::transaction(5, 1, 4);
        let id = |n: usize| {
            EventId::new(&batch.source().lineage, batch.events()[n].position).to_string()
        };
        let list = |ids: &[String]| {
            let items: Vec<_> = ids
                .iter()
                .map(|id| format!(r#"{{"itemIdentifier":"{id}"}}"#))
                .collect();
            format!(r#"{{"batchItemFailures":[{}]}}"#, items.join(","))
        };
        let indices = |body: &str| {
            rejections(&batch, body.as_bytes(), true, 200)
                .map(|all| all.into_iter().map(|r| r.index).collect::<Vec<_>>())
        };
        for body in [
            "",
            "ok",
            "{}",
            "[1]",
            "{\"ok\":true}",
            r#"{"batchItemFailures":[]}"#,
            r#"{"batchItemFailures":null}"#,
            r#"{"echo":"batchItemFailures"}"#,
        ] {
            assert_eq!(indices(body), Ok(vec![]), "{body}");
        }
        assert_eq!(indices(&list(&[id(3), id(0), id(3)])), Ok(vec![0, 3]));
        for body in [
            list(&["nobody".into()]),
            list(&[id(1), String::new()]),
            r#"{"batchItemFailures":7}"#.into(),
            r#"{"batchItemFailures":[{}]}"#.into(),
            r#"{"batchItemFailures":[{"itemIdentifier":5}]}"#.into(),
            r#"{"batchItemFailures":["#.into(),
        ] {
            assert!(indices(&body).is_err(), "{body}");
        }
        assert!(rejections(&batch, list(&[id(1)]).as_bytes(), false, 200).is_err());
        assert_eq!(rejections(&batch, b"long", false, 200), Ok(vec![]));
    }

    proptest! {
        /// Wherever the pieces are cut, and wherever what was looked at ends.
        #[test]
        fn a_search_finds_the_word_across_pieces(
            before in 0usize..40,
            seen in 0usize..80,
            piece in 1usize..30,
            there in any::<bool>(),
        ) {
            let word = if there { FAILURES } else { "batchItemFailuree" };
            let text = [&vec![b'b'; before], word.as_bytes(), &[b's'; 40]].concat();
            let (seen, rest) = text.split_at(seen.min(text.len()));
            let mut search = Search::behind(seen);
            let found = rest.chunks(piece).any(|piece| search.finds(piece));
            prop_assert_eq!(found || mentions(seen), there);
        }

        #[test]
        fn any_bytes_are_no_panic(body in prop::collection::vec(any::<u8>(), 0..200)) {
            let _ = rejections(&testing::transaction(5, 1, 2), &body, true, 200);
            prop_assert!(excerpt(&body).chars().all(|c| !c.is_control()));
        }
    }
}
