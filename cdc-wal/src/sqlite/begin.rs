//! Where following begins: with what is committed now, or where an earlier run stopped.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use cdc_core::{Lsn, Position, SourceError, SourceErrorKind, wall_micros};

use super::archive::{self, Archive, Archived};
use super::collect::Collector;
use super::config::SqliteConfig;
use super::decoder::Decoder;
use super::downstream::Downstream;
use super::earlier::Earlier;
use super::files;
use super::follow::{Follower, index};
use super::format::{Checksum, DbHeader, Salts};
use super::keep::Keep;
use super::log_file::{Break, Scanned, Scanner, io_error, read_up_to, wal_header};
use super::pages::{Pages, Side};
use super::shadow::{Between, Replay, Shadow};
use super::state::{Known, StateDir, boot_id, commit_at, next_generation, parts};

/// What the consumer learns when following begins.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Begun {
    pub(crate) id: [u8; 16],
    /// Everything up to here is not part of the stream.
    pub(crate) floor: Position,
    /// What was committed when it began ends here.
    pub(crate) end: Position,
}

/// Where following begins. `M` says where what lies between two states goes.
#[derive(Debug)]
pub(crate) enum Start<M> {
    /// With what is committed now.
    Now {
        snapshot: Option<Lsn>,
    },
    /// With what an earlier run has not confirmed.
    Again {
        replay: Replay,
        snapshot: Option<Lsn>,
        /// The log does not go on where that ends: what lies between is one transaction.
        merge: Option<M>,
    },
    Begun,
}

/// What was read where following begins.
#[derive(Debug)]
pub(crate) struct Loaded<M> {
    pub(crate) decoder: Decoder,
    /// What an earlier run had not confirmed; its changes were given again.
    pub(crate) replay: Option<Replay>,
    pub(crate) merge: Option<M>,
}

impl<M> Start<M> {
    /// Reads the database where following begins, gives the snapshot if there is to be one, and what
    /// an earlier run has left. `now` is what is committed; `None` the second time.
    pub(crate) fn load(
        &mut self,
        now: &dyn Pages,
        config: &SqliteConfig,
        collector: &mut Collector,
    ) -> Result<Option<Loaded<M>>, SourceError> {
        let shadows = config.include_shadow_tables;
        Ok(match std::mem::replace(self, Self::Begun) {
            Self::Begun => None,
            Self::Now { snapshot } => Some(Loaded {
                decoder: Decoder::begin(now, shadows, snapshot, collector)?,
                replay: None,
                merge: None,
            }),
            Self::Again {
                mut replay,
                snapshot,
                merge,
            } => {
                let mut decoder = Decoder::begin(&replay, shadows, snapshot, collector)?;
                replay.decode(&mut decoder, collector)?;
                Some(Loaded {
                    decoder,
                    replay: Some(replay),
                    merge,
                })
            }
        })
    }
}

pub(crate) fn gap(config: &SqliteConfig, what: &str) -> SourceError {
    SourceError::new(
        SourceErrorKind::Gap,
        format!(
            "resume {}: {what}; a new snapshot is required: start with --accept-gap and a snapshot",
            config.shown()
        ),
    )
}

/// The error of a file that cannot be opened.
pub(crate) fn unopened(config: &SqliteConfig, cause: std::io::Error) -> SourceError {
    let (kind, remedy) = match cause.kind() {
        std::io::ErrorKind::PermissionDenied => (
            SourceErrorKind::Configuration,
            "it, its -wal and -shm files and their directory must be readable for this user, and in the mode pinned writable",
        ),
        _ => (SourceErrorKind::Unreachable, "check the path"),
    };
    let what = format!("open the database {}: {cause}; {remedy}", config.shown());
    SourceError::new(kind, what).with_cause(cause)
}

/// The database that this file belongs to as its log or the index of its log, if it is one.
fn database_of(path: &Path) -> Option<PathBuf> {
    let name = path.to_str()?;
    let database = ["-wal", "-shm", "-journal"]
        .into_iter()
        .find_map(|suffix| name.strip_suffix(suffix))?;
    let database = PathBuf::from(database);
    database.is_file().then_some(database)
}

/// Looks at the file itself, before SQLite does: what it refuses is refused by name.
pub(crate) fn header(config: &SqliteConfig) -> Result<(Arc<File>, DbHeader), SourceError> {
    let shown = config.shown();
    if let Some(kind) = files::remote(&config.path) {
        return Err(SourceError::new(
            SourceErrorKind::Unsupported,
            format!(
                "follow {shown}: it lies on a network file system ({kind}), where SQLite's locks and shared memory do not reach other machines; follow it on the machine that has the disk"
            ),
        ));
    }
    if let Some(database) = database_of(&config.path) {
        return Err(SourceError::new(
            SourceErrorKind::Configuration,
            format!(
                "follow {shown}: it is a file beside the database; name the database itself: {}",
                database.display()
            ),
        ));
    }
    // Before it is opened: opening a pipe waits for somebody who writes it.
    if std::fs::metadata(&config.path).is_ok_and(|found| !found.is_file()) {
        return Err(SourceError::new(
            SourceErrorKind::Unsupported,
            format!(
                "follow {shown}: it is a directory, a pipe or a device; name the database file itself"
            ),
        ));
    }
    let (_, main) = files::open(&config.path).map_err(|cause| unopened(config, cause))?;
    let mut bytes = [0; 100];
    let got = read_up_to(&main, &mut bytes, 0)
        .map_err(|cause| io_error(&format!("read the database {shown}"), cause))?;
    let wal_remedy = format!("run once: sqlite3 {shown} 'PRAGMA journal_mode = WAL'");
    if got == 0 {
        return Err(SourceError::new(
            SourceErrorKind::Configuration,
            format!(
                "follow {shown}: the file is empty, nothing was written to it yet; {wal_remedy}"
            ),
        ));
    }
    let header = DbHeader::parse(&bytes).map_err(|error| {
        SourceError::new(
            SourceErrorKind::Unsupported,
            format!("follow {shown}: {error}; only plain SQLite databases can be followed"),
        )
    })?;
    if !header.is_wal() {
        return Err(SourceError::new(
            SourceErrorKind::Configuration,
            match header.versions {
                (1, 1) => format!(
                    "follow {shown}: it is in rollback-journal mode, which keeps no log to follow; {wal_remedy}"
                ),
                (write, read) => format!(
                    "follow {shown}: its journal mode is of version {write}/{read}, only WAL (2/2) can be followed; {wal_remedy}"
                ),
            },
        ));
    }
    Ok((main, header))
}

/// The error of a path that names another file than the one that is followed, or none.
pub(crate) fn replaced(config: &SqliteConfig) -> SourceError {
    let what = if config.path.exists() {
        "the path names another file now: the database was replaced"
    } else {
        "the file is gone: the database was deleted or moved"
    };
    SourceError::new(
        SourceErrorKind::Gap,
        format!(
            "follow {}: {what}; start again with --accept-gap (accept_gap), and the difference to the new one comes as one merged transaction, or with an empty state and a snapshot",
            config.shown()
        ),
    )
}

impl Decoder {
    /// Reads the whole database; with `snapshot` every row goes to the collector as a read at that
    /// position.
    pub(crate) fn begin(
        pages: &dyn Pages,
        include_shadow_tables: bool,
        snapshot: Option<Lsn>,
        collector: &mut Collector,
    ) -> Result<Self, SourceError> {
        let Some(commit) = snapshot else {
            return Self::open(pages, include_shadow_tables, None);
        };
        collector.begin(commit, wall_micros(), false);
        let decoder = Self::open(pages, include_shadow_tables, Some(collector))?;
        collector.end();
        collector.flush()?;
        Ok(decoder)
    }
}

impl Replay {
    /// Decodes its transactions once more.
    pub(crate) fn decode(
        &mut self,
        decoder: &mut Decoder,
        collector: &mut Collector,
    ) -> Result<(), SourceError> {
        for index in 0..self.transactions().len() {
            self.begin(index);
            if let Some(one) = self.transactions().get(index) {
                let mut changed: Vec<u32> = one.pages.iter().map(|(page, _)| *page).collect();
                if one.merged {
                    // Pages that are no longer there, as when it was compared.
                    changed.extend(one.count.saturating_add(1)..=self.count(Side::Old));
                }
                collector.begin(one.commit, one.micros, one.merged);
                decoder.transaction(&changed, &*self, collector)?;
                collector.end();
            }
            self.finish();
        }
        collector.flush()
    }
}

impl Follower {
    /// Takes what is committed now into the view.
    fn take_now(&mut self) -> Result<(), SourceError> {
        let head = self.head;
        self.on_main = head.backfilled == head.last_frame;
        self.open_log()?;
        // The log may have been read as far as an earlier run had, and no further.
        self.view.forget();
        self.catch_up_silently(head.last_frame)?;
        self.view.set_count(head.count);
        Ok(())
    }

    /// Begins with what is committed now; gives the position before it.
    pub(crate) fn fresh(&mut self, dir: Option<(StateDir, u32)>) -> Result<Position, SourceError> {
        self.take_now()?;
        let position = commit_at(self.generation, self.head.last_frame);
        let snapshot = self.config.snapshot;
        if let Some((dir, page_size)) = dir {
            let (mut archive, _) = Archive::open(&dir.storage, &dir.dir, page_size)?;
            archive.clear()?;
            archive.comes_after(position);
            let shadow = Shadow::create(dir.storage.as_ref(), &dir.dir, page_size, &self.view)?;
            let known = Known {
                id: self.id,
                file: self.pins.place.file,
                page_size,
                position,
                salts: self.head.salts,
                checksum: self.head.checksum,
                count: self.head.count,
                folding: Lsn::ZERO,
                snapshot,
                boot: boot_id(),
            };
            // Durable before any position is given out: the same commit has the same position
            // after any crash.
            dir.saver.save(&known)?;
            self.keep = Some(Keep::new(
                dir,
                known,
                shadow,
                archive,
                Vec::new(),
                self.config.archive_bytes_max,
            )?);
        }
        self.start = Start::Now {
            snapshot: snapshot.then_some(position),
        };
        Ok(if snapshot {
            Position::before(position)
        } else {
            Position::end_of(position)
        })
    }

    /// Takes up where an earlier run stopped; gives the position before what comes.
    pub(crate) fn again(
        &mut self,
        dir: StateDir,
        known: Known,
        page_size: u32,
        downstream: &mut dyn Downstream,
    ) -> Result<Position, SourceError> {
        let place = (self.pins.place.file, page_size);
        let id = known.id;
        let last = parts(known.position).0;
        self.id = id;
        let Some(earlier) = Earlier::open(&self.config, &dir, known, place, downstream)? else {
            self.generation = next_generation(last)?;
            return self.fresh(Some((dir, page_size)));
        };
        let (generation, frame) = earlier.at;
        self.generation = generation;
        // Without salts there is no log: others may have opened the database, written to it, and
        // removed their log with the last connection. Nothing but the pages tells.
        let mut goes_on = earlier.may_go_on
            && earlier.salts != Salts::default()
            && earlier.salts == self.head.salts
            && frame <= self.head.last_frame
            && self.goes_on(frame, earlier.checksum, earlier.count)?;
        let floor = earlier.floor();
        let Earlier {
            known,
            shadow,
            mut archive,
            mut archived,
            ..
        } = earlier;
        // What the read transaction holds may be the database file alone, where a checkpoint had copied
        // all of the log when it began: then the log may begin anew before the rest of it was read.
        if goes_on && frame < self.head.last_frame && self.head.backfilled >= frame {
            goes_on = self.archive_rest(&mut archive, &mut archived)?;
        }
        let replay = Replay::new(&shadow, known.count, archived.clone());
        let mut merge = None;
        if !goes_on {
            self.generation = next_generation(earlier.newest)?;
            self.take_now()?;
            merge = Some(commit_at(self.generation, self.head.last_frame));
        }
        self.start = Start::Again {
            replay,
            snapshot: known.snapshot.then_some(known.position),
            merge,
        };
        self.keep = Some(Keep::new(
            dir,
            known,
            shadow,
            archive,
            archived,
            self.config.archive_bytes_max,
        )?);
        Ok(floor)
    }

    /// Whether the log holds what was read from it up to this frame, and goes on behind it.
    fn goes_on(&mut self, frame: u32, checksum: Checksum, count: u32) -> Result<bool, SourceError> {
        self.open_log()?;
        let same = self.catch_up_to(frame, checksum)?;
        self.view.set_count(count);
        Ok(same)
    }

    /// Archives what the log holds behind what was read of it, as if the run before had. False if it began
    /// anew meanwhile: then the transactions that were read before are archived, and the others are gone.
    fn archive_rest(
        &mut self,
        archive: &mut Archive,
        archived: &mut Vec<Archived>,
    ) -> Result<bool, SourceError> {
        let limit = self.head.last_frame;
        loop {
            let wal = self.wal()?;
            let Some(scanner) = &mut self.scanner else {
                return Ok(false);
            };
            let next = match scanner.next(&wal, limit)? {
                Scanned::Transaction(next) => next,
                Scanned::Nothing => return Ok(self.at() == limit),
                Scanned::Broken { .. } => return Ok(false),
            };
            let head = archive::Head::of(self.generation, self.head.salts, &next);
            self.view.begin(next);
            let read = |page| self.view.page(Side::New, page);
            let one = archive.append(head, &self.view.changed(), read);
            // The index has the new salts before a frame of the old log is written over.
            let same = index(&self.pins)?.salts == self.head.salts;
            match one {
                Ok(one) if same => archived.push(one),
                Ok(one) => archive.undo(&one)?,
                Err(error) if same => return Err(error),
                Err(_) => {}
            }
            if !same {
                return Ok(false);
            }
            self.view.finish();
        }
    }

    /// Opens the generation the wal-index names.
    pub(crate) fn open_log(&mut self) -> Result<(), SourceError> {
        let wal = self.pins.log()?;
        self.scanner = None;
        if let Some(file) = &wal
            && let Some(header) = wal_header(file)?
            && header.salts == self.head.salts
        {
            // The wal-index names no page size before the first commit of a log that was recovered.
            if header.page_size != self.view.page_size() {
                return Err(SourceError::new(
                    SourceErrorKind::Corrupt,
                    "read the -wal file: its page size is not the database's",
                ));
            }
            self.scanner = Some(Scanner::new(header));
        }
        self.view.restart(wal);
        Ok(())
    }

    /// Takes the frames up to the limit into the view without decoding them. With everything in
    /// the database file the log may begin anew under us: then its frames are passed over only.
    fn catch_up_silently(&mut self, limit: u32) -> Result<(), SourceError> {
        if limit == 0 || self.on_main && self.scanner.is_none() {
            return Ok(());
        }
        let wal = self.wal()?;
        let on_main = self.on_main;
        let Some(scanner) = &mut self.scanner else {
            return Err(self.torn(1, Break::Salts));
        };
        loop {
            match scanner.next(&wal, limit)? {
                Scanned::Transaction(next) => {
                    if !on_main {
                        self.view.begin(next);
                        self.view.finish();
                    }
                }
                Scanned::Nothing => return Ok(()),
                Scanned::Broken { frame, .. } if on_main => {
                    tracing::debug!(frame, "the log began anew while it was passed over");
                    return Ok(());
                }
                Scanned::Broken { frame, why } => return Err(self.torn(frame, why)),
            }
        }
    }

    /// As above, up to a frame; false if that frame is not there or has another checksum.
    fn catch_up_to(&mut self, limit: u32, checksum: Checksum) -> Result<bool, SourceError> {
        if limit == 0 {
            return Ok(true);
        }
        let wal = self.wal()?;
        let Some(scanner) = &mut self.scanner else {
            return Ok(false);
        };
        loop {
            match scanner.next(&wal, limit)? {
                Scanned::Transaction(next) => {
                    self.view.begin(next);
                    self.view.finish();
                }
                Scanned::Nothing => {
                    return Ok(scanner.at() == limit && scanner.checksum() == checksum);
                }
                Scanned::Broken { .. } => return Ok(false),
            }
        }
    }

    /// Reads the database where following begins; see [`Start::load`].
    pub(crate) fn load(&mut self, collector: &mut Collector) -> Result<(), SourceError> {
        let Some(loaded) = self.start.load(&self.view, &self.config, collector)? else {
            return Ok(());
        };
        let mut decoder = loaded.decoder;
        match (loaded.replay, loaded.merge) {
            (Some(replay), Some(commit)) => {
                self.merge(commit, &replay, &mut decoder, collector)?;
            }
            (Some(replay), None) => self.view.use_instead(replay),
            (None, _) => {}
        }
        self.decoder = Some(decoder);
        Ok(())
    }

    /// What lies between the last known state and now, as one transaction.
    fn merge(
        &mut self,
        commit: Lsn,
        replay: &Replay,
        decoder: &mut Decoder,
        collector: &mut Collector,
    ) -> Result<(), SourceError> {
        let between = Between {
            old: replay,
            new: &self.view,
        };
        let changed = between.changed()?;
        let micros = wall_micros();
        if !changed.is_empty() {
            tracing::warn!(
                database = %self.config.shown(),
                position = %commit,
                pages = changed.len(),
                "the log began anew or was lost while nobody followed: the changes since then come as one transaction, marked merged"
            );
        }
        // Also if nothing changed: the consumer learns of the position.
        if let Some(keep) = &mut self.keep {
            let there = changed.partition_point(|page| *page <= self.head.count);
            let head = archive::Head {
                commit,
                salts: self.head.salts,
                checksum: self.head.checksum,
                count: self.head.count,
                micros,
                merged: true,
            };
            let pages = changed.get(..there).unwrap_or_default();
            let read = |page| self.view.page(Side::New, page);
            let archived = keep.archive.append(head, pages, read)?;
            keep.add(archived);
        }
        collector.begin(commit, micros, true);
        decoder.transaction(&changed, &between, collector)?;
        collector.end();
        collector.flush()
    }
}
