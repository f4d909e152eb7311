//! What a transform does to one relation, worked out once.

use std::sync::Arc;

use cdc_core::row::RowWriter;
use cdc_core::{Column, Relation, TransformError, Value};

use super::{Action, Mask, SetTo};

/// Where a column of the new row comes from; ordinals are those of the old row.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Step {
    /// The old value's bytes.
    Copy(usize),
    /// The old value, masked or hashed.
    Edit(usize),
    /// The constant, unless the old value is unavailable.
    Replace(usize),
    /// The constant, in a column that was not there.
    Add,
}

/// How rows of one relation become rows of another.
#[derive(Debug)]
pub(super) struct Plan {
    pub(super) relation: Arc<Relation>,
    pub(super) steps: Vec<Step>,
    /// Columns the old row must have.
    pub(super) width: usize,
    /// The encoded constant of [`Action::Set`]; empty otherwise.
    pub(super) constant: Vec<u8>,
}

impl Plan {
    /// `None` if the action changes nothing here. `strict`: a missing column is an error.
    pub(super) fn new(
        action: &Action,
        relation: &Relation,
        strict: bool,
    ) -> Result<Option<Self>, TransformError> {
        let mut draft = Draft {
            action,
            old: relation,
            strict,
            schema: relation.schema.clone(),
            table: relation.table.clone(),
            columns: relation
                .columns
                .iter()
                .cloned()
                .enumerate()
                .map(|(n, c)| (Step::Copy(n), c))
                .collect(),
        };
        let mut constant = Vec::new();
        match action {
            Action::Include { columns } => {
                let named = draft.find(columns)?;
                draft.keep(|ordinal| named.contains(&ordinal) || draft_key(relation, ordinal));
            }
            Action::Exclude { columns } => {
                let named = draft.find(columns)?;
                draft.refuse_key(
                    &named,
                    "leave out",
                    "a key column has to stay; hash it instead",
                )?;
                draft.keep(|ordinal| !named.contains(&ordinal));
            }
            Action::RenameTable { schema, table } => {
                if let Some(schema) = schema {
                    draft.schema = schema.as_str().into();
                }
                if let Some(table) = table {
                    draft.table = table.as_str().into();
                }
            }
            Action::RenameColumns { columns } => {
                for (old, new) in columns {
                    for ordinal in draft.find(std::slice::from_ref(old))? {
                        draft.columns[ordinal].1.name = new.as_str().into();
                    }
                }
            }
            Action::Mask { columns, with } => {
                let named = draft.find(columns)?;
                draft.refuse_key(
                    &named,
                    "mask",
                    "all rows would get one key; hash it instead",
                )?;
                draft.edit(&named, *with != Mask::Null);
            }
            Action::Hash { columns, .. } => {
                let named = draft.find(columns)?;
                draft.edit(&named, true);
            }
            Action::Set { column, to } => {
                let there = relation.ordinal(column);
                if let Some(ordinal) = there {
                    draft.refuse_key(&[ordinal], "set", "all rows would get one key")?;
                }
                let (step, type_name) = match to {
                    SetTo::Constant(value) => {
                        constant = encode(value);
                        (
                            there.map_or(Step::Add, Step::Replace),
                            type_name(value).into(),
                        )
                    }
                    SetTo::Column(from) => {
                        let Some(&from) = draft.find(std::slice::from_ref(from))?.first() else {
                            return Ok(None);
                        };
                        (Step::Copy(from), relation.columns[from].type_name.clone())
                    }
                };
                let entry = (step, Column::new(column.as_str(), type_name));
                match there {
                    Some(ordinal) => draft.columns[ordinal] = entry,
                    None => draft.columns.push(entry),
                }
            }
        }
        draft.finish(constant)
    }

    /// True if only names change.
    pub(super) fn rows_unchanged(&self) -> bool {
        self.steps.len() == self.width
            && self
                .steps
                .iter()
                .enumerate()
                .all(|(n, step)| *step == Step::Copy(n))
    }
}

fn draft_key(relation: &Relation, ordinal: usize) -> bool {
    relation.key.iter().any(|&k| usize::from(k) == ordinal)
}

/// A plan in the making.
struct Draft<'a> {
    action: &'a Action,
    old: &'a Relation,
    strict: bool,
    schema: Arc<str>,
    table: Arc<str>,
    columns: Vec<(Step, Column)>,
}

impl Draft<'_> {
    /// Ordinals of the named columns that are there.
    fn find(&self, names: &[String]) -> Result<Vec<usize>, TransformError> {
        let mut found = Vec::with_capacity(names.len());
        for name in names {
            match self.old.ordinal(name) {
                Some(ordinal) => found.push(ordinal),
                None if self.strict => {
                    return Err(TransformError {
                        message: format!(
                            "apply the transform {} to {}: the table has no column {name:?}; correct `columns` or `tables` of the transform",
                            self.action.name(),
                            self.old.qualified_name(),
                        ),
                    });
                }
                None => {}
            }
        }
        Ok(found)
    }

    fn refuse_key(&self, ordinals: &[usize], what: &str, why: &str) -> Result<(), TransformError> {
        match ordinals
            .iter()
            .find(|&&ordinal| draft_key(self.old, ordinal))
        {
            None => Ok(()),
            Some(&ordinal) => Err(TransformError {
                message: format!(
                    "{what} column {:?} of {}: it is a key column, and {why}",
                    self.old.columns[ordinal].name,
                    self.old.qualified_name(),
                ),
            }),
        }
    }

    fn keep(&mut self, wanted: impl Fn(usize) -> bool) {
        let mut ordinal = 0;
        self.columns.retain(|_| {
            ordinal += 1;
            wanted(ordinal - 1)
        });
    }

    fn edit(&mut self, ordinals: &[usize], becomes_text: bool) {
        for &ordinal in ordinals {
            let (step, column) = &mut self.columns[ordinal];
            *step = Step::Edit(ordinal);
            if becomes_text {
                column.type_name = "text".into();
            }
        }
    }

    fn finish(self, constant: Vec<u8>) -> Result<Option<Plan>, TransformError> {
        let old = self.old;
        let refuse = |message| Err(TransformError { message });
        let name = old.qualified_name();
        let action = self.action.name();
        if self.columns.len() > Relation::COLUMNS_MAX {
            return refuse(format!(
                "apply the transform {action} to {name}: it would have more than {} columns",
                Relation::COLUMNS_MAX
            ));
        }
        let (steps, columns): (Vec<_>, Vec<_>) = self.columns.into_iter().unzip();
        let mut names: Vec<&str> = columns.iter().map(|column| &*column.name).collect();
        names.sort_unstable();
        if let Some(twice) = names.windows(2).find(|pair| pair[0] == pair[1]) {
            // A table whose own names repeat is the source's affair.
            if matches!(self.action, Action::RenameColumns { .. }) {
                return refuse(format!(
                    "apply the transform {action} to {name}: two columns would be named {:?}",
                    twice[0]
                ));
            }
        }
        // A key column is never dropped, set or added, and copies of it stand elsewhere: the first
        // column that comes from it is it.
        let from = |step: &Step| match *step {
            Step::Copy(ordinal) | Step::Edit(ordinal) | Step::Replace(ordinal) => Some(ordinal),
            Step::Add => None,
        };
        let renamed: Vec<u16> = old
            .key
            .iter()
            .filter_map(|&key| {
                let is_key = |step: &Step| from(step) == Some(usize::from(key));
                let place = if steps.len() >= old.columns.len() {
                    // Nothing was dropped: columns kept their places.
                    Some(usize::from(key))
                } else {
                    steps.iter().position(is_key)
                };
                place.and_then(|place| u16::try_from(place).ok())
            })
            .collect();
        let mut relation = Relation {
            engine: old.engine,
            schema: self.schema,
            table: self.table,
            columns,
            key: renamed,
            version: old.version,
        };
        let unchanged = steps
            .iter()
            .enumerate()
            .all(|(n, step)| *step == Step::Copy(n));
        if unchanged && relation == *old {
            return Ok(None);
        }
        relation.version = fingerprint(&relation, old.version);
        Ok(Some(Plan {
            relation: Arc::new(relation),
            steps,
            width: old.columns.len(),
            constant,
        }))
    }
}

/// A version of its own for a shape of its own: equal versions of one table mean equal shapes, and
/// two tables, or two operations of one table, may come out under one name. FNV-1a.
fn fingerprint(relation: &Relation, version: u32) -> u32 {
    let mut hash = 0x811c_9dc5u32;
    let mut add = |bytes: &[u8]| {
        for &byte in bytes.iter().chain([&0xff]) {
            hash = (hash ^ u32::from(byte)).wrapping_mul(0x0100_0193);
        }
    };
    add(&version.to_le_bytes());
    for column in &relation.columns {
        add(column.name.as_bytes());
        add(column.type_name.as_bytes());
    }
    for key in &relation.key {
        add(&key.to_le_bytes());
    }
    hash
}

/// One value as it stands in a row, without the row's column count.
fn encode(value: &Value) -> Vec<u8> {
    let mut buffer = Vec::new();
    let mut row = RowWriter::new(&mut buffer);
    row.value(value);
    row.finish();
    buffer.split_off(2)
}

fn type_name(value: &Value) -> &'static str {
    match value {
        Value::Null | Value::Unavailable | Value::Text(_) => "text",
        Value::Bool(_) => "bool",
        Value::Int(_) | Value::UInt(_) => "int8",
        Value::Float32(_) => "float4",
        Value::Float64(_) => "float8",
        Value::Decimal(_) => "numeric",
        Value::Bytes(_) => "bytea",
        Value::Uuid(_) => "uuid",
        Value::Json(_) | Value::Map(_) => "json",
        Value::Date(_) => "date",
        Value::Time(_) => "time",
        Value::Timestamp(_) => "timestamp",
        Value::TimestampTz(_) => "timestamptz",
        Value::Array(_) => "array",
        Value::Vector(_) => "vector",
    }
}
