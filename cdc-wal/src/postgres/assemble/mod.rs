//! Messages to change events: transactions, positions, relations. Pure, no I/O.

use std::collections::HashMap;
use std::sync::Arc;

use bytes::Bytes;
use cdc_core::row::RowWriter;
use cdc_core::{
    ChangeEvent, Image, Lsn, Op, Position, Relation, RowImage, SourceError, SourceErrorKind,
    Transaction,
};

use super::decode::{Message, Oids, Old, Tuple};
use super::relation::{OldForm, OwnedDef, Table, message_relation};
use super::value::Scratch;

/// Which form an image has; its bytes are a range of the arena.
#[derive(Clone, Copy, Debug)]
enum Form {
    Absent,
    Full,
    Key,
    Partial,
}

#[derive(Clone, Copy, Debug)]
struct Part {
    form: Form,
    start: usize,
    len: usize,
}

impl Part {
    const ABSENT: Self = Self {
        form: Form::Absent,
        start: 0,
        len: 0,
    };
}

/// An event whose rows are still in the arena.
#[derive(Debug)]
struct Draft {
    position: Position,
    relation: Arc<Relation>,
    transaction: Transaction,
    last: bool,
    op: Op,
    before: Part,
    after: Part,
}

#[derive(Debug)]
struct Open {
    commit: Lsn,
    transaction: Transaction,
    next_ordinal: u32,
    /// The transaction was given out before: its changes are dropped.
    skip: bool,
}

/// Takes messages in stream order and keeps finished events until they are taken.
///
/// Memory: what [`Assembler::take`] has not taken yet; the caller stops pushing at its limit. A
/// transaction's last event is held back until the next message tells that it was the last.
#[derive(Debug)]
pub(crate) struct Assembler {
    tables: HashMap<u32, Arc<Table>>,
    /// The table of the last change: most changes are of the same one as the change before.
    last_table: Option<(u32, Arc<Table>)>,
    prefixes: HashMap<String, Arc<Relation>>,
    scratch: Scratch,
    arena: Vec<u8>,
    drafts: Vec<Draft>,
    /// The last draft waits for the next message.
    held: bool,
    open: Option<Open>,
    /// Whole transactions up to here are dropped on arrival.
    floor: Position,
    /// Everything up to here was pushed; ends on a whole transaction.
    covered: Position,
}

fn corrupt(what: impl std::fmt::Display) -> SourceError {
    SourceError::new(
        SourceErrorKind::Corrupt,
        format!("decode the replication stream: {what}"),
    )
}

impl Assembler {
    /// Most prefixes of logical messages whose relation is kept for sharing.
    const PREFIXES_MAX: usize = 256;

    /// Drops transactions at or below `floor`.
    pub(crate) fn new(floor: Position) -> Self {
        // Inside a transaction the whole of it comes again.
        let covered = if floor.is_transaction_end() {
            floor
        } else {
            Position::before(floor.commit)
        };
        Self {
            tables: HashMap::new(),
            last_table: None,
            prefixes: HashMap::new(),
            scratch: Scratch::default(),
            arena: Vec::new(),
            drafts: Vec::new(),
            held: false,
            open: None,
            floor,
            covered,
        }
    }

    /// The connection broke: an unfinished transaction will come again from its beginning, and
    /// relations will be described anew.
    pub(crate) fn restart(&mut self) {
        if let Some(open) = self.open.take() {
            let whole = |draft: &Draft| draft.position.commit != open.commit;
            let keep = self.drafts.iter().take_while(|draft| whole(draft)).count();
            self.drafts.truncate(keep);
        }
        self.held = false;
        self.tables.clear();
        self.last_table = None;
        self.floor = self.floor.max(self.covered);
    }

    /// Finished events not taken yet.
    pub(crate) fn ready(&self) -> usize {
        self.drafts.len() - usize::from(self.held)
    }

    /// Bytes of rows held.
    pub(crate) fn bytes(&self) -> usize {
        self.arena.len()
    }

    /// Everything up to here has been pushed; ends on a whole transaction.
    pub(crate) const fn covered(&self) -> Position {
        self.covered
    }

    /// Everything committed below `wal_end` has been sent. Means nothing inside a transaction.
    pub(crate) fn keepalive(&mut self, wal_end: u64) {
        if self.open.is_none() {
            self.covered = self.covered.max(Position::before(Lsn(wal_end)));
        }
    }

    /// A table as described by the stream and completed from the catalog.
    pub(crate) fn define(&mut self, def: &OwnedDef, table: Table) {
        self.last_table = None;
        // The same shape keeps its `Arc`, so that consumers may compare by pointer.
        if let Some(known) = self.tables.get(&def.oid)
            && *known.relation == *table.relation
        {
            let table = Table {
                relation: known.relation.clone(),
                ..table
            };
            self.tables.insert(def.oid, Arc::new(table));
            return;
        }
        self.tables.insert(def.oid, Arc::new(table));
    }

    /// Takes one message; relations go to [`Assembler::define`] instead.
    pub(crate) fn push(
        &mut self,
        message: &Message<'_>,
        sent_micros: i64,
    ) -> Result<(), SourceError> {
        match message {
            Message::Insert { relation, new } => self.row(*relation, Op::Insert, None, Some(new)),
            Message::Update { relation, old, new } => {
                self.row(*relation, Op::Update, old.as_ref(), Some(new))
            }
            Message::Delete { relation, old } => self.row(*relation, Op::Delete, Some(old), None),
            Message::Begin {
                commit_lsn,
                commit_micros,
                xid,
            } => self.begin(*commit_lsn, *commit_micros, *xid),
            Message::Commit { commit_lsn } => self.commit(*commit_lsn),
            Message::Truncate { relations } => self.truncate(*relations),
            Message::Logical {
                transactional,
                lsn,
                prefix,
                content,
            } => self.logical(*transactional, *lsn, prefix, content, sent_micros),
            Message::Relation(_) | Message::Skipped => Ok(()),
        }
    }

    fn begin(&mut self, commit: u64, commit_micros: i64, xid: u32) -> Result<(), SourceError> {
        if self.open.is_some() {
            return Err(corrupt("a transaction begins inside another"));
        }
        let commit = Lsn(commit);
        let skip = Position::end_of(commit) <= self.floor;
        if !skip && commit <= self.covered.commit {
            return Err(corrupt(format_args!(
                "the commit at {commit} comes after {}",
                self.covered
            )));
        }
        self.open = Some(Open {
            commit,
            transaction: Transaction {
                id: u64::from(xid),
                commit_micros,
            },
            next_ordinal: 0,
            skip,
        });
        Ok(())
    }

    fn commit(&mut self, commit: u64) -> Result<(), SourceError> {
        let open = self
            .open
            .take()
            .ok_or_else(|| corrupt("a commit without its begin"))?;
        if open.commit != Lsn(commit) {
            return Err(corrupt(format_args!(
                "the transaction of {} is committed at {}",
                open.commit,
                Lsn(commit)
            )));
        }
        if std::mem::take(&mut self.held)
            && let Some(draft) = self.drafts.last_mut()
        {
            draft.last = true;
        }
        self.covered = self.covered.max(Position::end_of(open.commit));
        Ok(())
    }

    /// The place of the next event of the open transaction; `None` if it is to be dropped.
    #[inline]
    fn place(&mut self) -> Result<Option<(Position, Transaction)>, SourceError> {
        let Some(open) = &mut self.open else {
            return Err(corrupt("a change outside a transaction"));
        };
        if open.skip {
            return Ok(None);
        }
        let ordinal = open.next_ordinal;
        if ordinal == Position::END {
            return Err(SourceError::new(
                SourceErrorKind::Unsupported,
                format!(
                    "read the transaction of {}: it has more than {} changes",
                    open.commit,
                    Position::END
                ),
            ));
        }
        open.next_ordinal += 1;
        Ok(Some((
            Position::new(open.commit, ordinal),
            open.transaction,
        )))
    }

    #[inline]
    fn table(&mut self, oid: u32) -> Result<Arc<Table>, SourceError> {
        if let Some((last, table)) = &self.last_table
            && *last == oid
        {
            return Ok(table.clone());
        }
        let unknown = || {
            corrupt(format_args!(
                "a change of relation {oid}, which was not described"
            ))
        };
        let table = self.tables.get(&oid).ok_or_else(unknown)?;
        self.last_table = Some((oid, table.clone()));
        Ok(table.clone())
    }

    fn row(
        &mut self,
        oid: u32,
        op: Op,
        old: Option<&Old<'_>>,
        new: Option<&Tuple<'_>>,
    ) -> Result<(), SourceError> {
        let Some((position, transaction)) = self.place()? else {
            return Ok(());
        };
        let table = self.table(oid)?;
        let width = table.width();
        if new.is_some_and(|t| t.len() != width) || old.is_some_and(|t| t.tuple().len() != width) {
            return Err(corrupt(format_args!(
                "a row of {} does not have its {width} columns",
                table.relation.qualified_name()
            )));
        }
        let (arena, scratch) = (&mut self.arena, &mut self.scratch);
        let mut before = Part::ABSENT;
        if let Some(old) = old {
            let start = arena.len();
            let form = table.write_old(arena, scratch, old);
            before = Part {
                form: match form {
                    OldForm::Key => Form::Key,
                    OldForm::Full => Form::Full,
                    OldForm::Partial => Form::Partial,
                },
                start,
                len: arena.len() - start,
            };
        }
        let mut after = Part::ABSENT;
        if let Some(new) = new {
            let start = arena.len();
            let full = table.write_new(arena, scratch, new, old);
            after = Part {
                form: if full { Form::Full } else { Form::Partial },
                start,
                len: arena.len() - start,
            };
        }
        self.hold(Draft {
            position,
            relation: table.relation_in(transaction.id).clone(),
            transaction,
            last: false,
            op,
            before,
            after,
        });
        Ok(())
    }

    fn truncate(&mut self, relations: Oids<'_>) -> Result<(), SourceError> {
        for oid in relations.iter() {
            let Some((position, transaction)) = self.place()? else {
                return Ok(());
            };
            let relation = self.table(oid)?.relation_in(transaction.id).clone();
            self.hold(Draft {
                position,
                relation,
                transaction,
                last: false,
                op: Op::Truncate,
                before: Part::ABSENT,
                after: Part::ABSENT,
            });
        }
        Ok(())
    }

    /// A transactional message is an event of its transaction. One that is not is written to the
    /// log at once and sent at its own place in it, never inside a transaction: its LSN is its
    /// position, as if it were a transaction of one event.
    fn logical(
        &mut self,
        transactional: bool,
        lsn: u64,
        prefix: &str,
        content: &[u8],
        sent_micros: i64,
    ) -> Result<(), SourceError> {
        let place = if transactional {
            self.place()?
        } else if self.open.is_some() {
            return Err(corrupt("a message of no transaction inside one"));
        } else {
            // The server gives the LSN *behind* the message's record, where the next one begins:
            // that may be a commit, and two events must not share a position. The byte before
            // lies inside the message's own record.
            let at = Lsn(lsn.saturating_sub(1));
            let end = Position::end_of(at);
            let again = end <= self.floor;
            if !again && at <= self.covered.commit {
                return Err(corrupt(format_args!(
                    "the message at {at} comes after {}",
                    self.covered
                )));
            }
            self.covered = self.covered.max(end);
            let transaction = Transaction {
                id: 0,
                commit_micros: sent_micros,
            };
            (!again).then_some((Position::new(at, 0), transaction))
        };
        let Some((position, transaction)) = place else {
            return Ok(());
        };
        let relation = self.prefix(prefix);
        let start = self.arena.len();
        let mut row = RowWriter::new(&mut self.arena);
        row.bytes(content);
        let len = row.finish();
        self.hold(Draft {
            position,
            relation,
            transaction,
            last: !transactional,
            op: Op::Message,
            before: Part::ABSENT,
            after: Part {
                form: Form::Full,
                start,
                len,
            },
        });
        self.held = transactional;
        Ok(())
    }

    fn prefix(&mut self, prefix: &str) -> Arc<Relation> {
        if let Some(known) = self.prefixes.get(prefix) {
            return known.clone();
        }
        if self.prefixes.len() >= Self::PREFIXES_MAX {
            self.prefixes.clear();
        }
        let relation = message_relation(prefix);
        self.prefixes.insert(prefix.to_owned(), relation.clone());
        relation
    }

    #[inline]
    fn hold(&mut self, draft: Draft) {
        self.drafts.push(draft);
        self.held = true;
    }

    /// Moves the finished events out, with the position they reach.
    pub(crate) fn take(&mut self) -> (Vec<ChangeEvent>, Position) {
        let held = if self.held { self.drafts.pop() } else { None };
        let keep_from = held
            .as_ref()
            .map_or(self.arena.len(), |draft| draft.rows_start(self.arena.len()));
        let tail = self.arena.get(keep_from..).unwrap_or_default();
        // As much as this batch needed, so that filling the next one does not grow step by step.
        let mut next = Vec::with_capacity(tail.len() + keep_from + keep_from / 8);
        next.extend_from_slice(tail);
        self.arena.truncate(keep_from);
        let rows = Bytes::from(std::mem::replace(&mut self.arena, next));
        let drafts = std::mem::take(&mut self.drafts);
        self.drafts.reserve(drafts.len().min(1 << 16));
        let events: Vec<ChangeEvent> = drafts.into_iter().map(|d| d.finish(&rows)).collect();
        if let Some(mut draft) = held {
            for part in [&mut draft.before, &mut draft.after] {
                part.start = part.start.saturating_sub(keep_from);
            }
            self.drafts.push(draft);
        }
        self.scratch.trim();
        let end = events
            .last()
            .map_or(self.covered, |event| self.covered.max(event.position));
        (events, end)
    }
}

impl Draft {
    /// Where this draft's rows begin; they are the arena's last.
    fn rows_start(&self, end: usize) -> usize {
        [self.before, self.after]
            .iter()
            .filter(|part| !matches!(part.form, Form::Absent))
            .map(|part| part.start)
            .min()
            .unwrap_or(end)
    }

    fn finish(self, rows: &Bytes) -> ChangeEvent {
        let image = |part: Part| {
            let row = || RowImage::from_bytes(rows.slice(part.start..part.start + part.len));
            match part.form {
                Form::Absent => Image::Absent,
                Form::Full => Image::Full(row()),
                Form::Key => Image::Key(row()),
                Form::Partial => Image::Partial(row()),
            }
        };
        let mut event = ChangeEvent::new(self.position, self.relation, self.transaction, self.op);
        event.last = self.last;
        event.before = image(self.before);
        event.after = image(self.after);
        event
    }
}

#[cfg(test)]
mod tests;
