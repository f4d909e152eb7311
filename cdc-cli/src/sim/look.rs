//! Another process that looks while this one runs: at the log, the letters and the files. It
//! changes nothing, and must be able to whatever happens, unless a fault of the disk is in what it reads.

use std::sync::Arc;

use cdc_core::BatchLimit;
use cdc_dlq::DlqReader;
use cdc_wal::{StartAt, WalTail};

use super::engine;
use super::process::Paths;
use super::world::World;

impl World {
    pub(super) fn look(&mut self) {
        for (emitter, append) in self.file_emitters() {
            if append {
                self.read_appended(emitter);
            }
        }
        let calls = self.outside.disk.calls();
        let seen = self.read_all();
        if self.outside.disk.calls() != calls {
            self.outside.oracle.violated("a look changes the disk");
        }
        // What a fault left stays until the next process has mended it.
        let faults = self.outside.disk.failures() > 0 || !self.torn.is_empty();
        self.outside
            .timeline
            .note("look", || format!("{seen:?}, after faults: {faults}"));
        if let Err(what) = seen
            && !faults
        {
            let what = format!("a look fails without a fault: {what}");
            self.outside.oracle.violated(what);
        }
    }

    /// Events in the log, and open letters.
    fn read_all(&self) -> Result<(usize, usize), String> {
        let storage = self.outside.disk.shared();
        let paths = Paths::of(self.outside.era);
        let mut events = 0;
        if engine::exists(storage.as_ref(), &paths.log) {
            let clock = Arc::new(self.outside.clock.clone());
            let tail = WalTail::open(storage.clone(), &paths.log, StartAt::Earliest, clock);
            let mut tail = tail.map_err(|error| format!("open the log: {error}"))?;
            let limit = BatchLimit::default();
            while let Some(batch) = tail
                .poll_batch(&limit)
                .map_err(|error| format!("read the log: {error}"))?
            {
                events += batch.len();
            }
        }
        let letters = DlqReader::open(storage.as_ref(), paths.dlq.as_str())
            .map_err(|error| format!("read the letters: {error}"))?;
        let letters = letters.counts().into_iter().map(|count| count.letters);
        Ok((events, usize::try_from(letters.sum::<u64>()).unwrap_or(0)))
    }
}
