//! Which events go on: by schema, table, operation and row.

use cdc_core::{ChangeEvent, EngineKind, Filter, GAP_PREFIX, Meta, Op, Relation, Value};

use crate::cache::VerdictCache;
use crate::glob::{Pattern, Patterns};
use crate::predicate::{Predicate, PredicateError};

/// Most patterns in one list.
pub const PATTERNS_MAX: usize = 4096;

/// What a filter keeps. Everything empty keeps everything.
///
/// An event is kept if its schema, its table, its operation and its row are all wanted.
///
/// `schemas` and `tables` are lists of patterns. `*` stands for any run of characters, `?` for one,
/// `!` in front turns a pattern into an exclusion, and double quotes take a name literally
/// (`"odd.name"`). A list keeps what any pattern without `!` fits (everything, if it has none) and
/// no pattern with `!` fits; the order does not matter. Names are compared exactly, case included.
///
/// Logical messages ([`Op::Message`]) have no schema: `schemas` does not apply to them, and `tables`
/// is matched against their prefix. What the stream says of itself, that changes are missing
/// ([`accepted_gap`](cdc_core::accepted_gap)), is kept by every filter.
///
/// A node of a graph is matched by any of its labels, before or after the change: `tables` keeps it
/// if any label fits a pattern without `!` and none fits one with `!`. A Markdown document that
/// moved is kept if either folder is.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct FilterConfig {
    /// Schema patterns, one name each.
    pub schemas: Vec<String>,
    /// Table patterns: `table` (in any schema) or `schema.table`.
    pub tables: Vec<String>,
    /// Operations; empty means all.
    pub operations: Vec<Op>,
    /// A row predicate, see [`Predicate`].
    pub predicate: Option<String>,
}

/// A filter cannot be built from its configuration.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum FilterError {
    /// A pattern is malformed.
    #[error("read the pattern {pattern:?} in `{key}`: {what}")]
    Pattern {
        /// The configuration key it stands in: `schemas` or `tables`.
        key: &'static str,
        /// The pattern as configured.
        pattern: String,
        /// What is wrong with it, and what to do.
        what: &'static str,
    },
    /// A list is too long.
    #[error("read the patterns in `{key}`: {count} are too many, at most 4096 fit; use wildcards")]
    TooMany {
        /// The configuration key of the list.
        key: &'static str,
        /// How many there are.
        count: usize,
    },
    /// The row predicate is malformed.
    #[error(transparent)]
    Predicate(#[from] PredicateError),
}

pub(crate) fn patterns(key: &'static str, texts: &[String]) -> Result<Patterns, FilterError> {
    if texts.len() > PATTERNS_MAX {
        let count = texts.len();
        return Err(FilterError::TooMany { key, count });
    }
    let read = |text: &String| {
        let refuse = |what| FilterError::Pattern {
            key,
            pattern: text.chars().take(200).collect(),
            what,
        };
        let pattern = Pattern::parse(text).map_err(refuse)?;
        if key == "schemas" && pattern.qualifier.is_some() {
            return Err(refuse(
                "a schema pattern is one name; move `schema.table` to `tables`, or put a name that holds a dot in double quotes",
            ));
        }
        Ok(pattern)
    };
    Ok(Patterns::new(
        texts.iter().map(read).collect::<Result<_, _>>()?,
    ))
}

/// Keeps events by schema and table name. The verdict of a table is computed once.
#[derive(Debug)]
pub struct TableFilter {
    schemas: Patterns,
    tables: Patterns,
    cache: VerdictCache,
}

impl TableFilter {
    /// A filter from patterns, see [`FilterConfig`].
    ///
    /// # Errors
    /// [`FilterError`] names the first bad pattern.
    pub fn new(schemas: &[String], tables: &[String]) -> Result<Self, FilterError> {
        Ok(Self {
            schemas: patterns("schemas", schemas)?,
            tables: patterns("tables", tables)?,
            cache: VerdictCache::new(),
        })
    }

    /// True if events of this table are kept.
    #[inline]
    pub fn keep_relation(&self, relation: &Relation) -> bool {
        if self.schemas.is_empty() && self.tables.is_empty() {
            return true;
        }
        self.cache.keep(relation, |schema, table| {
            self.schemas.keep("", schema) && self.tables.keep(schema, table)
        })
    }

    /// The patterns, as configured, that fit none of these relations. For a warning at start: a
    /// pattern that fits nothing is most often misspelt. Exclusions that exclude nothing are left
    /// out.
    pub fn unmatched<'a>(
        &'a self,
        relations: impl IntoIterator<Item = &'a Relation>,
    ) -> Vec<&'a str> {
        let positive = |patterns: &'a Patterns| patterns.all.iter().filter(|p| !p.negative);
        let mut schemas: Vec<_> = positive(&self.schemas).collect();
        let mut tables: Vec<_> = positive(&self.tables).collect();
        for relation in relations {
            schemas.retain(|pattern| !pattern.matches("", &relation.schema));
            tables.retain(|pattern| !pattern.matches(&relation.schema, &relation.table));
        }
        schemas
            .into_iter()
            .chain(tables)
            .map(|pattern| pattern.text.as_str())
            .collect()
    }
}

impl TableFilter {
    /// A node is in all of its labels' tables; a document that moved was in another folder.
    fn keep_with_meta(&self, event: &ChangeEvent, meta: &Meta) -> bool {
        if event.relation.engine == EngineKind::Markdown && self.keep_relation(&event.relation) {
            return true;
        }
        self.schemas.keep("", &event.relation.schema) && fits_with_meta(&self.tables, event, meta)
    }
}

/// What of an event says that it is in more tables than its relation's, if there are such.
pub(crate) fn meta_of_tables(event: &ChangeEvent) -> Option<&Meta> {
    let meta = event.meta.as_deref()?;
    let engine = event.relation.engine;
    matches!(engine, EngineKind::Graph | EngineKind::Markdown).then_some(meta)
}

/// True if table patterns keep an event that may be in several tables: a node is in all of its
/// labels', and a document that moved was in another folder.
pub(crate) fn fits_with_meta(tables: &Patterns, event: &ChangeEvent, meta: &Meta) -> bool {
    let relation = &*event.relation;
    let (schema, table) = (&*relation.schema, &*relation.table);
    let entry = |wanted: &str| {
        let mut entries = meta.0.iter();
        entries.find_map(|(name, value)| (**name == *wanted).then_some(value))
    };
    let left = match entry("old_table") {
        Some(Value::Text(left)) => Some(left.as_str()),
        _ => None,
    };
    if relation.engine == EngineKind::Graph {
        let labels = match entry("labels") {
            Some(Value::Array(labels)) => labels.as_slice(),
            _ => &[],
        };
        let labels = labels.iter().filter_map(|label| match label {
            Value::Text(label) => Some(label.as_str()),
            _ => None,
        });
        let names = labels.chain([table]).chain(left);
        return tables.keep_any(schema, &names);
    }
    tables.keep(schema, table) || left.is_some_and(|left| tables.keep(schema, left))
}

impl Filter for TableFilter {
    #[inline]
    fn keep(&self, event: &ChangeEvent) -> bool {
        if let Some(meta) = meta_of_tables(event)
            && !self.tables.is_empty()
        {
            return self.keep_with_meta(event, meta);
        }
        if event.op == Op::Message {
            // Prefixes are free text: they would fill the cache with names that never come again.
            return self.tables.is_empty()
                || self.tables.keep("", &event.relation.table)
                || tells_of_gap(event);
        }
        self.keep_relation(&event.relation)
    }
}

/// True for the message that says what is missing: nobody who gets a part of a stream has chosen not
/// to know that.
#[inline]
fn tells_of_gap(event: &ChangeEvent) -> bool {
    event.op == Op::Message && *event.relation.table == *GAP_PREFIX
}

/// A set of operations.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Ops(u16);

impl Ops {
    /// These, or all if there are none.
    pub(crate) fn new(ops: &[Op]) -> Self {
        match ops {
            [] => Self(u16::MAX),
            ops => Self(ops.iter().fold(0, |set, op| set | Self::bit(*op))),
        }
    }

    const fn bit(op: Op) -> u16 {
        1 << op as u16
    }

    pub(crate) const fn contains(self, op: Op) -> bool {
        self.0 & Self::bit(op) != 0
    }

    pub(crate) const fn without(self, op: Op) -> Self {
        Self(self.0 & !Self::bit(op))
    }
}

/// Keeps events by operation, schema, table and row predicate, in that order of cost.
///
/// ```
/// use cdc_core::{Filter, Op};
/// use cdc_filter::{EventFilter, FilterConfig};
///
/// let filter = EventFilter::new(&FilterConfig {
///     schemas: vec!["public".into()],
///     tables: vec!["order*".into(), "!orders_tmp".into()],
///     operations: vec![Op::Insert, Op::Update],
///     predicate: Some("op != 'update' || after.total != before.total".into()),
/// })?;
/// # let _ = |event: &cdc_core::ChangeEvent| filter.keep(event);
/// # Ok::<(), cdc_filter::FilterError>(())
/// ```
#[derive(Debug)]
pub struct EventFilter {
    ops: Ops,
    tables: TableFilter,
    predicate: Option<Predicate>,
}

impl EventFilter {
    /// A filter from its configuration.
    ///
    /// # Errors
    /// [`FilterError`] names what is wrong with the configuration, and where.
    pub fn new(config: &FilterConfig) -> Result<Self, FilterError> {
        Ok(Self {
            ops: Ops::new(&config.operations),
            tables: TableFilter::new(&config.schemas, &config.tables)?,
            predicate: config
                .predicate
                .as_deref()
                .map(Predicate::parse)
                .transpose()?,
        })
    }

    /// The part that decides by table.
    pub const fn tables(&self) -> &TableFilter {
        &self.tables
    }

    /// The row predicate, if there is one.
    pub const fn predicate(&self) -> Option<&Predicate> {
        self.predicate.as_ref()
    }

    /// The schema and table patterns that fit none of these relations, see
    /// [`TableFilter::unmatched`].
    pub fn unmatched<'a>(
        &'a self,
        relations: impl IntoIterator<Item = &'a Relation>,
    ) -> Vec<&'a str> {
        self.tables.unmatched(relations)
    }
}

impl Filter for EventFilter {
    #[inline]
    fn keep(&self, event: &ChangeEvent) -> bool {
        let kept = self.ops.contains(event.op)
            && self.tables.keep(event)
            && self
                .predicate
                .as_ref()
                .is_none_or(|predicate| predicate.keep(event));
        kept || tells_of_gap(event)
    }
}
