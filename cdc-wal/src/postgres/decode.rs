//! Bytes of the replication stream to borrowed messages: pure, no I/O, no allocation.
//!
//! Two layers: the walsender's envelope ([`copy_data`]) and pgoutput, protocol version 1
//! ([`message`]). Any bytes give a message or a [`DecodeError`]; none panic. All integers are
//! big-endian, as PostgreSQL sends them.

use std::fmt;

/// Microseconds between 1970-01-01 and 2000-01-01, PostgreSQL's epoch.
pub(crate) const EPOCH_MICROS: i64 = 946_684_800_000_000;

/// The bytes are not what the protocol says. Names the place, never the contents.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct DecodeError {
    pub(crate) what: &'static str,
    pub(crate) offset: usize,
}

impl fmt::Display for DecodeError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} at byte {}", self.what, self.offset)
    }
}

impl std::error::Error for DecodeError {}

type Decoded<T> = Result<T, DecodeError>;

/// A checked walk over bytes.
#[derive(Clone, Copy)]
pub(crate) struct Reader<'a> {
    bytes: &'a [u8],
    at: usize,
}

impl<'a> Reader<'a> {
    pub(crate) const fn new(bytes: &'a [u8]) -> Self {
        Self { bytes, at: 0 }
    }

    #[cold]
    fn error(&self, what: &'static str) -> DecodeError {
        DecodeError {
            what,
            offset: self.at,
        }
    }

    #[inline]
    fn take(&mut self, n: usize) -> Decoded<&'a [u8]> {
        match self
            .at
            .checked_add(n)
            .and_then(|end| self.bytes.get(self.at..end))
        {
            Some(slice) => {
                self.at += n;
                Ok(slice)
            }
            None => Err(self.error("message cut off")),
        }
    }

    #[inline]
    fn array<const N: usize>(&mut self) -> Decoded<[u8; N]> {
        match self.take(N)?.first_chunk::<N>() {
            Some(chunk) => Ok(*chunk),
            None => Err(self.error("message cut off")),
        }
    }

    #[inline]
    pub(crate) fn u8(&mut self) -> Decoded<u8> {
        Ok(self.array::<1>()?[0])
    }

    #[inline]
    pub(crate) fn u16(&mut self) -> Decoded<u16> {
        Ok(u16::from_be_bytes(self.array()?))
    }

    #[inline]
    pub(crate) fn u32(&mut self) -> Decoded<u32> {
        Ok(u32::from_be_bytes(self.array()?))
    }

    #[inline]
    pub(crate) fn i32(&mut self) -> Decoded<i32> {
        Ok(i32::from_be_bytes(self.array()?))
    }

    #[inline]
    pub(crate) fn u64(&mut self) -> Decoded<u64> {
        Ok(u64::from_be_bytes(self.array()?))
    }

    #[inline]
    pub(crate) fn i64(&mut self) -> Decoded<i64> {
        Ok(i64::from_be_bytes(self.array()?))
    }

    /// Bytes up to a zero byte, which is consumed.
    pub(crate) fn cstr(&mut self) -> Decoded<&'a [u8]> {
        let rest = self.rest();
        match rest.iter().position(|&b| b == 0) {
            Some(length) => {
                self.at += length + 1;
                Ok(&rest[..length])
            }
            None => Err(self.error("text without its end")),
        }
    }

    fn name(&mut self) -> Decoded<&'a str> {
        let at = self.at;
        std::str::from_utf8(self.cstr()?).map_err(|_| DecodeError {
            what: "name is not UTF-8",
            offset: at,
        })
    }

    /// What is left, without consuming it.
    pub(crate) fn rest(&self) -> &'a [u8] {
        self.bytes.get(self.at..).unwrap_or_default()
    }

    /// A length-prefixed value; `None` for the length -1.
    pub(crate) fn nullable(&mut self) -> Decoded<Option<&'a [u8]>> {
        let length = self.i32()?;
        if length == -1 {
            return Ok(None);
        }
        let length = usize::try_from(length).map_err(|_| self.error("negative length"))?;
        self.take(length).map(Some)
    }

    fn end(&self) -> Decoded<()> {
        if self.rest().is_empty() {
            Ok(())
        } else {
            Err(self.error("bytes after the message's end"))
        }
    }
}

/// What the walsender puts into one CopyData.
#[derive(Debug)]
pub(crate) enum Envelope<'a> {
    /// One message of the output plugin.
    Data {
        /// The server's WAL end when it was sent.
        wal_end: u64,
        /// When it was sent, microseconds since 1970.
        sent_micros: i64,
        /// The plugin's bytes.
        payload: &'a [u8],
    },
    /// Everything committed below `wal_end` has been sent.
    Keepalive {
        /// The walsender's position.
        wal_end: u64,
        /// The server wants a status update now.
        reply: bool,
    },
}

/// Reads the walsender's envelope.
pub(crate) fn copy_data(bytes: &[u8]) -> Decoded<Envelope<'_>> {
    let mut r = Reader::new(bytes);
    match r.u8()? {
        b'w' => {
            let _start = r.u64()?;
            let wal_end = r.u64()?;
            let sent_micros = r.i64()?.saturating_add(EPOCH_MICROS);
            Ok(Envelope::Data {
                wal_end,
                sent_micros,
                payload: r.rest(),
            })
        }
        b'k' => {
            let wal_end = r.u64()?;
            let _sent = r.i64()?;
            let reply = r.u8()? != 0;
            r.end()?;
            Ok(Envelope::Keepalive { wal_end, reply })
        }
        _ => Err(DecodeError {
            what: "unknown kind of replication message",
            offset: 0,
        }),
    }
}

/// One cell of a tuple.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Cell<'a> {
    Null,
    /// A TOASTed value that did not change and was not sent.
    Unchanged,
    Text(&'a [u8]),
}

/// A row's cells; their lengths are already checked.
#[derive(Clone, Copy)]
pub(crate) struct Tuple<'a> {
    count: u16,
    bytes: &'a [u8],
}

/// Prints the number of cells only.
impl fmt::Debug for Tuple<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Tuple({} cells)", self.count)
    }
}

impl<'a> Tuple<'a> {
    fn read(r: &mut Reader<'a>) -> Decoded<Self> {
        let count = r.u16()?;
        let start = r.at;
        for _ in 0..count {
            cell(r)?;
        }
        Ok(Self {
            count,
            bytes: &r.bytes[start..r.at],
        })
    }

    /// Number of cells.
    pub(crate) fn len(&self) -> usize {
        usize::from(self.count)
    }

    /// The cells in column order.
    #[inline]
    pub(crate) fn cells(&self) -> Cells<'a> {
        Cells {
            reader: Reader::new(self.bytes),
            left: self.count,
        }
    }
}

/// Walks a tuple's cells.
pub(crate) struct Cells<'a> {
    reader: Reader<'a>,
    left: u16,
}

impl<'a> Iterator for Cells<'a> {
    type Item = Cell<'a>;

    #[inline]
    fn next(&mut self) -> Option<Cell<'a>> {
        self.left = self.left.checked_sub(1)?;
        // Checked by `Tuple::read`: an error cannot come here, and would end the walk.
        cell(&mut self.reader).ok()
    }
}

#[inline]
fn cell<'a>(r: &mut Reader<'a>) -> Decoded<Cell<'a>> {
    match r.u8()? {
        b't' => {
            let length = r.u32()? as usize;
            Ok(Cell::Text(r.take(length)?))
        }
        b'n' => Ok(Cell::Null),
        b'u' => Ok(Cell::Unchanged),
        b'b' => Err(r.error("binary value where text was asked for")),
        _ => Err(r.error("unknown kind of cell")),
    }
}

/// The old row of an update or delete.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Old<'a> {
    /// Replica identity key columns; all others are sent as null and mean nothing.
    Key(Tuple<'a>),
    /// Every column (replica identity full).
    Full(Tuple<'a>),
}

impl<'a> Old<'a> {
    pub(crate) const fn tuple(&self) -> &Tuple<'a> {
        match self {
            Self::Key(tuple) | Self::Full(tuple) => tuple,
        }
    }
}

/// A column of a relation message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct ColumnDef<'a> {
    pub(crate) key: bool,
    pub(crate) name: &'a str,
    pub(crate) type_oid: u32,
    pub(crate) type_modifier: i32,
}

/// The shape of a table as of the changes that follow.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct RelationDef<'a> {
    pub(crate) oid: u32,
    pub(crate) schema: &'a str,
    pub(crate) table: &'a str,
    /// `d`efault, `n`othing, `f`ull, `i`ndex.
    pub(crate) replica_identity: u8,
    pub(crate) columns: Vec<ColumnDef<'a>>,
}

/// The relations of a truncate.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Oids<'a>(&'a [u8]);

impl Oids<'_> {
    pub(crate) fn iter(&self) -> impl Iterator<Item = u32> + '_ {
        self.0
            .as_chunks::<4>()
            .0
            .iter()
            .map(|c| u32::from_be_bytes(*c))
    }
}

/// One message of pgoutput, protocol version 1.
#[derive(Debug)]
pub(crate) enum Message<'a> {
    Begin {
        /// LSN of the transaction's commit record.
        commit_lsn: u64,
        /// Microseconds since 1970.
        commit_micros: i64,
        xid: u32,
    },
    Commit {
        commit_lsn: u64,
    },
    Relation(RelationDef<'a>),
    Insert {
        relation: u32,
        new: Tuple<'a>,
    },
    Update {
        relation: u32,
        old: Option<Old<'a>>,
        new: Tuple<'a>,
    },
    Delete {
        relation: u32,
        old: Old<'a>,
    },
    Truncate {
        relations: Oids<'a>,
    },
    /// From `pg_logical_emit_message`.
    Logical {
        transactional: bool,
        lsn: u64,
        prefix: &'a str,
        content: &'a [u8],
    },
    /// Origin and type messages: nothing here needs them.
    Skipped,
}

/// Reads one pgoutput message.
pub(crate) fn message(bytes: &[u8]) -> Decoded<Message<'_>> {
    let mut r = Reader::new(bytes);
    let message = match r.u8()? {
        b'I' => {
            let relation = r.u32()?;
            new_tag(&mut r)?;
            Message::Insert {
                relation,
                new: Tuple::read(&mut r)?,
            }
        }
        b'U' => {
            let relation = r.u32()?;
            let old = match r.rest().first() {
                Some(b'K' | b'O') => Some(old(&mut r)?),
                _ => None,
            };
            new_tag(&mut r)?;
            Message::Update {
                relation,
                old,
                new: Tuple::read(&mut r)?,
            }
        }
        b'D' => Message::Delete {
            relation: r.u32()?,
            old: old(&mut r)?,
        },
        b'B' => Message::Begin {
            commit_lsn: r.u64()?,
            commit_micros: r.i64()?.saturating_add(EPOCH_MICROS),
            xid: r.u32()?,
        },
        b'C' => {
            let _flags = r.u8()?;
            let commit_lsn = r.u64()?;
            let _end_lsn = r.u64()?;
            let _time = r.i64()?;
            Message::Commit { commit_lsn }
        }
        b'R' => Message::Relation(relation(&mut r)?),
        b'T' => {
            let count = r.u32()? as usize;
            let _options = r.u8()?;
            let length = count
                .checked_mul(4)
                .ok_or_else(|| r.error("too many relations"))?;
            Message::Truncate {
                relations: Oids(r.take(length)?),
            }
        }
        b'M' => {
            let flags = r.u8()?;
            let lsn = r.u64()?;
            let prefix = r.name()?;
            let length = r.u32()? as usize;
            Message::Logical {
                transactional: flags & 1 == 1,
                lsn,
                prefix,
                content: r.take(length)?,
            }
        }
        b'O' | b'Y' => return Ok(Message::Skipped),
        b'b' | b'P' | b'K' | b'r' => {
            return Err(DecodeError {
                what: "a prepared transaction, which only a slot created with two_phase sends (use one created without)",
                offset: 0,
            });
        }
        _ => {
            return Err(DecodeError {
                what: "unknown kind of pgoutput message",
                offset: 0,
            });
        }
    };
    r.end()?;
    Ok(message)
}

fn new_tag(r: &mut Reader<'_>) -> Decoded<()> {
    match r.u8()? {
        b'N' => Ok(()),
        _ => Err(r.error("new row expected")),
    }
}

fn old<'a>(r: &mut Reader<'a>) -> Decoded<Old<'a>> {
    match r.u8()? {
        b'K' => Ok(Old::Key(Tuple::read(r)?)),
        b'O' => Ok(Old::Full(Tuple::read(r)?)),
        _ => Err(r.error("old row expected")),
    }
}

fn relation<'a>(r: &mut Reader<'a>) -> Decoded<RelationDef<'a>> {
    let oid = r.u32()?;
    let schema = r.name()?;
    let table = r.name()?;
    let replica_identity = r.u8()?;
    let count = r.u16()?;
    // A column takes ten bytes or more, so what is there bounds what is reserved.
    let mut columns = Vec::with_capacity(usize::from(count).min(r.rest().len() / 10));
    for _ in 0..count {
        columns.push(ColumnDef {
            key: r.u8()? & 1 == 1,
            name: r.name()?,
            type_oid: r.u32()?,
            type_modifier: r.i32()?,
        });
    }
    Ok(RelationDef {
        oid,
        // pgoutput sends no name for pg_catalog.
        schema: if schema.is_empty() {
            "pg_catalog"
        } else {
            schema
        },
        table,
        replica_identity,
        columns,
    })
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use proptest::prelude::*;

    /// Writes pgoutput messages for tests.
    #[derive(Default, Clone)]
    pub(crate) struct Build(pub(crate) Vec<u8>);

    impl Build {
        pub(crate) fn tag(tag: u8) -> Self {
            Self(vec![tag])
        }
        pub(crate) fn u8(mut self, v: u8) -> Self {
            self.0.push(v);
            self
        }
        pub(crate) fn u16(mut self, v: u16) -> Self {
            self.0.extend(v.to_be_bytes());
            self
        }
        pub(crate) fn u32(mut self, v: u32) -> Self {
            self.0.extend(v.to_be_bytes());
            self
        }
        pub(crate) fn u64(mut self, v: u64) -> Self {
            self.0.extend(v.to_be_bytes());
            self
        }
        pub(crate) fn name(mut self, v: &str) -> Self {
            self.0.extend(v.as_bytes());
            self.u8(0)
        }
        /// `None` is null, `"\u{1}"` an unchanged TOAST value.
        pub(crate) fn tuple(mut self, cells: &[Option<&str>]) -> Self {
            self = self.u16(u16::try_from(cells.len()).unwrap());
            for cell in cells {
                self = match cell {
                    None => self.u8(b'n'),
                    Some("\u{1}") => self.u8(b'u'),
                    Some(text) => {
                        self = self.u8(b't').u32(u32::try_from(text.len()).unwrap());
                        self.0.extend(text.as_bytes());
                        self
                    }
                };
            }
            self
        }
        pub(crate) fn begin(commit_lsn: u64, xid: u32) -> Vec<u8> {
            Self::tag(b'B').u64(commit_lsn).u64(1_000_000).u32(xid).0
        }
        pub(crate) fn commit(commit_lsn: u64) -> Vec<u8> {
            Self::tag(b'C')
                .u8(0)
                .u64(commit_lsn)
                .u64(commit_lsn + 48)
                .u64(1_000_000)
                .0
        }
        pub(crate) fn insert(relation: u32, cells: &[Option<&str>]) -> Vec<u8> {
            Self::tag(b'I').u32(relation).u8(b'N').tuple(cells).0
        }
        /// `columns`: key flag, name, type oid.
        pub(crate) fn relation(
            oid: u32,
            table: &str,
            identity: u8,
            columns: &[(bool, &str, u32)],
        ) -> Vec<u8> {
            let mut b = Self::tag(b'R')
                .u32(oid)
                .name("public")
                .name(table)
                .u8(identity)
                .u16(u16::try_from(columns.len()).unwrap());
            for (key, name, oid) in columns {
                b = b.u8(u8::from(*key)).name(name).u32(*oid).u32(u32::MAX);
            }
            b.0
        }
    }

    #[test]
    fn every_message_is_read() {
        let update = Build::tag(b'U')
            .u32(7)
            .u8(b'K')
            .tuple(&[Some("1"), None])
            .u8(b'N')
            .tuple(&[Some("2"), Some("\u{1}")])
            .0;
        let Message::Update {
            relation: 7,
            old: Some(Old::Key(old)),
            new,
        } = message(&update).unwrap()
        else {
            panic!("an update with a key");
        };
        assert_eq!(
            old.cells().collect::<Vec<_>>(),
            [Cell::Text(b"1"), Cell::Null]
        );
        assert_eq!(
            new.cells().collect::<Vec<_>>(),
            [Cell::Text(b"2"), Cell::Unchanged]
        );

        let delete = Build::tag(b'D').u32(7).u8(b'O').tuple(&[Some("1")]).0;
        assert!(matches!(
            message(&delete),
            Ok(Message::Delete {
                relation: 7,
                old: Old::Full(_)
            })
        ));

        let begin = Build::begin(99, 5);
        assert!(matches!(
            message(&begin),
            Ok(Message::Begin { commit_lsn: 99, xid: 5, commit_micros }) if commit_micros == EPOCH_MICROS + 1_000_000
        ));
        assert!(matches!(
            message(&Build::commit(99)),
            Ok(Message::Commit { commit_lsn: 99 })
        ));
        let truncate = Build::tag(b'T').u32(2).u8(1).u32(7).u32(8).0;
        let Message::Truncate { relations } = message(&truncate).unwrap() else {
            panic!("a truncate");
        };
        assert_eq!(relations.iter().collect::<Vec<_>>(), [7, 8]);

        let logical = Build::tag(b'M')
            .u8(1)
            .u64(55)
            .name("pre")
            .u32(2)
            .u8(1)
            .u8(0)
            .0;
        assert!(matches!(
            message(&logical),
            Ok(Message::Logical {
                transactional: true,
                lsn: 55,
                prefix: "pre",
                content: [1, 0]
            })
        ));
        let relation = Build::relation(7, "t", b'd', &[(true, "id", 20), (false, "x", 25)]);
        let Message::Relation(def) = message(&relation).unwrap() else {
            panic!("a relation");
        };
        assert_eq!(
            (def.oid, def.schema, def.table, def.replica_identity),
            (7, "public", "t", b'd')
        );
        assert_eq!(
            def.columns[0],
            ColumnDef {
                key: true,
                name: "id",
                type_oid: 20,
                type_modifier: -1
            }
        );
        for skipped in [b'O', b'Y'] {
            assert!(matches!(message(&[skipped, 1, 2, 3]), Ok(Message::Skipped)));
        }
    }

    #[test]
    fn what_a_slot_for_two_phases_sends_is_named() {
        for tag in [b'b', b'P', b'K', b'r'] {
            assert!(message(&[tag]).unwrap_err().what.contains("two_phase"));
        }
    }

    #[test]
    fn every_cut_and_every_extra_byte_is_refused() {
        let messages = [
            Build::insert(7, &[Some("abc"), None]),
            Build::begin(1, 2),
            Build::commit(1),
            Build::relation(7, "t", b'f', &[(true, "id", 20)]),
            Build::tag(b'T').u32(1).u8(0).u32(9).0,
            Build::tag(b'M').u8(0).u64(5).name("p").u32(1).u8(9).0,
        ];
        for whole in messages {
            message(&whole).unwrap();
            for end in 0..whole.len() {
                assert!(
                    message(&whole[..end]).is_err(),
                    "{:?} cut at {end}",
                    char::from(whole[0])
                );
            }
            let longer = [&whole[..], &[0]].concat();
            assert!(message(&longer).is_err());
        }
        let keepalive = [&[b'k'][..], &[0; 17]].concat();
        copy_data(&keepalive).unwrap();
        for end in 0..keepalive.len() {
            assert!(copy_data(&keepalive[..end]).is_err());
        }
    }

    proptest! {
        #[test]
        fn any_bytes_are_safe(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            let _ = copy_data(&bytes);
            for tag in *b"BCRYOIUDTM" {
                let tagged = [&[tag][..], &bytes].concat();
                if let Ok(Message::Insert { new, .. }) = message(&tagged) {
                    prop_assert_eq!(new.cells().count(), new.len());
                }
            }
        }
    }
}
