//! Reader of the `-wal` file of any SQLite application.

mod bytes;
mod catalog;
mod decoder;
mod diff;
mod format;
mod layout;
mod log_file;
mod map;
mod page;
mod pages;
mod record;
mod rows;
mod schema;
mod sink;
mod tables;
mod view;
mod wal_index;
mod walk;

#[cfg(test)]
mod tests;
