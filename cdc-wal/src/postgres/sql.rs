//! Quoting of names and texts in SQL and replication commands.

/// `"name"`, with quotes doubled.
pub(crate) fn identifier(name: &str) -> String {
    format!("\"{}\"", name.replace('"', "\"\""))
}

/// `'text'`, with quotes doubled. Right for servers with `standard_conforming_strings` on (the
/// default since 9.1) and for replication commands, which know no escapes at all.
pub(crate) fn literal(text: &str) -> String {
    format!("'{}'", text.replace('\'', "''"))
}

/// `"schema"."table"` from `schema.table`, or from `table` in `public`.
pub(crate) fn table(name: &str) -> String {
    let (schema, table) = name.split_once('.').unwrap_or(("public", name));
    format!("{}.{}", identifier(schema), identifier(table))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quotes_cannot_be_left() {
        assert_eq!(identifier("a\"b"), "\"a\"\"b\"");
        assert_eq!(literal("a'b"), "'a''b'");
        assert_eq!(table("orders"), "\"public\".\"orders\"");
        assert_eq!(table("s.\"; DROP"), "\"s\".\"\"\"; DROP\"");
    }
}
