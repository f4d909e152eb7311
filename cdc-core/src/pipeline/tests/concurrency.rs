//! Lanes with several requests in flight, against a destination in virtual time.

mod dead_keys;

use std::collections::{BTreeMap, HashMap, HashSet};

use proptest::prelude::*;

use super::*;
use crate::row::Value;
use crate::{
    Delivery, EmitError, Emitter, Image, Op, Receipt, Rejection, RowImage, Transaction, ValueRef,
};

/// A destination that takes time, has moods, and remembers everything.
#[derive(Clone, Debug, Default)]
struct Server(Arc<Mutex<ServerState>>);

#[derive(Debug, Default)]
struct ServerState {
    /// Time of a request, and more for some rows.
    takes: Duration,
    slow: HashMap<i64, Duration>,
    /// Rows whose events are refused: with 400 for the whole batch.
    poison: HashSet<i64>,
    /// Everything fails with this until then.
    down: Option<(EmitErrorKind, Option<u16>, tokio::time::Instant)>,
    /// Random moods: a seed, and how many of 16 requests fail in some way.
    moods: Option<(u64, u64)>,
    /// What arrived: when, what, which row.
    arrived: Vec<(tokio::time::Instant, Position, i64, Op)>,
    requests: usize,
    now: usize,
    most: usize,
    single: bool,
    batch_size: usize,
}

fn id_of(event: &ChangeEvent) -> i64 {
    let row = event.identity_row().and_then(|row| row.get(0).unwrap());
    match row {
        Some(ValueRef::Int(id)) => id,
        _ => -1,
    }
}

/// Its row, and the one it was before.
fn ids_of(event: &ChangeEvent) -> Vec<i64> {
    let mut ids = vec![id_of(event)];
    if let Some(row) = event.before.row()
        && let Some(ValueRef::Int(old)) = row.get(0).unwrap()
        && old != ids[0]
    {
        ids.push(old);
    }
    ids
}

impl Server {
    fn with(change: impl FnOnce(&mut ServerState)) -> Self {
        let server = Self::default();
        {
            let mut state = server.state();
            state.batch_size = 100;
            state.takes = Duration::from_millis(10);
            change(&mut state);
        }
        server
    }

    fn state(&self) -> std::sync::MutexGuard<'_, ServerState> {
        self.0.lock().unwrap()
    }

    fn positions(&self) -> Vec<Position> {
        self.state().arrived.iter().map(|a| a.1).collect()
    }

    /// What arrived of each row, in order.
    fn by_row(&self) -> BTreeMap<i64, Vec<Position>> {
        let mut rows: BTreeMap<i64, Vec<Position>> = BTreeMap::new();
        for (_, position, id, _) in &self.state().arrived {
            rows.entry(*id).or_default().push(*position);
        }
        rows
    }
}

/// Counts requests in flight down, also when the request is dropped.
struct InFlight(Server);

impl Drop for InFlight {
    fn drop(&mut self) {
        self.0.state().now -= 1;
    }
}

impl Emitter for Server {
    async fn emit(&mut self, batch: &EventBatch) -> Result<Receipt, EmitError> {
        let (takes, mood) = {
            let mut state = self.state();
            state.requests += 1;
            state.now += 1;
            state.most = state.most.max(state.now);
            assert!(batch.len() <= state.batch_size);
            let slow = batch
                .events()
                .iter()
                .filter_map(|e| state.slow.get(&id_of(e)));
            let takes = state.takes + slow.max().copied().unwrap_or_default();
            let mood = state.moods.as_mut().map(|(seed, of16)| {
                *seed ^= *seed << 13;
                *seed ^= *seed >> 7;
                *seed ^= *seed << 17;
                (*seed, *of16)
            });
            (takes, mood)
        };
        let _in_flight = InFlight(self.clone());
        let failure = |kind, status| {
            let mut error = EmitError::new(kind, "post a batch to the server: refused");
            error.status = status;
            error
        };
        let retry = EmitErrorKind::EndpointRetry { retry_after: None };
        let jitter = mood.map_or(0, |(random, _)| random >> 40 & 31);
        tokio::time::sleep(takes + Duration::from_millis(jitter)).await;
        let now = tokio::time::Instant::now();
        let mut state = self.state();
        if let Some((kind, status, until)) = state.down
            && now < until
        {
            return Err(failure(kind, status));
        }
        let (mut rejected, mut worthless) = (Vec::new(), Vec::new());
        let mut lost = false;
        if let Some((random, of16)) = mood
            && random & 15 < of16
        {
            match random >> 8 & 3 {
                0 => return Err(failure(retry, Some(503))),
                1 => lost = true,
                2 => {
                    // It takes what comes behind a refused event of the same row, which is worth
                    // nothing: that has to come again, in order.
                    let first = usize::try_from(random >> 16 & 0xff).unwrap() % batch.len();
                    let mut rows = HashSet::new();
                    for (index, event) in batch.events().iter().enumerate().skip(first) {
                        let ids = ids_of(event);
                        if index == first || random >> 24 & index as u64 & 7 == 7 {
                            rejected.push(Rejection {
                                index,
                                message: "not this one".into(),
                                status: Some(422),
                            });
                        } else if !ids.iter().any(|id| rows.contains(id)) {
                            continue;
                        }
                        rows.extend(ids);
                        worthless.push(index);
                    }
                }
                _ => return Err(failure(EmitErrorKind::Event, Some(400))),
            }
        }
        if batch
            .events()
            .iter()
            .any(|e| state.poison.contains(&id_of(e)))
        {
            return Err(failure(EmitErrorKind::Event, Some(400)));
        }
        for (index, event) in batch.events().iter().enumerate() {
            if !worthless.contains(&index) {
                let arrival = (now, event.position, id_of(event), event.op);
                state.arrived.push(arrival);
            }
        }
        if lost {
            return Err(failure(retry, None));
        }
        Ok(Receipt {
            delivery: Delivery::Durable,
            rejected,
        })
    }

    fn batch_size(&self) -> usize {
        self.state().batch_size
    }

    fn worker(&self) -> Option<Self> {
        (!self.state().single).then(|| self.clone())
    }
}

/// A lane over a [`Server`], and what outlives it.
struct Bench {
    rig: Rig,
    server: Server,
    concurrency: usize,
    order: OrderScope,
    window_max: u64,
}

impl Bench {
    fn new(server: Server, concurrency: usize) -> Self {
        Self {
            rig: Rig::new(),
            server,
            concurrency,
            order: OrderScope::Key,
            window_max: 65_536,
        }
    }

    fn lane(
        &self,
        shutdown: &Shutdown,
    ) -> (
        impl Future<Output = Result<LaneEnd, LaneError>> + use<>,
        LaneControl,
    ) {
        let mut config = LaneConfig::new("hook", source().lineage, Position::ZERO);
        config.on_dead_key = self.rig.on_dead_key;
        config.parked_keys_max = self.rig.parked_keys_max;
        config.concurrency = self.concurrency;
        config.order = self.order;
        config.window_max = self.window_max;
        let (control, commands) = LaneControl::new();
        let log = self.rig.log.clone();
        let lane = Lane {
            open: move |after| Ok(log.tail(after)),
            filter: Box::new(self.rig.filter),
            transforms: Vec::new(),
            emitter: BoxEmitter::new(self.server.clone()),
            dlq: self.rig.dlq.clone(),
            checkpoints: self.rig.checkpoints.clone(),
            watermark: self.rig.watermark.register("hook", None),
            clock: Arc::new(SystemClock::new()),
            metrics: self.rig.metrics.clone(),
            control: commands,
            shutdown: shutdown.clone(),
            config,
        };
        (lane.run(), control)
    }

    fn open_letters(&self) -> usize {
        let dlq = self.rig.dlq.lock().unwrap();
        dlq.letters.iter().filter(|l| l.state.is_open()).count()
    }

    /// Runs until the log is finished, looking at the counters all the while.
    async fn finish(&self) -> Result<LaneEnd, LaneError> {
        self.rig.log.close();
        let (_trigger, shutdown) = Shutdown::new();
        let (lane, _control) = self.lane(&shutdown);
        self.watched(lane).await
    }

    /// Runs a lane and asserts invariant 3 all the while: every 3 ms, and less often later on.
    async fn watched(
        &self,
        lane: impl Future<Output = Result<LaneEnd, LaneError>>,
    ) -> Result<LaneEnd, LaneError> {
        let metrics = self.rig.metrics.clone();
        let window_max = self.window_max;
        let check = move || {
            let counts = metrics.counts();
            assert!(counts.adds_up(), "{counts:?}");
            assert!(counts.in_flight <= window_max + 8192, "{counts:?}");
        };
        tokio::pin!(lane);
        let mut pause = Duration::from_millis(3);
        loop {
            tokio::select! {
                biased;
                end = &mut lane => {
                    check();
                    return end;
                }
                () = tokio::time::sleep(pause) => {
                    check();
                    pause = (pause + pause / 1000).min(Duration::from_secs(5));
                }
            }
        }
    }
}

/// `count` transactions of `each` updates over `rows` rows, in turn.
fn spread(count: u64, each: u32, rows: i64) -> Vec<EventBatch> {
    let mut id = 0;
    (1..=count)
        .map(|commit| {
            let events = (0..each)
                .map(|ordinal| {
                    id = (id + 1) % rows;
                    insert(commit, ordinal, id)
                })
                .collect();
            EventBatch::new(source(), events, Position::end_of(Lsn(commit)))
        })
        .collect()
}

fn push(bench: &Bench, batches: Vec<EventBatch>) -> Vec<(i64, Position)> {
    let mut all = Vec::new();
    for batch in batches {
        all.extend(batch.events().iter().map(|e| (id_of(e), e.position)));
        bench.rig.log.push(batch);
    }
    all
}

fn sorted(mut positions: Vec<Position>) -> Vec<Position> {
    positions.sort_unstable();
    positions
}

fn is_ascending(positions: &[Position]) -> bool {
    positions.windows(2).all(|pair| pair[0] < pair[1])
}

#[tokio::test(start_paused = true)]
async fn workers_share_the_work_and_each_row_stays_in_order() {
    let bench = Bench::new(Server::with(|_| {}), 8);
    let all = push(&bench, spread(50, 200, 1000));
    let begun = tokio::time::Instant::now();
    assert_eq!(bench.finish().await.unwrap(), LaneEnd::Finished);
    let took = begun.elapsed();
    assert_eq!(
        sorted(bench.server.positions()),
        all.iter().map(|e| e.1).collect::<Vec<_>>(),
        "each once"
    );
    assert!(bench.server.by_row().values().all(|row| is_ascending(row)));
    assert_eq!(bench.server.state().most, 8);
    assert_eq!(bench.rig.stored(), Position::end_of(Lsn(50)));
    // 100 requests of 10 ms, 8 at once, and some smaller ones.
    assert!(took < Duration::from_millis(300), "{took:?}");
}

#[tokio::test(start_paused = true)]
async fn a_slow_row_holds_up_its_own_worker_alone() {
    let hour = Duration::from_secs(3600);
    let server = Server::with(|s| {
        s.slow.insert(7, hour);
    });
    let bench = Bench::new(server, 4);
    push(&bench, spread(50, 100, 500));
    let (trigger, shutdown) = Shutdown::new();
    let (lane, _control) = bench.lane(&shutdown);
    let server = bench.server.clone();
    let look = async {
        tokio::time::sleep(Duration::from_secs(60)).await;
        let arrived = server.positions().len();
        // Everything but what shares the worker of row 7.
        assert!(arrived > 5000 / 4 * 3 - 400, "{arrived}");
        trigger.trigger();
    };
    let ((), end) = tokio::join!(look, bench.watched(lane));
    assert_eq!(end.unwrap(), LaneEnd::Drained);
    let first_of_7 = Position::new(Lsn(1), 6);
    assert!(bench.rig.stored() < first_of_7, "the position waits for it");
    let counts = bench.rig.metrics.counts();
    assert!(counts.rewound > 0, "{counts:?}");
}

#[tokio::test(start_paused = true)]
async fn a_full_window_is_backpressure() {
    let server = Server::with(|s| {
        s.slow.insert(1, Duration::from_secs(3600));
    });
    let mut bench = Bench::new(server, 2);
    bench.window_max = 1000;
    push(&bench, spread(500, 100, 500));
    let (trigger, shutdown) = Shutdown::new();
    let (lane, _control) = bench.lane(&shutdown);
    let metrics = bench.rig.metrics.clone();
    let look = async {
        tokio::time::sleep(Duration::from_secs(600)).await;
        let read = metrics.counts().read;
        assert!((1000..=1100).contains(&read), "{read}");
        trigger.trigger();
    };
    let ((), end) = tokio::join!(look, bench.watched(lane));
    end.unwrap();
}

/// An update that moves a row from one key to another.
fn moved(commit: u64, ordinal: u32, from: i64, to: i64) -> ChangeEvent {
    let mut event = insert(commit, ordinal, to);
    event.op = Op::Update;
    event.before = Image::Full(crate::testing::row(from, "name", "1.50"));
    event
}

#[tokio::test(start_paused = true)]
async fn a_change_of_key_keeps_the_order_of_both_keys() {
    let mut pairs = 0;
    for to in 2..20 {
        // Row 1 is slow: what comes behind it on other workers would overtake.
        let server = Server::with(|s| {
            s.slow.insert(1, Duration::from_secs(5));
            s.batch_size = 1;
        });
        let bench = Bench::new(server, 4);
        let events = vec![
            insert(1, 0, 1),
            insert(1, 1, 30),
            moved(1, 2, 1, to),
            insert(1, 3, to),
            insert(1, 4, 1),
            insert(1, 5, 31),
        ];
        bench
            .rig
            .log
            .push(EventBatch::new(source(), events, Position::end_of(Lsn(1))));
        bench.finish().await.unwrap();
        let order: Vec<_> = bench.server.positions();
        let place = |ordinal| order.iter().position(|p| *p == at(1, ordinal)).unwrap();
        assert!(place(0) < place(2), "the old key's past first, to {to}");
        assert!(place(2) < place(3) && place(2) < place(4), "to {to}");
        pairs += usize::from(place(1) < place(0));
    }
    assert!(pairs > 0, "other rows were not held up");
}

#[tokio::test(start_paused = true)]
async fn truncate_and_schema_are_barriers_and_messages_stay_in_order() {
    for op in [Op::Truncate, Op::Schema] {
        let server = Server::with(|s| {
            s.slow.insert(3, Duration::from_secs(5));
            s.batch_size = 2;
        });
        let bench = Bench::new(server, 4);
        let mut events: Vec<_> = (0..20).map(|n| insert(1, n, i64::from(n))).collect();
        let barrier = Transaction::default();
        events.push(ChangeEvent::new(
            at(1, 20),
            crate::testing::relation(),
            barrier,
            op,
        ));
        events.extend((21..40).map(|n| insert(1, n, i64::from(n % 20))));
        bench
            .rig
            .log
            .push(EventBatch::new(source(), events, Position::end_of(Lsn(1))));
        bench.finish().await.unwrap();
        let order = bench.server.positions();
        let barrier = order.iter().position(|p| *p == at(1, 20)).unwrap();
        assert_eq!(barrier, 20);
        assert!(order[..20].iter().all(|p| p.ordinal < 20));
        assert!(bench.server.by_row().values().all(|row| is_ascending(row)));
    }
    let bench = Bench::new(Server::with(|s| s.batch_size = 3), 4);
    let mut events: Vec<_> = (0..40).map(|n| insert(1, n, i64::from(n))).collect();
    for event in events.iter_mut().step_by(2) {
        event.op = Op::Message;
        event.after = Image::Full(RowImage::from_values(&[Value::Int(-7)]));
    }
    bench
        .rig
        .log
        .push(EventBatch::new(source(), events, Position::end_of(Lsn(1))));
    bench.finish().await.unwrap();
    assert!(is_ascending(&bench.server.by_row()[&-7]));
}

#[tokio::test(start_paused = true)]
async fn scopes_keep_what_they_say() {
    for (order, workers) in [
        (OrderScope::Table, 1),
        (OrderScope::None, 4),
        (OrderScope::Key, 4),
    ] {
        let bench = Bench {
            order,
            ..Bench::new(Server::with(|_| {}), 4)
        };
        let all = push(&bench, spread(20, 500, 900));
        bench.finish().await.unwrap();
        assert_eq!(bench.server.positions().len(), all.len());
        // One table: one worker.
        assert_eq!(bench.server.state().most, workers, "{order:?}");
        if order == OrderScope::Table {
            assert!(is_ascending(&bench.server.positions()));
        }
    }
}

#[tokio::test(start_paused = true)]
async fn more_than_one_at_a_time_is_refused_where_there_is_only_one() {
    let bench = Bench::new(Server::with(|s| s.single = true), 2);
    let error = bench.finish().await.unwrap_err();
    assert_eq!(
        error.to_string(),
        "start emitter hook with concurrency 2: this emitter takes one batch at a time; set concurrency = 1"
    );
    let bench = Bench {
        order: OrderScope::Global,
        ..Bench::new(Server::with(|_| {}), 2)
    };
    assert!(matches!(
        bench.finish().await,
        Err(LaneError::Concurrency { asked: 2, .. })
    ));
}

#[tokio::test(start_paused = true)]
async fn a_drain_fills_the_gaps_so_that_a_clean_restart_repeats_nothing() {
    let server = Server::with(|s| {
        s.slow.insert(7, Duration::from_secs(2));
        s.batch_size = 5;
    });
    let bench = Bench::new(server, 4);
    let all = push(&bench, spread(20, 100, 500));
    let (trigger, shutdown) = Shutdown::new();
    let (lane, _control) = bench.lane(&shutdown);
    let stop = async {
        tokio::time::sleep(Duration::from_millis(700)).await;
        trigger.trigger();
    };
    let ((), end) = tokio::join!(stop, bench.watched(lane));
    assert_eq!(end.unwrap(), LaneEnd::Drained);
    let before = bench.server.positions().len();
    assert!(before < all.len(), "it was cut short: {before}");
    bench.finish().await.unwrap();
    assert_eq!(
        sorted(bench.server.positions()),
        all.iter().map(|e| e.1).collect::<Vec<_>>()
    );
}

/// An hour of 503, then it is well.
#[tokio::test(start_paused = true)]
async fn an_outage_of_an_hour_fills_nothing_and_is_caught_up() {
    let hour = Duration::from_secs(3600);
    let retry = EmitErrorKind::EndpointRetry { retry_after: None };
    let until = tokio::time::Instant::now() + hour;
    let server = Server::with(|s| s.down = Some((retry, Some(503), until)));
    let bench = Bench {
        window_max: 2000,
        ..Bench::new(server, 8)
    };
    let all = push(&bench, spread(200, 100, 1000));
    let metrics = bench.rig.metrics.clone();
    let server = bench.server.clone();
    let dlq = bench.rig.dlq.clone();
    let look = async {
        tokio::time::sleep(hour - Duration::from_secs(1)).await;
        let counts = metrics.counts();
        assert!(
            matches!(counts.health, LaneHealth::Retrying { .. }),
            "{counts:?}"
        );
        assert_ne!(counts.breaker, BreakerState::Closed);
        assert!(counts.read <= 2100, "what is held is bounded: {counts:?}");
        // 8 workers until the breaker opens, then one probe a minute or more often (jitter).
        let requests = server.state().requests;
        assert!(requests < 300, "{requests} requests in an hour");
        assert!(dlq.lock().unwrap().letters.is_empty());
    };
    let ((), end) = tokio::join!(look, bench.finish());
    assert_eq!(end.unwrap(), LaneEnd::Finished);
    assert!(bench.rig.dlq.lock().unwrap().letters.is_empty());
    assert_eq!(
        sorted(bench.server.positions()),
        all.iter().map(|e| e.1).collect::<Vec<_>>()
    );
    assert_eq!(bench.rig.metrics.counts().breaker, BreakerState::Closed);
    assert!(bench.server.by_row().values().all(|row| is_ascending(row)));
}

#[tokio::test(start_paused = true)]
async fn an_endpoint_that_refuses_everything_stops_all_workers_with_few_letters() {
    let server = Server::with(|s| s.poison = (0..1000).collect());
    let bench = Bench::new(server, 8);
    push(&bench, spread(100, 100, 1000));
    let (trigger, shutdown) = Shutdown::new();
    let (lane, _control) = bench.lane(&shutdown);
    let metrics = bench.rig.metrics.clone();
    let look = async {
        tokio::time::sleep(Duration::from_secs(3600)).await;
        let counts = metrics.counts();
        trigger.trigger();
        counts
    };
    let (counts, end) = tokio::join!(look, bench.watched(lane));
    end.unwrap();
    let LaneHealth::Refused { reason } = &counts.health else {
        panic!("{counts:?}");
    };
    assert_eq!(reason, "post a batch to the server: refused");
    assert_eq!(bench.rig.letters(LetterState::Pending).len(), 9);
    assert!(bench.server.positions().is_empty());
}

#[tokio::test(start_paused = true)]
async fn retry_after_holds_all_workers() {
    let wish = Duration::from_secs(100);
    let retry = EmitErrorKind::EndpointRetry {
        retry_after: Some(wish),
    };
    let until = tokio::time::Instant::now() + Duration::from_secs(1);
    let server = Server::with(|s| s.down = Some((retry, Some(429), until)));
    let bench = Bench::new(server, 4);
    push(&bench, spread(20, 100, 1000));
    bench.finish().await.unwrap();
    let state = bench.server.state();
    let first = state.arrived.first().unwrap().0;
    assert!(first >= until - Duration::from_secs(1) + wish);
    assert_eq!(
        state.requests - 4,
        state.arrived.len().div_ceil(100).max(state.requests - 4)
    );
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]

    /// Whatever the destination answers, and wherever it is cut: nothing is missing, each row's
    /// events arrive in order but for repeats of what was sent before, and the counters add up.
    #[test]
    fn any_answers_keep_the_order_of_every_row_and_lose_nothing(
        seed in 1u64..,
        of16 in 0u64..8,
        concurrency in 1usize..9,
        batch_size in 1usize..40,
        rows in 1i64..60,
        stops in proptest::collection::vec(1u64..4000, 0..3),
        keys in proptest::collection::vec((0i64..60, 0i64..60), 0..12),
        truncate in proptest::option::of(0u32..300),
    ) {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all().start_paused(true).build().unwrap();
        runtime.block_on(async move {
            let server = Server::with(|s| {
                s.batch_size = batch_size;
                s.moods = Some((seed, of16));
            });
            let bench = Bench { window_max: 300, ..Bench::new(server, concurrency) };
            let mut events: Vec<_> = (0..400u32).map(|n| insert(1, n, i64::from(n) * 7 % rows)).collect();
            for (n, (from, to)) in keys.iter().enumerate() {
                let ordinal = u32::try_from(n * 30 + 10).unwrap();
                events[ordinal as usize] = moved(1, ordinal, *from % rows, *to % rows);
            }
            if let Some(n) = truncate {
                let relation = crate::testing::relation();
                events[n as usize] = ChangeEvent::new(at(1, n), relation, Transaction::default(), Op::Truncate);
            }
            // Both keys of a change are its rows.
            let mut expected: BTreeMap<i64, Vec<Position>> = BTreeMap::new();
            for event in &events {
                for id in ids_of(event) { expected.entry(id).or_default().push(event.position); }
            }
            for part in events.chunks(37) {
                let end = part.last().unwrap().position;
                bench.rig.log.push(EventBatch::new(source(), part.to_vec(), end));
            }
            for millis in stops {
                let (trigger, shutdown) = Shutdown::new();
                let (lane, _control) = bench.lane(&shutdown);
                let stop = async {
                    tokio::time::sleep(Duration::from_millis(millis)).await;
                    if millis % 2 == 0 {
                        trigger.trigger();
                        std::future::pending::<()>().await;
                    }
                };
                tokio::select! {
                    () = stop => {} // dropped: a crash
                    end = bench.watched(lane) => drop(end.unwrap()),
                }
                // A new process counts anew.
                if !bench.rig.metrics.counts().adds_up() { panic!() }
            }
            let patience = Duration::from_secs(7 * 86_400);
            tokio::time::timeout(patience, bench.finish()).await.expect("the lane is stuck").unwrap();
            // Redrive until every letter is through.
            for round in 0.. {
                if bench.open_letters() == 0 { break; }
                assert!(round < 5, "letters that a destination that is well does not take");
                // In a bad mood twice, then mended.
                if round == 2 { bench.server.state().moods = None; }
                let (trigger, shutdown) = Shutdown::new();
                let (lane, control) = bench.lane(&shutdown);
                let orders = async {
                    control.redrive(RedriveRequest::default()).await;
                    trigger.trigger();
                };
                let ((), end) = tokio::join!(orders, bench.watched(lane));
                end.unwrap();
            }
            let order = bench.server.positions();
            for (id, positions) in expected {
                let mine: HashSet<Position> = positions.iter().copied().collect();
                let mut seen: Vec<Position> = Vec::new();
                for position in order.iter().filter(|p| mine.contains(p)) {
                    match seen.last() {
                        Some(last) if position <= last => {} // a repeat
                        _ => seen.push(*position),
                    }
                }
                // First arrivals in order, none missing: every new one is the next.
                let late = positions.iter().find(|p| !seen.contains(p));
                assert_eq!(late, None, "row {id}: missing or behind a later one");
            }
        });
    }
}
