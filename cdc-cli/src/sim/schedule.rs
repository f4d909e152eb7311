//! Which schedule is meant, and how a person says so.

use super::plan::Plan;

/// The name of a schedule.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Schedule {
    pub(crate) seed: u64,
    /// Without extras, as the older seeds of `seeds.txt`.
    pub(crate) plain: bool,
}

impl Schedule {
    pub(crate) fn plan(self) -> Plan {
        if self.plain {
            Plan::plain(self.seed)
        } else {
            Plan::new(self.seed)
        }
    }

    /// How to see it again, without the steps of these numbers.
    pub(crate) fn command(self, dropped: &[usize]) -> String {
        let mut text = format!("again: cargo xtask sim --seed {}", self.seed);
        if self.plain {
            text.push_str(" --plain");
        }
        if !dropped.is_empty() {
            let numbers: Vec<_> = dropped.iter().map(ToString::to_string).collect();
            text.push_str(" --drop ");
            text.push_str(&numbers.join(","));
        }
        text
    }

    /// Those that once found a bug, from `seeds.txt`.
    pub(crate) fn old() -> impl Iterator<Item = Self> {
        include_str!("seeds.txt").lines().filter_map(|line| {
            let word = line.split_whitespace().next()?;
            let seed = word.strip_prefix('+');
            Some(Self {
                plain: seed.is_none(),
                seed: seed.unwrap_or(word).parse().ok()?,
            })
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn old_schedules_are_without_extras_unless_their_line_says_so() {
        let first = Schedule::old().next();
        let expected = Schedule {
            seed: 5202,
            plain: true,
        };
        assert_eq!(first, Some(expected));
    }

    #[test]
    fn a_command_names_the_same_schedule() {
        let schedule = |plain| Schedule { seed: 7, plain };
        let plain = schedule(true).command(&[3, 8]);
        assert_eq!(plain, "again: cargo xtask sim --seed 7 --plain --drop 3,8");
        assert_eq!(
            schedule(false).command(&[]),
            "again: cargo xtask sim --seed 7"
        );
    }
}
