//! What stands in the files of file emitters, as a consumer finds it.

use std::path::Path;

use cdc_core::testing::sim::lines;

use super::plan::Kind;
use super::process;
use super::world::World;

impl World {
    /// Looks when no process runs.
    pub(super) fn look_at_files(&mut self) {
        for (emitter, append) in self.file_emitters() {
            let dir = self.files_of(emitter);
            let name = self.plan.config.emitters[emitter].name.clone();
            let oracle = self.outside.oracle.clone();
            match lines(&self.outside.disk, Path::new(&dir)) {
                Ok(lines) if lines.damaged && !self.torn.contains(&name) => {
                    oracle.violated(format!(
                        "{name}: its files are damaged although the power never went"
                    ));
                }
                Ok(lines) => oracle.in_files(&name, &lines),
                Err(what) => oracle.violated(format!("{name}: its files cannot be read: {what}")),
            }
            if append {
                self.read_appended(emitter);
            }
        }
    }

    /// Somebody reads files that are only appended to, at any moment: what was there once stays.
    pub(super) fn read_appended(&mut self, emitter: usize) {
        let name = self.plan.config.emitters[emitter].name.clone();
        let dir = self.files_of(emitter);
        let Ok(now) = lines(&self.outside.disk, Path::new(&dir)) else {
            return;
        };
        if now.damaged || self.torn.contains(&name) {
            return;
        }
        if let Some(before) = self.read_lines.get(&name)
            && let Some(lost) = now.lost(before)
        {
            let what = format!("{name}: its files had {lost}, are only appended to, and have not");
            self.outside.oracle.violated(what);
        }
        // A write that a full disk refused may have left whole lines, and the disk have failed to cut them off.
        let failed = self
            .process
            .as_ref()
            .is_some_and(|process| self.outside.disk.failures() > process.disk_failures);
        if !failed {
            self.read_lines.insert(name, now);
        }
    }

    /// Numbers of the file emitters, and if their files are only appended to.
    pub(super) fn file_emitters(&self) -> Vec<(usize, bool)> {
        let emitters = self.plan.config.emitters.iter().enumerate();
        emitters
            .filter_map(|(number, emitter)| match emitter.kind {
                Kind::File { append, .. } => Some((number, append)),
                Kind::Hook | Kind::Queue => None,
            })
            .collect()
    }

    fn files_of(&self, emitter: usize) -> String {
        process::directory(&self.plan.config.emitters[emitter], self.outside.era)
    }

    /// The process has ended in order: its manifests prove all its files.
    pub(super) fn verify_files(&self) {
        for (emitter, _) in self.file_emitters() {
            let name = &self.plan.config.emitters[emitter].name;
            if self.torn.contains(name) {
                continue;
            }
            let dir = self.files_of(emitter);
            let verified = cdc_emit_file::verify(&self.outside.disk, Path::new(&dir), "s");
            let what = match verified {
                Ok(verified) if verified.is_whole() => continue,
                Ok(verified) => format!("{:?}", verified.problems),
                Err(error) => error.to_string(),
            };
            self.outside.oracle.violated(format!(
                "{name}: the process ended in order, and its manifest says {what}"
            ));
        }
    }
}
