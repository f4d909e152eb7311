//! Relations: the shape of a table (collection, bucket, label, ...) at one position.

use std::fmt;
use std::sync::Arc;

/// The data model of the engine an event comes from.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[repr(u8)]
pub enum EngineKind {
    /// Tables of rows.
    #[default]
    Relational = 0,
    /// Collections of documents.
    Document = 1,
    /// Nodes and edges.
    Graph = 2,
    /// Data structures in memory.
    InMemory = 3,
    /// Ordered keys and values.
    KeyValue = 4,
    /// Vectors with payloads.
    Vector = 5,
    /// Objects in buckets.
    FileStore = 6,
    /// Markdown documents in folders.
    Markdown = 7,
}

impl EngineKind {
    /// Every kind, in format order.
    pub const ALL: [Self; 8] = [
        Self::Relational,
        Self::Document,
        Self::Graph,
        Self::InMemory,
        Self::KeyValue,
        Self::Vector,
        Self::FileStore,
        Self::Markdown,
    ];

    /// The name in events and configuration.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Relational => "relational",
            Self::Document => "document",
            Self::Graph => "graph",
            Self::InMemory => "inmemory",
            Self::KeyValue => "keyvalue",
            Self::Vector => "vector",
            Self::FileStore => "filestore",
            Self::Markdown => "markdown",
        }
    }

    /// The kind with this format number.
    pub fn from_u8(number: u8) -> Option<Self> {
        Self::ALL.get(usize::from(number)).copied()
    }
}

impl fmt::Display for EngineKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// One column (field, property) of a relation.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Column {
    /// Its name.
    pub name: Arc<str>,
    /// The source's own type name, for people and typed consumers (`numeric(10,2)`, `int8`, ...).
    pub type_name: Arc<str>,
}

impl Column {
    /// A column.
    pub fn new(name: impl Into<Arc<str>>, type_name: impl Into<Arc<str>>) -> Self {
        Self {
            name: name.into(),
            type_name: type_name.into(),
        }
    }
}

/// The shape of a table at one position. Rows are read by column ordinal against it.
///
/// At most [`Relation::COLUMNS_MAX`] columns.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Relation {
    /// Data model of the engine.
    pub engine: EngineKind,
    /// Schema, database, bucket's tenant, ...; may be empty.
    pub schema: Arc<str>,
    /// Table, collection, bucket, label, ...
    pub table: Arc<str>,
    /// Columns in order.
    pub columns: Vec<Column>,
    /// Ordinals of the key columns, ascending; empty if the table has no key.
    pub key: Vec<u16>,
    /// Schema version as the source counts or fingerprints it; equal versions of one table mean
    /// equal shapes.
    pub version: u32,
}

impl Relation {
    /// Most columns a relation may have.
    pub const COLUMNS_MAX: usize = 8192;

    /// A relation; `key` holds ordinals into `columns`.
    pub fn new(
        engine: EngineKind,
        schema: impl Into<Arc<str>>,
        table: impl Into<Arc<str>>,
        columns: Vec<Column>,
        key: Vec<u16>,
    ) -> Self {
        Self {
            engine,
            schema: schema.into(),
            table: table.into(),
            columns,
            key,
            version: 0,
        }
    }

    /// The ordinal of the column with this name.
    pub fn ordinal(&self, column: &str) -> Option<usize> {
        self.columns.iter().position(|c| &*c.name == column)
    }

    /// `schema.table`, or the table alone if there is no schema.
    pub fn qualified_name(&self) -> String {
        if self.schema.is_empty() {
            self.table.to_string()
        } else {
            format!("{}.{}", self.schema, self.table)
        }
    }
}
