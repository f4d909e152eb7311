-- database 1
create table test(b blob);
BEGIN;
insert into test(b) values (x'7468697320626c6f62206461746120737472696e672069732065786163746c79206669667479206279746573206c6f6e6721');
-- database 2
create table t(t blob);
BEGIN;
insert into t(rowid, t) values (4294967296, zeroblob(1));
-- database 3
create table test(b blob);
BEGIN;
insert into test values (zeroblob(100));
-- database 4
create table test(b blob);
BEGIN;
insert into test(b) values (zeroblob(100));
-- database 5
create table test(b blob);
BEGIN;
insert into test(b) values (x'7468697320626c6f62206461746120737472696e672069732065786163746c79206669667479206279746573206c6f6e6721');
update test set b='aaaa' where rowid=1;
-- database 6
create table test(id integer primary key, name text);
BEGIN;
insert into test(name) values ('foo');
-- database 7
create table test(id integer primary key, name text);
BEGIN;
insert into test(name) values ('foo');
COMMIT;
-- database 8
create table t(t);
-- database 9
create table t(t integer primary key);
create table u(u, foreign key(u) references t(t));
BEGIN;
insert into u values(0);
-- database 10
create table foo (bar);
BEGIN;
insert into foo (bar) values ('0');
insert into foo (bar) values ('1');
insert into foo (bar) values ('2');
insert into foo (bar) values ('3');
-- database 11
create table transactiontest(id integer primary key, name text);
BEGIN;
insert into transactiontest(name) values ('foo');
COMMIT;
-- database 12
create table test(id integer primary key, name text);
BEGIN;
insert into test(name) values ('foo');
ROLLBACK;
-- database 13
create table test(id integer primary key, name text, income number, unique_test text unique);
BEGIN;
insert into test(name) values ('foo');
delete from test;
insert into test(name) values ('A');
insert into test(name) values ('B');
insert into test(name) values ('C');
-- database 14
create table test(id integer primary key, name text, income number, unique_test text unique);
BEGIN;
insert into test(name) values ('foo');
-- database 15
create table test(id integer primary key, name text, income number, unique_test text unique);
BEGIN;
insert into test(name) values ('foo');
alter table test add newcol;
-- database 16
create table test(id integer primary key, name text, income number, unique_test text unique);
BEGIN;
insert into test(name) values ('foo');
insert into test(income) values (2500.32);
-- database 17
create table test(id integer primary key, name text, income number, unique_test text unique);
BEGIN;
insert into test(name) values ('foo');
insert into test(id) values (42);
-- database 18
create table test(id integer primary key, name text, income number, unique_test text unique);
BEGIN;
insert into test(name) values ('foo');
insert into test(name) values ('Hugo');
-- database 19
create table test(id integer primary key, name text, income number, unique_test text unique);
BEGIN;
insert into test(name) values ('foo');
insert into test(name) values ('Hu');
-- database 20
create table test(id integer primary key, name text, income number, unique_test text unique);
BEGIN;
insert into test(name) values ('foo');
insert into test(name) values ('foo');
-- database 21
create table test(id integer primary key, name text, income number, unique_test text unique);
BEGIN;
insert into test(name) values ('foo');
insert into test(income) values (0);
insert into test(income) values (1);
insert into test(income) values (2);
insert into test(income) values (3);
insert into test(income) values (4);
-- database 22
create table test(id integer primary key, name text, income number, unique_test text unique);
BEGIN;
insert into test(name) values ('foo');
insert into test(income) values (6);
insert into test(income) values (7);
insert into test(income) values (8);
insert into test(income) values (9);
insert into test(income) values (10);
-- database 23
create table test(id integer primary key, name text, income number, unique_test text unique);
BEGIN;
insert into test(name) values ('foo');
insert into test(income) values (100);
insert into test(income) values (101);
insert into test(income) values (102);
insert into test(income) values (103);
insert into test(income) values (104);
insert into test(income) values (105);
insert into test(income) values (106);
insert into test(income) values (107);
insert into test(income) values (108);
insert into test(income) values (109);
-- database 24
create table test(id integer primary key, name text, income number, unique_test text unique);
BEGIN;
insert into test(name) values ('foo');
delete from test;
-- database 25
create table test(id integer primary key, name text, income number, unique_test text unique);
BEGIN;
insert into test(name) values ('foo');
delete from test;
insert into test(id) values (5);
insert into test(id) values (6);
-- database 26
create table test(id integer primary key, name text, income number, unique_test text unique);
BEGIN;
insert into test(name) values ('foo');
INSERT OR FAIL INTO test(unique_test) VALUES ('FAIL');
INSERT OR FAIL INTO test(unique_test) VALUES ('FAIL');
INSERT OR ABORT INTO test(unique_test) VALUES ('ABORT');
INSERT OR ABORT INTO test(unique_test) VALUES ('ABORT');
INSERT OR ROLLBACK INTO test(unique_test) VALUES ('ROLLBACK');
INSERT OR ROLLBACK INTO test(unique_test) VALUES ('ROLLBACK');
-- database 27
create table test(id integer primary key, name text, income number, unique_test text unique);
BEGIN;
insert into test(name) values ('foo');
insert or ignore into test(unique_test) values ('test');
insert or ignore into test(unique_test) values ('test');
-- database 28
create table test(id integer primary key, name text, income number, unique_test text unique);
BEGIN;
insert into test(name) values ('foo');
INSERT OR REPLACE INTO test(id, unique_test) VALUES (1, 'foo');
REPLACE INTO test(id, unique_test) VALUES (1, 'foo');
-- database 29
create table test(id integer primary key, name text, income number, unique_test text unique);
BEGIN;
insert into test(name) values ('foo');
delete from test;
insert into test(name) values ('foo');
insert into test(name) values ('foo');
update test set name='bar';
-- database 30
create table test(id integer primary key, name text, income number, unique_test text unique);
BEGIN;
insert into test(name) values ('foo');
delete from test;
insert into test(name) values (1);
insert into test(name) values (2);
insert into test(name) values (3);
-- database 31
create table test(id integer primary key, name text, income number, unique_test text unique);
BEGIN;
insert into test(name) values ('foo');
/* bar */ update test set name='bar' where name='foo';
-- database 32
create table test(id integer primary key, name text, income number, unique_test text unique);
BEGIN;
insert into test(name) values ('foo');
update test set name='bar' where name='foo' returning 1;
-- database 33
create table test(id integer primary key, name text, income number, unique_test text unique);
BEGIN;
insert into test(name) values ('foo');
insert into test(income) values(1);
insert into test(income) values(2);
insert into test(income) values(3);
COMMIT;
vacuum;
-- database 34
create table test(id integer primary key, name text, income number, unique_test text unique);
BEGIN;
insert into test(name) values ('foo');
insert into test(name) values ('foo');
insert into test(name) values ('foo');
-- database 35
create table test(foo);
BEGIN;
insert into test(foo) values (3);
insert into test(foo) values (4);
-- database 36
CREATE TABLE test(foo);
INSERT INTO test(foo) VALUES (5);
-- database 37
CREATE TABLE test(sadfsadfdsa);
-- database 38
insert into a(i) values (5);
-- database 39
CREATE TABLE test(x);
-- database 40
create table t(t integer check(t > 0));
BEGIN;
insert into t values(-1);
-- database 41
BEGIN;
insert into t values('test');
COMMIT;
ROLLBACK;
create table test(i);
BEGIN;
insert into test(i) values (5);
COMMIT;
BEGIN;
delete from test;
create table test(i);
BEGIN;
insert into test(i) values (5);
create table test2(j);
create table test(i);
BEGIN;
insert into test(i) values (5);
create table test(i);
BEGIN;
insert into test(i) values (5);
BEGIN;
insert into test(i) values (5);
COMMIT;
create table t(t);
BEGIN;
insert into t values ('u1'), ('u2'), ('u3');
COMMIT;
BEGIN;
delete from t;
COMMIT;
BEGIN;
insert into t values ('u4');
insert into t values ('u5');
COMMIT;
create table test(i);
BEGIN;
insert into test(i) values (5);
BEGIN;
insert into test(i) values (5);
create table test(i);
BEGIN;
insert into test(i) values (5);
COMMIT;
BEGIN;
replace into test(i) values (6);
create table test(i);
BEGIN;
insert into test(i) values (5);
COMMIT;
BEGIN DEFERRED;
insert into test(i) values (5);
create table test(i);
BEGIN;
insert into test(i) values (5);
COMMIT;
BEGIN;
update test set i=6;
create table bar(x);
-- database 42
create table test(id integer);
-- database 43
create table t(t);
drop table t;
-- database 44
CREATE TABLE test( id INTEGER PRIMARY KEY, name TEXT, unique_name TEXT UNIQUE );
BEGIN;
INSERT INTO test(name) VALUES ('abort_test');
INSERT OR ABORT INTO test(unique_name) VALUES ('foo');
INSERT OR ABORT INTO test(unique_name) VALUES ('foo');
COMMIT;
-- database 45
CREATE TABLE test( id INTEGER PRIMARY KEY, name TEXT, unique_name TEXT UNIQUE );
BEGIN;
INSERT INTO test(name) VALUES ('abort_test');
INSERT OR ABORT INTO test(unique_name) VALUES ('foo');
INSERT OR ABORT INTO test(unique_name) VALUES ('foo');
-- database 46
CREATE TABLE test( id INTEGER PRIMARY KEY, name TEXT, unique_name TEXT UNIQUE );
BEGIN;
INSERT OR FAIL INTO test(unique_name) VALUES ('foo');
INSERT OR FAIL INTO test(unique_name) VALUES ('foo');
-- database 47
CREATE TABLE test( id INTEGER PRIMARY KEY, name TEXT, unique_name TEXT UNIQUE );
BEGIN;
INSERT OR IGNORE INTO test(unique_name) VALUES ('foo');
INSERT OR IGNORE INTO test(unique_name) VALUES ('foo');
-- database 48
CREATE TABLE test( id INTEGER PRIMARY KEY, name TEXT, unique_name TEXT UNIQUE );
BEGIN;
INSERT OR REPLACE INTO test(name, unique_name) VALUES ('Data!', 'foo');
INSERT OR REPLACE INTO test(name, unique_name) VALUES ('Very different data!', 'foo');
-- database 49
CREATE TABLE test( id INTEGER PRIMARY KEY, name TEXT, unique_name TEXT UNIQUE );
BEGIN;
INSERT INTO test(name) VALUES ('abort_test');
INSERT OR ROLLBACK INTO test(unique_name) VALUES ('foo');
INSERT OR ROLLBACK INTO test(unique_name) VALUES ('foo');
-- database 50
create table test(name text, b blob);
BEGIN;
insert into test values('blob', zeroblob(1));
-- database 51
create table test (value text);
BEGIN;
insert into test (value) values ('a');
-- database 52
create table test(x foo);
BEGIN;
insert into test(x) values ('foo');
insert into test(x) values ('bar');
-- database 53
create table foo(bar X, baz integer);
BEGIN;
-- database 54
create table t(c);
create table t2(c);
insert into t values(0);
insert into t values(1);
insert into t values(2);
BEGIN;
insert into t2(c) values (0);
COMMIT;
BEGIN;
insert into t2(c) values (1);
COMMIT;
BEGIN;
insert into t2(c) values (2);
COMMIT;
-- database 55
CREATE TABLE t (x TIMESTAMP);
BEGIN;
INSERT INTO t (x) VALUES ('2012-04-04 15:06:00.456');
INSERT INTO t (x) VALUES ('2012-04-04 15:06:00.123456789');
-- database 56
create table t(t);
BEGIN;
insert into t values(0);
insert into t values(1);
insert into t values(2);
insert into t values(3);
insert into t values(4);
COMMIT;
-- database 57
create table foo(x, unique(x) on conflict rollback);
BEGIN;
insert into foo(x) values (1);
insert into foo(x) values (1);
BEGIN;
insert into foo(x) values (2);
COMMIT;
-- database 58
create table foo(bar);
BEGIN;
insert into foo(bar) values (5);
-- database 59
create table a (bar);
create table b (baz);
BEGIN;
-- database 60
create table test(x);
BEGIN;
insert into test(x) values (0);
insert into test(x) values (1);
insert into test(x) values (2);
insert into test(x) values (3);
insert into test(x) values (4);
insert into test(x) values (5);
insert into test(x) values (6);
insert into test(x) values (7);
insert into test(x) values (8);
insert into test(x) values (9);
insert into test(x) values (0);
insert into test(x) values (1);
insert into test(x) values (2);
insert into test(x) values (3);
insert into test(x) values (4);
insert into test(x) values (5);
insert into test(x) values (6);
insert into test(x) values (7);
insert into test(x) values (8);
insert into test(x) values (9);
insert into test(x) values (0);
insert into test(x) values (1);
insert into test(x) values (2);
insert into test(x) values (3);
insert into test(x) values (4);
insert into test(x) values (5);
insert into test(x) values (6);
insert into test(x) values (7);
insert into test(x) values (8);
insert into test(x) values (9);
insert into test(x) values (0);
insert into test(x) values (1);
insert into test(x) values (2);
insert into test(x) values (3);
insert into test(x) values (4);
insert into test(x) values (5);
insert into test(x) values (6);
insert into test(x) values (7);
insert into test(x) values (8);
insert into test(x) values (9);
insert into test(x) values (0);
insert into test(x) values (1);
insert into test(x) values (2);
insert into test(x) values (3);
insert into test(x) values (4);
insert into test(x) values (5);
insert into test(x) values (6);
insert into test(x) values (7);
insert into test(x) values (8);
insert into test(x) values (9);
insert into test(x) values (0);
insert into test(x) values (1);
insert into test(x) values (2);
insert into test(x) values (3);
insert into test(x) values (4);
insert into test(x) values (5);
insert into test(x) values (6);
insert into test(x) values (7);
insert into test(x) values (8);
insert into test(x) values (9);
insert into test(x) values (0);
insert into test(x) values (1);
insert into test(x) values (2);
insert into test(x) values (3);
insert into test(x) values (4);
insert into test(x) values (5);
insert into test(x) values (6);
insert into test(x) values (7);
insert into test(x) values (8);
insert into test(x) values (9);
insert into test(x) values (0);
insert into test(x) values (1);
insert into test(x) values (2);
insert into test(x) values (3);
insert into test(x) values (4);
insert into test(x) values (5);
insert into test(x) values (6);
insert into test(x) values (7);
insert into test(x) values (8);
insert into test(x) values (9);
insert into test(x) values (0);
insert into test(x) values (1);
insert into test(x) values (2);
insert into test(x) values (3);
insert into test(x) values (4);
insert into test(x) values (5);
insert into test(x) values (6);
insert into test(x) values (7);
insert into test(x) values (8);
insert into test(x) values (9);
insert into test(x) values (0);
insert into test(x) values (1);
insert into test(x) values (2);
insert into test(x) values (3);
insert into test(x) values (4);
insert into test(x) values (5);
insert into test(x) values (6);
insert into test(x) values (7);
insert into test(x) values (8);
insert into test(x) values (9);
ROLLBACK;
-- database 61
create table t(t);
BEGIN;
insert into t values(0);
insert into t values(1);
insert into t values(2);
insert into t values(3);
insert into t values(4);
COMMIT;
drop table t;
-- database 62
create table t(t);
BEGIN;
insert into t values(0);
insert into t values(1);
insert into t values(2);
insert into t values(3);
insert into t values(4);
COMMIT;
drop table t;
COMMIT;
-- database 63
create table foo(bar timestamp);
BEGIN;
insert into foo(bar) values ('2026-11-28 14:16:46.571845');
drop table foo;
create table foo(bar integer);
insert into foo(bar) values (5);
-- database 64
create table foo(bar);
drop table foo;
create table foo(bar);
-- database 65
create table t(c);
BEGIN;
insert into t values(0);
insert into t values(1);
insert into t values(2);
COMMIT;
begin transaction;
ROLLBACK;
-- database 66
create table test(i);
BEGIN;
insert into test(i) values (5);
drop table test;
-- database 67
create table test(i);
BEGIN;
insert into test(i) values (5);
-- database 68
create table test(x);
BEGIN;
insert into test(x) values (5);
ROLLBACK;
-- database 69
create table test(i);
-- database 70
begin immediate;
create table test(i);
ROLLBACK;
-- database 71
begin;
create table test(i);
ROLLBACK;
-- database 72
create table test(x foo);
-- database 73
create table test(x foo);
BEGIN;
insert into test(x) values ('xxx');
-- database 74
create table test(x foo);
BEGIN;
insert into test values (1);
-- database 75
create table test(x foo);
BEGIN;
insert into test(x) values (NULL);
-- database 76
create table test(x foo);
BEGIN;
insert into test values(1);
insert into test values(2);
-- database 77
create table test(d date, ts timestamp);
BEGIN;
insert into test(ts) values ('2004-02-14 07:15:00.500000');
-- database 78
create table test(d date, ts timestamp);
BEGIN;
insert into test(ts) values ('2004-02-14 07:15:00.510241');
-- database 79
create table test(d date, ts timestamp);
BEGIN;
insert into test(ts) values (current_timestamp);
-- database 80
create table test(d date, ts timestamp);
BEGIN;
insert into test(d) values ('2004-02-14');
-- database 81
create table test(d date, ts timestamp);
BEGIN;
insert into test(ts) values ('2004-02-14 07:15:00');
-- database 82
create table test( i int, s str, f float, b bool, u unicode, foo foo, bin blob, n1 number, n2 number(5), bad bad, cbin cblob);
BEGIN;
insert into test(bin) values (x'4775676c68757066');
-- database 83
create table test( i int, s str, f float, b bool, u unicode, foo foo, bin blob, n1 number, n2 number(5), bad bad, cbin cblob);
BEGIN;
insert into test(b) values (0);
delete from test;
insert into test(b) values (1);
-- database 84
create table test( i int, s str, f float, b bool, u unicode, foo foo, bin blob, n1 number, n2 number(5), bad bad, cbin cblob);
BEGIN;
insert into test(cbin) values (x'');
-- database 85
create table test( i int, s str, f float, b bool, u unicode, foo foo, bin blob, n1 number, n2 number(5), bad bad, cbin cblob);
BEGIN;
-- database 86
create table test( i int, s str, f float, b bool, u unicode, foo foo, bin blob, n1 number, n2 number(5), bad bad, cbin cblob);
BEGIN;
insert into test(f) values (3.14);
-- database 87
create table test( i int, s str, f float, b bool, u unicode, foo foo, bin blob, n1 number, n2 number(5), bad bad, cbin cblob);
BEGIN;
insert into test(foo) values ('bla');
-- database 88
create table test( i int, s str, f float, b bool, u unicode, foo foo, bin blob, n1 number, n2 number(5), bad bad, cbin cblob);
BEGIN;
insert into test(i) values (123456789123456789);
-- database 89
create table test( i int, s str, f float, b bool, u unicode, foo foo, bin blob, n1 number, n2 number(5), bad bad, cbin cblob);
BEGIN;
insert into test(n1) values (5);
-- database 90
create table test( i int, s str, f float, b bool, u unicode, foo foo, bin blob, n1 number, n2 number(5), bad bad, cbin cblob);
BEGIN;
insert into test(n2) values (5);
-- database 91
create table test( i int, s str, f float, b bool, u unicode, foo foo, bin blob, n1 number, n2 number(5), bad bad, cbin cblob);
BEGIN;
insert into test(i) values (42);
-- database 92
create table test( i int, s str, f float, b bool, u unicode, foo foo, bin blob, n1 number, n2 number(5), bad bad, cbin cblob);
BEGIN;
insert into test(s) values ('foo');
-- database 93
create table test( i int, s str, f float, b bool, u unicode, foo foo, bin blob, n1 number, n2 number(5), bad bad, cbin cblob);
BEGIN;
insert into test(u) values ('Österreich');
-- database 94
create table test(i integer, s varchar, f number, b blob);
BEGIN;
insert into test(b) values (x'4775676c68757066');
-- database 95
create table test(i integer, s varchar, f number, b blob);
BEGIN;
insert into test(f) values (3.14);
-- database 96
create table test(i integer, s varchar, f number, b blob);
BEGIN;
insert into test(i) values (123456789123456789);
-- database 97
create table test(i integer, s varchar, f number, b blob);
BEGIN;
insert into test(i) values (42);
-- database 98
create table test(i integer, s varchar, f number, b blob);
BEGIN;
insert into test(s) values ('Österreich');
-- database 99
create table test(i integer, s varchar, f number, b blob);
BEGIN;
insert into test(s) values ('a');
-- database 100
create table test(i integer, s varchar, f number, b blob);
BEGIN;
-- database 101
create table test(i integer, s varchar, f number, b blob);
-- database 102
create table test( t text, i integer, f float, n, b blob );
BEGIN;
insert into test(t, i, f, n, b) values ('foo', 5, 3.14, NULL, x'626c6f62');
-- database 103
create table test( t text, i integer, f float, n, b blob );
BEGIN;
insert into test(t, i, f, n, b) values ('foo', 5, 3.14, NULL, x'626c6f62');
delete from test;
insert into test(i) values (10);
insert into test(i) values (20);
insert into test(i) values (30);
-- database 104
create table t1 (c1, c2);
create table t2 (c1, c2);
insert into t1 (c1, c2) values (1, 2);
insert into t2 (c1, c2) values (4, 5);
-- database 105
create table test(t text);
-- database 106
create table test(t text);
create index t on test(t) where deterministic() is not null;
-- database 107
create table test(x, y);
BEGIN;
insert into test values('a', 4);
insert into test values('b', 5);
insert into test values('c', 3);
insert into test values('d', 8);
insert into test values('e', 1);
COMMIT;
-- database 108
create table foo (a, b);
create table bar (a, b);
-- database 109
create table foo(a, b);
-- database 110
CREATE TABLE "t1" (id integer primary key autoincrement);
INSERT INTO "t1" VALUES(NULL);
CREATE TABLE "t2" (id integer primary key autoincrement);
-- database 111
BEGIN TRANSACTION;
CREATE TABLE t1 (id integer primary key autoincrement);
CREATE TABLE t2 (id integer primary key autoincrement);
INSERT INTO t1 VALUES(NULL);
INSERT INTO t1 VALUES(NULL);
INSERT INTO t1 VALUES(NULL);
INSERT INTO t1 VALUES(NULL);
INSERT INTO t1 VALUES(NULL);
INSERT INTO t1 VALUES(NULL);
INSERT INTO t1 VALUES(NULL);
INSERT INTO t1 VALUES(NULL);
INSERT INTO t1 VALUES(NULL);
INSERT INTO t2 VALUES(NULL);
INSERT INTO t2 VALUES(NULL);
INSERT INTO t2 VALUES(NULL);
INSERT INTO t2 VALUES(NULL);
COMMIT;
-- database 112
BEGIN TRANSACTION;
CREATE TABLE t1 (id integer primary key autoincrement);
INSERT INTO "t1" VALUES(1);
INSERT INTO "t1" VALUES(2);
INSERT INTO "t1" VALUES(3);
INSERT INTO "t1" VALUES(4);
INSERT INTO "t1" VALUES(5);
INSERT INTO "t1" VALUES(6);
INSERT INTO "t1" VALUES(7);
INSERT INTO "t1" VALUES(8);
INSERT INTO "t1" VALUES(9);
CREATE TABLE t2 (id integer primary key autoincrement);
INSERT INTO "t2" VALUES(1);
INSERT INTO "t2" VALUES(2);
INSERT INTO "t2" VALUES(3);
INSERT INTO "t2" VALUES(4);
DELETE FROM "sqlite_sequence";
INSERT INTO "sqlite_sequence" VALUES('t1',9);
INSERT INTO "sqlite_sequence" VALUES('t2',4);
COMMIT;
-- database 113
CREATE TABLE test(t);
-- database 114
CREATE VIRTUAL TABLE test USING fts4(example);
-- database 115
CREATE TABLE "index"("index" blob);
BEGIN;
INSERT INTO "index" VALUES(X'01');
CREATE TABLE "quoted""table"("quoted""field" text);
INSERT INTO "quoted""table" VALUES('quoted''value');
CREATE TABLE t1(id integer primary key, s1 text, t1_i1 integer not null, i2 integer, unique (s1), constraint t1_idx1 unique (i2), constraint t1_i1_idx1 unique (t1_i1));
INSERT INTO "t1" VALUES(1,'foo',10,20);
INSERT INTO "t1" VALUES(2,'foo2',30,30);
CREATE TABLE t2(id integer, t2_i1 integer, t2_i2 integer, primary key (id),foreign key(t2_i1) references t1(t1_i1));
INSERT INTO "t2" VALUES(1,2,3);
CREATE TRIGGER trigger_1 update of t1_i1 on t1 begin update t2 set t2_i1 = new.t1_i1 where t2_i1 = old.t1_i1; end;
CREATE VIEW v1 as select * from t1 left join t2 using (id);
-- database 116
CREATE TABLE "some_table_2" ("id_1" INTEGER);
BEGIN;
INSERT INTO "some_table_2" VALUES(3);
INSERT INTO "some_table_2" VALUES(4);
CREATE TABLE "test_table_1" ("id_2" INTEGER);
INSERT INTO "test_table_1" VALUES(1);
INSERT INTO "test_table_1" VALUES(2);
CREATE VIEW "view_1" AS SELECT * FROM "some_table_2";
CREATE VIEW "view_2" AS SELECT * FROM "test_table_1";
-- database 117
CREATE TABLE "beta" ("two");
CREATE TABLE "alpha" ("one");
