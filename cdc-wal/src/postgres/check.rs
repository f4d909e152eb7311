//! What is wrong at the server, found before anything is captured.

use cdc_core::{Lineage, Lsn, SourceError};

use super::catalog::partitions;
use super::config::PostgresConfig;
use super::connection::{Connection, Purpose};
use super::keyless::{KEYLESS, keyless};
use super::setup::{identify, setting, single};
use super::slot::{SlotState, TWO_PHASE, TWO_PHASE_REMEDY, slot_state};
use super::sql;

/// How bad a finding is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Severity {
    /// As it should be.
    Ok,
    /// Capture works, but not as one may expect.
    Warning,
    /// Capture does not work.
    Error,
}

/// One thing that was looked at.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Finding {
    /// How bad it is.
    pub severity: Severity,
    /// What was looked at, such as `wal_level` or `table public.orders`.
    pub subject: String,
    /// What was found.
    pub found: String,
    /// What to do; empty if nothing.
    pub remedy: String,
}

/// Tables listed by name in one finding.
const TABLES_MAX: usize = 20;

struct Findings(Vec<Finding>);

impl Findings {
    fn add(
        &mut self,
        severity: Severity,
        subject: impl Into<String>,
        found: impl Into<String>,
        remedy: impl Into<String>,
    ) {
        self.0.push(Finding {
            severity,
            subject: subject.into(),
            found: found.into(),
            remedy: remedy.into(),
        });
    }

    fn good(&mut self, subject: &str, found: impl Into<String>) {
        self.add(Severity::Ok, subject, found, "");
    }
}

/// Connects and looks at everything capture depends on: the server's version and settings, the
/// role, the publication and its tables, the slot. Changes nothing.
///
/// # Errors
/// Only if the server cannot be reached or asked; what is wrong there is a finding.
pub async fn check(config: &PostgresConfig) -> Result<Vec<Finding>, SourceError> {
    config.validate()?;
    let mut connection = Connection::open(config, Purpose::Sql).await?;
    let mut findings = Findings(Vec::new());
    let version = connection.server_version().to_owned();
    if connection.major_version() < 13 {
        findings.add(
            Severity::Error,
            "version",
            version,
            "use PostgreSQL 13 or later",
        );
    } else {
        findings.good("version", version);
    }
    let slot = slot_state(&mut connection, &config.slot).await?;
    settings(&mut connection, &mut findings, slot.is_some()).await?;
    role(&mut connection, &mut findings, config).await?;
    publication(&mut connection, &mut findings, config, slot.is_some()).await?;
    let limit = setting(&mut connection, "max_slot_wal_keep_size").await?;
    slot_findings(&mut findings, config, slot, &limit);
    connection.close().await;
    Ok(findings.0)
}

/// Where a server and its slot stand, for comparing with what was captured.
#[derive(Clone, Debug)]
pub struct ServerState {
    /// Which database it is, and on which timeline.
    pub lineage: Lineage,
    /// Where its log ends; on a standby, where what it has of its primary's log ends.
    pub end: Lsn,
    /// It is a standby, or recovers: the log it has may reach further soon.
    pub standby: bool,
    /// The slot, if it exists.
    pub slot: Option<SlotState>,
}

/// Connects and asks where the server and the slot stand. Changes nothing.
///
/// # Errors
/// The server cannot be reached, or does not let the role replicate.
pub async fn look(config: &PostgresConfig) -> Result<ServerState, SourceError> {
    config.validate()?;
    let mut connection = Connection::open(config, Purpose::Replication).await?;
    let (info, end) = identify(&mut connection, config).await?;
    let slot = slot_state(&mut connection, &config.slot).await?;
    let standby = is_standby(&mut connection).await?;
    connection.close().await;
    Ok(ServerState {
        standby,
        lineage: info.lineage,
        end,
        slot,
    })
}

/// True of a standby, and of any server that still takes in a log that was written before.
pub(super) async fn is_standby(connection: &mut Connection) -> Result<bool, SourceError> {
    let sql = "SELECT pg_is_in_recovery()";
    let found = single(connection.query(sql, "ask whether it is a standby").await?);
    Ok(found.as_deref() == Some("t"))
}

async fn count(connection: &mut Connection, sql: &str) -> Result<u64, SourceError> {
    let rows = connection.query(sql, "look at the server").await?;
    Ok(single(rows).and_then(|t| t.parse().ok()).unwrap_or(0))
}

async fn settings(
    connection: &mut Connection,
    findings: &mut Findings,
    slot_exists: bool,
) -> Result<(), SourceError> {
    let level = setting(connection, "wal_level").await?;
    if level == "logical" {
        findings.good("wal_level", level);
    } else {
        findings.add(
            Severity::Error,
            "wal_level",
            level,
            "set wal_level = logical in postgresql.conf and restart the server",
        );
    }
    for (name, used) in [
        (
            "max_replication_slots",
            "SELECT count(*) FROM pg_replication_slots",
        ),
        (
            "max_wal_senders",
            "SELECT count(*) FROM pg_stat_replication",
        ),
    ] {
        let max: u64 = setting(connection, name).await?.parse().unwrap_or(0);
        let used = count(connection, used).await?;
        let found = format!("{used} of {max} in use");
        if used < max || (slot_exists && name == "max_replication_slots") {
            findings.good(name, found);
        } else {
            let remedy = format!("raise {name} in postgresql.conf and restart the server");
            findings.add(Severity::Error, name, found, remedy);
        }
    }
    Ok(())
}

async fn role(
    connection: &mut Connection,
    findings: &mut Findings,
    config: &PostgresConfig,
) -> Result<(), SourceError> {
    let sql = "SELECT rolreplication OR rolsuper FROM pg_roles WHERE rolname = current_user";
    let may = single(connection.query(sql, "look at the role").await?);
    if may.as_deref() == Some("t") {
        findings.good("role", format!("{} may replicate", config.user));
    } else {
        findings.add(
            Severity::Error,
            "role",
            format!("{} may not replicate", config.user),
            format!("ALTER ROLE {} REPLICATION", sql::identifier(&config.user)),
        );
    }
    Ok(())
}

/// Whether the role may create the publication, and what to do if not.
async fn creation(
    connection: &mut Connection,
    config: &PostgresConfig,
) -> Result<(Severity, String), SourceError> {
    const ATTEMPTED: &str = "look at the role's rights";
    // Publications of all tables, and of schemas, are for superusers; any takes CREATE.
    let named = !config.tables.is_empty() && config.schemas.is_empty();
    let rights = format!(
        "SELECT 1 FROM pg_roles WHERE rolname = current_user \
         AND (rolsuper OR ({named} AND has_database_privilege(current_database(), 'CREATE')))"
    );
    if single(connection.query(&rights, ATTEMPTED).await?).is_some() {
        return Ok((Severity::Ok, "it will be created at the start".to_owned()));
    }
    let identifier = sql::identifier(&config.publication);
    Ok((
        Severity::Error,
        format!(
            "the role may not create it; as a superuser: CREATE PUBLICATION {identifier} FOR ALL TABLES"
        ),
    ))
}

async fn publication(
    connection: &mut Connection,
    findings: &mut Findings,
    config: &PostgresConfig,
    slot_exists: bool,
) -> Result<(), SourceError> {
    const ATTEMPTED: &str = "look at the publication";
    let name = sql::literal(&config.publication);
    let subject = format!("publication {}", config.publication);
    let sql = format!("SELECT 1 FROM pg_publication WHERE pubname = {name}");
    if connection.query(&sql, ATTEMPTED).await?.is_empty() {
        let (severity, remedy) = if config.create_publication {
            creation(connection, config).await?
        } else {
            let identifier = sql::identifier(&config.publication);
            (
                Severity::Error,
                format!("CREATE PUBLICATION {identifier} FOR ALL TABLES"),
            )
        };
        if slot_exists && severity == Severity::Ok {
            // Changes are decoded with the publications there were when they were made; whether any wait,
            // only decoding tells.
            findings.add(
                Severity::Warning,
                subject,
                format!(
                    "does not exist, and slot {} is there: it will be created at the start, and the server cannot decode what was changed before",
                    config.slot
                ),
                "nothing, if no table was changed since it was dropped; else the start says so, and the slot must be dropped (`cdc-cli drop-slot`), the tables copied anew and --accept-gap be said",
            );
        } else {
            findings.add(severity, subject, "does not exist", remedy);
        }
        if config.create_publication && !config.accept_keyless {
            for table in keyless(connection, config, TABLES_MAX).await? {
                findings.add(
                    Severity::Error,
                    format!("table {table}"),
                    "no replica identity: once it is published, the server refuses its updates and deletes",
                    format!(
                        "add a primary key that is not deferrable, or ALTER TABLE {} REPLICA IDENTITY FULL; or publish other tables only",
                        sql::table(&table)
                    ),
                );
            }
        }
        return Ok(());
    }
    let tables = format!("FROM pg_publication_tables WHERE pubname = {name}");
    let tables = count(connection, &format!("SELECT count(*) {tables}")).await?;
    if tables > 0 {
        findings.good(&subject, format!("{tables} tables"));
    }
    for (what, remedy) in left_out_of(connection, config).await? {
        findings.add(Severity::Warning, &*subject, what, remedy);
    }
    identity(connection, findings, &name).await?;
    partition_identity(connection, findings, &name).await
}

/// What a publication that is there keeps from us without a word: each with its remedy.
pub(super) async fn left_out_of(
    connection: &mut Connection,
    config: &PostgresConfig,
) -> Result<Vec<(String, String)>, SourceError> {
    const ATTEMPTED: &str = "look at what the publication leaves out";
    let name = sql::literal(&config.publication);
    let identifier = sql::identifier(&config.publication);
    let mut found = Vec::new();
    let tables = format!("SELECT count(*) FROM pg_publication_tables WHERE pubname = {name}");
    if count(connection, &tables).await? == 0 {
        let remedy = "add tables to it, or nothing will ever come";
        found.push(("has no tables".to_owned(), remedy.to_owned()));
    }
    let sql = format!(
        "SELECT concat_ws(', ', CASE WHEN NOT pubinsert THEN 'insert' END, CASE WHEN NOT pubupdate THEN 'update' END, \
            CASE WHEN NOT pubdelete THEN 'delete' END, CASE WHEN NOT pubtruncate THEN 'truncate' END) \
         FROM pg_publication WHERE pubname = {name}"
    );
    let operations = single(connection.query(&sql, ATTEMPTED).await?).unwrap_or_default();
    if !operations.is_empty() {
        found.push((
            format!("does not publish {operations}"),
            format!(
                "ALTER PUBLICATION {identifier} SET (publish = 'insert, update, delete, truncate')"
            ),
        ));
    }
    // By their names: servers before version 15 have no such columns.
    let sql = format!(
        "SELECT n.nspname || '.' || c.relname, concat_ws(' and ', \
            CASE WHEN to_jsonb(r) ->> 'prqual' IS NOT NULL THEN 'a row filter' END, \
            CASE WHEN to_jsonb(r) ->> 'prattrs' IS NOT NULL THEN 'a column list' END) \
         FROM pg_publication_rel r JOIN pg_publication p ON p.oid = r.prpubid \
         JOIN pg_class c ON c.oid = r.prrelid JOIN pg_namespace n ON n.oid = c.relnamespace \
         WHERE p.pubname = {name} \
            AND (to_jsonb(r) ->> 'prqual' IS NOT NULL OR to_jsonb(r) ->> 'prattrs' IS NOT NULL) \
         ORDER BY 1 LIMIT {TABLES_MAX}"
    );
    for row in connection.query(&sql, ATTEMPTED).await? {
        let mut cells = row.into_iter().map(Option::unwrap_or_default);
        let (table, what) = (
            cells.next().unwrap_or_default(),
            cells.next().unwrap_or_default(),
        );
        found.push((
            format!("has {what} for {table}: what that leaves out is not captured"),
            format!(
                "filter here instead (tables, where, include, exclude), and ALTER PUBLICATION {identifier} SET TABLE without it"
            ),
        ));
    }
    // Its partitions may have one: then the server refuses nothing, and does not say which row it was.
    let sql = format!(
        "SELECT n.nspname || '.' || c.relname FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace \
         WHERE c.relkind = 'p' AND {KEYLESS} AND {} ORDER BY 1 LIMIT {TABLES_MAX}",
        published(&name)
    );
    for row in connection.query(&sql, ATTEMPTED).await? {
        let table = row.into_iter().next().flatten().unwrap_or_default();
        found.push((
            format!(
                "publishes {table} as the root of its partitions, and that has no replica identity of its own: their updates and deletes come without a key"
            ),
            format!(
                "give it a primary key, or ALTER TABLE {} REPLICA IDENTITY FULL, and so its partitions; or ALTER PUBLICATION {identifier} SET (publish_via_partition_root = false)",
                sql::table(&table)
            ),
        ));
    }
    Ok(found)
}

/// The condition that a table `c` is one a publication says it has.
fn published(publication: &str) -> String {
    format!(
        "EXISTS (SELECT 1 FROM pg_publication_tables t JOIN pg_namespace tn ON tn.nspname = t.schemaname \
            WHERE t.pubname = {publication} AND tn.oid = c.relnamespace AND t.tablename = c.relname)"
    )
}

/// Tables whose updates and deletes fail, or carry less than one may expect.
async fn identity(
    connection: &mut Connection,
    findings: &mut Findings,
    publication: &str,
) -> Result<(), SourceError> {
    // A partition of a table that is published as its root is not listed, and the server goes by it.
    let published = published(publication);
    let sql = format!(
        "{} SELECT n.nspname || '.' || c.relname, c.relpersistence = 'u' \
         FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace \
         WHERE c.relkind = 'r' AND ({published} OR c.oid IN (SELECT relid FROM partition)) \
            AND (c.relpersistence = 'u' OR {KEYLESS}) \
         ORDER BY 1 LIMIT {}",
        partitions(&published),
        TABLES_MAX + 1
    );
    let rows = connection.query(&sql, "look at the tables").await?;
    for row in rows.iter().take(TABLES_MAX) {
        let table = row.first().cloned().flatten().unwrap_or_default();
        let unlogged = row.get(1).cloned().flatten().as_deref() == Some("t");
        if unlogged {
            findings.add(
                Severity::Warning,
                format!("table {table}"),
                "unlogged: its changes are in no log",
                format!("ALTER TABLE {} SET LOGGED", sql::table(&table)),
            );
        } else {
            findings.add(
                Severity::Warning,
                format!("table {table}"),
                "no replica identity: the server refuses its updates and deletes while it is published",
                format!("add a primary key that is not deferrable, or ALTER TABLE {} REPLICA IDENTITY FULL", sql::table(&table)),
            );
        }
    }
    if rows.len() > TABLES_MAX {
        findings.add(
            Severity::Warning,
            "tables",
            format!("more than {TABLES_MAX} without replica identity"),
            "mend those listed, then check again",
        );
    }
    Ok(())
}

/// Tables published as their root whose old rows are not as whole as the root's identity says.
async fn partition_identity(
    connection: &mut Connection,
    findings: &mut Findings,
    publication: &str,
) -> Result<(), SourceError> {
    let published = format!("c.relreplident = 'f' AND {}", published(publication));
    let sql = format!(
        "{} SELECT rn.nspname || '.' || r.relname, count(*), min(n.nspname || '.' || c.relname) \
         FROM partition p JOIN pg_class c ON c.oid = p.relid JOIN pg_namespace n ON n.oid = c.relnamespace \
         JOIN pg_class r ON r.oid = p.root JOIN pg_namespace rn ON rn.oid = r.relnamespace \
         WHERE c.relkind = 'r' AND c.relreplident <> 'f' GROUP BY 1 ORDER BY 1 LIMIT {TABLES_MAX}",
        partitions(&published)
    );
    for row in connection.query(&sql, "look at partitions").await? {
        let mut cells = row.into_iter().map(Option::unwrap_or_default);
        let mut cell = || cells.next().unwrap_or_default();
        let (table, count, partition) = (cell(), cell(), cell());
        findings.add(
            Severity::Warning,
            format!("table {table}"),
            format!(
                "its replica identity is full, that of {count} of its partitions, such as {partition}, is not: they log a part of old rows, and what is null in one comes as unavailable"
            ),
            format!(
                "ALTER TABLE {} REPLICA IDENTITY FULL, and so the others",
                sql::table(&partition)
            ),
        );
    }
    Ok(())
}

fn slot_findings(
    findings: &mut Findings,
    config: &PostgresConfig,
    slot: Option<SlotState>,
    keep_size_mb: &str,
) {
    let subject = format!("slot {}", config.slot);
    let Some(slot) = slot else {
        let (severity, remedy) = if config.create_slot || config.temporary {
            (Severity::Ok, "it will be created at the start".to_owned())
        } else {
            let name = sql::literal(&config.slot);
            let sql = format!("SELECT pg_create_logical_replication_slot({name}, 'pgoutput')");
            (Severity::Error, sql)
        };
        findings.add(severity, subject, "does not exist", remedy);
        return;
    };
    if slot.plugin != "pgoutput" || slot.database != config.database {
        let found = format!(
            "of plugin {:?} and database {:?}",
            slot.plugin, slot.database
        );
        let remedy = "use another slot (postgres.slot): names of slots are the whole server's";
        findings.add(Severity::Error, &*subject, found, remedy);
        return;
    }
    if slot.two_phase {
        // A start that goes on with it only warns.
        findings.add(Severity::Warning, &*subject, TWO_PHASE, TWO_PHASE_REMEDY);
    }
    match slot.wal_status.as_str() {
        "lost" => findings.add(
            Severity::Error,
            &*subject,
            "the server has removed the log it needs",
            super::error::GAP_REMEDY,
        ),
        "unreserved" => findings.add(
            Severity::Warning,
            &*subject,
            "about to be lost",
            "let capture catch up at once, or raise max_slot_wal_keep_size",
        ),
        _ => {
            let left = slot.safe_wal_bytes.map_or_else(String::new, |bytes| {
                format!(", {bytes} bytes of log until it is in danger")
            });
            findings.good(
                &subject,
                format!("confirmed {}{left}", slot.confirmed_flush),
            );
        }
    }
    if let Some(pid) = slot.active_pid {
        findings.add(
            Severity::Warning,
            &*subject,
            format!("in use by process {pid} of the server"),
            "stop the other consumer before starting",
        );
    }
    if keep_size_mb == "-1" {
        findings.add(
            Severity::Warning,
            "max_slot_wal_keep_size",
            "unlimited: a consumer that is away long fills the server's disk",
            "watch the slot's lag, or set a limit (then a slot beyond it is lost)",
        );
    }
}
