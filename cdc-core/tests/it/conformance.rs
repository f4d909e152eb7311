//! The conformance suite catches what it says it catches: an emitter that keeps the contract passes,
//! and one that breaks a single clause fails with the number of that clause.

use std::collections::BTreeSet;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, Mutex};

use cdc_core::testing::conformance::{self, CLAUSES, Subject};
use cdc_core::{
    Checkpoint, DurableMark, EmitError, EmitErrorKind, Emitter, EventBatch, Position, Receipt,
    Rejection,
};

#[path = "../../examples/own_emitter.rs"]
mod own_emitter;

/// What is wrong with an emitter.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Fault {
    Nothing,
    ReversesBatches,
    SwapsBatches,
    BlamesEvents,
    FailsForEver,
    CallsABadEventAnOutage,
    ForgetsADroppedBatch,
    TakesALetterForADroppedBatch,
    RefusesGoodEvents,
    RefusesTheWrongEvent,
    HangsInEmit,
    HangsInFlush,
    SaysDurableTooEarly,
    MarksTooEarly,
    MarksAheadOfEmit,
    MarksAheadOfTheCheckpoint,
    MarkGoesBack,
    FlushIsNoBarrier,
    ReportsALossThatIsNone,
    SaysDurableWithAState,
    DropsTheFirstBatchAfterAResume,
    NeedsAState,
    TakesAnyState,
    CallsABadStateAnOutage,
    StateIsTooLarge,
    ResumesOnce,
    DoublesWhatItResumes,
    TellsRowContents,
    TellsRowContentsOfOneEvent,
    WorkersKeepStates,
    WorkersLoseEvents,
    WorkersEndTogether,
}

impl Fault {
    /// Every fault, and the clause it breaks.
    const ALL: [(Self, &str); 31] = [
        (Self::WorkersKeepStates, "1.5"),
        (Self::WorkersLoseEvents, "1.5"),
        (Self::WorkersEndTogether, "1.5"),
        (Self::ReversesBatches, "2.1"),
        (Self::SwapsBatches, "2.1"),
        (Self::BlamesEvents, "2.2"),
        (Self::FailsForEver, "2.2"),
        (Self::CallsABadEventAnOutage, "2.2"),
        (Self::ForgetsADroppedBatch, "2.3"),
        (Self::TakesALetterForADroppedBatch, "2.3"),
        (Self::RefusesGoodEvents, "2.4"),
        (Self::RefusesTheWrongEvent, "2.4"),
        (Self::HangsInEmit, "2.5"),
        (Self::HangsInFlush, "2.5"),
        (Self::SaysDurableTooEarly, "3.1"),
        (Self::MarksTooEarly, "3.1"),
        (Self::MarksAheadOfEmit, "3.2"),
        (Self::MarksAheadOfTheCheckpoint, "3.2"),
        (Self::MarkGoesBack, "3.3"),
        (Self::FlushIsNoBarrier, "3.4"),
        (Self::ReportsALossThatIsNone, "3.5"),
        (Self::SaysDurableWithAState, "3.6"),
        (Self::DropsTheFirstBatchAfterAResume, "4.1"),
        (Self::NeedsAState, "4.2"),
        (Self::TakesAnyState, "4.3"),
        (Self::CallsABadStateAnOutage, "4.3"),
        (Self::StateIsTooLarge, "4.4"),
        (Self::ResumesOnce, "4.5"),
        (Self::DoublesWhatItResumes, "4.5"),
        (Self::TellsRowContents, "5.1"),
        (Self::TellsRowContentsOfOneEvent, "5.1"),
    ];
}

#[derive(Clone, Debug)]
struct Table {
    fault: Fault,
    rows: Arc<Mutex<Vec<Position>>>,
}

impl Subject for Table {
    type Emitter = Faulty;

    async fn open(&mut self) -> Faulty {
        Faulty {
            fault: self.fault,
            rows: self.rows.clone(),
            open: Vec::new(),
            given: BTreeSet::new(),
            dropped: None,
            emitted: Position::ZERO,
            mark: DurableMark::default(),
            resumes: 0,
            emits: 0,
            marks: 0,
            is_worker: false,
            alive: Arc::new(()),
            had: 1,
        }
    }

    async fn taken(&mut self) -> Vec<Position> {
        self.rows.lock().unwrap().clone()
    }
}

/// Keeps the contract but for one fault.
#[derive(Debug)]
struct Faulty {
    fault: Fault,
    rows: Arc<Mutex<Vec<Position>>>,
    open: Vec<Position>,
    given: BTreeSet<Position>,
    /// First event of a batch that was dropped.
    dropped: Option<Position>,
    emitted: Position,
    mark: DurableMark,
    resumes: u32,
    emits: u32,
    marks: u32,
    is_worker: bool,
    /// One for each worker that lives.
    alive: Arc<()>,
    had: usize,
}

impl Faulty {
    fn is(&self, fault: Fault) -> bool {
        self.fault == fault
    }

    fn commit(&mut self) {
        let mut rows = self.rows.lock().unwrap();
        self.had = self.had.max(Arc::strong_count(&self.alive));
        let widowed = Arc::strong_count(&self.alive) < self.had;
        if (self.is(Fault::WorkersLoseEvents) && self.is_worker)
            || (self.is(Fault::WorkersEndTogether) && widowed)
        {
            self.open.clear();
        }
        rows.append(&mut self.open);
        let mut state = u64::try_from(rows.len()).unwrap().to_be_bytes().to_vec();
        let stateless = [
            // Receipts say it, so marks need not.
            Fault::SaysDurableTooEarly,
            Fault::WorkersLoseEvents,
            Fault::WorkersEndTogether,
        ];
        if stateless.contains(&self.fault) {
            state.clear();
        }
        if self.is(Fault::StateIsTooLarge) {
            state.resize(Checkpoint::STATE_MAX + 1, 0);
        }
        self.mark = DurableMark {
            through: self.emitted,
            state: state.into(),
        };
    }

    fn answer(&mut self) -> Result<Option<DurableMark>, EmitError> {
        self.marks += 1;
        let mut mark = self.mark.clone();
        match self.fault {
            Fault::MarksTooEarly => mark.through = self.emitted,
            Fault::MarksAheadOfEmit if self.emits > 0 => mark.through = Position::MAX,
            Fault::MarksAheadOfTheCheckpoint if self.emits == 0 => mark.through = Position::MAX,
            Fault::MarkGoesBack if self.marks.is_multiple_of(3) => mark.through = Position::ZERO,
            Fault::ReportsALossThatIsNone if self.marks == 2 => {
                return Err(error(RETRY, "sync the table: nothing is known"));
            }
            _ => {}
        }
        Ok(Some(mark))
    }
}

const RETRY: EmitErrorKind = EmitErrorKind::EndpointRetry { retry_after: None };

fn error(kind: EmitErrorKind, what: &str) -> EmitError {
    EmitError::new(kind, what.to_owned())
}

/// An event whose row cannot be read, and what stands in it.
fn unreadable(batch: &EventBatch) -> Option<(usize, String)> {
    let mut events = batch.events().iter().enumerate();
    events.find_map(|(index, event)| {
        let bytes = event.after.row()?.as_bytes();
        let text = String::from_utf8_lossy(bytes).into_owned();
        bytes.starts_with(b"\xff").then_some((index, text))
    })
}

impl Emitter for Faulty {
    async fn resume(&mut self, from: Option<&Checkpoint>) -> Result<(), EmitError> {
        self.resumes += 1;
        self.open.clear();
        self.emitted = from.map_or(Position::ZERO, |checkpoint| checkpoint.position);
        if self.is(Fault::ResumesOnce) && self.resumes > 1 {
            return Err(error(RETRY, "open the table: it is open"));
        }
        let state = from.map_or(&[][..], |checkpoint| &checkpoint.state);
        if state.is_empty() {
            if self.is(Fault::NeedsAState) && from.is_some() {
                return Err(error(RETRY, "open the table: the checkpoint has no state"));
            }
        } else {
            let count = state
                .get(..8)
                .and_then(|state| <[u8; 8]>::try_from(state).ok());
            let count = count.and_then(|count| usize::try_from(u64::from_be_bytes(count)).ok());
            let mut rows = self.rows.lock().unwrap();
            match count {
                Some(count) if count <= rows.len() => {
                    if self.is(Fault::DoublesWhatItResumes) && self.resumes > 1 {
                        // Cuts too much the second time.
                        rows.truncate(count.saturating_sub(1));
                    } else {
                        rows.truncate(count);
                    }
                }
                _ if self.is(Fault::TakesAnyState) => {}
                _ if self.is(Fault::CallsABadStateAnOutage) => {
                    return Err(error(RETRY, "open the table: its state is odd"));
                }
                _ => {
                    return Err(error(
                        EmitErrorKind::Fatal,
                        "open the table: the state is not one of it",
                    ));
                }
            }
        }
        self.commit();
        Ok(())
    }

    async fn emit(&mut self, batch: &EventBatch) -> Result<Receipt, EmitError> {
        let first = batch.events()[0].position;
        let again = !self.given.insert(first);
        if self.is(Fault::ForgetsADroppedBatch) && again {
            return Ok(Receipt::ACCEPTED);
        }
        if self.is(Fault::TakesALetterForADroppedBatch)
            && self.dropped.is_some_and(|dropped| first < dropped)
        {
            return Ok(Receipt::ACCEPTED);
        }
        self.dropped = Some(first);
        // Whoever drops it drops it here.
        tokio::task::yield_now().await;
        self.dropped = None;
        self.emits += 1;
        match self.fault {
            Fault::BlamesEvents => return Err(error(EmitErrorKind::Event, "write: refused")),
            Fault::FailsForEver => return Err(error(RETRY, "write: later")),
            Fault::HangsInEmit => std::future::pending().await,
            _ => {}
        }
        let mut taken: Vec<_> = batch.events().iter().map(|event| event.position).collect();
        let mut rejected = Vec::new();
        let mut refuse = |index, message: &str| {
            rejected.push(Rejection {
                index,
                message: message.to_owned(),
                status: None,
            });
        };
        if self.is(Fault::RefusesGoodEvents) {
            refuse(0, "it looks odd");
        }
        if let Some((index, text)) = unreadable(batch) {
            match self.fault {
                Fault::CallsABadEventAnOutage => return Err(error(RETRY, "write: later")),
                Fault::TellsRowContents => {
                    return Err(error(
                        EmitErrorKind::Event,
                        &format!("write {text}: it is odd"),
                    ));
                }
                Fault::TellsRowContentsOfOneEvent => refuse(index, &text),
                Fault::RefusesTheWrongEvent => refuse(0, "it cannot be read"),
                _ => refuse(index, "it cannot be read"),
            }
            taken.remove(index);
        }
        if self.is(Fault::ReversesBatches) {
            taken.reverse();
        }
        if self.is(Fault::SwapsBatches) && !self.open.is_empty() {
            taken.append(&mut self.open);
        }
        if self.is(Fault::DropsTheFirstBatchAfterAResume) && self.emits == 1 && first.commit.0 > 1 {
            taken.clear();
        }
        self.open.append(&mut taken);
        self.emitted = batch.end();
        let waits = [
            Fault::SaysDurableTooEarly,
            Fault::SwapsBatches,
            Fault::MarksTooEarly,
        ];
        if self.emits.is_multiple_of(2) && !waits.contains(&self.fault) {
            self.commit();
        }
        let durable = [Fault::SaysDurableTooEarly, Fault::SaysDurableWithAState];
        let mut receipt = if durable.contains(&self.fault) {
            if self.is(Fault::SaysDurableWithAState) {
                self.commit();
            }
            Receipt::DURABLE
        } else {
            Receipt::ACCEPTED
        };
        receipt.rejected = rejected;
        Ok(receipt)
    }

    fn durable(&mut self) -> Result<Option<DurableMark>, EmitError> {
        self.answer()
    }

    fn worker(&self) -> Option<Self> {
        let several = [
            Fault::WorkersKeepStates,
            Fault::WorkersLoseEvents,
            Fault::WorkersEndTogether,
        ];
        several.contains(&self.fault).then(|| Self {
            rows: self.rows.clone(),
            open: Vec::new(),
            given: BTreeSet::new(),
            dropped: None,
            mark: DurableMark::default(),
            is_worker: true,
            alive: self.alive.clone(),
            ..*self
        })
    }

    async fn flush(&mut self) -> Result<Option<DurableMark>, EmitError> {
        match self.fault {
            Fault::HangsInFlush => std::future::pending().await,
            Fault::FlushIsNoBarrier => {
                self.mark.through = self.emitted;
            }
            _ => self.commit(),
        }
        self.answer()
    }
}

/// What the suite says about an emitter with this fault; `None` if it passes.
fn verdict(fault: Fault) -> Option<String> {
    let mut runtime = tokio::runtime::Builder::new_current_thread();
    // Paused: what hangs is given up on at once.
    let runtime = runtime.enable_time().start_paused(true).build().unwrap();
    let make = async || Table {
        fault,
        rows: Arc::default(),
    };
    let run = AssertUnwindSafe(|| runtime.block_on(conformance::check(make)));
    let panic = catch_unwind(run).err()?;
    let text = panic.downcast_ref::<String>().cloned();
    text.or_else(|| panic.downcast_ref::<&str>().map(|text| (*text).to_owned()))
}

#[test]
fn an_emitter_that_keeps_the_contract_passes() {
    assert_eq!(verdict(Fault::Nothing), None);
}

#[test]
fn every_broken_clause_is_named() {
    let mut wrong = Vec::new();
    for (fault, clause) in Fault::ALL {
        let said = verdict(fault).unwrap_or_else(|| "nothing".to_owned());
        if !said.contains(&format!("clause {clause}:")) {
            wrong.push(format!(
                "{fault:?} breaks {clause}, and the suite says: {said}"
            ));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn every_clause_of_the_suite_has_a_fault_and_a_mark_in_the_document() {
    let broken: BTreeSet<_> = Fault::ALL.iter().map(|(_, clause)| *clause).collect();
    assert_eq!(broken, CLAUSES.into_iter().collect());
    let text = include_str!("../../../docs/specs/emitter.md");
    let (mut section, mut marked) = (String::new(), BTreeSet::new());
    for line in text.lines() {
        if let Some(title) = line.strip_prefix("## ") {
            section = title.split('.').next().unwrap_or_default().to_owned();
        } else if let Some((number, _)) = line.split_once(". ✓") {
            marked.insert(format!("{section}.{number}"));
        }
    }
    let proved: BTreeSet<_> = CLAUSES.iter().map(|clause| (*clause).to_owned()).collect();
    assert_eq!(marked, proved, "the marks in docs/specs/emitter.md");
}

#[test]
fn an_emitter_from_outside_passes() {
    own_emitter::main().unwrap();
}
