//! Tables without replica identity: of those the server refuses every update and delete once they are
//! published.

use cdc_core::{SourceError, SourceErrorKind};

use super::config::PostgresConfig;
use super::connection::Connection;
use super::sql;

/// Tables without replica identity that are named.
const KEYLESS_MAX: usize = 5;
/// Tables that a publication names one by one, at most.
const NAMED_MAX: usize = 10_000;

/// The tables whose rows are in the log.
const PLAIN_TABLES: &str = "FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace \
    WHERE c.relkind = 'r' AND c.relpersistence = 'p' AND n.nspname NOT IN ('pg_catalog', 'information_schema')";

/// Those of which updates and deletes cannot be told: of the tables `c`. The server goes by an index that
/// is checked at once, so a deferrable primary key is none; an index that was set and is gone is none either.
pub(super) const KEYLESS: &str = "(c.relreplident <> 'f' AND NOT EXISTS \
    (SELECT 1 FROM pg_index i WHERE i.indrelid = c.oid AND i.indisvalid AND i.indimmediate \
        AND CASE c.relreplident WHEN 'd' THEN i.indisprimary WHEN 'i' THEN i.indisreplident ELSE false END))";

/// The tables that a publication is to name, each without those that inherit from it, where all but those
/// without replica identity are asked for and there are some of these.
pub(super) async fn without_keyless(
    connection: &mut Connection,
    config: &PostgresConfig,
) -> Result<Option<Vec<String>>, SourceError> {
    let all = config.tables.is_empty() && config.schemas.is_empty();
    if !config.without_keyless || !all {
        return Ok(None);
    }
    let left_out = keyless(connection, config, KEYLESS_MAX + 1).await?;
    if left_out.is_empty() {
        return Ok(None);
    }
    let sql = format!(
        "SELECT 'ONLY ' || quote_ident(n.nspname) || '.' || quote_ident(c.relname) {PLAIN_TABLES} AND NOT {KEYLESS} \
         ORDER BY 1 LIMIT {}",
        NAMED_MAX + 1
    );
    let rows = connection
        .query(&sql, "look for tables with replica identity")
        .await?;
    let keyed = rows.into_iter().filter_map(|row| row.into_iter().next()?);
    let keyed: Vec<String> = keyed.collect();
    if keyed.is_empty() || keyed.len() > NAMED_MAX {
        return Ok(None);
    }
    tracing::warn!(
        tables = %named(left_out),
        source = %config.address(),
        "left out: tables without primary key or replica identity; name them to see their inserts"
    );
    Ok(Some(keyed))
}

/// The first few names.
fn named(mut tables: Vec<String>) -> String {
    let more = if tables.len() > KEYLESS_MAX {
        ", ..."
    } else {
        ""
    };
    tables.truncate(KEYLESS_MAX);
    tables.join(", ") + more
}

/// The tables of a publication that is created here whose updates and deletes the server refuses
/// from then on, whoever does them; at most `max`.
pub(super) async fn keyless(
    connection: &mut Connection,
    config: &PostgresConfig,
    max: usize,
) -> Result<Vec<String>, SourceError> {
    let list = |items: Vec<String>| format!("ARRAY[{}]", items.join(", "));
    let tables = config.tables.iter().map(|table| {
        // Null for a table that is not there: the publication's creation will say so.
        format!("to_regclass({})", sql::literal(&sql::table(table)))
    });
    let schemas = config.schemas.iter().map(|schema| sql::literal(schema));
    let published = if config.tables.is_empty() && config.schemas.is_empty() {
        String::new()
    } else {
        // With a table the server publishes those that inherit from it, with a partitioned one of a
        // schema its partitions, wherever they are.
        let schemas = list(schemas.collect());
        format!(
            " AND (n.nspname = ANY ({schemas}::name[]) OR c.oid IN (WITH RECURSIVE published (relid) AS ( \
                SELECT r.oid FROM pg_class r JOIN pg_namespace s ON s.oid = r.relnamespace \
                WHERE r.oid = ANY ({}::oid[]) OR (r.relkind = 'p' AND s.nspname = ANY ({schemas}::name[])) \
                UNION SELECT h.inhrelid FROM published p JOIN pg_inherits h ON h.inhparent = p.relid) \
                SELECT relid FROM published))",
            list(tables.collect()),
        )
    };
    let sql = format!(
        "SELECT n.nspname || '.' || c.relname {PLAIN_TABLES} AND {KEYLESS}{published} ORDER BY 1 LIMIT {max}"
    );
    let rows = connection
        .query(&sql, "look for tables without replica identity")
        .await?;
    Ok(rows
        .into_iter()
        .filter_map(|row| row.into_iter().next().flatten())
        .collect())
}

/// A publication must not break the application that writes to its tables.
pub(super) async fn refuse_keyless(
    connection: &mut Connection,
    config: &PostgresConfig,
) -> Result<(), SourceError> {
    if config.accept_keyless {
        return Ok(());
    }
    let tables = keyless(connection, config, KEYLESS_MAX + 1).await?;
    if tables.is_empty() {
        return Ok(());
    }
    Err(SourceError::new(
        SourceErrorKind::Configuration,
        format!(
            "create publication {} on {}: from then on the server would refuse every UPDATE and DELETE of tables without replica identity: {}; \
             give them a primary key that is not deferrable or ALTER TABLE ... REPLICA IDENTITY FULL, publish other tables only (publish_tables, publish_schemas), or set accept_keyless if they are only inserted into",
            config.publication,
            config.address(),
            named(tables)
        ),
    ))
}
