//! Removing what was created at the server.

use cdc_core::SourceError;

use super::config::PostgresConfig;
use super::connection::{Connection, Purpose};
use super::publication::drop_publication;
use super::slot::{refuse_others_slot, slot_state};
use super::sql;

/// What there was to drop.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Dropped {
    /// The slot was there.
    pub slot: bool,
    /// The publication was there.
    pub publication: bool,
}

/// Drops the slot, then the publication, if they are there. Nothing else ever drops them, but for
/// what is temporary, and for a slot that the server has given up (`wal_status = lost`) at a start
/// with [`accept_gap`](PostgresConfig::accept_gap). Without the slot the log it held is freed at the
/// next checkpoint.
///
/// # Errors
/// [`SourceErrorKind::Configuration`] if the slot is another database's or plugin's: names of slots
/// are the whole server's; nothing is dropped then. [`SourceErrorKind::InUse`] while somebody streams
/// from the slot; else as for connecting.
pub async fn drop_slot_and_publication(config: &PostgresConfig) -> Result<Dropped, SourceError> {
    config.validate()?;
    let mut connection = Connection::open(config, Purpose::Sql).await?;
    let there = slot_state(&mut connection, &config.slot).await?;
    if let Some(state) = &there {
        refuse_others_slot(state, config, "drop")?;
    }
    let (slot, publication) = (
        sql::literal(&config.slot),
        sql::literal(&config.publication),
    );
    // Asked again in the same breath: somebody may have made another one of the name.
    let sql = format!(
        "SELECT pg_drop_replication_slot(slot_name) FROM pg_replication_slots \
         WHERE slot_name = {slot} AND plugin = 'pgoutput' AND database = current_database()"
    );
    let attempted = format!("drop replication slot {}", config.slot);
    let slot = !connection.query(&sql, &attempted).await?.is_empty();
    let sql = format!("SELECT 1 FROM pg_publication WHERE pubname = {publication}");
    let published = connection.query(&sql, "look for the publication").await?;
    drop_publication(&mut connection, &config.publication).await?;
    connection.close().await;
    Ok(Dropped {
        slot,
        publication: !published.is_empty(),
    })
}
