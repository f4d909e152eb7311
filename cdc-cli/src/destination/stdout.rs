//! The binary's own consumer of the queue: events as lines on standard output.

use std::io::{self, Write};

use cdc_core::envelope::Encoder;
use cdc_emit_queue::QueueConsumer;

/// Prints every batch of the queue and acknowledges it once it is written, until the queue is
/// closed. Blocking; run it on a thread of its own.
///
/// # Errors
/// From the writer (a closed pipe, a full disk); what was not written is not acknowledged.
pub(crate) fn print_queue(
    consumer: &QueueConsumer,
    encoder: &Encoder,
    mut out: impl Write,
) -> io::Result<()> {
    let mut buffer = Vec::new();
    while let Some(batch) = consumer.recv_blocking() {
        buffer.clear();
        for event in batch.events() {
            encoder
                .encode(batch.source(), event, &mut buffer)
                .map_err(|error| io::Error::new(io::ErrorKind::InvalidData, error))?;
            buffer.push(b'\n');
        }
        out.write_all(&buffer)?;
        out.flush()?;
        batch.ack();
    }
    Ok(())
}
