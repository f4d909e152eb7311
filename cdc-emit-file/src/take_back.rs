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
use std::path::Path;

use cdc_core::EmitError;
use cdc_core::storage::OpenMode;
use tracing::{info, warn};

use crate::error::{io_error, is_full};
use crate::restart::{Form, Found};
use crate::state::FileState;
use crate::writer::Writer;

impl Writer {
    /// Removes every file of ours that came after the mark: neither `listed` up to it nor open then. `later` is all
    /// that the manifest lists, up to damage, if it is `damaged`.
    pub(crate) fn take_back(
        &self,
        state: &FileState,
        listed: &BTreeMap<String, u64>,
        later: &BTreeMap<String, u64>,
        damaged: bool,
    ) -> Result<(), EmitError> {
        let storage = &*self.config.storage;
        let found = self.found()?;
        let is_there = |name: &str, form| {
            let mut same = found.iter().filter(|found| found.text == name);
            same.any(|found| found.form == form)
        };
        let open = state.open.as_ref().map(|open| open.name.as_str());
        let is_open = |found: &Found| Some(found.text.as_str()) == open;
        let mut behind = Vec::new();
        for found in &found {
            let name = &found.text;
            if is_open(found) || listed.contains_key(name) {
                continue;
            }
            // Of a compressed one that is neither listed nor marked nothing is known.
            let by_name = found.name.first > state.last && (found.form != Form::Packed || damaged);
            let came_later = is_there(name, Form::Part) || later.contains_key(name);
            if by_name || came_later {
                behind.push(found);
            } else {
                warn!(file = %self.path_of(found).display(), "a file is neither in the manifest nor in the checkpoint; leaving it alone");
            }
        }
        // The file that was open then is not removed, and gets its open name as well.
        let opened_again: Vec<_> = found.iter().filter(|found| is_open(found)).collect();
        for found in behind.iter().chain(&opened_again) {
            let (name, path) = (&found.text, self.path_of(found));
            let part = self.part_path(name);
            match found.form {
                Form::Closed if is_open(found) && is_there(name, Form::Part) => {}
                Form::Closed => match storage.rename(&path, &part) {
                    // A longer name may need room, and to remove makes some.
                    Err(cause) if is_full(&cause) && !is_open(found) => {}
                    renamed => renamed.map_err(|cause| io_error("open again", &path, cause))?,
                },
                // A compressed one cannot have that name: an empty file beside it says so.
                Form::Packed if !is_there(name, Form::Closed) && !is_there(name, Form::Part) => {
                    storage
                        .open(&part, OpenMode::CreateNew)
                        .map_err(|cause| io_error("create", &part, cause))?;
                }
                _ => {}
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
        let packed: Vec<_> = behind.iter().filter(|f| f.form == Form::Packed).collect();
        for found in &packed {
            remove(&self.path_of(found))?;
        }
        if !packed.is_empty() {
            // Before what says that it is to go.
            self.sync_dir()?;
        }
        let mut names: Vec<_> = behind.iter().map(|found| &found.text).collect();
        names.dedup();
        // The newest first: a crash in between leaves no hole in what is still there.
        for name in names.into_iter().rev() {
            for path in [self.config.path.join(name), self.part_path(name)] {
                if self.is_there(&path)? {
                    remove(&path)?;
                }
            }
        }
        self.sync_dir()
    }
}
