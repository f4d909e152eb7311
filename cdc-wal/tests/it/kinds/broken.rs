//! The kit catches engines that get it wrong, in every kind.

use std::collections::BTreeMap;
use std::sync::Arc;

use cdc_core::storage::Storage;
use cdc_core::{BatchLimit, Cause, ChangeEvent, Image, Op, RowImage, Value};
use cdc_wal::kinds::key_value::{Family, KeyValue};
use cdc_wal::kinds::{KeyValueLog, KindTransaction, Old};
use cdc_wal::testing::reference::{
    DocumentEngine, FileStoreEngine, GraphEngine, InMemoryEngine, KeyValueEngine, MarkdownEngine,
    RelationalEngine, VectorEngine,
};
use cdc_wal::testing::{Announced, Budget, Dice, EngineUnderTest, LOG_DIR, State, check};
use cdc_wal::{Log, LogConfig, LogError, StartAt, Visibility, WalTail};

use crate::support::clock;

/// What an engine does wrong when it writes its log. A trait, since the engine is opened by the
/// kit and cannot be told.
trait Fault {
    /// Changes the events of a transaction on their way into the log.
    fn spoil(events: &mut Vec<ChangeEvent>);
    /// An abort writes its changes all the same.
    const LEAKS_ABORTS: bool = false;
    /// `Debug` of a transaction prints its rows.
    const PRINTS: bool = false;
}

/// A correct engine whose log is copied, event by event, into one that is not.
struct Broken<E, F> {
    engine: E,
    tail: WalTail,
    log: Log,
    leaked: Option<State>,
    last: String,
    fault: std::marker::PhantomData<F>,
}

impl<E: EngineUnderTest, F: Fault> Broken<E, F> {
    fn copy(&mut self) -> Result<(), LogError> {
        let mut events = Vec::new();
        while let Some(batch) = self.tail.poll_batch(&BatchLimit::default())? {
            events.extend_from_slice(batch.events());
        }
        let Some(id) = events.first().map(|event| event.transaction.id) else {
            return Ok(());
        };
        F::spoil(&mut events);
        let mut tx = self.log.begin(id);
        for event in &events {
            let (before, after) = (&event.before, &event.after);
            let meta = event.meta.as_deref();
            tx.change(event.op, &event.relation, before, after, event.cause, meta)?;
            if F::PRINTS {
                let values = after.row().and_then(|row| row.to_values().ok());
                for value in values.unwrap_or_default() {
                    if let Value::Text(text) = value {
                        self.last.push_str(&text);
                    }
                }
            }
        }
        tx.commit().map(|_| ())
    }
}

impl<E: EngineUnderTest, F: Fault> EngineUnderTest for Broken<E, F> {
    fn open(storage: Arc<dyn Storage>) -> Result<Self, LogError> {
        let engine = E::open(storage.clone())?;
        let tail = engine.log().tail(StartAt::Latest, clock())?;
        let log = Log::open(LogConfig {
            segment_bytes: 64 << 10,
            background: false,
            storage,
            ..LogConfig::new("/copy")
        })?;
        Ok(Self {
            engine,
            tail,
            log,
            leaked: None,
            last: String::new(),
            fault: std::marker::PhantomData,
        })
    }

    fn log(&self) -> &Log {
        &self.log
    }

    fn mutate(&mut self, slot: usize, dice: &mut Dice) -> Result<Vec<Announced>, LogError> {
        self.engine.mutate(slot, dice)
    }

    fn commit(&mut self, slot: usize) -> Result<(), LogError> {
        self.leaked = None;
        self.engine.commit(slot)?;
        self.copy()
    }

    fn abort(&mut self, slot: usize) -> Result<(), LogError> {
        if F::LEAKS_ABORTS {
            self.leaked = Some(self.engine.committed());
            self.engine.commit(slot)?;
            return self.copy();
        }
        self.engine.abort(slot)
    }

    fn committed(&self) -> State {
        match &self.leaked {
            Some(state) => state.clone(),
            None => self.engine.committed(),
        }
    }

    fn debug_of_transactions(&self) -> String {
        self.last.clone()
    }

    fn merge(operator: &str, before: Option<&RowImage>, event: &ChangeEvent) -> RowImage {
        E::merge(operator, before, event)
    }
}

/// Copies faithfully: that the copy itself is no fault.
enum Nothing {}

impl Fault for Nothing {
    fn spoil(_events: &mut Vec<ChangeEvent>) {}
}

enum ForgetsDeletes {}

impl Fault for ForgetsDeletes {
    fn spoil(events: &mut Vec<ChangeEvent>) {
        events.retain(|event| event.op != Op::Delete);
    }
}

enum Reorders {}

impl Fault for Reorders {
    fn spoil(events: &mut Vec<ChangeEvent>) {
        events.reverse();
    }
}

enum DropsOldRows {}

impl Fault for DropsOldRows {
    fn spoil(events: &mut Vec<ChangeEvent>) {
        for event in events.iter_mut().filter(|event| event.op == Op::Update) {
            event.before = Image::Absent;
        }
    }
}

/// Writes the new row where the old one belongs.
enum MixesRows {}

impl Fault for MixesRows {
    fn spoil(events: &mut Vec<ChangeEvent>) {
        for event in events.iter_mut().filter(|event| event.op == Op::Update) {
            if let (Image::Full(_), Image::Full(after)) = (&event.before, &event.after) {
                event.before = Image::Full(after.clone());
            }
        }
    }
}

enum LosesCauses {}

impl Fault for LosesCauses {
    fn spoil(events: &mut Vec<ChangeEvent>) {
        for event in events {
            event.cause = Cause::Client;
        }
    }
}

enum LeaksAborts {}

impl Fault for LeaksAborts {
    fn spoil(_events: &mut Vec<ChangeEvent>) {}
    const LEAKS_ABORTS: bool = true;
}

enum Prints {}

impl Fault for Prints {
    fn spoil(_events: &mut Vec<ChangeEvent>) {}
    const PRINTS: bool = true;
}

/// The message of the first workload of a few that fails.
fn caught<E: EngineUnderTest>(crashes: usize) -> Option<String> {
    (0..12).find_map(|seed| {
        let budget = Budget {
            crashes,
            ..Budget::default()
        };
        check::<E>(seed, &budget).err().map(|v| v.what)
    })
}

/// A kind's name, and its engine's run.
type Run = (&'static str, fn() -> Option<String>);

/// Asserts that each engine's fault is caught, and for the reason given.
fn catches(engines: &[Run], reason: &[&str]) {
    for (name, run) in engines {
        let what = run().unwrap_or_else(|| panic!("{name} passes"));
        assert!(
            reason.iter().any(|reason| what.contains(reason)),
            "{name}: {what}"
        );
    }
}

/// Every kind's engine with a fault.
fn all<F: Fault>() -> [Run; 8] {
    [
        ("relational", || caught::<Broken<RelationalEngine, F>>(0)),
        ("document", || caught::<Broken<DocumentEngine, F>>(0)),
        ("graph", || caught::<Broken<GraphEngine, F>>(0)),
        ("in-memory", || caught::<Broken<InMemoryEngine, F>>(0)),
        ("key-value", || caught::<Broken<KeyValueEngine, F>>(0)),
        ("vector", || caught::<Broken<VectorEngine, F>>(0)),
        ("file store", || caught::<Broken<FileStoreEngine, F>>(0)),
        ("markdown", || caught::<Broken<MarkdownEngine, F>>(0)),
    ]
}

#[test]
fn a_faithful_copy_passes() {
    for (name, run) in all::<Nothing>() {
        assert_eq!(run(), None, "{name}");
    }
}

#[test]
fn a_forgotten_delete_is_caught() {
    let what = ["the events of a transaction are", "do not give the state"];
    catches(&all::<ForgetsDeletes>(), &what);
}

#[test]
fn another_order_is_caught() {
    let what = [
        "the events of a transaction are",
        "the old row is not the one that was there",
        "of a key that is not there",
        "of a key that is there",
    ];
    catches(&all::<Reorders>(), &what);
}

#[test]
fn a_lost_old_row_is_caught() {
    let what = [
        "the engine has the old row",
        // A key that changed, or a move.
        "onto another row",
    ];
    catches(&all::<DropsOldRows>(), &what);
}

#[test]
fn a_wrong_old_row_is_caught() {
    let what = [
        "the old row is not the one that was there",
        "of a key that is not there",
    ];
    catches(&all::<MixesRows>(), &what);
}

#[test]
fn a_lost_cause_is_caught() {
    let all = all::<LosesCauses>();
    let with_causes = all
        .into_iter()
        .filter(|(name, _)| !["vector", "markdown"].contains(name));
    let with_causes: Vec<_> = with_causes.collect();
    catches(&with_causes, &["the events of a transaction are"]);
}

#[test]
fn a_leaked_abort_is_caught() {
    catches(&all::<LeaksAborts>(), &["events without a commit"]);
}

#[test]
fn values_in_debug_are_caught() {
    let all = all::<Prints>();
    let with_text = all
        .into_iter()
        .filter(|(name, _)| ["relational", "graph", "markdown"].contains(name));
    let with_text: Vec<_> = with_text.collect();
    catches(&with_text, &["stands in the Debug form"]);
}

type Numbers = BTreeMap<u8, Vec<u8>>;

/// One table of numbers. Acknowledges commits that are not durable, if it is lazy.
struct Small<const LAZY: bool> {
    log: KeyValueLog,
    family: Family,
    committed: Numbers,
    open: Option<(KindTransaction<KeyValue>, Numbers)>,
}

impl<const LAZY: bool> EngineUnderTest for Small<LAZY> {
    fn open(storage: Arc<dyn Storage>) -> Result<Self, LogError> {
        let log = KeyValueLog::open(LogConfig {
            segment_bytes: 64 << 10,
            background: false,
            visibility: Visibility::Written,
            storage,
            ..LogConfig::new(LOG_DIR)
        })?;
        let mut committed = BTreeMap::new();
        let mut tail = log.tail(StartAt::Earliest, clock())?;
        while let Some(batch) = tail.poll_batch(&BatchLimit::default())? {
            for event in batch.events() {
                let row = event.after.row().expect("this engine only inserts");
                match row.to_values().expect("a row").as_slice() {
                    [Value::Bytes(key), Value::Bytes(value), _] => {
                        committed.insert(key[0], value.clone())
                    }
                    _ => None,
                };
            }
        }
        Ok(Self {
            log,
            family: Family::new("small", "numbers"),
            committed,
            open: None,
        })
    }

    fn log(&self) -> &Log {
        &self.log
    }

    fn mutate(&mut self, slot: usize, dice: &mut Dice) -> Result<Vec<Announced>, LogError> {
        // One transaction at a time.
        if slot != 0 {
            return Ok(Vec::new());
        }
        let begin = || (self.log.begin(1), self.committed.clone());
        let (tx, state) = self.open.get_or_insert_with(begin);
        let (key, value) = (u8::try_from(dice.below(9)).expect("small"), dice.bytes());
        tx.put(&self.family, &[key], Old::Unknown, value.as_slice())?;
        state.insert(key, value);
        Ok(vec![(Op::Update, Cause::Client).into()])
    }

    fn commit(&mut self, slot: usize) -> Result<(), LogError> {
        if let Some((tx, state)) = self.open.take_if(|_| slot == 0) {
            if LAZY {
                tx.commit_unsynced()?;
            } else {
                tx.commit()?;
            }
            self.committed = state;
        }
        Ok(())
    }

    fn abort(&mut self, slot: usize) -> Result<(), LogError> {
        let open = self.open.take_if(|_| slot == 0);
        open.map_or(Ok(()), |(tx, _)| tx.abort())
    }

    fn committed(&self) -> State {
        let mut state = State::new();
        for (key, value) in &self.committed {
            state.insert(
                self.family.relation(),
                self.family.row(&[*key], value.as_slice()),
            );
        }
        state
    }
}

#[test]
fn a_commit_acknowledged_before_it_is_durable_is_caught() {
    assert_eq!(caught::<Small<false>>(8), None);
    assert_eq!(
        caught::<Small<true>>(0),
        None,
        "without a crash it shows nothing"
    );
    let what = caught::<Small<true>>(8).expect("caught");
    assert!(
        what.contains("acknowledged commits the recovered state is another one"),
        "{what}"
    );
}
