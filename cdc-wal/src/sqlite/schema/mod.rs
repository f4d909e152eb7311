//! Table definitions, read from the text of `CREATE TABLE` in `sqlite_schema`.
//!
//! Only what decoding rows needs is understood: columns with their types, defaults and collations,
//! the primary key, `WITHOUT ROWID`, `STRICT`, generated columns. Expressions are skipped by their
//! parentheses. What cannot be read is an error, and its table is left out of capture by name.

mod lexer;
mod table;
mod value;

pub(crate) use table::{ColumnDef, TableDef};
pub(crate) use value::DefaultValue;
