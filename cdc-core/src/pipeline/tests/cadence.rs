//! Checkpoints follow what is durable while requests never pause.

use bytes::Bytes;

use super::*;
use crate::{DurableMark, EmitError, Emitter, EventBatch, Receipt, Rejection};

/// Waits for room before it takes each event, and is durable up to the one before, as a full queue
/// with a slow consumer.
#[derive(Default)]
struct Full {
    taken: Vec<Position>,
    /// What it refuses.
    poison: Option<Position>,
    /// Whether it has a state that belongs to what is durable, as files have.
    stateful: bool,
}

/// Takes all but what it refuses.
fn all_but(poison: Option<Position>, batch: &EventBatch) -> (Receipt, Vec<Position>) {
    let mut receipt = Receipt::ACCEPTED;
    let mut taken = Vec::new();
    for (index, event) in batch.events().iter().enumerate() {
        if Some(event.position) == poison {
            receipt.rejected.push(Rejection {
                index,
                message: "refused".into(),
                status: None,
            });
        } else {
            taken.push(event.position);
        }
    }
    (receipt, taken)
}

impl Emitter for Full {
    async fn emit(&mut self, batch: &EventBatch) -> Result<Receipt, EmitError> {
        tokio::time::sleep(Duration::from_millis(300)).await;
        let (receipt, taken) = all_but(self.poison, batch);
        self.taken.extend(taken);
        Ok(receipt)
    }

    fn durable(&mut self) -> Result<Option<DurableMark>, EmitError> {
        let before = self.taken.len().checked_sub(2).map(|at| self.taken[at]);
        Ok(before.map(|through| DurableMark {
            through,
            state: match self.stateful {
                true => Bytes::from(through.to_string()),
                false => Bytes::new(),
            },
        }))
    }

    fn batch_size(&self) -> usize {
        1
    }
}

/// What is stored after 30 s of an emitter that takes about three events a second.
async fn stored_under_load(rig: &Rig, emitter: Full) -> Position {
    let (trigger, shutdown) = Shutdown::new();
    let config = LaneConfig::new("hook", source().lineage, Position::ZERO);
    let (lane, _control) = rig.lane_to(BoxEmitter::new(emitter), config, &shutdown);
    let (stored, end) = tokio::join!(
        async {
            tokio::time::sleep(Duration::from_secs(30)).await;
            let stored = rig.stored();
            trigger.trigger();
            stored
        },
        lane
    );
    end.unwrap();
    stored
}

#[tokio::test(start_paused = true)]
async fn checkpoints_follow_an_emitter_that_always_waits_for_room() {
    let rig = Rig::new();
    for commit in 1..200 {
        rig.log.push(transaction(commit, 1, 1));
    }
    let stored = stored_under_load(&rig, Full::default()).await;
    assert!(
        stored > Position::end_of(Lsn(90)),
        "{stored} after 100 events"
    );
}

#[tokio::test(start_paused = true)]
async fn checkpoints_with_a_state_follow_while_events_are_parked_all_the_time() {
    let rig = Rig::new();
    // Every second event is of the key that is dead from the first on.
    for commit in 1..300 {
        let key = if commit % 2 == 1 { 1 } else { 1000 };
        rig.log.push(transaction(commit, key, 1));
    }
    let emitter = Full {
        poison: Some(at(1, 0)),
        stateful: true,
        ..Full::default()
    };
    let stored = stored_under_load(&rig, emitter).await;
    assert!(
        stored > Position::end_of(Lsn(180)),
        "{stored} after 100 events and as many parked"
    );
    let parked = rig.letters(LetterState::Parked).len();
    assert!(parked > 90, "{parked} parked");
}

/// A consumer that fetches: what it was given is durable when it says so. Notes what is stored each time
/// it is given something.
struct Fetched {
    checkpoints: Arc<MemoryCheckpoints>,
    given: Arc<Mutex<Vec<(Position, Position)>>>,
    acknowledged: Arc<Mutex<Option<Position>>>,
    poison: Arc<Mutex<Option<Position>>>,
}

impl Emitter for Fetched {
    async fn emit(&mut self, batch: &EventBatch) -> Result<Receipt, EmitError> {
        let stored = self.checkpoints.load("hook").unwrap();
        let stored = stored.map_or(Position::ZERO, |checkpoint| checkpoint.position);
        let poison = *self.poison.lock().unwrap();
        let (receipt, taken) = all_but(poison, batch);
        let taken = taken.into_iter().map(|position| (position, stored));
        self.given.lock().unwrap().extend(taken);
        Ok(receipt)
    }

    fn durable(&mut self) -> Result<Option<DurableMark>, EmitError> {
        let through = *self.acknowledged.lock().unwrap();
        Ok(through.map(|through| DurableMark {
            through,
            state: Bytes::new(),
        }))
    }

    async fn flush(&mut self) -> Result<Option<DurableMark>, EmitError> {
        self.durable()
    }

    fn drains(&self) -> bool {
        false
    }
}

#[tokio::test(start_paused = true)]
async fn what_is_acknowledged_before_a_redrive_is_stored_before_it_gives_anything() {
    let rig = Rig::new();
    for commit in 1..4 {
        rig.log.push(transaction(commit, 10 * commit as i64, 1));
    }
    let given = Arc::default();
    let acknowledged = Arc::new(Mutex::new(None));
    let poison = Arc::new(Mutex::new(Some(at(2, 0))));
    let emitter = Fetched {
        checkpoints: rig.checkpoints.clone(),
        given: Arc::clone(&given),
        acknowledged: Arc::clone(&acknowledged),
        poison: Arc::clone(&poison),
    };
    let (trigger, shutdown) = Shutdown::new();
    let mut config = LaneConfig::new("hook", source().lineage, Position::ZERO);
    // Nothing but the redrive stores anything meanwhile.
    config.checkpoint_interval = Duration::from_secs(3600);
    let (lane, control) = rig.lane_to(BoxEmitter::new(emitter), config, &shutdown);
    let orders = async {
        tokio::time::sleep(Duration::from_secs(1)).await;
        assert_eq!(rig.stored(), Position::ZERO);
        *poison.lock().unwrap() = None;
        *acknowledged.lock().unwrap() = Some(at(3, 0));
        let report = control.redrive(RedriveRequest::default());
        let wait = tokio::time::sleep(Duration::from_secs(10));
        tokio::select! {
            report = report => drop(report),
            () = wait => {}
        }
        trigger.trigger();
    };
    let ((), end) = tokio::join!(orders, lane);
    end.unwrap();
    let given: &Mutex<Vec<(Position, Position)>> = &given;
    let given = given.lock().unwrap();
    let again: Vec<_> = given.iter().filter(|(p, _)| *p == at(2, 0)).collect();
    assert_eq!(again.len(), 1, "{given:?}");
    assert!(again[0].1 >= at(3, 0), "{given:?}");
}

/// Takes what it is given and cannot keep it, as a file on a full disk whose writes are behind.
#[derive(Clone, Default)]
struct FullDisk(Arc<Mutex<Disk>>);

#[derive(Default)]
struct Disk {
    has_room: bool,
    resumes: u32,
    taken: Vec<Position>,
    poison: Option<Position>,
}

impl Emitter for FullDisk {
    async fn resume(&mut self, _from: Option<&crate::Checkpoint>) -> Result<(), EmitError> {
        let mut disk = self.0.lock().unwrap();
        disk.resumes += 1;
        disk.taken.clear();
        Ok(())
    }

    async fn emit(&mut self, batch: &EventBatch) -> Result<Receipt, EmitError> {
        let mut disk = self.0.lock().unwrap();
        let (receipt, taken) = all_but(disk.poison, batch);
        disk.taken.extend(taken);
        Ok(receipt)
    }

    fn durable(&mut self) -> Result<Option<DurableMark>, EmitError> {
        let disk = self.0.lock().unwrap();
        let Some(&through) = disk.taken.last() else {
            return Ok(None);
        };
        if !disk.has_room {
            let kind = EmitErrorKind::EndpointRetry { retry_after: None };
            return Err(EmitError::new(kind, "write: the disk is full"));
        }
        Ok(Some(DurableMark {
            through,
            state: Bytes::from_static(b"state"),
        }))
    }

    async fn flush(&mut self) -> Result<Option<DurableMark>, EmitError> {
        self.durable()
    }
}

#[tokio::test(start_paused = true)]
async fn an_emitter_that_keeps_losing_what_it_takes_is_asked_less_and_less_often() {
    let rig = Rig::new();
    for commit in 1..50 {
        rig.log.push(transaction(commit, 10 * commit as i64, 3));
    }
    let disk = FullDisk::default();
    let (trigger, shutdown) = Shutdown::new();
    let config = LaneConfig::new("hook", source().lineage, Position::ZERO);
    let (lane, _control) = rig.lane_to(BoxEmitter::new(disk.clone()), config, &shutdown);
    let orders = async {
        tokio::time::sleep(Duration::from_secs(120)).await;
        let resumes = disk.0.lock().unwrap().resumes;
        assert!((3..30).contains(&resumes), "{resumes} times in two minutes");
        assert_eq!(rig.stored(), Position::ZERO);
        disk.0.lock().unwrap().has_room = true;
        tokio::time::sleep(Duration::from_secs(120)).await;
        assert_eq!(rig.stored(), Position::end_of(Lsn(49)));
        trigger.trigger();
    };
    let ((), end) = tokio::join!(orders, lane);
    end.unwrap();
}

#[tokio::test(start_paused = true)]
async fn an_emitter_that_lost_letters_is_well_once_they_are_safe() {
    let rig = Rig::new();
    rig.log.push(transaction(1, 1, 1));
    let disk = FullDisk::default();
    let set = |has_room, poison| {
        let mut disk = disk.0.lock().unwrap();
        (disk.has_room, disk.poison) = (has_room, poison);
    };
    set(true, Some(at(1, 0)));
    let (trigger, shutdown) = Shutdown::new();
    let config = LaneConfig::new("hook", source().lineage, Position::ZERO);
    let (lane, control) = rig.lane_to(BoxEmitter::new(disk.clone()), config, &shutdown);
    let pause = || tokio::time::sleep(Duration::from_secs(5));
    let orders = async {
        pause().await;
        assert_eq!(rig.letters(LetterState::Pending), [at(1, 0)]);
        set(false, None);
        let report = control.redrive(RedriveRequest::default()).await.unwrap();
        assert_eq!(report.delivered, 0);
        pause().await;
        let health = rig.metrics.counts().health;
        assert_ne!(health, LaneHealth::Running, "it lost the letter");
        // Nothing comes but the letter.
        set(true, None);
        let report = control.redrive(RedriveRequest::default()).await.unwrap();
        assert_eq!(report.delivered, 1, "{report:?}");
        pause().await;
        assert_eq!(rig.metrics.counts().health, LaneHealth::Running);
        trigger.trigger();
    };
    let ((), end) = tokio::join!(orders, lane);
    end.unwrap();
}
