//! From a configuration to a running stream: version, identity, publication, slot, gap check, start.

use std::io;
use std::time::Duration;

use cdc_core::{
    Lineage, Lsn, Position, SourceError, SourceErrorKind, SourceInfo, SourceKind, TokenRefusal,
};
use tokio::time::{Instant, sleep};

use super::ahead::refuse_ahead;
use super::buffer::FrameBuffer;
use super::config::PostgresConfig;
use super::connection::{Connection, Purpose, Row, Stream};
use super::error::{GAP_REMEDY, protocol};
use super::publication::{drop_publication, ensure_publication};
use super::slot::{ensure_slot, refuse_gone_slot, slot_wait};
use super::sql;

/// Oldest server this reader speaks to.
const MAJOR_VERSION_MIN: u32 = 13;
/// Shortest silence of the server that is taken for the end of the connection.
const SILENCE_MIN: Duration = Duration::from_secs(30);

/// A stream that has begun.
pub(crate) struct Started {
    pub(crate) stream: Stream,
    pub(crate) buffer: FrameBuffer,
    pub(crate) info: SourceInfo,
    /// Everything up to here is not part of the stream.
    pub(crate) floor: Position,
    /// What the slot has as confirmed.
    pub(crate) confirmed: Lsn,
    /// How often the server must hear from us.
    pub(crate) status_interval: Duration,
    /// How long we may hear nothing from it.
    pub(crate) silence_max: Duration,
    /// The publication was created just now.
    pub(crate) created_publication: bool,
    /// Where the server's log ended when we connected.
    pub(crate) server_end: Lsn,
}

impl std::fmt::Debug for Started {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Started(after {})", self.floor)
    }
}

/// The first cell of the first row.
pub(crate) fn single(rows: Vec<Row>) -> Option<String> {
    rows.into_iter().next()?.into_iter().next()?
}

pub(crate) async fn setting(
    connection: &mut Connection,
    name: &str,
) -> Result<String, SourceError> {
    let sql = format!(
        "SELECT setting FROM pg_settings WHERE name = {}",
        sql::literal(name)
    );
    let rows = connection.query(&sql, "read the server's settings").await?;
    Ok(single(rows).unwrap_or_default())
}

/// Connects, makes sure that slot and publication are there, and starts streaming after `resume`.
/// `again` says that a connection of ours was there before, and may still be for the server.
pub(crate) async fn start(
    config: &PostgresConfig,
    resume: Option<Position>,
    again: bool,
) -> Result<Started, SourceError> {
    let mut connection = Connection::open(config, Purpose::Replication).await?;
    let major = connection.major_version();
    if major < MAJOR_VERSION_MIN {
        return Err(SourceError::new(
            SourceErrorKind::Unsupported,
            format!(
                "capture from {}: it is PostgreSQL {}; use {MAJOR_VERSION_MIN} or later",
                config.address(),
                connection.server_version()
            ),
        ));
    }
    check_wal_level(&setting(&mut connection, "wal_level").await?, config)?;
    if setting(&mut connection, "server_encoding").await? == "SQL_ASCII" {
        // Bytes of no known encoding: asked for UTF-8, the server refuses those that are not, and
        // the stream could not go past them.
        connection
            .query("SET client_encoding TO 'SQL_ASCII'", "choose the encoding")
            .await?;
    }
    let (info, wal_end) = identify(&mut connection, config).await?;
    refuse_other(&info, config)?;
    refuse_ahead(&mut connection, config, &info, resume, wal_end).await?;
    refuse_gone_slot(&mut connection, config, resume).await?;
    let server_end = settled_end(&mut connection, wal_end).await?;
    let created_publication = ensure_publication(&mut connection, config).await?;
    if !created_publication {
        for (what, remedy) in super::check::left_out_of(&mut connection, config).await? {
            tracing::warn!(publication = %config.publication, source = %config.address(), remedy, "the publication {what}");
        }
    }
    let timeout = setting(&mut connection, "wal_sender_timeout").await?;
    let slot_wait = slot_wait(config.slot_wait, &timeout, again);
    let first = resume.is_none() && config.captured.is_none();
    let (confirmed, fresh) = match ensure_slot(&mut connection, config, slot_wait, first).await {
        Ok(slot) => slot,
        Err(error) => {
            // Nothing is left of a start that came to nothing. What failed first is what is told.
            if created_publication
                && let Err(also) = drop_publication(&mut connection, &config.publication).await
            {
                tracing::warn!(publication = %config.publication, error = %also, "the publication that was just made could not be dropped");
            }
            return Err(error);
        }
    };
    let floor = floor(config, resume, confirmed, fresh)?;
    let status_interval = status_interval(config.status_interval, &timeout);
    let from = floor.confirmable().max(confirmed);
    let messages = if major >= 14 { ", messages 'true'" } else { "" };
    let command = format!(
        "START_REPLICATION SLOT {} LOGICAL {from} (proto_version '1', publication_names {}{messages})",
        sql::identifier(&config.slot),
        sql::literal(&sql::identifier(&config.publication)),
    );
    let attempted = format!("start streaming from slot {}", config.slot);
    let (stream, buffer) = connection.start_copy(&command, &attempted).await?;
    tracing::info!(source = %config.address(), slot = %config.slot, %from, "streaming");
    Ok(Started {
        stream,
        buffer,
        info,
        server_end,
        floor,
        confirmed,
        status_interval,
        silence_max: silence_max(status_interval, &timeout),
        created_publication,
    })
}

pub(crate) fn check_wal_level(level: &str, config: &PostgresConfig) -> Result<(), SourceError> {
    if level == "logical" {
        return Ok(());
    }
    Err(SourceError::new(
        SourceErrorKind::Configuration,
        format!(
            "capture from {}: its wal_level is {level:?}, capture needs \"logical\"; set wal_level = logical in postgresql.conf and restart the server",
            config.address()
        ),
    ))
}

/// Well under the server's timeout, so that it never thinks we are gone.
fn status_interval(configured: Duration, wal_sender_timeout_ms: &str) -> Duration {
    let configured = configured.max(Duration::from_millis(100));
    match wal_sender_timeout_ms.parse::<u64>() {
        Ok(ms) if ms > 0 => {
            configured.min(Duration::from_millis(ms / 3).max(Duration::from_millis(50)))
        }
        _ => configured,
    }
}

/// How long the server may say nothing until the connection counts as dead. It is asked to answer every
/// status update, and three without are one. But while it decodes a large transaction of which nothing is
/// published it hears nothing until half its timeout is over, and answers then: given up before, such a
/// transaction would be begun anew for ever.
fn silence_max(status_interval: Duration, wal_sender_timeout_ms: &str) -> Duration {
    let half = Duration::from_millis(wal_sender_timeout_ms.parse::<u64>().unwrap_or(0) / 2);
    (status_interval * 3)
        .max(SILENCE_MIN)
        .max(half.saturating_add(SILENCE_MIN))
}

pub(crate) async fn identify(
    connection: &mut Connection,
    config: &PostgresConfig,
) -> Result<(SourceInfo, Lsn), SourceError> {
    const ATTEMPTED: &str = "identify the system";
    let rows = connection.query("IDENTIFY_SYSTEM", ATTEMPTED).await?;
    let row = rows.into_iter().next().unwrap_or_default();
    let cell = |n: usize| row.get(n).and_then(Option::as_deref);
    let system = cell(0).and_then(|t| t.parse::<u64>().ok());
    let timeline = cell(1).and_then(|t| t.parse::<u32>().ok());
    let end = cell(2).and_then(|t| t.parse::<Lsn>().ok());
    let sql = "SELECT oid FROM pg_database WHERE datname = current_database()";
    let oid = single(connection.query(sql, ATTEMPTED).await?).and_then(|t| t.parse::<u32>().ok());
    let (Some(system), Some(timeline), Some(end), Some(oid)) = (system, timeline, end, oid) else {
        return Err(protocol(
            ATTEMPTED,
            "the answer lacks identity, timeline or position",
        ));
    };
    let lineage = lineage(system, oid, timeline);
    let name = config.name.as_deref().unwrap_or(&config.database);
    Ok((
        SourceInfo::new(name, config.database.as_str(), lineage),
        end,
    ))
}

/// Longest wait for commits that are not on the server's disk yet. With `synchronous_commit = off`
/// they are after at most three times `wal_writer_delay`, 0.6 s by default.
const SETTLE_MAX: Duration = Duration::from_secs(2);
/// Between two looks at the server's disk.
const SETTLE_PAUSE: Duration = Duration::from_millis(20);
/// The server's log pages, and the longest header of one: `XLOG_BLCKSZ` and `SizeOfXLogLongPHD`.
const LOG_PAGE: u64 = 8192;
const LOG_PAGE_HEADER: u64 = 40;

/// Where the server's log ends, with the commits that its clients know of and its disk does not:
/// it streams none of them before they are there. Waits for them; gives what is on disk after
/// [`SETTLE_MAX`] all the same, and on a standby, which writes nothing.
async fn settled_end(connection: &mut Connection, flushed: Lsn) -> Result<Lsn, SourceError> {
    const ATTEMPTED: &str = "ask where the server's log ends";
    let written =
        "SELECT CASE WHEN pg_is_in_recovery() THEN NULL ELSE pg_current_wal_insert_lsn() END";
    let lsn = |rows| single(rows).and_then(|text| text.parse::<Lsn>().ok());
    let Some(written) = lsn(connection.query(written, ATTEMPTED).await?) else {
        return Ok(flushed);
    };
    let begun = Instant::now();
    loop {
        let sql = "SELECT pg_current_wal_flush_lsn()";
        let flushed = lsn(connection.query(sql, ATTEMPTED).await?).unwrap_or(flushed);
        if flushed >= written || only_header(flushed, written) || begun.elapsed() >= SETTLE_MAX {
            return Ok(flushed.min(written));
        }
        sleep(SETTLE_PAUSE).await;
    }
}

/// True if nothing but a page's header can stand between the two: the next record goes behind it,
/// and no record has made the server write the page.
const fn only_header(flushed: Lsn, written: Lsn) -> bool {
    flushed.0.is_multiple_of(LOG_PAGE) && written.0.saturating_sub(flushed.0) <= LOG_PAGE_HEADER
}

/// `system identifier (8, big-endian) | database oid (4, big-endian) | 0 (4)`.
pub(crate) fn lineage(system: u64, database: u32, timeline: u32) -> Lineage {
    let mut id = [0; 16];
    id[..8].copy_from_slice(&system.to_be_bytes());
    id[8..12].copy_from_slice(&database.to_be_bytes());
    Lineage::new(SourceKind::Postgres, id, timeline)
}

/// Positions of another source mean nothing here, and nothing may be created for them.
fn refuse_other(info: &SourceInfo, config: &PostgresConfig) -> Result<(), SourceError> {
    let Some(captured) = &config.captured else {
        return Ok(());
    };
    if captured.same_source(&info.lineage) {
        return Ok(());
    }
    let refusal = TokenRefusal::OtherSource {
        token: Position::ZERO,
        token_lineage: *captured,
        source_lineage: info.lineage,
    };
    Err(SourceError::new(
        SourceErrorKind::Refused(refusal),
        format!(
            "resume capture from {}: what was captured before belongs to source {captured}, this is {}; give every source a state directory of its own",
            config.address(),
            info.lineage
        ),
    ))
}

/// Where the stream may start, or why it must not: PostgreSQL itself skips forward in silence.
fn floor(
    config: &PostgresConfig,
    resume: Option<Position>,
    confirmed: Lsn,
    fresh: bool,
) -> Result<Position, SourceError> {
    let Some(resume) = resume else {
        return Ok(Position::before(confirmed));
    };
    if confirmed <= resume.confirmable() {
        return Ok(resume);
    }
    if !config.accept_gap {
        return Err(SourceError::new(
            SourceErrorKind::Gap,
            format!(
                "resume at {resume} from {}: replication slot {} has confirmed everything before {confirmed}, so changes in between are gone; {GAP_REMEDY}",
                config.address(),
                config.slot
            ),
        ));
    }
    tracing::warn!(%resume, %confirmed, fresh, slot = %config.slot, "gap accepted, changes in between are missing");
    Ok(Position::before(confirmed))
}

/// The error of a stream that ended by itself.
pub(crate) fn ended(config: &PostgresConfig, what: &str) -> SourceError {
    super::error::broken(
        format_args!("stream from {}: {what}", config.address()),
        io::ErrorKind::UnexpectedEof.into(),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_wrong_wal_level_is_named_with_its_remedy() {
        let config = PostgresConfig::default();
        check_wal_level("logical", &config).unwrap();
        let error = check_wal_level("replica", &config).unwrap_err();
        assert_eq!(error.kind, SourceErrorKind::Configuration);
        let text = error.to_string();
        assert!(
            text.contains("\"replica\"") && text.contains("set wal_level = logical"),
            "{text}"
        );
    }

    #[test]
    fn status_updates_stay_under_the_servers_timeout() {
        let seconds = Duration::from_secs;
        for (configured, server_ms, expected) in [
            (seconds(10), "60000", seconds(10)),
            (seconds(10), "3000", seconds(1)),
            (seconds(10), "0", seconds(10)),
            (seconds(10), "", seconds(10)),
            (Duration::ZERO, "60000", Duration::from_millis(100)),
        ] {
            assert_eq!(status_interval(configured, server_ms), expected);
        }
    }

    #[test]
    fn a_server_that_decodes_what_nobody_reads_is_not_given_up_before_it_can_answer() {
        let seconds = Duration::from_secs;
        for (interval, server_ms, expected) in [
            (seconds(10), "60000", seconds(60)),
            (seconds(10), "600000", seconds(330)),
            (seconds(1), "3000", Duration::from_millis(31_500)),
            // It hears us all the time then.
            (seconds(10), "0", seconds(30)),
            (seconds(20), "", seconds(60)),
        ] {
            assert_eq!(silence_max(interval, server_ms), expected, "{server_ms}");
        }
    }

    #[test]
    fn a_page_header_is_no_unwritten_commit() {
        for (flushed, written, expected) in [
            (0x0200_0000, 0x0200_0028, true),
            (0x0200_2000, 0x0200_2018, true),
            (0x0200_2000, 0x0200_2029, false),
            (0x0200_2008, 0x0200_2018, false),
        ] {
            assert_eq!(only_header(Lsn(flushed), Lsn(written)), expected);
        }
    }

    #[test]
    fn a_slot_ahead_of_the_resume_position_is_a_gap() {
        let mut config = PostgresConfig::default();
        let at = |lsn| Some(Position::end_of(Lsn(lsn)));
        assert_eq!(
            floor(&config, None, Lsn(50), true).unwrap(),
            Position::before(Lsn(50))
        );
        assert_eq!(
            floor(&config, at(49), Lsn(50), false).unwrap(),
            Position::end_of(Lsn(49))
        );
        let error = floor(&config, at(48), Lsn(50), false).unwrap_err();
        assert_eq!(error.kind, SourceErrorKind::Gap);
        assert!(
            error.to_string().contains("0/30:end") && error.to_string().contains("0/32"),
            "{error}"
        );
        // Inside a transaction: the transaction at 50 must still come whole.
        let inside = Some(Position::new(Lsn(50), 3));
        assert_eq!(
            floor(&config, inside, Lsn(50), false).unwrap(),
            Position::new(Lsn(50), 3)
        );
        config.accept_gap = true;
        assert_eq!(
            floor(&config, at(48), Lsn(50), false).unwrap(),
            Position::before(Lsn(50))
        );
    }

    #[test]
    fn the_lineage_names_system_and_database() {
        let lineage = lineage(0x0102_0304_0506_0708, 0x0a0b_0c0d, 3);
        assert_eq!(
            lineage.source_id,
            [1, 2, 3, 4, 5, 6, 7, 8, 10, 11, 12, 13, 0, 0, 0, 0]
        );
        assert_eq!(lineage.timeline, 3);
    }
}
