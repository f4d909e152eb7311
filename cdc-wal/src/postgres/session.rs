//! A plain SQL session, for whoever has questions about what is captured.

use cdc_core::{SourceError, SourceErrorKind};

use super::config::PostgresConfig;
use super::connection::{Connection, Purpose};

/// A connection for SQL by the simple query protocol; every value is text.
///
/// With the session settings of capture: UTC, ISO dates, hexadecimal `bytea`, and the search path
/// `pg_catalog`, so names of tables need their schema. Meant for set-up, benches and tests: answers
/// are held in memory, at most 64 MiB, and each takes at most `connect_timeout`.
#[derive(Debug)]
pub struct SqlSession(Option<Connection>);

impl SqlSession {
    /// Connects.
    ///
    /// # Errors
    /// [`SourceErrorKind::Unreachable`] or [`SourceErrorKind::Transient`] if the server cannot be
    /// reached or refuses; [`SourceErrorKind::Configuration`] if it makes no sense.
    pub async fn open(config: &PostgresConfig) -> Result<Self, SourceError> {
        config.validate()?;
        let connection = Connection::open(config, Purpose::Sql).await?;
        Ok(Self(Some(connection)))
    }

    /// Runs one or several statements (several are one transaction) and gives the rows of all.
    ///
    /// # Errors
    /// The server's error, with the session still usable; after any other the session is closed.
    ///
    /// # Cancel safety
    /// Dropping the future closes the session.
    pub async fn query(&mut self, sql: &str) -> Result<Vec<Vec<Option<String>>>, SourceError> {
        let Some(mut connection) = self.0.take() else {
            return Err(SourceError::new(
                SourceErrorKind::Transient,
                "run SQL: the session was closed by an earlier failure; open another",
            ));
        };
        let outcome = connection.query(sql, "run SQL").await;
        let in_step = match &outcome {
            Ok(_) => true,
            Err(error) => std::error::Error::source(error)
                .is_some_and(<dyn std::error::Error>::is::<super::error::ServerError>),
        };
        if in_step {
            self.0 = Some(connection);
        }
        outcome
    }

    /// Says goodbye to the server.
    pub async fn close(self) {
        if let Some(connection) = self.0 {
            connection.close().await;
        }
    }
}
