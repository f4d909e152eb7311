//! A database on the tests' server, with the same changes as the log.

use std::sync::OnceLock;
use std::sync::atomic::{AtomicU32, Ordering};

use cdc_wal::postgres::PostgresConfig;

use super::{CHANGES, ROWS};
use crate::bad::postgres::{server, sql, until_free, url};

/// Slots made by this process.
static MADE: AtomicU32 = AtomicU32::new(0);
/// Its database: to make one takes the server a checkpoint, and so it stays until the server goes.
static MINE: OnceLock<PostgresConfig> = OnceLock::new();

/// A table, and a slot and a publication for it that go when it is dropped.
pub(super) struct Database {
    config: PostgresConfig,
}

impl Database {
    pub(super) fn new() -> Self {
        let mine = MINE.get_or_init(|| {
            let server = server();
            let database = format!("cdc_crash_{}", std::process::id());
            sql(&server, &format!("CREATE DATABASE {database}"));
            PostgresConfig { database, ..server }
        });
        let number = MADE.fetch_add(1, Ordering::Relaxed);
        let name = format!("{}_{number}", mine.database);
        let config = PostgresConfig {
            slot: name.clone(),
            publication: name,
            ..mine.clone()
        };
        sql(
            &config,
            "DROP TABLE IF EXISTS public.t; CREATE TABLE public.t (id int8 PRIMARY KEY, text text)",
        );
        Self { config }
    }

    /// Lines of `[cdc]` for the tool.
    pub(super) fn settings(&self) -> String {
        let password = self.config.password.clone().unwrap_or_default();
        let url = url(&self.config, &self.config.user, &password);
        let name = &self.config.slot;
        format!(
            "source = \"{url}\"\npostgres = {{ slot = \"{name}\", publication = \"{name}\" }}\n"
        )
    }

    /// Commits the changes, a few a transaction.
    pub(super) fn change(&self) {
        let transaction = |commit: i64| {
            let rows: Vec<_> = (commit * 5..commit * 5 + 5)
                .map(|change| format!("({}, '{change}')", change % ROWS))
                .collect();
            format!(
                "BEGIN; INSERT INTO public.t VALUES {} ON CONFLICT (id) DO UPDATE SET text = excluded.text; COMMIT;",
                rows.join(", ")
            )
        };
        let all: String = (0..CHANGES / 5).map(transaction).collect();
        sql(&self.config, &all);
    }

    /// The server may still be noticing that the tool has gone.
    pub(super) fn until_free(&self) {
        until_free(&self.config);
    }
}

impl Drop for Database {
    fn drop(&mut self) {
        // What a failing test leaves goes with the server.
        if std::thread::panicking() {
            return;
        }
        until_free(&self.config);
        let name = &self.config.slot;
        sql(
            &self.config,
            &format!("SELECT pg_drop_replication_slot('{name}'); DROP PUBLICATION {name}"),
        );
    }
}
