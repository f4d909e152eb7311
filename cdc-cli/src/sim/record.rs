//! Runs a plan; with its timeline kept, the log lines of the code under test stand in it too.

use super::plan::Plan;
use super::world::{Report, World};

/// Runs a plan to its end.
pub(crate) fn run(plan: &Plan, keep_lines: bool) -> Report {
    World::run(plan, keep_lines)
}
