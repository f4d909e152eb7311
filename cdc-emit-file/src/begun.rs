//! Where listed files begin, so that a name that the manifest has is never used again.

use std::collections::BTreeMap;

use cdc_core::Position;

use crate::name::FileName;

/// Most positions that are kept. Of more, the lowest are asked of the manifest.
const KEPT_MAX: usize = 1 << 16;

/// Where the files of the manifest begin.
#[derive(Debug, Default)]
pub(crate) struct Begun {
    /// The repeat that no file listed at this position has, nor a higher one.
    free: BTreeMap<Position, u16>,
    /// What begins here or before is not kept.
    forgotten: Option<Position>,
}

impl Begun {
    /// Of these names; others than those of the stream are left out.
    pub(crate) fn of<'a>(stream: &str, names: impl Iterator<Item = &'a String>) -> Self {
        let mut begun = Self::default();
        for name in names {
            begun.add(stream, name);
        }
        begun
    }

    /// A file is listed.
    pub(crate) fn add(&mut self, stream: &str, name: &str) {
        let Some(FileName { first, repeat, .. }) = FileName::parse(stream, name) else {
            return;
        };
        if self.forgotten.is_some_and(|to| first <= to) {
            return;
        }
        let free = self.free.entry(first).or_default();
        *free = (*free).max(repeat.saturating_add(1));
        if self.free.len() > KEPT_MAX
            && let Some((lowest, _)) = self.free.pop_first()
        {
            self.forgotten = Some(lowest);
        }
    }

    /// The lowest repeat for a new file that begins here; `None` if that is not kept.
    pub(crate) fn free_at(&self, first: Position) -> Option<u16> {
        if self.forgotten.is_some_and(|to| first <= to) {
            return None;
        }
        Some(self.free.get(&first).copied().unwrap_or(0))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use cdc_core::Lsn;
    use cdc_core::envelope::Format;

    fn name(commit: u64, repeat: u16) -> String {
        let first = Position::new(Lsn(commit), 0);
        let format = Format::Json;
        FileName {
            first,
            repeat,
            format,
        }
        .text("shop")
    }

    #[test]
    fn a_listed_name_is_not_free_and_the_highest_repeat_counts() {
        let names = [
            name(7, 2),
            name(7, 0),
            name(9, 0),
            "notes.ndjson".to_owned(),
        ];
        let mut begun = Begun::of("shop", names.iter());
        let at = |commit| Position::new(Lsn(commit), 0);
        assert_eq!(begun.free_at(at(7)), Some(3));
        assert_eq!(begun.free_at(at(8)), Some(0));
        assert_eq!(begun.free_at(at(9)), Some(1));
        begun.add("shop", &name(8, 0));
        assert_eq!(begun.free_at(at(8)), Some(1));
    }

    #[test]
    fn of_more_positions_than_are_kept_the_lowest_are_unknown() {
        let kept = u64::try_from(KEPT_MAX).unwrap();
        let names: Vec<_> = (10..10 + kept + 2).map(|commit| name(commit, 0)).collect();
        let mut begun = Begun::of("shop", names.iter());
        begun.add("shop", &name(3, 0));
        let at = |commit| begun.free_at(Position::new(Lsn(commit), 0));
        assert_eq!((at(3), at(5), at(10), at(11)), (None, None, None, None));
        assert_eq!((at(12), at(10 + kept)), (Some(1), Some(1)));
        assert_eq!(at(20 + kept), Some(0));
        assert_eq!(begun.free.len(), KEPT_MAX);
    }
}
