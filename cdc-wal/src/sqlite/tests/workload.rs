//! Random transactions over tables of all kinds.

use rusqlite::Connection;

/// `SplitMix64`.
#[derive(Debug, Clone)]
pub(super) struct Random(u64);

impl Random {
    pub(super) fn new(seed: u64) -> Self {
        let mut random = Self(seed.wrapping_mul(0xA24B_AED4_963E_E407));
        random.next();
        random
    }

    pub(super) fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        mixed ^ (mixed >> 31)
    }

    pub(super) fn below(&mut self, bound: u64) -> u64 {
        self.next() % bound
    }

    pub(super) fn one_in(&mut self, n: u64) -> bool {
        self.below(n) == 0
    }

    pub(super) fn pick<'a>(&mut self, texts: &[&'a str]) -> &'a str {
        texts[usize::try_from(self.below(texts.len() as u64)).unwrap()]
    }
}

/// The tables a workload begins with. `{n}` is a number of its own.
const TABLES: [&str; 9] = [
    "CREATE TABLE plain{n}(id INTEGER PRIMARY KEY, a TEXT, b REAL, c BLOB, d)",
    "CREATE TABLE auto{n}(id INTEGER PRIMARY KEY AUTOINCREMENT, a TEXT NOT NULL DEFAULT 'x', b REAL, c BLOB, d)",
    "CREATE TABLE textual{n}(a TEXT PRIMARY KEY, b REAL, c BLOB, d)",
    "CREATE TABLE keyless{n}(a TEXT, b REAL, c BLOB, d)",
    "CREATE TABLE without{n}(a TEXT, b REAL, c BLOB, d, PRIMARY KEY(a)) WITHOUT ROWID",
    "CREATE TABLE nocase{n}(d, a TEXT COLLATE NOCASE, b REAL, c BLOB, PRIMARY KEY(a DESC, d)) WITHOUT ROWID",
    "CREATE TABLE computed{n}(id INTEGER PRIMARY KEY, a TEXT, b REAL, c BLOB, d, \
     v AS (length(a)) VIRTUAL, s TEXT AS (a || 's') STORED)",
    "CREATE TABLE pair{n}(a TEXT, b REAL, c BLOB, d INT NOT NULL, PRIMARY KEY(a, d))",
    "CREATE TABLE number{n}(d INT PRIMARY KEY DESC, a, b REAL, c BLOB) WITHOUT ROWID",
];

/// Makes statements; remembers what there is.
#[derive(Debug)]
pub(super) struct Workload {
    pub(super) random: Random,
    next: u64,
    /// Largest value that is written.
    size: u64,
    /// Rows of the larger statements.
    rows: u64,
    vacuum: bool,
    /// Length of what all keys begin with: they differ on overflow pages only.
    pub(super) prefix: u64,
    /// Run at the end of each transaction.
    pub(super) before_commit: Option<String>,
}

fn names(db: &Connection) -> Vec<String> {
    let mut statement = db
        .prepare(
            "SELECT name FROM sqlite_schema WHERE type = 'table' AND rootpage > 0 \
             AND name NOT LIKE 'sqlite~_%' ESCAPE '~' AND name NOT LIKE 'fts~_%' ESCAPE '~' \
             AND name <> 'marker'",
        )
        .unwrap();
    let rows = statement.query_map([], |row| row.get(0)).unwrap();
    rows.map(Result::unwrap).collect()
}

impl Workload {
    pub(super) fn new(mut random: Random, page_size: u64) -> Self {
        let size = page_size * (1 + random.below(4));
        Self {
            size: size.min(40_000),
            rows: 20 + random.below(120),
            vacuum: random.one_in(3),
            prefix: 0,
            random,
            next: 0,
            before_commit: None,
        }
    }

    pub(super) fn create(&mut self) -> String {
        self.next += 1;
        let which = usize::try_from(self.random.below(TABLES.len() as u64)).unwrap();
        TABLES[which].replace("{n}", &self.next.to_string())
    }

    fn value(&mut self) -> String {
        if self.prefix > 0 && !self.random.one_in(4) {
            return self.random.pick(&["NULL", "'x'"]).to_owned();
        }
        match self.random.below(12) {
            0 => "NULL".into(),
            1 => self.random.below(10).to_string(),
            2 => (self.random.next().cast_signed()).to_string(),
            3 => format!("{}.5", self.random.below(1000)),
            4 => format!("{}.0", self.random.below(1000)),
            5 => "-0.0".into(),
            6 => {
                let size = self.random.below(self.size) + 1;
                format!("randomblob({size})")
            }
            7 => {
                let size = self.random.below(self.size * 4) + 1;
                format!("zeroblob({size})")
            }
            8 => {
                let size = self.random.below(self.size / 2) + 1;
                format!("hex(randomblob({size}))")
            }
            9 => "'\u{fc}\u{1f600}\u{e9}'".into(),
            _ => format!("'t{}'", self.random.below(1000)),
        }
    }

    fn text(&mut self) -> String {
        if self.prefix > 0 {
            let end = self.random.below(10);
            return format!("(printf('%.{}c', 'k') || {end})", self.prefix);
        }
        match self.random.below(4) {
            0 => format!("'K{}'", self.random.below(60)),
            1 => format!("'k{}'", self.random.below(60)),
            _ => format!("hex(randomblob({}))", 1 + self.random.below(12)),
        }
    }

    /// A condition that fits some rows of any table.
    fn some(&mut self) -> String {
        match self.random.below(5) {
            0 => "1".into(),
            1 => format!("abs(random()) % {} = 0", 2 + self.random.below(20)),
            2 => format!("a > 'k{}'", self.random.below(60)),
            3 => format!("a < '{}'", self.random.below(9)),
            _ => format!("b > {}", self.random.below(900)),
        }
    }

    /// One statement over one of the tables. It may fail (constraints): then nothing happened.
    fn statement(&mut self, table: &str) -> String {
        let (a, b, c, d) = (self.text(), self.value(), self.value(), self.value());
        let some = self.some();
        let or = self.random.pick(&["", "OR REPLACE", "OR IGNORE"]);
        if self.prefix > 0 && !self.random.one_in(6) {
            let key = self.text();
            return match self.random.below(3) {
                0 => format!("INSERT {or} INTO {table}(a, b, c, d) VALUES ({a}, NULL, NULL, 1)"),
                1 => format!("UPDATE {or} {table} SET a = {a} WHERE a = {key}"),
                _ => format!("DELETE FROM {table} WHERE a = {key}"),
            };
        }
        match self.random.below(15) {
            0..=3 => {
                format!("INSERT {or} INTO {table}(a, b, c, d) VALUES ({a}, {b}, {c}, {d})")
            }
            4..=5 => {
                let rows = 1 + self.random.below(self.rows);
                let size = 1 + self.random.below(300);
                format!(
                    "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < {rows}) \
                     INSERT {or} INTO {table}(a, b, c, d) \
                     SELECT 'k' || (abs(random()) % 5000), i, randomblob({size}), i FROM n"
                )
            }
            6..=7 => format!("UPDATE {or} {table} SET b = {b} WHERE {some}"),
            8 => format!("UPDATE {or} {table} SET c = {c}, d = {d} WHERE {some}"),
            9 => format!("UPDATE {or} {table} SET a = a || 'x' WHERE {some}"),
            10 => format!("UPDATE {or} {table} SET a = upper(a), d = d WHERE {some}"),
            11 => format!("DELETE FROM {table} WHERE {some}"),
            12 => {
                if self.random.one_in(4) {
                    format!("DELETE FROM {table}")
                } else {
                    format!("DELETE FROM {table} WHERE a < 'k{}'", self.random.below(60))
                }
            }
            13 => format!(
                "UPDATE {or} {table} SET _rowid_ = _rowid_ + {} WHERE {some}",
                self.random.below(1000)
            ),
            _ => format!("UPDATE {table} SET c = zeroblob(length(c)) WHERE {some}"),
        }
    }

    fn definition(&mut self, table: &str) -> String {
        self.next += 1;
        let n = self.next;
        match self.random.below(12) {
            0..=1 => self.create(),
            2 => format!("DROP TABLE {table}"),
            3 => {
                let default = self.random.pick(&[
                    "TEXT DEFAULT 'neu'",
                    "INT DEFAULT -5",
                    "REAL DEFAULT 7",
                    "BLOB DEFAULT x'0102'",
                    "",
                    "TEXT DEFAULT 1.50",
                    "NUMERIC NOT NULL DEFAULT '12'",
                    "DEFAULT TRUE",
                    "TEXT DEFAULT 0x1f",
                ]);
                format!("ALTER TABLE {table} ADD COLUMN e{n} {default}")
            }
            4 => format!(
                "ALTER TABLE {table} RENAME COLUMN b TO b{n}; ALTER TABLE {table} RENAME COLUMN b{n} TO b"
            ),
            5 => format!("ALTER TABLE {table} RENAME TO renamed{n}"),
            6 => format!("CREATE INDEX i{n} ON {table}(a, b)"),
            7 => format!(
                "ALTER TABLE {table} DROP COLUMN b; ALTER TABLE {table} ADD COLUMN b REAL DEFAULT {n}"
            ),
            8 => format!("CREATE TABLE copy{n} AS SELECT a, b, c, d FROM {table}"),
            9 => format!(
                "CREATE TABLE new{n}(id INTEGER PRIMARY KEY, a TEXT, b REAL, c BLOB, d, extra{n} INT DEFAULT 3); \
                 INSERT INTO new{n}(a, b, c, d) SELECT a, b, c, d FROM {table}; DROP TABLE {table}; \
                 ALTER TABLE new{n} RENAME TO {table}"
            ),
            10 => "REINDEX".into(),
            _ => "ANALYZE".into(),
        }
    }

    /// Runs one transaction; false if it is known to commit nothing.
    pub(super) fn transaction(&mut self, db: &Connection) -> String {
        let mut done = Vec::new();
        let mut run = |sql: &str| {
            let outcome = db.execute_batch(sql);
            if outcome.is_ok() {
                done.push(sql.to_owned());
            }
            outcome.is_ok()
        };
        if self.vacuum && self.random.one_in(12) {
            run("VACUUM");
            return done.join(";\n");
        }
        if self.random.one_in(15) {
            run(&format!(
                "PRAGMA incremental_vacuum({})",
                self.random.below(20)
            ));
            return done.join(";\n");
        }
        run("BEGIN");
        let define = self.random.one_in(6);
        for _ in 0..1 + self.random.below(6) {
            let tables = names(db);
            let Some(table) = tables
                .get(usize::try_from(self.random.below(tables.len().max(1) as u64)).unwrap())
                .cloned()
            else {
                let create = self.create();
                run(&create);
                continue;
            };
            if self.random.one_in(8) {
                run("SAVEPOINT s");
                for _ in 0..1 + self.random.below(3) {
                    let sql = self.statement(&table);
                    run(&sql);
                }
                run(if self.random.one_in(2) {
                    "ROLLBACK TO s; RELEASE s"
                } else {
                    "RELEASE s"
                });
                continue;
            }
            let sql = if define && self.random.one_in(2) {
                self.definition(&table)
            } else {
                self.statement(&table)
            };
            run(&sql);
        }
        if let Some(sql) = &self.before_commit {
            run(sql);
        }
        // Every table keeps the columns the statements use.
        let commit = if self.random.one_in(12) {
            "ROLLBACK"
        } else {
            "COMMIT"
        };
        run(commit);
        done.join(";\n")
    }
}
