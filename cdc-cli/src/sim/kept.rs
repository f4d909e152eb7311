//! What of the events an emitter gets: the real filter, and a transform that drops some, fails at some,
//! and spoils the rows of some.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use bytes::Bytes;
use cdc_core::testing::sim::{Oracle, SimRandom};
use cdc_core::{ChangeEvent, Filter, Image, Op, Position, RowImage, Transform, TransformError};
use cdc_filter::{EventFilter, FilterConfig};

use super::plan::EmitterPlan;
use super::process::Outside;

/// The transforms of an emitter.
pub(crate) fn transforms(outside: &Outside, plan: &EmitterPlan) -> Vec<Box<dyn Transform>> {
    if plan.drops == 0 && plan.fails == 0 && plan.extras.garbles == 0 {
        return Vec::new();
    }
    vec![Box::new(SimTransform {
        plan: plan.clone(),
        oracle: outside.oracle.clone(),
        healed: outside.healed.clone(),
        failures: Mutex::default(),
    })]
}

/// The real filter.
pub(crate) fn filter(plan: &EmitterPlan) -> Box<dyn Filter> {
    let mut config = FilterConfig::default();
    if plan.only_public {
        config.schemas = vec!["public".into()];
    }
    if plan.only_upserts {
        config.operations = vec![Op::Insert, Op::Update];
    }
    match EventFilter::new(&config) {
        Ok(filter) => Box::new(filter),
        Err(error) => {
            // The settings above are valid; a filter that keeps nothing would show at once.
            tracing::error!(%error, "simulated filter");
            Box::new(|_: &ChangeEvent| false)
        }
    }
}

/// What the filter should keep, said in another way.
pub(crate) fn keeps(plan: &EmitterPlan, event: &ChangeEvent) -> bool {
    (!plan.only_public || &*event.relation.schema == "public")
        && (!plan.only_upserts || matches!(event.op, Op::Insert | Op::Update))
}

fn dice(event: &ChangeEvent, salt: u64) -> u64 {
    let position = event.position;
    let mut random =
        SimRandom::new(position.commit.0 << 16 ^ u64::from(position.ordinal) ^ salt << 56);
    random.below(1000)
}

/// True if the transform drops the event.
pub(crate) fn drops(plan: &EmitterPlan, event: &ChangeEvent) -> bool {
    dice(event, 1) < plan.drops
}

struct SimTransform {
    plan: EmitterPlan,
    oracle: Oracle,
    healed: Arc<AtomicBool>,
    /// How often an event has failed.
    failures: Mutex<BTreeMap<Position, u32>>,
}

impl SimTransform {
    /// True if a failure of this event has come so often that it is over.
    fn passes(&self, position: Position) -> bool {
        let after = self.plan.extras.passes_after;
        if after == 0 {
            return false;
        }
        let mut failures = self.failures.lock().unwrap_or_else(PoisonError::into_inner);
        let failures = failures.entry(position).or_insert(0);
        *failures += 1;
        *failures > after
    }
}

impl Transform for SimTransform {
    fn apply(&self, mut event: ChangeEvent) -> Result<Option<ChangeEvent>, TransformError> {
        let plan = &self.plan;
        if drops(plan, &event) {
            return Ok(None);
        }
        if self.healed.load(Ordering::Relaxed) {
            return Ok(Some(event));
        }
        if dice(&event, 2) < plan.fails && !self.passes(event.position) {
            self.oracle.refused(&plan.name, event.position);
            return Err(TransformError {
                message: "simulated failure of a transform".into(),
            });
        }
        if dice(&event, 3) < plan.extras.garbles
            && event.after.row().is_some()
            && !self.passes(event.position)
        {
            self.oracle.spoiled(&plan.name, event.position);
            event.after = Image::Full(RowImage::from_bytes(Bytes::from_static(b"\xff\xff")));
        }
        Ok(Some(event))
    }
}
