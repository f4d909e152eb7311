//! A database, its writer, and the decoder behind it.

use std::fs::File;
use std::sync::Arc;

use cdc_core::SourceError;
use rusqlite::Connection;

use super::mirror::{Mirror, dump, seed};
use super::workload::{Random, Workload};
use crate::sqlite::decoder::Decoder;
use crate::sqlite::format::Salts;
use crate::sqlite::log_file::{Scanned, Scanner, wal_header};
use crate::sqlite::view::LogView;
use crate::sqlite::wal_index::WalIndex;

/// One workload, followed transaction by transaction.
pub(super) struct Run {
    seed: u64,
    // Dropped before the files: closing a descriptor would drop the writer's locks.
    db: Connection,
    workload: Workload,
    _main: Arc<File>,
    index: File,
    view: LogView,
    scanner: Option<Scanner>,
    salts: Salts,
    decoder: Decoder,
    mirror: Mirror,
    transactions: u64,
    dir: tempfile::TempDir,
}

const STEPS: u64 = 16;

impl Run {
    pub(super) fn new(seed: u64) -> Self {
        let mut random = Random::new(seed);
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("app.db");
        let db = Connection::open(&path).unwrap();
        let page_size = 512u64 << random.below(8).min(random.below(8));
        let setup = format!(
            "PRAGMA page_size = {page_size}; PRAGMA encoding = '{}'; PRAGMA auto_vacuum = {}; \
             PRAGMA secure_delete = {}; PRAGMA journal_mode = WAL; PRAGMA wal_autocheckpoint = 0; \
             PRAGMA synchronous = OFF; PRAGMA cache_size = {}; PRAGMA recursive_triggers = ON",
            random.pick(&["UTF-8", "UTF-16le", "UTF-16be"]),
            random.below(3),
            random.pick(&["OFF", "ON", "FAST"]),
            random.pick(&["10", "2000"]),
        );
        db.execute_batch(&setup).unwrap();
        let mut workload = Workload::new(random, page_size);
        for _ in 0..2 + workload.random.below(4) {
            let create = workload.create();
            db.execute_batch(&create).unwrap();
        }
        if workload.random.one_in(8) {
            drop(db.execute_batch(
                "CREATE VIRTUAL TABLE fts USING fts5(x); INSERT INTO fts VALUES ('one two')",
            ));
        }
        for _ in 0..4 {
            workload.transaction(&db);
        }
        let open = |name: &str| File::open(dir.path().join(name)).unwrap();
        let main = Arc::new(open("app.db"));
        let index = open("app.db-shm");
        let wal = Arc::new(open("app.db-wal"));
        let head = WalIndex::read(&index).unwrap().unwrap();
        let header = wal_header(&wal).unwrap().unwrap();
        let mut view = LogView::new(main.clone(), head.page_size, head.count);
        view.restart(Some(wal.clone()));
        let mut scanner = Scanner::new(header);
        while let Scanned::Transaction(next) = scanner.next(&wal, head.last_frame).unwrap() {
            view.begin(next);
            view.finish();
        }
        assert_eq!(scanner.at(), head.last_frame);
        let mut mirror = Mirror::default();
        let decoder = Decoder::open(&view, false, Some(&mut mirror)).unwrap();
        seed_tables(&mut mirror, &decoder);
        mirror.check(&dump(&db));
        Self {
            seed,
            db,
            workload,
            _main: main,
            index,
            view,
            scanner: Some(scanner),
            salts: head.salts,
            decoder,
            mirror,
            transactions: 0,
            dir,
        }
    }

    /// From here on keys are told apart by what stands on overflow pages only.
    pub(super) fn with_long_keys(mut self) -> Self {
        let page_size = u64::from(self.view.page_size());
        let longest = (2 * page_size).min(20_000);
        self.workload.prefix = page_size / 3 + self.workload.random.below(longest);
        self
    }

    /// The whole workload.
    pub(super) fn all(&mut self) {
        for step in 0..STEPS {
            let sql = self.workload.transaction(&self.db);
            let told = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
                self.follow().unwrap();
                self.mirror.check(&dump(&self.db));
                self.decoder.verify(&self.view);
            }));
            if let Err(panic) = told {
                println!(
                    "workload {} step {step}: {sql}\n{:?}",
                    self.seed, self.mirror.log
                );
                std::panic::resume_unwind(panic);
            }
            if self.workload.random.one_in(5) {
                let mode = self
                    .workload
                    .random
                    .pick(&["PASSIVE", "FULL", "RESTART", "TRUNCATE"]);
                self.db
                    .query_row(&format!("PRAGMA wal_checkpoint({mode})"), [], |_| Ok(()))
                    .unwrap();
            }
        }
    }

    /// Decodes what was committed since the last call.
    fn follow(&mut self) -> Result<(), SourceError> {
        let head = WalIndex::read(&self.index)?.expect("a wal-index");
        let wal = Arc::new(File::open(self.dir.path().join("app.db-wal")).unwrap());
        if self.salts != head.salts || self.scanner.is_none() {
            self.salts = head.salts;
            self.view.restart(Some(wal.clone()));
            self.scanner = wal_header(&wal)?.map(Scanner::new);
        }
        let Some(scanner) = &mut self.scanner else {
            return Ok(());
        };
        scanner.forget_ahead();
        loop {
            match scanner.next(&wal, head.last_frame)? {
                Scanned::Transaction(next) => {
                    self.view.begin(next);
                    let changed = self.view.changed();
                    self.decoder
                        .transaction(&changed, &self.view, &mut self.mirror)?;
                    self.view.finish();
                    self.transactions += 1;
                }
                Scanned::Nothing => return Ok(()),
                Scanned::Broken { frame, why } => panic!("frame {frame}: {why:?}"),
            }
        }
    }
}

fn seed_tables(mirror: &mut Mirror, decoder: &Decoder) {
    seed(mirror, decoder.relations());
}
