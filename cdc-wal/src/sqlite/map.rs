//! Which b-tree each page belongs to.
//!
//! Kept for the tables that are captured and for the schema; pages of indexes, of the free list
//! and of tables that are left out belong to nothing. 12 bytes a page of the database, in pieces that
//! are made when one of their pages is first used: the size a log claims for the database takes no
//! memory.

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

/// Pages of one piece of the map.
const PIECE: usize = 1024;

/// The map, by page number.
#[derive(Debug, Default)]
pub(crate) struct PageMap {
    pieces: Vec<Option<Box<[Slot; PIECE]>>>,
    /// The last page there is room for.
    last: u32,
    epoch: u32,
}

const fn place(page: u32) -> (usize, usize) {
    (page as usize / PIECE, page as usize % PIECE)
}

impl PageMap {
    /// Makes room for pages up to this number, and forgets the marks of the transaction before.
    pub(crate) fn begin(&mut self, pages: u32) {
        self.epoch += 1;
        if self.epoch == EPOCHS {
            self.epoch = 1;
            for slot in self.pieces.iter_mut().flatten().flat_map(|p| p.iter_mut()) {
                slot.marks = 0;
            }
        }
        self.last = self.last.max(pages);
    }

    /// Forgets the pages behind this number.
    pub(crate) fn truncate(&mut self, pages: u32) {
        if pages >= self.last {
            return;
        }
        self.last = pages;
        let (piece, slot) = place(pages);
        self.pieces.truncate(piece + 1);
        if let Some(Some(piece)) = self.pieces.get_mut(piece) {
            for slot in piece.iter_mut().skip(slot + 1) {
                *slot = Slot::default();
            }
        }
    }

    #[inline]
    fn slot(&self, page: u32) -> Option<&Slot> {
        let (piece, slot) = place(page);
        self.pieces.get(piece)?.as_ref()?.get(slot)
    }

    /// The slot of a page; `None` if there is no such page.
    #[inline]
    fn slot_mut(&mut self, page: u32) -> Option<&mut Slot> {
        if page > self.last {
            return None;
        }
        let (piece, slot) = place(page);
        if self.pieces.len() <= piece {
            self.pieces.resize_with(piece + 1, || None);
        }
        let new = || Box::new([Slot::default(); PIECE]);
        self.pieces
            .get_mut(piece)?
            .get_or_insert_with(new)
            .get_mut(slot)
    }

    /// To whom a page belongs.
    #[inline]
    pub(crate) fn owner(&self, page: u32) -> Option<Owner> {
        let slot = self.slot(page)?;
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
        if let Some(slot) = self.slot_mut(page) {
            slot.tag = ((owner.tree + 1) << 2) | owner.role as u32;
            slot.parent = owner.parent;
        }
    }

    pub(crate) fn clear(&mut self, page: u32) {
        let (piece, slot) = place(page);
        if let Some(Some(piece)) = self.pieces.get_mut(piece)
            && let Some(slot) = piece.get_mut(slot)
        {
            slot.tag = 0;
        }
    }

    #[inline]
    pub(crate) fn has(&self, page: u32, mark: Mark) -> bool {
        self.slot(page)
            .is_some_and(|slot| slot.marks >> 6 == self.epoch && slot.marks & mark as u32 != 0)
    }

    /// Sets a mark; false if it was set before, or there is no such page.
    #[inline]
    pub(crate) fn mark(&mut self, page: u32, mark: Mark) -> bool {
        let epoch = self.epoch;
        let Some(slot) = self.slot_mut(page) else {
            return false;
        };
        if slot.marks >> 6 != epoch {
            slot.marks = epoch << 6;
        }
        let new = slot.marks & mark as u32 == 0;
        slot.marks |= mark as u32;
        new
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const OWNER: Owner = Owner {
        tree: 3,
        role: Role::Branch,
        parent: 2,
    };

    #[test]
    fn a_size_that_is_only_claimed_takes_no_memory() {
        let mut map = PageMap::default();
        map.begin(u32::MAX);
        map.set(7, OWNER);
        assert!(map.mark(5000, Mark::New));
        assert_eq!(map.owner(7), Some(OWNER));
        assert_eq!(map.owner(u32::MAX), None);
        assert_eq!(map.pieces.iter().flatten().count(), 2);
    }

    #[test]
    fn pages_behind_the_end_are_forgotten_and_none_of_them_is_marked() {
        let mut map = PageMap::default();
        map.begin(3000);
        for page in [10, 1500, 2999] {
            map.set(page, OWNER);
        }
        map.truncate(1500);
        assert_eq!(map.owner(1500), Some(OWNER));
        assert!(!map.mark(1501, Mark::New));
        map.begin(3000);
        assert_eq!((map.owner(10), map.owner(2999)), (Some(OWNER), None));
        assert!(map.mark(2999, Mark::New) && !map.mark(2999, Mark::New));
    }
}
