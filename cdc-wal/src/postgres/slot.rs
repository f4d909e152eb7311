//! The replication slot: how it is, and one to stream from.

use std::time::Duration;

use cdc_core::{Lsn, Position, SourceError, SourceErrorKind};
use tokio::time::{Instant, sleep};

use super::config::PostgresConfig;
use super::connection::Connection;
use super::error::{GAP_REMEDY, protocol};
use super::sql;

/// Longest wait for a new slot: it is ready when the transactions then open have ended.
const SLOT_CREATE_TIMEOUT: Duration = Duration::from_secs(300);
/// Between two looks at a slot that is in use, at first; it doubles.
const SLOT_PAUSE: Duration = Duration::from_millis(50);
/// Between two looks at most.
const SLOT_PAUSE_MAX: Duration = Duration::from_secs(1);
/// What the server gets, behind its own timeout, to let go of a slot.
const SLOT_MARGIN: Duration = Duration::from_secs(10);

/// What is wrong with a slot of two phases.
pub(super) const TWO_PHASE: &str = "it was created for two phases, and sends transactions when they are prepared, which ends capture";
/// And what to do about it.
pub(super) const TWO_PHASE_REMEDY: &str =
    "use another slot (postgres.slot), which is created without";

/// What the server says about a replication slot.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct SlotState {
    /// Its output plugin; empty for a physical slot.
    pub plugin: String,
    /// Its database; empty for a physical slot.
    pub database: String,
    /// Process that is using it.
    pub active_pid: Option<u32>,
    /// Changes before this are not sent again.
    pub confirmed_flush: Lsn,
    /// Oldest log the slot holds.
    pub restart: Lsn,
    /// `reserved`, `extended`, `unreserved` or `lost`.
    pub wal_status: String,
    /// Bytes of log until the slot is in danger of being lost; `None` without a limit.
    pub safe_wal_bytes: Option<i64>,
    /// It sends transactions when they are prepared, which this reader cannot read.
    pub two_phase: bool,
}

pub(crate) async fn slot_state(
    connection: &mut Connection,
    slot: &str,
) -> Result<Option<SlotState>, SourceError> {
    let sql = format!(
        // By its name: servers before version 14 have no such column.
        "SELECT plugin, database, active_pid, confirmed_flush_lsn, restart_lsn, wal_status, safe_wal_size, \
            to_jsonb(s) ->> 'two_phase' \
         FROM pg_replication_slots s WHERE slot_name = {}",
        sql::literal(slot)
    );
    let rows = connection
        .query(&sql, "look at the replication slot")
        .await?;
    let Some(row) = rows.into_iter().next() else {
        return Ok(None);
    };
    let Ok(
        [
            plugin,
            database,
            pid,
            confirmed,
            restart,
            wal_status,
            safe,
            two_phase,
        ],
    ) = <[Option<String>; 8]>::try_from(row)
    else {
        return Err(protocol(
            "look at the replication slot",
            "a row of another width",
        ));
    };
    let lsn = |text: Option<String>| text.and_then(|t| t.parse().ok()).unwrap_or(Lsn::ZERO);
    Ok(Some(SlotState {
        plugin: plugin.unwrap_or_default(),
        database: database.unwrap_or_default(),
        active_pid: pid.and_then(|p| p.parse().ok()),
        confirmed_flush: lsn(confirmed),
        restart: lsn(restart),
        wal_status: wal_status.unwrap_or_default(),
        safe_wal_bytes: safe.and_then(|s| s.parse().ok()),
        two_phase: two_phase.as_deref() == Some("true"),
    }))
}

/// A new slot would begin now, and nobody would notice what was committed in between.
pub(crate) async fn refuse_gone_slot(
    connection: &mut Connection,
    config: &PostgresConfig,
    resume: Option<Position>,
) -> Result<(), SourceError> {
    if config.accept_gap
        || (resume.is_none() && config.captured.is_none())
        || slot_state(connection, &config.slot).await?.is_some()
    {
        return Ok(());
    }
    let at = resume.map_or_else(String::new, |resume| format!(" at {resume}"));
    Err(SourceError::new(
        SourceErrorKind::Gap,
        format!(
            "resume{at} from {}: replication slot {} does not exist (any more), so changes since then may be gone; copy the tables anew, and start with an empty state or with --accept-gap",
            config.address(),
            config.slot
        ),
    ))
}

/// How long a slot may be in use by somebody else. A connection that only we know to be broken holds
/// it until the server's timeout has passed since it last heard from us.
pub(crate) fn slot_wait(
    configured: Duration,
    wal_sender_timeout_ms: &str,
    again: bool,
) -> Duration {
    let ms = wal_sender_timeout_ms.parse().unwrap_or(0);
    if again {
        configured.max(Duration::from_millis(ms).saturating_add(SLOT_MARGIN))
    } else {
        configured
    }
}

/// The slot's confirmed position, and whether it was created just now. `first` says that nothing was
/// captured through it yet.
pub(crate) async fn ensure_slot(
    connection: &mut Connection,
    config: &PostgresConfig,
    wait: Duration,
    first: bool,
) -> Result<(Lsn, bool), SourceError> {
    let slot = &config.slot;
    let address = config.address();
    let error = |kind, what: String| SourceError::new(kind, what);
    let begun = Instant::now();
    let mut pause = SLOT_PAUSE;
    while let Some(state) = slot_state(connection, slot).await? {
        refuse_others_slot(&state, config, "use")?;
        if state.two_phase && !first {
            tracing::warn!(%slot, source = %address, remedy = TWO_PHASE_REMEDY, "the slot: {TWO_PHASE}");
        } else if state.two_phase {
            return Err(error(
                SourceErrorKind::Configuration,
                format!(
                    "use replication slot {slot} on {address}: {TWO_PHASE}; {TWO_PHASE_REMEDY}"
                ),
            ));
        }
        if state.wal_status == "lost" {
            if !config.accept_gap {
                return Err(error(
                    SourceErrorKind::Gap,
                    format!(
                        "use replication slot {slot} on {address}: the server has removed the log it needs (wal_status = lost); {GAP_REMEDY}"
                    ),
                ));
            }
            let sql = format!("SELECT pg_drop_replication_slot({})", sql::literal(slot));
            connection.query(&sql, "drop the lost slot").await?;
            tracing::warn!(%slot, source = %address, "lost slot dropped, changes are missing");
            continue;
        }
        let Some(pid) = state.active_pid else {
            return Ok((state.confirmed_flush, false));
        };
        let left = wait.saturating_sub(begun.elapsed());
        if left.is_zero() {
            return Err(error(
                SourceErrorKind::InUse,
                format!(
                    "use replication slot {slot} on {address}: process {pid} of the server is sending to another consumer; stop that consumer, or use another slot"
                ),
            ));
        }
        // A connection of ours that broke may not have been noticed over there yet.
        if pause == SLOT_PAUSE {
            tracing::info!(%slot, source = %address, pid, seconds_max = wait.as_secs(), "the slot is in use, perhaps by a broken connection of ours; waiting for the server to let go of it");
        }
        sleep(pause.min(left)).await;
        pause = (pause * 2).min(SLOT_PAUSE_MAX);
    }
    if !config.create_slot && !config.temporary {
        return Err(error(
            SourceErrorKind::Configuration,
            format!(
                "capture from {address}: replication slot {slot} does not exist; SELECT pg_create_logical_replication_slot({}, 'pgoutput'), or allow this reader to create it",
                sql::literal(slot)
            ),
        ));
    }
    let temporary = if config.temporary { "TEMPORARY " } else { "" };
    let command = format!(
        "CREATE_REPLICATION_SLOT {} {temporary}LOGICAL pgoutput NOEXPORT_SNAPSHOT",
        sql::identifier(slot)
    );
    tracing::info!(%slot, source = %address, temporary = config.temporary, "creating replication slot, ready when open transactions have ended");
    let attempted = format!("create replication slot {slot}");
    let rows = connection
        .query_within(&command, &attempted, SLOT_CREATE_TIMEOUT)
        .await?;
    let start = rows
        .into_iter()
        .next()
        .and_then(|row| row.into_iter().nth(1)?)
        .and_then(|text| text.parse().ok())
        .ok_or_else(|| protocol(&attempted, "the answer lacks its position"))?;
    Ok((start, true))
}

/// Names of slots are the whole server's: one of this name may be of another database.
pub(crate) fn refuse_others_slot(
    state: &SlotState,
    config: &PostgresConfig,
    verb: &str,
) -> Result<(), SourceError> {
    if state.plugin == "pgoutput" && state.database == config.database {
        return Ok(());
    }
    let whose = if state.plugin.is_empty() {
        "it is a physical one".to_owned()
    } else {
        format!(
            "it belongs to plugin {:?} and database {:?}",
            state.plugin, state.database
        )
    };
    Err(SourceError::new(
        SourceErrorKind::Configuration,
        format!(
            "{verb} replication slot {} on {}: {whose}; use another slot (postgres.slot): names of slots are the whole server's",
            config.slot,
            config.address()
        ),
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_slot_is_waited_for_as_long_as_the_server_may_hold_it_for_a_broken_connection() {
        let seconds = Duration::from_secs;
        for (configured, server_ms, again, expected) in [
            (seconds(5), "60000", false, seconds(5)),
            (seconds(5), "60000", true, seconds(70)),
            (seconds(90), "60000", true, seconds(90)),
            (seconds(5), "0", true, seconds(10)),
            (seconds(5), "", true, seconds(10)),
        ] {
            assert_eq!(slot_wait(configured, server_ms, again), expected);
        }
    }
}
