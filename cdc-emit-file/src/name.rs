//! File names: `<stream>-<commit:020>-<ordinal:010>[.r<repeat:04>].<extension>[.part]`.

use cdc_core::envelope::Format;
use cdc_core::{Lsn, Position};

/// What a file that is still written to has at the end of its name.
pub(crate) const PART: &str = ".part";

/// Most files with the same first position.
pub(crate) const REPEAT_MAX: u16 = 9999;

const EXTENSIONS: [(Format, &str); 4] = [
    (Format::Json, "ndjson"),
    (Format::Debezium, "debezium.ndjson"),
    (Format::CloudEvents, "cloudevents.ndjson"),
    (Format::Bincode, "bin"),
];

/// The name of a data file, without `.part`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct FileName {
    /// Position of the first event.
    pub(crate) first: Position,
    /// Above 0 for a further file that begins at the same position.
    pub(crate) repeat: u16,
    pub(crate) format: Format,
}

impl FileName {
    pub(crate) fn text(&self, stream: &str) -> String {
        let extension = EXTENSIONS
            .iter()
            .find(|(format, _)| *format == self.format)
            .map_or("", |(_, extension)| extension);
        let (commit, ordinal) = (self.first.commit.0, self.first.ordinal);
        match self.repeat {
            0 => format!("{stream}-{commit:020}-{ordinal:010}.{extension}"),
            n => format!("{stream}-{commit:020}-{ordinal:010}.r{n:04}.{extension}"),
        }
    }

    /// Reads a name without `.part`. Only what [`text`](Self::text) writes is ours: every other
    /// file in the directory is never touched.
    pub(crate) fn parse(stream: &str, text: &str) -> Option<Self> {
        let rest = text.strip_prefix(stream)?.strip_prefix('-')?;
        let (commit, rest) = rest.split_at_checked(20)?;
        let (ordinal, rest) = rest.strip_prefix('-')?.split_at_checked(10)?;
        let rest = rest.strip_prefix('.')?;
        let (format, repeat) = EXTENSIONS.iter().find_map(|(format, extension)| {
            let before = rest.strip_suffix(extension)?;
            let repeat = match before {
                "" => 0,
                _ => before.strip_prefix('r')?.strip_suffix('.')?.parse().ok()?,
            };
            Some((*format, repeat))
        })?;
        let first = Position::new(Lsn(commit.parse().ok()?), ordinal.parse().ok()?);
        let name = Self {
            first,
            repeat,
            format,
        };
        (name.text(stream) == text).then_some(name)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn names_sort_by_position_and_only_our_own_are_read() {
        let name = |commit, ordinal, repeat, format| FileName {
            first: Position::new(Lsn(commit), ordinal),
            repeat,
            format,
        };
        let text = name(7, 3, 0, Format::Json).text("shop");
        assert_eq!(text, "shop-00000000000000000007-0000000003.ndjson");
        for (format, _) in EXTENSIONS {
            let mut names: Vec<_> = [
                (1, 0, 0),
                (1, 0, 1),
                (1, 0, 20),
                (1, 1, 0),
                (u64::MAX, 0, 0),
            ]
            .map(|(c, o, r)| name(c, o, r, format))
            .into();
            let texts: Vec<_> = names.iter().map(|n| n.text("a-b.c")).collect();
            assert!(texts.is_sorted(), "{texts:?}");
            for (name, text) in names.drain(..).zip(&texts) {
                assert_eq!(FileName::parse("a-b.c", text), Some(name));
            }
        }
        for foreign in [
            "",
            "shop",
            "notes.ndjson",
            "shop-7-3.ndjson",
            "shop-00000000000000000007-0000000003.ndjson.part",
            "shop-00000000000000000007-0000000003.json",
            "shop-00000000000000000007-0000000003.r0000.ndjson",
            "shop-00000000000000000007-0000000003.r1.ndjson",
            "shop-+0000000000000000007-0000000003.ndjson",
            "shop2-00000000000000000007-0000000003.ndjson",
            "shop-99999999999999999999-0000000003.ndjson",
        ] {
            assert_eq!(FileName::parse("shop", foreign), None, "{foreign}");
        }
    }

    proptest! {
        #[test]
        fn any_name_is_read_or_left(text in "\\PC{0,80}") {
            let _ = FileName::parse("s", &text);
            let _ = FileName::parse("s", &format!("s-{text}"));
        }
    }
}
