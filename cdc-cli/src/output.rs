//! What commands print to standard output: text for people, JSON for programs.

use std::io::{self, Write};

use crate::args::OutputFormat;
use crate::exit::Exit;
use crate::report::CliError;

/// Writes text to standard output.
///
/// # Errors
/// A reader that went away (`| head`) is no error; anything else is.
pub(crate) fn print(text: &str) -> Result<(), CliError> {
    let mut out = io::stdout().lock();
    finish(out.write_all(text.as_bytes()).and_then(|()| out.flush()))
}

/// Writes JSON to standard output, indented, with a line end.
pub(crate) fn print_json(value: &serde_json::Value) -> Result<(), CliError> {
    let mut text = format!("{value:#}");
    text.push('\n');
    print(&text)
}

/// Writes the one that was asked for.
pub(crate) fn answer(
    output: OutputFormat,
    text: impl FnOnce() -> String,
    json: impl FnOnce() -> serde_json::Value,
) -> Result<(), CliError> {
    match output {
        OutputFormat::Text => print(&text()),
        OutputFormat::Json => print_json(&json()),
    }
}

/// As [`answer`], but to standard error where events have gone to standard output: who reads those finds
/// nothing else among them.
pub(crate) fn answer_beside(
    events: bool,
    output: OutputFormat,
    text: impl FnOnce() -> String,
    json: impl FnOnce() -> serde_json::Value,
) -> Result<(), CliError> {
    if !events {
        return answer(output, text, json);
    }
    let text = match output {
        OutputFormat::Text => text(),
        OutputFormat::Json => format!("{:#}\n", json()),
    };
    let _closed = io::stderr().lock().write_all(text.as_bytes());
    Ok(())
}

/// The outcome of writing to standard output.
pub(crate) fn finish(written: io::Result<()>) -> Result<(), CliError> {
    match written {
        Err(error) if error.kind() != io::ErrorKind::BrokenPipe => {
            Err(CliError::new(Exit::Runtime, "write to standard output").with_cause(error))
        }
        _ => Ok(()),
    }
}

/// Names and values in two columns, one pair a line.
pub(crate) fn pairs(rows: &[(String, String)]) -> String {
    let width = rows
        .iter()
        .map(|(name, _)| name.chars().count())
        .max()
        .unwrap_or(0);
    rows.iter()
        .map(|(name, value)| format!("{name:<width$}  {value}\n"))
        .collect()
}

/// A number of bytes for people: exact below a KiB, else with one decimal.
pub(crate) fn bytes_text(bytes: u64) -> String {
    const UNITS: [&str; 6] = ["KiB", "MiB", "GiB", "TiB", "PiB", "EiB"];
    if bytes < 1024 {
        return format!("{bytes} bytes");
    }
    let (mut tenths, mut unit) = (u128::from(bytes) * 10 / 1024, 0);
    while tenths >= 10_240 && unit + 1 < UNITS.len() {
        tenths /= 1024;
        unit += 1;
    }
    format!("{}.{} {}", tenths / 10, tenths % 10, UNITS[unit])
}

#[cfg(test)]
mod tests {
    use super::bytes_text;

    #[test]
    fn bytes_are_said_for_people() {
        for (bytes, text) in [
            (0, "0 bytes"),
            (1023, "1023 bytes"),
            (1024, "1.0 KiB"),
            (1_572_864, "1.5 MiB"),
            (634_606_202, "605.2 MiB"),
            (u64::MAX, "15.9 EiB"),
        ] {
            assert_eq!(bytes_text(bytes), text);
        }
    }
}
