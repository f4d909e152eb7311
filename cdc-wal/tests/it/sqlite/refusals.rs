//! What cannot be followed is refused by name.

use std::path::Path;

use cdc_core::SourceErrorKind;
use cdc_wal::sqlite::{Severity, SqliteConfig, SqliteSource, check};

use super::support::{Application, Stage};

async fn refused(path: &Path, kind: SourceErrorKind, says: &str) {
    let mut config = SqliteConfig::new(path);
    config.busy_timeout = std::time::Duration::from_millis(50);
    let error = SqliteSource::connect(config.clone(), None)
        .await
        .expect_err("a refusal");
    assert_eq!(error.kind, kind, "{error}");
    assert!(error.to_string().contains(says), "{error}");
    match check(&config).await {
        Ok(findings) => {
            let worst = findings.iter().map(|finding| finding.severity).max();
            assert_eq!(worst, Some(Severity::Error), "{findings:?}");
        }
        Err(error) => assert_eq!(error.kind, kind),
    }
}

#[tokio::test]
async fn files_that_are_no_database_in_wal_mode_are_refused_by_name() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("a.db");
    refused(&path, SourceErrorKind::Unreachable, "check the path").await;
    std::fs::write(&path, b"").unwrap();
    refused(&path, SourceErrorKind::Configuration, "empty").await;
    std::fs::write(&path, [0x5au8; 4096]).unwrap();
    refused(&path, SourceErrorKind::Unsupported, "encrypted").await;
    std::fs::remove_file(&path).unwrap();
    Application::open(&path).run("CREATE TABLE t(x);");
    let remedy = "PRAGMA journal_mode = WAL";
    refused(&path, SourceErrorKind::Configuration, remedy).await;
}

/// What it would be told to switch to WAL mode is a log.
#[tokio::test]
async fn a_log_is_refused_with_the_name_of_its_database() {
    let stage = Stage::new("CREATE TABLE t(x);");
    for suffix in ["-wal", "-shm"] {
        let beside = stage.dir.path().join(format!("shop.db{suffix}"));
        assert!(beside.is_file());
        let named = format!("name the database itself: {}", stage.path.display());
        refused(&beside, SourceErrorKind::Configuration, &named).await;
    }
}

/// Opening a pipe would wait for ever.
#[tokio::test]
async fn what_is_no_file_is_refused_by_name() {
    let dir = tempfile::tempdir().unwrap();
    let unsupported = SourceErrorKind::Unsupported;
    refused(dir.path(), unsupported.clone(), "it is a directory").await;
    let pipe = dir.path().join("pipe");
    let made = std::process::Command::new("mkfifo").arg(&pipe).status();
    assert!(made.unwrap().success());
    refused(&pipe, unsupported.clone(), "a pipe").await;
    refused(Path::new("/dev/zero"), unsupported, "a device").await;
}

#[tokio::test]
async fn a_database_held_by_one_process_is_refused_by_name() {
    let mut stage = Stage::new("CREATE TABLE t(x);");
    stage
        .application
        .run("PRAGMA locking_mode = EXCLUSIVE; INSERT INTO t VALUES (1);");
    refused(&stage.path, SourceErrorKind::InUse, "locking_mode").await;
}

#[tokio::test]
async fn tables_that_are_left_out_are_named() {
    let mut stage = Stage::new("CREATE TABLE t(x);");
    stage.application.run(
        "CREATE VIRTUAL TABLE search USING fts5(body); INSERT INTO search VALUES ('one');
         CREATE TABLE _litestream_seq(id INTEGER PRIMARY KEY, seq INTEGER);",
    );
    let findings = check(&SqliteConfig::new(&stage.path)).await.unwrap();
    let named = |name: &str| {
        findings
            .iter()
            .any(|f| f.subject == format!("table {name}"))
    };
    assert!(
        named("search_content") && named("search_data"),
        "{findings:?}"
    );
    assert!(named("_litestream_seq"), "{findings:?}");
    let tables = findings.iter().find(|f| f.subject == "tables").unwrap();
    assert_eq!(tables.found, "t");
}
