//! `config show`: every setting in effect, and where it comes from.

use serde_json::{Value, json};

use crate::args::{ConfigShowArgs, Global};
use crate::config::{self, Setting};
use crate::exit::Exit;
use crate::output;
use crate::report::CliError;

pub(crate) fn run(args: &ConfigShowArgs, global: &Global) -> Result<Exit, CliError> {
    let mut settings = config::show(&global.layers())?;
    settings.retain(|setting| !args.changed || setting.origin != "default");
    output::answer(
        global.output,
        || text(&settings, args.origin),
        || json(&settings),
    )?;
    Ok(Exit::Done)
}

fn text(settings: &[Setting], origin: bool) -> String {
    let line = |setting: &Setting| match &setting.value {
        Some(value) => format!("{} = {value}", setting.path),
        None => format!("# {} is not set", setting.path),
    };
    let lines: Vec<String> = settings.iter().map(line).collect();
    // One very long value must not push every origin off the screen.
    let width = lines
        .iter()
        .map(|line| line.chars().count())
        .filter(|width| *width <= 60)
        .max();
    let width = width.unwrap_or(0);
    settings
        .iter()
        .zip(lines)
        .map(|(setting, line)| match (&setting.value, origin) {
            (Some(_), true) => format!("{line:<width$}  # {}\n", setting.origin),
            _ => format!("{line}\n"),
        })
        .collect()
}

fn json(settings: &[Setting]) -> Value {
    let entries = settings
        .iter()
        .map(|setting| {
            // Values are TOML; what JSON can say as well becomes JSON.
            let value = setting.value.as_deref().map_or(Value::Null, to_json);
            json!({ "key": setting.path, "value": value, "origin": setting.origin })
        })
        .collect::<Vec<_>>();
    json!({ "settings": entries })
}

fn to_json(text: &str) -> Value {
    format!("value = {text}")
        .parse::<toml::Table>()
        .ok()
        .and_then(|mut table| table.remove("value"))
        .and_then(|value| serde_json::to_value(value).ok())
        .unwrap_or_else(|| Value::from(text))
}
