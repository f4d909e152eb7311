//! Who still needs what, and removing what nobody does.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use cdc_core::{Position, SourceKind, TokenRefusal, wall_micros};

use super::config::{LogConfig, OnLimit, SyncPolicy, Visibility};
use super::cursors::{CURSORS_MAX, Cursor, NAME_BYTES_MAX};
use super::state::{SegmentMeta, Shared, State};
use crate::format::HEADER_BYTES;
use crate::read::frames::FrameReader;
use crate::read::locate;
use crate::segment::{self, file_name};
use crate::threads::MutexGuard;
use crate::{LogError, LogErrorKind};

/// The last position at or before this one that ends a whole transaction.
fn whole(position: Position) -> Position {
    if position.is_transaction_end() {
        position
    } else {
        Position::before(position.commit)
    }
}

/// LSN a reader that resumes after `position` may need, at the granularity of segments: never
/// more than what it really needs.
fn need(state: &State, position: Position) -> u64 {
    let target = whole(position);
    if target >= state.last {
        return state.restart(state.next);
    }
    let index = state
        .segments
        .partition_point(|segment| segment.prev <= target);
    let segment = index.checked_sub(1).and_then(|i| state.segments.get(i));
    segment.map_or(0, |segment| segment.restart.min(segment.base))
}

/// Everything below this LSN may go, leaving `retain_bytes` aside.
fn held_from(state: &State) -> u64 {
    let cursors = state.cursors.entries.values();
    cursors
        .filter(|cursor| !cursor.invalidated)
        .map(|cursor| need(state, cursor.position))
        .chain([state.restart(state.next)])
        .min()
        .unwrap_or(state.next)
}

fn oldest_base(state: &State) -> u64 {
    state
        .segments
        .front()
        .map_or(state.next, |first| first.base)
}

/// LSN from which the log must be kept if it may not grow over `max` bytes: a whole segment is
/// kept free for the next roll.
fn limit_from(shared: &Shared, state: &State, max: u64) -> u64 {
    let max = max.saturating_sub(u64::from(shared.id.segment_bytes));
    state.next.saturating_sub(max)
}

/// LSN from which the log is kept for replay: from the begin of what was open when the segment
/// that holds the last `retain_bytes` began, or its first transactions could not be given whole.
fn replay_from(shared: &Shared, state: &State) -> u64 {
    let LogConfig {
        retain_bytes,
        retain_age,
        retain_bytes_max,
        ..
    } = &shared.config;
    let mut from = state.next.saturating_sub(*retain_bytes);
    if let Some(age) = retain_age {
        let bound = retain_bytes_max.map_or(0, |max| limit_from(shared, state, max));
        from = from.min(young_from(state, *age).max(bound));
    }
    if from == state.next {
        return from;
    }
    let index = state
        .segments
        .partition_point(|segment| segment.base <= from);
    let segment = index.checked_sub(1).and_then(|i| state.segments.get(i));
    segment.map_or(from, |segment| segment.restart.min(from))
}

/// LSN of the first segment that may hold something younger than `age`: the one after it began
/// less than that ago.
fn young_from(state: &State, age: Duration) -> u64 {
    let age = i64::try_from(age.as_micros()).unwrap_or(i64::MAX);
    let since = wall_micros().saturating_sub(age);
    let segments = &state.segments;
    let young = segments
        .iter()
        .zip(segments.iter().skip(1))
        .find(|(_, next)| next.created >= since);
    young.map_or(state.current.base(), |(segment, _)| segment.base)
}

pub(crate) fn is_full(shared: &Shared, state: &State) -> bool {
    let Some(max) = shared.config.retain_bytes_max else {
        return false;
    };
    // `retain_bytes` alone never fills the log: it gives way.
    let held = held_from(state).max(oldest_base(state));
    shared.config.on_limit == OnLimit::Hold && state.next.saturating_sub(held) >= max
}

/// True while a cursor has not confirmed all that is committed: what it holds may become free.
pub(crate) fn is_awaited(state: &State) -> bool {
    let mut cursors = state.cursors.entries.values();
    cursors.any(|cursor| !cursor.invalidated && whole(cursor.position) < state.last)
}

pub(crate) fn trim(shared: &Shared) -> Result<usize, LogError> {
    let segment_bytes = u64::from(shared.id.segment_bytes);
    let (mut invalidated, mut synced) = (false, false);
    loop {
        // Cursors are registered and segments removed one after the other, and without the log's own
        // lock: no commit waits for a file to be unlinked.
        let files = shared.lock_files();
        if shared.closed.load(Ordering::SeqCst) {
            // A tail may outlive the log: cursors and segments are another's by now.
            return Ok(0);
        }
        let mut state = shared.lock();
        shared.alive(&state)?;
        state.trim_due = false;
        invalidated |= invalidate(shared, &mut state);
        let mut gone = unneeded(shared, &state);
        if let Some(newest) = gone.last()
            && state.flushed <= newest + segment_bytes
            && !synced
        {
            // Something durable must stay: the first segment that is kept has not been synced yet.
            let kept = newest + segment_bytes + HEADER_BYTES;
            drop(state);
            // Whoever is told of the sync may let go of the log, which takes the files to close it.
            drop(files);
            shared.flush_to(kept)?;
            synced = true;
            continue;
        }
        // What was written during that sync is not waited for: the next trim finds it.
        gone.retain(|base| base + segment_bytes < state.flushed);
        if gone.is_empty() && !invalidated && state.condemned.is_empty() {
            return Ok(0);
        }
        let cursors = state.cursors.clone();
        state
            .segments
            .retain(|segment| !gone.contains(&segment.base));
        state.condemned.extend(&gone);
        state.oldest = None;
        drop(state);
        // The cursors' file may be behind, never ahead of what is removed: what it says is needed
        // must be there after a crash.
        cursors.store(shared.storage.as_ref(), &shared.dir)?;
        remove_condemned(shared)?;
        drop(files);
        if !gone.is_empty() {
            // Held tails look at the log again, so that an invalidated one learns of it.
            shared.notify.wake();
        }
        return Ok(gone.len());
    }
}

/// Invalidates the cursors that hold back more than they may; true if there were any. What an open
/// transaction holds is held with or without them.
fn invalidate(shared: &Shared, state: &mut State) -> bool {
    let (Some(max), OnLimit::Invalidate) = (shared.config.retain_bytes_max, shared.config.on_limit)
    else {
        return false;
    };
    let from = shared.id.base(limit_from(shared, state, max));
    let from = from.min(state.restart(state.next));
    let over: Vec<String> = state
        .cursors
        .entries
        .iter()
        .filter(|(_, c)| !c.invalidated && need(state, c.position) < from)
        .map(|(name, _)| name.clone())
        .collect();
    for name in &over {
        tracing::warn!(cursor = %name, "cursor invalidated: it held back more than retain_bytes_max");
        if let Some(cursor) = state.cursors.entries.get_mut(name) {
            cursor.invalidated = true;
        }
    }
    !over.is_empty()
}

/// Bases of the segments that nobody needs, oldest first.
fn unneeded(shared: &Shared, state: &State) -> Vec<u64> {
    let limit = held_from(state).min(replay_from(shared, state));
    let current = state.current.base();
    let segment_bytes = u64::from(shared.id.segment_bytes);
    state
        .segments
        .iter()
        .map(|segment| segment.base)
        .take_while(|base| base + segment_bytes <= limit && *base != current)
        .collect()
}

/// Removes the files of condemned segments, oldest first, each durable before the next: neither a
/// crash nor a call that fails leaves a hole. What could not be removed comes first at the next trim.
fn remove_condemned(shared: &Shared) -> Result<(), LogError> {
    let storage = shared.storage.as_ref();
    loop {
        let Some(base) = shared.lock().condemned.front().copied() else {
            return Ok(());
        };
        let path = shared.dir.join(file_name(base));
        // Files that are not filled ahead are not worth keeping.
        let keep = shared.config.sync != SyncPolicy::Never;
        if !(keep && segment::set_aside(storage, &shared.dir, &path)) {
            match storage.remove(&path) {
                // Removed before, by a trim whose sync of the directory failed.
                Err(cause) if cause.kind() == std::io::ErrorKind::NotFound => {}
                removed => {
                    removed
                        .map_err(|cause| LogError::io("remove the log segment", &path, cause))?;
                }
            }
        }
        storage
            .sync_dir(&shared.dir)
            .map_err(|cause| LogError::io("sync the log directory", &shared.dir, cause))?;
        shared.lock().condemned.pop_front();
    }
}

/// The oldest position a tail can resume after. Not to be asked for under the lock on the files: tails
/// may be woken.
pub(crate) fn oldest(shared: &Shared) -> Result<Position, LogError> {
    // The commit of a transaction whose begin was trimmed may not be written yet. A log that died tells
    // what it has.
    let _what_is_written = shared.drain();
    oldest_written(shared)
}

/// As [`oldest`], of what is written.
fn oldest_written(shared: &Shared) -> Result<Position, LogError> {
    let (segments, end, all) = {
        let state = shared.lock();
        if let Some(oldest) = state.oldest {
            return Ok(oldest);
        }
        (
            state.segments.iter().copied().collect::<Vec<_>>(),
            state.written,
            state.written == state.next,
        )
    };
    let mut frames = FrameReader::new(shared.storage.clone(), &shared.dir, shared.id, false);
    let oldest = locate::oldest(&mut frames, &segments, end)?;
    let mut state = shared.lock();
    if all && state.segments.front().map(|s| s.base) == segments.first().map(|s| s.base) {
        state.oldest = Some(oldest);
    }
    Ok(oldest)
}

/// Where a reader must begin to resume after a position, with the segments as they are now.
pub(crate) fn locate(shared: &Arc<Shared>, after: Position) -> Result<u64, LogError> {
    shared.drain()?;
    let (segments, end) = {
        let state = shared.lock();
        (
            state.segments.iter().copied().collect::<Vec<SegmentMeta>>(),
            state.written,
        )
    };
    let mut frames = FrameReader::new(shared.storage.clone(), &shared.dir, shared.id, false);
    locate::locate(&mut frames, &segments, after, end)
}

/// Refuses a cursor ahead of the log: it would hold nothing of what is committed until then. A journal may
/// be behind what was confirmed: a crash took the end of it, and its source sends that again.
fn check_ahead(shared: &Shared, state: &State, position: Position) -> Result<(), LogError> {
    let end = state.last;
    let ahead = position > end && position.commit > end.commit;
    if ahead && shared.config.visibility == Visibility::Flushed {
        return Err(TokenRefusal::Ahead {
            token: position,
            end,
        }
        .into());
    }
    Ok(())
}

/// True if a crash may take what is up to this position, as far as is known now. An engine's own log then
/// gives the position to another commit, which whoever holds it takes for done. A journal's source
/// sends the same again.
pub(crate) fn may_vanish(shared: &Shared, state: &State, position: Position) -> bool {
    position.commit.0 >= state.flushed
        && shared.config.visibility == Visibility::Flushed
        && shared.source.lineage.kind == SourceKind::Wal
}

/// The log's state, once a cursor may stand at this position and nothing up to it vanishes any more.
fn settled(shared: &Shared, position: Position) -> Result<MutexGuard<'_, State>, LogError> {
    let state = shared.lock();
    shared.alive(&state)?;
    check_ahead(shared, &state, position)?;
    if !may_vanish(shared, &state, position) {
        return Ok(state);
    }
    let next = state.next;
    drop(state);
    shared.flush_to(next)?;
    Ok(shared.lock())
}

pub(crate) fn register(shared: &Shared, name: &str, position: Position) -> Result<(), LogError> {
    // Without the files: see `trim`.
    drop(settled(shared, position)?);
    shared.drain()?;
    let _files = shared.lock_files();
    let oldest = oldest_written(shared)?;
    if position < oldest {
        return Err(TokenRefusal::Expired {
            token: position,
            oldest,
        }
        .into());
    }
    let state = shared.lock();
    shared.alive(&state)?;
    let known = state.cursors.entries.contains_key(name);
    if name.is_empty()
        || name.len() > NAME_BYTES_MAX
        || (!known && state.cursors.entries.len() >= CURSORS_MAX)
    {
        return Err(LogError::new(
            LogErrorKind::TooLarge,
            format!(
                "register a cursor of the log {}: a name has 1 to {NAME_BYTES_MAX} bytes, and there are at most {CURSORS_MAX} cursors",
                shared.dir.display()
            ),
        ));
    }
    let cursor = Cursor {
        position,
        invalidated: false,
    };
    let mut cursors = state.cursors.clone();
    drop(state);
    cursors.entries.insert(name.to_owned(), cursor);
    // On disk first: one that could not be written holds nothing back.
    cursors.store(shared.storage.as_ref(), &shared.dir)?;
    let entries = &mut shared.lock().cursors.entries;
    entries.insert(name.to_owned(), cursor);
    Ok(())
}

pub(crate) fn remove(shared: &Shared, name: &str) -> Result<(), LogError> {
    {
        let _files = shared.lock_files();
        let state = shared.lock();
        shared.alive(&state)?;
        let mut cursors = state.cursors.clone();
        drop(state);
        if cursors.entries.remove(name).is_some() {
            cursors.store(shared.storage.as_ref(), &shared.dir)?;
            shared.lock().cursors.entries.remove(name);
        }
    }
    trim(shared).map(drop)
}

pub(crate) fn check_cursor(shared: &Shared, name: &str) -> Result<(), LogError> {
    let state = shared.lock();
    match state.cursors.entries.get(name) {
        Some(cursor) if cursor.invalidated => Err(invalidated(shared, name)),
        _ => Ok(()),
    }
}

fn invalidated(shared: &Shared, name: &str) -> LogError {
    LogError::new(
        LogErrorKind::Invalidated,
        format!(
            "read the log {} as {name}: the cursor was invalidated, it held back more than retain_bytes_max; register it anew at a retained position and account for the gap",
            shared.dir.display()
        ),
    )
}

pub(crate) fn confirm(shared: &Shared, name: &str, position: Position) -> Result<(), LogError> {
    let mut state = settled(shared, position)?;
    let Some(cursor) = state.cursors.entries.get_mut(name) else {
        return Err(LogError::new(
            LogErrorKind::NotFound,
            format!(
                "confirm to the log {}: there is no cursor {name}; register it first",
                shared.dir.display()
            ),
        ));
    };
    if cursor.invalidated {
        return Err(invalidated(shared, name));
    }
    if position <= cursor.position {
        return Ok(());
    }
    let before = cursor.position;
    cursor.position = position;
    let moved = need(&state, position) > need(&state, before);
    drop(state);
    if moved {
        match trim(shared) {
            Err(error) if error.is_for_want_of_room() => {
                tracing::warn!(%error, "the log is trimmed later; what was confirmed stays confirmed");
                shared.lock().trim_due = true;
            }
            trimmed => drop(trimmed?),
        }
    }
    Ok(())
}
