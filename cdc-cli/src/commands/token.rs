//! `token inspect`: what a resume token says.

use std::fmt::Write as _;

use cdc_core::ResumeToken;
use serde_json::json;

use crate::args::{Global, TokenInspectArgs};
use crate::exit::Exit;
use crate::output;
use crate::report::CliError;

pub(crate) fn run(args: &TokenInspectArgs, global: &Global) -> Result<Exit, CliError> {
    let token: ResumeToken = args.token.parse()?;
    let (lineage, position) = (token.lineage(), token.position());
    let whole = position.is_transaction_end();
    output::answer(
        global.output,
        || {
            let covers = if whole {
                "this transaction and everything before it"
            } else {
                "this event and everything before it, within its transaction too"
            };
            let mut rows = vec![
                ("version".to_owned(), "1".to_owned()),
                (
                    "source".to_owned(),
                    format!("{} {}", lineage.kind, hex(&lineage.source_id)),
                ),
                ("timeline".to_owned(), lineage.timeline.to_string()),
                ("position".to_owned(), position.to_string()),
                ("covers".to_owned(), covers.to_owned()),
            ];
            if !token.extension().is_empty() {
                rows.push(("extension".to_owned(), hex(token.extension())));
            }
            output::pairs(&rows)
        },
        || {
            json!({
                "version": 1,
                "source": { "kind": lineage.kind.name(), "id": hex(&lineage.source_id), "timeline": lineage.timeline },
                "position": position.to_string(),
                "commit": position.commit.to_string(),
                "ordinal": (!whole).then_some(position.ordinal),
                "transaction_end": whole,
                "extension": hex(token.extension()),
            })
        },
    )?;
    Ok(Exit::Done)
}

fn hex(bytes: &[u8]) -> String {
    bytes
        .iter()
        .fold(String::with_capacity(bytes.len() * 2), |mut text, byte| {
            // Writing to a String cannot fail.
            let _ = write!(text, "{byte:02x}");
            text
        })
}
