//! What only the filter crate can judge: patterns and predicates, with a caret at the mistake.

use std::ops::Range;

use cdc_filter::{FilterError, PATTERNS_MAX, Predicate, TableFilter};

use super::document::Origin;
use super::problem::Problem;
use super::read::{Placed, Reading};

/// Checks a list of patterns one by one, so that each mistake has its own place.
pub(crate) fn patterns(reading: &mut Reading<'_>, key: &'static str, list: &[Placed<String>]) {
    if list.len() > PATTERNS_MAX {
        reading.refuse(
            Problem::new(
                format!("`{key}` has more than {PATTERNS_MAX} patterns"),
                &list[0].1,
            )
            .help("use wildcards, such as \"public.line_*\""),
        );
        return;
    }
    for (text, at) in list {
        let one = std::slice::from_ref(text);
        let checked = match key {
            "schemas" => TableFilter::new(one, &[]),
            _ => TableFilter::new(&[], one),
        };
        match checked {
            Ok(_) => {}
            Err(FilterError::Pattern { what, .. }) => reading.refuse(
                Problem::new(format!("`{key}` holds a bad pattern: {what}"), at)
                    .help("patterns are names with `*` and `?`, such as \"orders\", \"public.line_*\" or \"!public.line_tmp\""),
            ),
            Err(other) => reading.refuse(Problem::new(other.to_string(), at)),
        }
    }
}

/// Checks a row predicate.
pub(crate) fn predicate(reading: &mut Reading<'_>, text: &str, at: &Origin) {
    if let Err(error) = Predicate::parse(text) {
        reading.refuse(
            Problem::new(
                format!("`where`: {}", error.message),
                &within(at, text, &error.span),
            )
            .help("write a condition such as \"op != 'update' || after.total != before.total\""),
        );
    }
}

/// The place of a part of a text, if the text stands in its document as it is, without escapes.
fn within(at: &Origin, text: &str, part: &Range<usize>) -> Origin {
    if let Origin::Written { document, span } = at
        && let Some(written) = document.text().get(span.clone())
        && let Some(found) = written.find(text)
    {
        let start = span.start + found;
        return Origin::at(
            document,
            start + part.start..start + part.end.max(part.start),
        );
    }
    at.clone()
}
