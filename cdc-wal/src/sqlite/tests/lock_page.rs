//! Databases of more than 1 GiB: one page, that of the lock bytes, is in no file and no log. Their files
//! are holes but for a page behind it.

use std::fs::File;
use std::os::unix::fs::FileExt as _;
use std::path::Path;
use std::sync::Arc;

use cdc_core::Lsn;
use cdc_core::storage::StdStorage;

use crate::sqlite::archive::{Archive, Archived, Head};
use crate::sqlite::config::SqliteConfig;
use crate::sqlite::format::{Checksum, Salts, stored_pages};
use crate::sqlite::kept::Kept;
use crate::sqlite::log_file::{Committed, Written};
use crate::sqlite::looks::Looks;
use crate::sqlite::settle::settle;
use crate::sqlite::shadow::{Between, Replay, Shadow};
use crate::sqlite::view::LogView;

const PAGE: u32 = 65536;
/// 16385 outside of tests.
const LOCKED: u32 = 1025;

fn page(content: u8) -> Vec<u8> {
    vec![content; PAGE as usize]
}

/// A file of this many pages of zeros, and perhaps one more page behind the next one.
fn sparse(path: &Path, count: u32, behind: Option<u8>) -> Arc<File> {
    let file = File::options()
        .read(true)
        .write(true)
        .create_new(true)
        .open(path)
        .unwrap();
    file.set_len(u64::from(count) * u64::from(PAGE)).unwrap();
    if let Some(content) = behind {
        let offset = u64::from(count + 1) * u64::from(PAGE);
        file.write_all_at(&page(content), offset).unwrap();
    }
    file.into()
}

/// The copy of a database that ends before the page with the lock bytes, and the transaction
/// that wrote the page behind it.
fn grown(dir: &Path) -> (Shadow, Archived) {
    sparse(&dir.join("shadow.db"), LOCKED - 1, None);
    let storage = StdStorage::shared();
    let shadow = Shadow::open(storage.as_ref(), dir, PAGE).unwrap();
    let (mut archive, _) = Archive::open(&storage, dir, PAGE).unwrap();
    let head = Head {
        commit: Lsn(1),
        salts: Salts::default(),
        checksum: Checksum::default(),
        count: LOCKED + 1,
        micros: 0,
        merged: false,
    };
    let archived = archive.append(head, &[LOCKED + 1], |_| Ok(page(1).into()));
    (shadow, archived.unwrap())
}

#[test]
fn the_page_with_the_lock_bytes_is_not_stored() {
    for (page_size, locked) in [(512, 131_073), (4096, 16_385), (PAGE, LOCKED)] {
        let behind = stored_pages(page_size, locked + 1).skip(locked as usize - 2);
        assert_eq!(behind.collect::<Vec<_>>(), [locked - 1, locked + 1]);
    }
    assert_eq!(stored_pages(PAGE, 3).collect::<Vec<_>>(), [1, 2, 3]);
}

/// All that is behind the lock bytes is in the log still: the database file ends before them.
#[test]
fn a_database_whose_file_ends_before_the_lock_bytes_is_copied() {
    let dir = tempfile::tempdir().unwrap();
    let main = sparse(&dir.path().join("app.db"), LOCKED - 1, None);
    let mut view = LogView::new(main, PAGE, LOCKED - 1);
    let written = Written {
        page: LOCKED + 1,
        frame: 1,
        image: Some(page(1).into()),
    };
    view.begin(Committed {
        count: LOCKED + 1,
        pages: vec![written],
        ..Committed::default()
    });
    let storage = StdStorage::shared();
    let shadow = Shadow::create(storage.as_ref(), dir.path(), PAGE, &view).unwrap();
    assert_eq!(shadow.read(LOCKED + 1).unwrap(), page(1));
}

#[test]
fn a_database_that_grew_over_the_lock_bytes_is_compared_with_its_log_held() {
    let dir = tempfile::tempdir().unwrap();
    let (shadow, archived) = grown(dir.path());
    let mut old = Replay::new(&shadow, LOCKED - 1, vec![archived]);
    old.begin(0);
    old.finish();
    for (behind, changed) in [(1, vec![]), (2, vec![LOCKED + 1])] {
        let path = dir.path().join(format!("app{behind}.db"));
        let main = sparse(&path, LOCKED - 1, Some(behind));
        let new = LogView::new(main, PAGE, LOCKED + 1);
        let between = Between {
            old: &old,
            new: &new,
        };
        assert_eq!(between.changed().unwrap(), changed);
    }
}

#[test]
fn a_database_that_grew_over_the_lock_bytes_is_compared_without_a_lock() {
    let dir = tempfile::tempdir().unwrap();
    let (shadow, archived) = grown(dir.path());
    let path = dir.path().join("app.db");
    sparse(&path, LOCKED - 1, Some(2));
    let kept = Kept::new(shadow, PAGE, LOCKED - 1, &[archived]);
    let into = Shadow::empty(
        StdStorage::shared().as_ref(),
        dir.path(),
        "gathered.tmp",
        PAGE,
    );
    let into = into.unwrap();
    let mut looks = Looks::open(&SqliteConfig::new(&path)).unwrap();
    let settled = settle(&mut looks, PAGE, Some(&kept), &into).unwrap();
    assert_eq!(settled.changed, [LOCKED + 1]);
    assert_eq!(into.read(LOCKED + 1).unwrap(), page(2));
}
