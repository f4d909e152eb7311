//! Marks and barriers of emitters that are not ours.

use super::*;
use crate::{DurableMark, EmitError, Emitter, Receipt};

/// Takes everything; its marks are what the test says.
#[derive(Clone, Default)]
struct Foreign(Arc<Mutex<Marks>>);

#[derive(Default)]
struct Marks {
    through: Option<Position>,
    refuses: Vec<Position>,
    flushes: usize,
}

impl Foreign {
    fn marks(&self) -> std::sync::MutexGuard<'_, Marks> {
        self.0.lock().unwrap()
    }
}

impl Emitter for Foreign {
    async fn emit(&mut self, batch: &EventBatch) -> Result<Receipt, EmitError> {
        let marks = self.marks();
        Ok(Receipt {
            rejected: rejections(batch, &marks.refuses),
            ..Receipt::ACCEPTED
        })
    }

    fn durable(&mut self) -> Result<Option<DurableMark>, EmitError> {
        let through = self.marks().through;
        Ok(through.map(|through| DurableMark {
            through,
            ..DurableMark::default()
        }))
    }

    async fn flush(&mut self) -> Result<Option<DurableMark>, EmitError> {
        self.marks().flushes += 1;
        assert!(self.marks().flushes < 100, "the lane turns in circles");
        self.durable()
    }
}

/// Runs a lane of one transaction of three rows to its end.
async fn run(through: Option<Position>, refuses: &[Position]) -> (Rig, Result<LaneEnd, LaneError>) {
    let rig = Rig::new();
    rig.log.push(transaction(1, 1, 3));
    rig.log.close();
    let emitter = Foreign::default();
    emitter.marks().through = through;
    emitter.marks().refuses.extend(refuses);
    let config = LaneConfig::new("hook", source().lineage, Position::ZERO);
    let (_trigger, shutdown) = Shutdown::new();
    let (lane, _control) = rig.lane_to(BoxEmitter::new(emitter), config, &shutdown);
    let end = lane.await;
    (rig, end)
}

#[tokio::test(start_paused = true)]
async fn a_barrier_whose_mark_does_not_say_what_was_taken_ends_the_run() {
    for through in [None, Some(Position::ZERO), Some(at(1, 1))] {
        let (rig, end) = run(through, &[]).await;
        let Err(LaneError::Emit { cause, .. }) = end else {
            panic!("{through:?}: {end:?}");
        };
        assert_eq!(cause.kind, EmitErrorKind::Fatal);
        let error = cause.to_string();
        assert!(error.contains("flush"), "{error}");
        assert_eq!(
            rig.stored(),
            Position::ZERO,
            "nothing is taken for delivered"
        );
    }
}

/// What it refused is not its to speak of: its mark may stand before it.
#[tokio::test(start_paused = true)]
async fn a_mark_up_to_the_last_that_was_taken_is_enough() {
    let (rig, end) = run(Some(at(1, 1)), &[at(1, 2)]).await;
    assert_eq!(end.unwrap(), LaneEnd::Finished);
    assert_eq!(rig.letters(LetterState::Pending), [at(1, 2)]);
    assert_eq!(rig.stored(), Position::end_of(Lsn(1)));
}
