//! Lineage: which history a position belongs to.

use std::fmt;
use std::sync::Arc;

/// What kind of log a position comes from. The number is part of the resume token's format.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[repr(u8)]
#[non_exhaustive]
pub enum SourceKind {
    /// A log of `cdc-wal`, written by an engine that embeds it.
    Wal = 1,
    /// PostgreSQL logical replication.
    Postgres = 2,
    /// A SQLite `-wal` file.
    Sqlite = 3,
    /// RocksDB's write-ahead log files.
    RocksDb = 4,
}

impl SourceKind {
    /// True if positions count bytes of the source's log: their difference is a size.
    pub const fn counts_bytes(self) -> bool {
        matches!(self, Self::Wal | Self::Postgres)
    }

    /// The name in events, configuration and status output.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Wal => "wal",
            Self::Postgres => "postgres",
            Self::Sqlite => "sqlite",
            Self::RocksDb => "rocksdb",
        }
    }

    /// The kind with this format number.
    pub const fn from_u8(number: u8) -> Option<Self> {
        match number {
            1 => Some(Self::Wal),
            2 => Some(Self::Postgres),
            3 => Some(Self::Sqlite),
            4 => Some(Self::RocksDb),
            _ => None,
        }
    }
}

impl fmt::Display for SourceKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// The history a position belongs to: positions of different lineages do not compare.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct Lineage {
    /// Kind of log.
    pub kind: SourceKind,
    /// 128 bits from what the source calls itself (PostgreSQL: system identifier and database
    /// oid; native log: its UUID).
    pub source_id: [u8; 16],
    /// Timeline or epoch: grows when history forks (promotion, restore).
    pub timeline: u32,
}

impl Lineage {
    /// A lineage from its parts.
    pub const fn new(kind: SourceKind, source_id: [u8; 16], timeline: u32) -> Self {
        Self {
            kind,
            source_id,
            timeline,
        }
    }

    /// True if `other` is the same source, whatever the timeline.
    pub fn same_source(&self, other: &Self) -> bool {
        self.kind == other.kind && self.source_id == other.source_id
    }
}

impl fmt::Display for Lineage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}-", self.kind)?;
        for byte in self.source_id {
            write!(f, "{byte:02x}")?;
        }
        write!(f, "/{}", self.timeline)
    }
}

impl fmt::Debug for Lineage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Lineage({self})")
    }
}

/// What a stream of events comes from; one per source, shared by all its batches.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SourceInfo {
    /// The name the operator gave the source; by default the database's name.
    pub name: Arc<str>,
    /// The database (catalogue, file stem) the events come from.
    pub database: Arc<str>,
    /// The history positions belong to.
    pub lineage: Lineage,
}

impl SourceInfo {
    /// A source's description.
    pub fn new(name: impl Into<Arc<str>>, database: impl Into<Arc<str>>, lineage: Lineage) -> Self {
        Self {
            name: name.into(),
            database: database.into(),
            lineage,
        }
    }
}
