//! Orders of an operator to a running lane.

use tokio::sync::{mpsc, oneshot};

use super::{RedriveReport, RedriveRequest};
use crate::{EventId, Position, SourceError};

/// An order of an operator to a lane.
#[derive(Debug)]
#[non_exhaustive]
pub enum LaneCommand {
    /// Send dead letters again; live events wait meanwhile.
    Redrive {
        /// Which.
        request: RedriveRequest,
        /// Told when done.
        reply: oneshot::Sender<RedriveReport>,
    },
    /// Give dead letters up.
    Discard {
        /// Which.
        ids: Vec<EventId>,
        /// Told how many there were.
        reply: oneshot::Sender<u64>,
    },
    /// Deliver nothing more until told otherwise.
    Pause {
        /// Told when no request is in flight any more.
        reply: oneshot::Sender<()>,
    },
    /// Go on.
    Resume {
        /// Told at once.
        reply: oneshot::Sender<()>,
    },
    /// Go on strictly behind another position.
    Seek {
        /// Which.
        to: Position,
        /// Told the position the lane was at, or why it stays there.
        reply: oneshot::Sender<Result<Position, SourceError>>,
    },
    /// End this lane, drained, as shutdown ends all.
    Stop {
        /// Told when it begins to.
        reply: oneshot::Sender<()>,
    },
}

/// Gives orders to a running lane. Cheap to clone.
///
/// An order is carried out by the lane between two requests; none of them touches another lane.
/// Every method gives `None` if the lane has ended. Dropping a future does not take back the order.
#[derive(Clone, Debug)]
pub struct LaneControl(mpsc::Sender<LaneCommand>);

impl LaneControl {
    /// A control and what the lane takes orders from.
    pub fn new() -> (Self, mpsc::Receiver<LaneCommand>) {
        let (sender, receiver) = mpsc::channel(4);
        (Self(sender), receiver)
    }

    async fn order<T>(&self, command: impl FnOnce(oneshot::Sender<T>) -> LaneCommand) -> Option<T> {
        let (reply, answer) = oneshot::channel();
        self.0.send(command(reply)).await.ok()?;
        answer.await.ok()
    }

    /// Sends dead letters again and waits for the outcome. Live events wait meanwhile, also of
    /// other keys. Ends at once, with [`RedriveReport::stopped`], while the lane is paused, or while
    /// it tries again to send events to a destination that is unwell.
    pub async fn redrive(&self, request: RedriveRequest) -> Option<RedriveReport> {
        self.order(|reply| LaneCommand::Redrive { request, reply })
            .await
    }

    /// Gives dead letters up and tells how many there were. Letters parked behind them stay, and go
    /// with the next redrive.
    pub async fn discard(&self, ids: Vec<EventId>) -> Option<u64> {
        self.order(|reply| LaneCommand::Discard { ids, reply })
            .await
    }

    /// Delivers nothing more until [`resume`](Self::resume); gives when no request is in flight.
    /// The lane still holds back log and source at its checkpoint. Lasts until the process ends.
    pub async fn pause(&self) -> Option<()> {
        self.order(|reply| LaneCommand::Pause { reply }).await
    }

    /// Takes back [`pause`](Self::pause).
    pub async fn resume(&self) -> Option<()> {
        self.order(|reply| LaneCommand::Resume { reply }).await
    }

    /// Moves the lane: it goes on strictly behind `to`, backwards (events are delivered again, with
    /// the same ids) or forwards (events are skipped for good; that is what was asked for). The new
    /// position is a durable checkpoint when this gives `Ok` with the old one.
    ///
    /// Requests in flight are waited for; what was read and not sent is forgotten, and so is what an emitter
    /// without a state has taken and its consumer has not acknowledged. Dead letters and
    /// the keys parked behind them stay.
    ///
    /// # Errors
    /// The log's, such as a position older than what is retained (it names the oldest). The lane
    /// then stays where it is.
    pub async fn seek(&self, to: Position) -> Option<Result<Position, SourceError>> {
        self.order(|reply| LaneCommand::Seek { to, reply }).await
    }

    /// Ends this lane alone, drained. To remove its emitter for good, wait for the lane to end and
    /// then [`Watermark::remove`](super::Watermark::remove) it, so that it holds nothing back.
    pub async fn stop(&self) -> Option<()> {
        self.order(|reply| LaneCommand::Stop { reply }).await
    }
}
