//! Taking back what was closed behind a checkpoint: the steps of closing, the other way round.
//!
//! 1. what is closed gets its open name again, and that is made durable;
//! 2. its lines are cut off the manifest;
//! 3. it is removed.
//!
//! Wherever that is interrupted, each listed file is there, and one that is not listed bears the name of an open
//! one. So the next start may be one from the same checkpoint, which goes on, or one that knows nothing of it, as
//! after an operator has moved the emitter: that finds whole files and keeps them.

use std::collections::BTreeMap;
use std::io;
use std::path::Path;

use cdc_core::EmitError;
use cdc_core::storage::OpenMode;
use tracing::{info, warn};

use crate::error::io_error;
use crate::restart::{Form, Found};
use crate::state::FileState;
use crate::writer::Writer;

impl Writer {
    /// Removes every file of ours that came after the mark: neither `listed` up to it nor open then. `later` is all
    /// that the manifest lists.
    pub(crate) fn take_back(
        &self,
        state: &FileState,
        listed: &BTreeMap<String, u64>,
        later: &BTreeMap<String, u64>,
    ) -> Result<(), EmitError> {
        let storage = &*self.config.storage;
        let found = self.found()?;
        let is_there = |name: &str, form| {
            let mut same = found.iter().filter(|found| found.text == name);
            same.any(|found| found.form == form)
        };
        let open = state.open.as_ref().map(|open| open.name.as_str());
        let mut behind = Vec::new();
        for found in &found {
            let name = &found.text;
            if Some(name.as_str()) == open || listed.contains_key(name) {
                continue;
            }
            let came_later = is_there(name, Form::Part) || later.contains_key(name);
            if found.name.first > state.last || came_later {
                behind.push(found);
            } else {
                warn!(file = %self.path_of(found).display(), "a file is neither in the manifest nor in the checkpoint; leaving it alone");
            }
        }
        let packed = |found: &&Found| found.form == Form::Packed;
        for found in &behind {
            if found.form == Form::Closed {
                let path = self.path_of(found);
                storage
                    .rename(&path, &self.part_path(&found.text))
                    .map_err(|cause| io_error("open again", &path, cause))?;
            }
        }
        // A compressed one cannot have that name: an empty file beside it says so.
        let opened_again = found
            .iter()
            .filter(|found| Some(found.text.as_str()) == open);
        for found in behind.iter().copied().chain(opened_again).filter(packed) {
            let name = &found.text;
            if !is_there(name, Form::Closed) && !is_there(name, Form::Part) {
                let path = self.part_path(name);
                match storage.open(&path, OpenMode::CreateNew) {
                    // To remove files makes room. Interrupted without this one, a compressed file may stay
                    // that no line explains.
                    Err(cause) if cause.kind() == io::ErrorKind::StorageFull => {}
                    made => drop(made.map_err(|cause| io_error("create", &path, cause))?),
                }
            }
        }
        self.sync_dir()?;
        self.cut_manifest(state.manifest_len)?;
        let remove = |path: &Path| {
            info!(file = %path.display(), "removing a file behind the checkpoint; its events come again");
            storage
                .remove(path)
                .map_err(|cause| io_error("remove", path, cause))
        };
        for found in behind.iter().copied().filter(packed) {
            remove(&self.path_of(found))?;
        }
        if behind.iter().any(packed) {
            // Before what says that it is to go.
            self.sync_dir()?;
        }
        let mut names: Vec<_> = behind.iter().map(|found| &found.text).collect();
        names.dedup();
        // The newest first: a crash in between leaves no hole in what is still there.
        for name in names.into_iter().rev() {
            let path = self.part_path(name);
            if self.is_there(&path)? {
                remove(&path)?;
            }
        }
        self.sync_dir()
    }
}
