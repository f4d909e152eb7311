//! Transactions to row changes. No I/O of its own and no SQLite library.

use std::collections::BTreeMap;

use cdc_core::{Op, SourceError, SourceErrorKind};

use super::catalog::{Catalog, schema_page_differs};
use super::diff::{Chains, Diff, Scratch, Shapes, same_sequence};
use super::format::{DbHeader, Geometry};
use super::map::{Mark, Owner, PageMap, Role, TreeId};
use super::page::{BTreePage, PageKind};
use super::pages::{Pages, Side, malformed, payload, read};
use super::record;
use super::rows::Rows;
use super::sink::{Nowhere, Row, SchemaChange, Shape, Sink};
use super::tables::{Plan, Reading, SCHEMA_TREE, Tables};
use super::walk::{Item, Walk, Walked};

/// Knows which page belongs to which table, and turns each transaction into row changes.
///
/// After an error its state is unknown: make a new one.
#[derive(Debug)]
pub(crate) struct Decoder {
    geometry: Geometry,
    reading: Reading,
    schema_cookie: u32,
    map: PageMap,
    tables: Tables,
    scratch: Scratch,
}

/// What one table has on both sides.
struct Sides {
    plan: Plan,
    old: Walked,
    new: Walked,
    /// Leaves were changed where they stand, and no page changed its owner.
    in_place: bool,
}

fn page_one(pages: &dyn Pages, side: Side) -> Result<DbHeader, SourceError> {
    let first = read(pages, side, 1)?;
    DbHeader::parse(&first).map_err(|error| {
        SourceError::new(
            SourceErrorKind::Corrupt,
            format!("read the database's header: {error}"),
        )
    })
}

impl Decoder {
    /// Reads the whole database on the new side: the schema, every captured table's b-tree and its
    /// overflow chains. With `snapshot` every row goes to the sink as a read.
    pub(crate) fn open(
        pages: &dyn Pages,
        include_shadow_tables: bool,
        snapshot: Option<&mut dyn Sink>,
    ) -> Result<Self, SourceError> {
        let header = page_one(pages, Side::New)?;
        let reading = Reading {
            encoding: header.geometry.encoding,
            descending: header.schema_format >= 4,
            include_shadow_tables,
        };
        let mut tables = Tables::new(reading).map_err(|what| malformed(1, what))?;
        let catalog = Catalog::read(pages, Side::New, &header.geometry)?;
        tables.load(&catalog, reading);
        let mut decoder = Self {
            geometry: header.geometry,
            reading,
            schema_cookie: header.schema_cookie,
            map: PageMap::default(),
            tables,
            scratch: Scratch::default(),
        };
        decoder.map.begin(pages.count(Side::New));
        decoder.scan(SCHEMA_TREE, pages, None)?;
        let trees: Vec<TreeId> = decoder.tables.captured().map(|(tree, _)| tree).collect();
        match snapshot {
            None => {
                for tree in trees {
                    decoder.scan(tree, pages, None)?;
                }
            }
            Some(sink) => {
                for tree in trees {
                    decoder.scan(tree, pages, Some(&mut *sink))?;
                }
            }
        }
        decoder.scratch.trim();
        Ok(decoder)
    }

    /// The tables that are not captured, with the reason.
    pub(crate) fn left_out(&self) -> &BTreeMap<String, String> {
        self.tables.left_out()
    }

    /// The captured tables' names.
    pub(crate) fn names(&self) -> Vec<&str> {
        self.tables
            .captured()
            .map(|(_, table)| &*table.layout.relation.table)
            .collect()
    }

    /// Maps one table from nothing.
    fn scan(
        &mut self,
        tree: TreeId,
        pages: &dyn Pages,
        mut sink: Option<&mut dyn Sink>,
    ) -> Result<(), SourceError> {
        let Some(table) = self.tables.get(tree) else {
            return Ok(());
        };
        let layout = table.layout.clone();
        let walk = Walk {
            tree,
            side: Side::New,
            root: table.root,
            without_rowid: layout.without_rowid,
            usable: self.geometry.usable,
        };
        let walked = walk.run(&mut self.map, pages)?;
        for &(page, parent) in &walked.pages {
            self.own(tree, page, parent);
        }
        let usable = self.geometry.usable;
        let mut rows = Rows::new(pages, Side::New, usable, &walked.items);
        let (mut buffer, mut chain, mut fields) = (Vec::new(), Vec::new(), Vec::new());
        let (mut image, mut chains) = (Vec::new(), Chains::default());
        rows.next_row()?;
        while let Some((page, cell)) = rows.current()? {
            if sink.is_some() || cell.overflow.is_some() {
                let row = payload(
                    pages,
                    Side::New,
                    usable,
                    (page, &cell),
                    &mut buffer,
                    &mut chain,
                )?;
                if let Some(sink) = &mut sink {
                    image.clear();
                    record::parse(row, &mut fields)
                        .map(|()| layout.write(&mut image, row, &fields, cell.rowid))
                        .map_err(|what| malformed(page, what))?;
                    let keyless = layout.is_keyless() && !layout.without_rowid;
                    sink.row(Row {
                        relation: &layout.relation,
                        op: Op::Read,
                        before: None,
                        after: Some(&image),
                        rowid: keyless.then_some(cell.rowid),
                    })?;
                }
                chains.claim(page, &chain);
                if chains.claimed.len() > 1 << 16 {
                    self.claim(tree, &chains)?;
                    chains.claimed.clear();
                }
            }
            rows.next_row()?;
        }
        self.claim(tree, &chains)
    }

    fn own(&mut self, tree: TreeId, page: u32, parent: u32) {
        let role = if parent == 0 {
            Role::Root
        } else {
            Role::Branch
        };
        let owner = Owner { tree, role, parent };
        self.map.set(page, owner);
    }

    /// To whom a page belongs, dropped tables left out.
    fn owner(&self, page: u32) -> Option<Owner> {
        let owner = self.map.owner(page)?;
        self.tables.is_alive(owner.tree).then_some(owner)
    }

    fn unowned(&self, page: u32) -> Result<(), SourceError> {
        match self.owner(page) {
            None => Ok(()),
            Some(_) => Err(malformed(page, "it is used in two places at once")),
        }
    }

    /// Maps the overflow pages of new and changed rows.
    fn claim(&mut self, tree: TreeId, chains: &Chains) -> Result<(), SourceError> {
        let mut rest = chains.claimed.as_slice();
        while let [holder, length, after @ ..] = rest {
            let (chain, after) = after
                .split_at_checked(*length as usize)
                .unwrap_or((after, &[]));
            let (mut parent, mut role) = (*holder, Role::FirstOverflow);
            for &page in chain {
                self.unowned(page)?;
                self.map.set(page, Owner { tree, role, parent });
                (parent, role) = (page, Role::Overflow);
            }
            rest = after;
        }
        Ok(())
    }

    /// Decodes one transaction. `changed` holds the pages it wrote, each once, ascending.
    ///
    /// # Errors
    /// What contradicts the format or itself; nothing can be decoded after that.
    pub(crate) fn transaction(
        &mut self,
        changed: &[u32],
        pages: &dyn Pages,
        sink: &mut dyn Sink,
    ) -> Result<(), SourceError> {
        let count = pages.count(Side::New);
        let most = count
            .max(pages.count(Side::Old))
            .max(changed.last().copied().unwrap_or(0));
        self.map.begin(most);
        for &page in changed {
            self.map.mark(page, Mark::Changed);
        }
        let mut written = self.classify(changed);
        let mut vacuumed = false;
        if changed.first() == Some(&1) {
            let header = self.check_header(pages)?;
            let whole = changed.iter().filter(|page| **page <= count).count();
            // The page with the lock bytes is never written.
            vacuumed = header.schema_cookie != self.schema_cookie && whole + 1 >= count as usize;
            self.schema_cookie = header.schema_cookie;
        }
        let schema = written.remove(&SCHEMA_TREE);
        let schema = match schema {
            Some(written) if written != [1] => Some(written),
            Some(written)
                if schema_page_differs(
                    &read(pages, Side::Old, 1)?,
                    &read(pages, Side::New, 1)?,
                ) =>
            {
                Some(written)
            }
            _ => None,
        };
        let mut sides = Vec::new();
        if let Some(schema_pages) = schema {
            let catalog = Catalog::read(pages, Side::New, &self.geometry)?;
            let plans = self
                .tables
                .change(&catalog, self.reading, &mut written, sink)?;
            let schema_plan = self.tables.unchanged(SCHEMA_TREE, schema_pages);
            for plan in schema_plan.into_iter().chain(plans) {
                sides.push(self.sides(plan, pages)?);
            }
        } else {
            for (tree, written) in written {
                if let Some(plan) = self.tables.unchanged(tree, written) {
                    sides.push(self.sides(plan, pages)?);
                }
            }
        }
        let mut all = Vec::with_capacity(sides.len());
        for side in &sides {
            let chains = if side.plan.tree == SCHEMA_TREE {
                self.compare(side, false, pages, &mut Nowhere)?
            } else {
                self.compare(side, vacuumed, pages, sink)?
            };
            all.push(chains);
        }
        self.update(&sides, &all)?;
        self.map.truncate(count);
        self.scratch.trim();
        Ok(())
    }

    /// What must not change under us did not.
    fn check_header(&mut self, pages: &dyn Pages) -> Result<DbHeader, SourceError> {
        let header = page_one(pages, Side::New)?;
        let (was, now) = (self.geometry, header.geometry);
        if (was.page_size, was.usable) != (now.page_size, now.usable) {
            return Err(SourceError::new(
                SourceErrorKind::Gap,
                format!(
                    "decode the database: its pages had {} bytes ({} usable) and now have {} ({}): the file was replaced by another; take a new snapshot",
                    was.page_size, was.usable, now.page_size, now.usable
                ),
            ));
        }
        if was.encoding != now.encoding {
            // An empty database has not decided yet.
            if self.tables.captured().next().is_some() {
                return Err(SourceError::new(
                    SourceErrorKind::Gap,
                    "decode the database: its text encoding changed: the file was replaced by another; take a new snapshot",
                ));
            }
            self.geometry.encoding = now.encoding;
            self.reading.encoding = now.encoding;
        }
        self.reading.descending = header.schema_format >= 4;
        Ok(header)
    }

    /// Finds the trees whose pages were written, and marks what lies above those pages.
    fn classify(&mut self, changed: &[u32]) -> BTreeMap<TreeId, Vec<u32>> {
        let mut written: BTreeMap<TreeId, Vec<u32>> = BTreeMap::new();
        for &page in changed {
            let Some(owner) = self.owner(page) else {
                continue;
            };
            match owner.role {
                Role::Root | Role::Branch => {
                    written.entry(owner.tree).or_default().push(page);
                    self.touch(page);
                }
                Role::FirstOverflow | Role::Overflow => {
                    if let Some(holder) = self.holder(page)
                        && !self.map.has(holder, Mark::Changed)
                        && !self.map.has(holder, Mark::Touched)
                    {
                        written.entry(owner.tree).or_default().push(holder);
                        self.map.mark(holder, Mark::Touched);
                        self.touch(holder);
                    }
                }
            }
        }
        written
    }

    /// Marks what lies above a page.
    fn touch(&mut self, page: u32) {
        let mut at = page;
        while let Some(owner) = self.map.owner(at) {
            if owner.role == Role::Root || !self.map.mark(owner.parent, Mark::Touched) {
                break;
            }
            at = owner.parent;
        }
    }

    /// The page with the cell of the row an overflow page belongs to; marks the row's first
    /// overflow page. `None` if the chain was followed before.
    fn holder(&mut self, page: u32) -> Option<u32> {
        let mut at = page;
        loop {
            if !self.map.mark(at, Mark::Dirty) {
                return None;
            }
            let owner = self.map.owner(at)?;
            match owner.role {
                Role::FirstOverflow => return Some(owner.parent),
                Role::Overflow => at = owner.parent,
                Role::Root | Role::Branch => return None,
            }
        }
    }

    /// Finds the rows' pages of one table before and after.
    fn sides(&mut self, plan: Plan, pages: &dyn Pages) -> Result<Sides, SourceError> {
        if plan.old_root == Some(plan.new_root)
            && let Some(items) = self.in_place(&plan, pages)?
        {
            let walked = || Walked {
                items: items.clone(),
                ..Walked::default()
            };
            return Ok(Sides {
                old: walked(),
                new: walked(),
                plan,
                in_place: true,
            });
        }
        let walk = |side, root| Walk {
            tree: plan.tree,
            side,
            root,
            without_rowid: plan.new_layout.without_rowid,
            usable: self.geometry.usable,
        };
        let new = walk(Side::New, plan.new_root).run(&mut self.map, pages)?;
        let old = match plan.old_root {
            Some(root) => walk(Side::Old, root).run(&mut self.map, pages)?,
            None => Walked::default(),
        };
        Ok(Sides {
            plan,
            old,
            new,
            in_place: false,
        })
    }

    /// If only leaves of a table with rowids were written, and they are leaves still, nothing
    /// moved: no page can join or leave a tree without its parent being written. Gives the leaves
    /// in key order.
    fn in_place(&self, plan: &Plan, pages: &dyn Pages) -> Result<Option<Vec<Item>>, SourceError> {
        if plan.new_layout.without_rowid {
            return Ok(None);
        }
        let usable = self.geometry.usable;
        let mut leaves = Vec::with_capacity(plan.pages.len());
        for &number in &plan.pages {
            if number > pages.count(Side::New) {
                return Ok(None);
            }
            let old = read(pages, Side::Old, number)?;
            let old = BTreePage::parse(number, &old, usable)?;
            let new = read(pages, Side::New, number)?;
            let new = BTreePage::parse(number, &new, usable);
            match new {
                Ok(new) if (old.kind, new.kind) == (PageKind::TableLeaf, PageKind::TableLeaf) => {
                    // Only a root may be empty, and then it is alone.
                    let page = if old.cells > 0 { &old } else { &new };
                    let first = if page.cells > 0 { page.rowid(0)? } else { 0 };
                    leaves.push((first, number));
                }
                // Freed, or interior: then its parent was written too, or it is the root.
                _ => return Ok(None),
            }
        }
        leaves.sort_unstable();
        Ok(Some(
            leaves
                .into_iter()
                .map(|(_, page)| Item::leaf(page))
                .collect(),
        ))
    }

    /// Gives out the changes of one table.
    fn compare(
        &mut self,
        sides: &Sides,
        vacuumed: bool,
        pages: &dyn Pages,
        sink: &mut dyn Sink,
    ) -> Result<Chains, SourceError> {
        let plan = &sides.plan;
        let mut chains = Chains::default();
        let layout = &plan.new_layout;
        let may_renumber = vacuumed
            && plan.old_root.is_some()
            && plan.projection.is_none()
            && !layout.without_rowid
            && !layout.shows_rowid();
        let usable = self.geometry.usable;
        let (old, new) = (&sides.old.items, &sides.new.items);
        if may_renumber && same_sequence(pages, usable, old, new, &mut self.scratch)? {
            sink.schema(Shape {
                relation: &layout.relation,
                change: SchemaChange::Renumbered,
                sql: "VACUUM",
                was: None,
            })?;
            each_chain(pages, Side::Old, usable, old, |_, chain| {
                chains.freed.extend_from_slice(chain);
            })?;
            each_chain(pages, Side::New, usable, new, |holder, chain| {
                chains.claim(holder, chain);
            })?;
            return Ok(chains);
        }
        Diff {
            pages,
            geometry: self.geometry,
            map: &self.map,
            shapes: Shapes {
                old: &plan.old_layout,
                new: layout,
                projection: plan.projection.as_ref(),
            },
            scratch: &mut self.scratch,
            chains: &mut chains,
            sink,
        }
        .run(old, new)?;
        Ok(chains)
    }

    /// Brings the map to the new state: first everything that left, then everything that came.
    fn update(&mut self, sides: &[Sides], all: &[Chains]) -> Result<(), SourceError> {
        for (side, chains) in sides.iter().zip(all) {
            for &(page, _) in &side.old.pages {
                self.map.clear(page);
            }
            for &page in &chains.freed {
                self.map.clear(page);
            }
        }
        for side in sides.iter().filter(|side| !side.in_place) {
            let tree = side.plan.tree;
            for &(page, parent) in &side.new.pages {
                self.unowned(page)?;
                self.own(tree, page, parent);
            }
            for &(page, parent) in &side.new.adopted {
                self.own(tree, page, parent);
            }
        }
        for (side, chains) in sides.iter().zip(all) {
            let tree = side.plan.tree;
            self.claim(tree, chains)?;
            for &(page, parent) in &chains.moved {
                let role = Role::FirstOverflow;
                self.map.set(page, Owner { tree, role, parent });
            }
        }
        Ok(())
    }
}

#[cfg(test)]
impl Decoder {
    /// The captured tables.
    pub(crate) fn relations(
        &self,
    ) -> impl Iterator<Item = (String, std::sync::Arc<cdc_core::Relation>)> {
        let relation = |(_, table): (TreeId, &super::tables::Table)| {
            let relation = &table.layout.relation;
            (relation.table.to_string(), relation.clone())
        };
        self.tables.captured().map(relation)
    }

    /// Maps the database anew and compares, page by page and table by table.
    pub(crate) fn verify(&self, pages: &dyn Pages) {
        let shadow = self.reading.include_shadow_tables;
        let fresh = Self::open(pages, shadow, None).expect("the database can be mapped");
        let root = |decoder: &Self, tree: TreeId| decoder.tables.get(tree).map(|t| t.root);
        for page in 1..=pages.count(Side::New) {
            let owner = |decoder: &Self| {
                let owner = decoder.owner(page)?;
                let parent = if owner.role == Role::Root {
                    0
                } else {
                    owner.parent
                };
                Some((root(decoder, owner.tree), owner.role, parent))
            };
            assert_eq!(owner(self), owner(&fresh), "owner of page {page}");
        }
        assert_eq!(self.left_out(), fresh.left_out());
    }
}

/// The overflow chains of a list of rows.
fn each_chain(
    pages: &dyn Pages,
    side: Side,
    usable: usize,
    items: &[Item],
    mut take: impl FnMut(u32, &[u32]),
) -> Result<(), SourceError> {
    let (mut buffer, mut chain) = (Vec::new(), Vec::new());
    let mut rows = Rows::new(pages, side, usable, items);
    rows.next_row()?;
    while let Some((page, cell)) = rows.current()? {
        if cell.overflow.is_some() {
            payload(pages, side, usable, (page, &cell), &mut buffer, &mut chain)?;
            take(page, &chain);
        }
        rows.next_row()?;
    }
    Ok(())
}
