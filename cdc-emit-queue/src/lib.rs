//! cdc-emit-queue
