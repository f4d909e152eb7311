//! `CREATE TABLE`.

use super::lexer::{Kind, Token, tokens};
use super::value::{Affinity, DefaultValue};

/// A column.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct ColumnDef {
    pub(crate) name: String,
    /// As written; may be empty.
    pub(crate) type_name: String,
    pub(crate) collation: Option<String>,
    pub(crate) default: DefaultValue,
    /// Integers in it are read as floats.
    pub(crate) real: bool,
    /// Computed when read, and not stored.
    pub(crate) virtual_: bool,
}

/// A column of the primary key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct KeyColumn {
    /// Index into [`TableDef::columns`].
    pub(crate) column: usize,
    pub(crate) collation: Option<String>,
    pub(crate) descending: bool,
}

/// A table.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct TableDef {
    pub(crate) columns: Vec<ColumnDef>,
    /// In the order of the declaration.
    pub(crate) key: Vec<KeyColumn>,
    /// The column that is the rowid.
    pub(crate) alias: Option<usize>,
    pub(crate) without_rowid: bool,
}

const UNREADABLE: &str = "its CREATE TABLE cannot be read";

type Parsed<T> = Result<T, &'static str>;

struct Parser<'a> {
    sql: &'a str,
    tokens: Vec<Token<'a>>,
    at: usize,
}

/// Words that end a column's type.
const CONSTRAINTS: [&str; 9] = [
    "CONSTRAINT",
    "PRIMARY",
    "NOT",
    "NULL",
    "UNIQUE",
    "CHECK",
    "DEFAULT",
    "COLLATE",
    "REFERENCES",
];

/// Words of constraints that say nothing about stored rows.
const NOISE: [&str; 24] = [
    "ON",
    "CONFLICT",
    "ROLLBACK",
    "ABORT",
    "FAIL",
    "IGNORE",
    "REPLACE",
    "DELETE",
    "UPDATE",
    "INSERT",
    "CASCADE",
    "RESTRICT",
    "NO",
    "ACTION",
    "NOT",
    "NULL",
    "UNIQUE",
    "DEFERRABLE",
    "INITIALLY",
    "DEFERRED",
    "IMMEDIATE",
    "ASC",
    "AUTOINCREMENT",
    "KEY",
];

impl<'a> Parser<'a> {
    fn peek(&self) -> Option<&Token<'a>> {
        self.tokens.get(self.at)
    }

    fn is(&self, keyword: &str) -> bool {
        self.peek().is_some_and(|token| token.is(keyword))
    }

    fn is_mark(&self, mark: char) -> bool {
        self.peek().is_some_and(|token| token.is_mark(mark))
    }

    fn accept(&mut self, keyword: &str) -> bool {
        let found = self.is(keyword);
        self.at += usize::from(found);
        found
    }

    fn accept_mark(&mut self, mark: char) -> bool {
        let found = self.is_mark(mark);
        self.at += usize::from(found);
        found
    }

    fn expect(&mut self, keyword: &str) -> Parsed<()> {
        self.accept(keyword).then_some(()).ok_or(UNREADABLE)
    }

    fn expect_mark(&mut self, mark: char) -> Parsed<()> {
        self.accept_mark(mark).then_some(()).ok_or(UNREADABLE)
    }

    fn name(&mut self) -> Parsed<String> {
        let token = self.tokens.get(self.at).ok_or(UNREADABLE)?;
        self.at += 1;
        token.name().map(str::to_owned).ok_or(UNREADABLE)
    }

    /// Skips `( ... )` and gives the tokens with their parentheses.
    fn group(&mut self) -> Parsed<&[Token<'a>]> {
        let start = self.at;
        let mut depth = 0usize;
        while let Some(token) = self.peek() {
            if token.is_mark('(') {
                depth += 1;
            } else if token.is_mark(')') {
                depth = depth.checked_sub(1).ok_or(UNREADABLE)?;
            }
            self.at += 1;
            if depth == 0 {
                return self.tokens.get(start..self.at).ok_or(UNREADABLE);
            }
        }
        Err(UNREADABLE)
    }

    fn ends_item(&self) -> bool {
        self.peek()
            .is_none_or(|token| token.is_mark(',') || token.is_mark(')'))
    }
}

/// What a column definition says beyond the column itself.
#[derive(Default)]
struct Extra {
    /// It is the primary key; true inside if descending.
    key: Option<bool>,
    default: Option<(usize, usize)>,
}

impl TableDef {
    /// Reads the text in `sqlite_schema`. The error says why it cannot be captured.
    pub(crate) fn parse(sql: &str) -> Parsed<Self> {
        let mut p = Parser {
            sql,
            tokens: tokens(sql).ok_or(UNREADABLE)?,
            at: 0,
        };
        p.expect("CREATE")?;
        if !p.accept("TEMP") {
            p.accept("TEMPORARY");
        }
        p.expect("TABLE")?;
        if p.accept("IF") {
            p.expect("NOT")?;
            p.expect("EXISTS")?;
        }
        p.name()?;
        if p.accept_mark('.') {
            p.name()?;
        }
        p.expect_mark('(')?;
        let mut table = Self {
            columns: Vec::new(),
            key: Vec::new(),
            alias: None,
            without_rowid: false,
        };
        let mut extras = Vec::new();
        let mut from_table_constraint = false;
        loop {
            let constraint = ["CONSTRAINT", "PRIMARY", "UNIQUE", "CHECK", "FOREIGN"]
                .iter()
                .any(|word| p.is(word));
            if constraint {
                from_table_constraint |= table.constraint(&mut p)?;
            } else {
                let extra = table.column(&mut p)?;
                if let Some(descending) = extra.key {
                    if !table.key.is_empty() {
                        return Err(UNREADABLE);
                    }
                    table.key.push(KeyColumn {
                        column: table.columns.len() - 1,
                        collation: None,
                        descending,
                    });
                }
                extras.push(extra.default);
            }
            if p.accept_mark(')') {
                break;
            }
            // Between table constraints the comma may be missing.
            if !p.accept_mark(',') && table.columns.is_empty() {
                return Err(UNREADABLE);
            }
        }
        let strict = table.options(&mut p)?;
        table.finish(&p, &extras, strict, from_table_constraint);
        Ok(table)
    }

    /// `WITHOUT ROWID` and `STRICT`; true if strict.
    fn options(&mut self, p: &mut Parser<'_>) -> Parsed<bool> {
        let mut strict = false;
        while p.peek().is_some_and(|token| !token.is_mark(';')) {
            if p.accept("WITHOUT") {
                p.expect("ROWID")?;
                self.without_rowid = true;
            } else if p.accept("STRICT") {
                strict = true;
            } else {
                p.expect_mark(',')?;
            }
        }
        Ok(strict)
    }

    fn finish(
        &mut self,
        p: &Parser<'_>,
        defaults: &[Option<(usize, usize)>],
        strict: bool,
        from_table_constraint: bool,
    ) {
        for (column, default) in self.columns.iter_mut().zip(defaults) {
            let affinity = Affinity::of(&column.type_name, strict);
            column.real = affinity == Affinity::Real;
            if let Some(tokens) = default.and_then(|(from, to)| p.tokens.get(from..to)) {
                column.default = DefaultValue::read(tokens, affinity);
            }
        }
        if let [key] = self.key.as_slice()
            && !self.without_rowid
            && (from_table_constraint || !key.descending)
        {
            self.alias = self
                .columns
                .get(key.column)
                .is_some_and(|c| c.type_name.eq_ignore_ascii_case("INTEGER"))
                .then_some(key.column);
        }
    }

    /// A table constraint; true if it is the primary key.
    fn constraint(&mut self, p: &mut Parser<'_>) -> Parsed<bool> {
        let mut is_key = false;
        if p.accept("CONSTRAINT") {
            p.name()?;
        }
        if p.accept("PRIMARY") {
            p.expect("KEY")?;
            is_key = true;
            if !self.key.is_empty() {
                return Err(UNREADABLE);
            }
            let group = p.group()?.to_vec();
            self.key_columns(&group)?;
        } else if p.accept("UNIQUE") || p.accept("CHECK") {
            p.group()?;
        } else if p.accept("FOREIGN") {
            p.expect("KEY")?;
            p.group()?;
            p.expect("REFERENCES")?;
            self.references(p)?;
        }
        while !p.ends_item() {
            let another = ["CONSTRAINT", "PRIMARY", "UNIQUE", "CHECK", "FOREIGN"];
            if another.iter().any(|word| p.is(word)) {
                break;
            }
            Self::noise(p)?;
        }
        Ok(is_key)
    }

    fn references(&self, p: &mut Parser<'_>) -> Parsed<()> {
        p.name()?;
        if p.is_mark('(') {
            p.group()?;
        }
        Ok(())
    }

    /// One word that says nothing about stored rows, with its argument.
    fn noise(p: &mut Parser<'_>) -> Parsed<()> {
        if p.accept("SET") || p.accept("MATCH") {
            p.name()?;
            return Ok(());
        }
        let known = NOISE.iter().any(|word| p.is(word));
        p.at += usize::from(known);
        known.then_some(()).ok_or(UNREADABLE)
    }

    /// `(a, b COLLATE nocase DESC)`, parentheses included.
    fn key_columns(&mut self, group: &[Token<'_>]) -> Parsed<()> {
        let inner = group.get(1..group.len() - 1).unwrap_or_default();
        for part in inner.split(|token| token.is_mark(',')) {
            let (name, mut rest) = part.split_first().ok_or(UNREADABLE)?;
            let name = name.name().ok_or(UNREADABLE)?;
            let column = self
                .columns
                .iter()
                .position(|column| column.name.eq_ignore_ascii_case(name))
                .ok_or(UNREADABLE)?;
            let mut key = KeyColumn {
                column,
                collation: None,
                descending: false,
            };
            while let Some((word, after)) = rest.split_first() {
                rest = after;
                if word.is("COLLATE") {
                    let (name, after) = rest.split_first().ok_or(UNREADABLE)?;
                    key.collation = Some(name.name().ok_or(UNREADABLE)?.to_owned());
                    rest = after;
                } else if word.is("DESC") {
                    key.descending = true;
                } else if !(word.is("ASC") || word.is("AUTOINCREMENT")) {
                    return Err(UNREADABLE);
                }
            }
            self.key.push(key);
        }
        Ok(())
    }

    fn column(&mut self, p: &mut Parser<'_>) -> Parsed<Extra> {
        let mut column = ColumnDef {
            name: p.name()?,
            type_name: column_type(p)?,
            collation: None,
            default: DefaultValue::Null,
            real: false,
            virtual_: false,
        };
        let mut extra = Extra::default();
        while !p.ends_item() {
            if p.accept("CONSTRAINT") {
                p.name()?;
            } else if p.accept("PRIMARY") {
                p.expect("KEY")?;
                let descending = p.accept("DESC");
                extra.key = Some(descending);
            } else if p.accept("CHECK") {
                p.group()?;
            } else if p.accept("COLLATE") {
                column.collation = Some(p.name()?);
            } else if p.accept("REFERENCES") {
                self.references(p)?;
            } else if p.accept("DEFAULT") {
                let from = p.at;
                if p.is_mark('(') {
                    p.group()?;
                } else {
                    if !p.accept_mark('-') {
                        p.accept_mark('+');
                    }
                    p.at += 1;
                }
                extra.default = Some((from, p.at));
            } else if p.is("GENERATED") || p.is("AS") {
                if p.accept("GENERATED") {
                    p.expect("ALWAYS")?;
                }
                p.expect("AS")?;
                p.group()?;
                column.virtual_ = !p.accept("STORED");
                p.accept("VIRTUAL");
            } else {
                Self::noise(p)?;
            }
        }
        self.columns.push(column);
        Ok(extra)
    }
}

/// A column's type as written: names, then perhaps numbers in parentheses. A type that is one
/// quoted word is what stands in the quotes.
fn column_type(p: &mut Parser<'_>) -> Parsed<String> {
    let start = p.at;
    while let Some(token) = p.peek() {
        let ends = CONSTRAINTS.iter().any(|word| token.is(word))
            || token.is("AS")
            || (token.is("GENERATED")
                && p.tokens.get(p.at + 1).is_some_and(|next| next.is("ALWAYS")));
        if ends || token.name().is_none() {
            break;
        }
        p.at += 1;
    }
    let words = p.at - start;
    if words > 0 && p.is_mark('(') {
        p.group()?;
    }
    let Some(typed) = p.tokens.get(start..p.at).filter(|typed| !typed.is_empty()) else {
        return Ok(String::new());
    };
    if let [only] = typed
        && let Kind::Name(name) | Kind::Text(name) = &only.kind
    {
        return Ok(name.to_string());
    }
    let from = typed.first().map_or(0, |token| token.span.start);
    let to = typed.last().map_or(0, |token| token.span.end);
    Ok(p.sql.get(from..to).unwrap_or_default().to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn names(table: &TableDef) -> Vec<(&str, &str)> {
        table
            .columns
            .iter()
            .map(|c| (c.name.as_str(), c.type_name.as_str()))
            .collect()
    }

    #[test]
    fn columns_types_and_keys_are_read() {
        let table = TableDef::parse(
            "CREATE TABLE \"or\"\"ders\" -- all of them\n (id INTEGER PRIMARY KEY AUTOINCREMENT, \
             [the name] VARCHAR(10, 2) NOT NULL DEFAULT 'it''s' COLLATE NOCASE, \
             `x` double precision CHECK (x > (1)) REFERENCES o(a) ON DELETE SET DEFAULT, y, \
             z INT GENERATED ALWAYS AS (x * 2) STORED, v AS (1), generated TEXT, \
             CONSTRAINT u UNIQUE (y) ON CONFLICT IGNORE, FOREIGN KEY (y) REFERENCES p \
             DEFERRABLE INITIALLY DEFERRED) STRICT",
        )
        .unwrap();
        assert_eq!(
            names(&table),
            [
                ("id", "INTEGER"),
                ("the name", "VARCHAR(10, 2)"),
                ("x", "double precision"),
                ("y", ""),
                ("z", "INT"),
                ("v", ""),
                ("generated", "TEXT"),
            ]
        );
        assert_eq!(table.alias, Some(0));
        assert_eq!(table.columns[1].default, DefaultValue::Text("it's".into()));
        assert_eq!(table.columns[1].collation.as_deref(), Some("NOCASE"));
        assert!(table.columns[2].real);
        let virtual_: Vec<bool> = table.columns.iter().map(|c| c.virtual_).collect();
        assert_eq!(virtual_, [false, false, false, false, false, true, false]);
    }

    #[test]
    fn the_rowids_alias_is_found_as_sqlite_finds_it() {
        for (sql, alias) in [
            ("CREATE TABLE t(a INTEGER PRIMARY KEY)", true),
            ("CREATE TABLE t(a integer PRIMARY KEY ASC)", true),
            ("CREATE TABLE t(a \"INTEGER\" PRIMARY KEY)", true),
            ("CREATE TABLE t(a INTEGER PRIMARY KEY DESC)", false),
            ("CREATE TABLE t(a INTEGER, PRIMARY KEY(a DESC))", true),
            ("CREATE TABLE t(a INTEGER, PRIMARY KEY('A'))", true),
            ("CREATE TABLE t(a INT PRIMARY KEY)", false),
            ("CREATE TABLE t(a INTEGER(4) PRIMARY KEY)", false),
            ("CREATE TABLE t(a INTEGER, b, PRIMARY KEY(a, b))", false),
            ("CREATE TABLE t(a INTEGER PRIMARY KEY) WITHOUT ROWID", false),
        ] {
            assert_eq!(
                TableDef::parse(sql).unwrap().alias.is_some(),
                alias,
                "{sql}"
            );
        }
    }

    #[test]
    fn keys_keep_order_collation_and_direction() {
        let table = TableDef::parse(
            "CREATE TABLE t(a, b TEXT, PRIMARY KEY(b COLLATE rtrim DESC, a)) WITHOUT ROWID, STRICT",
        )
        .unwrap();
        assert!(table.without_rowid);
        assert_eq!(table.key.len(), 2);
        assert_eq!((table.key[0].column, table.key[0].descending), (1, true));
        assert_eq!(table.key[0].collation.as_deref(), Some("rtrim"));
    }

    #[test]
    fn defaults_are_what_sqlite_reads() {
        use DefaultValue::*;
        for (column, value) in [
            ("INT DEFAULT 5", Int(5)),
            ("INT DEFAULT -5", Int(-5)),
            ("INT DEFAULT (- 5)", Int(-5)),
            ("INT DEFAULT 0x10", Int(16)),
            ("INT DEFAULT '7'", Int(7)),
            ("INT DEFAULT ' 7.0 '", Int(7)),
            ("INT DEFAULT 'x7'", Text("x7".into())),
            ("TEXT DEFAULT 7", Text("7".into())),
            ("TEXT DEFAULT -1.50", Text("-1.50".into())),
            ("DEFAULT 1.50", Real(1.5)),
            ("REAL DEFAULT 1e2", Int(100)),
            ("NUMERIC DEFAULT 1.5", Real(1.5)),
            ("INT DEFAULT TRUE", Int(1)),
            ("DEFAULT \"word\"", Text("word".into())),
            ("DEFAULT word", Text("word".into())),
            ("DEFAULT x'00fF'", Blob(vec![0, 255])),
            ("DEFAULT NULL", Null),
            (
                "INT DEFAULT 9223372036854775808",
                Real(9_223_372_036_854_775_808.0),
            ),
            ("INT DEFAULT -9223372036854775808", Int(i64::MIN)),
            ("DEFAULT -9223372036854775808", Int(i64::MIN)),
            ("DEFAULT (1 + 2)", Computed),
            ("DEFAULT CURRENT_TIMESTAMP", Computed),
            ("INT", Null),
        ] {
            let table =
                TableDef::parse(&format!("CREATE TABLE t(a, b {column} NOT NULL)")).unwrap();
            assert_eq!(table.columns[1].default, value, "{column}");
        }
    }

    #[test]
    fn what_is_no_table_is_refused() {
        for sql in [
            "",
            "CREATE TABLE t",
            "CREATE TABLE t(",
            "CREATE TABLE t()",
            "CREATE TABLE t(a 'x",
            "CREATE TABLE t(a, PRIMARY KEY(b))",
            "CREATE TABLE t(a FROBNICATE(1) WITH)",
            "CREATE VIEW v AS SELECT 1",
        ] {
            assert!(TableDef::parse(sql).is_err(), "{sql}");
        }
    }

    proptest! {
        #[test]
        fn any_text_is_a_table_or_an_error(sql in "\\PC{0,60}") {
            let _ = TableDef::parse(&sql);
            let _ = TableDef::parse(&format!("CREATE TABLE t({sql})"));
        }

        #[test]
        fn any_words_are_a_table_or_an_error(
            words in proptest::collection::vec(prop::sample::select(vec![
                "a", "(", ")", ",", "DEFAULT", "-", "'x'", "PRIMARY", "KEY", "CHECK", "AS",
                "GENERATED", "COLLATE", "1", "REFERENCES", "CONSTRAINT", "\"", "[", "/*", "--",
            ]), 0..20)
        ) {
            let _ = TableDef::parse(&format!("CREATE TABLE t({}", words.join(" ")));
        }
    }
}
