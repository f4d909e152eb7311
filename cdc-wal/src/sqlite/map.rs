//! Which b-tree each page belongs to.
//!
//! Kept for the tables that are captured and for the schema; pages of indexes, of the free list
//! and of tables that are left out belong to nothing. 12 bytes a page of the database.

/// Number of a tree; never used again after its table is dropped.
pub(crate) type TreeId = u32;

/// What a page is to its tree.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Role {
    Root,
    /// Any other page of the b-tree; its parent is the interior page above it.
    Branch,
    /// The first overflow page of a row; its parent is the page with the row's cell.
    FirstOverflow,
    /// A later overflow page; its parent is the one before it.
    Overflow,
}

/// What is known of a page.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Owner {
    pub(crate) tree: TreeId,
    pub(crate) role: Role,
    pub(crate) parent: u32,
}

/// What one transaction has found out about a page.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
pub(crate) enum Mark {
    /// The transaction wrote it.
    Changed = 1,
    /// Something below it, or a row's overflow, was written.
    Touched = 2,
    /// It and everything below it stays in its tree as it is.
    Retained = 4,
    /// Visited from the new root.
    New = 8,
    /// Visited from the old root.
    Old = 16,
    /// An overflow page whose row's chain was written (on the first page), or that was followed
    /// to its row already.
    Dirty = 32,
}

#[derive(Clone, Copy, Debug, Default)]
struct Slot {
    parent: u32,
    /// Tree number plus one, shifted by two, and the role; 0 if it belongs to nothing.
    tag: u32,
    /// The transaction's number, shifted by six, and its marks.
    marks: u32,
}

const EPOCHS: u32 = 1 << 26;

/// The map, by page number.
#[derive(Debug, Default)]
pub(crate) struct PageMap {
    slots: Vec<Slot>,
    epoch: u32,
}

impl PageMap {
    /// Makes room for pages up to this number, and forgets the marks of the transaction before.
    pub(crate) fn begin(&mut self, pages: u32) {
        self.epoch += 1;
        if self.epoch == EPOCHS {
            self.epoch = 1;
            for slot in &mut self.slots {
                slot.marks = 0;
            }
        }
        let wanted = pages as usize + 1;
        if self.slots.len() < wanted {
            self.slots.resize(wanted, Slot::default());
        }
    }

    /// Forgets the pages behind this number.
    pub(crate) fn truncate(&mut self, pages: u32) {
        self.slots.truncate(pages as usize + 1);
    }

    /// To whom a page belongs.
    #[inline]
    pub(crate) fn owner(&self, page: u32) -> Option<Owner> {
        let slot = self.slots.get(page as usize)?;
        let tree = (slot.tag >> 2).checked_sub(1)?;
        let role = match slot.tag & 3 {
            0 => Role::Root,
            1 => Role::Branch,
            2 => Role::FirstOverflow,
            _ => Role::Overflow,
        };
        Some(Owner {
            tree,
            role,
            parent: slot.parent,
        })
    }

    pub(crate) fn set(&mut self, page: u32, owner: Owner) {
        if let Some(slot) = self.slots.get_mut(page as usize) {
            slot.tag = ((owner.tree + 1) << 2) | owner.role as u32;
            slot.parent = owner.parent;
        }
    }

    pub(crate) fn clear(&mut self, page: u32) {
        if let Some(slot) = self.slots.get_mut(page as usize) {
            slot.tag = 0;
        }
    }

    #[inline]
    pub(crate) fn has(&self, page: u32, mark: Mark) -> bool {
        self.slots
            .get(page as usize)
            .is_some_and(|slot| slot.marks >> 6 == self.epoch && slot.marks & mark as u32 != 0)
    }

    /// Sets a mark; false if it was set before, or there is no such page.
    #[inline]
    pub(crate) fn mark(&mut self, page: u32, mark: Mark) -> bool {
        let Some(slot) = self.slots.get_mut(page as usize) else {
            return false;
        };
        if slot.marks >> 6 != self.epoch {
            slot.marks = self.epoch << 6;
        }
        let new = slot.marks & mark as u32 == 0;
        slot.marks |= mark as u32;
        new
    }
}
