//! Transforms: which columns go on, under which names, and with what in them.

mod plan;
mod rewrite;

use std::collections::HashMap;
use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};

use cdc_core::{ChangeEvent, Op, Relation, Transform, TransformError, Value};
use hmac::{Hmac, KeyInit, Mac};
use sha2::Sha256;

use crate::filter::{FilterError, Ops, fits_with_meta, meta_of_tables, patterns};
use crate::glob::Patterns;
use plan::Plan;

/// Relations whose plans are remembered; past that the memory starts anew.
const PLANS_MAX: usize = 1024;

/// One transform: what it does, and to which events.
#[derive(Clone, Debug)]
pub struct TransformConfig {
    /// Table patterns as in [`FilterConfig::tables`](crate::FilterConfig::tables); empty means all
    /// tables. As there, a graph node is in the tables of all its labels, before and after the change,
    /// and a moved document in both folders.
    ///
    /// With patterns, a column of the action that a matching table lacks is an error and the event
    /// becomes a dead letter. Without, the action applies to the columns that are there.
    pub tables: Vec<String>,
    /// Operations; empty means all but messages.
    pub operations: Vec<Op>,
    /// What it does.
    pub action: Action,
}

/// What a transform does. Both images are treated alike; null stays null and an unavailable value
/// stays unavailable, except where [`Action::Set`] says otherwise. `meta` is not touched.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub enum Action {
    /// Keeps these columns, in the table's order; key columns always stay.
    Include {
        /// Their names.
        columns: Vec<String>,
    },
    /// Drops these columns. A key column cannot be dropped: that is an error.
    Exclude {
        /// Their names.
        columns: Vec<String>,
    },
    /// Gives the table another name.
    RenameTable {
        /// The new schema, or `None` to keep it.
        schema: Option<String>,
        /// The new table name, or `None` to keep it.
        table: Option<String>,
    },
    /// Gives columns other names: pairs of old and new.
    RenameColumns {
        /// Old name, new name.
        columns: Vec<(String, String)>,
    },
    /// Hides the values of columns. A key column cannot be masked (rows would become one): that is
    /// an error; hash it instead.
    Mask {
        /// Their names.
        columns: Vec<String>,
        /// What shows instead.
        with: Mask,
    },
    /// Replaces values by their keyed hash: HMAC-SHA256 in lower-case hexadecimal. Equal values
    /// stay equal, so keys and joins still work.
    ///
    /// Hashed is the text of text, JSON, integers, decimals, booleans (`true`, `false`) and UUIDs
    /// (lower case), bytes as they are, and any other type as encoded in the row.
    Hash {
        /// Their names.
        columns: Vec<String>,
        /// The key.
        key: HashKey,
    },
    /// Gives a column a value; a new one is added behind the others. A key column cannot be set:
    /// that is an error. In a key-only image the column stays unavailable.
    Set {
        /// Its name.
        column: String,
        /// Its value.
        to: SetTo,
    },
}

/// What shows instead of a value. Every form but [`Mask::Null`] makes the column text.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Mask {
    /// Stars, and the last four characters of text, integers and decimals; stars alone if there
    /// are fewer than eight. Any other type is an error.
    Last4,
    /// Four stars, whatever the value's length.
    Stars,
    /// Null.
    Null,
    /// This text.
    Text(String),
}

/// The value a column is set to.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub enum SetTo {
    /// A constant, null included; it replaces null too. An unavailable value stays unavailable.
    Constant(Value),
    /// What another column holds, null and unavailable included.
    Column(String),
}

/// The key of [`Action::Hash`]. `Debug` shows nothing of it.
#[derive(Clone)]
pub struct HashKey(Hmac<Sha256>);

impl HashKey {
    /// Shortest key in bytes.
    pub const LEN_MIN: usize = 16;

    /// A key from its bytes.
    ///
    /// # Errors
    /// [`TransformConfigError::ShortKey`] below [`Self::LEN_MIN`] bytes.
    pub fn new(bytes: &[u8]) -> Result<Self, TransformConfigError> {
        let short = TransformConfigError::ShortKey { len: bytes.len() };
        if bytes.len() < Self::LEN_MIN {
            return Err(short);
        }
        Hmac::new_from_slice(bytes).map(Self).map_err(|_| short)
    }

    fn hash(&self, bytes: &[u8]) -> [u8; 32] {
        let mut mac = self.0.clone();
        mac.update(bytes);
        mac.finalize().into_bytes().into()
    }
}

impl fmt::Debug for HashKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("HashKey")
    }
}

/// A transform cannot be built from its configuration.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum TransformConfigError {
    /// A table pattern is malformed.
    #[error(transparent)]
    Tables(#[from] FilterError),
    /// The action names no column, or neither a schema nor a table.
    #[error("read the transform {action}: it names nothing to work on")]
    Nothing {
        /// The action's name.
        action: &'static str,
    },
    /// A name is empty.
    #[error("read the transform {action}: a name in it is empty")]
    EmptyName {
        /// The action's name.
        action: &'static str,
    },
    /// A column is named twice.
    #[error("read the transform {action}: column {column:?} is named twice")]
    Twice {
        /// The action's name.
        action: &'static str,
        /// The column.
        column: String,
    },
    /// A column cannot be set to an unavailable value.
    #[error("read the transform set: a column cannot be set to an unavailable value; use null")]
    Unavailable,
    /// The key is too short to protect anything.
    #[error(
        "read the key of the transform hash: it has {len} bytes, at least 16 are needed; make one with `openssl rand -hex 32`"
    )]
    ShortKey {
        /// Its length in bytes.
        len: usize,
    },
}

impl Action {
    /// The name in configuration and messages.
    pub const fn name(&self) -> &'static str {
        match self {
            Self::Include { .. } => "include",
            Self::Exclude { .. } => "exclude",
            Self::RenameTable { .. } | Self::RenameColumns { .. } => "rename",
            Self::Mask { .. } => "mask",
            Self::Hash { .. } => "hash",
            Self::Set { .. } => "set",
        }
    }

    fn check(&self) -> Result<(), TransformConfigError> {
        let action = self.name();
        let names: Vec<&str> = match self {
            Self::Include { columns }
            | Self::Exclude { columns }
            | Self::Mask { columns, .. }
            | Self::Hash { columns, .. } => columns.iter().map(String::as_str).collect(),
            Self::RenameColumns { columns } => {
                if columns.iter().any(|(_, new)| new.is_empty()) {
                    return Err(TransformConfigError::EmptyName { action });
                }
                columns.iter().map(|(old, _)| old.as_str()).collect()
            }
            // An empty schema is a schema: that of engines without schemas.
            Self::RenameTable {
                schema: Some(_),
                table: None,
            } => return Ok(()),
            Self::RenameTable { table, .. } => table.iter().map(String::as_str).collect(),
            Self::Set { column, to } => match to {
                SetTo::Constant(Value::Unavailable) => {
                    return Err(TransformConfigError::Unavailable);
                }
                SetTo::Column(from) if from.is_empty() => {
                    return Err(TransformConfigError::EmptyName { action });
                }
                SetTo::Constant(_) | SetTo::Column(_) => vec![column],
            },
        };
        if names.is_empty() {
            return Err(TransformConfigError::Nothing { action });
        }
        let mut seen = std::collections::HashSet::new();
        for name in names {
            if name.is_empty() {
                return Err(TransformConfigError::EmptyName { action });
            }
            if !seen.insert(name) {
                let column = name.to_owned();
                return Err(TransformConfigError::Twice { action, column });
            }
        }
        Ok(())
    }
}

/// Where a plan is remembered: the relation's address, and whether it is for events that are known
/// to be concerned by something else than their relation's name.
type PlanKey = (usize, bool);

/// What a relation leads to. It holds the relation so that its address cannot be used again.
#[derive(Debug)]
struct Cached {
    #[expect(dead_code, reason = "kept alive, so that its address stays its own")]
    relation: Arc<Relation>,
    outcome: Outcome,
}

/// `Ok(None)`: the transform does not concern this table.
type Outcome = Result<Option<Arc<Plan>>, TransformError>;

/// One configured transform.
///
/// What it does to a table is worked out once for each version of the table's relation.
#[derive(Debug)]
pub struct Transformer {
    tables: Patterns,
    ops: Ops,
    action: Action,
    plans: Mutex<HashMap<PlanKey, Cached>>,
}

impl Transformer {
    /// A transform from its configuration.
    ///
    /// # Errors
    /// [`TransformConfigError`] says what in the configuration makes no sense.
    pub fn new(config: TransformConfig) -> Result<Self, TransformConfigError> {
        config.action.check()?;
        let ops = Ops::new(&config.operations);
        Ok(Self {
            tables: patterns("tables", &config.tables)?,
            ops: if config.operations.is_empty() {
                ops.without(Op::Message)
            } else {
                ops
            },
            action: config.action,
            plans: Mutex::default(),
        })
    }

    /// The relation this one becomes, or `None` if the transform leaves its table alone. For a
    /// check at start, before there are events.
    ///
    /// # Errors
    /// [`TransformError`] if every event of the table would fail.
    pub fn check(&self, relation: &Arc<Relation>) -> Result<Option<Arc<Relation>>, TransformError> {
        let plan = self.plan(relation, false)?;
        Ok(plan.map(|plan| plan.relation.clone()))
    }

    /// What is to be done to an event.
    fn plan_of(&self, event: &ChangeEvent) -> Outcome {
        match meta_of_tables(event) {
            Some(meta) if !self.tables.is_empty() => {
                if fits_with_meta(&self.tables, event, meta) {
                    self.plan(&event.relation, true)
                } else {
                    Ok(None)
                }
            }
            _ => self.plan(&event.relation, false),
        }
    }

    /// What is to be done to a relation's rows: if the patterns keep its name, or if they are known
    /// to keep the event.
    fn plan(&self, relation: &Arc<Relation>, kept: bool) -> Outcome {
        let address = (Arc::as_ptr(relation).addr(), kept);
        // Nothing panics under the lock, and a half-made entry cannot exist.
        let mut plans = self.plans.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(cached) = plans.get(&address) {
            return cached.outcome.clone();
        }
        let outcome = if kept || self.tables.keep(&relation.schema, &relation.table) {
            Plan::new(&self.action, relation, !self.tables.is_empty())
                .map(|plan| plan.map(Arc::new))
        } else {
            Ok(None)
        };
        if plans.len() >= PLANS_MAX {
            plans.clear();
        }
        let cached = Cached {
            relation: relation.clone(),
            outcome: outcome.clone(),
        };
        plans.insert(address, cached);
        outcome
    }
}

impl Transform for Transformer {
    fn apply(&self, mut event: ChangeEvent) -> Result<Option<ChangeEvent>, TransformError> {
        if !self.ops.contains(event.op) {
            return Ok(Some(event));
        }
        let Some(plan) = self.plan_of(&event)? else {
            return Ok(Some(event));
        };
        if !plan.rows_unchanged() {
            event.before = plan.image(&self.action, &event.relation, &event.before)?;
            event.after = plan.image(&self.action, &event.relation, &event.after)?;
        }
        event.relation = plan.relation.clone();
        Ok(Some(event))
    }
}

/// Transforms in order; each sees what the one before it made.
#[derive(Debug, Default)]
pub struct TransformChain(Vec<Transformer>);

impl TransformChain {
    /// A chain from its configurations, in order.
    ///
    /// # Errors
    /// The index of the first bad configuration, and what is wrong with it.
    pub fn new(
        configs: impl IntoIterator<Item = TransformConfig>,
    ) -> Result<Self, (usize, TransformConfigError)> {
        configs
            .into_iter()
            .enumerate()
            .map(|(n, config)| Transformer::new(config).map_err(|error| (n, error)))
            .collect::<Result<_, _>>()
            .map(Self)
    }

    /// True without transforms.
    pub const fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// The relation this one becomes if every operation is transformed. For a check at start.
    ///
    /// # Errors
    /// [`TransformError`] if events of the table would fail.
    pub fn check(&self, relation: &Arc<Relation>) -> Result<Arc<Relation>, TransformError> {
        self.0
            .iter()
            .try_fold(relation.clone(), |relation, transform| {
                Ok(transform.check(&relation)?.unwrap_or(relation))
            })
    }
}

impl Transform for TransformChain {
    fn apply(&self, event: ChangeEvent) -> Result<Option<ChangeEvent>, TransformError> {
        self.0
            .iter()
            .try_fold(Some(event), |event, transform| match event {
                Some(event) => transform.apply(event),
                None => Ok(None),
            })
    }
}
