//! Real threads and tasks that die and cancel.

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex};
use std::thread;

use cdc_core::{Emitter, testing};

use crate::{end, queue};

/// Blocking and async consumers of one queue, some of which drop batches or themselves.
#[test]
fn every_event_is_acknowledged_once_by_consumers_that_fail() {
    const COMMITS: u64 = 400;
    let mut emitter = queue(64, 3);
    let handle = emitter.handle();
    let acked = Arc::new(Mutex::new(BTreeSet::new()));
    let threads: Vec<_> = (0..3)
        .map(|_| {
            let (handle, acked) = (handle.clone(), acked.clone());
            thread::spawn(move || {
                let mut consumer = handle.consumer();
                let mut round = 0u32;
                while let Some(batch) = consumer.recv_blocking() {
                    round += 1;
                    if round.is_multiple_of(7) {
                        drop(batch);
                    } else if round.is_multiple_of(11) {
                        consumer = handle.consumer();
                        drop(batch);
                    } else {
                        let mut acked = acked.lock().unwrap();
                        assert!(batch.events().iter().all(|e| acked.insert(e.position)));
                        batch.ack();
                    }
                }
            })
        })
        .collect();
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .build()
        .unwrap();
    runtime.block_on(async {
        let tasks: Vec<_> = (0..3)
            .map(|_| {
                let (consumer, acked) = (handle.consumer(), acked.clone());
                tokio::spawn(async move {
                    loop {
                        // Cancels a waiting receive again and again.
                        let batch = tokio::select! {
                            biased;
                            batch = consumer.recv() => batch,
                            () = tokio::task::yield_now() => continue,
                        };
                        let Some(batch) = batch else { break };
                        let mut acked = acked.lock().unwrap();
                        assert!(batch.events().iter().all(|e| acked.insert(e.position)));
                        batch.ack();
                    }
                })
            })
            .collect();
        for commit in 1..=COMMITS {
            emitter
                .emit(&testing::transaction(commit, 1, 10))
                .await
                .unwrap();
        }
        let mark = emitter.flush().await.unwrap().unwrap();
        assert_eq!(mark.through, end(COMMITS));
        drop(emitter);
        for task in tasks {
            task.await.unwrap();
        }
    });
    for thread in threads {
        thread.join().unwrap();
    }
    assert_eq!(acked.lock().unwrap().len() as u64, COMMITS * 10);
    let stats = handle.stats();
    assert_eq!(
        (stats.events, stats.bytes, stats.ready, stats.held),
        (0, 0, 0, 0)
    );
}
