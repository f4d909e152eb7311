//! cdc-wal
