//! The tables that are captured, and what a changed schema makes of them.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use cdc_core::SourceError;

use super::catalog::{Catalog, CatalogTable, LeftOut};
use super::format::Encoding;
use super::layout::{Layout, Projection};
use super::map::TreeId;
use super::schema::TableDef;
use super::sink::{SchemaChange, Shape, Sink};

/// The tree of `sqlite_schema`.
pub(crate) const SCHEMA_TREE: TreeId = 0;

/// A table, dropped ones included: their trees' numbers are not used again.
#[derive(Debug)]
pub(crate) struct Table {
    name: String,
    schema_rowid: i64,
    sql: String,
    pub(crate) root: u32,
    pub(crate) layout: Arc<Layout>,
    pub(crate) alive: bool,
}

/// How a definition becomes a layout.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Reading {
    pub(crate) encoding: Encoding,
    /// Keys may be ordered downwards.
    pub(crate) descending: bool,
    /// Capture the tables that hold the contents of virtual tables.
    pub(crate) include_shadow_tables: bool,
}

/// A table whose rows may have changed.
#[derive(Debug)]
pub(crate) struct Plan {
    pub(crate) tree: TreeId,
    /// The root before; `None` if the table is new.
    pub(crate) old_root: Option<u32>,
    pub(crate) new_root: u32,
    pub(crate) old_layout: Arc<Layout>,
    pub(crate) new_layout: Arc<Layout>,
    pub(crate) projection: Option<Projection>,
    /// Its pages that were written.
    pub(crate) pages: Vec<u32>,
}

/// All tables.
#[derive(Debug)]
pub(crate) struct Tables {
    list: Vec<Table>,
    left_out: BTreeMap<String, String>,
}

const SCHEMA_SQL: &str =
    "CREATE TABLE sqlite_schema(type TEXT, name TEXT, tbl_name TEXT, rootpage INT, sql TEXT)";

impl Tables {
    /// The schema table alone.
    pub(crate) fn new(reading: Reading) -> Result<Self, &'static str> {
        let def = TableDef::parse(SCHEMA_SQL)?;
        let layout = Layout::new("sqlite_schema", &def, reading.encoding, true)?;
        let schema = Table {
            name: String::new(),
            schema_rowid: 0,
            sql: String::new(),
            root: 1,
            layout: Arc::new(layout),
            alive: true,
        };
        Ok(Self {
            list: vec![schema],
            left_out: BTreeMap::new(),
        })
    }

    /// The tables that are not captured, with the reason.
    pub(crate) fn left_out(&self) -> &BTreeMap<String, String> {
        &self.left_out
    }

    /// The captured tables, without the schema.
    pub(crate) fn captured(&self) -> impl Iterator<Item = (TreeId, &Table)> {
        let numbered = (0..).zip(&self.list).skip(1);
        numbered.filter(|(_, table): &(TreeId, _)| table.alive)
    }

    pub(crate) fn get(&self, tree: TreeId) -> Option<&Table> {
        self.list.get(tree as usize).filter(|table| table.alive)
    }

    pub(crate) fn is_alive(&self, tree: TreeId) -> bool {
        self.get(tree).is_some()
    }

    fn add(&mut self, table: &CatalogTable, layout: Arc<Layout>) -> TreeId {
        self.list.push(Table {
            name: table.name.clone(),
            schema_rowid: table.rowid,
            sql: table.sql.clone(),
            root: table.root,
            layout,
            alive: true,
        });
        TreeId::try_from(self.list.len() - 1).unwrap_or(TreeId::MAX)
    }

    /// A plan for rows that changed under an unchanged shape.
    pub(crate) fn unchanged(&self, tree: TreeId, pages: Vec<u32>) -> Option<Plan> {
        let table = self.get(tree)?;
        Some(Plan {
            tree,
            old_root: Some(table.root),
            new_root: table.root,
            old_layout: table.layout.clone(),
            new_layout: table.layout.clone(),
            projection: None,
            pages,
        })
    }

    /// The tables of a catalog that can be captured; the others are noted and, the first time,
    /// told.
    fn readable(
        &mut self,
        catalog: &Catalog,
        reading: Reading,
    ) -> Vec<(CatalogTable, Arc<Layout>)> {
        let mut readable = Vec::new();
        let mut left_out = BTreeMap::new();
        for table in &catalog.tables {
            let reason = match catalog.left_out(&table.name) {
                Some(LeftOut::Internal) => continue,
                Some(LeftOut::Shadow) if !reading.include_shadow_tables => {
                    "it holds the contents of a virtual table".to_owned()
                }
                Some(LeftOut::Tool) => "it belongs to a replication tool".to_owned(),
                Some(LeftOut::Shadow) | None => {
                    let layout = TableDef::parse(&table.sql).and_then(|def| {
                        Layout::new(&table.name, &def, reading.encoding, reading.descending)
                    });
                    match layout {
                        Ok(layout) => {
                            readable.push((table.clone(), Arc::new(layout)));
                            continue;
                        }
                        Err(reason) => reason.to_owned(),
                    }
                }
            };
            if !self.left_out.contains_key(&table.name) {
                tracing::warn!(table = %table.name, %reason, "table is not captured");
            }
            left_out.insert(table.name.clone(), reason);
        }
        self.left_out = left_out;
        readable
    }

    /// Takes the first catalog.
    pub(crate) fn load(&mut self, catalog: &Catalog, reading: Reading) {
        for (table, layout) in self.readable(catalog, reading) {
            self.add(&table, layout);
        }
    }

    /// Compares with a new catalog, tells what happened to whom, and gives a plan for each table
    /// that is there now and whose shape, root or pages changed. `written` holds the written
    /// pages of each tree.
    pub(crate) fn change(
        &mut self,
        catalog: &Catalog,
        reading: Reading,
        written: &mut BTreeMap<TreeId, Vec<u32>>,
        sink: &mut dyn Sink,
    ) -> Result<Vec<Plan>, SourceError> {
        let now = self.readable(catalog, reading);
        let matched = self.match_tables(&now);
        let kept: Vec<TreeId> = matched.iter().copied().flatten().collect();
        let dropped: Vec<TreeId> = self
            .captured()
            .map(|(tree, _)| tree)
            .filter(|tree| !kept.contains(tree))
            .collect();
        for tree in dropped {
            self.drop_table(tree, sink)?;
        }
        let mut plans = Vec::new();
        for ((table, layout), tree) in now.into_iter().zip(matched) {
            let kept = match tree {
                Some(tree) => self.keep(tree, &table, &layout, written, sink)?,
                None => None,
            };
            match (kept, tree) {
                (Some(plan), _) => plans.push(plan),
                (None, Some(tree)) if self.is_alive(tree) => {}
                (None, _) => {
                    sink.schema(Shape {
                        relation: &layout.relation,
                        change: SchemaChange::Created,
                        sql: &table.sql,
                        was: None,
                    })?;
                    let tree = self.add(&table, layout.clone());
                    plans.push(Plan {
                        tree,
                        old_root: None,
                        new_root: table.root,
                        old_layout: layout.clone(),
                        new_layout: layout,
                        projection: None,
                        pages: Vec::new(),
                    });
                }
            }
        }
        Ok(plans)
    }

    /// For each table now the tree it had: that of its name, else one that lost its name but kept
    /// its place and columns.
    fn match_tables(&self, now: &[(CatalogTable, Arc<Layout>)]) -> Vec<Option<TreeId>> {
        let mut old: HashMap<&str, TreeId> = self
            .captured()
            .map(|(tree, table)| (table.name.as_str(), tree))
            .collect();
        let mut matched: Vec<Option<TreeId>> = now
            .iter()
            .map(|(table, _)| old.remove(table.name.as_str()))
            .collect();
        for ((table, layout), tree) in now.iter().zip(&mut matched) {
            if tree.is_none() {
                let renamed = old.iter().find(|(_, tree)| {
                    self.get(**tree).is_some_and(|known| {
                        (known.root == table.root || known.schema_rowid == table.rowid)
                            && known.layout.same(layout)
                    })
                });
                if let Some((name, found)) = renamed.map(|(name, tree)| (*name, *tree)) {
                    old.remove(name);
                    *tree = Some(found);
                }
            }
        }
        matched
    }

    fn drop_table(&mut self, tree: TreeId, sink: &mut dyn Sink) -> Result<(), SourceError> {
        let Some(table) = self.list.get_mut(tree as usize) else {
            return Ok(());
        };
        table.alive = false;
        sink.schema(Shape {
            relation: &table.layout.relation,
            change: SchemaChange::Dropped,
            sql: &table.sql,
            was: None,
        })
    }

    /// A table that was there before. Gives no plan if nothing about it changed, or if it was
    /// dropped because its rows cannot be matched with the old ones.
    fn keep(
        &mut self,
        tree: TreeId,
        now: &CatalogTable,
        layout: &Arc<Layout>,
        written: &mut BTreeMap<TreeId, Vec<u32>>,
        sink: &mut dyn Sink,
    ) -> Result<Option<Plan>, SourceError> {
        let Some(table) = self.list.get_mut(tree as usize) else {
            return Ok(None);
        };
        let projection = layout.projection(&table.layout);
        if !layout.matches(&table.layout, &projection) {
            self.drop_table(tree, sink)?;
            return Ok(None);
        }
        let old_root = std::mem::replace(&mut table.root, now.root);
        let old_layout = table.layout.clone();
        let altered = !layout.same(&old_layout);
        table.schema_rowid = now.rowid;
        table.sql.clone_from(&now.sql);
        if altered || table.name != now.name {
            let was = std::mem::replace(&mut table.name, now.name.clone());
            table.layout = layout.clone();
            sink.schema(Shape {
                relation: &layout.relation,
                change: SchemaChange::Altered,
                sql: &now.sql,
                was: (was != now.name).then_some(was.as_str()),
            })?;
        }
        let pages = written.remove(&tree).unwrap_or_default();
        if pages.is_empty() && old_root == now.root {
            return Ok(None);
        }
        Ok(Some(Plan {
            tree,
            old_root: Some(old_root),
            new_root: now.root,
            old_layout,
            new_layout: table.layout.clone(),
            projection: altered.then_some(projection),
            pages,
        }))
    }
}
