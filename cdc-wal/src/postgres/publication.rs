//! The publication: what the stream is of.

use cdc_core::{SourceError, SourceErrorKind};

use super::config::PostgresConfig;
use super::connection::Connection;
use super::keyless::{refuse_keyless, without_keyless};
use super::sql;

/// Makes sure that there is one; true if it was created just now.
pub(crate) async fn ensure_publication(
    connection: &mut Connection,
    config: &PostgresConfig,
) -> Result<bool, SourceError> {
    let name = &config.publication;
    let sql = format!(
        "SELECT 1 FROM pg_publication WHERE pubname = {}",
        sql::literal(name)
    );
    let known = connection.query(&sql, "look for the publication").await?;
    if !known.is_empty() {
        return Ok(false);
    }
    if !config.create_publication {
        return Err(SourceError::new(
            SourceErrorKind::Configuration,
            format!(
                "capture from {}: publication {name:?} does not exist; CREATE PUBLICATION {} FOR ALL TABLES, or allow this reader to create it",
                config.address(),
                sql::identifier(name)
            ),
        ));
    }
    let mut targets = Vec::new();
    if let Some(keyed) = without_keyless(connection, config).await? {
        targets.push(format!("TABLE {}", keyed.join(", ")));
    } else {
        refuse_keyless(connection, config).await?;
    }
    if !config.tables.is_empty() {
        let tables: Vec<String> = config.tables.iter().map(|t| sql::table(t)).collect();
        targets.push(format!("TABLE {}", tables.join(", ")));
    }
    if !config.schemas.is_empty() {
        let schemas: Vec<String> = config.schemas.iter().map(|s| sql::identifier(s)).collect();
        targets.push(format!("TABLES IN SCHEMA {}", schemas.join(", ")));
    }
    let target = if targets.is_empty() {
        "ALL TABLES".to_owned()
    } else {
        targets.join(", ")
    };
    let sql = format!("CREATE PUBLICATION {} FOR {target}", sql::identifier(name));
    let attempted = format!("create publication {name}");
    match connection.query(&sql, &attempted).await {
        Ok(_) => {
            tracing::info!(publication = %name, source = %config.address(), "publication created");
            Ok(true)
        }
        // Somebody else was faster.
        Err(error) if error.to_string().contains("already exists") => Ok(false),
        Err(error) => Err(error),
    }
}

pub(crate) async fn drop_publication(
    connection: &mut Connection,
    name: &str,
) -> Result<(), SourceError> {
    let sql = format!("DROP PUBLICATION IF EXISTS {}", sql::identifier(name));
    let attempted = format!("drop publication {name}");
    connection.query(&sql, &attempted).await?;
    Ok(())
}
