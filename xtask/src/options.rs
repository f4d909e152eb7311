//! Command-line options: `--name value`, `--flag`, and plain words.

use std::collections::BTreeMap;
use std::str::FromStr;

use crate::{Error, Result};

/// A parsed command line.
#[derive(Debug, Default)]
pub struct Options {
    values: BTreeMap<String, String>,
    flags: Vec<String>,
    words: Vec<String>,
}

impl Options {
    /// Parses `args`; options not listed in `valued` or `flags` are refused.
    ///
    /// # Errors
    /// An unknown option, or one without its value.
    pub fn parse(args: &[String], valued: &[&str], flags: &[&str]) -> Result<Self> {
        let mut options = Self::default();
        let mut args = args.iter();
        while let Some(arg) = args.next() {
            let (name, inline) = match arg.split_once('=') {
                Some((name, value)) if name.starts_with("--") => (name, Some(value.to_owned())),
                _ => (arg.as_str(), None),
            };
            if valued.contains(&name) {
                let value = match inline {
                    Some(value) => value,
                    None => args
                        .next()
                        .cloned()
                        .ok_or_else(|| Error::new(format!("`{name}` needs a value")))?,
                };
                options.values.insert(name.to_owned(), value);
            } else if flags.contains(&name) && inline.is_none() {
                options.flags.push(name.to_owned());
            } else if name.starts_with('-') {
                let known = [valued, flags].concat().join(", ");
                return Err(Error::new(format!(
                    "unknown option `{arg}`; known: {known}"
                )));
            } else {
                options.words.push(arg.clone());
            }
        }
        Ok(options)
    }

    /// The words that are not options, in order.
    pub fn words(&self) -> &[String] {
        &self.words
    }

    /// True if the flag was given.
    pub fn flag(&self, name: &str) -> bool {
        self.flags.iter().any(|flag| flag == name)
    }

    /// The text of an option.
    pub fn text(&self, name: &str) -> Option<&str> {
        self.values.get(name).map(String::as_str)
    }

    /// The parsed value of an option, or `default` if it was not given.
    ///
    /// # Errors
    /// The value does not parse.
    pub fn get<T: FromStr>(&self, name: &str, default: T) -> Result<T> {
        match self.values.get(name) {
            None => Ok(default),
            Some(text) => text
                .parse()
                .map_err(|_| Error::new(format!("`{name} {text}` is not a number"))),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(args: &[&str]) -> Result<Options> {
        let args: Vec<String> = args.iter().map(|&arg| arg.to_owned()).collect();
        Options::parse(&args, &["--seed"], &["--keep"])
    }

    #[test]
    fn values_flags_and_words_are_told_apart() {
        let options = parse(&["pg-kill", "--seed", "7", "--keep"]).unwrap();
        assert_eq!(options.words(), ["pg-kill"]);
        assert_eq!(options.get("--seed", 0_u64), Ok(7));
        assert!(options.flag("--keep"));
        assert_eq!(parse(&["--seed=9"]).unwrap().get("--seed", 0_u64), Ok(9));
        assert_eq!(parse(&[]).unwrap().get("--seed", 3_u64), Ok(3));
    }

    #[test]
    fn mistakes_are_named() {
        for (args, expected) in [
            (
                &["--sede", "7"][..],
                "unknown option `--sede`; known: --seed, --keep",
            ),
            (&["--seed"][..], "`--seed` needs a value"),
            (
                &["--keep=1"][..],
                "unknown option `--keep=1`; known: --seed, --keep",
            ),
        ] {
            assert_eq!(parse(args).unwrap_err().to_string(), expected);
        }
        let options = parse(&["--seed", "x"]).unwrap();
        assert_eq!(
            options.get("--seed", 0_u64).unwrap_err().to_string(),
            "`--seed x` is not a number"
        );
    }
}
