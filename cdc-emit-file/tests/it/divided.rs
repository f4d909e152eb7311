//! No transaction stands in two files, whatever comes between its halves.

use cdc_core::testing::sim_storage::SimStorage;
use cdc_core::{Emitter, EventBatch, testing};

use crate::{
    at, checkpoint, config, emit, flush, names, open, positions, shared, transaction, verified,
};

/// All that was written is in one file, which is closed.
fn is_in_one_file(disk: &SimStorage, events: usize) {
    let storage = shared(disk);
    assert_eq!(positions(&*storage).len(), events);
    let found = verified(&*storage);
    assert!(found.is_whole(), "{found:?}");
    assert_eq!(found.files, 1, "{:?}", names(&*storage));
    assert!(found.open.is_empty(), "{:?}", names(&*storage));
}

#[test]
fn a_letter_between_the_halves_of_a_transaction_does_not_divide_it() {
    for last in [false, true] {
        let disk = SimStorage::new();
        let mut config = config(&disk);
        config.rotate_bytes = 700;
        let mut emitter = open(config, None);
        let long = transaction(5, 9);
        emit(&mut emitter, &long.slice(0..4)).unwrap();
        let mut letter = transaction(1, 1).into_events();
        letter[0].last = last;
        let letter = EventBatch::new(testing::source(), letter, at(1, 0));
        emit(&mut emitter, &letter).unwrap();
        emitter.durable().unwrap();
        emit(&mut emitter, &long.slice(4..8)).unwrap();
        // One of the transaction itself.
        emit(&mut emitter, &long.slice(2..3)).unwrap();
        emit(&mut emitter, &long.slice(8..9)).unwrap();
        is_in_one_file(&disk, 11);
    }
}

#[test]
fn letters_behind_the_end_of_a_transaction_do_not_keep_its_file_open() {
    let disk = SimStorage::new();
    let mut config = config(&disk);
    config.rotate_bytes = 700;
    let mut emitter = open(config, None);
    emit(&mut emitter, &transaction(5, 2)).unwrap();
    for commit in 1..4 {
        let letter = transaction(commit, 2).slice(0..1);
        emit(&mut emitter, &letter).unwrap();
    }
    assert_eq!(verified(&*shared(&disk)).files, 1);
}

#[test]
fn a_transaction_whose_second_half_finds_no_room_at_first_is_not_divided() {
    // More than is written at once.
    let long = transaction(1, 20_000);
    let disk = SimStorage::new();
    let mut config = config(&disk);
    config.rotate_bytes = 1 << 20;
    emit(&mut open(config.clone(), None), &long).unwrap();
    let used = disk.used();
    let disk = SimStorage::new();
    config.storage = disk.shared();
    let mut emitter = open(config, None);
    disk.set_capacity(Some(used - 2000));
    emit(&mut emitter, &long).unwrap_err();
    assert!(disk.used() > 4 << 20);
    disk.set_capacity(None);
    emit(&mut emitter, &long).unwrap();
    is_in_one_file(&disk, 20_000);
}

#[test]
fn a_restart_inside_a_transaction_does_not_divide_it() {
    let disk = SimStorage::new();
    let mut config = config(&disk);
    config.rotate_bytes = 700;
    let mut emitter = open(config.clone(), None);
    let long = transaction(5, 8);
    emit(&mut emitter, &long.slice(0..4)).unwrap();
    let from = checkpoint(&flush(&mut emitter));
    drop(emitter);
    let mut emitter = open(config, Some(&from));
    emit(&mut emitter, &long.slice(4..8)).unwrap();
    is_in_one_file(&disk, 8);
}
