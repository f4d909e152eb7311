//! What the documents of one relation say again and again, spelled once.
//!
//! Names of columns have to be escaped, and a document begins with the same source, schema and
//! table as the one before. Each thread keeps the spelling of the relations it met last.

use std::cell::Cell;
use std::sync::Arc;

use super::image::Piece;
use super::{json, text, time};
use crate::{EventId, Lsn, Relation, SourceInfo};

/// Relations a thread remembers; a stream that alternates between more spells some again.
const SLOTS: usize = 16;

thread_local! {
    static RECENT: [Cell<Option<Box<Spelled>>>; SLOTS] = const { [const { Cell::new(None) }; SLOTS] };
}

/// The constant parts of a relation's documents.
pub(super) struct Spelled {
    /// Keeps the relation, so that its address means nothing else.
    relation: Arc<Relation>,
    source: SourceInfo,
    /// From behind `op` (or `cause`) to before the transaction's id.
    middle: Vec<u8>,
    /// `,"name":` of every column, and room behind the last one for [`text::piece`].
    members: Vec<u8>,
    /// Where each member ends.
    ends: Vec<usize>,
    /// A commit's time and its text: a transaction's events say it again and again.
    time: Cell<Option<(i64, [u8; time::COMMIT_LEN])>>,
    /// A commit's part of ids and positions, likewise.
    commit: Cell<Option<CommitText>>,
    /// Memory for the pieces of a row, used again.
    pieces: Cell<Vec<Piece>>,
}

/// What the id and the position of a commit's events begin with.
#[derive(Clone, Copy)]
pub(super) struct CommitText {
    source: u64,
    commit: Lsn,
    id: [u8; EventId::COMMIT_LEN],
    /// As it is printed, with the colon; filled up.
    position: [u8; Self::POSITION_LEN],
    position_len: u8,
}

impl CommitText {
    /// `FFFFFFFF/FFFFFFFF:`.
    const POSITION_LEN: usize = 18;

    fn new(id: EventId) -> Self {
        let commit = id.position().commit;
        let mut text = Vec::with_capacity(Self::POSITION_LEN);
        json::commit(&mut text, commit);
        let mut position = [0; Self::POSITION_LEN];
        for (to, from) in position.iter_mut().zip(&text) {
            *to = *from;
        }
        Self {
            source: id.source(),
            commit,
            id: id.commit_bytes(),
            position,
            position_len: u8::try_from(text.len()).unwrap_or_default(),
        }
    }

    pub(super) fn id(&self) -> &[u8] {
        &self.id
    }

    pub(super) fn position(&self) -> &[u8] {
        let length = usize::from(self.position_len);
        self.position.get(..length).unwrap_or_default()
    }
}

/// One name among the spelled ones.
#[derive(Clone, Copy)]
pub(super) struct Member<'a> {
    pub(super) members: &'a [u8],
    pub(super) from: usize,
    pub(super) end: usize,
}

impl Spelled {
    fn new(source: &SourceInfo, relation: &Arc<Relation>) -> Self {
        let mut middle = Vec::with_capacity(192);
        let out = &mut middle;
        out.extend_from_slice(b"\",\"engine\":\"");
        out.extend_from_slice(relation.engine.name().as_bytes());
        out.extend_from_slice(b"\",\"source\":{\"name\":\"");
        text::escaped(out, &source.name);
        out.extend_from_slice(b"\",\"kind\":\"");
        out.extend_from_slice(source.lineage.kind.name().as_bytes());
        out.extend_from_slice(b"\",\"database\":\"");
        text::escaped(out, &source.database);
        out.extend_from_slice(b"\"},\"schema\":\"");
        text::escaped(out, &relation.schema);
        out.extend_from_slice(b"\",\"table\":\"");
        text::escaped(out, &relation.table);
        out.extend_from_slice(b"\",\"tx\":{\"id\":\"");
        let mut members = Vec::with_capacity(relation.columns.len() * 16);
        let ends = relation.columns.iter().map(|column| {
            members.extend_from_slice(b",\"");
            text::escaped(&mut members, &column.name);
            members.extend_from_slice(b"\":");
            members.len()
        });
        let ends = ends.collect();
        members.resize(members.len() + text::STEP, 0);
        Self {
            relation: relation.clone(),
            source: source.clone(),
            middle,
            members,
            ends,
            time: Cell::new(None),
            commit: Cell::new(None),
            pieces: Cell::new(Vec::new()),
        }
    }

    fn is_of(&self, source: &SourceInfo, relation: &Arc<Relation>) -> bool {
        // The name is compared by content: a source's description may be made anew.
        Arc::ptr_eq(&self.relation, relation)
            && self.source.name == source.name
            && self.source.database == source.database
            && self.source.lineage.kind == source.lineage.kind
    }

    pub(super) fn middle(&self) -> &[u8] {
        &self.middle
    }

    /// `,"name":` of every column, in order.
    pub(super) fn members(&self) -> impl Iterator<Item = Member<'_>> {
        let (members, mut from) = (&*self.members, 0);
        self.ends.iter().map(move |&end| {
            let member = Member { members, from, end };
            from = end;
            member
        })
    }

    /// Calls `write` with an empty list for the pieces of a row.
    #[inline]
    pub(super) fn with_pieces<T>(&self, write: impl FnOnce(&mut Vec<Piece>) -> T) -> T {
        let mut pieces = self.pieces.take();
        pieces.clear();
        let written = write(&mut pieces);
        self.pieces.set(pieces);
        written
    }

    /// The commit's part of an id and its position.
    #[inline]
    pub(super) fn commit(&self, id: EventId) -> CommitText {
        match self.commit.get() {
            Some(known) if known.commit == id.position().commit && known.source == id.source() => {
                known
            }
            _ => {
                let text = CommitText::new(id);
                self.commit.set(Some(text));
                text
            }
        }
    }

    /// Appends the time of a commit.
    #[inline]
    pub(super) fn commit_time(&self, out: &mut Vec<u8>, micros: i64) {
        if let Some((known, text)) = self.time.get()
            && known == micros
        {
            out.extend_from_slice(&text);
            return;
        }
        let start = out.len();
        time::commit_time(out, micros);
        let text = out.get(start..).and_then(|text| text.try_into().ok());
        self.time.set(text.map(|text| (micros, text)));
    }
}

/// Calls `write` with the spelling of the relation.
#[inline]
pub(super) fn with<T>(
    source: &SourceInfo,
    relation: &Arc<Relation>,
    write: impl FnOnce(&Spelled) -> T,
) -> T {
    // Relations are allocated in steps of at least 16 bytes.
    let slot = (Arc::as_ptr(relation).addr() >> 4) % SLOTS;
    RECENT.with(|recent| {
        let Some(cell) = recent.get(slot) else {
            return write(&Spelled::new(source, relation));
        };
        // Taken out meanwhile: should `write` come back here, it makes its own.
        let spelled = match cell.take() {
            Some(spelled) if spelled.is_of(source, relation) => spelled,
            _ => Box::new(Spelled::new(source, relation)),
        };
        let written = write(&spelled);
        cell.set(Some(spelled));
        written
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::envelope::{Encoder, Format};
    use crate::{ChangeEvent, testing};

    fn line(source: &SourceInfo, event: &ChangeEvent) -> String {
        let mut out = Vec::new();
        let encoder = Encoder::new(Format::Json);
        encoder.encode(source, event, &mut out).expect("an event");
        String::from_utf8(out).expect("text")
    }

    /// More tables than slots, in turns, whose relations are replaced and freed: every document
    /// says its own source, table and columns.
    #[test]
    fn no_document_has_another_relations_words() {
        let mut template = testing::insert(1, 0, 7);
        template.transaction.commit_micros = 7_000_007;
        for round in 0..3 {
            for table in 0..3 * SLOTS {
                for name in ["a", "b"] {
                    let mut source = SourceInfo::clone(&testing::source());
                    source.name = name.into();
                    let mut relation = Relation::clone(&template.relation);
                    relation.table = format!("t{table}").into();
                    // Shorter and longer than a block that is copied at once.
                    let column = format!("c{table}{}", "-".repeat(table));
                    relation.columns[1].name = format!("{column}\"{round}").into();
                    let mut event = template.clone();
                    event.relation = Arc::new(relation);
                    let before = line(&source, &event);
                    assert!(before.contains("T00:00:07.000007Z"), "{before}");
                    event.transaction.commit_micros = 8_000_008;
                    let line = line(&source, &event);
                    for part in [
                        format!("\"source\":{{\"name\":\"{name}\","),
                        format!("\"table\":\"t{table}\",\"tx\":"),
                        format!(",\"{column}\\\"{round}\":"),
                        "T00:00:08.000008Z".to_owned(),
                    ] {
                        assert!(line.contains(&part), "{line} lacks {part}");
                    }
                }
            }
        }
    }

    /// Commits and sources in turns, of one relation: every document says its own id and position.
    #[test]
    fn no_document_has_another_commits_id_or_position() {
        let mut event = testing::insert(1, 0, 7);
        for (commit, ordinal) in [(1, 0), (1, 1), (0x1_0000_0abc, 1), (u64::MAX, 77), (1, 2)] {
            for first in [0x5a, 0x5b] {
                let mut source = SourceInfo::clone(&testing::source());
                source.lineage.source_id[0] = first;
                event.position = crate::Position::new(Lsn(commit), ordinal);
                let id = EventId::new(&source.lineage, event.position);
                let begin = format!("{{\"id\":\"{id}\",\"position\":\"{}\",", event.position);
                let line = line(&source, &event);
                assert!(
                    line.starts_with(&begin),
                    "{line} does not begin with {begin}"
                );
            }
        }
    }
}
