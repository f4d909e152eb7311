//! `drop-slot`: the one command that removes something at the source.

use cdc_wal::postgres::drop_slot_and_publication;
use serde_json::json;

use super::block_on;
use crate::args::{DropSlotArgs, Global, require_source};
use crate::assemble::source;
use crate::config::Source;
use crate::exit::Exit;
use crate::output::answer;
use crate::report::CliError;

pub(crate) fn run(args: &DropSlotArgs, global: &Global) -> Result<Exit, CliError> {
    let config = global.load()?;
    let Source::Postgres(url) = require_source(&config)? else {
        return Err(CliError::new(
            Exit::Usage,
            "drop the slot of the source: only a PostgreSQL source has one",
        ));
    };
    let postgres = source::postgres(&config, url, false)?;
    if !args.yes {
        return Err(CliError::new(
            Exit::Usage,
            format!(
                "drop slot {} and publication {}: what was not delivered yet is then gone at the source; say --yes if that is meant",
                postgres.slot, postgres.publication
            ),
        ));
    }
    let dropped = block_on(drop_slot_and_publication(&postgres))??;
    let was = |there: bool| if there { "dropped" } else { "there was none" };
    answer(
        global.output,
        || {
            format!(
                "slot {}: {}\npublication {}: {}\n",
                postgres.slot,
                was(dropped.slot),
                postgres.publication,
                was(dropped.publication)
            )
        },
        || {
            json!({
                "slot": postgres.slot,
                "publication": postgres.publication,
                "slot_dropped": dropped.slot,
                "publication_dropped": dropped.publication,
            })
        },
    )?;
    Ok(Exit::Done)
}
