//! `emitter`: pause and resume single emitters of a running pipeline.

use serde_json::json;

use crate::args::{EmitterCommand, Global};
use crate::assemble::control::{self, Reply, Request};
use crate::assemble::state::StatePaths;
use crate::exit::Exit;
use crate::output::answer;
use crate::report::CliError;

pub(crate) fn run(command: &EmitterCommand, global: &Global) -> Result<Exit, CliError> {
    let config = global.load()?;
    let (name, done, request) = match command {
        EmitterCommand::Pause(args) => {
            let emitter = args.name.clone();
            (&args.name, "paused", Request::Pause { emitter })
        }
        EmitterCommand::Resume(args) => {
            let emitter = args.name.clone();
            (&args.name, "resumed", Request::Resume { emitter })
        }
    };
    let socket = StatePaths::new(&config.state_path).control();
    let asked = super::block_on(control::ask(&socket, &request))?.map_err(|cause| {
        let path = config.state_path.display();
        CliError::new(
            Exit::Runtime,
            format!("ask the process that runs on {path}"),
        )
        .with_cause(cause)
    })?;
    let refused = |what: String| CliError::new(Exit::Runtime, what);
    match asked {
        Some(Reply::Done) => {}
        Some(Reply::Refused { reason }) => {
            return Err(refused(format!("ask the running process: {reason}")));
        }
        Some(_) => {
            return Err(refused(
                "ask the running process: it answered something else; it may be of another version"
                    .into(),
            ));
        }
        None => {
            return Err(refused(format!(
                "ask the process that runs on {}: none is running there; a pause lasts as long as the process",
                config.state_path.display()
            )));
        }
    }
    answer(
        global.output,
        || format!("{name}: {done}\n"),
        || json!({ "emitter": name, "state": done }),
    )?;
    Ok(Exit::Done)
}
