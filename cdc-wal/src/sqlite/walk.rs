//! Which pages of a b-tree a transaction replaced.
//!
//! The new tree is walked from its root, the old one from its own. Both walks stop at pages that
//! stay in the tree with everything below them: those that were not written and have nothing
//! written below. What the new walk passes are the new rows' pages, what the old walk passes the
//! old rows' pages; a row that is on neither did not change. So a leaf that was freed without being
//! written (SQLite does not write pages it puts on the free list), or one that was adopted by
//! another parent, is found without looking for it.

use cdc_core::SourceError;

use super::map::{Mark, PageMap, Role, TreeId};
use super::page::{BTreePage, PageKind};
use super::pages::{Pages, Side, malformed, read};

/// Consecutive cells of a page that hold rows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Item {
    pub(crate) page: u32,
    pub(crate) from: u32,
    /// Exclusive; `u32::MAX` for all cells of a leaf.
    pub(crate) to: u32,
}

impl Item {
    pub(crate) const fn leaf(page: u32) -> Self {
        Self {
            page,
            from: 0,
            to: u32::MAX,
        }
    }
}

/// What a walk has passed.
#[derive(Debug, Default)]
pub(crate) struct Walked {
    /// Rows in key order.
    pub(crate) items: Vec<Item>,
    /// Pages and their parents; the root's is 0.
    pub(crate) pages: Vec<(u32, u32)>,
    /// Pages that stay as they are under another parent.
    pub(crate) adopted: Vec<(u32, u32)>,
}

enum Step {
    Page {
        page: u32,
        parent: u32,
    },
    /// The row between two children of an index page.
    Row {
        page: u32,
        n: u32,
    },
}

/// The tree that is walked.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Walk {
    pub(crate) tree: TreeId,
    pub(crate) side: Side,
    pub(crate) root: u32,
    pub(crate) without_rowid: bool,
    pub(crate) usable: usize,
}

const TWICE: &str = "it is used in two places at once";

impl Walk {
    /// Walks from the root.
    pub(crate) fn run(self, map: &mut PageMap, pages: &dyn Pages) -> Result<Walked, SourceError> {
        let mut walked = Walked::default();
        let mut steps = vec![Step::Page {
            page: self.root,
            parent: 0,
        }];
        while let Some(step) = steps.pop() {
            match step {
                Step::Row { page, n } => walked.items.push(Item {
                    page,
                    from: n,
                    to: n + 1,
                }),
                Step::Page { page, parent } => {
                    if !self.enter(map, page, parent, &mut walked)? {
                        continue;
                    }
                    walked.pages.push((page, parent));
                    self.visit(pages, page, &mut steps, &mut walked)?;
                }
            }
        }
        Ok(walked)
    }

    /// False if the page is to be passed over, with everything below it.
    fn enter(
        &self,
        map: &mut PageMap,
        page: u32,
        parent: u32,
        walked: &mut Walked,
    ) -> Result<bool, SourceError> {
        if self.side == Side::Old {
            if map.has(page, Mark::Retained) {
                return Ok(false);
            }
            return if map.mark(page, Mark::Old) {
                Ok(true)
            } else {
                Err(malformed(page, TWICE))
            };
        }
        let owner = map
            .owner(page)
            .filter(|owner| owner.tree == self.tree && owner.role == Role::Branch);
        let written = map.has(page, Mark::Changed) || map.has(page, Mark::Touched);
        let twice = map.has(page, Mark::New) || map.has(page, Mark::Retained);
        match owner {
            _ if twice => Err(malformed(page, TWICE)),
            Some(owner) if !written && parent != 0 => {
                map.mark(page, Mark::Retained);
                if owner.parent != parent {
                    walked.adopted.push((page, parent));
                }
                Ok(false)
            }
            _ if map.mark(page, Mark::New) => Ok(true),
            _ => Err(malformed(page, "it lies behind the end of the database")),
        }
    }

    fn visit(
        &self,
        pages: &dyn Pages,
        number: u32,
        steps: &mut Vec<Step>,
        walked: &mut Walked,
    ) -> Result<(), SourceError> {
        let data = read(pages, self.side, number)?;
        let page = BTreePage::parse(number, &data, self.usable)?;
        match (page.kind, self.without_rowid) {
            (PageKind::TableLeaf, false) | (PageKind::IndexLeaf, true) => {
                if page.cells > 0 {
                    walked.items.push(Item::leaf(number));
                }
            }
            (PageKind::TableInterior, false) | (PageKind::IndexInterior, true) => {
                for n in (0..page.children()).rev() {
                    let index = u32::try_from(n).unwrap_or(u32::MAX);
                    if self.without_rowid && n < page.cells {
                        steps.push(Step::Row {
                            page: number,
                            n: index,
                        });
                    }
                    steps.push(Step::Page {
                        page: page.child(n)?,
                        parent: number,
                    });
                }
            }
            _ => return Err(malformed(number, "it has the type of another kind of tree")),
        }
        Ok(())
    }
}
