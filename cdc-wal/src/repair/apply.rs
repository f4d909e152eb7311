//! Doing what a scan says: copies first, then each file replaced as a whole.

use std::path::{Path, PathBuf};

use cdc_core::storage::{OpenMode, Storage, StorageFile, open_if_there};
use cdc_core::wall_micros;

use super::RepairReport;
use super::scan::{Changes, Scan};
use crate::LogError;
use crate::control::{CONTROL, Control};
use crate::format::frame;
use crate::log::cursors;
use crate::segment::{self, file_name};

/// A segment while it is being written anew.
const REPAIRED: &str = "repair.tmp";
/// Bytes copied at a time.
const COPY_BYTES: usize = 1 << 20;

pub(super) fn apply(
    storage: &dyn Storage,
    dir: &Path,
    scan: Scan,
) -> Result<RepairReport, LogError> {
    let Scan {
        id,
        mut report,
        changes,
        cut,
    } = scan;
    if report.is_clean() {
        return Ok(report);
    }
    let aside = dir.join(format!("damaged-{}", wall_micros()));
    let io = |what: &'static str, path: PathBuf| move |cause| LogError::io(what, &path, cause);
    storage
        .create_dir_all(&aside)
        .map_err(io("create the directory", aside.clone()))?;
    // Segments behind a cut go as well.
    let behind: Vec<u64> = match cut {
        Some(at) => {
            let mut bases = segment::list(storage, dir)?;
            bases.retain(|base| *base > at);
            bases
        }
        None => Vec::new(),
    };
    let mut names: Vec<String> = changes
        .keys()
        .chain(&behind)
        .map(|b| file_name(*b))
        .collect();
    if report.cursors_lost {
        names.push(cursors::FILE.to_owned());
    }
    if cut.is_some() {
        names.push(CONTROL.to_owned());
    }
    for name in &names {
        let path = dir.join(name);
        let there = open_if_there(storage, &path, OpenMode::Read);
        if there.map_err(io("read", path.clone()))?.is_some() {
            copy(storage, &path, &aside.join(name), |_, _| Ok(()))?;
        }
    }
    report.set_aside = Some(aside.clone());
    let text = aside.join("report.txt");
    let file = storage
        .open(&text, OpenMode::CreateNew)
        .map_err(io("create the report", text.clone()))?;
    file.write_all_at(report.to_string().as_bytes(), 0)
        .and_then(|()| file.sync_data())
        .and_then(|()| storage.sync_dir(&aside))
        .and_then(|()| storage.sync_dir(dir))
        .map_err(io("write the report", text.clone()))?;

    // From here on the log changes. Each step leaves a log that can be repaired again.
    let remove = |path: PathBuf| {
        storage
            .remove(&path)
            .and_then(|()| storage.sync_dir(dir))
            .map_err(io("remove", path.clone()))
    };
    if report.cursors_lost {
        remove(dir.join(cursors::FILE))?;
    }
    for base in behind.iter().rev() {
        remove(dir.join(file_name(*base)))?;
    }
    if let Some(at) = cut {
        lower(storage, dir, at)?;
    }
    for (base, changes) in &changes {
        if changes.remove {
            remove(dir.join(file_name(*base)))?;
        } else {
            rewrite(
                storage,
                dir,
                *base,
                u64::from(id.segment_bytes),
                id.uuid,
                id.epoch,
                changes,
            )?;
        }
    }
    Ok(report)
}

/// Writes a segment anew beside the old one and puts it in its place.
fn rewrite(
    storage: &dyn Storage,
    dir: &Path,
    base: u64,
    size: u64,
    uuid: [u8; 16],
    epoch: u32,
    changes: &Changes,
) -> Result<(), LogError> {
    let path = dir.join(file_name(base));
    let beside = dir.join(REPAIRED);
    if storage.exists(&beside) {
        storage
            .remove(&beside)
            .map_err(|cause| LogError::io("remove", &beside, cause))?;
    }
    let seed = crate::format::header::seed(&uuid, epoch, base);
    let edit = |file: &dyn StorageFile, len: u64| -> std::io::Result<()> {
        if len < size {
            file.set_len(size)?;
        }
        if let Some(header) = &changes.header {
            let bytes = header.encode().map_err(std::io::Error::other)?;
            file.write_all_at(&bytes, 0)?;
        }
        for edit in &changes.edits {
            zero(file, edit.lsn - base, edit.bytes)?;
            let gap = frame::gap(edit.lsn, edit.bytes, edit.tx, seed);
            file.write_all_at(&gap, edit.lsn - base)?;
        }
        match changes.cut {
            Some(at) => zero(file, at - base, base + size - at),
            None => Ok(()),
        }
    };
    if changes.missing {
        let io = |cause| LogError::io("create the log segment", &beside, cause);
        let file = storage.open(&beside, OpenMode::CreateNew).map_err(io)?;
        edit(file.as_ref(), 0).map_err(io)?;
        file.sync_data().map_err(io)?;
    } else {
        copy(storage, &path, &beside, edit)?;
    }
    storage
        .rename(&beside, &path)
        .and_then(|()| storage.sync_dir(dir))
        .map_err(|cause| LogError::io("put the repaired log segment in place", &path, cause))
}

fn zero(file: &dyn StorageFile, mut at: u64, mut bytes: u64) -> std::io::Result<()> {
    let zeros = vec![0; COPY_BYTES];
    while bytes > 0 {
        let n = usize::try_from(bytes).unwrap_or(usize::MAX).min(COPY_BYTES);
        file.write_all_at(&zeros[..n], at)?;
        at += n as u64;
        bytes -= n as u64;
    }
    Ok(())
}

/// Copies a file, changes the copy, given its length, and syncs it.
fn copy(
    storage: &dyn Storage,
    from: &Path,
    to: &Path,
    change: impl FnOnce(&dyn StorageFile, u64) -> std::io::Result<()>,
) -> Result<(), LogError> {
    let read = |cause| LogError::io("read", from, cause);
    let write = |cause| LogError::io("write", to, cause);
    let source = storage.open(from, OpenMode::Read).map_err(read)?;
    let copy = storage.open(to, OpenMode::CreateNew).map_err(write)?;
    let mut buffer = vec![0; COPY_BYTES];
    let mut at = 0;
    loop {
        let n = source.read_at(&mut buffer, at).map_err(read)?;
        if n == 0 {
            break;
        }
        copy.write_all_at(&buffer[..n], at).map_err(write)?;
        at += n as u64;
    }
    change(copy.as_ref(), at).map_err(write)?;
    copy.sync_data().map_err(write)
}

/// Takes back in the control file what was said of a part that is cut.
fn lower(storage: &dyn Storage, dir: &Path, to: u64) -> Result<(), LogError> {
    let Some(mut control) = Control::load(storage, dir)? else {
        return Ok(());
    };
    control.flushed = control.flushed.min(to);
    control.written = control.written.min(to);
    let path = dir.join(CONTROL);
    cdc_core::storage::replace_file(storage, &path, &control.encode())
        .map_err(|cause| LogError::io("write the log's control file", &path, cause))
}
