//! The command line of `cdc-sim`.

use std::time::Duration;

pub(crate) const USAGE: &str = "\
Runs the whole pipeline in a simulated world and judges it.

  --seed N         one schedule, with its timeline
  --drop N,N,…     leave these steps of the schedule out
  --plain          without extras, as the older seeds of seeds.txt
  --minimise       shorten a failing schedule first
  --whole          print the whole timeline, not its end
  --count N        the schedules of N seeds (default 2000)
  --first N        the first seed (default 0)
  --minutes M      schedules until the time is over
  --failures N     stop after N violations (default 1)";

/// What to run.
#[derive(Clone, Debug)]
pub(crate) struct Options {
    pub(crate) seed: Option<u64>,
    pub(crate) dropped: Vec<usize>,
    pub(crate) plain: bool,
    pub(crate) minimise: bool,
    pub(crate) whole: bool,
    pub(crate) count: u64,
    pub(crate) first: u64,
    pub(crate) time: Option<Duration>,
    pub(crate) failures_max: usize,
}

impl Options {
    /// The options in these arguments, or what is wrong with them.
    pub(crate) fn parse(args: &[String]) -> Result<Self, String> {
        if args.iter().any(|arg| arg == "--help") {
            return Err("its options".into());
        }
        let mut options = Self {
            seed: None,
            dropped: Vec::new(),
            plain: false,
            minimise: false,
            whole: false,
            count: 2000,
            first: 0,
            time: None,
            failures_max: 1,
        };
        let mut args = args.iter();
        while let Some(arg) = args.next() {
            let mut value = || args.next().ok_or(format!("{arg} needs a value"));
            match arg.as_str() {
                "--seed" => options.seed = Some(number(arg, value()?)?),
                "--drop" => {
                    let numbers = value()?.split(',').map(|part| number(arg, part));
                    options.dropped = numbers.collect::<Result<_, _>>()?;
                }
                "--plain" => options.plain = true,
                "--minimise" => options.minimise = true,
                "--whole" => options.whole = true,
                "--count" => options.count = number(arg, value()?)?,
                "--first" => options.first = number(arg, value()?)?,
                "--minutes" => {
                    let minutes: f64 = number(arg, value()?)?;
                    let time = Duration::try_from_secs_f64(minutes * 60.0);
                    options.time = Some(time.map_err(|error| format!("{arg}: {error}"))?);
                }
                "--failures" => options.failures_max = number(arg, value()?)?,
                other => return Err(format!("unknown option {other}")),
            }
        }
        Ok(options)
    }
}

fn number<T: std::str::FromStr>(option: &str, text: &str) -> Result<T, String> {
    text.parse()
        .map_err(|_| format!("{option} takes a number, not {text:?}"))
}
