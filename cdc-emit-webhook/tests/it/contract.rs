//! The emitter contract, by the suite that every emitter runs.

use cdc_core::testing::conformance::{Subject, check};
use cdc_core::{Lsn, Position};
use cdc_emit_webhook::WebhookEmitter;

use crate::server::Server;

impl Subject for Server {
    type Emitter = WebhookEmitter;

    async fn open(&mut self) -> WebhookEmitter {
        self.emitter()
    }

    /// Positions out of the event ids of all bodies: source, commit and ordinal in hexadecimal.
    async fn taken(&mut self) -> Vec<Position> {
        let mut taken = Vec::new();
        for seen in self.seen() {
            let events: serde_json::Value = serde_json::from_slice(&seen.body).unwrap();
            for event in events.as_array().unwrap() {
                let mut parts = event["id"].as_str().unwrap().split('-').skip(1);
                let commit = u64::from_str_radix(parts.next().unwrap(), 16).unwrap();
                let ordinal = u32::from_str_radix(parts.next().unwrap(), 16).unwrap();
                taken.push(Position::new(Lsn(commit), ordinal));
            }
        }
        taken
    }
}

#[tokio::test]
async fn the_contract_holds() {
    check(async || Server::start([]).await).await;
}
