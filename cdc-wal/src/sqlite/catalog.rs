//! What `sqlite_schema` says: tables, their roots and definitions.

use std::collections::HashSet;

use cdc_core::SourceError;

use super::format::Geometry;
use super::page::{BTreePage, PageKind};
use super::pages::{Pages, Side, malformed, payload, read};
use super::record::{self, Stored};

/// A table that has rows of its own.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct CatalogTable {
    /// Its row in `sqlite_schema`.
    pub(crate) rowid: i64,
    pub(crate) name: String,
    pub(crate) root: u32,
    pub(crate) sql: String,
}

/// All of them, and the virtual tables.
#[derive(Clone, Debug, Default)]
pub(crate) struct Catalog {
    pub(crate) tables: Vec<CatalogTable>,
    /// Name and module, the latter in lower case.
    virtual_tables: Vec<(String, String)>,
}

/// Why a table is not captured.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum LeftOut {
    /// SQLite's own (`sqlite_sequence`, `sqlite_stat1`).
    Internal,
    /// It holds the contents of a virtual table.
    Shadow,
    /// It belongs to a replication tool.
    Tool,
}

/// Suffixes of the tables in which a module keeps its contents.
const SHADOWS: [(&str, &[&str]); 5] = [
    ("fts5", &["data", "idx", "content", "docsize", "config"]),
    (
        "fts4",
        &["content", "segments", "segdir", "docsize", "stat"],
    ),
    (
        "fts3",
        &["content", "segments", "segdir", "docsize", "stat"],
    ),
    ("rtree", &["node", "rowid", "parent"]),
    ("geopoly", &["node", "rowid", "parent"]),
];

impl Catalog {
    /// Reads the schema.
    pub(crate) fn read(
        pages: &dyn Pages,
        side: Side,
        geometry: &Geometry,
    ) -> Result<Self, SourceError> {
        let mut catalog = Self::default();
        let (mut stack, mut visited) = (vec![1u32], HashSet::new());
        let (mut buffer, mut chain, mut fields) = (Vec::new(), Vec::new(), Vec::new());
        while let Some(number) = stack.pop() {
            if !visited.insert(number) {
                return Err(malformed(number, "it is used in two places at once"));
            }
            let data = read(pages, side, number)?;
            let page = BTreePage::parse(number, &data, geometry.usable)?;
            match page.kind {
                PageKind::TableInterior => {
                    for n in (0..page.children()).rev() {
                        stack.push(page.child(n)?);
                    }
                }
                PageKind::TableLeaf => {
                    for n in 0..page.cells {
                        let cell = page.cell(n)?;
                        let place = (number, &cell);
                        let payload =
                            payload(pages, side, geometry.usable, place, &mut buffer, &mut chain)?;
                        record::parse(payload, &mut fields).map_err(|e| malformed(number, e))?;
                        let value = |n: usize| {
                            fields
                                .get(n)
                                .map_or(Stored::Null, |field| field.value(payload))
                        };
                        let text = |n: usize| match value(n) {
                            Stored::Text(bytes) => record::text(bytes, geometry.encoding)
                                .ok_or_else(|| {
                                    malformed(number, "a name in the schema is not valid text")
                                }),
                            _ => Ok(String::new()),
                        };
                        if text(0)? != "table" {
                            continue;
                        }
                        let root = match value(3) {
                            Stored::Int(root) => u32::try_from(root).map_err(|_| {
                                malformed(number, "a root has an impossible number")
                            })?,
                            _ => 0,
                        };
                        catalog.add(CatalogTable {
                            rowid: cell.rowid,
                            name: text(1)?,
                            root,
                            sql: text(4)?,
                        });
                    }
                }
                _ => return Err(malformed(number, "the schema stands on an index page")),
            }
        }
        Ok(catalog)
    }

    fn add(&mut self, table: CatalogTable) {
        if table.root > 0 {
            self.tables.push(table);
        } else if let Some(module) = module_of(&table.sql) {
            self.virtual_tables.push((table.name, module));
        }
    }

    /// Why a table is left out unless it is asked for.
    pub(crate) fn left_out(&self, name: &str) -> Option<LeftOut> {
        let starts = |prefix: &str| {
            name.get(..prefix.len())
                .is_some_and(|start| start.eq_ignore_ascii_case(prefix))
        };
        if starts("sqlite_") {
            return Some(LeftOut::Internal);
        }
        if starts("_litestream_") {
            return Some(LeftOut::Tool);
        }
        for (owner, module) in &self.virtual_tables {
            let Some(suffix) = name
                .get(..owner.len())
                .filter(|start| start.eq_ignore_ascii_case(owner))
                .and_then(|_| name.get(owner.len()..)?.strip_prefix('_'))
            else {
                continue;
            };
            let known = SHADOWS.iter().any(|(name, suffixes)| {
                name == module && suffixes.iter().any(|s| s.eq_ignore_ascii_case(suffix))
            });
            if known {
                return Some(LeftOut::Shadow);
            }
        }
        None
    }
}

/// The module of `CREATE VIRTUAL TABLE name USING module(...)`, in lower case.
fn module_of(sql: &str) -> Option<String> {
    let mut words = sql.split(|c: char| c.is_whitespace() || c == '(');
    words.find(|word| word.eq_ignore_ascii_case("using"))?;
    words
        .find(|word| !word.is_empty())
        .map(str::to_ascii_lowercase)
}

/// True if a page's bytes behind the database header differ: then the schema may have changed.
pub(crate) fn schema_page_differs(old: &[u8], new: &[u8]) -> bool {
    old.get(100..) != new.get(100..)
}
