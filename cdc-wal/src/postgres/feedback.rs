//! Status updates to the server, from a task that backpressure cannot stop.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use cdc_core::wall_micros;
use tokio::io::{AsyncWriteExt, WriteHalf};
use tokio::sync::Notify;
use tokio::task::JoinHandle;
use tokio::time::{Instant, sleep_until};

use super::connection::Stream;
use super::decode::EPOCH_MICROS;

/// Shortest time between two status updates that only tell a new confirmation.
const CONFIRM_DELAY: Duration = Duration::from_millis(100);

/// What the reader and the feedback task know together. Outlives a connection.
#[derive(Debug, Default)]
pub(crate) struct Progress {
    /// Largest WAL position the server told.
    pub(crate) received: AtomicU64,
    /// What may be confirmed; never more than was asked for.
    pub(crate) confirmed: AtomicU64,
    reply: AtomicBool,
    closing: AtomicBool,
    wake: Notify,
}

impl Progress {
    pub(crate) fn receive(&self, lsn: u64) {
        self.received.fetch_max(lsn, Ordering::Relaxed);
    }

    /// Confirms everything below `lsn`; a lower one than before is ignored.
    pub(crate) fn confirm(&self, lsn: u64) {
        if self.confirmed.fetch_max(lsn, Ordering::Relaxed) < lsn {
            self.wake.notify_one();
        }
    }

    /// The server wants an answer now.
    pub(crate) fn request_reply(&self) {
        self.reply.store(true, Ordering::Relaxed);
        self.wake.notify_one();
    }

    /// Has the feedback task tell the last confirmation and leave the server.
    pub(crate) fn close(&self) {
        self.closing.store(true, Ordering::Relaxed);
        self.wake.notify_one();
    }
}

/// The task; it ends with this value.
#[derive(Debug)]
pub(crate) struct Feedback(JoinHandle<()>);

impl Feedback {
    /// Spawns the task on the current runtime.
    pub(crate) fn spawn(
        write: WriteHalf<Stream>,
        progress: Arc<Progress>,
        interval: Duration,
    ) -> Self {
        Self(tokio::spawn(run(write, progress, interval)))
    }
}

impl Drop for Feedback {
    fn drop(&mut self) {
        self.0.abort();
    }
}

/// Ends when closed, or when writing fails: the reader then meets the broken connection itself.
async fn run(mut write: WriteHalf<Stream>, progress: Arc<Progress>, interval: Duration) {
    let mut due = Instant::now() + interval;
    loop {
        let timer = tokio::select! {
            () = sleep_until(due) => true,
            () = progress.wake.notified() => false,
        };
        let closing = progress.closing.load(Ordering::Relaxed);
        let asked = progress.reply.swap(false, Ordering::Relaxed);
        if !timer && !closing && !asked {
            // A confirmation: others will follow soon, one update tells them all.
            tokio::time::sleep(CONFIRM_DELAY).await;
        }
        // On the timer the server is asked to answer, so that a dead connection is noticed.
        let update = status_update(&progress, timer);
        if write.write_all(&update).await.is_err() || write.flush().await.is_err() {
            return;
        }
        due = Instant::now() + interval;
        if closing {
            // CopyDone, Terminate. The server may be gone already.
            let _ignored = write.write_all(&[b'c', 0, 0, 0, 4, b'X', 0, 0, 0, 4]).await;
            let _ignored = write.flush().await;
            return;
        }
    }
}

/// `d | length | r | written | flushed | applied | clock | reply`, big-endian.
fn status_update(progress: &Progress, reply: bool) -> [u8; 39] {
    let confirmed = progress.confirmed.load(Ordering::Relaxed);
    let received = progress.received.load(Ordering::Relaxed).max(confirmed);
    let clock = wall_micros().saturating_sub(EPOCH_MICROS);
    let mut update = [0; 39];
    update[0] = b'd';
    update[1..5].copy_from_slice(&38u32.to_be_bytes());
    update[5] = b'r';
    update[6..14].copy_from_slice(&received.to_be_bytes());
    update[14..22].copy_from_slice(&confirmed.to_be_bytes());
    update[22..30].copy_from_slice(&confirmed.to_be_bytes());
    update[30..38].copy_from_slice(&clock.to_be_bytes());
    update[38] = u8::from(reply);
    update
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn confirmations_never_go_back_and_never_lead() {
        let progress = Progress::default();
        let flushed = |p: &Progress| {
            let update = status_update(p, false);
            let at = |n: usize| u64::from_be_bytes(update[n..n + 8].try_into().unwrap());
            (at(6), at(14), at(22))
        };
        progress.receive(100);
        assert_eq!(flushed(&progress), (100, 0, 0));
        progress.confirm(40);
        progress.confirm(30);
        assert_eq!(flushed(&progress), (100, 40, 40));
        progress.receive(90);
        assert_eq!(flushed(&progress), (100, 40, 40));
    }

    /// A consumer that takes nothing for long is not a dead one.
    #[tokio::test(start_paused = true)]
    async fn updates_go_on_while_nobody_reads() {
        use tokio::io::AsyncReadExt;
        let (ours, mut theirs) = tokio::io::duplex(4096);
        let (_read, write) = tokio::io::split(Box::new(ours) as Stream);
        let progress = Arc::new(Progress::default());
        let _feedback = Feedback::spawn(write, progress.clone(), Duration::from_secs(10));
        for _ in 0..5 {
            let mut update = [0; 39];
            theirs.read_exact(&mut update).await.unwrap();
            assert_eq!((update[0], update[5], update[38]), (b'd', b'r', 1));
        }
        progress.confirm(77);
        let mut update = [0; 39];
        theirs.read_exact(&mut update).await.unwrap();
        assert_eq!(update[14..22], 77u64.to_be_bytes());
        assert_eq!(update[38], 0);
        progress.close();
        let mut rest = Vec::new();
        theirs.read_buf(&mut rest).await.unwrap();
        assert!(rest.ends_with(&[b'c', 0, 0, 0, 4, b'X', 0, 0, 0, 4]));
    }
}
