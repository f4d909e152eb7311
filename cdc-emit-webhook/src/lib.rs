//! cdc-emit-webhook
