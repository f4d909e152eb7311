//! Shortening a failing plan: steps are left out while it still fails.

use super::plan::Plan;

/// Numbers of the steps that can be left out of a failing plan so that `fails` still holds. Tries
/// at most `tries_max` plans.
pub(crate) fn minimise(
    plan: &Plan,
    tries_max: usize,
    mut fails: impl FnMut(&Plan) -> bool,
) -> Vec<usize> {
    let mut kept: Vec<usize> = (0..plan.steps.len()).collect();
    let mut size = kept.len().div_ceil(2).max(1);
    let mut tries = 0;
    let dropped = |kept: &[usize]| -> Vec<usize> {
        let all = 0..plan.steps.len();
        all.filter(|number| !kept.contains(number)).collect()
    };
    loop {
        let (mut at, mut shorter) = (0, false);
        while at < kept.len() && tries < tries_max {
            let mut without = kept.clone();
            without.drain(at..(at + size).min(kept.len()));
            tries += 1;
            if fails(&plan.without(&dropped(&without))) {
                kept = without;
                shorter = true;
            } else {
                at += size;
            }
        }
        if tries >= tries_max || (size == 1 && !shorter) {
            return dropped(&kept);
        }
        size = (size / 2).max(1);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn leaves_only_what_the_failure_needs() {
        let plan = Plan::new(5);
        assert!(plan.steps.len() > 8);
        let needed = [plan.steps[3].at, plan.steps[7].at];
        let dropped = minimise(&plan, 10_000, |plan| {
            needed
                .iter()
                .all(|at| plan.steps.iter().any(|step| step.at == *at))
        });
        let left = plan.without(&dropped);
        assert!(left.steps.len() <= 4, "{} steps left", left.steps.len());
        assert!(
            needed
                .iter()
                .all(|at| left.steps.iter().any(|s| s.at == *at))
        );
    }
}
