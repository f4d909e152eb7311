//! An engine of Markdown documents embeds the log: open, hook, commit, tail.
//! `cargo run -p cdc-wal --example markdown`

use std::sync::Arc;

use cdc_core::{BatchLimit, Lsn, ThreadClock, WalHook};
use cdc_wal::kinds::markdown::{Document, Folder, Identity, Sections};
use cdc_wal::kinds::{MarkdownLog, Old};
use cdc_wal::{LogConfig, StartAt};

struct Wake;

impl WalHook for Wake {
    // Here an engine unparks whoever waits for durability.
    fn on_commit(&self, _durable_end: Lsn) {}
}

pub(crate) fn main() -> Result<(), Box<dyn std::error::Error>> {
    let dir = tempfile::tempdir()?;
    let log = MarkdownLog::open(LogConfig::new(dir.path().join("wal")))?;
    log.add_hook(Arc::new(Wake));

    let drafts = Folder::new("handbook", "drafts", Identity::Path);
    let guides = Folder::new("handbook", "guides", Identity::Path);
    let draft = Document::new("drafts/install.md", "# Install\n", &["Install"]);
    let edited = draft.with_body("# Install\nRun it.\n");
    let moved = edited.with_path("guides/install.md");
    let mut request = log.begin(1);
    request
        .create(&drafts, &draft)?
        .edit(
            &drafts,
            Old::Known(&draft),
            &edited,
            Sections::changed(&["Install"]),
        )?
        .rename((&drafts, &edited), (&guides, &moved))?;
    request.commit()?;

    let clock = Arc::new(ThreadClock::new());
    let mut tail = log.tail_cursor("search", StartAt::Earliest, clock)?;
    let batch = tail
        .poll_batch(&BatchLimit::default())?
        .ok_or("no events")?;
    let ops: Vec<_> = batch.events().iter().map(|e| e.op.name()).collect();
    assert_eq!(ops, ["insert", "update", "update"]);
    log.confirm("search", batch.end())?;
    Ok(())
}
