//! Taking back what was closed behind a checkpoint: the steps of closing, the other way round.
//!
//! 1. what is closed gets its open name again, and that is made durable;
//! 2. its lines are cut off the manifest;
//! 3. it is removed.
//!
//! Wherever that is interrupted, each listed file is there, and one that is not listed bears the name of an open
//! one. So the next start may be one from the same checkpoint, which goes on, or one that knows nothing of it, as
//! after an operator has moved the emitter: that finds whole files and keeps them.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use cdc_core::EmitError;
use cdc_core::storage::OpenMode;
use tracing::{info, warn};

use crate::error::io_error;
use crate::restart::{Form, Found, is_among};
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
        let open = state.open.as_ref().map(|open| open.name.as_str());
        let is_open = |found: &Found| Some(found.text.as_str()) == open;
        // Of one that is neither listed nor open nothing is known, unless its line may be damaged.
        let is_behind = |found: &Found| {
            !is_open(found)
                && !listed.contains_key(&found.text)
                && (later.contains_key(&found.text) || damaged && found.name.first > state.last)
        };
        let found = self.in_one_form(|found| is_open(found) || is_behind(found))?;
        let is_there = |name: &str, form| is_among(&found, name, form);
        let mut behind = Vec::new();
        for found in &found {
            if is_open(found) || listed.contains_key(&found.text) {
                continue;
            }
            if is_behind(found) || is_there(&found.text, Form::Part) {
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
                // Two that hold something contradict each other; an empty one is a mark.
                Form::Closed
                    if is_open(found) && is_there(name, Form::Part) && !self.is_empty(&part)? => {}
                Form::Closed => storage
                    .rename(&path, &part)
                    .map_err(|cause| io_error("open again", &path, cause))?,
                // A compressed one cannot have that name: an empty file beside it says so.
                Form::Packed if !is_there(name, Form::Part) => {
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
            remove(&self.part_path(name))?;
        }
        self.sync_dir()
    }

    /// Our data files; of those that `goes` says are taken back, each in one form: a crash while one was
    /// compressed leaves both, and the one goes that nobody has read yet.
    fn in_one_form(&self, goes: impl Fn(&Found) -> bool) -> Result<Vec<Found>, EmitError> {
        let mut found = self.found()?;
        let closed: BTreeSet<_> = found
            .iter()
            .filter(|found| found.form == Form::Closed && goes(found))
            .map(|found| found.text.clone())
            .collect();
        let is_second = |f: &mut Found| f.form == Form::Packed && closed.contains(&f.text);
        let second: Vec<_> = found.extract_if(.., is_second).collect();
        for found in &second {
            let path = self.path_of(found);
            self.config
                .storage
                .remove(&path)
                .map_err(|cause| io_error("remove", &path, cause))?;
        }
        if !second.is_empty() {
            self.sync_dir()?;
        }
        Ok(found)
    }
}
