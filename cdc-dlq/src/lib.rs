//! cdc-dlq
