//! Following a database that another process writes.

mod foreign;
mod kill;
mod limits;
mod refusals;
mod resume;
mod rows;
mod stream;
mod support;
