//! Fuzz targets of SQLite's files.

use std::cell::RefCell;
use std::fs::File;
use std::os::unix::fs::FileExt as _;

use cdc_core::row::{RowImage, RowWriter};

use super::format::{Checksum, DbHeader, Encoding, FRAME_HEADER, WAL_HEADER, WalHeader};
use super::log_file::{Scanned, Scanner};
use super::page::BTreePage;
use super::record;
use super::schema::TableDef;
use super::wal_index::{INDEX_BYTES, WalIndex};

const PAGE: usize = 512;

/// A page of any bytes: every cell is read or refused, and every record in it.
pub(crate) fn page(data: &[u8]) {
    let Some((mode, rest)) = data.split_first() else {
        return;
    };
    let _header = DbHeader::parse(rest);
    if let Some(index) = rest.first_chunk::<INDEX_BYTES>() {
        let _index = WalIndex::parse(index);
    }
    let number = 1 + u32::from(mode & 1);
    let usable = if mode & 2 == 0 { PAGE } else { PAGE - 32 };
    let mut bytes = rest.to_vec();
    bytes.resize(PAGE, 0);
    let mut fields = Vec::new();
    if let Ok(page) = BTreePage::parse(number, &bytes, usable) {
        for n in 0..page.cells {
            let (_, _) = (page.rowid(n), page.child(n));
            if let Ok(cell) = page.cell(n) {
                payload(cell.local, &mut fields);
            }
        }
        let _children = page.children();
    }
    payload(rest, &mut fields);
}

fn payload(payload: &[u8], fields: &mut Vec<record::Field>) {
    if record::parse(payload, fields).is_err() {
        return;
    }
    for encoding in [Encoding::Utf8, Encoding::Utf16Le, Encoding::Utf16Be] {
        let mut buffer = Vec::new();
        let mut row = RowWriter::new(&mut buffer);
        for field in fields.iter() {
            record::write(&mut row, field.value(payload), true, encoding);
        }
        let count = row.count();
        row.finish();
        let row = RowImage::from_bytes(buffer.into());
        row.validate().expect("a row of ours");
        assert_eq!(row.column_count().ok(), Some(count as usize));
    }
}

thread_local! {
    /// Scanning reads a file; one is enough.
    static FILE: RefCell<Option<File>> = const { RefCell::new(None) };
}

fn with_file(bytes: &[u8], then: impl FnOnce(&File)) {
    FILE.with_borrow_mut(|file| {
        let file = file.get_or_insert_with(|| {
            let name = format!("weftkit-fuzz-{}", std::process::id());
            let path = std::env::temp_dir().join(name);
            let mut options = File::options();
            let options = options.read(true).write(true).create(true).truncate(true);
            let file = options.open(&path).expect("a temporary file");
            std::fs::remove_file(&path).expect("the file just made");
            file
        });
        file.set_len(0).expect("a temporary file");
        file.write_all_at(bytes, 0).expect("room for a small file");
        then(file);
    });
}

/// A `-wal` file. The first byte says whether the rest is the file, or pages to be put behind a good
/// header with checksums that fit: each has its number and the size after it in one byte each, and
/// 512 bytes, or what is left.
pub(crate) fn wal(data: &[u8]) {
    let Some((mode, rest)) = data.split_first() else {
        return;
    };
    let bytes = if mode & 1 == 0 {
        rest.to_vec()
    } else {
        sealed(rest, mode & 2 != 0)
    };
    let frames = u32::try_from(bytes.len() / (PAGE + FRAME_HEADER)).unwrap_or(0) + 2;
    let Ok(header) = WalHeader::parse(&bytes) else {
        return;
    };
    with_file(&bytes, |file| {
        for limit in [frames, u32::MAX] {
            let mut scanner = Scanner::new(header);
            let mut last = 0;
            while let Ok(Scanned::Transaction(found)) = scanner.next(file, limit) {
                assert!(found.last > last && found.last == scanner.at());
                last = found.last;
                let numbers = found.pages.iter().map(|page| page.page);
                assert!(numbers.is_sorted_by(|a, b| a < b), "a page twice");
                let mut fields = Vec::new();
                for written in &found.pages {
                    let Some(image) = &written.image else {
                        continue;
                    };
                    if let Ok(page) = BTreePage::parse(written.page, image, image.len()) {
                        for n in 0..page.cells {
                            if let Ok(cell) = page.cell(n) {
                                payload(cell.local, &mut fields);
                            }
                        }
                    }
                }
            }
        }
    });
}

/// A log with checksums that fit.
fn sealed(data: &[u8], big_endian: bool) -> Vec<u8> {
    let magic = 0x377f_0682 | u32::from(big_endian);
    let mut out = magic.to_be_bytes().to_vec();
    out.extend(3_007_000_u32.to_be_bytes());
    out.extend(u32::try_from(PAGE).unwrap_or(0).to_be_bytes());
    out.extend([0, 0, 0, 1, 7, 7, 7, 7, 9, 9, 9, 9]);
    let mut sum = Checksum::default().over(&out[..24], big_endian);
    let put = |out: &mut Vec<u8>, sum: &Checksum| {
        out.extend(sum.0.to_be_bytes());
        out.extend(sum.1.to_be_bytes());
    };
    put(&mut out, &sum);
    assert_eq!(out.len(), WAL_HEADER);
    let mut rest = data;
    while let Some(([number, commit], after)) = rest.split_first_chunk::<2>() {
        let (image, after) = after.split_at(after.len().min(PAGE));
        rest = after;
        let mut head = u32::from(*number).to_be_bytes().to_vec();
        head.extend(u32::from(*commit).to_be_bytes());
        let mut page = image.to_vec();
        page.resize(PAGE, 0);
        sum = sum.over(&head, big_endian).over(&page, big_endian);
        out.extend(head);
        out.extend([7, 7, 7, 7, 9, 9, 9, 9]);
        put(&mut out, &sum);
        out.extend(page);
    }
    out
}

/// The text of a table in the schema.
pub(crate) fn schema(data: &[u8]) {
    let text = String::from_utf8_lossy(data);
    if let Ok(table) = TableDef::parse(&text) {
        for key in &table.key {
            assert!(key.column < table.columns.len(), "a key of no column");
        }
        assert!(table.alias.is_none_or(|n| n < table.columns.len()));
    }
}

#[cfg(test)]
pub(crate) fn seeds() -> Vec<(&'static str, String, Vec<u8>)> {
    let tables = [
        "CREATE TABLE t (id INTEGER PRIMARY KEY, v TEXT NOT NULL DEFAULT 'x', r REAL)",
        "CREATE TABLE \"Odd \"\"Name\"\"\" (a INT, b TEXT COLLATE NOCASE, PRIMARY KEY (a DESC, b)) WITHOUT ROWID",
        "CREATE TABLE c (id INTEGER PRIMARY KEY ASC, g AS (id + 1) STORED, CHECK (id > 0), FOREIGN KEY (id) REFERENCES t(id)) STRICT",
        "CREATE TABLE [b r] (`x y` blob default (1+(2)), -- comment\n z /* c */ varchar(10) UNIQUE)",
    ];
    let of = |(n, text): (usize, &&str)| ("sqlite-schema", n.to_string(), text.as_bytes().to_vec());
    let mut seeds: Vec<_> = tables.iter().enumerate().map(of).collect();
    // A leaf of a table with one row (7, 'seven'), in a page of its own.
    let cell = b"\x08\x07\x03\x00\x17seven";
    let mut leaf = vec![13, 0, 0, 0, 1, 0, 0, 0];
    let at = PAGE - cell.len();
    leaf.extend(u16::try_from(at).expect("small").to_be_bytes());
    leaf.resize(at, 0);
    leaf.extend_from_slice(cell);
    seeds.push(("sqlite-page", "leaf".into(), [&[1][..], &leaf].concat()));
    let framed = [&[1, 2, 0][..], &leaf, &[3, 3], &leaf].concat();
    let raw = [&[0][..], &sealed(&framed[1..], false)].concat();
    seeds.push(("sqlite-wal", "raw".into(), raw));
    seeds.push(("sqlite-wal", "framed".into(), framed));
    seeds
}
