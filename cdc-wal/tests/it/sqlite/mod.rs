//! Following a database that another process writes.

mod refusals;
mod resume;
mod stream;
mod support;
