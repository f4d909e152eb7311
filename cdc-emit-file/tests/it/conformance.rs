//! The emitter contract.

use cdc_core::Position;
use cdc_core::testing::conformance::{self, Subject};
use cdc_core::testing::sim_storage::SimStorage;
use cdc_emit_file::{FileConfig, FileEmitter, Fsync, OnRestart};

use crate::{config, positions, shared};

struct Directory {
    disk: SimStorage,
    config: FileConfig,
}

impl Subject for Directory {
    type Emitter = FileEmitter;

    async fn open(&mut self) -> FileEmitter {
        FileEmitter::new(self.config.clone()).unwrap()
    }

    async fn taken(&mut self) -> Vec<Position> {
        positions(&*shared(&self.disk))
    }
}

#[tokio::test]
async fn the_file_emitter_keeps_the_emitter_contract() {
    for fsync in [Fsync::Batch, Fsync::default(), Fsync::None] {
        for on_restart in [OnRestart::Truncate, OnRestart::Append] {
            for rotate_bytes in [1, 700, 1 << 20] {
                conformance::check(async || {
                    let disk = SimStorage::new();
                    let config = FileConfig {
                        fsync,
                        on_restart,
                        rotate_bytes,
                        ..config(&disk)
                    };
                    Directory { disk, config }
                })
                .await;
            }
        }
    }
}
