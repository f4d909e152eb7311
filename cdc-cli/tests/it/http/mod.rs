//! The HTTP surface of a running pipeline, used as others use it: with `curl`, and with a browser.

mod browser;
mod client;
mod consumer;
mod letters;
mod limits;
mod metrics;
mod sse;
mod stream;
